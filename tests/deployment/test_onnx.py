"""A core as ONNX graphs: their layout, and that they translate as PyTorch does; needs `pip install ".[deploy]"`."""

import json
import shutil

import pytest
import torch
from torch import nn

from hf_ats.checkpoint import export_core, export_full, load_network, load_tokenizer
from hf_ats.deployment import OnnxNetwork, deploy, graph_file, onnx_graphs
from tests.deployment.conftest import LENGTH, SENTENCES
from tests.support.models import ALL_FAMILIES, partitioned, tiny_model
from tests.support.tokenizers import KINDS, tiny_tokenizer

onnx = pytest.importorskip("onnx")
for package in ("onnxruntime", "onnxscript"):
    pytest.importorskip(package)

GRAPHS = ("encoder_model", "decoder_model", "decoder_with_past_model", "decoder_model_merged")


@pytest.fixture(scope="module")
def core(run, tmp_path_factory):
    """The core in float32 and in int8, both made of one tracing, which takes the time; and the two reports."""
    folder = tmp_path_factory.mktemp("onnx")
    traced, trace = {}, onnx_graphs._graph

    def once(module, *arguments):
        if type(module) not in traced:
            traced[type(module)] = trace(module, *arguments)
        return traced[type(module)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graphs, "_graph", once)
        reports = {
            quantization: deploy(
                run / "core",
                folder / quantization,
                format="onnx",
                quantization=quantization,
                sources=SENTENCES,
                rounds=1,
            )
            for quantization in ("float32", "int8")
        }
    return folder, reports


def test_a_core_translates_as_in_pytorch(core):
    folder, reports = core
    for search in reports["float32"].runtime["searches"].values():
        assert (search["equal"], search["largest_gap"]) == (1.0, 0.0)
    for quantization, report in reports.items():
        report.check()
        graphs = [graph_file(folder / quantization, graph, quantization) for graph in (GRAPHS[0], GRAPHS[3])]
        assert report.size_bytes == sum(graph.stat().st_size for graph in graphs)
    assert reports["int8"].size_bytes < 0.6 * reports["float32"].size_bytes


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("merged", [True, False])
def test_the_merged_decoder_and_the_two_that_it_is_made_of_find_what_transformers_finds(run, core, merged, num_beams):
    tokenizer = load_tokenizer(run / "core")
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    options = dict(num_beams=num_beams, max_new_tokens=20)
    expected = load_network(run / "core").generate(**batch, **options)
    network = OnnxNetwork(core[0] / "float32", threads=1, merged=merged)
    assert torch.equal(network.generate(**batch, **options), expected)
    assert expected.shape == (3, LENGTH + 2), "of unequal sources each has the words that it was taught, and an end"


def test_the_folder_is_laid_out_as_transformers_js_reads_it(core):
    for quantization, suffix in (("float32", ""), ("int8", "_quantized")):
        folder = core[0] / quantization
        assert {path.name for path in (folder / "onnx").iterdir()} == {f"{graph}{suffix}.onnx" for graph in GRAPHS}
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert (config["model_type"], config["architectures"]) == ("marian", ["MarianMTModel"])
        assert not [name for name in config if name.startswith(("ats_", "auto_map", "custom"))]
        assert {"generation_config.json", "tokenizer_config.json", "export.json", "README.md"} <= {
            path.name for path in folder.iterdir()
        }
    graph = onnx.load(core[0] / "float32/onnx/decoder_model_merged.onnx").graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
    sizes = {name: [dim.dim_param or dim.dim_value for dim in dims] for name, dims in shapes.items()}
    assert sizes["use_cache_branch"] == [1]
    # A first cache is made by these: the batch by its name, any other name is 0.
    assert sizes["past_key_values.0.decoder.key"] == ["batch_size", 4, "past_decoder_sequence_length", 32]
    assert sizes["past_key_values.0.encoder.value"] == ["batch_size", 4, "encoder_sequence_length_out", 32]
    assert sizes["encoder_hidden_states"] == ["batch_size", "encoder_sequence_length", 128]
    outputs = [value.name for value in graph.output]
    present = [f"present.0.{half}.{part}" for half in ("decoder", "encoder") for part in ("key", "value")]
    assert outputs == ["logits", *present]


