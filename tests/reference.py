"""The oracle: alternating training by the book, without the layers, the trainer, or any optimizer of ours or torch's.

The super-network is a dictionary of arrays. Each step composes plain weights from it, `W + V U` or a part of it, runs
the stock model with them, and applies AdamW (Loshchilov and Hutter, 2019), written out, to the step's mask alone.
"""

import torch
from torch.func import functional_call


def tied_names(stock):
    """Each further name of a shared parameter -> its first name, as in `named_parameters()`."""
    first = {id(parameter): name for name, parameter in stock.named_parameters()}
    every = stock.named_parameters(remove_duplicate=False)
    return {name: first[id(parameter)] for name, parameter in every if name != first[id(parameter)]}


def part_of(name):
    """`("fc1.weight", "U", 0)` of `"fc1.weight.U0"`; the share of `W` is None, and the part of a plain array too."""
    owner, _, last = name.rpartition(".")
    if last == "W" or (last[0] in "UV" and last[1:].isdigit()):
        return owner, last[0], int(last[1:]) if last != "W" else None
    return name, None, None


def takes_part(name, level, cores):
    """Whether an array is in the mask of a level, the full one being `cores`."""
    _, part, share = part_of(name)
    return part is None or (level == cores if part == "W" else share <= level)


def compose(arrays, split, tied, level, cores):
    """The stock model's parameters at a level.

    Args:
        arrays: name -> tensor; for each name in `split` the entries `name.W`, `name.U0`, `name.V0`, `name.U1`, ...
        split: names of the weights that are partitioned.
        tied: what `tied_names` returned.
        level: an integer; `cores` is the full network.
        cores: the number of cores.
    """
    weights = {name: array for name, array in arrays.items() if part_of(name)[1] is None}
    for name in split:
        weights[name] = arrays[f"{name}.W"] if level == cores else 0.0
        for share in range(min(level, cores - 1) + 1):
            weights[name] = weights[name] + arrays[f"{name}.V{share}"] @ arrays[f"{name}.U{share}"]
    return weights | {name: weights[first] for name, first in tied.items()}


def loss_of(stock, weights, batch, tokens, smoothing):
    """Label-smoothed cross-entropy summed over the batch's target tokens, divided by `tokens`."""
    labels = batch["labels"]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    log_probabilities = functional_call(stock, weights, kwargs=inputs, tie_weights=False).logits.log_softmax(-1)
    keep = labels != -100
    chosen = log_probabilities[keep]
    right = chosen.gather(1, labels[keep][:, None]).sum()
    uniform = chosen.mean(dim=1).sum()
    return -((1 - smoothing) * right + smoothing * uniform) / tokens


def train(
    stock,
    arrays,
    split,
    windows,
    *,
    levels,
    lr,
    cores=1,
    frozen=(),
    weight_decay=0.0,
    decayed=(),
    max_norm=None,
    smoothing=0.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    core_coefficient=1.0,
):
    """Changes `arrays` in place: one step for each window of micro-batches, the levels in turn.

    Args:
        windows: a list of steps, each a list of micro-batches.
        levels: what the steps train in turn, each a tuple of levels whose gradients are summed.
        lr: a function from the step to the learning rate.
        cores: the number of cores, and the level of the full network.
        frozen: names in `arrays` that are never trained.
        decayed: names in `arrays` that weight decay applies to.
    """
    state, tied = {}, tied_names(stock)
    for step, window in enumerate(windows):
        together = levels[step % len(levels)]
        mask = {
            name: array.requires_grad_()
            for name, array in arrays.items()
            if name not in frozen and any(takes_part(name, level, cores) for level in together)
        }
        tokens = sum((batch["labels"] != -100).sum() for batch in window)
        loss = sum(
            loss_of(stock, compose(arrays, split, tied, level, cores), batch, tokens, smoothing)
            for level in together
            for batch in window
        )
        gradients = dict(zip(mask, torch.autograd.grad(loss, mask.values(), allow_unused=True), strict=True))
        gradients = {name: g for name, g in gradients.items() if g is not None}
        for array in arrays.values():
            array.requires_grad_(False)
        if max_norm is not None:
            norm = torch.sqrt(sum(g.square().sum() for g in gradients.values()))
            gradients = {name: g * min(1.0, max_norm / (norm + 1e-6)) for name, g in gradients.items()}
        rate = lr(step) * (1.0 if cores in together else core_coefficient)
        for name, gradient in gradients.items():
            count, first, second = state.get(name, (0, 0.0, 0.0))
            count += 1
            first = betas[0] * first + (1 - betas[0]) * gradient
            second = betas[1] * second + (1 - betas[1]) * gradient**2
            state[name] = (count, first, second)
            array = arrays[name]
            if name in decayed:
                array -= rate * weight_decay * array
            array -= rate * (first / (1 - betas[0] ** count)) / ((second / (1 - betas[1] ** count)).sqrt() + eps)
