"""Attention with narrower queries and keys: the stock one where they are not, and a few lines where they are."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    MBartConfig,
    MBartForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
)

from hf_ats.partition import at_level, set_level
from hf_ats.remote_code.attention_ats import NarrowKeyAttention, allow_narrow_keys_
from tests.support.checkpoints import logits
from tests.support.decodings import beam_scores
from tests.support.models import partitioned, probe_batch, tiny_model

FAMILIES = ("marian", "bart", "m2m_100")
HEADS, WIDTH, BATCH, TARGET, SOURCE = 4, 32, 3, 5, 7


def other_model(family: str):
    """The architectures with a preset that no other test builds."""
    sizes = dict(encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64, d_model=WIDTH)
    sizes |= dict(encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, vocab_size=96, dropout=0.0)
    classes = {
        "mbart": (MBartForConditionalGeneration, MBartConfig),
        "pegasus": (PegasusForConditionalGeneration, PegasusConfig),
    }
    model_class, config_class = classes[family]
    torch.manual_seed(0)
    return model_class(config_class(**sizes, max_position_embeddings=64)).eval()


def attentions(model) -> list[nn.Module]:
    return [module for module in model.modules() if hasattr(module, "q_proj")]


def narrowed_attention(family: str, size: int, implementation: str) -> nn.Module:
    """A decoder's self-attention whose queries and keys have `size` dimensions in each of 4 heads."""
    model = tiny_model(family)
    model.set_attn_implementation(implementation)
    attention = model.model.decoder.layers[0].self_attn
    for name in ("q_proj", "k_proj"):
        setattr(attention, name, nn.Linear(WIDTH, HEADS * size))
    allow_narrow_keys_(attention)
    return attention


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", [*FAMILIES, "mbart", "pegasus"])
def test_with_projections_of_the_usual_size_it_is_the_stock_attention(family, implementation):
    stock = tiny_model(family) if family in FAMILIES else other_model(family)
    stock.set_attn_implementation(implementation)
    model = copy.deepcopy(stock)
    for attention in attentions(model):
        allow_narrow_keys_(attention)
        allow_narrow_keys_(attention)  # once more changes nothing
        assert isinstance(attention, NarrowKeyAttention)
    batch = probe_batch(stock)
    batch["attention_mask"][0, 4:] = 0
    batch |= dict(use_cache=True, output_attentions=implementation == "eager")
    batch["decoder_attention_mask"] = torch.ones_like(batch["decoder_input_ids"])
    batch["decoder_attention_mask"][1, 3:] = 0
    with torch.no_grad():
        ours, theirs = model(**batch), stock(**batch)
    assert torch.equal(ours.logits, theirs.logits)
    if implementation == "eager":
        for kind in ("encoder_attentions", "decoder_attentions", "cross_attentions"):
            assert len(getattr(ours, kind)) and all(map(torch.equal, getattr(ours, kind), getattr(theirs, kind)))
    for kind in ("self_attention_cache", "cross_attention_cache"):
        for one, other in zip(getattr(ours.past_key_values, kind), getattr(theirs.past_key_values, kind), strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    options = dict(num_beams=3, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(model.generate(**inputs, **options), stock.generate(**inputs, **options))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("crosses", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_narrower_projections_it_is_softmax_of_their_products_at_the_usual_scale(family, crosses, implementation):
    attention = narrowed_attention(family, 2, implementation)
    x, source = torch.randn(BATCH, TARGET, WIDTH), torch.randn(BATCH, SOURCE, WIDTH) if crosses else None
    attended = source if crosses else x
    mask = torch.zeros(BATCH, 1, TARGET, attended.shape[1])
    mask[1, :, :, 3:] = -torch.inf
    output, weights = attention(x, key_value_states=source, attention_mask=mask)
    heads = []
    for head in range(HEADS):
        narrow, wide = slice(2 * head, 2 * head + 2), slice(8 * head, 8 * head + 8)
        query, key = attention.q_proj(x)[..., narrow], attention.k_proj(attended)[..., narrow]
        scores = query @ key.mT / 8**0.5 + mask[:, 0]
        heads.append((scores.softmax(-1), attention.v_proj(attended)[..., wide]))
    expected = attention.out_proj(torch.cat([share @ value for share, value in heads], dim=-1))
    torch.testing.assert_close(output, expected)
    if implementation == "eager":
        torch.testing.assert_close(weights, torch.stack([share for share, _ in heads], dim=1))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_cache_holds_narrow_keys_and_gives_what_the_whole_sequence_gives(implementation):
    attention = narrowed_attention("marian", 2, implementation)
    x, source = torch.randn(BATCH, TARGET, WIDTH), torch.randn(BATCH, SOURCE, WIDTH)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    asked = []
    attention.k_proj.register_forward_hook(lambda *_: asked.append(1))
    for until in range(1, TARGET + 1):
        word = x[:, until - 1 : until]
        step, _ = attention(word, past_key_values=cache)
        whole, _ = attention(x[:, :until], attention_mask=torch.zeros(BATCH, 1, until, until))
        torch.testing.assert_close(step, whole[:, -1:])
    keys, values, *_ = next(iter(cache.self_attention_cache))
    assert (keys.shape, values.shape) == ((BATCH, HEADS, TARGET, 2), (BATCH, HEADS, TARGET, 8))
    asked.clear()
    crossed = [attention(x[:, :1], key_value_states=source, past_key_values=cache)[0] for _ in range(3)]
    assert len(asked) == 1, "the source's keys are computed once"
    assert torch.equal(crossed[0], crossed[2])
    torch.testing.assert_close(crossed[0], attention(x[:, :1], key_value_states=source)[0])
    assert next(iter(cache.cross_attention_cache))[0].shape == (BATCH, HEADS, SOURCE, 2)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_partitioned_model_decodes_at_each_level_as_without_a_cache(family, implementation):
    model = partitioned(family, "width ladder", tie_word_embeddings=False)
    model.set_attn_implementation(implementation)
    batch = probe_batch(model)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    found = set()
    for level in range(4):
        with at_level(model, level):
            options = dict(num_beams=3, max_new_tokens=8, min_new_tokens=8, return_dict_in_generate=True)
            generated = model.generate(**inputs, **options, output_scores=True)
            expected = beam_scores(model, inputs, generated.sequences)
            torch.testing.assert_close(generated.sequences_scores, expected, atol=1e-4, rtol=0)
            found.add(tuple(generated.sequences.flatten().tolist()))
    assert len(found) == 4


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_keep_the_class_and_share_nothing(again):
    model = partitioned("marian", "width")
    batch = probe_batch(model)
    set_level(model, "core")
    expected = logits(model, batch)
    other = again(model)
    assert [type(module) for module in other.modules()] == [type(module) for module in model.modules()]
    assert len({type(attention) for attention in attentions(other)}) == 1
    assert torch.equal(logits(other, batch), expected)
    assert other.lm_head.weight is other.get_input_embeddings().weight
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(logits(model, batch), expected)


def test_an_attention_that_is_part_of_a_circle_is_copied():
    attention = narrowed_attention("marian", 2, "eager")
    attention.register_forward_hook(attention._heads)  # a bound method: the module again
    for other in (copy.deepcopy(attention), pickle.loads(pickle.dumps(attention))):
        (hook,) = other._forward_hooks.values()
        assert hook.__self__ is other and isinstance(other, NarrowKeyAttention)


@pytest.mark.law(number=10)
@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention"])
def test_an_implementation_of_one_size_of_heads_is_refused(implementation):
    attention = narrowed_attention("marian", 2, "eager")
    attention.config._attn_implementation_internal = implementation
    with pytest.raises(ValueError, match=rf"attn_implementation='{implementation}' takes heads of.*'eager', 'sdpa'"):
        attention(torch.randn(BATCH, TARGET, WIDTH))


def test_an_attention_of_another_kind_is_refused_and_left_as_it_is():
    attention = tiny_model("t5").encoder.block[0].layer[0].SelfAttention
    kind = type(attention)
    with pytest.raises(ValueError, match=r"T5Attention is no attention of BART's kind \(q_proj.*feed-forward layers"):
        allow_narrow_keys_(attention)
    assert type(attention) is kind
