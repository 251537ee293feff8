"""The curves of a report page: panels of numbers laid out as what an inline SVG draws."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .curves import MANY_POINTS, Panel, running_mean

# In units of the SVG, which a phone shows at about one pixel each.
WIDTH, HEIGHT = 360, 240
_LEFT, _TOP, _BOTTOM = 46, 12, 36
_LABEL_HEIGHT, _LETTER = 14, 7
_BUCKETS = 150  # of a curve with many points: two of each, the lowest and the highest, are drawn
_MARKERS = 12  # about so many of a curve
_ROWS = 12  # of the table of values

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Curve:
    """One level's line, `M x y L x y ...` in units of the SVG."""

    level: str
    line: str
    raw_line: str | None  # every value, where `line` is their running mean
    markers: list[tuple[str, str, str]]  # x, y, and the text that is shown under the pointer
    label_y: float


@dataclass(frozen=True)
class Chart:
    """One panel, laid out."""

    title: str
    unit: str
    description: str
    right: int  # where the plot ends and the labels of the curves begin
    x_ticks: list[tuple[str, str]]  # position and text
    y_ticks: list[tuple[str, str]]
    curves: list[Curve]
    levels: list[str]
    absent: list[str]  # levels without a finite value
    rows: list[tuple[str, list[str]]]  # of the table of values: the step, and the value of each level
    omitted: int  # steps that the table leaves out


