"""A base model and a LoRA adapter become one partitioned model, which computes what the adapted model computed."""

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
)
from torch import nn

from hf_ats.checkpoint import export_adapter, export_core, export_full, load_network, load_partitioned, stored_levels
from hf_ats.partition import (
    PRESETS,
    PartitionConfig,
    at_level,
    find_partition,
    get_level,
    level_names,
    partition_,
    partition_from_adapter_,
    partitioned_layers,
)
from hf_ats.training import refuse_another_model
from tests.support.checkpoints import logits
from tests.support.hub import connected_hub
from tests.support.hub.contents import Commit
from tests.support.models import FAMILIES, probe_batch, tiny_model
from tests.support.training import make_trainer

EXACT = dict(rtol=0, atol=0)
CLOSE = dict(rtol=1e-4, atol=1e-4)
CONFIGS = {
    "plain": dict(r=4, lora_alpha=12),
    "rsLoRA": dict(r=4, lora_alpha=12, use_rslora=True),
    "own ranks": dict(r=4, lora_alpha=12, rank_pattern={"fc1|wi": 7, r".*\.0\..*\.q(_proj)?": 2}),
    "own alphas": dict(r=4, lora_alpha=12, rank_pattern={"fc2|wo": 5}, alpha_pattern={"fc1|wi": 3, "fc2|wo": 2}),
    "all layers": dict(r=3, target_modules="all-linear"),
    "some layers": dict(r=3, target_modules=r".*decoder.*(fc1|wi)"),
    "dropout": dict(r=4, lora_dropout=0.5, init_lora_weights="gaussian"),
}


def adapt(model, seed: int = 0, **fields) -> PeftModel:
    """`model` with a LoRA adapter around it, none of whose weights is zero, in eval mode."""
    fields = {"target_modules": list(PRESETS[model.config.model_type])} | fields
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_2_SEQ_LM", **fields))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return adapted.eval()


def save_adapter(directory, family: str = "marian", **fields):
    """The directory of an adapter of a tiny model."""
    adapt(tiny_model(family), **fields).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """The directory of a plain adapter of the tiny Marian."""
    return save_adapter(tmp_path_factory.mktemp("adapter"), **CONFIGS["own ranks"])


@pytest.mark.law(number=3)
@pytest.mark.parametrize(
    ("family", "kind"),
    [("marian", kind) for kind in CONFIGS] + [(family, "own ranks") for family in FAMILIES if family != "marian"],
)
def test_the_full_level_computes_what_the_adapted_model_computed(family, kind, tmp_path):
    base = tiny_model(family)
    batch = probe_batch(base)
    of_base = logits(base, batch)
    adapted = adapt(tiny_model(family), **CONFIGS[kind])
    expected = logits(adapted, batch)
    assert not torch.allclose(expected, of_base, atol=0.1)
    adapted.save_pretrained(tmp_path)
    weights = dict(base.named_parameters())
    assert partition_from_adapter_(base, tmp_path) is base and get_level(base) == 1
    torch.testing.assert_close(logits(base, batch), expected, **CLOSE)

    layers = partitioned_layers(base)
    theirs = {name.removeprefix("base_model.model."): m for name, m in adapted.named_modules() if hasattr(m, "lora_A")}
    assert layers.keys() == theirs.keys()
    for name, layer in layers.items():
        lora = theirs[name]
        assert layer.ranks == (lora.r["default"],)
        assert layer.weight is weights[f"{name}.weight"]
        torch.testing.assert_close(layer.U[0], lora.lora_A["default"].weight, **EXACT)
        torch.testing.assert_close(layer.V[0], lora.scaling["default"] * lora.lora_B["default"].weight, **EXACT)
        assert all(p.requires_grad for p in layer.parameters())
    assert ("own" in kind) == (len({layer.ranks for layer in layers.values()}) > 1)
    config = find_partition(base)
    assert config.ranks == {name: layer.ranks[0] for name, layer in layers.items()} and config.init == "adapter"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_core_is_the_adapter_alone(family, tmp_path):
    adapted = adapt(tiny_model(family), **CONFIGS["own alphas"])
    adapted.save_pretrained(tmp_path)
    model = partition_from_adapter_(tiny_model(family), tmp_path)
    with torch.no_grad():
        for module in adapted.modules():
            if hasattr(module, "lora_A"):
                module.base_layer.weight.zero_()
    batch = probe_batch(model)
    with at_level(model, "core"):
        torch.testing.assert_close(logits(model, batch), logits(adapted, batch), **CLOSE)