def test_a_core_keeps_its_two_products_and_the_merged_decoder_holds_its_weights_once(run, core):
    folder = core[0] / "float32"
    model = load_network(run / "core")
    encoder = onnx.load(graph_file(folder, "encoder_model", "float32")).graph
    products = sum(node.op_type in ("MatMul", "Gemm") for node in encoder.node)
    # In each layer two more, for the scores and the sums of its attention.
    linears = sum(isinstance(module, nn.Linear) for module in model.get_encoder().modules())
    assert products == linears + 2 * model.config.encoder_layers
    first, merged = (
        graph_file(folder, graph, "float32").stat().st_size for graph in ("decoder_model", "decoder_model_merged")
    )
    assert first < merged < 1.3 * first
    text = graph_file(folder, "decoder_model_merged", "float32").read_bytes()
    assert b"/site-packages/" not in text, "no path of this machine"


@pytest.mark.parametrize("low_rank", [False, True])
def test_a_table_is_looked_up_and_multiplied_by_as_one_constant(low_rank, tmp_path):
    """A table that is transposed at every call would be a product in float32, of a table dequantized each time.

    The second factor of one of low rank is multiplied by in both directions.
    """
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    def node(*words, **attributes):
        op, inputs, outputs = words
        return helper.make_node(op, inputs.split(), outputs.split(), **attributes)

    weights = [numpy_helper.from_array(torch.randn(9, 4).numpy(), "table")]
    nodes = [node("Gather", "table ids", "rows"), node("Transpose", "table", "turned", perm=[1, 0])]
    if low_rank:
        weights.append(numpy_helper.from_array(torch.randn(4, 6).numpy(), "factor"))
        nodes += [
            node("MatMul", "rows factor", "wide"),
            node("Transpose", "factor", "back", perm=[1, 0]),
            node("MatMul", "wide back", "narrow"),
        ]
    nodes.append(node("MatMul", f"{'narrow' if low_rank else 'rows'} turned", "logits"))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", 9])
    model = helper.make_model(
        helper.make_graph(nodes, "decoder", [ids], [logits], weights), opset_imports=[helper.make_opsetid("", 18)]
    )
    given = {"ids": torch.tensor([[1, 8, 3], [0, 2, 2]]).numpy()}

    def found(graph):
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, given)[0])

    before = found(model)
    onnx_graphs._transpose_tables_(model.graph)
    onnx.checker.check_model(model)
    torch.testing.assert_close(found(model), before)
    assert [tuple(one.dims) for one in model.graph.initializer] == [(4, 9)] + [(4, 6), (6, 4)] * low_rank
    onnx.save(model, tmp_path / "table.onnx")
    quantized = onnx_graphs._in_int8(tmp_path / "table.onnx", tmp_path / "quantized.onnx")
    products = [one.op_type for one in quantized.graph.node if one.op_type.startswith("MatMul")]
    assert products == ["MatMulInteger"] * (3 if low_rank else 1)
    torch.testing.assert_close(found(quantized), before, atol=0.1 * before.abs().max().item(), rtol=0)


def test_what_one_file_cannot_hold_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_graphs, "_LARGEST", 1000)
    with pytest.raises(ValueError, match=r"parameters, and a file of ONNX holds at most 250 .* --format ctranslate2"):
        onnx_graphs.write_graphs(tiny_model("t5"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_does_not_load_or_trace_is_said_in_a_sentence(core, tmp_path, monkeypatch):
    shutil.copytree(core[0] / "float32", tmp_path / "cut")
    graph_file(tmp_path / "cut", "encoder_model", "float32").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"ONNX Runtime does not load .*encoder_model.onnx .* -U onnxruntime"):
        OnnxNetwork(tmp_path / "cut")
    monkeypatch.setattr(
        onnx_graphs._Encoder, "forward", lambda self, input_ids, attention_mask: untraceable(input_ids)
    )
    with pytest.raises(ValueError, match=r"PyTorch .* does not trace this network for ONNX .* --format ctranslate2"):
        onnx_graphs._graph(
            onnx_graphs._Encoder(tiny_model("marian")),
            {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3, dtype=torch.long)},
            ["last_hidden_state"],
        )


def untraceable(ids):
    return ids * (1.0 if ids.sum() > 3 else 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["full", "rank", "width"])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_family_and_every_core_translates_as_in_pytorch(family, network, tmp_path):
    """The made-up sentences say enough: a network of random weights repeats itself, but not the same for all."""
    kind = next(kind for kind, of in KINDS.items() if of.family == family)
    tokenizer = tiny_tokenizer(kind, tmp_path / "tokenizer")
    model = partitioned(family, "rank" if network == "full" else network, vocab_size=len(tokenizer))
    save = export_full if network == "full" else export_core
    save(model, tmp_path / network, tokenizer=tokenizer)
    report = deploy(tmp_path / network, tmp_path / "out", format="onnx", rounds=0)
    for search in report.runtime["searches"].values():
        assert search["equal"] >= 0.9
        assert search["largest_gap"] < 1e-3
