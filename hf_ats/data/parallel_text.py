"""Sentence pairs from files: prefixes as fairseq has them (`P.de` and `P.en`), columns (`P.tsv`), and JSON lines.

A line ends at a line feed and nowhere else: the other characters that Python's `splitlines` breaks at (U+2028, U+0085,
a vertical tab, ...) occur inside sentences of real corpora, and would shift every later line against its translation.
"""

import bz2
import glob
import gzip
import json
import logging
import lzma
import os
import re
import unicodedata
import zlib
from collections import Counter
from typing import BinaryIO

logger = logging.getLogger(__name__)

_PACKED = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_ENDINGS = ("", *_PACKED)
JSON_LINES_ENDINGS = tuple(kind + packed for kind in (".jsonl", ".json") for packed in _ENDINGS)
COLUMNS_ENDINGS = tuple(".tsv" + packed for packed in _ENDINGS)

INVALID_UTF8 = "invalid UTF-8"
EMPTY_SIDE = "empty side"
NOT_A_TRANSLATION = "not a translation record"

# Longer marks first: that of UTF-32 begins like that of UTF-16.
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def _invisible() -> str:
    """Return a class of regular expressions, for `re` and RE2: blanks, controls, and what leaves no trace on paper."""
    blank = {*range(0xFE00, 0xFE10), *range(0xE0000, 0xE1000), 0x034F, 0x115F, 0x1160, 0x3164, 0xFFA0}
    blank |= {code for code in range(0x10000) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zs", "Zl", "Zp")}
    ranges = []
    for code in sorted(blank):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in ranges) + "]"


INVISIBLE_TEXT = f"^{_invisible()}*$"
"""Matches a text that shows nothing; a pattern of both `re` and Arrow's RE2."""
_invisible_text = re.compile(INVISIBLE_TEXT)


def shows_nothing(text: str) -> bool:
    """Return whether a text is empty to whoever reads it: blanks, controls and zero-width characters alone."""
    return _invisible_text.match(text) is not None


def read_parallel(
    prefix: str | os.PathLike,
    source_lang: str,
    target_lang: str,
    *,
    skip_bad_lines: bool = False,
) -> tuple[list[str], list[str]]:
    """Read the source and the target sentences of a corpus, checked line by line.

    Args:
        prefix: `P` of the files `P.<source_lang>` and `P.<target_lang>`, or the same with `.txt`; or the path of a
            file `.tsv`, whose two columns are the source and the target, or what its first line calls them if that is
            the two language codes; or of a file of JSON lines (`.json` or `.jsonl`), each line
            `{"translation": {"de": "...", "en": "..."}}`. All of these plain or packed, with `.gz`, `.xz` or `.bz2`;
            of a prefix plain text wins when both are there.
        source_lang: language code of the source, the file's ending or the record's key.
        target_lang: the same of the target.
        skip_bad_lines: leave out pairs with a bad line (invalid UTF-8, an empty side, not a translation record)
            instead of raising; how many, and why, is logged as a warning. A side is empty if it shows nothing.

    Returns:
        Two lists of the same length, source and target sentences, without line ends.

    Raises:
        FileNotFoundError: a file is missing; names what was looked for and which files begin like this prefix.
        ValueError: unequal numbers of lines, a bad line (unless `skip_bad_lines`), no usable line, another encoding,
            or a language that the records lack.
    """
    prefix = os.fspath(prefix)
    check_language_pair(source_lang, target_lang)
    problems: dict[int, tuple[str, str]] = {}  # of a line: the reason, and the sentence that names it
    first_line = 1
    if prefix.endswith(JSON_LINES_ENDINGS):
        paths = (prefix, prefix)
        sides = _read_json_lines(prefix, source_lang, target_lang, problems)
    elif prefix.endswith(COLUMNS_ENDINGS):
        paths = (prefix, prefix)
        sides, first_line = _read_columns(prefix, source_lang, target_lang, problems)
    else:
        paths = tuple(_find_side(prefix, language) for language in (source_lang, target_lang))
        sides = _read_two_files(*paths, problems)
    for side, texts, path in zip(("source", "target"), sides, paths, strict=True):
        for index, text in enumerate(texts):
            if shows_nothing(text):
                where = f"{path}, line {index + first_line}"
                problems.setdefault(index, (EMPTY_SIDE, f"{where}: the {side} side is empty"))
    return _without_bad_lines(sides, problems, " and ".join(dict.fromkeys(paths)), skip_bad_lines)


