"""Padding, and the decoder's input that every family's own forward would have made."""

import numpy as np
import pytest
import torch
from transformers import BatchEncoding, DataCollatorForSeq2Seq

from hf_ats.data import TranslationCollator, decoder_inputs, train_tokenizer
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


def test_a_batch_is_padded_side_by_side(tokenizer):
    batch = TranslationCollator(tokenizer)(FEATURES)
    pad = tokenizer.pad_token_id
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [9, 0, pad, pad]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[8, 0, -100, -100, -100], [10, 11, 12, 13, 0]]
    assert TranslationCollator(tokenizer, label_pad_token_id=-7)(FEATURES)["labels"][0, -1] == -7


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_reads_what_it_would_have_made_of_the_labels(tokenizer, family):
    model = tiny_model(family)
    batch = TranslationCollator(tokenizer)(FEATURES)
    shifted = decoder_inputs(model, batch["labels"])
    start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    assert shifted.tolist() == [[start, 8, 0, pad, pad], [start, 10, 11, 12, 13]]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        own = model(**inputs, labels=batch["labels"]).logits
        ours = model(**inputs, decoder_input_ids=shifted).logits
        other = model(**inputs, decoder_input_ids=shifted.flip(1)).logits
    torch.testing.assert_close(ours, own, rtol=0, atol=0)
    assert not torch.allclose(other, own)


KINDS = {"lists": list, "arrays": np.asarray, "tensors": torch.tensor}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple_of", [None, 4])
def test_the_fast_batch_is_transformers_own(tokenizer, kind, side, multiple_of, monkeypatch):
    random = np.random.default_rng(0)
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
    monkeypatch.setattr(tokenizer, "padding_side", side)
    ours = TranslationCollator(tokenizer, pad_to_multiple_of=multiple_of)(features)
    own = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=multiple_of)(features)
    assert isinstance(ours, BatchEncoding) and set(ours) == set(own)
    for name, values in own.items():
        assert ours[name].dtype == values.dtype
        assert torch.equal(ours[name], values), name
