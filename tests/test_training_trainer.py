import math

import pytest
import torch
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import BartConfig, BartForSequenceClassification, LlamaConfig, LlamaForCausalLM, TrainerCallback

from hf_ats.partition import (
    FlopsLedger,
    PartitionConfig,
    at_level,
    get_level,
    num_levels,
    parameters_at_level,
    partition_,
    partitioned_layers,
    set_level,
)
from hf_ats.training import ATSSeq2SeqTrainer, ATSSeq2SeqTrainingArguments, ATSTrainer, ATSTrainingArguments
from tests import reference
from tests.laws import assert_close_named, assert_moved, assert_same_weights, assert_still, snapshot
from tests.models import FAMILIES, tiny_config, tiny_model
from tests.training import SequentialTrainer, arguments, collator, make_trainer, partitioned, sentences

STEPS = 6


CORE, FULL = 0, 1


def arrays_of(model):
    """A partitioned model's parameters under the oracle's names."""
    arrays = {}
    layers = partitioned_layers(model)
    for name, parameter in model.named_parameters():
        layer = next((layer for layer in layers if name.startswith(f"{layer}.") and not name.endswith("bias")), None)
        if layer is None:
            arrays[name] = parameter
        else:
            factor, share = name.split(".")[-2:]
            arrays[f"{layer}.weight.{'W' if factor == 'residual' else factor + share}"] = parameter
    return arrays


def reference_arrays(family, ratios, args, levels, lr):
    """The oracle's arrays after the trainer's number of steps over the same sentences."""
    stock, network = tiny_model(family).double(), partitioned(family, ratios).double()
    arrays = snapshot(arrays_of(network))
    pairs, size = sentences(), args.per_device_train_batch_size
    epoch = [collator(network)(pairs[start : start + size]) for start in range(0, len(pairs), size)]
    stream = epoch * args.max_steps * args.gradient_accumulation_steps
    accumulation = args.gradient_accumulation_steps
    reference.train(
        stock,
        arrays,
        {f"{name}.weight" for name in partitioned_layers(network)},
        [stream[step * accumulation : (step + 1) * accumulation] for step in range(args.max_steps)],
        levels=levels,
        lr=lr,
        cores=len(ratios),
        frozen={name for name, parameter in stock.named_parameters() if not parameter.requires_grad},
        weight_decay=args.weight_decay,
        decayed={name for name, array in arrays.items() if array.ndim > 1 and "bias" not in name},
        max_norm=args.max_grad_norm or None,
        smoothing=args.label_smoothing_factor,
        core_coefficient=args.alternate_lr_coef,
    )
    return arrays


def assert_trainer_is_reference(
    family, tmp_path, levels=((FULL,), (CORE,)), ratios=(0.25,), lr=lambda step: 1e-2, **fields
):
    model = partitioned(family, ratios).double()
    start = snapshot(arrays_of(model))
    trainer = make_trainer(model, tmp_path, max_steps=STEPS, **fields)
    trainer.train()
    expected = reference_arrays(family, ratios, trainer.args, levels, lr)
    result = arrays_of(model)
    assert result.keys() == expected.keys()
    for name, array in expected.items():
        # Double precision, a few steps: what is left is the order of the sums (the layers may form W + V U or not).
        assert_close_named(name, result[name].detach(), array, rtol=1e-6, atol=1e-9)
    trained = {level for together in levels for level in together}
    touched = [name for name in result if any(reference.takes_part(name, level, len(ratios)) for level in trained)]
    assert_moved(start, result, [name for name in touched if "position" not in name])
    assert set(touched) == result.keys() or len(ratios) not in trained


# ---- Law 7: the trainer is the algorithm ----


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_of_the_trainer_are_steps_of_the_reference(family, tmp_path):
    assert_trainer_is_reference(family, tmp_path, weight_decay=0.1, label_smoothing_factor=0.1)


