"""Cores that begin from what modules read on some text: nearest in their outputs, and the full network unmoved."""

import itertools

import pytest
import torch
from torch import nn

from hf_ats.partition import (
    Composition,
    InputMoments,
    PartitionConfig,
    PartitionedRankLinear,
    at_level,
    partition_,
    partitioned_layers,
)
from tests.support.checkpoints import logits
from tests.support.models import (
    FAMILIES,
    FEED_FORWARD,
    QUERIES_AND_KEYS,
    partition_of,
    probe_batch,
    tiny_model,
)


def read(rows: torch.Tensor) -> InputMoments:
    return InputMoments(len(rows), rows.sum(0), rows.T @ rows)


def looked_up(tokens: torch.Tensor, size: int) -> InputMoments:
    return InputMoments(len(tokens), tokens.bincount(minlength=size).float())


def with_damping(rows: torch.Tensor) -> torch.Tensor:
    """Rows whose mean square is the damped one: a tenth of the mean in every direction, as if it had been read."""
    extra = (0.1 * rows.square().sum(0).mean()).sqrt()
    return torch.cat([rows, extra * torch.eye(rows.shape[1])])


@torch.no_grad()
def moments_on(model, batch) -> dict[str, InputMoments]:
    """What every linear layer and every lookup of a model reads on a batch."""
    found = {}

    def keep(name, module, x):
        found[name] = (
            read(x.flatten(0, -2)) if isinstance(module, nn.Linear) else looked_up(x.flatten(), len(module.weight))
        )

    kinds = {n: one for n, one in model.named_modules() if isinstance(one, (nn.Linear, nn.Embedding))}
    named = {n: one for n, one in kinds.items() if "position" not in n and "relative" not in n}
    handles = [
        one.register_forward_pre_hook(lambda module, inputs, name=name: keep(name, module, inputs[0]))
        for name, one in named.items()
    ]
    model(**batch)
    for handle in handles:
        handle.remove()
    return found


@pytest.fixture
def rows() -> torch.Tensor:
    """Inputs of 16 features that are large in some directions and small in others."""
    generator = torch.Generator().manual_seed(0)
    turned = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    return torch.randn(200, 16, generator=generator) * 2.0 ** -torch.arange(16) @ turned


def missed(layer: PartitionedRankLinear, weight: torch.Tensor, rows: torch.Tensor, rank: int) -> float:
    U, V = (torch.cat(list(shares), dim) for shares, dim in ((layer.U, 0), (layer.V, 1)))
    return (with_damping(rows) @ (weight - V[:, :rank] @ U[:rank]).T).square().sum().item()


@torch.no_grad()
@pytest.mark.parametrize("outputs", [12, 40])
def test_each_rank_of_a_ladder_has_the_nearest_outputs_that_its_rank_can_have(outputs, rows):
    torch.manual_seed(1)
    linear = nn.Linear(16, outputs)
    layer = PartitionedRankLinear.from_linear(linear, (2, 5), moments=read(rows))
    by_weights = PartitionedRankLinear.from_linear(linear, (2, 5))
    values = torch.linalg.svdvals(with_damping(rows) @ linear.weight.T)
    for rank in (2, 5):
        best = values[rank:].square().sum().item()  # Eckart and Young, for the outputs as a matrix
        assert missed(layer, linear.weight, rows, rank) == pytest.approx(best, rel=1e-3)
        assert missed(by_weights, linear.weight, rows, rank) > 1.2 * best
    torch.testing.assert_close(layer.merged_weight(2), linear.weight)
    U, V = layer.factors(1)
    torch.testing.assert_close(U.norm(dim=1), V.norm(dim=0))  # neither learns faster than the other


