"""Dynamic programming over choices, against trying everything."""

import itertools

import numpy as np
import pytest

from hf_ats.deployment import frontier as frontier_module
from hf_ats.deployment.frontier import NOTHING, best_pair, frontier_of, joined


def brute_force(groups, limit):
    """The most value within a limit, over every combination."""
    sums = (tuple(map(sum, zip(*picked, strict=True))) for picked in itertools.product(*groups))
    return max((value for cost, value in sums if cost <= limit), default=None)


@pytest.mark.parametrize("seed", range(4))
def test_dynamic_programming_finds_what_trying_everything_finds(seed):
    draw = np.random.default_rng(seed)
    groups = [
        [(int(cost), float(value)) for cost, value in zip(draw.integers(-9, 30, 5), draw.random(5), strict=True)]
        for _ in range(5)
    ]
    fronts = [frontier_of(group, *zip(*group, strict=True)) for group in groups]
    first, second = joined(joined(NOTHING, fronts[0]), fronts[1]), joined(joined(fronts[2], fronts[3]), fronts[4])
    for limit in range(-40, 120, 7):
        found, expected = best_pair(first, second, limit), brute_force(groups, limit)
        assert (found is None) == (expected is None)
        if found is not None:
            cost, value, picked = found
            assert value == pytest.approx(expected, abs=1e-12) and cost <= limit
            assert [one in group for one, group in zip(picked, groups, strict=True)] == [True] * 5
            assert (cost, value) == pytest.approx(tuple(map(sum, zip(*picked, strict=True))))


def test_a_long_frontier_keeps_its_cheapest_and_comes_near_the_best(monkeypatch):
    draw = np.random.default_rng(0)
    groups = [[(cost, cost**0.5) for cost in draw.random(6)] for _ in range(5)]

    def front():
        whole = NOTHING
        for group in groups:
            whole = joined(whole, frontier_of(group, *zip(*group, strict=True)))
        return whole

    exact = front()
    monkeypatch.setattr(frontier_module, "_POINTS", 40)
    thin = front()
    assert len(thin.costs) <= 42 < len(exact.costs) and thin.costs[0] == exact.costs[0]
    for limit in np.linspace(thin.costs[0], exact.costs[-1], 9):
        best, near = (one.values[np.searchsorted(one.costs, limit + 1e-9) - 1] for one in (exact, thin))
        assert 0.9 * best <= near <= best
