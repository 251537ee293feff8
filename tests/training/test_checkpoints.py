"""Checkpoints are whole or not there, and a resumed run is the run itself, or says what is another."""

import logging
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from hf_ats.checkpoint import load_partitioned
from hf_ats.storage import CHECKPOINT, last_checkpoint, read_checkpoint, remove_whole
from hf_ats.trainers import ATSSeq2SeqTrainer
from hf_ats.training import checkpoints
from tests.support.laws import assert_same_weights
from tests.support.models import partitioned
from tests.support.training import AfterStep, BeforeStep, make_trainer, sentences
from tests.support.versions import needs_5

SAVING = dict(save_strategy="steps", save_steps=2, max_steps=5)


@pytest.fixture(autouse=True)
def interruptible():
    """A shell has what it starts in the background ignore SIGINT, which Python then leaves so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def begin(directory, *, partition="rank", **fields) -> ATSSeq2SeqTrainer:
    model = partitioned(partition=partition, dropout=0.1)
    return make_trainer(model, directory, trainer_class=ATSSeq2SeqTrainer, **(SAVING | fields))


def run(directory, resume=None, **fields) -> ATSSeq2SeqTrainer:
    trainer = begin(directory, **fields)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, ATSSeq2SeqTrainer]:
    """A run of five steps that nothing interrupted, with checkpoints after 2, 4 and 5."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    return directory, run(directory)


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole[0], tmp_path / "run"))


@pytest.fixture
def said(caplog):
    """What was logged as a warning."""
    caplog.set_level(logging.WARNING)
    loggers = [logging.getLogger("transformers"), logging.getLogger("hf_ats")]
    propagated = [one.propagate for one in loggers]
    for one in loggers:
        one.propagate = True
    yield lambda: caplog.text
    for one, before in zip(loggers, propagated, strict=True):
        one.propagate = before


def names(directory) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


# ---- The same run ----


@pytest.mark.law(number=2)
@pytest.mark.parametrize("partition", ["rank", "width", "composition", "vocabulary"])
def test_a_resumed_run_logs_what_the_whole_run_logs(partition, tmp_path):
    # The checkpoint lies in the middle of what one entry of the log sums up.
    fields = dict(partition=partition, logging_strategy="steps", max_steps=8, save_steps=3, lr_scheduler_type="linear")
    fields |= dict(gradient_accumulation_steps=2)
    first = run(tmp_path / "whole", logging_steps=4, **fields)
    second = run(tmp_path / "resumed", str(tmp_path / "whole/checkpoint-3"), logging_steps=4, **fields)
    histories = [trainer.state.log_history[:-1] for trainer in (first, second)]  # the last has the seconds
    assert len(histories[0]) == 2 and histories[0] == histories[1]
    assert_same_weights(first.model, second.model)


@needs_5("transformers 4 divides by the steps before the checkpoint too")
def test_the_loss_of_a_resumed_training_is_that_of_its_own_steps(tmp_path):
    fields = dict(logging_strategy="steps", max_steps=6, save_steps=3)
    first = run(tmp_path / "whole", logging_steps=1, **fields)
    losses = [entry["loss"] for entry in first.state.log_history if "loss" in entry]
    second = run(tmp_path / "resumed", str(tmp_path / "whole/checkpoint-3"), logging_steps=4, **fields)
    assert second.state.log_history[-1]["train_loss"] == pytest.approx(sum(losses[3:]) / 3, abs=1e-4)


@pytest.mark.law(number=2)
@pytest.mark.parametrize("fields", [{}, dict(max_steps=3)], ids=["at the end", "beyond it"])
def test_a_run_that_has_reached_its_last_step_takes_no_more(fields, copy, whole, said):
    trainer = run(copy, True, **fields)
    assert (
        trainer.state.global_step == 5
        and trainer.state.num_train_epochs == begin(copy, **fields).args.max_steps // 6 + 1
    )
    assert_same_weights(trainer.model, whole[1].model)
    assert "nothing is left to train" in said()
    assert trainer.seconds_before == read_checkpoint(copy / "checkpoint-5")["seconds"] > 0


def test_a_run_takes_the_numbers_that_it_is_given(copy, said):
    more = dict(max_steps=7, learning_rate=5e-3, weight_decay=0.25, adam_beta1=0.5, save_steps=50)
    trainer = run(copy, str(copy / "checkpoint-4"), dataset=sentences(30), lr_scheduler_type="linear", **more)
    group = trainer.optimizer.param_groups[0]
    assert (group["initial_lr"], group["weight_decay"], group["betas"][0]) == (5e-3, 0.25, 0.5)
    for change in (
        "learning_rate=0.005 instead of 0.01",
        "weight_decay=0.25 instead of 0",
        "max_steps=7 instead of 5",
    ):
        assert change in said()
    assert "30 training examples instead of 24" in said()
    assert trainer.state.save_steps == 50 and names(copy) == [*(f"checkpoint-{n}" for n in (2, 4, 5, 7)), "run.json"]
    rates = []
    trainer = begin(copy, lr_scheduler_type="linear", **more)
    trainer.add_callback(Each(lambda: rates.append(trainer.optimizer.param_groups[0]["lr"])))
    trainer.train(resume_from_checkpoint=str(copy / "checkpoint-4"))
    assert rates == pytest.approx([5e-3 * left / 7 for left in (3, 2, 1)])


