"""The networks that exports hold, assembled from a partitioned model's tensors without touching the model."""

import copy
from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from ..partition import (
    Composition,
    LowRankSum,
    PartitionConfig,
    PartitionedLayer,
    PartitionedLinear,
    PartitionedRankLinear,
    PartitionedStack,
    TableReader,
    VocabularyFactors,
    exported_names,
    find_partition,
    partition_structure_,
    stock_config,
    tie_as_,
)
from .core_configs import config_at_level, has_narrow_config, narrow_config
from .registration import CORE_CLASSES

# The name of a parameter, within its layer or its network, to its value.
Tensors = dict[str, torch.Tensor]


def transformers_model(model: nn.Module, wanted_by: str) -> PreTrainedModel:
    """Return the Transformers model inside `model`, below DistributedDataParallel and torch.compile.

    Raises:
        TypeError: it is not one.
    """
    from accelerate.utils import extract_model_from_parallel

    # Keeping accelerate's mixed-precision wrapper of `forward` is what leaves the model as it is.
    model = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=False)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"{wanted_by} writes a checkpoint for Transformers, and {type(model).__name__} is not one of its models; "
            "save what you need of it yourself: the core of a sum is model.core, and a partitioned layer at its level "
            "is layer.stock_state(level), for each of hf_ats.partition.partitioned_layers(model)."
        )
    return model


def stock_network(model: PreTrainedModel, level: int, state: Callable[[PartitionedLayer], Tensors]) -> PreTrainedModel:
    """Return the stock class with the level's depth, and the tensors `state(layer)`, of full size, of each layer."""
    return _assembled(model, type(model), config_at_level(model, level), level, state)


def dense_core_network(model: PreTrainedModel, level: int) -> PreTrainedModel:
    """Return a core in the stock class, its layers of full size: `V U` multiplied out, or zeros filled in."""
    return stock_network(model, level, lambda layer: _filled_up(layer, level))


def core_network(model: PreTrainedModel, level: int) -> PreTrainedModel:
    """Return a core at its own size.

    This is the stock class if its config can say what is smaller: the number of layers, feed-forward layers that are
    equally wide throughout, the channels of a ResNet. Otherwise it is the core class of this architecture, with the
    factors of `level`, each a concatenation of the levels' shares, and the narrower weights.

    Raises:
        ValueError: there is no core class for this architecture.
    """
    low_rank, tables, narrower = _layers_of_core(model, level)
    config, told = _config_of_core(model, level, narrower)
    if told and not (low_rank or tables):
        return _assembled(model, type(model), config, level, lambda layer: layer.stock_state(level))
    core_class = _core_class(model)
    config.__class__ = core_class.config_class
    if low_rank:
        config.ats_ranks = {name: layer.ranks[level] for name, layer in low_rank.items()}
    if tables:
        config.ats_tables = {
            name: {"rank": table.ranks[level], "modules": [*_readers(model, table)]} for name, table in tables.items()
        }
    if not told:
        config.ats_widths = {name: list(reversed(layer.at(level)[0].shape)) for name, layer in narrower.items()}
        config.ats_heads = {name: layer.groups for name, layer in narrower.items() if layer.filled}

    def state(layer: PartitionedLayer) -> Tensors:
        if isinstance(layer, PartitionedRankLinear):
            U, V = layer.factors(level)
            return {"U.weight": U, "V.weight": V} | ({} if layer.bias is None else {"V.bias": layer.bias})
        if isinstance(layer, VocabularyFactors):
            return {"weight": torch.cat(list(layer.U)[: level + 1])}
        if isinstance(layer, TableReader):
            return dict(layer.named_parameters(recurse=False)) | {"weight": layer.factors(level)[1]}
        return layer.stock_state(level)

    return _assembled(model, core_class, config, level, state)


def blank_core(model: PreTrainedModel, partition: PartitionConfig | Composition | None) -> PreTrainedModel:
    """Return the smallest core that the export after `partition_(model, partition)` would hold, all its numbers 0.

    It has the size of the export and takes as long to run, and neither needs the core's numbers.

    Args:
        model: not partitioned; it is left as it is.
        partition: as for `partition_`; None gives the full network.

    Raises:
        ValueError: as `partition_`, and as `core_network`.
    """
    with torch.device("meta"):
        outline = type(model)(stock_config(model))
    _fill(outline, {name: tensor.detach().to("meta") for name, tensor in model.state_dict().items()}, model)
    outline.generation_config = copy.deepcopy(model.generation_config)
    with torch.device("meta"):
        partition_structure_(outline, partition)
    network = core_network(outline, 0).to_empty(device="cpu").eval()
    tie_as_(network, outline)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.zero_()
    return network


