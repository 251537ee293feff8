"""A Marian tokenizer from scratch."""

import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from ..remote_code import MarianTokenizer
from .normalization import DEFAULT_RULE, Normalization

logger = logging.getLogger(__name__)

EOS, UNK, PAD = "</s>", "<unk>", "<pad>"

# At the start of a source: of `>>Nein<<, sagte er.` it is a quotation.
_LANGUAGE_CODE = re.compile(r">>[\w-]+<<(?![^\w\s])")

# sentencepiece leaves out sentences of more than 4,192 bytes.
_LONGEST = 1000


def train_tokenizer(
    source_texts: Iterable[str],
    target_texts: Iterable[str],
    directory: str | os.PathLike,
    *,
    vocab_size: int,
    source_lang: str,
    target_lang: str,
    joint: bool = True,
    character_coverage: float = 1.0,
    source_normalization_rule_name: str = DEFAULT_RULE,
    target_normalization_rule_name: str = DEFAULT_RULE,
    model_max_length: int = 512,
) -> MarianTokenizer:
    """Learn byte-pair pieces with sentencepiece and write a `MarianTokenizer` into a directory.

    `</s>` has id 0 and `<unk>` 1, as in the published Marian models; `<pad>`, with which the decoder starts, is the
    last id, where CTranslate2's Marian loader expects it. Digits are pieces of their own. A code such as `>>fra<<` at
    the start of a source, by which a model of several targets is told the language, is an entry of its own, before
    `<pad>`; which ones is logged. The same texts give the same files, byte for byte, under the same versions of Python
    and sentencepiece.

    Args:
        source_texts: sentences of the source language.
        target_texts: sentences of the target language.
        directory: where the tokenizer is saved; created if need be. `AutoTokenizer` loads it from there.
        vocab_size: number of entries, the three above and the codes included; with separate vocabularies, of each.
        source_lang: language code of the source, kept in the tokenizer's config.
        target_lang: language code of the target.
        joint: one vocabulary for both languages; otherwise one each, of the same size, because a Marian model
            has one id for `<pad>`.
        character_coverage: share of the text's characters that get a piece; the rarest others become `<unk>`.
        source_normalization_rule_name: what the tokenizer does to a source before it is split. `"nfc"`: characters in
            their composed form, blanks of every kind as the usual one, no control characters, and nothing else; or a
            rule of sentencepiece. Of these `"nmt_nfkc"` and `"nfkc"` make `10²` into `102`, `½` into `1⁄2`, and
            full-width forms narrow; `"nmt_nfkc_cf"` and `"nfkc_cf"` make capitals small as well; `"identity"` does
            nothing.
        target_normalization_rule_name: the same for targets; the model can only write what the rule leaves.
        model_max_length: most tokens of a sentence that the model will take.

    Returns:
        The tokenizer, loaded from `directory`.

    Raises:
        ValueError: the text has too few different pieces for `vocab_size` (names the largest possible), or too many
            different characters (names the smallest possible); there is no text, or no such rule.

    Example:
        >>> import tempfile
        >>> german, english = ["ein Hund", "eine Katze"], ["a dog", "a cat"]
        >>> tokenizer = train_tokenizer(
        ...     german, english, tempfile.mkdtemp(), vocab_size=24, source_lang="de", target_lang="en"
        ... )
        >>> tokenizer.decode(tokenizer("ein Hund").input_ids, skip_special_tokens=True)
        'ein Hund'
    """
    if vocab_size < 4:
        raise ValueError(f"vocab_size={vocab_size} leaves nothing beside {EOS}, {UNK} and {PAD}; set some thousands.")
    rules = {
        "source": Normalization("source_normalization_rule_name", source_normalization_rule_name),
        "target": Normalization("target_normalization_rule_name", target_normalization_rule_name),
    }
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    codes, source_texts = _split_codes(source_texts)
    texts = {"source": _sentences(source_texts, rules["source"]), "target": _sentences(target_texts, rules["target"])}
    if joint:
        pieces = _train_pieces(_both(**texts), vocab_size, codes, character_coverage, "joint")
        models = {"source": pieces, "target": pieces}
    else:
        models = {
            "source": _train_pieces(texts["source"], vocab_size, codes, character_coverage, "source"),
            "target": _train_pieces(texts["target"], vocab_size, [], character_coverage, "target"),
        }
    for side, model in models.items():
        (directory / f"{side}.spm").write_bytes(rules[side].put_into(model))
    _write_vocabulary(models["source"], codes, directory / "vocab.json")
    if not joint:
        _write_vocabulary(models["target"], [], directory / "target_vocab.json")
    tokenizer = MarianTokenizer(
        source_spm=str(directory / "source.spm"),
        target_spm=str(directory / "target.spm"),
        vocab=str(directory / "vocab.json"),
        target_vocab_file=None if joint else str(directory / "target_vocab.json"),
        source_lang=source_lang,
        target_lang=target_lang,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=PAD,
        model_max_length=model_max_length,
        separate_vocabs=not joint,
        # The default differs between versions; with it, "Nr . 5" would come back as "Nr. 5".
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(directory)
    return tokenizer


def _split_codes(source_texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the language codes that sources begin with, in order, and the sources without them."""
    counts: dict[str, int] = {}
    rest = []
    for text in source_texts:
        if found := _LANGUAGE_CODE.match(text):
            counts[found[0]] = counts.get(found[0], 0) + 1
            text = text[found.end() :]
        rest.append(text)
    codes = sorted(counts)
    if codes:
        some = ", ".join(f"{code} ({counts[code]:,})" for code in codes[:12])
        logger.info(
            "Sources begin with %d language codes, which become entries of the vocabulary: %s", len(codes), some
        )
    return codes, rest


def _sentences(texts: Iterable[str], rule: Normalization) -> Iterator[str]:
    """Yield texts as the tokenizer will see them, long ones in parts, cut at blanks where there are any."""
    for text in texts:
        text = rule.normalize(text.replace("\n", " "))
        start = 0
        while len(text) - start > _LONGEST:
            end = text.rfind(" ", start + 1, start + _LONGEST)
            end = end if end > 0 else start + _LONGEST
            yield text[start:end]
            start = end
        yield text[start:]


def _both(source: Iterable[str], target: Iterable[str]) -> Iterator[str]:
    yield from source
    yield from target


def _train_pieces(
    texts: Iterable[str], vocab_size: int, codes: list[str], character_coverage: float, side: str
) -> bytes:
    """Return a serialized sentencepiece model of all entries of the vocabulary but the codes and `<pad>`."""
    model = io.BytesIO()
    others = len(codes) + 1
    if vocab_size - others < 3:
        raise ValueError(
            f"vocab_size={vocab_size} leaves nothing beside {EOS}, {UNK}, {PAD} and the {len(codes)} language codes "
            f"that sources begin with, such as {codes[0]}; set some thousands."
        )
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size - others,
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            split_digits=True,
            eos_id=0,
            eos_piece=EOS,
            unk_id=1,
            unk_piece=UNK,
            bos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_explain(str(error), vocab_size, others, character_coverage, side)) from error
    return model.getvalue()


def _explain(message: str, vocab_size: int, others: int, character_coverage: float, side: str) -> str:
    text = {"joint": "the two texts", "source": "the source text", "target": "the target text"}[side]
    found = re.search(r"too high \(\d+\).*?<= (\d+)", message)
    # </s> and <unk> are always there.
    if "sentences_.empty()" in message or "all_chars_count" in message or (found and int(found[1]) <= 2):
        return f"There are no words in {text}; give sentences to learn the pieces from."
    if found:
        return (
            f"vocab_size={vocab_size} is more than {text} can fill: the largest possible is {int(found[1]) + others}. "
            "Set vocab_size to that or less, or give more text."
        )
    if found := re.search(r"smaller than required_chars\.? *\d+ vs (\d+)", message):
        return (
            f"vocab_size={vocab_size} is too small for the different characters of {text}: the smallest possible is "
            f"{int(found[1]) + others}. Set vocab_size to that or more, or character_coverage below "
            f"{character_coverage} to leave out rare characters."
        )
    return f"sentencepiece cannot learn vocab_size={vocab_size} pieces from {text}: {message}"


def _write_vocabulary(model: bytes, codes: list[str], path: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())] + codes + [PAD]
    path.write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}, indent=2), encoding="utf-8")
