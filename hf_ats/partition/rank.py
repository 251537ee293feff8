"""The low-rank partitioned linear layer.

              x  (..., in_features)
              |-------------------.-------------------.
            U[0] (k_0, in)      U[1] (k_1 - k_0, in)   |
              |                   |                   W  (out, in)
            V[0] (out, k_0)     V[1] (out, k_1 - k_0)  |
              |                   |                   |
              |-- level 0, core --|                   |
              |------------- level 1 -----------------|
              |------------------------ level 2, full -----> + bias

Each level adds its own share to the ones below. Every share is a parameter of its own, so a step at a level leaves the
gradients of the others at None and any optimizer skips them (law 1).
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .layers import PartitionedLayer
from .moments import InputMoments, factors_on_text


class FullRankWeight(nn.Module):
    """The holder of `W`, which nothing else touches.

    It is a module of its own so that FSDP version 2 can make it a sharding unit of its own: a core step never calls
    it, and so neither gathers nor reduces `W`. For the same reason everything that reads `W` happens inside `forward`.
    """

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(
        self, x: torch.Tensor, U: torch.Tensor, V: torch.Tensor, bias: torch.Tensor | None, merge: bool
    ) -> torch.Tensor:
        """Return `(W + V U) x + bias` for `x` of shape `(..., in_features)`; `merge` forms the sum first."""
        if merge:
            return F.linear(x, sum_of_products(V, U, self.weight), bias)
        return F.linear(x, self.weight, bias) + product_with_factors(x, U, V)


def sum_of_products(V: torch.Tensor, U: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return `weight + V U`, or `V U` without `weight`, shape `(out, in)`.

    Computed in at least float32, also under autocast, and returned in the parameters' own dtype: the low-rank product
    is small beside `W`, and half precision would round it away (law 4).
    """
    precision = torch.promote_types(V.dtype, torch.float32)
    with torch.autocast(device_type=V.device.type, enabled=False):
        if weight is None:
            product = torch.mm(V.to(precision), U.to(precision))
        else:
            product = torch.addmm(weight.to(precision), V.to(precision), U.to(precision))
    return product.to(V.dtype)


