"""Partition a whole model in place, and keep its config in step."""

import copy
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import nn

from ..remote_code import allow_narrow_keys_, check_attention, refuse_nan
from .config import ADAPTER, EMBEDDINGS, Composition, PartitionConfig, partition_from_dict
from .depth import plan_depth
from .layers import PartitionedLayer
from .levels import find_partition, is_partitioned, unwrapped
from .moments import Moments, moments_of
from .presets import find_targets, longest_match
from .rank import PartitionedRankLinear
from .vocabulary import find_tables, plan_vocabulary
from .width_plan import plan_width

_MODEL_TYPE_PREFIX = "ats_partitioned_"
_CONFIG_FIELD = "ats_partition"


def partition_(
    model: nn.Module,
    config: PartitionConfig | Composition | Sequence[PartitionConfig],
    moments: Moments | None = None,
) -> nn.Module:
    """Replace the chosen layers of `model` by partitioned ones, in place, at full level.

    Nothing changes at full level: the model computes what it computed before (law 3). A Transformers model's `config`
    becomes one of type `ats_partitioned_<model_type>` that carries the partition, so that `save_pretrained` and the
    Trainer write complete checkpoints that `load_partitioned` reads and the stock classes do not take for their own.

    Args:
        model (`nn.Module`): any module; the presets know Marian, BART, mBART, M2M100/NLLB, Pegasus, T5 and mT5, and
            by width ResNet.
        config (`PartitionConfig`): what to split, into which cores. Several, in a list, are one ladder: a level is
            that level of each, so they have equally many cores, and no two may name the same module.
        moments (`dict[str, InputMoments]`, *optional*): what the model's modules read on some text, as `input_moments`
            returns it, from which cores of `init="svd"` and `"importance"` then begin; by default they do from the
            weights.

    Returns:
        The same object.

    Raises:
        ValueError: the model is partitioned already, nothing matches, a match cannot be split or is one of two
            partitions, two levels of a layer are equal, or a weight is NaN; or there are moments, and no core begins
            from them, or a module is not among them. The model is then as it was.

    Example:

    ```python
    >>> model = partition_(MarianMTModel.from_pretrained(directory), PartitionConfig(ratios=[0.25]))
    >>> with at_level(model, "core"):
    ...     translation = model.generate(**batch)
    >>> shorter = PartitionConfig(method="depth", decoder_layers=[1])
    >>> narrower = PartitionConfig(method="width", ratios=[0.5], target_modules=["fc1", "fc2"])
    >>> model = partition_(MarianMTModel.from_pretrained(directory), [shorter, narrower])
    >>> model = MarianMTModel.from_pretrained(directory)
    >>> model = partition_(model, PartitionConfig(ratios=[0.25]), input_moments(model, tokenizer, sentences))
    ```
    """
    if isinstance(config, Sequence):
        config = config[0] if len(config) == 1 else Composition(config)
    if any(part.init == ADAPTER for part in config.parts):
        raise ValueError(
            f"init={ADAPTER!r} takes the factors of an adapter, and there is none here; call "
            "partition_from_adapter_(model, adapter), or write init='svd'."
        )
    if moments is not None and not any(part.reads_moments for part in config.parts):
        raise ValueError(
            f"there are moments of calibration sentences, and no core of {config} begins from them; write init='svd' "
            "with method='rank' or init='importance' with method='width', or leave the calibration out."
        )
    return _replace_layers(model, config, fill=True, moments=moments)


# The factors `U` (k, in) and `V` (out, k) of layers, by their names.
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]


def partition_with_factors_(model: nn.Module, config: PartitionConfig, factors: Factors) -> nn.Module:
    """Partition with the factors of every layer given; `W` is the layer's weight itself."""
    return _replace_layers(model, config, fill=True, factors=factors)


def partition_structure_(model: nn.Module, config: PartitionConfig | Composition | None) -> nn.Module:
    """Partition without filling the shares; `load_state_dict` fills them later.

    Args:
        model: as for `partition_`.
        config: as for `partition_`, or None, which leaves the model as it is.
    """
    return model if config is None else _replace_layers(model, config, fill=False)


