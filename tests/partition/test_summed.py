"""Two networks summed: the core alone at core level, both at full level, and the laws of training."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_ats.partition import (
    PartitionConfig,
    at_level,
    count_exported_parameters,
    count_parameters,
    get_level,
    is_partitioned,
    level_names,
    num_levels,
    parameters_at_level,
    partition_,
    partitioned_layers,
    set_level,
)
from hf_ats.partition.summed import SummedNetworks, SummedOutput
from hf_ats.training import levels_at_step
from tests.support.distributed import assert_same_state, launch
from tests.support.laws import assert_moved, assert_same_weights, assert_still, snapshot
from tests.support.summed import (
    BATCH,
    CLASSES,
    CROSSES,
    FEATURES,
    Deep,
    Wide,
    collate,
    examples,
    summed_trainer,
    wide_and_deep,
)
from tests.support.training import Watch, plain_arguments
from tests.support.versions import needs_5


def batch(seed=0):
    inputs = collate(examples(BATCH, seed))
    return inputs, inputs.pop("labels")


def names_of(model, part):
    return [name for name, _ in model.named_parameters() if name.startswith(part)]


def test_the_full_level_is_the_sum_and_the_core_level_the_core_alone():
    core, extension = Deep(), Wide()
    model = SummedNetworks(core, extension)
    inputs, _ = batch()
    deep, wide = core(inputs["numbers"]), extension(inputs["crosses"])
    assert torch.equal(model(**inputs), deep + wide)
    with at_level(model, "core"):
        assert torch.equal(model(**inputs), deep)
        assert torch.equal(model(numbers=inputs["numbers"]), deep), "what only the extension reads is not needed"
    assert torch.equal(model(**inputs), deep + wide)
    assert model.core is core and model.extension is extension


def test_levels_and_counts_are_those_of_every_super_network():
    model = wide_and_deep()
    assert is_partitioned(model) and num_levels(model) == 2 and level_names(model) == ["core", "full"]
    deep, wide = (sum(p.numel() for p in part.parameters()) for part in (model.core, model.extension))
    assert (count_parameters(model, "core"), count_parameters(model, "full")) == (deep, deep + wide)
    assert (count_exported_parameters(model, 0), count_exported_parameters(model, 1)) == (deep, deep + wide)
    assert list(parameters_at_level(model, "core")) == names_of(model, "core.")
    assert list(parameters_at_level(model, "full")) == [name for name, _ in model.named_parameters()]
    set_level(model, "core")
    assert get_level(model) == model.level == 0
    wrapped = nn.Sequential(model)  # as DistributedDataParallel holds it
    assert list(partitioned_layers(wrapped).values()) == [model]
    set_level(wrapped, "full")
    assert model.level == 1
    assert_same_weights(SimpleNamespace(state_dict=lambda: model.stock_state(0)), model.core)
    with pytest.raises(ValueError, match=r"level='level1' is not a level of this SummedNetworks"):
        set_level(model, "level1")


class Takes(nn.Module):
    """A network that keeps the names of what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen = None

    def _note(self, **named):
        self.seen = set(named)
        return self.weight * torch.ones(BATCH, CLASSES)


class TakesNumbers(Takes):
    def forward(self, numbers, labels=None):
        return self._note(numbers=numbers, **({"labels": labels} if labels is not None else {}))


class TakesAny(Takes):
    def forward(self, numbers=None, **others):
        return self._note(numbers=numbers, **others)


class TakesNothingByName(Takes):
    def forward(self, *inputs, **named):
        return self._note(**named)