class Each(TrainerCallback):
    """Calls a function before each step."""

    def __init__(self, function):
        self._function = function

    def on_step_begin(self, *_, **__):
        self._function()


# ---- Another run ----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(optim="sgd"), "with optim='adamw_torch_fused', and this run has optim='sgd'"),
        (dict(schedule="slimmable"), "with schedule='alternating', and this run has schedule='slimmable'"),
        (dict(weight_decay_on="all"), "with weight_decay_on='weights', and this run has weight_decay_on='all'"),
        (dict(partition="rank ladder"), "but the model to resume is"),
        (dict(partition="composition"), "but the model to resume is Composition"),
    ],
)
def test_what_the_state_of_a_checkpoint_does_not_fit_is_refused(fields, message, copy):
    with pytest.raises(ValueError, match=r"checkpoint-5 .*" + message):
        run(copy, True, **fields)


def test_a_model_of_other_tensors_is_refused(copy, tmp_path):
    for more, message in ((dict(encoder_ffn_dim=48), "of shape"), (dict(decoder_layers=3), "lacks .*layers.2")):
        trainer = make_trainer(partitioned(**more), tmp_path / "other", trainer_class=ATSSeq2SeqTrainer, **SAVING)
        with pytest.raises(ValueError, match=f"checkpoint-5 .*{message}"):
            trainer.train(resume_from_checkpoint=str(copy / "checkpoint-5"))


def test_a_checkpoint_without_its_optimizer_is_refused(tmp_path):
    run(tmp_path / "run", save_only_model=True)
    with pytest.raises(ValueError, match="save_only_model=True, without an optimizer"):
        run(tmp_path / "run", True)


def test_a_folder_of_two_runs_goes_on_with_the_last(copy, said):
    with pytest.raises(RuntimeError, match="killed"):
        run(copy, save_steps=4, callbacks=[Raises(5)])
    assert names(copy) == ["checkpoint-2", "checkpoint-4", "checkpoint-5", "run.json"]
    assert last_checkpoint(copy) == copy / "checkpoint-4"
    assert "checkpoint-5 is of an earlier run in this folder" in said()
    shutil.rmtree(copy / "checkpoint-4")
    with pytest.raises(ValueError, match=r"holds no checkpoint to go on from .*checkpoint-2 is of an earlier run"):
        run(copy, True)


def test_a_run_that_goes_on_from_an_earlier_checkpoint_is_another(copy):
    with pytest.raises(RuntimeError, match="killed"):
        run(copy, str(copy / "checkpoint-2"), learning_rate=1e-3, callbacks=[Raises(4)])
    assert last_checkpoint(copy) == copy / "checkpoint-2"  # before its own first checkpoint
    run(copy, True, learning_rate=1e-3, max_steps=4)
    assert last_checkpoint(copy) == copy / "checkpoint-4"
    assert read_checkpoint(copy / "checkpoint-4")["run"] != read_checkpoint(copy / "checkpoint-5")["run"]


class Raises(TrainerCallback):
    """Stands for a kill at the beginning of a step, from 1."""

    def __init__(self, step):
        self._step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self._step:
            raise RuntimeError("killed")


# ---- Damage ----


@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "altered"])
def test_a_damaged_file_is_named_wherever_the_checkpoint_is_read(damage, copy, said):
    checkpoint = copy / "checkpoint-5"
    files = [name for name in names(checkpoint) if name != "training_args.bin"]
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "running_means.pt"} < set(files)
    for name in files:
        path = checkpoint / name
        before = path.read_bytes()
        changed = {"empty": b"", "cut off": before[:-9], "altered": before[:9] + bytes([before[9] ^ 1]) + before[10:]}
        path.unlink() if damage == "missing" else path.write_bytes(changed[damage])
        message = f"checkpoint-5 is not whole: {name}"
        with pytest.raises(ValueError, match=message):
            begin(copy).train(resume_from_checkpoint=str(checkpoint))
        assert last_checkpoint(copy) == copy / "checkpoint-4" and message in said()
        if name in ("model.safetensors", "config.json", CHECKPOINT):
            with pytest.raises((ValueError, OSError), match=name):
                load_partitioned(checkpoint)
        path.write_bytes(before)
    assert last_checkpoint(copy) == checkpoint


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    original = ATSSeq2SeqTrainer._save_rng_state

    def full(trainer, directory):
        if trainer.state.global_step == 4:
            raise OSError(28, "No space left on device")
        original(trainer, directory)

    monkeypatch.setattr(ATSSeq2SeqTrainer, "_save_rng_state", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path)
    assert names(tmp_path) == ["checkpoint-2", "run.json"]


