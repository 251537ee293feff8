"""The exports of a partitioned model: full, core, adapter."""

import os
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from ..partition import (
    PartitionedLayer,
    PartitionedRankLinear,
    count_exported_parameters,
    find_partition,
    level_names,
    num_levels,
    partitioned_layers,
    resolve_level,
)
from .files import save_network, save_tokenizer
from .loading import merge_adapter
from .networks import core_network, dense_core_network, stock_network, transformers_model
from .report import ExportReport
from .writing import check_replaceable, write_export


def export_full(
    model: nn.Module, directory: str | os.PathLike, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> ExportReport:
    """Write the full network as a checkpoint of the stock architecture, `W + V U` merged in float32 or shares joined.

    A model that was never partitioned is its own full network.

    The checkpoint holds no layer of ours, and of a class of transformers needs no code of ours. It is loaded back and
    its logits are compared with the model's before it appears in `directory`.

    Args:
        model: a Transformers model, on any device, also below DistributedDataParallel; left as it is.
            With several processes, call this in one of them.
        directory: where to write; new, empty, or an earlier export, which is replaced.
        tokenizer: saved along, so that `pipeline("translation", model=directory)` works.

    Raises:
        TypeError: it is not a Transformers model.
        FileExistsError: the directory holds something else.
        RuntimeError: what was written does not compute what the model computes; nothing is left behind.

    Example:

    ```python
    >>> export_full(model, "out/full", tokenizer=tokenizer)
    >>> MarianMTModel.from_pretrained("out/full")
    ```
    """
    model = transformers_model(model, "export_full")
    check_replaceable(directory)
    level = num_levels(model) - 1
    network = stock_network(model, level, lambda layer: layer.stock_state(level))
    return _export(model, network, directory, tokenizer, kind="full", level=level)


def export_core(
    model: nn.Module,
    directory: str | os.PathLike,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    level: int | str = "core",
    dense: bool = False,
) -> ExportReport:
    """Write a core: the level's own factors or narrower weights, and everything outside the partitioned layers.

    A core that differs only in its number of layers, and in narrower feed-forward layers, is of the model's own class,
    with other sizes in its config. So is the core of a ResNet. Where that is a class of transformers, it needs no code
    of ours. Any other core loads through `AutoModelForSeq2SeqLM` and translates through `pipeline("translation")`:
    where hf_ats is imported, or with `trust_remote_code=True` through the files of code that travel with it.

    Args:
        model: as for `export_full`.
        directory: as for `export_full`.
        tokenizer: as for `export_full`.
        level (`int` or `str`, defaults to `"core"`, the smallest): which core of a ladder.
        dense: write the stock class, its layers as large as the full network's, `V U` multiplied out or narrower
            weights filled up with zeros: without code of ours, for runtimes that have no such layers.

    Raises:
        ValueError: the model is not partitioned, has no such level, the level is the full network, or the
            architecture has no core class (then write `dense=True`).
        FileExistsError, RuntimeError: as for `export_full`.

    Example:

    ```python
    >>> export_core(model, "out/core", tokenizer=tokenizer)
    >>> pipeline("translation", model="out/core")("Ein Hund schläft.")
    ```
    """
    model = transformers_model(model, "export_core")
    level_given, level = level, resolve_level(model, level)
    cores = level_names(model)[:-1]
    if level == len(cores):
        others = f"one of the levels {', '.join(map(repr, cores))}" if cores else "call partition_ before training"
        raise ValueError(
            f"level={level_given!r} is the full network, which is not a core; write export_full(model, directory), or "
            f"{others}."
        )
    check_replaceable(directory)
    network = dense_core_network(model, level) if dense else core_network(model, level)
    return _export(model, network, directory, tokenizer, kind="core-dense" if dense else "core", level=level)


def export_level(
    model: nn.Module,
    directory: str | os.PathLike,
    *,
    level: int | str,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> ExportReport:
    """Write one network of a run: the full one, a core, or a model that was never partitioned.

    Args:
        model: as for `export_full`.
        directory: as for `export_full`.
        level: by name or number.
        tokenizer: as for `export_full`.

    Raises:
        ValueError: there is no such level; and as the export of its kind.
        FileExistsError, RuntimeError: as for `export_full`.
    """
    if resolve_level(model, level) == num_levels(model) - 1:
        return export_full(model, directory, tokenizer=tokenizer)
    return export_core(model, directory, tokenizer=tokenizer, level=level)


def export_adapter(
    model: nn.Module, directory: str | os.PathLike, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> ExportReport:
    """Write the split as a PEFT LoRA adapter over the base `W`, so that merging it gives the full network.

    `directory` gets the adapter, with `lora_A = U` and `lora_B = V` of the largest core and scaling 1, and
    `directory/base` a stock checkpoint with `W` in the partitioned layers. The base alone is neither network. PEFT
    cannot merge a sum that lookups and projection share, so the vocabulary tables of the base are the full network's.

    Args:
        model: as for `export_full`.
        directory: as for `export_full`; the adapter's config names the base by this path, as it is given here.
        tokenizer: saved with the base.

    Raises:
        ImportError: peft is not installed.
        ValueError, FileExistsError, RuntimeError: as for `export_full`.

    Example:

    ```python
    >>> export_adapter(model, "out/adapter")
    >>> base = MarianMTModel.from_pretrained("out/adapter/base")
    >>> full = PeftModel.from_pretrained(base, "out/adapter").merge_and_unload()
    ```
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    model = transformers_model(model, "export_adapter")
    layers = {name: one for name, one in partitioned_layers(model).items() if isinstance(one, PartitionedRankLinear)}
    if not layers:
        partition = find_partition(model)
        methods = " and ".join(part.method for part in partition.parts) if partition else ""
        how = f"partitioned by {methods}" if partition else "not partitioned"
        raise ValueError(
            f"export_adapter writes V U beside the W of linear layers, and this {type(model).__name__} is {how}, "
            "without such a layer; call partition_(model, PartitionConfig(method='rank')) before training, or write "
            "export_full or export_core."
        )
    check_replaceable(directory)
    ranks = {name: layer.ranks[-1] for name, layer in layers.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    config = LoraConfig(
        base_model_name_or_path=str(Path(directory) / "base"),
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
        inference_mode=True,
        target_modules=list(ranks),
        # alpha / rank is the scaling, 1 everywhere
        r=usual,
        lora_alpha=usual,
        rank_pattern=others,
        alpha_pattern=others,
    )
    full = num_levels(model) - 1

    def weights(layer: PartitionedLayer) -> dict[str, torch.Tensor]:
        own = {"weight": layer.weight} if isinstance(layer, PartitionedRankLinear) else {}
        return layer.stock_state(full) | own

    base = stock_network(model, full, weights)

    def save(draft: Path) -> None:
        _save(base, tokenizer, draft / "base")
        config.save_pretrained(draft)
        tensors = {}
        for name, layer in layers.items():
            for part, factor in zip("AB", layer.factors(len(layer.ranks)), strict=True):
                tensors[f"base_model.model.{name}.lora_{part}.weight"] = factor.detach().cpu().contiguous()
        save_file(tensors, draft / "adapter_model.safetensors", metadata={"format": "pt"})

    def load(draft: Path) -> PreTrainedModel:
        stock = type(model).from_pretrained(draft / "base", **_AS_REFERENCE)
        return merge_adapter(stock, draft)

    return write_export(
        model,
        directory,
        kind="adapter",
        level=full,
        parameters=count_exported_parameters(model, "full") + sum(map(_size_of_factors, layers.values())),
        save=save,
        load=load,
    )


def _size_of_factors(layer: PartitionedRankLinear) -> int:
    return sum(factor.numel() for factor in layer.factors(len(layer.ranks)))


# The arithmetic of the reference, so that only the weights can differ.
_AS_REFERENCE = {"dtype": torch.float32, "attn_implementation": "eager"}


def _export(
    model: PreTrainedModel, network: PreTrainedModel, directory, tokenizer, *, kind: str, level: int
) -> ExportReport:
    def save(draft: Path) -> None:
        _save(network, tokenizer, draft)

    def load(draft: Path) -> PreTrainedModel:
        # A core's class is ours, and is found as a user finds it; a stock class is known.
        loader = type(model) if type(network) is type(model) else AutoModelForSeq2SeqLM
        return loader.from_pretrained(draft, **_AS_REFERENCE)

    return write_export(
        model,
        directory,
        kind=kind,
        level=level,
        parameters=network.num_parameters(),
        save=save,
        load=load,
    )


def _save(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, directory: Path) -> None:
    save_network(network, directory)
    if tokenizer is not None:
        save_tokenizer(tokenizer, directory)
