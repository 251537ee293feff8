"""A network as ONNX graphs, named and laid out as transformers.js reads them: an encoder, a decoder in three forms."""

import contextlib
import hashlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

ENCODER, FIRST, NEXT, MERGED = "encoder_model", "decoder_model", "decoder_with_past_model", "decoder_model_merged"
FOLDER = "onnx"
SUFFIXES = {"float32": "", "int8": "_quantized"}
"""How the name of a graph ends, by its quantization; `"q8"`, as transformers.js calls int8, is `_quantized`."""

_PARTS = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")
_LARGEST = 2**31  # bytes of one file of protocol buffers
_BRANCH = "use_cache_branch"


def graph_file(directory: str | os.PathLike, graph: str, quantization: str) -> Path:
    """Return the path of a graph in what `write_graphs` wrote."""
    return Path(directory, FOLDER, f"{graph}{SUFFIXES[quantization]}.onnx")


def write_graphs(model: PreTrainedModel, directory: str | os.PathLike, quantization: str = "float32") -> None:
    """Write the four graphs of a translation model into `directory/onnx`.

    Every graph takes any number of sentences and of tokens. `L` stands for a layer of the decoder, and keys and values
    are `(batch, heads, tokens, size)`:

        encoder_model             input_ids, attention_mask: last_hidden_state
        decoder_model             encoder_attention_mask, input_ids, encoder_hidden_states: logits, the target's
                                  present.L.decoder.key and .value, the source's present.L.encoder.key and .value
        decoder_with_past_model   encoder_attention_mask, input_ids `(batch, 1)`, the same as past_key_values.L...:
                                  logits, present.L.decoder.key and .value
        decoder_model_merged      both, which share their weights; use_cache_branch `(1,)` says which one runs

    A core keeps its two products, or its narrower layers.

    Args:
        model: any of the families that have a preset, or a core of them; its attention is set to eager.
        directory: where the folder `onnx` is made.
        quantization: `"float32"`, or `"int8"`: weights of 8 bits, a scale for each output, and activations that are
            rounded while they are computed (ONNX Runtime's dynamic quantization).

    Raises:
        ValueError: it is too large for a file of ONNX, which holds 2 GB.
    """
    import onnx

    if 4 * model.num_parameters() >= _LARGEST:
        raise ValueError(
            f"the network has {model.num_parameters():,} parameters, and a file of ONNX holds at most "
            f"{_LARGEST // 4:,} in float32; export a smaller core, or take --format ctranslate2."
        )
    model.set_attn_implementation("eager")
    model.eval()
    # Sizes above 1, and unequal, so that the exporter takes none of them for a constant.
    batch, source, target = 2, 5, 3
    ids = torch.full((batch, source), model.config.eos_token_id)
    mask = torch.ones_like(ids)
    with torch.no_grad(), _quiet(), tempfile.TemporaryDirectory() as folder:
        hidden = _Encoder(model)(ids, mask)
        _, *past = _FirstStep(model)(mask, ids[:, :target], hidden)
        names = [f"{layer}.{part}" for layer in range(len(past) // len(_PARTS)) for part in _PARTS]
        own = [name for name in names if ".decoder." in name]
        graphs = {
            ENCODER: _graph(
                _Encoder(model),
                {"input_ids": ids, "attention_mask": mask},
                ["last_hidden_state"],
            ),
            FIRST: _graph(
                _FirstStep(model),
                {"encoder_attention_mask": mask, "input_ids": ids[:, :target], "encoder_hidden_states": hidden},
                ["logits", *(f"present.{name}" for name in names)],
            ),
            NEXT: _graph(
                _NextStep(model),
                {"encoder_attention_mask": mask, "input_ids": ids[:, :1]}
                | {f"past_key_values.{name}": tensor for name, tensor in zip(names, past, strict=True)},
                ["logits", *(f"present.{name}" for name in own)],
            ),
        }
        if quantization == "int8":
            graphs = {name: _in_int8(graph, Path(folder, f"{name}.onnx")) for name, graph in graphs.items()}
        graphs[MERGED] = _merged(graphs[FIRST], graphs[NEXT])
        for name, graph in graphs.items():
            path = graph_file(directory, name, quantization)
            path.parent.mkdir(parents=True, exist_ok=True)
            onnx.checker.check_model(graph)
            onnx.save(graph, path)


class _Encoder(nn.Module):
    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, input_ids, attention_mask):
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class _FirstStep(nn.Module):
    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, mask, ids, hidden):
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        logits = _logits(self.model, mask, ids, hidden, cache)
        layers = zip(cache.self_attention_cache.layers, cache.cross_attention_cache.layers, strict=True)
        return logits, *(tensor for own, source in layers for layer in (own, source) for tensor in _held(layer))


class _NextStep(nn.Module):
    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, mask, ids, *past):
        own, source = DynamicCache(), DynamicCache()
        for layer, first in enumerate(range(0, len(past), len(_PARTS))):
            own.update(*past[first : first + 2], layer)
            source.update(*past[first + 2 : first + 4], layer)
        # With its keys and values in the cache, nothing of the encoder's output is read but its length.
        absent = past[0].new_zeros(*mask.shape, self.model.config.d_model)
        logits = _logits(self.model, mask, ids, absent, EncoderDecoderCache(own, source))
        return logits, *(tensor for layer in own.layers for tensor in _held(layer))


def _logits(model, mask, ids, hidden, cache):
    # Without a mask of the target, version 4 makes one that is too long while it is traced.
    own = ids.new_ones(ids.shape[0], cache.get_seq_length() + ids.shape[1])
    return model(
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
        attention_mask=mask,
        decoder_input_ids=ids,
        decoder_attention_mask=own,
        past_key_values=cache,
        use_cache=True,
    ).logits