@torch.no_grad()
@pytest.mark.parametrize("what", ["few rows", "zeros", "weight of low rank", "zero weight"])
def test_what_was_never_read_leaves_no_gap(what, rows):
    torch.manual_seed(1)
    linear = nn.Linear(16, 12)
    if what == "weight of low rank":
        linear.weight[2:] = 0
    if what == "zero weight":
        linear.weight.zero_()
    shown = {"few rows": rows[:1], "zeros": 0 * rows}.get(what, rows)
    layer = PartitionedRankLinear.from_linear(linear, (6,), moments=read(shown))
    U, V = layer.factors(0)
    torch.testing.assert_close(layer.merged_weight(1), linear.weight)
    assert U.isfinite().all() and V.isfinite().all() and (U.norm(dim=1) > 1e-3).all()
    if what in ("few rows", "zeros"):  # where the text says nothing, the weights do
        expected = PartitionedRankLinear.from_linear(linear, (6 if what == "zeros" else 5,)).merged_weight(0)
        gap = (linear.weight - V @ U).norm()
        assert gap <= (linear.weight - expected).norm() * (1 + 1e-4)
    if what.endswith("rank") or what.startswith("zero w"):
        torch.testing.assert_close(V @ U, linear.weight, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_table_begins_by_how_often_its_rows_are_looked_up():
    model = tiny_model("marian")
    tokens = torch.tensor([5] * 40 + [6] * 30 + [7] * 20 + list(range(10, 60)))
    counts = tokens.bincount(minlength=96).float()
    config = PartitionConfig(ratios=[0.1, 0.25], target_modules=["embeddings"])
    table = model.get_decoder().embed_tokens.weight.clone()
    table[8] = model.get_decoder().embed_tokens.weight[8] = 0
    names = ["model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"]
    parts = [looked_up(tokens[:50], 96), looked_up(tokens[50:], 96), read(torch.randn(9, 32))]
    partition_(model, config, dict(zip(names, parts, strict=True)))
    layer = model.get_decoder().embed_tokens
    weights = (counts + 0.1 * counts.mean()).sqrt()[:, None]
    values = torch.linalg.svdvals(weights * table)
    for level, rank in enumerate((3, 8)):
        lost = (weights * (table - layer.merged_weight(level))).square().sum()
        assert lost.item() == pytest.approx(values[rank:].square().sum().item(), rel=1e-3)
    assert not layer.V[0][8].any() and not layer.weight[8].any(), "a row of zeros, as of <pad>, stays one"
    # A table that is only projected by begins from its outputs, as any linear layer.
    model = tiny_model("t5")
    model.lm_head.weight = nn.Parameter(torch.randn(96, 32))
    head, states = model.lm_head.weight.clone(), torch.randn(50, 32) * 2.0 ** -torch.arange(32)
    moments = {"shared": looked_up(tokens, 96), "encoder.embed_tokens": looked_up(tokens, 96), "lm_head": read(states)}
    partition_(model, config, moments)
    values = torch.linalg.svdvals(with_damping(states) @ head.T)
    lost = (with_damping(states) @ (head - model.lm_head.merged_weight(1)).T).square().sum()
    assert lost.item() == pytest.approx(values[8:].square().sum().item(), rel=1e-3)


class Toy(nn.Module):
    """Two heads of three dimensions, and a feed-forward block of six neurons."""

    num_heads = 2

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.q_proj, self.k_proj = nn.Linear(4, 6), nn.Linear(4, 6)
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)


def greedy(groups, changed) -> list[int]:
    """From each group, the last of those that are left without which `changed` is least; the first to go last."""
    order = []
    for group in groups:
        left, gone = list(group), []
        while left:
            gone.append(min(left, key=lambda one: changed([*gone, one])))
            left.remove(gone[-1])
        order += gone[::-1]
    return order


