"""What a run says of each level: its losses and gradient norms in the logs, its metrics, its operations."""

import copy
from collections import defaultdict

import torch
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from ..partition import FlopsLedger, is_translation_model, layers_at_level
from .loss import token_losses
from .refusals import refuse_unsharded_evaluation
from .schedules import kinds_of_steps
from .sharding import whole

logger = logging.get_logger(__name__)

# A ledger runs the model on a few rows, and what a foreign forward makes of them is its own.
_UNCOUNTABLE = (ValueError, TypeError, AttributeError, IndexError, KeyError, RuntimeError)


class ReportsByLevel:
    """The half of the trainers' mixin that logs, evaluates and counts by level; the other half trains.

    It uses what the other half takes hold of: `level_names`, `trained_levels`, `levels_at_step`, `_layers`.
    """

    def __init__(self, *positional, **keywords):
        self._sums: dict[str, torch.Tensor | float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._last_norm_step: int | None = None
        self._evaluated = torch.zeros(2, dtype=torch.float64)  # the sum of token losses, and the number of tokens
        self._ledger: FlopsLedger | bool | None = None
        super().__init__(*positional, **keywords)

    def _forget_losses(self) -> None:
        self._sums.clear()
        self._counts.clear()
        self._last_norm_step = None

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
            self._sums[name] += whole(grad_norm)
            self._counts[name] += 1
        self._last_norm_step = step
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *positional, **keywords)

    def log(self, logs, start_time=None):
        """Adds `loss_<level>` and `grad_norm_<level>`, means since the last log, and `learning_rate_<level>`."""
        if "loss" in logs and "learning_rate" in logs:
            logs.update(self._means_since_last_log())
            for levels in kinds_of_steps(self.args.schedule, len(self.level_names)):
                for level in levels:
                    rate = logs["learning_rate"] * self.lr_coefficient(levels)
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
        refuse_unsharded_evaluation(self)
        metrics = {}
        for level in self.trained_levels:
            prefix = f"{metric_key_prefix}_{self.level_names[level]}"
            # Seq2SeqTrainer would have the first level keep the sentences that fill up the last batch of the
            # processes, and only the first: its loop resets the function at its end.
            self.gather_function = self.accelerator.gather_for_metrics
            self._evaluated = torch.zeros(2, dtype=torch.float64)
            with layers_at_level(self._layers, level):
                output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, prefix)
            metrics.update(output.metrics)
            loss, tokens = self._evaluated.tolist()
            if tokens:
                metrics[f"{prefix}_loss"] = loss / tokens
        return output._replace(metrics=metrics)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **generate_kwargs):
        """As the Trainer's, with the loss per target token of the whole evaluation set.

        The Trainer takes the mean over batches, so that its loss depends on how the set is cut into batches and
        between processes.
        """
        if not (self._has_token_loss and "labels" in inputs):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys, **generate_kwargs)
        sums = self._sentence_losses(model, self._prepare_inputs(inputs))
        self._evaluated += self.accelerator.gather_for_metrics(sums).sum(dim=0).cpu()
        loss = sums[:, 0].sum() / sums[:, 1].sum()
        if prediction_loss_only:
            return loss, None, None
        # Seq2SeqTrainer writes generate's defaults, 1 beam and 20 tokens, into the model's own generation config,
        # which every checkpoint and export would then carry.
        kept = copy.deepcopy(self.model.generation_config)
        try:
            _, predictions, labels = super().prediction_step(
                model, inputs, prediction_loss_only, ignore_keys, **generate_kwargs
            )
        finally:
            self.model.generation_config = kept
        return loss, predictions, labels

    @torch.no_grad()
    def _sentence_losses(self, model, inputs) -> torch.Tensor:
        """Shape `(batch, 2)`: the sum of each sentence's token losses, and the number of its target tokens."""
        inputs = self._with_decoder_inputs(inputs)
        labels = inputs["labels"]
        with self.compute_loss_context_manager():
            outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        losses = token_losses(outputs.logits, labels, self.args.label_smoothing_factor)
        return torch.stack([losses.sum(dim=1), labels.ne(-100).sum(dim=1)], dim=1)

    def floating_point_ops(self, inputs) -> int:
        """FLOPs of the forward and backward pass that this micro-batch ran, at the levels of its step.

        Exact, by `FlopsLedger`. Where that cannot count a model, and under FSDP for others than translation models,
        Transformers' estimate: 6 for each token and each parameter of the level outside the embeddings.
        """
        levels = self.levels_at_step(self.state.global_step)
        if self._ledger is None:
            self._make_ledger()
        if self._ledger:
            try:
                return sum(self._ledger.training_flops(dict(inputs), level) for level in levels)
            except _UNCOUNTABLE as error:
                self._estimate_flops(error)
        return sum(self._estimated_flops(inputs, level) for level in levels)

    def _make_ledger(self) -> None:
        """Make the ledger, or False in its place where there can be none."""
        if self.is_fsdp_enabled and not is_translation_model(self.model):
            # A probe of a sharded model gathers it, for which the processes would have to see the same shapes.
            self._ledger = False
            return
        try:
            self._ledger = FlopsLedger(self.model)
        except _UNCOUNTABLE as error:
            self._estimate_flops(error)

    def _estimate_flops(self, error: Exception) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            raise error
        logger.warning("total_flos is an estimate: %s cannot be counted (%s).", type(self.model).__name__, error)
        self._ledger = False

    def _estimated_flops(self, inputs, level: int) -> int:
        estimate = super().floating_point_ops(inputs)
        if not estimate or level == self._full:
            return estimate
        tokens = inputs[self.model.main_input_name].numel()
        every = sum(parameter.numel() for parameter in self.model.parameters())
        return estimate - 6 * tokens * (every - self._level_sizes[level])
