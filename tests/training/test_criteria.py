"""The criteria of Theorem 1 during a training: what they are, and that the training does not notice them."""

import json
import random

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from hf_ats.partial_sgd import criteria
from hf_ats.partition import PartitionConfig, at_level, parameters_at_level, partition_
from hf_ats.trainers import ATSSeq2SeqTrainer
from tests.support.laws import assert_same_weights
from tests.support.models import partitioned, pictures, tiny_resnet
from tests.support.training import (
    SaveAt,
    SequentialPlainTrainer,
    Watch,
    collator,
    make_trainer,
    plain_arguments,
    sentences,
)

OF_A_LINE = ["step", "level", "c_norm", "c_norm_squared", "c_sim", "c_align", "alpha", "q", "cosine", "layers"]


def lines(directory) -> list[dict]:
    return [json.loads(line) for line in (directory / "criteria.jsonl").read_text().splitlines()]


def run(directory, resume=None, partition="rank", **fields):
    """A training with dropout, whose batches are drawn, and the copies of its weights and optimizer's state."""
    watch = Watch()
    trainer = make_trainer(
        partitioned(partition=partition, dropout=0.1), directory, ATSSeq2SeqTrainer,
        callbacks=[watch, *fields.pop("callbacks", [])],
        **(dict(eval_dataset=sentences(6, seed=1), max_steps=5) | fields),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer, watch


# ---- What they are ----


def formulas(model, batch, level):
    """The criteria of a level over a batch, by plain backward passes."""
    gradients = {}
    for at in ("full", level):
        with at_level(model, at):
            model.zero_grad()
            model(**batch).loss.backward()
        gradients[at] = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    kept = parameters_at_level(model, level)
    g, h = (
        torch.cat([gradients[at][name].flatten() for name in gradients[level] if name in kept])
        for at in ("full", level)
    )
    whole = torch.cat([one.flatten() for one in gradients["full"].values()])
    model.zero_grad()
    c_norm, c_sim, c_align = whole.norm() / g.norm(), g.norm() / h.norm(), g.norm() * h.norm() / (g @ h)
    alpha = min(1.0, float(g @ h / h.norm() ** 2))
    values = [c_norm, c_norm**2, c_sim, c_align, alpha, c_norm * max(c_sim, c_align), 1 / c_align]
    return [float(value) for value in values]


@pytest.mark.parametrize("partition", ["rank ladder", "width ladder"])
def test_they_are_the_formulas_on_half_a_batch_of_the_evaluation_set(partition, tmp_path):
    model = partitioned(partition=partition, dropout=0.1).double()
    data = sentences(6, seed=1)
    batch = collator(model)(data[:4])
    cores = ["core", "level1", "level2"][: 2 if partition.startswith("rank") else 3]
    expected = [formulas(model, batch, level) for level in cores]
    make_trainer(
        model, tmp_path, eval_dataset=data, per_device_train_batch_size=8, criteria_steps=2, max_steps=2
    ).train()
    model.eval()
    expected += [formulas(model, batch, level) for level in cores]
    found = lines(tmp_path)
    assert [(line["step"], line["level"]) for line in found] == [(step, core) for step in (0, 2) for core in cores]
    for line, values in zip(found, expected, strict=True):
        assert list(line) == OF_A_LINE
        assert list(line.values())[2:-1] == pytest.approx(values)
    assert found[0]["c_norm"] != found[len(cores)]["c_norm"]


@pytest.mark.parametrize("partition", ["rank", "vocabulary"])
def test_the_logs_have_the_whole_model_and_the_file_has_its_blocks(partition, tmp_path):
    trainer, _ = run(tmp_path, criteria_steps=5, partition=partition)
    logged = [entry for entry in trainer.state.log_history if "alpha_core" in entry]
    for entry, line in zip(logged, lines(tmp_path), strict=True):
        assert entry["step"] == line["step"]
        for name in OF_A_LINE[2:-1]:
            assert entry[f"{name}_core"] == line[name]
        blocks = [f"model.{side}.layers.{number}" for side in ("encoder", "decoder") for number in (0, 1)]
        assert list(line["layers"]) == ["model.shared", *blocks]
        for values in line["layers"].values():
            c_norm, squared, c_sim, c_align, alpha, q, cosine = values
            assert squared == pytest.approx(c_norm**2, rel=1e-2) and cosine == pytest.approx(1 / c_align, rel=1e-2)
            assert q == pytest.approx(c_norm * max(c_sim, c_align), rel=1e-2) and 0 < alpha <= 1
        # The core trains the whole table, or of a sum the factors alone.
        assert (line["layers"]["model.shared"][0] == 1) == (partition == "rank")
    assert len(logged) == 2 and 0 < trainer.state.log_history[-1]["criteria_seconds"] < 60


def test_without_an_evaluation_set_the_batch_is_the_training_sets(tmp_path):
    once = dict(criteria_steps=5, max_steps=1)
    run(tmp_path / "eval", eval_dataset=sentences(24)[:2], **once)
    run(tmp_path / "train", eval_dataset=None, **once)
    run(tmp_path / "named", eval_dataset={"one": sentences(4), "other": sentences(5, seed=3)}, **once)
    first, second, third = (lines(tmp_path / name)[0] for name in ("eval", "train", "named"))
    assert first == second == third


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        (dict(per_device_train_batch_size=1), 1),
        (dict(per_device_train_batch_size=5), 2),
        (dict(per_device_train_batch_size=5, gradient_accumulation_steps=2), 5),
        (dict(per_device_train_batch_size=50), 6),
        (dict(max_tokens=80), 3),
        (dict(max_tokens=80, max_tokens_counts="longest"), 5),
        (dict(max_tokens=40, gradient_accumulation_steps=2), 3),
        (dict(max_tokens=22), 1),
    ],
)
def test_the_batch_is_half_a_micro_batch_or_one_if_a_step_has_several(fields, number, tmp_path):
    data = [
        {"input_ids": [5] * source, "attention_mask": [1] * source, "labels": [6] * target}
        for source, target in ((7, 4), (3, 4), (5, 6), (8, 8), (4, 4), (9, 4))
    ]
    trainer = make_trainer(partitioned(), tmp_path, ATSSeq2SeqTrainer, criteria_steps=2, eval_dataset=data, **fields)
    trainer.criteria.prepare()
    assert len(trainer.criteria._batch["labels"]) == number


