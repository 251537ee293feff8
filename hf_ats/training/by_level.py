"""The report of each level in a run: losses and gradient norms in the logs, metrics, operations."""

import copy
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from transformers import TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from ..partition import layers_at_level
from .loss import token_losses
from .refusals import refuse_unsharded_evaluation
from .schedules import kinds_of_steps
from .sharding import whole


class ReportsByLevel:
    """The half of the trainers' mixin that logs, evaluates and counts by level; the other half trains.

    It uses what the other half sets: `level_names`, `trained_levels`, `levels_at_step`, `criteria`, `_layers`,
    `_flops`.
    """

    def __init__(self, *positional, **keywords):
        self._means = _RunningMeans()
        self._last_norm_step: int | None = None
        self._loss_since_log = torch.zeros(())
        self._carried_loss: torch.Tensor | None = None  # of before a checkpoint, for the first loss after it
        self._evaluated = torch.zeros(2, dtype=torch.float64)  # the sum of token losses, and the number of tokens
        super().__init__(*positional, **keywords)

    def train(self, *positional, **keywords):
        """Train as the Trainer does, with nothing in the logs of an earlier training."""
        self._means.clear()
        self._last_norm_step = self._carried_loss = None
        return super().train(*positional, **keywords)

    def _record_losses(self, levels, losses):
        for level, loss in zip(levels, losses, strict=True):
            # The shares of an accumulation window add up to the loss of its step.
            self._means.add(f"loss_{self.level_names[level]}", loss, count=int(self.accelerator.sync_gradients))

    def _with_carried(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss of a step, and in the first step of a resumed run all that was not logged before."""
        if self._carried_loss is None:
            return loss
        carried, self._carried_loss = self._carried_loss, None
        self._total_loss_scalar -= carried.item()  # the mean of a training is that of its own steps
        return loss + carried.to(loss.device)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *positional, **keywords):
        # Called after every optimizer step, and once more after the last of an epoch.
        step = self.state.global_step - 1
        levels = self.levels_at_step(step)
        # The norm of a sum of several levels' gradients belongs to none of them.
        if grad_norm is not None and step != self._last_norm_step and len(levels) == 1:
            self._means.add(f"grad_norm_{self.level_names[levels[0]]}", whole(grad_norm))
        self._last_norm_step = step
        self._loss_since_log = tr_loss  # the Trainer's own sum, which it sets to zero in place
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *positional, **keywords)

    def _running_state(self) -> dict:
        """Return what this process has summed up since the last log, for a checkpoint."""
        return {
            "loss": self._loss_since_log.detach().cpu().clone(),
            "last_logged": self._globalstep_last_logged,
            "last_norm_step": self._last_norm_step,
            "means": self._means.state(),
        }

    def _set_running_state(self, state: dict) -> None:
        self._carried_loss = state["loss"]
        self._globalstep_last_logged = state["last_logged"]
        self._last_norm_step = state["last_norm_step"]
        self._means.set_state(state["means"], self.args.device)

    def log(self, logs, start_time=None):
        """Log means since the last log, `loss_<level>` and `grad_norm_<level>`, and `learning_rate_<level>`."""
        if "loss" in logs and "learning_rate" in logs:
            logs.update(self._means.take(self.accelerator))
            for levels in kinds_of_steps(self.args.schedule, len(self.level_names)):
                for level in levels:
                    rate = logs["learning_rate"] * self.lr_coefficient(levels)
                    logs[f"learning_rate_{self.level_names[level]}"] = rate
        if "train_runtime" in logs and self.criteria is not None:
            logs["criteria_seconds"] = round(self.criteria.seconds, 4)
        super().log(logs, start_time)

    def get_eval_dataloader(self, *positional, **keywords):
        """Return the Trainer's loader, of the whole set in its own order whatever training does with its set."""
        with _whole_and_in_order(self.args):
            return super().get_eval_dataloader(*positional, **keywords)

    def get_test_dataloader(self, *positional, **keywords):
        """Return the Trainer's loader, as `get_eval_dataloader` does."""
        with _whole_and_in_order(self.args):
            return super().get_test_dataloader(*positional, **keywords)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Evaluate every level that the schedule trains; each metric carries its level, as in `eval_core_loss`.

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
        """Predict as the Trainer does, with the loss per target token of the whole evaluation set.

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
        # which every checkpoint and export would then carry, and by which the next batch would be decoded otherwise.
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
        """Return the sum of each sentence's token losses, and the number of its target tokens, `(batch, 2)`."""
        inputs = self._with_decoder_inputs(inputs)
        labels = inputs["labels"]
        with self.compute_loss_context_manager():
            outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        losses = token_losses(outputs.logits, labels, self.args.label_smoothing_factor)
        return torch.stack([losses.sum(dim=1), labels.ne(-100).sum(dim=1)], dim=1)

    def floating_point_ops(self, inputs) -> int:
        """Return the FLOPs of the forward and backward pass that this micro-batch ran, at the levels of its step."""
        return self._flops.count(inputs, self.levels_at_step(self.state.global_step), super().floating_point_ops)


@contextmanager
def _whole_and_in_order(args: TrainingArguments) -> Iterator[None]:
    """Take back, for a `with` block, what makes the Trainer leave out examples of an evaluation or shuffle them.

    Predictions could not be told which references they belong to.
    """
    plain = {"dataloader_drop_last": False, "group_by_length": False, "train_sampling_strategy": "sequential"}
    kept = {name: getattr(args, name) for name in plain if hasattr(args, name)}
    try:
        for name in kept:
            setattr(args, name, plain[name])
        yield
    finally:
        for name, value in kept.items():
            setattr(args, name, value)


class _RunningMeans:
    """Means of numbers by name since the last `take`."""

    def __init__(self):
        self._sums: dict[str, torch.Tensor | float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def clear(self) -> None:
        self._sums.clear()
        self._counts.clear()

    def state(self) -> dict:
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def set_state(self, state: dict, device: torch.device) -> None:
        self.clear()
        for name, value in state["sums"].items():
            self._sums[name] = value.to(device) if isinstance(value, torch.Tensor) else value
        self._counts.update(state["counts"])

    def add(self, name: str, value: torch.Tensor | float, count: int = 1) -> None:
        self._sums[name] += value
        self._counts[name] += count

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means over all processes, which must have the same names, and start anew."""
        names = [name for name, count in self._counts.items() if count]
        means = [torch.as_tensor(self._sums[name] / self._counts[name], device=accelerator.device) for name in names]
        self.clear()
        if not names:
            return {}
        means = accelerator.gather(torch.stack(means).float()).view(-1, len(names)).mean(dim=0)
        return dict(zip(names, means.tolist(), strict=True))