def test_half_precision_is_rounded_once(tmp_path):
    adapted = adapt(tiny_model("marian").to(torch.bfloat16), **CONFIGS["own alphas"])
    batch = probe_batch(adapted)
    adapted.save_pretrained(tmp_path)
    model = partition_from_adapter_(tiny_model("marian").to(torch.bfloat16), tmp_path)
    theirs, ours = logits(adapted, batch).float(), logits(model, batch).float()
    assert (ours - theirs).abs().mean() < 0.02 * theirs.abs().mean()
    for name, layer in partitioned_layers(model).items():
        lora = adapted.get_submodule(f"base_model.model.{name}")
        product = lora.scaling["default"] * lora.lora_B["default"].weight.float()
        assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
        torch.testing.assert_close(layer.V[0], product.to(torch.bfloat16), **EXACT)


@pytest.mark.law(number=3)
def test_an_untrained_adapter_changes_nothing_and_its_core_is_the_shared_parameters(tmp_path):
    base = tiny_model("marian")
    batch = probe_batch(base)
    expected = logits(base, batch)
    get_peft_model(tiny_model("marian"), LoraConfig(r=4, target_modules=["fc1"])).save_pretrained(tmp_path)
    partition_from_adapter_(base, tmp_path)
    torch.testing.assert_close(logits(base, batch), expected)
    assert all(layer.U[0].any() and not layer.V[0].any() for layer in partitioned_layers(base).values())


def test_what_is_frozen_stays_frozen(adapter):
    model = tiny_model("marian")
    model.model.encoder.requires_grad_(False)
    partition_from_adapter_(model, adapter)
    for name, layer in partitioned_layers(model).items():
        assert all(p.requires_grad == ("decoder" in name) for p in (layer.weight, *layer.U, *layer.V)), name


def test_older_weights_in_a_pickle_are_read(tmp_path):
    adapted = adapt(tiny_model("marian"), r=3)
    adapted.save_pretrained(tmp_path, safe_serialization=False)
    assert not (tmp_path / "adapter_model.safetensors").exists()
    model = partition_from_adapter_(tiny_model("marian"), tmp_path)
    torch.testing.assert_close(logits(model, probe_batch(model)), logits(adapted, probe_batch(model)), **CLOSE)


