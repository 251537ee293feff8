"""What the trainers log, evaluate and count by level, and their batches by tokens."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_ats.partition import (
    FlopsLedger,
    PartitionConfig,
    at_level,
    get_level,
    partition_,
    partitioned_layers,
    set_level,
)
from hf_ats.trainers import ATSSeq2SeqTrainer, ATSTrainer
from tests.support.models import partitioned
from tests.support.training import arguments, collator, make_trainer, plain_arguments, sentences


def test_loss_gradient_norm_and_learning_rate_are_logged_by_level(tmp_path):
    recorded = {"core": [], "full": []}

    class Recording(ATSSeq2SeqTrainer):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            recorded[self.level_names[self.levels_at_step(self.state.global_step)[0]]].append(loss.item())
            return loss

    trainer = make_trainer(
        partitioned(),
        tmp_path,
        Recording,
        logging_strategy="steps",
        logging_steps=4,
        max_steps=8,
        alternate_lr_coef=0.5,
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    for window, entry in enumerate(logs):
        for name, losses in recorded.items():
            assert entry[f"loss_{name}"] == pytest.approx(sum(losses[2 * window : 2 * window + 2]) / 2, rel=1e-5)
            assert entry[f"grad_norm_{name}"] > 0
        assert entry["loss"] == pytest.approx((entry["loss_core"] + entry["loss_full"]) / 2, rel=1e-5)
        assert entry["learning_rate_full"] == entry["learning_rate"] == 1e-2
        assert entry["learning_rate_core"] == 0.5e-2
    assert logs[0]["loss_core"] != pytest.approx(logs[0]["loss_full"], rel=1e-3)


def test_the_logged_loss_of_a_step_over_several_levels_is_their_mean(tmp_path):
    fields = dict(schedule="slimmable", logging_strategy="steps", logging_steps=2, max_steps=2)
    trainer = make_trainer(partitioned(), tmp_path, **fields)
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["loss"] == pytest.approx((entry["loss_core"] + entry["loss_full"]) / 2, rel=1e-5)
    assert "grad_norm_core" not in entry and entry["grad_norm"] > 0


def test_a_second_run_logs_its_own_steps_only(tmp_path):
    trainer = make_trainer(partitioned(), tmp_path, max_steps=3)
    trainer.train()  # logs nothing by level
    trainer.args.logging_steps, trainer.args.max_steps = 2, 2
    trainer.args.logging_strategy = "steps"
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["loss"] == pytest.approx((entry["loss_core"] + entry["loss_full"]) / 2, rel=1e-5)


def test_a_log_of_your_own_is_left_alone(tmp_path):
    trainer = make_trainer(partitioned(), tmp_path)
    trainer.log({"loss": 1.0})
    assert "loss_core" not in trainer.state.log_history[-1]


@pytest.mark.law(number=8)
def test_accumulation_does_not_change_the_logged_loss(tmp_path):
    losses = []
    for size, accumulation in ((8, 1), (4, 2)):
        trainer = make_trainer(
            partitioned(),
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            logging_strategy="steps",
            logging_steps=2,
            max_steps=2,
        )
        trainer.train()
        losses.append(next(entry for entry in trainer.state.log_history if "loss" in entry))
    for name in ("loss", "loss_core", "loss_full", "grad_norm_core", "grad_norm_full"):
        assert losses[0][name] == pytest.approx(losses[1][name], rel=1e-4)


@pytest.mark.parametrize(
    ("schedule", "levels"), [("alternating", ["core", "full"]), ("core", ["core"]), ("full", ["full"])]
)
def test_evaluation_scores_every_level_that_is_trained(schedule, levels, tmp_path):
    model = partitioned()
    trainer = make_trainer(model, tmp_path, schedule=schedule, eval_dataset=sentences(6, seed=1))
    metrics = trainer.evaluate()
    assert [name for name in metrics if name.endswith("_loss")] == [f"eval_{level}_loss" for level in levels]
    for level in levels:
        with at_level(model, level), torch.no_grad():
            loss = model(**collator(model)(sentences(6, seed=1))).loss
        # The Trainer takes the mean over its batches of 8 sentences; here there is one.
        assert metrics[f"eval_{level}_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert get_level(model) == 1
    predictions = trainer.predict(sentences(6, seed=1))
    assert set(predictions.metrics) >= {f"test_{level}_loss" for level in levels}


@pytest.mark.law(number=8)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_evaluation_loss_is_per_token_of_the_whole_set_however_it_is_cut(smoothing, tmp_path):
    losses = []
    for size in (1, 4, 7):
        fields = dict(per_device_eval_batch_size=size, label_smoothing_factor=smoothing)
        trainer = make_trainer(partitioned(), tmp_path, eval_dataset=sentences(7, seed=1), **fields)
        metrics = trainer.evaluate()
        losses.append([metrics["eval_core_loss"], metrics["eval_full_loss"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)
    model = partitioned()
    batch = collator(model)(sentences(7, seed=1))
    for level, loss in enumerate(losses[2]):
        with at_level(model, level), torch.no_grad():
            logits = model(**batch).logits
        expected = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=smoothing
        )
        assert loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("level", [0, 1])  # the last step trains the core, the last evaluation scores full
def test_evaluation_and_training_leave_the_level_that_was_live(level, tmp_path):
    model = partitioned()
    trainer = make_trainer(model, tmp_path, eval_dataset=sentences(4), max_steps=2)
    set_level(model, level)
    trainer.evaluate()
    assert get_level(model) == level
    trainer.train()
    assert get_level(model) == level


def test_scoring_translations_leaves_the_generation_config_alone(tmp_path):
    model = partitioned()
    before = model.generation_config.to_dict()
    trainer = make_trainer(
        model, tmp_path, eval_dataset=sentences(4), predict_with_generate=True, compute_metrics=lambda prediction: {}
    )
    trainer.evaluate()
    assert model.generation_config.to_dict() == before


def test_predictions_survive_metrics_by_batch(tmp_path):
    trainer = make_trainer(
        partitioned(),
        tmp_path,
        eval_dataset=sentences(4),
        batch_eval_metrics=True,
        compute_metrics=lambda prediction, compute_result: {"seen": 1} if compute_result else None,
    )
    output = trainer.predict(sentences(4))
    assert output.predictions is not None and output.metrics["test_core_seen"] == output.metrics["test_full_seen"] == 1


def test_the_best_model_can_be_chosen_by_any_level(tmp_path):
    trainer = make_trainer(
        partitioned(),
        tmp_path,
        eval_dataset=sentences(6, seed=1),
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="core_loss",
        greater_is_better=False,
    )
    trainer.train()
    scores = {e["step"]: e["eval_core_loss"] for e in trainer.state.log_history if "eval_core_loss" in e}
    assert trainer.state.best_metric == min(scores.values())
    assert trainer.evaluate()["eval_core_loss"] == pytest.approx(min(scores.values()), rel=1e-6)


def test_the_best_model_is_the_full_networks_unless_said_otherwise(tmp_path):
    fields = dict(load_best_model_at_end=True, eval_strategy="steps", save_strategy="steps")
    assert arguments(tmp_path, **fields).metric_for_best_model == "full_loss"
    assert arguments(tmp_path, schedule="core", **fields).metric_for_best_model == "core_loss"


def test_operations_are_counted_at_the_level_of_each_step(tmp_path):

    totals = {}
    for schedule in ("full", "core", "alternating", "slimmable"):
        model = partitioned()
        trainer = make_trainer(model, tmp_path, schedule=schedule, max_steps=2, save_strategy="no")
        trainer.train()
        totals[schedule] = trainer.state.total_flos
    ledger, pairs = FlopsLedger(partitioned()), sentences()
    shapes = [collator(model)(pairs[start : start + 4]) for start in (0, 4)]
    by_hand = {level: [ledger.training_flops(batch, level) for batch in shapes] for level in ("core", "full")}
    assert totals["full"] == sum(by_hand["full"]) and totals["core"] == sum(by_hand["core"])
    assert totals["alternating"] == by_hand["full"][0] + by_hand["core"][1]
    assert totals["slimmable"] == totals["full"] + totals["core"]
    assert totals["core"] < totals["full"]


def test_other_models_are_counted_or_estimated_at_the_level_of_each_step(tmp_path, monkeypatch, caplog):
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 4

    def llama():
        return partition_(LlamaForCausalLM(config), PartitionConfig(ratios=[0.25], target_modules=["up_proj"]))

    def totals() -> dict[str, int]:
        found = {}
        for schedule in ("full", "core", "slimmable"):
            args = plain_arguments(tmp_path, schedule=schedule, max_steps=1)
            trainer = ATSTrainer(llama(), args, train_dataset=data)
            trainer.train()
            found[schedule] = trainer.state.total_flos
        assert found["slimmable"] == found["full"] + found["core"]
        return found

    ledger, batch = FlopsLedger(llama()), {"input_ids": torch.zeros(4, 8, dtype=torch.long)}
    counted = totals()
    assert counted["full"] == ledger.training_flops(batch, "full")
    assert counted["core"] == ledger.training_flops(batch, "core")
    assert "estimate" not in caplog.text

    def refuse(*_):
        raise ValueError("not proportional")

    monkeypatch.setattr(FlopsLedger, "training_flops", refuse)
    estimated = totals()
    layer = next(iter(partitioned_layers(llama()).values()))
    assert estimated["full"] - estimated["core"] == 6 * 4 * 8 * layer.weight.numel()


def test_a_model_that_cannot_be_counted_trains_with_the_estimate(tmp_path, monkeypatch):
    def refuse(model):
        raise ValueError("not a polynomial")

    monkeypatch.setattr("hf_ats.training.flops.FlopsLedger", refuse)
    trainer = make_trainer(partitioned(), tmp_path, max_steps=2)
    trainer.train()
    assert trainer.state.total_flos > 0


# ---- Batches by token budget ----


def test_a_second_run_follows_its_own_sampler_alone(tmp_path):
    trainer = make_trainer(partitioned(), tmp_path, max_tokens=64, max_steps=1)
    trainer.train()
    trainer.train()
    samplers = [callback for callback in trainer.callback_handler.callbacks if hasattr(callback, "_sampler")]
    assert len(samplers) == 1


def test_batches_by_tokens_keep_the_budget_and_take_each_sentence_once_an_epoch(tmp_path):
    seen = []

    class Recording(ATSSeq2SeqTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            seen.append({name: tensor.clone() for name, tensor in inputs.items()})
            return super().training_step(model, inputs, *args, **kwargs)

    trainer = make_trainer(partitioned(), tmp_path, Recording, max_tokens=64, max_steps=-1, num_train_epochs=2)
    trainer.train()
    per_epoch = len(seen) // 2
    for batch in seen:
        rows, source = batch["input_ids"].shape
        assert rows * (source + batch["labels"].shape[1]) <= 64
    for epoch in (seen[:per_epoch], seen[per_epoch:]):
        drawn = sorted(tuple(row[row != -100].tolist()) for batch in epoch for row in batch["labels"])
        assert drawn == sorted(tuple(pair["labels"]) for pair in sentences())
    assert [b["labels"].shape for b in seen[:per_epoch]] != [b["labels"].shape for b in seen[per_epoch:]]
