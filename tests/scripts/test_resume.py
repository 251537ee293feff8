"""`hf-ats train --resume_from_checkpoint`: the same run, or a sentence that says what is another."""

import logging
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from hf_ats.checkpoint import load_tokenizer
from hf_ats.results import read_results
from tests.support.scripts import begin, train, training_arguments

SAVING = "--max_steps 8 --save_steps 3"


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """A run of six steps with checkpoints after 3 and 6, exports and report."""
    return Path(shutil.copytree(trained.output_dir, tmp_path / "run"))


def refused(message: str, *arguments) -> None:
    with pytest.raises(SystemExit, match=f"^hf-ats train: .*{re.escape(message)}"):
        train(*arguments, watch=lambda trainer: pytest.fail("it began to train"))


def test_a_grown_corpus_meets_the_tokenizer_of_the_checkpoint(copy, corpus, tmp_path, caplog):
    grown = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    for language, words in (("de", "der fünfte Hund"), ("en", "the fifth dog")):
        with (grown / f"train.{language}").open("a", encoding="utf-8") as file:
            file.write(f"{words}\n" * 40)
    before = load_tokenizer(copy / "checkpoint-6").get_vocab()
    shutil.rmtree(copy / "tokenizer")  # the checkpoint has its own
    with caplog.at_level(logging.WARNING):
        trainer = train(*training_arguments(grown, copy, f"{SAVING} --resume_from_checkpoint True"))
    assert trainer.processing_class.get_vocab() == before == load_tokenizer(copy / "core").get_vocab()
    assert trainer.state.global_step == 8
    assert f"--train_prefix is '{grown}/train' instead of '{corpus}/train'" in caplog.text
    results = read_results(copy / "results.json")
    assert results["training"]["seconds"] > trainer.seconds_before > 0 and results["data"]["train"] == 340


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--vocab_size 320", "--vocab_size is 320, and 300 in the run of"),
        ("--source_lang en --target_lang de", "--source_lang is 'en', and 'de' in the run of"),
        ("--width 64", "--width is 64, and 32 in the run of"),
        ("--layers 2", "--layers is 2, and 1 in the run of"),
        ("--heads 2", "--heads is 2, and not given in the run of"),
        ("--separate_vocabularies", "--separate_vocabularies is True, and False in the run of"),
        ("--optim adafactor", "was trained with optim='adamw_torch_fused', and this run has optim='adafactor'"),
        ("--schedule slimmable", "was trained with schedule='alternating', and this run has schedule='slimmable'"),
    ],
)
def test_another_model_or_optimizer_than_the_checkpoints_is_refused(more, message, trained, corpus, tmp_path):
    resume = f"--resume_from_checkpoint {trained.output_dir / 'checkpoint-6'}"
    refused(message, *training_arguments(corpus, tmp_path, f"{SAVING} {resume}"), *more.split())


def test_another_pretrained_model_is_refused(bart, corpus, tmp_path):
    model = shutil.copytree(bart, tmp_path / "bart")
    words = "--use_cpu --report_to none --ratios 0.25 --max_steps 1 --generation_max_length 24 --speed_sentences 0"
    files = [f"--{part}_prefix={corpus / part}" for part in ("train", "test")]
    arguments = ["--output_dir", tmp_path / "run", *words.split(), *files]
    train(*arguments, "--model_name_or_path", model, "--save_strategy", "steps")
    resume = ["--resume_from_checkpoint", "True"]
    refused(f"--model_name_or_path is '{bart}', and '{model}'", *arguments, "--model_name_or_path", bart, *resume)
    trainer = begin(*arguments, "--model_name_or_path", os.path.relpath(model), *resume)  # the same place
    assert trainer.args.resume_from_checkpoint == str(tmp_path / "run/checkpoint-1")


def test_a_runs_folder_means_its_last_whole_checkpoint(copy, corpus, tmp_path, caplog):
    (copy / "checkpoint-6/optimizer.pt").unlink()
    (copy / ".core-0123abcd").mkdir()
    arguments = training_arguments(corpus, tmp_path / "new", f"{SAVING} --resume_from_checkpoint {copy}")
    with caplog.at_level(logging.WARNING):
        assert begin(*arguments).args.resume_from_checkpoint == str(copy / "checkpoint-3")
    assert f"Left out: the checkpoint {copy / 'checkpoint-6'} is not whole: optimizer.pt is missing." in caplog.text
    begin(*training_arguments(corpus, copy, f"{SAVING} --resume_from_checkpoint True"))
    assert not (copy / ".core-0123abcd").exists()  # a draft of the dead


def test_an_earlier_run_is_not_overwritten(copy, corpus):
    files = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    refused("holds checkpoint-6 of an earlier run, which this one would", *training_arguments(corpus, copy, SAVING))
    for checkpoint in copy.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    refused("holds results.json of an earlier run", *training_arguments(corpus, copy, SAVING))
    assert all(path.read_bytes() == content for path, content in files.items() if "checkpoint-" not in str(path))


def test_a_run_killed_in_its_report_goes_on_to_its_report(copy, corpus):
    weights, results = (copy / "full/model.safetensors").read_bytes(), read_results(copy / "results.json")
    shutil.rmtree(copy / "full")
    (copy / "results.json").unlink()
    scoring = "--eval_strategy steps --eval_steps 3 --predict_with_generate --logging_steps 2 --save_steps 3"
    train(*training_arguments(corpus, copy, f"--max_steps 6 {scoring} --resume_from_checkpoint True"))
    again = read_results(copy / "results.json")
    assert (copy / "full/model.safetensors").read_bytes() == weights
    assert again["levels"]["full"]["bleu"] == results["levels"]["full"]["bleu"]
    assert 0.3 < again["training"]["seconds"] / results["training"]["seconds"] < 1.2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_with_its_status_and_no_report(number, status, corpus, tmp_path):
    def interrupt(trainer):
        original = trainer.training_step

        def step(*positional, **keywords):
            if trainer.state.global_step == 1:
                os.kill(os.getpid(), number)
            return original(*positional, **keywords)

        trainer.training_step = step

    with pytest.raises(SystemExit) as ended:
        train(*training_arguments(corpus, tmp_path, SAVING), watch=interrupt)
    assert ended.value.code == status
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "run.json", "tokenizer"]


def test_a_run_that_diverges_ends_with_a_sentence_and_exports_nothing(corpus, tmp_path):
    more = f"{SAVING} --save_steps 1 --optim sgd --learning_rate 1e38 --max_grad_norm 0"
    message = (
        "(?s)^hf-ats train: training has diverged: .*last whole checkpoint is .*checkpoint-|there is no checkpoint"
    )
    with pytest.raises(SystemExit, match=message):
        train(*training_arguments(corpus, tmp_path, more))
    assert not {"core", "full", "results.json"} & {path.name for path in tmp_path.iterdir()}
