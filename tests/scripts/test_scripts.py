"""The commands, run as a user runs them: a small corpus, a few steps, everything on disk afterwards."""

import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, GenerationConfig, MarianMTModel, pipeline
from transformers.modeling_utils import PreTrainedModel

from hf_ats import ATSSeq2SeqTrainer, PartitionConfig, export_adapter, export_full, partition_
from hf_ats.checkpoint import ExportReport, load_network
from hf_ats.data import default_corpus
from hf_ats.evaluation import translate
from hf_ats.results import read_results
from hf_ats.run import ModelArguments, parse_flags, prepare
from hf_ats.run.networks import from_pretrained
from tests.support.distributed import launch
from tests.support.models import tiny_model
from tests.support.scripts import SCRIPTS, run, run_here

SIZES = "--architecture tiny --layers 1 --width 32 --feed_forward 64 --vocab_size 300 --generation_max_length 24"
TRAINING = "--max_tokens 512 --learning_rate 1e-3 --use_cpu --report_to none --disable_tqdm true --speed_sentences 4"


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
        "core", "full", "results.json", "training.png", "report.html", "tokenizer", "translations.core.txt",
        "translations.full.txt", "checkpoint-3", "checkpoint-6", "trainer_state.json",
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


def test_translate_keeps_the_order_of_its_input_and_its_empty_lines(trained, corpus, tmp_path, monkeypatch):
    output_dir, _ = trained
    german = (corpus / "test.de").read_text(encoding="utf-8").splitlines()
    text = "\n".join([german[0], "", *german[1:]]) + "\n"
    # transformers 4 cannot tell a config's single beam from none
    beams = json.loads((output_dir / "results.json").read_text())["generation"]["num_beams"]
    done = run("translate.py", "--model", output_dir / "core", "--num_beams", beams, "--max_length", 24, stdin=text)
    lines = done.stdout.split("\n")
    expected = (output_dir / "translations.core.txt").read_text(encoding="utf-8").split("\n")
    assert lines == [expected[0], "", *expected[1:]]
    target = tmp_path / "out.txt"
    run_here(
        "translate.py", "--model", output_dir / "checkpoint-6", "--level", "core", "--input", corpus / "test.de",
        "--output", target, "--num_beams", beams, "--max_length", 24, monkeypatch=monkeypatch,
    )  # fmt: skip
    assert target.read_text(encoding="utf-8").split("\n") == expected


def test_evaluation_scores_every_level_of_a_training_checkpoint_as_the_run_did(trained, corpus, tmp_path):
    output_dir, _ = trained
    beams = json.loads((output_dir / "results.json").read_text())["generation"]["num_beams"]
    options = ["--test_prefix", corpus / "test", "--num_beams", beams, "--max_length", 24]
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


def test_export_writes_each_kind_from_any_checkpoint(trained, tmp_path, monkeypatch, capsys):
    output_dir, _ = trained
    kinds = ["full", "core", "core-dense", "adapter"]
    options = ["--checkpoint", output_dir / "checkpoint-3", "--output_dir", tmp_path, "--kinds", *kinds]
    run_here("export.py", *options, monkeypatch=monkeypatch)
    assert {path.name for path in tmp_path.iterdir()} == set(kinds)
    assert capsys.readouterr().out.count("logits within") == 4


def test_a_stopped_run_goes_on_to_the_same_weights(trained, corpus, tmp_path):
    from safetensors.torch import load_file

    output_dir, _ = trained
    shutil.copytree(output_dir / "checkpoint-3", tmp_path / "checkpoint-3")
    more = "--max_steps 6 --save_steps 3 --resume_from_checkpoint True"
    run("train_translation.py", *training_arguments(corpus, tmp_path, more))
    training = json.loads((tmp_path / "results.json").read_text())["training"]
    assert training["resumed_from"] == str(tmp_path / "checkpoint-3")
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


