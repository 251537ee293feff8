"""Independent subnet training as it is meant: the workers train apart, over processes, and exchange once a round."""

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .criteria import perturbation_ratio
from .runner import Choice, PartialSGD, PartialStep, Point, gradient_at, subnetwork
from .smoothness import Smoothness
from .subnets import IndependentSubnets, narrow_choice


@dataclass(frozen=True)
class LocalStep:
    """A step of one worker.

    Args:
        step: what was done.
        margin: `2 L |dx| / |p * grad f(x~)|` with the estimate of L; only with a tolerance. Below 1 Assumption 3
            holds, whatever the gradient at x is, which no worker takes: a larger one only helps.
    """

    step: PartialStep
    margin: float | None = None


class SubnetTraining:
    """Trains the sub-networks of k workers apart, puts them together after a round, and splits again.

    Where torch.distributed is initialized each of its k processes is a worker, with a copy of the model that begins as
    that of process 0. Otherwise this process does the steps of all of them in turns, with k copies of the parameters.
    Both give the same bits, if a gradient does: an element that a worker owns is passed on as it is, and what is
    averaged is summed in the order of the workers.

    At the exchange, which is once a round, each element that the layers name comes with its optimizer's state from the
    worker that trained it. What no layer names is trained by every worker, and *averaged*, with its optimizer's state,
    as Yuan et al. do; so are buffers. If all parameters are named, and the optimizer keeps nothing once a tensor (as
    Adam its count of steps), then a round is that of `PartialSGD` with `IndependentSubnets`, bitwise.

    Args:
        model: any module.
        optimizer: holds its parameters.
        subnets: layers, number of workers, and local steps in a round.
        tolerance: split again as soon as a worker's margin (see `LocalStep`) reaches this multiple of 1, or of the
            round's first margin where that is larger; `subnets.local_steps` is then the most of a round. 1 keeps to
            Assumption 3: a round ends with the first step that breaks it. It takes one more gradient a step, and an
            exchange of one number.
        narrow: whether to compute only the worker's neurons, see `narrow_choice`; else the rest is computed as zeros.

    Raises:
        ValueError: the number of processes is not that of the workers.

    Example:

    ```python
    >>> training = SubnetTraining(model, optimizer, IndependentSubnets(layers, workers=2, local_steps=10))
    >>> for _ in range(100):
    ...     training.step(lambda worker: loss_of(model, batch_of[worker]))
    ```
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        subnets: IndependentSubnets,
        tolerance: float | None = None,
        narrow: bool = False,
    ):
        if tolerance is not None and not tolerance >= 1:
            raise ValueError(f"tolerance is {tolerance}, but must be at least 1, which is Assumption 3 itself")
        self.is_apart = dist.is_available() and dist.is_initialized()
        if self.is_apart and dist.get_world_size() != subnets.workers:
            raise ValueError(
                f"workers is {subnets.workers}, but torch.distributed has {dist.get_world_size()} processes, each of "
                f"which is one worker: start as many processes as workers"
            )
        self.own = [dist.get_rank()] if self.is_apart else list(range(subnets.workers))
        self.model, self.subnets, self.tolerance, self.narrow = model, subnets, tolerance, narrow
        self.runner = PartialSGD(model, optimizer, _Given(Choice()))
        self.smoothness = {worker: Smoothness() for worker in self.own}
        self.rounds_done, self.steps_in_round = 0, 0
        if self.is_apart:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.data, src=0)

    def step(self, closure: Callable[[int], Tensor]) -> dict[int, LocalStep]:
        """Do one local step of each worker of this process, and the exchange if it ends the round.

        Args:
            closure: takes the number of the worker, from 0, and returns the loss of its batch as the closure of
                `PartialSGD.step` does. With a tolerance it is called twice, for the same batch.

        Returns:
            The steps by worker. The model is whole only after a round (`steps_in_round` is 0 then).

        Raises:
            As `PartialSGD.step`; with several workers in the process all are then where they were before.
            RuntimeError: the workers' optimizers keep states of different parameters, so they cannot be exchanged.
        """
        if self.steps_in_round == 0:
            self._masks = self.subnets.masks(self.rounds_done, dict(self.model.named_parameters()))
            self._first: dict[int, float] = {}
        done = self._alone(closure) if self.is_apart else self._in_turns(closure)
        self.steps_in_round += 1
        if self._is_over(done):
            self._put(self._exchanged([self._copy()] if self.is_apart else self._held))
            self.rounds_done, self.steps_in_round = self.rounds_done + 1, 0
        return done

    def state_dict(self) -> dict:
        """Return what a resumed run needs beside the model's and the optimizer's states; each process has its own.

        Raises:
            ValueError: the workers are apart.
        """
        if self.steps_in_round:
            raise ValueError(
                f"the workers are apart, {self.steps_in_round} steps after the last exchange: save between two rounds"
            )
        return {
            "rounds_done": self.rounds_done,
            "smoothness": [(found.value, found.direction) for found in self.smoothness.values()],
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from what `state_dict` returned in this process."""
        self.rounds_done = state["rounds_done"]
        for found, (value, direction) in zip(self.smoothness.values(), state["smoothness"], strict=True):
            found.value, found.direction = value, direction

    def _alone(self, closure) -> dict[int, LocalStep]:
        return {worker: self._local_step(worker, functools.partial(closure, worker)) for worker in self.own}

    def _in_turns(self, closure) -> dict[int, LocalStep]:
        if self.steps_in_round == 0:
            self._held = [self._copy()] * len(self.own)
        done, held = {}, []
        try:
            for worker, before in zip(self.own, self._held, strict=True):
                self._put(before)
                done[worker] = self._local_step(worker, functools.partial(closure, worker))
                held.append(self._copy())
        except BaseException:
            self._put(self._held[-1])
            raise
        self._held = held
        return done

    def _local_step(self, worker: int, closure: Callable[[], Tensor]) -> LocalStep:
        parameters, mask = dict(self.model.named_parameters()), self._masks[worker]
        zeroed = subnetwork(parameters, mask)
        choice = narrow_choice(self.model, mask) if self.narrow else zeroed
        self.runner.method = _Given(choice)
        if self.tolerance is None:
            return LocalStep(self.runner.step(closure))
        found = self.smoothness[worker]
        trained = {
            name: p.detach() + zeroed.perturbation.get(name, 0) for name, p in parameters.items() if p.requires_grad
        }
        ahead = found.look_ahead(trained, mask)
        moved = {name: choice.perturbation.get(name, 0) + dx for name, dx in ahead.items()}
        gradient_ahead = gradient_at(
            closure, parameters, replace(choice, perturbation={**choice.perturbation, **moved})
        )[1]
        step = self.runner.step(closure)
        of_worker, of_ahead = (
            {name: torch.where(mask[name], g, 0) if name in mask else g for name, g in gradient.items()}
            for gradient in (step.gradients[0], gradient_ahead)
        )
        smoothness = found.update(ahead, of_worker, of_ahead)
        ratio = perturbation_ratio(zeroed.perturbation, of_worker, of_worker)
        return LocalStep(step, math.inf if ratio is None else 2 * smoothness * ratio)

    def _is_over(self, done: Mapping[int, LocalStep]) -> bool:
        if self.steps_in_round >= self.subnets.local_steps:
            return True
        if self.tolerance is None:
            return False
        grown = []
        for worker, local in done.items():
            first = self._first.setdefault(worker, max(1.0, local.margin))
            grown.append(local.margin / first if math.isfinite(local.margin) else math.inf)
        largest = torch.tensor(max(grown), device=next(self.model.parameters()).device)
        if self.is_apart:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return bool(largest >= self.tolerance)

    @torch.no_grad()
    def _copy(self) -> dict:
        """Return copies of the model's tensors and the optimizer's states by name."""
        state = self.runner.optimizer.state
        return {
            "model": {name: tensor.clone() for name, tensor in _tensors(self.model)},
            "state": {name: copy.deepcopy(state[p]) for name, p in self.model.named_parameters() if p in state},
        }

    @torch.no_grad()
    def _put(self, held: dict) -> None:
        for name, tensor in _tensors(self.model):
            tensor.copy_(held["model"][name])
        for name, parameter in self.model.named_parameters():
            self.runner.optimizer.state.pop(parameter, None)
            if name in held["state"]:
                self.runner.optimizer.state[parameter] = copy.deepcopy(held["state"][name])

    def _exchanged(self, held: Sequence[dict]) -> dict:
        """Return the whole of what the workers of all processes hold."""
        kept = [[(name, key) for name, state in own["state"].items() for key in state] for own in held]
        if self.is_apart:
            own, kept = kept[0], [[]] * self.subnets.workers
            dist.all_gather_object(kept, own)
        for worker, other in enumerate(kept):
            if other != kept[0]:
                name, key = min(set(kept[0]) ^ set(other))
                raise RuntimeError(
                    f"workers 0 and {worker} differ in '{key}', which the optimizer keeps for '{name}': the loss of "
                    f"every worker must depend on the same parameters"
                )
        state: dict[str, dict] = {}
        for name, key in kept[0]:
            values = [of_worker["state"][name][key] for of_worker in held]
            state.setdefault(name, {})[key] = self._put_together(name, values)
        return {
            "model": {name: self._put_together(name, [h["model"][name] for h in held]) for name in held[0]["model"]},
            "state": state,
        }

    def _put_together(self, name: str, values: Sequence) -> Tensor:
        """Return what becomes of a tensor of which each worker of this process has its own."""
        value = values[0]
        if not isinstance(value, Tensor):
            return value
        if name not in self._masks[0]:
            return self._average(values) if value.is_floating_point() else value
        masks = [mask[name] for mask in self._masks]
        if value.shape != masks[0].shape:
            return value  # what is kept once a tensor counts steps, of which each worker did as many
        # Bytes are added to zeros, so that nothing is rounded, not even a negative zero.
        owned = [torch.where(masks[worker], v, 0).contiguous() for worker, v in zip(self.own, values, strict=True)]
        bits = sum(v.view(torch.uint8) for v in owned)
        if self.is_apart:
            dist.all_reduce(bits)
        return torch.where(functools.reduce(torch.logical_or, masks), bits.view(value.dtype), value)

    def _average(self, values: Sequence[Tensor]) -> Tensor:
        """Return the mean over all workers, summed in their order."""
        if self.is_apart:
            own = values[0].to(next(self.model.parameters()).device).contiguous()
            values = [torch.empty_like(own) for _ in range(self.subnets.workers)]
            dist.all_gather(values, own)
        return sum(values) / len(values)


@dataclass(frozen=True)
class _Given:
    """A method whose choice is made elsewhere."""

    choice: Choice

    def choose(self, step: int, point: Point) -> Choice:
        return self.choice


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
