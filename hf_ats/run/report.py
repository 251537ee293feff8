"""Everything after training: export, translate, score, time, and write it down."""

import logging
from dataclasses import asdict
from pathlib import Path

from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from ..checkpoint import export_level
from ..evaluation import (
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
from .preparation import Run

logger = logging.getLogger(__name__)


def report(run: Run, model: PreTrainedModel, seconds: float) -> None:
    """Export what was trained, then translate, score and time it from there; for the main process.

    Args:
        run: what was prepared.
        model: what `trainer.whole_model()` gave.
        seconds: of the training.
    """
    trainer, args = run.trainer, run.trainer.args
    output_dir = Path(args.output_dir)
    for name, directory in run.directories.items():
        logger.info("Exporting %s", directory)
        export_level(model, directory, level=name, tokenizer=run.tokenizer)
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
            **({"recipe": asdict(run.recipe)} if run.recipe else {}),
        },
        generation=decoding_settings(next(iter(networks.values())), run.tokenizer, **run.generation),
    )
    write_results(output_dir / "results.json", results)
    print(f"\n{sample_translations(sources, references, translations)}\n\n{render_table(results)}")
    print(f"\nWritten to {output_dir}: {', '.join([*run.directories, 'results.json'])}")
