import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch

from hf_ats.trainers import ATSSeq2SeqTrainer
from hf_ats.training import SCHEDULES, levels_at_step, trained_levels
from tests.support.laws import assert_same_weights
from tests.support.models import partitioned, tiny_model
from tests.support.training import arguments, make_trainer, sentences


@pytest.mark.law(number=2)
def test_even_steps_train_the_full_network_and_odd_steps_the_core():
    assert [levels_at_step("alternating", step, 2) for step in range(5)] == [(1,), (0,), (1,), (0,), (1,)]


@pytest.mark.law(number=2)
def test_over_a_ladder_full_and_the_cores_take_turns():
    assert [levels_at_step("alternating", step, 4) for step in range(6)] == [(3,), (0,), (1,), (2,), (3,), (0,)]


@pytest.mark.law(number=2)
def test_the_other_schedules_are_constant():
    for step in range(4):
        assert levels_at_step("core", step, 3) == (0,)
        assert levels_at_step("full", step, 3) == (2,)
        assert levels_at_step("slimmable", step, 3) == (0, 1, 2)


@pytest.mark.law(number=2)
def test_alternating_is_the_pattern_of_full_and_the_cores():
    for step in range(9):
        assert levels_at_step("full core", step, 2) == levels_at_step("alternating", step, 2)
        assert levels_at_step("full core level1", step, 3) == levels_at_step("alternating", step, 3)
    assert [levels_at_step("level1 full full core", step, 3) for step in range(5)] == [(1,), (2,), (2,), (0,), (1,)]
    assert trained_levels("level1 core level1", 4) == [0, 1]


@pytest.mark.parametrize(("schedule", "num_levels"), [("full level1", 2), ("core full", 1), ("core level3 full", 4)])
def test_a_level_that_the_model_lacks_is_named(schedule, num_levels):
    lacking = {"full level1": "level1", "core full": "core", "core level3 full": "level3"}[schedule]
    with pytest.raises(ValueError, match=f"names the level '{lacking}', and the model has .*full; write one"):
        levels_at_step(schedule, 0, num_levels)


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "core"])
@pytest.mark.parametrize("num_levels", [1, 2, 4])
def test_the_full_level_comes_last_in_a_step(schedule, num_levels):
    # DistributedDataParallel's reduction runs at the full level, after the gradients of all others are there.
    for step in range(8):
        levels = levels_at_step(schedule, step, num_levels)
        assert levels == tuple(sorted(set(levels))) and set(levels) <= set(range(num_levels))


@pytest.mark.parametrize("schedule", [*SCHEDULES, "full core level1"])
@pytest.mark.parametrize("num_levels", [1, 2, 5])
def test_the_trained_levels_are_those_of_all_steps(schedule, num_levels):
    if "core" in schedule and num_levels < 3:
        return
    seen = set().union(*(levels_at_step(schedule, step, num_levels, seed=3) for step in range(200)))
    assert trained_levels(schedule, num_levels) == sorted(seen)


# ---- Schedules that draw ----

STEPS = 4000


def assert_uniform(draws, among):
    counts = Counter(draws)
    assert counts.keys() == set(among)
    # Five standard deviations of a binomial, and the seed is fixed.
    share = 1 / len(counts)
    assert all(abs(n / STEPS - share) < 5 * (share * (1 - share) / STEPS) ** 0.5 for n in counts.values()), counts


def drawn(schedule, num_levels, seed=0):
    return [levels_at_step(schedule, step, num_levels, seed) for step in range(STEPS)]


@pytest.mark.parametrize("num_levels", [2, 3, 5])
def test_random_trains_one_level_a_step_each_as_often(num_levels):
    draws = drawn("random", num_levels)
    assert_uniform(draws, [(level,) for level in range(num_levels)])
    # Two steps in a row are drawn apart.
    pairs = Counter(itertools.pairwise(draws))
    assert len(pairs) == num_levels**2 and max(pairs.values()) < 1.5 * STEPS / num_levels**2


def test_a_sandwich_is_full_the_smallest_core_and_one_between_each_as_often():
    assert_uniform(drawn("sandwich", 5), [(0, 1, 4), (0, 2, 4), (0, 3, 4)])


@pytest.mark.parametrize("num_levels", [1, 2, 3])
def test_a_sandwich_of_few_levels_is_slimmable(num_levels):
    for step in range(8):
        assert levels_at_step("sandwich", step, num_levels) == levels_at_step("slimmable", step, num_levels)


@pytest.mark.law(number=2)
@pytest.mark.parametrize("schedule", ["random", "sandwich"])
def test_what_a_step_draws_depends_on_seed_and_step_alone(schedule):
    before = drawn(schedule, 5, seed=7)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert [levels_at_step(schedule, step, 5, seed=7) for step in reversed(range(STEPS))] == before[::-1]
    other = drawn(schedule, 5, seed=8)
    same = np.mean([one == two for one, two in zip(before, other, strict=True)])
    assert same < 1.5 / len(set(before))


@pytest.mark.law(number=2)
def test_draws_stay_as_they_are():
    # In every process and release: a checkpoint of today is resumed with what follows.
    assert [levels_at_step("random", step, 3)[0] for step in range(12)] == [2, 2, 0, 0, 2, 1, 2, 2, 2, 0, 1, 1]
    assert [levels_at_step("sandwich", step, 5, seed=1)[1] for step in range(8)] == [2, 3, 2, 3, 1, 2, 2, 1]


# ---- In the trainer, over four levels ----


