"""Convolutional networks whose core has fewer channels."""

import copy

import pytest
import torch
from torch import nn

from hf_ats.partition import (
    PartitionConfig,
    PartitionedBatchNorm2d,
    PartitionedConv2d,
    at_level,
    partition_,
)
from tests.support.laws import snapshot
from tests.support.models import pictures, tiny_resnet


@pytest.mark.law(number=1)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("geometry", [dict(), dict(stride=2, padding=1), dict(padding=(2, 1), dilation=(1, 2))])
def test_a_convolution_has_the_first_channels_of_each_level(geometry, bias):
    conv = nn.Conv2d(8, 6, (3, 2), bias=bias, **geometry)
    layer = PartitionedConv2d.from_conv(conv, (2, 5, 8), (3, 4, 6))
    pixels = torch.randn(2, 8, 9, 9)
    for level in range(3):
        layer.level = level
        layer.zero_grad()
        inputs, outputs = layer.in_sizes[level], layer.out_sizes[level]
        narrow = nn.Conv2d(inputs, outputs, (3, 2), bias=bias, **geometry)
        narrow.weight.data = conv.weight.data[:outputs, :inputs].clone()
        if bias:
            narrow.bias.data = conv.bias.data[:outputs].clone()
        output = layer(pixels[:, :inputs])
        assert torch.equal(output, narrow(pixels[:, :inputs]))
        output.sum().backward()
        live = {id(parameter) for parameter in layer.parameters_at(level)}
        assert live == {id(p) for p in layer.parameters() if p.grad is not None}


@pytest.mark.law(number=1)
def test_each_level_has_a_batch_normalization_of_its_own():
    norm = nn.BatchNorm2d(6)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 1.5)
    before = copy.deepcopy(norm)
    layer = PartitionedBatchNorm2d.from_batch_norm(norm.eval(), (2, 4, 6))
    assert not any(module.training for module in layer.modules())
    pixels = torch.randn(5, 6, 3, 3)
    for level, channels in enumerate((2, 4, 6)):
        layer.level = level
        torch.testing.assert_close(layer(pixels[:, :channels]), before.eval()(pixels)[:, :channels])
        assert layer.weight is layer.norms[level].weight
        assert layer.running_var.shape == (channels,)
    layer.train()
    layer.level = 1
    state = snapshot(layer.state_dict())
    layer(pixels[:, :4]).square().sum().backward()
    changed = {name for name, tensor in layer.state_dict().items() if not torch.equal(tensor, state[name])}
    assert changed == {f"norms.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert {id(p) for p in layer.parameters() if p.grad is not None} == {id(p) for p in layer.parameters_at(1)}
    assert copy.deepcopy(layer).level == 1
    assert layer.stock_state(0).keys() == norm.state_dict().keys()


@pytest.mark.law(number=3)
@pytest.mark.parametrize("training", [False, True])
def test_a_convolutional_network_computes_what_it_did_and_its_core_what_a_narrow_one_does(training):
    model, narrow = tiny_resnet().train(training), tiny_resnet()
    pixels = torch.stack([one["pixel_values"] for one in pictures(4)])
    before = copy.deepcopy(model)(pixels).logits
    partition_(model, PartitionConfig(method="width", ratios=[0.25, 0.5]))
    assert all(module.training == training for module in model.modules())
    assert torch.equal(copy.deepcopy(model)(pixels).logits, before)
    config = narrow.config
    config.embedding_size, config.hidden_sizes = 4, [4, 8]
    full, narrow = narrow.state_dict(), type(narrow)(config).train(training)
    for name, tensor in narrow.state_dict().items():
        tensor.copy_(full[name][tuple(slice(size) for size in tensor.shape)])
    with at_level(model, "level1"):
        torch.testing.assert_close(copy.deepcopy(model)(pixels).logits, narrow(pixels).logits)
