"""The operations that training runs, level by level."""

from collections.abc import Callable

import torch
from torch import nn
from transformers.utils import logging

from ..partition import FlopsLedger, is_translation_model, num_levels, parameters_at_level

logger = logging.get_logger(__name__)

# A ledger runs the model on a few rows, on which the forward of a foreign model may raise any of these.
_UNCOUNTABLE = (ValueError, TypeError, AttributeError, IndexError, KeyError, RuntimeError)


class FlopsMeter:
    """The operations of training passes, counted by `FlopsLedger` if it can count the model.

    If it cannot, and for a sharded model that does not translate, the count is Transformers' estimate: 6 for each
    token and each parameter of the level outside the embeddings.

    Args:
        model: partitioned or not.
        is_sharded: whether FSDP shards it. A probe of a sharded model gathers it, for which all processes would have
            to see the same shapes, so a translation model is probed before, by `prepare`.
    """

    def __init__(self, model: nn.Module, is_sharded: bool = False):
        self._model = model
        self._can_count = not is_sharded or is_translation_model(model)
        self._ledger: FlopsLedger | None = None
        whole = sum(parameter.numel() for parameter in model.parameters())
        masks = (parameters_at_level(model, level).values() for level in range(num_levels(model)))
        self._absent = [whole - sum(parameter.numel() for parameter in mask) for mask in masks]
        self._absent[-1] = 0  # a core's batch normalization, which the full network lacks, is not counted

    def prepare(self) -> None:
        """Probe the model, if that has not been done."""
        if self._can_count and self._ledger is None:
            try:
                self._ledger = FlopsLedger(self._model)
            except _UNCOUNTABLE as error:
                self._give_up(error)

    def count(self, inputs: dict, levels: tuple[int, ...], estimate: Callable[[dict], int]) -> int:
        """Count a forward and backward pass over a micro-batch at each of the levels.

        Args:
            inputs: the micro-batch.
            levels: those of the step.
            estimate: Transformers' own estimate for the full network.
        """
        self.prepare()
        if self._can_count:
            try:
                return sum(self._ledger.training_flops(dict(inputs), level) for level in levels)
            except _UNCOUNTABLE as error:
                self._give_up(error)
        full = estimate(inputs)
        if not full:
            return 0
        tokens = inputs[self._model.main_input_name].numel()
        return sum(full - 6 * tokens * self._absent[level] for level in levels)

    def _give_up(self, error: Exception) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            raise error
        logger.warning("total_flos is an estimate: %s cannot be counted (%s).", type(self._model).__name__, error)
        self._can_count = False
