"""SIGINT and SIGTERM: training ends after the step, with a checkpoint."""

import signal
import sys
import threading

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging

logger = logging.get_logger(__name__)


def signals_to_note(args: TrainingArguments) -> tuple[signal.Signals, ...]:
    """Return the signals after which a checkpoint is to be written: none if none are written at all."""
    if args.save_strategy == SaveStrategy.NO:
        return ()
    # With `enable_jit_checkpoint` of transformers 5 the Trainer takes SIGTERM itself.
    return (signal.SIGINT,) if getattr(args, "enable_jit_checkpoint", False) else (signal.SIGINT, signal.SIGTERM)


class StopsOnSignal(TrainerCallback):
    """A callback that notes SIGINT and SIGTERM, and has training end after the step with a checkpoint.

    A second signal ends the process at once. With several processes the signal of one of them ends all at the same
    step. `with` it the signals are noted; after it they do what they did before.

    Args:
        signals: which ones.
    """

    def __init__(self, signals: tuple[signal.Signals, ...]):
        self.received: signal.Signals | None = None
        self.ends_early = False
        self._signals = signals
        self._before: dict = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers
            self._before = {one: signal.signal(one, self._note) for one in self._signals}
        return self

    def __exit__(self, *_):
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._before = {}

    def _note(self, number, frame):
        self.received = signal.Signals(number)
        logger.warning(f"{self.received.name}: training ends after this step, with a checkpoint. Again: at once.")
        self.__exit__()

    def on_step_end(self, args, state, control, **kwargs):
        if args.world_size > 1:
            number = torch.tensor(int(self.received or 0), device=args.device)
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
            self.received = signal.Signals(number.item()) if number.item() else None
        if self.received is not None:
            self.ends_early = state.global_step < state.max_steps
            control.should_save = control.should_save or self.ends_early
            control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if not self.ends_early:
            return
        # Before the end of the epoch and of the training is logged, evaluated and saved as if it had been reached.
        logger.warning(
            f"Ended by {self.received.name} after step {state.global_step}, whose checkpoint is written. Go on with "
            "resume_from_checkpoint=True."
        )
        if self.received is signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + self.received)

    def deliver(self) -> None:
        """Do now what a signal would have done that came too late to end the training."""
        if self.received is not None:
            signal.raise_signal(self.received)
