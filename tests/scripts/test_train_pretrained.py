"""`hf-ats train` from a pretrained model, and from a base model and a LoRA adapter."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, MarianMTModel, pipeline

from hf_ats.checkpoint import load_network, load_tokenizer
from hf_ats.evaluation import input_moments
from hf_ats.partition import PartitionConfig, partition_
from hf_ats.results import read_results, render_card
from hf_ats.run import ModelArguments
from hf_ats.run.networks import check_tokenizer, from_pretrained
from tests.scripts.conftest import POSITIONS
from tests.support.models import tiny_model
from tests.support.scripts import TRAINING, prefixes, run_here, train, training_arguments


@pytest.fixture(scope="module")
def long_corpus(corpus, tmp_path_factory) -> Path:
    """The last pair of each part but the validation's is over the positions."""
    directory = tmp_path_factory.mktemp("long")
    for file in corpus.iterdir():
        more = " ".join(["drei" if file.suffix == ".de" else "three"] * 50) + "\n"
        text = file.read_text(encoding="utf-8")
        (directory / file.name).write_text(text + more * (file.stem != "validation"), encoding="utf-8")
    return directory


def test_every_route_translates_alike_where_the_model_prescribes_nothing(bart, long_corpus, tmp_path, monkeypatch):
    words = f"--output_dir {tmp_path} --model_name_or_path {bart} {TRAINING} --ratios 0.25 --max_steps 2 --dropout 0.2"
    scoring = "--save_strategy no --long_sentences skip --predict_with_generate --eval_strategy steps --eval_steps 2"
    train(*words.split(), *scoring.split(), *prefixes(long_corpus))
    results = read_results(tmp_path / "results.json")
    assert results["generation"] == {"num_beams": 4, "max_length": 1 + POSITIONS}
    assert "vocab_size" not in results["model"] and results["data"]["test"] == 13
    config = json.loads((tmp_path / "full" / "config.json").read_text())
    assert (config["dtype"], config["dropout"]) == ("float32", 0.2)
    log = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    lengths = {key for entry in log for key in entry if key.endswith("gen_len")}
    assert lengths == {"eval_core_gen_len", "eval_full_gen_len"}

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


def loaded(directory, dropout=None, processes=1):
    arguments = ModelArguments(model_name_or_path=str(directory), dropout=dropout)
    return from_pretrained(arguments, SimpleNamespace(world_size=processes, resume_from_checkpoint=None))[1]


def test_a_pretrained_models_dropout_and_layerdrop_go_by_their_own_names(bart, tmp_path, caplog):
    tokenizer = AutoTokenizer.from_pretrained(bart)
    layerdrop = {"encoder_layerdrop": 0.25, "decoder_layerdrop": 0.5}
    for family, overrides in (("t5", {}), ("m2m_100", layerdrop)):
        tiny_model(family, **overrides).save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
    assert loaded(tmp_path / "t5", 0.3).encoder.block[0].layer[1].dropout.p == 0.3
    alone = loaded(tmp_path / "m2m_100")
    assert (alone.model.encoder.layerdrop, alone.model.decoder.layerdrop) == (0.25, 0.5)
    with caplog.at_level("INFO"):
        together = loaded(tmp_path / "m2m_100", processes=2)
    assert (together.model.encoder.layerdrop, together.model.decoder.layerdrop) == (0, 0)
    assert "decoder_layerdrop is 0 instead of 0.5" in caplog.text


@pytest.mark.parametrize("zero", [True, False])
def test_a_pad_row_that_is_zero_stays_zero_in_a_pretrained_marian_model(zero, trained, tmp_path):
    directory = shutil.copytree(trained.output_dir / "full", tmp_path / "model")
    if not zero:
        model = MarianMTModel.from_pretrained(directory)
        torch.nn.init.ones_(model.lm_head.weight)
        model.save_pretrained(directory)
        (directory / "export.json").unlink()  # changed on purpose
    model = loaded(directory)
    model(input_ids=torch.tensor([[5, 0]]), labels=torch.tensor([[6, 0]])).loss.backward()
    weight, pad = model.lm_head.weight, model.config.pad_token_id
    assert weight.grad[:pad].any() and weight[pad].any() != zero
    assert weight.grad[pad].any() != zero


