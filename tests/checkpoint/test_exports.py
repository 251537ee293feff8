"""Exports of every kind compute what the model computes, and are exactly their files."""

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from hf_ats.checkpoint import (
    ExportReport,
    export_adapter,
    load_partitioned,
)
from hf_ats.partition import (
    PartitionConfig,
    at_level,
    count_exported_parameters,
    count_parameters,
    level_names,
    partition_,
)
from tests.support.checkpoints import assert_close_logits, assert_same, logits, snapshot
from tests.support.exports import EXPORTS, FILES, LEVELS, PARTITIONED_EXPORTS, files, load
from tests.support.models import (
    ALL_FAMILIES,
    FAMILIES,
    partitioned,
    pictures,
    probe_batch,
    tiny_resnet,
)


@pytest.mark.law(number=6)
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
    assert_close_logits(logits(exported, batch), at[LEVELS[export]])
    assert report.level == LEVELS[export]
    assert 0 <= report.parity < 1e-4 * at[LEVELS[export]].abs().max()


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
        assert_close_logits(logits(exported, {"pixel_values": pixels}), logits(model, {"pixel_values": pixels}))
    model.save_pretrained(tmp_path / "checkpoint")
    other = load_partitioned(tmp_path / "checkpoint")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.law(number=6)
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
    assert {*report.files, "export.json"} == FILES[export]
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


@pytest.mark.parametrize(
    ("partition", "dtype"),
    [("rank", torch.bfloat16), ("rank", torch.float16), ("width", torch.bfloat16), ("vocabulary", torch.bfloat16)],
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
        assert report.parity < 1e-4 * expected.abs().max(), "factors are copied, so that nothing is rounded"


@pytest.mark.parametrize("partition", ["rank", "width", "vocabulary"])
def test_tied_and_untied_embeddings_stay_so(partition, tmp_path):
    for tied in (True, False):
        model = partitioned("marian", partition, tie_word_embeddings=tied, share_encoder_decoder_embeddings=tied)
        for export in ("full", "core"):
            EXPORTS[export](model, tmp_path / export)
            again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / export)
            shared = again.lm_head.weight is again.get_input_embeddings().weight
            assert shared == tied == (model.lm_head.weight is model.get_input_embeddings().weight)
