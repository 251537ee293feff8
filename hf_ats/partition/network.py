"""Partition a whole model in place, and choose which of its nested networks is live."""

import contextlib
import copy
import operator
from collections.abc import Iterator
from functools import cache

from torch import nn

from .config import PartitionConfig
from .layers import PartitionedRankLinear
from .presets import find_targets

_MODEL_TYPE_PREFIX = "ats_partitioned_"
_CONFIG_FIELD = "ats_partition"


def partition_(model: nn.Module, config: PartitionConfig) -> nn.Module:
    """Replaces the chosen linear layers of `model` by partitioned ones, in place, at full level.

    Nothing changes at full level: the model computes what it computed before (law 3). A Transformers model's `config`
    becomes one of type `ats_partitioned_<model_type>` that carries the partition, so that `save_pretrained` and the
    Trainer write complete checkpoints that `load_partitioned` reads and the stock classes do not take for their own.

    Args:
        model (`nn.Module`): any module; the presets know Marian, BART, mBART, M2M100/NLLB, Pegasus, T5 and mT5.
        config (`PartitionConfig`): what to split, into which cores.

    Returns:
        The same object.

    Raises:
        ValueError: the model is partitioned already, nothing matches, a match cannot be split, or two ratios give a
            layer the same rank. The model is then as it was.

    Example:

    ```python
    >>> model = partition_(MarianMTModel.from_pretrained(directory), PartitionConfig(ratios=[0.25]))
    >>> with at_level(model, "core"):
    ...     translation = model.generate(**batch)
    ```
    """
    return _replace_layers(
        model, config, lambda linear, ranks: PartitionedRankLinear.from_linear(linear, ranks, config.init)
    )


def partition_structure_(model: nn.Module, config: PartitionConfig) -> nn.Module:
    """`partition_` without the start of the factors: `W`, `U` and `V` are left for `load_state_dict` to fill."""
    return _replace_layers(model, config, PartitionedRankLinear.structure_of)


def _replace_layers(model: nn.Module, config: PartitionConfig, make_layer) -> nn.Module:
    if is_partitioned(model):
        raise ValueError(
            f"this {type(model).__name__} is partitioned already, with {partition_config(model)}; start from the "
            "unpartitioned model, or go on with this one."
        )
    targets = find_targets(model, config.target_modules, config.exclude_modules)
    ranks = {name: _ranks(config, name, linear) for name, linear in targets.items()}
    for name, linear in targets.items():
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, make_layer(linear, ranks[name]))
    model._ats_partition = config
    if hasattr(model, "config"):
        model.config = _partitioned_config(model.config, config)
    return model


def _ranks(config: PartitionConfig, name: str, linear: nn.Linear) -> tuple[int, ...]:
    ranks = tuple(config.rank(ratio, linear.in_features, linear.out_features) for ratio in config.ratios)
    if len(set(ranks)) < len(ranks):
        raise ValueError(
            f"ratios={config.ratios} give {name} ({linear.out_features} x {linear.in_features}) the ranks "
            f"{list(ranks)}, one of them twice; write ratios further apart, or exclude the layer."
        )
    return ranks


def _partitioned_config(model_config, config: PartitionConfig):
    model_config = copy.deepcopy(model_config)
    model_config.__class__ = _partitioned_config_class(type(model_config))
    setattr(model_config, _CONFIG_FIELD, config.to_dict())
    return model_config


@cache
def _partitioned_config_class(stock: type) -> type:
    fields = {"model_type": f"{_MODEL_TYPE_PREFIX}{stock.model_type}", "__reduce__": _reduce_config}
    return type(f"Partitioned{stock.__name__}", (stock,), fields)


def _reduce_config(config):
    # A class made on the fly has no name to be imported by, so a pickle holds the stock class instead.
    return _restore_config, (type(config).__mro__[1], config.__dict__)


def _restore_config(stock: type, fields: dict):
    config = object.__new__(_partitioned_config_class(stock))
    config.__dict__.update(fields)
    return config


def stock_config(model: nn.Module):
    """A copy of a partitioned Transformers model's config as its stock class wrote it, without the partition."""
    partition_config(model)
    model_config = copy.deepcopy(_unwrapped(model).config)
    model_config.__class__ = type(model_config).__mro__[1]
    delattr(model_config, _CONFIG_FIELD)
    return model_config


def stock_config_dict(config_dict: dict) -> tuple[dict, PartitionConfig]:
    """Splits a `config.json` that a partitioned model wrote into the stock one and the partition.

    Raises:
        ValueError: it is not the config of a partitioned model.
    """
    model_type = config_dict.get("model_type", "")
    if not model_type.startswith(_MODEL_TYPE_PREFIX) or _CONFIG_FIELD not in config_dict:
        raise ValueError(f"model_type={model_type!r} is not that of a partitioned checkpoint.")
    config_dict = dict(config_dict, model_type=model_type.removeprefix(_MODEL_TYPE_PREFIX))
    return config_dict, PartitionConfig.from_dict(config_dict.pop(_CONFIG_FIELD))


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module that `partition_` saw, below DistributedDataParallel and torch.compile."""
    for module in model.modules():
        if hasattr(module, "_ats_partition"):
            return module
    return model


def is_partitioned(model: nn.Module) -> bool:
    """Whether the model holds partitioned layers."""
    return any(isinstance(module, PartitionedRankLinear) for module in model.modules())


def partition_config(model: nn.Module) -> PartitionConfig:
    """The `PartitionConfig` that `partition_` was given.

    Raises:
        ValueError: the model is not partitioned.
    """
    if not is_partitioned(model):
        raise ValueError(
            f"this {type(model).__name__} is not partitioned; call partition_(model, PartitionConfig(...))."
        )
    return _unwrapped(model)._ats_partition


def partitioned_layers(model: nn.Module) -> dict[str, PartitionedRankLinear]:
    """The partitioned layers by dotted name, in the order of the model; empty for an unpartitioned model."""
    return {name: m for name, m in _unwrapped(model).named_modules() if isinstance(m, PartitionedRankLinear)}


def num_levels(model: nn.Module) -> int:
    """The number of nested networks: the cores, and the full network.

    Raises:
        ValueError: the model is not partitioned.
    """
    return len(partition_config(model).ratios) + 1


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
    partition_config(model)
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

    The full level has all of them; a core level has the shares of `U` and `V` up to it and every parameter outside
    the partitioned layers.
    """
    level = resolve_level(model, level)
    above: set[int] = set()
    for layer in partitioned_layers(model).values():
        if level < len(layer.ranks):
            above.add(id(layer.weight))
        above.update(id(parameter) for factor in (layer.U, layer.V) for parameter in list(factor)[level + 1 :])
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in above}


def count_parameters(model: nn.Module, level: int | str) -> int:
    """How many numbers take part at a level, tied ones once. The full level counts `W`, `U` and `V`."""
    return sum(parameter.numel() for parameter in parameters_at_level(model, level).values())


def count_exported_parameters(model: nn.Module, level: int | str) -> int:
    """How many numbers the exported network of a level holds: a core its factors, the full network `W + V U` once."""
    level = resolve_level(model, level)
    count = count_parameters(model, level)
    if level == num_levels(model) - 1:
        for layer in partitioned_layers(model).values():
            count -= sum(parameter.numel() for factor in (layer.U, layer.V) for parameter in factor)
    return count
