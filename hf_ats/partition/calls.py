"""What a call of a low-rank layer costs, by the number of tokens that it sees."""

import math
from dataclasses import dataclass, field

import torch

from .rank import LowRankSum
from .vocabulary import PartitionedEmbedding


@dataclass(frozen=True)
class LowRankCall:
    """The call of a low-rank layer at a level, and which gradients its backward pass forms.

    Its cost is not a polynomial of the number of tokens: it follows `LowRankSum.merges`, the choice between
    forming a weight once and paying for every token.
    """

    layer: LowRankSum = field(compare=False)
    sizes: tuple  # the properties of the layer by which two calls are equal
    level: int
    input_needs_grad: bool
    W_needs_grad: bool
    U_needs_grad: bool
    V_needs_grad: bool

    @classmethod
    def of(cls, layer: LowRankSum, x: torch.Tensor) -> "LowRankCall":
        """Return the call that is about to happen, for `x` of shape `(..., in_features)`."""
        shares = min(layer.level + 1, len(layer.ranks))
        return cls(
            layer,
            (layer.in_features, layer.out_features, layer.ranks),
            layer.level,
            x.requires_grad,
            layer.level == len(layer.ranks) and layer.weight.requires_grad,
            any(share.requires_grad for share in list(layer.U)[:shares]),
            any(share.requires_grad for share in list(layer.V)[:shares]),
        )

    @property
    def _is_full(self) -> bool:
        return self.level == len(self.layer.ranks)

    @property
    def _rank(self) -> int:
        return self.layer.ranks[min(self.level, len(self.layer.ranks) - 1)]

    def forward(self, tokens: int) -> int:
        """Count the operations of the layer's forward pass over `tokens` tokens."""
        layer = self.layer
        dense = 2 * tokens * layer.in_features * layer.out_features
        if layer.merges(tokens, self.level):
            return dense + 2 * self._rank * layer.in_features * layer.out_features
        return 2 * tokens * self._rank * (layer.in_features + layer.out_features) + self._is_full * dense

    def backward(self, tokens: int) -> int:
        """Count the operations of the layer's backward pass."""
        layer = self.layer
        dense = 2 * tokens * layer.in_features * layer.out_features
        factors_need_grad = self.U_needs_grad + self.V_needs_grad
        if layer.merges(tokens, self.level):
            weight_needs_grad = bool(factors_need_grad) or self.W_needs_grad
            form = 2 * self._rank * layer.in_features * layer.out_features
            return dense * (self.input_needs_grad + weight_needs_grad) + form * factors_need_grad
        hidden_needs_grad = self.input_needs_grad or self.U_needs_grad
        total = 2 * tokens * self._rank * layer.in_features * (self.input_needs_grad + self.U_needs_grad)
        total += 2 * tokens * self._rank * layer.out_features * (hidden_needs_grad + self.V_needs_grad)
        return total + self._is_full * dense * (self.input_needs_grad + self.W_needs_grad)

    def exported_forward(self, tokens: int) -> int:
        """Count the operations of the forward pass of the layer in an export of the level."""
        layer = self.layer
        if self._is_full:
            return 2 * tokens * layer.in_features * layer.out_features
        return 2 * tokens * self._rank * (layer.in_features + layer.out_features)


@dataclass(frozen=True)
class LookupCall:
    """A lookup of tokens in a partitioned table: each pays for a product with `U`; rows of `W` and `V` are free."""

    sizes: tuple[int, int]  # of the `U` of the level
    is_full: bool
    factors_need_grad: int  # how many of `U` and `V` do

    @classmethod
    def of(cls, layer: PartitionedEmbedding) -> "LookupCall":
        """Return the call that is about to happen."""
        shares = min(layer.level + 1, len(layer.ranks))
        need = sum(any(share.requires_grad for share in list(factor)[:shares]) for factor in (layer.U, layer.V))
        return cls((layer.ranks[shares - 1], layer.in_features), layer.level == len(layer.ranks), need)

    def forward(self, tokens: int) -> int:
        """Count the operations of a forward pass over `tokens` ids."""
        return 2 * tokens * math.prod(self.sizes)

    def backward(self, tokens: int) -> int:
        """Count those of its backward pass."""
        return self.factors_need_grad * self.forward(tokens)

    def exported_forward(self, tokens: int) -> int:
        """Count those of the lookup in an export, which in the full network is one of rows alone."""
        return 0 if self.is_full else self.forward(tokens)


Call = LowRankCall | LookupCall


def call_of(layer: LowRankSum, x: torch.Tensor) -> tuple[Call, int]:
    """Return the call of a layer that is about to happen with input `x`, and the number of tokens in that."""
    if isinstance(layer, PartitionedEmbedding):
        return LookupCall.of(layer), x.numel()
    return LowRankCall.of(layer, x), math.prod(x.shape[:-1])
