"""The laws of training over two networks that are summed."""

import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

from hf_ats.partition import (
    SummedNetworks,
    at_level,
)
from hf_ats.training import levels_at_step
from tests.support.laws import assert_moved, assert_same_weights, assert_still
from tests.support.summed import (
    BATCH,
    Deep,
    Wide,
    collate,
    examples,
    names_of,
    sharing,
    summed_trainer,
    wide_and_deep,
)
from tests.support.training import Watch, plain_arguments
from tests.support.versions import needs_5

_SGD = pytest.param("sgd", marks=needs_5("transformers 4 takes no momentum from optim_args"))


@pytest.mark.law(number=1)
@pytest.mark.parametrize("optimizer", ["adamw_torch", _SGD])
def test_a_core_step_leaves_the_extension_and_its_optimizer_state_bitwise_still(optimizer, tmp_path):
    watch = Watch()
    trainer = summed_trainer(
        tmp_path,
        examples(),
        callbacks=[watch],
        optim=optimizer,
        optim_args="momentum=0.9" if optimizer == "sgd" else None,
    )
    gradients = []
    step = trainer.training_step

    def watching(*args, **kwargs):
        loss = step(*args, **kwargs)
        gradients.append({name for name, p in trainer.model.named_parameters() if p.grad is not None})
        return loss

    trainer.training_step = watching
    trainer.train()
    model = trainer.model
    extension = names_of(model, "extension.")
    for step_, (before, after) in enumerate(zip(watch.weights, watch.weights[1:], strict=False)):
        if step_ % 2:
            assert gradients[step_] == set(names_of(model, "core."))
            assert_still(before, after, extension)
            states = [name for name in watch.states[step_] if name.startswith("extension")]
            assert_still(watch.states[step_], watch.states[step_ + 1], states)
        else:
            assert_moved(before, after, before)
        assert_moved(before, after, names_of(model, "core."))


def by_hand(schedule, steps, coefficient=1.0):
    """The weights of the same steps, by a plain loop over two networks that knows no levels."""
    torch.manual_seed(0)
    deep, wide = Deep(), Wide()
    optimizer = torch.optim.AdamW([*deep.parameters(), *wide.parameters()], lr=1e-2, weight_decay=0.0)
    rows = examples()
    for step in range(steps):
        first = step * BATCH % len(rows)
        inputs = collate(rows[first : first + BATCH])
        levels = levels_at_step(schedule, step, 2, seed=42)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1.0 if 1 in levels else coefficient)
        for level in levels:
            logits = deep(inputs["numbers"])
            if level:
                logits = logits + wide(inputs["crosses"])
            F.cross_entropy(logits, inputs["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return SummedNetworks(deep, wide)


@pytest.mark.law(number=7)
@pytest.mark.parametrize("schedule", ["alternating", "core", "slimmable", "random"])
def test_the_trainer_makes_the_steps_of_a_plain_loop(schedule, tmp_path):
    trainer = summed_trainer(
        tmp_path, examples(), schedule=schedule, max_steps=9, alternate_lr_coef=0.5, weight_decay=0.0
    )
    trainer.train()
    assert_same_weights(trainer.model, by_hand(schedule, 9, coefficient=0.5), rtol=1e-5, atol=1e-7)


def test_a_loss_of_the_trainers_own_is_of_the_sum(tmp_path):
    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append(outputs)
        return F.cross_entropy(outputs, labels)

    trainer = summed_trainer(tmp_path, examples(), compute_loss_func=loss, weight_decay=0.0)
    trainer.train()
    assert len(seen) == 6 and all(isinstance(outputs, torch.Tensor) for outputs in seen)
    assert_same_weights(trainer.model, by_hand("alternating", 6), rtol=1e-5, atol=1e-7)


def test_it_is_evaluated_at_both_levels_and_logs_both(tmp_path):
    rows = examples(8, seed=1)
    trainer = summed_trainer(
        tmp_path,
        examples(),
        eval_dataset=rows,
        logging_strategy="steps",
        logging_steps=2,
        per_device_eval_batch_size=8,
        max_grad_norm=1e6,  # transformers 4 knows the norm only where it clips
    )
    trainer.train()
    metrics = trainer.evaluate()
    for level in ("core", "full"):
        with at_level(trainer.model, level), torch.no_grad():
            expected = trainer.model(**collate(rows)).loss.item()
        assert metrics[f"eval_{level}_loss"] == pytest.approx(expected, rel=1e-5)
    logged = {key for entry in trainer.state.log_history for key in entry}
    assert logged >= {"loss_core", "loss_full", "grad_norm_core", "grad_norm_full"}


@pytest.mark.law(number=2)
@pytest.mark.parametrize(("make", "stop"), [(wide_and_deep, 2), (sharing, 3)])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(make, stop, tmp_path):
    rows = examples()
    whole = summed_trainer(tmp_path, rows, make(), save_strategy="steps", save_steps=1)
    whole.train()
    resumed = summed_trainer(tmp_path, rows, make())
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
    assert_same_weights(whole.model, resumed.model)
    assert resumed.state.global_step == 6


def test_the_trainer_keeps_the_columns_that_either_network_takes(tmp_path):
    rows = [row | {"text": "other"} for row in examples()]
    args = plain_arguments(tmp_path, max_steps=2, logging_strategy="no", eval_strategy="no")
    trainer = summed_trainer(tmp_path, None).__class__(
        model=wide_and_deep(),
        args=args,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:4]),
    )
    trainer.train()
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"numbers", "crosses", "labels"}
    assert set(trainer.evaluate()) >= {"eval_core_loss", "eval_full_loss"}
