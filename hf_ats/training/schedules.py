"""Which levels a step trains: pure functions of the optimizer step (law 2).

Equal on every process, constant over an accumulation window, and right after a resume, with no state to save.
"""

from collections.abc import Callable


def _alternating(step: int, num_levels: int) -> tuple[int, ...]:
    """Algorithm 2: even steps full, odd steps core. Over a ladder: full, then the cores from the smallest up."""
    return ((step - 1) % num_levels,)


def _core(step: int, num_levels: int) -> tuple[int, ...]:
    """The smallest core alone, in every step."""
    return (0,)


def _full(step: int, num_levels: int) -> tuple[int, ...]:
    """The full network alone, in every step."""
    return (num_levels - 1,)


def _slimmable(step: int, num_levels: int) -> tuple[int, ...]:
    """Every level in every step, gradients summed (Yu and Huang, 2019)."""
    return tuple(range(num_levels))


SCHEDULES: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "alternating": _alternating,
    "core": _core,
    "full": _full,
    "slimmable": _slimmable,
}


def levels_at_step(schedule: str, step: int, num_levels: int) -> tuple[int, ...]:
    """The levels that optimizer step `step` trains, in the order in which they run; the full level comes last.

    Args:
        schedule: a key of `SCHEDULES`.
        step: the number of optimizer steps done before, `state.global_step`.
        num_levels: the number of nested networks; 0 is the smallest core and `num_levels - 1` the full network.

    Example:

    ```python
    >>> [levels_at_step("alternating", step, num_levels=2) for step in range(4)]
    [(1,), (0,), (1,), (0,)]
    ```
    """
    return SCHEDULES[schedule](step, num_levels)


def trained_levels(schedule: str, num_levels: int) -> list[int]:
    """The levels that the schedule ever trains, in order; the schedules' period is at most `num_levels`."""
    return sorted({level for step in range(num_levels) for level in levels_at_step(schedule, step, num_levels)})
