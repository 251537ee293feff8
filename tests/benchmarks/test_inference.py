"""The benchmark of decoding: what it compares before it times, and the command that a user runs."""

import itertools
import json
import pickle

import pytest
import torch
from transformers import AutoTokenizer, MarianMTModel

from benchmarks import inference, networks, openings
from benchmarks.equality import check_close, check_equal
from benchmarks.inference import InferenceBenchmark, run_inference_benchmark
from benchmarks.networks import (
    CORE,
    DENSE,
    FULL,
    STOCK,
    TransformersNetwork,
    networks_of_run,
    untrained_networks,
)
from benchmarks.record import read_record
from benchmarks.report import render_record
from hf_ats.checkpoint import export_core, export_full, load_network
from hf_ats.deployment import ENCODER, MERGED, graph_file
from hf_ats.partition import PartitionConfig, partition_
from tests.benchmarks.conftest import chain_model
from tests.support.checkpoints import trained_tokenizer
from tests.support.models import probe_batch, tiny_model

NETWORKS = (STOCK, FULL, CORE, DENSE)
RANK = PartitionConfig(ratios=[0.125])
ONE_LAYER = PartitionConfig("depth", decoder_layers=[1])
FEED_FORWARD = PartitionConfig("width", [0.25], target_modules=["fc1", "fc2"])


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("sources") / "sources.txt"
    file.write_text("ein Hund läuft im Park\ndie Katze schläft\n", encoding="utf-8")
    return str(file)


@pytest.fixture
def small(sources):
    """Settings of a benchmark in a second."""

    def settings(**others) -> InferenceBenchmark:
        usual = dict(sources=sources, batch_sizes=[2], beams=[2], length=5, rounds=1, memory=False, profile=False)
        return InferenceBenchmark(**(usual | others))

    return settings


def made_of_chain(partition: PartitionConfig, folder) -> dict:
    """What `untrained_networks` makes, of `chain_model` in place of random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "build_model", lambda *_, **__: chain_model())
        patch.setattr(networks, "_tokenizer", lambda _, directory, __: trained_tokenizer(directory))
        return untrained_networks("tiny", partition, 96, folder)


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory):
    return made_of_chain(RANK, tmp_path_factory.mktemp("rank"))


@pytest.fixture(scope="module")
def by_width(tmp_path_factory):
    return made_of_chain(FEED_FORWARD, tmp_path_factory.mktemp("width"))


@pytest.fixture(scope="module")
def by_depth(tmp_path_factory):
    return made_of_chain(ONE_LAYER, tmp_path_factory.mktemp("depth"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run leaves: a full network and a core that are not each other's approximation."""
    folder = tmp_path_factory.mktemp("run")
    model = partition_(tiny_model("marian"), PartitionConfig(ratios=[0.125], init="random"))
    model.generation_config.update(max_length=7, forced_eos_token_id=0, num_beams=3)
    return exported(model, folder)


def exported(model, folder):
    tokenizer = trained_tokenizer(folder / "tokenizer")
    export_full(model, folder / FULL, tokenizer=tokenizer)
    export_core(model, folder / CORE, tokenizer=tokenizer)
    return folder


def logits(model):
    with torch.no_grad():
        return model.eval()(**probe_batch(model)).logits


def assert_same_logits(first, second):
    torch.testing.assert_close(logits(first), logits(second), rtol=1e-4, atol=1e-4)


def test_the_untrained_networks_are_stock_full_core_and_the_core_multiplied_out(tmp_path):
    models = {name: load_network(path) for name, path in untrained_networks("tiny", RANK, 300, tmp_path).items()}
    assert tuple(models) == NETWORKS
    assert [type(model).__name__ for model in models.values()] == [
        "MarianMTModel", "MarianMTModel", "ATSMarianMTModel", "MarianMTModel",
    ]  # fmt: skip
    assert_same_logits(models[FULL], models[STOCK])
    assert_same_logits(models[DENSE], models[CORE])
    assert not torch.allclose(logits(models[CORE]), logits(models[FULL]), atol=1e-2)
    assert models[STOCK].config.vocab_size == 300


