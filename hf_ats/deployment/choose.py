"""Which of the nested networks of a run fits a budget: of parameters, of bytes, of measured latency."""

import itertools
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel

from ..checkpoint import (
    ExportReport,
    check_replaceable,
    export_level,
    load_network,
    load_processor,
    load_tokenizer,
    move_into_place,
    stored_levels,
    with_generation_defaults,
)
from ..evaluation import batches_by_length, encode_sentences, in_eval_mode, spread, time_in_turns
from ..partition import sort_levels
from ..results import read_results
from ..results.tables import align, number

RESULTS, REPORT = "results.json", "export.json"
# By the task of a run, the figure of its results that is higher for a better network.
_SCORES = {"translation": "bleu", "image-classification": "accuracy"}
_THOUSANDS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
_BYTES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9} | {
    unit: 2**power for unit, power in (("KiB", 10), ("MiB", 20), ("GiB", 30))
}


@dataclass(frozen=True)
class Budget:
    """What a network may need at most; None where there is no limit.

    Args:
        max_parameters (`int`, *optional*): numbers that the exported network holds, tied ones once.
        max_bytes (`int`, *optional*): size of its weight files, without tokenizer and configuration.
        max_latency_ms (`float`, *optional*): median time to translate one batch.

    Raises:
        ValueError: there is no limit at all, or one is not positive.
    """

    max_parameters: int | None = None
    max_bytes: int | None = None
    max_latency_ms: float | None = None

    def __post_init__(self):
        limits = vars(self)
        if all(limit is None for limit in limits.values()):
            raise ValueError(f"there is no budget; give at least one of {', '.join(limits)}.")
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}={limit} fits no network; write a number above 0.")


@dataclass(frozen=True)
class Level:
    """One of the nested networks, as an export, and what it needs.

    Attributes:
        name: of the level, such as `"core"`, `"level1"` or `"full"`.
        directory: its export.
        parameters: how many numbers it holds, tied ones once.
        size_bytes: of its weight files.
        score: in the run's `results.json`, BLEU or a classifier's accuracy; None without one.
        latency: `median`, `low` and `high` (the quartiles) of the seconds that a batch took; None if not measured.
    """

    name: str
    directory: Path
    parameters: int
    size_bytes: int
    score: float | None = None
    latency: dict[str, float] | None = None

    def needs(self) -> dict[str, float]:
        """By the names of `Budget`'s limits."""
        needs = {"max_parameters": self.parameters, "max_bytes": self.size_bytes}
        return needs | ({"max_latency_ms": 1e3 * self.latency["median"]} if self.latency else {})

    def exceeded(self, budget: Budget) -> list[str]:
        """The limits that it does not keep, by name."""
        needs = self.needs()
        return [name for name, limit in vars(budget).items() if limit is not None and needs[name] > limit]


@contextmanager
def exported_levels(run: str | os.PathLike) -> Iterator[list[Level]]:
    """The nested networks of a run, the smallest core first, each as an export on disk while the block lasts.

    Args:
        run: a directory with the exports of a training run (`core/`, `level1/`, ..., `full/`), or a training
            checkpoint, a `checkpoint-N`, whose levels are exported to a temporary directory.

    Raises:
        ValueError: it is neither, or its exports are of several partitions.
        OSError: there is no such directory.
    """
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f"run={str(run)!r} is no directory; give the output of a run, or a checkpoint-N.")
    with tempfile.TemporaryDirectory() as folder:
        reports = _reports_in(run)
        if not reports and (run / "config.json").exists() and not (run / REPORT).exists():
            reports = _export_every_level(run, Path(folder))
        if not reports:
            raise ValueError(
                f"run={str(run)!r} holds no exports such as core/ and full/, and is no training checkpoint; give the "
                "OUTPUT_DIR of train_translation.py or of export.py, or a checkpoint-N."
            )
        yield _levels(reports, _scores(run, reports))


def _reports_in(run: Path) -> list[ExportReport]:
    """Of the levels' own exports; a dense core or an adapter is another form of one of them."""
    reports = [ExportReport.read(file.parent) for file in sorted(run.glob(f"*/{REPORT}"))]
    reports = [report for report in reports if report.kind in ("core", "full")]
    partitions = {repr(report.partition) for report in reports}
    names = [report.level for report in reports]
    if len(partitions) > 1 or len(set(names)) < len(names):
        held = ", ".join(f"{report.path.name}/ (level {report.level})" for report in reports)
        raise ValueError(f"run={str(run)!r} holds exports of several runs: {held}; give each a directory of its own.")
    return reports


