"""From pairs to token ids, and what happens to sentences over the model's length."""

import logging

import datasets
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import MarianTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from hf_ats.data import tokenize_corpus, train_tokenizer
from hf_ats.data.tokenization import LONG_SENTENCES

GERMAN = ["eins zwei", "eins", "eins zwei drei vier fünf sechs", "zwei"]
ENGLISH = ["one two", "one two three four five six", "one two three", "two"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> MarianTokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(
        GERMAN * 9,
        ENGLISH * 9,
        directory,
        vocab_size=56,
        source_lang="de",
        target_lang="en",
        joint=False,
        model_max_length=7,
    )


@pytest.fixture
def corpus() -> datasets.Dataset:
    pairs = [{"de": german, "en": english} for german, english in zip(GERMAN, ENGLISH, strict=True)]
    return datasets.Dataset.from_dict({"translation": pairs, "number": range(4)})


def test_sources_and_targets_are_tokenized_each_by_its_side(corpus, tokenizer):
    tokenized = tokenize_corpus(corpus, tokenizer, "de", "en")
    expected = tokenizer(GERMAN, text_target=ENGLISH)
    assert tokenized.column_names == ["input_ids", "attention_mask", "labels"]
    for column in tokenized.column_names:
        assert tokenized[column][:] == expected[column]
    assert all(tokenizer.unk_token_id not in ids for ids in tokenized["labels"])
    # The same ids would mean that the target's vocabulary was not used.
    assert tokenize_corpus(corpus, tokenizer, "en", "en", 99)["input_ids"][:] != expected["labels"]


def test_the_source_prefix_comes_before_sources_alone(corpus, tokenizer):
    plain, prefixed = (tokenize_corpus(corpus, tokenizer, "de", "en", 9, source_prefix=p) for p in ("", "zwei "))
    assert prefixed["input_ids"][:] == tokenizer(["zwei " + text for text in GERMAN]).input_ids
    assert prefixed["labels"][:] == plain["labels"][:]


def lengths(tokenizer) -> tuple[list[int], list[int]]:
    return tuple(
        [len(ids) for ids in batch]
        for batch in (tokenizer(GERMAN).input_ids, tokenizer(text_target=ENGLISH).input_ids)
    )


@pytest.mark.parametrize(("side", "pair"), [("source", 3), ("target", 2)])
def test_a_sentence_over_the_limit_is_named(corpus, tokenizer, side, pair):
    length = lengths(tokenizer)[side == "target"][pair - 1]
    limits = {f"max_{side}_length": length - 1}
    message = rf"Sentence pair {pair} of the corpus: its {side} has {length} tokens.* max_{side}_length={length - 1}"
    with pytest.raises(ValueError, match=message + ".*--long_sentences"):
        tokenize_corpus(corpus, tokenizer, "de", "en", **limits)
    # The limit itself is allowed.
    assert len(tokenize_corpus(corpus, tokenizer, "de", "en", **{f"max_{side}_length": length})) == 4


def test_the_limit_is_the_tokenizers_by_default(corpus, tokenizer):
    with pytest.raises(ValueError, match="max_source_length=7"):
        tokenize_corpus(corpus, tokenizer, "de", "en", source_prefix="eins ")


def test_long_pairs_are_skipped_and_counted_on_request(corpus, tokenizer, caplog):
    with caplog.at_level(logging.WARNING, logger="hf_ats"):
        kept = tokenize_corpus(corpus, tokenizer, "de", "en", 6, 6, long_sentences="skip")
    assert kept["input_ids"][:] == tokenizer([GERMAN[0], GERMAN[3]]).input_ids
    assert "Left out 2 of 4 sentence pairs of the corpus: more than 6 source or 6 target tokens" in caplog.text


def test_long_sides_are_cut_on_request_and_keep_their_end(corpus, tokenizer):
    cut = tokenize_corpus(corpus, tokenizer, "de", "en", 4, 3, long_sentences="truncate")
    assert [len(ids) for ids in cut["input_ids"]] == [min(4, length) for length in lengths(tokenizer)[0]]
    assert [len(ids) for ids in cut["labels"]] == [min(3, length) for length in lengths(tokenizer)[1]]
    assert all(ids[-1] == tokenizer.eos_token_id for column in ("input_ids", "labels") for ids in cut[column])


def test_without_any_limit_there_is_nothing_to_cut(corpus):
    words = {word: index for index, word in enumerate(sorted({"?", *" ".join(GERMAN + ENGLISH).split()}))}
    fast = Tokenizer(WordLevel(words, unk_token="?"))
    fast.pre_tokenizer = Whitespace()
    unlimited = PreTrainedTokenizerFast(tokenizer_object=fast)
    assert unlimited.model_max_length == VERY_LARGE_INTEGER
    for long_sentences in LONG_SENTENCES:
        tokenized = tokenize_corpus(corpus, unlimited, "de", "en", long_sentences=long_sentences)
        assert tokenized["input_ids"][:] == [[words[word] for word in text.split()] for text in GERMAN]


def test_nothing_left_is_refused(corpus, tokenizer):
    with pytest.raises(ValueError, match="No sentence pair of the corpus is within max_source_length=1"):
        tokenize_corpus(corpus, tokenizer, "de", "en", 1, long_sentences="skip")


@pytest.mark.parametrize("change", [{"long_sentences": "drop"}, {"max_source_length": 0}, {"max_target_length": -1}])
def test_arguments_out_of_range_are_refused(corpus, tokenizer, change):
    with pytest.raises(ValueError, match="=".join(f"{k}={v!r}" for k, v in change.items())):
        tokenize_corpus(corpus, tokenizer, "de", "en", **change)


def test_several_processes_give_the_same(corpus, tokenizer):
    one, two = (tokenize_corpus(corpus, tokenizer, "de", "en", num_proc=n) for n in (None, 2))
    assert one[:] == two[:]
