"""Exports in the runtimes that serve models: CTranslate2, and ONNX Runtime through a graph of our own.

Both are optional: `pip install ".[deploy]"`. `decode` of every network gives a given number of tokens, so that all do
equal work; it leaves out a runtime's own rules for when a sentence is done.
"""

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from ..checkpoint import load_network, load_tokenizer

# By the name of a runtime, the packages that converting and running take.
RUNTIMES = {"ctranslate2": ("ctranslate2",), "onnxruntime": ("onnxruntime", "onnx", "onnxscript")}


def require_runtime(name: str) -> None:
    """Import what a runtime takes.

    Raises:
        ValueError: there is no such runtime, or a package is not installed.
    """
    if name not in RUNTIMES:
        raise ValueError(f"runtime {name!r} is not known; write one of {', '.join(map(repr, RUNTIMES))}.")
    for package in RUNTIMES[name]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(
                f"runtime {name!r} needs the package {package} ({error}); run pip install '.[deploy]', or leave "
                "the runtime out."
            ) from error


def convert_to_ctranslate2(directory: str | os.PathLike, output: str | os.PathLike, quantization: str) -> None:
    """Write an export of Marian's own class as CTranslate2 reads it: full, core-dense, a core of fewer neurons.

    CTranslate2's Marian loader drops the last row of the vocabulary and starts decoding from zeros, so `<pad>` must be
    the last id and its row zero, as in the models that a run builds.

    Args:
        directory: an export whose class is Marian's.
        output: a directory, made here.
        quantization: `"float32"`, `"int8"`, or another type of CTranslate2.

    Raises:
        ValueError: CTranslate2 lacks the layers of the export, a core of a class of ours; or its output would differ,
            since the vocabularies are separate or `<pad>` is elsewhere.
    """
    from ctranslate2.converters import TransformersConverter

    model, tokenizer = load_network(directory), load_tokenizer(directory)
    kind, pad = model.config.model_type, model.config.pad_token_id
    if kind != "marian":
        raise ValueError(
            f"{directory} is of type {kind!r}, which CTranslate2 does not read; give the full network, a core "
            "by width of only its feed-forward layers, or one written by export_core(..., dense=True)."
        )
    if tokenizer.separate_vocabs:
        raise ValueError(f"{directory} has a vocabulary for each language; only joint ones are converted here.")
    row = model.get_decoder().embed_tokens.weight[pad]
    if pad != model.config.vocab_size - 1 or row.any():
        raise ValueError(
            f"{directory} has <pad> at {pad} of {model.config.vocab_size} with a row of norm {row.norm():.3g}; "
            "CTranslate2 drops the last row and starts from zeros, so <pad> must be the last and its row zero."
        )
    TransformersConverter(str(directory)).convert(str(output), quantization=quantization, force=True)


class CTranslate2Network:
    """A converted network on the CPU.

    Args:
        directory: what `convert_to_ctranslate2` wrote.
        tokenizer: directory of the tokenizer; CTranslate2 takes and gives pieces instead of ids.
        compute_type: the arithmetic, as the quantization it was converted with.
        threads: for one batch; 0 is CTranslate2's own choice.
    """

    def __init__(self, directory: str | os.PathLike, tokenizer: str | os.PathLike, compute_type: str, threads: int):
        import ctranslate2

        self._translator = ctranslate2.Translator(
            str(directory), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
        )
        self._tokenizer = load_tokenizer(tokenizer)

    def decode(self, input_ids: torch.Tensor, num_beams: int, length: int) -> torch.Tensor:
        """Return `(batch, length)` ids, the best hypothesis for each row of `input_ids` `(batch, source)` unpadded."""
        return torch.tensor(self._best(input_ids.tolist(), num_beams, shortest=length, longest=length))

    def translate(self, source: list[int], num_beams: int, longest: int) -> list[int]:
        """Return the ids of the best hypothesis for one source, which ends by itself; no start, end or padding."""
        (best,) = self._best([source], num_beams, shortest=0, longest=longest)
        return best

    def _best(self, sources: list[list[int]], num_beams: int, *, shortest: int, longest: int) -> list[list[int]]:
        results = self._translator.translate_batch(
            [self._tokenizer.convert_ids_to_tokens(source) for source in sources],
            beam_size=num_beams,
            min_decoding_length=shortest,
            max_decoding_length=longest,
            max_input_length=0,
            max_batch_size=0,
        )
        return [self._tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]


