"""A base model and a LoRA adapter of PEFT as one partitioned model: the adapter's A and B become U and V."""

import copy
import os
import re
from itertools import chain

import torch
from safetensors import SafetensorError
from torch import nn

from .config import ADAPTER, PartitionConfig
from .levels import is_partitioned
from .partitioning import Factors, partition_with_factors_
from .presets import matches

_INSTEAD = (
    "if PEFT can merge it, write PeftModel.from_pretrained(model, adapter).merge_and_unload(), and partition that "
    "with partition_(model, PartitionConfig(...)), or save it for --model_name_or_path"
)
# The config fields that a plain LoRA may set: U and V express all that they say.
_PLAIN_FIELDS = set(
    "task_type auto_mapping peft_version base_model_name_or_path revision inference_mode r target_modules "
    "exclude_modules lora_alpha lora_dropout fan_in_fan_out use_rslora layers_to_transform layers_pattern "
    "rank_pattern alpha_pattern loftq_config eva_config runtime_config".split()
)
# Other starts subtract weights from the base's, or leave that open.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")


def partition_from_adapter_(
    model: nn.Module, adapter: str | os.PathLike, *, revision: str | None = None, token: str | bool | None = None
) -> nn.Module:
    """Partition `model` by a LoRA adapter that was trained for it, in place, at full level.

    In every layer that the adapter changes `W` becomes the layer's own weight, bitwise, `U` the adapter's `A`, and `V`
    its `B` times its scaling (`lora_alpha / r`, or rsLoRA's `lora_alpha / sqrt(r)`), of the rank that it has there. So
    the full level computes at once what the adapted model computes, in evaluation: the adapter's dropout is not taken
    over. The core is only the adapter, `V U x + b`, beside the shared parameters. That is far from the best
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
        ValueError: there is no adapter; it is not a LoRA, changes more than sums of linear layers (biases, DoRA,
            `modules_to_save`, embeddings, ...), or has a base that is not the published one (PiSSA, OLoRA, ...); its
            weights are incomplete or of another shape than the model's layers; its rank is more than a layer's; or the
            model is partitioned, quantised, or adapted already. The model is then as it was.

    Example:

    ```python
    >>> base = MarianMTModel.from_pretrained("Helsinki-NLP/opus-mt-de-en")
    >>> model = partition_from_adapter_(base, "out/my-lora")
    ```
    """
    adapter = os.fspath(adapter)
    _refuse_unfit_model(model)
    lora_config = read_adapter_config(adapter, revision=revision, token=token)
    layers = _adapted_layers(model, adapter, lora_config)
    factors = _read_factors(model, adapter, layers, revision, token)
    config = _partition(model, {name: layer.r["default"] for name, layer in layers.items()})
    return partition_with_factors_(model, config, factors)


def read_adapter_config(adapter: str | os.PathLike, *, revision: str | None = None, token: str | bool | None = None):
    """Return the `LoraConfig` of an adapter that `partition_from_adapter_` may take, judged by its config only.

    Args:
        adapter: as for `partition_from_adapter_`, like the next two.
        revision: of the Hub's repository.
        token: for a private repository.

    Raises:
        ValueError: there is no adapter, or it is not a plain LoRA.
    """
    from peft import LoraConfig, PeftConfig

    adapter = os.fspath(adapter)
    try:
        config = PeftConfig.from_pretrained(adapter, revision=revision, token=token)
    except (ValueError, KeyError, TypeError) as error:  # PEFT looks its methods up by name
        raise ValueError(
            f"adapter={adapter!r} cannot be read by this version of PEFT ({error}); give the directory that PEFT's "
            "save_pretrained wrote, or an id of the Hub with its revision and token."
        ) from error
    plain = LoraConfig()
    for name, value in vars(config).items():
        if name == "init_lora_weights":
            fits = value in _PLAIN_STARTS
        else:
            fits = name in _PLAIN_FIELDS or not value or value == getattr(plain, name, None)
        if not fits:
            raise ValueError(
                f"adapter={adapter!r} has {name}={getattr(value, 'value', value)!r}, and only a plain LoRA, which has "
                f"not, is a sum V U beside the W of its base; {_INSTEAD}."
            )
    return config


