"""Partial SGD, Algorithm 1 of the paper, on any `nn.Module`: the runner, its methods, and the criteria of Theorem 1.

It knows torch alone: nothing of Transformers, of partitioned layers, or of trainers.
"""

from .criteria import Criteria, criteria, perturbation_ratio
from .masked_step import masked_step
from .methods import (
    SGD,
    Alternating,
    DropoutOfNeurons,
    DropoutOfWeights,
    Extragradient,
    FixedMask,
    LayerwiseFreezing,
    LayerwiseTopK,
    Slimmable,
    TopK,
)
from .neurons import NeuronLayer, neuron_layer
from .runner import Choice, Method, PartialSGD, PartialStep, Point, subnetwork
from .smoothness import Smoothness
from .subnets import IndependentSubnets, narrow_choice
from .workers import LocalStep, SubnetTraining

__all__ = [
    "SGD",
    "Alternating",
    "Choice",
    "Criteria",
    "DropoutOfNeurons",
    "DropoutOfWeights",
    "Extragradient",
    "FixedMask",
    "IndependentSubnets",
    "LayerwiseFreezing",
    "LayerwiseTopK",
    "LocalStep",
    "Method",
    "NeuronLayer",
    "PartialSGD",
    "PartialStep",
    "Point",
    "Slimmable",
    "Smoothness",
    "SubnetTraining",
    "TopK",
    "criteria",
    "masked_step",
    "narrow_choice",
    "neuron_layer",
    "perturbation_ratio",
    "subnetwork",
]
