"""What one forward pass runs: its matrix products and convolutions, and what their backward pass will run.

A multiply-add is 2 operations, the convention of the paper's Table 3; only matrix products and convolutions
are counted.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .levels import partitioned_layers
from .rank import PartitionedRankLinear

_MATMULS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.bmm, torch.Tensor.bmm)
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


class LayerKind:
    """Low-rank partitioned layers that cost the same: equal sizes, and equal gradients that the backward pass forms.

    Their cost is no polynomial of the number of tokens: it follows `PartitionedRankLinear.merges`, the choice between
    forming a weight once and paying for every token.
    """

    def __init__(self, layer: PartitionedRankLinear, level: int, input_needs_grad: bool):
        self.layer = layer
        shares = min(level + 1, len(layer.ranks))
        self.input_needs_grad = input_needs_grad
        self.W_needs_grad = level == len(layer.ranks) and layer.weight.requires_grad
        self.U_needs_grad = any(share.requires_grad for share in list(layer.U)[:shares])
        self.V_needs_grad = any(share.requires_grad for share in list(layer.V)[:shares])
        self.rank = layer.ranks[shares - 1]
        self._identity = (
            *(layer.in_features, layer.out_features, layer.ranks),
            *(self.input_needs_grad, self.W_needs_grad, self.U_needs_grad, self.V_needs_grad),
        )

    def __eq__(self, other):
        return self._identity == other._identity

    def __hash__(self):
        return hash(self._identity)

    def forward(self, tokens: int, level: int) -> int:
        """Operations of the layer's forward pass over `tokens` tokens."""
        layer, k = self.layer, self.rank
        dense = 2 * tokens * layer.in_features * layer.out_features
        if layer.merges(tokens, level):
            return dense + 2 * k * layer.in_features * layer.out_features
        factors = 2 * tokens * k * (layer.in_features + layer.out_features)
        return factors + (dense if level == len(layer.ranks) else 0)

    def backward(self, tokens: int, level: int) -> int:
        """Those of its backward pass."""
        layer, k = self.layer, self.rank
        dense = 2 * tokens * layer.in_features * layer.out_features
        if layer.merges(tokens, level):
            factors_need_grad = self.U_needs_grad + self.V_needs_grad
            weight_needs_grad = bool(factors_need_grad) or self.W_needs_grad
            form = 2 * k * layer.in_features * layer.out_features
            return dense * (self.input_needs_grad + weight_needs_grad) + form * factors_need_grad
        hidden_needs_grad = self.input_needs_grad or self.U_needs_grad
        total = 2 * tokens * k * layer.in_features * (self.input_needs_grad + self.U_needs_grad)
        total += 2 * tokens * k * layer.out_features * (hidden_needs_grad + self.V_needs_grad)
        if level == len(layer.ranks):
            total += dense * (self.input_needs_grad + self.W_needs_grad)
        return total

    def exported_forward(self, tokens: int, level: int) -> int:
        """Those of the forward pass of the layer that an export of the level holds."""
        layer = self.layer
        if level == len(layer.ranks):
            return 2 * tokens * layer.in_features * layer.out_features
        return 2 * tokens * self.rank * (layer.in_features + layer.out_features)


class Recorder(TorchFunctionMode):
    """Adds up the products outside low-rank partitioned layers, and lists the calls of these.

    It works above autograd, where it can be seen which operands require a gradient. Layers that are narrower in the
    core run ordinary products with the weight of their level.

    Attributes:
        forward: operations of the forward pass.
        backward: operations of its backward pass: a product of the same size for each operand that requires a
            gradient.
        calls: each call of a low-rank layer, as its kind and the number of tokens that it saw.
    """

    def __init__(self):
        super().__init__()
        self.forward = 0
        self.backward = 0
        self.calls: list[tuple[LayerKind, int]] = []
        self._inside_layer = False

    def enter_layer(self, layer: PartitionedRankLinear, args: tuple) -> None:
        """Before a low-rank layer's forward."""
        (x,) = args
        kind = LayerKind(layer, layer.level, x.requires_grad)
        self.calls.append((kind, math.prod(x.shape[:-1])))
        self._inside_layer = True

    def leave_layer(self, *_) -> None:
        """After it."""
        self._inside_layer = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._inside_layer:
            return result
        if func is F.linear:
            x, weight = args[0], args[1] if len(args) > 1 else kwargs["weight"]
            self._add(2 * x.numel() * weight.shape[0], x.requires_grad, weight.requires_grad)
        elif func in _CONVOLUTIONS:
            x, weight = args[0], args[1] if len(args) > 1 else kwargs["weight"]
            # Every number of the output is a product with one filter, of shape (input channels of its group, kernel);
            # zeros of the padding are multiplied like any other number.
            self._add(2 * result.numel() * math.prod(weight.shape[1:]), x.requires_grad, weight.requires_grad)
        elif func in _MATMULS:
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
        self.forward += flops
        if torch.is_grad_enabled():
            self.backward += flops * (left_needs_grad + right_needs_grad)


def record(model: nn.Module, inputs: dict) -> Recorder:
    """Runs one forward pass, without a trace in the model, and returns what it ran.

    Args:
        model: in any mode and at any level; the live one is run, in eval mode.
        inputs: the keyword arguments of its `forward`.
    """
    recorder = Recorder()
    hooks = []
    for layer in partitioned_layers(model).values():
        if isinstance(layer, PartitionedRankLinear):
            hooks.append(layer.register_forward_pre_hook(recorder.enter_layer))
            hooks.append(layer.register_forward_hook(recorder.leave_layer, always_call=True))
    try:
        with _in_eval_mode(model), torch.enable_grad(), recorder:
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return recorder


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """No dropout, so nothing is drawn from the random state, and no batch statistics; each module keeps its mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
