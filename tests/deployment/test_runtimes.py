"""The benchmark's way of decoding in CTranslate2, and which runtimes there are; needs `pip install ".[deploy]"`."""

import sys

import pytest
import torch
from transformers import AutoTokenizer

from benchmarks.networks import TransformersNetwork
from hf_ats.checkpoint import load_network
from hf_ats.deployment import (
    FORMATS,
    RUNTIMES,
    CTranslate2Network,
    check_format,
    convert_to_ctranslate2,
    require_runtime,
)
from tests.deployment.conftest import LENGTH, SENTENCES


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("name", ["full", "core-dense"])
def test_ctranslate2_decodes_what_transformers_decodes(exports, tmp_path, name, num_beams):
    pytest.importorskip("ctranslate2")
    convert_to_ctranslate2(exports / name, tmp_path / "out", "float32")
    network = CTranslate2Network(tmp_path / "out", exports / name, "float32", threads=1)
    reference = TransformersNetwork(load_network(exports / name), "cpu")
    tokenizer = AutoTokenizer.from_pretrained(exports / name)
    for sentence in SENTENCES:
        ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
        found = network.decode(ids, num_beams, LENGTH)
        assert torch.equal(found, reference.decode(ids, num_beams, LENGTH))
        assert len(set(found.flatten().tolist())) == LENGTH, "as it was taught"


def test_ctranslate2_is_not_given_what_it_would_get_wrong(exports, tmp_path):
    pytest.importorskip("ctranslate2")
    refused = r"'ats_marian', which CTranslate2 does not read.*core-dense.*only in feed-forward layers.*--format onnx"
    for refuse in (
        lambda: convert_to_ctranslate2(exports / "core", tmp_path / "out", "float32"),
        lambda: check_format(exports / "core", "ctranslate2"),
    ):
        with pytest.raises(ValueError, match=refused):
            refuse()
    check_format(exports / "core", "onnx")
    check_format(exports / "full", "ctranslate2")
    model, tokenizer = load_network(exports / "full"), AutoTokenizer.from_pretrained(exports / "full")
    with torch.no_grad():
        model.get_decoder().embed_tokens.weight[tokenizer.pad_token_id, 0] = 0.5
    model.save_pretrained(tmp_path / "pad")
    tokenizer.save_pretrained(tmp_path / "pad")
    with pytest.raises(ValueError, match=r"<pad> at 95 of 96 with a row of norm 0.5.*must be the last and its row"):
        convert_to_ctranslate2(tmp_path / "pad", tmp_path / "out", "float32")


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"'onnxruntime' needs the package onnxruntime.*\.\[deploy\]"):
        require_runtime("onnxruntime")
    with pytest.raises(ValueError, match="'tensorrt' is not known; write one of 'ctranslate2', 'onnxruntime'"):
        require_runtime("tensorrt")
    assert RUNTIMES.keys() == set(FORMATS.values()) == {"ctranslate2", "onnxruntime"}
