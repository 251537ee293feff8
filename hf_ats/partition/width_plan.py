"""The sizes of each level in a network that is partitioned by width, and the order of its neurons.

The layers that one module holds are a block: what narrows the outputs of some (`fc1`) narrows the inputs of others
(`fc2`), and queries and keys are multiplied with each other. A core runs only if a block is narrowed as a whole.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from .config import PartitionConfig
from .convolution import PartitionedBatchNorm2d, PartitionedConv2d
from .layers import PartitionedLayer
from .moments import Moments, least_missed_last, moments_of
from .presets import find_roles
from .width import PartitionedLinear

_HEADS = ("heads", "filled_heads")  # the roles of queries and keys


def plan_width(
    model: nn.Module, config: PartitionConfig, targets: dict[str, nn.Module], moments: Moments | None = None
) -> tuple[dict[str, Callable[[bool], PartitionedLayer]], list[nn.Module]]:
    """Return the function that makes each target's layer, and the attentions whose heads get narrower.

    Each function takes whether to fill the layer from the target. With `moments` importance is that of the outputs.

    Raises:
        ValueError: a target has no role or a wrong one; a partner of it is missing, or of another size; two levels are
            equally wide; blocks cannot be ordered by importance; or no config can say the widths of a ResNet's core.
    """
    roles = find_roles(model, config, targets)
    blocks: dict[str, dict[str, str]] = defaultdict(dict)
    for name, role in roles.items():
        blocks[_parent_of(name)][name] = role
    if {"both", "norm"} & set(roles.values()):
        _refuse_unfit_convolutions(model, config)
    else:
        for block in blocks.values():
            _refuse_unfit_block(block, targets)
    groups = {name: _heads(model, name) if role in _HEADS else 1 for name, role in roles.items()}
    orders = {}
    if config.init == "importance":
        orders = {parent: order_by_importance(block, targets, groups, moments) for parent, block in blocks.items()}
    makers = {
        name: _maker(config, name, module, roles[name], groups[name], orders.get(_parent_of(name)))
        for name, module in targets.items()
    }
    with_heads = dict.fromkeys(_parent_of(name) for name, role in roles.items() if role == "heads")
    return makers, [model.get_submodule(name) for name in with_heads]


def _parent_of(name: str) -> str:
    """Return the name of the module that holds a layer."""
    return name.rpartition(".")[0]


def _maker(config: PartitionConfig, name: str, module: nn.Module, role: str, groups: int, order):
    def sizes(size: int, narrow: bool) -> tuple[int, ...]:
        if not narrow:
            return (size,) * (len(config.ratios) + 1)
        sizes = (*(config.width(ratio, size) for ratio in config.ratios), size)
        if any(later <= earlier for earlier, later in pairwise(sizes)):
            raise ValueError(
                f"ratios={config.ratios} give {name} the widths {list(sizes)}, the full one last, and two are equal; "
                "write ratios further apart and from 1, or exclude the layer and its partners."
            )
        return sizes

    if role == "norm":
        widths = sizes(module.num_features, True)
        return lambda fill: PartitionedBatchNorm2d.from_batch_norm(module, widths)
    outputs, inputs = module.weight.shape[:2]
    outputs = sizes(outputs // groups, role in ("out", "both", *_HEADS))
    inputs = sizes(inputs, role in ("in", "both"))
    if isinstance(module, nn.Linear):
        ordered = {"in_order" if role == "in" else "out_order": order}
        return partial(
            PartitionedLinear.from_linear, module, inputs, outputs, groups, role == "filled_heads", **ordered
        )
    if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise ValueError(
            f"{name} is a convolution with groups={module.groups}, padding={module.padding!r} and "
            f"padding_mode={module.padding_mode!r}; by width only those of one group and padding by a number of "
            "zeros are partitioned."
        )
    return partial(PartitionedConv2d.from_conv, module, inputs, outputs)


def _heads(model: nn.Module, name: str) -> int:
    attention = model.get_submodule(_parent_of(name))
    heads = getattr(attention, "num_heads", None) or getattr(attention, "n_heads", None)
    if heads is None:
        raise ValueError(
            f"target_modules gives {name} a role of heads, and the {type(attention).__name__} that holds it says "
            "neither num_heads nor n_heads; leave it out."
        )
    return heads


# ---- Refusals: what would not run, or not be what its config says ----


def _refuse_unfit_block(block: dict[str, str], targets: dict[str, nn.Module]) -> None:
    """Check that the partners of each layer are there and of its size."""
    name = next(iter(block))
    if len({"out", "in"} & set(block.values())) == 1:
        side = "outputs" if "out" in block.values() else "inputs"
        raise ValueError(
            f"target_modules narrows {name} in its {side}, and no layer beside it takes or gives them; name both "
            "layers of the block, such as ['fc1', 'fc2'], or neither."
        )
    of_heads = {name: role for name, role in block.items() if role in _HEADS}
    if len(of_heads) == 1 or len(set(of_heads.values())) > 1:
        raise ValueError(
            f"target_modules gives the heads of a block the roles {of_heads}; queries and keys are multiplied with "
            "each other, so name both, such as ['q_proj', 'k_proj'], in one role, or neither."
        )
    heads = {name: targets[name].out_features for name in of_heads}
    if len(set(heads.values())) > 1:
        raise ValueError(
            f"{', '.join(heads)} have {', '.join(map(str, heads.values()))} outputs, so heads share keys, and "
            "which dimensions belong together is not known; partition the feed-forward layers only."
        )
    if any(isinstance(targets[name], nn.Conv2d) for name in block):  # there may be a flattening between convolutions
        return
    inputs = {name: targets[name].in_features for name, role in block.items() if role == "in"}
    outputs = {name: targets[name].out_features for name, role in block.items() if role == "out"}
    if not set(inputs.values()) <= set(outputs.values()):
        raise ValueError(
            f"target_modules narrows the outputs of {outputs} and the inputs of {inputs}, which are not equally "
            "many; are their roles the right way round?"
        )


def _refuse_unfit_convolutions(model: nn.Module, config: PartitionConfig) -> None:
    """Check what a convolutional network needs, whose layers have their partners all over the model.

    Only its whole preset is known to be complete, or the dictionary of someone who knows the model. By the preset,
    that of a ResNet, a core is exported as the model's own class, which derives other sizes from those in its config.
    """
    if isinstance(config.target_modules, dict):
        return
    if config.target_modules or config.exclude_modules:
        raise ValueError(
            f"target_modules={config.target_modules!r} with exclude_modules={config.exclude_modules!r} narrows a "
            "part of a convolutional network, whose layers would no longer fit each other; leave both out, or say "
            "with a dictionary, target_modules={...}, what is narrower in every layer."
        )
    sizes = model.config
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


# ---- The order of neurons ----


@torch.no_grad()
def order_by_importance(
    block: dict[str, str],
    targets: dict[str, nn.Module],
    groups: dict[str, int],
    moments: Moments | None = None,
) -> torch.Tensor:
    """Return the order of a block's neurons, or of the dimensions of each of its heads, the most important first.

    Args:
        block: the role of each layer by name.
        targets: these layers, maybe among others.
        groups: of each, the number of heads; 1 of a feed-forward layer.
        moments: what layers read on some text, by name.

    By weights, a neuron's size is the product of the norms of its rows and columns in the block's layers, and a
    dimension's that of its rows in query and key: what a weight of it can add to the output is at most that. By
    moments, the last ones are those without which the block's outputs on the text, or the products of queries and
    keys, change least.

    Raises:
        ValueError: what the block holds has no such order, or a layer is not among the moments.
    """
    found = list(block.values())
    if (
        not set(found) <= {"out", "in", *_HEADS}
        or found.count("in") > 1
        or ("in" in found and set(found) & set(_HEADS))
    ):
        raise ValueError(
            "init='importance' orders the neurons of a feed-forward block, or the dimensions of heads, and what one "
            f"module holds is not one such block: {block}; write init='first'."
        )
    heads = max(groups[name] for name in block)
    if moments is not None:
        change = _change_without(block, targets, heads, moments)
        by_head = torch.stack([least_missed_last(of_head) for of_head in change])
        return (by_head + _starts(by_head)).flatten()
    size = 1
    for name, role in block.items():
        weight, bias = targets[name].weight.float(), targets[name].bias
        norms = weight.norm(dim=0 if role == "in" else 1)
        size = size * (norms if role == "in" or bias is None else torch.hypot(norms, bias.float()))
    by_head = size.unflatten(0, (heads, -1)).argsort(dim=1, descending=True, stable=True)
    return (by_head + _starts(by_head)).flatten()


def _starts(by_head: torch.Tensor) -> torch.Tensor:
    """Return the number of the first dimension of each head, shape `(heads, 1)`."""
    heads, size = by_head.shape
    return torch.arange(heads, device=by_head.device)[:, None] * size


def _change_without(
    block: dict[str, str], targets: dict[str, nn.Module], heads: int, moments: Moments
) -> torch.Tensor:
    """Return what leaving out neurons, or dimensions, changes, in each head: shape `(heads, n, n)`, summed over pairs.

    In a feed-forward block this is the square of its outputs: `a` being the neurons on the text, and `w` the columns
    that take them in, `E[a_i a_j] w_i . w_j`. In a head it is the square of queries times keys, as if they were
    independent: `E[q_i q_j] E[k_i k_j]`. What all keys have in common adds the same to every score of a query, which
    the softmax takes away, so the moments of keys are those around their mean.
    """
    change = 1.0
    for name, role in block.items():
        if role == "out":
            continue
        weight, bias, read = targets[name].weight.float(), targets[name].bias, moments_of(moments, [name])
        second, mean = read.second.to(weight), read.mean.to(weight)
        if role == "in":
            return ((weight.T @ weight) * second)[None]
        rows = weight.unflatten(0, (heads, -1))
        found = rows @ (second - torch.outer(mean, mean)) @ rows.mT
        if not name.rpartition(".")[2].startswith("k"):
            middle = (weight @ mean + (0 if bias is None else bias.float())).unflatten(0, (heads, -1))
            found = found + middle[:, :, None] * middle[:, None]
        change = change * found
    return change