class Toy(nn.Module):
    """Where one layer's whole name is the end of another's."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 5)
        self.block = nn.ModuleDict({"fc": nn.Linear(5, 5)})

    def forward(self, x):
        return self.block["fc"](self.fc(x))


def test_a_module_that_is_none_of_transformers_is_partitioned_in_exactly_the_adapted_layers(tmp_path):
    torch.manual_seed(0)
    stock, model = Toy(), Toy()
    model.load_state_dict(stock.state_dict())
    adapted = get_peft_model(stock, LoraConfig(r=2, target_modules="fc", init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    x = torch.randn(3, 6)
    partition_from_adapter_(model, tmp_path)
    assert list(partitioned_layers(model)) == ["fc"]
    torch.testing.assert_close(model(x), adapted.base_model(x), **CLOSE)


# There and back


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_adapter_over_its_base_is_the_same_model_bit_by_bit(family, tmp_path):
    model = partition_(tiny_model(family), PartitionConfig(ranks={PRESETS[family][0]: 3, PRESETS[family][2]: 6}))
    export_adapter(model, tmp_path / "out")
    again = type(model).from_pretrained(tmp_path / "out" / "base")
    partition_from_adapter_(again, tmp_path / "out")
    layers = partitioned_layers(model)
    assert layers.keys() == partitioned_layers(again).keys() and len({x.ranks for x in layers.values()}) == 2
    one, other = model.state_dict(), again.state_dict()
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_of_a_ladder_the_largest_core_comes_back(tmp_path):
    model = partition_(tiny_model("marian"), PartitionConfig(ratios=[0.1, 0.25]))
    export_adapter(model, tmp_path / "out")
    again = partition_from_adapter_(type(model).from_pretrained(tmp_path / "out" / "base"), tmp_path / "out")
    assert level_names(again) == ["core", "full"]
    for name, layer in partitioned_layers(again).items():
        for one, other in zip(layer.factors(0), model.get_submodule(name).factors(1), strict=True):
            assert torch.equal(one, other), name


@pytest.mark.law(number=6)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_full_export_is_what_peft_merges(family, tmp_path):
    adapted = adapt(tiny_model(family), **CONFIGS["own ranks"])
    adapted.save_pretrained(tmp_path / "adapter")
    model = partition_from_adapter_(tiny_model(family), tmp_path / "adapter")
    export_full(model, tmp_path / "full")
    ours, theirs = load_network(tmp_path / "full").state_dict(), adapted.merge_and_unload().state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-6)


def test_training_checkpoints_resuming_and_exports_carry_the_ranks(adapter, tmp_path):
    start = {name: p.clone() for name, p in partition_from_adapter_(tiny_model("marian"), adapter).named_parameters()}

    def trainer():
        model = partition_from_adapter_(tiny_model("marian"), adapter)
        settings = dict(save_strategy="steps", save_steps=2, schedule="alternating", max_steps=4)
        return make_trainer(model, tmp_path / "run", **settings)

    straight = trainer()
    straight.train()
    model = straight.model
    for name, p in model.named_parameters():
        if ".U." in name or ".V." in name or ".residual." in name:
            assert not torch.equal(p, start[name]), name
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert stored_levels(checkpoint) == ["core", "full"]
    again = load_partitioned(tmp_path / "run" / "checkpoint-4")
    assert find_partition(again) == find_partition(model)
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], **EXACT)
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(checkpoint))
    for name, p in resumed.model.named_parameters():
        torch.testing.assert_close(p, model.get_parameter(name), **EXACT)
    other = partition_(tiny_model("marian"), PartitionConfig(ratios=[0.25]))
    with pytest.raises(ValueError, match=r"the model to resume is PartitionConfig\(.*ratios=\[0\.25\]"):
        refuse_another_model(checkpoint, other)

    ranks = {name: layer.ranks[0] for name, layer in partitioned_layers(model).items()}
    report = export_core(model, tmp_path / "core")
    assert report.partition["ranks"] == ranks and len(set(ranks.values())) == 3
    core = load_network(tmp_path / "core")
    assert {name: core.get_submodule(name).U.out_features for name in ranks} == ranks
    with at_level(model.eval(), "core"):
        torch.testing.assert_close(logits(core, probe_batch(core)), logits(model, probe_batch(core)), **CLOSE)


def test_an_adapter_of_the_hub_is_read_at_its_revision(adapter, monkeypatch, tmp_path):
    expected = partition_from_adapter_(tiny_model("marian"), adapter).state_dict()
    files = {path.name: path.read_bytes() for path in adapter.iterdir()}
    with connected_hub(monkeypatch, tmp_path) as hub:
        commit = hub.create("ann/lora", files, private=True).resolve("main")
        later = save_adapter(tmp_path / "later", r=2)
        hub.repositories["ann/lora"].add(
            "main", Commit(commit, "later", "", {path.name: path.read_bytes() for path in later.iterdir()})
        )
        model = partition_from_adapter_(tiny_model("marian"), "ann/lora", revision=commit)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
        for name, revision, token in (
            ("ann/lora", "v9", None),
            ("ann/lora", None, False),
            ("ann/nothing", None, None),
        ):
            with pytest.raises(ValueError, match=rf"adapter='{name}' cannot be read.*with its revision and token"):
                partition_from_adapter_(tiny_model("marian"), name, revision=revision, token=token)
