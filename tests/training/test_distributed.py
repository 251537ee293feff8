"""The laws over two real processes (gloo on the CPU)."""

import json
from pathlib import Path

import pytest
import torch

from hf_ats.partition import parameters_at_level
from tests.support.distributed import assert_same_state, launch, train_on_one_process
from tests.support.laws import assert_moved
from tests.support.models import partitioned, tiny_model
from tests.support.summed import examples, summed_trainer
from tests.support.training import FirstOfWindow, make_trainer, sentences, train_pictures


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("two_processes")
    tiny_model("marian").save_pretrained(out / "stock")
    launch("-m", "tests.support.distributed.worker", str(out))
    return out


@pytest.mark.law(number=8)
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("alternating", {}),
        ("accumulated", {}),
        ("checkpointing", {}),
        ("reentrant", {}),
        ("slimmable_accumulated", dict(schedule="slimmable")),
        ("slimmable", dict(schedule="slimmable")),
        ("core", dict(schedule="core")),
        ("ladder", dict(partition="rank ladder")),
        ("width", dict(partition="width")),
        ("composition", dict(partition="composition")),
        ("vocabulary", dict(partition="vocabulary")),
        ("width_ladder", dict(partition="width ladder", schedule="random")),
        ("auto", dict(alternate_lr_coef="auto", criteria_steps=2)),
    ],
)
def test_two_processes_train_what_one_does(name, fields, two_processes, tmp_path):
    # Double precision: what is left is the order of the sums, which AdamW's division can enlarge.
    assert_same_state(
        torch.load(two_processes / f"{name}.pt"), train_on_one_process(tmp_path, **fields), rtol=1e-6, atol=1e-9
    )


@pytest.mark.law(number=8)
@pytest.mark.parametrize("schedule", ["alternating", "slimmable"])
def test_two_processes_share_gradients_and_the_batch_statistics_of_the_first(schedule, two_processes, tmp_path):
    ranks = [torch.load(two_processes / f"pictures_{schedule}{rank}.pt") for rank in (0, 1)]
    assert_same_state(*ranks, rtol=0, atol=0)
    # Each process normalises its own batch, as one process does micro-batch by micro-batch.
    accumulated = train_pictures(tmp_path, FirstOfWindow, schedule=schedule, gradient_accumulation_steps=2)
    assert_same_state(ranks[0], accumulated.state_dict(), rtol=1e-6, atol=1e-9)
    other = train_pictures(tmp_path / "other", schedule=schedule, gradient_accumulation_steps=2).state_dict()
    statistics = [name for name in other if "running" in name]
    assert_moved(ranks[0], other, statistics)


@pytest.mark.law(number=5)
def test_reducing_the_core_alone_gives_bitwise_what_the_search_for_unused_parameters_gives(two_processes):
    assert_same_state(
        torch.load(two_processes / "alternating.pt"), torch.load(two_processes / "find_unused.pt"), rtol=0, atol=0
    )


def test_measuring_the_criteria_changes_nothing_and_every_process_knows_the_same(two_processes):
    assert_same_state(
        torch.load(two_processes / "alternating.pt"), torch.load(two_processes / "measured.pt"), rtol=0, atol=0
    )
    logs = [torch.load(two_processes / f"rank{rank}.pt")["measured_log"] for rank in (0, 1)]
    first, second = ([entry for entry in log if "alpha_core" in entry] for log in logs)
    assert first == second and [entry["step"] for entry in first] == [0, 2, 4, 6]
    assert first[-1]["alternate_lr_coef_core"] < 1
    lines = (two_processes / "auto" / "criteria.jsonl").read_text().splitlines()
    assert [json.loads(line)["alpha"] for line in lines] == [entry["alpha_core"] for entry in first]


@pytest.mark.law(number=2)
@pytest.mark.parametrize(
    "stop", [2, 7], ids=["after an odd step of the first epoch", "after an even one of the second"]
)
def test_a_resume_in_the_middle_of_an_epoch_is_exact(stop, two_processes):
    steps = len(torch.load(two_processes / "rank0.pt")["reduced"])  # of an epoch of the same batches
    assert stop // steps == (stop > 2) and stop % steps
    assert_same_state(
        torch.load(two_processes / "whole.pt"), torch.load(two_processes / f"resumed{stop}.pt"), rtol=0, atol=0
    )


@pytest.mark.law(number=2)
def test_a_signal_to_one_process_ends_both_after_the_same_step(two_processes):
    whole, resumed = (torch.load(two_processes / f"{name}.pt") for name in ("whole", "resumed4"))
    assert not (two_processes / "stopped.pt").exists()
    assert_same_state(whole, resumed, rtol=0, atol=0)


