"""How many floating-point operations each level of an encoder-decoder runs, as an exact closed form.

A multiply-add is 2 operations, the convention of the paper's Table 3; only matrix products are counted.
"""

from collections import Counter

import torch
from torch import nn

from .levels import at_level, get_level, num_levels, resolve_level, unwrapped
from .operations import LayerKind, Recorder, record

# (batch, source, target) of the forward passes that determine the five coefficients of `_terms`, and of one more that
# checks them. All are shorter than any real sentence, so that a probe costs next to nothing beside a training step.
_PROBES = ((1, 2, 3), (1, 3, 2), (1, 3, 3), (1, 4, 2), (1, 2, 4))
_CHECK = (2, 5, 4)


class FlopsLedger:
    """The floating-point operations of a model's forward and training passes, per level.

    A Transformer's matrix products grow with the batch times a polynomial of second degree in the two lengths: linear
    layers see source or target tokens, attention sees pairs of them, and the vocabulary projection sees target tokens.
    A few forward passes over a handful of tokens determine that polynomial exactly, whatever the architecture is, and
    one more checks it. Low-rank layers are counted by their own formula, since their cost is not a polynomial: it
    follows `PartitionedRankLinear.merges`, the choice between forming a weight once and paying for every token.

    What is counted is what runs: at each level only its own products; in the backward pass a product for every operand
    that requires a gradient (so frozen parameters, as they are when the ledger is made, save theirs). Attention counts
    its eager products over all pairs of positions, masked ones too, whichever attention implementation is in use.
    What gradient checkpointing computes a second time is not counted.

    Making a ledger leaves the model as it was: its level, its training mode, its gradients and the random state.

    Args:
        model (`nn.Module`): a Transformers encoder-decoder model, which takes `input_ids` and `decoder_input_ids`:
            partitioned, stock, or an exported core. Its levels, lengths and the batch are arguments of the methods.

    Raises:
        ValueError: the model is no encoder-decoder, or its cost has another form than described here.

    Example:
    ```python
    >>> ledger = FlopsLedger(model)
    >>> ledger.training_flops(batch_size=64, source_length=30, target_length=28, level="core")
    ```
    """

    def __init__(self, model: nn.Module):
        model = unwrapped(model)
        config = getattr(model, "config", None)
        if not getattr(config, "is_encoder_decoder", False):
            raise ValueError(
                f"model is a {type(model).__name__}, which is not an encoder-decoder of Transformers; FlopsLedger "
                "counts models that take input_ids and decoder_input_ids, such as MarianMTModel."
            )
        self._model = model
        self._costs: list[_LevelCost] = []
        for level in range(num_levels(model)):
            with at_level(model, level):
                self._costs.append(_LevelCost(model, level))

    def forward_flops(
        self, batch_size: int, source_length: int, target_length: int, level: int | str | None = None
    ) -> int:
        """Operations of one forward pass over a batch, padding included.

        Args:
            batch_size (`int`): sentence pairs.
            source_length (`int`): tokens in each of the batch's source rows.
            target_length (`int`): tokens in each of its target rows.
            level (`int` or `str`, *optional*): the level of a partitioned model; by default the live one. An
                unpartitioned model is its own full level, the only one.

        Raises:
            ValueError: the model has no such level.
        """
        return self._cost(level).forward(batch_size, source_length, target_length)

    def training_flops(
        self, batch_size: int, source_length: int, target_length: int, level: int | str | None = None
    ) -> int:
        """Operations of one forward and backward pass over a batch; arguments and errors as in `forward_flops`."""
        cost = self._cost(level)
        shape = (batch_size, source_length, target_length)
        return cost.forward(*shape) + cost.backward(*shape)

    def flops_per_token(
        self, level: int | str | None = None, source_length: int = 25, target_length: int = 25
    ) -> float:
        """Forward operations per target token of the network that an export of `level` is.

        One forward pass of the exported network over one sentence pair of the given lengths, teacher-forced, divided
        by `target_length`. So the encoder's work is spread over the target tokens, and it is the same number for a
        partitioned model and for its export: the full network counts one product with the merged weight, a core the
        two products with its factors. Arguments and errors as in `forward_flops`.
        """
        return self._cost(level).exported_forward(1, source_length, target_length) / target_length

    def _cost(self, level: int | str | None) -> "_LevelCost":
        level = get_level(self._model) if level is None else resolve_level(self._model, level)
        return self._costs[level]