ENCODER, DECODER = "encoder.onnx", "decoder.onnx"


def export_onnx(directory: str | os.PathLike, output: str | os.PathLike) -> None:
    """Write a Marian export, a core too, as two ONNX graphs: `encoder.onnx` and `decoder.onnx`.

    The encoder's outputs are the keys and values of every decoder layer's attention to the source, each
    `(batch, heads, source, size)`, so they are computed once. The decoder is one step: it takes the last ids
    `(batch, 1)`, the source's mask, the keys and values of earlier steps (of length 0 in the first) and those of the
    source; it gives logits `(batch, vocabulary)` and its keys and values with this step's added. A core keeps its two
    products, or its narrower keys.

    Args:
        directory: an export.
        output: a directory, made here.
    """
    model = load_network(directory, attn_implementation="eager").eval()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    config = model.config
    own, present, source = _names(config)
    # Sizes above 1, and unequal, so that the exporter takes none of them for a constant.
    batch, source_length, past_length = 2, 5, 3
    ids = torch.zeros(batch, source_length, dtype=torch.long)
    mask = torch.ones_like(ids)
    past = [
        _in_heads(layer.self_attn, projection, torch.zeros(batch, past_length, config.d_model)).detach()
        for layer in model.get_decoder().layers
        for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj)
    ]
    free = torch.export.Dim.DYNAMIC
    options = dict(dynamo=True, verbose=False, external_data=False)
    encoder = _Encoder(model).eval()
    with torch.no_grad(), _quiet_exporter():
        keys_and_values = encoder(ids, mask)
        torch.onnx.export(
            encoder,
            (ids, mask),
            output / ENCODER,
            input_names=["input_ids", "attention_mask"],
            output_names=source,
            dynamic_shapes=({0: free, 1: free}, {0: free, 1: free}),
            **options,
        )
        torch.onnx.export(
            _DecoderStep(model).eval(),
            (ids[:, :1], mask, *past, *keys_and_values),
            output / DECODER,
            input_names=["input_ids", "attention_mask", *own, *source],
            output_names=["logits", *present],
            dynamic_shapes=({0: free}, {0: free, 1: free}, ({0: free, 2: free},) * len(own + source)),
            **options,
        )


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's warnings of packages that nothing here uses, and of its own deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


