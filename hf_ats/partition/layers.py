"""The interface of every partitioned layer: a module that computes one of several levels."""

import torch
from torch import nn


class PartitionedLayer(nn.Module):
    """A module that stands for one plain module at each level, and switches between them by its `level`.

    What differs between levels is held in whole parameters (law 1): a level reads those of `parameters_at(level)` and
    no others, so that a step at that level leaves the gradients of the others at None. Usually a level has all that
    lower levels have, and more; a batch normalization per level has none of theirs.

    Attributes:
        level: the live level, from 0, the smallest core, to `num_levels - 1`, the full network; `set_level` switches
            the layers of a whole model.
        is_shardable: whether FSDP version 2 keeps the laws for it: no step changes a buffer of it, and what a core
            step does not call is in `modules_above_core`.
    """

    level: int
    is_shardable = False

    @property
    def num_levels(self) -> int:
        """The number of levels, the full network included."""
        raise NotImplementedError

    def parameters_at(self, level: int) -> list[nn.Parameter]:
        """Return the layer's parameters that take part at a level."""
        raise NotImplementedError

    def buffers_at(self, level: int) -> list[torch.Tensor]:
        """Return the layer's buffers, such as running statistics, that a step at the level changes."""
        return list(self.buffers())

    def modules_above_core(self) -> list[nn.Module]:
        """Return the modules that a step of the smallest core never calls, and whose parameters nothing else touches.

        FSDP version 2 can make each of them a sharding unit of its own. Empty if the layer has no such modules.
        """
        return []

    def stock_state(self, level: int) -> dict[str, torch.Tensor]:
        """Return the state of the layer at a level as one plain module, by the plain module's names."""
        raise NotImplementedError

    def exported_size(self, level: int) -> int:
        """Count the numbers that the layer adds to the export of a level."""
        return sum(parameter.numel() for parameter in self.parameters_at(level))
