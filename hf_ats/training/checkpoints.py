"""Checkpoints that are always whole, and a resume that is the run itself, or says what is another."""

import contextlib
import os
import time
import uuid
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging

from ..data import fingerprint_examples
from ..storage import (
    check_checkpoint,
    checkpoints_in,
    draft,
    draft_of,
    last_checkpoint,
    read_checkpoint,
    read_run,
    remove_whole,
    seal_checkpoint,
    step_of,
    write_run,
)
from .interruption import StopsOnSignal, signals_to_note
from .refusals import compared_arguments, refuse_another_model, refuse_another_training

logger = logging.get_logger(__name__)


class WholeCheckpoints:
    """The part of the trainers' mixin that writes checkpoints and goes on from them.

    A directory `checkpoint-N` is always whole: it is written as a draft, through to the disk, and renamed when its
    `checkpoint.json` is there, which names the run, its arguments and data, and the SHA-256 of every file. A resumed
    run compares all of that. It takes the arguments that it is given, and logs those that differ from the
    checkpoint's.

    Attributes:
        settings: facts of the run that its training arguments do not have, for `checkpoint.json`; of JSON's types.
        seconds_before: wall time of the training before the checkpoint that this run goes on from.
    """

    def __init__(self, *positional, **keywords):
        self.settings: dict = {}
        self.seconds_before = 0.0
        self._run = ""
        self._resumed_from: Path | None = None
        self._resumed_step = -1
        self._draft: Path | None = None
        super().__init__(*positional, **keywords)

    def train(self, resume_from_checkpoint=None, *positional, **keywords):
        """Train as the Trainer does; `resume_from_checkpoint` may be a run's folder too, for its last checkpoint.

        Raises:
            ValueError: the checkpoint is not whole, or of another model, partition, optimizer or schedule.
            FloatingPointError: the loss or a weight is not finite.
            KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came, and the checkpoint of the step is written. Without
                a save strategy both do what they do anyway.
        """
        self.remove_callback(_Beginning)
        self.add_callback(_Beginning(self))
        self._resumed_from = checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
        self._resumed_step, self.seconds_before = -1, 0.0
        self._data = fingerprint_examples(self.train_dataset)
        if checkpoint is not None:
            self._compare_with(check_checkpoint(checkpoint), checkpoint)
        self._name_run()
        with StopsOnSignal(signals_to_note(self.args)) as stops:
            self.remove_callback(StopsOnSignal)
            self.add_callback(stops)
            output = super().train(checkpoint and str(checkpoint), *positional, **keywords)
        self.refuse_diverged_weights()
        stops.deliver()
        return output

    def _checkpoint_to_resume(self, given) -> Path | None:
        if given is None or given is False:
            return None
        path = Path(self.args.output_dir if given is True else given)
        if given is not True and not path.is_dir():
            raise ValueError(f"resume_from_checkpoint={given!r} is not a directory; give a checkpoint-N, or True.")
        return last_checkpoint(path) if given is True or checkpoints_in(path) or read_run(path) else path

    def _compare_with(self, record: dict, checkpoint: Path) -> None:
        """Refuse a checkpoint that this run cannot go on from, and log what is another than when it was written."""
        refuse_another_model(checkpoint, self.model)
        refuse_another_training(checkpoint, self.args)
        before, now = record["arguments"], compared_arguments(self.args)
        self._resumed_step, self.seconds_before = record["step"], record["seconds"]
        changes = [
            f"{name}={now[name]!r} instead of {before[name]!r}"
            for name in now
            if name in before and before[name] != now[name]
        ]
        processes, data = record["processes"], record["data"]
        if processes != self.args.world_size:
            changes.append(f"{self.args.world_size} processes instead of {processes}")
        if data["examples"] != self._data["examples"]:
            changes.append(f"{self._data['examples']} training examples instead of {data['examples']}")
        elif data != self._data:
            changes.append("other training examples, as many as before")
        if self.is_world_process_zero():
            logger.warning(f"Going on from {checkpoint}{', with ' if changes else ''}{'; '.join(changes)}.")

    def _name_run(self) -> None:
        """Choose the id of this run: a new one, or that of the run whose last checkpoint it goes on from."""
        run, output_dir = uuid.uuid4().hex, Path(self.args.output_dir)
        checkpoint = self._resumed_from
        if checkpoint is not None and checkpoint.resolve().parent == output_dir.resolve():
            of_run = read_checkpoint(checkpoint)["run"]
            later = [path for path in self._checkpoints_of(of_run) if step_of(path) > self._resumed_step]
            run = run if later else of_run
        if self.args.world_size > 1:
            (run,) = broadcast_object_list([run])
        self._run = run
        if self.args.should_save and self.args.save_strategy != SaveStrategy.NO:
            write_run(output_dir, run, checkpoint)

    def _checkpoints_of(self, run: str, run_dir: Path | None = None) -> list[Path]:
        """Return the checkpoints that a run has written, the last first."""
        found = []
        for path in checkpoints_in(run_dir or self.args.output_dir):
            with contextlib.suppress(ValueError):
                if read_checkpoint(path)["run"] == run:
                    found.append(path)
        return found

    # ---- Writing ----

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self._draft is None else str(self._draft)

    def _save_checkpoint(self, model, trial):
        """Write a checkpoint as the Trainer does, but into a draft, which takes its place when it is sealed."""
        self.refuse_diverged_weights()
        run_dir = Path(self._get_output_dir(trial))
        target = run_dir / f"checkpoint-{self.state.global_step}"
        stops, self.control.should_training_stop = self.control.should_training_stop, False
        with contextlib.ExitStack() as stack:
            if self.args.should_save:
                stack.enter_context(draft(target, self._run[:8]))
            self.accelerator.wait_for_everyone()
            self._draft = draft_of(target, self._run[:8])
            try:
                super()._save_checkpoint(model, trial)
            finally:
                path, self._draft = self._draft, None
            best = run_dir / f"checkpoint-{self.state.best_global_step}"
            if self.state.best_global_step and (best.is_dir() or best == target):
                self.state.best_model_checkpoint = str(best)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.state.save_to_json(path / target.name / TRAINER_STATE_NAME)
                for file in (path / target.name).iterdir():
                    file.rename(path / file.name)
                (path / target.name).rmdir()
                seal_checkpoint(path, self._facts())
        self.accelerator.wait_for_everyone()
        self.control.should_training_stop = stops
        if self.args.should_save:
            self._remove_older(target)

    def log(self, logs, start_time=None):
        """Log as the Trainer does, and remove at the end of training what it would then remove file by file."""
        best, args = self.state.best_model_checkpoint, self.args
        if "train_runtime" in logs and args.should_save and args.save_total_limit == 1 and best is not None:
            for path in checkpoints_in(args.output_dir):
                if path.resolve() != Path(best).resolve():
                    remove_whole(path)
        super().log(logs, start_time)

    def _facts(self) -> dict:
        return {
            "run": self._run,
            "step": self.state.global_step,
            "seconds": self.seconds_before + time.monotonic() - self._began,
            "settings": self.settings,
            "arguments": compared_arguments(self.args),
            "processes": self.args.world_size,
            "data": self._data,
        }

    def _remove_older(self, newest: Path) -> None:
        limit = self.args.save_total_limit
        if not limit or limit < 0:
            return
        kept = {newest.resolve()}
        if self.state.best_model_checkpoint is not None:
            kept.add(Path(self.state.best_model_checkpoint).resolve())
        spare = [path for path in self._checkpoints_of(self._run, newest.parent) if path.resolve() not in kept]
        for path in spare[max(limit - len(kept), 0) :]:
            remove_whole(path)

    def refuse_diverged_weights(self) -> None:
        """Raise a FloatingPointError if a weight is not finite, before it is written."""
        for name, parameter in self.model.named_parameters():
            values = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            if not torch.isfinite(values).all():
                self._diverged(f"the weights {name} are not finite after step {self.state.global_step}")

    def refuse_diverged_losses(self, levels, losses) -> None:
        """Raise a FloatingPointError if a loss is not finite, before it reaches a weight."""
        for level, loss in zip(levels, losses, strict=True):
            if not torch.isfinite(loss):
                self._diverged(
                    f"the loss of level {self.level_names[level]!r} is {loss.item()} in step "
                    f"{self.state.global_step}, at learning_rate="
                    f"{self._get_learning_rate() * self.lr_coefficient(levels):.3g}"
                )

    def _diverged(self, what: str):
        saved = self._checkpoints_of(self._run)
        last = f"the last whole checkpoint is {saved[0]}" if saved else "there is no checkpoint"
        raise FloatingPointError(
            f"training has diverged: {what}. Nothing of it was written; {last}. Take a lower learning_rate, more "
            "warmup_steps, or a max_grad_norm."
        )

    # ---- Going on ----

    def set_initial_training_values(self, *positional, **keywords):
        """Return what the Trainer does, with no epoch to train if the checkpoint has reached the last step."""
        values = super().set_initial_training_values(*positional, **keywords)
        self._num_train_epochs = values[0]
        return (0, *values[1:]) if self._resumed_step >= values[-1] else values

    def _load_optimizer_and_scheduler(self, checkpoint):
        """Load as the Trainer does, but keep the learning rate and other numbers that this run was given."""
        if checkpoint is None:
            return
        groups = self.optimizer.param_groups
        given = [{name: value for name, value in group.items() if name not in ("params", "lr")} for group in groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        groups, scheduler = self.optimizer.param_groups, self.lr_scheduler
        for group, own in zip(groups, given, strict=True):
            group.update(own)
        if isinstance(scheduler, LambdaLR):  # as all are but those that follow a metric
            scheduler.base_lrs = [group["initial_lr"] for group in groups]
            factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
            for group, rate, factor in zip(groups, scheduler.base_lrs, factors, strict=True):
                group["lr"] = rate * factor
            scheduler._last_lr = [group["lr"] for group in groups]

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        torch.save(self._running_state(), os.path.join(output_dir, self._running_name()))

    def _load_rng_state(self, checkpoint):
        super()._load_rng_state(checkpoint)
        path = Path(checkpoint or "") / self._running_name()
        if checkpoint is not None and path.is_file():  # not of a process that the checkpoint's run did not have
            self._set_running_state(torch.load(path, map_location="cpu", weights_only=True))

    def _running_name(self) -> str:
        """Return the name of the file with what a process has summed up since the last log."""
        return "running_means.pt" if self.args.world_size <= 1 else f"running_means_{self.args.process_index}.pt"


class _Beginning(TrainerCallback):
    """A callback that takes the time, and puts right what a checkpoint says of the training that goes on from it."""

    def __init__(self, trainer: WholeCheckpoints):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._trainer._began = time.monotonic()
        state.num_train_epochs = self._trainer._num_train_epochs
        state.compute_steps(args, state.max_steps)  # those of a checkpoint's run would stay
        if self._trainer._resumed_from is not None and args.should_save:
            self._trainer._remove_older(self._trainer._resumed_from)  # which a run that was killed could no more
        if state.global_step >= state.max_steps and state.is_world_process_zero:
            logger.warning(f"Step {state.global_step} of {state.max_steps} is reached; nothing is left to train.")
