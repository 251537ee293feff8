"""The course of a training run, level by level, as a picture."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

from ..partition import sort_levels
from ..storage import write_file
from .curves import MANY_POINTS, level_colors, running_mean, training_panels


def plot_training(
    log_history: Sequence[dict], path: str | os.PathLike, title: str | None = None, task: str = "translation"
) -> None:
    """Draw the losses and scores of each level over the optimizer steps, into a PNG file.

    One panel shows the training loss, and one each shows validation loss, BLEU, chrF and accuracy if they were logged,
    with a curve for each level. If the training loss was logged very often, its running mean is drawn over the values.
    Values that are not finite leave a gap.

    Args:
        log_history: `trainer.state.log_history`, with the keys `loss_<level>`, `eval_<level>_loss`,
            `eval_<level>_bleu`, `eval_<level>_chrf` and `eval_<level>_accuracy`.
        path: the file to write; its folder is made if need be.
        title (`str`, *optional*): over the whole picture, such as the name of the run.
        task: of the run, as in its results.

    Raises:
        ValueError: no figure of a level was logged.

    Example:
    ```python
    >>> plot_training(trainer.state.log_history, "out/training.png", title="Multi30k de-en, r = 0.03125")
    ```
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = training_panels(log_history, task)
    if not panels:
        raise ValueError(
            f"log_history has {len(log_history)} entries and none of loss_<level> or eval_<level>_...; train with "
            "logging_steps or eval_strategy set so that there is something to draw."
        )
    colors = level_colors(sort_levels(level for panel in panels for level in panel.series))

    # A figure and canvas of their own: pyplot would choose a window system and change what a notebook draws.
    rows, columns = (2, 2) if len(panels) == 4 else (1, len(panels))
    figure = Figure(figsize=(1 + 4.4 * columns, 0.4 + 3.6 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    last_step = max(points[-1][0] for panel in panels for points in panel.series.values())
    for axis, panel in zip(axes, panels, strict=True):
        _draw(axis, panel.series, colors)
        axis.set_title(panel.title)
        axis.set_xlabel("optimizer step")
        axis.set_xlim(0, 1.03 * last_step)
        axis.set_ylabel(panel.unit)
    if title:
        figure.suptitle(title, fontweight="bold")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture := io.BytesIO(), format="png")
    write_file(path, picture.getvalue())


def _draw(axis, series: dict[str, list[tuple[int, float]]], colors: dict[str, str]) -> None:
    # A marker of its own too, so that curves can be told apart on paper.
    for (level, points), marker in zip(series.items(), "os^Dv<>" * len(series), strict=False):
        steps, values = zip(*points, strict=True)
        if len(points) > MANY_POINTS:
            axis.plot(steps, values, color=colors[level], alpha=0.25, linewidth=0.8)
            axis.plot(steps, running_mean(values), color=colors[level], label=level, linewidth=1.8)
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
