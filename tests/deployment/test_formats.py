"""Exports in the formats of runtimes: what is written, what was compared, and what is refused."""

import json
import re

import pytest

from hf_ats.checkpoint import ExportReport, export_full, load_network
from hf_ats.deployment import CTranslate2Network, deploy, exported_levels, formats
from tests.deployment.conftest import SENTENCES
from tests.support.models import tiny_model
from tests.support.scripts import run_here
from tests.support.tokenizers import KINDS, tiny_tokenizer

pytest.importorskip("ctranslate2")


def test_an_export_says_how_it_translates_in_the_runtime_and_its_card_tells_it(run, tmp_path):
    references = ["a dog runs", "the cat", "two men"]
    report = deploy(
        run / "full", tmp_path / "full", format="ctranslate2", sources=SENTENCES, references=references, rounds=1
    )
    assert ExportReport.read(tmp_path / "full") == report
    report.check()
    assert (report.level, report.kind) == ("full", "full")
    assert report.size_bytes == (tmp_path / "full/model.bin").stat().st_size
    assert report.parameters == load_network(run / "full").num_parameters()
    runtime = report.runtime
    assert (runtime["format"], runtime["quantization"], runtime["sentences"]) == ("ctranslate2", "float32", 3)
    assert not runtime["made_up"]
    for found in runtime["searches"].values():
        assert (found["equal"], found["largest_gap"]) == (1.0, 0.0)
        assert found["bleu"] == found["bleu_pytorch"]
        seconds = found["seconds_per_sentence"]
        assert list(seconds) == ["batch 1"], "there are fewer than 32 sentences"
        assert min(seconds["batch 1"].values()) > 0
    card = (tmp_path / "full/README.md").read_text(encoding="utf-8")
    assert "library_name: ctranslate2" in card
    assert re.search(r"\| full +\| CTranslate2, float32 +\| +\d\.\d +\| +100\.0% +\| +100\.0% +\|", card)


def test_int8_is_smaller_and_its_differences_are_counted_and_not_refused(run, tmp_path, monkeypatch):
    sizes = {}
    for quantization in ("float32", "int8"):
        report = deploy(
            run / "full", tmp_path / quantization, format="ctranslate2", quantization=quantization, rounds=0
        )
        assert report.runtime["made_up"]
        sizes[quantization] = report.size_bytes
    assert sizes["int8"] < 0.5 * sizes["float32"]
    say_something_else(monkeypatch)
    report = deploy(
        run / "full", tmp_path / "int8", format="ctranslate2", quantization="int8", sources=SENTENCES, rounds=0
    )
    found = report.runtime["searches"]["greedy"]
    assert found["equal"] == pytest.approx(2 / 3)
    assert found["largest_gap"] > 5


def say_something_else(monkeypatch):
    """CTranslate2 gets a word of the first sentence wrong."""
    translate = CTranslate2Network.translate

    def wrong(self, sources, *options):
        found = translate(self, sources, *options)
        shortest_first = found[0]
        return [[*shortest_first[:2], shortest_first[0], *shortest_first[3:]], *found[1:]]

    monkeypatch.setattr(CTranslate2Network, "translate", wrong)


def test_nothing_is_written_where_float32_says_something_else(run, tmp_path, monkeypatch):
    say_something_else(monkeypatch)
    with pytest.raises(
        ValueError, match=r"does not translate as PyTorch does: 1 of 3 .* sentence 1 in a word .* less likely"
    ):
        deploy(run / "full", tmp_path / "out", format="ctranslate2", sources=SENTENCES, rounds=0)
    assert not list(tmp_path.iterdir())


def test_a_tie_that_falls_otherwise_is_no_error(run, tmp_path, monkeypatch):
    say_something_else(monkeypatch)
    monkeypatch.setattr(formats, "_TIE", 100.0)
    report = deploy(run / "full", tmp_path / "out", format="ctranslate2", sources=SENTENCES, rounds=0)
    assert report.runtime["searches"]["greedy"]["equal"] < 1


def test_what_lies_beside_a_run_for_a_runtime_is_none_of_its_levels_and_loads_nowhere_else(run, tmp_path):
    (tmp_path / "full").symlink_to(run / "full")
    deploy(run / "full", tmp_path / "full-ctranslate2", format="ctranslate2", sources=SENTENCES, rounds=0)
    with exported_levels(tmp_path) as levels:
        assert [level.directory.name for level in levels] == ["full"]
    with pytest.raises(ValueError, match=r"for ctranslate2 .*, without weights of PyTorch; load it there"):
        load_network(tmp_path / "full-ctranslate2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(format="tflite"), "format='tflite' is not known; write one of 'ctranslate2', 'onnx'"),
        (dict(format="ctranslate2", quantization="int4"), "quantization='int4' is not known; write one of 'float32'"),
        (dict(format="ctranslate2", sources=["a"], references=[]), "sources holds 1 and references 0; give one for"),
        (dict(format="ctranslate2", references=["a"]), "sources holds 0 and references 1"),
        (dict(format="ctranslate2", sources=["", " "]), "sources holds 2 sentences, none with text"),
    ],
)
def test_what_cannot_be_done_is_refused_by_a_sentence(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        deploy(run / "full", tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["bart", "mbart", "mt5"])
def test_ctranslate2_is_told_what_it_would_take_for_something_else(family, tmp_path):
    """Where BART's norms are, the first word of mBART, and that mT5 multiplies nothing, which only beams show."""
    kind = next(kind for kind, of in KINDS.items() if of.family == family)
    tokenizer = tiny_tokenizer(kind, tmp_path / "tokenizer")
    export_full(tiny_model(family, vocab_size=len(tokenizer)), tmp_path / "full", tokenizer=tokenizer)
    report = deploy(tmp_path / "full", tmp_path / "out", format="ctranslate2", rounds=0)
    for found in report.runtime["searches"].values():
        assert found["equal"] >= 0.9


def test_a_directory_that_is_not_an_export_is_left_alone(run, tmp_path):
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"note\.txt, and was not written by an export"):
        deploy(run / "full", tmp_path, format="ctranslate2")


def test_the_command_exports_what_a_runtime_knows_and_prints_the_table(run, tmp_path, monkeypatch, capsys):
    file = tmp_path / "text.de"
    file.write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    flags = ("--format", "ctranslate2", "--quantization", "int8", "--sentences", file, "--rounds", "0")
    arguments = ("--checkpoint", run / "checkpoint-1", "--output_dir", tmp_path / "out", *flags)
    run_here("export.py", *arguments, "--kinds", "full", "core-dense", monkeypatch=monkeypatch)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "core-dense-ctranslate2-int8",
        "full-ctranslate2-int8",
    ]
    shown = capsys.readouterr().out
    assert re.search(r"core-dense +CTranslate2, int8", shown)
    report = json.loads((tmp_path / "out/core-dense-ctranslate2-int8/export.json").read_text(encoding="utf-8"))
    assert report["partition"]["ratios"] == [0.125]
    run_here("export.py", *("--checkpoint", run / "full", *arguments[2:]), monkeypatch=monkeypatch)


def test_the_command_refuses_before_it_writes(run, tmp_path, monkeypatch):
    arguments = ("--checkpoint", run / "checkpoint-1", "--output_dir", tmp_path / "out")
    with pytest.raises(SystemExit, match=r"'ats_marian', which CTranslate2 does not read"):
        run_here("export.py", *arguments, "--format", "ctranslate2", "--rounds", "0", monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match="2"):
        run_here("export.py", *arguments, "--quantization", "int8", monkeypatch=monkeypatch)
    assert not (tmp_path / "out").exists()
