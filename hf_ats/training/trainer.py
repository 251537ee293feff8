"""The trainers: Transformers' own loop, with the level of each step chosen by a schedule (Algorithm 2)."""

import contextlib
import re
from collections import defaultdict
from functools import partial

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainer, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from ..data import TokenBudgetBatchSampler, sequence_lengths, shift_right
from ..partition import FlopsLedger, is_partitioned, level_names, parameters_at_level, partitioned_layers
from .arguments import ATSSeq2SeqTrainingArguments, ATSTrainingArguments
from .loss import label_smoothed_cross_entropy
from .reduction import all_reduce_gradients
from .refusals import refuse_another_partition, refuse_unkept_laws, refuse_unpartitioned
from .schedules import levels_at_step, trained_levels


class _AlternatingTrainerMixin:
    """Runs each optimizer step at the levels of the schedule, and logs, evaluates and counts by level.

    Between steps the model is at full level. An unpartitioned model is its own full level, the only one: the baseline
    of standard training, under the same loop.
    """

    _arguments_class: type

    def __init__(self, model=None, args=None, *positional, **keywords):
        if args is None:
            args = self._arguments_class(output_dir="tmp_trainer")
        if not isinstance(args, self._arguments_class):
            raise TypeError(
                f"args is a {type(args).__name__}, which has no schedule; write {self._arguments_class.__name__}(...)."
            )
        super().__init__(model, args, *positional, **keywords)
        freeze_constants_(self.model)
        refuse_unpartitioned(self.model, args.schedule)
        self.level_names = level_names(self.model) if is_partitioned(self.model) else ["full"]
        self.trained_levels = trained_levels(args.schedule, len(self.level_names))
        refuse_unkept_laws(self, [self.level_names[level] for level in self.trained_levels])
        self._full = len(self.level_names) - 1
        self._layers = list(partitioned_layers(self.model).values())
        self._core_parameters = [list(parameters_at_level(self.model, core).values()) for core in range(self._full)]
        self._sums: dict[str, torch.Tensor | float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._last_norm_step: int | None = None
        self._ledger: FlopsLedger | None = None
        self.add_callback(_LearningRateOfLevel(self))
        self._is_encoder_decoder = getattr(getattr(self.model, "config", None), "is_encoder_decoder", False)
        if self._is_encoder_decoder and self.compute_loss_func is None:
            self.compute_loss_func = partial(label_smoothed_cross_entropy, label_smoothing=args.label_smoothing_factor)

    def levels_at_step(self, step: int) -> tuple[int, ...]:
        """The levels that optimizer step `step` trains, a pure function of the step (law 2)."""
        return levels_at_step(self.args.schedule, step, len(self.level_names))

    def lr_coefficient_at_step(self, step: int) -> float:
        """`alternate_lr_coef` for a step that trains cores alone, 1 for one that trains the full network."""
        return 1.0 if self._full in self.levels_at_step(step) else self.args.alternate_lr_coef

    # ---- The algorithm ----

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of one micro-batch at each level of the step; returns the mean of their losses."""
        levels = self.levels_at_step(self.state.global_step)
        losses = []
        for level in levels:
            # DistributedDataParallel expects a gradient for every parameter, so only the full network goes through
            # its reduction; what the cores of the same step left in `.grad` is sent along.
            reduction = contextlib.nullcontext() if level == self._full else self.accelerator.no_sync(model)
            with self._live(level), reduction:
                losses.append(super().training_step(model, dict(inputs), num_items_in_batch))
        if self.args.world_size > 1 and self.accelerator.sync_gradients and levels[-1] != self._full:
            all_reduce_gradients(self._core_parameters[levels[-1]])
        self._record_losses(levels, losses)
        return torch.stack(losses).mean()

    @contextlib.contextmanager
    def _live(self, level: int):
        """`at_level` over the layers found once, so that a step does not search the model for them."""
        for layer in self._layers:
            layer.level = level
        try:
            yield
        finally:
            for layer in self._layers:
                layer.level = self._full

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As the Trainer's, with the decoder's input made from the labels where a collator left it out."""
        # The Trainer takes the labels out of the batch, and BART would then decode the source in their place.
        if self._is_encoder_decoder and "labels" in inputs and "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = shift_right(inputs["labels"], self.model.config)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    # ---- By level: what is logged, evaluated and counted ----

    def _record_losses(self, levels, losses):
        for level, loss in zip(levels, losses, strict=True):
            name = f"loss_{self.level_names[level]}"
            self._sums[name] += loss
            # The shares of an accumulation window add up to the loss of its step.
            self._counts[name] += self.accelerator.sync_gradients

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *positional, **keywords):
        # Called after every optimizer step, and once more after the last of an epoch.
        step = self.state.global_step - 1
        levels = self.levels_at_step(step)
        # The norm of a sum of several levels' gradients belongs to none of them.
        if grad_norm is not None and step != self._last_norm_step and len(levels) == 1:
            name = f"grad_norm_{self.level_names[levels[0]]}"
            self._sums[name] += grad_norm
            self._counts[name] += 1
        self._last_norm_step = step
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *positional, **keywords)

    def log(self, logs, start_time=None):
        """Adds `loss_<level>` and `grad_norm_<level>`, means since the last log, and `learning_rate_<level>`."""
        if "loss" in logs:
            logs.update(self._means_since_last_log())
            for step in range(len(self.level_names)):
                for level in self.levels_at_step(step):
                    rate = logs["learning_rate"] * self.lr_coefficient_at_step(step)
                    logs[f"learning_rate_{self.level_names[level]}"] = rate
        super().log(logs, start_time)

    def _means_since_last_log(self) -> dict[str, float]:
        names = [name for name, count in self._counts.items() if count]
        means = [torch.as_tensor(self._sums[name] / self._counts[name], device=self.args.device) for name in names]
        self._sums.clear()
        self._counts.clear()
        if not names:
            return {}
        means = self.accelerator.gather(torch.stack(means).float()).view(-1, len(names)).mean(dim=0)
        return dict(zip(names, means.tolist(), strict=True))

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Evaluates every level that the schedule trains; each metric carries its level, as in `eval_core_loss`.

        The predictions that it returns are those of the highest level.
        """
        metrics = {}
        for level in self.trained_levels:
            name = self.level_names[level]
            with self._live(level):
                output = super().evaluation_loop(
                    dataloader,
                    f"{description} {name}",
                    prediction_loss_only,
                    ignore_keys,
                    f"{metric_key_prefix}_{name}",
                )
            metrics.update(output.metrics)
        return output._replace(metrics=metrics)

    def floating_point_ops(self, inputs) -> int:
        """FLOPs of the forward and backward pass that this micro-batch ran, at the levels of its step."""
        if not self._is_encoder_decoder:
            return super().floating_point_ops(inputs)
        if self._ledger is None:
            self._ledger = FlopsLedger(self.model)
        batch_size, source_length = inputs["input_ids"].shape
        target_length = inputs["labels"].shape[1]
        return sum(
            self._ledger.training_flops(batch_size, source_length, target_length, level)
            for level in self.levels_at_step(self.state.global_step)
        )

    # ---- Checkpoints ----

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        refuse_another_partition(resume_from_checkpoint, self.model)
        super()._load_from_checkpoint(resume_from_checkpoint, model)


def freeze_constants_(model: nn.Module) -> None:
    """Freezes the parameters that the model's class never saves, in place: Marian's and others' tables of positions.

    transformers 5 forgets to when it loads a checkpoint, and DistributedDataParallel then waits for their gradients.
    """
    patterns = getattr(model, "_keys_to_ignore_on_save", None) or ()
    for name, parameter in model.named_parameters():
        if any(re.search(pattern, name) for pattern in patterns):
            parameter.requires_grad_(False)


class _LearningRateOfLevel(TrainerCallback):
    """Scales the learning rate around the optimizer's step, and leaves the scheduler's own value as it was."""

    def __init__(self, trainer: _AlternatingTrainerMixin):
        self._trainer = trainer
        self._rates = None

    def on_pre_optimizer_step(self, args, state, control, optimizer, **kwargs):
        coefficient = self._trainer.lr_coefficient_at_step(state.global_step)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * coefficient

    def on_optimizer_step(self, args, state, control, optimizer, **kwargs):
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate


class _EpochOfSampler(TrainerCallback):
    """Tells the sampler its epoch where the Trainer cannot: in the epoch of a resume, on several processes."""

    def __init__(self, sampler: TokenBudgetBatchSampler):
        self._sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._sampler.set_epoch(int(state.epoch or 0))


class ATSTrainer(_AlternatingTrainerMixin, Trainer):
    """`transformers.Trainer` over a partitioned model: alternating training of a network and its cores.

    Takes what `Trainer` takes, with `ATSTrainingArguments`. Adds to the logs `loss_<level>`, `grad_norm_<level>` and
    `learning_rate_<level>`, and evaluates every level that the schedule trains (`eval_core_loss`, `eval_full_loss`).
    The loss of an encoder-decoder is `label_smoothed_cross_entropy` per target token of the whole optimizer step, so
    that accumulation and the number of processes do not change the gradient (law 8; the stock loss of Marian does not
    keep it); a `compute_loss_func` of your own replaces it. Other models compute their own loss, as with `Trainer`.

    Raises:
        ValueError: at construction, for a launcher, argument or model under which a law would break: DeepSpeed, FSDP,
            nn.DataParallel, a model on several devices, layer dropping on several processes, an unpartitioned model
            with another schedule than `"full"`, a `metric_for_best_model` that names no trained level; in `train`,
            for a checkpoint of another partition.
    """

    _arguments_class = ATSTrainingArguments


class ATSSeq2SeqTrainer(_AlternatingTrainerMixin, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` over a partitioned model: alternating training of a network and its cores.

    Takes what `Seq2SeqTrainer` takes, with `ATSSeq2SeqTrainingArguments`. Adds what `ATSTrainer` adds, and batches by
    token budget (`max_tokens`).

    Raises:
        ValueError: as `ATSTrainer`.

    Example:

    ```python
    >>> model = partition_(model, PartitionConfig(ratios=[0.03125]))
    >>> args = ATSSeq2SeqTrainingArguments(output_dir="out", schedule="alternating", max_tokens=4096)
    >>> ATSSeq2SeqTrainer(model, args, train_dataset=train, data_collator=collator).train()
    ```
    """

    _arguments_class = ATSSeq2SeqTrainingArguments

    def get_train_dataloader(self) -> DataLoader:
        """Batches by token budget where `max_tokens` is set, by number of sentences otherwise."""
        if self.args.max_tokens is None:
            return super().get_train_dataloader()
        args = self.args
        sampler = TokenBudgetBatchSampler(
            sequence_lengths(self.train_dataset),
            args.max_tokens,
            num_replicas=args.world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            pad_to_multiple_of=getattr(self.data_collator, "pad_to_multiple_of", None),
        )
        self.add_callback(_EpochOfSampler(sampler))
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self._get_collator_with_removed_columns(self.data_collator, description="training"),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)
