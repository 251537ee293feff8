"""A whole model partitioned in place: what each level computes and trains, and what is refused."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call

from hf_ats.partition import (
    LowRankSum,
    PartitionConfig,
    PartitionedRankLinear,
    PartitionedStack,
    TableReader,
    at_level,
    find_partition,
    get_level,
    num_levels,
    parameters_at_level,
    partition_,
    partition_structure_,
    partitioned_layers,
    set_level,
    stock_config,
)
from tests.support import reference
from tests.support.laws import snapshot
from tests.support.models import FAMILIES, partition_of, partitioned, probe_batch, tiny_model, training_batch

LADDER = PartitionConfig(ratios=[0.1, 0.25])
LADDERS = ["rank ladder", "width ladder", "composition"]
WITH_VOCABULARY = [*LADDERS, "vocabulary ladder"]
# The paper's partition means 20 layers of a 2 + 2 layer model: feed-forward pairs in 4 blocks; query and key in 2
# encoder and 2 x 2 decoder attentions.
EXPECTED_LAYERS = {"feed-forward width": 8, "depth ladder": 2, "composition": 2 + 8 + 12}


@pytest.mark.law(number=3)
@pytest.mark.parametrize(
    ("partition", "init"),
    [
        ("rank ladder", "svd"),
        ("rank ladder", "random"),
        ("width ladder", "first"),
        ("width ladder", "importance"),
        ("feed-forward width", "importance"),
        ("depth ladder", None),
        ("composition", None),
        ("vocabulary ladder", "svd"),
        ("vocabulary ladder", "random"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_partitioning_changes_nothing_at_full_level(family, partition, init):
    model = tiny_model(family)
    batch = probe_batch(model)
    before = model(**batch).logits
    partition_(model, partition_of(family, partition, init=init))
    layers = partitioned_layers(model).values()
    if partition == "vocabulary ladder":  # whose readers transformers 4 makes one module of
        assert len({layer.table for layer in layers if isinstance(layer, TableReader)}) == 1
        layers = [layer for layer in layers if isinstance(layer, PartitionedRankLinear)]
    assert len(layers) == EXPECTED_LAYERS.get(partition, 20)
    # Cut and joined again the numbers are the same; otherwise they are added in another order.
    same = init == "first" or partition == "depth ladder"
    exact = dict(rtol=0, atol=0) if same else dict(rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(**batch).logits, before, **exact)
    with at_level(model, "core"):
        assert (model(**batch).logits - before).abs().max() > 1e-2


@pytest.mark.parametrize("partition", WITH_VOCABULARY)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_level_is_the_stock_model_with_that_levels_weights(family, partition):
    model, stock = partitioned(family, partition), tiny_model(family)
    batch = probe_batch(model)
    layers = partitioned_layers(model)
    kept = {name: layer.kept for name, layer in layers.items() if isinstance(layer, PartitionedStack)}
    network = reference.by_depth(snapshot(stock), kept, num_levels(model))
    for part in find_partition(model).parts:
        if part.method == "width":
            narrow = ("rows", "columns") if part.target_modules else ("rows", "columns", "heads")
            network = reference.composed(network, reference.by_width(network.arrays, part.ratios, 4, narrow))
    for level in range(num_levels(model)):
        weights = reference.compose(network, reference.tied_names(stock), level)
        low_rank = {name: one for name, one in layers.items() if isinstance(one, LowRankSum)}
        weights |= {f"{name}.weight": layer.merged_weight(level) for name, layer in low_rank.items()}
        weights |= {name: weights[first] for name, first in reference.tied_names(stock).items()}
        short, own = reference.shortened(stock, weights, kept, level)
        expected = functional_call(short, own, kwargs=batch, tie_weights=False).logits
        with at_level(model, level):
            torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-4, atol=1e-5)


def trainable(parameters):
    return {name for name, parameter in parameters.items() if parameter.requires_grad}


@pytest.mark.law(number=1)
@pytest.mark.parametrize("partition", WITH_VOCABULARY)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_backward_pass_reaches_the_mask_of_its_level_and_nothing_else(family, partition):
    model = partitioned(family, partition)
    for level in range(num_levels(model)):
        model.zero_grad()
        with at_level(model, level):
            model(**training_batch()).loss.backward()
        touched = {name for name, p in model.named_parameters() if p.grad is not None}
        assert touched == trainable(parameters_at_level(model, level))
    assert touched == trainable(dict(model.named_parameters()))


@pytest.mark.parametrize("partition", WITH_VOCABULARY)
@pytest.mark.parametrize("family", ["marian", "t5"])
def test_gradient_checkpointing_changes_no_gradient(family, partition):
    model = partitioned(family, partition).train()
    batch = training_batch()
    for level in range(num_levels(model)):
        gradients = []
        for checkpointing in (False, True):
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            else:
                model.gradient_checkpointing_disable()
            model.zero_grad()
            with at_level(model, level):
                model(**batch, use_cache=False).loss.backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            # The recomputation reaches shared embeddings in another order, so their sums differ in the last bits.
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("partition", WITH_VOCABULARY)
def test_autocast_trains_every_level(partition, dtype):
    model = partitioned("marian", partition)
    exact = {}
    for level in range(num_levels(model)):
        with at_level(model, level):
            exact[level] = model(**training_batch()).loss.item()
            with torch.autocast("cpu", dtype=dtype):
                loss = model(**training_batch()).loss
            model.zero_grad()
            loss.backward()
        assert loss.item() == pytest.approx(exact[level], rel=0.03)  # 8 bits of mantissa over a dozen layers
        touched = {name for name, p in model.named_parameters() if p.grad is not None}
        assert touched == trainable(parameters_at_level(model, level))


@pytest.mark.parametrize(
    "fields", [dict(target_modules=["0", "2"]), dict(method="width", target_modules={"0": "out", "2": "in"})]
)
def test_a_compiled_model_follows_its_level(fields):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    partition_(model, PartitionConfig(ratios=[0.25], **fields))
    compiled, x = torch.compile(model, backend="eager"), torch.randn(3, 8)
    outputs = []
    for level in (1, 0, 1):
        set_level(compiled, level)
        outputs.append(compiled(x))
        torch.testing.assert_close(outputs[-1], model(x))
        assert get_level(model) == level
    assert not torch.allclose(outputs[0], outputs[1])


class Stacked(nn.Module):
    """Calls a list of layers, as encoders and decoders do."""

    def __init__(self):
        super().__init__()
        self.layers = PartitionedStack([nn.Linear(8, 8) for _ in range(3)], [[1], [1, 2]], "num_layers")

    def forward(self, x):
        for index, layer in enumerate(self.layers):
            x = layer(x) + index
        return x


def test_a_compiled_list_of_layers_follows_its_level():
    model, x = Stacked(), torch.randn(3, 8)
    one, two, three = model.layers
    expected = {0: two(x), 1: three(two(x)) + 1, 2: three(two(one(x)) + 1) + 2}
    compiled = torch.compile(model, backend="eager")
    for level in (2, 0, 1, 2):
        set_level(compiled, level)
        torch.testing.assert_close(compiled(x), expected[level])
        assert len(model.layers) == level + 1 and model.layers[-1] is (two if level == 0 else three)
        assert list(model.layers[:1]) == [one if level == 2 else two]
    assert list(model.state_dict()) == [f"layers.{i}.{name}" for i in range(3) for name in ("weight", "bias")]


def test_names_match_as_whole_dotted_suffixes_or_as_a_regular_expression():
    def targets(**fields):
        return list(partitioned_layers(partition_(tiny_model("marian"), PartitionConfig(ratios=[0.25], **fields))))

    assert targets(target_modules=["encoder.layers.0.fc1"]) == ["model.encoder.layers.0.fc1"]
    assert len(targets(target_modules=["fc1"])) == 4
    with pytest.raises(ValueError, match="matches no module"):
        targets(target_modules=["c1"])
    assert targets(target_modules=r"model\.decoder\.layers\.\d\.fc2") == [
        "model.decoder.layers.0.fc2",
        "model.decoder.layers.1.fc2",
    ]
    assert len(targets(exclude_modules=["self_attn.q_proj", "fc2"])) == 20 - 4 - 4
    assert not any("decoder" in name for name in targets(exclude_modules=r".*decoder.*"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(target_modules=["query"]), r"target_modules=\['query'\].*matches no module.*fc1, fc2"),
        (dict(target_modules=["fc1", "fcl2"]), "'fcl2' matches no module"),
        (dict(target_modules="fc1"), "target_modules='fc1'.*matches no module"),
        (dict(target_modules=["self_attn"]), "self_attn, a MarianAttention; only plain nn.Linear"),
        (dict(target_modules=["lm_head"]), "matches no module"),
        (dict(target_modules=["fc1"], exclude_modules=["fc1"]), "exclude_modules=.*matches no module"),
        (
            dict(ranks={"fc1": 33}),
            r"ranks give model\.encoder\.layers\.0\.fc1 .64 x 32. the rank 33, .*at most 32; write",
        ),
        (dict(ranks={"fc1": 4, "fc3": 4}), r"ranks=\['fc1', 'fc3'\]: 'fc3' matches no module"),
        (
            dict(ranks={"final_layer_norm": 4}),
            r"ranks matches \S*final_layer_norm, a LayerNorm; only plain nn\.Linear",
        ),
        (dict(ratios=[0.25, 0.26], target_modules=["q_proj"]), "q_proj .32 x 32. the ranks .8, 8., one of them twice"),
    ],
)
def test_what_cannot_be_partitioned_is_refused_and_the_model_left_alone(fields, message):
    model = tiny_model("marian")
    names = [type(module) for module in model.modules()]
    config = model.config
    with pytest.raises(ValueError, match=message):
        partition_(model, PartitionConfig(**fields))
    assert [type(module) for module in model.modules()] == names and model.config is config


@pytest.mark.parametrize("partition", ["rank", "width"])
def test_weights_that_are_nan_are_refused_and_the_tensor_named(partition):
    model = tiny_model("marian")
    model.model.decoder.layers[0].fc2.bias.data[1] = torch.nan
    with pytest.raises(ValueError, match=r"this MarianMTModel holds NaN in model.decoder.layers.0.fc2.bias: "):
        partition_(model, partition_of("marian", partition))
    assert find_partition(model) is None


def test_of_ranks_the_longest_name_decides():
    ranks = {"fc1": 3, "decoder.layers.1.fc1": 6, "q_proj": 2, "model.encoder.layers.0.self_attn.q_proj": 5}
    model = tiny_model("marian")
    expected = model(**probe_batch(model)).logits
    partition_(model, PartitionConfig(ranks=ranks, exclude_modules=["encoder.layers.1.fc1"]))
    torch.testing.assert_close(model(**probe_batch(model)).logits, expected, rtol=1e-4, atol=1e-4)
    found = {name: layer.ranks for name, layer in partitioned_layers(model).items()}
    assert {name: rank for name, rank in found.items() if "fc1" in name} == {
        "model.encoder.layers.0.fc1": (3,),
        "model.decoder.layers.0.fc1": (3,),
        "model.decoder.layers.1.fc1": (6,),
    }
    assert sorted(rank for name, rank in found.items() if "q_proj" in name) == [(2,)] * 5 + [(5,)]


def test_a_shared_weight_is_refused():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"matches 0, whose weight is shared with 1.weight.*exclude_modules=\['0'\]"):
        partition_(model, PartitionConfig(ratios=[0.25], target_modules=["0"]))


def test_an_unknown_architecture_asks_for_its_layers():
    model = nn.Sequential(nn.Linear(8, 8))
    with pytest.raises(
        ValueError, match=r"no preset for Sequential.*Name the layers, such as target_modules=.'fc1', 'fc2'"
    ):
        partition_(model, PartitionConfig())
    partition_(model, PartitionConfig(ratios=[0.25], target_modules=["0"]))
    assert isinstance(model[0], PartitionedRankLinear)


@pytest.mark.parametrize("partition", LADDERS)
@pytest.mark.parametrize("wrapped", [lambda model: model, nn.Sequential])
def test_a_model_is_partitioned_once(wrapped, partition):
    model = wrapped(partitioned("marian", partition))
    told = "Composition" if partition == "composition" else f".*method='{partition.split()[0]}'"
    with pytest.raises(ValueError, match=f"is partitioned already, with {told}"):
        partition_(model, LADDER)


@pytest.mark.law(number=9)
@pytest.mark.parametrize("partition", WITH_VOCABULARY)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_save_is_complete_and_no_stock_class_takes_it_for_its_own(family, partition, tmp_path):
    from safetensors.torch import load_file
    from transformers import AutoModelForSeq2SeqLM

    model = partitioned(family, partition)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"ats_partitioned_{family}"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    tied = set(model.state_dict()) - set(stored)
    own = [name for name, layer in partitioned_layers(model).items() if not isinstance(layer, TableReader)]
    assert not any(name.startswith(tuple(own)) for name in tied)
    other = partition_structure_(tiny_model(family, seed=1), find_partition(model))
    assert not other.load_state_dict(stored, strict=False).unexpected_keys
    other.tie_weights()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_partitioning_leaves_a_shared_config_alone():
    first = tiny_model("marian")
    second = type(first)(first.config)
    partition_(first, LADDER)
    assert not hasattr(second.config, "ats_partition")
    assert first.config.model_type == "ats_partitioned_marian" and second.config.model_type == "marian"
    assert stock_config(first).to_dict() == second.config.to_dict() | {"architectures": first.config.architectures}


@pytest.mark.parametrize("partition", LADDERS)
def test_frozen_layers_stay_frozen(partition):
    model = tiny_model("marian").requires_grad_(False)
    partition_(model, partition_of("marian", partition))
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("partition", WITH_VOCABULARY)
def test_a_pickle_holds_the_whole_network(partition):
    model = partitioned("marian", partition)
    other = pickle.loads(pickle.dumps(model))
    assert type(other.config) is type(model.config) and other.config.to_dict() == model.config.to_dict()
    assert find_partition(other) == partition_of("marian", partition)
    assert all(torch.equal(p, other.get_parameter(name)) for name, p in model.named_parameters())


def test_a_copy_is_a_network_of_its_own():
    model = partition_(tiny_model("marian"), LADDER)
    before = snapshot(model)
    other = copy.deepcopy(model)
    set_level(other, "core")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert get_level(model) == 2 and find_partition(other) == LADDER
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
