"""The report of a trainer that somebody made by hand: what the training script leaves, from two lists of sentences."""

import json
import re
import sys

import pytest
import torch
from transformers import TrainerCallback

from hf_ats import ATSSeq2SeqTrainer, ATSSeq2SeqTrainingArguments, PartitionConfig, partition_
from hf_ats.checkpoint import load_network
from hf_ats.data import TranslationCollator
from hf_ats.evaluation import networks, translate
from hf_ats.results import read_results
from hf_ats.run import report_trained
from tests.support.checkpoints import ENGLISH, GERMAN, trained_tokenizer
from tests.support.models import tiny_model

LANGUAGES = {"source_lang": "de", "target_lang": "en"}


class Logs(TrainerCallback):
    """Keeps what any tracker is told."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append(dict(logs))


def make_trainer(directory, steps=3, tokenizer=True, partition=True):
    made = trained_tokenizer(directory / "tokenizer")
    model = tiny_model("marian", seed=1, eos_token_id=made.eos_token_id, forced_eos_token_id=made.eos_token_id)
    if partition:
        partition_(model, PartitionConfig(ratios=[0.25, 0.5]))
    args = ATSSeq2SeqTrainingArguments(
        directory / "run", schedule="alternating" if partition else "full", max_steps=steps, logging_steps=1,
        learning_rate=1e-3, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    data = [
        {**made(source), "labels": made(text_target=target)["input_ids"]}
        for source, target in zip(GERMAN, ENGLISH, strict=True)
    ]
    return ATSSeq2SeqTrainer(
        model, args, train_dataset=data, data_collator=TranslationCollator(made), callbacks=[Logs()],
        processing_class=made if tokenizer else None,
    )  # fmt: skip


def logs_of(trainer) -> list[dict]:
    return next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Logs)).seen


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    trainer = make_trainer(directory)
    trainer.train()
    results = report_trained(
        trainer, sources=GERMAN, references=ENGLISH, **LANGUAGES, speed_sentences=2, card={"license": "mit"},
        model_facts={"name": "tiny"}, data_facts={"name": "a few sentences", "train": 4}, num_beams=1, max_length=16,
    )  # fmt: skip
    return trainer, directory / "run", results


def test_it_leaves_what_the_training_script_leaves(reported):
    trainer, run, results = reported
    levels = ["core", "level1", "full"]
    files = {f"translations.{level}.txt" for level in levels} | {"results.json", "training.png", "report.html"}
    assert {path.name for path in run.iterdir()} == {*levels, *files, "trainer_state.json"}
    written = read_results(run / "results.json")
    assert written == json.loads(json.dumps(results)) and list(written["levels"]) == levels
    for level in levels:
        lines = (run / f"translations.{level}.txt").read_text(encoding="utf-8").split("\n")[:-1]
        network = load_network(run / level)
        assert lines == translate(network, trainer.processing_class, GERMAN, num_beams=1, max_length=16)
        assert written["levels"][level]["parameters"] == network.num_parameters()
        assert [sample["translations"][level] for sample in written["samples"]] == lines
    assert [(sample["source"], sample["reference"]) for sample in written["samples"]] == [
        *zip(GERMAN, ENGLISH, strict=True)
    ]


def test_a_translation_is_one_line_and_is_scored_as_it_is(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    trainer.train()
    said, scored = ["one\ntwo", "three\r\nfour", "five\rsix", "seven"], []
    monkeypatch.setattr(networks, "translate_encoded", lambda *_, **__: said)
    score = networks.score_translations
    monkeypatch.setattr(
        networks, "score_translations", lambda *texts, **how: scored.append((texts[0], how)) or score(*texts, **how)
    )
    given = dict(sources=GERMAN, references=ENGLISH, source_lang="de", speed_sentences=0)
    results = report_trained(trainer, **given, target_lang="th")
    for level in results["levels"]:
        written = (tmp_path / "run" / f"translations.{level}.txt").read_bytes().decode()
        assert written == "one two\nthree four\nfive six\nseven\n"
        assert "tok:char|" in results["levels"][level]["bleu_signature"], "as the target language needs"
    assert [sample["translations"]["core"] for sample in results["samples"]] == said
    assert scored == [(said, {"tokenize": "char"})] * 3
    results = report_trained(trainer, **given, target_lang="th", tokenize="intl")
    assert "tok:intl|" in results["levels"]["core"]["bleu_signature"]


def test_results_say_what_the_trainer_knows_and_what_it_was_told(reported):
    trainer, _, results = reported
    assert results["partition"]["ratios"] == [0.25, 0.5] and results["card"] == {"license": "mit"}
    assert results["model"] == {"name": "tiny", "class": "MarianMTModel"}
    data = results["data"]
    assert (data["name"], data["train"], data["test"], data["test_part"]) == ("a few sentences", 4, 4, "test")
    assert "source_prefix" not in data and "tokenizer_source_lang" not in data
    training = results["training"]
    runtime = next(entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry)
    assert (training["steps"], training["seconds"], training["schedule"]) == (3, runtime, "alternating")
    assert training["arguments"]["learning_rate"] == 1e-3 and training["flops"] > 0
    assert training["threads"] == torch.get_num_threads()
    assert results["generation"] == {"num_beams": 1, "max_length": 16}


def test_trackers_are_told_the_final_scores_once(reported):
    trainer, run, results = reported
    told = [entry for entry in logs_of(trainer) if any(name.startswith("test_") for name in entry)]
    assert len(told) == 1
    for level, figures in results["levels"].items():
        assert told[0][f"test_{level}_bleu"] == figures["bleu"] and told[0][f"test_{level}_chrf"] == figures["chrf"]
        assert told[0][f"test_{level}_tokens_per_second"] == figures["decoding_speed"]["tokens_per_second"]
    # They are no part of the curves.
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert any("loss_core" in entry for entry in history) and "test_" not in json.dumps(history)


def test_it_can_be_made_again_and_of_a_baseline(tmp_path):
    trainer = make_trainer(tmp_path, partition=False)
    trainer.train()
    given = dict(sources=GERMAN[:2], references=ENGLISH[:2], **LANGUAGES, speed_sentences=0, max_length=8)
    first = report_trained(trainer, **given, part="validation", source_prefix="ein ")
    assert list(first["levels"]) == ["full"] and first["partition"] is None
    assert (first["data"]["test_part"], first["data"]["validation"]) == ("validation", 2)
    assert first["data"]["source_prefix"] == "ein " and first["samples"][0]["source"] == GERMAN[0]
    network = load_network(tmp_path / "run" / "full")
    prefixed = translate(network, trainer.processing_class, [f"ein {text}" for text in GERMAN[:2]], max_length=8)
    assert [sample["translations"]["full"] for sample in first["samples"]] == prefixed
    again = report_trained(trainer, trainer.whole_model(), **given, seconds=1.5)
    assert again["run_id"] == first["run_id"] and again["training"]["seconds"] == 1.5, "the same weights"
    trainer.args.max_steps = 4
    trainer.train()
    other = report_trained(trainer, **given)
    assert other["run_id"] != first["run_id"]
    assert other["levels"]["full"]["weights_sha256"] != first["levels"]["full"]["weights_sha256"]
    assert "test_full_tokens_per_second" not in logs_of(trainer)[-1]


def test_scores_of_another_training_do_not_stay_beside_the_exports_of_this_one(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, partition=False)
    trainer.train()
    given = dict(sources=GERMAN[:2], references=ENGLISH[:2], **LANGUAGES, speed_sentences=0, max_length=8)
    report_trained(trainer, **given)
    # The function of the same name hides the module from a dotted path.
    monkeypatch.setattr(sys.modules[report_trained.__module__], "measure_networks", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report_trained(trainer, **given)
    assert (tmp_path / "run/full/export.json").is_file() and not (tmp_path / "run/results.json").exists()


def test_what_cannot_be_reported_is_refused_before_anything_is_written(tmp_path):
    trainer = make_trainer(tmp_path)
    given = dict(sources=GERMAN, references=ENGLISH, **LANGUAGES)
    with pytest.raises(ValueError, match=r"has not trained, .*; call trainer.train\(\) before"):
        report_trained(trainer, **given)
    with pytest.raises(ValueError, match="sources has 4 sentences and references has 3; give one reference for each"):
        report_trained(trainer, **given | {"references": ENGLISH[:3]}, seconds=1)
    with pytest.raises(ValueError, match=r"sources has 0 sentences .* at least one"):
        report_trained(trainer, **given | {"sources": [], "references": []}, seconds=1)
    with pytest.raises(ValueError, match=r"sentence 2 has .* tokens, and .* reads at most 64"):
        report_trained(trainer, **given | {"sources": [GERMAN[0], "ein Hund " * 40, *GERMAN[2:]]}, seconds=1)
    nameless = make_trainer(tmp_path / "nameless", tokenizer=False)
    with pytest.raises(ValueError, match=re.escape("write ATSSeq2SeqTrainer(..., processing_class=tokenizer)")):
        report_trained(nameless, **given, seconds=1)
    notes = tmp_path / "run" / "level1" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    with pytest.raises(FileExistsError, match=r"level1 holds notes\.txt"):
        report_trained(trainer, **given, seconds=1)
    notes.unlink()
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["level1"]