def product_with_factors(
    x: torch.Tensor, U: torch.Tensor, V: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return `V U x + bias`, shape `(..., in)` to `(..., out)`, as two products for every token."""
    if V.device.type == "cpu" and V.requires_grad:
        # Autograd takes a weight's gradient in the weight's own layout. In this one the narrow matrix of that product
        # stands on the left, where CPU libraries are several times as fast as with it on the right.
        V = V.t().contiguous().t()
    return F.linear(F.linear(x, U), V, bias)


class LowRankSum(PartitionedLayer):
    """A layer whose one weight is the sum `W + V U` at the full level, and `V U` at a core level.

    Attributes:
        in_features, out_features: the sizes of `W`, shape `(out_features, in_features)`.
        ranks: the rank of each core level.
        weight: `W`.
        U: the shares of the input factor; share `i` has shape `(ranks[i] - ranks[i-1], in_features)`.
        V: the shares of the output factor, share `i` of shape `(out_features, ranks[i] - ranks[i-1])`.
    """

    @property
    def num_levels(self) -> int:
        """The number of core levels plus one."""
        return len(self.ranks) + 1

    def factors(self, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `(U, V)` of a core level, shapes `(k, in_features)` and `(out_features, k)`.

        The full level has the factors of the largest core.
        """
        shares = min(level, len(self.ranks) - 1) + 1
        if shares == 1:
            return self.U[0], self.V[0]
        return torch.cat(list(self.U)[:shares]), torch.cat(list(self.V)[:shares], dim=1)

    def merges(self, tokens: int, level: int | None = None) -> bool:
        """Whether `tokens` input rows are cheaper through one product with a weight formed first.

        The count is in multiply-adds: forming the weight costs `k in out` and, at the full level, `in out` for the
        sum; otherwise every token pays for the products with `U` and `V`. The backward pass doubles both sides.
        """
        level = self.level if level is None else level
        inputs, outputs = self.in_features, self.out_features
        if level == len(self.ranks):
            k = self.ranks[-1]
            return tokens * (k * (inputs + outputs) + outputs) > (k + 1) * inputs * outputs
        k = self.ranks[level]
        return tokens * k * (inputs + outputs) > (k + tokens) * inputs * outputs

    def merged_weight(self, level: int | None = None) -> torch.Tensor:
        """Return the one weight of a level, `W + V U` or `V U`, shape `(out_features, in_features)`.

        The sum is taken in float32 and returned in `W`'s dtype, as in `forward`.
        """
        level = self.level if level is None else level
        U, V = self.factors(level)
        return sum_of_products(V, U, self.weight if level == len(self.ranks) else None)


class PartitionedRankLinear(LowRankSum):
    """`LFC(x) = (V U + W) x + b`, a drop-in for `nn.Linear` (Section 4.1 of the paper).

    At its full level it computes `(W + V U) x + b`, at a core level `V U x + b` with the shares of `U` and `V` up to
    that level. `level` is a plain integer, switched for all layers of a model by `set_level`.

    Args:
        in_features (`int`): size of the last dimension of the input.
        out_features (`int`): size of the last dimension of the output.
        ranks (`tuple[int, ...]`): the rank of each core level, strictly increasing, each at most
            `min(in_features, out_features)`.
        bias (`bool`, defaults to `True`): whether there is a bias; it belongs to every level.
        device, dtype: of the parameters, as for `nn.Linear`.

    The constructor leaves the parameters uninitialised; `from_linear` and `load_state_dict` fill them.

    Attributes:
        weight: `W`, shape `(out_features, in_features)`.
        U: the shares of the input factor; share `i` has shape `(ranks[i] - ranks[i-1], in_features)`. PEFT: `lora_A`.
        V: the shares of the output factor, share `i` of shape `(out_features, ranks[i] - ranks[i-1])`. PEFT: `lora_B`.
        bias: shape `(out_features,)`, or None.
        level: the live level, `0` the smallest core, `len(ranks)` the full layer.
    """

    is_shardable = True

    def __init__(
        self, in_features: int, out_features: int, ranks: tuple[int, ...], bias=True, device=None, dtype=None
    ):
        super().__init__()
        ranks = tuple(ranks)
        if not ranks or any(b <= a for a, b in zip((0, *ranks), ranks, strict=False)):
            raise ValueError(f"ranks={ranks} must be positive and increase strictly, one rank for each core level.")
        if ranks[-1] > min(in_features, out_features):
            raise ValueError(
                f"ranks={ranks} goes beyond {min(in_features, out_features)}, the rank of a {out_features} x "
                f"{in_features} weight; leave out the larger ones."
            )
        self.in_features = in_features
        self.out_features = out_features
        self.ranks = ranks
        self.level = len(ranks)
        shares = [b - a for a, b in zip((0, *ranks), ranks, strict=False)]

        def parameter(*shape):
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.residual = FullRankWeight(parameter(out_features, in_features))
        self.U = nn.ParameterList([parameter(share, in_features) for share in shares])
        self.V = nn.ParameterList([parameter(out_features, share) for share in shares])
        if bias:
            self.bias = parameter(out_features)
        else:
            self.register_parameter("bias", None)

    @classmethod
    def structure_of(cls, linear: nn.Linear, ranks: tuple[int, ...]) -> "PartitionedRankLinear":
        """Return a layer around `linear`'s own bias, with uninitialised `W`, `U` and `V` of its device and dtype."""
        layer = cls(linear.in_features, linear.out_features, ranks, False, linear.weight.device, linear.weight.dtype)
        layer.bias = linear.bias
        layer.train(linear.training)
        return layer

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, ranks: tuple[int, ...], init: str = "svd", moments: InputMoments | None = None
    ) -> "PartitionedRankLinear":
        """Split `linear.weight` into `W + V U`; the bias stays the same parameter object.

        Args:
            linear: the layer to split; it is left as it is.
            ranks: as in the constructor.
            init: `"svd"` or `"random"`, see `PartitionConfig`.
            moments: what the layer read, for a start by its outputs with `"svd"`.
        """
        layer = cls.structure_of(linear, ranks)
        split_weight(linear.weight, layer.weight, layer.U, layer.V, init, moments)
        if not linear.weight.requires_grad:
            for parameter in (layer.weight, *layer.U, *layer.V):
                parameter.requires_grad_(False)
        return layer

    @classmethod
    def from_factors(cls, linear: nn.Linear, U: torch.Tensor, V: torch.Tensor) -> "PartitionedRankLinear":
        """Return a layer of one core whose `W` and bias are `linear`'s own parameter objects, beside given factors.

        Args:
            linear: the layer to add them to; it is left as it is.
            U: shape `(k, in_features)`, of any device and dtype; copied.
            V: shape `(out_features, k)`, likewise.
        """
        layer = cls.structure_of(linear, (len(U),))
        layer.residual.weight = linear.weight
        with torch.no_grad():
            layer.U[0].copy_(U)
            layer.V[0].copy_(V)
        for share in (layer.U[0], layer.V[0]):
            share.requires_grad_(linear.weight.requires_grad)
        return layer

    @property
    def weight(self) -> nn.Parameter:
        """`W`, the full-rank weight that only the full level uses; shape `(out_features, in_features)`."""
        return self.residual.weight

    def parameters_at(self, level: int) -> list[nn.Parameter]:
        """Return the shares of `U` and `V` up to the level, the bias, and at the full level `W`."""
        shares = [share for factor in (self.U, self.V) for share in list(factor)[: level + 1]]
        full = [self.weight] if level == len(self.ranks) else []
        return [*shares, *full, *([] if self.bias is None else [self.bias])]

    def modules_above_core(self) -> list[nn.Module]:
        """Return the holder of `W`."""
        return [self.residual]

    def stock_state(self, level: int) -> dict[str, torch.Tensor]:
        """Return the one weight of the level, `merged_weight(level)`, and the bias."""
        return {"weight": self.merged_weight(level)} | ({} if self.bias is None else {"bias": self.bias})

    def exported_size(self, level: int) -> int:
        """Count the numbers of an export: a core has its factors, the full network `W + V U` once."""
        if level < len(self.ranks):
            return super().exported_size(level)
        return self.weight.numel() + (0 if self.bias is None else self.bias.numel())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map shape `(..., in_features)` to `(..., out_features)`, at the live level."""
        U, V = self.factors(self.level)
        merge = self.merges(math.prod(x.shape[:-1]))
        if self.level == len(self.ranks):
            return self.residual(x, U, V, self.bias, merge)
        if merge:
            return F.linear(x, sum_of_products(V, U), self.bias)
        return product_with_factors(x, U, V, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, ranks={self.ranks}, "
            f"bias={self.bias is not None}, level={self.level}"
        )


@torch.no_grad()
def split_weight(
    weight: torch.Tensor,
    residual: torch.Tensor,
    U: nn.ParameterList,
    V: nn.ParameterList,
    init: str,
    moments: InputMoments | None = None,
    keeps_zero_rows: bool = False,
) -> None:
    """Split `weight` into factors and what remains, in place.

    Args:
        weight: shape `(out, in)`.
        residual: gets `weight - V U`; it may be `weight` itself.
        U: the shares to fill, share `i` of shape `(k_i, in)`.
        V: likewise, share `i` of shape `(out, k_i)`.
        init: `"svd"` or `"random"`, see `PartitionConfig`.
        moments: what was read, for a start by the outputs with `"svd"`.
        keeps_zero_rows: whether a row of zeros in `weight` is one in `V` and in `residual` too, exactly.
    """
    ranks = [len(share) for share in U]
    whole = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if moments is not None:
        filled_V, filled_U = factors_on_text(whole, sum(ranks), moments)
    else:
        filled_V, filled_U = (_svd_factors if init == "svd" else _random_factors)(whole, sum(ranks))
    if keeps_zero_rows:
        filled_V[~whole.any(dim=1)] = 0
    for share, rows, columns in zip(range(len(ranks)), filled_U.split(ranks), filled_V.split(ranks, 1), strict=True):
        U[share].copy_(rows)
        V[share].copy_(columns)
    # What remains is taken from the factors as they are stored, so that a narrow dtype's rounding lands in W.
    residual.copy_(whole - torch.cat(list(V), dim=1).to(whole.dtype) @ torch.cat(list(U)).to(whole.dtype))


def _svd_factors(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `(V, U)` whose product is the best rank-`rank` approximation, the singular values shared evenly."""
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    scale = values[:rank].sqrt()
    V = left[:, :rank] * scale
    U = right[:rank] * scale[:, None]
    # A weight of lower rank would give rows and columns that are zero on both sides, where no gradient ever moves
    # them. Their row of U takes the scale of an ordinary layer instead; their column of V stays zero, and so V U.
    dead = values[:rank] <= values[0] * torch.finfo(weight.dtype).eps * max(weight.shape)
    V[:, dead] = 0
    U[dead] = right[:rank][dead] / math.sqrt(weight.shape[1])
    return V, U


def _random_factors(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Gaussian `(V, U)` of equal scale whose product has the mean square of `weight` in expectation."""
    mean_square = weight.square().mean().item() or 1 / weight.shape[1]
    std = (mean_square / rank) ** 0.25
    V = torch.randn(weight.shape[0], rank, device=weight.device, dtype=weight.dtype) * std
    U = torch.randn(rank, weight.shape[1], device=weight.device, dtype=weight.dtype) * std
    return V, U
