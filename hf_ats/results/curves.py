"""The course of a training run, level by level: the data of every picture of it."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..partition import sort_levels

# The colours of Okabe and Ito, which the colour-blind tell apart; both ends of a ladder keep theirs in every picture.
_END_COLORS = {"full": "#0072B2", "core": "#D55E00"}
_BETWEEN_COLORS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LOSS_UNITS = {"translation": "loss per target token (nats)", "image-classification": "loss per image (nats)"}
# Panels by what they show: title, unit (None: that of the loss), and key in the logs.
_LOGGED = (
    ("Training loss", None, re.compile(r"loss_(?P<level>\w+)")),
    ("Validation loss", None, re.compile(r"eval_(?P<level>\w+)_loss")),
    ("Validation BLEU", "BLEU (0 to 100)", re.compile(r"eval_(?P<level>\w+)_bleu")),
    ("Validation chrF", "chrF (0 to 100)", re.compile(r"eval_(?P<level>\w+)_chrf")),
    ("Validation accuracy", "accuracy (%)", re.compile(r"eval_(?P<level>\w+)_accuracy")),
)
_CRITERIA = (
    ("Gradient overlap", "c_norm squared", re.compile(r"c_norm_squared_(?P<level>\w+)")),
    ("Norm similarity", "c_sim", re.compile(r"c_sim_(?P<level>\w+)")),
    ("Gradient alignment", "c_align", re.compile(r"c_align_(?P<level>\w+)")),
    ("Gradients of core and full", "cosine", re.compile(r"cosine_(?P<level>\w+)")),
    ("Safe share of the step", "alpha", re.compile(r"alpha_(?P<level>\w+)")),
    ("Slow-down", "q", re.compile(r"q_(?P<level>\w+)")),
)
MANY_POINTS = 200  # of a curve: its running mean is drawn over the values


@dataclass(frozen=True)
class Panel:
    """One quantity over the optimizer steps."""

    title: str
    unit: str
    series: dict[str, list[tuple[int, float]]]  # (step, value) by level, smallest core first; NaN is a gap


def training_panels(log_history: Sequence[dict], task: str = "translation") -> list[Panel]:
    """Return what was logged of the levels, one panel for each quantity that was logged at all.

    Args:
        log_history: `trainer.state.log_history`, with the keys `loss_<level>`, `eval_<level>_loss`,
            `eval_<level>_bleu`, `eval_<level>_chrf` and `eval_<level>_accuracy`. None is taken for a NaN, and so is an
            infinite value.
        task: of the run, as in its results.
    """
    return _panels(log_history, [(title, unit or _LOSS_UNITS[task], key) for title, unit, key in _LOGGED])


def criteria_panels(log_history: Sequence[dict]) -> list[Panel]:
    """Return the criteria of Theorem 1 likewise, if they were measured; an undefined one is a gap.

    Args:
        log_history: `trainer.state.log_history`, with the keys `c_norm_squared_<level>`, `c_sim_<level>`, ...
    """
    return _panels(log_history, _CRITERIA)


def is_shown(name: str) -> bool:
    """Return whether a key of the logs is one that a panel shows."""
    return any(key.fullmatch(name) for _, _, key in (*_LOGGED, *_CRITERIA))


def _panels(log_history: Sequence[dict], shown: Sequence[tuple[str, str, re.Pattern]]) -> list[Panel]:
    series = [(title, unit, _series(log_history, key)) for title, unit, key in shown]
    return [Panel(title, unit, {name: s[name] for name in sort_levels(s)}) for title, unit, s in series if s]


def level_colors(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each of the ordered levels, as `#RRGGBB`."""
    between = iter(_BETWEEN_COLORS * len(names))
    return {name: _END_COLORS.get(name) or next(between) for name in names}


def running_mean(values: Sequence[float]) -> list[float]:
    """Return the mean over a window of a twentieth of the values, centred, shorter at both ends; gaps are left out."""
    import numpy as np

    values = np.asarray(values, dtype=float)
    half = max(1, len(values) // 40)
    # Not from cumulative sums: after one loss of 1e20 these have lost everything that is small.
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    finite = (window[np.isfinite(window)] for window in windows)
    return [float(window.mean()) if len(window) else float("nan") for window in finite]


def _series(log_history: Sequence[dict], key: re.Pattern) -> dict[str, list[tuple[int, float]]]:
    """Return `(step, value)` of each level whose key matches, in the order of the log."""
    series = defaultdict(list)
    for entry in log_history:
        for name, value in entry.items():
            if match := key.fullmatch(name):
                number = float("nan") if value is None else float(value)
                series[match["level"]].append((entry["step"], number if math.isfinite(number) else float("nan")))
    return dict(series)