def _layers_of_core(model: PreTrainedModel, level: int) -> tuple[dict[str, PartitionedLayer], ...]:
    """Return the low-rank layers of a core, the factors of its tables, and narrower layers, by their names in it."""
    exported = exported_names(model, level)
    named = {exported(name): layer for name, layer in _own_layers(model).items()}
    named.pop(None, None)
    low_rank = {name: layer for name, layer in named.items() if isinstance(layer, PartitionedRankLinear)}
    tables = {name: layer for name, layer in named.items() if isinstance(layer, VocabularyFactors)}
    others = {name: layer for name, layer in named.items() if not isinstance(layer, LowRankSum | VocabularyFactors)}
    return low_rank, tables, others


def _own_layers(model: PreTrainedModel) -> dict[str, PartitionedLayer]:
    """Return the partitioned layers that hold tensors of their own, which lists of layers do not, by all their names.

    In transformers 4 a vocabulary table of T5 is one module of three names.
    """
    named = model.named_modules(remove_duplicate=False)
    return {
        name: one for name, one in named if isinstance(one, PartitionedLayer) and not isinstance(one, PartitionedStack)
    }


def _readers(model: PreTrainedModel, table: VocabularyFactors) -> list[str]:
    """Return the names of the modules that read a table."""
    return [name for name, one in _own_layers(model).items() if isinstance(one, TableReader) and one.table is table]


def _config_of_core(model: PreTrainedModel, level: int, narrower: dict[str, PartitionedLayer]):
    """Return the stock config of a core, and whether it says how wide the narrower layers are."""
    config = config_at_level(model, level)
    narrow = narrow_config(copy.deepcopy(config), narrower, level) if narrower else config
    return (config, False) if narrow is None else (narrow, True)


def check_core_class(model: PreTrainedModel) -> None:
    """Refuse, before a long training, a partitioned model whose cores would have no class in `core_network`.

    Raises:
        ValueError: it has none.
    """
    low_rank, tables, narrower = _layers_of_core(model, 0)
    if low_rank or tables or not _config_of_core(model, 0, narrower)[1]:
        _core_class(model)


def _core_class(model: PreTrainedModel) -> type:
    by_stock_class = {core_class.__mro__[2]: core_class for core_class in CORE_CLASSES}
    if type(model) not in by_stock_class:
        narrower = (
            ", or partition only the feed-forward layers, by width: such cores are of the stock class"
            if has_narrow_config(model)
            else ""
        )
        raise ValueError(
            f"there is no core class for {type(model).__name__}; the architectures that have one are "
            f"{', '.join(stock.__name__ for stock in by_stock_class)}. Start from one of them; or write "
            "export_core(..., dense=True) for a core in the stock class, at full size, from a model that "
            f"ATSSeq2SeqTrainer or ATSTrainer trained{narrower}."
        )
    return by_stock_class[type(model)]


@torch.no_grad()
def _filled_up(layer: PartitionedLayer, level: int) -> Tensors:
    """Return the tensors of a plain layer of full size that computes what `layer` does at `level`."""
    if isinstance(layer, LowRankSum | VocabularyFactors):
        return layer.stock_state(level)
    groups = layer.groups if isinstance(layer, PartitionedLinear) else 1
    state = {name: torch.zeros_like(tensor) for name, tensor in layer.stock_state(layer.num_levels - 1).items()}
    for name, tensor in layer.stock_state(level).items():
        if not tensor.ndim:  # how many batches a batch normalization has seen
            state[name] = tensor
            continue
        whole, part = (rows.unflatten(0, (groups, -1)) for rows in (state[name], tensor))
        whole[tuple(slice(size) for size in part.shape)] = part
    return state


def reference_network(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the model, in float32 on the CPU and in eval mode, whatever the given one is busy with."""
    config = stock_config(model)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        reference = type(model)(config)
        partition_structure_(reference, find_partition(model))
    _fill(reference, {name: _in_float32(tensor) for name, tensor in model.state_dict().items()}, model)
    stored = reference.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name not in stored:
            owner, _, attribute = name.rpartition(".")
            setattr(reference.get_submodule(owner), attribute, _in_float32(buffer))
    return reference.eval()


def _in_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype)


@torch.no_grad()
def _assembled(
    model: PreTrainedModel, network_class: type, config, level: int, tensors: Callable[[PartitionedLayer], Tensors]
) -> PreTrainedModel:
    layers, exported = _own_layers(model), exported_names(model, level)
    of_layers = tuple(f"{name}." for name in layers)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(of_layers)}
    for name, layer in layers.items():
        state |= {f"{name}.{suffix}": tensor for suffix, tensor in tensors(layer).items()}
    state = {exported(name): tensor for name, tensor in state.items() if exported(name) is not None}
    with torch.device("meta"):
        network = network_class(config)
    _fill(network, {name: _on_cpu(tensor.detach()) for name, tensor in state.items()}, model)
    if network.can_generate():
        network.generation_config = copy.deepcopy(model.generation_config)
    return network


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_meta else tensor.cpu()


def _fill(network: PreTrainedModel, state: Tensors, model: PreTrainedModel) -> None:
    network.load_state_dict(state, strict=True, assign=True)
    tie_as_(network, model)
