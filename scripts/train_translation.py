r"""Train a translation model and its small core in one run, and leave both ready for use.

From scratch on two text files, tokenizer included, with the paper's architecture for IWSLT14:

    python scripts/train_translation.py --architecture iwslt --output_dir runs/iwslt \
        --train_prefix data/train --validation_prefix data/valid --test_prefix data/test \
        --source_lang de --target_lang en --ratios 0.03125 --schedule alternating \
        --max_tokens 4096 --num_train_epochs 30 --learning_rate 5e-4 --lr_scheduler_type inverse_sqrt \
        --warmup_steps 4000 --label_smoothing_factor 0.1 --adam_beta2 0.98 --weight_decay 1e-4

From a pretrained model, to get a smaller one out of it, on several GPUs:

    accelerate launch --multi_gpu scripts/train_translation.py --model_name_or_path Helsinki-NLP/opus-mt-de-en \
        --dataset_name wmt17 --dataset_config_name de-en --output_dir runs/opus --ratios 0.25 --max_tokens 8192

Without data it trains on a small generated corpus of numbers, dates, times and prices. OUTPUT_DIR then holds

    core/  full/              the two models, for pipeline("translation") (a ladder adds level1/, level2/, ...)
    results.json              parameters, sizes, FLOPs, BLEU, chrF, decoding speed of each, and how they were found
    training.png              losses and scores over the steps
    translations.core.txt ... the test set as each network translates it
    checkpoint-*/             what the Trainer writes; go on from one with --resume_from_checkpoint, True for the last

Every field of transformers' Seq2SeqTrainingArguments is a flag as well.
"""

import argparse
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, HfArgumentParser, set_seed
from transformers.trainer_utils import get_last_checkpoint

from hf_ats import (
    ATSSeq2SeqTrainer,
    ATSSeq2SeqTrainingArguments,
    PartitionConfig,
    export_core,
    export_full,
    partition_,
)
from hf_ats.architectures import ARCHITECTURES, build_model
from hf_ats.checkpoint import check_replaceable, export_stock, longest_input
from hf_ats.data import (
    TokenBudgetBatchSampler,
    TranslationCollator,
    load_corpus,
    sequence_lengths,
    set_languages_,
    tokenize_corpus,
    train_tokenizer,
)
from hf_ats.evaluation import (
    build_compute_metrics,
    build_results,
    decoding_settings,
    fingerprint,
    measure_networks,
    plot_training,
    render_table,
    sample_translations,
    weights_size,
    write_results,
)
from hf_ats.partition import names_of_levels
from hf_ats.training import trained_levels

logger = logging.getLogger("train_translation")


