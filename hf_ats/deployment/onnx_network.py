"""The graphs of a network in ONNX Runtime, behind the `generate` of transformers."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from .onnx_graphs import ENCODER, FIRST, MERGED, NEXT, graph_file


@dataclass
class _Cache:
    """Keys and values by the names of the decoder's inputs: of the target so far, and of the source."""

    own: dict[str, np.ndarray]
    source: dict[str, np.ndarray]

    def get_seq_length(self, layer: int = 0) -> int:
        return next(iter(self.own.values())).shape[2]


class OnnxNetwork(PreTrainedModel, GenerationMixin):
    """A network in ONNX Runtime on the CPU, which translates as a model of transformers does: by `generate`.

    Args:
        directory: what `export_onnx` wrote.
        quantization: which of its graphs.
        threads: for one operation; 0 is ONNX Runtime's own choice.
        merged: whether the decoder is the merged graph, which a browser runs, or the two that it is made of.

    Example:

    ```python
    >>> network = OnnxNetwork("out/core-onnx")
    >>> network.generate(**tokenizer(["Ein Hund schläft."], return_tensors="pt"), num_beams=4)
    ```
    """

    config_class = PretrainedConfig
    main_input_name = "input_ids"

    def __init__(
        self, directory: str | os.PathLike, quantization: str = "float32", threads: int = 0, merged: bool = True
    ):
        import onnxruntime

        super().__init__(AutoConfig.from_pretrained(directory, attn_implementation="eager"))
        self.generation_config = GenerationConfig.from_pretrained(directory)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that go on spinning after a call would slow down what is timed next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")

        def session(graph: str):
            path = graph_file(directory, graph, quantization)
            try:
                return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # of a class of its own for each kind
                raise ValueError(
                    f"ONNX Runtime does not load {path} ({type(error).__name__}: {error}). If it lacks an "
                    f"operator, run pip install -U onnxruntime (this is {onnxruntime.__version__}); or it is damaged."
                ) from error

        self.encoder = _Encoder(session(ENCODER))
        self._merged = merged
        self._first = session(MERGED if merged else FIRST)
        self._next = self._first if merged else session(NEXT)
        # The graph's names, and for an empty cache the heads and the size of each.
        self._empty = {
            entry.name: (entry.shape[1], entry.shape[3])
            for entry in self._next.get_inputs()
            if entry.name.startswith("past")
        }

    device = torch.device("cpu")
    dtype = torch.float32

    def get_encoder(self, modality=None) -> nn.Module:
        """Return the encoder: ids and mask `(batch, source)` to hidden states `(batch, source, width)`."""
        return self.encoder

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, attention_mask=None, encoder_outputs=None, **kwargs
    ):
        """Return what `forward` takes for the next step: the whole target, or with a cache its last word."""
        return {
            "decoder_input_ids": input_ids if past_key_values is None else input_ids[:, -1:],
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "encoder_outputs": encoder_outputs,
        }

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        decoder_input_ids=None,
        encoder_outputs=None,
        past_key_values=None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """Return logits `(batch, target, vocabulary)` and the cache for the next step.

        Args:
            input_ids: the source, `(batch, source)`, unless `encoder_outputs` are given.
            attention_mask: of the source, `(batch, source)`.
            decoder_input_ids: of the target, `(batch, target)`; with a cache the last word, `(batch, 1)`.
            encoder_outputs: of the encoder.
            past_key_values: the cache that the step before returned.
            kwargs: what `generate` asks for besides, of which there is nothing.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask)
        first = past_key_values is None
        session = self._first if first else self._next
        given = {
            "encoder_attention_mask": attention_mask.numpy(),
            "input_ids": decoder_input_ids.numpy(),
            "encoder_hidden_states": encoder_outputs[0].numpy(),
        }
        if self._merged:
            given["use_cache_branch"] = np.array([not first])
            rows = len(decoder_input_ids)
            given |= (
                {name: np.zeros((rows, heads, 0, size), np.float32) for name, (heads, size) in self._empty.items()}
                if first
                else {}
            )
        given |= {} if first else past_key_values.own | past_key_values.source
        takes = {entry.name for entry in session.get_inputs()}
        names = [entry.name for entry in session.get_outputs() if first or ".encoder." not in entry.name]
        logits, *present = session.run(names, {name: value for name, value in given.items() if name in takes})
        held = {
            name.replace("present", "past_key_values"): value for name, value in zip(names[1:], present, strict=True)
        }
        own = {name: value for name, value in held.items() if ".decoder." in name}
        source = {name: value for name, value in held.items() if ".encoder." in name}
        cache = _Cache(own, source if first else past_key_values.source)
        return Seq2SeqLMOutput(logits=torch.from_numpy(logits), past_key_values=cache)

    def _reorder_cache(self, past_key_values: _Cache, beam_idx: torch.Tensor) -> _Cache:
        """Move the target's keys and values with their beams; all beams of a sentence read the same source."""
        rows = beam_idx.numpy()
        return _Cache({name: value[rows] for name, value in past_key_values.own.items()}, past_key_values.source)


class _Encoder(nn.Module):
    main_input_name = "input_ids"

    def __init__(self, session):
        super().__init__()
        self._session = session

    def forward(self, input_ids, attention_mask, **kwargs):
        given = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        (hidden,) = self._session.run(None, given)
        return BaseModelOutput(last_hidden_state=torch.from_numpy(hidden))
