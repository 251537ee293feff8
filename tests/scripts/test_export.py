"""The export command over a ladder of cores."""

import pytest

from hf_ats.checkpoint import ExportReport
from hf_ats.partition import PartitionConfig, count_exported_parameters, partition_
from tests.support.checkpoints import trained_tokenizer
from tests.support.models import tiny_model
from tests.support.scripts import run_here


@pytest.mark.parametrize("method", ["rank", "width"])
def test_any_cores_of_a_ladder_are_written_in_one_go(method, tmp_path, monkeypatch, caplog):
    model = partition_(tiny_model("marian"), PartitionConfig(method, [0.25, 0.5, 0.75]))
    model.save_pretrained(tmp_path / "checkpoint-1")
    trained_tokenizer(tmp_path / "checkpoint-1")
    levels = ["core", "2"]
    flags = ["--checkpoint", tmp_path / "checkpoint-1", "--output_dir", tmp_path / "out", "--level", *levels]
    run_here("export.py", *flags, "--kinds", "core", "core-dense", "full", monkeypatch=monkeypatch)
    written = {path.name: ExportReport.read(path) for path in (tmp_path / "out").iterdir()}
    assert written.keys() == {"core", "level2", "core-dense", "level2-dense", "full"}
    for name in ("core", "level2", "full"):
        assert written[name].level == name
        assert written[name].parameters == count_exported_parameters(model, name)
    assert "model of type" not in caplog.text  # what transformers says of a checkpoint that is not a stock one


def test_an_unknown_core_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    model = partition_(tiny_model("marian"), PartitionConfig(ratios=[0.25]))
    model.save_pretrained(tmp_path / "checkpoint-1")
    trained_tokenizer(tmp_path / "checkpoint-1")
    flags = ["--checkpoint", tmp_path / "checkpoint-1", "--output_dir", tmp_path / "out", "--level", "core", "level7"]
    with pytest.raises(SystemExit, match=r"export\.py: level='level7' is not a level"):
        run_here("export.py", *flags, monkeypatch=monkeypatch)
    assert not (tmp_path / "out").exists()