@pytest.mark.parametrize(
    ("networks", "options", "core_sees", "extension_sees"),
    [
        ((TakesNumbers, TakesAny), {}, {"numbers"}, {"numbers", "crosses", "mask"}),
        ((TakesNumbers, TakesNothingByName), {}, {"numbers"}, {"crosses", "mask"}),
        ((TakesAny, TakesNothingByName), {}, {"numbers", "crosses", "mask"}, {"crosses", "mask"}),
        (
            (TakesNothingByName, TakesNothingByName),
            dict(core_inputs=["numbers"], extension_inputs=["crosses", "mask"]),
            {"numbers"},
            {"crosses", "mask"},
        ),
    ],
)
def test_each_network_gets_the_inputs_that_it_names_and_never_the_labels(networks, options, core_sees, extension_sees):
    model = SummedNetworks(*(network() for network in networks), **options)
    inputs, labels = batch()
    model(**inputs, mask=labels, labels=labels)
    assert (model.core.seen, model.extension.seen) == (core_sees, extension_sees)


def test_positional_inputs_go_to_both_and_unknown_ones_are_refused():
    torch.manual_seed(0)
    model = SummedNetworks(nn.Linear(FEATURES, 2), nn.Linear(FEATURES, 2))
    x = torch.randn(BATCH, FEATURES)
    assert torch.equal(model(x), model.core(x) + model.extension(x))
    inputs, _ = batch()
    with pytest.raises(TypeError, match=r"an input 'numbres': the core takes 'numbers', the extension 'crosses'"):
        wide_and_deep()(crosses=inputs["crosses"], numbres=inputs["numbers"])


