"""Algorithm 1: perturb, take the gradient there, put back, mask, step."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from .masked_step import masked_step

Tensors = Mapping[str, Tensor]
Mask = Mapping[str, Tensor | bool]


@dataclass(frozen=True)
class Choice:
    """What a method chooses in a step (lines 2 and 3 of Algorithm 1).

    Args:
        mask: `p_t` by the name of the parameter, a `torch.bool` tensor of its shape, or one bool for the whole.
            Parameters left out are trained whole.
        perturbation: `dx_t` by the name of the parameter, of its shape. Parameters left out are not perturbed.
        within: makes the context manager within which the gradient is taken, for what changes the backward pass.
    """

    mask: Mask = field(default_factory=dict)
    perturbation: Tensors = field(default_factory=dict)
    within: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext


@torch.no_grad()
def subnetwork(parameters: Tensors, mask: Mask) -> Choice:
    """Return the choice that trains the sub-network of a mask: the mask, and `dx = -(1 - p) * x`."""
    perturbation = {}
    for name, kept in mask.items():
        parameter = named(parameters, name, "mask")
        if kept is True:
            continue
        if kept is False:
            kept = torch.zeros_like(parameter, dtype=torch.bool)
        _check_mask(name, kept, parameter)
        perturbation[name] = torch.where(kept.to(parameter.device), 0, -parameter)
    return Choice(mask, perturbation)


@dataclass(frozen=True)
class Point:
    """Where a step begins.

    Args:
        parameters: `x_t` by name, not to be written to. Those that require no gradient are frozen: a mask that has
            them trains nothing, and a perturbation moves them like any other.
        gradient: returns the (stochastic) gradient at `x_t` by name: one call of the closure, however often it is
            asked for. Parameters that the loss does not depend on are left out. Where the choice then has no
            perturbation, it is the gradient of the step too.
    """

    parameters: Tensors
    gradient: Callable[[], Tensors]


class Method(Protocol):
    """A pure function of the step and the point. What it draws at random is a function of its seed and the step."""

    def choose(self, step: int, point: Point) -> Choice | Sequence[Choice]:
        """Return the choice of step `step`, or several, whose masked gradients are summed into one step."""


@dataclass(frozen=True)
class PartialStep:
    """A step that was done: `gradients[i]` was taken with `choices[i]`, before masking; `loss` is the losses' sum."""

    loss: Tensor
    choices: Sequence[Choice]
    gradients: Sequence[Tensors]


