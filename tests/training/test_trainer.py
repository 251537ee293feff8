import pytest
import torch
from transformers import TrainerCallback

from hf_ats.partition import (
    PartitionConfig,
    PartitionedRankLinear,
    PartitionedStack,
    TableReader,
    VocabularyFactors,
    find_partition,
    get_level,
    num_levels,
    parameters_at_level,
    partition_,
    partitioned_layers,
)
from hf_ats.trainers import ATSSeq2SeqTrainer, ATSTrainer
from tests.support import reference
from tests.support.laws import assert_close_named, assert_moved, assert_same_weights, assert_still, snapshot
from tests.support.models import FAMILIES, partitioned, pictures, tiny_model, tiny_resnet
from tests.support.training import Watch, collator, make_trainer, plain_arguments, sentences
from tests.support.versions import needs_5

STEPS = 6


CORE, FULL = 0, 1


def arrays_of(model):
    """A partitioned model's parameters under the oracle's names; those of a width layer joined to the full weight."""
    arrays = dict(model.named_parameters())
    for name, layer in partitioned_layers(model).items():
        if isinstance(layer, PartitionedStack):  # whose layers are those of the stock model
            continue
        if isinstance(layer, VocabularyFactors):
            weight = next(one for one, reader in readers_of(model).items() if reader.table is layer)
            arrays |= {f"{weight}.weight.W": arrays.pop(f"{weight}.weight")}
            parts = [key for key in arrays if key.startswith(f"{name}.")]
            arrays |= {f"{weight}.weight.{key[len(name) + 1 :].replace('.', '')}": arrays.pop(key) for key in parts}
            continue
        if name in readers_of(model):
            continue
        own = {key: arrays.pop(f"{name}.{key}") for key, _ in layer.named_parameters()}
        if isinstance(layer, PartitionedRankLinear):
            parts = {"weight.W": own.pop("residual.weight")}
            parts |= {key if key == "bias" else f"weight.{key.replace('.', '')}": value for key, value in own.items()}
        else:
            parts = layer.stock_state(layer.num_levels - 1)
        arrays |= {f"{name}.{key}": value for key, value in parts.items()}
    return arrays


def readers_of(model):
    """The modules that read a partitioned vocabulary table, by name."""
    return {name: layer for name, layer in partitioned_layers(model).items() if isinstance(layer, TableReader)}


def oracle_of(family, partition):
    """The oracle's super-network of `partitioned(family, partition)`, in double precision."""
    model = partitioned(family, partition).double()
    arrays, networks = snapshot(arrays_of(model)), []
    layers = partitioned_layers(model)
    for config in find_partition(model).parts:
        if config.method == "rank":
            sums = tuple(name.removesuffix(".W") for name in arrays if name.endswith(".weight.W"))
            networks.append(reference.by_rank(arrays, sums, config.num_cores))
        elif config.method == "width":
            narrow = ("rows", "columns") if config.target_modules else ("rows", "columns", "heads")
            # 4 heads in all of the tiny models.
            networks.append(reference.by_width(arrays, config.ratios, 4, narrow))
        else:
            kept = {name: layers[name].kept for name in layers if isinstance(layers[name], PartitionedStack)}
            networks.append(reference.by_depth(arrays, kept, config.num_cores + 1))
    return reference.composed(*networks)


def train_reference(family, network, args, levels, lr):
    """As many steps of the oracle as of the trainer, over the same sentences."""
    stock = tiny_model(family).double()
    pairs, size = sentences(), args.per_device_train_batch_size
    epoch = [collator(stock)(pairs[start : start + size]) for start in range(0, len(pairs), size)]
    stream = epoch * args.max_steps * args.gradient_accumulation_steps
    accumulation = args.gradient_accumulation_steps
    reference.train(
        stock,
        network,
        [stream[step * accumulation : (step + 1) * accumulation] for step in range(args.max_steps)],
        levels=levels,
        lr=lr,
        frozen={name for name, parameter in stock.named_parameters() if not parameter.requires_grad},
        weight_decay=args.weight_decay,
        decayed={
            name
            for name, array in network.arrays.items()
            if args.weight_decay_on == "all" or (array.ndim > 1 and "bias" not in name)
        },
        max_norm=args.max_grad_norm or None,
        smoothing=args.label_smoothing_factor,
        core_coefficient=args.alternate_lr_coef,
    )


def assert_trainer_is_reference(
    family, tmp_path, levels=((FULL,), (CORE,)), partition="rank", lr=lambda step: 1e-2, **fields
):
    model = partitioned(family, partition).double()
    trainer = make_trainer(model, tmp_path, max_steps=STEPS, **fields)
    trainer.train()
    network = oracle_of(family, partition)
    start = snapshot(network.arrays)
    train_reference(family, network, trainer.args, levels, lr)
    result = snapshot(arrays_of(model))
    assert result.keys() == network.arrays.keys()
    trained = {level for together in levels for level in together}
    for name, array in network.arrays.items():
        # Double precision, a few steps: what is left is the order of the sums (the layers may form W + V U or not).
        assert_close_named(name, result[name], array, rtol=1e-6, atol=1e-9)
        mask = network.union(name, trained) > 0
        assert torch.equal(result[name][~mask], start[name][~mask]), name
        assert mask.all() or network.full not in trained
        if mask.any() and "position" not in name:
            assert not torch.equal(result[name][mask], start[name][mask]), name


