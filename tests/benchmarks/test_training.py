"""The benchmark of training steps: that it times what it says, never how long that takes."""

import pickle

import pytest
import torch

from benchmarks import training as benchmark
from benchmarks.record import read_record
from benchmarks.training import (
    ALTERNATING,
    CORE,
    FULL,
    SLIMMABLE,
    STOCK,
    STOCK_OUR_LOSS,
    TrainingBenchmark,
    TrainingSteps,
)
from hf_ats.partition import parameters_at_level, partitioned_layers
from tests.support.laws import snapshot

TINY = dict(architecture="tiny", vocab_size=97, batch_tokens=60, length=5, dropout=0.0)


def steps(**overrides):
    return TrainingSteps(TrainingBenchmark(**(TINY | overrides)))


def test_the_command_writes_a_record_and_prints_its_ratios(tmp_path, monkeypatch, command):
    def in_this_process(work, *arguments, device):
        pickle.dumps((work, arguments))  # as for a process of its own
        work(*arguments)
        return {STOCK: 1, ALTERNATING: 3}[arguments[1]]

    def shares(step, vocab_size, device):
        step()
        return {"attention": 0.25, "dropout": 0.75}

    monkeypatch.setattr(benchmark, "peak_memory", in_this_process)
    monkeypatch.setattr(benchmark, "profile_shares", shares)
    flags = "--architecture tiny --vocab_size 97 --batch_tokens 60 --length 5 --rounds 2 --threads 1".split()
    output = command(benchmark, *flags, "--output", tmp_path / "training.json")
    record = read_record(tmp_path / "training.json")
    assert record["command"].startswith("python -m benchmarks.training --architecture tiny")
    assert set(record["measurements"]) == {STOCK, STOCK_OUR_LOSS, FULL, CORE, SLIMMABLE, ALTERNATING}
    for name in record["ratios"]:
        assert name in output
    assert record["ratios"]["peak memory, alternating / stock training"] == {"value": 3.0}
    profiled = [name for name, figures in record["measurements"].items() if "profile" in figures]
    assert profiled == [STOCK, FULL, CORE] and record["machine"]["threads"] == 1
    for figures in record["measurements"].values():
        assert 0 < figures["seconds"]["low"] <= figures["seconds"]["median"] <= figures["seconds"]["high"]
        tokens = figures["tokens_per_second"] * figures["seconds"]["median"]
        assert tokens == pytest.approx(60)


def test_the_limits_are_those_of_the_operations():
    flops = steps().flops()
    assert flops[STOCK] == flops[STOCK_OUR_LOSS] and flops[SLIMMABLE] == flops[FULL] + flops[CORE]
    assert flops[CORE] < flops[STOCK] <= flops[FULL]
    seconds = {name: [float(count)] for name, count in flops.items()}
    for name, quotient in benchmark._ratios(seconds, flops).items():
        assert quotient["median"] == pytest.approx(quotient["limit"], rel=1e-6), name


@pytest.mark.parametrize("name", [FULL, CORE, SLIMMABLE])
def test_a_step_trains_what_it_is_named_after(name):
    ready = steps()
    model = ready.models["ours"]
    before = snapshot(model)
    core = parameters_at_level(model, "core")
    ready.run(name)
    moved = {key for key, value in model.named_parameters() if not torch.equal(before[key], value)}
    W = {key for key, _ in model.named_parameters() if key not in core}
    assert moved & set(core)
    assert moved & W == (set() if name == CORE else W)


def test_stock_steps_know_nothing_of_ours_and_train_the_same_network():
    ready = steps()
    assert not any(type(module).__module__.startswith("hf_ats") for module in ready.models["stock"].modules())
    assert not ready.models["stock"].lm_head.weight._backward_hooks
    ready.check()
    with torch.no_grad():
        next(iter(partitioned_layers(ready.models["ours"]).values())).weight.mul_(1.1)  # one layer of many
    with pytest.raises(ValueError, match="the losses differ"):
        ready.check()


def test_both_stock_steps_make_the_same_update():
    """Transformers' loss and ours, so that the ratio of their times is of the loss alone."""
    first, second = steps(), steps()
    first.run(STOCK)
    second.run(STOCK_OUR_LOSS)
    for (name, one), other in zip(
        first.models["stock"].named_parameters(), second.models["stock"].parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5, msg=name)


def test_a_batch_without_a_pair_is_refused():
    with pytest.raises(ValueError, match="batch_tokens=9 holds no pair of 5 and 5 tokens"):
        TrainingBenchmark(**(TINY | dict(batch_tokens=9)))
