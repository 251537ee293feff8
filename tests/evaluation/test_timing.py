"""Turns are fair, and ratios are of what belongs together."""

import time

import pytest

from hf_ats.evaluation import ratio, spread, time_in_turns


def test_every_candidate_runs_once_a_round_and_each_comes_first_as_often():
    order = []
    seconds = time_in_turns({name: lambda name=name: order.append(name) for name in "abc"}, rounds=6, warmup=3)
    rounds = ["".join(order[start : start + 3]) for start in range(0, len(order), 3)]
    assert all(sorted(one) == list("abc") for one in rounds) and len(rounds) == 9
    assert sorted(one[0] for one in rounds[3:]) == list("aabbcc")
    assert {name: len(values) for name, values in seconds.items()} == dict(a=6, b=6, c=6)


def test_the_warm_up_is_not_counted():
    calls = []

    def slow_at_first():
        calls.append(None)
        time.sleep(0.2 if len(calls) == 1 else 0)

    (values,) = time_in_turns({"only": slow_at_first}, rounds=3, warmup=1).values()
    assert len(calls) == 4 and max(values) < 0.2


def test_a_ratio_pairs_the_rounds():
    # The machine is twice as slow in the second round, which the quotients do not see.
    assert ratio([1.0, 2.0, 1.0], [2.0, 4.0, 2.0]) == dict(median=0.5, low=0.5, high=0.5)


def test_a_spread_is_median_and_quartiles():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == dict(median=3.0, low=2.0, high=4.0)
    assert spread([7.0]) == dict(median=7.0, low=7.0, high=7.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: time_in_turns({}, rounds=1), "candidates={} holds nothing to time"),
        (lambda: time_in_turns({"a": print}, rounds=0), "rounds=0 times nothing"),
        (lambda: spread([]), r"values=\[\] has no median"),
        (lambda: ratio([1.0], [1.0, 2.0]), "longer than argument 1"),
    ],
)
def test_nothing_to_measure_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