@pytest.mark.parametrize(
    ("fields", "levels"),
    [
        (dict(schedule="core"), ((CORE,),)),
        (dict(schedule="full"), ((FULL,),)),
        (dict(schedule="slimmable"), ((CORE, FULL),)),
        (dict(alternate_lr_coef=0.25), ((FULL,), (CORE,))),
        (dict(max_grad_norm=0.0), ((FULL,), (CORE,))),
        (dict(per_device_train_batch_size=2, gradient_accumulation_steps=3), ((FULL,), (CORE,))),
        (dict(schedule="slimmable", per_device_train_batch_size=2, gradient_accumulation_steps=3), ((CORE, FULL),)),
        (dict(ratios=(0.1, 0.25), alternate_lr_coef=0.5), ((2,), (0,), (1,))),
        (dict(ratios=(0.1, 0.25), schedule="slimmable"), ((0, 1, 2),)),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_each_schedule_and_setting_is_the_reference(fields, levels, tmp_path):
    assert_trainer_is_reference("marian", tmp_path, levels, weight_decay=0.1, **fields)


def test_a_learning_rate_schedule_runs_over_all_steps_and_the_coefficient_over_core_steps(tmp_path):
    assert_trainer_is_reference(
        "marian",
        tmp_path,
        lr=lambda step: 1e-2 * (STEPS - step) / STEPS,
        lr_scheduler_type="linear",
        alternate_lr_coef=0.5,
    )


# ---- Law 1: what a step may change ----


class Watch(TrainerCallback):
    """Copies of the weights and of the optimizer's state before each step, and after the last."""

    def __init__(self):
        self.weights, self.states = [], []

    def _look(self, model, optimizer):
        self.weights.append(snapshot(model))
        names = {parameter: name for name, parameter in model.named_parameters()}
        self.states.append(
            {
                f"{names[parameter]}/{key}": torch.as_tensor(value).clone()
                for parameter, state in optimizer.state.items()
                for key, value in state.items()
                if value is not None  # SGD without momentum keeps an empty place
            }
        )

    def on_step_begin(self, args, state, control, model, optimizer, **kwargs):
        self._look(model, optimizer)

    def on_train_end(self, args, state, control, model, optimizer, **kwargs):
        self._look(model, optimizer)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd"])
@pytest.mark.parametrize("ratios", [(0.25,), (0.1, 0.25)], ids=["two levels", "ladder"])
def test_a_core_step_leaves_the_rest_its_moments_and_its_step_count_bitwise_still(optimizer, ratios, tmp_path):
    model = partitioned(ratios=ratios)
    watch = Watch()
    trainer = make_trainer(model, tmp_path, weight_decay=0.1, optim=optimizer, callbacks=[watch])
    trainer.train()
    every = dict(model.named_parameters())
    for step in range(STEPS):
        (level,) = trainer.levels_at_step(step)
        mask = {name for name, p in parameters_at_level(model, level).items() if p.requires_grad}
        # A softmax does not feel a constant added to all its inputs, so a key's bias has no gradient but rounding.
        assert_moved(watch.weights[step], watch.weights[step + 1], {n for n in mask if not n.endswith("k_proj.bias")})
        others = every.keys() - mask
        assert_still(watch.weights[step], watch.weights[step + 1], others)
        before, after = watch.states[step], watch.states[step + 1]
        assert step == 0 or before or optimizer == "sgd"
        for key in before:
            if key.split("/")[0] not in mask:
                assert torch.equal(before[key], after[key]), key
        assert {key.split("/")[0] for key in after.keys() - before.keys()} <= mask
    if optimizer == "adamw_torch":
        name = "model.encoder.layers.0.fc1.residual.weight/step"
        assert watch.states[-1][name] == sum(num_levels(model) - 1 in trainer.levels_at_step(s) for s in range(STEPS))


def test_the_model_is_at_full_level_outside_the_steps(tmp_path):
    model = partitioned()
    levels = []

    class Look(TrainerCallback):
        def on_step_end(self, *_, **__):
            levels.append(get_level(model))

    make_trainer(model, tmp_path, callbacks=[Look()]).train()
    assert levels == [1] * STEPS and get_level(model) == 1


# ---- Law 8: the loss does not depend on how a batch is cut ----


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_batch_of_eight_is_two_of_four(family, smoothing, tmp_path):
    results = []
    for size, accumulation in ((8, 1), (4, 2), (1, 8)):
        model = partitioned(family).double()
        make_trainer(
            model,
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            label_smoothing_factor=smoothing,
            max_grad_norm=0.0,
            optim="sgd",
            max_steps=3,
        ).train()
        results.append(model)
    for other in results[1:]:
        assert_same_weights(results[0], other, rtol=1e-9, atol=1e-12)
    assert_moved(
        snapshot(partitioned(family).double()), snapshot(results[0]), [next(iter(parameters_at_level(model, 0)))]
    )


# ---- Law 2 and exact resume ----


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "fields",
    [
        dict(lr_scheduler_type="inverse_sqrt", warmup_steps=2),
        dict(gradient_accumulation_steps=2, per_device_train_batch_size=3),
        dict(max_tokens=64),
    ],
    ids=["sentences", "accumulation", "tokens"],
)
def test_a_run_resumed_after_any_step_ends_with_bitwise_the_same_weights(stop, fields, tmp_path):
    fields = fields | dict(weight_decay=0.1, label_smoothing_factor=0.1, alternate_lr_coef=0.5, max_steps=9)

    def run(directory, resume=None, **more):
        model = partitioned(dropout=0.1)
        trainer = make_trainer(model, tmp_path / directory, trainer_class=ATSSeq2SeqTrainer, **(fields | more))
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole = run("whole", save_strategy="steps", save_steps=stop)
    assert (tmp_path / "whole" / f"checkpoint-{stop}").is_dir()
    resumed = run("resumed", resume=str(tmp_path / "whole" / f"checkpoint-{stop}"))
    assert_same_weights(whole, resumed)


def test_a_checkpoint_of_another_partition_is_refused(tmp_path):
    make_trainer(partitioned(), tmp_path, save_strategy="steps", save_steps=2).train()
    checkpoint = str(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match=r"checkpoint-2 holds .*ratios=\[0.25\].* the model to resume is .*0.5"):
        make_trainer(partitioned(ratios=(0.5,)), tmp_path).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="the model to resume is unpartitioned"):
        make_trainer(tiny_model("marian"), tmp_path, schedule="full").train(resume_from_checkpoint=checkpoint)