def test_a_core_by_width_is_the_stock_class_with_fewer_neurons_and_has_no_dense_form(by_width):
    models = {name: load_network(path) for name, path in by_width.items()}
    assert list(models) == [STOCK, FULL, CORE]
    assert [type(model) for model in models.values()] == [MarianMTModel] * 3
    core, full = models[CORE].config, models[FULL].config
    assert core.encoder_ffn_dim == core.decoder_ffn_dim == full.encoder_ffn_dim / 4
    assert (core.d_model, core.encoder_attention_heads) == (full.d_model, full.encoder_attention_heads)
    assert_same_logits(models[FULL], models[STOCK])


def test_a_run_gives_its_own_two_networks_and_two_that_compute_the_same(run, tmp_path):
    directories = networks_of_run(run, tmp_path)
    assert (directories[FULL], directories[CORE]) == (run / FULL, run / CORE)
    models = {name: load_network(path) for name, path in directories.items()}
    assert type(models[STOCK]) is type(models[DENSE]) is MarianMTModel
    assert_same_logits(models[FULL], models[STOCK])
    assert_same_logits(models[DENSE], models[CORE])
    assert not torch.allclose(logits(models[CORE]), logits(models[FULL]), atol=1e-2)
    for path in directories.values():
        AutoTokenizer.from_pretrained(path)


def test_a_run_of_another_architecture_is_refused(tmp_path):
    exported(partition_(tiny_model("bart"), RANK), tmp_path)
    with pytest.raises(ValueError, match="holds a BartForConditionalGeneration; this benchmark measures Marian"):
        networks_of_run(tmp_path, tmp_path)


def test_a_network_decodes_the_given_number_of_tokens_whatever_its_checkpoint_says(run):
    model = load_network(run / FULL)
    ids = probe_batch(model)["input_ids"]
    assert model.generate(input_ids=ids).shape[1] == 7, "its checkpoint has a limit"
    model.final_logits_bias[0, model.config.eos_token_id] = 50.0
    assert model.generate(input_ids=ids).shape[1] == 2, "and it would stop at once"
    for beams in (1, 3):
        decoded = TransformersNetwork(model, "cpu").decode(ids, beams, 12)
        assert decoded.shape == (3, 12)
        assert not (decoded == model.config.eos_token_id).any()
        assert not (decoded == model.config.pad_token_id).any()


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


@pytest.mark.parametrize("name", [FULL, CORE, DENSE])
def test_a_network_that_computes_something_else_ends_the_benchmark_before_anything_is_timed(
    name, by_rank, small, monkeypatch, tmp_path
):
    other = load_network(by_rank[name])
    with torch.no_grad():
        other.final_logits_bias[0, 7] = 50.0
    other.save_pretrained(tmp_path / name)
    AutoTokenizer.from_pretrained(by_rank[name]).save_pretrained(tmp_path / name)
    monkeypatch.setattr(inference, "untrained_networks", lambda *_, **__: by_rank | {name: tmp_path / name})
    monkeypatch.setattr(inference, "time_in_turns", lambda *_, **__: pytest.fail("it was timed"))
    # the core is compared with core-dense, its product, before it is compared with the partitioned model
    with pytest.raises(ValueError, match=f"the logits of .*{name}.* differ by"):
        run_inference_benchmark(small())
    monkeypatch.setattr(inference, "compare_logits", lambda *_: None)
    with pytest.raises(ValueError, match="does not decode what it must: 0% of 2"):
        run_inference_benchmark(small())


