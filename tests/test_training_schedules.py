import pytest

from hf_ats.training import SCHEDULES, levels_at_step, trained_levels


def test_even_steps_train_the_full_network_and_odd_steps_the_core():
    assert [levels_at_step("alternating", step, 2) for step in range(5)] == [(1,), (0,), (1,), (0,), (1,)]


def test_over_a_ladder_full_and_the_cores_take_turns():
    assert [levels_at_step("alternating", step, 4) for step in range(6)] == [(3,), (0,), (1,), (2,), (3,), (0,)]


def test_the_other_schedules_are_constant():
    for step in range(4):
        assert levels_at_step("core", step, 3) == (0,)
        assert levels_at_step("full", step, 3) == (2,)
        assert levels_at_step("slimmable", step, 3) == (0, 1, 2)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_levels", [1, 2, 4])
def test_the_full_level_comes_last_in_a_step(schedule, num_levels):
    # DistributedDataParallel's reduction runs at the full level, after the gradients of all others are there.
    for step in range(8):
        levels = levels_at_step(schedule, step, num_levels)
        assert levels == tuple(sorted(levels)) and set(levels) <= set(trained_levels(schedule, num_levels))
