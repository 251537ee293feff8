"""What the figures are kept and drawn with: records a line each, and panels of curves over the steps."""

import io
import json
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Curve = Sequence[tuple[int, float | None]]


def draw_panels(panels: Sequence[tuple[str, Mapping[str, Curve]]]) -> bytes:
    """Return a PNG with a panel for each title and its curves by name; an undefined value (`None`) leaves a gap."""
    figure = Figure(figsize=(1 + 4.4 * len(panels), 3.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        for name, curve in curves.items():
            steps, values = zip(*curve, strict=True)
            axis.plot(steps, [float("nan") if value is None else value for value in values], label=name, marker=".")
        axis.set_title(title)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(picture := io.BytesIO(), format="png")
    return picture.getvalue()


def a_line_each(results: dict, key: str) -> str:
    """Return JSON with a line for each object whose first key is `key`."""
    return json.dumps(results).replace(f'{{"{key}"', f'\n{{"{key}"') + "\n"
