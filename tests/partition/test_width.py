"""The linear layers that are narrower in the core."""

import copy

import pytest
import torch
from torch import nn

from hf_ats.partition import (
    PartitionedLinear,
)
from tests.support.laws import snapshot

# in_sizes, out_sizes, groups, filled: what each kind of layer in a ladder of two cores has.
SHAPES = {
    "outputs grow": ((6, 6, 6), (2, 5, 8), 1, False),
    "inputs grow": ((2, 5, 8), (6, 6, 6), 1, False),
    "both grow": ((2, 5, 8), (3, 4, 6), 1, False),
    "heads grow": ((6, 6, 6), (1, 3, 4), 2, False),
    "heads grow, filled": ((6, 6, 6), (1, 3, 4), 2, True),
}


def kept(sizes, groups, level):
    """The indices of what a level keeps of `groups * sizes[-1]` rows."""
    return [group * sizes[-1] + i for group in range(groups) for i in range(sizes[level])]


def make_linear(shape, bias=True):
    in_sizes, out_sizes, groups, filled = SHAPES[shape]
    linear = nn.Linear(in_sizes[-1], groups * out_sizes[-1], bias=bias)
    return linear, PartitionedLinear.from_linear(linear, in_sizes, out_sizes, groups, filled)


@pytest.mark.law(number=1)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_level_computes_the_first_rows_of_each_group_and_columns_and_no_other_gradient(shape, bias):
    linear, layer = make_linear(shape, bias)
    in_sizes, out_sizes, groups, filled = SHAPES[shape]
    for level in range(3):
        rows = kept(out_sizes, groups, level)
        weight = linear.weight[rows, : in_sizes[level]]
        of_bias = linear.bias[rows] if bias else None
        x = torch.randn(2, 3, in_sizes[level])
        expected = nn.functional.linear(x, weight, of_bias)
        stock = layer.stock_state(level)
        assert torch.equal(stock["weight"], weight) and (of_bias is None or torch.equal(stock["bias"], of_bias))
        if filled:
            whole = torch.zeros(2, 3, groups * out_sizes[-1])
            whole[..., rows] = expected
            expected = whole
        layer.level = level
        layer.zero_grad()
        output = layer(x)
        assert torch.equal(output, expected)
        output.square().sum().backward()
        live = {id(parameter) for parameter in layer.parameters_at(level)}
        assert live == {id(p) for p in layer.parameters() if p.grad is not None}
        assert sum(p.numel() for p in layer.parameters_at(level)) == weight.numel() + (len(rows) if bias else 0)
        assert layer.exported_size(level) == weight.numel() + (len(rows) if bias else 0)
        assert layer.weight.shape == weight.shape and layer.weight.is_meta


@pytest.mark.law(number=1)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_blocks_hold_every_number_once_and_share_nothing_but_an_uncut_bias(shape):
    linear, layer = make_linear(shape)
    before = snapshot(linear)
    assert sum(p.numel() for p in layer.parameters()) == linear.weight.numel() + linear.bias.numel()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    assert torch.equal(linear.weight, before["weight"])
    shared = any(parameter is linear.bias for parameter in layer.parameters())
    assert shared == (shape == "inputs grow")


def test_an_order_puts_other_neurons_first():
    linear = nn.Linear(6, 4)
    order = torch.tensor([2, 0, 3, 1])
    layer = PartitionedLinear.from_linear(linear, (6, 6), (2, 4), out_order=order)
    x = torch.randn(5, 6)
    assert torch.equal(layer(x), linear(x)[:, order])
    columns = PartitionedLinear.from_linear(nn.Linear(4, 6), (2, 4), (6, 6), in_order=order)
    columns.level = 0
    assert columns(x[:, :2]).shape == (5, 6)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_a_state_dict_and_a_compiled_layer_follow_the_level(shape):
    in_sizes, out_sizes, groups, filled = SHAPES[shape]
    _, layer = make_linear(shape)
    other = PartitionedLinear(in_sizes, out_sizes, groups, filled)
    other.load_state_dict(layer.state_dict())
    compiled = torch.compile(layer, backend="eager")
    for level in (2, 0, 1, 2):
        layer.level = other.level = level
        x = torch.randn(3, in_sizes[level])
        assert torch.equal(other(x), layer(x)) and torch.equal(copy.deepcopy(layer)(x), layer(x))
        assert torch.equal(compiled(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_each_level_computes_in_half_precision(dtype):
    _, layer = make_linear("both grow")
    for level in range(3):
        layer.level = level
        with torch.autocast("cpu", dtype=dtype):
            assert layer(torch.randn(3, layer.in_sizes[level])).dtype == dtype


@pytest.mark.parametrize(
    ("in_sizes", "out_sizes", "message"),
    [
        ((4,), (4,), r"in_sizes=\(4,\) must be positive and not decrease: one size a level"),
        ((0, 4), (4, 4), r"in_sizes=\(0, 4\) must be positive"),
        ((4, 4), (4, 2), r"out_sizes=\(4, 2\) must be positive and not decrease"),
        ((4, 4), (2, 3, 4), r"in_sizes=\(4, 4\) and out_sizes=\(2, 3, 4\) must name the same number of levels"),
    ],
)
def test_impossible_sizes_are_refused(in_sizes, out_sizes, message):
    with pytest.raises(ValueError, match=message):
        PartitionedLinear(in_sizes, out_sizes)
