"""Bad corpora, and bad texts to translate: encodings, line ends, lengths, records, archives, data sets."""

import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import datasets

from .cases import Case, base_words

Files = dict[str, bytes | None]  # None: a directory


_DE, _EN = ["der hund", "die katze", "das haus", "ein baum"] * 10, ["the dog", "the cat", "the house", "a tree"] * 10


def _text(lines: list[str], encoding: str = "utf-8", end: str = "\n") -> bytes:
    return "".join(line + end for line in lines).encode(encoding)


def _records(pairs, **fields) -> bytes:
    return "".join(json.dumps({"translation": pair, **fields}) + "\n" for pair in pairs).encode()


_PAIRS = [{"de": de, "en": en} for de, en in zip(_DE, _EN, strict=True)]
_NESTED = b'{"translation": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
_SIDES: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "UTF-16 source": (_text(_DE, "utf-16"), _text(_EN), "refuse"),
    "UTF-16 target": (_text(_DE), _text(_EN, "utf-16"), "refuse"),
    "UTF-16 on both sides": (_text(_DE, "utf-16"), _text(_EN, "utf-16"), "refuse"),
    "UTF-16 without a mark": (_text(_DE, "utf-16-le"), _text(_EN, "utf-16-le"), "refuse"),
    "UTF-32": (_text(_DE, "utf-32"), _text(_EN, "utf-32"), "refuse"),
    "Latin-1": (_text([*_DE, "schläft"], "latin-1"), _text([*_EN, "sleeps"]), "refuse"),
    "one invalid byte": (_text(_DE) + b"hund \xff\n", _text([*_EN, "dog"]), "refuse"),
    "a byte order mark": (b"\xef\xbb\xbf" + _text(_DE), b"\xef\xbb\xbf" + _text(_EN), "accept"),
    "CR LF": (_text(_DE, end="\r\n"), _text(_EN, end="\r\n"), "accept"),
    "CR LF on one side": (_text(_DE, end="\r\n"), _text(_EN), "accept"),
    "CR alone": (_text(_DE, end="\r"), _text(_EN, end="\r"), "refuse"),
    "CR alone on one side": (_text(_DE, end="\r"), _text(_EN), "refuse"),
    "no line end at the end": (_text(_DE)[:-1], _text(_EN)[:-1], "accept"),
    "one line too few": (_text(_DE), _text(_EN[:-1]), "refuse"),
    "one line too many": (_text(_DE), _text([*_EN, "dog"]), "refuse"),
    "a blank line at the end of one side": (_text([*_DE, ""]), _text(_EN), "refuse"),
    "a blank line at the end of both": (_text([*_DE, ""]), _text([*_EN, ""]), "refuse"),
    "an empty file": (b"", b"", "refuse"),
    "an empty source": (b"", _text(_EN), "refuse"),
    "blank lines only": (b"\n" * 40, b"\n" * 40, "refuse"),
    "blanks only": (_text(["  "] * 40), _text(["\t"] * 40), "refuse"),
    "NUL bytes": (_text([*_DE, "hund\0katze"]), _text([*_EN, "dog\0cat"]), "either"),
    "U+2028 in lines": (_text([*_DE, "hund\u2028katze"]), _text([*_EN, "dog\u2028cat"]), "accept"),
    "a directory for a side": (None, _text(_EN), "refuse"),
    "a line of 5,000 bytes": (_text([*_DE, "hund " * 1000]), _text([*_EN, "dog " * 1000]), "refuse"),
    "words of 5,000 letters": (_text([*_DE, "h" * 5000]), _text([*_EN, "d" * 5000]), "either"),
    "quotation marks >>...<<": (_text([*_DE, ">>Komm<<, er"]), _text([*_EN, ">>Come<<, he"]), "accept"),
    "codes of targets": (_text([f">>eng<< {line}" for line in _DE]), _text(_EN), "either"),
    "one pair": (_text(_DE[:1]), _text(_EN[:1]), "either"),
    "both sides alike": (_text(_DE), _text(_DE), "either"),
} | {
    f"U+{ord(mark):04X} alone on a line": (_text([*_DE, mark]), _text([*_EN, "dog"]), "refuse")
    for mark in "\u200b\ufeff\u200e\u00ad\u2060\u00a0\u3000"
}
_JSON_LINES: dict[str, tuple[bytes, str]] = {
    "": (_records(_PAIRS), "accept"),
    "a blank line at the end": (_records(_PAIRS) + b"\n", "accept"),
    "a blank line inside": (_records(_PAIRS) + b"\n" + _records(_PAIRS), "either"),
    "half a surrogate pair": (_records(_PAIRS) + b'{"translation":{"de":"h \\ud83d","en":"d"}}\n', "refuse"),
    "a whole surrogate pair": (_records(_PAIRS) + b'{"translation":{"de":"h \\ud83d\\ude00","en":"d"}}\n', "accept"),
    "brackets nested 100,000 deep": (_records(_PAIRS) + _NESTED, "refuse"),
    "a number": (_records([*_PAIRS, {"de": 1, "en": "one"}]), "refuse"),
    "a null": (_records([*_PAIRS, {"de": None, "en": "one"}]), "refuse"),
    "a list": (_records([*_PAIRS, {"de": ["a"], "en": "one"}]), "refuse"),
    "an empty side": (_records([*_PAIRS, {"de": "", "en": "one"}]), "refuse"),
    "a language missing": (_records([*_PAIRS, {"de": "eins"}]), "refuse"),
    "other languages": (_records([{"fr": "un", "es": "uno"}] * 40), "refuse"),
    "no translation": (b'{"text": "hund"}\n' * 40, "refuse"),
    "one array instead of lines": (json.dumps([{"translation": pair} for pair in _PAIRS]).encode(), "refuse"),
    "one object over many lines": (json.dumps({"data": _PAIRS}, indent=1).encode(), "refuse"),
    "cut off in the last line": (_records(_PAIRS)[:-20], "refuse"),
    "UTF-16": (_records(_PAIRS).decode().encode("utf-16"), "refuse"),
    "an infinity": (_records(_PAIRS) + b'{"translation": Infinity}\n', "refuse"),
    "a key twice": (_records(_PAIRS) + b'{"translation":{"de":"a","de":"b","en":"c"}}\n', "either"),
    "a large integer": (_records(_PAIRS) + b'{"translation": ' + b"9" * 5000 + b"}\n", "refuse"),
    "line feeds in texts": (_records([*_PAIRS, {"de": "hund\nkatze", "en": "dog\ncat"}]), "accept"),
}
_PACKED = {
    "x.de.gz that is no gzip": ({"x.de.gz": _text(_DE), "x.en": _text(_EN)}, "refuse"),
    "x.de.gz cut off": ({"x.de.gz": gzip.compress(_text(_DE))[:-9], "x.en": _text(_EN)}, "refuse"),
    "x.de.gz": ({"x.de.gz": gzip.compress(_text(_DE)), "x.en": _text(_EN)}, "accept"),
    "x.de.xz": ({"x.de.xz": lzma.compress(_text(_DE)), "x.en.xz": lzma.compress(_text(_EN))}, "accept"),
    "x.de.xz cut off": ({"x.de.xz": lzma.compress(_text(_DE))[:-9], "x.en": _text(_EN)}, "refuse"),
    "x.de.txt": ({"x.de.txt": _text(_DE), "x.en.txt": _text(_EN)}, "either"),
    "only one side": ({"x.de": _text(_DE)}, "refuse"),
    "other languages": ({"x.fr": _text(_DE), "x.es": _text(_EN)}, "refuse"),
    "nothing": ({}, "refuse"),
}
_TABLES = {
    "x.tsv": ("\n".join(f"{de}\t{en}" for de, en in zip(_DE, _EN, strict=True)).encode() + b"\n", "accept"),
    "x.tsv without a tab": (_text(_DE), "refuse"),
    "x.tsv with three columns": (_text([f"{line}\ta\tb" for line in _DE]), "either"),
    "x.tsv with one bad line": (_text(["a\tb"] * 40 + ["c"]), "refuse"),
}


