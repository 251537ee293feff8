"""The methods of Sections 3.3 and 3.4 as masks and perturbations, each the few lines of its definition."""

import contextlib
import functools
import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .neurons import NeuronLayer, mask_of_neurons
from .runner import Choice, Mask, Point, named, subnetwork


def drawn(seed: int, number: int) -> torch.Generator:
    """Return a generator that is a function of the seed and the number: a resumed run needs no state of it."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]))


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}, but must be a probability above 0 and at most 1")


class SGD:
    """The full mask, no perturbation."""

    def choose(self, step: int, point: Point) -> Choice:
        """Return nothing masked, nothing perturbed."""
        return Choice()


class DropoutOfWeights:
    """Each element is in the mask with probability `keep` (the paper's mu); the rest are zero in the forward pass.

    As in the paper, what is kept is not scaled by `1 / keep`, and a mask holds for the whole batch. Frozen parameters
    stay as they are.
    """

    def __init__(self, keep: float, seed: int = 0):
        _check_share("keep", keep)
        self.keep, self.seed = keep, seed

    def choose(self, step: int, point: Point) -> Choice:
        """Return the sub-network of a mask that is drawn anew in each step."""
        generator = drawn(self.seed, step)
        trained = {name: p for name, p in point.parameters.items() if p.requires_grad}
        mask = {name: torch.rand(p.shape, generator=generator) < self.keep for name, p in trained.items()}
        return subnetwork(point.parameters, mask)


class DropoutOfNeurons:
    """Each neuron of the layers is kept with probability `keep`, with all weights into it and out of it.

    What no layer names stays in the mask.
    """

    def __init__(self, layers: Sequence[NeuronLayer], keep: float, seed: int = 0):
        _check_share("keep", keep)
        self.layers, self.keep, self.seed = layers, keep, seed

    def choose(self, step: int, point: Point) -> Choice:
        """Return the sub-network of the neurons that are drawn in this step."""
        generator = drawn(self.seed, step)
        kept = [torch.rand(layer.size, generator=generator) < self.keep for layer in self.layers]
        return subnetwork(point.parameters, mask_of_neurons(point.parameters, self.layers, kept))


class TopK:
    """The `k` elements of the whole gradient that are largest in absolute value: the paper's form of meProp."""

    def __init__(self, k: int):
        if k < 1:
            raise ValueError(f"k is {k}, but must be at least 1: the number of elements that a step trains")
        self.k = k

    def choose(self, step: int, point: Point) -> Choice:
        """Return the mask of the largest elements of the step's own gradient."""
        gradient = point.gradient()
        flat = torch.cat([g.flatten().abs() for g in gradient.values()])
        if self.k > flat.numel():
            raise ValueError(f"k is {self.k}, but the gradient has {flat.numel()} elements: give fewer")
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        chosen[flat.topk(self.k).indices] = True
        parts = chosen.split([g.numel() for g in gradient.values()])
        mask: dict[str, Tensor | bool] = dict.fromkeys(point.parameters, False)
        return Choice(mask | {name: part.view_as(gradient[name]) for name, part in zip(gradient, parts, strict=True)})


class LayerwiseTopK:
    """meProp as Sun et al. (2017) run it: each layer passes back the `k` largest elements of its output's gradient.

    They are chosen for each example: of a linear layer in each vector of the last dimension, of a convolution among
    all channels and places. What is below gets a gradient that is not the model's, so this changes the gradient
    instead of masking it: it is partial SGD only for the topmost of the layers.

    Args:
        layers: `nn.Linear`, or convolutions such as `nn.Conv2d`.
        k: how many elements of an example.
    """

    def __init__(self, layers: Sequence[nn.Module], k: int):
        for layer in layers:
            if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                raise ValueError(f"layers has a {type(layer).__name__}, but must be linear layers and convolutions")
            most = layer.out_features if isinstance(layer, nn.Linear) else math.inf
            if not 1 <= k <= most:
                raise ValueError(f"k is {k}, but must be from 1 to the {most} outputs of {layer}")
        self.layers, self.k = layers, k

    def choose(self, step: int, point: Point) -> Choice:
        """Return the full mask, with a backward pass in which the layers' gradients are cut."""
        return Choice(within=self._cut)

    @contextlib.contextmanager
    def _cut(self):
        def largest(gradient, first):
            examples = gradient.flatten(first)
            if self.k > examples.shape[-1]:
                raise ValueError(
                    f"k is {self.k}, but an example's output has {examples.shape[-1]} elements: give fewer"
                )
            chosen = examples.abs().topk(self.k, dim=-1).indices
            cut = torch.zeros_like(examples).scatter(-1, chosen, examples.gather(-1, chosen))
            return cut.view_as(gradient)

        def cut(layer, inputs, outputs):
            if outputs.requires_grad:
                first = -1 if isinstance(layer, nn.Linear) else 1  # dimension of an example
                outputs.register_hook(functools.partial(largest, first=first))

        hooks = [layer.register_forward_hook(cut) for layer in self.layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class Extragradient:
    """The gradient is taken after a look-ahead, `dx = sign * size * grad f(x)`.

    Args:
        size: of the look-ahead; below `1 / (2 L)` it meets Assumption 3.
        sign: -1 looks ahead along the descent (Korpelevich, 1976); +1 is what the paper prints.
    """

    def __init__(self, size: float, sign: int = -1):
        if sign not in (-1, 1):
            raise ValueError(f"sign is {sign}, but must be -1 (along the descent) or 1 (against it)")
        self.size, self.sign = size, sign

    def choose(self, step: int, point: Point) -> Choice:
        """Return the look-ahead, by the gradient of the closure's first call in this step."""
        return Choice(perturbation={name: self.sign * self.size * g for name, g in point.gradient().items()})


class LayerwiseFreezing:
    """One group of parameters after another is trained, `steps` steps each, the last one to the end.

    Args:
        groups: names of parameters, in the order in which they are trained; the others stay frozen.
        steps: the number of steps for each group.
    """

    def __init__(self, groups: Sequence[Sequence[str]], steps: int):
        if not groups or steps < 1:
            raise ValueError(f"there are {len(groups)} groups of {steps} steps each, but at least 1 of each is needed")
        self.groups, self.steps = groups, steps

    def choose(self, step: int, point: Point) -> Choice:
        """Return the mask of the group whose turn it is."""
        group = self.groups[min(step // self.steps, len(self.groups) - 1)]
        trained = {name: named(point.parameters, name, "group") is not None for name in group}
        return Choice({name: name in trained for name in point.parameters})


class FixedMask:
    """The sub-network of one mask, as of a pruned network: the rest is zero in the forward pass and never trained."""

    def __init__(self, mask: Mask):
        self.mask = mask

    def choose(self, step: int, point: Point) -> Choice:
        """Return the sub-network of the mask."""
        return subnetwork(point.parameters, self.mask)


class Alternating:
    """Algorithm 2: even steps train the full network, odd steps the core.

    Args:
        core: the mask of the core; parameters left out belong to it whole.
    """

    def __init__(self, core: Mask):
        self.core = core

    def choose(self, step: int, point: Point) -> Choice:
        """Return the full network or the core."""
        return subnetwork(point.parameters, self.core) if step % 2 else Choice()


class Slimmable:
    """Every network in every step, gradients summed (Yu et al., 2019): the step that alternating training unrolls.

    Args:
        cores: the masks of the smaller networks; the full network is added.
    """

    def __init__(self, cores: Sequence[Mask]):
        self.cores = cores

    def choose(self, step: int, point: Point) -> list[Choice]:
        """Return the cores and the full network."""
        return [*(subnetwork(point.parameters, core) for core in self.cores), Choice()]
