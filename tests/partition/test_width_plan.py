"""Which layers are narrower where, in which order their neurons stand, and what cannot be narrowed."""

import copy
import itertools

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from hf_ats.checkpoint import load_partitioned
from hf_ats.partition import (
    PartitionConfig,
    at_level,
    num_levels,
    partition_,
    partitioned_layers,
    set_level,
)
from tests.support.checkpoints import logits
from tests.support.laws import snapshot
from tests.support.models import FAMILIES, FEED_FORWARD, partition_of, pictures, probe_batch, tiny_model, tiny_resnet


def blocks_of(model, family):
    """The feed-forward blocks and attentions of a model, partitioned or not: pairs of the layers' names."""
    pairs = [FEED_FORWARD[family], ["q", "k"] if family == "t5" else ["q_proj", "k_proj"]]
    names = [name for name, _ in model.named_modules()]
    for (first, second), is_block in zip(pairs, (True, False), strict=True):
        for name in names:
            if name.endswith(f".{first}"):
                yield name, f"{name.removesuffix(first)}{second}", is_block


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_keeps_the_neurons_and_dimensions_of_the_largest_norms(family):
    stock = tiny_model(family)
    model = partition_(tiny_model(family), partition_of(family, "width ladder", init="importance"))
    seen = 0
    for first, second, is_block in blocks_of(stock, family):
        one, two = stock.get_submodule(first), stock.get_submodule(second)

        def with_bias(layer):
            return layer.weight if layer.bias is None else torch.cat([layer.weight, layer.bias[:, None]], dim=1)

        sizes = with_bias(one).norm(dim=1) * (two.weight.norm(dim=0) if is_block else with_bias(two).norm(dim=1))
        groups = sizes.view(1 if is_block else 4, -1)
        for level, size in enumerate(model.get_submodule(first).out_sizes):
            rows = torch.cat([group * groups.shape[1] + s.topk(size).indices for group, s in enumerate(groups)])
            found = model.get_submodule(first).stock_state(level)["weight"]
            assert torch.equal(found.sort(dim=0).values, one.weight[rows].sort(dim=0).values), (first, level)
            by_row = {tuple(row.tolist()) for row in found}
            assert by_row == {tuple(row.tolist()) for row in one.weight[rows]}
            other = model.get_submodule(second).stock_state(level)["weight"]
            partners = two.weight[:, rows].T if is_block else two.weight[rows]
            assert {tuple(row.tolist()) for row in (other.T if is_block else other)} == {
                tuple(row.tolist()) for row in partners
            }
            seen += 1
    assert seen == 10 * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_core_of_importance_does_not_depend_on_the_order_that_the_neurons_had(family):
    batch = probe_batch(tiny_model(family))
    outputs = []
    for shuffled in (False, True):
        model = tiny_model(family)
        for first, second, is_block in blocks_of(model, family) if shuffled else ():
            one, two = model.get_submodule(first), model.get_submodule(second)
            size = one.out_features if is_block else one.out_features // 4
            order = torch.cat([start + torch.randperm(size) for start in range(0, one.out_features, size)])
            for layer in (one,) if is_block else (one, two):
                for parameter in layer.parameters():
                    parameter.data = parameter.data[order]
            if is_block:
                two.weight.data = two.weight.data[:, order]
        first_half = partition_(copy.deepcopy(model), partition_of(family, "width"))
        partition_(model, partition_of(family, "width", init="importance"))
        with at_level(model, "core"), at_level(first_half, "core"):
            outputs.append((logits(model, batch), logits(first_half, batch)))
    torch.testing.assert_close(outputs[0][0], outputs[1][0], rtol=1e-4, atol=1e-4)
    assert (outputs[0][1] - outputs[1][1]).abs().max() > 1e-2, "the shuffle shows where the order is kept"
    assert (outputs[0][0] - outputs[0][1]).abs().max() > 1e-2