# ---- What is logged, evaluated and counted ----


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


def test_evaluation_and_training_leave_the_level_that_was_live(tmp_path):
    model = partitioned()
    trainer = make_trainer(model, tmp_path, eval_dataset=sentences(4))
    set_level(model, "core")
    trainer.evaluate()
    trainer.train()
    assert get_level(model) == 0


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
    by_hand = {
        level: [
            ledger.training_flops(4, batch["input_ids"].shape[1], batch["labels"].shape[1], level) for batch in shapes
        ]
        for level in ("core", "full")
    }
    assert totals["full"] == sum(by_hand["full"]) and totals["core"] == sum(by_hand["core"])
    assert totals["alternating"] == by_hand["full"][0] + by_hand["core"][1]
    assert totals["slimmable"] == totals["full"] + totals["core"]
    assert totals["core"] < totals["full"]


def test_the_estimate_for_other_models_follows_the_level_too(tmp_path):
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    totals = {}
    for schedule in ("full", "core", "slimmable"):
        model = partition_(LlamaForCausalLM(config), PartitionConfig(ratios=[0.25], target_modules=["up_proj"]))
        data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 4
        args = plain_arguments(tmp_path, schedule=schedule, max_steps=1)
        trainer = ATSTrainer(model, args, train_dataset=data)
        trainer.train()
        totals[schedule] = trainer.state.total_flos
    layer = next(iter(partitioned_layers(model).values()))
    assert totals["full"] - totals["core"] == 6 * 4 * 8 * layer.weight.numel()
    assert totals["slimmable"] == totals["full"] + totals["core"]


def test_a_model_that_cannot_be_counted_trains_with_the_estimate(tmp_path, monkeypatch):
    def refuse(model):
        raise ValueError("not a polynomial")

    monkeypatch.setattr("hf_ats.training.trainer.FlopsLedger", refuse)
    trainer = make_trainer(partitioned(), tmp_path, max_steps=2)
    trainer.train()
    assert trainer.state.total_flos > 0


# ---- Batches by token budget ----


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


# ---- Wider use ----


@pytest.mark.parametrize(
    "fields",
    [dict(bf16=True), dict(gradient_checkpointing=True), dict(torch_compile=True, torch_compile_backend="eager")],
    ids=str,
)
def test_it_trains_under_autocast_checkpointing_and_compilation(fields, tmp_path):
    losses = []
    for more in ({}, fields):
        trainer = make_trainer(partitioned(), tmp_path, logging_strategy="steps", logging_steps=2, **more)
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


