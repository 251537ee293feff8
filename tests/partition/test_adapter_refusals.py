"""What partition_from_adapter_ does not take: a sentence with the remedy, and the model as it was."""

import builtins
import json

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PrefixTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Conv1D

from hf_ats.partition import PartitionConfig, partition_, partition_from_adapter_, partitioned_layers
from tests.support.checkpoints import assert_same, snapshot
from tests.support.models import tiny_model


@pytest.fixture
def adapter(tmp_path):
    """The directory of a plain adapter of the tiny Marian's feed-forward layers, of rank 4."""
    adapted = get_peft_model(tiny_model("marian"), LoraConfig(r=4, target_modules=["fc1", "fc2"]))
    adapted.save_pretrained(tmp_path / "lora")
    return tmp_path / "lora"


def assert_refused(adapter, message: str, error: type = ValueError, model=None) -> None:
    """A sentence, and neither the model nor the random numbers have changed."""
    model = tiny_model("marian") if model is None else model
    before = snapshot(model)
    with pytest.raises(error, match=message) as raised:
        partition_from_adapter_(model, adapter)
    assert str(raised.value).endswith(".")
    assert_same(before, snapshot(model))


def rewrite(adapter, **fields) -> None:
    """Changes fields of the adapter's config."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            dict(bias="all"),
            r"bias='all', so it changes biases of the base; merge.*merge_and_unload\(\), and",
        ),
        (dict(bias="lora_only"), r"bias='lora_only', so it"),
        (dict(lora_bias=True), r"lora_bias=True: its B has a bias, and V none; merge"),
        (dict(use_dora=True), r"use_dora=True: DoRA scales whole rows of W, where U and V only add to it; merge"),
        (dict(modules_to_save=["lm_head"]), r"modules_to_save=\['lm_head'\]: these modules of the base are replaced"),
        (dict(trainable_token_indices=[1, 2]), r"trainable_token_indices=\[1, 2\]: it changes rows of the embeddings"),
        (dict(target_parameters=["fc1.weight"]), r"target_parameters=\['fc1.weight'\]: it changes parameters that"),
        (dict(layer_replication=[[0, 1], [0, 2]]), r"layer_replication=\[\[0, 1\], \[0, 2\]\]: .*plain LoraConfig\("),
        (dict(use_qalora=True), r"use_qalora=True: it pools"),
        (dict(use_bdlora={"nblocks": 2}), r"use_bdlora=.*its factors are block-diagonal; merge"),
        (dict(alora_invocation_tokens=[5]), r"alora_invocation_tokens=\[5\]: it is active on some tokens only; train"),
        (dict(arrow_config={"top_k": 2}), r"arrow_config=.*: it routes tokens among adapters; train"),
        (dict(megatron_config={"x": 1}), r"megatron_config=\{'x': 1\}: its layers are Megatron's; train"),
        (
            dict(init_lora_weights="pissa"),
            r"init_lora_weights='pissa', which takes.*path_initial_model_for_",
        ),
        (dict(init_lora_weights="pissa_niter_4"), r"init_lora_weights='pissa_niter_4'"),
        (dict(init_lora_weights="olora"), r"init_lora_weights='olora'"),
        (dict(init_lora_weights="corda"), r"init_lora_weights='corda'"),
        (dict(init_lora_weights="lora_ga"), r"init_lora_weights='lora_ga'"),
        (dict(peft_type="MADE_UP"), r"of a kind that this version of PEFT does not know \('MADE_UP'\); give a LoRA"),
        (dict(r=33), r"has the rank 33 in model\.encoder\.layers\.0\.fc1 \(64 x 32\), .*can have, 32; merge"),
        (dict(target_modules=["xfc1"]), r"does not fit this MarianMTModel: .*not found.* Give the model that it was"),
        (
            dict(target_modules=["fc1"]),
            r"\(unexpected: model\.decoder\.\S*fc2\.lora_A\.weight and 7",
        ),
        (dict(target_modules=["fc1", "fc2", "q_proj"]), r"weights of adapter=.*\(missing: .*q_proj.lora_A.weight and"),
        (
            dict(r=5),
            r"of another shape: model\.\S*\.0\.fc1\.lora_A\.weight of \(4, 32\) instead of \(5, 32\)",
        ),
        (
            dict(target_modules=["fc1", "lm_head"]),
            r"changes lm_head, the output head, which every level shares;",
        ),
        (
            dict(target_modules=["fc1", "shared"]),
            r"changes model\.shared, of class Embedding, and only plain nn\.Linear",
        ),
    ],
)
def test_an_adapter_that_is_more_or_other_than_sums_of_linear_layers(adapter, fields, message):
    rewrite(adapter, **fields)
    assert_refused(adapter, message)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (IA3Config(target_modules=["fc1"], feedforward_modules=["fc1"]), "IA3"),
        (LoHaConfig(r=2, target_modules=["fc1"]), "LOHA"),
        (AdaLoraConfig(target_modules=["fc1"], total_step=10, tinit=1, tfinal=1), "ADALORA"),
        (PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3), "PREFIX_TUNING"),
    ],
)
def test_other_methods_of_peft(config, method, tmp_path):
    config.save_pretrained(tmp_path)
    assert_refused(tmp_path, rf"is of peft_type '{method}', and only 'LORA' has factors that can be U and V; if PEFT")


def test_a_base_of_other_sizes(adapter):
    model = tiny_model("marian", encoder_ffn_dim=48)
    assert_refused(adapter, r"shape: .*fc1.lora_B.weight of \(64, 4\) instead of \(48, 4\)", model=model)
    assert_refused(adapter, r"missing: .*layers\.2\.", model=tiny_model("marian", encoder_layers=3))
    assert_refused(adapter, r"unexpected: .*layers\.1\.", model=tiny_model("marian", encoder_layers=1))
    assert_refused(adapter, r"does not fit this T5ForConditionalGeneration: .*not found", model=tiny_model("t5"))


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_damaged_and_missing_weights(adapter, ending):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    if ending == "bin":
        path.unlink()
        path = adapter / "adapter_model.bin"
        torch.save(tensors, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert_refused(adapter, r"the weights of adapter=.* are damaged \(.*\); was the copy interrupted\? Copy it")
    path.unlink()
    assert_refused(adapter, r"neither adapter_model\.safetensors nor adapter_model\.bin; copy it", FileNotFoundError)


def test_weights_of_a_variant_that_the_config_does_not_tell(adapter):
    path = adapter / "adapter_model.safetensors"
    magnitude = {"base_model.model.model.encoder.layers.0.fc1.lora_magnitude_vector": torch.ones(64)}
    save_file(load_file(path) | magnitude, path)
    assert_refused(adapter, r"unexpected: model\.encoder\.layers\.0\.fc1\.lora_magnitude_vector and 0 more")


def test_directories_that_hold_no_adapter(adapter, tmp_path):
    assert_refused(tmp_path, r"holds no adapter_config\.json; give the directory that PEFT's", FileNotFoundError)
    assert_refused(tmp_path / "nowhere", r"nowhere' is no directory, and .*correct the name", OSError)
    (adapter / "adapter_config.json").write_text("{")
    assert_refused(adapter, r"the adapter_config\.json of adapter=.* cannot be read: ")


def test_a_partitioned_model(adapter):
    model = partition_(tiny_model("marian"), PartitionConfig())
    assert_refused(adapter, "this MarianMTModel is partitioned already; give .* the unpartitioned base", model=model)


def test_a_model_that_is_adapted_already(adapter):
    adapted = get_peft_model(tiny_model("marian"), LoraConfig(r=2, target_modules=["fc1"]))
    for model in (adapted, adapted.get_base_model()):
        with pytest.raises(ValueError, match=r"holds PEFT's layers already; .*save_pretrained\(directory\), load"):
            partition_from_adapter_(model, adapter)
    assert not partitioned_layers(adapted)


def test_a_quantised_base(adapter):
    model = tiny_model("marian")
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    assert_refused(adapter, "this MarianMTModel is quantised, and W is trained; load the base in full", model=model)
    model = tiny_model("marian")
    layer = model.model.encoder.layers[0].fc1
    layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    assert_refused(adapter, r"fc1, whose weight is of torch\.float8_e4m3fn, and W is trained; load", model=model)


class Quantised(nn.Linear):
    """Stands for the layers of the libraries that quantise."""


@pytest.mark.parametrize("kind", [Conv1D, nn.Conv2d, Quantised])
def test_layers_that_are_no_plain_linear_ones(kind, tmp_path):
    model = nn.ModuleDict({"layer": kind(8, 6) if kind is not nn.Conv2d else kind(8, 6, 3)})
    fan_in_fan_out = kind is Conv1D
    get_peft_model(
        nn.ModuleDict({"layer": type(model["layer"])(8, 6, *([3] if kind is nn.Conv2d else []))}),
        LoraConfig(r=2, target_modules=["layer"], fan_in_fan_out=fan_in_fan_out),
    ).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=rf"changes layer, of class {kind.__name__}, and only plain nn\.Linear layers can"
    ):
        partition_from_adapter_(model, tmp_path)
    assert type(model["layer"]) is kind


def test_without_peft(adapter, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "peft":
            raise ModuleNotFoundError("No module named 'peft'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"adapter=.*lora' is read by PEFT, which is not installed; run `pip"):
        partition_from_adapter_(tiny_model("marian"), adapter)


def test_partition_does_not_take_the_start_of_an_adapter():
    config = PartitionConfig(ranks={"fc1": 2}, init="adapter")
    model = tiny_model("marian")
    with pytest.raises(ValueError, match=r"init='adapter' takes the factors of an adapter.*partition_from_adapter_\("):
        partition_(model, config)
    assert not partitioned_layers(model)