@pytest.mark.law(number=2)
def test_the_trainer_draws_by_its_seed(tmp_path):
    def levels(seed):
        trainer = make_trainer(partitioned(partition="width ladder"), tmp_path, schedule="random", seed=seed)
        return [trainer.levels_at_step(step) for step in range(50)]

    assert levels(1) == [levels_at_step("random", step, 4, seed=1) for step in range(50)]
    assert levels(1) != levels(2)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("alternating", {"core": 0.5, "level1": 0.5, "level2": 0.5, "full": 1.0}),
        ("random", {"core": 0.5, "level1": 0.5, "level2": 0.5, "full": 1.0}),
        ("slimmable", {"core": 1.0, "level1": 1.0, "level2": 1.0, "full": 1.0}),
        ("sandwich", {"core": 1.0, "level1": 1.0, "level2": 1.0, "full": 1.0}),
        ("core", {"core": 0.5}),
        ("level1 full core", {"level1": 0.5, "full": 1.0, "core": 0.5}),
        ("full", {"full": 1.0}),
    ],
)
def test_the_coefficient_scales_steps_of_cores_alone_and_the_log_says_so(schedule, expected, tmp_path):
    rates = {}

    class Recording(ATSSeq2SeqTrainer):
        def create_optimizer(self, *positional, **keywords):
            optimizer = super().create_optimizer(*positional, **keywords)

            def note(optimizer, *_):
                for level in self.levels_at_step(self.state.global_step):
                    rates.setdefault(self.level_names[level], set()).add(optimizer.param_groups[0]["lr"] / 1e-2)

            optimizer.register_step_pre_hook(note)
            return optimizer

    trainer = make_trainer(
        partitioned(partition="width ladder"), tmp_path, Recording,
        schedule=schedule, alternate_lr_coef=0.5, max_steps=12, logging_strategy="steps", logging_steps=1,
    )  # fmt: skip
    trainer.train()
    # What the optimizer ran at, and what each log says, also of the levels that its steps did not train.
    assert rates == {name: {share} for name, share in expected.items()}
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 12
    for entry in logs:
        logged = {k.removeprefix("learning_rate_"): v / 1e-2 for k, v in entry.items() if "learning_rate_" in k}
        assert logged == expected


@pytest.mark.law(number=2)
@pytest.mark.parametrize("stop", [1, 2, 5])
@pytest.mark.parametrize("schedule", ["random", "sandwich"])
def test_a_run_resumed_after_any_step_draws_on(schedule, stop, tmp_path):
    def run(directory, resume=None):
        model = partitioned(partition="width ladder", dropout=0.1)
        make_trainer(
            model, tmp_path / directory, ATSSeq2SeqTrainer,
            schedule=schedule, max_steps=7, save_strategy="steps", save_steps=stop, seed=5,
        ).train(resume_from_checkpoint=resume)  # fmt: skip
        return model

    whole = run("whole")
    resumed = run("resumed", resume=str(tmp_path / "whole" / f"checkpoint-{stop}"))
    assert_same_weights(whole, resumed)


# ---- Patterns ----


def test_a_pattern_is_the_schedule_of_the_run(tmp_path):
    trainer = make_trainer(
        partitioned(partition="width ladder"), tmp_path, schedule_pattern=["level2", "level2", "core"], max_steps=4,
        load_best_model_at_end=True, eval_strategy="steps", save_strategy="steps", eval_steps=4, save_steps=4,
        eval_dataset=sentences(4),
    )  # fmt: skip
    args = trainer.args
    assert (args.schedule, args.metric_for_best_model) == ("level2 level2 core", "level2_loss")
    assert args.changed_fields()["schedule_pattern"] == ["level2", "level2", "core"]
    trainer.train()
    losses = {name.removesuffix("_loss") for name in trainer.evaluate() if name.endswith("_loss")}
    assert losses == {"eval_core", "eval_level2"}
    again = make_trainer(partitioned(partition="width ladder"), tmp_path, schedule="level2 core core")
    with pytest.raises(ValueError, match="with schedule='level2 level2 core', and this run has schedule='level2 core"):
        again.train(resume_from_checkpoint=True)


@pytest.mark.law(number=7)
def test_a_pattern_trains_as_the_schedule_that_it_spells(tmp_path):
    def trained(**fields):
        model = partitioned()
        make_trainer(model, tmp_path, max_steps=3, **fields).train()
        return model

    assert_same_weights(trained(), trained(schedule_pattern=["full", "core"]))
    assert_same_weights(trained(schedule="core"), trained(schedule_pattern=["core"]))
    with pytest.raises(AssertionError):
        assert_same_weights(trained(), trained(schedule_pattern=["core", "full"]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(schedule_pattern=[]), r"schedule_pattern=\[\] has no step; name levels"),
        (dict(schedule_pattern=["full", "cor"]), "schedule='full cor' is not known; write one of .*full full core"),
        (dict(schedule_pattern=["full", "random"]), "schedule='full random' is not known"),
        (dict(schedule=""), "schedule='' is not known"),
        (dict(schedule_pattern=["core"], schedule="full"), r"schedule='full' and schedule_pattern=\['core'\] are two"),
    ],
)
def test_what_is_no_pattern_is_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **fields)


def test_a_pattern_beside_the_schedule_that_it_spells_is_no_contradiction(tmp_path):
    args = arguments(tmp_path, schedule="core full", schedule_pattern="core full")  # one word of a recipe
    assert args.schedule == "core full"


def test_an_unpartitioned_model_has_no_pattern_but_full(tmp_path):
    trainer = make_trainer(tiny_model("marian"), tmp_path, schedule_pattern=["full", "full"])
    assert trainer.trained_levels == [0]
    with pytest.raises(ValueError, match="schedule='full core' needs a partitioned model"):
        make_trainer(tiny_model("marian"), tmp_path, schedule_pattern=["full", "core"])
