"""The core classes, alone: what they compute, what they ask for, and that they save themselves completely."""

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from hf_ats.checkpoint.networks import core_network
from hf_ats.checkpoint.registration import CORE_CLASSES
from hf_ats.remote_code import attention_ats, modeling_ats, pipeline_ats
from hf_ats.remote_code.modeling_ats import FilledHeadsLinear, LowRankLinear
from tests.support.checkpoints import logits
from tests.support.decodings import beam_scores
from tests.support.models import ALL_FAMILIES, FAMILIES, FEED_FORWARD, partitioned, probe_batch, tiny_config


def core(family: str, names: list[str]):
    """A core with random weights, of rank 3 in the named layers."""
    config_class = next(c.config_class for c in CORE_CLASSES if c.config_class.model_type == f"ats_{family}")
    fields = tiny_config(family).to_dict() | {"model_type": config_class.model_type}
    config = config_class.from_dict({**fields, "ats_ranks": dict.fromkeys(names, 3)})
    torch.manual_seed(0)
    return AutoModelForSeq2SeqLM.from_config(config).eval()


def feed_forward(family: str) -> list[str]:
    layer = "encoder.block.0.layer.1.DenseReluDense" if family in ("t5", "mt5") else "model.encoder.layers.0"
    return [f"{layer}.{name}" for name in FEED_FORWARD[family]]


@pytest.mark.parametrize("bias", [True, False])
def test_low_rank_linear_is_a_linear_layer_with_weight_vu(bias):
    layer = LowRankLinear(6, 5, 2, bias=bias)
    x = torch.randn(3, 4, 6)
    expected = nn.functional.linear(x, layer.V.weight @ layer.U.weight, layer.V.bias)
    torch.testing.assert_close(layer(x), expected)
    assert layer.bias is layer.V.bias
    assert (layer.bias is not None) == bias


def test_the_weight_of_a_low_rank_layer_has_shape_and_dtype_and_no_data():
    weight = LowRankLinear(6, 5, 2).to(torch.bfloat16).weight
    assert (weight.shape, weight.dtype) == ((5, 6), torch.bfloat16)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        weight.sum().item()


@pytest.mark.law(number=6)
@pytest.mark.parametrize("module", [modeling_ats, attention_ats, pipeline_ats])
def test_files_that_travel_import_torch_and_transformers_alone(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # Of files that travel together, one may name another.
            assert node.level == 0 or (node.level, f"{node.module}.py") in {(1, name) for name in modeling_ats.FILES}
            imported |= {node.module} if node.level == 0 else set()
    assert {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names) <= {"torch", "transformers"}


@pytest.mark.law(number=6)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_core_saves_itself_completely_and_loads_without_w(family, tmp_path):
    names = feed_forward(family)
    model = core(family, names)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "attention_ats.py",
        "modeling_ats.py",
        "pipeline_ats.py",
    }
    again, found = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(again) is type(model)
    assert all(isinstance(again.get_submodule(name), LowRankLinear) for name in names)
    assert not any(f"{name}.weight" in again.state_dict() for name in names)
    batch = probe_batch(model)
    assert torch.equal(logits(again, batch), logits(model, batch))


def test_the_config_of_a_core_names_its_code_again_each_time_it_is_saved(tmp_path):
    core("marian", feed_forward("marian")).save_pretrained(tmp_path / "first")
    AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second"))
    assert first == second
    assert first["auto_map"] == {
        "AutoConfig": "modeling_ats.ATSMarianConfig",
        "AutoModelForSeq2SeqLM": "modeling_ats.ATSMarianMTModel",
    }
    assert first["custom_pipelines"]["translation"]["impl"] == "pipeline_ats.ATSTranslationPipeline"
    for reference in (*first["auto_map"].values(), first["custom_pipelines"]["translation"]["impl"]):
        file, name = reference.split(".")
        assert hasattr({"modeling_ats": modeling_ats, "pipeline_ats": pipeline_ats}[file], name)


def test_an_installed_package_does_not_ask_for_trust_in_the_files_pipeline(tmp_path):
    core("marian", feed_forward("marian")).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).custom_pipelines == {}