def read_lines(source: str | os.PathLike | BinaryIO) -> list[str]:
    """Read the sentences of a text file (plain or packed) or of a binary stream, one on each line, empty ones too.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: nothing is in it, it is not in UTF-8, or a line is not valid UTF-8; names the line.
    """
    if hasattr(source, "read"):
        lines, where = _split_lines(source.read(), "standard input"), "standard input"
    else:
        where = os.fspath(source)
        lines = _read_lines(where)
    problems: dict[int, tuple[str, str]] = {}
    texts = _decode(lines, where, problems)
    if problems:
        raise ValueError(f"{problems[min(problems)][1]}; convert the text to UTF-8.")
    return texts


def check_language_pair(source_lang: str, target_lang: str) -> None:
    """Raise a ValueError if the two languages of a pair are the same, or one is empty."""
    if not source_lang or not target_lang or source_lang == target_lang:
        raise ValueError(
            f"source_lang={source_lang!r} and target_lang={target_lang!r} are not a language pair; give two different "
            "language codes, for example source_lang='de', target_lang='en'."
        )


def _find_side(prefix: str, language: str) -> str:
    for ending in _ENDINGS:
        for path in (f"{prefix}.{language}{ending}", f"{prefix}.{language}.txt{ending}"):
            if os.path.isfile(path):
                return path
    found = sorted(path for path in glob.glob(glob.escape(prefix) + ".*") if os.path.isfile(path))
    have = f"Files that begin so: {', '.join(found[:12])}." if found else "No file has this prefix."
    if os.path.isfile(prefix):
        have = f"{prefix} is a file itself: a prefix has no ending for the language."
    raise FileNotFoundError(
        f"The prefix {prefix!r} has no text for the language {language!r}: looked for {prefix}.{language} and "
        f"{prefix}.{language}.txt, plain or with {', '.join(_PACKED)}. {have} Give a prefix P such that P.{language} "
        "exists, another language pair, or the path of a whole .tsv or .jsonl file."
    )


def _read_lines(path: str) -> list[bytes]:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path!r}.")
    ending = os.path.splitext(path)[1]
    with _PACKED.get(ending, open)(path, "rb") as file:
        try:
            data = file.read()
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            if ending not in _PACKED:
                raise
            raise ValueError(
                f"{path} cannot be unpacked ({error}): write it again, or drop `{ending}` if it is plain text."
            ) from error
    return _split_lines(data, path)


def _split_lines(data: bytes, path: str) -> list[bytes]:
    # Without a byte order mark, UTF-16 of Latin letters has a zero in every second byte; a text has none.
    encoding = "UTF-16 or UTF-32" if data.count(0) > len(data) // 4 else None
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), encoding)
    if encoding:
        raise ValueError(
            f"{path} is in {encoding}, as its first bytes {data[:4].hex(' ').upper()} tell; convert it to UTF-8, for "
            f"example by `iconv -f {encoding.split()[0]} -t UTF-8`."
        )
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty; give a file with one sentence per line.")
    if len(lines) == 1 and b"\r" in lines[0].rstrip(b"\r\n"):
        returns = lines[0].count(b"\r")
        raise ValueError(
            f"{path} has {returns} carriage returns and no line feed between them: write line feeds instead, for "
            r"example by `tr '\r' '\n'`."
        )
    return [line.removesuffix(b"\r") for line in lines]


def _decode(lines: list[bytes], path: str, problems: dict[int, tuple[str, str]], first: int = 1) -> list[str]:
    texts = []
    for index, line in enumerate(lines):
        try:
            texts.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            texts.append("")
            where = f"byte 0x{line[error.start]:02x} at position {error.start + 1} of the line"
            problems.setdefault(index, (INVALID_UTF8, f"{path}, line {index + first}: not valid UTF-8 ({where})"))
    return texts