def test_the_command_writes_every_figure_of_every_network_and_combination(
    by_rank, sources, tmp_path, monkeypatch, command
):
    measured_in = []

    def in_this_process(work, *arguments, device):
        pickle.dumps((work, arguments))  # as for a process of its own
        work(*arguments)
        measured_in.append(arguments)
        return 1_000_000 * len(measured_in)

    monkeypatch.setattr(inference, "untrained_networks", lambda *_, **__: by_rank)
    monkeypatch.setattr(inference, "peak_memory", in_this_process)
    flags = "--batch_sizes 1 2 --beams 1 2 --length 5 --rounds 2 --threads 1".split()
    printed = command(inference, *flags, "--sources", sources, "--output", tmp_path / "record.json")
    record = read_record(tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text()) == record
    assert printed.rstrip() == render_record(record)
    assert record["command"].startswith("python -m benchmarks.inference --batch_sizes 1 2 --beams 1 2 --length 5")
    measured = record["measurements"]
    combinations = ["batch 1, greedy", "batch 1, beam 2", "batch 2, greedy", "batch 2, beam 2"]
    assert set(measured) == {*NETWORKS} | {f"{n}, {c}" for n in NETWORKS for c in combinations}
    for number, name in enumerate(NETWORKS, 1):
        assert measured[name].keys() == {"size_bytes", "parameters", "flops_per_token", "peak_bytes"}
        assert measured[name]["peak_bytes"] == 1_000_000 * number
        for combination in combinations:
            figures = measured[f"{name}, {combination}"]
            assert figures["equal_share"] == 1.0
            tokens = int(combination[6]) * 5 / figures["seconds_per_batch"]["median"]
            assert figures["tokens_per_second"] == pytest.approx(tokens)
    assert {(len(ids), beams) for _, _, ids, beams in measured_in} == {(2, 2)}, "the largest batch, the widest beam"
    assert measured[CORE]["parameters"] < measured[FULL]["parameters"] == measured[DENSE]["parameters"]
    assert sum(measured["core, batch 1, beam 2"]["profile"].values()) == pytest.approx(1, abs=0.03)
    ratios = record["ratios"]
    assert ratios["core / full latency, batch 1, beam 2"]["limit"] == pytest.approx(
        measured[CORE]["flops_per_token"] / measured[FULL]["flops_per_token"]
    )
    assert ratios["exported full / stock, decoding"]["limit"] == 1.0
    assert ratios["core / full size on disk"]["value"] < 1 and ratios["core / full peak memory"]["value"] == 1.5
    assert {f"core-dense / full latency, {c}" for c in combinations} < ratios.keys()


def test_latency_is_that_of_one_batch_and_ratios_are_paired_by_round(by_rank, small, monkeypatch):
    """With a clock that says what each takes: a round of 4 sentences is 4 batches of 1, and 2 of 2."""
    taken = {STOCK: [4.0, 40.0], FULL: [4.0, 20.0], CORE: [2.0, 15.0], DENSE: [1.0, 1.0]}
    decoded = []

    def time_in_turns(timed, rounds, **_):
        decoded.append({name: [tuple(ids.shape) for ids in candidate()] for name, candidate in timed.items()})
        return taken

    monkeypatch.setattr(inference, "untrained_networks", lambda *_, **__: by_rank)
    monkeypatch.setattr(inference, "time_in_turns", time_in_turns)
    record = run_inference_benchmark(small(batch_sizes=[1, 2], beams=[1], sentences=4))
    assert decoded == [dict.fromkeys(taken, [(1, 5)] * 4), dict.fromkeys(taken, [(2, 5)] * 2)]
    assert record["measurements"]["core, batch 1, greedy"]["seconds_per_batch"]["median"] == pytest.approx(17 / 2 / 4)
    assert record["measurements"]["core, batch 2, greedy"]["seconds_per_batch"]["median"] == pytest.approx(17 / 2 / 2)
    assert record["ratios"]["core / full latency, batch 1, greedy"]["median"] == pytest.approx((0.5 + 0.75) / 2)
    assert record["ratios"]["exported full / stock, decoding"]["median"] == pytest.approx((1 + 0.5) / 2)


