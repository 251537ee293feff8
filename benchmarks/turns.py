"""Whole training runs in turns: what drifts on a machine hits all of them alike, as `time_in_turns` does for calls.

A training run cannot be called step by step, so each gets a thread of its own, and only the one whose turn it is runs.
"""

import threading
import time
from collections.abc import Callable

import torch
from transformers import TrainerCallback

from hf_ats.evaluation import synchronize


class Turn:
    """One run's place in the round, and its watch, which stands still while others run.

    The run calls `step` after each of its steps, where its turn may end, and `lap` after each of its epochs.
    """

    def __init__(self, others: "_Round", steps: int, device: torch.device):
        self._round, self._steps, self._device = others, steps, device
        self._done = 0
        self._seconds = 0.0
        self._since = 0.0
        self.go = threading.Semaphore(0)
        self.laps: list[float] = []

    def begin(self) -> None:
        """Wait for the run's turn."""
        self.go.acquire()
        self._round.raise_if_broken()
        self._since = time.perf_counter()

    def step(self) -> None:
        """Count a step; after the last one of a turn let the others run."""
        self._done += 1
        if self._done % self._steps == 0:
            self._stop_watch()
            self._round.pass_on(self)
            self.begin()

    def lap(self) -> None:
        """Note the seconds of an epoch; the watch starts at 0 again."""
        self._stop_watch()
        self.laps.append(self._seconds)
        self._seconds = 0.0
        self._since = time.perf_counter()

    def _stop_watch(self) -> None:
        synchronize(self._device)
        self._seconds += time.perf_counter() - self._since


class TakesTurns(TrainerCallback):
    """A callback that tells a `Turn` of the steps and epochs of a Trainer."""

    def __init__(self, turn: Turn):
        self._turn = turn

    def on_step_end(self, args, state, control, **kwargs):
        self._turn.step()

    def on_epoch_end(self, args, state, control, **kwargs):
        self._turn.lap()


def train_in_turns(
    runs: dict[str, Callable[[Turn], object]], steps: int, *, device: torch.device | str = "cpu"
) -> dict[str, list[float]]:
    """Run all of them to their end, each `steps` steps at a time.

    Args:
        runs: by name, what trains; given its `Turn`, it calls `step` after each step and `lap` after each epoch.
        steps: how many steps make a turn.
        device: where the runs compute; a GPU is waited for when a watch stops.

    Returns:
        Seconds of each epoch by name, the other runs' time left out. The first holds what precedes the first step.

    Raises:
        Exception: whatever a run raises; the others are given up.
    """
    round_ = _Round()
    turns = {name: Turn(round_, steps, torch.device(device)) for name in runs}
    round_.turns = list(turns.values())
    threads = [
        threading.Thread(target=round_.run, args=(run, turns[name]), name=name, daemon=True)
        for name, run in runs.items()
    ]
    for thread in threads:
        thread.start()
    round_.turns[0].go.release()
    for thread in threads:
        thread.join()
    if round_.error is not None:
        raise round_.error
    return {name: turn.laps for name, turn in turns.items()}


class _GivenUp(Exception):
    """The end of a run because another one failed."""


class _Round:
    """The runs that have not ended, in the order of their turns."""

    def __init__(self):
        self.turns: list[Turn] = []
        self.error: BaseException | None = None

    def run(self, run: Callable[[Turn], object], turn: Turn) -> None:
        try:
            turn.begin()
            run(turn)
        except _GivenUp:
            pass
        except BaseException as error:  # of any kind: the main thread raises it
            self.error = self.error or error
        following = self._after(turn)
        self.turns.remove(turn)
        if following is not turn:
            following.go.release()

    def pass_on(self, turn: Turn) -> None:
        self._after(turn).go.release()

    def raise_if_broken(self) -> None:
        if self.error is not None:
            raise _GivenUp

    def _after(self, turn: Turn) -> Turn:
        return self.turns[(self.turns.index(turn) + 1) % len(self.turns)]
