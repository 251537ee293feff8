"""What the arguments that keep fairseq's meanings do in the trainer: weight decay's reach, the count of tokens."""

import pytest

from hf_ats.trainers import ATSSeq2SeqTrainer
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
