"""`FlopsLedger` of other models against PyTorch's own counter of what runs, and the paper's Table 3."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification

from examples.image_classification import CifarResNetConfig, CifarResNetForImageClassification
from hf_ats.partition import (
    FlopsLedger,
    PartitionConfig,
    get_level,
    level_names,
    partition_,
    partitioned_layers,
    set_level,
)
from hf_ats.partition.flops import record
from tests.support.images import partitioned_resnet, tiny_resnet
from tests.support.laws import snapshot


def images(batch: int, size: int = 32) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.rand(batch, 3, size, size)}


def counted(model, inputs, backward: bool) -> int:
    """The operations that really run, by PyTorch's count of the kernels."""
    with FlopCounterMode(display=False) as counter:
        logits = model(**inputs).logits
        if backward:
            logits.logsumexp(-1).sum().backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def assert_counts_what_runs(model, inputs, ledger=None):
    ledger = ledger or FlopsLedger(model)
    assert ledger.forward_flops(inputs) == counted(model, inputs, backward=False)
    assert ledger.training_flops(inputs) == counted(model, inputs, backward=True)


# ---- Table 3 ----

EPOCH = 45_000


def multiply_adds(widths: list[int]) -> int:
    """ResNet-18 in CIFAR's form on one image of 32 x 32, layer by layer."""
    stem, *_ = widths
    total, side, before = 32 * 32 * 3 * 3 * 3 * stem, 32, stem
    for stage, width in enumerate(widths):
        if stage:
            side //= 2
            total += side * side * before * width  # the 1 x 1 shortcut
        total += side * side * 3 * 3 * (before * width + 3 * width * width)  # two blocks of two convolutions
        before = width
    return total + before * 10


def test_table_3():
    """1e12 forward FLOPs per epoch: slimmable 62.52 and alternating 31.26 (the paper prints 62.7 and 31.3)."""
    model = partition_(
        CifarResNetForImageClassification(CifarResNetConfig()), PartitionConfig(method="width", ratios=[0.5])
    )
    ledger, one = FlopsLedger(model), images(1)
    full, core = (ledger.forward_flops(one, level) for level in ("full", "core"))
    assert full == 2 * multiply_adds([64, 128, 256, 512])
    assert core == 2 * multiply_adds([32, 64, 128, 256])
    slimmable = EPOCH * (full + core)
    assert round(slimmable / 1e12, 2) == 62.52
    assert round(slimmable / 2 / 1e12, 2) == 31.26
    assert ledger.forward_flops(images(128), "full") == 128 * full


# ---- What is counted ----


@pytest.mark.law(number=5)
@pytest.mark.parametrize("ratios", [(0.5,), (0.25, 0.75)])
def test_every_level_of_a_network_of_convolutions_counts_what_runs(ratios):
    model = partitioned_resnet(ratios)
    ledger, found = FlopsLedger(model), []
    for level in level_names(model):
        set_level(model, level)
        for inputs in (images(1, 8), images(5, 8), images(3, 9)):
            assert_counts_what_runs(model, inputs, ledger)
            assert ledger.training_flops(inputs, level) == ledger.training_flops(inputs), "the live level by default"
        found.append(ledger.forward_flops(images(1, 8)))
    assert found == sorted(set(found))


@pytest.mark.parametrize("frozen", ["embedder", "shortcut", r"\.rows", "classifier", "layer.0"])
def test_frozen_parameters_save_their_gradients(frozen):
    model = partitioned_resnet()
    for level in ("core", "full"):
        set_level(model, level)
        unfrozen = FlopsLedger(model).training_flops(images(2, 8))
        names = [name for name, _ in model.named_parameters() if re.search(frozen, name)]
        assert names
        for name in names:
            model.get_parameter(name).requires_grad_(False)
        assert_counts_what_runs(model, images(2, 8))
        # A frozen block of a weight saves nothing while the rest of it is trained.
        assert (FlopsLedger(model).training_flops(images(2, 8)) < unfrozen) == (frozen != r"\.rows")
        model.requires_grad_(True)


