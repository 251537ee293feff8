"""What the networks of a grid take in a runtime: what is measured, once, and what is not."""

import pytest

from experiments import deployed
from hf_ats.results import read_json

pytest.importorskip("ctranslate2")


@pytest.fixture
def measured(half_done, monkeypatch):
    """Two runs of the first seed are trained, full alone and one whose core is by rank."""
    grid = half_done.grid.read_text()
    half_done.grid.write_text(grid.replace("paper:\n  full", "formats: [ctranslate2]\npaper:\n  full", 1))
    monkeypatch.setattr(deployed, "ROUNDS", 1)
    return half_done


def test_each_network_is_measured_once_beside_the_full_one(measured, capsys, monkeypatch):
    measured.command(deployed, "--data", measured.folder / "data")
    (full,) = read_json(measured.records / "deployed.json", "")["measured"]
    assert (full["run"], full["partition"], full["machine"]["threads"]) == ("full", None, 1)
    assert full["size_bytes"] > 10_000 and full["full_ms"] > 0 and 0.2 < full["share"] < 5
    assert full["searches"].keys() == {"greedy", "beam 4"} and "bleu" in full["searches"]["beam 4"]
    out = capsys.readouterr().out
    assert "alternating (" in out and "'ats_marian', which CTranslate2 does not read" in out

    monkeypatch.delattr(deployed, "Stopwatch")  # nothing is left to measure
    measured.command(deployed, "--data", measured.folder / "data")


def test_what_cannot_be_measured_is_said_in_a_sentence(measured):
    (measured.work / "full-seed1" / "results.json").unlink()
    (measured.work / "alternating-seed1" / "results.json").unlink()
    with pytest.raises(SystemExit, match=r"no run of tiny-grid lies in runs/ with its full network; python experim"):
        measured.command(deployed, "--data", measured.folder / "data")
    measured.grid.write_text(measured.grid.read_text().replace("formats: [ctranslate2]\n", ""))
    with pytest.raises(
        SystemExit, match=r"tiny-grid.yaml names no formats to measure in; write such as formats: \['ct"
    ):
        measured.command(deployed, "--data", measured.folder / "data")
