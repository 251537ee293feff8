"""Encoders and decoders whose core has fewer layers: a list of layers that shows those of the live level.

           layers of the full network    0   1   2   3   4   5

           level 0, the smallest core    0
           level 1                       0                   5
           level 2, full                 0   1   2   3   4   5

A core calls its layers one after another, as a stock model of so many layers does.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from .config import PartitionConfig
from .layers import PartitionedLayer
from .levels import partitioned_layers
from .presets import DEPTH_PRESETS, find_by_model_type, matches


class PartitionedStack(PartitionedLayer, nn.ModuleList):
    """The layers of an encoder or decoder; as a list, it is that of the live level.

    Its modules and parameters have the names that a plain `nn.ModuleList` gives them, at any level. Each layer of a
    decoder has a number by which it finds its keys and values in a cache: at the level that is live, these numbers
    count from 0, as in a stock model.

    Args:
        layers (`Iterable[nn.Module]`): all layers of the full network, in order; they stay the same objects.
        kept (`Sequence[Sequence[int]]`): the indices of the layers of each core, increasing, each a part of the next.
        config_field (`str`): what a stock config calls the number of these layers.

    Attributes:
        kept: the indices by level, those of all layers last.
        level: the live level, `0` the smallest core, `len(kept) - 1` the full network.
    """

    is_shardable = True

    def __init__(self, layers: Iterable[nn.Module], kept: Sequence[Sequence[int]], config_field: str):
        super().__init__()
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)
        self.kept = (*map(tuple, kept), tuple(range(len(self._modules))))
        self.config_field = config_field
        self.level = len(self.kept) - 1

    @property
    def level(self) -> int:
        """The live level; setting it numbers the layers of a decoder for the cache."""
        return self._level

    @level.setter
    def level(self, level: int) -> None:
        self._level = level
        for number, layer in enumerate(self):
            for module in layer.modules():
                if vars(module).get("layer_idx") is not None:
                    module.layer_idx = number

    @property
    def num_levels(self) -> int:
        """The number of levels, the full one included."""
        return len(self.kept)

    def _at(self, level: int) -> list[nn.Module]:
        return [self._modules[str(index)] for index in self.kept[level]]

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._at(self.level))

    def __len__(self) -> int:
        return len(self.kept[self.level])

    def __getitem__(self, index):
        layers = self._at(self.level)[index]
        return nn.ModuleList(layers) if isinstance(index, slice) else layers

    def parameters_at(self, level: int) -> list[nn.Parameter]:
        """Return the parameters of the level's layers."""
        return [parameter for layer in self._at(level) for parameter in layer.parameters()]

    def buffers_at(self, level: int) -> list[torch.Tensor]:
        """Return the buffers of the level's layers."""
        return [buffer for layer in self._at(level) for buffer in layer.buffers()]

    def modules_above_core(self) -> list[nn.Module]:
        """Return the layers that the smallest core lacks."""
        return [layer for layer in self._at(-1) if layer not in self._at(0)]

    def stock_state(self, level: int) -> dict[str, torch.Tensor]:
        """Return the state of the level's layers, numbered from 0."""
        return nn.ModuleList(self._at(level)).state_dict()

    def exported_name(self, level: int, name: str) -> str | None:
        """Return the name, in an export of a level, of what is called `name` in here; None if the level lacks it."""
        index, *rest = name.split(".")
        kept = self.kept[level]
        return ".".join([str(kept.index(int(index))), *rest]) if int(index) in kept else None


def partitioned_stacks(model: nn.Module) -> dict[str, PartitionedStack]:
    """Return the partitioned stacks by dotted name: none, the encoder's, the decoder's, or both."""
    return {name: one for name, one in partitioned_layers(model).items() if isinstance(one, PartitionedStack)}


def exported_names(model: nn.Module, level: int) -> Callable[[str], str | None]:
    """Return the function from a module's or tensor's name to its name in the export of a level, None without one."""
    stacks = partitioned_stacks(model)

    def exported(name: str) -> str | None:
        for stack, layers in stacks.items():
            if name.startswith(f"{stack}."):
                inside = layers.exported_name(level, name.removeprefix(f"{stack}."))
                return inside and f"{stack}.{inside}"
        return name

    return exported


def layer_stacks(model: nn.Module) -> dict[str, str]:
    """Return the dotted name of the list of layers of each half, `"encoder"` and `"decoder"`, that the model has."""
    presets = find_by_model_type(DEPTH_PRESETS, getattr(model, "config", None)) or {}
    names = [name for name, _ in model.named_modules()]
    found = {half: next((n for n in names if matches([suffix], n)), None) for half, (suffix, _) in presets.items()}
    return {half: name for half, name in found.items() if name is not None}


