"""The linear layer that is narrower in the core: the paper's `PartitionedLinear` (Section 4.2)."""

import torch
from torch import nn
from torch.nn import functional as F

from .nested import NestedWeight


class PartitionedLinear(NestedWeight):
    """A linear layer with fewer inputs, outputs, or both at its core levels (Section 4.2 and Appendix C of the paper).

    Args:
        in_sizes (`tuple[int, ...]`): input features at each level, the full one last; all equal where inputs stay.
        out_sizes (`tuple[int, ...]`): output features at each level, of each group.
        groups (`int`, defaults to 1): groups of output features that are cut alike, such as attention heads.
        filled (`bool`, defaults to `False`): whether the output is filled up with zeros to its full size, in each
            group, for attention code that takes one size of heads only.
        bias, device, dtype: as for `nn.Linear`.

    The constructor leaves the parameters uninitialised; `from_linear` and `load_state_dict` fill them.

    Attributes:
        core_weight, core_bias, extensions: the blocks, see `nested.py`.
        level: the live level, `0` the smallest core, `len(in_sizes) - 1` the full layer.
    """

    def __init__(self, in_sizes, out_sizes, groups=1, filled=False, bias=True, device=None, dtype=None):
        super().__init__(in_sizes, out_sizes, groups, (), bias, device, dtype)
        self.filled = filled

    @classmethod
    def structure_of(cls, linear: nn.Linear, in_sizes, out_sizes, groups=1, filled=False) -> "PartitionedLinear":
        """A layer with uninitialised blocks of `linear`'s device and dtype."""
        layer = cls(
            in_sizes, out_sizes, groups, filled, linear.bias is not None, linear.weight.device, linear.weight.dtype
        )
        layer._take_over(linear)
        return layer

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        in_sizes,
        out_sizes,
        groups=1,
        filled=False,
        in_order: torch.Tensor | None = None,
        out_order: torch.Tensor | None = None,
    ) -> "PartitionedLinear":
        """Cuts `linear`'s weight and bias into blocks.

        Args:
            linear: the layer to cut; it is left as it is.
            in_sizes: as in the constructor, like the next three.
            out_sizes: likewise.
            groups: likewise.
            filled: likewise.
            in_order: indices `(in,)` of its inputs, those that the core keeps first; by default their own order.
            out_order: indices `(groups * out,)` of its outputs, likewise.
        """
        layer = cls.structure_of(linear, in_sizes, out_sizes, groups, filled)
        weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
        if in_order is not None:
            weight = weight[:, in_order]
        if out_order is not None:
            weight, bias = weight[out_order], None if bias is None else bias[out_order]
        layer._fill(weight, bias)
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape `(..., in)` to `(..., groups * out)`, in the sizes of the live level (`out` is full if filled)."""
        y = F.linear(x, *self.at(self.level))
        missing = self.out_sizes[-1] - self.out_sizes[self.level]
        if self.filled and missing:
            y = F.pad(y.unflatten(-1, (self.groups, -1)), (0, missing)).flatten(-2)
        return y

    def to_linear(self, level: int) -> nn.Linear:
        """A plain `nn.Linear` of the level's sizes (not filled up); shares no memory with this layer."""
        with torch.no_grad():
            weight, bias = self.at(level)
            linear = nn.Linear(*reversed(weight.shape), bias=bias is not None, device="meta", dtype=weight.dtype)
            linear.weight = nn.Parameter(weight.clone())
            if bias is not None:
                linear.bias = nn.Parameter(bias.clone())
        return linear.train(self.training)
