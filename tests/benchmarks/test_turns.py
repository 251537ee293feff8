"""Runs that take turns: in order, to their ends, each on a watch of its own."""

import pytest

from benchmarks import turns
from benchmarks.turns import train_in_turns


class Watch:
    """A clock that only the steps of the runs move."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def watch(monkeypatch):
    watch = Watch()
    monkeypatch.setattr(turns, "time", watch)
    return watch


def run_of(name: str, epochs: int, steps: int, events: list[str], watch: Watch, seconds: float):
    def run(turn):
        for _ in range(epochs):
            for _ in range(steps):
                watch.now += seconds
                events.append(name)
                turn.step()
            turn.lap()

    return run


def test_every_run_has_its_turn_and_goes_on_when_others_are_done(watch):
    events = []
    runs = {
        "a": run_of("a", 1, 6, events, watch, 1.0),
        "b": run_of("b", 1, 3, events, watch, 1.0),
        "c": run_of("c", 2, 2, events, watch, 1.0),
    }
    train_in_turns(runs, 2)
    assert "".join(events) == "aabbccaabccaa"


def test_the_watch_of_a_run_stands_still_while_others_run(watch):
    runs = {
        "slow": run_of("slow", 3, 4, [], watch, 100.0),
        # A turn ends in the middle of its epochs.
        "quick": run_of("quick", 4, 3, [], watch, 1.0),
    }
    assert train_in_turns(runs, 2) == {"slow": [400.0] * 3, "quick": [3.0] * 4}


def test_an_error_of_one_run_ends_them_all(watch):
    events = []

    def fails(turn):
        turn.step()
        raise KeyError("here")

    runs = {"good": run_of("good", 1, 100, events, watch, 1.0), "bad": fails}
    with pytest.raises(KeyError, match="here"):
        train_in_turns(runs, 1)
    assert len(events) == 2
