"""Which adapters and base models `partition_from_adapter_` does not take, and what to do with them instead."""

import torch
from torch import nn

from .levels import is_partitioned

INSTEAD = (
    "merge it into its base, PeftModel.from_pretrained(model, adapter).merge_and_unload(), and partition what comes "
    "out, partition_(model, PartitionConfig(...)), or save it for --model_name_or_path"
)
_NO_LORA = "train an adapter with the plain LoraConfig(r=..., lora_alpha=..., target_modules=...)"

# The fields of a LoRA adapter's config that make it more than a sum of linear layers: what of it, and what to do.
_UNSUPPORTED = {
    "lora_bias": ("its B has a bias, and V none", INSTEAD),
    "use_dora": ("DoRA scales whole rows of W, where U and V only add to it", INSTEAD),
    "modules_to_save": ("these modules of the base are replaced, and W would not be the base's", INSTEAD),
    "trainable_token_indices": ("it changes rows of the embeddings, which every level shares", INSTEAD),
    "target_parameters": ("it changes parameters that no linear layer holds", INSTEAD),
    "layer_replication": ("its base has other layers than the model", _NO_LORA),
    "use_qalora": ("it pools its inputs", _NO_LORA),
    "use_bdlora": ("its factors are block-diagonal", INSTEAD),
    "alora_invocation_tokens": ("it is active on some tokens only", _NO_LORA),
    "arrow_config": ("it routes tokens among adapters", _NO_LORA),
    "kasa_config": ("it changes the base's weights", INSTEAD),
    "monteclora_config": ("its weights are random", _NO_LORA),
    "megatron_config": ("its layers are Megatron's", _NO_LORA),
}
# The others start from weights that are taken away from the base's, or leave that open.
_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")


def refuse_unfit_model(model: nn.Module) -> None:
    """Raises ValueError unless the model can be the base of an adapter."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    kind = type(model).__name__
    if is_partitioned(model):
        raise ValueError(
            f"this {kind} is partitioned already; give partition_from_adapter_ the unpartitioned base of the adapter."
        )
    if isinstance(model, PeftModel) or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError(
            f"this {kind} holds PEFT's layers already; save its adapter, peft_model.save_pretrained(directory), load "
            "the base without it, and give both: partition_from_adapter_(base, directory)."
        )
    config = getattr(model, "config", None)
    if getattr(model, "hf_quantizer", None) is not None or getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"this {kind} is quantised, and W is trained; load the base in full precision, without "
            "quantization_config, such as from_pretrained(base, dtype=torch.bfloat16)."
        )


def refuse_unfit_adapter(adapter: str, config) -> None:
    """Raises ValueError unless the adapter's config is one of a plain LoRA.

    Args:
        adapter: what the user called it.
        config: a `PeftConfig`.
    """
    method = getattr(config.peft_type, "value", config.peft_type)
    if method != "LORA":
        raise ValueError(
            f"adapter={adapter!r} is of peft_type {method!r}, and only 'LORA' has factors that can be U and V; "
            f"if PEFT can merge it, {INSTEAD}."
        )
    if config.bias != "none":
        raise ValueError(f"adapter={adapter!r} has bias={config.bias!r}, so it changes biases of the base; {INSTEAD}.")
    for field, (why, instead) in _UNSUPPORTED.items():
        # Newer than the oldest PEFT that is supported, some of them.
        value = getattr(config, field, None)
        if value is not None and value is not False and value != []:
            raise ValueError(f"adapter={adapter!r} has {field}={value!r}: {why}; {instead}.")
    if config.init_lora_weights not in _STARTS:
        raise ValueError(
            f"adapter={adapter!r} has init_lora_weights={config.init_lora_weights!r}, which takes its start away from "
            "the base's weights, so that it does not belong to the base as published; save it as a plain LoRA, "
            "peft_model.save_pretrained(directory, path_initial_model_for_weight_conversion=...), or "
            f"{INSTEAD}."
        )


def refuse_unfit_layers(model: nn.Module, adapter: str, layers: dict[str, nn.Module]) -> None:
    """Raises ValueError unless every adapted layer can be partitioned, with the rank that it has there.

    Args:
        model: the base.
        adapter: what the user called it.
        layers: PEFT's layers, by the names of what they adapt.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for name, layer in layers.items():
        linear = model.get_submodule(name)
        if linear is head:
            raise ValueError(
                f"adapter={adapter!r} changes {name}, the output head, which every level shares; {INSTEAD}."
            )
        if type(linear) is not nn.Linear:
            raise ValueError(
                f"adapter={adapter!r} changes {name}, of class {type(linear).__name__}, and only plain nn.Linear "
                f"layers can be partitioned; {INSTEAD}."
                + (" Of a quantised base load the weights in full precision." if isinstance(linear, nn.Linear) else "")
            )
        if linear.weight.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(
                f"adapter={adapter!r} changes {name}, whose weight is of {linear.weight.dtype}, and W is trained; "
                "load the base in full precision, such as from_pretrained(base, dtype=torch.bfloat16)."
            )
        rank, most = layer.r["default"], min(linear.weight.shape)
        if rank > most:
            raise ValueError(
                f"adapter={adapter!r} has the rank {rank} in {name} ({linear.out_features} x {linear.in_features}), "
                f"which is more than such a weight can have, {most}; {INSTEAD}."
            )


def refuse_unfit_tensors(
    model: nn.Module, adapter: str, layers: dict[str, nn.Module], tensors: dict[str, torch.Tensor]
) -> None:
    """Raises ValueError unless the adapter's weights are those of the layers, all of them and no others.

    Args:
        model: the base.
        adapter: what the user called it.
        layers: PEFT's layers, by the names of what they adapt.
        tensors: the weights, by their names in the adapted model.
    """
    shapes = {}
    for name, layer in layers.items():
        linear, rank = model.get_submodule(name), layer.r["default"]
        shapes[f"{name}.lora_A.weight"] = (rank, linear.in_features)
        shapes[f"{name}.lora_B.weight"] = (linear.out_features, rank)
    wrong = {
        "missing": sorted(shapes.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - shapes.keys()),
        "of another shape": [
            f"{name} of {tuple(tensors[name].shape)} instead of {shape}"
            for name, shape in shapes.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ],
    }
    found = "; ".join(f"{how}: {names[0]} and {len(names) - 1} more" for how, names in wrong.items() if names)
    if found:
        raise ValueError(
            f"the weights of adapter={adapter!r} are not those that its config says for this {type(model).__name__} "
            f"({found}); give the base model that it was trained on, and the adapter as it was written."
        )
