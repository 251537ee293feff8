"""Exports leave the model and the files of others as they were, and write nothing that computes something else."""

import functools

import pytest
import torch
from torch import nn
from torch.distributed import HashStore, destroy_process_group, get_world_size, init_process_group
from torch.nn.parallel import DistributedDataParallel

from hf_ats.checkpoint import (
    export_adapter,
    export_core,
    export_full,
)
from hf_ats.partition import (
    PartitionedRankLinear,
    count_exported_parameters,
    num_levels,
    set_level,
)
from tests.support.checkpoints import assert_same, snapshot
from tests.support.exports import EXPORTS, FILES, PARTITIONED_EXPORTS, TOKENIZER, files
from tests.support.models import (
    partitioned,
    probe_batch,
    tiny_model,
)


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


def test_the_wrapper_of_mixed_precision_stays_on_the_model(tmp_path):
    model = partitioned("marian")
    model._original_forward = model.forward  # as accelerate prepares a model

    @functools.wraps(model._original_forward)
    def forward(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16):
            return model._original_forward(*args, **kwargs)

    model.forward = forward
    assert export_full(model, tmp_path / "full").parity < 1e-3
    assert model.forward is forward
    assert "_original_forward" in vars(model)


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


@pytest.mark.law(number=9)
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


@pytest.mark.law(number=9)
def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = partitioned("marian")
    with torch.no_grad():
        model.model.encoder.layers[0].fc1.U[0][0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"exported to .*out holds NaN in model.encoder.layers.0.fc1.U.0: "):
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
    model = partitioned("marian", "rank ladder")
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
