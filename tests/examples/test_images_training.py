"""The laws of training, on an image network with a batch normalization for each level, under SGD with momentum."""

import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import TrainerCallback
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from examples.image_classification import CifarResNetConfig
from examples.image_classification.data import AugmentedImages, EpochOfImages, ImageCollator, PlainImages
from examples.image_classification.training import (
    ImageTrainingArguments,
    count_correct,
    epoch_forward_flops,
    image_cross_entropy,
    sgd,
)
from hf_ats.partition import FlopsLedger, at_level, level_names, parameters_at_level, set_level
from hf_ats.training import levels_at_step
from tests.support.images import image_trainer, labelled_images, partitioned_resnet, tiny_resnet
from tests.support.laws import assert_close_named, assert_moved, assert_same_weights, assert_still, snapshot


class WatchState(TrainerCallback):
    """Parameters, running statistics and which gradients are None, before and after each step."""

    def __init__(self):
        self.before, self.after, self.missing = [], [], []

    def on_step_begin(self, args, state, control, model, **kwargs):
        self.before.append(snapshot(model.state_dict()))

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.missing.append({name for name, parameter in model.named_parameters() if parameter.grad is None})

    def on_step_end(self, args, state, control, model, **kwargs):
        self.after.append(snapshot(model.state_dict()))


def statistics_of(model, level: int) -> set[str]:
    """The names of the running statistics that belong to a level."""
    return {name for name, _ in model.named_buffers() if f".norms.{level}." in name}


@pytest.mark.law(number=1)
@pytest.mark.parametrize("ratios", [(0.5,), (0.25, 0.75)])
def test_a_step_moves_its_level_alone(tmp_path, ratios):
    model = partitioned_resnet(ratios)
    levels = len(level_names(model))
    watch = WatchState()
    trainer = image_trainer(model, tmp_path, callbacks=[watch], max_steps=2 * levels)
    trainer.train()
    (group, *rest) = [group for group in trainer.optimizer.param_groups if group["params"]]
    assert not rest and (group["momentum"], group["weight_decay"]) == (0.9, 5e-4)
    everything = {name for name, _ in model.named_parameters()}
    for step, (before, after, missing) in enumerate(zip(watch.before, watch.after, watch.missing, strict=True)):
        (level,) = trainer.levels_at_step(step)
        taking_part = set(parameters_at_level(model, level))
        assert missing == everything - taking_part and missing
        others = set().union(*(statistics_of(model, other) for other in range(levels) if other != level))
        assert_still(before, after, missing | others)
        assert_moved(before, after, taking_part | statistics_of(model, level))


