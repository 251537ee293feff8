"""Which networks a model holds, by name and number, and how large they are."""

import pytest
import torch

from hf_ats.partition import (
    PartitionConfig,
    at_level,
    count_exported_parameters,
    count_parameters,
    find_partition,
    get_level,
    is_partitioned,
    level_names,
    num_levels,
    parameters_at_level,
    partition_,
    partitioned_layers,
    resolve_level,
    set_level,
    sort_levels,
    stock_config,
)
from tests.support.models import FAMILIES, partitioned, tiny_model

LADDER = PartitionConfig(ratios=[0.1, 0.25])


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_add_up_by_hand(family):
    stock = tiny_model(family)
    everything = sum(p.numel() for p in stock.parameters())
    model = partition_(tiny_model(family), LADDER)
    layers = partitioned_layers(model).values()
    dense = sum(layer.in_features * layer.out_features for layer in layers)
    per_rank = [sum(layer.ranks[i] * (layer.in_features + layer.out_features) for layer in layers) for i in (0, 1)]
    assert [count_parameters(model, level) for level in range(3)] == [
        everything - dense + per_rank[0],
        everything - dense + per_rank[1],
        everything + per_rank[1],
    ]
    assert [count_exported_parameters(model, level) for level in range(3)] == [
        everything - dense + per_rank[0],
        everything - dense + per_rank[1],
        everything,
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_by_width_add_up_by_hand(family):
    stock = tiny_model(family)
    biases = family != "t5"
    model = partitioned(family, "width ladder")
    everything = sum(p.numel() for p in stock.parameters())
    counts = []
    for ratio in (0.25, 0.5, 0.75, 1):
        # Of 4 feed-forward blocks the neurons' rows and columns; of 6 attentions the dimensions of query and key.
        of_neurons = 4 * (64 - round(64 * ratio)) * (2 * 32 + biases)
        of_heads = 6 * 2 * 4 * (8 - round(8 * ratio)) * (32 + biases)
        counts.append(everything - of_neurons - of_heads)
    assert [count_parameters(model, level) for level in range(4)] == counts
    assert [count_exported_parameters(model, level) for level in range(4)] == counts


def test_levels_have_names_and_numbers():
    model = partition_(tiny_model("marian"), PartitionConfig(ratios=[0.1, 0.25, 0.5]))
    assert num_levels(model) == 4
    assert level_names(model) == ["core", "level1", "level2", "full"]
    assert [resolve_level(model, name) for name in level_names(model)] == [0, 1, 2, 3]
    assert get_level(model) == 3
    for bad in (-1, 4, "middle", "9", "-1", True, 1.0, None):
        with pytest.raises(ValueError, match="is not a level of this MarianMTModel; write one of 'core', 'level1'"):
            set_level(model, bad)


def test_at_level_puts_back_what_was_before_also_after_an_exception():
    model = partition_(tiny_model("marian"), LADDER)
    set_level(model, 1)
    seen = []

    def look_and_fail():
        seen.append(get_level(model))
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), at_level(model, "core"):
        look_and_fail()
    assert seen == [0]
    assert get_level(model) == 1
    with pytest.raises(ValueError, match="not a level"), at_level(model, 7):
        pass
    assert get_level(model) == 1


def test_an_unpartitioned_model_is_a_ladder_of_one_rung():
    model = tiny_model("marian")
    assert not is_partitioned(model) and not partitioned_layers(model) and find_partition(model) is None
    assert level_names(model) == ["full"] and num_levels(model) == 1 and get_level(model) == 0
    parameters = dict(model.named_parameters())
    for level in ("full", 0):
        set_level(model, level)
        with at_level(model, level):
            assert get_level(model) == 0
        assert parameters_at_level(model, level).keys() == parameters.keys()
        assert count_parameters(model, level) == count_exported_parameters(model, level) == model.num_parameters()
    assert stock_config(model).to_dict() == model.config.to_dict() and stock_config(model) is not model.config
    for level in ("core", 1):
        with pytest.raises(ValueError, match=rf"level={level!r} is not a level.*not partitioned.*Call partition_\("):
            set_level(model, level)


def test_the_levels_of_a_ladder_are_sorted_by_their_size():
    names = level_names(partition_(tiny_model("marian"), PartitionConfig(ratios=[i / 20 for i in range(1, 13)])))
    assert names[0] == "core" and names[2:11:8] == ["level2", "level10"] and names[-1] == "full"
    assert sort_levels([*sorted(names, reverse=True), "core"]) == names


def test_a_level_may_be_any_integer_or_its_text_or_a_name():
    model = partition_(tiny_model("marian"), LADDER)
    for level in (1, torch.tensor(1), "1", "level1"):
        set_level(model, "full")
        set_level(model, level)
        assert get_level(model) == 1 and type(get_level(model)) is int