@pytest.mark.parametrize(
    ("core", "made"),
    [(DENSE, "by_rank"), (CORE, "by_width"), (CORE, "by_depth")],
    ids=["rank", "width", "depth"],
)
def test_runtimes_are_measured_beside_transformers(core, made, request, small, monkeypatch):
    """A core by width or depth goes through both as it is, one by rank through CTranslate2 multiplied out.

    ONNX Runtime is a stand-in here: tests/deployment has the real one, whose conversion takes long.
    """
    pytest.importorskip("ctranslate2")

    def stand_in(checkpoint, output, arithmetic):
        for graph in (ENCODER, MERGED):
            file = graph_file(output, graph, arithmetic)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"graph")
        load_network(checkpoint).save_pretrained(output / "model")

    networks_made = request.getfixturevalue(made)
    monkeypatch.setattr(inference, "untrained_networks", lambda *_, **__: networks_made)
    monkeypatch.setattr(openings, "export_onnx", stand_in)
    monkeypatch.setattr(openings, "OnnxNetwork", lambda path, *_: load_network(path / "model"))
    settings = small(beams=[1, 2], runtimes=["ctranslate2", "onnxruntime"])
    record = run_inference_benchmark(settings)
    measured, ratios = record["measurements"], record["ratios"]
    for where in ("batch 2, greedy", "batch 2, beam 2"):
        assert measured[f"core, {where}"]["equal_share"] == 1.0, "as the partitioned model at its core level"
        for network in (FULL, core):
            assert measured[f"{network}, CTranslate2 float32, {where}"]["equal_share"] == 1.0
            assert measured[f"{network}, CTranslate2 int8, {where}"]["bleu_against_float32"] == pytest.approx(100)
        for network, arithmetic in itertools.product((FULL, CORE), ("float32", "int8")):
            assert measured[f"{network}, ONNX Runtime {arithmetic}, {where}"]["equal_share"] == 1.0
        assert f"full, CTranslate2 int8 / full latency, {where}" in ratios
        for network, runtime in (
            (core, "CTranslate2 float32"),
            (core, "CTranslate2 int8"),
            (CORE, "ONNX Runtime float32"),
        ):
            assert f"{network}, {runtime} / full, {runtime} latency, {where}" in ratios
    for network in (FULL, core):
        int8, float32 = (measured[f"{network}, CTranslate2 {kind}"]["size_bytes"] for kind in ("int8", "float32"))
        assert int8 < 0.5 * float32
    assert any(DENSE in name for name in measured) == (core == DENSE)


def test_a_run_is_measured_and_ctranslate2_compared_by_whole_translations(tmp_path, small, monkeypatch):
    pytest.importorskip("ctranslate2")
    run = exported(partition_(chain_model(), FEED_FORWARD), tmp_path)
    compared, check = {}, inference.check_equal

    def noted(name, translations, expected, least):
        compared[name] = (translations, expected)
        return check(name, translations, expected, least)

    monkeypatch.setattr(inference, "check_equal", noted)
    record = run_inference_benchmark(small(run=str(run), runtimes=["ctranslate2"]))
    measured = record["measurements"]
    assert record["settings"]["run"] == str(run)
    assert measured[CORE]["parameters"] < measured[FULL]["parameters"]
    assert measured["core, CTranslate2 float32, batch 2, beam 2"]["equal_share"] == 1.0
    for name in ("full, CTranslate2 float32", "core, CTranslate2 int8"):
        translations, expected = compared[name]
        assert translations.shape == expected.shape == (2, 20)
        assert torch.equal(expected[0], torch.tensor([*range(2, 8), *[-1] * 14])), "they end by themselves"
    assert compared[CORE][0].shape == (2, 5), "in transformers all have the given length"


def test_a_run_by_width_of_queries_and_keys_is_measured(tmp_path, small):
    run = exported(partition_(chain_model(), PartitionConfig("width", [0.25])), tmp_path)
    record = run_inference_benchmark(small(run=str(run)))
    assert [name for name in record["measurements"] if "," not in name] == [STOCK, FULL, CORE]
    assert record["ratios"]["core / full latency, batch 2, beam 2"]["limit"] < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(partition='{"method": "breadth"}'), "method='breadth' is not known"),
        (dict(partition="depth"), "partition='depth' is none: .*; write fields of PartitionConfig in JSON"),
        (dict(partition='{"layers": 1}'), "partition=.* is none: .*'layers'"),
        (dict(runtimes=["tensorrt"]), "'tensorrt' is not known"),
    ],
)
def test_settings_that_measure_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        InferenceBenchmark(**settings)


def test_a_mistake_ends_with_a_sentence(tmp_path, command):
    with pytest.raises(SystemExit, match=r"^inference.py: .*full"):
        command(inference, "--run", tmp_path)
