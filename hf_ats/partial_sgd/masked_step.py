"""One step of any optimizer on a part of the elements: the others keep their value and their state bitwise.

A mask of whole parameters needs nothing special (law 1): a parameter without a gradient is skipped. Within a tensor an
optimizer would move masked elements in spite of a zero gradient, by weight decay, momentum or its moments. So they are
copied before the step and put back after it, which holds for every implementation (for-loop, foreach, fused).

What an optimizer keeps *once a tensor*, as Adam its count of steps, belongs to no element. It advances in each step in
which any element of the tensor takes part, as it does in a step on the whole tensor.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def masked_step(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Tensor],
    masks: Mapping[str, Tensor | bool],
) -> None:
    """Step where the masks are true. `.grad` of all the optimizer's parameters is `None` afterwards.

    Args:
        optimizer: any torch optimizer whose `step` needs no closure. Its parameters without a gradient stay still.
        parameters: by name.
        gradients: by name, each of its parameter's shape.
        masks: by name, a `torch.bool` tensor of the parameter's shape, or one bool for the whole; left out: `True`.

    Raises:
        ValueError: the optimizer keeps a tensor that several elements share and a mask cuts its parameter, such as
            Adafactor's mean squares of rows and columns. Nothing has changed then.
    """
    cut = []
    given: dict[nn.Parameter, Tensor] = {}
    for name, gradient in gradients.items():
        parameter, mask = parameters[name], masks.get(name, True)
        if isinstance(mask, Tensor):
            mask = mask.to(parameter.device)
            whole, some = bool(mask.all()), bool(mask.any())
        else:
            whole, some = mask, mask
        if some:
            given[parameter] = gradient if whole else torch.where(mask, gradient, 0)
        if some and not whole:
            cut.append((name, parameter, mask))
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    cut = [entry for entry in cut if entry[1] in groups]
    before = []
    for name, parameter, mask in cut:
        state = optimizer.state.get(parameter) or _state_at_the_start(optimizer, groups[parameter], parameter)
        _check_elements(optimizer, state, name, parameter)
        kept = {key: value.clone() for key, value in state.items() if _is_of_elements(value, parameter)}
        before.append((parameter, mask, parameter.clone(), kept))
    for parameter in groups:
        parameter.grad = given.get(parameter)
    try:
        optimizer.step()
    finally:
        for parameter, mask, value, kept in before:
            parameter.copy_(torch.where(mask, parameter, value))
            state = optimizer.state.get(parameter, {})
            for key in kept.keys() & state.keys():
                state[key].copy_(torch.where(mask, state[key], kept[key]))
        for parameter in groups:
            parameter.grad = None


def _is_of_elements(value, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _check_elements(optimizer, state: dict, name: str, parameter: Tensor) -> None:
    for key, value in state.items():
        if isinstance(value, Tensor) and value.numel() > 1 and value.shape != parameter.shape:
            raise ValueError(
                f"the mask cuts '{name}', but {type(optimizer).__name__} keeps '{key}' of shape {tuple(value.shape)} "
                f"for it, which its elements share: mask whole parameters, or take an optimizer whose state is "
                f"element by element, such as Adam or SGD"
            )


def _state_at_the_start(optimizer, group: dict, parameter: Tensor) -> dict:
    """Return the state of elements that never took part: what a step makes of zero weights with zero gradients.

    Optimizers make their state in the first step, with that step's gradient already in it. Zeros would be wrong for
    some, such as Rprop, whose step sizes start at the learning rate.
    """
    zeros = nn.Parameter(torch.zeros_like(parameter))
    zeros.grad = torch.zeros_like(parameter)
    scratch = object.__new__(type(optimizer))
    scratch.__dict__.update(vars(optimizer))
    scratch.__dict__.pop("step", None)  # a learning-rate scheduler's wrapper, bound to the optimizer itself
    scratch.state = defaultdict(dict)
    scratch.param_groups = [{**group, "params": [zeros]}]
    scratch._optimizer_step_pre_hooks = OrderedDict()
    scratch._optimizer_step_post_hooks = OrderedDict()
    scratch.step()
    return scratch.state[zeros]