def test_a_pretrained_model_that_is_damaged_is_refused_before_training(bart, trained, tmp_path):
    model = load_network(bart)
    model.model.decoder.layers[0].fc1.weight.data[2, 3] = torch.nan
    model.save_pretrained(tmp_path / "nan")
    with pytest.raises(ValueError, match=r"nan holds NaN in model.decoder.layers.0.fc1.weight: "):
        loaded(tmp_path / "nan")
    model.model.decoder.layers[0].fc1.weight.data[2, 3] = torch.inf
    model.save_pretrained(tmp_path / "inf")
    with pytest.raises(ValueError, match=r"inf holds infinity in model.decoder.layers.0.fc1.weight: "):
        loaded(tmp_path / "inf")
    shutil.copytree(bart, tmp_path / "deeper")
    config = json.loads((bart / "config.json").read_text())
    (tmp_path / "deeper/config.json").write_text(json.dumps(config | {"encoder_layers": config["encoder_layers"] + 1}))
    with pytest.raises(ValueError, match=r"deeper lacks model.encoder.layers.2.fc1.bias and \d+ more of the weights"):
        loaded(tmp_path / "deeper")
    (tmp_path / "deeper/config.json").write_text(json.dumps(config | {"decoder_start_token_id": "start"}))
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        loaded(tmp_path / "deeper")
    model = load_network(bart)
    model.config.eos_token_id = 999
    with pytest.raises(ValueError, match="has eos_token_id=999, and the model 300 tokens"):
        check_tokenizer(load_tokenizer(bart), model)
    shutil.copytree(trained.output_dir / "full", tmp_path / "full")
    (tmp_path / "full/source.spm").write_bytes(b"")
    with pytest.raises(ValueError, match=r"full is not whole: source.spm is empty"):
        loaded(tmp_path / "full")


@pytest.mark.parametrize("names_its_base", [True, False])
def test_training_begins_from_an_adapter_as_the_adapted_model(names_its_base, adapted, corpus, tmp_path):
    directory, merged = adapted
    adapter = shutil.copytree(directory / "adapter", tmp_path / "adapter")
    words = ["--adapter_name_or_path", str(adapter)]
    if not names_its_base:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
        words += ["--model_name_or_path", str(directory / "base")]
    arguments = training_arguments(corpus, tmp_path / "run", "--max_steps 2 --save_strategy no --speed_sentences 0")
    arguments[arguments.index("--architecture") : arguments.index("--generation_max_length")] = words
    ratios = arguments.index("--ratios")
    del arguments[ratios : ratios + 2]
    inputs = {"input_ids": torch.tensor([[5, 9, 7, 0]]), "decoder_input_ids": torch.tensor([[8, 3, 6]])}
    begun = []

    def remember(trainer):
        with torch.no_grad():
            begun.append(trainer.model.eval()(**inputs).logits)

    train(*arguments, watch=remember)
    with torch.no_grad():
        torch.testing.assert_close(begun[0], merged(**inputs).logits, atol=1e-4, rtol=1e-4)
    results = read_results(tmp_path / "run" / "results.json")
    assert list(results["levels"]) == ["core", "full"] and results["partition"]["method"] == "rank"
    assert results["model"]["adapter_name_or_path"] == str(adapter)
    assert results["model"]["name"] == str(directory / "base")
    assert load_network(tmp_path / "run" / "core").num_parameters() == results["levels"]["core"]["parameters"]


def test_cores_begin_from_what_layers_read_on_calibration_sentences(bart, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [*(corpus / "train.de").read_text(encoding="utf-8").splitlines()[:5], "", "drei " * POSITIONS]
    (tmp_path / "text.de").write_text("\n".join(lines), encoding="utf-8")
    parts = [
        {"method": "width", "ratios": [0.25, 0.5], "target_modules": ["fc1", "fc2"], "init": "importance"},
        {"method": "rank", "ratios": [0.25, 0.5], "target_modules": ["q_proj", "k_proj", "embeddings"]},
        {"method": "depth", "encoder_layers": [1, 2], "decoder_layers": [1, 1]},
    ]
    words = f"--model_name_or_path {bart} {TRAINING} --speed_sentences 0 --generation_max_length 24 --max_steps 2"
    words = [*words.split(), *prefixes(corpus), "--partitions", *map(json.dumps, parts)]
    words += ["--save_strategy", "steps", "--save_steps", "1", "--calibration_sentences"]
    expected = load_network(bart, dtype=torch.float32)
    moments = input_moments(expected, load_tokenizer(bart), lines, progress=False)
    partition_(expected, [PartitionConfig(**part) for part in parts], moments)

    def check(trainer):
        for name, tensor in trainer.model.state_dict().items():
            assert torch.equal(tensor, expected.state_dict()[name]), name

    train(*words, "text.de", "--output_dir", "run", watch=check)
    results = read_results(tmp_path / "run/results.json")
    assert results["model"]["calibration_sentences"] == "text.de" and "text.de" in results["command"]
    settings = dict(repository="ann/core", card={"languages": ["de", "en"], "license": "mit"})
    card = render_card(results | settings, "core", {name: f"ann/{name}" for name in results["levels"]})
    assert "The cores began as what changes the outputs of the layers on text.de least." in card

    # A checkpoint has begun already: it needs no sentences, and refuses others.
    (tmp_path / "text.de").rename(tmp_path / "other.de")
    resume = ["--resume_from_checkpoint", "run/checkpoint-1", "--output_dir", "again"]
    train(*words, "text.de", *resume)
    for level in results["levels"]:
        whole, again = (tmp_path / run / level / "model.safetensors" for run in ("run", "again"))
        assert whole.read_bytes() == again.read_bytes()
    with pytest.raises(SystemExit, match=r"--calibration_sentences is 'other.de', and 'text.de' in the run of"):
        train(*words, "other.de", *resume, "--output_dir", "third")
