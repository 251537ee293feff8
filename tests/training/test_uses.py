"""Whatever else people train with: precisions, compilation, other models, other ways to start."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import BartConfig, BartForSequenceClassification

from hf_ats.partition import PartitionConfig, partition_
from hf_ats.trainers import ATSTrainer
from tests.support.laws import assert_moved, assert_same_weights, assert_still, snapshot
from tests.support.models import partitioned, tiny_config, tiny_model
from tests.support.training import (
    SequentialTrainer,
    Watch,
    arguments,
    collator,
    make_trainer,
    plain_arguments,
    sentences,
)

STEPS = 6


@pytest.mark.parametrize(
    "fields",
    [dict(bf16=True), dict(gradient_checkpointing=True), dict(torch_compile=True, torch_compile_backend="eager")],
    ids=str,
)
def test_it_trains_under_autocast_checkpointing_and_compilation(fields, tmp_path):
    losses = []
    for more in ({}, fields):
        # One batch again and again, on the smallest model: each further shape and layer is compiled anew.
        model = partitioned(encoder_layers=1, decoder_layers=1)
        logged = dict(logging_strategy="steps", logging_steps=2, max_steps=4)
        trainer = make_trainer(model, tmp_path, dataset=sentences(4), **logged, **more)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=0.02 if "bf16" in fields else 1e-4)
    assert losses[1][-1] < losses[1][0]


def test_an_unpartitioned_model_trains_as_the_full_network(tmp_path):
    model = tiny_model("marian")
    trainer = make_trainer(model, tmp_path, schedule="full", eval_dataset=sentences(4))
    trainer.train()
    assert "eval_full_loss" in trainer.evaluate()


def test_what_no_checkpoint_holds_is_frozen(tmp_path):
    # transformers 5 leaves the table trainable after from_pretrained.
    model = partitioned()
    model.model.encoder.embed_positions.weight.requires_grad_(True)
    make_trainer(model, tmp_path)
    assert not model.model.encoder.embed_positions.weight.requires_grad
    assert model.model.shared.weight.requires_grad


@pytest.mark.law(number=5)
def test_ddp_does_not_search_for_unused_parameters_unless_asked(tmp_path):
    assert arguments(tmp_path).ddp_find_unused_parameters is False
    assert arguments(tmp_path, ddp_find_unused_parameters=True).ddp_find_unused_parameters is True


def test_a_report_can_name_the_arguments_that_were_set(tmp_path):
    changed = arguments(tmp_path, max_tokens=99, schedule="core").changed_fields()
    assert changed["max_tokens"] == 99 and changed["schedule"] == "core" and changed["max_steps"] == STEPS
    assert "adam_beta1" not in changed and "output_dir" not in changed


class Classifier(nn.Module):
    """Any module that computes a mean loss of its own, and lets `num_items_in_batch` pass; no config, no tokens."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x, labels=None, **passed_by):
        logits = self.head(self.hidden(x).relu())
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def a_classifier():
    torch.manual_seed(0)
    return partition_(Classifier(), PartitionConfig(ratios=[0.5], target_modules=["hidden"])).double()


def examples(number=24):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(number, 6, generator=generator, dtype=torch.float64)
    return [{"x": x, "labels": int(x.sum() > 0) + int(x[0] > 1)} for x in inputs]


class SequentialPlainTrainer(ATSTrainer):
    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)


@pytest.mark.law(number=1)
@pytest.mark.law(number=8)
@pytest.mark.parametrize("kind", ["translation", "any module"])
def test_the_plain_trainer_keeps_laws_1_and_8(kind, tmp_path):
    results = []
    for size, accumulation in ((8, 1), (4, 2)):
        model = partitioned().double() if kind == "translation" else a_classifier()
        watch = Watch()
        args = plain_arguments(
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=2,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0.0,
        )
        data = (
            dict(train_dataset=sentences(), data_collator=collator(model))
            if kind == "translation"
            else dict(train_dataset=examples())
        )
        trainer = SequentialPlainTrainer(model, args, callbacks=[watch], **data)
        trainer.train()
        name = {"translation": "model.encoder.layers.0.fc1.residual.weight"}.get(kind, "hidden.residual.weight")
        assert_moved(watch.weights[0], watch.weights[1], [name])
        assert_still(watch.weights[1], watch.weights[2], [name])
        results.append(model)
    assert_same_weights(*results, rtol=1e-9, atol=1e-12)


def test_an_encoder_decoder_that_classifies_keeps_its_own_loss(tmp_path):
    config = BartConfig(**(tiny_config("bart").to_dict() | {"num_labels": 3}))
    model = partition_(BartForSequenceClassification(config), PartitionConfig(ratios=[0.25]))
    data = [{"input_ids": torch.tensor([5, 6, 7, 2]), "labels": index % 3} for index in range(8)]
    trainer = ATSTrainer(model, plain_arguments(tmp_path, max_steps=2), train_dataset=data)
    assert trainer.train().training_loss == pytest.approx(math.log(3), rel=0.5)


def test_every_run_of_model_init_trains_its_own_model(tmp_path):
    args = arguments(tmp_path, schedule="core")
    trainer = SequentialTrainer(
        args=args, model_init=lambda: partitioned(), train_dataset=sentences(), data_collator=collator(partitioned())
    )
    trainer.train()
    first = trainer.model
    before = snapshot(partitioned())
    trainer.train()
    assert trainer.model is not first
    for model in (first, trainer.model):
        assert_still(before, snapshot(model), ["model.encoder.layers.0.fc1.residual.weight"])
        assert_moved(before, snapshot(model), ["model.encoder.layers.0.fc1.U.0"])


@pytest.mark.parametrize("own_loss", [False, True])
def test_a_batch_without_decoder_inputs_gets_them_from_its_labels(tmp_path, own_loss):
    """Without them BART would decode the source, and say nothing."""

    def summed(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), reduction="sum")

    model = partitioned("bart")
    options = {"compute_loss_func": summed} if own_loss else {}
    results = []
    for given in (True, False):
        trainer = make_trainer(model, tmp_path, **options, label_smoothing_factor=0.1)
        batch = dict(collator(model)(sentences(4)))
        if given:
            labels = batch["labels"]
            batch["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=labels)
        results.append(trainer.compute_loss(model, batch).item())
    assert results[0] == results[1] and math.isfinite(results[0])