def test_a_model_ordered_by_importance_is_read_back_as_it_was(tmp_path):
    model = partition_(tiny_model("marian"), partition_of("marian", "width ladder", init="importance"))
    model.save_pretrained(tmp_path)
    batch = probe_batch(model)
    other = load_partitioned(tmp_path)
    for level in range(4):
        with at_level(model, level), at_level(other, level):
            assert torch.equal(logits(other, batch), logits(model, batch))


def test_roles_of_a_dictionary_hold_by_the_longest_suffix_also_when_read_back(tmp_path):
    roles = {
        "embedder.embedder.convolution": "out",
        "convolution": "both",
        "normalization": "norm",
        "classifier.1": "in",
    }
    found = []
    for order in itertools.islice(itertools.permutations(roles), 0, None, 7):
        config = PartitionConfig(method="width", ratios=[0.5], target_modules={name: roles[name] for name in order})
        model = partition_(tiny_resnet().eval(), config)
        found.append({name: getattr(layer, "in_sizes", None) for name, layer in partitioned_layers(model).items()})
    preset = partition_(tiny_resnet().eval(), PartitionConfig(method="width", ratios=[0.5]))
    expected = {name: getattr(layer, "in_sizes", None) for name, layer in partitioned_layers(preset).items()}
    assert found == [expected] * len(found)
    model.save_pretrained(tmp_path)
    pixels = torch.stack([one["pixel_values"] for one in pictures(2)])
    other = load_partitioned(tmp_path)
    for level in ("core", "full"):
        set_level(model, level), set_level(other, level)
        with torch.no_grad():
            assert torch.equal(model(pixels).logits, other(pixels).logits)


# ---- What is refused ----


def marian():
    return tiny_model("marian")


def last_attention_of_another_kind():
    model = marian()
    del model.model.decoder.layers[-1].encoder_attn.scaling
    return model


def fused_attention():
    model = marian()
    model.config._attn_implementation_internal = "flash_attention_2"
    return model


def grouped_queries():
    model = marian()
    for layer in model.modules():
        if hasattr(layer, "k_proj"):
            layer.k_proj = nn.Linear(32, 16)
    return model


def two_blocks():
    return nn.ModuleDict({name: nn.Linear(4, 4) for name in ("a1", "a2", "b1", "b2")})


def resnet(**fields):
    sizes = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic") | fields
    sizes["depths"] = sizes["depths"][: len(sizes["hidden_sizes"])]
    return ResNetForImageClassification(ResNetConfig(**sizes))


def attention_without_heads():
    model = tiny_model("marian")
    del model.model.encoder.layers[0].self_attn.num_heads
    return model


def convolution(**options):
    return nn.Sequential(nn.Conv2d(3, 4, 3, **options), nn.Conv2d(4, 2, 3))


