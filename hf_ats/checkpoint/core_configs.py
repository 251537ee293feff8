"""Configs of stock architectures for cores of fewer layers, and of smaller width where they can say it."""

from collections.abc import Callable

from transformers import PreTrainedModel

from ..partition import PartitionedLayer, find_by_model_type, partitioned_stacks, stock_config


def config_at_level(model: PreTrainedModel, level: int):
    """Return the stock config with the number of layers that the level has."""
    config = stock_config(model)
    for stack in partitioned_stacks(model).values():
        number = len(stack.kept[level])
        setattr(config, stack.config_field, number)
        if stack.config_field == "encoder_layers":
            config.num_hidden_layers = number  # the same field to transformers 5, a second one to version 4
    return config


def narrow_config(config, layers: dict[str, PartitionedLayer], level: int):
    """Return the stock config of a core of smaller width, or None if it cannot say how wide the layers are.

    Args:
        config: a copy of the model's, with the core's number of layers; it may be changed.
        layers: the narrower layers of the core, by their names there.
        level: of the core.
    """
    narrow = find_by_model_type(_FIELDS, config)
    return narrow(config, layers, level) if narrow is not None else None


def has_narrow_config(model: PreTrainedModel) -> bool:
    """Return whether cores of smaller width of this architecture can be of its own class, for some target modules."""
    return find_by_model_type(_FIELDS, stock_config(model)) is not None


def _like_bart(config, layers: dict[str, PartitionedLayer], level: int):
    """Set `encoder_ffn_dim` and `decoder_ffn_dim`, which all layers of a half share."""
    sizes = {"encoder": set(), "decoder": set()}
    for name, layer in layers.items():
        if not name.endswith((".fc1", ".fc2")):
            return None
        half = "encoder" if ".encoder." in f".{name}" else "decoder"
        sizes[half].add(layer.out_sizes[level] if name.endswith(".fc1") else layer.in_sizes[level])
    for half, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        narrowed = sum(name.endswith(".fc1") and f".{half}." in f".{name}" for name in layers)
        if narrowed not in (0, count) or len(sizes[half]) > 1:
            return None
        if sizes[half]:
            setattr(config, f"{half}_ffn_dim", sizes[half].pop())
    return config


def _like_t5(config, layers: dict[str, PartitionedLayer], level: int):
    """Set `d_ff`, which all layers of both halves share."""
    sizes = set()
    for name, layer in layers.items():
        if not name.endswith((".wi", ".wi_0", ".wi_1", ".wo")):
            return None
        sizes.add(layer.in_sizes[level] if name.endswith(".wo") else layer.out_sizes[level])
    narrowed = sum(name.endswith(".wo") for name in layers)
    if len(sizes) != 1 or narrowed != config.num_layers + config.num_decoder_layers:
        return None
    config.d_ff = sizes.pop()
    return config


def _like_resnet(config, layers: dict[str, PartitionedLayer], level: int):
    """Set `embedding_size` and `hidden_sizes`, the channels of the stem and of each stage."""
    stem = next(layer for name, layer in layers.items() if name.endswith("embedder.embedder.convolution"))
    config.embedding_size = stem.out_sizes[level]
    config.hidden_sizes = [
        next(
            layer.out_sizes[level]
            for name, layer in reversed(layers.items())
            if f".stages.{stage}." in name and name.endswith(".convolution") and ".shortcut." not in name
        )
        for stage in range(len(config.hidden_sizes))
    ]
    return config


_FIELDS: dict[str, Callable] = {
    "marian": _like_bart,
    "bart": _like_bart,
    "mbart": _like_bart,
    "m2m_100": _like_bart,
    "pegasus": _like_bart,
    "t5": _like_t5,
    "mt5": _like_t5,
    "resnet": _like_resnet,
}
