"""`warmup_init_lr`: fairseq's warm-up, from its definition, in the scheduler, the optimizer, the logs and a resume."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers import get_inverse_sqrt_schedule

from hf_ats.trainers import ATSSeq2SeqTrainer
from hf_ats.training.learning_rate import inverse_sqrt_schedule
from tests.support.laws import assert_same_weights
from tests.support.models import partitioned
from tests.support.training import arguments, make_trainer


def defined_rates(steps: int, lr: float, warmup_init_lr: float, warmup: int) -> list[float]:
    """The learning rate of each update: linear between the two, then in proportion to 1 / sqrt(updates before)."""
    start = 0.0 if warmup_init_lr < 0 else warmup_init_lr
    rising = np.linspace(start, lr, warmup + 1)[:warmup]
    falling = lr * np.sqrt(warmup) / np.sqrt(np.arange(warmup, max(steps, warmup)))
    return np.concatenate([rising, falling])[:steps].tolist()


def run(make_scheduler, steps: int, rates=(7e-4,)) -> list[list[float]]:
    """Of each step the learning rate of each parameter group."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    optimizer = torch.optim.SGD(groups)
    scheduler = make_scheduler(optimizer)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("warmup", [1, 7, 4000])
def test_the_warm_up_and_what_follows_are_the_definition(warmup):
    steps = 3 * warmup + 5
    rates = run(lambda optimizer: inverse_sqrt_schedule(optimizer, 1e-7, warmup), steps)
    assert [rate for (rate,) in rates] == pytest.approx(defined_rates(steps, 7e-4, 1e-7, warmup), rel=1e-12)
    # By hand: the first step, and a quarter of the peak's square.
    assert rates[0] == [pytest.approx(1e-7)] and rates[warmup] == [pytest.approx(7e-4)]
    assert run(lambda optimizer: inverse_sqrt_schedule(optimizer, 1e-7, 4), 17)[16] == [pytest.approx(3.5e-4)]


def test_from_zero_it_is_the_schedule_of_transformers():
    ours = run(lambda optimizer: inverse_sqrt_schedule(optimizer, 0.0, 5), 30)
    theirs = run(lambda optimizer: get_inverse_sqrt_schedule(optimizer, 5), 30)
    assert np.array(ours) == pytest.approx(np.array(theirs), rel=1e-12)


def test_groups_of_different_rates_start_together_and_end_apart():
    rates = np.array(run(lambda optimizer: inverse_sqrt_schedule(optimizer, 1e-4, 5), 30, rates=(1e-2, 1e-3)))
    for column, lr in zip(rates.T, (1e-2, 1e-3), strict=True):
        assert column == pytest.approx(defined_rates(30, lr, 1e-4, 5), rel=1e-12)


def train(directory, resume=None, model=None, **fields):
    """`(trainer, rates that the optimizer ran at)` of nine steps, four of them warm-up."""
    rates = []

    class Recording(ATSSeq2SeqTrainer):
        def create_optimizer(self, *positional, **keywords):
            optimizer = super().create_optimizer(*positional, **keywords)
            optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
            return optimizer

    defaults = dict(lr_scheduler_type="inverse_sqrt", warmup_steps=4, max_steps=9, logging_steps=1)
    trainer = make_trainer(
        model or partitioned(), directory, Recording, logging_strategy="steps", **(defaults | fields)
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, rates


@pytest.mark.parametrize("init", [1e-3, 1e-2, 0.0, -1.0])
def test_the_trainer_runs_and_logs_it(init, tmp_path):
    trainer, rates = train(tmp_path, warmup_init_lr=init)
    expected = defined_rates(9, 1e-2, init, 4)
    assert rates == pytest.approx(expected, rel=1e-12)
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx(expected, rel=1e-12)


def test_the_coefficient_of_core_steps_scales_the_whole_schedule(tmp_path):
    trainer, rates = train(tmp_path, warmup_init_lr=1e-3, alternate_lr_coef=0.5)
    shares = [0.5 if step % 2 else 1.0 for step in range(9)]
    expected = defined_rates(9, 1e-2, 1e-3, 4)
    assert rates == pytest.approx([rate * share for rate, share in zip(expected, shares, strict=True)], rel=1e-12)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["learning_rate_core"] for entry in logs] == pytest.approx([rate / 2 for rate in expected], rel=1e-12)
    assert [entry["learning_rate_full"] for entry in logs] == pytest.approx(expected, rel=1e-12)


def test_the_warm_up_can_be_a_share_of_the_steps(tmp_path):
    # Transformers rounds it up: 0.4 of 9 steps are 4. Release 4 has an argument of its own for it.
    share = dict(warmup_steps=0, warmup_ratio=0.4) if transformers.__version__ < "5" else dict(warmup_steps=0.4)
    _, rates = train(tmp_path, warmup_init_lr=1e-3, **share)
    assert rates == pytest.approx(defined_rates(9, 1e-2, 1e-3, 4), rel=1e-12)


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_it_goes_on_after_a_resume(stop, tmp_path):
    fields = dict(warmup_init_lr=1e-3, save_strategy="steps", save_steps=stop)
    whole, rates = train(tmp_path / "whole", model=partitioned(dropout=0.1), **fields)
    checkpoint = str(tmp_path / "whole" / f"checkpoint-{stop}")
    resumed, rest = train(tmp_path / "resumed", checkpoint, model=partitioned(dropout=0.1), **fields)
    assert rest == rates[stop:]
    assert_same_weights(whole.model, resumed.model)


def test_a_scheduler_of_ones_own_is_kept(tmp_path):
    trainer = make_trainer(
        partitioned(), tmp_path, lr_scheduler_type="inverse_sqrt", warmup_steps=4, warmup_init_lr=1e-3
    )
    own = torch.optim.lr_scheduler.ConstantLR(trainer.create_optimizer())
    trainer.lr_scheduler = own
    assert trainer.create_scheduler(9) is own


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(lr_scheduler_type="linear"), "warmup_init_lr=0.001 starts the warm-up of .*'inverse_sqrt', .* 'linear'"),
        (dict(warmup_steps=0), "warmup_init_lr=0.001 needs steps to warm up in; write warmup_steps=4000"),
        (dict(lr_scheduler_kwargs={"timescale": 9}), "leave lr_scheduler_kwargs=.*timescale.* or warmup_init_lr out"),
        (dict(learning_rate=1e-4), "warmup_init_lr=0.001 is more than learning_rate=0.0001"),
        (dict(warmup_init_lr=float("nan")), "warmup_init_lr=nan is not a number that training can go by"),
    ],
)
def test_what_has_no_such_warm_up_is_refused(fields, message, tmp_path):
    given = dict(lr_scheduler_type="inverse_sqrt", warmup_steps=4, warmup_init_lr=1e-3)
    arguments(tmp_path, **given)
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **(given | fields))
