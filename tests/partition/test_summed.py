"""Two networks summed: the core alone at core level, both at full level."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_ats.partition import (
    PartitionConfig,
    SummedNetworks,
    SummedOutput,
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
from tests.support.laws import assert_moved, assert_same_weights, assert_still, snapshot
from tests.support.summed import (
    BATCH,
    CLASSES,
    FEATURES,
    Deep,
    Wide,
    collate,
    examples,
    names_of,
    sharing,
    wide_and_deep,
)


def batch(seed=0):
    inputs = collate(examples(BATCH, seed))
    return inputs, inputs.pop("labels")


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
    ("networks", "core_sees", "extension_sees"),
    [
        ((TakesNumbers, TakesAny), {"numbers"}, {"numbers", "crosses", "mask"}),
        ((TakesNumbers, TakesNothingByName), {"numbers"}, {"crosses", "mask"}),
        ((TakesAny, TakesNothingByName), {"numbers", "crosses", "mask"}, {"crosses", "mask"}),
    ],
)
def test_each_network_gets_the_inputs_that_it_names_and_never_the_labels(networks, core_sees, extension_sees):
    model = SummedNetworks(*(network() for network in networks))
    inputs, labels = batch()
    model(**inputs, mask=labels, labels=labels)
    assert (model.core.seen, model.extension.seen) == (core_sees, extension_sees)


def test_positional_inputs_go_to_both_and_unknown_ones_are_refused():
    torch.manual_seed(0)
    model = SummedNetworks(nn.Linear(FEATURES, 2), nn.Linear(FEATURES, 2))
    x = torch.randn(BATCH, FEATURES)
    assert torch.equal(model(x), model.core(x) + model.extension(x))
    inputs, _ = batch()
    with pytest.raises(TypeError, match=r"an input 'numbres': the core takes numbers, the extension crosses"):
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


def test_what_cannot_be_summed_is_refused():
    class Narrow(nn.Module):
        def forward(self, crosses):
            return crosses[:, :1]

    inputs, _ = batch()
    with pytest.raises(ValueError, match=rf"shape \({BATCH}, {CLASSES}\) and the extension's \({BATCH}, 1\); only"):
        SummedNetworks(Deep(), Narrow())(**inputs)
    split = partition_(Deep(), PartitionConfig(ratios=[0.5], target_modules=["layers.0"]))
    with pytest.raises(ValueError, match="extension is a partitioned Deep; a sum has the levels core and full"):
        SummedNetworks(Deep(), split)
    with pytest.raises(ValueError, match="SummedNetworks is partitioned already, with levels of its own"):
        partition_(wide_and_deep(), PartitionConfig(ratios=[0.5], target_modules=["linear"]))


@pytest.mark.law(number=1)
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
