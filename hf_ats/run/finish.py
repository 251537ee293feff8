"""Everything after training: export, translate, score, time, and write it down."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from ..checkpoint import check_replaceable, export_level
from ..data import check_code_of_prefix
from ..evaluation import (
    bleu_tokenizer,
    decoding_settings,
    encode_sentences,
    measure_networks,
    score_translations,
    translate_encoded,
)
from ..remote_code import language_codes
from ..results import (
    RESULTS,
    build_results,
    fingerprint,
    plot_training,
    read_results,
    render_table,
    sample_translations,
    select_samples,
    write_report_page,
    write_results,
)
from ..storage import write_file
from ..trainers import ATSSeq2SeqTrainer
from .command import one_line
from .languages import set_source_prefix_, source_prefix

logger = logging.getLogger(__name__)

_REHEARSAL_SECONDS = 2.0


def rehearse(trainer: ATSSeq2SeqTrainer) -> None:
    """Make the optimizer, its schedule and the batches of a training once, so that what would fail later fails now.

    Under FSDP, where the optimizer comes with the shards, that is left to the training.

    Raises:
        ValueError: an argument is not one that they can be made with.
    """
    if trainer.is_fsdp_enabled:
        return
    try:
        trainer.create_optimizer_and_scheduler(max(trainer.args.max_steps, 1000))
        trainer.get_train_dataloader()
        if trainer.eval_dataset is not None:
            trainer.get_eval_dataloader()
    except (ImportError, TypeError, ValueError) as error:
        raise ValueError(f"the training arguments make no optimizer, schedule or batches: {error}") from error
    trainer.optimizer = trainer.lr_scheduler = None


def rehearse_report(
    trainer: ATSSeq2SeqTrainer,
    *,
    sources: Sequence[str],
    references: Sequence[str],
    speed_sentences: int = 200,
    truncate: bool = False,
    tokenize: str | None = None,
    **generate_kwargs,
) -> None:
    """Translate and score one sentence as `report_trained` will, so that what would fail after training fails before.

    Args:
        trainer: as it will train.
        sources: as those of `report_trained`; only the first is translated, for at most two seconds.
        references: likewise, as is all that follows.
        speed_sentences: how many the speed will be measured on.
        truncate: cut a source that is longer than the model reads.
        tokenize: sacreBLEU's tokenizer.
        generate_kwargs: what `generate` takes.

    Raises:
        OSError, ValueError: an argument is not one that translations can be decoded, scored or timed with.
    """
    if speed_sentences < 0:
        raise ValueError(f"speed_sentences={speed_sentences} is no count; write 0 to leave the speed out.")
    model, tokenizer = trainer.model, trainer.processing_class
    encoded = encode_sentences(tokenizer, [source_prefix(model) + sources[0]], [model], truncate=truncate)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # some models sample
        translations = translate_encoded(
            model,
            tokenizer,
            encoded,
            trainer.args.per_device_eval_batch_size,
            max_time=_REHEARSAL_SECONDS,
            **generate_kwargs,
        )
    score_translations(translations, references[:1], tokenize=tokenize)


def report_trained(
    trainer: ATSSeq2SeqTrainer,
    model: PreTrainedModel | None = None,
    *,
    sources: Sequence[str],
    references: Sequence[str],
    source_lang: str,
    target_lang: str,
    part: str = "test",
    source_prefix: str | None = None,
    speed_sentences: int = 200,
    truncate: bool = False,
    tokenize: str | None = None,
    model_facts: dict | None = None,
    data_facts: dict | None = None,
    card: dict | None = None,
    seconds: float | None = None,
    recipe: dict | None = None,
    **generate_kwargs,
) -> dict:
    """Export, score and time what was trained, and write it down: what `hf-ats train` leaves behind.

    Writes into `trainer.args.output_dir`: an export of each level that was trained (`core/`, `full/`, ...), its
    translations (`translations.core.txt`, ...: one line each, a line end inside a translation written as a blank),
    `results.json`, `training.png` and `report.html`. Logs the scores once through `trainer.log` as
    `test_<level>_bleu`, `test_<level>_chrf` and `test_<level>_tokens_per_second`, so that TensorBoard and other
    trackers have them.

    Only the main process calls this; under FSDP every process calls `trainer.whole_model()` before, and the main one
    hands its model over.

    Args:
        trainer: one that has trained, with the tokenizer as its `processing_class`.
        model: what `trainer.whole_model()` gave; by default that is called here.
        sources: the sentences to score on, without prefix.
        references: a translation of each.
        source_lang: code of the sources' language, such as `"de"`.
        target_lang: that of the references'.
        part: what these sentences are, `"test"` or `"validation"`.
        source_prefix: text before every source, which T5 needs; kept in the exports' configs, where the pipeline finds
            it. By default what the model's config has.
        speed_sentences: how many of them the decoding speed is measured on; 0 leaves it out.
        truncate: cut sources that are longer than the model reads, instead of raising.
        tokenize: sacreBLEU's tokenizer; by default that of the target language, as `bleu_tokenizer` chooses.
        model_facts: what `results.json` says of the model beside its class; by default the `name` that it was loaded
            by.
        data_facts: what it says of the data beside languages and part, such as `name` and the size of `train`.
        card: what only a person knows, for the model card: `license` and the other facts of `hf_ats.results.facts`.
        seconds: of the training; by default what the trainer logged.
        recipe: the recipe that the run was started with.
        generate_kwargs: what `generate` takes, such as `num_beams=5`; by default the model's generation config.

    Returns:
        `dict`: the contents of `results.json`.

    Raises:
        ValueError: the trainer has not trained or has no tokenizer, there is nothing to score, or a sentence is too
            long.
        FileExistsError: something that no export wrote is where an export goes; nothing is written then.

    Example:

    ```python
    >>> trainer.train()
    >>> results = report_trained(trainer, sources=german, references=english, source_lang="de", target_lang="en")
    >>> results["levels"]["core"]["bleu"]
    ```
    """
    args, state, tokenizer = trainer.args, trainer.state, trainer.processing_class
    seconds = _training_seconds(trainer) if seconds is None else seconds
    if tokenizer is None:
        raise ValueError(
            "the trainer has no tokenizer to translate with; write ATSSeq2SeqTrainer(..., processing_class=tokenizer)."
        )
    model = trainer.whole_model() if model is None else model
    source_prefix = set_source_prefix_(model, source_prefix)
    check_code_of_prefix(tokenizer, source_prefix)
    inputs = [source_prefix + source for source in sources]
    if len(sources) != len(references) or not sources:
        raise ValueError(
            f"sources has {len(sources)} sentences and references has {len(references)}; give one reference for each, "
            "and at least one of both."
        )
    encoded = encode_sentences(tokenizer, inputs, [model], truncate=truncate)
    output_dir = Path(args.output_dir)
    directories = {name: output_dir / name for name in (trainer.level_names[i] for i in trainer.trained_levels)}
    for directory in directories.values():
        check_replaceable(directory)
    run_id, weights = _reported_before(output_dir)
    # They must not stay beside the exports of another training, if this report does not come to its end.
    (output_dir / RESULTS).unlink(missing_ok=True)
    exports = {}
    for name, directory in directories.items():
        logger.info("Exporting %s", directory)
        exports[name] = export_level(model, directory, level=name, tokenizer=tokenizer)
    if any("loss" in entry for entry in state.log_history):  # a run shorter than logging_steps has no curve
        plot_training(state.log_history, output_dir / "training.png", title=output_dir.name)

    networks = {
        name: AutoModelForSeq2SeqLM.from_pretrained(directory).to(args.device)
        for name, directory in directories.items()
    }
    levels, translations = measure_networks(
        networks,
        tokenizer,
        encoded,
        references,
        batch_size=args.per_device_eval_batch_size,
        speed_sentences=speed_sentences,
        tokenize=tokenize or bleu_tokenizer(target_lang, getattr(tokenizer, "tgt_lang", None)),
        **generate_kwargs,
    )
    for name, export in exports.items():
        levels[name] = export.facts() | levels[name]
        lines = "".join(f"{one_line(translation)}\n" for translation in translations[name])
        write_file(output_dir / f"translations.{name}.txt", lines)

    given = args.resume_from_checkpoint
    results = build_results(
        levels=levels,
        seed=args.seed,
        model={"name": model.name_or_path, "class": type(model).__name__, **(model_facts or {})},
        partition=next(iter(exports.values())).partition,
        data={
            "source_lang": source_lang,
            "target_lang": target_lang,
            **_input_facts(tokenizer, source_prefix),
            "test_part": part,
            "test_fingerprint": fingerprint(sources, references),
            part: len(sources),
            **(data_facts or {}),
        },
        training={
            "schedule": args.schedule,
            "processes": args.world_size,
            "epochs": state.epoch,
            "steps": state.global_step,
            "flops": state.total_flos,
            "seconds": seconds,
            **({"threads": torch.get_num_threads()} if args.device.type == "cpu" else {}),
            **({"resumed_from": given} if given else {}),
            "arguments": args.changed_fields(),
            **({"recipe": recipe} if recipe else {}),
        },
        generation=decoding_settings(next(iter(networks.values())), tokenizer, **generate_kwargs),
        samples=select_samples(sources, references, translations),
        card=card,
    )
    if run_id is not None and _weights(results) == weights:  # the same run, which may be on the Hub already
        results["run_id"] = run_id
    write_results(output_dir / RESULTS, results)
    state.save_to_json(output_dir / "trainer_state.json")  # before the scores, which are no part of its curves
    write_report_page(output_dir)
    trainer.log(_final_scores(levels))
    return results


def show_report(results: dict) -> str:
    """Return what a person looks at first: a few translations below one another, and the table of the levels."""
    samples = results["samples"]
    columns = [[sample[column] for sample in samples] for column in ("source", "reference")]
    translations = {level: [sample["translations"][level] for sample in samples] for level in results["levels"]}
    return f"{sample_translations(*columns, translations)}\n\n{render_table(results)}"


def _reported_before(output_dir: Path) -> tuple[str | None, dict]:
    """Return the run's id and the hashes of its weights, if a run was reported there before."""
    try:
        results = read_results(output_dir / RESULTS)
    except (OSError, ValueError):
        return None, {}
    return results.get("run_id"), _weights(results)


