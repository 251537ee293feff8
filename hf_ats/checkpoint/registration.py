"""What makes cores and the translation pipeline known to transformers: a core loads like any checkpoint."""

import re

from transformers import AutoConfig, AutoModelForSeq2SeqLM, pipelines

from ..remote_code import ATSTranslationPipeline, modeling_ats

CORE_CLASSES = (
    modeling_ats.ATSMarianMTModel,
    modeling_ats.ATSBartForConditionalGeneration,
    modeling_ats.ATSMBartForConditionalGeneration,
    modeling_ats.ATSM2M100ForConditionalGeneration,
    modeling_ats.ATSPegasusForConditionalGeneration,
    modeling_ats.ATST5ForConditionalGeneration,
    modeling_ats.ATSMT5ForConditionalGeneration,
)


class TranslationAliases(dict):
    """The pipelines' aliases, and every `translation_xx_to_yy` as one of `translation`, as transformers 4 has it."""

    def __contains__(self, task):
        return super().__contains__(task) or re.fullmatch("translation_[^_]+_to_[^_]+", task) is not None

    def __missing__(self, task):
        return "translation"


def register() -> None:
    """Register the classes of ours with the Auto classes, and `pipeline("translation")` for every version.

    Doing it again changes nothing. The network is not touched.
    """
    for model_class in CORE_CLASSES:
        config_class = model_class.config_class
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModelForSeq2SeqLM.register(config_class, model_class, exist_ok=True)
    _register_translation(pipelines.PIPELINE_REGISTRY)


def _register_translation(registry) -> None:
    # transformers 5 looks into this table before it looks into the registry, so registering has no effect there.
    removed = getattr(pipelines, "REMOVED_TASKS", {})
    if removed.pop("translation", None) is not None:
        registry.task_aliases = TranslationAliases(registry.task_aliases)
    # transformers 4 has a pipeline of its own, which logs an error for a class that it does not know, such as a core.
    # Taken out first, because the registry warns about a task that is there already.
    stock = registry.supported_tasks.pop("translation", {})
    registry.register_pipeline(
        "translation",
        ATSTranslationPipeline,
        pt_model=AutoModelForSeq2SeqLM,
        default=stock.get("default"),
        type="text",
    )
    # Without this mark `pipe.save_pretrained` writes a stock model as a stock model; a core writes its own code.
    del ATSTranslationPipeline._registered_impl
