"""`hf-ats translate` and `hf-ats evaluate`."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics import BLEU
from transformers import AutoTokenizer
from transformers.modeling_utils import PreTrainedModel

from hf_ats import PartitionConfig, export_adapter, export_full, partition_
from hf_ats.checkpoint import load_network
from hf_ats.data import read_lines
from hf_ats.evaluation import translate
from hf_ats.results import read_results
from hf_ats.run import command
from tests.scripts.conftest import POSITIONS
from tests.support.scripts import run, run_command, run_here


def as_in_the_run(trained) -> list:
    # transformers 4 cannot tell a config's single beam from none
    beams = read_results(trained.output_dir / "results.json")["generation"]["num_beams"]
    return ["--num_beams", beams, "--max_length", 24]


def test_translate_keeps_the_order_of_its_input_and_its_empty_lines(trained, corpus, tmp_path, monkeypatch):
    german = (corpus / "test.de").read_text(encoding="utf-8").splitlines()
    text = "\n".join([german[0], "", *german[1:]]) + "\n"
    command = [Path(sys.executable).with_name("hf-ats"), "translate"]
    options = as_in_the_run(trained)
    done = run_command([*command, "--model", trained.output_dir / "core", *options], stdin=text)
    lines = done.stdout.split("\n")
    expected = (trained.output_dir / "translations.core.txt").read_text(encoding="utf-8").split("\n")
    assert lines == [expected[0], "", *expected[1:]]
    target = tmp_path / "out.txt"
    run_here(
        "translate.py", "--model", trained.output_dir / "checkpoint-6", "--level", "core", "--input",
        corpus / "test.de", "--output", target, *options, monkeypatch=monkeypatch,
    )  # fmt: skip
    assert target.read_text(encoding="utf-8").split("\n") == expected


def test_evaluation_scores_every_level_of_a_training_checkpoint_as_the_run_did(trained, corpus, tmp_path):
    options = ["--test_prefix", corpus / "test", *as_in_the_run(trained), "--output", tmp_path / "scores.json"]
    done = run("evaluate_translation.py", "--model", trained.output_dir / "checkpoint-6", *options)
    scores = json.loads(done.stdout)
    assert scores == json.loads((tmp_path / "scores.json").read_text())
    results = read_results(trained.output_dir / "results.json")["levels"]
    assert list(scores) == ["core", "full"]
    for level in scores:
        for name in ("bleu", "chrf", "bleu_signature", "chrf_signature"):
            assert scores[level][name] == results[level][name]


def test_translate_checks_its_output_first_and_takes_a_prefix_and_nothing(bart, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("it began to load"))
    for output in (tmp_path / "nowhere" / "out.txt", tmp_path):
        with pytest.raises(SystemExit, match=f"translate.py: --output {output} cannot be written"):
            run_here("translate.py", "--model", bart, "--output", output, monkeypatch=monkeypatch)
    monkeypatch.undo()
    text = tmp_path / "in.txt"
    text.write_text("eins\n\n", encoding="utf-8")
    output = tmp_path / "out.txt"
    options = ["--source_prefix", "zwei ", "--output", output, "--max_length", 9]
    run_here("translate.py", "--model", bart, "--input", text, *options, monkeypatch=monkeypatch)
    model, tokenizer = load_network(bart), AutoTokenizer.from_pretrained(bart)
    prefixed, plain = translate(model, tokenizer, ["zwei eins", "eins"], max_length=9)
    assert prefixed != plain
    assert output.read_text(encoding="utf-8") == f"{prefixed}\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(sys, "stdout", written := io.TextIOWrapper(io.BytesIO()))
    run_here("translate.py", "--model", bart, monkeypatch=monkeypatch)
    written.flush()
    assert written.buffer.getvalue() == b""


def test_one_line_in_is_one_line_out(bart, tmp_path, monkeypatch):
    said = ["dog\ncat", "house\r\ntree", "\rmice", "a\u2028b\u0085c"]
    monkeypatch.setattr(command, "translate_encoded", lambda model, tokenizer, encoded, *_, **__: said[: len(encoded)])
    (tmp_path / "in.txt").write_text("eins\n" * 4, encoding="utf-8")
    options = ["--input", tmp_path / "in.txt", "--output", tmp_path / "out.txt"]
    run_here("translate.py", "--model", bart, *options, monkeypatch=monkeypatch)
    written = (tmp_path / "out.txt").read_bytes()
    assert written.decode() == "dog cat\nhouse tree\n mice\na\u2028b\u0085c\n" and written.count(b"\n") == 4
    assert read_lines(tmp_path / "out.txt") == ["dog cat", "house tree", " mice", "a\u2028b\u0085c"]
    scored = []
    monkeypatch.setattr(BLEU, "corpus_score", lambda self, texts, references: scored.append(texts) or 1 / 0)
    (tmp_path / "test.de").write_text("eins\n" * 4, encoding="utf-8")
    (tmp_path / "test.en").write_text("one\n" * 4, encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        run_here(
            "evaluate_translation.py", "--model", bart, "--test_prefix", tmp_path / "test", monkeypatch=monkeypatch
        )
    assert scored == [said], "scores keep the text as it is"


@pytest.mark.parametrize(
    ("fault", "message"),
    [(KeyboardInterrupt(), "^130$"), (OSError(28, "No space left on device"), "No space left on device")],
)
def test_a_translation_that_is_stopped_leaves_the_earlier_file_and_what_was_finished(
    fault, message, bart, tmp_path, monkeypatch, capsys
):
    parts = []

    def part(model, tokenizer, encoded, *_, **__):
        parts.append(len(encoded))
        if len(parts) == 3:
            raise fault
        return ["said"] * len(encoded)

    monkeypatch.setattr(command, "translate_encoded", part)
    (tmp_path / "in.txt").write_text("eins\n" * 35, encoding="utf-8")
    output = tmp_path / "out.txt"
    output.write_text("mine\n")
    options = ["--model", bart, "--input", tmp_path / "in.txt", "--output", output, "--batch_size", 1]
    with pytest.raises(SystemExit, match=message):
        run_here("translate.py", *options, monkeypatch=monkeypatch)
    assert parts == [10, 10, 10] and output.read_text() == "mine\n"
    partial = tmp_path / "out.txt.partial"
    assert partial.read_text() == "said\n" * 20
    assert f"What was finished is in {partial}; {output} is as it was." in capsys.readouterr().err
    parts.extend([0] * 3)
    output.chmod(0o640)
    run_here("translate.py", *options, monkeypatch=monkeypatch)
    assert output.read_text() == "said\n" * 35 and output.stat().st_mode & 0o777 == 0o640
    assert {path.name for path in tmp_path.iterdir()} == {"in.txt", "out.txt"}


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no device that is always full")
def test_a_full_device_ends_with_a_sentence(bart, tmp_path, monkeypatch):
    (tmp_path / "in.txt").write_text("eins\n", encoding="utf-8")
    options = ["--input", tmp_path / "in.txt", "--output", "/dev/full", "--max_length", 4]
    with pytest.raises(SystemExit, match="No space left on device"):
        run_here("translate.py", "--model", bart, *options, monkeypatch=monkeypatch)


def test_scores_are_by_the_target_language_or_as_they_are_told(bart, tmp_path, monkeypatch, capsys):
    (tmp_path / "test.de").write_text("eins\n", encoding="utf-8")
    (tmp_path / "test.zh_CN").write_text("一二三四五\n", encoding="utf-8")
    options = ["--model", bart, "--test_prefix", tmp_path / "test", "--target_lang", "zh_CN", "--max_length", 4]
    for more, name in (([], "zh"), (["--bleu_tokenizer", "char"], "char")):
        capsys.readouterr()
        run_here("evaluate_translation.py", *options, *more, monkeypatch=monkeypatch)
        assert f"tok:{name}|" in json.loads(capsys.readouterr().out)["full"]["bleu_signature"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num_beams 0", "argument --num_beams: 0 is not a count; write 1 or more"),
        ("--max_length -1", "argument --max_length: -1 is not a count"),
        ("--batch_size 0", "argument --batch_size: 0 is not a count"),
        ("--device gpu", "argument --device: 'gpu' cannot be used here .*; write cpu"),
    ],
)
@pytest.mark.parametrize("script", ["translate.py", "evaluate_translation.py"])
def test_flags_without_a_meaning_end_with_a_sentence(script, words, message, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_here(script, "--model", "none", *words.split(), monkeypatch=monkeypatch)
    assert re.search(message, capsys.readouterr().err)


def test_what_cannot_be_translated_or_written_is_found_before(bart, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "translate_encoded", lambda *_, **__: pytest.fail("it began to translate"))
    options = ["--model", bart, "--test_prefix", corpus / "test"]
    with pytest.raises(SystemExit, match=f"--max_length 99 is more than the {POSITIONS} positions"):
        run_here("evaluate_translation.py", *options, "--max_length", 99, monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=f"--output {tmp_path} cannot be written"):
        run_here("evaluate_translation.py", *options, "--output", tmp_path, monkeypatch=monkeypatch)


def test_a_level_that_is_not_there_ends_with_a_sentence(trained, corpus, monkeypatch):
    options = ["--model", trained.output_dir / "core", "--level", "full", "--input", corpus / "test.de"]
    with pytest.raises(SystemExit, match=r"level='full', but .* is one network, 'core'"):
        run_here("translate.py", *options, monkeypatch=monkeypatch)


def test_an_adapter_export_is_scored_and_translates_as_the_full_network(bart, corpus, tmp_path, monkeypatch, capsys):
    tokenizer = AutoTokenizer.from_pretrained(bart)
    model = partition_(load_network(bart, dtype=torch.float32), PartitionConfig(ratios=[0.25], init="random"))
    export_full(model, tmp_path / "full", tokenizer=tokenizer)
    export_adapter(model, tmp_path / "written", tokenizer=tokenizer)
    (tmp_path / "written").rename(tmp_path / "adapter")
    scores = []
    for name in ("full", "adapter"):
        capsys.readouterr()
        options = ["--model", tmp_path / name, "--test_prefix", corpus / "test"]
        run_here("evaluate_translation.py", *options, monkeypatch=monkeypatch)
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0] == scores[1]