@dataclass
class ModelArguments:
    """Which model to train."""

    _argument_group_name = "the model"

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A pretrained sequence-to-sequence model: a directory or an id of the Hub."}
    )
    architecture: str | None = field(
        default=None,
        metadata={
            "help": "A Marian model from scratch instead, with a tokenizer of its own: tiny, or the sizes of the "
            "paper's Table 4 (default: tiny).",
            "choices": list(ARCHITECTURES),
        },
    )
    layers: int | None = field(default=None, metadata={"help": "Replaces the architecture's layers, in each half."})
    width: int | None = field(default=None, metadata={"help": "Replaces the architecture's width."})
    feed_forward: int | None = field(
        default=None, metadata={"help": "Replaces the architecture's feed-forward width."}
    )
    heads: int | None = field(default=None, metadata={"help": "Replaces the architecture's attention heads."})
    dropout: float | None = field(default=None, metadata={"help": "Dropout (default: the model's own)."})
    vocab_size: int | None = field(
        default=None, metadata={"help": "Pieces of a tokenizer from scratch (default: 8000)."}
    )
    separate_vocabularies: bool = field(
        default=False, metadata={"help": "A vocabulary for each language (default: one for both)."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager or sdpa, as in from_pretrained (default: the library's choice)."}
    )


@dataclass
class DataArguments:
    """On what."""

    _argument_group_name = "the data"

    source_lang: str = field(default="de", metadata={"help": "Language of the source: a key of the data, a suffix."})
    target_lang: str = field(default="en", metadata={"help": "Language of the target."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "A data set with a column `translation`: an id of the Hub or a directory."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration, such as de-en."})
    train_prefix: str | None = field(
        default=None,
        metadata={"help": "Text files instead: PREFIX.de and PREFIX.en, the same with .gz, or one .jsonl file."},
    )
    validation_prefix: str | None = field(default=None, metadata={"help": "The same for validation during training."})
    test_prefix: str | None = field(default=None, metadata={"help": "The same for the scores at the end."})
    skip_bad_lines: bool = field(default=False, metadata={"help": "Leave out bad pairs and count them."})
    long_sentences: str = field(
        default="error",
        metadata={
            "help": "Sentences over the limits: 'error' stops before training; 'skip' leaves the pair out of training "
            "and validation; 'truncate' cuts it. Of the test part no sentence is left out, so that scores are over "
            "the whole set: both 'skip' and 'truncate' cut what is more than the model has positions for.",
            "choices": ["error", "skip", "truncate"],
        },
    )
    max_source_length: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens of a source in training and validation (default: the tokenizer's limit or the "
            "model's positions, whichever is less)."
        },
    )
    max_target_length: int | None = field(default=None, metadata={"help": "Most tokens of a target, likewise."})
    source_prefix: str = field(default="", metadata={"help": "Text before every source, which T5 needs."})
    tokenizer_source_lang: str | None = field(
        default=None, metadata={"help": "Code of the source language in a multilingual tokenizer, such as deu_Latn."}
    )
    tokenizer_target_lang: str | None = field(default=None, metadata={"help": "The same for the target language."})
    speed_sentences: int = field(
        default=200, metadata={"help": "Test sentences to measure the decoding speed on; 0 leaves it out."}
    )


@dataclass
class PartitionArguments:
    """What its cores are."""

    _argument_group_name = "the partition"

    method: str = field(
        default="rank",
        metadata={
            "help": "How layers are partitioned; 'none' leaves the model as it is, for standard training with "
            "--schedule full.",
            "choices": ["rank", "none"],
        },
    )
    ratios: list[float] = field(
        default_factory=lambda: [0.03125], metadata={"help": "Rank ratios of the cores, increasing, each in (0, 1)."}
    )
    target_modules: list[str] | None = field(
        default=None,
        metadata={
            "help": "Layers to partition: suffixes of their names, or one regular expression (default: a preset)."
        },
    )
    exclude_modules: list[str] | None = field(default=None, metadata={"help": "Layers to leave alone, likewise."})
    init: str = field(default="svd", metadata={"help": "Start of the factors.", "choices": ["svd", "random"]})


class Manual(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines above as they are, and names the default of every flag that has one."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, argparse.SUPPRESS) else super()._get_help_string(action)


def main() -> None:
    """Prepare, train, report."""
    try:
        run = prepare(*parse_arguments())
    except (OSError, ValueError) as error:  # a user's mistake; what fails later is not one, and keeps its traceback
        sys.exit(f"train_translation.py: {error}")
    outcome = run.trainer.train(resume_from_checkpoint=run.trainer.args.resume_from_checkpoint)
    run.trainer.save_state()
    if run.trainer.is_world_process_zero():
        report(run, seconds=outcome.metrics["train_runtime"])


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
    arguments: dict  # those of the training that differ from their defaults


def prepare(model_args, data_args, partition_args, args) -> Run:
    """Load, build, tokenize; raises OSError or ValueError where flags, files and model do not fit."""
    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.ERROR, format="%(message)s")
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)
    find_checkpoint(args)
    arguments = args.changed_fields()
    partition = PartitionConfig.from_flags(**vars(partition_args)) if partition_args.method != "none" else None
    names = names_of_levels(len(partition.ratios)) if partition else ["full"]
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    directories = {names[level]: output_dir / names[level] for level in trained_levels(args.schedule, len(names))}
    for directory in directories.values():
        check_replaceable(directory)

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
        tokenized = tokenize(corpus, test, tokenizer, longest_input(model.config), data_args)

    if partition is not None:
        partition_(model, partition)
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
        TokenBudgetBatchSampler(sequence_lengths(tokenized["train"]), args.max_tokens, args.world_size)

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
        arguments=arguments,
    )


def find_checkpoint(args) -> None:
    """Makes `--resume_from_checkpoint True` the last checkpoint in the output directory, and checks any other."""
    given = args.resume_from_checkpoint
    if given is None:
        return
    if given.lower() != "true":
        if not Path(given).is_dir():
            raise ValueError(f"--resume_from_checkpoint {given} is no directory; give a checkpoint-N, or True.")
        return
    args.resume_from_checkpoint = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    if args.resume_from_checkpoint is None:
        raise ValueError(
            f"--resume_from_checkpoint {given}, but {args.output_dir} holds no checkpoint-N; leave it out to train "
            "from the start, or give the directory of a checkpoint."
        )


def from_scratch(model_args: ModelArguments, data_args: DataArguments, pairs: list[dict], args):
    """`(tokenizer, model)` of an architecture; the tokenizer is learned from the training pairs."""
    tokenizer_dir = Path(args.output_dir) / "tokenizer"
    if args.local_process_index == 0:
        texts = [[pair[lang] for pair in pairs] for lang in (data_args.source_lang, data_args.target_lang)]
        train_tokenizer(
            *texts,
            tokenizer_dir,
            vocab_size=model_args.vocab_size,
            joint=not model_args.separate_vocabularies,
            source_lang=data_args.source_lang,
            target_lang=data_args.target_lang,
        )
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    model = build_model(
        model_args.architecture,
        tokenizer,
        seed=args.seed,
        layers=model_args.layers,
        width=model_args.width,
        feed_forward=model_args.feed_forward,
        heads=model_args.heads,
        dropout=model_args.dropout,
    )
    if model_args.attn_implementation is not None:
        model.set_attn_implementation(model_args.attn_implementation)
    return tokenizer, model


def from_pretrained(model_args: ModelArguments, args):
    """`(tokenizer, model)` of a checkpoint, in float32 whatever it is stored in: mixed precision is --bf16."""
    name = model_args.model_name_or_path
    config = AutoConfig.from_pretrained(name)
    if model_args.dropout is not None:
        # T5 calls it dropout_rate.
        dropout = next((known for known in ("dropout", "dropout_rate") if hasattr(config, known)), None)
        if dropout is None:
            raise ValueError(
                f"--dropout {model_args.dropout}, but {name} has a {type(config).__name__}, and that has no dropout; "
                "leave the flag out."
            )
        setattr(config, dropout, model_args.dropout)
    for layerdrop in ("encoder_layerdrop", "decoder_layerdrop"):
        if args.world_size > 1 and getattr(config, layerdrop, 0):
            logger.info(
                "%s is 0 instead of %g: processes would drop layers of their own",
                layerdrop,
                getattr(config, layerdrop),
            )
            setattr(config, layerdrop, 0.0)
    model = AutoModelForSeq2SeqLM.from_pretrained(
        name, config=config, dtype=torch.float32, attn_implementation=model_args.attn_implementation
    )
    return AutoTokenizer.from_pretrained(name), model


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


def report(run: Run, seconds: float) -> None:
    """Export what was trained, then translate, score and time it from there."""
    trainer, args, model = run.trainer, run.trainer.args, run.trainer.model
    output_dir = Path(args.output_dir)
    for name, directory in run.directories.items():
        logger.info("Exporting %s", directory)
        if run.partition is None:
            export_stock(model, directory, tokenizer=run.tokenizer)
        elif name == "full":
            export_full(model, directory, tokenizer=run.tokenizer)
        else:
            export_core(model, directory, tokenizer=run.tokenizer, level=name)
    if any("loss" in entry for entry in trainer.state.log_history):  # a run shorter than logging_steps has no curve
        plot_training(trainer.state.log_history, output_dir / "training.png", title=output_dir.name)

    languages = (run.data_args.source_lang, run.data_args.target_lang)
    sources, references = ([pair[lang] for pair in run.corpus[run.test]["translation"]] for lang in languages)
    networks = {
        name: AutoModelForSeq2SeqLM.from_pretrained(directory).to(args.device)
        for name, directory in run.directories.items()
    }
    levels, translations = measure_networks(
        networks,
        run.tokenizer,
        [run.data_args.source_prefix + source for source in sources],
        references,
        batch_size=args.per_device_eval_batch_size,
        speed_sentences=run.data_args.speed_sentences,
        truncate=run.data_args.long_sentences != "error",
        **run.generation,
    )
    for name, directory in run.directories.items():
        levels[name]["size_bytes"] = weights_size(directory)
        (output_dir / f"translations.{name}.txt").write_text("\n".join(translations[name]) + "\n", encoding="utf-8")

    results = build_results(
        levels=levels,
        seed=args.seed,
        model={
            "name": run.model_args.model_name_or_path or run.model_args.architecture,
            "class": type(model).__name__,
            **{name: value for name, value in vars(run.model_args).items() if value is not None},
        },
        partition=run.partition and run.partition.to_dict(),
        data={
            "source_lang": languages[0],
            "target_lang": languages[1],
            "name": run.data_args.dataset_name or run.data_args.train_prefix or "embedded default corpus",
            "test_part": run.test,
            "test_fingerprint": fingerprint(sources, references),
            **{part: len(run.corpus[part]) for part in run.corpus},
        },
        training={
            "schedule": args.schedule,
            "processes": args.world_size,
            "epochs": trainer.state.epoch,
            "steps": trainer.state.global_step,
            "flops": trainer.state.total_flos,
            "seconds": seconds,
            **({"resumed_from": args.resume_from_checkpoint} if args.resume_from_checkpoint else {}),
            "arguments": run.arguments,
        },
        generation=decoding_settings(next(iter(networks.values())), run.tokenizer, **run.generation),
    )
    write_results(output_dir / "results.json", results)
    print(f"\n{sample_translations(sources, references, translations)}\n\n{render_table(results)}")
    print(f"\nWritten to {output_dir}: {', '.join([*run.directories, 'results.json'])}")


def parse_arguments():
    """The four groups of flags; a contradiction among them ends the program with a sentence."""
    groups = (ModelArguments, DataArguments, PartitionArguments, ATSSeq2SeqTrainingArguments)
    usage = "%(prog)s --output_dir DIR [--flag value ...]"
    parser = HfArgumentParser(groups, usage=usage, description=__doc__, formatter_class=Manual)
    model_args, data_args, partition_args, args = parser.parse_args_into_dataclasses()
    if model_args.model_name_or_path is not None and model_args.architecture is not None:
        parser.error(
            f"--model_name_or_path {model_args.model_name_or_path} and --architecture {model_args.architecture} are "
            "two models; give one of them."
        )
    if model_args.model_name_or_path is not None:
        for name in ("layers", "width", "feed_forward", "heads", "vocab_size", "separate_vocabularies"):
            if getattr(model_args, name):
                parser.error(
                    f"--{name} {getattr(model_args, name)} shapes a model from scratch, and --model_name_or_path "
                    f"{model_args.model_name_or_path} has its own; leave one of them out."
                )
    else:
        model_args.architecture = model_args.architecture or "tiny"
        model_args.vocab_size = 8000 if model_args.vocab_size is None else model_args.vocab_size
    return model_args, data_args, partition_args, args


if __name__ == "__main__":
    main()