def _read_two_files(source_path: str, target_path: str, problems: dict[int, tuple[str, str]]):
    source_lines, target_lines = _read_lines(source_path), _read_lines(target_path)
    if len(source_lines) != len(target_lines):
        raise ValueError(
            f"{source_path} has {len(source_lines)} lines, {target_path} has {len(target_lines)}: line n of one must "
            "translate line n of the other. Align the files; which lines have no partner cannot be told from the "
            "counts, so none are skipped."
        )
    return _decode(source_lines, source_path, problems), _decode(target_lines, target_path, problems)


def _read_columns(path: str, source_lang: str, target_lang: str, problems: dict[int, tuple[str, str]]):
    """Return the two sides of a file of two columns, and the number of the line that they begin with."""
    lines, languages, first = _read_lines(path), [source_lang, target_lang], 1
    if sorted(lines[0].split(b"\t")) == sorted(language.encode() for language in languages):
        languages, first = lines.pop(0).decode().split("\t"), 2
    rows = [text.split("\t") for text in _decode(lines, path, problems, first)]
    for index, row in enumerate(rows):
        if len(row) != 2:
            fault = f"{path}, line {index + first}: {len(row)} columns, not a source, a tab and its target"
            problems.setdefault(index, (NOT_A_TRANSLATION, fault))
            rows[index] = ["", ""]
    sides = ([row[languages.index(language)] for row in rows] for language in (source_lang, target_lang))
    return tuple(sides), first


def _read_json_lines(path: str, source_lang: str, target_lang: str, problems: dict[int, tuple[str, str]]):
    sources, targets = [], []
    languages: set[str] = set()
    lines = _read_lines(path)
    while len(lines) > 1 and not lines[-1].strip():  # as some programs end their files
        lines.pop()
    for index, line in enumerate(_decode(lines, path, problems)):
        translation, fault = _parse_record(line), None
        if translation is None:
            fault = "not a JSON object with a dictionary under 'translation'"
            translation = {}
        languages.update(translation)
        source, target = translation.get(source_lang), translation.get(target_lang)
        if fault is None and not (isinstance(source, str) and isinstance(target, str)):
            lacking = target_lang if isinstance(source, str) else source_lang
            fault = f"no text under 'translation', {lacking!r}"
        elif fault is None and not all(text.isprintable() or _is_unicode(text) for text in (source, target)):
            fault = "not valid Unicode (half a surrogate pair)"
        if fault is not None:
            # A line that is not valid UTF-8 is in there already, with its own reason.
            problems.setdefault(index, (NOT_A_TRANSLATION, f"{path}, line {index + 1}: {fault}"))
            source, target = "", ""
        sources.append(source)
        targets.append(target)
    for language in (source_lang, target_lang):
        if languages and language not in languages:
            raise ValueError(
                f"{path} has no language {language!r}: its records are in {', '.join(sorted(languages))}. Choose "
                "source_lang and target_lang among these."
            )
    return sources, targets


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _parse_record(line: str) -> dict | None:
    """Return the dictionary under "translation", None if there is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # also of numbers without end, and of brackets without end
        return None
    translation = record.get("translation") if isinstance(record, dict) else None
    return translation if isinstance(translation, dict) else None


def _without_bad_lines(sides, problems, corpus: str, skip_bad_lines: bool):
    if not sides[0]:
        raise ValueError(f"{corpus} has no sentences below the names of its columns.")
    if not problems:
        return sides
    if not skip_bad_lines:
        first = min(problems)
        raise ValueError(
            f"{problems[first][1]}. Bad lines in {corpus}: {len(problems)} of {len(sides[0])}. Repair them, or set "
            "skip_bad_lines to leave such pairs out."
        )
    if len(problems) == len(sides[0]):
        raise ValueError(f"No usable line is left of {corpus}: {problems[0][1]}, and every other line is bad as well.")
    reasons = Counter(reason for reason, _ in problems.values())
    summary = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    logger.warning("Left out %d of %d sentence pairs of %s: %s.", len(problems), len(sides[0]), corpus, summary)
    return tuple([text for index, text in enumerate(texts) if index not in problems] for texts in sides)
