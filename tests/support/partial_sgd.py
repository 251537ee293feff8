"""A small network for partial SGD, its data, and what compares runs of it."""

import copy

import torch
from torch import nn

from hf_ats.partial_sgd import neuron_layer

HIDDEN = 6


def network(dtype=torch.float32):
    """Two layers of neurons between 4 inputs and 3 outputs."""
    torch.manual_seed(1)
    modules = [nn.Linear(4, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 5), nn.Tanh(), nn.Linear(5, 3)]
    return nn.Sequential(*modules).to(dtype)


def layers(model):
    """Both of its layers of neurons; the biases of the outputs belong to none."""
    return [
        neuron_layer(model, rows=["0.weight", "0.bias"], columns=["2.weight"]),
        neuron_layer(model, rows=["2.weight", "2.bias"], columns=["4.weight"]),
    ]


def batches(number, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(7, 4, generator=generator, dtype=dtype) for _ in range(number)]


def loss_of(model, inputs):
    """A loss with a minimum that is not at zero."""
    target = torch.stack([inputs.sum(1), inputs[:, 0] * inputs[:, 1], inputs[:, 2].cos()], dim=1)
    return (model(inputs) - target).square().mean()


def run(runner, inputs):
    """A step of the runner for each batch."""
    return [runner.step(lambda batch=batch: loss_of(runner.model, batch)) for batch in inputs]


def snapshot(model, optimizer):
    """Copies of all parameters, buffers and optimizer states."""
    state = {name: copy.deepcopy(optimizer.state.get(p, {})) for name, p in model.named_parameters()}
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, state


def bits(tensor):
    """The tensor's bits, so that -0.0 is not 0.0 and NaN is NaN."""
    return tensor.detach().contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def assert_same(before, after):
    """Two snapshots are bitwise the same."""
    assert before[0].keys() == after[0].keys() and before[1].keys() == after[1].keys()
    for name, tensor in before[0].items():
        assert torch.equal(bits(tensor), bits(after[0][name])), name
    for name, state in before[1].items():
        assert state.keys() == after[1][name].keys(), name
        for key, value in state.items():
            same = torch.equal(value, after[1][name][key]) if torch.is_tensor(value) else value == after[1][name][key]
            assert same, (name, key)
