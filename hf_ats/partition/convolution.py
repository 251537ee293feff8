"""The layers of a convolutional network whose core has fewer channels (Table 3 of the paper)."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from .layers import PartitionedLayer
from .width import NestedWeight


class PartitionedConv2d(NestedWeight):
    """A two-dimensional convolution with fewer channels at its core levels (Table 3 of the paper).

    Args:
        in_sizes, out_sizes (`tuple[int, ...]`): channels at each level, the full one last.
        kernel_size, stride, padding, dilation (`tuple[int, int]`): as for `nn.Conv2d`; padding with zeros.
        bias, device, dtype: as for `nn.Conv2d`.

    The constructor leaves the parameters uninitialised; `from_conv` and `load_state_dict` fill them.
    """

    def __init__(
        self,
        in_sizes,
        out_sizes,
        kernel_size,
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        bias=True,
        device=None,
        dtype=None,
    ):
        super().__init__(in_sizes, out_sizes, 1, tuple(kernel_size), bias, device, dtype)
        self.stride, self.padding, self.dilation = stride, padding, dilation

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, in_sizes, out_sizes, fill: bool = True) -> "PartitionedConv2d":
        """Cut `conv`'s weight and bias into blocks of its device and dtype; `conv` is left as it is.

        Without `fill` the blocks stay uninitialised.
        """
        geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        layer = cls(in_sizes, out_sizes, *geometry, conv.bias is not None, conv.weight.device, conv.weight.dtype)
        layer._take_over(conv)
        if fill:
            layer._fill(conv.weight.detach(), None if conv.bias is None else conv.bias.detach())
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map shape `(batch, in, height, width)` to `(batch, out, height', width')`, in the level's channels."""
        weight, bias = self.at(self.level)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)


class PartitionedBatchNorm2d(PartitionedLayer):
    """A batch normalization for each level, since channels have other statistics in another network (Appendix D).

    Args:
        norms (`list[nn.BatchNorm2d]`): one for each level, the full network's last.
    """

    def __init__(self, norms: list[nn.BatchNorm2d]):
        super().__init__()
        self.norms = nn.ModuleList(norms)
        self.level = len(norms) - 1

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm2d, sizes: tuple[int, ...]) -> "PartitionedBatchNorm2d":
        """Take `norm` itself for the full level, and a copy of its first `sizes[level]` channels for each core."""
        return cls([*(_first_channels(norm, size) for size in sizes[:-1]), norm]).train(norm.training)

    @property
    def num_levels(self) -> int:
        """The number of levels, the full one included."""
        return len(self.norms)

    def __getattr__(self, name: str):
        # Models ask a batch normalization for its weight, bias and statistics by name.
        if name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            return getattr(self.norms[self.level], name)
        return super().__getattr__(name)

    def parameters_at(self, level: int) -> list[nn.Parameter]:
        """Return the parameters of the level's own normalization."""
        return list(self.norms[level].parameters())

    def buffers_at(self, level: int) -> list[torch.Tensor]:
        """Return the running statistics of the level's own normalization."""
        return list(self.norms[level].buffers())

    def stock_state(self, level: int) -> dict[str, torch.Tensor]:
        """Return weight, bias and running statistics of the level's own normalization."""
        return self.norms[level].state_dict()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map shape `(batch, channels, height, width)`, with the live level's channels, to the same."""
        return self.norms[self.level](x)


@torch.no_grad()
def _first_channels(norm: nn.BatchNorm2d, size: int) -> nn.BatchNorm2d:
    narrow = copy.deepcopy(norm)
    narrow.num_features = size
    for name, parameter in norm.named_parameters():
        setattr(narrow, name, nn.Parameter(parameter[:size].clone(), requires_grad=parameter.requires_grad))
    for name, buffer in norm.named_buffers():
        setattr(narrow, name, buffer[:size].clone() if buffer.ndim else buffer.clone())
    return narrow
