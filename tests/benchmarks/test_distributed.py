"""What the benchmark of several processes counts, and that its command runs."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import distributed
from benchmarks.collectives import CountCollectives
from benchmarks.distributed import DistributedBenchmark, _model, launched_processes, run_distributed_benchmark
from benchmarks.record import read_record
from hf_ats.partition import parameters_at_level, partitioned_layers

REPOSITORY = Path(__file__).parents[2]
SETTINGS = dict(architecture="tiny", vocab_size=64, sentences=2, length=5, rounds=2)


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> dict:
    """What the command wrote, which starts two processes."""
    file = tmp_path_factory.mktemp("record") / "distributed.json"
    flags = [text for name, value in SETTINGS.items() for text in (f"--{name}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setattr(sys, "argv", ["distributed.py", *flags, "--output", str(file)])
        with pytest.raises(SystemExit) as ended:
            distributed.main()
    assert ended.value.code == 0
    return read_record(file)


def test_the_record_says_what_ran(record):
    assert record["command"].startswith("python -m benchmarks.distributed --architecture tiny")
    assert record["settings"]["processes"] == 2
    assert SETTINGS.items() <= record["settings"].items()
    json.dumps(record)


def test_each_step_sends_what_takes_part_in_it(record):
    model = _model(DistributedBenchmark(**SETTINGS))
    trainable = {
        level: sum(p.nbytes for p in parameters_at_level(model, level).values() if p.requires_grad)
        for level in ("core", "full")
    }
    figures = record["measurements"]
    assert figures["DDP, ours, core step"]["reduced_bytes"] == trainable["core"]
    assert figures["DDP, ours, full step"]["reduced_bytes"] == trainable["full"]
    # All gradients, and which parameters had one.
    assert figures["DDP, find_unused_parameters, core step"]["reduced_bytes"] >= trainable["full"]
    W = sum(layer.weight.nbytes for layer in partitioned_layers(model).values())
    full, core = (figures[f"FSDP 2, {level} step"] for level in ("full", "core"))
    assert full["scattered_bytes"] - core["scattered_bytes"] == W
    assert full["gathered_bytes"] - core["gathered_bytes"] == 2 * W


def test_ratios_have_their_limits_and_times_their_spread(record):
    ratios = record["ratios"]
    ours = ratios["bytes of a core step / bytes of a full step, DDP"]
    assert ours["value"] <= ours["limit"] * 1.01
    assert ratios["bytes of a core step / bytes of a full step, DDP with find_unused_parameters"]["value"] > 0.99
    timed = [name for name, ratio in ratios.items() if "median" in ratio]
    assert "alternating mean / alternating mean with find_unused_parameters" in timed
    assert all(0 < ratios[name]["low"] <= ratios[name]["median"] <= ratios[name]["high"] for name in timed)


def test_one_process_is_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched_processes() == 0
    with pytest.raises(ValueError, match="there is one process; launch the benchmark with torchrun"):
        run_distributed_benchmark(DistributedBenchmark(**SETTINGS))


def test_a_collective_counts_once_as_the_whole_tensor(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with CountCollectives() as counted:
            torch.distributed.all_reduce(torch.ones(5))
            torch.distributed.all_gather_into_tensor(torch.empty(3), torch.ones(3))
            torch.distributed.reduce_scatter_tensor(torch.empty(7), torch.ones(7))
            torch.distributed.broadcast(torch.ones(2), src=0)
            torch.ones(100) + 1
    finally:
        torch.distributed.destroy_process_group()
    assert counted.bytes == {"reduced": 20, "gathered": 12, "scattered": 28, "broadcast": 8}
