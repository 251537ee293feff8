"""Exports compute what the partitioned model computes, hold what they should, and leave the model as it was."""

import functools
import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from torch.distributed import HashStore, destroy_process_group, get_world_size, init_process_group
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PegasusConfig,
    PegasusForConditionalGeneration,
)

from hf_ats.checkpoint import ExportReport, export_adapter, export_core, export_full, export_stock
from hf_ats.checkpoint.modeling_ats import LowRankLinear
from hf_ats.partition import (
    PartitionConfig,
    PartitionedRankLinear,
    at_level,
    count_exported_parameters,
    count_parameters,
    partition_,
    partitioned_layers,
    set_level,
)
from tests.checkpoints import assert_same, logits, partitioned, snapshot, trained_tokenizer
from tests.models import FAMILIES, probe_batch, tiny_model

LADDER = (0.1, 0.25)
EXPORTS = {
    "full": export_full,
    "core": export_core,
    "level1": lambda model, directory, **kwargs: export_core(model, directory, level="level1", **kwargs),
    "core-dense": lambda model, directory, **kwargs: export_core(model, directory, dense=True, **kwargs),
    "adapter": export_adapter,
}
LEVELS = {"full": "full", "core": "core", "level1": "level1", "core-dense": "core", "adapter": "full"}

WEIGHTS = {"config.json", "generation_config.json", "model.safetensors"}
TOKENIZER = {"source.spm", "target.spm", "tokenizer_config.json", "vocab.json"}
CODE = {"modeling_ats.py", "pipeline_ats.py"}
FILES = {
    "full": WEIGHTS | TOKENIZER | {"export.json"},
    "core": WEIGHTS | TOKENIZER | CODE | {"export.json"},
    "level1": WEIGHTS | TOKENIZER | CODE | {"export.json"},
    "core-dense": WEIGHTS | TOKENIZER | {"export.json"},
    "adapter": {"adapter_config.json", "adapter_model.safetensors", "export.json"}
    | {f"base/{name}" for name in WEIGHTS | TOKENIZER},
}


def files(directory) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def load(export: str, directory, model):
    """The export, by the class that its user has."""
    if export == "adapter":
        return PeftModel.from_pretrained(type(model).from_pretrained(directory / "base"), directory).merge_and_unload()
    return AutoModelForSeq2SeqLM.from_pretrained(directory)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return trained_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("export", EXPORTS)
def test_an_export_computes_what_the_model_computes_at_its_level(family, export, tmp_path):
    model = partitioned(family, LADDER)
    batch = probe_batch(model)
    at = {}
    for level in ("core", "level1", "full"):
        with at_level(model, level):
            at[level] = logits(model, batch)
    assert len({tuple(value.flatten().tolist()) for value in at.values()}) == 3
    report = EXPORTS[export](model, tmp_path / "out")
    exported = load(export, tmp_path / "out", model)
    torch.testing.assert_close(logits(exported, batch), at[LEVELS[export]], atol=1e-5, rtol=1e-5)
    assert report.level == LEVELS[export]
    assert 0 <= report.parity < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_cores_hold_factors_and_full_exports_hold_the_merged_weight(family, tmp_path):
    model = partitioned(family, LADDER)
    export_core(model, tmp_path / "core", level="level1")
    export_full(model, tmp_path / "full")
    core, full = (AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name) for name in ("core", "full"))
    assert type(full) is type(model)
    for name, layer in partitioned_layers(model).items():
        low_rank, linear = core.get_submodule(name), full.get_submodule(name)
        assert (type(low_rank), type(linear)) == (LowRankLinear, nn.Linear)
        assert torch.equal(low_rank.U.weight, torch.cat(list(layer.U)))
        assert torch.equal(low_rank.V.weight, torch.cat(list(layer.V), dim=1))
        V, U = torch.cat(list(layer.V), dim=1), torch.cat(list(layer.U))
        torch.testing.assert_close(linear.weight, layer.weight + V @ U)


