"""`results.json`: what a run found, and everything that is needed to say how."""

import datetime
import hashlib
import json
import math
import os
import shlex
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..storage import write_file
from .kinds import check_kinds
from .provenance import installed_versions, without_secrets
from .tables import parts_of

FORMAT = 1
RESULTS = "results.json"
"""The name of the file in the output directory of a run."""
_SECTIONS = {
    "format": int,
    "command": str,
    "created": str,
    "versions": dict,
    "seed": int,
    "model": dict,
    "partition": (dict, type(None)),
    "data": dict,
    "training": dict,
    "levels": dict,
}
# Not in files of earlier versions.
_OPTIONAL_SECTIONS = {"run_id": str, "samples": list, "card": dict}
_SAMPLE_FIELDS = ("source", "reference", "translations")
_TRAINING_FIELDS = ("schedule", "epochs", "steps", "flops", "seconds")
_LEVEL_FIELDS = ("parameters", "size_bytes")


@dataclass(frozen=True)
class _Task:
    """The parts of results that only one kind of run has."""

    sections: dict
    training_fields: tuple[str, ...]
    level_fields: tuple[str, ...]
    data_fields: tuple[str, ...] = ()


_TASKS = {
    "translation": _Task(
        {"generation": dict},
        (),
        ("flops_per_token", "bleu", "chrf", "bleu_signature", "chrf_signature"),
        ("source_lang", "target_lang"),
    ),
    "image-classification": _Task({}, ("epoch_forward_flops",), ("flops_per_image", "accuracy")),
}


def build_results(
    *,
    levels: dict[str, dict],
    seed: int,
    model: dict,
    partition: dict | None,
    data: dict,
    training: dict,
    generation: dict | None = None,
    samples: list[dict] | None = None,
    card: dict | None = None,
    command: str | None = None,
    task: str = "translation",
) -> dict:
    """Make the contents of `results.json`; add when, with which command and with which versions they were found.

    Args:
        levels: for each level that the run trained, from the smallest core to `"full"`: what its export is
            (`ExportReport.facts()`), `flops_per_token` (`hf_ats.partition.flops_per_token`), `bleu`, `chrf` and their
            signatures (`score_translations`), and `decoding_speed`, what `compare_decoding_speed` says of it, or None
            if it was not measured. For images `flops_per_image` and `accuracy` in percent instead of all from
            `flops_per_token` on.
        seed: of the training.
        model: what was trained: `name` (an architecture, a directory or a Hub id) and `class`, and all else that tells
            it apart, such as its sizes.
        partition: what `to_dict` of the partition gives, or None for a network that is not partitioned.
        data: `source_lang`, `target_lang`, `name` of the training data, the sizes of `train`, `validation` and
            `test`, which of them was scored as `test_part`, and its `test_fingerprint` (`fingerprint`); if there are
            any, `test_name`, the data's `config`, `source_prefix` and the tokenizer's codes of languages.
        training: `schedule`, `epochs`, `steps`, `flops` of all forward and backward passes, `seconds` of wall time,
            and the `arguments` that differ from their defaults. For a run that went on from a checkpoint `seconds` are
            those since then, and `resumed_from` names it.
        generation: how the scored translations were decoded, such as `num_beams` and `max_length`; of translation
            only.
        samples: a few sentences, as `select_samples` picks them; of translation only.
        card: what only a person knows, for the model card: `license` and the other facts of `hf_ats.results.facts`.
        command: the command line; by default that of this process. Secrets in it are left out.
        task: `"translation"` or `"image-classification"`.

    Returns:
        `dict` with those sections and `format`, `run_id` (32 hexadecimal digits, of no other run), `created` (UTC,
        ISO 8601) and `versions`.

    Raises:
        ValueError: there is no level, or one of them or `training` lacks a field.
    """
    if command is None:
        program = sys.argv[0].split() if sys.argv[0].startswith("hf-ats ") else ["python", sys.argv[0]]
        command = shlex.join([*program, *sys.argv[1:]])
    command = without_secrets(command)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    results = {
        "format": FORMAT,
        "run_id": uuid.uuid4().hex,
        "task": task,
        "command": command,
        "created": created,
        "versions": installed_versions(),
        "seed": seed,
        "model": model,
        "partition": partition,
        "data": data,
        "training": training,
        **({} if generation is None else {"generation": generation}),
        "levels": levels,
        **({} if samples is None else {"samples": samples}),
        **({} if card is None else {"card": card}),
    }
    _check(results, "results")
    return results


def write_results(path: str | os.PathLike, results: dict) -> None:
    """Write results as JSON, wholly or not at all: a reader never sees half a file, and a crash does not leave one.

    JSON has no NaN and no infinity: a loss that diverged is written as null. Numpy and torch scalars, paths and dates
    are written as numbers and text.

    Args:
        path: the file, by custom `OUTPUT_DIR/results.json`; its folder is made if need be.
        results: what `build_results` returned.

    Raises:
        ValueError: a section is missing or a level lacks a field.
        TypeError: a value has no form in JSON.
    """
    _check(results, "results")
    write_json(path, results)


