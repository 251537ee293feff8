"""Vocabulary tables of low rank: which modules share one, what each level reads, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from transformers import BlenderbotSmallConfig, BlenderbotSmallForConditionalGeneration

from hf_ats.partition import (
    FlopsLedger,
    PartitionConfig,
    PartitionedEmbedding,
    at_level,
    blank_sentences,
    count_exported_parameters,
    count_parameters,
    find_partition,
    parameters_at_level,
    partition_,
    partitioned_layers,
)
from hf_ats.run.architectures import keep_pad_row_zero_
from hf_ats.training.refusals import refuse_unkept_laws
from tests.support.laws import snapshot
from tests.support.models import VOCABULARY, partitioned, probe_batch, tiny_model, training_batch
from tests.support.training import make_trainer

EMBEDDINGS = PartitionConfig(ratios=[0.25], target_modules=["embeddings"])
OWN_SOURCE = dict(share_encoder_decoder_embeddings=False, decoder_vocab_size=VOCABULARY)
ALL_APART = dict(share_encoder_decoder_embeddings=False, tie_word_embeddings=False)


def untied_t5():
    model = tiny_model("t5")
    model.lm_head.weight = nn.Parameter(torch.randn(VOCABULARY, 32))
    return model


SHARED = ["shared", "encoder.embed_tokens", "decoder.embed_tokens"]


@pytest.mark.law(number=3)
@pytest.mark.parametrize(
    ("make", "tables"),
    [
        (lambda: tiny_model("marian"), [[f"model.{name}" for name in SHARED] + ["lm_head"]]),
        (
            lambda: tiny_model("marian", **OWN_SOURCE),
            [["model.encoder.embed_tokens"], ["model.decoder.embed_tokens", "lm_head"]],
        ),
        (
            lambda: tiny_model("marian", **ALL_APART),
            [["model.encoder.embed_tokens"], ["model.decoder.embed_tokens"], ["lm_head"]],
        ),
        (lambda: tiny_model("t5"), [[*SHARED, "lm_head"]]),
        (untied_t5, [SHARED, ["lm_head"]]),
    ],
    ids=["marian", "source apart", "all apart", "t5", "untied t5"],
)
def test_modules_that_share_a_table_share_its_factors(make, tables):
    model = make()
    batch = probe_batch(model)
    weights = {name: module.weight for name, module in model.named_modules() if hasattr(module, "weight")}
    before, expected = {name: weight.detach().clone() for name, weight in weights.items()}, model(**batch).logits
    partition_(model, EMBEDDINGS)
    torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-4, atol=1e-4)
    assert find_partition(model).tables == tables
    factors = {name for name in dict(model.named_parameters()) if "_factors." in name}
    assert factors == {f"{t[0].replace('.', '_')}_factors.{factor}.0" for t in tables for factor in "UV"}
    for readers in tables:
        first = model.get_submodule(readers[0])
        for name in readers:
            reader = model.get_submodule(name)
            assert reader.weight is first.weight is weights.get(name, first.weight) and reader.table is first.table
        left, values, right = torch.linalg.svd(before[readers[0]], full_matrices=False)
        best = left[:, :8] * values[:8] @ right[:8]
        torch.testing.assert_close(first.merged_weight(0), best, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(first.merged_weight(1), before[readers[0]], rtol=1e-4, atol=1e-5)


def test_a_lookup_and_a_projection_read_the_table_of_their_level():
    model = partitioned(
        "bart", PartitionConfig(ratios=[0.1, 0.25], target_modules=["embeddings"]), scale_embedding=True
    )
    lookup, projection = model.model.decoder.embed_tokens, model.lm_head
    ids, x = torch.tensor([[5, 1, 7]]), torch.randn(2, 3, 32)
    for level in range(3):
        with at_level(model, level), torch.no_grad():
            table = lookup.merged_weight()
            torch.testing.assert_close(lookup(ids), table[ids] * 32**0.5, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(projection(x), x @ table.t(), rtol=1e-4, atol=1e-5)
            many = x.repeat(100, 1, 1)
            assert projection.merges(600) == (level == 2)
            torch.testing.assert_close(projection(many), many @ table.t(), rtol=1e-4, atol=1e-5)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert torch.equal(lookup(ids), lookup(ids).float()), (
                    "lookups stay in float32, as those of a stock model"
                )


@pytest.mark.law(number=5)
def test_the_vocabulary_of_a_core_costs_k_of_the_width():
    stock, model = tiny_model("marian"), partitioned("marian", EMBEDDINGS)
    sentence = blank_sentences(1, 4, 10)
    saved = FlopsLedger(stock).forward_flops(sentence) - FlopsLedger(model).forward_flops(sentence, "core")
    looked_up = 2 * (4 + 10) * 8 * 32
    assert saved == 2 * 10 * (32 * VOCABULARY - 8 * (32 + VOCABULARY)) - looked_up
    everything, table, factors = stock.num_parameters(), 32 * VOCABULARY, 8 * (32 + VOCABULARY)
    assert [count_parameters(model, level) for level in (0, 1)] == [everything - table + factors, everything + factors]
    assert [count_exported_parameters(model, level) for level in (0, 1)] == [everything - table + factors, everything]


def take_steps(model, level):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(2):
        with at_level(model, level):
            model(**training_batch()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.law(number=1)
@pytest.mark.parametrize("init", ["svd", "random"])
@pytest.mark.parametrize("kept_first", [True, False])
def test_the_zero_row_of_pad_is_zero_at_every_level_and_stays_so(init, kept_first):
    model = tiny_model("marian")
    pad = model.config.pad_token_id
    with torch.no_grad():
        model.lm_head.weight[pad] = 0
    if kept_first:
        keep_pad_row_zero_(model)
    partition_(model, PartitionConfig(ratios=[0.1, 0.25], target_modules=["embeddings"], init=init))
    if not kept_first:
        keep_pad_row_zero_(model)
    head, before = model.lm_head, snapshot(model)
    for level in (None, 0, 1, 2):
        if level is not None:
            take_steps(model, level)
        assert not head.weight[pad].any() and not any(share[pad].any() for share in head.V)
        assert not any(head.merged_weight(one)[pad].any() for one in range(3))
    still = {name for name, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[name])}
    assert not still


def test_tables_have_ranks_of_their_own_and_can_be_left_out():
    ranks = PartitionConfig(ranks={"embeddings": 5, "fc1": 3}, exclude_modules=["model.encoder.embed_tokens"])
    model = partition_(tiny_model("marian", **OWN_SOURCE), ranks)
    assert {
        name: layer.ranks for name, layer in partitioned_layers(model).items() if "fc1" not in name
    } == dict.fromkeys(["model.decoder.embed_tokens", "lm_head", "model_decoder_embed_tokens_factors"], (5,))
    assert type(model.model.encoder.embed_tokens) is nn.Embedding and model.model.encoder.layers[0].fc1.ranks == (3,)
    core = parameters_at_level(model, "core")
    assert "model.encoder.embed_tokens.weight" in core and "model.decoder.embed_tokens.weight" not in core


def frozen():
    model = tiny_model("marian")
    model.lm_head.weight.requires_grad_(False)
    return model


def blenderbot():
    halves = {f"{half}_{what}": 1 for half in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    return BlenderbotSmallForConditionalGeneration(BlenderbotSmallConfig(vocab_size=96, d_model=32, **halves))


class Hashed(nn.Embedding):
    """A table that is looked up in its own way."""


def hashed():
    model = tiny_model("marian", **OWN_SOURCE)
    model.model.encoder.embed_tokens = Hashed(VOCABULARY, 32)
    return model


@pytest.mark.parametrize(
    ("make", "config", "message"),
    [
        (
            frozen,
            EMBEDDINGS,
            r"means model.shared too, and its weight is frozen, .* requires_grad_\(True\) .* exclude",
        ),
        (blenderbot, EMBEDDINGS, r"the vocabulary tables of marian, .*, and those of this BlenderbotSmall.* leave it"),
        (hashed, EMBEDDINGS, r"means model.encoder.embed_tokens too, a Hashed of torch.float32, and only plain"),
        (
            lambda: tiny_model("t5"),
            PartitionConfig(target_modules=["q", "embeddings"], exclude_modules=["lm_head"]),
            r"exclude_modules=\['lm_head'\] leaves no vocabulary table of this T5For.*; leave one of them out",
        ),
        (
            lambda: tiny_model("bart"),
            PartitionConfig(ranks={"embeddings": 33}),
            r"ranks give model.shared \(96 x 32\) the rank 33, and such a weight has at most 32; write less",
        ),
        (
            lambda: tiny_model("bart"),
            [EMBEDDINGS, PartitionConfig(ratios=[0.5], target_modules=["fc1", "embeddings"])],
            r"two partitions name model_shared_factors, which can be in one only",
        ),
    ],
)  # fmt: skip
def test_a_table_that_cannot_have_a_core_is_refused_and_the_model_left_alone(make, config, message):
    model = make()
    kinds, model_config, before = [type(module) for module in model.modules()], model.config, snapshot(model)
    with pytest.raises(ValueError, match=message):
        partition_(model, config)
    assert [type(module) for module in model.modules()] == kinds and model.config is model_config
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_vocabulary_is_resized_before_it_is_partitioned():
    model = partitioned("marian", EMBEDDINGS)
    before = snapshot(model)
    with pytest.raises(TypeError, match="PartitionedEmbedding"):
        model.resize_token_embeddings(VOCABULARY + 8)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert model.config.vocab_size == VOCABULARY


@pytest.mark.law(number=10)
def test_a_vocabulary_of_low_rank_is_refused_under_sharding(tmp_path):
    trainer = make_trainer(partitioned("marian", EMBEDDINGS), tmp_path)
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match=r"this model has PartitionedEmbedding, PartitionedProjection.*drop the fsdp"):
        refuse_unkept_laws(trainer, ["core", "full"])


def test_a_copy_reads_tables_of_its_own():
    model = partitioned("marian", EMBEDDINGS)
    other = copy.deepcopy(model)
    assert other.lm_head.table is other.model_shared_factors is not model.model_shared_factors
    assert other.lm_head.weight is other.model.shared.weight is not model.lm_head.weight
    assert isinstance(other.model.encoder.embed_tokens, PartitionedEmbedding)
