"""A base model and a LoRA adapter of PEFT as one partitioned model: the adapter's A and B become U and V."""

import copy
import os
import re
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from .adapter_refusals import refuse_unfit_adapter, refuse_unfit_layers, refuse_unfit_model, refuse_unfit_tensors
from .config import ADAPTER, PartitionConfig
from .partitioning import Factors, partition_with_factors_
from .presets import matches


def partition_from_adapter_(
    model: nn.Module, adapter: str | os.PathLike, *, revision: str | None = None, token: str | bool | None = None
) -> nn.Module:
    """Partitions `model` by a LoRA adapter that was trained for it, in place, at full level.

    In every layer that the adapter changes `W` becomes the layer's own weight, bitwise, `U` the adapter's `A`, and `V`
    its `B` times its scaling (`lora_alpha / r`, or rsLoRA's `lora_alpha / sqrt(r)`), of the rank that it has there. So
    the full level computes at once what the adapted model computes, in evaluation: the adapter's dropout is not taken
    over. The core is the adapter alone, `V U x + b`, beside the shared parameters. That is far from the best
    approximation of the weights by this rank, with which `partition_` begins, and translates nothing until it is
    trained; of an untrained adapter, whose `B` is zero, it is zero.

    Args:
        model (`nn.Module`): the base model that the adapter was trained on, unpartitioned and in full precision. `U`
            and `V` get its dtype, and are frozen where its weight is.
        adapter (`str` or `os.PathLike`): a directory with `adapter_config.json` and the adapter's weights, or an id of
            the Hub.
        revision (`str`, *optional*): of the Hub's repository: a branch, a tag or a commit.
        token (`str` or `bool`, *optional*): for a private repository, as in `from_pretrained`.

    Returns:
        The same object. Its `PartitionConfig` has `ranks`, and `init="adapter"`.

    Raises:
        ImportError: peft is not installed.
        OSError: there is no adapter.
        ValueError: the model is partitioned, quantised, or adapted already; the adapter is no LoRA, is one that
            changes more than sums of linear layers (biases, DoRA, `modules_to_save`, embeddings, ...), or one whose
            base is not the published one (PiSSA, OLoRA, ...); its weights are damaged, incomplete or of another shape
            than the model's layers; or its rank is more than a layer's. The model is then as it was.

    Example:

    ```python
    >>> base = MarianMTModel.from_pretrained("Helsinki-NLP/opus-mt-de-en")
    >>> model = partition_from_adapter_(base, "out/my-lora")
    ```
    """
    adapter = os.fspath(adapter)
    _need_peft(adapter)
    refuse_unfit_model(model)
    lora_config = read_adapter_config(adapter, revision=revision, token=token)
    layers = _adapted_layers(model, adapter, lora_config)
    refuse_unfit_layers(model, adapter, layers)
    tensors = _read_tensors(adapter, revision, token)
    refuse_unfit_tensors(model, adapter, layers, tensors)
    config = _partition(model, {name: layer.r["default"] for name, layer in layers.items()})
    return partition_with_factors_(model, config, _factors(layers, tensors))


def read_adapter_config(adapter: str | os.PathLike, *, revision: str | None = None, token: str | bool | None = None):
    """The `LoraConfig` of an adapter that `partition_from_adapter_` may take, as far as this alone can tell.

    Args:
        adapter: as for `partition_from_adapter_`, as the next two.
        revision: of the Hub's repository.
        token: for a private repository.

    Raises:
        ImportError, OSError, ValueError: as `partition_from_adapter_`.
    """
    adapter = os.fspath(adapter)
    _need_peft(adapter)
    lora_config = _read_config(adapter, revision, token)
    refuse_unfit_adapter(adapter, lora_config)
    return lora_config


def _need_peft(adapter: str) -> None:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"adapter={adapter!r} is read by PEFT, which is not installed; run `pip install peft`."
        ) from error


