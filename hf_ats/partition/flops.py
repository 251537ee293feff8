"""How many floating-point operations each level of a model runs, exactly.

A multiply-add is 2 operations, the convention of the paper's Table 3; only matrix products and convolutions are
counted.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from .calls import Call, call_of
from .levels import at_level, get_level, num_levels, partitioned_layers, resolve_level, unwrapped
from .presets import is_translation_model
from .rank import LowRankSum


class FlopsLedger:
    """The operations of a model's forward and training passes, per level.

    A translation model's products grow with the batch times a polynomial of second degree in the two lengths: linear
    layers see source or target tokens, attention sees pairs of them, and the vocabulary projection sees target tokens.
    A few forward passes over a handful of tokens determine that polynomial when the ledger is made, whatever the
    architecture is, and one more checks it. For any other model a batch costs as much as one row, times the number of
    rows. A pass over a single row counts that, at the first request for inputs of these sizes. At each level's first
    sizes a pass over two rows checks it, as does PyTorch's own count of the kernels that run, which sees products of
    any kind. Low-rank layers are counted by their own formula, since they choose the cheaper of two products by the
    batch.

    It counts what runs: at each level its own products and convolutions only; in the backward pass one of the
    same size for every operand that requires a gradient (so frozen parameters save theirs). Attention counts its eager
    products over all pairs of positions, masked ones too, whichever attention implementation is in use. Products that
    gradient checkpointing repeats are not counted.

    The probes leave the model as it was: its level, its training mode, its gradients, the running statistics of its
    batch normalizations, and the random state.

    Args:
        model (`nn.Module`): partitioned, stock, or an exported core. The ledger holds on to it.

    Raises:
        ValueError: a translation model's cost has another form than described here.

    Example:
    ```python
    >>> ledger = FlopsLedger(model)
    >>> ledger.training_flops(blank_sentences(batch_size=64, source_length=30, target_length=28), level="core")
    ```
    """

    def __init__(self, model: nn.Module):
        self._model = unwrapped(model)
        self._rows: dict[tuple, Pass] = {}
        self._sentences: list[_SentenceCost] = []
        if is_translation_model(self._model):
            for level in range(num_levels(self._model)):
                with at_level(self._model, level):
                    self._sentences.append(_SentenceCost(self._model))

    def forward_flops(self, inputs: dict, level: int | str | None = None) -> int:
        """Count the operations of one forward pass over a batch, padding included.

        Args:
            inputs (`dict`): the keyword arguments of the model's `forward`. For a translation model the sizes of
                `input_ids`, `(batch, source)`, and of `decoder_input_ids` or `labels`, `(batch, target)`, are read.
                For any other model the batch comes first in every tensor, and the first row's values are read.
            level (`int` or `str`, *optional*): which network; by default the live one.

        Raises:
            ValueError: the model has no such level; the tensors do not agree on the size of the batch; or the cost
                has another form than described above.
        """
        return self._pass(inputs, level).forward_flops()

    def training_flops(self, inputs: dict, level: int | str | None = None) -> int:
        """Count the operations of one forward and backward pass; arguments and errors as in `forward_flops`."""
        return self._pass(inputs, level).training_flops()

    def exported_flops(self, inputs: dict, level: int | str | None = None) -> int:
        """Count the operations of one forward pass of a level's export; the rest as in `forward_flops`.

        It is the same number for a partitioned model and for its export: the full network has one product with the
        merged weight, a core the two products with its factors.
        """
        return self._pass(inputs, level).exported_flops()

    def _pass(self, inputs: dict, level: int | str | None) -> "Pass":
        level = get_level(self._model) if level is None else resolve_level(self._model, level)
        if self._sentences:
            targets = inputs["decoder_input_ids"] if "decoder_input_ids" in inputs else inputs["labels"]
            return self._sentences[level].at(*inputs["input_ids"].shape, targets.shape[1])
        batch = _batch_size(inputs)
        sizes = {name: tuple(value.shape[1:]) if _is_batched(value) else repr(value) for name, value in inputs.items()}
        key = (level, *sorted(sizes.items(), key=lambda item: item[0]))
        if key not in self._rows:
            with at_level(self._model, level):
                row = record(self._model, _first_row(inputs, 1))
                if not any(known == level for known, *_ in self._rows):
                    self._check(row, inputs)
            self._rows[key] = row
        return self._rows[key].times(batch)

    def _check(self, row: "Pass", inputs: dict) -> None:
        """Raise ValueError unless two rows cost twice as much as one."""
        kind, expected = type(self._model).__name__, row.times(2)
        with FlopCounterMode(display=False) as counter:
            two = record(self._model, _first_row(inputs, 2))
        if two != expected:
            raise ValueError(
                f"the cost of this {kind} is not proportional to the batch, so that FlopsLedger cannot count it: one "
                f"row runs {(row.forward, row.backward)} operations forward and backward, and two run "
                f"{(two.forward, two.backward)}."
            )
        # PyTorch's count leaves out some kernels of attention, and may be lower.
        if expected.forward_flops() < counter.get_total_flops():
            raise ValueError(
                f"this {kind} runs {counter.get_total_flops()} operations on two rows, of which "
                f"{expected.forward_flops()} are products that FlopsLedger knows; it cannot count the others."
            )


def flops_per_token(
    model: nn.Module, level: int | str | None = None, source_length: int = 25, target_length: int = 25
) -> float:
    """Count the forward operations per target token of the network that an export of `level` is.

    One forward pass over one sentence pair of the given lengths, teacher-forced, divided by `target_length`, so that
    the encoder's work is spread over the target tokens. Errors as in `FlopsLedger`.

    Example:
    ```python
    >>> flops_per_token(model, "core") / flops_per_token(model, "full")
    ```
    """
    sentence = blank_sentences(1, source_length, target_length)
    return FlopsLedger(model).exported_flops(sentence, level) / target_length


def blank_sentences(
    batch_size: int, source_length: int, target_length: int, device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """Return inputs of these sizes for a translation model, without content."""
    lengths = {"input_ids": source_length, "decoder_input_ids": target_length}
    return {name: torch.zeros(batch_size, length, dtype=torch.long, device=device) for name, length in lengths.items()}


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


def _first_row(inputs: dict, number: int) -> dict:
    """Return the first row of a batch, `number` times."""
    return {
        name: value[:1].detach().expand(number, *value.shape[1:]) if _is_batched(value) else value
        for name, value in inputs.items()
    }


class _SentenceCost:
    """The cost of the live level of a translation model, by the number of sentences and their two lengths."""

    # (batch, source, target) of the forward passes that determine the five coefficients, and of one more that checks
    # them. All are shorter than any real sentence, so that a probe costs next to nothing beside a training step.
    _PROBES = ((1, 2, 3), (1, 3, 2), (1, 3, 3), (1, 4, 2), (1, 2, 4))
    _CHECK = (2, 5, 4)

    def __init__(self, model: nn.Module):
        probes = [self._probe(model, *shape) for shape in self._PROBES]
        self._forward = self._fit([probe.forward for probe in probes])
        self._backward = self._fit([probe.backward for probe in probes])
        _, source, _ = self._PROBES[0]
        self._calls = [(call, tokens == source, count) for (call, tokens), count in probes[0].calls.items()]
        expected, found = self.at(*self._CHECK), self._probe(model, *self._CHECK)
        if expected != found:
            raise ValueError(
                f"the cost of this {type(model).__name__} is not a polynomial of its two lengths times the batch, so "
                f"that FlopsLedger cannot count it: at (batch, source, target) = {self._CHECK} it runs "
                f"{(found.forward, found.backward)} operations forward and backward outside low-rank layers, where "
                f"{(expected.forward, expected.backward)} were expected."
            )

    def at(self, batch: int, source: int, target: int) -> "Pass":
        forward, backward = (
            batch * sum(c * term for c, term in zip(coefficients, self._terms(source, target), strict=True))
            for coefficients in (self._forward, self._backward)
        )
        calls = Counter()
        for call, sees_source, count in self._calls:
            calls[call, batch * (source if sees_source else target)] += count
        return Pass(forward, backward, calls)

    @staticmethod
    def _probe(model: nn.Module, *shape: int) -> "Pass":
        device = next(model.parameters()).device
        return record(model, {**blank_sentences(*shape, device), "use_cache": False})

    @staticmethod
    def _terms(source: int, target: int) -> tuple[int, ...]:
        return source, target, source * source, source * target, target * target

    @classmethod
    def _fit(cls, observed: list[int]) -> list[int]:
        """Return the whole coefficients of `_terms` that give `observed` at the probes."""
        terms = torch.tensor([cls._terms(source, target) for _, source, target in cls._PROBES], dtype=torch.float64)
        solution = torch.linalg.solve(terms, torch.tensor(observed, dtype=torch.float64))
        return [round(coefficient) for coefficient in solution.tolist()]


@dataclass
class Pass:
    """What one forward pass runs, and what its backward pass will run.

    Attributes:
        forward: operations of the products outside low-rank layers.
        backward: those of their backward pass: a product of the same size for each operand that requires a gradient.
        calls: how often low-rank layers are called, by the call and the number of tokens that it sees.
    """

    forward: int = 0
    backward: int = 0
    calls: Counter[tuple[Call, int]] = field(default_factory=Counter)

    def times(self, batch: int) -> "Pass":
        """Return the pass over `batch` times as many rows."""
        calls = Counter({(call, batch * tokens): count for (call, tokens), count in self.calls.items()})
        return Pass(batch * self.forward, batch * self.backward, calls)

    def _of_calls(self, flops: str) -> int:
        return sum(count * getattr(call, flops)(tokens) for (call, tokens), count in self.calls.items())

    def forward_flops(self) -> int:
        """Count the operations of the whole forward pass."""
        return self.forward + self._of_calls("forward")

    def training_flops(self) -> int:
        """Count the operations of both passes."""
        return self.forward_flops() + self.backward + self._of_calls("backward")

    def exported_flops(self) -> int:
        """Count those of the forward pass of the exported network."""
        return self.forward + self._of_calls("exported_forward")


class _Recorder(TorchFunctionMode):
    """A mode that adds up the products outside low-rank layers, and the calls of these, into `found`.

    It works above autograd, where it sees which operands require a gradient. Layers that are narrower in the
    core run ordinary products with the weight of their level.
    """

    _MATMULS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.bmm, torch.Tensor.bmm)
    _CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)

    def __init__(self):
        super().__init__()
        self.found = Pass()
        self._inside_layer = False

    def enter_layer(self, layer: LowRankSum, args: tuple) -> None:
        """Count the call, as a hook before a low-rank layer's forward."""
        self.found.calls[call_of(layer, *args)] += 1
        self._inside_layer = True

    def leave_layer(self, *_) -> None:
        """Resume counting products, as a hook after the layer's forward."""
        self._inside_layer = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._inside_layer:
            return result
        if func is F.linear:
            x, weight = args[0], args[1] if len(args) > 1 else kwargs["weight"]
            self._add(2 * x.numel() * weight.shape[0], x.requires_grad, weight.requires_grad)
        elif func in self._CONVOLUTIONS:
            x, weight = args[0], args[1] if len(args) > 1 else kwargs["weight"]
            # Every number of the output is a product with one filter, of shape (input channels of its group, kernel);
            # zeros of the padding are multiplied like any other number.
            self._add(2 * result.numel() * math.prod(weight.shape[1:]), x.requires_grad, weight.requires_grad)
        elif func in self._MATMULS:
            left, right = args
            self._add(2 * result.numel() * left.shape[-1], left.requires_grad, right.requires_grad)
        elif func is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            bias = kwargs.get("attn_mask")
            scores_need_grad = query.requires_grad or key.requires_grad
            self._add(2 * query.numel() * key.shape[-2], query.requires_grad, key.requires_grad)
            scores_need_grad = scores_need_grad or (bias is not None and bias.requires_grad)
            self._add(2 * result.numel() * key.shape[-2], scores_need_grad, value.requires_grad)
        return result

    def _add(self, flops: int, left_needs_grad: bool, right_needs_grad: bool) -> None:
        self.found.forward += flops
        if torch.is_grad_enabled():
            self.found.backward += flops * (left_needs_grad + right_needs_grad)


def record(model: nn.Module, inputs: dict) -> Pass:
    """Run one forward pass, without a trace in the model or the random state, and return what it ran.

    Args:
        model: in any mode and at any level; the live one is run, in eval mode.
        inputs: the keyword arguments of its `forward`.
    """
    recorder = _Recorder()
    hooks = []
    for layer in partitioned_layers(model).values():
        if isinstance(layer, LowRankSum):
            hooks.append(layer.register_forward_pre_hook(recorder.enter_layer))
            hooks.append(layer.register_forward_hook(recorder.leave_layer, always_call=True))
    device = next(model.parameters()).device
    # A model may draw random numbers in eval mode too: transformers 4 draws which layers to drop, even if it drops
    # none.
    kept_state = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    try:
        with kept_state, _in_eval_mode(model), torch.enable_grad(), recorder:
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.found


@contextlib.contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, so that nothing is drawn, and batch statistics; each module gets its mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
