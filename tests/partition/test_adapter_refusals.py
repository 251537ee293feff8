"""What partition_from_adapter_ does not take: a sentence with the remedy, and the model as it was."""

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
        (dict(bias="all"), r"bias='all', and only a plain LoRA.*merge_and_unload\(\), and partition"),
        (dict(lora_bias=True), r"lora_bias=True"),
        (dict(use_dora=True), r"use_dora=True"),
        (dict(modules_to_save=["lm_head"]), r"modules_to_save=\['lm_head'\]"),
        (dict(trainable_token_indices=[1, 2]), r"trainable_token_indices=\[1, 2\]"),
        (dict(target_parameters=["fc1.weight"]), r"target_parameters=\['fc1.weight'\]"),
        (dict(layer_replication=[[0, 1], [0, 2]]), r"layer_replication=\[\[0, 1\], \[0, 2\]\]"),
        (dict(use_bdlora={"nblocks": 2}), r"use_bdlora="),
        (dict(megatron_config={"x": 1}), r"megatron_config=\{'x': 1\}"),
        (dict(init_lora_weights="pissa_niter_4"), r"init_lora_weights='pissa_niter_4', and only a plain LoRA"),
        (dict(init_lora_weights="olora"), r"init_lora_weights='olora'"),
        (dict(peft_type="MADE_UP"), r"cannot be read by this version of PEFT \('MADE_UP'\); give"),
        (dict(target_modules=["xfc1"]), r"does not fit this MarianMTModel: .*not found.* Give the model that it was"),
        (
            dict(target_modules=["fc1"]),
            r"\(model\.decoder\.\S*fc2\.lora_A\.weight has the shape \(4, 64\) instead of None, and 7",
        ),
        (
            dict(target_modules=["fc1", "fc2", "q_proj"]),
            r"q_proj\.lora_A\.weight has the shape None instead",
        ),
        (
            dict(r=5),
            r"model\.\S*\.0\.fc1\.lora_A\.weight has the shape \(4, 32\) instead of \(5, 32\), and 15 more",
        ),
        (
            dict(target_modules=["fc1", "lm_head"]),
            r"changes lm_head, the output head, and only plain nn\.Linear",
        ),
        (
            dict(target_modules=["fc1", "shared"]),
            r"changes model\.shared, a Embedding of torch\.float32, and only plain nn\.Linear",
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
    assert_refused(tmp_path, rf"has peft_type='{method}', and only a plain LoRA, which has not, is a sum.*; if PEFT")


def test_a_base_of_other_sizes(adapter):
    model = tiny_model("marian", encoder_ffn_dim=48)
    assert_refused(adapter, r"fc1\.lora_B\.weight has the shape \(64, 4\) instead of \(48, 4\)", model=model)
    assert_refused(adapter, r"layers\.2\..* has the shape None", model=tiny_model("marian", encoder_layers=3))
    assert_refused(adapter, r"layers\.1\..* instead of None", model=tiny_model("marian", encoder_layers=1))
    assert_refused(adapter, r"does not fit this T5ForConditionalGeneration: .*not found", model=tiny_model("t5"))


def test_a_rank_beyond_that_of_a_weight(tmp_path):
    get_peft_model(tiny_model("marian"), LoraConfig(r=33, target_modules=["fc1"])).save_pretrained(tmp_path)
    assert_refused(tmp_path, r"fc1 \(64 x 32\) the rank 33, and such a weight has at most 32")


def test_weights_of_a_variant_that_the_config_does_not_tell(adapter):
    path = adapter / "adapter_model.safetensors"
    magnitude = {"base_model.model.model.encoder.layers.0.fc1.lora_magnitude_vector": torch.ones(64)}
    save_file(load_file(path) | magnitude, path)
    assert_refused(adapter, r"lora_magnitude_vector has the shape \(64,\) instead of None, and 0 more")


def test_directories_that_hold_no_adapter(adapter, tmp_path):
    assert_refused(tmp_path, r"cannot be read by this version of PEFT \(.*adapter_config\.json.*; give the directory")
    (adapter / "adapter_config.json").write_text("{")
    assert_refused(adapter, r"cannot be read by this version of PEFT")


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
    layer = model.model.encoder.layers[0].fc1
    layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    assert_refused(adapter, r"fc1, a Linear of torch\.float8_e4m3fn, and only plain nn\.Linear", model=model)


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
        ValueError, match=rf"changes layer, a {kind.__name__} of torch\.float32, and only plain nn\.Linear layers in"
    ):
        partition_from_adapter_(model, tmp_path)
    assert type(model["layer"]) is kind


def test_partition_does_not_take_the_start_of_an_adapter():
    config = PartitionConfig(ranks={"fc1": 2}, init="adapter")
    model = tiny_model("marian")
    with pytest.raises(ValueError, match=r"init='adapter' takes the factors of an adapter.*partition_from_adapter_\("):
        partition_(model, config)
    assert not partitioned_layers(model)


def test_an_adapter_that_is_damaged(adapter):
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    assert_refused(adapter, "is damaged .*; take another copy")
