"""Tiny tokenizers of each family, of transformers' own classes, made from the few sentences of the tests."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, M2M100Tokenizer, PreTrainedTokenizerBase
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M100_CODES
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as MBART50_CODES
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB_CODES

from tests.support.checkpoints import ENGLISH, GERMAN, trained_tokenizer

LONGEST = 64
"""Positions of the tiny models."""

_TEXTS = (GERMAN + ENGLISH) * 5
_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")


@dataclass(frozen=True)
class Kind:
    """A kind of tokenizer: the family of models that it goes with, and its codes for German and English, if any."""

    family: str
    codes: tuple[str, str] | None = None


KINDS = {
    "marian": Kind("marian"),
    "bart": Kind("bart"),
    "mbart": Kind("mbart", ("de_DE", "en_XX")),
    "mbart-50": Kind("mbart", ("de_DE", "en_XX")),
    "m2m_100": Kind("m2m_100", ("de", "en")),
    "nllb": Kind("m2m_100", ("deu_Latn", "eng_Latn")),
    "pegasus": Kind("pegasus"),
    "t5": Kind("t5"),
    "mt5": Kind("mt5"),
}
"""By name. Of mBART there are two: the first one ends a sentence with its code, mBART-50 begins with it."""


def tiny_tokenizer(kind: str, directory: Path) -> PreTrainedTokenizerBase:
    """A tokenizer as a published model brings it: in files, naming no languages; loaded from `directory`."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if kind == "marian":
        return trained_tokenizer(directory)
    _MAKERS[kind](directory)
    return AutoTokenizer.from_pretrained(directory)


def _bart(directory: Path) -> None:
    pieces = _byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=False), [*_FAIRSEQ, "<mask>"])
    pieces.decoder = decoders.ByteLevel()
    pieces.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    _write(directory, pieces, "BartTokenizer", cls_token="<s>", sep_token="</s>", mask_token="<mask>")


def _mbart(directory: Path) -> None:
    _like_mbart(directory, "MBartTokenizer", MBART50_CODES[:25])


def _mbart50(directory: Path) -> None:
    _like_mbart(directory, "MBart50Tokenizer", MBART50_CODES)


def _like_mbart(directory: Path, name: str, codes: list[str]) -> None:
    vocabulary = _scored(_FAIRSEQ) + _pieces()[1] + _scored([*codes, "<mask>"])
    _write(directory, _unigrams(vocabulary, 3), name, codes, cls_token="<s>", sep_token="</s>", mask_token="<mask>")


def _nllb(directory: Path) -> None:
    pieces = _byte_pairs(_WORDS, [*_FAIRSEQ])
    pieces.decoder = _WORDS_AGAIN
    pieces.add_special_tokens([AddedToken(code, normalized=False) for code in [*NLLB_CODES, "<mask>"]])
    _write(directory, pieces, "NllbTokenizer", NLLB_CODES, cls_token="<s>", sep_token="</s>", mask_token="<mask>")


def _m2m100(directory: Path) -> None:
    model, pieces = _pieces()
    (directory / "pieces.model").write_bytes(model)
    vocabulary = {piece: index for index, (piece, _) in enumerate(_scored(_FAIRSEQ) + pieces)}
    (directory / "pieces.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    codes = [f"__{code}__" for code in M2M100_CODES["m2m100"]]
    files = (str(directory / "pieces.json"), str(directory / "pieces.model"))
    M2M100Tokenizer(*files, model_max_length=LONGEST, additional_special_tokens=codes).save_pretrained(directory)


def _pegasus(directory: Path) -> None:
    masks = ["<mask_1>", "<mask_2>", *(f"<unk_{number}>" for number in range(2, 103))]
    vocabulary = _scored(["<pad>", "</s>", *masks, "<unk>"]) + _pieces()[1]
    pieces = _unigrams(vocabulary, 105)
    pieces.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    _write(directory, pieces, "PegasusTokenizer", [masks[0], *masks[2:]], bos_token=None, mask_token=masks[1])


def _t5(directory: Path) -> None:
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(100))]
    vocabulary = _scored(["<pad>", "</s>", "<unk>"]) + _pieces()[1] + _scored(sentinels)
    pieces = _unigrams(vocabulary, 2)
    pieces.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    _write(directory, pieces, "T5Tokenizer", sentinels, bos_token=None)


_WORDS = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
_WORDS_AGAIN = decoders.Metaspace(replacement="▁", prepend_scheme="always")


def _write(
    directory: Path, pieces: Tokenizer, name: str, further=(), bos_token: str | None = "<s>", **special
) -> None:
    special |= {"bos_token": bos_token, "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    special = {token: word for token, word in special.items() if word is not None}
    pieces.add_special_tokens([AddedToken(word, normalized=False) for word in [*special.values(), *further]])
    pieces.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": name, "model_max_length": LONGEST, "additional_special_tokens": list(further)}
    (directory / "tokenizer_config.json").write_text(json.dumps(config | special), encoding="utf-8")


def _unigrams(vocabulary: list[tuple[str, float]], unknown: int) -> Tokenizer:
    pieces = Tokenizer(models.Unigram(vocabulary, unk_id=unknown))
    pieces.pre_tokenizer, pieces.decoder = _WORDS, _WORDS_AGAIN
    return pieces


def _scored(names) -> list[tuple[str, float]]:
    return [(name, 0.0) for name in names]


def _pieces() -> tuple[bytes, list[tuple[str, float]]]:
    """A sentencepiece model, and its pieces with their scores, without `<unk>`."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXTS),
        model_writer=model,
        vocab_size=80,
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        unk_id=0,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    size = processor.get_piece_size()
    return model.getvalue(), [(processor.id_to_piece(i), processor.get_score(i)) for i in range(1, size)]


def _byte_pairs(words, special: list[str]) -> Tokenizer:
    """A tokenizer of 120 pieces learned from words as `words` splits them."""
    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.pre_tokenizer = words
    pieces.train_from_iterator(
        _TEXTS, trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    )
    return pieces


_MAKERS = {
    "bart": _bart,
    "mbart": _mbart,
    "mbart-50": _mbart50,
    "m2m_100": _m2m100,
    "nllb": _nllb,
    "pegasus": _pegasus,
    "t5": _t5,
    "mt5": _t5,
}