def test_ddp_does_not_search_for_unused_parameters_unless_asked(tmp_path):
    assert arguments(tmp_path).ddp_find_unused_parameters is False
    assert arguments(tmp_path, ddp_find_unused_parameters=True).ddp_find_unused_parameters is True


def test_a_report_can_name_the_arguments_that_were_set(tmp_path):
    changed = arguments(tmp_path, max_tokens=99, schedule="core").changed_fields()
    assert changed["max_tokens"] == 99 and changed["schedule"] == "core" and changed["max_steps"] == STEPS
    assert "adam_beta1" not in changed and "output_dir" not in changed


def plain_arguments(output_dir, **fields):
    quiet = dict(use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", dataloader_pin_memory=False)
    return ATSTrainingArguments(str(output_dir), **(quiet | fields))


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


def test_a_batch_without_decoder_inputs_gets_them_from_its_labels(tmp_path):
    model = partitioned("bart")
    results = []
    for drop in (False, True):
        trainer = make_trainer(model, tmp_path, label_smoothing_factor=0.1)
        batch = dict(collator(model)(sentences(4)))
        if drop:
            del batch["decoder_input_ids"]
        results.append(trainer.compute_loss(model, batch).item())
    assert results[0] == results[1] and math.isfinite(results[0])


# ---- Law 10: refusals ----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(schedule="both"), "schedule='both' is not known; write one of alternating, core, full, slimmable"),
        (dict(alternate_lr_coef=0.0), "alternate_lr_coef=0.0 must be positive"),
        (dict(alternate_lr_coef=float("nan")), "alternate_lr_coef=nan must be positive"),
        (dict(max_tokens=0), "max_tokens=0 must be positive"),
        (dict(average_tokens_across_devices=False), "leave it at True"),
    ],
)
def test_arguments_out_of_range_are_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(metric_for_best_model="bleu"), "metric_for_best_model='bleu' names no level.*'core_bleu', 'full_bleu'"),
        (dict(metric_for_best_model="core_loss", schedule="full"), "names no level that this schedule trains.*'full_"),
        (
            dict(metric_for_best_model="loss", eval_dataset={"a": []}),
            r"no evaluation set and level.*'a_core_loss', 'a_f",
        ),
        (dict(metric_for_best_model="full_loss", eval_dataset={"a": []}), "no evaluation set and level"),
        (dict(optim="lomo"), "optim='lomo' updates during the backward pass"),
        (dict(optim="galore_adamw_layerwise"), "optim='galore_adamw_layerwise' updates during the backward pass"),
    ],
)
def test_what_would_break_silently_is_refused_at_construction(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(partitioned(), tmp_path, **fields)


def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ATSSeq2SeqTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match=r"2 GPUs are visible to one process.*torchrun --nproc_per_node 2"):
        make_trainer(partitioned(), tmp_path)


def test_a_stream_has_no_batches_by_tokens(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from sentences()

    trainer = make_trainer(partitioned(), tmp_path, dataset=Stream(), max_tokens=64)
    with pytest.raises(
        ValueError, match=r"max_tokens=64 needs the length of every sentence, and a Stream is a stream"
    ):
        trainer.train()


def test_an_unpartitioned_model_is_refused_for_a_schedule_with_cores(tmp_path):
    with pytest.raises(ValueError, match=r"schedule='alternating' needs a partitioned model.*schedule='full'"):
        make_trainer(tiny_model("marian"), tmp_path)


def test_stock_arguments_are_refused(tmp_path):
    from transformers import Seq2SeqTrainingArguments

    with pytest.raises(TypeError, match="Seq2SeqTrainingArguments, which has no schedule; write ATSSeq2Seq"):
        ATSSeq2SeqTrainer(partitioned(), Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True))


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("is_deepspeed_enabled", "DeepSpeed takes a missing gradient for zero"),
        ("is_fsdp_enabled", "FSDP is not supported yet"),
        ("is_model_parallel", "spread over several devices"),
    ],
)
def test_launchers_that_break_a_law_are_refused(attribute, message, tmp_path):
    from hf_ats.training.refusals import refuse_unkept_laws

    trainer = make_trainer(partitioned(), tmp_path)
    setattr(trainer, attribute, True)
    with pytest.raises(ValueError, match=message):
        refuse_unkept_laws(trainer, ["core", "full"])