# ---- The training does not notice ----


def same_logs(one, other):
    """All that the second logged is in the first, in the same order, beside the criteria."""
    of_run = ("runtime", "per_second")
    first, second = (
        [
            {name: value for name, value in entry.items() if not name.endswith(of_run) and name != "criteria_seconds"}
            for entry in trainer.state.log_history
            if "alpha_core" not in entry
        ]
        for trainer in (one, other)
    )
    assert first == second and len(first) > 2


def same_course(one: Watch, other: Watch):
    for first, second in ((one.weights, other.weights), (one.states, other.states)):
        assert len(first) == len(second) > 1
        for before, after in zip(first, second, strict=True):
            assert before.keys() == after.keys()
            assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "fields",
    [
        dict(partition="width ladder", schedule="slimmable"),
        dict(gradient_accumulation_steps=2, schedule_pattern=["core", "full"]),
        dict(bf16=True, eval_dataset=None),
    ],
    ids=["ladder", "accumulation", "mixed precision"],
)
def test_weights_optimizer_and_logs_are_bitwise_those_of_a_run_without(fields, tmp_path):
    fields |= dict(logging_strategy="steps", logging_steps=1, max_steps=3)
    without, course = run(tmp_path / "without", **fields)
    random_after = torch.get_rng_state(), random.random(), np.random.random()  # noqa: NPY002
    with_them, same = run(tmp_path / "with", criteria_steps=1, **fields)
    same_course(course, same)
    same_logs(with_them, without)
    assert torch.equal(random_after[0], torch.get_rng_state())
    assert random_after[1:] == (random.random(), np.random.random())  # noqa: NPY002
    assert len(lines(tmp_path / "with")) == 4 * (len(with_them.level_names) - 1)


