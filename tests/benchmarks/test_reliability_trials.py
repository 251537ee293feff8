"""A sample of the trials of docs/reliability.md, through the same code; outcomes, flags and tables of all of them."""

import json
import random
import sys
from pathlib import Path

import pytest

from benchmarks.reliability import inputs, kills, table
from benchmarks.reliability.bad_flags import bad_values, flags_of
from benchmarks.reliability.cases import BASES, Case
from benchmarks.reliability.inputs import GOOD, OUTCOMES, Trials, failure

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "reliability" / "inputs.jsonl"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return inputs.set_up(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def trials(material, tmp_path):
    return Trials(material, tmp_path)


def test_some_bad_input_of_every_kind_ends_in_a_sentence_or_a_right_result(trials, material):
    cases = inputs.all_cases(material)
    assert len(cases) > 2000 and len({case.title for case in cases}) == len(cases)
    lines = map(json.loads, RECORD.read_text(encoding="utf-8").splitlines())
    recorded = {line["case"]: line["outcome"] for line in lines if "case" in line}
    kinds: dict[str, list[Case]] = {}
    for case in cases:
        if recorded.get(case.title, GOOD[0]) in GOOD:  # the table in the documentation counts the others
            kinds.setdefault(case.kind, []).append(case)
    assert len(kinds) >= 13
    found = [trials.run(case) for some in kinds.values() for case in some[:2]]
    assert [line for line in found if line["outcome"] not in GOOD] == []


@pytest.mark.law(number=2)
def test_a_run_that_is_killed_goes_on_to_the_same_end(tmp_path):
    (trial,) = kills.set_up(tmp_path, ["rank"]).values()
    found = kills.killed_run(trial, random.Random(0), tmp_path / "killed" / "run", most=2)
    assert found and [kill for kill in found if not kill["equal"]] == []


def test_every_command_succeeds_with_its_base(trials):
    for command, words in BASES.items():
        if command != "train":  # which other tests run
            line = trials.run(Case("a base", "as it is", command, tuple(words.split()), right="accept"))
            assert line["outcome"] == "right result", line


WORDS = tuple(BASES["translate"].split())


def test_outcomes_are_told_apart(trials):
    def outcome(words=WORDS, command="translate", prepare=None, right="refuse", damaged=None) -> str:
        return trials.run(Case("a", "b", command, words, prepare, right, damaged))["outcome"]

    def other_text(directory):
        (directory / "text.de").write_text("hund\n" * 8)

    assert outcome() == "wrong without a word" and outcome(right="either") == "right result"
    assert outcome((*WORDS, "--num_beams", "x")) == "refused"
    assert outcome((*WORDS, "--num_beams", "x"), right="accept") == "right, but refused"
    assert outcome(right="same") == "right result"
    assert outcome(prepare=other_text, right="same", damaged="text.de") == "wrong without a word"


@pytest.mark.parametrize(
    ("right", "status", "steps", "err", "outcome"),
    [
        ("refuse", 1, 0, "a warning\nhf-ats train: a sentence\n", "refused"),
        ("refuse", 1, 3, "hf-ats train: a sentence\n", "sentence after training"),
        ("refuse", 1, 3, "hf-ats train: the loss of step 3 is nan\n", "refused"),
        ("refuse", 1, 0, "Traceback (most recent call last):\n ...\nKeyError: 1\n", "traceback"),
        ("refuse", 1, 1, "Traceback (most recent call last):\n ...\nKeyError: 1\n", "traceback after training"),
        ("refuse", 0, 0, "Traceback (most recent call last):\n ...\nKeyError: 1\n", "traceback"),
        ("refuse", -11, 0, "", "traceback"),
        ("refuse", 1, 0, "", "right, but refused"),
        ("accept", 2, 0, "hf-ats train: a sentence\n", "right, but refused"),
        ("refuse", None, 7, "training\n", "no end"),
    ],
)
def test_a_command_that_fails_fails_in_a_way(right, status, steps, err, outcome):
    assert failure(Case("a", "b", "train", (), right=right), status, steps, err)[0] == outcome


def test_each_flag_of_each_command_is_tried():
    tried = {(case.command, case.words[-1].partition("=")[0]) for case in bad_values()}
    for command in BASES:
        flags = {
            action.option_strings[0] for action in flags_of(command) if action.option_strings and action.nargs != 0
        }
        flags.discard("--torch_compile_mode")  # any value of which compiles
        assert {flag for name, flag in tried if name == command} == flags


def test_tables_count_what_was_recorded(tmp_path, monkeypatch, capsys):
    kill = {"phase": "saving", "signal": "SIGKILL", "then": "resumed", "equal": True}
    lines = [kill, kill | {"equal": False}, kill | {"phase": "start", "signal": "SIGINT", "then": "the same command"}]
    (tmp_path / "kills.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [row.split("|")[1:-1] for row in table.render_kills(lines).splitlines()[2:]]
    counted = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert counted["saving"] == ["2", "0", "0", "2", "1 of 2"] and counted["all"] == ["2", "0", "1", "2", "2 of 3"]
    (tmp_path / "page.md").write_text("<!-- begin kills -->\n<!-- end kills -->\n")
    words = ["table", "kills", "--record", str(tmp_path / "kills.jsonl"), "--update", str(tmp_path / "page.md")]
    monkeypatch.setattr(sys, "argv", words)
    table.main()
    table.main()
    assert capsys.readouterr().err.endswith("is up to date\n") and "1 of 2" in (tmp_path / "page.md").read_text()
    shown = table.render_inputs([{"case": "a text: x", "outcome": outcome} for outcome in OUTCOMES])
    assert [cell.strip() for cell in shown.splitlines()[-1].split("|")[2:-1]] == ["8", *["1"] * 8]