IN_AND_OUT = {"0": "out", "1": "in"}


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(8, 8)), {}, r"no preset for Sequential.*resnet.*\{'fc1': 'out', 'fc2': 'in'"),
        (marian, dict(target_modules=["v_proj"]), r"matches .*v_proj, and the preset of 'marian' knows q_proj, k_pro"),
        (convolution, dict(target_modules=["0"]), r"matches 0, and there is no preset; say what is narrower there"),
        (marian, dict(target_modules=["fc3"]), r"matches no module of MarianMTModel; its linear layers end in fc1"),
        (marian, dict(target_modules={"fc1": "out", "fc9": "in"}), r"'fc9' matches no module of MarianMTModel"),
        (
            marian,
            dict(target_modules={"self_attn": "out"}),
            r"self_attn, a MarianAttention, the role 'out'.*Linear or",
        ),
        (marian, dict(target_modules={"fc1": "norm"}), r"fc1, a Linear, the role 'norm', .* plain BatchNorm2d"),
        (marian, dict(target_modules=["fc1"]), r"fc1 in its outputs, and no layer beside it .*\['fc1', 'fc2'\]"),
        (marian, dict(exclude_modules=["encoder.layers.0.fc1"]), r"encoder.layers.0.fc2 in its inputs, and no layer"),
        (
            marian,
            dict(target_modules=["k_proj"]),
            r"the roles .*k_proj': 'heads'}.*\['q_proj', 'k_proj'\], in one",
        ),
        (
            marian,
            dict(target_modules={"q_proj": "heads", "k_proj": "filled_heads"}),
            r"the roles .*'filled_heads'.*'heads'.* in one role, or neither",
        ),
        (
            lambda: tiny_model("t5"),
            dict(target_modules={"q": "heads", "k": "heads"}),
            r"T5Attention is no attention of BART's kind.*feed-forward layers",
        ),
        (
            lambda: nn.ModuleDict({"up": nn.Linear(4, 16), "down": nn.Linear(16, 6)}),
            dict(target_modules={"up": "in", "down": "out"}),
            r"the outputs of {'down': 6} and the inputs of {'up': 4}, .*the right way round",
        ),
        (
            two_blocks,
            dict(target_modules={"a1": "out", "a2": "in", "b1": "out", "b2": "in"}, init="importance"),
            r"is not one such block: \{'a1': 'out', .*; write init='first'",
        ),
        (grouped_queries, {}, r"q_proj have 16, 32 outputs, so heads share keys"),
        (lambda: resnet(layer_type="bottleneck"), {}, "a ResNet of layer_type='bottleneck' rounds the widths"),
        (lambda: resnet(embedding_size=7, hidden_sizes=[8]), {}, r"the stem of 7 channels .* equally wide at 0.5"),
        (last_attention_of_another_kind, {}, r"MarianAttention is no attention of BART's kind"),
        (fused_attention, {}, r"attn_implementation='flash_attention_2' takes heads of one size"),
        (attention_without_heads, {}, r"a role of heads, and the MarianAttention .* neither num_heads nor n_heads"),
        (marian, dict(ratios=[0.25, 0.26]), r"ratios=\[0.25, 0.26\] give .*_proj the widths \[2, 2, 8\].*two are equ"),
        (marian, dict(ratios=[0.99]), r"give .* the widths \[8, 8\], the full one last.*further apart and from 1"),
        (lambda: tiny_model("marian", tie_word_embeddings=True), dict(target_modules={"lm_head": "in"}), "no module"),
        (lambda: convolution(groups=1, padding="same"), dict(target_modules=IN_AND_OUT), r"0 is a conv.*'same'"),
        (lambda: convolution(padding_mode="reflect"), dict(target_modules=IN_AND_OUT), r"0 is a conv.*mode='reflect'"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2)),
            dict(target_modules=IN_AND_OUT),
            "1 is a convolution with groups=2",
        ),
        (tiny_resnet, dict(init="importance"), r"is not one such block: .*'norm'.*; write init='first'"),
        (tiny_resnet, dict(exclude_modules=["classifier.1"]), r"\['classifier.1'\] narrows a part of a convolutional"),
        (tiny_resnet, dict(target_modules=["convolution"]), r"\['convolution'\] with .* narrows a part of a convolut"),
    ],
)
def test_what_cannot_be_narrowed_is_refused_and_the_model_left_alone(make, fields, message):
    model = make()
    kinds, config, before = (
        [type(module) for module in model.modules()],
        getattr(model, "config", None),
        snapshot(model),
    )
    with pytest.raises(ValueError, match=message):
        partition_(model, PartitionConfig(**{"method": "width", "ratios": [0.5], **fields}))
    assert [type(module) for module in model.modules()] == kinds
    assert getattr(model, "config", None) is config and not hasattr(model, "_ats_partition")
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_dictionary_of_roles_partitions_any_module():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    x = torch.randn(3, 6)
    before, (one, _, two) = model(x), copy.deepcopy(model)
    partition_(model, PartitionConfig(method="width", ratios=[0.5], target_modules={"0": "out", "2": "in"}))
    assert num_levels(model) == 2 and torch.equal(model(x), before)
    set_level(model, "core")
    hidden = nn.functional.linear(x, one.weight[:4], one.bias[:4]).relu()
    torch.testing.assert_close(model(x), nn.functional.linear(hidden, two.weight[:, :4], two.bias))
