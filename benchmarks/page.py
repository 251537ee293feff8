"""Render docs/performance.md and its pictures from the files that the benchmarks wrote.

    python -m benchmarks.page

Each benchmarks/results/NAME.json fills the block of the page between

    <!-- begin NAME -->
    <!-- end NAME -->

and what the project holds itself to fills the block `goals`, so that no figure is typed by hand.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hf_ats.results import align, update_marked_block

from .record import read_record
from .report import render_circumstances, render_record

ROOT = Path(__file__).parents[1]


class Goal(NamedTuple):
    """The most that a ratio of a record may be, or None for 1% above its limit, and what the page calls it."""

    record: str
    ratio: str
    most: float | None
    name: str


# What this project holds itself to, on two CPU cores with the paper's IWSLT architecture in float32, at r = 0.03125
# unless the name says another core.
GOALS = [
    Goal(record, ratio, most, *(name or [ratio]))
    for record, ratio, most, *name in (
        ("training", "full step / stock step", 1.02),
        ("training", "core step / stock step", 0.50),
        ("training", "alternating mean / stock step", 0.75),
        ("training", "alternating mean / (stock step + core step)", 0.51),
        ("training", "alternating mean / slimmable step", 0.53),
        ("epoch", "token-budget epoch / fixed-batch random epoch, equal precision", 0.67),
        ("distributed", "bytes of a core step / bytes of a full step, DDP", None),
        ("inference", "exported full / stock, decoding", 1.01),
        ("inference", "core / full latency, batch 1, beam 5", 0.60),
        (
            "inference-depth",
            "core, CTranslate2 int8 / full, CTranslate2 int8 latency, batch 1, beam 4",
            0.50,
            "core of 1 decoder layer / full, CTranslate2 int8, batch 1, beam 4",
        ),
        (
            "inference-depth-vocabulary",
            "core, ONNX Runtime int8 / full, ONNX Runtime int8 latency, batch 1, beam 4",
            0.50,
            "core of 1 decoder layer and vocabulary rank 0.25 / full, ONNX int8, batch 1, beam 4",
        ),
        ("training", "peak memory, alternating / stock training", 1.10),
        ("epoch", "Trainer overhead over a bare loop, small model", 1.03),
    )
]
# Okabe and Ito's colours, which the colour-blind tell apart, one for each kind of operation.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")


def main() -> None:
    """Update the page, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the files")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md", help="the page to update")
    arguments = parser.parse_args()
    try:
        files = record_files(arguments.records)
        changed = update_page(arguments.page, files)
        plot_goals(_read(files), arguments.page.with_name("performance-goals.png"))
        plot_steps(read_record(arguments.records / "training.json"), arguments.page.with_name("training-steps.png"))
    except (OSError, ValueError) as error:
        sys.exit(f"page.py: {error}")
    print(f"{arguments.page} is {'updated' if changed else 'up to date'}", file=sys.stderr)


def record_files(folder: str | os.PathLike) -> list[Path]:
    """Return the records of a folder; one that varies another (`training-no-dropout`) comes after it (`training`)."""
    return sorted(Path(folder).glob("*.json"), key=lambda file: file.stem)


def update_page(page: str | os.PathLike, records: Sequence[str | os.PathLike]) -> bool:
    """Render every record into the block of the page that has the name of its file, and the goals into `goals`.

    Args:
        page: a Markdown file with `<!-- begin NAME -->` and `<!-- end NAME -->` for each `NAME.json`.
        records: files that benchmarks wrote.

    Returns:
        `bool`: whether the page changed.

    Raises:
        ValueError: a file does not hold a record, or the page has no block for it.
    """
    read = _read(records)
    blocks = {name: f"{render_circumstances(one)}\n\n{render_record(one, 'markdown')}" for name, one in read.items()}
    changed = [update_marked_block(page, text, name) for name, text in blocks.items()]
    return any([*changed, update_marked_block(page, render_goals(read), "goals")])


def _read(paths: Sequence[str | os.PathLike]) -> dict[str, dict]:
    return {Path(path).stem: read_record(path) for path in paths}