def _read_config(adapter: str, revision: str | None, token: str | bool | None):
    from peft import PeftConfig

    if Path(adapter).is_dir() and not (Path(adapter) / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"adapter={adapter!r} holds no adapter_config.json; give the directory that PEFT's save_pretrained wrote."
        )
    try:
        return PeftConfig.from_pretrained(adapter, revision=revision, token=token)
    except KeyError as error:  # PEFT looks its methods up by name
        raise ValueError(
            f"adapter={adapter!r} is of a kind that this version of PEFT does not know ({error}); give a LoRA adapter."
        ) from error
    except (ValueError, TypeError) as error:
        if Path(adapter).is_dir():
            raise ValueError(f"the adapter_config.json of adapter={adapter!r} cannot be read: {error}.") from error
        reason = " ".join(str(error.__cause__ or error).split())
        raise OSError(
            f"adapter={adapter!r} is no directory, and its adapter_config.json cannot be had from the Hub "
            f"({reason}); correct the name, or the revision, or give a token."
        ) from error


def _adapted_layers(model: nn.Module, adapter: str, lora_config) -> dict[str, nn.Module]:
    """PEFT's own layers by the names of what they adapt, without data: which they are and how they are scaled."""
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    lora_config = copy.copy(lora_config)
    lora_config.init_lora_weights = True  # how it began is past
    structure = _structure(model)
    try:
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(lora_config, structure, low_cpu_mem_usage=True)
    except ValueError as error:
        raise ValueError(
            f"adapter={adapter!r} does not fit this {type(model).__name__}: {error} Give the model that it was "
            "trained on."
        ) from error
    return {name: layer for name, layer in structure.named_modules() if isinstance(layer, LoraLayer)}


def _structure(model: nn.Module) -> nn.Module:
    """A copy of the model whose parameters and buffers have no data, so that PEFT can change it."""

    def empty(tensor: torch.Tensor) -> torch.Tensor:
        bare = torch.empty_like(tensor, device="meta", requires_grad=False)
        return nn.Parameter(bare, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare

    return copy.deepcopy(model, {id(tensor): empty(tensor) for tensor in chain(model.parameters(), model.buffers())})


def _read_tensors(adapter: str, revision: str | None, token: str | bool | None) -> dict[str, torch.Tensor]:
    """The adapter's weights, by the names that they have in the adapted model."""
    from pickle import UnpicklingError

    from peft import load_peft_weights
    from safetensors import SafetensorError

    if Path(adapter).is_dir() and not any(
        (Path(adapter) / f"adapter_model.{ending}").is_file() for ending in ("safetensors", "bin")
    ):
        raise FileNotFoundError(
            f"adapter={adapter!r} holds an adapter_config.json, and neither adapter_model.safetensors nor "
            "adapter_model.bin; copy it again, whole."
        )
    try:
        tensors = load_peft_weights(adapter, device="cpu", revision=revision, token=token)
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and not Path(adapter).is_dir():  # the Hub's, which say what they are
            raise
        raise ValueError(
            f"the weights of adapter={adapter!r} are damaged ({error}); was the copy interrupted? Copy it again."
        ) from error
    return {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}


def _partition(model: nn.Module, ranks: dict[str, int]) -> PartitionConfig:
    """The configuration that names these layers and no others."""
    # A whole name may be the end of another one's.
    others = [name for name, _ in model.named_modules() if name not in ranks and matches(list(ranks), name)]
    exclude = "|".join(map(re.escape, others)) or None
    return PartitionConfig(ranks=ranks, exclude_modules=exclude, init=ADAPTER)


def _factors(layers: dict[str, nn.Module], tensors: dict[str, torch.Tensor]) -> Factors:
    """`(A, scaling * B)` of each layer, in at least float32, so that the product is rounded once."""
    factors = {}
    for name, layer in layers.items():
        A, B = (tensors[f"{name}.lora_{part}.weight"] for part in "AB")
        factors[name] = A, layer.scaling["default"] * B.to(torch.promote_types(B.dtype, torch.float32))
    return factors