def _export_every_level(checkpoint: Path, folder: Path) -> list[ExportReport]:
    model = load_network(checkpoint)
    names = stored_levels(checkpoint)
    if names == ["full"]:
        raise ValueError(
            f"run={str(checkpoint)!r} holds one network, and there is nothing to choose from; give the checkpoint-N "
            "of a partitioned model, or the directory in which its exports lie."
        )
    processor = load_processor(checkpoint, model)
    return [export_level(model, folder / name, level=name, tokenizer=processor) for name in names]


def _levels(reports: list[ExportReport], scores: dict[str, float]) -> list[Level]:
    by_level = {report.level: report for report in reports}
    return [
        Level(name, report.path, report.parameters, report.size_bytes, scores.get(name))
        for name, report in ((name, by_level[name]) for name in sort_levels(by_level))
    ]


def _scores(run: Path, reports: list[ExportReport]) -> dict[str, float]:
    """The score by level, of a run whose results are those of these exports."""
    if not (run / RESULTS).exists():
        return {}
    results = read_results(run / RESULTS, task=None)
    levels = results["levels"]
    for report in reports:
        known = levels.get(report.level, {}).get("parameters", report.parameters)
        if known != report.parameters:
            raise ValueError(
                f"{run / RESULTS} is of a network {report.level!r} with {known:,} parameters, and the export has "
                f"{report.parameters:,}; the directory holds files of two runs. Remove the {RESULTS}, or give another."
            )
    return {name: level[_SCORES[results.get("task", "translation")]] for name, level in levels.items()}


