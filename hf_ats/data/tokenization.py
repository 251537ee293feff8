"""From sentence pairs to token ids."""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_base import LARGE_INTEGER

from .unknown import find_unknown, foreign_codes, spelled_tokens

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

LONG_SENTENCES = ("error", "skip", "truncate")


def tokenize_corpus(
    dataset: "datasets.Dataset",
    tokenizer: PreTrainedTokenizerBase,
    source_lang: str,
    target_lang: str,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
    *,
    long_sentences: str = "error",
    source_prefix: str = "",
    name: str = "the corpus",
    refuse_unknown: bool = False,
    num_proc: int | None = None,
) -> "datasets.Dataset":
    """Tokenize the column `translation` of a corpus, and say what of it is unknown to the tokenizer.

    How many tokens of each side are `<unk>`, with examples, is logged as a warning; and likewise sources that begin
    with a language code, such as `>>fr<<`, which a Marian tokenizer does not have.

    Args:
        dataset: one split, with `translation` ({"de": "...", "en": "..."}).
        tokenizer: the model's; `</s>` and language tokens are added as it does.
        source_lang: key of the source in `translation`.
        target_lang: key of the target.
        max_source_length: most tokens of a source, the end-of-sentence token included; default
            `tokenizer.model_max_length`, which may be more than the model has positions for.
        max_target_length: the same for targets.
        long_sentences: what happens to a pair over a limit: `"error"` raises, `"skip"` leaves the pair out and logs
            how many, `"truncate"` cuts the side that is too long.
        source_prefix: text put before every source, which T5 needs ("translate German to English: ").
        name: how messages call the corpus.
        refuse_unknown: raise where a token is `<unk>` and the text does not spell it so, as for the text that a
            tokenizer with every character was learned from.
        num_proc: number of processes, as in `datasets.Dataset.map`.

    Returns:
        The dataset with the columns `input_ids`, `attention_mask` and `labels` in place of its own.

    Raises:
        ValueError: a sentence is too long (and `long_sentences="error"`): names the pair, its length and the limit; no
            pair is left; something is unknown (and `refuse_unknown`); an argument is out of its range.
    """
    if long_sentences not in LONG_SENTENCES:
        raise ValueError(f"long_sentences={long_sentences!r} is not one of {', '.join(map(repr, LONG_SENTENCES))}.")
    limits = {
        "source": _limit("max_source_length", max_source_length, tokenizer),
        "target": _limit("max_target_length", max_target_length, tokenizer),
    }

    def encode(texts: list[str], side: str) -> dict[str, list[list[int]]]:
        argument = {"text": texts} if side == "source" else {"text_target": texts}
        # verbose=False: the tokenizer's own remark about long sentences says less than the error below.
        # If there is no limit, transformers has a huge number, which a fast tokenizer cannot take.
        cut = long_sentences == "truncate" and limits[side] < LARGE_INTEGER
        return tokenizer(**argument, truncation=cut, max_length=limits[side] if cut else None, verbose=False)

    def tokenize(pairs: list[dict[str, str]], indices: list[int]) -> dict[str, list[list[int]]]:
        source = encode([source_prefix + pair[source_lang] for pair in pairs], "source")
        target = encode([pair[target_lang] for pair in pairs], "target")
        columns = {
            "input_ids": source["input_ids"],
            "attention_mask": source["attention_mask"],
            "labels": target["input_ids"],
            "pair": indices,
        }
        too_long = []
        for row, index in enumerate(indices):
            sizes = {"source": len(columns["input_ids"][row]), "target": len(columns["labels"][row])}
            over = [side for side in limits if sizes[side] > limits[side]]
            if over and long_sentences == "error":
                raise ValueError(_too_long_message(name, index, over[0], sizes, limits))
            too_long.append(bool(over))
        return {
            name: [value for value, drop in zip(values, too_long, strict=True) if not drop]
            for name, values in columns.items()
        }

    tokenized = dataset.map(
        tokenize,
        batched=True,
        with_indices=True,
        input_columns=["translation"],
        remove_columns=dataset.column_names,
        num_proc=num_proc,
        desc="Tokenizing",
    )
    left_out = len(dataset) - len(tokenized)
    if left_out:
        logger.warning(
            "Left out %d of %d sentence pairs of %s: more than %d source or %d target tokens.",
            left_out,
            len(dataset),
            name,
            limits["source"],
            limits["target"],
        )
    if len(tokenized) == 0:
        raise ValueError(
            f"No sentence pair of {name} is within max_source_length={limits['source']} and "
            f"max_target_length={limits['target']}; raise the limits."
        )
    sides = {"source": ("input_ids", source_prefix, source_lang), "target": ("labels", "", target_lang)}
    for side, (column, prefix, language) in sides.items():
        texts = _Texts(dataset, prefix, language)
        unknown = find_unknown(
            tokenized,
            column,
            tokenizer,
            lambda parts, side=side: encode(parts, side)["input_ids"],
            texts,
            spelled=not refuse_unknown,
        )
        if unknown is not None and refuse_unknown:
            raise ValueError(
                f"In the {side}s of {name} {unknown}. The tokenizer was to have every character of them; leave these "
                "out of the text."
            )
        if unknown is not None:
            logger.warning("In the %ss of %s %s.", side, name, unknown)
        if spelled := spelled_tokens(tokenizer, texts):
            logger.warning("In the %ss of %s %s.", side, name, spelled)
        if side == "source" and (codes := foreign_codes(tokenizer, texts)):
            logger.warning("In %s %s", name, codes)
    return tokenized.remove_columns("pair")


class _Texts:
    """One side of a corpus as it is tokenized, read from the corpus where it is asked for."""

    def __init__(self, dataset: "datasets.Dataset", prefix: str, language: str):
        self._dataset, self._prefix, self._language = dataset.select_columns(["translation"]), prefix, language

    def __getitem__(self, pair: int) -> str:
        return self._prefix + self._dataset[pair]["translation"][self._language]

    def __iter__(self) -> Iterator[str]:
        for batch in self._dataset.iter(batch_size=10_000):
            yield from (self._prefix + pair[self._language] for pair in batch["translation"])


def _limit(name: str, given: int | None, tokenizer: PreTrainedTokenizerBase) -> int:
    if given is None:
        given = tokenizer.model_max_length
    if given < 1:
        raise ValueError(f"{name}={given} must be at least 1.")
    return given


def _too_long_message(name: str, index: int, side: str, sizes: dict[str, int], limits: dict[str, int]) -> str:
    return (
        f"Sentence pair {index + 1} of {name}: its {side} has {sizes[side]} tokens, more than "
        f"max_{side}_length={limits[side]}. Raise the limit if the model allows it, or set long_sentences "
        "(--long_sentences of a command) to 'skip', which leaves such pairs out, or 'truncate', which cuts them."
    )