class Returns(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(FEATURES, CLASSES)

    def forward(self, numbers, labels=None):
        logits = self.linear(numbers)
        return {
            "output": SequenceClassifierOutput(loss=torch.tensor(100.0), logits=logits, hidden_states=(numbers,)),
            "dict": {"loss": torch.tensor(100.0), "logits": logits},
            "tuple": (logits, numbers),
            "tensor": logits,
            "nothing": None,
        }[self.kind]


@pytest.mark.parametrize("core", ["output", "dict", "tuple", "tensor"])
@pytest.mark.parametrize("extension", ["output", "tuple", "tensor"])
def test_the_logits_of_any_kind_of_output_are_summed_and_the_loss_is_that_of_the_sum(core, extension):
    model = SummedNetworks(Returns(core), Returns(extension))
    inputs, labels = batch()
    numbers = inputs["numbers"]
    expected = {0: model.core.linear(numbers), 1: model.core.linear(numbers) + model.extension.linear(numbers)}
    for level, logits in expected.items():
        with at_level(model, level):
            output = model(numbers=numbers)
            assert isinstance(output, torch.Tensor if core == "tensor" else SummedOutput)
            assert torch.equal(output if core == "tensor" else output.logits, logits)
            assert core == "tensor" or list(output) == ["logits"]
            output = model(numbers=numbers, labels=labels)
            assert torch.equal(output.logits, logits) and torch.equal(output.loss, F.cross_entropy(logits, labels))


def test_another_loss_is_given_and_labels_that_the_default_does_not_know_are_refused():
    inputs, labels = batch()
    model = wide_and_deep(loss_function=lambda logits, labels: (logits.sum(dim=1) - labels).square().mean())
    output = model(**inputs, labels=labels)
    assert torch.equal(output.loss, (output.logits.sum(dim=1) - labels).square().mean())
    for wrong in (labels.float(), labels[:, None]):
        with pytest.raises(ValueError, match=r"are not those of a classifier.*give SummedNetworks a loss_function"):
            wide_and_deep()(**inputs, labels=wrong)


def test_what_cannot_be_summed_is_refused():
    inputs, _ = batch()
    narrow = SummedNetworks(Deep(), nn.Linear(CROSSES, 1), extension_inputs=["input"])
    with pytest.raises(ValueError, match=rf"shape \({BATCH}, {CLASSES}\) and the extension's \({BATCH}, 1\); only"):
        narrow(numbers=inputs["numbers"], input=inputs["crosses"])
    with pytest.raises(TypeError, match="the extension returned a NoneType without logits"):
        SummedNetworks(Returns("tensor"), Returns("nothing"))(numbers=inputs["numbers"])


def test_networks_that_are_partitioned_or_one_and_the_same_are_refused():
    split = partition_(Deep(), PartitionConfig(ratios=[0.5], target_modules=["layers.0"]))
    with pytest.raises(ValueError, match="extension is a partitioned Deep; a sum has the levels core and full"):
        SummedNetworks(Deep(), split)
    with pytest.raises(ValueError, match="core is a partitioned SummedNetworks"):
        SummedNetworks(wide_and_deep(), Deep())
    one = Deep()
    with pytest.raises(ValueError, match="core and extension are the same Deep"):
        SummedNetworks(one, one)
    with pytest.raises(ValueError, match="SummedNetworks is partitioned already"):
        partition_(wide_and_deep(), PartitionConfig(ratios=[0.5], target_modules=["linear"]))


def sharing():
    """Both networks end in the same layer, and the core begins and ends with one more."""
    torch.manual_seed(0)
    core, extension = Deep(), Deep()
    extension.layers[2] = core.layers[2]
    return SummedNetworks(core, extension)


def test_shared_parameters_are_the_cores_and_take_part_at_both_levels(tmp_path):
    model = sharing()
    shared = {"core.layers.2.weight", "core.layers.2.bias"}
    assert shared < set(parameters_at_level(model, "core"))
    assert names_of(model, "extension") == ["extension.layers.0.weight", "extension.layers.0.bias"]
    once = sum({id(p): p.numel() for part in (model.core, model.extension) for p in part.parameters()}.values())
    assert count_parameters(model, "full") == once
    before = snapshot(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    inputs, labels = batch()
    for level, still in (("core", names_of(model, "extension")), ("full", [])):
        with at_level(model, level):
            model(numbers=inputs["numbers"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        after = snapshot(model)
        assert_moved(before, after, [name for name in after if name not in still])
        if still:
            assert_still(before, after, still)
        before = after


def test_a_shared_parameter_is_in_the_state_once_and_loads_into_both(tmp_path):
    model, other = sharing(), sharing()
    state = model.state_dict()
    save_file(state, tmp_path / "model.safetensors")  # refuses tensors that share memory
    assert "core.layers.2.weight" in state and "extension.layers.2.weight" not in state
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(state)
    assert_same_weights(model, other)
    assert other.extension.layers[2] is other.core.layers[2]
    assert "layers.2.weight" in model.extension.state_dict(), "which stands alone too"


def test_it_is_copied_and_pickled_whole():
    model = wide_and_deep()
    inputs, _ = batch()
    expected = model(**inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(**inputs), expected)
        with torch.no_grad():
            other.core.layers[2].bias.add_(1.0)
        assert torch.allclose(other(**inputs), expected + 1.0)
        assert torch.equal(model(**inputs), expected)


_SGD = pytest.param("sgd", marks=needs_5("transformers 4 takes no momentum from optim_args"))


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


@pytest.mark.parametrize("schedule", ["alternating", "core", "full", "slimmable", "random", "sandwich"])
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


@pytest.mark.parametrize("make", [wide_and_deep, sharing])
@pytest.mark.parametrize("stop", [2, 3])
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


def test_two_processes_train_what_one_does_and_core_steps_send_the_core_alone(tmp_path):
    launch("-m", "tests.support.distributed.summed_worker", str(tmp_path))
    trainer = summed_trainer(tmp_path / "one", examples(), double=True)
    trainer.train()
    model = trainer.model
    bytes_of = [sum(p.nbytes for p in parameters_at_level(model, level).values()) for level in (0, 1)]
    assert bytes_of[0] < bytes_of[1]
    for rank in (0, 1):
        record = torch.load(tmp_path / f"rank{rank}.pt")
        assert_same_state(record["state"], model.state_dict(), rtol=1e-6, atol=1e-9)
        # DistributedDataParallel reduces full steps where this does not look.
        assert record["sent"] == [0, bytes_of[0]] * 3
