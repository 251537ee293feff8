"""Exports in other runtimes decode what they decode in transformers; needs `pip install ".[deploy]"`."""

import sys

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from benchmarks.networks import CORE, DENSE, FULL, TransformersNetwork
from hf_ats.checkpoint import export_core, export_full, load_network
from hf_ats.deployment import (
    RUNTIMES,
    CTranslate2Network,
    OnnxNetwork,
    convert_to_ctranslate2,
    export_onnx,
    require_runtime,
)
from hf_ats.partition import PartitionConfig, partition_
from tests.support.checkpoints import trained_tokenizer
from tests.support.decodings import teach_
from tests.support.models import tiny_model

LENGTH = 7
UNTIED = dict(d_model=128, tie_word_embeddings=False, share_encoder_decoder_embeddings=False)


@pytest.fixture(scope="module")
def sources():
    """Two batches, whose sentences have unequal lengths."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(3, 90, size, generator=generator) for size in ((4, 7), (1, 5))]
    for ids in batches:
        ids[:, -1] = 0
    return batches


@pytest.fixture(scope="module")
def exports(sources, tmp_path_factory):
    """The three exports of a model that says words of its own for each source, with `<pad>` as build_model has it."""
    folder = tmp_path_factory.mktemp("exports")
    tokenizer = trained_tokenizer(folder / "tokenizer")
    model = tiny_model("marian", **UNTIED)
    with torch.no_grad():
        model.get_decoder().embed_tokens.weight[tokenizer.pad_token_id] = 0
    partition_(model, PartitionConfig(ratios=[0.125]))
    teach_(model, [{"input_ids": ids} for ids in sources], LENGTH, levels=("core", "full"))
    export_full(model, folder / FULL, tokenizer=tokenizer)
    export_core(model, folder / CORE, tokenizer=tokenizer)
    export_core(model, folder / DENSE, tokenizer=tokenizer, dense=True)
    return folder


def assert_decodes(network, model, sources, num_beams):
    """The network finds what transformers finds, for each source its own."""
    for ids in sources:
        expected = TransformersNetwork(model, "cpu").decode(ids, num_beams, LENGTH)
        assert torch.equal(network.decode(ids, num_beams, LENGTH), expected)
        assert len(set(expected.flatten().tolist())) == expected.numel(), "as it was taught"


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("name", [FULL, DENSE])
def test_ctranslate2_decodes_what_transformers_decodes(exports, sources, tmp_path, name, num_beams):
    pytest.importorskip("ctranslate2")
    convert_to_ctranslate2(exports / name, tmp_path / "out", "float32")
    network = CTranslate2Network(tmp_path / "out", exports / name, "float32", threads=1)
    assert_decodes(network, load_network(exports / name), sources, num_beams)


def test_int8_is_smaller_and_decodes_the_same_number_of_tokens(exports, sources, tmp_path):
    pytest.importorskip("ctranslate2")
    for arithmetic in ("float32", "int8"):
        convert_to_ctranslate2(exports / FULL, tmp_path / arithmetic, arithmetic)
    sizes = {name: (tmp_path / name / "model.bin").stat().st_size for name in ("float32", "int8")}
    assert sizes["int8"] < 0.5 * sizes["float32"]
    network = CTranslate2Network(tmp_path / "int8", exports / FULL, "int8", threads=1)
    assert network.decode(sources[0], 2, LENGTH).shape == (len(sources[0]), LENGTH)


def test_ctranslate2_is_not_given_what_it_would_get_wrong(exports, tmp_path):
    pytest.importorskip("ctranslate2")
    with pytest.raises(ValueError, match=r"'ats_marian', which CTranslate2 does not read.*by width.*dense=True"):
        convert_to_ctranslate2(exports / CORE, tmp_path / "out", "float32")
    model, tokenizer = load_network(exports / FULL), AutoTokenizer.from_pretrained(exports / FULL)
    with torch.no_grad():
        model.get_decoder().embed_tokens.weight[tokenizer.pad_token_id, 0] = 0.5
    model.save_pretrained(tmp_path / "pad")
    tokenizer.save_pretrained(tmp_path / "pad")
    with pytest.raises(ValueError, match=r"<pad> at 95 of 96 with a row of norm 0.5.*must be the last and its row"):
        convert_to_ctranslate2(tmp_path / "pad", tmp_path / "out", "float32")


def test_onnx_runtime_decodes_what_transformers_decodes_and_keeps_the_two_products_of_a_core(
    exports, sources, tmp_path
):
    onnx = pytest.importorskip("onnx")
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    export_onnx(exports / CORE, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.onnx", "decoder.onnx"}
    model = load_network(exports / CORE)
    network = OnnxNetwork(tmp_path, model.config, threads=1)
    for num_beams in (1, 4):
        assert_decodes(network, model, sources, num_beams)
    products = sum(node.op_type in ("MatMul", "Gemm") for node in onnx.load(tmp_path / "encoder.onnx").graph.node)
    linears = sum(isinstance(module, nn.Linear) for module in model.get_encoder().modules())
    # In each layer of the encoder two more, for the scores and the sums of its attention; in each of the decoder three
    # for the source's keys, which are low-rank, and its values.
    assert products == linears + 2 * model.config.encoder_layers + 3 * model.config.decoder_layers


def test_onnx_runtime_decodes_what_a_core_with_narrower_keys_decodes(sources, tmp_path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    model = partition_(tiny_model("marian", **UNTIED), PartitionConfig("width", [0.25]))
    teach_(model, [{"input_ids": ids} for ids in sources], LENGTH, levels=("core",))
    export_core(model, tmp_path / CORE)
    core = load_network(tmp_path / CORE)
    assert len(core.get_decoder().layers[0].self_attn.k_proj.weight) == core.config.d_model / 4
    export_onnx(tmp_path / CORE, tmp_path)
    network = OnnxNetwork(tmp_path, core.config, threads=1)
    for num_beams in (1, 4):
        assert_decodes(network, core, sources, num_beams)


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"'onnxruntime' needs the package onnxruntime.*\.\[deploy\]"):
        require_runtime("onnxruntime")
    with pytest.raises(ValueError, match="'tensorrt' is not known; write one of 'ctranslate2', 'onnxruntime'"):
        require_runtime("tensorrt")
    assert RUNTIMES.keys() == {"ctranslate2", "onnxruntime"}