def _refuse_unfit_model(model: nn.Module) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError(
            f"this {type(model).__name__} holds PEFT's layers already; save its adapter, "
            "peft_model.save_pretrained(directory), load the base without it, and give both: "
            "partition_from_adapter_(base, directory)."
        )
    if is_partitioned(model):
        raise ValueError(
            f"this {type(model).__name__} is partitioned already; give partition_from_adapter_ the unpartitioned base "
            "of the adapter."
        )


def _adapted_layers(model: nn.Module, adapter: str, lora_config) -> dict[str, nn.Module]:
    """Return PEFT's own layers by the names of what they adapt, without data, for their names and scales."""
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    lora_config = copy.copy(lora_config)
    lora_config.init_lora_weights = True  # its start no longer matters
    structure = _structure(model)
    try:
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(lora_config, structure, low_cpu_mem_usage=True)
    except ValueError as error:
        raise ValueError(
            f"adapter={adapter!r} does not fit this {type(model).__name__}: {error} Give the model that it was "
            "trained on."
        ) from error
    layers = {name: layer for name, layer in structure.named_modules() if isinstance(layer, LoraLayer)}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for name in layers:
        linear = model.get_submodule(name)
        # An 8-bit weight of a quantised base is a floating-point number too.
        if linear is head or type(linear) is not nn.Linear or linear.weight.dtype.itemsize < 2:
            what = "the output head" if linear is head else f"a {type(linear).__name__} of {linear.weight.dtype}"
            raise ValueError(
                f"adapter={adapter!r} changes {name}, {what}, and only plain nn.Linear layers in at least half "
                f"precision, other than the output head, can be partitioned; {_INSTEAD}."
            )
    return layers


def _structure(model: nn.Module) -> nn.Module:
    """Return a copy of the model whose parameters and buffers have no data, so that PEFT can change it."""

    def empty(tensor: torch.Tensor) -> torch.Tensor:
        bare = torch.empty_like(tensor, device="meta", requires_grad=False)
        return nn.Parameter(bare, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare

    return copy.deepcopy(model, {id(tensor): empty(tensor) for tensor in chain(model.parameters(), model.buffers())})


def _read_factors(model: nn.Module, adapter: str, layers: dict[str, nn.Module], revision, token) -> Factors:
    """Return `(A, scaling * B)` of each layer, in at least float32, so that the product is rounded once."""
    from peft import load_peft_weights

    try:
        tensors = load_peft_weights(adapter, device="cpu", revision=revision, token=token)
    except SafetensorError as error:
        raise ValueError(f"the adapter {adapter} is damaged ({error}); take another copy.") from error
    tensors = {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
    shapes = {}
    for name, layer in layers.items():
        linear, rank = model.get_submodule(name), layer.r["default"]
        shapes[f"{name}.lora_A.weight"] = (rank, linear.in_features)
        shapes[f"{name}.lora_B.weight"] = (linear.out_features, rank)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in shapes | found if shapes.get(name) != found.get(name))
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"the weights of adapter={adapter!r} are not those that its config says for this {type(model).__name__} "
            f"({first} has the shape {found.get(first)} instead of {shapes.get(first)}, and {len(wrong) - 1} more); "
            "give the base model that it was trained on, and the adapter as it was written."
        )
    factors = {}
    for name, layer in layers.items():
        A, B = (tensors[f"{name}.lora_{part}.weight"] for part in "AB")
        factors[name] = A, layer.scaling["default"] * B.to(torch.promote_types(B.dtype, torch.float32))
    return factors


def _partition(model: nn.Module, ranks: dict[str, int]) -> PartitionConfig:
    """Return the configuration that names these layers and no others."""
    # A whole name may be the end of another name.
    others = [name for name, _ in model.named_modules() if name not in ranks and matches(list(ranks), name)]
    exclude = "|".join(map(re.escape, others)) or None
    return PartitionConfig(ranks=ranks, exclude_modules=exclude, init=ADAPTER)
