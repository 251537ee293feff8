"""A Marian tokenizer from scratch."""

import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece
from transformers import MarianTokenizer

EOS, UNK, PAD = "</s>", "<unk>", "<pad>"


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
    model_max_length: int = 512,
) -> MarianTokenizer:
    """Learn byte-pair pieces with sentencepiece and write a `MarianTokenizer` into a directory.

    `</s>` has id 0 and `<unk>` 1, as in the published Marian models; `<pad>`, with which the decoder starts, is the
    last id, where CTranslate2's Marian loader expects it. Digits are pieces of their own. The same texts give
    the same files, byte for byte.

    Args:
        source_texts: sentences of the source language.
        target_texts: sentences of the target language.
        directory: where the tokenizer is saved; created if need be. `AutoTokenizer` loads it from there.
        vocab_size: number of entries, the three above included; with separate vocabularies, of each.
        source_lang: language code of the source, kept in the tokenizer's config.
        target_lang: language code of the target.
        joint: one vocabulary for both languages; otherwise one each, of the same size, because a Marian model
            has one id for `<pad>`.
        character_coverage: share of the text's characters that get a piece; the rarest others become `<unk>`.
        model_max_length: most tokens of a sentence that the model will take.

    Returns:
        The tokenizer, loaded from `directory`.

    Raises:
        ValueError: the text has too few different pieces for `vocab_size` (names the largest possible), or too many
            different characters (names the smallest possible); there is no text.

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
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if joint:
        model = _train_pieces(_both(source_texts, target_texts), vocab_size, character_coverage, "joint")
        models = {"source": model, "target": model}
    else:
        models = {
            "source": _train_pieces(source_texts, vocab_size, character_coverage, "source"),
            "target": _train_pieces(target_texts, vocab_size, character_coverage, "target"),
        }
    for side, model in models.items():
        (directory / f"{side}.spm").write_bytes(model)
    _write_vocabulary(models["source"], directory / "vocab.json")
    if not joint:
        _write_vocabulary(models["target"], directory / "target_vocab.json")
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


def _both(source_texts: Iterable[str], target_texts: Iterable[str]) -> Iterator[str]:
    yield from source_texts
    yield from target_texts


def _train_pieces(texts: Iterable[str], vocab_size: int, character_coverage: float, side: str) -> bytes:
    """Return a serialized sentencepiece model of `vocab_size - 1` pieces, the vocabulary without `<pad>`."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            # sentencepiece takes one sentence per string, without line ends.
            sentence_iterator=(text.replace("\n", " ") for text in texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size - 1,
            character_coverage=character_coverage,
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
        raise ValueError(_explain(str(error), vocab_size, character_coverage, side)) from error
    return model.getvalue()


def _explain(message: str, vocab_size: int, character_coverage: float, side: str) -> str:
    text = {"joint": "the two texts", "source": "the source text", "target": "the target text"}[side]
    found = re.search(r"too high \(\d+\).*?<= (\d+)", message)
    # </s> and <unk> are always there.
    if "sentences_.empty()" in message or "all_chars_count" in message or (found and int(found[1]) <= 2):
        return f"There are no words in {text}; give sentences to learn the pieces from."
    if found:
        return (
            f"vocab_size={vocab_size} is more than {text} can fill: the largest possible is {int(found[1]) + 1}. Set "
            "vocab_size to that or less, or give more text."
        )
    if found := re.search(r"smaller than required_chars\.? *\d+ vs (\d+)", message):
        return (
            f"vocab_size={vocab_size} is too small for the different characters of {text}: the smallest possible is "
            f"{int(found[1]) + 1}. Set vocab_size to that or more, or character_coverage below {character_coverage} "
            "to leave out rare characters."
        )
    return f"sentencepiece cannot learn vocab_size={vocab_size} pieces from {text}: {message}"


def _write_vocabulary(model: bytes, path: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())] + [PAD]
    path.write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}, indent=2), encoding="utf-8")
