"""Layers whose core is narrower: nested blocks of a weight, and the paper's `PartitionedLinear` (Section 4.2).

The weight of a level is the block of the first `out` rows and `in` columns of the full weight. Each level adds the
part of its block that the level below lacks, as parameters of their own (law 1):

              in_0          in_1          in_2
        .-------------.-------------.-------------.
        | core_weight |   columns   |             |   out_0      level 0, the smallest core
        :-------------'-------------:   columns   |
        |           rows            |             |   out_1      level 1: extensions[0]
        :---------------------------'-------------:
        |                  rows                   |   out_2      level 2, full: extensions[1]
        '-----------------------------------------'

A layer that grows only in its outputs, such as the first of a feed-forward block, has rows only; the second, which
grows in its inputs, has columns only. With several groups, the heads of an attention, each group of rows is cut like
this, so that a level keeps the first rows of every head.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from .layers import PartitionedLayer


class Extension(nn.Module):
    """The blocks that one level adds, which no other module touches.

    It is a module of its own so that FSDP version 2 can make it a sharding unit of its own: a step at a lower level
    never calls it, and so neither gathers nor reduces its blocks. For the same reason they are joined inside
    `forward`.

    Attributes:
        rows: shape `(groups * new outputs, inputs, *kernel_size)`, or None.
        columns: shape `(groups * old outputs, new inputs, *kernel_size)`, or None.
        bias: of the rows, shape `(groups * new outputs,)`, or None.
    """

    def __init__(
        self, rows: nn.Parameter | None, columns: nn.Parameter | None, bias: nn.Parameter | None, groups: int
    ):
        super().__init__()
        for name, block in (("rows", rows), ("columns", columns), ("bias", bias)):
            self.register_parameter(name, block)
        self.groups = groups

    def forward(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map the weight and the bias of the level below to those of this level."""
        if self.columns is not None:
            weight = torch.cat((weight, self.columns), dim=1)
        if self.rows is not None:
            weight = self._below(weight, self.rows)
        if self.bias is not None:
            bias = self._below(bias, self.bias)
        return weight, bias

    def _below(self, upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
        """Join in each group of rows those of `upper` and then those of `lower`."""
        if self.groups == 1:
            return torch.cat((upper, lower))
        halves = [rows.unflatten(0, (self.groups, -1)) for rows in (upper, lower)]
        return torch.cat(halves, dim=1).flatten(0, 1)


class NestedWeight(PartitionedLayer):
    """What the linear layer and the convolution share: the blocks of a weight and of its bias.

    The constructor leaves them uninitialised; `_fill` and `load_state_dict` fill them.

    Attributes:
        core_weight: shape `(groups * out_0, in_0, *kernel_size)`.
        core_bias: shape `(groups * out_0,)`, or None.
        extensions: what each level above the smallest core adds.
    """

    def __init__(
        self,
        in_sizes: tuple[int, ...],
        out_sizes: tuple[int, ...],
        groups: int = 1,
        kernel_size: tuple[int, ...] = (),
        bias=True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        in_sizes, out_sizes = tuple(in_sizes), tuple(out_sizes)
        for name, sizes in (("in_sizes", in_sizes), ("out_sizes", out_sizes)):
            if len(sizes) < 2 or sizes[0] < 1 or any(later < earlier for earlier, later in pairwise(sizes)):
                raise ValueError(f"{name}={sizes} must be positive and not decrease: one size a level, the full last.")
        if len(in_sizes) != len(out_sizes):
            raise ValueError(f"in_sizes={in_sizes} and out_sizes={out_sizes} must name the same number of levels.")
        self.in_sizes, self.out_sizes, self.groups, self.kernel_size = in_sizes, out_sizes, groups, kernel_size
        self.level = len(in_sizes) - 1

        def parameter(*shape):
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype)) if all(shape) else None

        self.core_weight = parameter(groups * out_sizes[0], in_sizes[0], *kernel_size)
        self.register_parameter("core_bias", parameter(groups * out_sizes[0]) if bias else None)
        self.extensions = nn.ModuleList()
        for (old_in, new_in), (old_out, new_out) in zip(pairwise(in_sizes), pairwise(out_sizes), strict=True):
            rows = parameter(groups * (new_out - old_out), new_in, *kernel_size)
            columns = parameter(groups * old_out, new_in - old_in, *kernel_size)
            self.extensions.append(
                Extension(rows, columns, parameter(groups * (new_out - old_out)) if bias else None, groups)
            )

    @property
    def num_levels(self) -> int:
        """The number of levels, the full one included."""
        return len(self.in_sizes)

    @property
    def weight(self) -> torch.Tensor:
        """Shape and dtype of the live level's weight, which some models ask for, without data: reading it raises."""
        shape = (self.groups * self.out_sizes[self.level], self.in_sizes[self.level], *self.kernel_size)
        return torch.empty(shape, dtype=self.core_weight.dtype, device="meta")

    def at(self, level: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return weight `(groups * out, in, *kernel_size)` and bias `(groups * out,)`, or None, of a level.

        At level 0 these are the parameters themselves.
        """
        weight, bias = self.core_weight, self.core_bias
        for extension in list(self.extensions)[:level]:
            weight, bias = extension(weight, bias)
        return weight, bias

    def parameters_at(self, level: int) -> list[nn.Parameter]:
        """Return the blocks up to the level."""
        core = [block for block in (self.core_weight, self.core_bias) if block is not None]
        return [*core, *self.extensions[:level].parameters()]

    def modules_above_core(self) -> list[nn.Module]:
        """Return the extensions."""
        return list(self.extensions)

    def stock_state(self, level: int) -> dict[str, torch.Tensor]:
        """Return the weight of the level, and its bias."""
        weight, bias = self.at(level)
        return {"weight": weight} | ({} if bias is None else {"bias": bias})

    def _take_over(self, module: nn.Module) -> None:
        """Take over the plain module's training mode, what is frozen in it, and its own bias if that is not cut."""
        self.train(module.training)
        if module.bias is not None and len(set(self.out_sizes)) == 1:
            self.core_bias = module.bias
        for name, block in self.named_parameters():
            of_bias = name.endswith("bias")
            block.requires_grad_((module.bias if of_bias else module.weight).requires_grad)

    @torch.no_grad()
    def _fill(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Copy the blocks out of a full weight `(groups * out, in, *kernel_size)` and bias."""
        rows = weight.unflatten(0, (self.groups, -1))
        biases = None if bias is None else bias.unflatten(0, (self.groups, -1))
        self.core_weight.copy_(rows[:, : self.out_sizes[0], : self.in_sizes[0]].flatten(0, 1))
        if biases is not None and len(set(self.out_sizes)) > 1:
            self.core_bias.copy_(biases[:, : self.out_sizes[0]].flatten())
        edges = zip(pairwise(self.in_sizes), pairwise(self.out_sizes), self.extensions, strict=True)
        for (old_in, new_in), (old_out, new_out), extension in edges:
            if extension.rows is not None:
                extension.rows.copy_(rows[:, old_out:new_out, :new_in].flatten(0, 1))
            if extension.columns is not None:
                extension.columns.copy_(rows[:, :old_out, old_in:new_in].flatten(0, 1))
            if extension.bias is not None:
                extension.bias.copy_(biases[:, old_out:new_out].flatten())

    def extra_repr(self) -> str:
        heads = f", groups={self.groups}" if self.groups > 1 else ""
        return f"in_sizes={self.in_sizes}, out_sizes={self.out_sizes}{heads}, level={self.level}"


class PartitionedLinear(NestedWeight):
    """A linear layer with fewer inputs, outputs, or both at its core levels (Section 4.2 and Appendix C of the paper).

    Args:
        in_sizes (`tuple[int, ...]`): input features at each level, the full one last; all equal if the inputs stay.
        out_sizes (`tuple[int, ...]`): output features at each level, of each group.
        groups (`int`, defaults to 1): groups of output features that are cut alike, such as attention heads.
        filled (`bool`, defaults to `False`): whether the output is filled up with zeros to its full size, in each
            group, for attention code that takes one size of heads only.
        bias, device, dtype: as for `nn.Linear`.

    The constructor leaves the parameters uninitialised; `from_linear` and `load_state_dict` fill them.

    Attributes:
        core_weight, core_bias, extensions: the blocks, see above.
        level: the live level, `0` the smallest core, `len(in_sizes) - 1` the full layer.
    """

    is_shardable = True

    def __init__(self, in_sizes, out_sizes, groups=1, filled=False, bias=True, device=None, dtype=None):
        super().__init__(in_sizes, out_sizes, groups, (), bias, device, dtype)
        self.filled = filled

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        in_sizes,
        out_sizes,
        groups=1,
        filled=False,
        fill: bool = True,
        in_order: torch.Tensor | None = None,
        out_order: torch.Tensor | None = None,
    ) -> "PartitionedLinear":
        """Cut `linear`'s weight and bias into blocks of its device and dtype.

        Args:
            linear: the layer to cut; it is left as it is.
            in_sizes: as in the constructor, like the next three.
            out_sizes: likewise.
            groups: likewise.
            filled: likewise.
            fill: whether to copy the numbers too; else the blocks stay uninitialised.
            in_order: indices `(in,)` of its inputs, those that the core keeps first; by default their own order.
            out_order: indices `(groups * out,)` of its outputs, likewise.
        """
        weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
        layer = cls(in_sizes, out_sizes, groups, filled, bias is not None, weight.device, weight.dtype)
        layer._take_over(linear)
        if in_order is not None:
            weight = weight[:, in_order]
        if out_order is not None:
            weight, bias = weight[out_order], None if bias is None else bias[out_order]
        if fill:
            layer._fill(weight, bias)
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map shape `(..., in)` to `(..., groups * out)`, in the sizes of the live level (`out` is full if filled)."""
        y = F.linear(x, *self.at(self.level))
        missing = self.out_sizes[-1] - self.out_sizes[self.level]
        if self.filled and missing:
            y = F.pad(y.unflatten(-1, (self.groups, -1)), (0, missing)).flatten(-2)
        return y