@pytest.mark.law(number=5)
def test_every_step_of_a_ladder_by_width_sends_its_level_alone(two_processes):
    model = partitioned(partition="width ladder")
    levels = ["full", "core", "level1", "level2"]
    sizes = [sum(p.nbytes for p in parameters_at_level(model, level).values() if p.requires_grad) for level in levels]
    assert sorted(sizes[1:]) == sizes[1:] and sizes[-1] < sizes[0]
    for rank in (0, 1):
        record = torch.load(two_processes / f"rank{rank}.pt")
        steps = len(record["sent_by_width"])
        assert steps >= 4
        assert record["sent_by_width"] == (sizes * steps)[:steps]
        assert record["reduced_by_width"] == ([sizes[0], 0, 0, 0] * steps)[:steps]


@pytest.mark.law(number=5)
def test_a_core_step_sends_the_core_alone(two_processes):
    model = partitioned()
    bytes_of = {
        level: sum(p.nbytes for p in parameters_at_level(model, level).values() if p.requires_grad)
        for level in ("core", "full")
    }
    assert bytes_of["core"] < bytes_of["full"]
    for rank in (0, 1):
        record = torch.load(two_processes / f"rank{rank}.pt")
        full_steps, core_steps = (
            set(zip(record["reduced"][first::2], record["sent"][first::2], strict=True)) for first in (0, 1)
        )
        # What DistributedDataParallel reduces, and what is sent in all, by it or by whoever else.
        assert full_steps == {(bytes_of["full"], bytes_of["full"])}
        assert core_steps == {(0, bytes_of["core"])}


@pytest.mark.law(number=5)
@pytest.mark.law(number=8)
def test_a_sum_of_two_networks_trains_as_on_one_and_core_steps_send_the_core_alone(two_processes, tmp_path):
    trainer = summed_trainer(tmp_path, examples(), double=True)
    trainer.train()
    model = trainer.model
    core, full = (sum(p.nbytes for p in parameters_at_level(model, level).values()) for level in (0, 1))
    assert core < full
    for rank in (0, 1):
        assert_same_state(torch.load(two_processes / f"sum{rank}.pt"), model.state_dict(), rtol=1e-6, atol=1e-9)
        # DistributedDataParallel reduces full steps where this does not look.
        assert torch.load(two_processes / f"rank{rank}.pt")["sent_by_sum"] == [0, core] * 3


@pytest.mark.law(number=8)
def test_every_level_is_scored_on_every_sentence_once_as_on_one_process(two_processes, tmp_path):
    trainer = make_trainer(partitioned(), tmp_path, eval_dataset=sentences(7, seed=1))
    expected = trainer.evaluate()
    for rank in (0, 1):
        metrics = torch.load(two_processes / f"rank{rank}.pt")["metrics"]
        for level in ("core", "full"):
            assert metrics[f"eval_{level}_sentences"] == 7
            assert metrics[f"eval_{level}_loss"] == pytest.approx(expected[f"eval_{level}_loss"], rel=1e-5)


def test_each_sentence_is_trained_on_once_and_every_rank_takes_as_many_batches(two_processes):
    ranks = [torch.load(two_processes / f"rank{rank}.pt") for rank in (0, 1)]
    assert len(ranks[0]["reduced"]) == len(ranks[1]["reduced"])
    assert sorted(ranks[0]["sentences"] + ranks[1]["sentences"]) == sorted(tuple(s["labels"]) for s in sentences())
    assert ranks[0]["sentences"] and ranks[1]["sentences"]


def test_logs_by_level_are_those_of_one_process(two_processes, tmp_path):
    model = partitioned().double()
    fields = dict(per_device_train_batch_size=4, weight_decay=0.1, label_smoothing_factor=0.1)
    trainer = make_trainer(model, tmp_path, logging_strategy="steps", logging_steps=2, **fields)
    trainer.train()
    other = torch.load(two_processes / "rank0.pt")["log"]
    for one, two in zip(trainer.state.log_history, other, strict=True):
        assert one.keys() == two.keys()
        for name in {"loss", "loss_core", "loss_full", "grad_norm_core", "grad_norm_full"} & one.keys():
            assert one[name] == pytest.approx(two[name], rel=1e-5), name


def test_the_pad_row_that_is_held_back_stays_as_it_was(two_processes):
    model = partitioned().double()
    pad = model.config.pad_token_id
    before, after = model.state_dict(), torch.load(two_processes / "padded.pt")
    name = "lm_head.weight"
    assert torch.equal(after[name][pad], before[name][pad])
    assert not torch.equal(after[name][pad - 1], before[name][pad - 1])


def test_a_pretrained_model_whose_table_of_positions_was_left_unfrozen_trains(two_processes):
    before = tiny_model("marian").state_dict()["model.encoder.embed_positions.weight"]
    after = torch.load(two_processes / "pretrained.pt")["model.encoder.embed_positions.weight"]
    torch.testing.assert_close(after.float(), before)


@pytest.mark.law(number=10)
def test_dropping_layers_on_several_processes_is_refused(two_processes):
    for rank in (0, 1):
        assert torch.load(two_processes / f"rank{rank}.pt")["refused"].startswith("layerdrop=0.1 makes each process")
