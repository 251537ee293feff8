"""Corpora from files, from data sets, and the embedded one, under one form."""

import json
import logging

import datasets
import pytest

from hf_ats.data import default_corpus, load_corpus, load_parallel

PAIRS = [{"de": "eins", "en": "one"}, {"de": "zwei", "en": "two"}, {"de": "drei", "en": "three"}]


@pytest.fixture
def prefix(tmp_path):
    for language in ("de", "en"):
        (tmp_path / f"corpus.{language}").write_text("".join(f"{pair[language]}\n" for pair in PAIRS))
    return str(tmp_path / "corpus")


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def save(directory, pairs=PAIRS, parts=("train", "validation", "test"), column="translation") -> str:
    part = datasets.Dataset.from_dict({column: pairs, "number": list(range(len(pairs)))})
    datasets.DatasetDict(dict.fromkeys(parts, part)).save_to_disk(directory)
    return str(directory)


def test_load_parallel_gives_one_column_of_pairs(prefix):
    corpus = load_parallel(prefix, "de", "en")
    assert corpus.column_names == ["translation"]
    assert corpus["translation"][:] == PAIRS
    assert set(load_parallel(prefix, "en", "de")[0]["translation"]) == {"de", "en"}


def test_parts_come_from_their_prefixes(prefix):
    corpus = load_corpus(train_prefix=prefix, test_prefix=prefix)
    assert list(corpus) == ["train", "test"]
    assert corpus["test"]["translation"][:] == PAIRS


def test_bad_lines_of_prefixes_are_skipped_only_on_request(prefix, tmp_path, caplog):
    (tmp_path / "corpus.en").write_text("one\n\nthree\n")
    with pytest.raises(ValueError, match="line 2: the target side is empty"):
        load_corpus(train_prefix=prefix)
    with caplog.at_level(logging.WARNING, logger="hf_ats"):
        corpus = load_corpus(train_prefix=prefix, test_prefix=prefix, skip_bad_lines=True)
    assert corpus["train"]["translation"][:] == [PAIRS[0], PAIRS[2]]
    assert caplog.text.count("1 empty side") == 2


def test_parts_come_from_a_saved_data_set(tmp_path):
    name = save(tmp_path / "saved", parts=("test", "other", "train"))
    corpus = load_corpus(dataset_name=name)
    assert list(corpus) == ["train", "test"]
    assert corpus["train"].column_names == ["translation"]
    assert corpus["train"]["translation"][:] == PAIRS


def test_parts_come_from_a_directory_of_json_lines(tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    for part in ("train", "validation"):
        lines = (json.dumps({"translation": pair}) for pair in PAIRS)
        (directory / f"{part}.jsonl").write_text("\n".join(lines))
    corpus = load_corpus(dataset_name=str(directory))
    assert list(corpus) == ["train", "validation"]
    assert corpus["validation"]["translation"][:] == PAIRS


def test_without_a_source_the_embedded_corpus_is_given(monkeypatch):
    small = {"train": 5, "validation": 2, "test": 2}
    monkeypatch.setattr("hf_ats.data.embedded_corpus.DEFAULT_SIZES", small)
    corpus = load_corpus(source_lang="en", target_lang="de")
    assert {part: len(corpus[part]) for part in corpus} == small
    assert corpus["test"]["translation"][:] == default_corpus()["test"]["translation"][:]
    with pytest.raises(ValueError, match="The embedded corpus has the languages de and en, not 'de' to 'fr'"):
        load_corpus(target_lang="fr")


def test_two_sources_of_data_are_refused(prefix):
    with pytest.raises(ValueError, match="are two sources of data; give one"):
        load_corpus(dataset_name="somewhere", validation_prefix=prefix)


def test_a_data_set_without_any_of_the_parts_is_refused(tmp_path):
    name = save(tmp_path / "saved", parts=("all",))
    with pytest.raises(ValueError, match="has the parts all, and none of train, validation, test"):
        load_corpus(dataset_name=name)


def test_a_data_set_without_translations_is_refused(tmp_path):
    name = save(tmp_path / "saved", column="text")
    with pytest.raises(ValueError, match="has the columns text, number, but no `translation`"):
        load_corpus(dataset_name=name)
    strings = save(tmp_path / "strings", pairs=["a", "b"])
    with pytest.raises(ValueError, match="has no language 'de'"):
        load_corpus(dataset_name=strings)


@pytest.mark.parametrize(
    ("pairs", "what"),
    [([{"de": ["ein", "Hund"], "en": ["a", "dog"]}], r"(large_)?list<.*>"), ([{"de": 1, "en": 2}], "int64")],
)
def test_translations_that_are_no_texts_are_refused(tmp_path, pairs, what):
    name = save(tmp_path / "saved", pairs=pairs)
    with pytest.raises(ValueError, match=rf"saved, train has {what} under `translation`, 'de', not one text for each"):
        load_corpus(dataset_name=name)


def test_one_part_that_was_saved_alone_is_that_part(tmp_path):
    part = datasets.Dataset.from_dict({"translation": PAIRS})
    part.save_to_disk(tmp_path / "nameless")
    assert {name: one[:] for name, one in load_corpus(dataset_name=str(tmp_path / "nameless")).items()} == {
        "train": {"translation": PAIRS}
    }
    datasets.Dataset.from_dict({"translation": PAIRS}, split="test").save_to_disk(tmp_path / "named")
    assert list(load_corpus(dataset_name=str(tmp_path / "named"))) == ["test"]


def test_a_language_that_a_data_set_lacks_is_refused_with_those_it_has(tmp_path):
    name = save(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"saved, train has no language 'fr': it has de, en\."):
        load_corpus(dataset_name=name, source_lang="fr")


@pytest.mark.parametrize("empty", ["", " \t", None, "\u200b"])
def test_empty_sides_of_a_data_set_are_named_and_skipped_only_on_request(tmp_path, empty, caplog):
    pairs = [PAIRS[0], {"de": "zwei", "en": empty}, {"de": empty, "en": empty}, PAIRS[2]]
    name = save(tmp_path / "saved", pairs=pairs, parts=("train", "test"))
    with pytest.raises(ValueError, match=r"train, example 1 \(from 0\): a side is empty\. .*2 of 4\."):
        load_corpus(dataset_name=name)
    with caplog.at_level(logging.WARNING, logger="hf_ats"):
        corpus = load_corpus(dataset_name=name, skip_bad_lines=True)
    assert corpus["train"]["translation"][:] == [PAIRS[0], PAIRS[2]]
    assert caplog.text.count("Left out 2 of 4") == 2


def test_a_data_set_of_empty_sides_is_refused(tmp_path):
    name = save(tmp_path / "saved", pairs=[{"de": "", "en": "one"}], parts=("test",))
    with pytest.raises(ValueError, match="No usable example is left"):
        load_corpus(dataset_name=name, skip_bad_lines=True)
