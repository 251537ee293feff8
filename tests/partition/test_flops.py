"""The closed form of translation models in `FlopsLedger` against PyTorch's own counter of what really runs."""

import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hf_ats.checkpoint import export_core, export_full, load_network
from hf_ats.partition import (
    FlopsLedger,
    PartitionConfig,
    blank_sentences,
    flops_per_token,
    get_level,
    level_names,
    partition_,
    partitioned_layers,
    set_level,
)
from tests.support.models import FAMILIES, partition_of, partitioned, tiny_model

# At rank 24 of 32 even the larger core is cheaper merged for a long batch.
LADDER = PartitionConfig(ratios=[0.125, 0.75])
SHAPES = {
    "below": (1, 2, 3),
    "source merges alone": (4, 60, 2),
    "target merges alone": (4, 2, 60),
    "above": (5, 50, 60),
}


def eager_model(family):
    model = tiny_model(family)
    model.set_attn_implementation("eager")
    return model


def counted(model, batch, source, target, backward):
    """The operations that really run, by PyTorch's count of the kernels."""
    ids = {
        "input_ids": torch.full((batch, source), 5),
        "attention_mask": torch.ones(batch, source, dtype=torch.long),
        "decoder_input_ids": torch.full((batch, target), 6),
    }
    with FlopCounterMode(display=False) as counter:
        logits = model(**ids, use_cache=False).logits
        if backward:
            logits.logsumexp(-1).sum().backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def assert_counts_what_runs(ledger, model, shape, level=None):
    batch = blank_sentences(*shape)
    assert ledger.forward_flops(batch, level) == counted(model, *shape, backward=False)
    assert ledger.training_flops(batch, level) == counted(model, *shape, backward=True)


@pytest.fixture(scope="module", params=FAMILIES)
def ladder(request):
    """A model with three levels, and its ledger."""
    model = partition_(eager_model(request.param), LADDER)
    return model, FlopsLedger(model)


@pytest.mark.law(number=4)
@pytest.mark.law(number=5)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_level_counts_what_runs(ladder, shape):
    model, ledger = ladder
    for level in level_names(model):
        set_level(model, level)
        assert_counts_what_runs(ledger, model, shape, level)
        batch = blank_sentences(*shape)
        assert ledger.forward_flops(batch) == ledger.forward_flops(batch, level), "the live level by default"


def test_the_shapes_lie_on_both_sides_of_the_merge(ladder):
    model, _ = ladder
    layers = partitioned_layers(model).values()
    for level in (1, 2):
        for (batch, source, target), merged in zip(
            SHAPES.values(), ((False, False), (True, False), (False, True), (True, True)), strict=True
        ):
            assert {layer.merges(batch * source, level) for layer in layers} == {merged[0]}
            assert {layer.merges(batch * target, level) for layer in layers} == {merged[1]}


WIDTHS = PartitionConfig(method="width", ratios=[0.25, 0.5])


