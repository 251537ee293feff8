"""Cores of fewer layers: which layers they keep, what cannot be left out, and several partitions of one model."""

import pytest
import torch
from torch import nn
from transformers import MarianForCausalLM

from hf_ats.partition import (
    Composition,
    PartitionConfig,
    at_level,
    count_exported_parameters,
    count_parameters,
    num_levels,
    parameters_at_level,
    partition_,
    partitioned_layers,
    partitioned_stacks,
    set_level,
)
from tests.support.laws import snapshot
from tests.support.models import partition_of, partitioned, tiny_config, tiny_model, tiny_resnet


def deep(family="marian", layers=6):
    names = ("num_layers", "num_decoder_layers") if "t5" in family else ("encoder_layers", "decoder_layers")
    return tiny_model(family, **dict.fromkeys(names, layers))


def depth(**fields) -> PartitionConfig:
    return PartitionConfig(method="depth", **fields)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ([1], [[0]]),
        ([2], [[0, 5]]),
        ([1, 2, 4], [[0], [0, 5], [0, 2, 3, 5]]),
        ([3, 5], [[0, 2, 5], [0, 1, 2, 4, 5]]),
        ([[3], [1, 3], 4], [[3], [1, 3], None]),
        ([1, [1, 4]], [[1], [1, 4]]),
    ],
)
def test_a_number_of_layers_is_taken_evenly_spaced_from_those_of_the_next_level(asked, kept):
    if None in kept:  # the numbers take layers without regard to the smaller cores
        with pytest.raises(ValueError, match=r"is not nested: a core keeps layer 1"):
            partition_(deep(), depth(decoder_layers=asked))
        return
    model = partition_(deep(), depth(decoder_layers=asked))
    (stack,) = partitioned_stacks(model).values()
    assert [list(level) for level in stack.kept] == [*kept, [0, 1, 2, 3, 4, 5]]
    assert list(partitioned_stacks(model)) == ["model.decoder.layers"] and num_levels(model) == len(kept) + 1


@pytest.mark.parametrize("family", ["marian", "t5"])
def test_the_live_layers_are_numbered_from_0_for_the_cache(family):
    model = partition_(deep(family), depth(decoder_layers=[[0, 3, 5]]))
    stack = next(iter(partitioned_stacks(model).values()))
    for level, expected in (("core", [0, 3, 5]), ("full", range(6)), ("core", [0, 3, 5])):
        set_level(model, level)
        numbers = [{m.layer_idx for m in layer.modules() if hasattr(m, "layer_idx")} for layer in stack]
        assert numbers == [{number} for number in range(len(expected))]
        assert list(stack) == [stack.get_submodule(str(index)) for index in expected]
    plain = nn.ModuleList([stack[1], stack[2]]).state_dict()
    state = {name: tensor for name, tensor in stack.stock_state(0).items() if not name.startswith("0.")}
    assert all(torch.equal(state.pop(f"{int(name[0]) + 1}{name[1:]}"), tensor) for name, tensor in plain.items())
    assert not state


def test_counts_of_layers_and_of_a_composition_add_up_by_hand():
    model = partitioned("marian", "composition")
    everything = tiny_model("marian").num_parameters()
    layer = {half: sum(p.numel() for p in getattr(tiny_model("marian").model, half).layers[0].parameters())
             for half in ("encoder", "decoder")}  # fmt: skip
    neurons = [48 * (2 * 32 + 1), 32 * (2 * 32 + 1)]  # that a feed-forward block lacks, of 64
    ranks = [32 * 32 - 64 * 8, 32 * 32 - 64 * 16]  # what a query or key lacks
    expected = [
        # 1 + 1 layers with 2 blocks, 2 queries and keys in an encoder layer's attention and 4 in a decoder layer's two
        everything - layer["encoder"] - layer["decoder"] - 2 * neurons[0] - 6 * ranks[0],
        everything - layer["decoder"] - 3 * neurons[1] - 8 * ranks[1],
        everything,
    ]
    assert [count_exported_parameters(model, level) for level in range(3)] == expected
    assert [count_parameters(model, level) for level in range(2)] == expected[:2]
    assert count_parameters(model, 2) == everything + 12 * 64 * 16


def test_a_layer_inside_a_layer_takes_part_where_both_do():
    model = partitioned("marian", "composition")
    core = parameters_at_level(model, "core")
    inside = "model.decoder.layers.{}.self_attn.q_proj."
    assert inside.format(1) + "U.0" in core and inside.format(1) + "residual.weight" not in core
    assert not any(name.startswith(inside.format(0)) for name in core)


