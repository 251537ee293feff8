"""The facts that a person gives: what the Hub would refuse is refused, and names its flag."""

import shlex

import pytest

from hf_ats.results import check_facts, hub_languages, with_facts
from hf_ats.results.facts import FACTS
from hf_ats.results.portable import portable, portable_command
from hf_ats.run import parse_flags
from tests.results.test_results import SECTIONS, build_results

OTHER = {"license": "other", "license_name": "my-license-1.0", "license_link": "https://example.org/license"}


@pytest.mark.parametrize(
    "facts",
    [
        {"license": "apache-2.0"},
        OTHER,
        {"license": "mit", "datasets": ["wmt14", "wmt/wmt17"], "base_model": "Helsinki-NLP/opus-mt-de-en"},
        {"license": "cc-by-4.0", "languages": ["de", "deu"], "base_model": None},
    ],
)
def test_what_the_hub_takes_is_taken_as_it_is(facts):
    assert check_facts(facts) == {name: value for name, value in facts.items() if value is not None}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "license is missing; .* --license apache-2.0"),
        ({"license": "Apache 2.0"}, "license='Apache 2.0' .--license. .* such as apache-2.0, .* --license other"),
        ({"license": "other"}, "license='other' needs license_name"),
        (OTHER | {"license_link": None}, "license='other' needs license_link"),
        (OTHER | {"license_name": "My License"}, "license_name='My License' .--license_name. must be of small"),
        (OTHER | {"license_link": "LICENSE"}, "license_link='LICENSE' .--license_link. is not the address"),
        (OTHER | {"license": "mit"}, "license_name='my-license-1.0' names .* leave --license_name out"),
        ({"license": "mit", "datasets": ["../data"]}, r"datasets='../data' \(--card_datasets\) is not an id"),
        ({"license": "mit", "datasets": "wmt14"}, "datasets='wmt14' must be a list"),
        ({"license": "mit", "base_model": "a/b/c"}, r"base_model='a/b/c' \(--base_model\) is not an id"),
        ({"license": "mit", "languages": ["de"]}, "languages=.'de'. must be two codes"),
        ({"license": "mit", "languages": ["de", "English"]}, r"language 'English' \(--card_languages\) is not a code"),
        ({"license": "mit", "licence": "mit"}, "licence is not a fact of a card; the facts are license, "),
    ],
)
def test_what_the_hub_refuses_is_refused_with_the_flag_to_give(facts, message):
    with pytest.raises(ValueError, match=f"^here: {message}"):
        check_facts(facts, "here")


def test_only_a_complete_card_needs_a_license():
    assert check_facts({"datasets": ["wmt14"]}, complete=False) == {"datasets": ["wmt14"]}
    with pytest.raises(ValueError, match="belongs to --license other"):
        check_facts({"license_name": "mine"}, complete=False)
    with pytest.raises(ValueError, match="is not an identifier"):
        check_facts({"license": "Apache 2.0"}, complete=False)


def test_every_fact_has_a_flag_of_the_training_script(tmp_path):
    words = {"--license": "mit", "--card_datasets": "wmt14", "--card_languages": "de en"}
    for flag in FACTS.values():
        parse_flags("a run", ["--output_dir", str(tmp_path), flag, *words.get(flag, "something").split()])


@pytest.mark.parametrize(
    ("names", "codes", "languages"),
    [
        (("de", "en"), (None, None), ["de", "en"]),
        (("deu_Latn", "eng_Latn"), (None, None), ["deu", "eng"]),
        (("de_DE", "en_XX"), (None, None), ["de", "en"]),
        (("DE", "pt-BR"), (None, None), ["de", "pt"]),
        (("source", "target"), ("deu_Latn", "eng_Latn"), ["deu", "eng"]),
        (("src", "tgt"), ("de", "en"), ["de", "en"]),
    ],
)
def test_languages_are_found_in_the_names_of_data_and_tokenizer(names, codes, languages):
    assert hub_languages(*names, codes) == languages


@pytest.mark.parametrize("name", ["source", "src", "tgt", "german", "d", ""])
def test_a_name_that_is_no_language_asks_for_one(name):
    with pytest.raises(ValueError, match=f"language '{name}' is not a code .* --card_languages SOURCE TARGET"):
        hub_languages(name, "en")


def test_facts_are_added_to_results_and_nothing_else_changes():
    before = build_results(**SECTIONS, card=dict(OTHER))
    after = with_facts(before, {"datasets": ("wmt14",), "base_model": None, "license": None})
    assert after == before | {"card": OTHER | {"datasets": ["wmt14"]}}
    assert with_facts(after, {"license": "mit"}) == before | {"card": {"license": "mit", "datasets": ["wmt14"]}}
    with pytest.raises(ValueError, match=r"section 'card' of results\.json: license='MIT License'"):
        with_facts(before, {"license": "MIT License", "datasets": ["wmt14"]})
    del before["card"]
    assert with_facts(before, {"license": "mit"})["card"] == {"license": "mit"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/data/multi30k/train", "multi30k/train"),
        ("../shared/data/train", "data/train"),
        ("~/runs/demo", "runs/demo"),
        ("/data", "data"),
        ("data/multi30k/train", "data/multi30k/train"),
        ("Helsinki-NLP/opus-mt-de-en", "Helsinki-NLP/opus-mt-de-en"),
        ("embedded default corpus", "embedded default corpus"),
    ],
)
def test_paths_are_told_without_the_folders_of_a_machine(text, shown):
    assert portable(text) == shown


def test_commands_are_told_likewise_and_those_of_notebooks_are_not():
    command = (
        "python /opt/x/scripts/train_translation.py --output_dir=/tmp/a/b/run --train_prefix ../../c/d/train --lr 1e-3"
    )
    told = "python scripts/train_translation.py --output_dir=b/run --train_prefix d/train --lr 1e-3"
    assert portable_command(command) == told
    long = portable_command(command + " --recipe 'a b'" * 20)
    assert max(map(len, long.split("\n"))) < 112 and shlex.split(long.replace("\\\n", "")) == shlex.split(
        told + " --recipe 'a b'" * 20
    )
    assert portable_command("python /usr/lib/ipykernel_launcher.py -f /home/ann/kernel.json") is None
