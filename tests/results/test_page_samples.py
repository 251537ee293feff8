import random

import pytest

from hf_ats.results.page_samples import mark_differences, mark_sample, split_words


def marked(translation: str, reference: str) -> str:
    """What differs in brackets, what is missing in braces."""
    forms = {"same": "{}", "other": "[{}]", "missing": "{{{}}}"}
    return "".join(forms[piece.kind].format(piece.text) for piece in mark_differences(translation, reference))


@pytest.mark.parametrize(
    ("translation", "reference", "expected"),
    [
        ("A dog runs.", "A dog runs.", "A dog runs."),
        ("A cat runs.", "A dog runs.", "A [cat] runs."),
        ("A dog runs", "A dog runs.", "A dog runs{.}"),
        ("A big dog runs.", "A dog runs.", "A [big] dog runs."),
        ("A dog.", "A big dog.", "A {big}dog."),
        ("A  dog\truns.", "A dog runs.", "A  dog\truns."),
        ('"Yes," he said', "Yes, he said", '["]Yes,["] he said'),
        ("", "A dog", "{A dog}"),
        ("A dog", "", "[A dog]"),
        ("", "", ""),
        ("私は先生です。", "私は学生です。", "私は[先]生です。"),
        ("हिन्दी भाषा", "हिन्दी बोली", "हिन्दी [भाषा]"),
        (" a dog", "a dog", " a dog"),
    ],
)
def test_what_differs_is_marked_and_nothing_else(translation, reference, expected):
    assert marked(translation, reference) == expected


def test_the_pieces_are_the_translation_whatever_it_is():
    generator = random.Random(0)
    alphabet = ["a", "b", "ab", " ", "  ", ".", ",", "\n", "\u00a0", "字", "<", "&", "\u0627", "\u0301", "\u200d"]
    for _ in range(300):
        one, other = ("".join(generator.choices(alphabet, k=generator.randrange(12))) for _ in range(2))
        assert "".join(word + space for word, space in split_words(one)) == one
        pieces = mark_differences(one, other)
        assert "".join(piece.text for piece in pieces if piece.kind != "missing") == one
        assert all(piece.text for piece in pieces)
        if one.split() == other.split():
            assert {piece.kind for piece in pieces} <= {"same"}


def test_a_text_of_very_many_words_is_left_unmarked():
    (piece,) = mark_differences("word " * 1001, "another " * 1001)
    assert (piece.kind, piece.text) == ("same", "word " * 1001)


def test_a_translation_is_known_for_its_reference_by_its_words():
    sample = {"source": "x", "reference": "a dog", "translations": {"core": "a  dog", "full": "a cat"}}
    assert [(one.level, one.is_reference) for one in mark_sample(sample)] == [("core", True), ("full", False)]
