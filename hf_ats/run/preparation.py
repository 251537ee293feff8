"""Steps before training: load, tokenize, and find what a user got wrong."""

import sys

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoint import check_core_class
from ..data import TokenBudgetBatchSampler, load_corpus, sequence_lengths, tokenize_corpus
from ..evaluation import decoding_settings
from ..partition import count_exported_parameters, num_levels
from ..remote_code import longest_input
from ..results import check_facts, hub_languages
from ..training import ATSSeq2SeqTrainingArguments, refuse_another_model, trained_levels
from .card_flags import CardArguments
from .command import check_max_length
from .flags import DataArguments, ModelArguments


def card_facts(
    card_args: CardArguments, model_args: ModelArguments, data_args: DataArguments, required: bool = False
) -> dict:
    """Return the facts of the model cards.

    Args:
        card_args: the facts that flags give.
        model_args: the model, whose name is the base model's id.
        data_args: the data, whose name is an id of the Hub, and whose languages must have codes there.
        required: refuse that a fact is missing which every card needs.

    Raises:
        ValueError: one is not what the Hub takes, or `required` and not given.
    """
    facts = card_args.facts(data_args.dataset_name, model_args.model_name_or_path)
    where = "--push_to_hub needs model cards" if required else "the model cards"
    facts = check_facts(facts, where, complete=required)
    if required and "languages" not in facts:
        codes = (data_args.tokenizer_source_lang, data_args.tokenizer_target_lang)
        hub_languages(data_args.source_lang, data_args.target_lang, codes)
    return facts


def load_parts(data_args: DataArguments) -> tuple[dict, str]:
    """Return the corpus by part, and the name of the part that the networks are scored on.

    Raises:
        OSError, ValueError: as `load_corpus`; or there is nothing to train on, or nothing to score on.
    """
    corpus = load_corpus(
        dataset_name=data_args.dataset_name,
        dataset_config_name=data_args.dataset_config_name,
        train_prefix=data_args.train_prefix,
        validation_prefix=data_args.validation_prefix,
        test_prefix=data_args.test_prefix,
        source_lang=data_args.source_lang,
        target_lang=data_args.target_lang,
        skip_bad_lines=data_args.skip_bad_lines,
    )
    scored = next((part for part in ("test", "validation") if part in corpus), None)
    if "train" not in corpus or scored is None:
        raise ValueError(
            f"the corpus has the parts {', '.join(corpus)}; training needs train, and the report at its end "
            "test or validation. Give --train_prefix, and --test_prefix or --validation_prefix, or a data set of the "
            "parts, as part.train_test_split(1000) of datasets makes two of one."
        )
    return corpus, scored


def tokenize(
    corpus: dict,
    scored: str,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    data_args: DataArguments,
    learned: bool = False,
) -> dict:
    """Return the parts train and validation in tokens; of the part to score, only say what is amiss.

    What is unknown to the tokenizer is counted in every part.

    Args:
        corpus: the parts by name.
        scored: the part that the networks are scored on.
        tokenizer: the model's.
        model: whose positions limit the sentences.
        data_args: the data.
        learned: the tokenizer was learned from this training part, of which nothing may be unknown then.

    Raises:
        ValueError: a limit is more than the model has positions for, a sentence is over it and `long_sentences` is
            "error", or something is unknown that was to be learned.
    """
    positions = longest_input(model.config)
    limits = _limits(tokenizer, model, data_args)

    def tokens(part: str, long_sentences: str, **options):
        return tokenize_corpus(
            corpus[part],
            tokenizer,
            data_args.source_lang,
            data_args.target_lang,
            long_sentences=long_sentences,
            source_prefix=data_args.source_prefix,
            name=f"the {part} part",
            **options,
        )

    # Its sentences over the limits are cut when they are translated, unless they are an error.
    of_scored = "error" if data_args.long_sentences == "error" else "truncate"
    tokens(scored, of_scored, max_source_length=positions, max_target_length=sys.maxsize)
    return {
        part: tokens(part, data_args.long_sentences, **limits, refuse_unknown=part == "train" and learned)
        for part in ("train", "validation")
        if part in corpus
    }