@torch.no_grad()
def test_importance_keeps_what_changes_the_outputs_on_the_text_least():
    holder = nn.Module()
    holder.block = Toy()
    holder.block.k_proj.bias[1] += 100.0  # which no softmax sees
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(10)) + 1
    neurons = holder.block.up(rows).relu()
    moments = {
        "block.q_proj": read(rows),
        "block.k_proj": read(rows),
        "block.up": read(rows),
        "block.down": read(neurons),
    }
    stock = {name: parameter.clone() for name, parameter in holder.named_parameters()}

    def outputs_without(gone):
        return (with_damping(neurons)[:, gone] @ stock["block.down.weight"][:, gone].T).square().sum().item()

    extra = with_damping(rows)[len(rows) :]
    queries, keys = (
        torch.cat([one @ stock[f"block.{name}.weight"].T + bias, extra @ stock[f"block.{name}.weight"].T])
        for name, one, bias in (("q_proj", rows, stock["block.q_proj.bias"]), ("k_proj", rows - rows.mean(0), 0))
    )

    def scores_without(gone):
        return (queries[:, gone] @ keys[:, gone].T).square().sum().item()

    orders = {
        "up": greedy([range(6)], outputs_without),
        "q_proj": greedy([range(3), range(3, 6)], scores_without),
    }
    assert orders["q_proj"] != sorted(range(6), key=lambda one: (one // 3, -scores_without([one]))), "one by one"
    roles = {"up": "out", "down": "in"}, {"q_proj": "filled_heads", "k_proj": "filled_heads"}
    config = Composition(
        [PartitionConfig("width", [0.35, 0.67], target_modules=one, init="importance") for one in roles]
    )
    partition_(holder, config, moments)
    for name, order in orders.items():
        whole = getattr(holder.block, name).at(2)[0]
        assert torch.equal(whole, stock[f"block.{name}.weight"][order]), name
    assert torch.equal(holder.block.down.at(2)[0], stock["block.down.weight"][:, orders["up"]])


STARTS = [
    ("rank ladder", "svd"),
    ("vocabulary ladder", "svd"),
    ("width ladder", "importance"),
    ("composition", None),
]


def start_of(family, partition, init):
    if partition != "composition":
        return partition_of(family, partition, init=init)
    ladder = dict(ratios=[0.25, 0.5])
    return Composition(
        [
            partition_of(family, "depth ladder"),
            partition_of(family, "feed-forward width", init="importance", **ladder),
            partition_of(family, "rank", target_modules=QUERIES_AND_KEYS[family], **ladder),
        ]
    )


@pytest.mark.law(number=3)
@pytest.mark.parametrize(("partition", "init"), STARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_calibration_changes_nothing_at_full_level(family, partition, init):
    model, batch = tiny_model(family), probe_batch(tiny_model(family))
    before, moments = logits(model, batch), moments_on(model, batch)
    config = start_of(family, partition, init)
    partition_(model, config, moments)
    by_weights = partition_(tiny_model(family), config)
    torch.testing.assert_close(logits(model, batch), before, rtol=1e-4, atol=1e-5)
    with at_level(model, 1), at_level(by_weights, 1):
        assert (logits(model, batch) - logits(by_weights, batch)).abs().max() > 1e-2
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in by_weights.named_parameters()
    }


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_on_the_text_are_nearer_than_with_a_start_by_weights(family):
    batch = probe_batch(tiny_model(family), n=8)
    for partition, init in STARTS[:3]:
        moments, found = moments_on(tiny_model(family), batch), []
        for given in (None, moments):
            model = partition_(tiny_model(family), start_of(family, partition, init), given)
            lost = total = 0
            second = FEED_FORWARD[family][-1]
            for name, layer in partitioned_layers(model).items():
                if name not in moments or (init == "importance" and not name.endswith(f".{second}")):
                    continue
                if init == "importance":  # the neurons that are left out are the last columns
                    weight = layer.at(3)[0].clone()
                    stock = tiny_model(family).get_submodule(name).weight
                    order = [int((stock == column[:, None]).all(0).nonzero()[0]) for column in weight.T]
                    weight[:, : layer.in_sizes[1]] = 0
                    lost += (moments[name].weighted(weight[:, torch.tensor(order).argsort()])).square().sum()
                else:
                    gap = layer.merged_weight(2) - layer.merged_weight(1)
                    lost += moments[name].weighted(gap).square().sum()
                total += 1
            assert total > 3
            found.append(lost.item())
        assert found[1] < 0.95 * found[0], (partition, found)


def test_a_module_without_moments_and_a_start_without_use_for_them_are_refused():
    model = tiny_model("marian")
    batch = probe_batch(model)
    moments = moments_on(model, batch)
    some = {name: one for name, one in moments.items() if "decoder.layers.1.fc2" not in name and "embed" not in name}
    del some["lm_head"]
    before = logits(model, batch)
    for config, message in (
        (
            PartitionConfig(),
            r"no calibration sentence reached model.decoder.layers.1.fc2, .* exclude_modules=\['model",
        ),
        (
            partition_of("marian", "width", init="importance"),
            "no calibration sentence reached model.decoder.layers.1.fc2",
        ),
        (
            partition_of("marian", "vocabulary", target_modules=["embeddings"]),
            r"no calibration sentence reached model\.",
        ),
        (
            PartitionConfig(init="random"),
            r"no core of PartitionConfig\(.*init='random'.* begins from them; write init",
        ),
        (partition_of("marian", "width"), r"init='first'.* begins from them"),
        (partition_of("marian", "depth"), r"method='depth'.* begins from them"),
    ):
        with pytest.raises(ValueError, match=message):
            partition_(model, config, some)
    assert torch.equal(logits(model, batch), before) and not partitioned_layers(model)
    by_chance = PartitionConfig(ratios=[0.5], target_modules=["fc1", "fc2"], init="random")
    partition_(model, [by_chance, PartitionConfig(ratios=[0.5], target_modules=["k_proj"])], some)
    assert len(partitioned_layers(model)) == 8 + 6, "and a part that begins by chance needs none"


def test_moments_of_two_texts_are_those_of_both(rows):
    both = read(rows[:50]) + read(rows[50:])
    torch.testing.assert_close(both.second, read(rows).second)
    torch.testing.assert_close(both.mean, read(rows).mean)
    pairs = itertools.pairwise([looked_up(torch.tensor([1, 2]), 4), looked_up(torch.tensor([2]), 4)])
    for one, other in pairs:
        assert (one + other).count == 3 and (one + other).total.tolist() == [0, 1, 2, 0]