@pytest.mark.parametrize("export", EXPORTS)
def test_an_export_is_exactly_these_files_and_reports_them(export, tokenizer, tmp_path):
    model = partitioned("marian", LADDER)
    directory = tmp_path / "new" / "out"
    report = EXPORTS[export](model, directory, tokenizer=tokenizer)
    assert files(directory) == FILES[export]
    assert [path.name for path in directory.parent.iterdir()] == ["out"]
    assert ExportReport.read(directory) == report
    assert report.path == directory
    assert report.kind == ("core" if export == "level1" else export)
    assert set(report.files) == FILES[export]
    assert str(tmp_path) not in (directory / "export.json").read_text()
    weights = [directory / name for name in FILES[export] if name.endswith(".safetensors")]
    assert report.size_bytes == sum(path.stat().st_size for path in weights)
    expected = {
        "full": count_exported_parameters(model, "full"),
        "core": count_exported_parameters(model, "core"),
        "level1": count_exported_parameters(model, "level1"),
        "core-dense": count_exported_parameters(model, "full"),
        "adapter": count_parameters(model, "full"),
    }
    assert report.parameters == expected[export]
    if export != "adapter":
        assert report.parameters == AutoModelForSeq2SeqLM.from_pretrained(directory).num_parameters()
    tokenizer_folder = directory / "base" if export == "adapter" else directory
    assert AutoTokenizer.from_pretrained(tokenizer_folder)("ein Hund") == tokenizer("ein Hund")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("export", ["full", "core-dense"])
def test_stock_exports_bear_no_trace_of_this_package(family, export, tmp_path):
    model = tiny_model(family)
    model.generation_config.update(num_beams=3, max_new_tokens=11)
    model.save_pretrained(tmp_path / "before")
    partition_(type(model).from_pretrained(tmp_path / "before"), PartitionConfig(ratios=[0.25]))
    EXPORTS[export](
        partition_(type(model).from_pretrained(tmp_path / "before"), PartitionConfig(ratios=[0.25])),
        tmp_path / "after",
    )
    for name in ("config.json", "generation_config.json"):
        before, after = (json.loads((tmp_path / folder / name).read_text()) for folder in ("before", "after"))
        assert after == before
        assert "ats" not in json.dumps(after).replace("float", "").lower()


@pytest.mark.parametrize("export", EXPORTS)
def test_exporting_leaves_the_model_as_it_was(export, monkeypatch, tmp_path):
    model = partitioned("marian", LADDER, dtype=torch.bfloat16).train()
    set_level(model, "level1")
    batch = probe_batch(model)
    model(**batch).logits.sum().backward()
    model.model.encoder.layers[0].eval()
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", True)
    before = snapshot(model)
    EXPORTS[export](model, tmp_path / "out")
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_models_export_in_their_precision(family, dtype, tmp_path):
    model = partitioned(family, dtype=dtype)
    for export in ("full", "core"):
        report = EXPORTS[export](model, tmp_path / export)
        assert 0 <= report.parity < 0.05
        again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / export, dtype="auto")
        assert again.dtype == dtype
        with at_level(model, export):
            expected = logits(model, probe_batch(model))
        torch.testing.assert_close(logits(again, probe_batch(model)), expected, atol=0.1, rtol=0.1)
    if family in ("bart", "t5"):  # the others' tables of positions are rounded in the model and exact in the export
        assert report.parity < 1e-5, "factors are copied, so that nothing is rounded"


def test_tied_and_untied_embeddings_stay_so(tmp_path):
    for tied in (True, False):
        model = partitioned("marian", tie_word_embeddings=tied, share_encoder_decoder_embeddings=tied)
        for export in ("full", "core"):
            EXPORTS[export](model, tmp_path / export)
            again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / export)
            shared = again.lm_head.weight is again.get_input_embeddings().weight
            assert shared == tied == (model.lm_head.weight is model.get_input_embeddings().weight)


def test_merging_the_adapter_gives_the_full_export(tmp_path):
    model = partitioned("t5", LADDER)
    export_full(model, tmp_path / "full")
    export_adapter(model, tmp_path / "adapter")
    full = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "full")
    base = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter" / "base")
    untouched = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    assert type(merged) is type(full)
    assert merged.state_dict().keys() == full.state_dict().keys()
    for name, tensor in full.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], tensor)
    moved = {name for name in untouched if not torch.equal(untouched[name], merged.state_dict()[name])}
    assert moved == {f"{name}.weight" for name in partitioned_layers(model)}


