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
    BlenderbotSmallConfig,
    BlenderbotSmallForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    T5EncoderModel,
)

from hf_ats.checkpoint import (
    ExportReport,
    check_core_class,
    export_adapter,
    export_core,
    export_full,
    load_partitioned,
)
from hf_ats.checkpoint.files import save_network
from hf_ats.partition import (
    PartitionConfig,
    PartitionedRankLinear,
    at_level,
    count_exported_parameters,
    count_parameters,
    level_names,
    num_levels,
    partition_,
    partitioned_layers,
    set_level,
)
from hf_ats.remote_code.attention_ats import NarrowKeyAttention
from hf_ats.remote_code.modeling_ats import LowRankLinear
from tests.support.checkpoints import assert_same, logits, snapshot, trained_tokenizer
from tests.support.models import (
    ALL_FAMILIES,
    FAMILIES,
    partition_of,
    partitioned,
    pictures,
    probe_batch,
    tiny_config,
    tiny_model,
    tiny_resnet,
)
from tests.support.versions import BEFORE_5, EVERY_TOKENIZER

LADDER = "rank ladder"
EXPORTS = {
    "full": export_full,
    "core": export_core,
    "level1": lambda model, directory, **kwargs: export_core(model, directory, level="level1", **kwargs),
    "core-dense": lambda model, directory, **kwargs: export_core(model, directory, dense=True, **kwargs),
    "adapter": export_adapter,
}
LEVELS = {"full": "full", "core": "core", "level1": "level1", "core-dense": "core", "adapter": "full"}

# Every export of a ladder by rank; by width those whose network differs, and the core that is a stock model.
PARTITIONED_EXPORTS = [("rank ladder", export) for export in EXPORTS] + [
    ("width ladder", "full"),
    ("width ladder", "core"),
    ("width ladder", "level1"),
    ("width ladder", "core-dense"),
    ("feed-forward width", "core"),
]

WEIGHTS = {"config.json", "generation_config.json", "model.safetensors"}
TOKENIZER = {"source.spm", "target.spm", "tokenizer_config.json", "vocab.json"} | EVERY_TOKENIZER
CODE = {"modeling_ats.py", "attention_ats.py", "pipeline_ats.py"}
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


@pytest.mark.parametrize("family", ALL_FAMILIES)
@pytest.mark.parametrize(("partition", "export"), PARTITIONED_EXPORTS)
def test_an_export_computes_what_the_model_computes_at_its_level(family, partition, export, tmp_path):
    model = partitioned(family, partition)
    batch = probe_batch(model)
    at = {}
    for level in level_names(model):
        with at_level(model, level):
            at[level] = logits(model, batch)
    assert len({tuple(value.flatten().tolist()) for value in at.values()}) == len(at)
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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", ["core", "level1"])
def test_a_core_by_width_is_physically_smaller_and_generates_what_the_model_does(family, level, tmp_path):
    if BEFORE_5 and family in ("bart", "m2m_100"):
        pytest.skip("transformers 4 cannot load what it saves of such a model without tied embeddings")
    model = partitioned(family, "width ladder", tie_word_embeddings=False)
    export_core(model, tmp_path / "core", level=level)
    core = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "core")
    assert type(core).__name__ == f"ATS{type(model).__name__}"
    neurons, dimensions = {"core": (16, 2), "level1": (32, 4)}[level]
    shapes = {"fc1": (neurons, 32), "fc2": (32, neurons), "q_proj": (4 * dimensions, 32)}
    shapes |= {"wi": shapes["fc1"], "wo": shapes["fc2"]}
    shapes |= dict.fromkeys(("k_proj", "q", "k"), shapes["q_proj"])
    stored = load_file(tmp_path / "core" / "model.safetensors")
    for name in partitioned_layers(model):
        assert isinstance(core.get_submodule(name), nn.Linear)
        assert stored[f"{name}.weight"].shape == shapes[name.rpartition(".")[2]]
    if family != "t5":  # whose own attention takes one size of heads, filled up with zeros
        attention = core.model.decoder.layers[0].encoder_attn
        assert isinstance(attention, NarrowKeyAttention) and type(attention.k_proj) is nn.Linear
    batch = probe_batch(model)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    options = dict(num_beams=4, min_new_tokens=10, max_new_tokens=10, return_dict_in_generate=True, output_scores=True)
    other = model.generate(**inputs, **options).sequences
    with at_level(model, level):
        expected = model.generate(**inputs, **options)
    found = core.generate(**inputs, **options)
    assert torch.equal(found.sequences, expected.sequences) and not torch.equal(found.sequences, other)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores)
    keys, _, *_ = next(iter(found.past_key_values.self_attention_cache))
    assert keys.shape[-1] == (dimensions if family != "t5" else 8)
    # A core saves itself again, with its code.
    core.save_pretrained(tmp_path / "again")
    assert files(tmp_path / "again") == WEIGHTS | CODE
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again, batch), logits(core, batch))


