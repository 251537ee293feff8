"""The nested networks of a partitioned model: which is live, what takes part in each, how large they are."""

import contextlib
import operator
from collections.abc import Iterator

from torch import nn

from .config import PartitionConfig
from .layers import PartitionedLayer


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module that `partition_` saw, below DistributedDataParallel and torch.compile."""
    for module in model.modules():
        if hasattr(module, "_ats_partition"):
            return module
    return model


def is_partitioned(model: nn.Module) -> bool:
    """Whether the model holds partitioned layers."""
    return any(isinstance(module, PartitionedLayer) for module in model.modules())


def partition_config(model: nn.Module) -> PartitionConfig:
    """The `PartitionConfig` that `partition_` was given.

    Raises:
        ValueError: the model is not partitioned, or is a sum of two networks, which has none.
    """
    _refuse_unpartitioned(model)
    config = _unwrapped(model)._ats_partition
    if config is None:
        raise ValueError(f"this {type(_unwrapped(model)).__name__} is a super-network by itself, without a partition.")
    return config


def _refuse_unpartitioned(model: nn.Module) -> None:
    if not is_partitioned(model):
        raise ValueError(
            f"this {type(model).__name__} is not partitioned; call partition_(model, PartitionConfig(...))."
        )


def partitioned_layers(model: nn.Module) -> dict[str, PartitionedLayer]:
    """The partitioned layers by dotted name, in the order of the model; empty for an unpartitioned model."""
    return {name: m for name, m in _unwrapped(model).named_modules() if isinstance(m, PartitionedLayer)}


def num_levels(model: nn.Module) -> int:
    """The number of nested networks: the cores, and the full network.

    Raises:
        ValueError: the model is not partitioned.
    """
    _refuse_unpartitioned(model)
    return next(iter(partitioned_layers(model).values())).num_levels


def level_names(model: nn.Module) -> list[str]:
    """A name for each level, in order, as metrics and exports use them: `["core", "full"]` in the paper's case.

    The levels between the ends of a ladder are `"level1"`, `"level2"`, and so on.
    """
    return names_of_levels(num_levels(model) - 1)


def names_of_levels(cores: int) -> list[str]:
    """`level_names` of a model with that many cores."""
    return ["core", *(f"level{level}" for level in range(1, cores)), "full"]


def resolve_level(model: nn.Module, level: int | str) -> int:
    """The integer of a level given as an integer or by its name.

    Raises:
        ValueError: there is no such level; the message lists the model's.
    """
    names = level_names(model)
    if isinstance(level, str) and level in names:
        return names.index(level)
    if hasattr(level, "__index__") and not isinstance(level, bool) and 0 <= operator.index(level) < len(names):
        return operator.index(level)
    raise ValueError(
        f"level={level!r} is not a level of this {type(_unwrapped(model)).__name__}; write one of "
        f"{', '.join(repr(name) for name in names)} or an integer from 0 to {len(names) - 1}."
    )


def get_level(model: nn.Module) -> int:
    """The live level.

    Raises:
        ValueError: the model is not partitioned.
    """
    _refuse_unpartitioned(model)
    return next(iter(partitioned_layers(model).values())).level


def set_level(model: nn.Module, level: int | str) -> None:
    """Makes one of the nested networks live: `"core"`, `"full"`, or an integer from 0, the smallest core.

    Raises:
        ValueError: the model is not partitioned, or has no such level.
    """
    level = resolve_level(model, level)
    for layer in partitioned_layers(model).values():
        layer.level = level


@contextlib.contextmanager
def at_level(model: nn.Module, level: int | str) -> Iterator[nn.Module]:
    """`set_level` for the length of a `with` block; puts back what was live before, also after an exception."""
    before = get_level(model)
    set_level(model, level)
    try:
        yield model
    finally:
        set_level(model, before)


def parameters_at_level(model: nn.Module, level: int | str) -> dict[str, nn.Parameter]:
    """The parameters that take part at a level, by name, each once: the mask of the level (law 1).

    Every parameter outside the partitioned layers, and the layers' own of that level. The full level has all of them,
    but for the batch normalizations of the cores.
    """
    level = resolve_level(model, level)
    layers = partitioned_layers(model).values()
    live = {id(parameter) for layer in layers for parameter in layer.parameters_at(level)}
    others = {id(parameter) for layer in layers for parameter in layer.parameters()} - live
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in others}


def count_parameters(model: nn.Module, level: int | str) -> int:
    """How many numbers take part at a level, tied ones once. By rank the full level counts `W`, `U` and `V`."""
    return sum(parameter.numel() for parameter in parameters_at_level(model, level).values())


def count_exported_parameters(model: nn.Module, level: int | str) -> int:
    """How many numbers the exported network of a level holds: by rank a core its factors, the full `W + V U` once."""
    level = resolve_level(model, level)
    layers = partitioned_layers(model).values()
    own = sum(parameter.numel() for layer in layers for parameter in layer.parameters_at(level))
    return count_parameters(model, level) - own + sum(layer.exported_size(level) for layer in layers)


def tie_as_(network: nn.Module, model: nn.Module) -> None:
    """Ties those parameters of `network` that are one and the same in `model`, in place.

    Both have these parameters by the same names. The config does not say which are tied:
    transformers 5 has it that those of every T5 are, and most T5 have an output layer of their own.
    """
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            owner, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(owner), attribute, network.get_parameter(known))