def test_exporting_an_adapter_warns_of_nothing(tmp_path, recwarn):
    export_adapter(partitioned("marian"), tmp_path / "adapter")
    assert [str(warning.message) for warning in recwarn if "torch/jit" not in warning.filename] == []


def test_the_adapter_names_each_rank_and_scales_by_one(tmp_path):
    model = partitioned("marian", encoder_ffn_dim=16)  # a feed-forward layer below the model's width has a lower rank
    ranks = {name: layer.ranks[-1] for name, layer in partitioned_layers(model).items()}
    assert set(ranks.values()) == {4, 8}
    export_adapter(model, tmp_path / "adapter")
    base = type(model).from_pretrained(tmp_path / "adapter" / "base")
    adapter = PeftModel.from_pretrained(base, tmp_path / "adapter").base_model.model
    for name, layer in partitioned_layers(model).items():
        lora = adapter.get_submodule(name)
        assert lora.scaling["default"] == 1
        assert torch.equal(lora.lora_A["default"].weight, layer.U[0])
        assert torch.equal(lora.lora_B["default"].weight, layer.V[0])
        assert torch.equal(lora.base_layer.weight, layer.weight)


def test_wrapped_models_are_unwrapped(tmp_path):
    model = partitioned("marian")
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        assert get_world_size() == 1
        wrapped = {"ddp": DistributedDataParallel(model), "compiled": torch.compile(model)}
        for name, wrapper in wrapped.items():
            assert type(wrapper) is not type(model)
            report = export_core(wrapper, tmp_path / name)
            assert report.parameters == count_exported_parameters(model, "core")
            assert (tmp_path / name / "model.safetensors").read_bytes() == (
                tmp_path / "ddp" / "model.safetensors"
            ).read_bytes()
    finally:
        destroy_process_group()


def test_tied_parameters_are_written_once_from_any_device(monkeypatch, tmp_path):
    model = partitioned("marian")
    export_full(model, tmp_path / "here")
    with monkeypatch.context() as elsewhere:  # from an accelerator, each of the tied tensors arrives as its own copy
        elsewhere.setattr(torch.Tensor, "cpu", torch.Tensor.clone)
        export_full(model, tmp_path / "elsewhere")
    here, elsewhere = (load_file(tmp_path / name / "model.safetensors") for name in ("here", "elsewhere"))
    assert here.keys() == elsewhere.keys()