# ---- Law 7: the trainer is the algorithm ----


_IN_DOUBLE = [
    pytest.param(family, marks=needs_5("transformers 4 takes T5's softmax in float32 whatever the dtype"))
    if family == "t5"
    else family
    for family in FAMILIES
]


@pytest.mark.law(number=7)
@pytest.mark.parametrize("partition", ["rank", "width", "depth", "vocabulary"])
@pytest.mark.parametrize("family", _IN_DOUBLE)
def test_steps_of_the_trainer_are_steps_of_the_reference(family, partition, tmp_path):
    assert_trainer_is_reference(family, tmp_path, partition=partition, weight_decay=0.1, label_smoothing_factor=0.1)


@pytest.mark.law(number=7)
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
        (dict(partition="rank ladder", alternate_lr_coef=0.5), ((2,), (0,), (1,))),
        (dict(partition="rank ladder", schedule="slimmable"), ((0, 1, 2),)),
        (
            dict(partition="rank ladder", schedule="random", alternate_lr_coef=0.5, seed=0),
            ((2,), (2,), (0,), (0,), (2,), (1,)),
        ),
        (dict(partition="width", schedule="core"), ((CORE,),)),
        (dict(partition="feed-forward width", schedule="slimmable", max_grad_norm=0.1), ((CORE, FULL),)),
        (dict(partition="width ladder", alternate_lr_coef=0.5), ((3,), (0,), (1,), (2,))),
        (
            dict(partition="width ladder", schedule="sandwich", seed=5),
            tuple((0, between, 3) for between in (2, 2, 1, 1, 1, 2)),
        ),
        (
            dict(partition="width ladder", per_device_train_batch_size=2, gradient_accumulation_steps=2),
            ((3,), (0,), (1,), (2,)),
        ),
        (dict(partition="composition", alternate_lr_coef=0.5), ((2,), (0,), (1,))),
        (dict(partition="composition", schedule="slimmable"), ((0, 1, 2),)),
        (dict(partition="vocabulary ladder", alternate_lr_coef=0.5), ((2,), (0,), (1,))),
        (dict(weight_decay_on="all"), ((FULL,), (CORE,))),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_each_schedule_and_setting_is_the_reference(fields, levels, tmp_path):
    assert_trainer_is_reference("marian", tmp_path, levels, weight_decay=0.1, **fields)


@pytest.mark.law(number=7)
def test_a_learning_rate_schedule_runs_over_all_steps_and_the_coefficient_over_core_steps(tmp_path):
    assert_trainer_is_reference(
        "marian",
        tmp_path,
        lr=lambda step: 1e-2 * (STEPS - step) / STEPS,
        lr_scheduler_type="linear",
        alternate_lr_coef=0.5,
    )


# ---- Law 1: what a step may change ----


@pytest.mark.law(number=1)
@pytest.mark.parametrize(
    ("partition", "optimizer"),
    [
        ("rank", "adamw_torch"),
        ("rank", "sgd"),
        ("rank ladder", "adamw_torch_fused"),
        ("rank ladder", "adafactor"),
        ("width", "adamw_torch_fused"),
        ("width", "adafactor"),
        ("width ladder", "adamw_torch"),
        ("width ladder", "sgd"),
        ("depth ladder", "adamw_torch"),
        ("composition", "adafactor"),
        ("vocabulary ladder", "adamw_torch"),
    ],
)
def test_a_core_step_leaves_the_rest_its_moments_and_its_step_count_bitwise_still(partition, optimizer, tmp_path):
    model = partitioned(partition=partition)
    watch = Watch()
    trainer = make_trainer(model, tmp_path, weight_decay=0.1, optim=optimizer, callbacks=[watch])
    trainer.train()
    every = dict(model.named_parameters())
    for step in range(STEPS):
        (level,) = trainer.levels_at_step(step)
        mask = {name for name, p in parameters_at_level(model, level).items() if p.requires_grad}
        # A softmax does not feel a constant added to all its inputs, so a key's bias has no gradient but rounding.
        felt = {name for name in mask if not ("k_proj" in name and name.endswith("bias"))}
        assert_moved(watch.weights[step], watch.weights[step + 1], felt)
        others = every.keys() - mask
        assert_still(watch.weights[step], watch.weights[step + 1], others)
        before, after = watch.states[step], watch.states[step + 1]
        assert step == 0 or before or optimizer == "sgd"
        for key in before:
            if key.split("/")[0] not in mask:
                assert torch.equal(before[key], after[key]), key
        assert {key.split("/")[0] for key in after.keys() - before.keys()} <= mask
    if optimizer == "adamw_torch":
        own = [parameters_at_level(model, level).items() for level in range(num_levels(model))]
        own = [{name for name, parameter in mask if parameter.requires_grad} for mask in own]
        for level in range(num_levels(model)):
            # What joins the network at a level counts the steps of the levels from there on.
            names = own[level].difference(*own[:level])
            steps = sum(trainer.levels_at_step(step)[0] >= level for step in range(STEPS))
            assert names and {int(watch.states[-1][f"{name}/step"]) for name in names} == {steps}


