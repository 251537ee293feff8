"""The oracle: alternating training by the book, without the layers, the trainer, or any optimizer of ours or torch's.

The super-network is a dictionary of arrays, and each level a mask `p` of zeros and ones on each of them. A step
composes plain weights from `p * x` (Section 3.1 of the paper), runs the stock model with them, and applies AdamW
(Loshchilov and Hutter, 2019), written out, where the step's mask is one. What a narrower core lacks is zero.
"""

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.func import functional_call

NARROW = {
    "rows": ("fc1", "wi"),
    "columns": ("fc2", "wo"),
    "heads": ("q_proj", "k_proj", "q", "k"),
}
"""What of which layer is narrower in a core by width, by the last part of the layer's name."""


@dataclass
class SuperNetwork:
    """Arrays, the mask of each array at each level (the full one last), and the names of the weights that are sums.

    For each name in `sums` there are the arrays `name.W`, `name.U0`, `name.V0`, `name.U1`, ... of `W + V U`. Of the
    lists of layers in `kept`, by name, a level has the layers of its indices only.
    """

    arrays: dict[str, torch.Tensor]
    masks: dict[str, list[torch.Tensor]]
    sums: tuple[str, ...] = ()
    kept: dict[str, list[list[int]]] = field(default_factory=dict)

    @property
    def full(self) -> int:
        """The full level."""
        return len(next(iter(self.masks.values()))) - 1

    def union(self, name: str, levels) -> torch.Tensor:
        """The mask of an array in a step that trains several levels."""
        return torch.stack([self.masks[name][level] for level in levels]).amax(dim=0)


def by_rank(arrays, sums, cores) -> SuperNetwork:
    """Low-rank cores: share `i` of the factors belongs to the levels from `i` on, `W` to the full one alone."""

    def from_level(name):
        part = name.rpartition(".")[2] if name.rpartition(".")[0] in sums else ""
        return cores if part == "W" else int(part[1:] or 0)

    masks = {
        name: [torch.full_like(array, level >= from_level(name)) for level in range(cores + 1)]
        for name, array in arrays.items()
    }
    return SuperNetwork(arrays, masks, tuple(sums))


