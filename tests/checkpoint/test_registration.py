"""What `import hf_ats` does to transformers: cores and `pipeline("translation")` become known, once."""

import pytest
import torch
from transformers import pipeline, pipelines
from transformers.pipelines import PIPELINE_REGISTRY

from hf_ats.checkpoint import export_core, export_full, register
from hf_ats.partition import at_level, partitioned_layers
from hf_ats.remote_code.pipeline_ats import ATSTranslationPipeline
from tests.support.checkpoints import GERMAN
from tests.support.decodings import teach_
from tests.support.models import partitioned, tiny_model
from tests.support.versions import needs_5


@pytest.fixture(scope="module")
def model(tokenizer):
    """A partitioned model that says five words of its own for each text, at full level."""
    model = partitioned("marian", d_model=64, tie_word_embeddings=False, share_encoder_decoder_embeddings=False)
    with torch.no_grad():
        for layer in partitioned_layers(model).values():
            layer.residual.weight.mul_(50)  # so that the core, which lacks W, reads something else
    teach_(model, [tokenizer(text, return_tensors="pt") for text in GERMAN], 5)
    model.generation_config.max_new_tokens = 6
    return model


@pytest.fixture(scope="module")
def exports(model, tokenizer, tmp_path_factory):
    """The folders `core`, `full` and `other`, the last a model that was never partitioned."""
    folder = tmp_path_factory.mktemp("registered")
    export_core(model, folder / "core", tokenizer=tokenizer)
    export_full(model, folder / "full", tokenizer=tokenizer)
    tiny_model("bart").save_pretrained(folder / "other")
    tokenizer.save_pretrained(folder / "other")
    return folder


@pytest.mark.parametrize("task", ["translation", "translation_de_to_en"])
@pytest.mark.parametrize("which", ["core", "full", "other"])
def test_pipeline_translates_with_cores_full_exports_and_other_models(exports, which, task):
    translate = pipeline(task, model=str(exports / which), max_new_tokens=6)
    assert type(translate) is ATSTranslationPipeline
    inputs = translate.tokenizer(GERMAN[0], return_tensors="pt")
    expected = translate.model.generate(**inputs, max_new_tokens=6, num_beams=4)
    expected = translate.tokenizer.decode(expected[0], skip_special_tokens=True)
    assert translate(GERMAN[0]) == [{"translation_text": expected}]


@needs_5("transformers 4 runs a checkpoint's own code when it is trusted, whatever is registered")
def test_trust_in_remote_code_may_be_given_and_changes_nothing(exports):
    translate = pipeline("translation", model=str(exports / "core"), trust_remote_code=True)
    assert type(translate) is ATSTranslationPipeline
    assert type(translate.model).__module__ == "hf_ats.remote_code.modeling_ats"


def test_a_partitioned_model_translates_at_its_live_level(exports, model, tokenizer):
    translate = pipeline("translation", model=model, tokenizer=tokenizer, max_new_tokens=6)
    full = translate(GERMAN)
    assert full == pipeline("translation", model=str(exports / "full"))(GERMAN)
    with at_level(model, "core"):
        assert translate(GERMAN) != full


def test_a_saved_pipeline_is_what_its_model_is(exports, tmp_path):
    for which in ("core", "full"):
        pipeline("translation", model=str(exports / which)).save_pretrained(tmp_path / which)
        files = {path.name for path in (tmp_path / which).iterdir()}
        assert files == {path.name for path in (exports / which).iterdir()} - {"export.json"}
        assert ("pipeline_ats.py" in files) == (which == "core")


def test_registering_again_changes_nothing_and_says_nothing(monkeypatch):
    said = []
    monkeypatch.setattr(pipelines.base.logger, "warning", lambda *args: said.append(args))
    supported, aliases = dict(PIPELINE_REGISTRY.supported_tasks), PIPELINE_REGISTRY.task_aliases
    register()
    assert PIPELINE_REGISTRY.supported_tasks == supported
    assert PIPELINE_REGISTRY.task_aliases is aliases
    assert not hasattr(ATSTranslationPipeline, "_registered_impl")
    assert said == []


@pytest.mark.parametrize("task", ["translation_de", "translation_de_to_", "summarization", "translate"])
@needs_5("transformers 4 takes every task that begins with translation_ for an alias")
def test_other_tasks_stay_unknown(task):
    with pytest.raises(KeyError, match=task):
        pipelines.check_task(task)


def test_aliases_of_transformers_stay_known():
    assert pipelines.check_task("ner")[0] == "token-classification"