def test_standard_training_is_the_stock_model_alone(corpus, tmp_path, monkeypatch):
    more = "--method none --schedule full --max_steps 2 --save_strategy no"
    run_here("train_translation.py", *training_arguments(corpus, tmp_path, more), monkeypatch=monkeypatch)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["levels"]) == ["full"] and results["partition"] is None
    assert json.loads((tmp_path / "full" / "config.json").read_text())["model_type"] == "marian"
    report = ExportReport.read(tmp_path / "full")
    assert (report.kind, report.level, report.partition) == ("full", "full", None)
    assert report.parameters == results["levels"]["full"]["parameters"]


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
        ("--ranks fc1=4", "ranks={'fc1': 4} say which modules get which rank, and so do ratios=[0.25]"),
        ("--method none", "schedule='alternating' needs a partitioned model"),
        ("--resume_from_checkpoint True", "holds no checkpoint-N; leave it out"),
        ("--resume_from_checkpoint nowhere", "--resume_from_checkpoint nowhere is no directory"),
        ("--max_source_length 999", "--max_source_length 999 is more than the 512 positions"),
        ("--generation_max_length 999", "--generation_max_length 999 is more than the 512 positions"),
        ("--push_to_hub", "--push_to_hub needs model cards: license is missing; say under which terms"),
        (
            "--push_to_hub --license mit --source_lang src --target_lang tgt",
            "language 'src' is no code by ISO 639, which are two or three letters, such as de or deu; name both",
        ),
        ("--license Apache-2", "the model cards: license='Apache-2' (--license) is no identifier that the Hub knows"),
        ("--card_datasets ../multi30k", "the model cards: datasets='../multi30k' (--card_datasets) is no id"),
    ],
)
def test_bad_input_ends_with_a_sentence_before_any_training(more, message, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(ATSSeq2SeqTrainer, "train", lambda *_, **__: pytest.fail("it began to train"))
    arguments = training_arguments(corpus, tmp_path, f"--max_steps 2 {more}")
    with pytest.raises(SystemExit, match=re.escape(message)):
        run_here("train_translation.py", *arguments, monkeypatch=monkeypatch)


def test_a_run_is_pushed_after_its_report_where_it_is_asked_for(corpus, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(ATSSeq2SeqTrainer, "init_hf_repo", lambda *_, **__: None)
    monkeypatch.setattr(
        ATSSeq2SeqTrainer, "push_to_hub", lambda trainer: pushed.append(read_results(tmp_path / "results.json"))
    )
    options = "--max_steps 2 --save_strategy no --speed_sentences 0"
    run_here("train_translation.py", *training_arguments(corpus, tmp_path, options), monkeypatch=monkeypatch)
    assert pushed == [] and "card" in read_results(tmp_path / "results.json")
    facts = "--license mit --card_datasets ann/numbers --base_model ann/base"
    more = f"{options} --push_to_hub {facts} --hub_token hf_secret"
    run_here("train_translation.py", *training_arguments(corpus, tmp_path, more), monkeypatch=monkeypatch)
    assert [results["training"]["steps"] for results in pushed] == [2]
    assert pushed[0]["card"] == {"license": "mit", "datasets": ["ann/numbers"], "base_model": "ann/base"}
    assert "hf_secret" not in (tmp_path / "results.json").read_text()


def test_ids_of_the_hub_are_facts_of_the_card_and_directories_are_not(tmp_path):
    def facts(*words):
        card_args = parse_flags("a run", ["--output_dir", str(tmp_path), *words])[3]
        return card_args.facts

    assert facts()("wmt17", "Helsinki-NLP/opus-mt-de-en") == {
        "datasets": ["wmt17"],
        "base_model": "Helsinki-NLP/opus-mt-de-en",
    }
    assert facts()(str(tmp_path), str(tmp_path)) == facts()(None, None) == {}
    given = facts("--card_datasets", "a/b", "c/d", "--base_model", "e/f", "--card_languages", "de", "en")
    assert given("wmt17", "g/h") == {"datasets": ["a/b", "c/d"], "base_model": "e/f", "languages": ["de", "en"]}


ADAPTER = ["--adapter_name_or_path", "some/adapter"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--ratios 0.03125", "--ratios 0.03125 describes a partition, and --adapter_name_or_path some/adapter brings"),
        ("--method rank", "--method rank describes a partition"),
        ("--target_modules fc1 fc2", "--target_modules fc1 fc2 describes a partition"),
        ("--init svd", "--init svd describes a partition"),
        ("--ranks fc1=4 q_proj=2", "--ranks fc1=4 q_proj=2 describes a partition"),
        ("--architecture tiny", "--adapter_name_or_path some/adapter and --architecture tiny are two models"),
        ("--layers 3", "--layers 3 shapes a model from scratch, and --adapter_name_or_path some/adapter has its own"),
        ("--recipe multi30k-small", "are two models; give one of them"),
    ],
)
def test_an_adapter_and_what_it_takes_the_place_of_contradict_each_other(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_flags("a run", ["--output_dir", str(tmp_path), *ADAPTER, *words.split()])
    assert message in capsys.readouterr().err


def test_a_recipe_of_a_partition_contradicts_an_adapter_too(tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("ratios: [0.03125]\n")
    with pytest.raises(SystemExit, match="2"):
        parse_flags("a run", ["--output_dir", str(tmp_path), *ADAPTER, "--recipe", str(recipe)])
    assert "--ratios 0.03125 describes a partition" in capsys.readouterr().err
    model_args = parse_flags("a run", ["--output_dir", str(tmp_path), *ADAPTER])[0]
    assert model_args.architecture is None and model_args.adapter_name_or_path == "some/adapter"


@pytest.mark.parametrize(("more", "name"), [("", "core"), ("--method none --schedule full", "full")])
def test_what_no_export_wrote_is_kept_and_found_before_training(more, name, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(ATSSeq2SeqTrainer, "train", lambda *_, **__: pytest.fail("it began to train"))
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match=r"notes\.txt, and was not written by an export"):
        run_here("train_translation.py", *training_arguments(corpus, tmp_path, more), monkeypatch=monkeypatch)
    assert [path.name for path in (tmp_path / name).iterdir()] == ["notes.txt"]


def test_a_bug_keeps_its_traceback(corpus, tmp_path, monkeypatch):
    def train(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr(ATSSeq2SeqTrainer, "train", train)
    with pytest.raises(ValueError, match="a bug"):
        run_here("train_translation.py", *training_arguments(corpus, tmp_path), monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    "flag", ["--layers 3", "--width 8", "--feed_forward 8", "--heads 2", "--vocab_size 99", "--separate_vocabularies"]
)
def test_the_shape_of_a_model_from_scratch_is_refused_for_a_pretrained_one(flag, tmp_path, monkeypatch, capsys):
    arguments = f"--output_dir {tmp_path} --use_cpu --model_name_or_path some/model {flag}".split()
    with pytest.raises(SystemExit, match="2"):
        run_here("train_translation.py", *arguments, monkeypatch=monkeypatch)
    assert (
        f"{flag.split()[0]} " in (error := capsys.readouterr().err) and "--model_name_or_path some/model has" in error
    )


# A model that prescribes neither length nor beams, has few positions, and is stored in half precision.

POSITIONS = 40


@pytest.fixture(scope="module")
def bart(trained, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("bart")
    tokenizer = AutoTokenizer.from_pretrained(trained[0] / "tokenizer")
    pad = tokenizer.pad_token_id
    tokens = {"pad_token_id": pad, "decoder_start_token_id": pad, "eos_token_id": 0}
    model = tiny_model("bart", vocab_size=len(tokenizer), max_position_embeddings=POSITIONS, **tokens)
    model.generation_config = GenerationConfig(**tokens)
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def long_corpus(corpus, tmp_path_factory) -> Path:
    """The last pair of each part but the validation's is over the positions."""
    directory = tmp_path_factory.mktemp("long")
    for file in corpus.iterdir():
        more = " ".join(["drei" if file.suffix == ".de" else "three"] * 50) + "\n"
        text = file.read_text(encoding="utf-8")
        (directory / file.name).write_text(text + more * (file.stem != "validation"), encoding="utf-8")
    return directory


def bart_arguments(bart, corpus, output_dir, more) -> list[str]:
    files = [f"--{part}_prefix {corpus / part}" for part in ("train", "validation", "test")]
    options = "--ratios 0.25 --max_steps 2 --save_strategy no --dropout 0.2"
    return (
        f"--output_dir {output_dir} --model_name_or_path {bart} {TRAINING} {' '.join(files)} {options} {more}".split()
    )


def test_every_route_translates_alike_where_the_model_prescribes_nothing(bart, long_corpus, tmp_path, monkeypatch):
    more = "--long_sentences skip --predict_with_generate --eval_strategy steps --eval_steps 2"
    run_here("train_translation.py", *bart_arguments(bart, long_corpus, tmp_path, more), monkeypatch=monkeypatch)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["generation"] == {"num_beams": 4, "max_length": 1 + POSITIONS}
    assert "vocab_size" not in results["model"] and results["data"]["test"] == 13
    config = json.loads((tmp_path / "full" / "config.json").read_text())
    assert (config["dtype"], config["dropout"]) == ("float32", 0.2)
    lengths = {
        key: value
        for entry in json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
        for key, value in entry.items()
        if key.endswith("gen_len")
    }
    assert lengths.keys() == {"eval_core_gen_len", "eval_full_gen_len"}

    german = (long_corpus / "test.de").read_text(encoding="utf-8").splitlines()
    for name in ("core", "full"):
        expected = (tmp_path / f"translations.{name}.txt").read_text(encoding="utf-8").splitlines()
        assert len(expected) == 13 and results["levels"][name]["decoding_speed"]["num_beams"] == 4
        pipe = pipeline("translation", model=str(tmp_path / name))
        written = pipe.model.generation_config
        assert (written.num_beams, written.max_length) == (4, 1 + POSITIONS)
        # As the checkpoint was before training, which prescribed nothing.
        pipe.model.generation_config = load_network(bart).generation_config
        assert [t["translation_text"].strip() for t in pipe(german, truncation=True)] == expected
        output = tmp_path / "out.txt"
        run_here(
            "translate.py", "--model", tmp_path / name, "--input", long_corpus / "test.de", "--output", output,
            "--truncate", monkeypatch=monkeypatch,
        )  # fmt: skip
        assert output.read_text(encoding="utf-8").splitlines() == expected


def test_a_long_test_sentence_is_found_before_training(bart, corpus, long_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(ATSSeq2SeqTrainer, "train", lambda *_, **__: pytest.fail("it began to train"))
    arguments = bart_arguments(bart, corpus, tmp_path, "")
    arguments[arguments.index("--test_prefix") + 1] = str(long_corpus / "test")
    with pytest.raises(SystemExit, match=rf"the test part: Sentence pair 13 .*={POSITIONS}\. .*--long_sentences"):
        run_here("train_translation.py", *arguments, monkeypatch=monkeypatch)


def test_a_pretrained_models_dropout_and_layerdrop_go_by_their_own_names(bart, tmp_path, caplog):
    def load(family, processes, dropout=None, **overrides):
        tiny_model(family, **overrides).save_pretrained(tmp_path / family)
        shutil.copytree(bart, tmp_path / family, dirs_exist_ok=True, ignore=lambda _, names: set(names) - TOKENIZER)
        arguments = ModelArguments(model_name_or_path=str(tmp_path / family), dropout=dropout)
        return from_pretrained(arguments, SimpleNamespace(world_size=processes))[1]

    assert load("t5", 1, 0.3).encoder.block[0].layer[1].dropout.p == 0.3
    layerdrop = {"encoder_layerdrop": 0.25, "decoder_layerdrop": 0.5}
    alone, together = (load("m2m_100", processes, **layerdrop) for processes in (1, 2))
    assert (alone.model.encoder.layerdrop, alone.model.decoder.layerdrop) == (0.25, 0.5)
    with caplog.at_level("INFO"):
        together = load("m2m_100", 2, **layerdrop)
    assert (together.model.encoder.layerdrop, together.model.decoder.layerdrop) == (0, 0)
    assert "decoder_layerdrop is 0 instead of 0.5" in caplog.text


@pytest.mark.parametrize("zero", [True, False])
def test_a_pad_row_that_is_zero_stays_zero_in_a_pretrained_marian_model(zero, trained, tmp_path):
    directory = shutil.copytree(trained[0] / "full", tmp_path / "model")
    if not zero:
        model = MarianMTModel.from_pretrained(directory)
        torch.nn.init.ones_(model.lm_head.weight)
        model.save_pretrained(directory)
    arguments = ModelArguments(model_name_or_path=str(directory))
    model = from_pretrained(arguments, SimpleNamespace(world_size=1))[1]
    model(input_ids=torch.tensor([[5, 0]]), labels=torch.tensor([[6, 0]])).loss.backward()
    weight, pad = model.lm_head.weight, model.config.pad_token_id
    assert weight.grad[:pad].any() and weight[pad].any() != zero
    assert weight.grad[pad].any() != zero


TOKENIZER = {"source.spm", "target.spm", "tokenizer_config.json", "vocab.json"}


def test_an_adapter_export_is_scored_and_translates_as_the_full_network(bart, corpus, tmp_path, monkeypatch, capsys):
    tokenizer = AutoTokenizer.from_pretrained(bart)
    model = partition_(load_network(bart, dtype=torch.float32), PartitionConfig(ratios=[0.25], init="random"))
    export_full(model, tmp_path / "full", tokenizer=tokenizer)
    export_adapter(model, tmp_path / "written", tokenizer=tokenizer)
    (tmp_path / "written").rename(tmp_path / "adapter")
    scores = []
    for name in ("full", "adapter"):
        capsys.readouterr()
        run_here(
            "evaluate_translation.py", "--model", tmp_path / name, "--test_prefix", corpus / "test",
            monkeypatch=monkeypatch,
        )  # fmt: skip
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0] == scores[1]


def test_translate_checks_its_output_first_and_takes_a_prefix_and_nothing(bart, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("it began to load"))
    for output in (tmp_path / "nowhere" / "out.txt", tmp_path):
        with pytest.raises(SystemExit, match=f"--output {output} cannot be written"):
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
    capsys.readouterr()
    run_here("translate.py", "--model", bart, monkeypatch=monkeypatch)
    assert capsys.readouterr().out == ""


def test_the_python_of_the_readme_runs(trained, adapted, tmp_path, monkeypatch):
    output_dir, _ = trained
    readme = (SCRIPTS.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.S)
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/demo").symlink_to(output_dir)
    here = {
        "max_steps=100": "max_steps=2, use_cpu=True",  # fewer steps than a reader would take
        "YOU/iwslt14-de-en-": "runs/demo/",
        "path/or/id/of/adapter": str(adapted[0] / "adapter"),
    }
    for block in blocks:
        for theirs, ours in here.items():
            block = block.replace(theirs, ours)
        exec(compile(block, "README.md", "exec"), {"base": MarianMTModel.from_pretrained(adapted[0] / "base")})
    assert {path.name for path in Path("runs/mine").iterdir()} >= {"core", "full", "half"}


def test_the_ranks_of_a_core_can_be_given_one_by_one(tmp_path):
    words = ["--output_dir", str(tmp_path), "--use_cpu", "--ranks", "fc1=4", "q_proj=2", "--layers", "1"]
    run = prepare(*parse_flags("a run", words))
    assert run.partition.ranks == {"fc1": 4, "q_proj": 2} and list(run.directories) == ["core", "full"]


def test_the_generated_corpus_needs_no_flags(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_translation.py", "--output_dir", str(tmp_path), "--use_cpu"])
    run = prepare(*parse_flags("a run"))
    assert run.tokenizer.vocab_size == 500 and list(run.directories) == ["core", "full"]
    assert len(run.trainer.train_dataset) == len(default_corpus()["train"])


def test_a_checkpoint_of_another_partition_is_refused_before_training(trained, corpus, tmp_path, monkeypatch):
    more = f"--max_steps 8 --resume_from_checkpoint {trained[0] / 'checkpoint-6'}"
    arguments = [word.replace("0.25", "0.5") for word in training_arguments(corpus, tmp_path, more)]
    monkeypatch.setattr(sys, "argv", ["train_translation.py", *arguments])
    with pytest.raises(SystemExit, match=r"checkpoint-6 holds .*ratios=\[0.25\].*but the model to resume is .*0.5"):
        runpy.run_path(str(SCRIPTS / "train_translation.py"), run_name="__main__")


def test_a_corpus_without_a_part_to_score_is_refused_before_training(corpus, tmp_path, monkeypatch):
    arguments = f"--output_dir {tmp_path} {SIZES} {TRAINING} --train_prefix {corpus / 'train'}".split()
    monkeypatch.setattr(sys, "argv", ["train_translation.py", *arguments])
    with pytest.raises(SystemExit, match="the corpus has the parts train; training needs train, and the report"):
        runpy.run_path(str(SCRIPTS / "train_translation.py"), run_name="__main__")


def test_a_level_that_is_not_there_ends_with_a_sentence(trained, corpus, monkeypatch):
    output_dir, _ = trained
    options = ["--model", output_dir / "core", "--level", "full", "--input", corpus / "test.de"]
    with pytest.raises(SystemExit, match=r"level='full', but .* is one network, 'core'"):
        run_here("translate.py", *options, monkeypatch=monkeypatch)


# ---- From a base model and a LoRA adapter ----


@pytest.fixture(scope="module")
def adapted(trained, tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    """An adapter that names its base model, and what both make together."""
    directory = tmp_path_factory.mktemp("adapted")
    shutil.copytree(trained[0] / "full", directory / "base")
    model = MarianMTModel.from_pretrained(directory / "base")
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "fc1"], task_type="SEQ_2_SEQ_LM")
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(directory / "adapter")
    return directory, model.merge_and_unload().eval()


@pytest.mark.parametrize("names_its_base", [True, False])
def test_training_begins_from_an_adapter_as_the_adapted_model(names_its_base, adapted, corpus, tmp_path, monkeypatch):
    directory, merged = adapted
    adapter = shutil.copytree(directory / "adapter", tmp_path / "adapter")
    words = ["--adapter_name_or_path", str(adapter)]
    if not names_its_base:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
        words += ["--model_name_or_path", str(directory / "base")]
    arguments = training_arguments(corpus, tmp_path / "run", "--max_steps 2 --save_strategy no --speed_sentences 0")
    cut = slice(arguments.index("--architecture"), arguments.index("--generation_max_length"))
    arguments[cut] = words
    ratios = arguments.index("--ratios")
    del arguments[ratios : ratios + 2]
    inputs = {"input_ids": torch.tensor([[5, 9, 7, 0]]), "decoder_input_ids": torch.tensor([[8, 3, 6]])}
    begun = []

    def remember(trainer, *args, **kwargs):
        with torch.no_grad():
            begun.append(trainer.model.eval()(**inputs).logits)
        return train(trainer, *args, **kwargs)

    train = ATSSeq2SeqTrainer.train
    monkeypatch.setattr(ATSSeq2SeqTrainer, "train", remember)
    run_here("train_translation.py", *arguments, monkeypatch=monkeypatch)
    with torch.no_grad():
        torch.testing.assert_close(begun[0], merged(**inputs).logits, atol=1e-4, rtol=1e-4)
    results = read_results(tmp_path / "run" / "results.json")
    assert list(results["levels"]) == ["core", "full"] and results["partition"]["method"] == "rank"
    assert results["model"]["adapter_name_or_path"] == str(adapter)
    assert results["model"]["name"] == str(directory / "base")
    assert load_network(tmp_path / "run" / "core").num_parameters() == results["levels"]["core"]["parameters"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model_name_or_path": None}, "names no base model; give the one .* by --model_name_or_path"),
        ({"bias": "all"}, "bias"),
        ({"use_dora": True}, "DoRA scales whole rows"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "NEWMETHOD"}, "is of a kind that this version of PEFT does not know.*give a LoRA adapter"),
    ],
)
def test_an_adapter_that_cannot_be_begun_from_ends_with_a_sentence(change, message, adapted, tmp_path, monkeypatch):
    adapter = shutil.copytree(adapted[0] / "adapter", tmp_path / "adapter")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    arguments = f"--output_dir {tmp_path / 'run'} --use_cpu --adapter_name_or_path {adapter}".split()
    if "base_model_name_or_path" not in change:
        arguments += ["--model_name_or_path", str(adapted[0] / "base")]
    with pytest.raises(SystemExit, match=message):
        run_here("train_translation.py", *arguments, monkeypatch=monkeypatch)
    assert not (tmp_path / "run").exists(), "nothing was begun"


@pytest.mark.parametrize("adapter", [[], ["--adapter_name_or_path", "adapter"]])
def test_a_quantised_base_ends_with_a_sentence_whatever_is_installed(adapter, adapted, corpus, tmp_path, monkeypatch):
    shutil.copytree(adapted[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "base/config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    monkeypatch.chdir(tmp_path)
    files = [f"--{part}_prefix={corpus / part}" for part in ("train", "test")]
    arguments = ["--output_dir", "run", "--use_cpu", "--model_name_or_path", "base", *files, *adapter]
    with pytest.raises(
        SystemExit, match=r"--model_name_or_path base is quantised, .* give the model in full precision"
    ):
        run_here("train_translation.py", *arguments, monkeypatch=monkeypatch)