@pytest.mark.law(number=7)
@pytest.mark.parametrize("schedule", ["alternating", "slimmable", "core", "full"])
def test_the_trainer_is_the_plain_loop(tmp_path, schedule):
    data, reference = PlainImages(labelled_images()), partitioned_resnet().train()
    batch = ImageCollator([0.5] * 3, [0.25] * 3)([data[index] for index in range(8)])
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for step in range(4):
        for level in levels_at_step(schedule, step, 2):
            set_level(reference, level)
            F.cross_entropy(reference(pixel_values=batch["pixel_values"]).logits, batch["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model = partitioned_resnet()
    image_trainer(model, tmp_path, schedule=schedule).train()
    # The Trainer shuffles, so sums over the batch are taken in another order.
    assert_same_weights(reference, model, rtol=1e-4, atol=1e-5)
    untrained = partitioned_resnet().state_dict()
    assert any((untrained[name] - tensor).abs().max() > 0.01 for name, tensor in model.state_dict().items())


def test_momentum_and_its_like_reach_the_optimizer(tmp_path):
    args = ImageTrainingArguments(output_dir=str(tmp_path), optim_args="momentum=0.8, nesterov=true", use_cpu=True)
    assert sgd(args) == (torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True})
    other = ImageTrainingArguments(output_dir=str(tmp_path), optim="adamw_torch", use_cpu=True)
    assert sgd(other) is None and other.optim_args is None


@pytest.mark.law(number=2)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    def run(directory, **fields):
        model = partitioned_resnet()
        data = AugmentedImages(labelled_images(20), seed=3, padding=2)
        trainer = image_trainer(
            model, directory, data, [EpochOfImages(data)], max_steps=9, lr_scheduler_type="cosine", **fields
        )
        trainer.train(resume_from_checkpoint=fields.get("resume_from_checkpoint"))
        return model

    # Three steps an epoch: the checkpoint lies within the second, whose images it must show again.
    whole = run(tmp_path / "whole", save_strategy="steps", save_steps=5)
    assert sorted(os.listdir(tmp_path / "whole")) == ["checkpoint-5", "checkpoint-9", "run.json"]
    resumed = run(tmp_path / "resumed", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert_same_weights(whole, resumed)


class Plain(nn.Module):
    """A network without batch normalization, whose loss can be cut."""

    def __init__(self):
        super().__init__()
        self.config = CifarResNetConfig()  # the Trainer asks for one where labels are smoothed
        self.layer = nn.Linear(3 * 8 * 8, 3)

    def forward(self, pixel_values):
        return ImageClassifierOutputWithNoAttention(logits=self.layer(pixel_values.flatten(1)))


@pytest.mark.law(number=8)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_does_not_depend_on_how_a_batch_is_cut(tmp_path, smoothing):
    weights = []
    for size, pieces in ((8, 1), (4, 2), (2, 4)):
        torch.manual_seed(0)
        model = Plain()
        image_trainer(
            model,
            tmp_path,
            schedule="full",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=pieces,
            label_smoothing_factor=smoothing,
        ).train()
        weights.append(model)
    torch.manual_seed(0)
    assert_moved(snapshot(Plain()), snapshot(weights[0]), ["layer.weight"])
    for other in weights[1:]:
        assert_same_weights(weights[0], other, rtol=1e-5, atol=1e-6)


@pytest.mark.law(number=8)
def test_the_stock_loss_of_the_network_is_not_multiplied_by_accumulation(tmp_path):
    gradients = []
    for size, pieces in ((8, 1), (4, 2)):
        model = tiny_resnet()
        for module in model.modules():  # whose statistics follow the pieces
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                module.train = lambda mode=True, module=module: module
        watch = WatchGradients()
        trainer = image_trainer(
            model,
            tmp_path,
            callbacks=[watch],
            schedule="full",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=pieces,
            max_steps=1,
        )
        trainer.compute_loss_func = None
        trainer.train()
        gradients.append(watch.gradients)
    for name, gradient in gradients[0].items():
        assert_close_named(name, gradients[1][name], gradient, rtol=1e-4, atol=1e-5)


class WatchGradients(TrainerCallback):
    """The gradients of the last step."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.law(number=8)
def test_the_loss_is_per_image_of_the_step():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    output = ImageClassifierOutputWithNoAttention(logits=logits)
    for smoothing in (0.0, 0.2):
        loss = image_cross_entropy(smoothing)
        whole = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(loss(output, labels), whole)
        torch.testing.assert_close(loss(output, labels, num_items_in_batch=torch.tensor(12)), whole / 2)


def test_every_level_has_its_accuracy(tmp_path):
    model = partitioned_resnet()
    trainer = image_trainer(model, tmp_path, max_steps=3)
    trainer.train()
    metrics = trainer.evaluate()
    model.eval()
    for level in ("core", "full"):
        with at_level(model, level):
            correct = count_correct(model, trainer.get_eval_dataloader())
        assert metrics[f"eval_{level}_accuracy"] == pytest.approx(100 * correct / 8)


def test_the_trainer_counts_what_each_level_runs(tmp_path):
    totals = {}
    for schedule in ("full", "core", "alternating", "slimmable"):
        trainer = image_trainer(partitioned_resnet(), tmp_path, schedule=schedule, max_steps=2)
        trainer.train()
        totals[schedule] = trainer.state.total_flos
    ledger, batch = FlopsLedger(partitioned_resnet()), {"pixel_values": torch.zeros(8, 3, 8, 8)}
    full, core = (ledger.training_flops(batch, level) for level in ("full", "core"))
    assert core < full
    assert totals == {"full": 2 * full, "core": 2 * core, "alternating": full + core, "slimmable": 2 * (full + core)}


def test_an_epoch_costs_what_its_schedule_runs_forward(tmp_path):
    image = {"pixel_values": torch.zeros(1, 3, 8, 8)}
    ledger = FlopsLedger(partitioned_resnet())
    full, core = (ledger.forward_flops(image, level) for level in ("full", "core"))
    # An odd number of steps still counts as many of the one as of the other.
    expected = {
        "full": 100 * full,
        "core": 100 * core,
        "alternating": 50 * (full + core),
        "slimmable": 100 * (full + core),
    }
    for schedule, flops in expected.items():
        trainer = image_trainer(partitioned_resnet(), tmp_path, schedule=schedule, max_steps=3)
        trainer.train()
        assert epoch_forward_flops(trainer, (3, 8, 8), 100) == flops