def measure_latency(
    levels: Sequence[Level],
    sentences: Sequence[str],
    *,
    batch_size: int = 1,
    rounds: int = 20,
    device: str = "cpu",
    progress: bool = True,
    **generate_kwargs,
) -> list[Level]:
    """The levels with their `latency`: the time of `generate` for one batch, all networks in turns after a warm-up.

    Every round has another batch, the same for all, as long as there are sentences; so the quartiles span batches of
    short and of long sentences.

    Args:
        levels: what `exported_levels` gives.
        sentences (`list[str]`): source text such as the networks will meet; what their time depends on.
        batch_size (`int`, defaults to 1): sentences translated at once.
        rounds (`int`, defaults to 20): how often each network is timed.
        device: where, as PyTorch names it.
        progress: whether to show a bar on standard error.
        generate_kwargs: what `generate` takes, such as `num_beams`; defaults as in `translate`.

    Raises:
        ValueError: there are fewer sentences than a batch holds, one is too long, or the networks do not translate.
    """
    sentences = [sentence for sentence in sentences if sentence.strip()]
    if len(sentences) < max(1, batch_size):
        raise ValueError(
            f"sentences holds {len(sentences)} with text, and a batch {batch_size}; give the latency more, or write a "
            "smaller batch_size."
        )
    config = AutoConfig.from_pretrained(levels[-1].directory)
    if not config.is_encoder_decoder:
        raise ValueError(
            f"latency is the time of a translation, and the networks are of type {config.model_type!r}; choose by "
            "max_parameters or max_bytes."
        )
    networks = {level.name: load_network(level.directory).to(device) for level in levels}
    tokenizer = load_tokenizer(levels[-1].directory)
    some = sentences[:: max(1, len(sentences) // (rounds * batch_size))][: rounds * batch_size]
    batches = [
        batch.to(device)
        for indices, batch in batches_by_length(
            tokenizer, encode_sentences(tokenizer, some, list(networks.values())), batch_size
        )
        if len(indices) == batch_size
    ]

    def decoder(network: PreTrainedModel):
        options = with_generation_defaults(network, tokenizer, generate_kwargs)
        of_rounds = itertools.cycle(batches)
        return lambda: network.generate(**next(of_rounds), **options)

    with in_eval_mode(*networks.values()), torch.no_grad():
        seconds = time_in_turns(
            {name: decoder(network) for name, network in networks.items()},
            rounds,
            device=device,
            progress="latency" if progress else None,
        )
    return [replace(level, latency=spread(seconds[level.name])) for level in levels]


def choose_level(levels: Sequence[Level], budget: Budget) -> Level:
    """The best of the levels that fit: the one that the run scored highest, or the largest where one has no score.

    Args:
        levels: what `exported_levels` gives, and for a limit on the latency `measure_latency`.
        budget: the limits; all of them must be kept.

    Raises:
        ValueError: none fits; the message names the smallest need of each limit. Or a latency was not measured.

    Example:

    ```python
    >>> with exported_levels("runs/ladder") as levels:
    ...     chosen = choose_level(levels, Budget(max_parameters=5_000_000))
    ```
    """
    if budget.max_latency_ms is not None and any(level.latency is None for level in levels):
        raise ValueError(f"max_latency_ms={budget.max_latency_ms} needs measured levels; call measure_latency first.")
    fitting = [level for level in levels if not level.exceeded(budget)]
    if not fitting:
        raise ValueError(_nothing_fits(levels, budget))
    if None in [level.score for level in fitting]:
        return fitting[-1]
    return max(fitting, key=lambda level: (level.score, levels.index(level)))


def _nothing_fits(levels: Sequence[Level], budget: Budget) -> str:
    limits = []
    for name, limit in vars(budget).items():
        if limit is not None:
            smallest = min(levels, key=lambda level, name=name: level.needs()[name])
            need = _quantity(name, smallest.needs()[name])
            limits.append(f"{name}={_quantity(name, limit)}, where the smallest need is {need} ({smallest.name})")
    return f"no level fits {'; '.join(limits)}. Allow more, or train a smaller core."


def _quantity(name: str, value: float) -> str:
    if name == "max_latency_ms":
        return f"{value:,.1f} ms" if value >= 1 else f"{value:.2g} ms"
    return f"{value:,} {name.removeprefix('max_')}"


def render_levels(levels: Sequence[Level], budget: Budget, chosen: Level | None = None) -> str:
    """A table with a row for each level: what it needs, and whether it fits, or why not."""
    scored, timed = (any(getattr(level, name) is not None for level in levels) for name in ("score", "latency"))
    header = ["level", "parameters", "size (MB)", *(["latency (ms)", "quartiles (ms)"] if timed else [])]
    rows = []
    for level in levels:
        row = [level.name, f"{level.parameters:,}", f"{level.size_bytes * 1e-6:,.3f}"]
        if timed:
            middle, low, high = (1e3 * level.latency[name] for name in ("median", "low", "high"))
            row += [f"{middle:,.1f}", f"{low:,.1f} to {high:,.1f}"]
        if scored:
            row.append(number(level.score, 1, 2))
        rows.append([*row, _verdict(level, budget, chosen)])
    return align([*header, *(["score"] if scored else []), "fits the budget"], rows)


def _verdict(level: Level, budget: Budget, chosen: Level | None) -> str:
    over = [f"{_quantity(name, getattr(budget, name))}" for name in level.exceeded(budget)]
    if over:
        return f"no, over {' and '.join(over)}"
    return "yes, chosen" if level == chosen else "yes"


def copy_export(level: Level, directory: str | os.PathLike) -> None:
    """Copies a level's export, whole or not at all.

    Args:
        level: as `choose_level` returns it.
        directory: new, empty, or an earlier export, which is replaced.

    Raises:
        FileExistsError: the directory holds something else, or is that export.
    """
    target = Path(directory).resolve()
    if target == level.directory.resolve():
        raise FileExistsError(f"{directory} is the export of {level.name!r} itself; name another directory.")
    check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}-{uuid.uuid4().hex[:8]}"
    try:
        shutil.copytree(level.directory, draft)
        move_into_place(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def parse_parameters(text: str) -> int:
    """A number of parameters: `5000000`, `5e6`, `5M`; k, M and B are thousands, millions and billions (10^9).

    Raises:
        ValueError: it is something else.
    """
    return _parse("max_parameters", text, _THOUSANDS, "5000000, 5e6, or 5M (k, M, B: 10^3, 10^6, 10^9)")


def parse_bytes(text: str) -> int:
    """A number of bytes: `20000000`, `2e7`, `20MB`, `20MiB`; kB, MB, GB are powers of 1000, KiB, MiB, GiB of 1024.

    Raises:
        ValueError: it is something else, such as `20M`, which leaves open which of the two.
    """
    return _parse("max_bytes", text, _BYTES, "20000000, 2e7, 20MB (10^6) or 20MiB (2^20)")


def _parse(name: str, text: str, units: dict[str, int], examples: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?) ?([A-Za-z]*)", text.strip(), re.ASCII)
    value = Fraction(match[1]) * units[match[2]] if match and match[2] in units else Fraction(0)
    if value < 1 or value.denominator != 1:
        raise ValueError(f"{name}={text!r} is not a whole number above 0; write one such as {examples}.")
    return int(value)
