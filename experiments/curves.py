"""Scores over training FLOPs, one curve a method and network."""

import io
import statistics
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_ats.results import parts_of, told_sizes
from hf_ats.storage import write_file

_SCORES = {"bleu": "BLEU", "accuracy": "accuracy (%)"}


def plot_scores(records: dict[str, dict[int, dict]], path: Path, title: str) -> None:
    """Draw the mean score of each network over the FLOPs of its training, with the deviation over seeds, into a PNG.

    A curve joins the cores of different ratio that one method trained, each point with its ratio.

    Args:
        records: results by name and seed.
        path: the picture.
        title: above it.
    """
    curves: dict[tuple[str, str], list[tuple]] = {}
    for seeds in records.values():
        runs = list(seeds.values())
        partition, schedule = runs[0]["partition"], runs[0]["training"]["schedule"]
        methods = [part["method"] for part in parts_of(partition)]
        method = f" by {', '.join(methods)}" if methods else ""
        ratio = next(iter(told_sizes(partition, lambda size, part: size).values()), "")
        flops = 1e-12 * statistics.mean(run["training"]["flops"] for run in runs)
        for level in runs[0]["levels"]:
            score = next(score for score in _SCORES if score in runs[0]["levels"][level])
            values = [run["levels"][level][score] for run in runs]
            deviation = statistics.stdev(values) if len(values) > 1 else 0
            trained = "alone" if schedule == level else schedule
            if (start := runs[0]["model"].get("model_name_or_path")) is not None:
                trained += f", from {start}"
            if (factor := runs[0]["training"]["arguments"].get("alternate_lr_coef")) is not None:
                trained += f", alternate_lr_coef {factor}"
            curves.setdefault((level, f"{level}{method}, {trained}"), []).append(
                (flops, statistics.mean(values), deviation, ratio)
            )
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    markers = iter("os^Dv<>Pp*XhH" * len(curves))
    for (level, label), points in curves.items():
        flops, means, deviations, ratios = zip(*sorted(points), strict=True)
        dashed = {"linestyle": "--", "markerfacecolor": "white"} if level == "full" else {}
        line = axis.errorbar(flops, means, deviations, label=label, marker=next(markers), capsize=3, **dashed)
        for x, y, ratio in zip(flops, means, ratios, strict=True):
            axis.annotate(ratio, (x, y), (5, 5), textcoords="offset points", fontsize=7, color=line[0].get_color())
    axis.set_xlabel("training FLOPs (T), forward and backward")
    axis.set_ylabel(_SCORES[score])
    axis.set_title(title)
    axis.grid(alpha=0.3, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(picture := io.BytesIO(), format="png", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, picture.getvalue())
