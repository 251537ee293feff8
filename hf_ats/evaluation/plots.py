"""The course of a training run, level by level, as a picture."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from .tables import unique

# The colours of Okabe and Ito, which the colour-blind tell apart; both ends of a ladder keep theirs in every plot.
_END_COLORS = {"full": "#0072B2", "core": "#D55E00"}
_BETWEEN_COLORS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Panels by what they show: title, unit, and key in the logs.
_LOSS = ("Training loss", "loss per target token (nats)", re.compile(r"loss_(?P<level>\w+)"))
_EVALUATED = (
    ("Validation loss", "loss per target token (nats)", re.compile(r"eval_(?P<level>\w+)_loss")),
    ("Validation BLEU", "BLEU (0 to 100)", re.compile(r"eval_(?P<level>\w+)_bleu")),
    ("Validation chrF", "chrF (0 to 100)", re.compile(r"eval_(?P<level>\w+)_chrf")),
)
_MANY_POINTS = 200

Series = dict[str, list[tuple[int, float]]]


def plot_training(log_history: Sequence[dict], path: str | os.PathLike, title: str | None = None) -> None:
    """Draws the losses and scores of each level over the optimizer steps, into a PNG file.

    One panel for the training loss, and one each for validation loss, BLEU and chrF as far as they were logged, with a
    curve for each level. Where the training loss was logged very often its running mean is drawn over the values.
    Values that are not finite leave a gap.

    Args:
        log_history: `trainer.state.log_history`, with the keys `loss_<level>`, `eval_<level>_loss`,
            `eval_<level>_bleu` and `eval_<level>_chrf`.
        path: the file to write; its folder is made if need be.
        title (`str`, *optional*): over the whole picture, such as the name of the run.

    Raises:
        ValueError: nothing of a level was logged.

    Example:
    ```python
    >>> plot_training(trainer.state.log_history, "out/training.png", title="Multi30k de-en, r = 0.03125")
    ```
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(name, unit, _series(log_history, key)) for name, unit, key in (_LOSS, *_EVALUATED)]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        raise ValueError(
            f"log_history has {len(log_history)} entries and none of loss_<level> or eval_<level>_...; train with "
            "logging_steps or eval_strategy set so that there is something to draw."
        )
    names = unique(level for _, _, series in panels for level in series)
    names.sort(key=lambda name: (name == "full", name != "core", name))
    between = iter(_BETWEEN_COLORS * len(names))
    colors = {name: _END_COLORS.get(name) or next(between) for name in names}

    # A figure and canvas of their own: pyplot would choose a window system and change what a notebook draws.
    rows, columns = (2, 2) if len(panels) == 4 else (1, len(panels))
    figure = Figure(figsize=(1 + 4.4 * columns, 0.4 + 3.6 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    last_step = max(points[-1][0] for _, _, series in panels for points in series.values())
    for axis, (name, unit, series) in zip(axes, panels, strict=True):
        _draw(axis, {level: series[level] for level in names if level in series}, colors)
        axis.set_title(name)
        axis.set_xlabel("optimizer step")
        axis.set_xlim(0, 1.03 * last_step)
        axis.set_ylabel(unit)
    if title:
        figure.suptitle(title, fontweight="bold")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _series(log_history: Sequence[dict], key: re.Pattern) -> Series:
    """`(step, value)` of each level whose key matches, in the order of the log."""
    series: Series = defaultdict(list)
    for entry in log_history:
        for name, value in entry.items():
            if match := key.fullmatch(name):
                series[match["level"]].append((entry["step"], float("nan") if value is None else float(value)))
    return dict(series)


def _draw(axis, series: Series, colors: dict[str, str]) -> None:
    # A marker of its own too, so that curves can be told apart on paper.
    for (level, points), marker in zip(series.items(), "os^Dv<>" * len(series), strict=False):
        steps, values = zip(*points, strict=True)
        if len(points) > _MANY_POINTS:
            axis.plot(steps, values, color=colors[level], alpha=0.25, linewidth=0.8)
            axis.plot(steps, _running_mean(values), color=colors[level], label=level, linewidth=1.8)
        else:
            every = max(1, len(points) // 12)
            axis.plot(
                steps,
                values,
                color=colors[level],
                label=level,
                linewidth=1.8,
                marker=marker,
                markersize=4,
                markevery=every,
            )
    axis.grid(alpha=0.3, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(title="level", frameon=False)


def _running_mean(values: Sequence[float]) -> list[float]:
    """The mean over a window of a twentieth of the values, centred, shorter at both ends; gaps are left out."""
    import numpy as np

    values = np.asarray(values)
    half = max(1, len(values) // 40)
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    finite = (window[np.isfinite(window)] for window in windows)
    return [float(window.mean()) if len(window) else float("nan") for window in finite]
