"""What of a corpus its tokenizer does not know: tokens that are `<unk>`, and codes that are none of its own."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import MarianTokenizer, PreTrainedTokenizerBase

from ..remote_code import target_codes

if TYPE_CHECKING:
    import datasets

_EXAMPLES, _SENTENCES_WITH_EXAMPLES = 8, 30


@dataclass(frozen=True)
class Unknown:
    """How much of one side of a corpus is unknown; as text, a clause that says it.

    Args:
        tokens: how many are `<unk>`.
        of: how many tokens there are.
        sentences: how many sentences have one.
        examples: characters or words that become one.
        token: how the tokenizer writes it.
    """

    tokens: int
    of: int
    sentences: int
    examples: tuple[str, ...]
    token: str

    def __str__(self):
        some = ", ".join(map(repr, self.examples))
        return (
            f"{self.tokens:,} of {self.of:,} tokens are {self.token}, in {self.sentences:,} sentences, such as {some}"
        )


def find_unknown(
    tokenized: "datasets.Dataset",
    column: str,
    tokenizer: PreTrainedTokenizerBase,
    encode: Callable[[Sequence[str]], list[list[int]]],
    texts: Sequence[str],
    spelled: bool = True,
) -> Unknown | None:
    """Return how much of one side is unknown to its tokenizer; None if all is known.

    Args:
        tokenized: ids in a column, and in the column `pair` the index of the pair in the corpus.
        column: the ids.
        tokenizer: what made them.
        encode: returns the ids of texts of this side.
        texts: this side of the corpus.
        spelled: count what the text itself spells `<unk>`.
    """
    import pyarrow.compute as pc

    unknown_id = tokenizer.unk_token_id
    if unknown_id in (None, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        return None  # of a tokenizer that knows every byte
    tokens = of = 0
    pairs: list[int] = []
    for table in tokenized.with_format("arrow").iter(batch_size=100_000):
        ids = table[column].combine_chunks()
        flat = pc.list_flatten(ids)
        rows = pc.filter(pc.list_parent_indices(ids), pc.equal(flat, unknown_id))
        tokens, of = tokens + len(rows), of + len(flat)
        pairs += table["pair"].take(rows.unique()).to_pylist()
    if not spelled:
        pairs = [pair for pair in pairs if tokenizer.unk_token not in texts[pair]]
    if not pairs:
        return None
    examples: dict[str, None] = {}  # in their order, each once
    for pair in pairs[:_SENTENCES_WITH_EXAMPLES]:
        examples.update(dict.fromkeys(_unknown_in(texts[pair], tokenizer, encode)))
    return Unknown(
        tokens=tokens,
        of=of,
        sentences=len(pairs),
        examples=tuple(examples)[:_EXAMPLES],
        token=tokenizer.unk_token,
    )


def _unknown_in(text: str, tokenizer: PreTrainedTokenizerBase, encode: Callable) -> list[str]:
    """Return the characters of a text that are unknown by themselves; of words where there are none, the word."""

    def unknown(parts: Sequence[str]) -> list[str]:
        return [part for part, ids in zip(parts, encode(parts), strict=True) if tokenizer.unk_token_id in ids]

    found = []
    for word in unknown(text.split()) or [text[:40]]:
        if tokenizer.unk_token in word:
            found.append(tokenizer.unk_token)
        else:
            found += unknown(list(dict.fromkeys(word))) or [word]
    return found


def spelled_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> str:
    """Return a clause on the tokens that end, begin, pad or mask a sentence and that texts spell, or ""."""
    tokens = {token for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}
    tokens -= {tokenizer.unk_token}
    counts = Counter(token for text in texts for token in tokens if token in text)
    some = ", ".join(f"{token} ({count:,})" for token, count in counts.most_common())
    return f"{some} is read as the tokenizer's own token, and not as text" if counts else ""


def foreign_codes(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> str:
    """Return a clause on the codes of languages that texts begin with and a Marian tokenizer does not have, or "".

    Such a code is text to it, `>>fr<<` as well as a quotation of one word.
    """
    if not isinstance(tokenizer, MarianTokenizer):
        return ""
    own = target_codes(tokenizer)
    starts = (re.match(r">>[\w-]+<<", text) for text in texts)
    counts = Counter(start[0] for start in starts if start and start[0] not in own)
    if not counts:
        return ""
    some = ", ".join(f"{code} ({count:,})" for code, count in counts.most_common(_EXAMPLES))
    return f"sources begin with {some}, which is no code of this tokenizer and read as text; {_listed(own)}."


def check_code_of_prefix(tokenizer: PreTrainedTokenizerBase, prefix: str) -> None:
    """Raise a ValueError if the text before every source begins with a code that a Marian tokenizer does not have."""
    if foreign_codes(tokenizer, [prefix]):
        code = re.match(r">>[\w-]+<<", prefix)[0]
        raise ValueError(
            f"source_prefix={prefix!r} begins with {code}, which is no code of this tokenizer; "
            f"{_listed(target_codes(tokenizer))}."
        )


def _listed(codes: list[str]) -> str:
    return f"it has {', '.join(codes)}" if codes else "it has none, as its model has one target language"
