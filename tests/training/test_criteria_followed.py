"""What follows from the criteria of Theorem 1 in a training: a learning rate, a warning; and what is refused."""

import json
import logging
import math
import re
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import IterableDataset

from hf_ats.trainers import ATSSeq2SeqTrainer
from tests.support.laws import snapshot
from tests.support.models import partitioned, tiny_model
from tests.support.training import SequentialTrainer, arguments, make_trainer, sentences


def lines(directory) -> list[dict]:
    return [json.loads(line) for line in (directory / "criteria.jsonl").read_text().splitlines()]


# ---- alternate_lr_coef="auto" ----


def follow(trainer, **values):
    """What a training that measured these values at its beginning says; cosines of 1 unless given."""
    alphas = values.get("alpha", [1.0] * len(values.get("cosine", [])))
    cosines = values.get("cosine", [1.0] * len(alphas))
    history = [{"alpha_core": a, "cosine_core": c} for a, c in zip(alphas, cosines, strict=True)]
    trainer.criteria.on_train_begin(
        trainer.args, SimpleNamespace(log_history=history, is_world_process_zero=False, global_step=0), None
    )
    return trainer


def test_the_coefficient_is_the_least_alpha_of_five_measurements_within_its_range(tmp_path):
    trainer = make_trainer(partitioned(), tmp_path, alternate_lr_coef="auto")
    assert trainer.args.criteria_steps == 50
    for alphas, expected in (
        ([0.5], 0.5),
        ([0.5, 0.3, 0.9], 0.3),
        ([0.3, 0.5, 0.6, 0.7, 0.8, 0.9], 0.5),
        ([0.04, 0.5], 0.1),
        ([0.9, math.nan], 0.1),
    ):
        assert follow(trainer, alpha=alphas).lr_coefficient((0,)) == expected
        assert trainer.lr_coefficient((1,)) == trainer.lr_coefficient((0, 1)) == 1


def test_each_core_is_scaled_by_its_own_alpha(tmp_path):
    rates = []

    class Recording(ATSSeq2SeqTrainer):
        def create_optimizer(self, *positional, **keywords):
            optimizer = super().create_optimizer(*positional, **keywords)
            optimizer.register_step_pre_hook(lambda one, *_: rates.append(one.param_groups[0]["lr"] / 1e-2))
            return optimizer

    make_trainer(
        partitioned(partition="rank ladder"), tmp_path, Recording,
        alternate_lr_coef="auto", criteria_steps=10, max_steps=3, learning_rate=1e-2,
    ).train()  # fmt: skip
    core, level1 = (line["alpha"] for line in lines(tmp_path))
    assert core != level1 and rates == pytest.approx([1.0, core, level1])


def test_a_number_given_as_text_is_a_number(tmp_path):
    args = arguments(tmp_path, alternate_lr_coef="0.5")
    assert args.alternate_lr_coef == 0.5 and args.changed_fields()["alternate_lr_coef"] == 0.5
    assert "alternate_lr_coef" not in arguments(tmp_path, alternate_lr_coef="1").changed_fields()


# ---- Apart ----


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING)
    one = logging.getLogger("hf_ats")
    before, one.propagate = one.propagate, True
    library = logging.getLogger("transformers")
    of_library, library.propagate = library.propagate, True
    yield lambda: caplog.text
    one.propagate, library.propagate = before, of_library


class Against(SequentialTrainer):
    """A core whose loss falls where that of the full network rises."""

    def compute_loss(self, model, inputs, *positional, **keywords):
        loss = super().compute_loss(model, inputs, *positional, **keywords)
        return -loss if self._layers[0].level == 0 else loss


def test_undefined_values_are_null_and_gradients_that_stay_apart_are_told_once(tmp_path, said):
    trainer = make_trainer(partitioned(), tmp_path, Against, criteria_steps=1, max_steps=6, alternate_lr_coef="auto")
    trainer.train()
    for line in lines(tmp_path):
        assert line["cosine"] < 0 and line["c_sim"] > 0
        assert line["c_align"] is line["alpha"] is line["q"] is None
    logged = [entry for entry in trainer.state.log_history if "alpha_core" in entry]
    assert all(math.isnan(entry["alpha_core"]) and entry["alternate_lr_coef_core"] == 0.1 for entry in logged)
    assert said().count("pointed apart") == 1
    assert re.search(
        r"core and full have pointed apart in 3 measurements in a row, up to step 2 \(cosine -0\.\d+\)", said()
    )
    assert "Try alternate_lr_coef='auto' or a smaller number" in said()


def test_it_takes_three_in_a_row_and_a_resumed_run_says_it_no_second_time(tmp_path):
    trainer = make_trainer(partitioned(), tmp_path, criteria_steps=1)

    def apart_after(*cosines):
        follow(trainer, cosine=list(cosines))
        return trainer.criteria._follow({"alpha_core": math.nan, "cosine_core": -0.1})

    assert apart_after(0.1, -0.1, 0.0) == ["core"]
    assert apart_after(-0.1, -0.1, 0.1, -0.1) == []
    assert apart_after(-0.1, math.nan, -0.1) == []
    assert apart_after(-0.1, -0.1, -0.1) == apart_after(-0.1, -0.1, -0.1, 0.5, -0.1, -0.1) == []


def test_of_a_core_that_is_not_trained_nothing_is_said(tmp_path, said):
    make_trainer(partitioned(), tmp_path, Against, criteria_steps=1, max_steps=4, schedule="full").train()
    assert len(lines(tmp_path)) == 5 and "apart" not in said()


# ---- Refused ----


class Stream(IterableDataset):
    """Sentences without a length."""

    def __iter__(self):
        return iter(sentences())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(eval_dataset=[]), "criteria_steps=3 measures .* evaluation set, which is empty; give a set"),
        (dict(eval_dataset={"one": []}), "evaluation set, which is empty"),
        (dict(eval_dataset=[{**one, "labels": []} for one in sentences(2)]), "has no target token in its first batch"),
        (dict(dataset=Stream()), "criteria_steps=3 needs an eval_dataset, since the training set is a stream"),
    ],
)
def test_an_empty_batch_is_refused_before_training(fields, message, tmp_path):
    trainer = make_trainer(partitioned(), tmp_path, criteria_steps=3, **fields)
    before = snapshot(trainer.model)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert all(torch.equal(before[name], after) for name, after in snapshot(trainer.model).items())


def test_a_model_without_a_core_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"criteria_steps=3 compares .* this model has no core .*leave it out"):
        make_trainer(tiny_model("marian"), tmp_path, schedule="full", criteria_steps=3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(criteria_steps=0), "criteria_steps=0 is not a count; write 1 or more, or leave it out"),
        (dict(alternate_lr_coef="much"), "alternate_lr_coef='much' is neither a number nor 'auto'"),
        (dict(alternate_lr_coef=None), "alternate_lr_coef=None is neither a number nor 'auto'"),
        (dict(alternate_lr_coef="nan"), "alternate_lr_coef=nan is not a number that training can go by"),
        (dict(alternate_lr_coef="-1"), "alternate_lr_coef=-1.0 must be positive"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **fields)
