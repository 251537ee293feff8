"""Which levels a step trains: pure functions of the optimizer step (law 2).

Equal on every process, constant over an accumulation window, and right after a resume, with no state to save. Drawn
steps are functions of the seed and the step, not of a generator's state.
"""

import hashlib

from ..partition import names_of_levels, sort_levels

Levels = tuple[int, ...]

SCHEDULES = ("alternating", "core", "full", "slimmable", "random", "sandwich")
"""The schedules that have a name. Any other is a pattern: names of levels, such as `"full full core"`."""

_DRAWN = ("random", "sandwich")


def levels_at_step(schedule: str, step: int, num_levels: int, seed: int = 0) -> Levels:
    """Return the levels that optimizer step `step` trains, in the order in which they run; the full level comes last.

    Args:
        schedule: one of `SCHEDULES`, or a pattern of levels.
        step: the number of optimizer steps done before, `state.global_step`.
        num_levels: the number of nested networks; 0 is the smallest core and `num_levels - 1` the full network.
        seed: of the schedules that draw, `"random"` and `"sandwich"`.

    Raises:
        ValueError: the schedule names a level that there is not.

    Example:

    ```python
    >>> [levels_at_step("alternating", step, num_levels=2) for step in range(4)]
    [(1,), (0,), (1,), (0,)]
    >>> [levels_at_step("full full core", step, num_levels=2) for step in range(4)]
    [(1,), (1,), (0,), (1,)]
    >>> [levels_at_step("random", step, num_levels=3) for step in range(4)]
    [(2,), (2,), (0,), (0,)]
    ```
    """
    kinds = kinds_of_steps(schedule, num_levels)
    number = _drawn(seed, step) if schedule in _DRAWN else step
    return kinds[number % len(kinds)]


def kinds_of_steps(schedule: str, num_levels: int) -> list[Levels]:
    """Return what the steps of the schedule train, each in ascending order: in turn, or what each step draws from.

    `"alternating"` is Algorithm 2, the pattern `full core`; over a ladder full, then the cores from the smallest up.

    Raises:
        ValueError: as `levels_at_step`.
    """
    names = names_of_levels(num_levels - 1)
    everything = tuple(range(num_levels))
    if schedule == "slimmable":  # every level in every step, gradients summed (Yu et al., 2019)
        return [everything]
    if schedule == "sandwich":  # both ends in every step, and one between them (Yu and Huang, 2019)
        return [(0, between, num_levels - 1) for between in everything[1:-1]] or [everything]
    if schedule == "random":
        return [(level,) for level in everything]
    pattern = ["full", *names[:-1]] if schedule == "alternating" else schedule.split()
    for name in pattern:
        if name not in names:
            raise ValueError(
                f"schedule={schedule!r} names the level {name!r}, and the model has {', '.join(names)}; write one "
                f"of these, or a schedule: {', '.join(SCHEDULES)}."
            )
    return [(names.index(name),) for name in pattern]


def trained_levels(schedule: str, num_levels: int) -> list[int]:
    """Return the levels that the schedule ever trains, in order."""
    return sorted(set().union(*kinds_of_steps(schedule, num_levels)))


def highest_level(schedule: str) -> str:
    """Return the name of the highest level that the schedule trains, which a pattern has whatever the model is."""
    return "full" if schedule in SCHEDULES and schedule != "core" else sort_levels(schedule.split())[-1]


def _drawn(seed: int, step: int) -> int:
    """Return an integer of 64 random bits: a hash, which is the same in every process and release of the libraries."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:8])