def by_width(arrays, ratios, heads, narrow=("rows", "columns", "heads")) -> SuperNetwork:
    """Narrower cores: the first share of the neurons of each block, and of the dimensions of each head."""

    def mask(name, array, ratio):
        *_, layer, kind = ("", *name.split("."))
        ones = torch.ones_like(array)
        how = next((how for how in narrow if layer in NARROW[how]), None)
        if how == "rows":
            ones[max(1, round(ratio * len(array))) :] = 0
        elif how == "columns" and kind == "weight":
            ones[:, max(1, round(ratio * array.shape[1])) :] = 0
        elif how == "heads":
            of_heads = ones.view(heads, len(array) // heads, -1)
            of_heads[:, max(1, round(ratio * of_heads.shape[1])) :] = 0
        return ones

    return SuperNetwork(
        arrays, {name: [mask(name, array, ratio) for ratio in (*ratios, 1)] for name, array in arrays.items()}
    )


def by_depth(arrays, kept, levels):
    """Cores of fewer layers: of each list of layers, by its name, those of the level's indices."""

    def is_kept(name, level):
        lists = [one for one in kept if name.startswith(f"{one}.")]
        return all(int(name.removeprefix(f"{one}.").split(".")[0]) in kept[one][level] for one in lists)

    masks = {
        name: [torch.full_like(array, is_kept(name, level)) for level in range(levels)]
        for name, array in arrays.items()
    }
    return SuperNetwork(arrays, masks, kept=kept)


def composed(*networks):
    """One ladder of networks that have the same arrays: a level has what all of them have at that level."""
    first = networks[0]
    masks = {
        name: [
            math.prod(shares[1:], start=shares[0])
            for shares in zip(*(one.masks[name] for one in networks), strict=True)
        ]
        for name in first.arrays
    }
    kept = {name: levels for one in networks for name, levels in one.kept.items()}
    return SuperNetwork(first.arrays, masks, sum((one.sums for one in networks), ()), kept)


def shortened(stock, weights, kept, level):
    """The stock model of a level's layers alone, and of the weights those that it has, by its own names."""
    if not kept:
        return stock, weights
    short, own = copy.deepcopy(stock), dict(weights)
    for name, levels in kept.items():
        layers = short.get_submodule(name)
        short.set_submodule(name, nn.ModuleList([layers[index] for index in levels[level]]))
        inside = {key: own.pop(key) for key in weights if key.startswith(f"{name}.")}
        for key, weight in inside.items():
            index, _, rest = key.removeprefix(f"{name}.").partition(".")
            if int(index) in levels[level]:
                own[f"{name}.{levels[level].index(int(index))}.{rest}"] = weight
    return short, own


def tied_names(stock):
    """Each further name of a shared parameter -> its first name, as in `named_parameters()`."""
    first = {id(parameter): name for name, parameter in stock.named_parameters()}
    every = stock.named_parameters(remove_duplicate=False)
    return {name: first[id(parameter)] for name, parameter in every if name != first[id(parameter)]}


def compose(network, tied, level):
    """The stock model's parameters at a level; `tied` is what `tied_names` returned."""
    masked = {name: network.masks[name][level] * array for name, array in network.arrays.items()}
    weights = {name: array for name, array in masked.items() if name.rpartition(".")[0] not in network.sums}
    for name in network.sums:
        shares = sum(f"{name}.U{share}" in masked for share in range(len(masked)))
        products = [masked[f"{name}.V{share}"] @ masked[f"{name}.U{share}"] for share in range(shares)]
        weights[name] = masked[f"{name}.W"] + sum(products)
    return weights | {name: weights[first] for name, first in tied.items()}


def loss_of(stock, weights, batch, tokens, smoothing):
    """Label-smoothed cross-entropy summed over the batch's target tokens, divided by `tokens`."""
    labels = batch["labels"]
    # With the labels, from which a stock model makes its decoder's input by itself; its own loss is not used.
    log_probabilities = functional_call(stock, weights, kwargs=batch, tie_weights=False).logits.log_softmax(-1)
    keep = labels != -100
    chosen = log_probabilities[keep]
    right = chosen.gather(1, labels[keep][:, None]).sum()
    uniform = chosen.mean(dim=1).sum()
    return -((1 - smoothing) * right + smoothing * uniform) / tokens


def train(
    stock,
    network,
    windows,
    *,
    levels,
    lr,
    frozen=(),
    weight_decay=0.0,
    decayed=(),
    max_norm=None,
    smoothing=0.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    core_coefficient=1.0,
):
    """Changes the network's arrays in place: one step for each window of micro-batches, the levels in turn.

    Args:
        windows: a list of steps, each a list of micro-batches.
        levels: what the steps train in turn, each a tuple of levels whose gradients are summed.
        lr: a function from the step to the learning rate.
        frozen: names of arrays that are never trained.
        decayed: names of arrays that weight decay applies to.
    """
    tied, trained = tied_names(stock), {name: a for name, a in network.arrays.items() if name not in frozen}
    # For every number of an array its own count of steps, and first and second moment.
    state = {name: [torch.zeros_like(array) for _ in range(3)] for name, array in trained.items()}
    for step, window in enumerate(windows):
        together = levels[step % len(levels)]
        tokens = sum((batch["labels"] != -100).sum() for batch in window)
        for array in trained.values():
            array.requires_grad_()
        loss = sum(
            loss_of(*shortened(stock, compose(network, tied, level), network.kept, level), batch, tokens, smoothing)
            for level in together
            for batch in window
        )
        gradients = dict(zip(trained, torch.autograd.grad(loss, trained.values(), allow_unused=True), strict=True))
        gradients = {name: g for name, g in gradients.items() if g is not None}
        for array in trained.values():
            array.requires_grad_(False)
        if max_norm is not None:
            norm = torch.sqrt(sum(g.square().sum() for g in gradients.values()))
            gradients = {name: g * min(1.0, max_norm / (norm + 1e-6)) for name, g in gradients.items()}
        rate = lr(step) * (1.0 if network.full in together else core_coefficient)
        for name, gradient in gradients.items():
            array, mask, (count, first, second) = trained[name], network.union(name, together), state[name]
            count += mask
            first += mask * (1 - betas[0]) * (gradient - first)
            second += mask * (1 - betas[1]) * (gradient**2 - second)
            if name in decayed:
                array -= mask * rate * weight_decay * array
            done = count.clamp(min=1)
            change = (first / (1 - betas[0] ** done)) / ((second / (1 - betas[1] ** done)).sqrt() + eps)
            array -= mask * rate * change
