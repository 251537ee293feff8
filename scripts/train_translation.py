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
    checkpoint-*/             what the Trainer writes; go on from one with --resume_from_checkpoint

Every field of transformers' Seq2SeqTrainingArguments is a flag as well.
"""

import argparse
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import transformers
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, HfArgumentParser, set_seed

from hf_ats import (
    ATSSeq2SeqTrainer,
    ATSSeq2SeqTrainingArguments,
    PartitionConfig,
    export_core,
    export_full,
    partition_,
)
from hf_ats.architectures import ARCHITECTURES, build_model
from hf_ats.data import TranslationCollator, load_corpus, set_languages_, tokenize_corpus, train_tokenizer
from hf_ats.evaluation import (
    build_compute_metrics,
    build_results,
    measure_networks,
    plot_training,
    render_table,
    sample_translations,
    weights_size,
    write_results,
)

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
    vocab_size: int = field(default=8000, metadata={"help": "Pieces of a tokenizer from scratch."})
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
        metadata={"help": "Sentences over the limits: stop, skip, or cut.", "choices": ["error", "skip", "truncate"]},
    )
    max_source_length: int | None = field(
        default=None, metadata={"help": "Most tokens of a source (default: what the model reads)."}
    )
    max_target_length: int | None = field(default=None, metadata={"help": "Most tokens of a target."})
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
    """Load, build, train, export, measure."""
    model_args, data_args, partition_args, args = parse_arguments()
    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.ERROR, format="%(message)s")
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)
    output_dir = Path(args.output_dir)
    languages = (data_args.source_lang, data_args.target_lang)

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
            tokenizer_dir = output_dir / "tokenizer"
            if args.local_process_index == 0:
                texts = [[pair[lang] for pair in corpus["train"]["translation"]] for lang in languages]
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
        else:
            tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
            overrides = {"dropout": model_args.dropout} if model_args.dropout is not None else {}
            model = AutoModelForSeq2SeqLM.from_pretrained(
                model_args.model_name_or_path, attn_implementation=model_args.attn_implementation, **overrides
            )
        set_languages_(model, tokenizer, data_args.tokenizer_source_lang, data_args.tokenizer_target_lang)
        tokenized = {
            part: tokenize_corpus(
                corpus[part],
                tokenizer,
                *languages,
                data_args.max_source_length,
                data_args.max_target_length,
                long_sentences=data_args.long_sentences,
                source_prefix=data_args.source_prefix,
            )
            for part in ("train", "validation")
            if part in corpus
        }

    partition = None
    if partition_args.method != "none":
        partition = PartitionConfig.from_flags(**vars(partition_args))
        partition_(model, partition)

    trainer = ATSSeq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=tokenized["train"],
        eval_dataset=tokenized.get("validation"),
        processing_class=tokenizer,
        data_collator=TranslationCollator(tokenizer, model=model),
        compute_metrics=build_compute_metrics(tokenizer) if args.predict_with_generate else None,
    )
    outcome = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_state()
    if not trainer.is_world_process_zero():
        return

    directories = {}
    for level in trainer.trained_levels:
        name = trainer.level_names[level]
        directories[name] = output_dir / name
        logger.info("Exporting %s", directories[name])
        if partition is None:
            model.save_pretrained(directories[name])
            tokenizer.save_pretrained(directories[name])
        elif name == "full":
            export_full(model, directories[name], tokenizer=tokenizer)
        else:
            export_core(model, directories[name], tokenizer=tokenizer, level=level)
    if any("loss" in entry for entry in trainer.state.log_history):  # a run shorter than logging_steps has no curve
        plot_training(trainer.state.log_history, output_dir / "training.png", title=output_dir.name)

    sources, references = ([pair[lang] for pair in corpus[test]["translation"]] for lang in languages)
    networks = {
        name: AutoModelForSeq2SeqLM.from_pretrained(directory).to(args.device)
        for name, directory in directories.items()
    }
    generation = {
        "num_beams": args.generation_num_beams or model.generation_config.num_beams or 1,
        "max_length": args.generation_max_length or model.generation_config.max_length,
    }
    levels, translations = measure_networks(
        networks,
        tokenizer,
        [data_args.source_prefix + source for source in sources],
        references,
        batch_size=args.per_device_eval_batch_size,
        speed_sentences=data_args.speed_sentences,
        truncate=data_args.long_sentences == "truncate",
        **generation,
    )
    for name, directory in directories.items():
        levels[name]["size_bytes"] = weights_size(directory)
        (output_dir / f"translations.{name}.txt").write_text("\n".join(translations[name]) + "\n", encoding="utf-8")

    results = build_results(
        levels=levels,
        seed=args.seed,
        model={
            "name": model_args.model_name_or_path or model_args.architecture,
            "class": type(model).__name__,
            **{name: value for name, value in vars(model_args).items() if value is not None},
        },
        partition=partition and partition.to_dict(),
        data={
            "source_lang": data_args.source_lang,
            "target_lang": data_args.target_lang,
            "name": data_args.dataset_name or data_args.train_prefix or "embedded default corpus",
            "test_part": test,
            **{part: len(corpus[part]) for part in corpus},
        },
        training={
            "schedule": args.schedule,
            "processes": args.world_size,
            "epochs": trainer.state.epoch,
            "steps": trainer.state.global_step,
            "flops": trainer.state.total_flos,
            "seconds": outcome.metrics["train_runtime"],
            "arguments": args.changed_fields(),
        },
        generation=generation,
    )
    write_results(output_dir / "results.json", results)
    print(f"\n{sample_translations(sources, references, translations)}\n\n{render_table(results)}")
    print(f"\nWritten to {output_dir}: {', '.join([*directories, 'results.json'])}")


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
    if model_args.model_name_or_path is None and model_args.architecture is None:
        model_args.architecture = "tiny"
    return model_args, data_args, partition_args, args


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"train_translation.py: {error}")