def _held(layer) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.keys, layer.values


def _graph(module: nn.Module, inputs: dict[str, torch.Tensor], outputs: list[str]):
    """Return a module as a graph whose batch and lengths are free, and named for those who make the first cache."""
    free = torch.export.Dim.DYNAMIC
    shapes = [{axis: free for axis in (0, tensor.ndim // 2) if tensor.shape[axis] > 1} for tensor in inputs.values()]
    takes_more = isinstance(module, _NextStep)  # which takes keys and values as *past
    try:
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=(*shapes[:2], tuple(shapes[2:])) if takes_more else tuple(shapes),
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(
            f"PyTorch {torch.__version__} does not trace this network for ONNX ({reason}); take the versions of "
            "constraints.txt, or --format ctranslate2."
        ) from error
    model = program.model_proto
    _transpose_tables_(model.graph)
    del model.graph.value_info[:]
    for node in model.graph.node:  # where in the code it comes from, by the paths of this machine
        del node.metadata_props[:]
    of_encoder = isinstance(module, _Encoder)
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if dim.HasField("dim_param"):
                dim.dim_param = _size_name(value.name, axis, of_encoder)
    return model


def _transpose_tables_(graph) -> None:
    """Hold the weights that a graph transposes at every call as its products take them, in place.

    A product of 8 bits wants a constant. One that was transposed it would take in float32, dequantized at every call;
    and of a factor of the vocabulary ONNX Runtime then finds no scale in the branches of the merged decoder. A table
    that words are looked up in too is held once: a word is then a column of it. A factor that other products take as
    it is, is held both ways.
    """
    from onnx import helper, numpy_helper

    weights = {weight.name: weight for weight in graph.initializer if len(weight.dims) == 2}
    given = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    given = {output: name for output, name in given.items() if name in weights}
    as_they_are = {name for node in graph.node if node.op_type not in ("Transpose", "Gather") for name in node.input}
    for name in set(given.values()):
        turned = numpy_helper.to_array(weights[name]).T.copy()
        if name in as_they_are:
            graph.initializer.append(numpy_helper.from_array(turned, f"{name}_transposed"))
            given = {output: f"{name}_transposed" if one == name else one for output, one in given.items()}
        else:
            weights[name].CopyFrom(numpy_helper.from_array(turned, name))
    nodes = []
    for node in graph.node:
        if node.output[0] in given:
            continue
        node.input[:] = [given.get(name, name) for name in node.input]
        nodes.append(node)
        if node.op_type == "Gather" and node.input[0] in given.values():
            rows = node.output[0]
            node.output[0] = f"{rows}_columns"  # (size, batch, tokens)
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("axis", 1))
            nodes.append(helper.make_node("Transpose", [node.output[0]], [rows], perm=[1, 2, 0]))
    del graph.node[:]
    graph.node.extend(nodes)


def _size_name(value: str, axis: int, of_encoder: bool) -> str:
    if axis == 0:
        return "batch_size"
    if ".encoder." in value:
        # Of the first cache, which is empty, this is 0 while the mask has the source's length.
        return "encoder_sequence_length_out"
    if ".decoder." in value:
        return f"{'past_' if value.startswith('past') else ''}decoder_sequence_length"
    return "encoder_sequence_length" if of_encoder or "encoder" in value else "decoder_sequence_length"


def _in_int8(graph, path: Path):
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(graph, path, weight_type=QuantType.QInt8, per_channel=True)
    quantized = onnx.load(path)
    del quantized.graph.value_info[:]
    return quantized


def _merged(first, following):
    """Return both forms of the decoder as one graph, whose `If` runs one of them and whose weights are held once."""
    from onnx import TensorProto, compose, helper

    tables, shared = {}, {}
    branches = []
    for prefix, model in (("next_", following), ("first_", first)):
        graph = compose.add_prefix_graph(model.graph, prefix, rename_inputs=False)
        renamed = {}
        for table in graph.initializer:
            data = (table.data_type, tuple(table.dims), hashlib.sha256(_bytes(table)).digest())
            renamed[table.name] = shared.setdefault(data, table.name)
            tables.setdefault(renamed[table.name], table)
        for node in graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
        branches.append(graph)
    after, before = branches
    given = {value.name: value for model in (first, following) for value in model.graph.input}
    # The source's keys and values of later steps are those that were given.
    for value in first.graph.output:
        if ".encoder." in value.name:
            past = value.name.replace("present", "past_key_values")
            after.node.append(helper.make_node("Identity", [past], [f"next_{value.name}"]))
            after.output.append(helper.make_value_info(f"next_{value.name}", given[past].type))
    results = {value.name: value for value in after.output}
    ordered = [results[f"next_{value.name}"] for value in first.graph.output]
    del after.output[:]
    after.output.extend(ordered)
    choice = helper.make_node(
        "If",
        [_BRANCH],
        [value.name for value in first.graph.output],
        then_branch=helper.make_graph(after.node, "next", [], after.output),
        else_branch=helper.make_graph(before.node, "first", [], before.output),
    )
    for value in given.values():  # of which the first step takes several, the following one
        if value.name == "input_ids":
            value.type.tensor_type.shape.dim[1].dim_param = "decoder_sequence_length"
    branch = helper.make_tensor_value_info(_BRANCH, TensorProto.BOOL, [1])
    graph = helper.make_graph(
        [choice], "decoder", [*given.values(), branch], first.graph.output, list(tables.values())
    )
    return helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)


def _bytes(table) -> bytes:
    from onnx import numpy_helper

    return table.raw_data or numpy_helper.to_array(table).tobytes()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what exporter and quantizer say of packages that nothing here uses and of their own deprecated calls."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