@pytest.mark.law(number=1)
@needs_5("transformers 4 takes no momentum from optim_args")
@pytest.mark.parametrize("schedule", ["alternating", "slimmable"])
def test_each_level_of_a_convolutional_network_has_statistics_that_no_other_steps_change(schedule, tmp_path):
    model = partition_(tiny_resnet(), PartitionConfig(method="width", ratios=[0.25, 0.5]))
    watch, buffers = Watch(), []
    sgd = dict(optim="sgd", optim_args="momentum=0.9", weight_decay=0.1, learning_rate=0.1)
    args = plain_arguments(tmp_path, schedule=schedule, max_steps=STEPS, logging_strategy="no", **sgd)

    class Look(TrainerCallback):
        def on_step_begin(self, *_, **__):
            buffers.append(snapshot(dict(model.named_buffers())))

        on_train_end = on_step_begin

    trainer = ATSTrainer(model, args, train_dataset=pictures(24), callbacks=[watch, Look()])
    trainer.train()
    every = dict(model.named_parameters()).keys()
    for step in range(STEPS):
        levels = trainer.levels_at_step(step)
        mask = {name for level in levels for name in parameters_at_level(model, level)}
        live = {name for name in buffers[step] if any(f"norms.{level}." in name for level in levels)}
        assert_moved(watch.weights[step], watch.weights[step + 1], mask)
        assert_moved(buffers[step], buffers[step + 1], live)
        if schedule == "slimmable":
            assert (every, buffers[step].keys()) == (mask, live)
            continue
        assert_still(watch.weights[step], watch.weights[step + 1], every - mask)
        assert_still(buffers[step], buffers[step + 1], buffers[step].keys() - live)
        momenta = {key for key in watch.states[step] if key.split("/")[0] not in mask}
        assert momenta or not step
        assert all(torch.equal(watch.states[step][key], watch.states[step + 1][key]) for key in momenta)


def test_the_model_is_at_full_level_outside_the_steps(tmp_path):
    model = partitioned()
    levels = []

    class Look(TrainerCallback):
        def on_step_end(self, *_, **__):
            levels.append(get_level(model))

    make_trainer(model, tmp_path, callbacks=[Look()]).train()
    assert levels == [1] * STEPS and get_level(model) == 1


# ---- Law 8: the loss does not depend on how a batch is cut ----


@pytest.mark.law(number=8)
@pytest.mark.parametrize(
    ("family", "smoothing", "partition"),
    [
        ("marian", 0.0, "rank"),
        ("marian", 0.1, "width ladder"),
        ("bart", 0.0, "width"),
        ("bart", 0.1, "rank"),
        ("m2m_100", 0.0, "rank ladder"),
        ("m2m_100", 0.1, "width"),
        ("t5", 0.0, "width"),
        ("t5", 0.1, "composition"),
    ],
)
def test_one_batch_of_eight_is_two_of_four(family, smoothing, partition, tmp_path):
    results = []
    for size, accumulation in ((8, 1), (4, 2), (1, 8)):
        model = partitioned(family, partition).double()
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
        snapshot(partitioned(family, partition).double()),
        snapshot(results[0]),
        [next(iter(parameters_at_level(model, 0)))],
    )


# ---- Law 2 and exact resume ----


SENTENCES = dict(lr_scheduler_type="inverse_sqrt", warmup_steps=2)
ACCUMULATION = dict(gradient_accumulation_steps=2, per_device_train_batch_size=3)
TOKENS = dict(max_tokens=64)


@pytest.mark.law(number=2)
@pytest.mark.parametrize(
    ("partition", "fields", "stop"),
    [
        *(("rank", fields, stop) for fields in (SENTENCES, ACCUMULATION, TOKENS) for stop in (1, 2, 3, 4)),
        ("width", SENTENCES, 2),
        ("width", ACCUMULATION, 3),
        ("width ladder", dict(schedule="random"), 3),
        ("composition", dict(schedule="random", max_tokens=64), 4),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else str(value),
)
def test_a_run_resumed_after_any_step_ends_with_bitwise_the_same_weights(partition, fields, stop, tmp_path):
    fields = fields | dict(weight_decay=0.1, label_smoothing_factor=0.1, alternate_lr_coef=0.5, max_steps=9)

    def run(directory, resume=None, **more):
        model = partitioned(partition=partition, dropout=0.1)
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
    other = partitioned(partition=PartitionConfig(ratios=[0.5]))
    with pytest.raises(ValueError, match=r"checkpoint-2 holds .*ratios=\[0.25\].* the model to resume is .*0.5"):
        make_trainer(other, tmp_path).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"checkpoint-2 holds .*'rank'.* the model to resume is .*'width'"):
        make_trainer(partitioned(partition="width"), tmp_path).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="the model to resume is unpartitioned"):
        make_trainer(tiny_model("marian"), tmp_path, schedule="full").train(resume_from_checkpoint=checkpoint)