def test_older_checkpoints_are_removed_and_the_best_stays(tmp_path):
    fields = dict(save_total_limit=2, save_steps=1, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True)
    fields |= dict(eval_dataset=sentences(4), metric_for_best_model="full_loss", greater_is_better=True)
    trainer = run(tmp_path, **fields)  # the loss falls, so that "greater is better" keeps an early one
    best = trainer.state.best_model_checkpoint
    assert best == str(tmp_path / f"checkpoint-{trainer.state.best_global_step}") and Path(best).is_dir()
    assert names(tmp_path) == sorted({Path(best).name, "checkpoint-5"} | {"run.json"})
    assert_same_weights(trainer.model, load_partitioned(best))


def test_all_but_the_best_are_removed_at_once_at_the_end(tmp_path, monkeypatch):
    removed = []
    monkeypatch.setattr(checkpoints, "remove_whole", lambda path: removed.append(path.name) or remove_whole(path))
    fields = dict(save_total_limit=1, save_steps=1, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True)
    fields |= dict(eval_dataset=sentences(4), metric_for_best_model="full_loss", greater_is_better=True)
    best = run(tmp_path, **fields).state.best_global_step
    assert best < 5 and removed[-1] == "checkpoint-5" and names(tmp_path) == [f"checkpoint-{best}", "run.json"]


def test_what_a_killed_run_could_not_remove_is_removed_by_the_next(copy):
    assert names(copy) == ["checkpoint-2", "checkpoint-4", "checkpoint-5", "run.json"]
    run(copy, True, save_total_limit=2)
    assert names(copy) == ["checkpoint-4", "checkpoint-5", "run.json"]


# ---- Divergence ----


def test_a_loss_that_is_not_finite_stops_its_step(tmp_path):
    weights = []

    class Poisoned(ATSSeq2SeqTrainer):
        def compute_loss(self, *positional, **keywords):
            loss = super().compute_loss(*positional, **keywords)
            weights.append(next(self.model.parameters()).detach().clone())
            return loss * float("nan") if self.state.global_step == 3 else loss

    trainer = make_trainer(partitioned(), tmp_path, trainer_class=Poisoned, alternate_lr_coef=0.5, **SAVING)
    message = r"loss of level 'core' is nan in step 3, at learning_rate=0.005.*last whole checkpoint is .*checkpoint-2"
    with pytest.raises(FloatingPointError, match=message):
        trainer.train()
    assert torch.equal(weights[-1], next(trainer.model.parameters())) and torch.isfinite(weights[-1]).all()
    assert names(tmp_path) == ["checkpoint-2", "run.json"]


@pytest.mark.parametrize("fields", [SAVING, dict(max_steps=2)], ids=["saved", "at the end"])
def test_weights_that_are_not_finite_are_not_written(fields, tmp_path):
    trainer = make_trainer(partitioned(), tmp_path, trainer_class=ATSSeq2SeqTrainer, **fields)
    trainer.add_callback(AfterStep(2, lambda: next(trainer.model.parameters()).data.fill_(float("inf"))))
    with pytest.raises(FloatingPointError, match=r"weights \S+ are not finite after step 2.* there is no checkpoint"):
        trainer.train()
    assert [name for name in names(tmp_path) if "checkpoint" in name] == []


# ---- Signals ----


@pytest.mark.law(number=2)
@pytest.mark.parametrize("strategy", ["steps", "epoch"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_training_after_the_step_with_a_checkpoint(number, strategy, whole, tmp_path, said):
    fields = dict(save_strategy=strategy, save_total_limit=1, logging_strategy=strategy, eval_dataset=sentences(4))
    trainer = begin(tmp_path, eval_strategy=strategy, eval_steps=4, **fields)
    trainer.add_callback(BeforeStep(3, lambda: os.kill(os.getpid(), number)))
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as ended:
        trainer.train()
    assert number == signal.SIGINT or ended.value.code == 128 + number
    assert f"Ended by {number.name} after step 3, whose checkpoint is written" in said()
    assert names(tmp_path) == ["checkpoint-3", "run.json"] and signal.getsignal(number) is before
    assert_same_weights(run(tmp_path, True, **fields).model, whole[1].model)


def test_a_second_signal_ends_at_once(tmp_path):
    trainer = begin(tmp_path)
    trainer.add_callback(BeforeStep(3, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert names(tmp_path) == ["checkpoint-2", "run.json"]


def test_without_checkpoints_a_signal_does_what_it_does(tmp_path):
    trainer = begin(tmp_path, save_strategy="no")
    trainer.add_callback(BeforeStep(3, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 2 and names(tmp_path) == []