def render_goals(records: dict[str, dict]) -> str:
    """Return a Markdown table: each goal, and what its record, of these by their names, measured."""
    rows = []
    for name, ratio, goal in _measured_goals(records):
        middle, low, high = _figures(ratio)
        rows.append(
            [
                name,
                f"{middle:.3f}",
                f"{low:.3f} to {high:.3f}" if "median" in ratio else "counted",
                f"{ratio['limit']:.3f}" if "limit" in ratio else "-",
                f"{goal:.3f}",
                "yes" if middle <= goal else "no",
            ]
        )
    return align(["ratio", "median", "quartiles", "limit", "goal", "reached"], rows, "markdown")


def _measured_goals(records: dict[str, dict]) -> Iterator[tuple[str, dict, float]]:
    for goal in GOALS:
        ratio = records.get(goal.record, {"ratios": {}})["ratios"].get(goal.ratio)
        if ratio is not None:
            yield goal.name, ratio, ratio["limit"] * 1.01 if goal.most is None else goal.most


def _figures(ratio: dict) -> tuple[float, float, float]:
    """Return median and quartiles; for a counted ratio three times its value."""
    return (ratio["median"], ratio["low"], ratio["high"]) if "median" in ratio else (ratio["value"],) * 3


def plot_steps(record: dict, path: str | os.PathLike) -> None:
    """Draw what the time of each profiled step goes into, as one bar each, into a PNG file.

    Raises:
        ValueError: the record has no profile.
    """
    profiled = {name: one for name, one in record["measurements"].items() if "profile" in one}
    if not profiled:
        raise ValueError("the record has no profile; run the benchmark with --profile true.")
    figure, axis = _figure(9, 1.2 + 0.7 * len(profiled))
    names = list(profiled)
    kinds = list(dict.fromkeys(kind for one in profiled.values() for kind in one["profile"]))
    left = [0.0] * len(names)
    for kind, color in zip(kinds, _COLORS, strict=False):
        widths = [one["seconds"]["median"] * one["profile"].get(kind, 0) for one in profiled.values()]
        axis.barh(names, widths, left=left, color=color, label=kind, height=0.62)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for name, end in zip(names, left, strict=True):
        axis.text(end, name, f" {end:.2f} s", va="center")
    axis.invert_yaxis()
    axis.set_xlim(0, 1.1 * max(left))
    axis.set_xlabel("time of a step (s)")
    axis.legend(frameon=False, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def plot_goals(records: dict[str, dict], path: str | os.PathLike) -> None:
    """Draw each goal's ratio with its quartiles, beside its limit and the goal, into a PNG file.

    Raises:
        ValueError: no record has a ratio with a goal.
    """
    measured = list(_measured_goals(records))
    if not measured:
        raise ValueError("no record has a ratio with a goal; run benchmarks.training first.")
    figure, axis = _figure(9, 1.4 + 0.36 * len(measured))
    for row, (_, ratio, goal) in enumerate(measured):
        middle, low, high = _figures(ratio)
        axis.plot([low, high], [row, row], color=_COLORS[0], linewidth=2)
        axis.plot(middle, row, "o", color=_COLORS[0], label="measured, with quartiles" if row == 0 else None)
        axis.plot(goal, row, "|", color=_COLORS[1], markersize=15, markeredgewidth=2, label="goal" * (row == 0))
        if "limit" in ratio:
            axis.plot(ratio["limit"], row, "D", mfc="none", color="#666666", label="limit" * (row == 0))
    axis.set_yticks(range(len(measured)), [name for name, *_ in measured])
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("ratio, lower is better")
    axis.grid(axis="x", alpha=0.3, linewidth=0.6)
    figure.legend(frameon=False, ncols=3, loc="outside upper right")
    _save(figure, path)


def _figure(width: float, height: float):
    """Return a figure and its axis, with a canvas of their own: pyplot would choose a window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _save(figure, path: str | os.PathLike) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})


if __name__ == "__main__":
    main()