def causal():
    return MarianForCausalLM(tiny_config("marian", is_decoder=True, is_encoder_decoder=False))


def sharing():
    model = deep()
    model.model.decoder.layers[3].fc1.weight = model.model.decoder.layers[2].fc1.weight
    return model


FEED_FORWARD = PartitionConfig("width", [0.5], target_modules=["fc1", "fc2"])


@pytest.mark.parametrize(
    ("make", "config", "message"),
    [
        (deep, depth(decoder_layers=[[0, 6]]), r"decoder_layers=\[\[0, 6\]\] names layer 6, .* layers 0 to 5"),
        (deep, depth(encoder_layers=[7]), r"encoder_layers=\[7\] gives a core 7 of the 6 encoder layers"),
        (deep, depth(decoder_layers=[3, 2]), r"a core 3 of the 6 decoder layers, and the next level has 2"),
        (deep, depth(decoder_layers=[[0, 3], [0, 2, 5]]), r"not nested: a core keeps layer 3, and the next larger"),
        (deep, depth(decoder_layers=[6]), r"decoder_layers=\[6\] keep the same layers .* 6 encoder and 6 decoder"),
        (deep, depth(decoder_layers=[2, 2]), r"decoder_layers=\[2, 2\] keep the same layers at two levels"),
        (
            lambda: deep("t5"),
            depth(decoder_layers=[[1, 5]]),
            r"gives a core the layers \[1, 5\], without layer 0, .*relative_attention_bias.* write \[0, 1, 5\]",
        ),
        (lambda: deep("mt5"), depth(encoder_layers=[[2]], decoder_layers=[1]), r"encoder_layers gives .*without"),
        (lambda: deep("t5"), depth(encoder_layers=[1]), r"encoder_layers=\[1\] give a core more decoder than encoder"),
        (causal, depth(encoder_layers=[1]), r"encoder_layers=\[1\], but this MarianForCausalLM has no encoder; leave"),
        (sharing, depth(decoder_layers=[1]), r"layers.2.fc1.weight of this MarianMTModel is shared with"),
        (tiny_resnet, depth(decoder_layers=[1]), r"the layers of marian, .* not those of this ResNet"),
        (lambda: nn.Linear(2, 2), depth(decoder_layers=[1]), r"those of this Linear; partition it by rank or width"),
        (deep, [depth(decoder_layers=[1]), depth(decoder_layers=[2])], r"two partitions name model.decoder.layers, w"),
        (deep, [FEED_FORWARD, PartitionConfig(ratios=[0.5])], r"two partitions name model.encoder.layers.0.fc1"),
        (deep, [FEED_FORWARD, depth(decoder_layers=[1, 2])], r"equally many .*'width' has 1, .*'depth' has 2"),
        (deep, [], r"a composition of 0 partitions is none; give two or more, or a PartitionConfig alone"),
        (deep, [FEED_FORWARD, depth(decoder_layers=[7])], r"decoder_layers=\[7\] gives a core 7"),
    ],
)  # fmt: skip
def test_what_cannot_be_left_out_or_put_together_is_refused_and_the_model_left_alone(make, config, message):
    model = make()
    kinds, model_config = [type(module) for module in model.modules()], getattr(model, "config", None)
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        partition_(model, config)
    assert [type(module) for module in model.modules()] == kinds and not partitioned_layers(model)
    assert getattr(model, "config", None) is model_config and not hasattr(model, "_ats_partition")
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_decoder_alone_has_a_core_of_fewer_layers_too():
    model = partition_(causal().eval(), depth(decoder_layers=[1]))
    ids = torch.tensor([[5, 6, 7]])
    full = model(input_ids=ids).logits
    with at_level(model, "core"):
        assert not torch.allclose(model(input_ids=ids).logits, full)


def test_a_list_of_one_partition_is_that_partition():
    assert partition_(deep(), [depth(decoder_layers=[1])])._ats_partition == depth(decoder_layers=[1])
    two = partition_(deep(), [depth(decoder_layers=[1]), FEED_FORWARD])._ats_partition
    assert two == Composition([depth(decoder_layers=[1]), FEED_FORWARD]) and two.num_cores == 1
    assert partition_of("t5", "composition").num_cores == 2
