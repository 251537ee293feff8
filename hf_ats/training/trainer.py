"""Transformers' own training loop, with the level of each step chosen by a schedule (Algorithm 2)."""

import contextlib
import re
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from ..data import decoder_inputs
from ..partition import is_translation_model, layers_at_level, level_names, parameters_at_level, partitioned_layers
from .arguments import refuse_no_training
from .by_level import ReportsByLevel
from .checkpoints import WholeCheckpoints
from .criteria import MeasuresCriteria
from .flops import FlopsMeter
from .learning_rate import inverse_sqrt_schedule
from .loss import label_smoothed_cross_entropy
from .reduction import all_reduce_gradients, broadcast_statistics
from .refusals import refuse_second_training, refuse_unkept_laws, refuse_unpartitioned
from .schedules import levels_at_step, trained_levels
from .sharding import frozen, gathered_copy, is_sharded, prepare_sharding_


class AlternatingTraining(ReportsByLevel, WholeCheckpoints):
    """A mixin that runs each optimizer step at the levels of the schedule, and logs, evaluates and counts by level.

    Outside its steps and its evaluation the model is at the level that the user left it at. An unpartitioned model is
    its own full level, the only one: the baseline of standard training, under the same loop.
    """

    _arguments_class: type
    criteria: MeasuresCriteria | None = None

    def __init__(self, model=None, args=None, *positional, **keywords):
        if args is None:
            args = self._arguments_class(output_dir="tmp_trainer")
        if not isinstance(args, self._arguments_class):
            raise TypeError(
                f"args is a {type(args).__name__}, which has no schedule; write {self._arguments_class.__name__}(...)."
            )
        super().__init__(model, args, *positional, **keywords)
        self._bind(self.model)
        refuse_unkept_laws(self, [self.level_names[level] for level in self.trained_levels])
        self.add_callback(_LearningRateOfLevel(self))
        if self.args.criteria_steps is not None:
            self.criteria = MeasuresCriteria(self)
            self.add_callback(self.criteria)

    def _bind(self, model: nn.Module) -> None:
        """Set what the steps need of a model: its levels, its layers, its loss."""
        refuse_unpartitioned(model, self.args.schedule)
        freeze_constants_(model)
        self.level_names = level_names(model)
        self.trained_levels = trained_levels(self.args.schedule, len(self.level_names))
        self._full = len(self.level_names) - 1
        self._layers = list(partitioned_layers(model).values())
        self._parameters = [list(parameters_at_level(model, level).values()) for level in range(len(self.level_names))]
        # A batch normalization of a core takes no part in the full network.
        self._full_has_all = len(self._parameters[-1]) == len(list(model.parameters()))
        self._flops = FlopsMeter(model, is_sharded=self.is_fsdp_enabled)
        self._translates = is_translation_model(model)
        self._has_token_loss = self._translates and self.compute_loss_func is None
        if self._has_token_loss:
            self.compute_loss_func = partial(
                label_smoothed_cross_entropy, label_smoothing=self.args.label_smoothing_factor
            )
        elif not isinstance(model, PreTrainedModel) and not hasattr(model, "accepts_loss_kwargs"):
            # The Trainer takes any `**kwargs` as a sign that the loss is divided by `num_items_in_batch`. A module
            # that only passes them on would break law 8.
            self.model_accepts_loss_kwargs = False

    def call_model_init(self, trial=None):
        """Build a model as the Trainer does, for every run that `model_init` starts afresh."""
        model = super().call_model_init(trial)
        if hasattr(self, "level_names"):
            if self._has_token_loss:
                self.compute_loss_func = None
            self._bind(model)
        return model

    def train(self, *positional, **keywords):
        """Train as the Trainer does; ValueError if there is no step to train, or no batch to measure criteria on."""
        refuse_no_training(self.args)
        if self.model_init is None:
            refuse_second_training(self)
        if self.criteria is not None:
            self.criteria.prepare()
        return super().train(*positional, **keywords)

    def levels_at_step(self, step: int) -> tuple[int, ...]:
        """Return the levels that optimizer step `step` trains, a pure function of the step (law 2)."""
        return levels_at_step(self.args.schedule, step, len(self.level_names), self.args.seed)

    def lr_coefficient(self, levels: tuple[int, ...]) -> float:
        """Return `alternate_lr_coef` for a step that trains cores only, 1 for one that trains the full network."""
        if self._full in levels:
            return 1.0
        if self.args.alternate_lr_coef == "auto":
            return min(self.criteria.coefficient(self.level_names[level]) for level in levels)
        return self.args.alternate_lr_coef

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Make the Trainer's scheduler; with `warmup_init_lr` the one whose warm-up starts there."""
        given = self.lr_scheduler is not None
        super().create_scheduler(num_training_steps, optimizer)
        # A start at 0 is what Transformers' own has, and a negative one means 0.
        if not given and (self.args.warmup_init_lr or 0) > 0:
            self.lr_scheduler = inverse_sqrt_schedule(
                self.lr_scheduler.optimizer,
                self.args.warmup_init_lr,
                self.args.get_warmup_steps(num_training_steps),
            )
        return self.lr_scheduler

    def get_decay_parameter_names(self, model) -> list[str]:
        """Return the names that the Trainer does, or those of every parameter if `weight_decay_on` is "all"."""
        if self.args.weight_decay_on == "all":
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def create_optimizer(self, *positional, **keywords):
        """Make the Trainer's optimizer; under FSDP make the model ready before, since it holds the shards."""
        if self.is_fsdp_enabled:
            self._flops.prepare()  # it runs the model, which would gather it
            self._parameters = []  # which would keep the whole model in memory
            if not is_sharded(self.model):
                self._model_class = type(self.model)
            prepare_sharding_(self.model, self.accelerator)
        return super().create_optimizer(*positional, **keywords)

    # ---- The algorithm ----

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Run forward and backward of one micro-batch at each level of the step; return the mean of their losses."""
        levels = self.levels_at_step(self.state.global_step)
        losses = []
        for level in levels:
            with layers_at_level(self._layers, level), self._reduction(model, level, levels):
                losses.append(super().training_step(model, dict(inputs), num_items_in_batch))
        if (
            self.args.world_size > 1
            and self.accelerator.sync_gradients
            and not self._reduces_itself(levels[-1], levels)
        ):
            all_reduce_gradients(dict.fromkeys(p for level in levels for p in self._parameters[level]))
            if not self._full_has_all:
                broadcast_statistics(self._buffers_at(levels))
        self.refuse_diverged_losses(levels, losses)
        self._record_losses(levels, losses)
        return self._with_carried(torch.stack(losses).mean())

    def _reduces_itself(self, level: int, levels: tuple[int, ...]) -> bool:
        """Whether the backward pass of a level reduces the gradients of the step, those of earlier levels included."""
        if self.is_fsdp_enabled:  # reduces what has a gradient, in the last pass
            return level == levels[-1]
        # DistributedDataParallel expects a gradient for every parameter.
        return level == self._full and self._full_has_all

    def _reduction(self, model: nn.Module, level: int, levels: tuple[int, ...]):
        """Return the context in which a level's backward pass reduces gradients, or leaves them as they are."""
        if self._reduces_itself(level, levels):
            return contextlib.nullcontext()
        # Under FSDP, leaving a `no_sync` of ours would end that of the Trainer around a micro-batch before the last.
        if self.is_fsdp_enabled and not self.accelerator.sync_gradients:
            return contextlib.nullcontext()
        return self.accelerator.no_sync(model)

    def _buffers_at(self, levels: tuple[int, ...]) -> list[torch.Tensor]:
        """Return the buffers that a step at these levels changes beside parameters."""
        of_layers = {id(buffer) for layer in self._layers for buffer in layer.buffers()}
        shared = [buffer for buffer in self.model.buffers() if id(buffer) not in of_layers]
        return shared + [buffer for level in levels for layer in self._layers for buffer in layer.buffers_at(level)]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the Trainer's loss, with the decoder's input made from the labels if a collator left it out."""
        if self._translates:
            inputs = self._with_decoder_inputs(inputs)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _with_decoder_inputs(self, inputs: dict) -> dict:
        # The Trainer takes the labels out of the batch, and BART would then decode the source in their place.
        if "labels" not in inputs or "decoder_input_ids" in inputs:
            return inputs
        return {**inputs, "decoder_input_ids": decoder_inputs(self.model, inputs["labels"])}

    # ---- Checkpoints ----

    def save_model(self, output_dir=None, _internal_call=False):
        """Save as the Trainer does, and under FSDP with sharded state too the whole model (law 9)."""
        if self.is_fsdp_enabled and "FULL_STATE_DICT" not in str(self.accelerator.state.fsdp_plugin.state_dict_type):
            state_dict = self.accelerator.get_state_dict(self.model)
            self._save(output_dir or self.args.output_dir, state_dict=state_dict)
        super().save_model(output_dir, _internal_call)

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        if self.criteria is not None:
            self.criteria.save(output_dir)

    def whole_model(self) -> nn.Module | None:
        """Return the model as the exports take it: under FSDP a gathered copy, and None except on the main process.

        Every process must call it.
        """
        if not (self.is_fsdp_enabled and is_sharded(self.model)):
            return self.model
        return gathered_copy(self.model, self.accelerator, self._model_class)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if not self.is_fsdp_enabled:
            return super()._load_optimizer_and_scheduler(checkpoint)
        # PyTorch then expects a state for all that may have a gradient, and what no step trains has none.
        trained = parameters_at_level(self.model, self.trained_levels[-1])
        with frozen(parameter for name, parameter in self.model.named_parameters() if name not in trained):
            return super()._load_optimizer_and_scheduler(checkpoint)


def freeze_constants_(model: nn.Module) -> None:
    """Freeze the parameters that the model's class never saves, in place: Marian's and others' tables of positions.

    transformers 5 does not do so when it loads a checkpoint, and DistributedDataParallel then waits for their
    gradients.
    """
    patterns = getattr(model, "_keys_to_ignore_on_save", None) or ()
    for name, parameter in model.named_parameters():
        if any(re.search(pattern, name) for pattern in patterns):
            parameter.requires_grad_(False)


class _LearningRateOfLevel(TrainerCallback):
    """A callback that scales the learning rate around the optimizer's step, and then restores the scheduler's."""

    def __init__(self, trainer: AlternatingTraining):
        self._trainer = trainer
        self._rates = None

    def on_pre_optimizer_step(self, args, state, control, optimizer, **kwargs):
        coefficient = self._trainer.lr_coefficient(self._trainer.levels_at_step(state.global_step))
        self._rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * coefficient

    def on_optimizer_step(self, args, state, control, optimizer, **kwargs):
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
