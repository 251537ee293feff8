import copy

import pytest
import torch
from torch import nn

from hf_ats.partition import PartitionedRankLinear

INPUTS, OUTPUTS, RANKS = 24, 40, (2, 6)


def make_layer(init="svd", bias=True, dtype=torch.float32, ranks=RANKS):
    linear = nn.Linear(INPUTS, OUTPUTS, bias=bias, dtype=dtype)
    return linear, PartitionedRankLinear.from_linear(linear, ranks, init)


@pytest.mark.law(number=3)
@pytest.mark.parametrize("init", ["svd", "random"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [1, 500], ids=["per token", "merged"])
def test_at_full_level_it_computes_what_the_linear_layer_did(init, bias, tokens):
    linear, layer = make_layer(init, bias)
    assert layer.merges(1) is False and layer.merges(500) is True
    x = torch.randn(tokens, INPUTS)
    torch.testing.assert_close(layer(x), linear(x))
    assert layer.V[0].abs().max() > 0.01  # V U is not the zero map


@pytest.mark.law(number=3)
def test_the_svd_start_is_the_best_approximation_of_each_rank():
    linear, layer = make_layer()
    left, values, right = torch.linalg.svd(linear.weight)
    for level, rank in enumerate(RANKS):
        best = left[:, :rank] @ values[:rank].diag() @ right[:rank]
        torch.testing.assert_close(layer.merged_weight(level), best, rtol=1e-4, atol=1e-5)


def test_random_factors_have_the_scale_of_the_weight():
    linear = nn.Linear(400, 300)
    layer = PartitionedRankLinear.from_linear(linear, (16,), "random")
    ratio = layer.merged_weight(0).square().mean() / linear.weight.square().mean()
    assert 0.7 < ratio < 1.4  # 16 * 700 Gaussians: the spread over seeds is about 0.1
    assert abs(layer.U[0].std() / layer.V[0].std() - 1) < 0.1


@pytest.mark.law(number=3)
@pytest.mark.parametrize("init", ["svd", "random"])
def test_a_core_can_leave_a_weight_that_is_zero_or_of_low_rank(init):
    linear = nn.Linear(INPUTS, OUTPUTS)
    with torch.no_grad():
        linear.weight.zero_()
        if init == "svd":
            linear.weight[0, 0] = 1.0
    layer = PartitionedRankLinear.from_linear(linear, (3,), init)
    layer.level = 0
    layer(torch.randn(5, INPUTS)).square().sum().backward()
    moves = (layer.V[0].grad.abs().sum(dim=0) > 0) | (layer.U[0].grad.abs().sum(dim=1) > 0)
    assert moves.all()


@pytest.mark.law(number=1)
@pytest.mark.parametrize("tokens", [1, 500])
def test_every_level_computes_its_own_sum_and_leaves_the_other_gradients_at_none(tokens):
    _, layer = make_layer()
    x = torch.randn(tokens, INPUTS)
    for level in range(layer.num_levels):
        layer.level = level
        layer.zero_grad()
        output = layer(x)
        torch.testing.assert_close(output, x @ layer.merged_weight().T + layer.bias, rtol=1e-4, atol=1e-5)
        output.square().sum().backward()
        live = {"bias", *(f"{factor}.{share}" for factor in "UV" for share in range(min(level, 1) + 1))}
        live |= {"residual.weight"} if level == 2 else set()
        assert {name for name, p in layer.named_parameters() if p.grad is not None} == live


@pytest.mark.law(number=4)
def test_both_ways_to_the_full_level_have_the_same_gradients():
    _, layer = make_layer()
    layer = layer.double()
    x = torch.randn(30, INPUTS, dtype=torch.float64, requires_grad=True)
    gradients = []
    for merge in (True, False):
        layer.merges = lambda tokens, level=None, merge=merge: merge
        gradients.append(torch.autograd.grad(layer(x).pow(3).sum(), [x, *layer.parameters()]))
    for merged, per_token in zip(*gradients, strict=True):
        torch.testing.assert_close(merged, per_token)


@pytest.mark.law(number=4)
def test_the_choice_between_the_two_ways_follows_their_multiply_adds():
    layer = PartitionedRankLinear(512, 512, (16,))
    # Forming the weight: (16 + 1) 512^2; a token through U, V and the sum: 16 (512 + 512) + 512.
    break_even = 17 * 512 * 512 / (16 * 1024 + 512)
    assert not layer.merges(int(break_even)) and layer.merges(int(break_even) + 1)
    assert not layer.merges(10**9, level=0)
    almost_full_rank = PartitionedRankLinear(512, 512, (384,))
    assert almost_full_rank.merges(10**4, level=0) and not almost_full_rank.merges(10, level=0)


@pytest.mark.law(number=4)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 500])
def test_under_autocast_the_sum_is_taken_before_the_cast(dtype, tokens):
    _, layer = make_layer()
    with torch.no_grad():  # W large and V U small: their sum in half precision would lose V U
        layer.weight.mul_(100)
        exact = layer.merged_weight()
    x = torch.randn(tokens, INPUTS)
    with torch.autocast("cpu", dtype=dtype):
        output = layer(x)
        assert output.dtype == dtype
        expected = nn.functional.linear(x, exact, layer.bias)
    if tokens > 1:
        assert torch.equal(output, expected)
    else:
        torch.testing.assert_close(output, expected, rtol=2e-2, atol=0.5)
    for level in (0, 1):
        layer.level = level
        with torch.autocast("cpu", dtype=dtype):
            output = layer(x)
        assert output.dtype == dtype and output.isfinite().all()


@pytest.mark.law(number=3)
def test_half_precision_parameters_keep_the_full_layer():
    linear, layer = make_layer(dtype=torch.bfloat16)
    assert layer.weight.dtype == layer.U[0].dtype == torch.bfloat16
    # W is rounded once to bfloat16 after the split: half a unit in the last of its 8 bits, and the sum's own rounding.
    torch.testing.assert_close(layer.merged_weight(), linear.weight, rtol=2**-7, atol=2**-9)


@pytest.mark.law(number=4)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_are_summed_in_float32(dtype):
    layer = PartitionedRankLinear(INPUTS, OUTPUTS, (6,), dtype=dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter, dtype=torch.float32))
    exact = layer.weight.float() + layer.V[0].float() @ layer.U[0].float()
    assert torch.equal(layer.merged_weight(), exact.to(dtype))
    assert torch.equal(layer.merged_weight(0), (layer.V[0].float() @ layer.U[0].float()).to(dtype))


def test_a_compiled_layer_follows_its_level():
    _, layer = make_layer()
    compiled = torch.compile(layer, backend="aot_eager")
    x = torch.randn(300, INPUTS)
    for level in (2, 0, 1, 2):
        layer.level = level
        torch.testing.assert_close(compiled(x), layer(x))


def test_a_copy_and_a_state_dict_hold_the_whole_layer():
    _, layer = make_layer()
    x = torch.randn(4, INPUTS)
    other = PartitionedRankLinear(INPUTS, OUTPUTS, RANKS)
    other.load_state_dict(layer.state_dict())
    for level in range(3):
        layer.level = other.level = level
        assert torch.equal(other(x), layer(x)) and torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize(
    ("ranks", "message"), [((), "positive"), ((3, 3), "increase"), ((0, 2), "positive"), ((25,), "goes beyond 24")]
)
def test_impossible_ranks_are_refused(ranks, message):
    with pytest.raises(ValueError, match=message):
        PartitionedRankLinear(INPUTS, OUTPUTS, ranks)
