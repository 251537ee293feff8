"""A benchmark's file says what was measured, and on what."""

import json
import sys

import pytest
import torch

from benchmarks.record import build_record, describe_machine, read_record, write_record


def a_record():
    return build_record(
        "training",
        settings={"rounds": 3},
        measurements={"stock step": {"seconds": dict(median=1.0, low=0.9, high=1.2)}},
        ratios={"a / b": dict(median=0.5, low=0.4, high=0.6, limit=0.43)},
    )


def test_a_record_is_read_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/anywhere/training.py", "--rounds", "3"])
    record = a_record()
    write_record(tmp_path / "sub" / "training.json", record)
    assert read_record(tmp_path / "sub" / "training.json") == record
    assert record["command"] == "python -m benchmarks.training --rounds 3"
    assert record["versions"]["torch"] == torch.__version__


def test_the_machine_is_described(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    machine = describe_machine("cpu")
    assert machine["threads"] == torch.get_num_threads() and machine["device"] == "cpu"
    assert machine["processor"] and machine["cores"] >= 1
    assert machine["allocator"]["MALLOC_MMAP_MAX_"] == "0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "does not hold a benchmark in format 1"),
        (json.dumps({"format": 1, "task": "translation"}), "does not hold a benchmark in format 1"),
    ],
)
def test_another_file_is_refused(text, message, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=rf"x\.json {message}"):
        read_record(tmp_path / "x.json")
