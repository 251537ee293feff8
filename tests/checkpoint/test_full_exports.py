"""Full exports, and dense cores: the stock class, and nothing of this package."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSeq2SeqLM,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from hf_ats.checkpoint import (
    ExportReport,
    export_adapter,
    export_core,
    export_full,
    load_network,
)
from hf_ats.partition import (
    PartitionConfig,
    at_level,
    partition_,
)
from tests.support.checkpoints import assert_close_logits, logits, trained_tokenizer
from tests.support.exports import EXPORTS, FILES, LEVELS, files
from tests.support.models import (
    FAMILIES,
    partition_of,
    partitioned,
    probe_batch,
    tiny_model,
)


@pytest.mark.law(number=6)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("partition", "export"),
    [("rank", "full"), ("rank", "core-dense"), ("width", "core-dense"), ("composition", "full")],
)
def test_stock_exports_bear_no_trace_of_this_package(family, partition, export, tmp_path):
    model = tiny_model(family)
    model.generation_config.update(num_beams=3, max_new_tokens=11)
    model.save_pretrained(tmp_path / "before")
    loaded = type(model).from_pretrained(tmp_path / "before")
    EXPORTS[export](partition_(loaded, partition_of(family, partition)), tmp_path / "after")
    for name in ("config.json", "generation_config.json"):
        before, after = (json.loads((tmp_path / folder / name).read_text()) for folder in ("before", "after"))
        assert after == before
        assert "ats" not in json.dumps(after).replace("float", "").lower()


@pytest.mark.law(number=9)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_unpartitioned_model_is_written_with_the_same_care(family, tmp_path, monkeypatch):
    model = tiny_model(family)
    model.generation_config.max_new_tokens = 7
    expected = logits(model, probe_batch(model))
    report = export_full(model.train(), tmp_path / "full", tokenizer=trained_tokenizer(tmp_path / "tokenizer"))
    assert model.training
    assert files(tmp_path / "full") >= FILES["full"] and ExportReport.read(tmp_path / "full") == report
    assert (report.kind, report.level, report.partition) == ("full", "full", None)
    assert report.parameters == model.num_parameters() and report.parity == 0
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "full")
    assert type(loaded) is type(model) and loaded.generation_config.max_new_tokens == 7
    assert_close_logits(logits(loaded.eval(), probe_batch(model)), expected)
    export_full(model, tmp_path / "full")
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        export_full(model, tmp_path / "full")
    save = type(model).save_pretrained

    def save_another(model, directory):
        save(tiny_model(family, seed=1), directory)

    monkeypatch.setattr(type(model), "save_pretrained", save_another)
    with pytest.raises(RuntimeError, match="does not compute what the model computes at level 'full'"):
        export_full(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_model_that_only_decodes_exports_its_full_network_and_its_dense_core(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    partition_(model, PartitionConfig(ratios=[0.25], target_modules=["up_proj", "down_proj"], init="random"))
    ids = torch.arange(12)[None]
    for export in ("full", "core-dense"):
        EXPORTS[export](model, tmp_path / export)
        with at_level(model, LEVELS[export]):
            expected = logits(model, {"input_ids": ids})
        again = LlamaForCausalLM.from_pretrained(tmp_path / export)
        assert_close_logits(logits(again, {"input_ids": ids}), expected)
    with pytest.raises(ValueError, match=r"no core class for LlamaForCausalLM.*dense=True"):
        export_core(model, tmp_path / "core")
    export_adapter(model, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"


def test_tied_parameters_are_written_once_from_any_device(monkeypatch, tmp_path):
    model = partitioned("marian")
    export_full(model, tmp_path / "here")
    with monkeypatch.context() as elsewhere:  # from an accelerator, each of the tied tensors arrives as its own copy
        elsewhere.setattr(torch.Tensor, "cpu", torch.Tensor.clone)
        export_full(model, tmp_path / "elsewhere")
    here, elsewhere = (load_file(tmp_path / name / "model.safetensors") for name in ("here", "elsewhere"))
    assert here.keys() == elsewhere.keys()


@pytest.mark.parametrize("vocabulary", [96, 64])
def test_a_model_of_two_models_exports_what_needs_no_class_of_ours(vocabulary, tmp_path):
    """As BERT2BERT: its config says no sizes of its own, and each half has a vocabulary."""
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    halves = [BertConfig(vocab_size=size, **sizes) for size in (96, vocabulary)]
    model = EncoderDecoderModel(config=EncoderDecoderConfig.from_encoder_decoder_configs(*halves))
    partition_(model, PartitionConfig(ratios=[0.25], target_modules=["intermediate.dense"]))
    model.config.decoder_start_token_id, model.config.pad_token_id = 2, 0
    batch = dict(input_ids=torch.tensor([[5, 6, 95]]), decoder_input_ids=torch.tensor([[2, 7, 63]]))
    exports = {
        "full": export_full,
        "adapter": export_adapter,
        "core": lambda model, directory: export_core(model, directory, dense=True),
    }
    for name, export in exports.items():
        report = export(model, tmp_path / name)
        with at_level(model.eval(), report.level):
            assert_close_logits(logits(load_network(tmp_path / name).eval(), batch), logits(model, batch))
    with pytest.raises(ValueError, match=r"no core class for EncoderDecoderModel.*export_core\(\.\.\., dense=True\)"):
        export_core(model, tmp_path / "own")