@pytest.mark.parametrize(
    ("keywords", "places"),
    [
        ({}, 7 * 7),
        ({"padding": 1}, 9 * 9),
        ({"stride": 2}, 4 * 4),
        ({"stride": (3, 1), "padding": (0, 2)}, 3 * 11),
        ({"dilation": 3}, 3 * 3),
        ({"groups": 2}, 7 * 7),
        ({"groups": 4, "stride": 2, "padding": 1}, 5 * 5),
    ],
)
@pytest.mark.parametrize("by_keyword", [True, False])
def test_convolutions_of_every_geometry(keywords, places, by_keyword):
    class Convolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 4 // keywords.get("groups", 1), 3, 3))

        def forward(self, x):
            if by_keyword:
                return F.conv2d(x, weight=self.weight, **keywords)
            return F.conv2d(x, self.weight, **keywords)

    batch = torch.randn(2, 4, 9, 9)
    found = record(Convolution(), {"x": batch})
    # One output of one image: a sum over the channels of its group and 3 x 3 places.
    products = 2 * 2 * 8 * places * (4 // keywords.get("groups", 1)) * 9
    assert (found.forward, found.backward) == (products, products)
    found = record(Convolution(), {"x": batch.requires_grad_()})
    assert (found.forward, found.backward) == (products, 2 * products)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_low_rank_layers_follow_their_own_formula(implementation):
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50, num_labels=3
    )
    config._attn_implementation = "eager"
    model = BertForSequenceClassification(config).eval()
    partition_(model, PartitionConfig(ratios=[0.125, 0.75], target_modules=["intermediate.dense"]))
    layer = next(iter(partitioned_layers(model).values()))
    assert [layer.merges(1 * 3, 2), layer.merges(16 * 21, 2)] == [False, True]

    def rows(batch, length):
        ids = torch.ones(batch, length, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": ids}

    model.set_attn_implementation(implementation)
    ledger = FlopsLedger(model)
    found = {
        (b, n, level): ledger.training_flops(rows(b, n), level) for level in range(3) for b, n in ((1, 3), (16, 21))
    }
    model.set_attn_implementation("eager")
    for (batch, length, level), flops in found.items():
        set_level(model, level)
        assert flops == counted(model, rows(batch, length), backward=True)


def test_labels_and_numbers_go_through():
    model = partitioned_resnet()
    inputs = {**images(4, 8), "labels": torch.tensor([0, 1, 2, 0]), "return_dict": True}
    assert FlopsLedger(model).forward_flops(inputs) == FlopsLedger(model).forward_flops(images(4, 8))


# ---- No trace ----


def test_a_count_leaves_no_trace():
    model = partitioned_resnet()
    model.resnet.encoder.register_forward_hook(lambda *_: torch.rand(1) and None)  # draws, also in eval mode
    model.train()
    model.resnet.encoder.stages[0].eval()
    set_level(model, "core")
    modes = [module.training for module in model.modules()]
    inputs, ledger = images(3, 8), FlopsLedger(model)
    before, state = snapshot(model.state_dict()), torch.get_rng_state()
    for level in ("core", "full"):
        ledger.training_flops(inputs, level)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert any("running_mean" in name for name in before)
    assert torch.equal(torch.get_rng_state(), state)
    assert get_level(model) == 0
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_shape_is_counted_once():
    model, passes = partitioned_resnet(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    ledger = FlopsLedger(model)
    for batch in (1, 7, 128):
        ledger.training_flops(images(batch, 8))
    assert len(passes) == 2
    ledger.training_flops(images(1, 9))
    assert len(passes) == 3, "a second pass checks the first sizes alone"
    ledger.training_flops(images(1, 8), "core")
    assert len(passes) == 5


# ---- Refusals ----


def test_a_cost_of_another_form_is_refused():
    class Pairs(nn.Linear):
        def forward(self, x):
            rows = super().forward(x)
            return rows @ rows.T

    with pytest.raises(ValueError, match="Pairs is not proportional to the batch"):
        FlopsLedger(Pairs(4, 4)).forward_flops({"x": torch.zeros(3, 4)})


def test_products_that_it_does_not_know_are_refused():
    class Einsum(nn.Linear):
        def forward(self, x):
            return torch.einsum("bi,oi->bo", x, self.weight)

    with pytest.raises(ValueError, match="runs 64 operations on two rows, of which 0 are products"):
        FlopsLedger(Einsum(4, 4)).forward_flops({"x": torch.zeros(3, 4)})


def test_inputs_without_one_batch_are_refused():
    ledger = FlopsLedger(tiny_resnet())
    for inputs in ({}, {**images(3, 8), "labels": torch.zeros(2)}):
        with pytest.raises(ValueError, match="give at least one tensor, and in all of them the batch first"):
            ledger.forward_flops(inputs)


def test_wrong_levels_are_named():
    with pytest.raises(ValueError, match=r"level='corse' is not a level.*'core', 'full' or an integer from 0 to 1"):
        FlopsLedger(partitioned_resnet()).forward_flops(images(1, 8), "corse")
    ledger = FlopsLedger(tiny_resnet())
    assert ledger.forward_flops(images(1, 8)) == ledger.forward_flops(images(1, 8), "full")
    with pytest.raises(ValueError, match=r"level='core' is not a level of this .*, which is not partitioned"):
        ledger.forward_flops(images(1, 8), "core")
