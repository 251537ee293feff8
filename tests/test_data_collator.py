"""Padding, and the decoder's input that every family's own forward would have made."""

import pytest
import torch

from hf_ats.data import TranslationCollator, train_tokenizer
from tests.models import FAMILIES, tiny_model


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


def test_a_collator_without_a_model_is_refused(tokenizer):
    with pytest.raises(ValueError, match="needs model="):
        TranslationCollator(tokenizer)


def test_a_model_that_does_not_say_how_its_decoder_begins_is_refused(tokenizer):
    model = tiny_model("m2m_100")
    model.config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="decoder_start_token_id=None and pad_token_id=1; set both"):
        TranslationCollator(tokenizer, model)