@pytest.mark.law(number=5)
@pytest.mark.parametrize(
    ("family", "partition"),
    [
        *((family, "width") for family in FAMILIES),
        ("bart", "composition"),
        ("t5", "composition"),
        ("marian", "vocabulary"),
        ("t5", "vocabulary"),
    ],
)
def test_narrower_layers_and_fewer_of_them_count_what_runs(family, partition):
    ratios = {"ratios": LADDER.ratios} if partition == "vocabulary" else {}
    config = WIDTHS if partition == "width" else partition_of(family, partition, **ratios)
    model = partition_(eager_model(family), config)
    ledger, found = FlopsLedger(model), []
    for level in level_names(model):
        set_level(model, level)
        for shape in (SHAPES["below"], SHAPES["above"]):
            assert_counts_what_runs(ledger, model, shape, level)
        found.append(ledger.forward_flops(blank_sentences(*SHAPES["below"])))
    assert found == sorted(set(found))
    assert flops_per_token(model, "full") == flops_per_token(tiny_model(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_models_count_what_runs(family):
    model = eager_model(family)
    ledger = FlopsLedger(model)
    for shape in SHAPES.values():
        assert_counts_what_runs(ledger, model, shape)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_attention_implementation_does_not_change_the_count(family):
    ledgers = []
    for implementation in ("eager", "sdpa"):
        model = tiny_model(family)
        model.set_attn_implementation(implementation)
        ledgers.append(FlopsLedger(model))
    eager, sdpa = (ledger.training_flops(blank_sentences(4, 31, 17)) for ledger in ledgers)
    assert eager == sdpa


@pytest.mark.parametrize(
    "frozen",
    [
        "embed|shared",
        "encoder",
        r"residual\.weight",
        r"fc1\.U\.",
        r"\.V\.",
        r"residual\.weight|\.[UV]\.",
        "q_proj|embed",
    ],
)
def test_frozen_parameters_save_their_gradients(frozen):
    model = partition_(eager_model("marian"), LADDER)
    unfrozen = counted(model, *SHAPES["below"], backward=True)
    names = [name for name, _ in model.named_parameters() if re.search(frozen, name)]
    assert names
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    ledger = FlopsLedger(model)
    assert ledger.training_flops(blank_sentences(*SHAPES["below"])) < unfrozen
    for level in level_names(model):
        set_level(model, level)
        for shape in (SHAPES["below"], SHAPES["above"]):
            assert_counts_what_runs(ledger, model, shape, level)


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_per_token_is_that_of_the_exported_network(family, tmp_path):
    stock = flops_per_token(tiny_model(family))
    model = partitioned(family, LADDER)
    export_full(model, tmp_path / "full")
    export_core(model, tmp_path / "core")
    full, core = (load_network(tmp_path / name, attn_implementation="eager") for name in ("full", "core"))
    assert flops_per_token(full) == flops_per_token(model, "full") == stock
    assert flops_per_token(core) == flops_per_token(model, "core") < flops_per_token(model, "level1")
    assert flops_per_token(core, source_length=9, target_length=4) == counted(core, 1, 9, 4, backward=False) / 4
    assert_counts_what_runs(FlopsLedger(core), core, SHAPES["above"])


@pytest.mark.parametrize(
    ("family", "partition"),
    [*((family, WIDTHS) for family in FAMILIES), ("marian", "vocabulary ladder"), ("t5", "vocabulary ladder")],
)
def test_flops_per_token_is_that_of_the_exported_smaller_network(family, partition, tmp_path):
    model = partitioned(family, partition)
    export_core(model, tmp_path / "core")
    core = load_network(tmp_path / "core", attn_implementation="eager")
    assert flops_per_token(core) == flops_per_token(model, "core") < flops_per_token(model, "level1")


def test_making_a_ledger_leaves_no_trace():
    model = partition_(tiny_model("m2m_100", dropout=0.1, encoder_layerdrop=0.5), LADDER)
    model.train()
    model.model.encoder.eval()
    set_level(model, 1)
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    FlopsLedger(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert get_level(model) == 1
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_failed_probe_leaves_no_trace():
    model = partition_(tiny_model("marian"), LADDER)
    model.train()
    model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        FlopsLedger(model)
    assert all(module.training for module in model.modules())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in partitioned_layers(model).values())


def test_a_batch_is_counted_without_a_pass_of_the_model():
    model = partition_(tiny_model("marian"), LADDER)
    ledger = FlopsLedger(model)
    model.register_forward_pre_hook(lambda *_: 1 / 0)
    for length in (3, 30, 300):
        ledger.training_flops(blank_sentences(64, length, 28), "core")


def test_labels_say_the_length_of_the_target_too():
    ledger, batch = FlopsLedger(tiny_model("marian")), blank_sentences(2, 5, 7)
    labels = {"input_ids": batch["input_ids"], "labels": batch["decoder_input_ids"]}
    assert ledger.training_flops(labels) == ledger.training_flops(batch, "full") == ledger.training_flops(batch, 0)


def test_a_cost_of_another_form_is_refused():
    class Cubic(nn.Linear):
        def forward(self, x):
            for _ in range(x.shape[1] ** 2):
                y = super().forward(x)
            return y

    model = tiny_model("marian")
    model.model.encoder.layers[0].fc2 = Cubic(64, 32)
    with pytest.raises(ValueError, match="is not a polynomial of its two lengths"):
        FlopsLedger(model)


def test_a_low_rank_layer_that_sees_other_tokens_is_refused():
    class First(nn.Module):
        """Sees one token of each sentence, however long it is."""

        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x[:, :1]).expand(-1, x.shape[1], -1)

    model = partition_(tiny_model("marian"), LADDER)
    model.model.encoder.layers[0].fc1 = First(model.model.encoder.layers[0].fc1)
    with pytest.raises(ValueError, match="is not a polynomial of its two lengths"):
        FlopsLedger(model)
