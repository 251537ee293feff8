"""The oracle: alternating training by the book, without the layers, the trainer, or any optimizer of ours or torch's.

The super-network is a dictionary of arrays. Each step composes plain weights from it, `W + V U` or `V U`, runs the
stock model with them, and applies AdamW (Loshchilov and Hutter, 2019), written out, to the step's mask alone.
"""

import torch
from torch.func import functional_call


def tied_names(stock):
    """Each further name of a shared parameter -> its first name, as in `named_parameters()`."""
    first = {id(parameter): name for name, parameter in stock.named_parameters()}
    every = stock.named_parameters(remove_duplicate=False)
    return {name: first[id(parameter)] for name, parameter in every if name != first[id(parameter)]}


def compose(arrays, split, tied, level):
    """The stock model's parameters at a level: `W + V U` at `"full"`, `V U` at `"core"`.

    Args:
        arrays: name -> tensor; for each name in `split`, the three entries `name.W`, `name.U` and `name.V`.
        split: names of the weights that are partitioned.
        tied: what `tied_names` returned.
        level: `"core"` or `"full"`.
    """
    weights = {name: array for name, array in arrays.items() if name.rpartition(".")[0] not in split}
    for name in split:
        weights[name] = arrays[f"{name}.V"] @ arrays[f"{name}.U"]
        if level == "full":
            weights[name] = weights[name] + arrays[f"{name}.W"]
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
    lr,
    frozen=(),
    weight_decay=0.0,
    decayed=(),
    max_norm=None,
    smoothing=0.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    core_coefficient=1.0,
    levels=("full", "core"),
):
    """Changes `arrays` in place: one step for each window of micro-batches, the levels in turn.

    Args:
        windows: a list of steps, each a list of micro-batches.
        lr: a function from the step to the learning rate.
        frozen: names in `arrays` that are never trained.
        decayed: names in `arrays` that weight decay applies to.
        levels: what the steps train in turn; an entry may be a tuple of levels, whose gradients are summed.

    Returns:
        The moments and step counts: name -> (count, first moment, second moment).
    """
    state, tied = {}, tied_names(stock)
    for step, window in enumerate(windows):
        level = levels[step % len(levels)]
        together = level if isinstance(level, tuple) else (level,)
        mask = {
            name: array.requires_grad_()
            for name, array in arrays.items()
            if name not in frozen and ("full" in together or not name.endswith(".W"))
        }
        tokens = sum((batch["labels"] != -100).sum() for batch in window)
        loss = sum(
            loss_of(stock, compose(arrays, split, tied, one), batch, tokens, smoothing)
            for one in together
            for batch in window
        )
        gradients = dict(zip(mask, torch.autograd.grad(loss, mask.values(), allow_unused=True), strict=True))
        gradients = {name: g for name, g in gradients.items() if g is not None}
        for array in arrays.values():
            array.requires_grad_(False)
        if max_norm is not None:
            norm = torch.sqrt(sum(g.square().sum() for g in gradients.values()))
            gradients = {name: g * min(1.0, max_norm / (norm + 1e-6)) for name, g in gradients.items()}
        rate = lr(step) * (core_coefficient if "full" not in together else 1.0)
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
    return state