class Gradients(TrainerCallback):
    """Puts something into `.grad` before a step, where nothing is, and looks whether it is still there after it."""

    def __init__(self):
        self.kept = []

    def on_step_end(self, args, state, control, model, **kwargs):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 7)

    def on_step_begin(self, args, state, control, model, **kwargs):
        if state.global_step:
            self.kept.append(all((p.grad == 7).all() for p in model.parameters()))
            model.zero_grad()


def test_gradients_modes_and_levels_stay_as_they_are(tmp_path):
    # A user's callbacks come before the trainer's own.
    gradients = Gradients()
    trainer, _ = run(tmp_path, criteria_steps=1, max_steps=3, callbacks=[gradients])
    assert gradients.kept == [True, True]
    assert trainer.model.training and all(layer.level == 1 for layer in trainer._layers)


def test_batch_normalizations_take_the_batch_and_keep_their_statistics(tmp_path):
    def trained(name, **fields):
        model = partition_(tiny_resnet(), PartitionConfig(method="width", ratios=[0.25, 0.5])).eval()
        args = plain_arguments(tmp_path / name, max_steps=3, per_device_train_batch_size=8, **fields)
        SequentialPlainTrainer(model, args, train_dataset=pictures(12)).train()
        return model

    measured = trained("with", criteria_steps=1)
    assert_same_weights(trained("without"), measured)
    first = lines(tmp_path / "with")[0]
    model = partition_(tiny_resnet(), PartitionConfig(method="width", ratios=[0.25, 0.5])).train()
    examples = pictures(12)[:4]
    batch = {
        "pixel_values": torch.stack([one["pixel_values"] for one in examples]),
        "labels": torch.tensor([one["labels"] for one in examples]),
    }
    found = {}
    for level in ("full", "core"):
        with at_level(model, level):
            named = parameters_at_level(model, level)
            found[level] = dict(zip(named, torch.autograd.grad(model(**batch).loss, named.values()), strict=True))
    shared = {name: name in found["core"] for name in found["full"]}
    assert not all(name in shared for name in found["core"])  # its normalizations are its own
    h = {name: value for name, value in found["core"].items() if name in shared}
    expected = criteria(found["full"], h, shared)
    assert first["alpha"] == pytest.approx(expected.alpha) and first["q"] == pytest.approx(expected.q)
    assert "resnet.encoder.stages.0" in first["layers"]


# ---- Going on ----


@pytest.mark.law(number=2)
def test_a_resumed_run_ends_with_the_same_file_and_follows_the_same_alpha(tmp_path):
    fields = dict(criteria_steps=2, alternate_lr_coef="auto", max_steps=6, save_strategy="no")
    fields |= dict(logging_strategy="steps", logging_steps=1, partition="rank ladder")
    first, _ = run(tmp_path / "run", callbacks=[SaveAt(2, 3)], **fields)
    whole = (tmp_path / "run/criteria.jsonl").read_text()
    coefficients = {entry["learning_rate_core"] for entry in first.state.log_history if "loss" in entry}
    assert len(coefficients) > 1 and 1e-2 not in coefficients
    # From a step that was measured, into the same folder, whose file goes on after it; from another, and elsewhere.
    for stop, directory in ((2, tmp_path / "run"), (3, tmp_path / "elsewhere")):
        second, _ = run(directory, resume=str(tmp_path / f"run/checkpoint-{stop}"), **fields)
        assert (directory / "criteria.jsonl").read_text() == whole
        assert_same_weights(first.model, second.model)
        assert second.state.log_history[:-1] == first.state.log_history[:-1]


def test_a_new_run_begins_a_new_file(tmp_path):
    for _ in range(2):
        run(tmp_path, criteria_steps=1, max_steps=1)
        assert [line["step"] for line in lines(tmp_path)] == [0, 1]
