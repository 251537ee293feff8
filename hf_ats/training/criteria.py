"""The criteria of Theorem 1 during a training: measured on one batch, logged, written down, and followed by a step."""

import json
import math
import os
import random
import shutil
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.utils import logging

from ..data import COUNTS, sequence_lengths
from ..partial_sgd import Criteria, criteria
from ..partition import PartitionedLayer, TableReader, layers_at_level, parameters_at_level, partitioned_layers

logger = logging.get_logger(__name__)

CRITERIA = "criteria.jsonl"
"""The file in the output directory that the measurements are written to."""
QUANTITIES = ("c_norm", "c_norm_squared", "c_sim", "c_align", "alpha", "q", "cosine")

LEAST_COEFFICIENT = 0.1
_MOST_EXAMPLES = 1024
_WINDOW = 5  # measurements whose least alpha is the running lower bound
_IN_A_ROW = 3  # measurements after which gradients that point apart are worth a warning


class MeasuresCriteria(TrainerCallback):
    """A callback that measures every level below the full one before the first step and after every `criteria_steps`.

    `f` is the loss over one batch that stays the same: the first examples of the evaluation set, or of the training
    set if there is none, half as many as a micro-batch of the training has; as many, if a step has several of these,
    accumulated or on several processes. Dropout is off, since two draws of it would be two functions, and batch
    normalizations take the batch's statistics, as in training. `f(x~)` is the loss at the level. The mask holds the
    parameters of the level that the full network has too: all, but for a core's own batch normalizations.

    With several processes the main one measures, and tells the others what it found. The run itself is what it would
    be without: weights, gradients, optimizer, buffers, modes and random states stay as they are.

    Attributes:
        seconds: of wall time that the measurements of this training took.
    """

    def __init__(self, trainer):
        self.seconds = 0.0
        self._trainer = trainer
        self._batch: dict = {}
        self._alphas: dict[str, deque] = {}
        self._apart: dict[str, float] = {}

    # ---- Before training ----

    def prepare(self) -> None:
        """Take the batch.

        Raises:
            ValueError: it would be empty, have no target token, or be taken away from a training set that is a stream.
        """
        trainer, given = self._trainer, f"criteria_steps={self._trainer.args.criteria_steps}"
        name, examples = "evaluation", trainer.eval_dataset
        if isinstance(examples, dict):
            examples = next(iter(examples.values()), None)
        if examples is None:
            name, examples = "training", trainer.train_dataset
            if not hasattr(examples, "__len__"):
                raise ValueError(f"{given} needs an eval_dataset, since the training set is a stream; give one.")
        collate = trainer._get_collator_with_removed_columns(trainer.data_collator, description=name)
        most = (
            _MOST_EXAMPLES if getattr(trainer.args, "max_tokens", None) else trainer.args.per_device_train_batch_size
        )
        with _random_states_kept(trainer.args):
            first = next(iter(DataLoader(examples, batch_size=most, collate_fn=list)), [])
            batch = collate(first[: _fitting(first, trainer.args)]) if first else {}
        labels = batch.get("labels")
        if not first or (trainer._has_token_loss and labels is not None and labels.eq(-100).all()):
            what = "is empty" if not first else "has no target token in its first batch"
            raise ValueError(
                f"{given} measures gradients on the first batch of the {name} set, which {what}; give a set that has "
                "some, or leave criteria_steps out."
            )
        self._batch = batch

    def on_train_begin(self, args, state, control, **kwargs):
        self.seconds = 0.0
        self._alphas = defaultdict(lambda: deque(maxlen=_WINDOW))
        self._apart = defaultdict(float)
        measured = [entry for entry in state.log_history if f"alpha_{self._trainer.level_names[0]}" in entry]
        for entry in measured:
            self._follow(entry)
        if state.is_world_process_zero:
            checkpoint = self._trainer._resumed_from
            self._file().parent.mkdir(parents=True, exist_ok=True)
            self._file().unlink(missing_ok=True)
            if checkpoint is not None and (checkpoint / CRITERIA).is_file():
                shutil.copy(checkpoint / CRITERIA, self._file())
        if not measured:
            self._measure(state, control)

    # ---- During training ----

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % args.criteria_steps == 0:
            self._measure(state, control)

    def save(self, checkpoint: str | os.PathLike) -> None:
        """Put what was measured so far into a checkpoint, from which a resumed run takes it."""
        if self._trainer.is_world_process_zero() and self._file().is_file():
            shutil.copy(self._file(), checkpoint)

    def coefficient(self, level: str) -> float:
        """Return `alternate_lr_coef="auto"`: the least alpha of the last 5 measurements, at least 0.1.

        An undefined alpha counts as 0.1.
        """
        return max(LEAST_COEFFICIENT, min(self._alphas.get(level, [1.0])))

    def _measure(self, state, control) -> None:
        began = time.perf_counter()
        lines = self._lines() if state.is_world_process_zero else None
        if self._trainer.args.world_size > 1:
            (lines,) = broadcast_object_list([lines])
        if state.is_world_process_zero:
            with open(self._file(), "a", encoding="utf-8") as file:
                file.writelines(f"{json.dumps({'step': state.global_step, **line})}\n" for line in lines)
        values = {f"{name}_{line['level']}": line[name] for line in lines for name in QUANTITIES}
        logs = {name: math.nan if value is None else value for name, value in values.items()}
        for level in self._follow(logs):
            self._warn(level, logs[f"cosine_{level}"], state)
        if self._trainer.args.alternate_lr_coef == "auto":
            logs |= {f"alternate_lr_coef_{line['level']}": self.coefficient(line["level"]) for line in lines}
        self.seconds += time.perf_counter() - began
        should_log = control.should_log  # which a log takes back, and with it that of the step
        self._trainer.log(logs)
        control.should_log = should_log

    def _follow(self, logs: dict) -> list[str]:
        """Take the logged values of a measurement in; return the levels that have now pointed apart for long."""
        now_apart = []
        for level in self._trainer.level_names[:-1]:
            alpha, cosine = logs[f"alpha_{level}"], logs[f"cosine_{level}"]
            self._alphas[level].append(0.0 if math.isnan(alpha) else alpha)
            # Infinite once it was said, so that it is said once.
            self._apart[level] = self._apart[level] + 1 if cosine <= 0 or math.isinf(self._apart[level]) else 0
            if self._apart[level] == _IN_A_ROW:
                self._apart[level] = math.inf
                now_apart.append(level)
        return now_apart

    def _warn(self, level: str, cosine: float, state) -> None:
        trainer = self._trainer
        both = {trainer.level_names.index(level), len(trainer.level_names) - 1}
        if state.is_world_process_zero and both <= set(trainer.trained_levels):
            logger.warning(
                f"The gradients of {level} and full have pointed apart in {_IN_A_ROW} measurements in a row, up to "
                f"step {state.global_step} (cosine {cosine:.2g}): their inner product on the shared parameters is not "
                "positive, so that a step of one undoes the other's. Try alternate_lr_coef='auto' or a smaller "
                "number, more steps of the full network (schedule_pattern full full core), a larger core, or a lower "
                "learning_rate."
            )

    def _file(self) -> Path:
        return Path(self._trainer.args.output_dir, CRITERIA)

    def _lines(self) -> list[dict]:
        """Measure, and return what a line of the file says of each level."""
        trainer, model = self._trainer, self._trainer.model
        names = trainer.level_names
        masks = [
            {name: p for name, p in parameters_at_level(model, level).items() if p.requires_grad}
            for level in range(len(names))
        ]
        groups = {"": list(masks[-1])} | _blocks(masks[-1], partitioned_layers(model))
        lines = []
        with _random_states_kept(trainer.args), _without_dropout(model):
            batch = trainer._prepare_inputs(self._batch)
            gradient = self._gradient(masks[-1], len(names) - 1, batch)
            for level, name in enumerate(names[:-1]):
                perturbed = self._gradient(masks[level], level, batch)
                mask = {one: one in masks[level] for one in masks[-1]}
                whole, *blocks = (criteria(gradient, perturbed, mask, groups)).values()
                layers = {block: _values(found, 4) for block, found in zip(list(groups)[1:], blocks, strict=True)}
                lines.append({"level": name, **dict(zip(QUANTITIES, _values(whole), strict=True)), "layers": layers})
        return lines

    def _gradient(self, parameters: dict[str, nn.Parameter], level: int, batch: dict) -> dict[str, torch.Tensor]:
        """Return the gradient at a level by name, scaled as the run scales its own; `.grad` stays as it is."""
        trainer = self._trainer
        with torch.enable_grad(), layers_at_level(trainer._layers, level):
            loss = trainer.compute_loss(trainer.model, dict(batch))
            if trainer.accelerator.scaler is not None:  # without effect on the criteria, which are ratios
                loss = trainer.accelerator.scaler.scale(loss)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return {name: value for name, value in zip(parameters, found, strict=True) if value is not None}


