"""Which sizes each level has where, when a network is partitioned by width, and in which order its neurons stand."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

from .config import PartitionConfig
from .convolution import PartitionedBatchNorm2d, PartitionedConv2d
from .layers import PartitionedLayer
from .presets import find_roles
from .width import PartitionedLinear
from .width_refusals import HEADS, parent_of, refuse_unfit_blocks


def plan_width(
    model: nn.Module, config: PartitionConfig, targets: dict[str, nn.Module]
) -> dict[str, Callable[[bool], PartitionedLayer]]:
    """For each target the function that makes its layer, given whether to fill it from the target.

    Raises:
        ValueError: a target has no role or a wrong one, a partner of it is missing, two levels are equally wide, or
            the architecture cannot be ordered by importance. Nothing has been changed then.
    """
    roles = find_roles(model, config, targets)
    refuse_unfit_blocks(model, config, roles)
    groups = {name: _heads(model, name) if role in HEADS else 1 for name, role in roles.items()}
    orders = _orders(model, roles, groups) if config.init == "importance" else {}
    return {
        name: _maker(config, name, module, roles[name], groups[name], orders.get(parent_of(name)))
        for name, module in targets.items()
    }


def narrowed_attentions(model: nn.Module, config: PartitionConfig, targets: dict[str, nn.Module]) -> list[str]:
    """The names of the attention modules whose heads get narrower queries and keys."""
    roles = find_roles(model, config, targets)
    return list(dict.fromkeys(parent_of(name) for name, role in roles.items() if role == "heads"))


def _maker(config: PartitionConfig, name: str, module: nn.Module, role: str, groups: int, order):
    def sizes(size: int, narrow: bool) -> tuple[int, ...]:
        return _sizes(config, name, size) if narrow else (size,) * (len(config.ratios) + 1)

    if role == "norm":
        widths = sizes(module.num_features, True)
        return lambda filled: PartitionedBatchNorm2d.from_batch_norm(module, widths)
    outputs, inputs = module.weight.shape[:2]
    outputs = sizes(outputs // groups, role in ("out", "both", *HEADS))
    inputs = sizes(inputs, role in ("in", "both"))
    if isinstance(module, nn.Conv2d):
        if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise ValueError(
                f"{name} is a convolution with groups={module.groups}, padding={module.padding!r} and "
                f"padding_mode={module.padding_mode!r}; by width only those of one group and padding by a number of "
                "zeros are partitioned."
            )
        make = PartitionedConv2d.from_conv, PartitionedConv2d.structure_of
        return lambda fill: make[not fill](module, inputs, outputs)
    shape = (inputs, outputs, groups, role == "filled_heads")
    ordered = {"in_order" if role == "in" else "out_order": order}
    return lambda fill: (
        PartitionedLinear.from_linear(module, *shape, **ordered)
        if fill
        else PartitionedLinear.structure_of(module, *shape)
    )


def _sizes(config: PartitionConfig, name: str, size: int) -> tuple[int, ...]:
    """The size at each level, the full one last."""
    sizes = (*(config.width(ratio, size) for ratio in config.ratios), size)
    if any(later <= earlier for earlier, later in pairwise(sizes)):
        raise ValueError(
            f"ratios={config.ratios} give {name} the widths {list(sizes)}, the full one last, and two are equal; "
            "write ratios further apart and from 1, or exclude the layer and its partners."
        )
    return sizes


def _heads(model: nn.Module, name: str) -> int:
    attention = model.get_submodule(parent_of(name))
    heads = getattr(attention, "num_heads", None) or getattr(attention, "n_heads", None)
    if heads is None:
        raise ValueError(
            f"target_modules gives {name} a role of heads, and the {type(attention).__name__} that holds it says "
            "neither num_heads nor n_heads; leave it out."
        )
    return heads


@torch.no_grad()
def _orders(model: nn.Module, roles: dict[str, str], groups: dict[str, int]) -> dict[str, torch.Tensor]:
    """For each block the order of its neurons, or of the dimensions of each of its heads, the largest first.

    A neuron's size is the product of the norms of its rows and columns in the block's layers, and a dimension's that
    of its rows in query and key: what a weight of it can add to the output is at most that.
    """
    sizes: dict[str, torch.Tensor] = {}
    heads: dict[str, int] = {}
    for name, role in roles.items():
        if role not in ("out", "in", *HEADS):
            raise ValueError(
                f"init='importance' orders the neurons of a block and the dimensions of a head, and {name} has the "
                f"role {role!r}; write init='first'."
            )
        layer = model.get_submodule(name)
        weight = layer.weight.float()
        if role == "in":
            norms = weight.norm(dim=0)
        else:
            norms = weight.norm(dim=1) if layer.bias is None else torch.hypot(weight.norm(dim=1), layer.bias.float())
        parent = parent_of(name)
        sizes[parent] = sizes.get(parent, torch.ones_like(norms)) * norms
        heads[parent] = max(heads.get(parent, 1), groups[name])
    return {parent: _order_in_groups(size, heads[parent]) for parent, size in sizes.items()}


def _order_in_groups(size: torch.Tensor, groups: int) -> torch.Tensor:
    by_group = size.unflatten(0, (groups, -1)).argsort(dim=1, descending=True, stable=True)
    first = torch.arange(groups, device=size.device)[:, None] * (math.prod(size.shape) // groups)
    return (by_group + first).flatten()
