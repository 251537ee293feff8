"""Independent subnet training (Yuan et al., 2019): the network split at random over workers, again and again."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .methods import drawn
from .neurons import NeuronLayer, mask_of_neurons
from .runner import Choice, Point, subnetwork


class IndependentSubnets:
    """The workers' local steps, interleaved in one process: the masks `p_11, p_21, .., p_k1, p_12, ..` of Section 3.3.

    In a round each layer's neurons are split at random over the workers, as evenly as they go. A worker's network has
    the weights all of whose neurons are its own; a weight between neurons of two workers rests until the next split.
    What no layer names is in every worker's network and *stays still*, since two workers may not train one element:
    the workers' parts are then disjoint, and interleaved steps equal parallel ones. An output layer's biases are dealt
    out too if its outputs are named as a layer of neurons.

    Args:
        layers: of neurons, see `neuron_layer`.
        workers: the number of workers k.
        local_steps: of each worker between two splits; a round is `workers * local_steps` steps.
        seed: of the splits.
    """

    def __init__(self, layers: Sequence[NeuronLayer], workers: int, local_steps: int, seed: int = 0):
        if workers < 1 or local_steps < 1:
            raise ValueError(f"workers is {workers} and local_steps is {local_steps}, but both must be at least 1")
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

    def split(self, step: int) -> list[Tensor]:
        """Return for each layer the worker of each neuron, `(size,)`, in the round of the step."""
        generator = drawn(self.seed, step // (self.workers * self.local_steps))
        return [torch.randperm(layer.size, generator=generator) % self.workers for layer in self.layers]

    def choose(self, step: int, point: Point) -> Choice:
        """Return the sub-network of the worker whose step it is."""
        own = [workers == self.worker_at(step) for workers in self.split(step)]
        choice = subnetwork(point.parameters, mask_of_neurons(point.parameters, self.layers, own))
        return Choice({name: choice.mask.get(name, False) for name in point.parameters}, choice.perturbation)