def validation_references(
    corpus: dict, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, data_args: DataArguments
) -> list[str] | None:
    """Return the targets of the validation part, of the pairs that `tokenize` keeps; None if there is no such part."""
    if "validation" not in corpus:
        return None
    pairs = corpus["validation"]["translation"]
    sources, targets = ([pair[lang] for pair in pairs] for lang in (data_args.source_lang, data_args.target_lang))
    if data_args.long_sentences != "skip":
        return targets
    limits = _limits(tokenizer, model, data_args)
    sides = (
        tokenizer([data_args.source_prefix + source for source in sources], verbose=False)["input_ids"],
        tokenizer(text_target=targets, verbose=False)["input_ids"],
    )
    return [
        target
        for source_ids, target_ids, target in zip(*sides, targets, strict=True)
        if len(source_ids) <= limits["max_source_length"] and len(target_ids) <= limits["max_target_length"]
    ]


def _limits(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, data_args: DataArguments) -> dict[str, int]:
    """Return `max_source_length` and `max_target_length` of training and validation."""
    positions = longest_input(model.config)
    limits = {}
    for side in ("source", "target"):
        given = getattr(data_args, f"max_{side}_length")
        if given is not None and given > positions:
            raise ValueError(
                f"--max_{side}_length {given} is more than the {positions} positions of the model; give less."
            )
        limits[f"max_{side}_length"] = min(tokenizer.model_max_length, positions) if given is None else given
    return limits


def check_core(model: PreTrainedModel, core_parameters: int | None) -> None:
    """Raise a ValueError if the export of the smallest core would not have as many parameters as a plan says.

    Args:
        model: as it will be trained, partitioned.
        core_parameters: those of the plan; None for any number.
    """
    found = count_exported_parameters(model, 0)
    if core_parameters not in (None, found):
        raise ValueError(
            f"--core_parameters {core_parameters}, but the core of this {type(model).__name__} has {found}: the plan "
            "is that of another model or core. Run hf-ats plan for this one, or leave the flag out."
        )


def check_run(model: PreTrainedModel, args: ATSSeq2SeqTrainingArguments, tokenized: dict) -> None:
    """Raise now the errors that training, decoding or an export would raise later.

    Args:
        model: as it will be trained, partitioned.
        args: the training arguments.
        tokenized: the parts in tokens.

    Raises:
        ValueError: there is no core class for the model, the checkpoint to go on from is of another model,
            translations may be longer than the model's positions, validation does not compute the metric for the best
            model, or a sentence is over the budget of tokens.
    """
    levels = num_levels(model)
    if trained_levels(args.schedule, levels) != [levels - 1]:
        check_core_class(model)
    if args.resume_from_checkpoint is not None:
        refuse_another_model(args.resume_from_checkpoint, model)
    metric = args.metric_for_best_model
    computed = ["loss", *(["bleu", "chrf", "gen_len"] if args.predict_with_generate else [])]
    if metric is not None and not metric.endswith(tuple(f"_{name}" for name in computed)):
        raise ValueError(
            f"--metric_for_best_model {metric}, and validation computes {', '.join(computed)} of each level; write "
            f"one such as full_loss{'' if args.predict_with_generate else ', or add --predict_with_generate'}."
        )
    check_max_length("--generation_max_length", args.generation_max_length, model)
    if args.max_tokens is not None:
        lengths = sequence_lengths(tokenized["train"])
        TokenBudgetBatchSampler(lengths, args.max_tokens, args.world_size, counts=args.max_tokens_counts)


def complete_generation_config_(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write into a model's generation config what it leaves open, beams and length, in place.

    Otherwise the Trainer writes 1 beam and 20 tokens there when it validates, and every checkpoint and export carries
    that.
    """
    settings = decoding_settings(model, tokenizer)
    model.generation_config.num_beams = settings["num_beams"]
    if model.generation_config.max_new_tokens is None:
        model.generation_config.max_length = settings.get("max_length") or 1 + settings["max_new_tokens"]
