"""Timing in turns: a machine's drift affects all candidates alike, so ratios hold even if seconds do not."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

from .decoding import synchronize


def time_in_turns(
    candidates: dict[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    device: torch.device | str = "cpu",
    progress: str | None = None,
) -> dict[str, list[float]]:
    """Run every candidate once in each round; each round begins with another, so that the neighbours change.

    Args:
        candidates: by name, what to time.
        rounds: how many times each is timed.
        warmup: rounds before those, not counted.
        device: where the candidates compute; a GPU is waited for on both sides of each.
        progress: what a bar on standard error calls the rounds; None: no bar.

    Returns:
        Seconds by name, one figure for each round, so that figures of equal position belong together.

    Raises:
        ValueError: there are no candidates, or no rounds.
    """
    if not candidates:
        raise ValueError("candidates={} holds nothing to time; give at least one callable by its name.")
    if rounds < 1:
        raise ValueError(f"rounds={rounds} times nothing; write 1 or more.")
    device = torch.device(device)
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in tqdm(range(-warmup, rounds), desc=progress, unit=" rounds", disable=progress is None):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            synchronize(device)
            start = time.perf_counter()
            candidates[name]()
            synchronize(device)
            if round_ >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return `median`, `low` and `high`, the quartiles: half of the values lie between the last two.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("values=[] has no median; give at least one.")
    if len(values) == 1:
        return dict(median=values[0], low=values[0], high=values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return dict(median=median, low=low, high=high)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Return the `spread` of the quotients, round by round.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])