def _replace_layers(
    model: nn.Module,
    config: PartitionConfig | Composition,
    fill: bool,
    factors: Factors | None = None,
    moments: Moments | None = None,
) -> nn.Module:
    if is_partitioned(model):
        partition = find_partition(model) or "levels of its own"
        raise ValueError(
            f"this {type(model).__name__} is partitioned already, with {partition}; start from the unpartitioned "
            "model, or go on with this one."
        )
    if fill:
        config = _with_tables(model, config)
    makers, attentions = {}, []
    for part in config.parts:
        of_part, narrowed = _plan(model, part, factors, moments if part.reads_moments else None)
        twice = next((name for name in of_part if name in makers), None)
        if twice is not None:
            raise ValueError(
                f"two partitions name {twice}, which can be in one only; leave it out of one, by its target_modules, "
                "exclude_modules, or numbers of layers."
            )
        makers |= of_part
        attentions += narrowed
    if fill:
        refuse_nan(model, f"this {type(model).__name__}")
    for attention in attentions:
        check_attention(attention)
    for attention in attentions:
        allow_narrow_keys_(attention)
    for name, make in makers.items():
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, make(fill))
    model._ats_partition = config
    if hasattr(model, "config"):
        model.config = _partitioned_config(model.config, config)
    return model


def _plan(
    model: nn.Module, config: PartitionConfig, factors: Factors | None, moments: Moments | None
) -> tuple[dict[str, Callable[[bool], PartitionedLayer]], list[nn.Module]]:
    """Return what makes each partitioned layer, by the name of what it replaces, and the attentions that narrow."""
    if config.method == "depth":
        return plan_depth(model, config), []
    targets = find_targets(model, config)
    if config.method == "rank":
        tables = plan_vocabulary(model, config, partial(_ranks, config), moments)
        return _plan_rank(config, targets, factors, moments) | tables, []
    return plan_width(model, config, targets, moments)


def _with_tables(model: nn.Module, config: PartitionConfig | Composition) -> PartitionConfig | Composition:
    """Return the partition with the modules that share each table, which a model without its weights does not show."""
    parts = [copy.copy(part) for part in config.parts]
    for part in parts:
        part.tables = find_tables(model, part) if part.has_embeddings else None
    return Composition(parts) if isinstance(config, Composition) else parts[0]


def _plan_rank(
    config: PartitionConfig, targets: dict[str, nn.Linear], factors: Factors | None, moments: Moments | None
):
    ranks = {name: _ranks(config, name, linear.weight) for name, linear in targets.items()}
    read = {name: None if moments is None else moments_of(moments, [name]) for name in targets}

    def make(name: str, linear: nn.Linear, fill: bool) -> PartitionedRankLinear:
        if not fill:
            return PartitionedRankLinear.structure_of(linear, ranks[name])
        if factors is not None:
            return PartitionedRankLinear.from_factors(linear, *factors[name])
        return PartitionedRankLinear.from_linear(linear, ranks[name], config.init, read[name])

    return {name: partial(make, name, linear) for name, linear in targets.items()}


def _ranks(config: PartitionConfig, name: str, weight: torch.Tensor) -> tuple[int, ...]:
    shape, most = f"{weight.shape[0]} x {weight.shape[1]}", min(weight.shape)
    if config.ranks is not None:
        rank = config.ranks[longest_match(config.ranks, name) or EMBEDDINGS]
        if rank > most:
            raise ValueError(
                f"ranks give {name} ({shape}) the rank {rank}, and such a weight has at most {most}; write less."
            )
        return (rank,)
    ranks = tuple(config.width(ratio, most) for ratio in config.ratios)
    if len(set(ranks)) < len(ranks):
        raise ValueError(
            f"ratios={config.ratios} give {name} ({shape}) the ranks {list(ranks)}, one of them twice; write ratios "
            "further apart, or exclude the layer."
        )
    return ranks


def _partitioned_config(model_config, config: PartitionConfig | Composition):
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
    """Return a copy of a Transformers model's config as its stock class wrote it, without a partition."""
    model_config = copy.deepcopy(unwrapped(model).config)
    if hasattr(model_config, _CONFIG_FIELD):
        model_config.__class__ = type(model_config).__mro__[1]
        delattr(model_config, _CONFIG_FIELD)
    return model_config


def stock_config_dict(config_dict: dict) -> tuple[dict, PartitionConfig | Composition]:
    """Split a `config.json` that a partitioned model wrote into the stock one and the partition.

    Raises:
        ValueError: it is not the config of a partitioned model.
    """
    model_type = str(config_dict.get("model_type"))
    if not model_type.startswith(_MODEL_TYPE_PREFIX) or _CONFIG_FIELD not in config_dict:
        raise ValueError(f"model_type={model_type!r} is not that of a partitioned checkpoint.")
    config_dict = dict(config_dict, model_type=model_type.removeprefix(_MODEL_TYPE_PREFIX))
    fields = config_dict.pop(_CONFIG_FIELD)
    try:
        return config_dict, partition_from_dict(fields)
    except TypeError as error:
        raise ValueError(f"{_CONFIG_FIELD}={fields!r} is not a partition ({error}).") from None
