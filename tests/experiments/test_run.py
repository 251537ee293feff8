"""The runner: what it trains, keeps and refuses, and how it goes on after it was killed."""

import fcntl
import os
import re
import shutil
import signal
import sys
import threading
import time

import pytest

from experiments import grids, run
from experiments.records import significance
from hf_ats.results import read_results
from tests.experiments.conftest import RECIPE

# Instead of a training: full-seed1 begins, with the checkpoint of a finished run, and waits; resumed, it has finished.
TRAINER = """
import os, pathlib, shutil, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
done = pathlib.Path({done!r}) / out.name
if out.name != "full-seed1":
    sys.exit("a failure")
if "--resume_from_checkpoint" in sys.argv:
    shutil.copytree(done, out, dirs_exist_ok=True)
    sys.exit()
print({{"loss": "1.0", "epoch": "0.25"}}, flush=True)
shutil.copytree(done / "checkpoint-1", out / "checkpoint-1")
(out / "pid").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.fixture
def stand_in(trained, tmp_path, monkeypatch):
    """Trainings that cost nothing."""
    program = tmp_path / "trainer.py"
    program.write_text(TRAINER.format(done=str(trained.work)))
    monkeypatch.setattr(run, "PROGRAM", [sys.executable, "-S", str(program)])


def refused(bench, match: str, *words) -> None:
    before = bench.files()
    with pytest.raises(SystemExit, match=match):
        bench.run(*words)
    assert bench.files() == before


def test_a_finished_run_leaves_one_small_file(half_done, capsys):
    half_done.run("--jobs", 0)
    assert "tiny-grid (small): 2 of 6 runs are done" in capsys.readouterr().out
    names = sorted(path.name for path in half_done.records.iterdir())
    assert names == ["alternating-seed1.json", "full-seed1.json"]
    for path in half_done.records.iterdir():
        text = path.read_text()
        assert len(text) < 6000 and str(half_done.folder / "data") not in text
        assert not {"samples", "/root", str(grids.ROOT)} & set(text.split('"'))
        record, results = read_results(path), read_results(half_done.work / path.stem / "results.json")
        assert record["run"] == path.stem.removesuffix("-seed1") and record["data"]["name"] == "text/train"
        assert record["levels"].keys() == results["levels"].keys() == record["sentence_statistics"].keys()
        for level, figures in record["levels"].items():
            assert figures["bleu"] == results["levels"][level]["bleu"]
            assert significance(record, record, level)[0] == 0
    words = record["command"].split()
    assert words[:2] == ["python", "scripts/train_translation.py"]
    assert "--train_prefix data/text/train" in record["command"] and "--seed 1 --output_dir runs/" in record["command"]


def upcycled(bench) -> None:
    """Give the grid a run that starts from the full network of another."""
    of_model = ("architecture", "layers", "width", "feed_forward", "vocab_size")
    lines = RECIPE.strip().splitlines()
    (bench.folder / "from.yaml").write_text("\n".join(line for line in lines if line.split(":")[0] not in of_model))
    line = "  upcycled: {start: full, recipe: from.yaml, ratios: [0.25], schedule: alternating}\npaper:"
    bench.grid.write_text(bench.grid.read_text().replace("paper:\n  full", f"{line}\n  full", 1))


def test_a_run_from_another_says_so_without_a_path_wherever_it_lies(half_done, capsys):
    upcycled(half_done)
    folder = half_done.train("upcycled")
    half_done.run("--jobs", 0)
    path = half_done.records / "upcycled-seed1.json"
    record = read_results(path)
    assert (record["model"]["name"], record["model"]["model_name_or_path"]) == ("full", "full")
    assert str(half_done.folder / "runs") not in path.read_text()
    assert "--model_name_or_path runs/experiments/tiny/full-seed1/full" in record["command"]
    results = folder / "results.json"
    elsewhere = results.read_text().replace(str(half_done.work), "/elsewhere")
    results.write_text(elsewhere)
    half_done.run("--jobs", 0)
    results.write_text(elsewhere.replace("full-seed1/full", "full-seed2/full"))
    refused(
        half_done, r"with model_name_or_path /elsewhere/full-seed2/full, and tiny-grid asks for .* full in upcycled-"
    )
    results.unlink()  # as before it was finished
    half_done.run("--jobs", 0)

    capsys.readouterr()
    half_done.table()
    text = capsys.readouterr().out
    assert " start |" in text and "Column start: the run with whose full network" in text
    # There is no core alone from that start, that from scratch is not done, and its full network began as full.
    assert re.search(r"\| +full \| .* - \| +\? \| +- \| +[-+]\d+\.\d\d \(p ", text)


def test_a_run_waits_for_the_one_that_it_starts_from_and_that_is_trained_where_its_record_alone_is_there(
    bench, trained, stand_in, capsys
):
    upcycled(bench)
    bench.grid.write_text(bench.grid.read_text().replace("seeds: [1, 2]", "seeds: [1]"))
    shutil.copytree(trained.work / "full-seed1", bench.work / "full-seed1")
    bench.run("--jobs", 0)
    record = bench.records / "full-seed1.json"
    before = record.read_bytes()
    shutil.rmtree(bench.work / "full-seed1")
    pid = bench.work / "full-seed1" / "pid"
    when(pid, lambda: os.kill(int(pid.read_text()), signal.SIGKILL))
    with pytest.raises(
        SystemExit, match=r"full-seed1 ended with status -9, .*upcycled-seed1 starts from full-seed1, wh"
    ):
        bench.run("--jobs", 4)
    assert not (bench.work / "upcycled-seed1.log").exists()
    assert "others wait for another process, or for the run that they start from" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"run\.py: (?!.*full-seed1).*upcycled-seed1 ended with status 1"):
        bench.run("--jobs", 2)
    assert "--model_name_or_path" in (bench.work / "upcycled-seed1.log").read_text()
    assert record.read_bytes() == before and (bench.work / "full-seed1" / "full").is_dir()


def when(there, then) -> threading.Thread:
    """Call a function when a file is there."""

    def watch():
        while not (there.exists() and there.read_text()):
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_killed_run_goes_on_from_its_checkpoint_and_a_failed_one_keeps_no_other(bench, stand_in, capsys):
    pid = bench.work / "full-seed1" / "pid"
    watch = when(pid, lambda: os.kill(int(pid.read_text()), signal.SIGKILL))
    failures = (
        r"full-seed1 ended with status -9, see .*full-seed1\.log; core-seed1 ended with status 1, .*seed2.* The same"
    )
    with pytest.raises(SystemExit, match=failures):
        bench.run()
    watch.join()
    assert not bench.records.exists()
    assert re.search(r"0 of 6 runs done, full-seed1 at \d+%", capsys.readouterr().out)
    with pytest.raises(SystemExit, match=r"run\.py: (?!.*full-seed1)core-seed1 ended with status 1"):
        bench.run("--jobs", 2)
    assert [path.name for path in bench.records.iterdir()] == ["full-seed1.json"]
    log = (bench.work / "full-seed1.log").read_text()
    assert log.count("$ python scripts/train_translation.py") == 2 and log.count("--resume_from_checkpoint True") == 1
    assert re.search(r"1 of 6 runs done.*; about \d+ h \d+ min left", capsys.readouterr().out)


def test_whoever_ends_the_runner_ends_its_runs(bench, stand_in, monkeypatch):
    pid = bench.work / "full-seed1" / "pid"
    when(pid, lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            bench.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_run_that_another_process_trains_is_left_to_it(bench, trained, stand_in):
    log, folder = bench.work / "full-seed1.log", bench.work / "full-seed1"
    bench.work.mkdir(parents=True)
    held = log.open("ab")
    fcntl.flock(held, fcntl.LOCK_EX)

    def end():
        shutil.copytree(trained.work / "full-seed1", folder)
        held.close()

    when(bench.work / "core-seed1.log", end)
    with pytest.raises(SystemExit, match=r"run\.py: core-seed1 ended with status 1"):
        bench.run()
    assert [path.name for path in bench.records.iterdir()] == ["full-seed1.json"]
    assert "full-seed1" not in log.read_text()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("title:", "titel: x\ntitle:", "the grid has the unknown field 'titel'; there are title, train, scales"),
        ("    recipe: tiny", "    recipes: x\n    recipe: tiny", "small has the unknown field 'recipes'"),
        ("  core:", "  full:", r"'full' is there twice \(line \d+ on\)"),
        ("seeds: [1, 2]", "seeds: [1, 1]", "seeds: 1, 1 of small has one twice"),
        ("seeds: [1, 2]", "seeds: [one]", "is not a list of whole numbers"),
        ("max_steps: 2", "max_stepz: 2", "run 'full' cannot be trained: unrecognized arguments: --max_stepz 2"),
        ("train: translation", "train: speech", "train: speech is not known; write one of translation, images"),
        ("  full: {full: 32", "  ful: {full: 32", "paper has the unknown field 'ful'; there are full, core"),
        ("  core:", "  co/re:", "run 'co/re' cannot name a folder"),
        ("title:", "- title:", "tiny-grid.yaml: "),
        (
            "core: {ratios: [0.25]",
            "core: {ratios: {low: 0.25}",
            r"core: ratios is .*; write a value, or a list of them",
        ),
        (
            "core: {ratios",
            "core: {start: ful, ratios",
            "run 'core' starts from 'ful', which is no run above it; name one that is",
        ),
        (
            "full: {method",
            "full: {start: core, method",
            "run 'full' starts from 'core', which is no run above it; name one",
        ),
        (
            "alternating: {ratios",
            "alternating: {start: core, ratios",
            "run 'alternating' starts from 'core', which trains no full network; name one that does",
        ),
        (
            "paper:\n  full",
            "equal_cost: {core: ful}\npaper:\n  full",
            "equal_cost of core is 'ful'; write a list of some of f",
        ),
        (
            "paper:\n  full",
            "formats: [tflite]\npaper:\n  full",
            r"formats is \['tflite'\]; write a list of some of ctrans",
        ),
        ("text/test", "text/tset", "asks for test_prefix text/tset, and .* has no such file; give the folder"),
    ],
)
def test_a_wrong_grid_is_refused_in_a_sentence(bench, old, new, match):
    bench.grid.write_text(bench.grid.read_text().replace(old, new, 1))
    refused(bench, match)


@pytest.mark.parametrize(
    ("file", "old", "new", "match"),
    [
        (
            "tiny-grid.yaml",
            "alternating: {ratios: [0.25]",
            "alternating: {ratios: [0.5]",
            r"ratios \[0.25\], and tiny-grid",
        ),
        (
            "tiny-grid.yaml",
            "full: {method: none,",
            "full: {",
            "with method None, and tiny-grid asks for method rank in full",
        ),
        (
            "tiny.yaml",
            "learning_rate: 1e-3",
            "learning_rate: 2e-3",
            "with learning_rate 0.001, and tiny-grid asks for .*0.002",
        ),
        (
            "tiny.yaml",
            "layers: 1",
            "layers: 2",
            "with layers 1, and tiny-grid asks for layers 2 in full-seed1; move it",
        ),
    ],
)
def test_a_run_of_another_recipe_is_refused(half_done, file, old, new, match):
    path = half_done.folder / file
    path.write_text(path.read_text().replace(old, new, 1))
    refused(half_done, match)
    for results in half_done.work.glob("*/results.json"):  # as before they were finished
        results.unlink()
    refused(half_done, match)


def test_translations_and_data_of_another_run_are_refused(half_done):
    (half_done.work / "full-seed1" / "translations.full.txt").write_text("The house.\n" * 12)
    refused(half_done, r"translations\.full\.txt scores .* BLEU, and results\.json beside it says")
    test = half_done.folder / "data" / "text" / "test.en"
    test.write_text(test.read_text().replace("e", "a"))
    refused(half_done, r"scored on other sentences than those of .*text/test; give the folder")


def test_an_unknown_grid_or_scale_is_named(bench):
    refused(bench, r"it has no scale 'large'; give one of small, paper", "--scale", "large")
    bench.grid = bench.folder / "none.yaml"
    refused(bench, "none.yaml is neither a file nor one of the grids here, which are tiny, tiny-grid")
