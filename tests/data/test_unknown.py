"""What of a corpus is unknown to its tokenizer is counted, named, and refused where it was to be known."""

import datasets
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_ats.data import check_code_of_prefix, foreign_codes, tokenize_corpus, train_tokenizer
from hf_ats.remote_code import target_codes

SOURCES = [">>fra<< der Hund", ">>spa<< der Hund", ">>fra<< ein Haus"]
TARGETS = ["le chien", "el perro", "une maison"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(SOURCES * 9, TARGETS * 9, directory, vocab_size=46, source_lang="de", target_lang="fr")


def tokenize(tokenizer, sources, targets, **options):
    pairs = [{"de": source, "fr": target} for source, target in zip(sources, targets, strict=True)]
    corpus = datasets.Dataset.from_dict({"translation": pairs})
    return tokenize_corpus(corpus, tokenizer, "de", "fr", name="the test part", **options)


def test_what_is_known_is_not_spoken_of(tokenizer, caplog):
    tokenized = tokenize(tokenizer, SOURCES, TARGETS, refuse_unknown=True)
    assert tokenized.column_names == ["input_ids", "attention_mask", "labels"]
    assert not caplog.records


def test_what_is_unknown_is_counted_by_side_with_examples(tokenizer, caplog):
    sources = [*SOURCES, "der Hund 漢 Ö", "ein Ö Ö", "der " * 20 + "Q"]
    targets = [*TARGETS, "le", "le Ж", "el"]
    tokenize(tokenizer, sources, targets, max_source_length=15, long_sentences="skip")
    messages = [record.getMessage() for record in caplog.records]
    ids = tokenizer(sources[:5], text_target=targets[:5])
    of = [sum(map(len, ids[column])) for column in ("input_ids", "labels")]
    assert messages[1:] == [
        f"In the sources of the test part 4 of {of[0]} tokens are <unk>, in 2 sentences, such as '漢', 'Ö'.",
        f"In the targets of the test part 1 of {of[1]} tokens are <unk>, in 1 sentences, such as 'Ж'.",
    ]


def test_words_are_named_where_a_tokenizer_knows_whole_words(caplog):
    words = {word: index for index, word in enumerate(["?", *" ".join(TARGETS).split()])}
    fast = Tokenizer(WordLevel(words, unk_token="?"))
    fast.pre_tokenizer = Whitespace()
    tokenize(PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="?"), ["le perro", "le gato"], ["le", "el"])
    assert "1 of 4 tokens are ?, in 1 sentences, such as 'g'" in caplog.text or "such as 'gato'" in caplog.text


def test_a_tokenizer_without_an_unknown_token_of_its_own_is_not_asked(caplog):
    fast = Tokenizer(WordLevel({"le": 0, "el": 1}))
    fast.pre_tokenizer = Whitespace()
    for special in ({}, {"unk_token": "el", "eos_token": "el"}):  # as that of GPT-2 has it
        tokenize(PreTrainedTokenizerFast(tokenizer_object=fast, **special), ["le"], ["el"], refuse_unknown=True)
    assert not caplog.records


def test_what_was_to_be_learned_is_refused_unless_the_text_spells_it_so(tokenizer, caplog):
    message = "In the targets of the test part 1 of .* such as 'Ж'. The tokenizer was to have every character"
    with pytest.raises(ValueError, match=message):
        tokenize(tokenizer, ["der"], ["le Ж"], refuse_unknown=True)
    tokenize(tokenizer, ["der <unk> Hund"], ["le"], refuse_unknown=True)
    tokenize(tokenizer, ["der <unk> Hund"], ["le"])
    assert "such as '<unk>'" in caplog.text


def test_tokens_of_the_tokenizer_that_texts_spell_are_named(tokenizer, caplog):
    tokenize(tokenizer, ["der </s> Hund", "ein </s>", "ein <pad>"], ["le", "le", "el </s>"])
    assert "In the sources of the test part </s> (2), <pad> (1) is read as the tokenizer's own token" in caplog.text
    assert "In the targets of the test part </s> (1) is read as" in caplog.text


def test_codes_that_the_tokenizer_lacks_are_named_with_those_it_has(tokenizer, caplog):
    assert target_codes(tokenizer) == [">>fra<<", ">>spa<<"]
    tokenize(tokenizer, [">>fr<< der Hund", ">>fr<< ein Haus", ">>fra<< ein", ">>der Hund<<"], [*TARGETS, "le"])
    assert (
        "In the test part sources begin with >>fr<< (2), which is no code of this tokenizer and read as text"
        in caplog.text
    )
    assert "it has >>fra<<, >>spa<<." in caplog.text
    assert foreign_codes(tokenizer, SOURCES) == ""


def test_a_prefix_with_a_code_that_the_tokenizer_lacks_is_refused(tokenizer, tmp_path):
    message = "source_prefix='>>fr<< ' begins with >>fr<<, .*; it has >>fra<<, >>spa<<."
    for one in (tokenizer, AutoTokenizer.from_pretrained(tokenizer.name_or_path or tokenizer.spm_files[0][:-11])):
        with pytest.raises(ValueError, match=message):
            check_code_of_prefix(one, ">>fr<< ")
        for prefix in ("", ">>spa<< ", "translate: ", ">>so weiter<< "):
            check_code_of_prefix(one, prefix)
    plain = train_tokenizer(TARGETS * 9, TARGETS * 9, tmp_path, vocab_size=30, source_lang="a", target_lang="b")
    with pytest.raises(ValueError, match="it has none, as its model has one target language"):
        check_code_of_prefix(plain, ">>fr<< ")
