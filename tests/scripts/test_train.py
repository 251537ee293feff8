"""`hf-ats train`: what a run leaves, how it is launched, resumed and pushed."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from hf_ats import ATSSeq2SeqTrainer
from hf_ats.checkpoint import ExportReport, load_network
from hf_ats.data import default_corpus
from hf_ats.evaluation import metrics
from hf_ats.partition import find_partition
from hf_ats.results import read_results
from tests.support.distributed import launch
from tests.support.scripts import begin, run_command, train, training_arguments

SCORES = {"bleu": 1.0, "chrf": 2.0}
FEW = "--max_steps 2 --save_strategy no --speed_sentences 0"


def test_a_run_leaves_the_two_models_the_report_and_the_trainers_files(trained):
    assert {path.name for path in trained.output_dir.iterdir()} == {
        "core", "full", "results.json", "training.png", "report.html", "tokenizer", "translations.core.txt",
        "translations.full.txt", "checkpoint-3", "checkpoint-6", "trainer_state.json", "run.json",
    }  # fmt: skip
    for name in ("core", "full"):
        assert (trained.output_dir / f"translations.{name}.txt").read_text(encoding="utf-8").count("\n") == 12
    log = json.loads((trained.output_dir / "trainer_state.json").read_text())["log_history"]
    logged = {key for entry in log for key in entry}
    assert logged >= {"loss_core", "loss_full", "eval_core_bleu", "eval_full_bleu", "eval_core_loss", "eval_full_chrf"}


def test_results_and_table_hold_every_figure_of_every_level(trained):
    results = read_results(trained.output_dir / "results.json")
    core, full = results["levels"]["core"], results["levels"]["full"]
    for name, level in results["levels"].items():
        assert level["decoding_speed"]["tokens_per_second"] > 0 and level["bleu"] >= 0
        assert "tok:13a" in level["bleu_signature"]
        file = trained.output_dir / name / "model.safetensors"
        assert level["size_bytes"] == file.stat().st_size
        assert level["parameters"] == load_network(trained.output_dir / name).num_parameters()
    assert core["parameters"] < full["parameters"] and core["flops_per_token"] < full["flops_per_token"]
    assert results["training"]["steps"] == 6 and results["training"]["flops"] > 0
    assert results["partition"]["ratios"] == [0.25] and results["training"]["arguments"]["max_tokens"] == 512
    table = trained.printed[trained.printed.index("level  parameters") :]
    assert f"{core['parameters']:,}" in table and f"{full['bleu']:.2f}" in table
    assert "reference: " in trained.printed and "core: " in trained.printed
    assert results["command"].startswith("hf-ats train --output_dir")


@pytest.mark.law(number=2)
def test_a_stopped_run_goes_on_to_the_same_weights(trained, corpus, tmp_path):
    shutil.copytree(trained.output_dir / "checkpoint-3", tmp_path / "checkpoint-3")
    more = "--max_steps 6 --save_steps 3 --speed_sentences 0 --resume_from_checkpoint True"
    train(*training_arguments(corpus, tmp_path, more))
    training = read_results(tmp_path / "results.json")["training"]
    assert training["resumed_from"] == str(tmp_path / "checkpoint-3")
    for name in ("core", "full"):
        first, second = (load_file(path / name / "model.safetensors") for path in (trained.output_dir, tmp_path))
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("more", ["", "--long_sentences skip --max_target_length 24 --max_source_length 20"])
def test_validation_scores_take_the_text_of_the_pairs_that_are_left(more, corpus, tmp_path, monkeypatch):
    scored = []
    monkeypatch.setattr(
        metrics, "score_translations", lambda texts, *how, **more: scored.append((*how, more)) or SCORES
    )
    trainer = begin(*training_arguments(corpus, tmp_path, f"--predict_with_generate --eval_strategy epoch {more}"))
    trainer.evaluate()
    english = (corpus / "validation.en").read_text(encoding="utf-8").splitlines()
    kept = trainer.processing_class(text_target=english).input_ids
    german = trainer.processing_class((corpus / "validation.de").read_text(encoding="utf-8").splitlines()).input_ids
    if more:
        english = [text for text, to, of in zip(english, kept, german, strict=True) if len(to) <= 24 and len(of) <= 20]
        assert 2 < len(english) < 18
    assert scored == [(english, {"tokenize": "13a"})] * 2


def test_the_training_script_runs_on_two_processes(corpus, tmp_path):
    # Twenty sentences in batches of three on each: the last ones are filled up, and dropped again.
    scoring = "--predict_with_generate --eval_strategy steps --eval_steps 2 --per_device_eval_batch_size 3"
    arguments = training_arguments(corpus, tmp_path / "run", f"{FEW} {scoring}")
    launch("-m", "tests.support.distributed.train_worker", *arguments)
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert any("eval_core_chrf" in entry for entry in log)
    assert read_results(tmp_path / "run" / "results.json")["training"]["processes"] == 2
    assert (tmp_path / "run" / "core" / "model.safetensors").is_file()


def test_the_training_script_runs_under_accelerate_launch_and_from_a_trained_model(trained, corpus, tmp_path):
    model = f"--model_name_or_path {trained.output_dir / 'full'}"
    arguments = training_arguments(corpus, tmp_path / "run", f"{FEW} {model}")
    del arguments[arguments.index("--architecture") : arguments.index("--generation_max_length")]
    launcher = "-m accelerate.commands.launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no"
    module = "--dynamo_backend no -m hf_ats.scripts.train_translation"
    done = run_command([sys.executable, *f"{launcher} {module}".split(), *arguments])
    results = read_results(tmp_path / "run" / "results.json")
    assert results["model"]["name"] == str(trained.output_dir / "full")
    assert "train_translation.py" in results["command"] and "Traceback" not in done.stderr


def test_standard_training_is_the_stock_model_alone(corpus, tmp_path):
    train(*training_arguments(corpus, tmp_path, f"--method none --schedule full {FEW}"))
    results = read_results(tmp_path / "results.json")
    assert list(results["levels"]) == ["full"] and results["partition"] is None
    assert json.loads((tmp_path / "full" / "config.json").read_text())["model_type"] == "marian"
    report = ExportReport.read(tmp_path / "full")
    assert (report.kind, report.level, report.partition) == ("full", "full", None)
    assert report.parameters == results["levels"]["full"]["parameters"]


def test_a_run_is_pushed_after_its_report_where_it_is_asked_for(corpus, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(ATSSeq2SeqTrainer, "init_hf_repo", lambda *_, **__: None)
    monkeypatch.setattr(
        ATSSeq2SeqTrainer, "push_to_hub", lambda trainer: pushed.append(read_results(tmp_path / "results.json"))
    )
    train(*training_arguments(corpus, tmp_path / "unpushed", FEW))
    assert pushed == [] and "card" in read_results(tmp_path / "unpushed" / "results.json")
    facts = "--license mit --card_datasets ann/numbers --base_model ann/base"
    train(*training_arguments(corpus, tmp_path, f"{FEW} --push_to_hub {facts} --hub_token hf_secret"))
    assert [results["training"]["steps"] for results in pushed] == [2]
    assert pushed[0]["card"] == {"license": "mit", "datasets": ["ann/numbers"], "base_model": "ann/base"}
    assert "hf_secret" not in (tmp_path / "results.json").read_text()


def test_a_push_that_fails_ends_with_a_sentence_and_leaves_the_run(corpus, tmp_path, monkeypatch):
    def fail(trainer):
        raise OSError("no network.")

    monkeypatch.setattr(ATSSeq2SeqTrainer, "init_hf_repo", lambda *_, **__: None)
    monkeypatch.setattr(ATSSeq2SeqTrainer, "push_to_hub", fail)
    with pytest.raises(SystemExit, match=r"is complete, but its push did not end: no network\. `hf-ats push` pushes"):
        train(*training_arguments(corpus, tmp_path, f"{FEW} --push_to_hub --license mit"))
    assert (tmp_path / "results.json").is_file()


def test_a_bug_keeps_its_traceback(corpus, tmp_path):
    def fail(trainer):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        train(*training_arguments(corpus, tmp_path), watch=fail)


def test_the_ranks_of_a_core_can_be_given_one_by_one(corpus, tmp_path):
    arguments = training_arguments(corpus, tmp_path, "--ranks fc1=4 q_proj=2")
    ratios = arguments.index("--ratios")
    del arguments[ratios : ratios + 2]
    trainer = begin(*arguments)
    assert find_partition(trainer.model).ranks == {"fc1": 4, "q_proj": 2} and trainer.level_names == ["core", "full"]


def test_the_generated_corpus_needs_no_flags(tmp_path):
    trainer = begin("--output_dir", tmp_path, "--use_cpu")
    assert trainer.processing_class.vocab_size == 500 and trainer.level_names == ["core", "full"]
    assert len(trainer.train_dataset) == len(default_corpus()["train"])
