"""The layers that are narrower in the core, and the plan of which is narrower where."""

import copy
import itertools

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from hf_ats.checkpoint import load_partitioned
from hf_ats.partition import (
    PartitionConfig,
    PartitionedBatchNorm2d,
    PartitionedConv2d,
    PartitionedLinear,
    at_level,
    num_levels,
    partition_,
    partitioned_layers,
    set_level,
)
from tests.support.checkpoints import logits
from tests.support.laws import snapshot
from tests.support.models import FAMILIES, FEED_FORWARD, partition_of, pictures, probe_batch, tiny_model, tiny_resnet

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
        plain = layer.to_linear(level)
        assert type(plain) is nn.Linear and torch.equal(plain(x), expected)
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


@pytest.mark.parametrize("shape", SHAPES)
def test_the_blocks_hold_every_number_once_and_share_nothing_but_an_uncut_bias(shape):
    linear, layer = make_linear(shape)
    before, mine = snapshot(linear), snapshot(layer)
    assert sum(p.numel() for p in layer.parameters()) == linear.weight.numel() + linear.bias.numel()
    layer.to_linear(2).weight.data.zero_()
    assert all(torch.equal(mine[name], p) for name, p in layer.named_parameters())
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


# ---- Which neurons the core keeps ----


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


# ---- Convolutional networks ----


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
        (marian, dict(target_modules=["k_proj"]), r"the heads of .*k_proj alone.*\['q_proj', 'k_proj'\], or neither"),
        (
            marian,
            dict(target_modules={"q_proj": "heads", "k_proj": "filled_heads"}),
            r"both of the roles 'heads' and 'filled_heads'.*one of them for both",
        ),
        (
            lambda: tiny_model("t5"),
            dict(target_modules={"q": "heads", "k": "heads"}),
            r"T5Attention is no attention of BART's kind.*feed-forward layers alone",
        ),
        (
            lambda: nn.ModuleDict({"up": nn.Linear(4, 16), "down": nn.Linear(16, 6)}),
            dict(target_modules={"up": "in", "down": "out"}),
            r"the outputs of {'down': 6} and the inputs of {'up': 4}, .*the right way round",
        ),
        (
            two_blocks,
            dict(target_modules={"a1": "out", "a2": "in", "b1": "out", "b2": "in"}, init="importance"),
            "the model holds those of several: a1, a2, b1, b2; write init='first'",
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
        (tiny_resnet, dict(init="importance"), r"normalization has the role 'norm'; write init='first'"),
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