def read_results(path: str | os.PathLike, task: str | None = "translation") -> dict:
    """Read what `write_results` wrote.

    Args:
        path: the file.
        task: of the run; None for any.

    Raises:
        ValueError: the file holds no JSON, not the results of a run, or those of another task; the message names the
            file.
    """
    results = _plain(read_json(path, "give a results.json that a training script wrote."))
    _check(results, str(path))
    if task not in (None, task_of(results)):
        raise ValueError(
            f"{path} holds the results of {task_of(results)}, and these are tables of {task}; give runs of this task."
        )
    return results


def read_json(path: str | os.PathLike, remedy: str):
    """Read one JSON file.

    Raises:
        ValueError: it holds no JSON; the message names the file and ends with the remedy.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # which half of a surrogate pair is not fit for
        return value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {remedy}") from None


def write_json(path: str | os.PathLike, value) -> None:
    """Write one JSON file whole or not at all; its folder is made if need be. Values are as in `write_results`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json_text(value))


def json_text(value) -> str:
    """Return a value as `write_json` writes it."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def fingerprint(*columns: Sequence[str]) -> str:
    """Return 16 hexadecimal digits that tell one text from another, such as sources with references."""
    return hashlib.sha256(json.dumps([list(column) for column in columns]).encode()).hexdigest()[:16]


def select_samples(
    sources: Sequence[str], references: Sequence[str], translations: dict[str, Sequence[str]], number: int = 20
) -> list[dict]:
    """Pick sentences for people to look at, evenly spaced over the set, so that nobody chooses them.

    Args:
        sources: the sentences, without a model's prefix.
        references: one of each.
        translations: by level, one of each.
        number: how many; fewer if the set is smaller.

    Returns:
        `list[dict]`: of each `source`, `reference`, and `translations` by level.
    """
    number = min(number, len(sources))
    rows = [i * len(sources) // number for i in range(number)]
    return [
        {
            "source": sources[row],
            "reference": references[row],
            "translations": {level: texts[row] for level, texts in translations.items()},
        }
        for row in rows
    ]


def task_of(results: dict) -> str:
    """Return the task of a run; files of version 0.1 without one are of translation."""
    return results.get("task", "translation")


def _check(results, what: str) -> None:
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise ValueError(f"{what} does not hold the results of a run in format {FORMAT}, as build_results makes them.")
    if not isinstance(task_of(results), str) or task_of(results) not in _TASKS:
        raise ValueError(f"{what}: task={task_of(results)!r} is not known; write one of {', '.join(_TASKS)}.")
    task = _TASKS[task_of(results)]
    for section, kind in (_SECTIONS | task.sections).items():
        if section not in results:
            raise ValueError(f"{what} has no section {section!r}; build_results makes all of them.")
        if not isinstance(results[section], kind):
            raise ValueError(f"{what}: section {section!r} is a {type(results[section]).__name__}.")
    for section, kind in _OPTIONAL_SECTIONS.items():
        if not isinstance(results.get(section, kind()), kind):
            raise ValueError(f"{what}: section {section!r} is a {type(results[section]).__name__}.")
    for number, sample in enumerate(results.get("samples", []), 1):
        _check_fields(sample, _SAMPLE_FIELDS, f"{what}: sample {number}")
    _check_fields(results["training"], _TRAINING_FIELDS + task.training_fields, f"{what}: section 'training'")
    if not results["levels"]:
        raise ValueError(f"{what}: section 'levels' is empty; give the figures of at least one level.")
    for level, figures in results["levels"].items():
        _check_fields(figures, _LEVEL_FIELDS + task.level_fields, f"{what}: level {level!r}")
    _check_fields(results["data"], task.data_fields, f"{what}: section 'data'")
    _check_fields(results["model"], ("name",), f"{what}: section 'model'")
    if results["partition"] and not (isinstance(parts := parts_of(results["partition"]), list) and parts):
        raise ValueError(f"{what}: section 'partition' has parts={parts!r}; give the file that the run wrote.")
    for part in parts_of(results["partition"]):
        _check_fields(part, ("method", "ratios"), f"{what}: section 'partition'")
    check_kinds(_plain(results), what)


def _check_fields(figures: dict, fields: tuple[str, ...], where: str) -> None:
    if not isinstance(figures, dict):
        raise ValueError(f"{where} is {figures!r}, a {type(figures).__name__}; give the file that the run wrote.")
    missing = [field for field in fields if field not in figures]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}.")


def _plain(value):
    """Return `value` in the types that JSON has; what is not finite becomes None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, torch.Tensor)):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value
