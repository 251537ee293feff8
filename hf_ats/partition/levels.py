"""The nested networks of a model: which is live, what takes part in each, how large they are.

A model that was never partitioned is a ladder of one rung: its only level is the full network.
"""

import contextlib
import operator
from collections.abc import Iterable, Iterator

from torch import nn

from .config import Composition, PartitionConfig
from .layers import PartitionedLayer


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module that `partition_` saw, below DistributedDataParallel and torch.compile."""
    for module in model.modules():
        if hasattr(module, "_ats_partition"):
            return module
    return model


def is_partitioned(model: nn.Module) -> bool:
    """Whether the model holds partitioned layers."""
    return any(isinstance(module, PartitionedLayer) for module in model.modules())


def find_partition(model: nn.Module) -> PartitionConfig | Composition | None:
    """Return what `partition_` was given; several configurations as a `Composition`.

    It is None for a model that was never partitioned, and for a sum of two networks, which needs no partition.
    """
    return getattr(unwrapped(model), "_ats_partition", None)


def partitioned_layers(model: nn.Module) -> dict[str, PartitionedLayer]:
    """Return the partitioned layers by dotted name, in the order of the model; none of an unpartitioned model."""
    return {name: m for name, m in unwrapped(model).named_modules() if isinstance(m, PartitionedLayer)}


def num_levels(model: nn.Module) -> int:
    """Return the number of nested networks: the cores, and the full network."""
    layers = partitioned_layers(model).values()
    return next((layer.num_levels for layer in layers), 1)


def level_names(model: nn.Module) -> list[str]:
    """Return a name for each level, in order, as metrics and exports use them: `["core", "full"]` in the paper's case.

    The levels between the ends of a ladder are `"level1"`, `"level2"`, and so on. An unpartitioned model has `"full"`.
    """
    return names_of_levels(num_levels(model) - 1)


def names_of_levels(cores: int) -> list[str]:
    """Return the `level_names` of a model with that many cores."""
    return [*["core", *(f"level{level}" for level in range(1, cores))][:cores], "full"]


def sort_levels(names: Iterable[str]) -> list[str]:
    """Return the different names of levels in order, from the smallest core to the full network."""
    return sorted(set(names), key=lambda name: (name == "full", name != "core", len(name), name))


def resolve_level(model: nn.Module, level: int | str) -> int:
    """Return the integer of a level given as an integer or by its name, as command lines have both.

    Raises:
        ValueError: there is no such level; the message lists the model's.
    """
    names = level_names(model)
    if isinstance(level, str) and level in names:
        return names.index(level)
    number = int(level) if isinstance(level, str) and level.isdecimal() else level
    if hasattr(number, "__index__") and not isinstance(number, bool) and 0 <= operator.index(number) < len(names):
        return operator.index(number)
    kind = type(unwrapped(model)).__name__
    if names == ["full"]:
        raise ValueError(
            f"level={level!r} is not a level of this {kind}, which is not partitioned: it has 'full' only. Call "
            "partition_(model, PartitionConfig(...)) for a core."
        )
    raise ValueError(
        f"level={level!r} is not a level of this {kind}; write one of {', '.join(map(repr, names))} or an integer "
        f"from 0 to {len(names) - 1}."
    )


def get_level(model: nn.Module) -> int:
    """Return the live level, 0 for an unpartitioned model."""
    layers = partitioned_layers(model).values()
    return next((layer.level for layer in layers), 0)


def set_level(model: nn.Module, level: int | str) -> None:
    """Make one of the nested networks live: `"core"`, `"full"`, or an integer from 0, the smallest core.

    Raises:
        ValueError: the model has no such level.
    """
    level = resolve_level(model, level)
    for layer in partitioned_layers(model).values():
        layer.level = level


@contextlib.contextmanager
def at_level(model: nn.Module, level: int | str) -> Iterator[nn.Module]:
    """Call `set_level` for the length of a `with` block; put back what was live before, also after an exception."""
    level = resolve_level(model, level)
    with layers_at_level(list(partitioned_layers(model).values()), level):
        yield model


@contextlib.contextmanager
def layers_at_level(layers: list[PartitionedLayer], level: int) -> Iterator[None]:
    """Switch the given layers as `at_level` does, so that a step does not search the model for them."""
    before = [layer.level for layer in layers]
    for layer in layers:
        layer.level = level
    try:
        yield
    finally:
        for layer, previous in zip(layers, before, strict=True):
            layer.level = previous


def parameters_at_level(model: nn.Module, level: int | str) -> dict[str, nn.Parameter]:
    """Return the parameters that take part at a level, by name, each once: the mask of the level (law 1).

    These are every parameter outside the partitioned layers, and the layers' own at that level. The full level has all
    of them, except the batch normalizations of the cores.
    """
    level = resolve_level(model, level)
    others = set()  # a layer may be inside another, of which the level may lack it
    for layer in partitioned_layers(model).values():
        live = {id(parameter) for parameter in layer.parameters_at(level)}
        others |= {id(parameter) for parameter in layer.parameters()} - live
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in others}


def count_parameters(model: nn.Module, level: int | str) -> int:
    """Count the numbers that take part at a level, tied ones once. By rank the full level counts `W`, `U` and `V`."""
    return sum(parameter.numel() for parameter in parameters_at_level(model, level).values())


def count_exported_parameters(model: nn.Module, level: int | str) -> int:
    """Count the numbers in the export of a level: by rank a core has its factors, the full `W + V U` once."""
    level = resolve_level(model, level)
    layers = partitioned_layers(model).values()
    own = sum(parameter.numel() for layer in layers for parameter in layer.parameters_at(level))
    return count_parameters(model, level) + sum(layer.exported_size(level) for layer in layers) - own


def tie_as_(network: nn.Module, model: nn.Module) -> None:
    """Tie the parameters of `network` that are one and the same in `model`, in place.

    Both have these parameters by the same names. The config does not say which are tied:
    transformers 5 says that those of every T5 are, but most T5 models have an output layer of their own.
    """
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            owner, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(owner), attribute, network.get_parameter(known))
