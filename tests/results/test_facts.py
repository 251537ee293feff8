"""The facts that a person gives: what the Hub would refuse is refused, and names its flag."""

import json
import re
import shlex

import pytest

from hf_ats.results import read_results, write_results
from hf_ats.results.facts import FACTS, LICENSES, check_facts, hub_languages, update_facts
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
        ({"license": "Apache 2.0"}, "license='Apache 2.0' .--license. .* write apache-2.0, or --license other"),
        ({"license": "qwerty"}, "license='qwerty' .* write --license other --license_name NAME --license_link URL"),
        ({"license": "other"}, "license='other' needs license_name"),
        (OTHER | {"license_link": None}, "license='other' needs license_link"),
        (OTHER | {"license_name": "My License"}, "license_name='My License' .--license_name. must be of small"),
        (OTHER | {"license_link": "LICENSE"}, "license_link='LICENSE' .--license_link. is no address"),
        (OTHER | {"license": "mit"}, "license_name='my-license-1.0' names .* leave --license_name out"),
        ({"license": "mit", "datasets": ["../data"]}, r"datasets='../data' \(--card_datasets\) is no id"),
        ({"license": "mit", "datasets": "wmt14"}, "datasets='wmt14' must be a list"),
        ({"license": "mit", "base_model": "a/b/c"}, r"base_model='a/b/c' \(--base_model\) is no id"),
        ({"license": "mit", "languages": ["de"]}, "languages=.'de'. must be two codes"),
        ({"license": "mit", "languages": ["de", "English"]}, r"language 'English' \(--card_languages\) is no code"),
        ({"license": "mit", "licence": "mit"}, "licence is no fact of a card; the facts are license, "),
    ],
)
def test_what_the_hub_refuses_is_refused_with_the_flag_to_give(facts, message):
    with pytest.raises(ValueError, match=f"^here: {message}"):
        check_facts(facts, "here")


def test_only_a_complete_card_needs_a_license():
    assert check_facts({"datasets": ["wmt14"]}, complete=False) == {"datasets": ["wmt14"]}
    with pytest.raises(ValueError, match="belongs to --license other"):
        check_facts({"license_name": "mine"}, complete=False)
    with pytest.raises(ValueError, match="is no identifier"):
        check_facts({"license": "qwerty"}, complete=False)


def test_every_fact_has_a_flag_of_the_training_script(tmp_path):
    words = {"--license": "mit", "--card_datasets": "wmt14", "--card_languages": "de en"}
    for flag in FACTS.values():
        parse_flags("a run", ["--output_dir", str(tmp_path), flag, *words.get(flag, "something").split()])
    assert all(license == license.lower() for license in LICENSES)


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
    with pytest.raises(ValueError, match=f"language '{name}' is no code .* --card_languages SOURCE TARGET"):
        hub_languages(name, "en")


@pytest.fixture
def run(tmp_path):
    write_results(tmp_path / "results.json", build_results(**SECTIONS, card=dict(OTHER)))
    return tmp_path


def test_facts_are_added_to_a_run_and_nothing_else_changes(run):
    before = read_results(run / "results.json")
    facts = update_facts(run, datasets=("wmt14",), base_model=None, license=None)
    assert facts == OTHER | {"datasets": ["wmt14"]}
    assert read_results(run / "results.json") == before | {"card": facts}
    assert update_facts(run, license="mit") == {"license": "mit", "datasets": ["wmt14"]}
    assert read_results(run / "results.json")["run_id"] == before["run_id"]


def test_a_wrong_fact_leaves_the_run_as_it_was(run):
    before = (run / "results.json").read_bytes()
    with pytest.raises(ValueError, match=re.escape(f"{run / 'results.json'}: license='qwerty'")):
        update_facts(run, license="qwerty", datasets=["wmt14"])
    assert (run / "results.json").read_bytes() == before


def test_facts_are_given_to_runs_from_before_there_were_any(run):
    results = json.loads((run / "results.json").read_text())
    del results["card"]
    (run / "results.json").write_text(json.dumps(results))
    assert update_facts(run, license="mit") == {"license": "mit"}


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
