"""Sentence pairs from files: fairseq-style prefixes (`P.de` and `P.en`, or the same with `.gz`) and JSON lines.

A line ends at a line feed and nowhere else: the other characters that Python's `splitlines` breaks at (U+2028, U+0085,
a vertical tab, ...) occur inside sentences of real corpora, and would shift every later line against its translation.
"""

import glob
import gzip
import json
import logging
import os
from collections import Counter
from typing import BinaryIO

logger = logging.getLogger(__name__)

JSON_LINES_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")

INVALID_UTF8 = "invalid UTF-8"
EMPTY_SIDE = "empty side"
NOT_A_TRANSLATION = "not a translation record"


def read_parallel(
    prefix: str | os.PathLike,
    source_lang: str,
    target_lang: str,
    *,
    skip_bad_lines: bool = False,
) -> tuple[list[str], list[str]]:
    """Read the source and the target sentences of a corpus, checked line by line.

    Args:
        prefix: `P` of the files `P.<source_lang>` and `P.<target_lang>`, each plain or with `.gz` (plain wins when
            both exist); or the path of a file of JSON lines (`.json` or `.jsonl`, plain or with `.gz`), each line
            `{"translation": {"de": "...", "en": "..."}}`.
        source_lang: language code of the source, the file's ending or the record's key.
        target_lang: the same of the target.
        skip_bad_lines: leave out pairs with a bad line (invalid UTF-8, an empty side, not a translation record)
            instead of raising; how many, and why, is logged as a warning.

    Returns:
        Two lists of the same length, source and target sentences, without line ends.

    Raises:
        FileNotFoundError: a file is missing; names what was looked for and which languages exist under this prefix.
        ValueError: unequal numbers of lines, a bad line (unless `skip_bad_lines`), no usable line, or a language that
            the records lack.
    """
    prefix = os.fspath(prefix)
    check_language_pair(source_lang, target_lang)
    problems: dict[int, tuple[str, str]] = {}  # of a line: the reason, and the sentence that names it
    if prefix.endswith(JSON_LINES_ENDINGS):
        paths = (prefix, prefix)
        sides = _read_json_lines(prefix, source_lang, target_lang, problems)
    else:
        paths = tuple(_find_side(prefix, language) for language in (source_lang, target_lang))
        sides = _read_two_files(*paths, problems)
    for side, texts, path in zip(("source", "target"), sides, paths, strict=True):
        for index, text in enumerate(texts):
            if not text or text.isspace():
                problems.setdefault(index, (EMPTY_SIDE, f"{path}, line {index + 1}: the {side} side is empty"))
    return _without_bad_lines(sides, problems, " and ".join(dict.fromkeys(paths)), skip_bad_lines)


def read_lines(source: str | os.PathLike | BinaryIO) -> list[str]:
    """Read the sentences of a text file (plain or `.gz`) or of a binary stream, one on each line, empty ones too.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: nothing is in it, or a line is not valid UTF-8; names the line.
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
    candidates = [f"{prefix}.{language}", f"{prefix}.{language}.gz"]
    for path in candidates:
        if os.path.isfile(path):
            return path
    endings = (path[len(prefix) + 1 :].removesuffix(".gz") for path in glob.glob(glob.escape(prefix) + ".*"))
    found = sorted({ending for ending in endings if ending and "." not in ending})
    have = f"Under this prefix there are files for: {', '.join(found)}." if found else "No file has this prefix."
    raise FileNotFoundError(
        f"The prefix {prefix!r} has no text for the language {language!r}: looked for {candidates[0]} and "
        f"{candidates[1]}. {have} Give a prefix P such that P.{language} or P.{language}.gz exists, or another "
        "language pair."
    )


def _read_lines(path: str) -> list[bytes]:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path!r}.")
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            data = file.read()
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}): write it again with gzip, or drop `.gz`.") from error
    return _split_lines(data, path)


def _split_lines(data: bytes, path: str) -> list[bytes]:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty; give a file with one sentence per line.")
    return [line.removesuffix(b"\r") for line in lines]


def _decode(lines: list[bytes], path: str, problems: dict[int, tuple[str, str]]) -> list[str]:
    texts = []
    for index, line in enumerate(lines):
        try:
            texts.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            texts.append("")
            where = f"byte 0x{line[error.start]:02x} at position {error.start + 1} of the line"
            problems.setdefault(index, (INVALID_UTF8, f"{path}, line {index + 1}: not valid UTF-8 ({where})"))
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


def _read_json_lines(path: str, source_lang: str, target_lang: str, problems: dict[int, tuple[str, str]]):
    sources, targets = [], []
    languages: set[str] = set()
    for index, line in enumerate(_decode(_read_lines(path), path, problems)):
        translation, fault = _parse_record(line), None
        if translation is None:
            fault = "not a JSON object with a dictionary under 'translation'"
            translation = {}
        languages.update(translation)
        source, target = translation.get(source_lang), translation.get(target_lang)
        if fault is None and not (isinstance(source, str) and isinstance(target, str)):
            lacking = target_lang if isinstance(source, str) else source_lang
            fault = f"no text under 'translation', {lacking!r}"
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


def _parse_record(line: str) -> dict | None:
    """Return the dictionary under "translation", None if there is none."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    translation = record.get("translation") if isinstance(record, dict) else None
    return translation if isinstance(translation, dict) else None


def _without_bad_lines(sides, problems, corpus: str, skip_bad_lines: bool):
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