FEED_FORWARD_FIELDS = {
    family: {"d_ff"} if family in ("t5", "mt5") else {"encoder_ffn_dim", "decoder_ffn_dim"} for family in ALL_FAMILIES
}


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_core_of_narrower_feed_forward_layers_is_a_stock_model(family, tokenizer, tmp_path):
    model = tiny_model(family)
    model.generation_config.update(num_beams=3, max_new_tokens=11)
    save_network(model, tmp_path / "before")
    config = partition_of(family, "feed-forward width", ratios=[0.25, 0.5], init="importance")
    partition_(model, config)
    for level, size in (("core", 16), ("level1", 32)):
        report = export_core(model, tmp_path / level, tokenizer=tokenizer, level=level)
        assert files(tmp_path / level) == FILES["full"], "no code"
        assert report.kind == "core" and report.parameters == count_exported_parameters(model, level)
        before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("before", level))
        assert {name for name in after if after[name] != before.get(name)} == FEED_FORWARD_FIELDS[family]
        assert before.keys() == after.keys()
        assert {after[name] for name in FEED_FORWARD_FIELDS[family]} == {size}
        generation = [(tmp_path / name / "generation_config.json").read_text() for name in ("before", level)]
        assert generation[0] == generation[1]
        core = type(model).from_pretrained(tmp_path / level)
        assert core.num_parameters() == report.parameters < model.num_parameters()
        with at_level(model, level):
            torch.testing.assert_close(
                logits(core, probe_batch(core)), logits(model, probe_batch(core)), atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize(
    ("exclude", "field"),
    [
        (r".*encoder.*", "decoder_ffn_dim"),
        (r".*decoder.*", "encoder_ffn_dim"),
        (["encoder.layers.0.fc1", "encoder.layers.0.fc2"], None),
    ],
    ids=["decoder alone", "encoder alone", "all but one layer"],
)
def test_a_stock_core_has_one_width_in_each_half(exclude, field, tmp_path):
    config = PartitionConfig(method="width", ratios=[0.5], target_modules=["fc1", "fc2"], exclude_modules=exclude)
    model = partitioned("bart", config)
    export_core(model, tmp_path / "core")
    core = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "core")
    if field is None:  # which no stock config can say
        assert type(core).__name__ == "ATSBartForConditionalGeneration"
        assert core.model.encoder.layers[1].fc1.out_features == 32
    else:
        assert type(core) is type(model)
        other = ({"encoder_ffn_dim", "decoder_ffn_dim"} - {field}).pop()
        assert (getattr(core.config, field), getattr(core.config, other)) == (32, 64)
    with at_level(model, "core"):
        torch.testing.assert_close(logits(core, probe_batch(core)), logits(model, probe_batch(core)))


def test_a_gated_feed_forward_core_is_a_stock_model(tmp_path):
    torch.manual_seed(0)
    config = MT5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, dropout_rate=0.0)
    model = MT5ForConditionalGeneration(config).eval()
    targets = ["wi_0", "wi_1", "wo"]
    partition_(model, PartitionConfig(method="width", ratios=[0.25], target_modules=targets, init="importance"))
    export_core(model, tmp_path / "core")
    core = MT5ForConditionalGeneration.from_pretrained(tmp_path / "core")
    assert core.config.d_ff == 16
    with at_level(model, "core"):
        torch.testing.assert_close(logits(core, probe_batch(core)), logits(model, probe_batch(core)))


@pytest.mark.parametrize("export", ["full", "core", "level1", "core-dense"])
def test_a_convolutional_network_exports_as_its_own_class(export, tmp_path):
    model = partition_(tiny_resnet(), PartitionConfig(method="width", ratios=[0.25, 0.5]))
    pixels = torch.stack([one["pixel_values"] for one in pictures(4)])
    for level in ("core", "level1", "full"):  # to each level statistics of its own
        with at_level(model, level):
            model(pixels)
    before = snapshot(model.eval())
    EXPORTS[export](model, tmp_path / "out")
    assert_same(before, snapshot(model))
    assert files(tmp_path / "out") == {"config.json", "model.safetensors", "export.json"}
    exported = type(model).from_pretrained(tmp_path / "out")
    widths = {"core": [2, 4], "level1": [4, 8]}.get(export, [8, 16])
    assert (exported.config.embedding_size, exported.config.hidden_sizes) == (widths[0], widths)
    with at_level(model, LEVELS[export]):
        torch.testing.assert_close(logits(exported, {"pixel_values": pixels}), logits(model, {"pixel_values": pixels}))
    model.save_pretrained(tmp_path / "checkpoint")
    other = load_partitioned(tmp_path / "checkpoint")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("partition", ["rank ladder", "width ladder"])
