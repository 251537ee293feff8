"""Which levels a step trains: pure functions of the optimizer step (law 2).

Equal on every process, constant over an accumulation window, and right after a resume, with no state to save. Drawn
steps are functions of the seed and the step, not of a generator's state.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

Levels = tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """The kinds of steps that a schedule has, and whether they take turns or are drawn.

    Args:
        kinds: from the number of levels to every combination of levels that a step may train, each in ascending order,
            so that the full level comes last.
        drawn: whether each step draws its kind uniformly; otherwise step `n` has kind `n` modulo their number.
    """

    kinds: Callable[[int], list[Levels]]
    drawn: bool = False


def _full_then_cores(num_levels: int) -> list[Levels]:
    """Return Algorithm 2: even steps full, odd steps core; over a ladder full, then the cores from the smallest up."""
    return [(num_levels - 1,), *((core,) for core in range(num_levels - 1))]


def _smallest_core(num_levels: int) -> list[Levels]:
    return [(0,)]


def _full(num_levels: int) -> list[Levels]:
    return [(num_levels - 1,)]


def _all_together(num_levels: int) -> list[Levels]:
    """Return one kind: every level in every step, gradients summed (Yu et al., 2019)."""
    return [tuple(range(num_levels))]


def _each_alone(num_levels: int) -> list[Levels]:
    return [(level,) for level in range(num_levels)]


def _ends_and_one_between(num_levels: int) -> list[Levels]:
    """Return the sandwich rule with one network between (Yu and Huang, 2019): smallest and full in every step."""
    return [(0, between, num_levels - 1) for between in range(1, num_levels - 1)] or _all_together(num_levels)


SCHEDULES: dict[str, Schedule] = {
    "alternating": Schedule(_full_then_cores),
    "core": Schedule(_smallest_core),
    "full": Schedule(_full),
    "slimmable": Schedule(_all_together),
    "random": Schedule(_each_alone, drawn=True),
    "sandwich": Schedule(_ends_and_one_between, drawn=True),
}


def levels_at_step(schedule: str, step: int, num_levels: int, seed: int = 0) -> Levels:
    """Return the levels that optimizer step `step` trains, in the order in which they run; the full level comes last.

    Args:
        schedule: a key of `SCHEDULES`.
        step: the number of optimizer steps done before, `state.global_step`.
        num_levels: the number of nested networks; 0 is the smallest core and `num_levels - 1` the full network.
        seed: of the schedules that draw, `"random"` and `"sandwich"`.

    Example:

    ```python
    >>> [levels_at_step("alternating", step, num_levels=2) for step in range(4)]
    [(1,), (0,), (1,), (0,)]
    >>> [levels_at_step("random", step, num_levels=3) for step in range(4)]
    [(2,), (2,), (0,), (0,)]
    ```
    """
    kinds = kinds_of_steps(schedule, num_levels)
    number = _drawn(seed, step) if SCHEDULES[schedule].drawn else step
    return kinds[number % len(kinds)]


def kinds_of_steps(schedule: str, num_levels: int) -> list[Levels]:
    """Return every combination of levels that a step of the schedule may train, each in their order."""
    return SCHEDULES[schedule].kinds(num_levels)


def trained_levels(schedule: str, num_levels: int) -> list[int]:
    """Return the levels that the schedule ever trains, in order."""
    return sorted(set().union(*kinds_of_steps(schedule, num_levels)))


def _drawn(seed: int, step: int) -> int:
    """Return an integer of 64 random bits: a hash, which is the same in every process and release of the libraries."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:8])