def test_tools_that_look_for_linear_layers_find_the_factors(tmp_path):
    model = core("marian", feed_forward("marian"))
    factors = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and "fc1." in name]
    assert factors == ["model.encoder.layers.0.fc1.U", "model.encoder.layers.0.fc1.V"]


def test_a_filled_up_layer_has_zeros_at_the_end_of_each_head():
    layer = FilledHeadsLinear(6, 4, True, 2, 10)
    x = torch.randn(3, 7, 6)
    narrow, filled = nn.functional.linear(x, layer.weight, layer.bias), layer(x)
    assert filled.shape == (3, 7, 10)
    assert torch.equal(filled[..., [0, 1, 5, 6]], narrow)
    assert not filled[..., [2, 3, 4, 7, 8, 9]].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_that_change_places_leave_the_keys_of_the_source_where_they_are(family, tmp_path, monkeypatch):
    # With embeddings of its own the output is not mostly the word before it, so beams part and change places.
    core_network(partitioned(family, tie_word_embeddings=False), 0).save_pretrained(tmp_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    batch = probe_batch(model)
    options = dict(num_beams=4, min_length=12, max_length=12, return_dict_in_generate=True, output_scores=True)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}

    orders, moved = [], []
    reorder = modeling_ats.CoreModel._reorder_cache

    def watched(self, past_key_values, beam_idx):
        source = [layer.keys for layer in past_key_values.cross_attention_cache.layers]
        cache = reorder(self, past_key_values, beam_idx)
        orders.append(beam_idx.tolist())
        moved.extend(a is not b.keys for a, b in zip(source, cache.cross_attention_cache.layers, strict=True))
        return cache

    monkeypatch.setattr(modeling_ats.CoreModel, "_reorder_cache", watched)
    found = model.generate(**inputs, **options)
    assert orders and all(order // 4 == row // 4 for beams in orders for row, order in enumerate(beams))
    assert any(order != row for beams in orders for row, order in enumerate(beams)), "some beams change places"
    assert moved and not any(moved)
    expected = beam_scores(model, inputs, found.sequences)
    torch.testing.assert_close(found.sequences_scores, expected, atol=1e-4, rtol=0)
    shuffled = beam_scores(model, {name: tensor.roll(1, 0) for name, tensor in inputs.items()}, found.sequences)
    assert (shuffled - expected).abs().max() > 1e-3, "what is decoded depends on the source"


@pytest.mark.law(number=9)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_core_that_lacks_a_tensor_or_holds_nan_is_refused(family, tmp_path):
    core(family, feed_forward(family)).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    # Copies, since the file is written anew, and older versions of safetensors then cut off what is mapped.
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    for name in list(tensors)[:: max(1, len(tensors) // 8)] + [one for one in tensors if "logits_bias" in one]:
        for instead in ({}, {f"{name}.old": tensors[name]}):
            others = {other: tensor for other, tensor in tensors.items() if other != name}
            save_file(others | instead, weights, metadata={"format": "pt"})
            with pytest.raises(ValueError, match=r"the core in .* is not complete: its weights have no "):
                AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
        save_file(tensors | {name: tensors[name] * torch.nan}, weights, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=rf"the core in .* holds NaN in {name}: "):
            AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    save_file(tensors, weights, metadata={"format": "pt"})
    for options in ({}, {"dtype": torch.bfloat16}, {"device_map": "cpu"}, {"low_cpu_mem_usage": True}):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path, **options)


def test_uses_of_a_core_that_transformers_allows_are_allowed(tmp_path):
    class Extended(modeling_ats.ATSMarianMTModel):
        def __init__(self, config):
            super().__init__(config)
            self.extra = nn.Linear(3, 3)
            self.post_init()

    model = core("marian", feed_forward("marian"))
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert Extended.from_pretrained(tmp_path).extra.weight.shape == (3, 3)
    again, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    again.resize_token_embeddings(120)
    again.half().save_pretrained(tmp_path / "larger")
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "larger", dtype="auto").config.vocab_size == 120
    other_size = {"vocab_size": 100, "ignore_mismatched_sizes": True}
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path, **other_size).config.vocab_size == 100
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modeling_ats.ATSMarianMTModel.from_pretrained(None, config=model.config, state_dict=state)