def _fitting(examples: list, args) -> int:
    """Return how many of the first examples make half a micro-batch, or one if a step has several; at least 1."""
    parts = 1 if args.gradient_accumulation_steps * args.world_size > 1 else 2
    budget = getattr(args, "max_tokens", None)
    if budget is None:
        return max(1, args.per_device_train_batch_size // parts)
    longest = (np.maximum.accumulate(lengths) for lengths in sequence_lengths(examples))
    costs = COUNTS[args.max_tokens_counts](*longest) * np.arange(1, len(examples) + 1)
    return max(1, int((costs <= budget // parts).sum()))


def _values(found: Criteria, digits: int = 17) -> list[float | None]:
    values = (getattr(found, name) for name in QUANTITIES)
    return [None if value is None else float(f"{value:.{digits}g}") for value in values]


def _blocks(names: Iterable[str], layers: dict[str, PartitionedLayer]) -> dict[str, list[str]]:
    """Return the names of parameters by the numbered block that holds them, or else by their module.

    The factors of a vocabulary table are in one block with its `W`.
    """
    blocks = defaultdict(list)
    readers = {layer.table: name for name, layer in reversed(layers.items()) if isinstance(layer, TableReader)}
    for name in names:
        owner = next((layer for layer in layers if name.startswith(f"{layer}.")), name.rpartition(".")[0]) or name
        parts = readers.get(layers.get(owner), owner).split(".")
        number = next((index for index, part in enumerate(parts) if part.isdecimal()), len(parts))
        blocks[".".join(parts[: number + 1])].append(name)
    return dict(blocks)


@contextmanager
def _random_states_kept(args) -> Iterator[None]:
    """Seed what draws random numbers, for a `with` block, and put its state back."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng([args.device] if args.device.type == "cuda" else []):
            random.seed(args.seed)
            np.random.seed(args.seed)  # noqa: NPY002
            torch.default_generator.manual_seed(args.seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Take dropout out of a model for a `with` block; what batch normalizations learn there of the data is undone."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()  # as a step would, whose mode it may not have yet
    norms = [one for one, _ in modes if one.training and isinstance(one, nn.modules.batchnorm._BatchNorm)]
    buffers = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    with ExitStack() as after:
        for module, training in modes:
            after.callback(setattr, module, "training", training)
        for buffer, before in buffers:
            after.callback(buffer.copy_, before)
        model.eval()
        for norm in norms:
            norm.training = True
        yield