def lay_out(panel: Panel, last_step: int) -> Chart:
    """Lay one panel out.

    Values that are not finite leave a gap. Many values are thinned out so that no peak is lost, and their running mean
    is drawn over them.

    Args:
        panel: one of `training_panels`.
        last_step: where the axis of steps ends, the same for all panels of a run.
    """
    right = WIDTH - 24 - _LETTER * max(map(len, panel.series))
    finite = [value for points in panel.series.values() for _, value in points if not math.isnan(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    y_ticks = ticks(low, high, 5)
    step_between = y_ticks[1] - y_ticks[0]
    bottom, top = y_ticks[0], y_ticks[-1]
    x_ticks = [tick for tick in ticks(0, max(1, last_step), 4) if tick <= max(1, last_step)]

    def x(step: float) -> float:
        return _LEFT + (right - _LEFT) * step / max(1, last_step)

    def y(value: float) -> float:
        # Halved, since the difference of two very large numbers may be more than a float holds.
        return _TOP + (HEIGHT - _BOTTOM - _TOP) * ((top / 2 - value / 2) / (top / 2 - bottom / 2))

    curves = [_curve(level, points, x, y) for level, points in panel.series.items()]
    curves = _spread_labels([curve for curve in curves if curve is not None])
    rows, omitted = _table(panel)
    return Chart(
        title=panel.title,
        unit=panel.unit,
        description=_description(panel),
        right=right,
        x_ticks=[(_coordinate(x(tick)), f"{tick:,.10g}") for tick in x_ticks],
        y_ticks=[(_coordinate(y(tick)), _tick_text(tick, step_between)) for tick in y_ticks],
        curves=curves,
        levels=list(panel.series),
        absent=[level for level in panel.series if level not in {curve.level for curve in curves}],
        rows=rows,
        omitted=omitted,
    )


def ticks(low: float, high: float, number: int) -> list[float]:
    """Return about `number` round values, the first at most `low` and the last at least `high`."""
    if low == high:
        low, high = low - max(1e-3, abs(low) / 10), high + max(1e-3, abs(high) / 10)
    rough = high / (number - 1) - low / (number - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    between = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.floor(low / between + 1e-9)
    last = max(first + 1, math.ceil(high / between - 1e-9))
    return [float(f"{index * between:.12g}") for index in range(first, last + 1)]


def value_text(value: float) -> str:
    """Write four significant digits; a dash for a NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.4g}" if abs(value) < 1e-3 or abs(value) >= 1e4 else f"{value:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return max(0, 3 - max(0, math.floor(math.log10(abs(value)))))


def _curve(level: str, points: Points, x, y) -> Curve | None:
    """Return the curve of a level, its label still where the curve ends; None if no value is finite."""
    if all(math.isnan(value) for _, value in points):
        return None
    raw_line, drawn = None, points
    if len(points) > MANY_POINTS:
        raw_line = _line(_extremes(points), x, y)
        means = running_mean([value for _, value in points])
        drawn = _every([(step, mean) for (step, _), mean in zip(points, means, strict=True)], _BUCKETS)
    kept = [(step, value) for step, value in drawn if not math.isnan(value)]
    markers = [
        (_coordinate(x(step)), _coordinate(y(value)), f"{level}, step {step:,}: {value_text(value)}")
        for step, value in _every(kept, _MARKERS)
    ]
    return Curve(level, _line(drawn, x, y), raw_line, markers, y(kept[-1][1]))


def _line(points: Points, x, y) -> str:
    """Return a path that leaves gaps where there is no value."""
    parts, pen = [], "M"
    for step, value in points:
        if math.isnan(value):
            pen = "M"
            continue
        parts.append(f"{pen}{_coordinate(x(step))} {_coordinate(y(value))}")
        pen = "L"
    return "".join(parts)


def _extremes(points: Points) -> list[tuple[int, float]]:
    """Return the lowest and the highest value of each stretch, in their order; a gap for a stretch without one."""
    kept = []
    for bucket in _stretches(points):
        finite = [point for point in bucket if not math.isnan(point[1])]
        ends = [min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])] if finite else bucket
        kept += sorted(dict.fromkeys(ends), key=lambda point: point[0])
    return kept


def _stretches(points: Points) -> list[Points]:
    size = math.ceil(len(points) / _BUCKETS)
    return [points[start : start + size] for start in range(0, len(points), size)]


def _every(points: Sequence, number: int) -> list:
    """Return at most `number` + 1 of the points, evenly, the last one among them."""
    stride = max(1, math.ceil(len(points) / number))
    return list(points[len(points) - 1 :: -stride])[::-1]


def _spread_labels(curves: list[Curve]) -> list[Curve]:
    """Move the labels of curves that end close to one another apart, within the height of the picture."""
    ordered = sorted(curves, key=lambda curve: curve.label_y)
    room = min(_LABEL_HEIGHT, (HEIGHT - _TOP) / max(1, len(ordered)))
    places: list[float] = []
    for curve in ordered:
        places.append(max(curve.label_y, places[-1] + room) if places else curve.label_y)
    floor = HEIGHT - _BOTTOM
    for index in range(len(places) - 1, -1, -1):
        places[index] = min(places[index], floor)
        floor = places[index] - room
    moved = {curve.level: place for curve, place in zip(ordered, places, strict=True)}
    return [replace(curve, label_y=round(moved[curve.level], 1)) for curve in curves]


def _table(panel: Panel) -> tuple[list[tuple[str, list[str]]], int]:
    by_step: dict[int, dict[str, float]] = {}
    for level, points in panel.series.items():
        for step, value in points:
            by_step.setdefault(step, {})[level] = value
    steps = sorted(by_step)
    kept = _every(steps, _ROWS)
    rows = [
        (f"{step:,}", [value_text(by_step[step].get(level, float("nan"))) for level in panel.series]) for step in kept
    ]
    return rows, len(steps) - len(kept)


def _description(panel: Panel) -> str:
    """Return a description of the chart for readers who do not see it."""
    parts = []
    for level, points in panel.series.items():
        finite = [(step, value) for step, value in points if not math.isnan(value)]
        if not finite:
            parts.append(f"{level}: no finite value")
            continue
        (first, start), (last, end) = finite[0], finite[-1]
        course = f"{level}: {value_text(start)} at step {first:,}"
        parts.append(course if first == last else f"{course}, {value_text(end)} at step {last:,}")
    return f"{panel.unit} over the optimizer steps. {'; '.join(parts)}."


def _tick_text(tick: float, between: float) -> str:
    if max(abs(tick), between) >= 1e5 or between < 1e-4:
        return f"{tick:.3g}"
    digits = next(digits for digits in itertools.count() if math.isclose(round(between, digits), between))
    return f"{tick:,.{digits}f}"


def _coordinate(value: float) -> str:
    return f"{value:.1f}"