def write_files(files: Files, directory: Path) -> None:
    """Write files below a directory; None makes a directory."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.write_bytes(data)


def bad_corpora() -> Iterator[Case]:
    """Yield each, read by `train` with and without --skip_bad_lines, and by `evaluate`."""
    for name, (de, en, right) in _SIDES.items():
        yield from _read_by_both(name, {"x.de": de, "x.en": en}, "x", right)
    for name, (data, right) in _JSON_LINES.items():
        yield from _read_by_both(f"x.jsonl: {name or 'as it should be'}", {"x.jsonl": data}, "x.jsonl", right)
    for name, (files, right) in _PACKED.items():
        yield from _read_by_both(name, files, "x", right)
    for name, (data, right) in _TABLES.items():
        yield from _read_by_both(name, {"x.tsv": data}, "x.tsv", right)
    for name, save in _DATASETS.items():
        yield training_case(f"--dataset_name, {name}", "--dataset_name x", _FILES, save, "either", "a corpus")


_FILES = "--train_prefix --validation_prefix --test_prefix"


def _read_by_both(name: str, files: Files, prefix: str, right: str) -> Iterator[Case]:
    write = partial(write_files, files)
    yield training_case(name, f"--train_prefix {prefix}", "", write, right, "a corpus")
    skipping = right if right == "accept" else "either"
    yield training_case(
        f"{name}, skipped", f"--train_prefix {prefix} --skip_bad_lines", "", write, skipping, "a corpus"
    )
    # A test set is scored whatever its sentences are, if there are any.
    scored = right if not name.startswith(("a line of", "words of", "quotation", "codes")) else "either"
    words = ("--model", "run/core", "--test_prefix", prefix)
    yield Case("a corpus", name, "evaluate", words, write, scored)


def training_case(name: str, more: str, without: str, prepare, right: str, kind: str) -> Case:
    """Return a case of `hf-ats train`, with `more` flags, and without some of those of the base."""
    return Case(kind, name, "train", (*base_words("train", without), *more.split()), prepare, right)


def _dataset(columns: dict, parts: tuple[str, ...] = ("train", "test")) -> Callable[[Path], None]:
    def save(directory: Path) -> None:
        part = datasets.Dataset.from_dict(columns)
        whole = datasets.DatasetDict(dict.fromkeys(parts, part)) if parts else part
        whole.save_to_disk(directory / "x")

    return save


_DATASETS = {
    "as it should be": _dataset({"translation": _PAIRS}),
    "one split": _dataset({"translation": _PAIRS}, ()),
    "only train": _dataset({"translation": _PAIRS}, ("train",)),
    "parts of other names": _dataset({"translation": _PAIRS}, ("a", "b")),
    "lists of texts": _dataset({"translation": [{"de": ["a", "b"], "en": ["c"]}] * 40}),
    "numbers": _dataset({"translation": [{"de": 1, "en": 2}] * 40}),
    "nulls": _dataset({"translation": [{"de": None, "en": "a"}] * 40}),
    "other columns": _dataset({"de": _DE, "en": _EN}),
    "texts instead of pairs": _dataset({"translation": _DE}),
    "other languages": _dataset({"translation": [{"fr": "a", "es": "b"}] * 40}),
    "no rows": _dataset({"translation": []}),
}


def bad_texts() -> Iterator[Case]:
    """Yield what `hf-ats translate` is given to read."""
    texts: dict[str, tuple[bytes | None, str]] = {
        "empty": (b"", "either"),
        "blank lines": (b"\n\n\n", "accept"),
        "UTF-16": (_text(_DE, "utf-16"), "refuse"),
        "Latin-1": (_text(["schläft"], "latin-1"), "refuse"),
        "a line of 5,000 bytes": (_text(["hund " * 1000]), "refuse"),
        "NUL bytes": (b"hund\0katze\n", "accept"),
        "CR alone": (_text(_DE, end="\r"), "refuse"),
        "unknown characters": (_text(["漢字 ☃ emoji 😀"]), "accept"),
        "a directory": (None, "refuse"),
        "zeros": (bytes(10_000), "either"),
    }
    for name, (data, right) in texts.items():
        write = partial(write_files, {"x": data})
        yield Case("a text", name, "translate", ("--model", "run/core", "--input", "x"), write, right)
        yield Case("a text", f"--sentences, {name}", "choose", (
            "--run", "run", "--max_latency_ms", "1e6", "--rounds", "2", "--sentences", "x",
        ), write, "either")  # fmt: skip
