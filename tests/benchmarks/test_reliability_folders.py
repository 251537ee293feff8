"""What two runs left is compared byte by byte, but for what a clock says; what a command left is sound or not."""

import json

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.reliability.folders import differences
from benchmarks.reliability.sound import unsound


@pytest.fixture
def two(tmp_path):
    """Two folders that are equal but for times."""
    for name, seconds in (("one", 1.0), ("two", 2.5)):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "text.txt").write_text("alike")
        entry = {"loss": 0.5, "eval_core_runtime": seconds, "eval_samples_per_second": seconds, "step": 3}
        (tmp_path / name / "sub" / "state.json").write_text(json.dumps({"log": [entry], "created": str(seconds)}))
        (tmp_path / name / "report.html").write_text(f"of 2026-01-01T00:00:0{int(seconds)}+00:00")
        torch.save({"step": torch.tensor(3.0), "list": [1, 2]}, tmp_path / name / "optimizer.pt")
    return tmp_path / "one", tmp_path / "two"


def test_times_are_no_difference(two):
    assert differences(*two) == []


CHANGES = {
    "a letter": ("text.txt", lambda path: path.write_text("alikE")),
    "a number": ("sub/state.json", lambda path: path.write_text(path.read_text().replace("0.5", "0.25"))),
    "cut JSON": ("sub/state.json", lambda path: path.write_text(path.read_text()[:-1])),
    "a page": ("report.html", lambda path: path.write_text("of 2026-01-01T00:00:02+00:00, and more")),
    "a value": ("optimizer.pt", lambda path: torch.save({"step": torch.tensor(4.0), "list": [1, 2]}, path)),
    "a type": ("optimizer.pt", lambda path: torch.save({"step": torch.tensor(3), "list": [1, 2]}, path)),
    "a cut pickle": ("optimizer.pt", lambda path: path.write_bytes(path.read_bytes()[:-50])),
}


@pytest.mark.parametrize("what", CHANGES)
def test_everything_else_is(two, what):
    name, change = CHANGES[what]
    change(two[1] / name)
    assert differences(*two) == [f"{name} differs"]


def test_files_and_empty_folders_that_only_one_has_are_found(two):
    (two[0] / "text.txt").unlink()
    (two[1] / ".core-0123abcd").mkdir()
    assert differences(*two) == [".core-0123abcd is too many", "text.txt is too many"]
    assert differences(two[1], two[0]) == [".core-0123abcd is missing", "text.txt is missing"]


def a_run(directory, tensor=None, bleu=1.0, translations="a\nb\n"):
    (directory / "core").mkdir(parents=True)
    save_file({"weight": torch.zeros(2) if tensor is None else tensor}, directory / "core" / "model.safetensors")
    (directory / "translations.core.txt").write_text(translations)
    results = {"levels": {"core": {"bleu": bleu}}, "data": {"test_part": "test", "test": 2}}
    (directory / "results.json").write_text(json.dumps(results))


def test_a_run_is_sound_if_it_is_trained_finite_scored_and_whole(tmp_path):
    words = ("--output_dir", "run")
    cases = {
        "sound": ({}, 3, None),
        "untrained": ({}, 0, "no step was trained"),
        "nan": ({"tensor": torch.tensor([1.0, float("nan")])}, 3, "core holds weight, which is not finite"),
        "unscored": ({"bleu": float("nan")}, 3, "core has no score"),
        "lines": ({"translations": "a\n"}, 3, "core has 1 translations"),
    }
    for name, (fields, steps, expected) in cases.items():
        a_run(tmp_path / name / "run", **fields)
        assert unsound("train", words, tmp_path / name, "", steps) == expected, name
    (tmp_path / "sound/run/results.json").unlink()
    assert unsound("train", words, tmp_path / "sound", "", 3) == "no results.json"


def test_a_translation_is_sound_if_it_has_a_line_for_a_line(tmp_path):
    (tmp_path / "text.de").write_text("a\nb\n")
    words = ("--model", "m", "--input=text.de")
    assert unsound("translate", words, tmp_path, "x\ny\n", 0) is None
    assert unsound("translate", words, tmp_path, "x\n", 0) == "1 lines for 2"
    (tmp_path / "out").write_text("x\n\ny\n")
    assert unsound("translate", (*words, "--output", "out"), tmp_path, "", 0) == "3 lines for 2"
