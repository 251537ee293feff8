"""Exports in CTranslate2."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, GenerationConfig, MarianConfig
from transformers.utils import CONFIG_NAME

from ..checkpoint import is_unscaled_t5, load_network, load_tokenizer

_NORMS = {
    "bart": {"normalize_before": False, "normalize_embedding": True},
    "mbart": {"normalize_before": True, "normalize_embedding": True},
    "pegasus": {"normalize_before": True, "normalize_embedding": False},
}


def convert_to_ctranslate2(directory: str | os.PathLike, output: str | os.PathLike, quantization: str) -> None:
    """Write an export of a stock class as CTranslate2 reads it: full, core-dense, a core of fewer neurons or layers.

    CTranslate2's Marian loader drops the last row of the vocabulary and starts decoding from zeros, so `<pad>` must be
    the last id and its row zero, as in the models that a run builds.

    Args:
        directory: an export whose class is one of transformers.
        output: a directory, made here.
        quantization: `"float32"`, `"int8"`, or another type of CTranslate2.

    Raises:
        ValueError: CTranslate2 lacks the layers of the export, a core of a class of ours, or the options of its
            config; or its output would differ, since the vocabularies are separate or `<pad>` is elsewhere.
    """
    from ctranslate2.converters import TransformersConverter
    from ctranslate2.specs.model_spec import OPTIONAL

    model, tokenizer = load_network(directory), load_tokenizer(directory)
    _check_type(directory, model.config)
    if isinstance(model.config, MarianConfig):
        pad = model.config.pad_token_id
        if tokenizer.separate_vocabs:
            raise ValueError(f"{directory} has a vocabulary for each language; only joint ones are converted here.")
        row = model.get_decoder().embed_tokens.weight[pad]
        if pad != model.config.vocab_size - 1 or row.any():
            raise ValueError(
                f"{directory} has <pad> at {pad} of {model.config.vocab_size} with a row of norm {row.norm():.3g}; "
                "CTranslate2 drops the last row and starts from zeros, so <pad> must be the last and its row zero."
            )

    class Converter(TransformersConverter):
        def _load(self):
            spec = super()._load()
            if is_unscaled_t5(model.config):  # which it takes for one that multiplies, since its embeddings are tied
                spec.decoder.scale_outputs = OPTIONAL
            return spec

    try:
        with _in_words_of_old(directory, model.config) as folder:
            Converter(folder).convert(str(output), quantization=quantization, force=True)
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"CTranslate2 does not convert {directory}, a {type(model).__name__} ({type(error).__name__}: {error}); "
            "take --format onnx, which takes every kind of export."
        ) from error


@contextlib.contextmanager
def _in_words_of_old(directory: str | os.PathLike, config) -> Iterator[str]:
    """Yield an export whose config says where its norms are, which CTranslate2 asks and transformers 5 leaves out."""
    fields = _NORMS.get(config.model_type, {})
    with tempfile.TemporaryDirectory() as folder:
        for path in Path(directory).resolve().iterdir():
            Path(folder, path.name).symlink_to(path)
        path = Path(folder, CONFIG_NAME)
        given = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        path.write_text(json.dumps(fields | given), encoding="utf-8")
        yield folder


def check_format(directory: str | os.PathLike, format: str) -> None:
    """Refuse, before any work, an export whose architecture a format does not know.

    Raises:
        ValueError: it is one that only hf_ats knows, and the format CTranslate2's.
    """
    if format == "ctranslate2" and Path(directory, CONFIG_NAME).exists():  # an adapter becomes a stock class
        _check_type(directory, AutoConfig.from_pretrained(directory))


def _check_type(directory: str | os.PathLike, config) -> None:
    if type(config).__module__.partition(".")[0] != "transformers":
        raise ValueError(
            f"{Path(directory).name} is of type {config.model_type!r}, which CTranslate2 does not read; give the full "
            "network, a core multiplied out (--kinds core-dense, export_core(..., dense=True)), one of fewer layers "
            "or narrower only in feed-forward layers; or take --format onnx, which knows every kind."
        )


class CTranslate2Network:
    """A converted network on the CPU.

    Args:
        directory: what `convert_to_ctranslate2` wrote.
        checkpoint: the export that it was made of, which says how to decode.
        compute_type: the arithmetic, as the quantization it was converted with.
        threads: for one batch; 0 is CTranslate2's own choice.
    """

    def __init__(self, directory: str | os.PathLike, checkpoint: str | os.PathLike, compute_type: str, threads: int):
        import ctranslate2

        self._translator = ctranslate2.Translator(
            str(directory), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
        )
        # By their ids, but for <pad> of Marian, which CTranslate2 leaves out.
        self._pieces = json.loads(Path(directory, "shared_vocabulary.json").read_text(encoding="utf-8"))
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}
        config = GenerationConfig.from_pretrained(checkpoint)
        # Where CTranslate2 knows no first word, as of mBART, it wants to be told, and does not say it again.
        told = json.loads(Path(directory, CONFIG_NAME).read_text(encoding="utf-8"))["decoder_start_token"] is None
        given = [config.decoder_start_token_id] * told + [config.forced_bos_token_id]
        self._given = [self._pieces[word] for word in given if word is not None]
        self._options = {
            "length_penalty": config.length_penalty if config.length_penalty is not None else 1.0,
            "repetition_penalty": config.repetition_penalty or 1.0,
            "no_repeat_ngram_size": config.no_repeat_ngram_size or 0,
        }

    def decode(self, input_ids: torch.Tensor, num_beams: int, length: int) -> torch.Tensor:
        """Return `(batch, length)` ids, the best hypothesis for each row of `input_ids` `(batch, source)` unpadded."""
        return torch.tensor(self._best(input_ids.tolist(), num_beams, shortest=length, longest=length))

    def translate(self, sources: Sequence[list[int]], num_beams: int, longest: int) -> list[list[int]]:
        """Return the ids of the best hypothesis for each source, which ends by itself; no start, end or padding."""
        return self._best(sources, num_beams, shortest=0, longest=longest)

    def _best(self, sources, num_beams: int, *, shortest: int, longest: int) -> list[list[int]]:
        results = self._translator.translate_batch(
            [[self._pieces[word] for word in source] for source in sources],
            [self._given] * len(sources) if self._given else None,
            beam_size=num_beams,
            min_decoding_length=shortest,
            max_decoding_length=longest,
            max_input_length=0,
            max_batch_size=0,
            **self._options,
        )
        return [[self._ids[piece] for piece in result.hypotheses[0]] for result in results]
