"""Everything before training: load, build, tokenize, and find what a user got wrong."""

import sys
from dataclasses import dataclass
from pathlib import Path

import transformers

from ..checkpoint import check_core_class, longest_input
from ..data import TokenBudgetBatchSampler, TranslationCollator, load_corpus, sequence_lengths, tokenize_corpus
from ..evaluation import build_compute_metrics, decoding_settings
from ..partition import PartitionConfig, find_partition, partition_, partition_from_adapter_, read_adapter_config
from ..results.facts import check_facts, hub_languages
from ..training import ATSSeq2SeqTrainer, ATSSeq2SeqTrainingArguments, refuse_another_partition
from .flags import CardArguments, DataArguments, ModelArguments, PartitionArguments
from .languages import set_languages_, set_source_prefix_
from .networks import base_of_adapter, from_pretrained, from_scratch
from .recipes import Recipe
from .start import start


@dataclass
class Run:
    """What training needs, and the report after it; everything that a user can get wrong has been checked."""

    model_args: ModelArguments
    data_args: DataArguments
    corpus: dict
    test: str  # the part that is scored
    tokenizer: transformers.PreTrainedTokenizerBase
    partition: PartitionConfig | None
    trainer: ATSSeq2SeqTrainer
    directories: dict[str, Path]  # of the exports, by level
    generation: dict  # how the flags say to decode; None where the model's generation config decides
    card: dict  # facts of the model cards
    recipe: Recipe | None


def prepare(
    model_args: ModelArguments,
    data_args: DataArguments,
    partition_args: PartitionArguments,
    card_args: CardArguments,
    args: ATSSeq2SeqTrainingArguments,
    recipe: Recipe | None = None,
) -> Run:
    """Load, build, tokenize; raises OSError or ValueError where flags, files and model do not fit."""
    adapter = model_args.adapter_name_or_path
    if adapter is not None:
        read_adapter_config(adapter)  # what cannot be taken over shows before the corpus is read
        model_args.model_name_or_path = model_args.model_name_or_path or base_of_adapter(adapter)
    card = check_card(card_args, model_args, data_args, required=args.push_to_hub)
    begun = start(args, partition_args, from_adapter=adapter is not None)
    partition, directories = begun.partition, begun.directories

    with args.main_process_first(desc="loading the corpus"):
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
        test = next((part for part in ("test", "validation") if part in corpus), None)
        if "train" not in corpus or test is None:
            raise ValueError(
                f"the corpus has the parts {', '.join(corpus)}; training needs train, and the report at its end "
                "test or validation. Give --train_prefix, and --test_prefix or --validation_prefix, or other data."
            )
        if model_args.model_name_or_path is None:
            tokenizer, model = from_scratch(model_args, data_args, corpus["train"]["translation"], args)
        else:
            tokenizer, model = from_pretrained(model_args, args)
        set_languages_(model, tokenizer, data_args.tokenizer_source_lang, data_args.tokenizer_target_lang)
        data_args.source_prefix = set_source_prefix_(model, data_args.source_prefix)
        tokenized = tokenize(corpus, test, tokenizer, longest_input(model.config), data_args)

    if adapter is not None:
        partition_from_adapter_(model, adapter)
        partition = find_partition(model)
    elif partition is not None:
        partition_(model, partition)
    if partition is not None and set(directories) != {"full"}:
        check_core_class(model)
    if args.resume_from_checkpoint is not None:
        refuse_another_partition(args.resume_from_checkpoint, model)
    generation = {"num_beams": args.generation_num_beams, "max_length": args.generation_max_length}
    # The first of max_length is the start token, which takes the place of the last token.
    if (args.generation_max_length or 0) > 1 + longest_input(model.config):
        raise ValueError(
            f"--generation_max_length {args.generation_max_length} is more than the {longest_input(model.config)} "
            "positions of the model; give less, or leave it out."
        )
    # What the model leaves open: else the Trainer writes 1 beam and 20 tokens there when it validates, and every
    # checkpoint and export carries that.
    settings = decoding_settings(model, tokenizer)
    model.generation_config.num_beams = settings["num_beams"]
    if model.generation_config.max_new_tokens is None:
        model.generation_config.max_length = settings.get("max_length") or 1 + settings["max_new_tokens"]
    if args.max_tokens is not None:
        # The trainer makes its own when training begins; whether the budget is enough shows here already.
        lengths = sequence_lengths(tokenized["train"])
        TokenBudgetBatchSampler(lengths, args.max_tokens, args.world_size, counts=args.max_tokens_counts)

    trainer = ATSSeq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=tokenized["train"],
        eval_dataset=tokenized.get("validation"),
        processing_class=tokenizer,
        data_collator=TranslationCollator(tokenizer, model=model),
        compute_metrics=build_compute_metrics(tokenizer) if args.predict_with_generate else None,
    )
    return Run(
        model_args=model_args,
        data_args=data_args,
        corpus=corpus,
        test=test,
        tokenizer=tokenizer,
        partition=partition,
        trainer=trainer,
        directories=directories,
        generation=generation,
        card=card,
        recipe=recipe,
    )


def check_card(card_args: CardArguments, model_args: ModelArguments, data_args: DataArguments, required: bool) -> dict:
    """The facts of the model cards.

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


def tokenize(corpus, test: str, tokenizer, positions: int, data_args: DataArguments) -> dict:
    """The training and validation parts in tokens; the part to score is only checked."""
    limits = {}
    for side in ("source", "target"):
        given = getattr(data_args, f"max_{side}_length")
        if given is not None and given > positions:
            raise ValueError(
                f"--max_{side}_length {given} is more than the {positions} positions of the model; give less."
            )
        limits[f"max_{side}_length"] = min(tokenizer.model_max_length, positions) if given is None else given

    def tokens(part: str, **limits):
        try:
            return tokenize_corpus(
                corpus[part],
                tokenizer,
                data_args.source_lang,
                data_args.target_lang,
                long_sentences=data_args.long_sentences,
                source_prefix=data_args.source_prefix,
                **limits,
            )
        except ValueError as error:
            raise ValueError(f"the {part} part: {error}") from error

    if data_args.long_sentences == "error":  # else they are cut when they are translated
        tokens(test, max_source_length=positions, max_target_length=sys.maxsize)
    return {part: tokens(part, **limits) for part in ("train", "validation") if part in corpus}