@pytest.mark.parametrize("export", EXPORTS)
def test_an_export_is_exactly_these_files_and_reports_them(export, partition, tokenizer, tmp_path):
    model = partitioned("marian", partition)
    directory = tmp_path / "new" / "out"
    if partition == "width ladder" and export == "adapter":
        with pytest.raises(ValueError, match=r"this MarianMTModel is partitioned by width.*export_full or export_co"):
            export_adapter(model, directory, tokenizer=tokenizer)
        assert not directory.parent.exists()
        return
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
@pytest.mark.parametrize(("partition", "export"), [("rank", "full"), ("rank", "core-dense"), ("width", "core-dense")])
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


@pytest.mark.parametrize(("partition", "export"), PARTITIONED_EXPORTS)
def test_exporting_leaves_the_model_as_it_was(partition, export, monkeypatch, tmp_path):
    model = partitioned("marian", partition, dtype=torch.bfloat16).train()
    set_level(model, num_levels(model) - 2)
    batch = probe_batch(model)
    model(**batch).logits.sum().backward()
    model.model.encoder.layers[0].eval()
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", True)
    before = snapshot(model)
    EXPORTS[export](model, tmp_path / "out")
    assert_same(before, snapshot(model))


@pytest.mark.parametrize(
    ("partition", "dtype"), [("rank", torch.bfloat16), ("rank", torch.float16), ("width", torch.bfloat16)]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_models_export_in_their_precision(family, partition, dtype, tmp_path):
    model = partitioned(family, partition, dtype=dtype)
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


@pytest.mark.parametrize("partition", ["rank", "width"])
def test_tied_and_untied_embeddings_stay_so(partition, tmp_path):
    for tied in (True, False):
        model = partitioned("marian", partition, tie_word_embeddings=tied, share_encoder_decoder_embeddings=tied)
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


@pytest.mark.parametrize("export", [export_core, export_adapter])
def test_an_unpartitioned_model_has_no_core(export, tmp_path):
    with pytest.raises(ValueError, match=r"MarianMTModel.* not partitioned.*partition_\("):
        export(tiny_model("marian"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("export", [export_full, export_core, export_adapter])
def test_a_module_that_is_none_of_transformers_is_refused(export, tmp_path):
    with pytest.raises(TypeError, match=r"Linear is not one of its models.*stock_state"):
        export(nn.Linear(2, 2), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


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
    torch.testing.assert_close(logits(loaded.eval(), probe_batch(model)), expected)
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
    config = BlenderbotSmallConfig(vocab_size=96, d_model=32, **sizes)
    model = BlenderbotSmallForConditionalGeneration(config).eval()
    partition_(model, PartitionConfig(ratios=[0.25], target_modules=["fc1", "fc2"]))
    for refused in (check_core_class, lambda model: export_core(model, tmp_path / "core")):
        with pytest.raises(ValueError, match=r"no core class for Blenderbot.*MarianMTModel.*dense=True.* trained\.$"):
            refused(model)
    export_core(model, tmp_path / "core", dense=True)
    with at_level(model, "core"):
        expected = logits(model, probe_batch(model))
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "core")
    torch.testing.assert_close(logits(again, probe_batch(model)), expected)


def test_a_class_without_cores_whose_config_can_be_narrower_is_pointed_to_that_too():
    model = partition_(T5EncoderModel(tiny_config("t5")), PartitionConfig(ratios=[0.25], target_modules=["wi", "wo"]))
    with pytest.raises(ValueError, match=r"no core class for T5EncoderModel.*dense=True.*alone by width: such cores"):
        check_core_class(model)


@pytest.mark.parametrize(
    ("config", "model_class"),
    [(PegasusConfig, PegasusForConditionalGeneration), (MBartConfig, MBartForConditionalGeneration)],
)
def test_narrow_feed_forward_cores_of_other_architectures_are_stock(config, model_class, tmp_path):
    sizes = {f"{half}_{what}": 2 for half in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes |= dict(encoder_ffn_dim=64, decoder_ffn_dim=32, max_position_embeddings=64)
    model = model_class(config(vocab_size=96, d_model=32, **sizes)).eval()
    partition_(model, PartitionConfig("width", [0.25], target_modules=["fc1", "fc2"]))
    check_core_class(model)
    export_core(model, tmp_path / "core")
    core = model_class.from_pretrained(tmp_path / "core")
    assert (core.config.encoder_ffn_dim, core.config.decoder_ffn_dim) == (16, 8)
    with at_level(model, "core"):
        torch.testing.assert_close(logits(core, probe_batch(model)), logits(model, probe_batch(model)))


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
