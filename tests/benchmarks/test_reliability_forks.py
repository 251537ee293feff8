"""A forked command leaves what a fresh interpreter leaves, and dies as a process does."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reliability.cases import BASES
from benchmarks.reliability.folders import differences
from benchmarks.reliability.forks import Fork, import_what
from benchmarks.reliability.lines import add_lines, read_lines, side_by_side
from benchmarks.reliability.material import write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("forks") / "corpus")


def place(corpus: Path, directory: Path) -> Path:
    """A folder with the corpus, as `BASES` names it."""
    directory.mkdir()
    (directory / "corpus").symlink_to(corpus)
    return directory


@pytest.mark.slow
def test_a_forked_run_is_bitwise_that_of_a_fresh_interpreter(corpus, tmp_path):
    first, second = place(corpus, tmp_path / "first"), place(corpus, tmp_path / "second")
    import_what("train", BASES["train"].split(), first)
    command = [sys.executable, "-m", "hf_ats.scripts.train_translation", *BASES["train"].split()]
    subprocess.run(command, cwd=second, check=True, capture_output=True, timeout=240)
    assert (first / "new/core/model.safetensors").is_file() and (first / "new/checkpoint-2/optimizer.pt").is_file()
    assert differences(first / "new", second / "new") == []


def test_status_and_output_are_those_of_the_command(corpus, tmp_path):
    child = Fork("train", ["--ratios", "x"], tmp_path / "run")
    assert child.wait(60) == 2
    assert "error: argument --ratios: invalid float value: 'x'" in child.err.read_text()
    child = Fork("report", ["nowhere"], tmp_path / "report")
    assert child.wait(60) == 1 and child.err.read_text().startswith("hf-ats report: ")
    assert Fork("compare", ["--help"], tmp_path / "help").wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_ends_the_child_alone(number, tmp_path):
    child = Fork("report", [tmp_path], tmp_path / "run", at_start=lambda: signal.pause())
    assert child.wait(0.05) is None
    child.send(number)
    assert child.wait(60) == -number
    child.send(number)  # which nobody is left to get


def test_lines_of_workers_are_whole_and_a_cut_one_is_left_out(tmp_path):
    lines = tmp_path / "sub" / "lines.jsonl"
    side_by_side(3, lambda worker: [add_lines(lines, [{"worker": worker, "line": n}]) for n in range(50)])
    assert sorted((line["worker"], line["line"]) for line in read_lines(lines)) == [
        (worker, line) for worker in range(3) for line in range(50)
    ]
    with lines.open("a") as file:
        file.write('{"worker": 3, "li')
    assert len(read_lines(lines)) == 150

    def fail(worker):
        raise RuntimeError("broken")

    with pytest.raises(ValueError, match="a worker failed"):
        side_by_side(2, fail)


def test_a_moment_is_counted_by_the_processor(tmp_path):
    def work():
        while True:
            sum(range(1000))

    child = Fork("report", [tmp_path], tmp_path / "run", at_start=work)
    assert child.wait_cpu(0.1) is None and 0.1 <= child.cpu_seconds < 0.2
    child.send(signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL and child.cpu_seconds >= 0.1
    child = Fork("report", [tmp_path], tmp_path / "run")
    assert child.wait_cpu(60) == 1
