"""How many floating-point operations each level of a model runs, where they grow in proportion to the batch.

A multiply-add is 2 operations, the convention of the paper's Table 3; only matrix products and convolutions
are counted.
"""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .levels import at_level, get_level, resolve_level, unwrapped
from .operations import Recorder, record


class BatchFlopsLedger:
    """The operations of a model's forward and training passes, per level, for any model and any inputs.

    Images of one size, or sentences of one length, cost the same each, so that a batch costs its number times one.
    One forward pass over a single row of a batch counts that, the first time that inputs of these sizes are asked
    about. At each level's first sizes a second pass over two rows checks it, as does PyTorch's own count of the
    kernels that run, which sees products of any kind. Low-rank layers, whose choice of the cheaper product depends on
    the batch, are counted by their own formula, as in `FlopsLedger`.

    What is counted is what runs, at each level only its own products and convolutions, and in the backward pass one of
    the same size for every operand that requires a gradient. What gradient checkpointing computes a second time is not
    counted. The probes leave the model as it was: its level, its training mode, its gradients, the running statistics
    of its batch normalizations, and the random state.

    Args:
        model (`nn.Module`): partitioned or not. The ledger holds on to it.

    Example:
    ```python
    >>> ledger = BatchFlopsLedger(model)
    >>> ledger.forward_flops({"pixel_values": torch.zeros(128, 3, 32, 32)}, level="core")
    ```
    """

    def __init__(self, model: nn.Module):
        self._model = unwrapped(model)
        self._costs: dict[tuple, _RowCost] = {}

    def forward_flops(self, inputs: dict, level: int | str | None = None) -> int:
        """Operations of one forward pass over a batch.

        Args:
            inputs (`dict`): the keyword arguments of the model's `forward`. In every tensor the batch comes first;
                only the first row's values are read.
            level (`int` or `str`, *optional*): the level of a partitioned model; by default the live one. An
                unpartitioned model is its own full level, the only one.

        Raises:
            ValueError: the model has no such level; the tensors do not agree on the size of the batch; or the cost
                has another form than described above.
        """
        batch = _batch_size(inputs)
        return self._cost(inputs, level).forward(batch)

    def training_flops(self, inputs: dict, level: int | str | None = None) -> int:
        """Operations of one forward and backward pass over a batch; arguments and errors as in `forward_flops`."""
        batch = _batch_size(inputs)
        cost = self._cost(inputs, level)
        return cost.forward(batch) + cost.backward(batch)

    def _cost(self, inputs: dict, level: int | str | None) -> "_RowCost":
        level = get_level(self._model) if level is None else resolve_level(self._model, level)
        sizes = (
            (name, tuple(value.shape[1:]) if _is_batched(value) else repr(value)) for name, value in inputs.items()
        )
        key = (level, *sorted(sizes, key=lambda size: size[0]))
        if key not in self._costs:
            with at_level(self._model, level):
                cost = _RowCost(self._model, inputs, level)
                if not any(known == level for known, *_ in self._costs):
                    cost.check(self._model, inputs)
            self._costs[key] = cost
        return self._costs[key]


class _RowCost:
    """What one row of a batch costs at one level, which must be the live one."""

    def __init__(self, model: nn.Module, inputs: dict, level: int):
        self._level = level
        self._row = _record(model, inputs, 1)

    def check(self, model: nn.Module, inputs: dict) -> None:
        """Compares two rows with twice one; ValueError if they cost anything else."""
        one = self._row
        with FlopCounterMode(display=False) as counter:
            two = _record(model, inputs, 2)
        calls = [(kind, 2 * tokens) for kind, tokens in one.calls]
        if (two.forward, two.backward, two.calls) != (2 * one.forward, 2 * one.backward, calls):
            raise ValueError(
                f"the cost of this {type(model).__name__} is not proportional to the batch: one row runs "
                f"{(one.forward, one.backward)} operations forward and backward, two rows run "
                f"{(two.forward, two.backward)}. BatchFlopsLedger cannot count it."
            )
        # Of attention PyTorch's count leaves out some kernels, and may come out lower.
        if self.forward(2) < counter.get_total_flops():
            raise ValueError(
                f"this {type(model).__name__} runs {counter.get_total_flops()} operations on two rows, of which "
                f"{self.forward(2)} are products that BatchFlopsLedger knows; it cannot count the others."
            )

    def forward(self, batch: int) -> int:
        return batch * self._row.forward + sum(kind.forward(batch * n, self._level) for kind, n in self._row.calls)

    def backward(self, batch: int) -> int:
        return batch * self._row.backward + sum(kind.backward(batch * n, self._level) for kind, n in self._row.calls)


def _is_batched(value) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0


def _batch_size(inputs: dict) -> int:
    sizes = {name: len(value) for name, value in inputs.items() if _is_batched(value)}
    if len(set(sizes.values())) != 1:
        raise ValueError(
            f"inputs hold tensors with first sizes {sizes}; give at least one tensor, and in all of them the batch "
            "first."
        )
    return next(iter(sizes.values()))


def _record(model: nn.Module, inputs: dict, number: int) -> Recorder:
    """What the first row of the batch runs, `number` times, with the random state put back."""
    rows = {
        name: value[:1].detach().expand(number, *value.shape[1:]) if _is_batched(value) else value
        for name, value in inputs.items()
    }
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return record(model, rows)
