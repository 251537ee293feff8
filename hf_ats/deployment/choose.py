"""The nested network of a run that fits a budget: of parameters, of bytes, of measured latency."""

import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel

from ..checkpoint import (
    REPORT_NAME,
    ExportReport,
    check_replaceable,
    export_level,
    load_network,
    load_processor,
    load_tokenizer,
    stored_levels,
)
from ..data import default_corpus
from ..evaluation import batches_by_length, encode_sentences, in_eval_mode, spread, time_in_turns
from ..partition import sort_levels
from ..remote_code import with_generation_defaults
from ..results import RESULTS, align, number, read_results, task_of
from ..storage import draft

# By the task of a run, the figure of its results that is higher for a better network.
_SCORES = {"translation": "bleu", "image-classification": "accuracy"}
_UNITS = {
    "max_parameters": {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9},
    "max_bytes": {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    | {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
}
_EXAMPLES = {
    "max_parameters": "5000000, 5e6, or 5M (k, M, B: 10^3, 10^6, 10^9)",
    "max_bytes": "20000000, 2e7, 20MB (10^6) or 20MiB (2^20)",
}

# By name: `max_parameters` (numbers that the exported network holds, tied ones once), `max_bytes` (of its weight
# files), `max_latency_ms` (median time to translate one batch). A network must keep all that are given.
Limits = dict[str, float]


@dataclass(frozen=True)
class Level:
    """One of the nested networks, as an export, and what it needs.

    Attributes:
        name: of the level, such as `"core"`, `"level1"` or `"full"`.
        directory: its export.
        needs: by the names of the limits; the latency if it was measured.
        score: in the run's `results.json`, BLEU or a classifier's accuracy; None without one.
        quartiles_ms: the quartiles of the measured times.
    """

    name: str
    directory: Path
    needs: Limits
    score: float | None = None
    quartiles_ms: tuple[float, float] | None = None

    def exceeded(self, limits: Limits) -> list[str]:
        """Return the limits that it does not keep, by name."""
        return [name for name, limit in limits.items() if self.needs[name] > limit]


@contextmanager
def exported_levels(run: str | os.PathLike) -> Iterator[list[Level]]:
    """Return the nested networks of a run, the smallest core first, as exports on disk while the block lasts.

    Args:
        run: a directory with the exports of a training run (`core/`, `level1/`, ..., `full/`), or a training
            checkpoint, a `checkpoint-N`, whose levels are exported to a temporary directory.

    Raises:
        ValueError: it is neither, or its exports are of several partitions or not as they were written.
        OSError: there is no such directory.
    """
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f"run={str(run)!r} is not a directory; give the output of a run, or a checkpoint-N.")
    with tempfile.TemporaryDirectory() as folder:
        # A dense core or an adapter is another form of a level.
        reports = [ExportReport.read(path.parent) for path in sorted(run.glob("*/export.json"))]
        reports = [report for report in reports if report.kind in ("core", "full") and report.runtime is None]
        if not reports and (run / "config.json").exists() and len(names := stored_levels(run)) > 1:
            model = load_network(run)
            processor = load_processor(run, model)
            reports = [export_level(model, Path(folder, name), level=name, tokenizer=processor) for name in names]
        if not reports:
            raise ValueError(
                f"run={str(run)!r} holds no exports such as core/ and full/, and is not the checkpoint-N of a "
                "partitioned model; give the output directory of a training run or of `hf-ats export`."
            )
        by_name = {report.level: report for report in reports}
        if len({repr(report.partition) for report in reports}) > 1 or len(by_name) < len(reports):
            held = ", ".join(f"{report.path.name}/ (level {report.level})" for report in reports)
            raise ValueError(
                f"run={str(run)!r} holds exports of several runs: {held}; give each a directory of its own."
            )
        scores = _scores(run, reports)
        for report in reports:
            report.check(edited=True)
        yield [
            Level(
                name,
                by_name[name].path,
                {"max_parameters": by_name[name].parameters, "max_bytes": by_name[name].size_bytes},
                scores.get(name),
            )
            for name in sort_levels(by_name)
        ]


def _scores(run: Path, reports: list[ExportReport]) -> dict[str, float]:
    """Return the score by level of a run whose results are those of these exports."""
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
    return {name: level[_SCORES[task_of(results)]] for name, level in levels.items()}


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
    """Return the levels with their latency: the time of `generate` for one batch, in turns after a warm-up.

    Every round has another batch, the same for all networks, as long as there are sentences; so the quartiles span
    batches of short and of long sentences.

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
    sample = sentences[:: max(1, len(sentences) // (rounds * batch_size))][: rounds * batch_size]
    encoded = encode_sentences(tokenizer, sample, list(networks.values()))
    batches = batches_by_length(tokenizer, encoded, batch_size)
    whole = [batch.to(device) for indices, batch in batches if len(indices) == batch_size]

    def decoder(network: PreTrainedModel):
        options = with_generation_defaults(network, tokenizer, generate_kwargs)
        of_rounds = itertools.cycle(whole)
        return lambda: network.generate(**next(of_rounds), **options)

    candidates = {name: decoder(network) for name, network in networks.items()}
    with in_eval_mode(*networks.values()), torch.no_grad():
        seconds = time_in_turns(candidates, rounds, device=device, progress="latency" if progress else None)
    measured = []
    for level in levels:
        median, low, high = (1e3 * spread(seconds[level.name])[name] for name in ("median", "low", "high"))
        measured.append(replace(level, needs=level.needs | {"max_latency_ms": median}, quartiles_ms=(low, high)))
    return measured


def choose_level(levels: Sequence[Level], limits: Limits) -> Level:
    """Return the best of the levels that fit: the one that the run scored highest, or the largest if one has no score.

    Args:
        levels: what `exported_levels` gives, and for a limit on the latency `measure_latency`.
        limits: by name; all of them must be kept.

    Raises:
        ValueError: there is no limit, or none fits; the message names the smallest need of each limit.

    Example:

    ```python
    >>> with exported_levels("runs/ladder") as levels:
    ...     chosen = choose_level(levels, {"max_parameters": 5_000_000})
    ```
    """
    if not limits:
        raise ValueError("there is no budget; give at least one of max_parameters, max_bytes, max_latency_ms.")
    fitting = [level for level in levels if not level.exceeded(limits)]
    if not fitting:
        parts = []
        for name, limit in limits.items():
            smallest = min(levels, key=lambda level, name=name: level.needs[name])
            need = _quantity(name, smallest.needs[name])
            parts.append(f"{name}={_quantity(name, limit)}, where the smallest need is {need} ({smallest.name})")
        raise ValueError(f"no level fits {'; '.join(parts)}. Allow more, or train a smaller core.")
    if None in [level.score for level in fitting]:
        return fitting[-1]
    return max(fitting, key=lambda level: (level.score, levels.index(level)))


def _quantity(name: str, value: float) -> str:
    if name == "max_latency_ms":
        return f"{value:,.1f} ms" if value >= 1 else f"{value:.2g} ms"
    return f"{value:,} {name.removeprefix('max_')}"


def render_levels(levels: Sequence[Level], limits: Limits, chosen: Level | None = None) -> str:
    """Render a table with a row for each level: what it needs, and whether it fits, or why not."""
    scored = any(level.score is not None for level in levels)
    timed = any(level.quartiles_ms for level in levels)
    header = ["level", "parameters", "size (MB)", *(["latency (ms)", "quartiles (ms)"] if timed else [])]
    rows = []
    for level in levels:
        over = " and ".join(_quantity(name, limits[name]) for name in level.exceeded(limits))
        row = [level.name, f"{level.needs['max_parameters']:,}", f"{level.needs['max_bytes'] * 1e-6:,.3f}"]
        if timed:
            row += [f"{level.needs['max_latency_ms']:,.1f}", "{:,.1f} to {:,.1f}".format(*level.quartiles_ms)]
        row += [number(level.score, 1, 2)] if scored else []
        rows.append([*row, f"no, over {over}" if over else "yes, chosen" if level == chosen else "yes"])
    return align([*header, *(["score"] if scored else []), "fits the budget"], rows)


def copy_export(level: Level, directory: str | os.PathLike) -> None:
    """Copy a level's export, whole or not at all.

    Args:
        level: as `choose_level` returns it.
        directory: new, empty, or an earlier export, which is replaced.

    Raises:
        FileExistsError: the directory holds something else, or is that export.
    """
    target = Path(os.path.realpath(directory))
    if target == Path(os.path.realpath(level.directory)):
        raise FileExistsError(f"{directory} is the export of {level.name!r} itself; name another directory.")
    check_replaceable(target)
    report = ExportReport.read(level.directory)
    with draft(target) as folder:
        for name in [*report.files, REPORT_NAME]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(level.directory / name, folder / name)
        ExportReport.read(folder).check()


def parse_limit(name: str, text: str) -> int:
    """Read a limit: `5000000`, `5e6` or `5M` parameters, `20000000`, `2e7`, `20MB` or `20MiB` bytes.

    Args:
        name: `"max_parameters"` (k, M and B are 10^3, 10^6 and 10^9) or `"max_bytes"` (kB, MB and GB are powers of
            1000, KiB, MiB and GiB of 1024).
        text: what a person wrote.

    Raises:
        ValueError: it is something else, such as `20M` bytes, which leaves open which of the two.
    """
    units = _UNITS[name]
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?) ?([A-Za-z]*)", text.strip(), re.ASCII)
    value = Decimal(match[1]) * units[match[2]] if match and match[2] in units else Decimal(0)
    if value < 1 or value != int(value):
        raise ValueError(f"{name}={text!r} is not a whole number above 0; write one such as {_EXAMPLES[name]}.")
    return int(value)


def generated_sentences() -> list[str]:
    """Return the German side of the embedded corpus's test part."""
    return [
        pair["de"] for pair in default_corpus(sizes={"train": 1, "validation": 1, "test": 300})["test"]["translation"]
    ]
