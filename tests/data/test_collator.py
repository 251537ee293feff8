"""Padding, and the decoder's input that every family's own forward would have made."""

import copy

import numpy as np
import pytest
import torch
from transformers import BatchEncoding, DataCollatorForSeq2Seq

from hf_ats.data import TranslationCollator, shift_right, train_tokenizer
from tests.support.models import FAMILIES, tiny_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    text = ["eins zwei drei", "one two three"]
    return train_tokenizer(
        text, text, tmp_path_factory.mktemp("tokenizer"), vocab_size=34, source_lang="de", target_lang="en"
    )


FEATURES = [
    {"input_ids": [5, 6, 7, 0], "attention_mask": [1, 1, 1, 1], "labels": [8, 0], "text": "left out"},
    {"input_ids": [9, 0], "attention_mask": [1, 1], "labels": [10, 11, 12, 13, 0], "text": "left out"},
]
FEATURES_WITHOUT_TEXT = [{name: row[name] for name in row if name != "text"} for row in FEATURES]


def test_a_batch_is_padded_side_by_side(tokenizer):
    batch = TranslationCollator(tokenizer, tiny_model("marian"))(FEATURES)
    pad = tokenizer.pad_token_id
    assert set(batch) == {"input_ids", "attention_mask", "labels", "decoder_input_ids"}
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [9, 0, pad, pad]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[8, 0, -100, -100, -100], [10, 11, 12, 13, 0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_reads_what_it_would_have_made_of_the_labels(tokenizer, family):
    model = tiny_model(family)
    batch = TranslationCollator(tokenizer, model)(FEATURES)
    start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    assert batch["decoder_input_ids"].tolist() == [[start, 8, 0, pad, pad], [start, 10, 11, 12, 13]]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        own = model(**inputs, labels=batch["labels"]).logits
        # As under label smoothing: without the labels.
        ours = model(**inputs, decoder_input_ids=batch["decoder_input_ids"]).logits
        other = model(**inputs, decoder_input_ids=batch["decoder_input_ids"].flip(1)).logits
    torch.testing.assert_close(ours, own, rtol=0, atol=0)
    assert not torch.allclose(other, own)


def test_lengths_are_padded_to_a_multiple(tokenizer):
    batch = TranslationCollator(tokenizer, tiny_model("m2m_100"), pad_to_multiple_of=8)(FEATURES)
    assert {tuple(values.shape) for values in batch.values()} == {(2, 8)}


KINDS = {"lists": list, "arrays": np.asarray, "tensors": torch.tensor}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple_of", [None, 4])
def test_the_fast_batch_is_transformers_own(tokenizer, family, kind, side, multiple_of):
    model, random = tiny_model(family), np.random.default_rng(0)
    features = []
    for _ in range(20):
        source, target = random.integers(1, 30, 2)
        # A mask need not be all ones: a corpus may come with some of its own.
        row = {
            "input_ids": random.integers(0, 90, source).tolist(),
            "attention_mask": random.integers(0, 2, source).tolist(),
            "labels": random.integers(0, 90, target).tolist(),
        }
        features.append({name: KINDS[kind](values) for name, values in row.items()})
    tokenizer.padding_side = side
    try:
        ours = TranslationCollator(tokenizer, model, pad_to_multiple_of=multiple_of)(features)
        own = DataCollatorForSeq2Seq(tokenizer, model, pad_to_multiple_of=multiple_of)(features)
    finally:
        tokenizer.padding_side = "right"
    own.setdefault("decoder_input_ids", shift_right(own["labels"], model.config))  # M2M100 cannot make them
    assert isinstance(ours, BatchEncoding) and set(ours) == set(own)
    for name, values in own.items():
        assert ours[name].dtype == values.dtype
        assert torch.equal(ours[name], values), name


@pytest.mark.parametrize(
    ("option", "width"), [(dict(padding="max_length", max_length=9), 9), (dict(label_pad_token_id=-7), 5)]
)
def test_the_parents_options_hold(tokenizer, option, width):
    ours = TranslationCollator(tokenizer, tiny_model("marian"), **option)(FEATURES)
    own = DataCollatorForSeq2Seq(tokenizer, tiny_model("marian"), **option)(FEATURES_WITHOUT_TEXT)
    assert ours["labels"].shape == (2, width)
    assert {name: values.tolist() for name, values in ours.items()} == {
        name: values.tolist() for name, values in own.items()
    }


def test_a_tokenizer_without_padding_is_left_to_transformers_own_words(tokenizer):
    without = copy.deepcopy(tokenizer)
    without.pad_token = None
    with pytest.raises(ValueError, match="does not have a padding token"):
        TranslationCollator(without, tiny_model("marian"))(FEATURES)


def test_a_collator_without_a_model_is_refused(tokenizer):
    with pytest.raises(ValueError, match="needs model="):
        TranslationCollator(tokenizer)


def test_a_model_that_does_not_say_how_its_decoder_begins_is_refused(tokenizer):
    model = tiny_model("m2m_100")
    model.config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="decoder_start_token_id=None and pad_token_id=1; set both"):
        TranslationCollator(tokenizer, model)