def test_the_wrapper_of_mixed_precision_stays_on_the_model(tmp_path):
    model = partitioned("marian")
    model._original_forward = model.forward  # as accelerate prepares a model

    @functools.wraps(model._original_forward)
    def forward(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16):
            return model._original_forward(*args, **kwargs)

    model.forward = forward
    assert export_full(model, tmp_path / "full").parity < 1e-5
    assert model.forward is forward
    assert "_original_forward" in vars(model)


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
        torch.testing.assert_close(logits(again, {"input_ids": ids}), expected)
    with pytest.raises(ValueError, match=r"no core class for LlamaForCausalLM.*dense=True"):
        export_core(model, tmp_path / "core")
    export_adapter(model, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"


# What is refused


@pytest.mark.parametrize("export", [export_full, export_core, export_adapter])
def test_an_unpartitioned_model_is_refused(export, tmp_path):
    with pytest.raises(ValueError, match=rf"{export.__name__} needs a partitioned model.*MarianMTModel.*partition_\("):
        export(tiny_model("marian"), tmp_path / "out")
    with pytest.raises(TypeError, match=r"Linear is not one of its models.*to_linear"):
        export(nn.Linear(2, 2), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unpartitioned_model_is_written_with_the_same_care(family, tmp_path, monkeypatch):
    model = tiny_model(family)
    model.generation_config.max_new_tokens = 7
    expected = logits(model, probe_batch(model))
    report = export_stock(model.train(), tmp_path / "full", tokenizer=trained_tokenizer(tmp_path / "tokenizer"))
    assert model.training
    assert files(tmp_path / "full") >= FILES["full"] and ExportReport.read(tmp_path / "full") == report
    assert (report.kind, report.level, report.partition) == ("full", "full", None)
    assert report.parameters == model.num_parameters() and report.parity == 0
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "full")
    assert type(loaded) is type(model) and loaded.generation_config.max_new_tokens == 7
    torch.testing.assert_close(logits(loaded.eval(), probe_batch(model)), expected)
    export_stock(model, tmp_path / "full")
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        export_stock(model, tmp_path / "full")
    save = type(model).save_pretrained

    def save_another(model, directory):
        save(tiny_model(family, seed=1), directory)

    monkeypatch.setattr(type(model), "save_pretrained", save_another)
    with pytest.raises(RuntimeError, match="does not compute what the model computes at level 'full'"):
        export_stock(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_partitioned_model_is_no_stock_one(tmp_path):
    with pytest.raises(ValueError, match=r"this MarianMTModel is partitioned; write export_full"):
        export_stock(partitioned("marian"), tmp_path / "full")


@pytest.mark.parametrize("level", ["full", 2])
def test_the_full_level_is_no_core(level, tmp_path):
    with pytest.raises(ValueError, match=rf"level={level!r} is the full network.*export_full.*'core', 'level1'"):
        export_core(partitioned("marian", LADDER), tmp_path / "out", level=level)


@pytest.mark.parametrize("level", ["level2", 3, -1, True])
def test_a_level_that_is_not_there_is_refused(level, tmp_path):
    with pytest.raises(ValueError, match=rf"level={level!r} is not a level"):
        export_core(partitioned("marian", LADDER), tmp_path / "out", level=level)


def test_an_architecture_without_a_core_class_is_pointed_to_the_dense_core(tmp_path):
    torch.manual_seed(0)
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64)
    model = PegasusForConditionalGeneration(PegasusConfig(vocab_size=96, d_model=32, **sizes)).eval()
    partition_(model, PartitionConfig(ratios=[0.25]))
    with pytest.raises(ValueError, match=r"no core class for Pegasus.*MarianMTModel.*dense=True"):
        export_core(model, tmp_path / "core")
    export_core(model, tmp_path / "core", dense=True)
    with at_level(model, "core"):
        expected = logits(model, probe_batch(model))
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "core")
    torch.testing.assert_close(logits(again, probe_batch(model)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("export", ["full", "core-dense"])
def test_an_export_that_computes_something_else_is_not_left_behind(export, dtype, monkeypatch, tmp_path):
    model = partitioned("marian", dtype=dtype)
    export_full(model, tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")}
    monkeypatch.setattr(PartitionedRankLinear, "merged_weight", lambda layer, level=None: layer.weight)
    with pytest.raises(RuntimeError, match=r"does not compute what the model computes at level '(full|core)'"):
        EXPORTS[export](model, tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = partitioned("marian")
    with torch.no_grad():
        model.model.encoder.layers[0].fc1.U[0][0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="nan, training has diverged"):
        export_core(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# Where an export goes


def test_an_export_replaces_an_earlier_one_of_any_kind(tokenizer, tmp_path):
    model = partitioned("marian")
    export_core(model, tmp_path / "out", tokenizer=tokenizer)
    export_full(model, tmp_path / "out")
    assert files(tmp_path / "out") == FILES["full"] - TOKENIZER
    (tmp_path / "empty").mkdir()
    export_full(model, tmp_path / "empty")
    assert files(tmp_path / "empty") == FILES["full"] - TOKENIZER
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "out"]


@pytest.mark.parametrize("export", EXPORTS)
def test_what_no_export_wrote_is_never_removed(export, tmp_path):
    model = partitioned("marian", LADDER)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds notes.txt.*choose another directory"):
        EXPORTS[export](model, tmp_path)
    with pytest.raises(FileExistsError, match=r"notes.txt is a file.*choose another directory"):
        EXPORTS[export](model, tmp_path / "notes.txt")
    EXPORTS[export](model, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds an export, and notes.txt.*choose another directory"):
        EXPORTS[export](model, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "notes.txt").read_text() == "mine"
