"""Neurons as groups of elements: what a mask of neurons takes out of the parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .runner import named


@dataclass(frozen=True)
class NeuronLayer:
    """A layer of neurons. Neuron `j` owns row `j` of each of `rows` and column `j` of each of `columns`.

    Args:
        rows: names of parameters whose first dimension counts the neurons: weights and biases into the layer.
        columns: names of parameters whose second dimension counts them: weights out of the layer.
        size: the number of neurons.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    size: int


def neuron_layer(model: nn.Module, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> NeuronLayer:
    """Return a layer of neurons of a model.

    Args:
        model: whose parameters `rows` and `columns` name, see `NeuronLayer`.
        rows: such as `["fc1.weight", "fc1.bias"]`.
        columns: such as `["fc2.weight"]`.

    Raises:
        ValueError: a name is not a parameter, or the parameters do not agree in the number of neurons.
    """
    parameters = dict(model.named_parameters())
    sizes = {}
    for dimension, names in enumerate((rows, columns)):
        for name in names:
            shape = named(parameters, name, "layer of neurons").shape
            if len(shape) <= dimension:
                raise ValueError(f"'{name}' of shape {tuple(shape)} has no dimension {dimension} to count neurons by")
            sizes[name] = shape[dimension]
    if len(set(sizes.values())) != 1:
        raise ValueError(f"rows and columns must name parameters of one number of neurons, not {sizes}")
    return NeuronLayer(tuple(rows), tuple(columns), next(iter(sizes.values())))


def mask_of_neurons(
    parameters: Mapping[str, Tensor], layers: Sequence[NeuronLayer], kept: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the mask of the elements all of whose neurons are kept, for the parameters that the layers name.

    Args:
        parameters: by name; those that no layer names are not in the mask, so they count as kept.
        layers: of neurons. Between two of them, a weight belongs to one neuron of each.
        kept: by layer a `torch.bool` tensor `(size,)`.
    """
    masks: dict[str, Tensor] = {}
    for layer, of_layer in zip(layers, kept, strict=True):
        for dimension, names in enumerate((layer.rows, layer.columns)):
            for name in names:
                parameter = named(parameters, name, "layer of neurons")
                mask = masks.setdefault(name, torch.ones(parameter.shape, dtype=torch.bool))
                mask &= of_layer.view(*(1,) * dimension, -1, *(1,) * (parameter.dim() - dimension - 1))
    return {name: mask.to(parameters[name].device) for name, mask in masks.items()}
