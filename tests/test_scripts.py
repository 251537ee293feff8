"""The commands, run as a user runs them: a small corpus, a few steps, everything on disk afterwards."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_ats.checkpoint import load_network
from hf_ats.data import default_corpus
from tests.distributed import launch

SCRIPTS = Path(__file__).parent.parent / "scripts"
SIZES = "--architecture tiny --layers 1 --width 32 --feed_forward 64 --vocab_size 300 --generation_max_length 24"
TRAINING = "--max_tokens 512 --learning_rate 1e-3 --use_cpu --report_to none --disable_tqdm true --speed_sentences 4"


def run(script: str, *arguments, stdin: str | None = None, fails: bool = False) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPTS.parent)}
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, input=stdin, capture_output=True, encoding="utf-8", timeout=240)
    assert (done.returncode != 0) == fails, done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("corpus")
    parts = default_corpus()
    for part, number in (("train", 300), ("validation", 20), ("test", 12)):
        pairs = parts[part]["translation"][:number]
        for language in ("de", "en"):
            text = "".join(f"{pair[language]}\n" for pair in pairs)
            (directory / f"{part}.{language}").write_text(text, encoding="utf-8")
    return directory


def training_arguments(corpus: Path, output_dir: Path, more: str = "") -> list[str]:
    files = [f"--{part}_prefix {corpus / part}" for part in ("train", "validation", "test")]
    return f"--output_dir {output_dir} {SIZES} {TRAINING} {' '.join(files)} --ratios 0.25 {more}".split()


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    output_dir = tmp_path_factory.mktemp("runs") / "run"
    more = (
        "--max_steps 6 --save_steps 3 --logging_steps 2 --eval_strategy steps --eval_steps 3 --predict_with_generate"
    )
    return output_dir, run("train_translation.py", *training_arguments(corpus, output_dir, more))


def test_a_run_leaves_the_two_models_the_report_and_the_trainers_files(trained):
    output_dir, done = trained
    assert {path.name for path in output_dir.iterdir()} == {
        "core", "full", "results.json", "training.png", "tokenizer", "translations.core.txt", "translations.full.txt",
        "checkpoint-3", "checkpoint-6", "trainer_state.json",
    }  # fmt: skip
    for name in ("core", "full"):
        assert (output_dir / f"translations.{name}.txt").read_text(encoding="utf-8").count("\n") == 12
    logged = {
        key for entry in json.loads((output_dir / "trainer_state.json").read_text())["log_history"] for key in entry
    }
    assert logged >= {"loss_core", "loss_full", "eval_core_bleu", "eval_full_bleu", "eval_core_loss", "eval_full_chrf"}
    assert "Traceback" not in done.stderr


def test_results_and_table_hold_every_figure_of_every_level(trained):
    output_dir, done = trained
    results = json.loads((output_dir / "results.json").read_text())
    core, full = results["levels"]["core"], results["levels"]["full"]
    for level in (core, full):
        assert (
            level["decoding_speed"]["tokens_per_second"] > 0
            and level["bleu"] >= 0
            and "tok:13a" in level["bleu_signature"]
        )
    for name, level in results["levels"].items():
        file = output_dir / name / "model.safetensors"
        assert level["size_bytes"] == file.stat().st_size
        assert level["parameters"] == load_network(output_dir / name).num_parameters()
    assert core["parameters"] < full["parameters"] and core["flops_per_token"] < full["flops_per_token"]
    assert results["training"]["steps"] == 6 and results["training"]["flops"] > 0
    assert results["partition"]["ratios"] == [0.25] and results["training"]["arguments"]["max_tokens"] == 512
    table = done.stdout[done.stdout.index("level  parameters") :]
    assert f"{core['parameters']:,}" in table and f"{full['bleu']:.2f}" in table
    assert "reference: " in done.stdout and "core: " in done.stdout


def test_translate_keeps_the_order_of_its_input_and_its_empty_lines(trained, corpus, tmp_path):
    output_dir, _ = trained
    german = (corpus / "test.de").read_text(encoding="utf-8").splitlines()
    text = "\n".join([german[0], "", *german[1:]]) + "\n"
    done = run("translate.py", "--model", output_dir / "core", "--num_beams", 1, "--max_length", 24, stdin=text)
    lines = done.stdout.split("\n")
    expected = (output_dir / "translations.core.txt").read_text(encoding="utf-8").split("\n")
    assert lines == [expected[0], "", *expected[1:]]
    target = tmp_path / "out.txt"
    run(
        "translate.py", "--model", output_dir / "checkpoint-6", "--level", "core", "--input", corpus / "test.de",
        "--output", target, "--num_beams", 1, "--max_length", 24,
    )  # fmt: skip
    assert target.read_text(encoding="utf-8").split("\n") == expected


def test_evaluation_scores_every_level_of_a_training_checkpoint_as_the_run_did(trained, corpus, tmp_path):
    output_dir, _ = trained
    options = ["--test_prefix", corpus / "test", "--num_beams", 1, "--max_length", 24]
    done = run(
        "evaluate_translation.py", "--model", output_dir / "checkpoint-6", *options, "--output", tmp_path / "s.json"
    )
    scores = json.loads(done.stdout)
    assert scores == json.loads((tmp_path / "s.json").read_text())
    results = json.loads((output_dir / "results.json").read_text())["levels"]
    assert list(scores) == ["core", "full"]
    for level in scores:
        for name in ("bleu", "chrf", "bleu_signature", "chrf_signature"):
            assert scores[level][name] == results[level][name]


def test_export_writes_each_kind_from_any_checkpoint(trained, tmp_path):
    output_dir, _ = trained
    kinds = ["full", "core", "core-dense", "adapter"]
    done = run("export.py", "--checkpoint", output_dir / "checkpoint-3", "--output_dir", tmp_path, "--kinds", *kinds)
    assert {path.name for path in tmp_path.iterdir()} == set(kinds)
    assert done.stdout.count("logits within") == 4


def test_a_stopped_run_goes_on_to_the_same_weights(trained, corpus, tmp_path):
    from safetensors.torch import load_file

    output_dir, _ = trained
    more = f"--max_steps 6 --save_steps 3 --resume_from_checkpoint {output_dir / 'checkpoint-3'}"
    run("train_translation.py", *training_arguments(corpus, tmp_path, more))
    for name in ("core", "full"):
        first, second = (load_file(path / name / "model.safetensors") for path in (output_dir, tmp_path))
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_the_training_script_runs_on_two_processes(corpus, tmp_path):
    arguments = training_arguments(corpus, tmp_path / "run", "--max_steps 2 --save_strategy no")
    launch(str(SCRIPTS / "train_translation.py"), *arguments)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["training"]["processes"] == 2
    assert (tmp_path / "run" / "core" / "model.safetensors").is_file()


def test_the_training_script_runs_under_accelerate_launch_and_from_a_trained_model(trained, corpus, tmp_path):
    output_dir, _ = trained
    arguments = training_arguments(corpus, tmp_path / "run", "--max_steps 2 --save_strategy no")
    arguments[arguments.index("--architecture") : arguments.index("--generation_max_length")] = [
        "--model_name_or_path",
        str(output_dir / "full"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPTS.parent)}
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
    ]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", str(SCRIPTS / "train_translation.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["model"]["name"] == str(output_dir / "full")


def test_standard_training_is_the_stock_model_alone(corpus, tmp_path):
    more = "--method none --schedule full --max_steps 2 --save_strategy no"
    run("train_translation.py", *training_arguments(corpus, tmp_path, more))
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["levels"]) == ["full"] and results["partition"] is None
    assert json.loads((tmp_path / "full" / "config.json").read_text())["model_type"] == "marian"


@pytest.mark.parametrize("script", ["train_translation.py", "evaluate_translation.py", "translate.py", "export.py"])
def test_help_shows_whole_commands(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    out = capsys.readouterr().out
    assert f"python scripts/{script} " in out and "%(" not in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--ratios 1.5", r"ratios=[1.5] holds 1.5, which is not between 0 and 1"),
        ("--test_prefix nowhere/test", "The prefix 'nowhere/test' has no text for the language 'de'"),
        ("--max_tokens 10", "max_tokens=10 is smaller than sentence"),
        ("--target_modules query", "target_modules=['query']"),
        ("--method none", "schedule='alternating' needs a partitioned model"),
    ],
)
def test_bad_input_ends_with_a_sentence_before_any_training(more, message, corpus, tmp_path, monkeypatch):
    # In this process, since starting a new one takes longer than finding the mistake does.
    arguments = training_arguments(corpus, tmp_path, f"--max_steps 2 {more}")
    monkeypatch.setattr(sys, "argv", ["train_translation.py", *arguments])
    with pytest.raises(SystemExit, match=re.escape(message)):
        runpy.run_path(str(SCRIPTS / "train_translation.py"), run_name="__main__")
    assert not (tmp_path / "results.json").exists()


def test_a_corpus_without_a_part_to_score_is_refused_before_training(corpus, tmp_path, monkeypatch):
    arguments = f"--output_dir {tmp_path} {SIZES} {TRAINING} --train_prefix {corpus / 'train'}".split()
    monkeypatch.setattr(sys, "argv", ["train_translation.py", *arguments])
    with pytest.raises(SystemExit, match="the corpus has the parts train; training needs train, and the report"):
        runpy.run_path(str(SCRIPTS / "train_translation.py"), run_name="__main__")


def test_a_level_that_is_not_there_ends_with_a_sentence(trained):
    output_dir, _ = trained
    done = run("translate.py", "--model", output_dir / "core", "--level", "full", stdin="Hallo\n", fails=True)
    assert "level='full', but" in done.stderr and "is one network, 'core'" in done.stderr
