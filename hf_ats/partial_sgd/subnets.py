"""Independent subnet training (Yuan et al., 2019): the network split at random over workers, again and again."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from .methods import drawn
from .neurons import NeuronLayer, mask_of_neurons
from .runner import Choice, Point, subnetwork


class IndependentSubnets:
    """The workers' local steps, interleaved in one process: the masks `p_11, p_21, .., p_k1, p_12, ..` of Section 3.3.

    In a round each layer's neurons are split at random over the workers, as evenly as they go. A worker's network has
    the weights all of whose neurons are its own; a weight between neurons of two workers rests until the next split.
    An output layer's biases are dealt out too if its outputs are named as a layer of neurons.

    What no layer names is shared: it is in every worker's network. Yuan et al. average it at the exchange, and so does
    `SubnetTraining`. As a method of Algorithm 1, which has one value of each parameter, it *stays still*, since two
    workers may not train one element: their parts are then disjoint, and interleaved steps equal parallel ones.

    Args:
        layers: of neurons, see `neuron_layer`.
        workers: the number of workers k.
        local_steps: of each worker between two splits; a round is `workers * local_steps` steps.
        seed: of the splits.
    """

    def __init__(self, layers: Sequence[NeuronLayer], workers: int, local_steps: int, seed: int = 0):
        if workers < 1 or local_steps < 1:
            raise ValueError(f"workers is {workers} and local_steps is {local_steps}, but both must be at least 1")
        if not layers:
            raise ValueError("layers is empty, but the workers' networks differ in the neurons of at least one layer")
        for layer in layers:
            if layer.size < workers:
                raise ValueError(
                    f"workers is {workers}, but the layer of {', '.join(layer.rows + layer.columns)} has "
                    f"{layer.size} neurons, and each worker needs one: take fewer workers"
                )
        self.layers, self.workers, self.local_steps, self.seed = layers, workers, local_steps, seed

    def worker_at(self, step: int) -> int:
        """Return the worker whose step it is."""
        return step % self.workers

    def round_at(self, step: int) -> int:
        """Return the number of splits before that of the step."""
        return step // (self.workers * self.local_steps)

    def split(self, number: int) -> list[Tensor]:
        """Return for each layer the worker of each neuron, `(size,)`, in round `number`."""
        generator = drawn(self.seed, number)
        return [torch.randperm(layer.size, generator=generator) % self.workers for layer in self.layers]

    def masks(self, number: int, parameters: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return for each worker the mask of its network in round `number`: of the parameters that the layers name."""
        split = self.split(number)
        return [
            mask_of_neurons(parameters, self.layers, [workers == worker for workers in split])
            for worker in range(self.workers)
        ]

    def choose(self, step: int, point: Point) -> Choice:
        """Return the sub-network of the worker whose step it is."""
        own = [workers == self.worker_at(step) for workers in self.split(self.round_at(step))]
        choice = subnetwork(point.parameters, mask_of_neurons(point.parameters, self.layers, own))
        return Choice({name: choice.mask.get(name, False) for name in point.parameters}, choice.perturbation)


def narrow_choice(model: nn.Module, mask: Mapping[str, Tensor]) -> Choice:
    """Return the choice of `subnetwork` as a network of the mask's neurons alone, which computes nothing else.

    Its parameters are cut to the rows and columns of the mask while the gradient is taken. So it takes modules that
    have their sizes from their weights, as `nn.Linear`, and `nn.Conv2d` without groups. Their products are shorter,
    so the gradient equals that of the zeroed network to the last rounding.

    Args:
        model: whose parameters the mask names.
        mask: of whole neurons, by name, as `IndependentSubnets.masks` returns it.
    """
    kept = {
        name: [_kept_of(of_name, 0), *([_kept_of(of_name, 1)] * (of_name.dim() > 1))] for name, of_name in mask.items()
    }
    return Choice(mask, within=functools.partial(_narrowed, model, kept))


def _kept_of(mask: Tensor, dimension: int) -> Tensor:
    others = [other for other in range(mask.dim()) if other != dimension]
    return torch.where(mask.any(dim=others) if others else mask)[0]


@contextlib.contextmanager
def _narrowed(model: nn.Module, kept: Mapping[str, Sequence[Tensor]]) -> Iterator[None]:
    """Put cut parameters in the place of the model's, through which a gradient reaches those."""
    cut = {}
    for name, indices in kept.items():
        narrow = parameter = model.get_parameter(name)
        for dimension, index in enumerate(indices):
            narrow = narrow.index_select(dimension, index.to(parameter.device))
        cut[parameter] = narrow
    before = [(module, dict(module._parameters)) for module in model.modules()]  # wherever it is used, if tied
    try:
        for module, own in before:
            for attribute, parameter in own.items():
                if parameter is not None and parameter in cut:
                    del module._parameters[attribute]
                    setattr(module, attribute, cut[parameter])
        yield
    finally:
        for module, own in before:
            for attribute in own.keys() - module._parameters.keys():
                delattr(module, attribute)
            module._parameters.clear()
            module._parameters.update(own)  # in their order
