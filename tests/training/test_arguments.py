"""What the arguments refuse, and what those that keep fairseq's meanings do in the trainer."""

import math
import re
from dataclasses import fields

import pytest

from hf_ats.trainers import ATSSeq2SeqTrainer
from hf_ats.training import ATSSeq2SeqTrainingArguments
from tests.support.models import partitioned, tiny_model
from tests.support.training import arguments, make_trainer


def decayed(trainer) -> set[str]:
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    assert {names[p] for group in groups for p in group["params"]} == {
        name for name, p in trainer.model.named_parameters() if p.requires_grad
    }
    return {names[p] for group in groups if group["weight_decay"] == 0.1 for p in group["params"]}


@pytest.mark.parametrize("partition", [True, False])
def test_weight_decay_is_on_weights_or_on_every_trained_parameter(partition, tmp_path):
    def make(**fields):
        model = partitioned() if partition else tiny_model("marian")
        model.model.encoder.layers[0].fc1.bias.requires_grad_(False)
        return make_trainer(model, tmp_path, schedule="core" if partition else "full", weight_decay=0.1, **fields)

    trained = {name for name, parameter in make().model.named_parameters() if parameter.requires_grad}
    constant = {"model.encoder.embed_positions.weight", "model.encoder.layers.0.fc1.bias"}
    assert not constant & trained and "model.encoder.layers.1.fc1.bias" in trained
    weights = {name for name in trained if "norm" not in name and not name.endswith("bias")}
    assert decayed(make()) == decayed(make(weight_decay_on="weights")) == weights
    assert decayed(make(weight_decay_on="all")) == trained > weights


def test_weight_decay_on_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="weight_decay_on='biases' is not known; write 'weights' or 'all'"):
        arguments(tmp_path, weight_decay_on="biases")


FLOATS = [field.name for field in fields(ATSSeq2SeqTrainingArguments) if "float" in str(field.type)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", FLOATS)
def test_a_number_that_is_not_finite_is_refused_whatever_it_is_for(name, value, tmp_path):
    if (name, value) == ("max_grad_norm", math.inf):  # norms that are logged and not clipped
        assert arguments(tmp_path, max_grad_norm=value).max_grad_norm == value
        return
    with pytest.raises(
        ValueError, match=f"^{name}={value} is not a number that training can go by; write a finite one"
    ):
        arguments(tmp_path, **{"max_steps": -1, name: value})


def test_steps_may_end_what_epochs_do_not(tmp_path):
    assert len(FLOATS) > 10 and "learning_rate" in FLOATS
    assert arguments(tmp_path, max_steps=3, num_train_epochs=math.inf).max_steps == 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("per_device_train_batch_size", 0, "is not a count; write 1 or more, or leave it out"),
        ("seed", None, "is not a number; write one"),
        ("per_device_eval_batch_size", 0, "is not a count"),
        ("per_device_eval_batch_size", 10**20, "is not a count"),
        ("gradient_accumulation_steps", -1, "is not a count"),
        ("eval_accumulation_steps", 0, "is not a count"),
        ("generation_max_length", 0, "is not a count"),
        ("generation_num_beams", 0, "is not a count"),
        ("learning_rate", -1.0, "is out of its range; write 0 or more"),
        ("weight_decay", -1.0, "is out of its range; write 0 or more"),
        ("adam_beta2", 1.0, "is out of its range; write 0 or more, and less than 1"),
        ("label_smoothing_factor", -0.1, "is out of its range; write 0 or more, and less than 1"),
        ("neftune_noise_alpha", -1.0, "is out of its range; write 0 or more"),
        ("lr_scheduler_kwargs", "{bad", "is not a JSON object; write one such as"),
        ("lr_scheduler_kwargs", "[1]", "is not a JSON object"),
        ("gradient_checkpointing_kwargs", "", "is not a JSON object"),
        ("optim_args", "momentum", "is no list such as"),
    ],
)
def test_a_value_without_a_meaning_is_refused_when_the_arguments_are_made(name, value, message, tmp_path):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{name}={value!r}')} {message}"):
        arguments(tmp_path, **{name: value})


@pytest.mark.parametrize("given", [dict(max_steps=0), dict(num_train_epochs=0), dict(num_train_epochs=-1.0)])
def test_a_training_without_a_step_is_refused(given, tmp_path):
    trainer = make_trainer(partitioned(), tmp_path, **{"max_steps": -1, **given})
    with pytest.raises(ValueError, match=r"max_steps=(0|-1) and num_train_epochs=[-013]+ train nothing; write one of"):
        trainer.train()


@pytest.mark.parametrize(("counts", "tokens"), [("both", lambda one, other: one + other), ("longest", max)])
def test_the_budget_counts_both_sides_or_the_longer_one(counts, tokens, tmp_path):
    budget = 40
    trainer = make_trainer(partitioned(), tmp_path, ATSSeq2SeqTrainer, max_tokens=budget, max_tokens_counts=counts)
    batches = list(trainer.get_train_dataloader())
    sizes = [(len(b["labels"]), b["input_ids"].shape[1], b["labels"].shape[1]) for b in batches]
    assert sum(number for number, *_ in sizes) == 24
    costs = [number * tokens(source, target) for number, source, target in sizes]
    assert 0.8 * budget < max(costs) <= budget
    # As the other way counts, it is something else.
    summed = max(number * (source + target) for number, source, target in sizes)
    assert (summed > budget) == (counts == "longest")


def test_another_count_is_refused(tmp_path):
    assert arguments(tmp_path).max_tokens_counts == "both"
    with pytest.raises(ValueError, match="max_tokens_counts='source' is not known; write 'both' or 'longest'"):
        arguments(tmp_path, max_tokens_counts="source")
