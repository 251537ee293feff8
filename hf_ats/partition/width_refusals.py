"""What cannot be narrowed, because the core would not run, or not be what it is said to be."""

from collections import defaultdict

from torch import nn

from .config import PartitionConfig

HEADS = ("heads", "filled_heads")
"""The roles of queries and keys."""

_RESNETS = ("resnet", "ats_cifar_resnet")


def refuse_unfit_blocks(model: nn.Module, config: PartitionConfig, roles: dict[str, str]) -> None:
    """Checks the layers to narrow against each other.

    Args:
        model: unpartitioned.
        config: by width.
        roles: what of each layer is narrower, by its name.

    Raises:
        ValueError: a partner of a layer is missing or of another size, blocks cannot be ordered by importance since
            they cannot be told apart, or no config can say the widths of a ResNet's core.
    """
    _refuse_incomplete_blocks(config, roles)
    _refuse_uneven_blocks(model, roles)
    if config.init == "importance":
        _refuse_mixed_blocks(roles)
    if config.target_modules is None and getattr(getattr(model, "config", None), "model_type", None) in _RESNETS:
        _refuse_unsayable_widths(model.config, config)


def parent_of(name: str) -> str:
    """The name of the module that holds a layer."""
    return name.rpartition(".")[0]


def _refuse_incomplete_blocks(config: PartitionConfig, roles: dict[str, str]) -> None:
    """Layers that stand side by side in a block have to be narrowed together: fc1 and fc2, query and key.

    In a convolutional network the partners are spread over the model, and only its whole preset is known to be
    complete, or the dictionary of someone who knows the model.
    """
    if {"both", "norm"} & set(roles.values()):
        if not isinstance(config.target_modules, dict) and (config.target_modules or config.exclude_modules):
            raise ValueError(
                f"target_modules={config.target_modules!r} with exclude_modules={config.exclude_modules!r} narrows a "
                "part of a convolutional network, whose layers would no longer fit each other; leave both out, or say "
                "with a dictionary, target_modules={...}, what is narrower in every layer."
            )
        return
    for block in _blocks(roles).values():
        found = set(block.values())
        name = next(iter(block))
        if len({"out", "in"} & found) == 1:
            side = "outputs" if "out" in found else "inputs"
            raise ValueError(
                f"target_modules narrows {name} in its {side}, and no layer beside it takes or gives them; name both "
                "layers of the block, such as ['fc1', 'fc2'], or neither."
            )
        of_heads = [role for role in block.values() if role in HEADS]
        if len(of_heads) == 1:
            raise ValueError(
                f"target_modules narrows the heads of {name} alone; queries and keys are multiplied with each other, "
                "so name both, such as ['q_proj', 'k_proj'], or neither."
            )
        if len(set(of_heads)) > 1:
            raise ValueError(
                f"target_modules gives the layers beside {name} both of the roles 'heads' and 'filled_heads'; queries "
                "and keys are multiplied with each other, so write one of them for both."
            )


def _refuse_uneven_blocks(model: nn.Module, roles: dict[str, str]) -> None:
    for block in _blocks(roles).values():
        shapes = {name: model.get_submodule(name).weight.shape for name, role in block.items() if role != "norm"}
        heads = {name: shapes[name][0] for name, role in block.items() if role in HEADS}
        if len(set(heads.values())) > 1:
            raise ValueError(
                f"{', '.join(heads)} have {', '.join(map(str, heads.values()))} outputs, so heads share keys, and "
                "which dimensions belong together is not known; partition the feed-forward layers alone."
            )
        # Between convolutions there may be a flattening, and partners are spread over the model.
        if {"both", "norm"} & set(roles.values()) or any(len(shape) != 2 for shape in shapes.values()):
            continue
        inputs = {name: shapes[name][1] for name, role in block.items() if role == "in"}
        outputs = {name: shapes[name][0] for name, role in block.items() if role == "out"}
        if inputs and not set(inputs.values()) <= set(outputs.values()):
            raise ValueError(
                f"target_modules narrows the outputs of {outputs} and the inputs of {inputs}, which are not equally "
                "many; are their roles the right way round?"
            )


def _refuse_mixed_blocks(roles: dict[str, str]) -> None:
    for parent, block in _blocks(roles).items():
        found = list(block.values())
        if found.count("in") > 1 or ("in" in found and set(found) & set(HEADS)):
            raise ValueError(
                f"init='importance' takes the layers that one module holds for one block, and {parent or 'the model'} "
                f"holds those of several: {', '.join(block)}; write init='first'."
            )


def _refuse_unsayable_widths(sizes, config: PartitionConfig) -> None:
    """A core of a ResNet is exported as the model's own class, which derives other sizes from those in its config."""
    if sizes.layer_type != "basic":
        raise ValueError(
            f"a ResNet of layer_type={sizes.layer_type!r} rounds the widths inside its blocks itself, so no config "
            "says those of a core; by width only layer_type='basic' is partitioned."
        )
    stem, first = sizes.embedding_size, sizes.hidden_sizes[0]
    for ratio in config.ratios:
        if stem != first and config.width(ratio, stem) == config.width(ratio, first):
            raise ValueError(
                f"ratios={config.ratios} make the stem of {stem} channels and the first stage of {first} equally wide "
                f"at {ratio}, and a ResNet of equal widths has no convolution between them; write another ratio."
            )


def _blocks(roles: dict[str, str]) -> dict[str, dict[str, str]]:
    """The roles of layers by the module that holds them."""
    blocks: dict[str, dict[str, str]] = defaultdict(dict)
    for name, role in roles.items():
        blocks[parent_of(name)][name] = role
    return blocks