def kept_layers(model: nn.Module, config: PartitionConfig) -> dict[str, tuple[int, ...]]:
    """Return the indices of the layers that the smallest core of a depth keeps, by the name of their list.

    Raises:
        ValueError: as `partition_`, for a depth that the model cannot have.
    """
    return {name: make(False).kept[0] for name, make in plan_depth(model, config).items()}


def plan_depth(model: nn.Module, config: PartitionConfig) -> dict[str, Callable[[bool], PartitionedStack]]:
    """Return the function that makes each stack, by the name of the list of layers that it takes the place of.

    Raises:
        ValueError: the architecture has no preset, or lacks a half; it has no such layers; the levels are not nested,
            or two are equal; a layer shares a parameter; or no stock model can be what a core is.
    """
    presets = find_by_model_type(DEPTH_PRESETS, getattr(model, "config", None))
    kind = type(model).__name__
    if presets is None:
        raise ValueError(
            f"method='depth' knows where the layers of {', '.join(DEPTH_PRESETS)} are, and not those of this {kind}; "
            "partition it by rank or width."
        )
    levels, makers, stacks = {}, {}, layer_stacks(model)
    for half, (_, field) in presets.items():
        asked = getattr(config, f"{half}_layers")
        name = stacks.get(half)
        if name is None and asked is not None:
            raise ValueError(f"{half}_layers={asked}, but this {kind} has no {half}; leave it out.")
        if name is None:
            continue
        layers = model.get_submodule(name)
        everything = list(range(len(layers)))
        levels[half] = [everything] * config.num_cores if asked is None else _kept(f"{half}_layers", asked, everything)
        if asked is not None:
            _refuse_unfit_layers(model, half, name, levels[half][0])
            makers[name] = partial(_make, layers, levels[half], field)
        levels[half] = [*levels[half], everything]
    ladder = list(zip(*levels.values(), strict=True))
    if any(lower == higher for lower, higher in pairwise(ladder)):
        numbers = " and ".join(f"{len(one)} {half}" for half, one in zip(levels, ladder[-1], strict=True))
        raise ValueError(
            f"{config.layers_given()} keep the same layers at two levels of this {kind}, which has {numbers} layers; "
            "give each core more than the one below it, and the largest fewer than all."
        )
    if presets["encoder"][1] == "num_layers" and any(len(pair[0]) < len(pair[-1]) for pair in ladder[:-1]):
        raise ValueError(
            f"{config.layers_given()} give a core more decoder than encoder layers, and generate of Transformers "
            f"fails for such a {kind}; keep at least as many of the encoder."
        )
    return makers


def _make(layers: nn.ModuleList, kept: list[list[int]], field: str, fill: bool) -> PartitionedStack:
    return PartitionedStack(layers, kept, field)


def _kept(argument: str, asked: list, everything: list[int]) -> list[list[int]]:
    """Return the indices of each core's layers; a number of layers is taken evenly spaced from the next level's."""
    half, total = argument.removesuffix("_layers"), len(everything)
    larger, kept = everything, []
    for one in reversed(asked):
        if isinstance(one, int):
            if one > len(larger):
                raise ValueError(
                    f"{argument}={asked} gives a core {one} of the {total} {half} layers, and the next level has "
                    f"{len(larger)}; write numbers that increase, up to {total}."
                )
            step = (len(larger) - 1) / max(1, one - 1)
            one = [larger[round(number * step)] for number in range(one)]
        elif one[-1] >= total:
            raise ValueError(
                f"{argument}={asked} names layer {one[-1]}, and the {half} has the layers 0 to {total - 1}; write "
                "indices of these."
            )
        elif outside := sorted(set(one) - set(larger)):
            raise ValueError(
                f"{argument}={asked} is not nested: a core keeps layer {outside[0]}, and the next larger one does "
                "not; give that all layers of the smaller."
            )
        kept.insert(0, one)
        larger = one
    return kept


def _refuse_unfit_layers(model: nn.Module, half: str, stack: str, smallest: list[int]) -> None:
    """Check that layers can be left out: they share nothing, and a core has the first if only that holds all need."""
    layers, kind = model.get_submodule(stack), type(model).__name__
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    shared = next((name for name, parameter in layers.named_parameters() if owners[id(parameter)] > 1), None)
    if shared is not None:
        raise ValueError(
            f"{half}_layers leaves layers out, and {stack}.{shared} of this {kind} is shared with another module; "
            "partition it by rank or width."
        )
    first, last = ({name for name, _ in layers[end].named_parameters()} for end in (0, -1))
    if first - last and smallest[0] != 0:
        raise ValueError(
            f"{half}_layers gives a core the layers {smallest}, without layer 0, and all layers of this {kind} read "
            f"the {min(first - last)} that it holds; write {[0, *smallest]}."
        )
