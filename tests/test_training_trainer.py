import pytest
import torch
from transformers import TrainerCallback

from hf_ats.partition import (
    get_level,
    num_levels,
    parameters_at_level,
    partitioned_layers,
)
from hf_ats.training import ATSSeq2SeqTrainer
from tests import reference
from tests.laws import assert_close_named, assert_moved, assert_same_weights, assert_still, snapshot
from tests.models import FAMILIES, tiny_model
from tests.training import Watch, collator, make_trainer, partitioned, sentences

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
