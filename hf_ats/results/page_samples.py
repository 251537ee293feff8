"""The sample translations of a report page, with what differs from the reference marked."""

import re
import unicodedata
from dataclasses import dataclass
from difflib import SequenceMatcher

# Scripts that are written without spaces, where every character counts as a word.
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_MOST_WORDS = 1000  # of a text that is compared, since the time grows with their square


@dataclass(frozen=True)
class Piece:
    """A stretch of a translation; `kind` is `"same"`, `"other"` (not in the reference) or `"missing"` (only there)."""

    kind: str
    text: str


@dataclass(frozen=True)
class Translation:
    """A level's translation of a sample."""

    level: str
    pieces: list[Piece]
    is_reference: bool


def mark_differences(translation: str, reference: str) -> list[Piece]:
    """Cut a translation into stretches that are in the reference and stretches that are not.

    Words and punctuation are compared, white space is not. Texts of more than 1,000 words are left unmarked.

    Returns:
        pieces whose texts, without those of the kind `"missing"`, add up to the translation. `"missing"` says what
        the reference has in that place, where the translation has nothing instead.
    """
    ours, theirs = split_words(translation), split_words(reference)
    if max(len(ours), len(theirs)) > _MOST_WORDS:
        return [Piece("same", translation)]
    # Compared without the white space between words, of which each word keeps what follows it.
    matcher = SequenceMatcher(None, [word for word, _ in ours], [word for word, _ in theirs], autojunk=False)
    pieces = []
    for kind, first, last, other_first, other_last in matcher.get_opcodes():
        text = "".join(word + space for word, space in ours[first:last])
        if kind == "delete" or kind == "replace":
            # The space after the last word is not part of what differs.
            pieces += [Piece("other", text.rstrip()), Piece("same", text[len(text.rstrip()) :])]
        elif kind == "equal":
            pieces.append(Piece("same", text))
        else:
            absent = "".join(word + space for word, space in theirs[other_first:other_last])
            pieces.append(Piece("missing", absent.strip()))
    return [piece for piece in pieces if piece.text]


def split_words(text: str) -> list[tuple[str, str]]:
    """Return words and punctuation marks, each with the white space that follows it; together they are the text."""
    words: list[tuple[str, str]] = []
    for part in re.findall(r"\S+\s*|\s+", text):
        word = part.rstrip()
        pieces = _peel(word) or [""]
        words += [(piece, "") for piece in pieces[:-1]]
        words.append((pieces[-1], part[len(word) :]))
    return words


def mark_sample(sample: dict) -> list[Translation]:
    """Return the translations of one of the samples of `results.json`."""
    reference = sample["reference"]
    return [
        Translation(level, mark_differences(text, reference), text.split() == reference.split())
        for level, text in sample["translations"].items()
    ]


def _peel(word: str) -> list[str]:
    """Cut the punctuation around a word off, each mark by itself, and unspaced scripts into characters."""
    start, end = 0, len(word)
    while start < end and _is_mark(word[start]):
        start += 1
    while end > start and _is_mark(word[end - 1]):
        end -= 1
    inner = word[start:end]
    pieces = re.findall(f"{_UNSPACED.pattern}|(?:(?!{_UNSPACED.pattern}).)+", inner, flags=re.DOTALL)
    return [*word[:start], *pieces, *word[end:]]


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"