def flops_per_token(
    model: nn.Module, level: int | str | None = None, source_length: int = 25, target_length: int = 25
) -> float:
    """Forward operations per target token of one level, once exported; see `FlopsLedger.flops_per_token`.

    Example:
    ```python
    >>> flops_per_token(model, "core") / flops_per_token(model, "full")
    ```
    """
    return FlopsLedger(model).flops_per_token(level, source_length, target_length)


class _LevelCost:
    """The closed form of one level, which must be the live one."""

    def __init__(self, model: nn.Module, level: int):
        self._level = level
        probes = [_probe(model, *shape) for shape in _PROBES]
        self._forward = _fit([probe.forward for probe in probes])
        self._backward = _fit([probe.backward for probe in probes])
        self._calls = self._classified([probe.calls for probe in probes])
        check = _probe(model, *_CHECK)
        predicted = (_evaluate(self._forward, *_CHECK), _evaluate(self._backward, *_CHECK))
        if predicted != (check.forward, check.backward):
            raise ValueError(
                f"the cost of this {type(model).__name__} is not a polynomial of its two lengths times the batch: at "
                f"(batch, source, target) = {_CHECK} it runs {(check.forward, check.backward)} operations forward and "
                f"backward, where {predicted} was expected. FlopsLedger cannot count it."
            )

    @staticmethod
    def _classified(calls: list[list[tuple[LayerKind, int]]]) -> list[tuple[LayerKind, bool, int]]:
        """Groups the calls of low-rank layers as (kind, whether it sees source tokens, number of calls)."""
        groups: Counter[tuple[LayerKind, bool]] = Counter()
        for same_call in zip(*calls, strict=True):
            kind = same_call[0][0]
            tokens = [n for _, n in same_call]
            if tokens == [source for _, source, _ in _PROBES]:
                groups[kind, True] += 1
            elif tokens == [target for _, _, target in _PROBES]:
                groups[kind, False] += 1
            else:
                raise ValueError(
                    f"a low-rank layer sees {tokens} tokens for (batch, source, target) = {_PROBES}, neither the "
                    "source nor the target; FlopsLedger cannot count it."
                )
        return [(kind, sees_source, count) for (kind, sees_source), count in groups.items()]

    def forward(self, batch: int, source: int, target: int) -> int:
        total = _evaluate(self._forward, batch, source, target)
        for kind, sees_source, count in self._calls:
            total += count * kind.forward(batch * (source if sees_source else target), self._level)
        return total

    def backward(self, batch: int, source: int, target: int) -> int:
        total = _evaluate(self._backward, batch, source, target)
        for kind, sees_source, count in self._calls:
            total += count * kind.backward(batch * (source if sees_source else target), self._level)
        return total

    def exported_forward(self, batch: int, source: int, target: int) -> int:
        total = _evaluate(self._forward, batch, source, target)
        for kind, sees_source, count in self._calls:
            total += count * kind.exported_forward(batch * (source if sees_source else target), self._level)
        return total


def _probe(model: nn.Module, batch: int, source: int, target: int) -> Recorder:
    """What one forward pass over `batch` pairs of `source` and `target` tokens runs."""
    device = next(model.parameters()).device
    ids = {
        "input_ids": torch.zeros(batch, source, dtype=torch.long, device=device),
        "decoder_input_ids": torch.zeros(batch, target, dtype=torch.long, device=device),
    }
    # transformers 4 draws which layers to drop also where none is dropped.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return record(model, {**ids, "use_cache": False})


def _terms(source: int, target: int) -> tuple[int, ...]:
    return source, target, source * source, source * target, target * target


def _fit(observed: list[int]) -> list[int]:
    """The whole coefficients of `_terms` that give `observed` at `_PROBES`."""
    terms = torch.tensor([_terms(source, target) for _, source, target in _PROBES], dtype=torch.float64)
    solution = torch.linalg.solve(terms, torch.tensor(observed, dtype=torch.float64))
    return [round(coefficient) for coefficient in solution.tolist()]


def _evaluate(coefficients: list[int], batch: int, source: int, target: int) -> int:
    return batch * sum(c * term for c, term in zip(coefficients, _terms(source, target), strict=True))
