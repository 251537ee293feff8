"""The benchmark of decoding: what it compares before it times, and the command that a user runs."""

import json

import pytest
import torch
from transformers import AutoTokenizer, MarianMTModel

from benchmarks import inference, read_record, render_record
from benchmarks.equality import check_close, check_equal
from benchmarks.inference import InferenceBenchmark, run_inference_benchmark
from benchmarks.networks import (
    CORE,
    DENSE,
    FULL,
    HOLLOW_VOCABULARY,
    STOCK,
    HollowNetwork,
    TransformersNetwork,
    networks_of_run,
    untrained_networks,
)
from hf_ats.checkpoint import export_core, export_full, load_network
from hf_ats.partition import PartitionConfig, partition_
from tests.support.checkpoints import trained_tokenizer
from tests.support.models import probe_batch, tiny_model
from tests.support.scripts import run as run_script

SMALL = dict(
    architecture="tiny",
    vocab_size=300,
    batch_sizes=[1, 2],
    beams=[1, 2],
    length=5,
    rounds=2,
    memory=False,
    ratios=[0.1],
)
NETWORKS = (STOCK, FULL, CORE, DENSE)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return untrained_networks("tiny", PartitionConfig(ratios=[0.1]), 300, tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """With a core of fewer feed-forward neurons."""
    settings = InferenceBenchmark(**(SMALL | dict(method="width", ratios=[0.25])))
    return untrained_networks("tiny", settings.partition(), 300, tmp_path_factory.mktemp("narrow"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run leaves: a full network and a core that are not each other's approximation."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = trained_tokenizer(folder / "tokenizer")
    model = partition_(tiny_model("marian"), PartitionConfig(ratios=[0.125], init="random"))
    model.generation_config.update(max_length=7, forced_eos_token_id=0, num_beams=3)
    export_full(model, folder / FULL, tokenizer=tokenizer)
    export_core(model, folder / CORE, tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module")
def record():
    return run_inference_benchmark(InferenceBenchmark(**SMALL), progress=False)


def logits(model):
    with torch.no_grad():
        return model.eval()(**probe_batch(model)).logits


def test_the_untrained_networks_are_stock_full_core_and_the_core_multiplied_out(untrained):
    models = {name: load_network(path) for name, path in untrained.items()}
    assert tuple(models) == NETWORKS
    assert [type(model).__name__ for model in models.values()] == [
        "MarianMTModel", "MarianMTModel", "ATSMarianMTModel", "MarianMTModel",
    ]  # fmt: skip
    torch.testing.assert_close(logits(models[FULL]), logits(models[STOCK]))
    torch.testing.assert_close(logits(models[DENSE]), logits(models[CORE]))
    assert not torch.allclose(logits(models[CORE]), logits(models[FULL]), atol=1e-2)
    assert models[STOCK].config.vocab_size == 300


def test_a_run_gives_its_own_two_networks_and_two_that_compute_the_same(run, tmp_path):
    directories = networks_of_run(run, tmp_path)
    assert (directories[FULL], directories[CORE]) == (run / FULL, run / CORE)
    models = {name: load_network(path) for name, path in directories.items()}
    assert type(models[STOCK]) is type(models[DENSE]) is MarianMTModel
    assert torch.equal(logits(models[FULL]), logits(models[STOCK]))
    torch.testing.assert_close(logits(models[DENSE]), logits(models[CORE]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(models[CORE]), logits(models[FULL]), atol=1e-2)
    for path in directories.values():
        AutoTokenizer.from_pretrained(path)


def test_a_core_by_width_is_the_stock_class_with_fewer_neurons_and_has_no_dense_form(narrow):
    models = {name: load_network(path) for name, path in narrow.items()}
    assert list(models) == [STOCK, FULL, CORE]
    assert [type(model) for model in models.values()] == [MarianMTModel] * 3
    core, full = models[CORE].config, models[FULL].config
    assert core.encoder_ffn_dim == core.decoder_ffn_dim == full.encoder_ffn_dim / 4
    assert (core.d_model, core.encoder_attention_heads) == (full.d_model, full.encoder_attention_heads)
    torch.testing.assert_close(logits(models[FULL]), logits(models[STOCK]))


@pytest.mark.parametrize("target_modules", [["fc1", "fc2"], None])
def test_a_run_by_width_gives_its_own_two_networks_and_the_stock_one(target_modules, tmp_path):
    tokenizer = trained_tokenizer(tmp_path / "tokenizer")
    config = PartitionConfig("width", [0.25], target_modules=target_modules)
    model = partition_(tiny_model("marian"), config)
    export_full(model, tmp_path / FULL, tokenizer=tokenizer)
    export_core(model, tmp_path / CORE, tokenizer=tokenizer)
    directories = networks_of_run(tmp_path, tmp_path / "made")
    assert list(directories) == [STOCK, FULL, CORE]
    record = run_inference_benchmark(
        InferenceBenchmark(**(SMALL | dict(run=str(tmp_path), rounds=1, profile=False))), progress=False
    )
    assert "core / full latency, batch 1, beam 2" in record["ratios"]
    assert record["measurements"][CORE]["parameters"] < record["measurements"][FULL]["parameters"]


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"has no full/config\.json; give the output of a training run"):
        networks_of_run(tmp_path, tmp_path)
    model = partition_(tiny_model("bart"), PartitionConfig(ratios=[0.125]))
    export_full(model, tmp_path / FULL)
    export_core(model, tmp_path / CORE)
    with pytest.raises(ValueError, match="holds a BartForConditionalGeneration; this benchmark measures Marian"):
        networks_of_run(tmp_path, tmp_path)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_network_decodes_the_given_number_of_tokens_whatever_its_checkpoint_says(run, beams):
    model = load_network(run / FULL)
    ids = probe_batch(model)["input_ids"]
    assert model.generate(input_ids=ids).shape[1] == 7, "its checkpoint has a limit"
    model.final_logits_bias[0, model.config.eos_token_id] = 50.0
    assert model.generate(input_ids=ids).shape[1] == 2, "and it would stop at once"
    decoded = TransformersNetwork(model, "cpu").decode(ids, beams, 12)
    assert decoded.shape == (3, 12)
    assert not (decoded == model.config.eos_token_id).any()
    assert not (decoded == model.config.pad_token_id).any()


def test_the_hollow_network_has_every_call_and_no_size(run):
    stock = load_network(run / FULL)
    hollow = HollowNetwork(stock, "cpu")
    assert [type(m) for m in hollow.model.modules()] == [type(m) for m in stock.modules()]
    assert hollow.model.config.vocab_size == HOLLOW_VOCABULARY
    assert hollow.decode(torch.tensor([[95, 94, 0]]), 2, 6).shape == (1, 6)


def test_equality_counts_sentences_and_names_the_first_difference():
    expected = torch.arange(12).reshape(4, 3)
    assert check_equal("core", expected.clone(), expected, 1.0) == 1.0
    other = expected.clone()
    other[2, 1] = 99
    assert check_equal("core", other, expected, 0.75) == 0.75
    with pytest.raises(
        ValueError, match=r"core does not decode.*75% of 4.*100% must be.*sentence 3, token 2, 99 instead of 7"
    ):
        check_equal("core", other, expected, 1.0)
    with pytest.raises(ValueError, match=r"core decodes \(4, 2\) tokens and not \(4, 3\)"):
        check_equal("core", expected[:, :2], expected, 0.0)


def test_logits_may_differ_by_rounding_alone():
    expected = torch.tensor([1.0, -10.0])
    check_close("logits", expected + 9e-4, expected)
    with pytest.raises(ValueError, match=r"logits differ by 0.00[12].*rounding explains 0.001; nothing was timed"):
        check_close("logits", expected + 1.1e-3, expected)
    with pytest.raises(ValueError, match="differ by nan"):
        check_close("logits", expected * float("nan"), expected)


def test_a_core_by_width_that_computes_something_else_ends_the_benchmark_too(narrow, monkeypatch, tmp_path):
    other = load_network(narrow[CORE])
    with torch.no_grad():
        other.final_logits_bias[0, 7] = 50.0
    other.save_pretrained(tmp_path / CORE)
    AutoTokenizer.from_pretrained(narrow[CORE]).save_pretrained(tmp_path / CORE)
    monkeypatch.setattr(inference, "untrained_networks", lambda *_, **__: narrow | {CORE: tmp_path / CORE})
    monkeypatch.setattr(inference, "time_in_turns", lambda *_, **__: pytest.fail("it was timed"))
    with pytest.raises(ValueError, match="core does not decode what it must: 0% of 2"):
        run_inference_benchmark(InferenceBenchmark(**SMALL), progress=False)


@pytest.mark.parametrize("name", [FULL, CORE, DENSE])
def test_a_network_that_computes_something_else_ends_the_benchmark_before_anything_is_timed(
    name, untrained, monkeypatch, tmp_path
):
    other = load_network(untrained[name])
    with torch.no_grad():
        other.final_logits_bias[0, 7] = 50.0
    other.save_pretrained(tmp_path / name)
    AutoTokenizer.from_pretrained(untrained[name]).save_pretrained(tmp_path / name)
    monkeypatch.setattr(inference, "untrained_networks", lambda *_, **__: untrained | {name: tmp_path / name})
    monkeypatch.setattr(inference, "time_in_turns", lambda *_, **__: pytest.fail("it was timed"))
    # the core is compared with core-dense, its product, before it is compared with the partitioned model
    with pytest.raises(ValueError, match=f"the logits of .*{name}.* differ by"):
        run_inference_benchmark(InferenceBenchmark(**SMALL), progress=False)
    monkeypatch.setattr(inference, "compare_logits", lambda *_: None)
    with pytest.raises(ValueError, match="does not decode what it must: 0% of 2"):
        run_inference_benchmark(InferenceBenchmark(**SMALL), progress=False)


def test_the_record_has_every_figure_of_every_network_and_combination(record):
    measured = record["measurements"]
    combinations = ["batch 1, greedy", "batch 1, beam 2", "batch 2, greedy", "batch 2, beam 2"]
    assert set(measured) == {*NETWORKS} | {f"{n}, {c}" for n in (*NETWORKS, "overhead") for c in combinations}
    for name in NETWORKS:
        assert measured[name].keys() == {"size_bytes", "parameters", "flops_per_token"}
        for combination in combinations:
            figures = measured[f"{name}, {combination}"]
            assert figures["equal_share"] == 1.0
            sentences = int(combination[6])
            tokens = sentences * 5 / figures["seconds_per_batch"]["median"]
            assert figures["tokens_per_second"] == pytest.approx(tokens)
    assert measured[CORE]["parameters"] < measured[FULL]["parameters"] == measured[DENSE]["parameters"]
    assert sum(measured["core, batch 1, beam 2"]["profile"].values()) == pytest.approx(1, abs=0.03)
    ratios = record["ratios"]
    assert ratios["core / full latency, batch 1, beam 2"]["limit"] == pytest.approx(
        measured[CORE]["flops_per_token"] / measured[FULL]["flops_per_token"]
    )
    assert ratios["exported full / stock, decoding"]["limit"] == 1.0
    assert ratios["core / full size on disk"]["value"] < 0.7
    assert {f"core-dense / full latency, {c}" for c in combinations} < ratios.keys()


def test_latency_is_that_of_one_batch_and_ratios_are_paired_by_round(untrained, monkeypatch):
    """With a clock that says what each takes: a round of 4 sentences is 4 batches of 1, and 2 of 2."""
    taken = {STOCK: [4.0, 40.0], FULL: [4.0, 20.0], CORE: [2.0, 15.0], DENSE: [1.0, 1.0], "overhead": [1.0, 1.0]}
    decoded = []

    def time_in_turns(timed, rounds, **_):
        decoded.append({name: [tuple(ids.shape) for ids in candidate()] for name, candidate in timed.items()})
        return taken

    monkeypatch.setattr(inference, "untrained_networks", lambda *_, **__: untrained)
    monkeypatch.setattr(inference, "time_in_turns", time_in_turns)
    settings = InferenceBenchmark(**(SMALL | dict(beams=[1], sentences=4, profile=False)))
    record = run_inference_benchmark(settings, progress=False)
    assert decoded == [dict.fromkeys(taken, [(1, 5)] * 4), dict.fromkeys(taken, [(2, 5)] * 2)]
    assert record["measurements"]["core, batch 1, greedy"]["seconds_per_batch"]["median"] == pytest.approx(17 / 2 / 4)
    assert record["measurements"]["core, batch 2, greedy"]["seconds_per_batch"]["median"] == pytest.approx(17 / 2 / 2)
    assert record["ratios"]["core / full latency, batch 1, greedy"]["median"] == pytest.approx((0.5 + 0.75) / 2)
    assert record["ratios"]["exported full / stock, decoding"]["median"] == pytest.approx((1 + 0.5) / 2)


def test_runtimes_are_measured_beside_transformers(untrained, monkeypatch):
    pytest.importorskip("ctranslate2")
    monkeypatch.setattr(inference, "untrained_networks", lambda *_, **__: untrained)
    settings = SMALL | dict(batch_sizes=[4], beams=[1], rounds=1, profile=False, runtimes=["ctranslate2"])
    record = run_inference_benchmark(InferenceBenchmark(**settings), progress=False)
    measured, ratios = record["measurements"], record["ratios"]
    for network in (FULL, DENSE):
        assert measured[f"{network}, CTranslate2 float32, batch 4, greedy"]["equal_share"] >= 0.9
        figures = measured[f"{network}, CTranslate2 int8, batch 4, greedy"]
        assert 50 < figures["bleu_against_float32"] <= 100.1
        assert measured[f"{network}, CTranslate2 int8"]["size_bytes"] < 0.5 * measured[network]["size_bytes"]
    assert "full, CTranslate2 int8 / full latency, batch 4, greedy" in ratios
    assert "core-dense, CTranslate2 float32 / full, CTranslate2 float32 latency, batch 4, greedy" in ratios


def test_whole_translations_of_a_run_are_what_ctranslate2_is_compared_by(tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2")
    tokenizer = trained_tokenizer(tmp_path / "tokenizer")
    model = tiny_model("marian")
    with torch.no_grad():
        model.get_decoder().embed_tokens.weight[tokenizer.pad_token_id] = 0
        model.final_logits_bias[0, tokenizer.eos_token_id] = 3.0  # so that translations end
    partition_(model, PartitionConfig("width", [0.25], target_modules=["fc1", "fc2"]))
    export_full(model, tmp_path / FULL, tokenizer=tokenizer)
    export_core(model, tmp_path / CORE, tokenizer=tokenizer)
    compared, check = {}, inference.check_equal

    def noted(name, translations, expected, least):
        compared[name] = (translations, expected)
        return check(name, translations, expected, least)

    monkeypatch.setattr(inference, "check_equal", noted)
    settings = SMALL | dict(
        run=str(tmp_path), beams=[2], batch_sizes=[1], rounds=1, profile=False, runtimes=["ctranslate2"]
    )
    record = run_inference_benchmark(InferenceBenchmark(**settings), progress=False)
    assert record["measurements"]["core, CTranslate2 float32, batch 1, beam 2"]["equal_share"] == 1.0
    for name in ("full, CTranslate2 float32", "core, CTranslate2 int8"):
        translations, expected = compared[name]
        assert translations.shape == expected.shape == (32, 20)
        assert (expected == -1).any() and not (expected == tokenizer.eos_token_id).any(), "they end by themselves"
    assert compared[CORE][0].shape == (2, 5), "in transformers all have the given length"


def test_a_core_by_width_goes_through_the_runtimes_as_it_is(narrow, monkeypatch):
    for package in ("ctranslate2", "onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    monkeypatch.setattr(inference, "untrained_networks", lambda *_, **__: narrow)
    runtimes = ["ctranslate2", "onnxruntime"]
    settings = SMALL | dict(batch_sizes=[4], beams=[1, 3], rounds=1, profile=False, runtimes=runtimes, method="width")
    record = run_inference_benchmark(InferenceBenchmark(**settings), progress=False)
    measured, ratios = record["measurements"], record["ratios"]
    for where in ("batch 4, greedy", "batch 4, beam 3"):
        assert measured[f"core, {where}"]["equal_share"] == 1.0, "as the partitioned model at its core level"
        for runtime in ("CTranslate2 float32", "ONNX Runtime float32"):
            for network in (FULL, CORE):
                assert measured[f"{network}, {runtime}, {where}"]["equal_share"] == 1.0, "as in transformers"
        assert measured[f"core, CTranslate2 int8, {where}"]["bleu_against_float32"] > 0
        for runtime in ("CTranslate2 float32", "CTranslate2 int8", "ONNX Runtime float32"):
            assert f"core, {runtime} / full, {runtime} latency, {where}" in ratios
    for arithmetic in ("CTranslate2 float32", "CTranslate2 int8"):
        assert measured[f"core, {arithmetic}"]["size_bytes"] < measured[f"full, {arithmetic}"]["size_bytes"]
    assert not any(DENSE in name for name in [*measured, *ratios])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(ratios=[0.1, 0.2]), r"ratios=\[0.1, 0.2\] must be one ratio"),
        (dict(method="depth"), "method='depth' is not known"),
        (dict(beams=[0]), r"beams=\[0\] must be one or more numbers"),
        (dict(batch_sizes=[]), r"batch_sizes=\[\] must be one or more"),
        (dict(length=1), "length=1 must be at least 2"),
        (dict(sentences=0), "sentences=0 must be at least 1"),
        (dict(runtimes=["tensorrt"]), "'tensorrt' is not known"),
    ],
)
def test_settings_that_measure_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        InferenceBenchmark(**settings)


def test_a_length_that_the_model_cannot_read_is_refused(run):
    with pytest.raises(ValueError, match=r"length=65.*64 positions"):
        run_inference_benchmark(InferenceBenchmark(run=str(run), length=65), progress=False)


def test_the_command_measures_a_run_and_writes_the_record(run, tmp_path):
    output, sources = tmp_path / "record.json", tmp_path / "sources.txt"
    sources.write_text("ein Hund läuft im Park\ndie Katze schläft\n", encoding="utf-8")
    flags = "--batch_sizes 2 --beams 2 --length 6 --rounds 1 --threads 1".split()
    done = run_script(
        "../benchmarks/benchmark_inference.py", "--run", run, *flags, "--sources", sources, "--output", output
    )
    record = read_record(output)
    assert record["settings"]["run"] == str(run) and json.loads(output.read_text()) == record
    assert all(record["measurements"][name]["peak_bytes"] > 0 for name in NETWORKS)
    assert "core / full latency, batch 2, beam 2" in done.stdout
    assert done.stdout.rstrip() == render_record(record)
    wrong = run_script("../benchmarks/benchmark_inference.py", "--run", tmp_path, status=1)
    assert "has no full/config.json" in wrong.stderr