class OnnxNetwork:
    """The two graphs of `export_onnx` in ONNX Runtime on the CPU, with greedy and beam search around them.

    Args:
        directory: what `export_onnx` wrote.
        config: the export's config.
        threads: for one operation; 0 is ONNX Runtime's own choice.
    """

    def __init__(self, directory: str | os.PathLike, config, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._encoder, self._decoder = (
            onnxruntime.InferenceSession(Path(directory, name), options, providers=["CPUExecutionProvider"])
            for name in (ENCODER, DECODER)
        )
        self._config = config
        self._own, _, self._source = _names(config)
        # The exporter leaves out inputs that nothing depends on.
        self._takes = {entry.name: entry.shape for entry in self._decoder.get_inputs()}

    def decode(self, input_ids: torch.Tensor, num_beams: int, length: int) -> torch.Tensor:
        """Return `(batch, length)` ids, the best hypothesis for each row of `input_ids` `(batch, source)` unpadded.

        As in `generate` of transformers neither end of sentence nor `<pad>` is chosen, though both keep their share of
        the probability.
        """
        config, batch = self._config, len(input_ids)
        mask = np.ones(input_ids.shape, dtype=np.int64)
        source = self._encoder.run(None, {"input_ids": input_ids.numpy(), "attention_mask": mask})
        given = dict(zip(["attention_mask", *self._source], [mask, *source], strict=True))
        given = {name: np.repeat(given[name], num_beams, axis=0) for name in given if name in self._takes}
        heads_and_sizes = [self._takes[name][1::2] for name in self._own]
        own = [np.zeros((batch * num_beams, heads, 0, size), np.float32) for heads, size in heads_and_sizes]
        ids = np.full((batch * num_beams, 1), config.decoder_start_token_id)
        # All beams of a sentence start alike, so all but one are kept out of the first step.
        scores = np.where(np.arange(num_beams) == 0, 0.0, -np.inf).astype(np.float32) + np.zeros((batch, 1))
        rows = np.arange(batch)[:, None] * num_beams
        chosen = np.empty((batch * num_beams, 0), dtype=np.int64)
        for _ in range(length):
            inputs = {"input_ids": ids, **given, **dict(zip(self._own, own, strict=True))}
            logits, *own = self._decoder.run(None, inputs)
            if num_beams > 1:
                logits = torch.from_numpy(logits).log_softmax(-1).numpy()
            logits[:, [config.eos_token_id, config.pad_token_id]] = -np.inf
            if num_beams == 1:
                ids = logits.argmax(-1)[:, None]
            else:
                total = (scores[:, :, None] + logits.reshape(batch, num_beams, -1)).reshape(batch, -1)
                best = np.argpartition(-total, num_beams - 1, axis=-1)[:, :num_beams]
                scores = np.take_along_axis(total, best, axis=-1)
                beams = (rows + best // logits.shape[-1]).reshape(-1)
                ids = (best % logits.shape[-1]).reshape(-1, 1)
                chosen, own = chosen[beams], [values[beams] for values in own]
            chosen = np.concatenate([chosen, ids], axis=1)
        return torch.from_numpy(chosen.reshape(batch, num_beams, length)[np.arange(batch), scores.argmax(-1)])


def _names(config) -> tuple[list[str], list[str], list[str]]:
    """Return the names of the decoder's own keys and values before and after a step, and of the source's."""
    layers = [f"{layer}.{part}" for layer in range(config.decoder_layers) for part in ("keys", "values")]
    return tuple([f"{prefix}.{name}" for name in layers] for prefix in ("past", "present", "source"))


def _in_heads(attention: nn.Module, projection: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Return keys or values `(batch, heads, tokens, size)` of `hidden` `(batch, tokens, width)`, any size of heads."""
    return projection(hidden).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


class _Encoder(nn.Module):
    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.encoder, self.decoder = model.get_encoder(), model.get_decoder()

    def forward(self, input_ids, attention_mask):
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        attentions = [layer.encoder_attn for layer in self.decoder.layers]
        return tuple(_in_heads(each, linear, hidden) for each in attentions for linear in (each.k_proj, each.v_proj))


class _DecoderStep(nn.Module):
    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, *keys_and_values):
        config = self.model.config
        half = 2 * config.decoder_layers
        own, source = (_cache(part) for part in (keys_and_values[:half], keys_and_values[half:]))
        # With its keys and values in the cache, nothing of the encoder's output is read but its length.
        absent = keys_and_values[half].new_zeros(*attention_mask.shape, config.d_model)
        hidden = self.model.get_decoder()(
            input_ids=input_ids,
            encoder_hidden_states=absent,
            encoder_attention_mask=attention_mask,
            past_key_values=EncoderDecoderCache(own, source),
            use_cache=True,
        ).last_hidden_state
        logits = self.model.lm_head(hidden[:, -1]) + self.model.final_logits_bias
        return logits, *(tensor for layer in own.layers for tensor in (layer.keys, layer.values))


def _cache(keys_and_values) -> DynamicCache:
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(zip(keys_and_values[::2], keys_and_values[1::2], strict=True)):
        cache.update(keys, values, layer)
    return cache