def _weights(results: dict) -> dict:
    return {name: level.get("weights_sha256") for name, level in results["levels"].items()}


def _training_seconds(trainer: ATSSeq2SeqTrainer) -> float:
    """Return the wall time of the training, from the log, that before a checkpoint included."""
    for entry in reversed(trainer.state.log_history):
        if "train_runtime" in entry:
            return trainer.seconds_before + entry["train_runtime"]
    raise ValueError("the trainer has not trained, so there is nothing to report; call trainer.train() before.")


def _input_facts(tokenizer, source_prefix: str) -> dict[str, str]:
    """Return what a user of the model has to give beside the sentence, empty if there is no such thing."""
    facts = {"source_prefix": source_prefix} if source_prefix else {}
    if language_codes(tokenizer):
        facts |= {"tokenizer_source_lang": tokenizer.src_lang, "tokenizer_target_lang": tokenizer.tgt_lang}
    return facts


def _final_scores(levels: dict[str, dict]) -> dict[str, float]:
    # Not "eval_", the prefix of the curves over the steps.
    scores = {f"test_{name}_{score}": level[score] for name, level in levels.items() for score in ("bleu", "chrf")}
    speeds = {name: level["decoding_speed"] for name, level in levels.items() if level["decoding_speed"]}
    return scores | {f"test_{name}_tokens_per_second": speed["tokens_per_second"] for name, speed in speeds.items()}