class PartialSGD:
    """Runs a method on a model, with any torch optimizer underneath.

    Args:
        model: any module.
        optimizer: holds parameters of the model, and steps as ever: learning rate, momentum, weight decay are its own.
        method: chooses the mask and the perturbation of each step.

    `steps_done` counts the steps; together with the optimizer's `state_dict` it is all that a resumed run needs.

    Example:

    ```python
    >>> model = torch.nn.Linear(4, 2)
    >>> runner = PartialSGD(model, torch.optim.AdamW(model.parameters()), DropoutOfWeights(keep=0.5))
    >>> step = runner.step(lambda: model(inputs).square().mean())
    ```
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, method: Method):
        if not isinstance(optimizer, torch.optim.Optimizer) or "param_groups" not in vars(optimizer):
            raise TypeError(
                f"optimizer is a {type(optimizer).__name__}, but partial SGD steps a torch optimizer itself: "
                f"pass the torch.optim.Optimizer within it"
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("optimizer is LBFGS, which takes several gradients a step: Algorithm 1 takes one")
        own = set(model.parameters())
        strangers = [p for group in optimizer.param_groups for p in group["params"] if p not in own]
        if strangers:
            raise ValueError(
                f"optimizer holds a parameter of shape {tuple(strangers[0].shape)} that is not one of the model: "
                f"make it from model.parameters()"
            )
        self.model, self.optimizer, self.method = model, optimizer, method
        self.steps_done = 0

    def step(self, closure: Callable[[], Tensor]) -> PartialStep:
        """Do a step.

        Args:
            closure: returns the loss of the model as it then is, a tensor of one element, without a backward pass. It
                is called once for each gradient: once in most methods, twice in extragradient. Each call runs the
                model's forward pass, with what that does to its buffers and to the random state.

        Raises:
            ValueError: a mask or perturbation does not fit its parameter, or the closure returns no loss.
            FloatingPointError: a gradient that would be applied, or a perturbation, is not finite.

        After an exception the parameters, the buffers, the optimizer's state and `steps_done` are what they were.
        """
        parameters = dict(self.model.named_parameters())
        at_x = functools.cache(lambda: gradient_at(closure, parameters, Choice()))
        point = Point(parameters, lambda: at_x()[1])
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            chosen = self.method.choose(self.steps_done, point)
            choices = [chosen] if isinstance(chosen, Choice) else chosen
            if not choices or not all(isinstance(choice, Choice) for choice in choices):
                raise TypeError(
                    f"{type(self.method).__name__}.choose returned {_told(chosen)}, but must return a Choice or "
                    f"several of them"
                )
            taken = []
            for choice in choices:
                _check(choice, parameters)
                plain = not choice.perturbation and choice.within is contextlib.nullcontext
                taken.append(at_x() if plain else gradient_at(closure, parameters, choice))
            losses, gradients = zip(*taken, strict=True)
            summed, union = _masked_sum(choices, gradients, parameters)
            for name, gradient in summed.items():
                if not torch.isfinite(gradient).all():
                    raise FloatingPointError(
                        f"the gradient of '{name}' is not finite in step {self.steps_done}: look at the loss, which "
                        f"is {float(sum(losses))}, or lower the learning rate"
                    )
            masked_step(self.optimizer, parameters, summed, union)
        except BaseException:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            raise
        self.steps_done += 1
        return PartialStep(sum(losses), choices, gradients)


def gradient_at(
    closure: Callable[[], Tensor], parameters: Mapping[str, nn.Parameter], choice: Choice
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the gradient where a choice takes it; the parameters are put back bitwise."""
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    before = {name: parameters[name].detach().clone() for name in choice.perturbation}
    try:
        with torch.no_grad():
            for name, perturbation in choice.perturbation.items():
                parameters[name].copy_(before[name] + perturbation.to(before[name]))
        with torch.enable_grad(), choice.within():
            loss = closure()
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
                raise ValueError(
                    f"the closure returned {_told(loss)}, but must return the loss: a tensor of one element that "
                    f"was computed from the model's parameters, before any backward pass"
                )
            found = torch.autograd.grad(loss.squeeze(), list(trained.values()), allow_unused=True)
    finally:
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)
    gradient = {
        name: g.to_dense() if g.is_sparse else g for name, g in zip(trained, found, strict=True) if g is not None
    }
    return loss.detach().squeeze(), gradient


def _masked_sum(choices, gradients, parameters) -> tuple[dict[str, Tensor], dict[str, Tensor | bool]]:
    """Return the sum of the masked gradients, and the union of the masks, over the choices that reach a parameter."""
    summed: dict[str, Tensor] = {}
    union: dict[str, Tensor | bool] = {}
    for choice, gradient in zip(choices, gradients, strict=True):
        for name, g in gradient.items():
            mask = choice.mask.get(name, True)
            if mask is False:
                continue
            if isinstance(mask, Tensor):
                mask = mask.to(parameters[name].device)
                g = torch.where(mask, g, 0)
            if name in summed:
                g = summed[name] + g
                mask = True if mask is True or union[name] is True else mask | union[name]
            summed[name], union[name] = g, mask
    return summed, union


def _check(choice: Choice, parameters: Tensors) -> None:
    for name, mask in choice.mask.items():
        parameter = named(parameters, name, "mask")
        if not isinstance(mask, bool):
            _check_mask(name, mask, parameter)
    for name, perturbation in choice.perturbation.items():
        parameter = named(parameters, name, "perturbation")
        if not isinstance(perturbation, Tensor) or perturbation.shape != parameter.shape:
            raise ValueError(
                f"the perturbation of '{name}' is {_told(perturbation)}, but the parameter has shape "
                f"{tuple(parameter.shape)}: give a tensor of that shape"
            )
        if not torch.isfinite(perturbation).all():
            raise FloatingPointError(f"the perturbation of '{name}' is not finite")


def _check_mask(name: str, mask, parameter: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != parameter.shape:
        raise ValueError(
            f"the mask of '{name}' is {_told(mask)}, but the parameter has shape {tuple(parameter.shape)}: give True, "
            f"False, or a torch.bool tensor of that shape"
        )


def named(parameters: Tensors, name: str, what: str) -> Tensor:
    """Return the parameter of a name that `what` uses, or raise a ValueError that names both."""
    if name not in parameters:
        raise ValueError(f"the {what} names '{name}', which is not a parameter of the model")
    return parameters[name]


def _told(value) -> str:
    if not isinstance(value, Tensor):
        return f"{value!r}" if value is None or isinstance(value, int | float) else f"a {type(value).__name__}"
    graph = "" if value.requires_grad else " without a graph"
    return f"a {value.dtype} tensor of shape {tuple(value.shape)}{graph if value.is_floating_point() else ''}"
