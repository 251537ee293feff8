"""Dynamic programming over choices: how much value each cost can buy."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

# So many points of a frontier are kept, the best in each of as many equal intervals of the cost. Costs stay exact; a
# network of few layers has fewer points, and then the result is the best there is.
_POINTS = 800


@dataclass(frozen=True)
class Frontier:
    """The sums of choices, one of each group, that no other sum beats in both cost and value.

    Attributes:
        costs: shape `(points,)`, increasing.
        values: shape `(points,)`, increasing.
        picks: returns the choices of a point, in the order of the groups.
    """

    costs: np.ndarray
    values: np.ndarray
    picks: Callable[[int], list]

    def within(self, limit: float) -> int | None:
        """Return the most valuable point whose cost is at most the limit, None if there is none."""
        number = int(np.searchsorted(self.costs, limit, side="right"))
        return number - 1 if number else None


def frontier_of(choices: Sequence[T], costs: Iterable[float], values: Iterable[float]) -> Frontier:
    """Return the frontier of one group of choices.

    Args:
        choices: at least one.
        costs: one of each.
        values: likewise.
    """
    costs, values = np.asarray(list(costs), dtype=float), np.asarray(list(values), dtype=float)
    best = _best(costs, values)
    return Frontier(costs[best], values[best], lambda point: [choices[best[point]]])


NOTHING = Frontier(np.zeros(1), np.zeros(1), lambda point: [])
"""The frontier of no groups."""


def joined(first: Frontier, second: Frontier) -> Frontier:
    """Return the frontier of the groups of both."""
    costs = np.add.outer(first.costs, second.costs).ravel()
    values = np.add.outer(first.values, second.values).ravel()
    best = _best(costs, values)
    rows, columns = np.divmod(best, len(second.costs))

    def picks(point: int) -> list:
        return first.picks(rows[point]) + second.picks(columns[point])

    return Frontier(costs[best], values[best], picks)


def best_pair(first: Frontier, second: Frontier, limit: float) -> tuple[float, float, list] | None:
    """Return cost, value and choices of the most valuable sum within the limit, None if there is none.

    As `joined(first, second).within(limit)`, in far less time.
    """
    partners = np.searchsorted(second.costs, limit - first.costs, side="right") - 1
    values = np.where(partners >= 0, first.values + second.values[partners], -np.inf)
    point = int(values.argmax())
    if partners[point] < 0:
        return None
    partner = int(partners[point])
    cost = float(first.costs[point] + second.costs[partner])
    return cost, float(values[point]), first.picks(point) + second.picks(partner)


def _best(costs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the indices of what is on the frontier, by increasing cost."""
    order = np.lexsort((-values, costs))
    highest = np.maximum.accumulate(values[order])
    order = order[np.concatenate(([True], values[order][1:] > highest[:-1]))]
    if len(order) <= _POINTS:
        return order
    costs = costs[order]
    interval = np.floor((costs - costs[0]) / (costs[-1] - costs[0]) * _POINTS)
    last = np.concatenate((interval[1:] != interval[:-1], [True]))
    last[0] = True  # the cheapest, which says what fits at all
    return order[last]
