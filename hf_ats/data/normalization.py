"""What a tokenizer makes of a text before it splits it: the rules of sentencepiece, and one that keeps the meaning."""

import functools
import io
import itertools
import tempfile
import unicodedata
from pathlib import Path

import sentencepiece

DEFAULT_RULE = "nfc"
RULES = (DEFAULT_RULE, "nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity")


class Normalization:
    """A rule by its name, one of `RULES`.

    Args:
        argument: what the name was given as, for the message.
        name: of the rule.

    Raises:
        ValueError: there is no such rule.
    """

    def __init__(self, argument: str, name: str):
        if name not in RULES:
            raise ValueError(f"{argument}={name!r} is none of the rules {', '.join(RULES)}.")
        self._spec = _specification(name)
        plain = dict(add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=False)
        self._normalizer = sentencepiece.SentencePieceNormalizer(model_proto=self._spec, **plain)

    def normalize(self, text: str) -> str:
        """Return a text as the rule leaves it."""
        return self._normalizer.normalize(text)

    def put_into(self, model: bytes) -> bytes:
        """Return a serialized sentencepiece model with this rule in place of its own."""
        # Messages of protocol buffers are merged by writing one after the other.
        return sentencepiece.SentencePieceProcessor(model_proto=model + self._spec).serialized_model_proto()


@functools.cache
def _specification(name: str) -> bytes:
    """Return a serialized sentencepiece model that holds the rule and nothing else."""
    # The trainer is the one way to make it that every version has, and that prints nothing.
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "nfc.tsv"
        if name == DEFAULT_RULE:
            path.write_text(_table(), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a"]),
            model_writer=model,
            model_type="char",
            vocab_size=5,
            hard_vocab_limit=False,
            minloglevel=2,
            **({"normalization_rule_tsv": str(path)} if path.exists() else {"normalization_rule_name": name}),
        )
    # Its field 6, empty: the path of the table, by which two trainings would give two tokenizers.
    return _normalizer_spec(model.getvalue()) + b"\x1a\x02\x32\x00"


def _normalizer_spec(model: bytes) -> bytes:
    """Return field 3 of a serialized sentencepiece model, the `normalizer_spec`, which is a model by itself."""
    position = 0
    while position < len(model):  # each field of a model is a message: a tag, a length, so many bytes
        start = position
        length = shift = 0
        while True:
            position += 1
            length |= (model[position] & 0x7F) << shift
            shift += 7
            if model[position] < 0x80:
                break
        position += 1 + length
        if model[start] == 0x1A:
            return model[start:position]
    raise ValueError("sentencepiece wrote a model without a normalizer_spec.")


def _table() -> str:
    """Return Unicode's canonical composition, and blanks and control characters, as sentencepiece reads a rule."""
    rule = {}
    for code in (*range(1, 0xD800), *range(0xE000, 0x30000)):
        character = chr(code)
        category = unicodedata.category(character)
        if category in ("Zs", "Zl", "Zp") or character in "\t\n\v\f\r\x85":
            rule[character] = " "
        elif category == "Cc" or character == "\ufeff":
            rule[character] = ""
        elif composed := _composed(character):
            rule |= composed
    del rule[" "]
    rule |= {"\u2581": " ", "\u2585": "\u2586"}  # sentencepiece keeps these two for itself
    return "".join(f"{_in_hexadecimal(given)}\t{_in_hexadecimal(made)}\n" for given, made in sorted(rule.items()))


def _composed(character: str) -> dict[str, str]:
    """Return what becomes this character, or what it becomes itself; nothing of most characters."""
    parts = unicodedata.normalize("NFD", character)
    if parts == character:
        return {}
    whole = unicodedata.normalize("NFC", character)
    if whole != character:
        return {character: whole}
    # A letter and two accents are written in either order, and with one of the accents on the letter already.
    ways = set()
    for marks in itertools.permutations(parts[1:]):
        for end in range(1, len(parts) + 1):
            letter = unicodedata.normalize("NFC", "".join((parts[0], *marks))[:end])
            ways.add(letter + "".join(marks)[end - 1 :])
    return {way: whole for way in ways if way != whole and unicodedata.normalize("NFC", way) == whole}


def _in_hexadecimal(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)
