"""Corpora of sentence pairs as `datasets`: from files, from the Hub, or the embedded one."""

import logging
import os
from typing import TYPE_CHECKING

from .embedded_corpus import default_corpus
from .parallel_text import EMPTY_SIDE, INVISIBLE_TEXT, check_language_pair, read_parallel

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


def load_parallel(
    prefix: str | os.PathLike,
    source_lang: str,
    target_lang: str,
    *,
    skip_bad_lines: bool = False,
) -> "datasets.Dataset":
    """Load sentence pairs from `prefix.<source_lang>` and `prefix.<target_lang>`, or from a file of both sides.

    The arguments and errors are those of `hf_ats.data.parallel_text.read_parallel`.

    Returns:
        A dataset with one column `translation`: {source_lang: "...", target_lang: "..."}.
    """
    import datasets
    import pyarrow

    sides = read_parallel(prefix, source_lang, target_lang, skip_bad_lines=skip_bad_lines)
    languages = (source_lang, target_lang)
    pairs = pyarrow.StructArray.from_arrays([pyarrow.array(side, pyarrow.string()) for side in sides], names=languages)
    return datasets.Dataset.from_dict({"translation": pairs})


def load_corpus(
    *,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    train_prefix: str | None = None,
    validation_prefix: str | None = None,
    test_prefix: str | None = None,
    source_lang: str = "de",
    target_lang: str = "en",
    skip_bad_lines: bool = False,
) -> "datasets.DatasetDict":
    """Load the train, validation and test parts of a corpus.

    Args:
        dataset_name: a data set of the Hub or a local directory, with a column `translation`. One part alone, as
            `save_to_disk` of a `Dataset` writes it, is the part that it says it is, or else the training part.
        dataset_config_name: its configuration, such as "de-en".
        train_prefix: files of the training part, see `load_parallel`; likewise the next two. Excludes `dataset_name`.
        validation_prefix: files of the validation part.
        test_prefix: files of the test part.
        source_lang: language code of the source.
        target_lang: language code of the target.
        skip_bad_lines: leave out bad pairs and log how many, instead of raising.

    Returns:
        The parts that were given (of a data set: those that it has) under "train", "validation" and "test", each with
        one column `translation`. With neither `dataset_name` nor a prefix: the embedded default corpus.

    Raises:
        FileNotFoundError, ValueError: see `load_parallel`; also for a data set without the column `translation`,
            without the language pair, with something else than texts, or with none of the three parts.
    """
    import datasets

    check_language_pair(source_lang, target_lang)
    prefixes = {"train": train_prefix, "validation": validation_prefix, "test": test_prefix}
    prefixes = {split: prefix for split, prefix in prefixes.items() if prefix is not None}
    if dataset_name is not None and not dataset_name.strip():
        raise ValueError(f"dataset_name={dataset_name!r} names no data set; give an id of the Hub or a directory.")
    if dataset_name is not None and prefixes:
        raise ValueError(
            f"dataset_name={dataset_name!r} and {next(iter(prefixes))}_prefix={next(iter(prefixes.values()))!r} are "
            "two sources of data; give one of them."
        )
    if prefixes:
        return datasets.DatasetDict(
            {
                split: load_parallel(prefix, source_lang, target_lang, skip_bad_lines=skip_bad_lines)
                for split, prefix in prefixes.items()
            }
        )
    if dataset_name is not None:
        parts = _load_dataset(dataset_name, dataset_config_name)
        return datasets.DatasetDict(
            {
                split: _checked(part, f"{dataset_name}, {split}", source_lang, target_lang, skip_bad_lines)
                for split, part in parts.items()
            }
        )
    if {source_lang, target_lang} != {"de", "en"}:
        raise ValueError(
            f"The embedded corpus has the languages de and en, not {source_lang!r} to {target_lang!r}. Give data of "
            "yours by dataset_name or train_prefix, or take source_lang and target_lang among de and en."
        )
    return default_corpus()


def _load_dataset(name: str, config_name: str | None) -> "dict[str, datasets.Dataset]":
    import datasets

    if any(os.path.isfile(os.path.join(name, file)) for file in ("dataset_dict.json", "state.json")):
        parts = datasets.load_from_disk(name)
        if isinstance(parts, datasets.Dataset):
            parts = {str(parts.split or "train"): parts}
    else:
        parts = datasets.load_dataset(name, config_name)
    chosen = {split: parts[split] for split in SPLITS if split in parts}
    if not chosen:
        raise ValueError(
            f"The data set {name!r} has the parts {', '.join(parts)}, and none of {', '.join(SPLITS)}. Rename its "
            "parts, or write them to files and give the prefixes."
        )
    return chosen


def _checked(
    part: "datasets.Dataset",
    where: str,
    source_lang: str,
    target_lang: str,
    skip_bad_lines: bool,
) -> "datasets.Dataset":
    """Keep the column `translation`, and check the languages and every pair."""
    if "translation" not in part.column_names:
        raise ValueError(
            f"The data set {where} has the columns {', '.join(part.column_names)}, but no `translation` with a text "
            'per language, {"de": "...", "en": "..."}. Convert it, or give another data set.'
        )
    types = _types_of_languages(part)
    for language in (source_lang, target_lang):
        if language not in types:
            raise ValueError(
                f"The data set {where} has no language {language!r}: it has {', '.join(types)}. Choose "
                "source_lang and target_lang among these, or another dataset_config_name."
            )
        if types[language] not in ("string", "large_string"):
            raise ValueError(
                f"The data set {where} has {types[language]} under `translation`, {language!r}, not one text for each "
                "example. Convert it, or give another data set."
            )
    part = part.select_columns(["translation"])
    empty = _empty_rows(part, (source_lang, target_lang))
    if not empty:
        return part
    if not skip_bad_lines:
        raise ValueError(
            f"The data set {where}, example {min(empty)} (from 0): a side is empty. Bad examples: {len(empty)} of "
            f"{len(part)}. Repair them, or set skip_bad_lines to leave such pairs out."
        )
    if len(empty) == len(part):
        raise ValueError(f"No usable example is left of the data set {where}: every pair has an empty side.")
    logger.warning("Left out %d of %d sentence pairs of %s: %s.", len(empty), len(part), where, EMPTY_SIDE)
    return part.select([index for index in range(len(part)) if index not in empty])


def _types_of_languages(part: "datasets.Dataset") -> dict[str, str]:
    """Return what the translations of each language are, in Arrow's words."""
    import pyarrow

    column = part.features.arrow_schema.field("translation").type
    return {field.name: str(field.type) for field in column} if pyarrow.types.is_struct(column) else {}


def _empty_rows(part: "datasets.Dataset", languages: tuple[str, str]) -> set[int]:
    import numpy
    import pyarrow.compute as pc

    empty, first = set(), 0
    for table in part.with_format("arrow").iter(batch_size=100_000):
        for language in languages:
            texts = pc.fill_null(pc.struct_field(table["translation"], language), "")
            blank = pc.match_substring_regex(texts, INVISIBLE_TEXT)
            empty.update((numpy.flatnonzero(blank.to_numpy(zero_copy_only=False)) + first).tolist())
        first += table.num_rows
    return empty
