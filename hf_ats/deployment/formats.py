"""An export in the format of a runtime, which appears once it was seen to translate as in PyTorch."""

import copy
import logging
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoint import (
    REPORT_NAME,
    ExportReport,
    check_replaceable,
    load_network,
    load_tokenizer,
    save_network,
    save_tokenizer,
)
from ..data import shows_nothing
from ..evaluation import batches_by_length, encode_sentences, in_eval_mode, score_translations, spread, time_in_turns
from ..partition import is_translation_model
from ..remote_code import longest_input
from ..results import render_deployed_card
from ..storage import draft, sha256_of, write_file
from .fast_tokenizer import TOKENIZER_FILE, write_fast_tokenizer
from .onnx_graphs import ENCODER, MERGED, graph_file
from .onnx_network import OnnxNetwork
from .runtimes import FORMATS, QUANTIZATIONS, require_runtime, runtime_version
from .to_ctranslate2 import CTranslate2Network, convert_to_ctranslate2
from .to_onnx import export_onnx

logger = logging.getLogger(__name__)

_SEARCHES = {"greedy": 1, "beam 4": 4}
_BATCH_SIZES = (1, 32)
_MADE_UP = 32
# So far apart, in nats, may two words or translations be that a runtime in float32 takes one for the other.
_TIE = 1e-2
# A decoder that does not stop is compared up to here.
_LONGEST = 200

# Source ids, beams and the most new tokens to the ids of the translations: no start, end or padding.
Translate = Callable[[Sequence[list[int]], int, int], list[list[int]]]


def deploy(
    directory: str | os.PathLike,
    output: str | os.PathLike,
    *,
    format: str,
    quantization: str = "float32",
    sources: Sequence[str] | None = None,
    references: Sequence[str] | None = None,
    tokenize: str | None = None,
    rounds: int = 3,
) -> ExportReport:
    """Write an export in the format of a runtime, compare its translations with PyTorch's, and time both.

    `output` appears when the runtime was seen to translate as PyTorch does, greedily and with 4 beams. Its
    `export.json` and its card say how many translations are the same token for token, BLEU where there are references,
    and the seconds for a sentence, on PyTorch's number of threads, at batch 1 and, with as many sentences, 32.

    Args:
        directory: any export, or another translation model.
        output: where it goes; new, empty, or an earlier export, which is replaced.
        format: `"ctranslate2"`, for stock classes, or `"onnx"`, for all.
        quantization: `"float32"` or `"int8"`.
        sources (`list[str]`, *optional*): sentences to compare; by default 32 made up from the vocabulary.
        references (`list[str]`, *optional*): one for each of them, to score both.
        tokenize: sacreBLEU's tokenizer, as in `score_translations`.
        rounds: how often batches of each size are timed; 0 is not at all.

    Raises:
        ValueError: there is no such format or quantization, the runtime is not installed, the export is none of a
            translation model, or of layers that the runtime lacks; sources and references differ in number; in float32
            the runtime chose words that PyTorch holds for worse. Nothing is left behind.
        FileExistsError: `output` holds something else.

    Example:

    ```python
    >>> deploy("runs/demo/core", "out/core-onnx", format="onnx", quantization="int8").runtime["searches"]["greedy"]
    ```
    """
    for name, value, known in (("format", format, FORMATS), ("quantization", quantization, QUANTIZATIONS)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is not known; write one of {', '.join(map(repr, known))}.")
    if references is not None and len(references) != len(sources or ()):
        raise ValueError(
            f"sources holds {len(sources or ())} and references {len(references)}; give one for each sentence."
        )
    require_runtime(FORMATS[format])
    check_replaceable(output)
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_network(directory, dtype=torch.float32), load_tokenizer(directory)
        if not is_translation_model(model):
            raise ValueError(f"{directory} is a {type(model).__name__}, which does not translate; give one that does.")
        made = Path(directory, REPORT_NAME)
        report = ExportReport.read(directory) if made.exists() else _report_of(model, directory)
        if report.kind == "adapter":  # as one network, which it is in every runtime
            directory = Path(folder)
            save_network(model, directory)
            save_tokenizer(tokenizer, directory)
        given = sources is not None
        prefix = getattr(model.config, "prefix", None) or ""  # what T5 wants before every source
        sources = (
            ["" if shows_nothing(text) else prefix + text for text in sources]
            if given
            else made_up_sentences(tokenizer)
        )
        encoded = encode_sentences(tokenizer, sources, [model])
        if not any(encoded):
            raise ValueError(f"sources holds {len(sources)} sentences, none with text; give some, or leave them out.")
        with draft(output) as drafted:
            runtime, translate, size_bytes = _converted(directory, drafted, format, quantization, tokenizer, sources)
            compared = _compare(
                (_by_generate(model, tokenizer, early_stopping=format == "ctranslate2"), translate),
                model,
                tokenizer,
                encoded,
                references,
                tokenize,
                must_equal=quantization == "float32",
                rounds=rounds,
                what=f"{output} in {runtime}",
            )
            report = replace(
                report,
                path=Path(output),
                size_bytes=size_bytes,
                runtime={
                    "format": format,
                    "quantization": quantization,
                    "version": runtime,
                    "pytorch_bytes": report.size_bytes or None,
                    "threads": torch.get_num_threads(),
                    "sentences": sum(map(bool, encoded)),
                    "made_up": not given,
                    "searches": compared,
                },
            )
            if format == "onnx" and not (drafted / TOKENIZER_FILE).exists():
                logger.warning("%s has no %s, which transformers.js needs to split text.", output, TOKENIZER_FILE)
            write_file(drafted / "README.md", render_deployed_card(report))
            report = replace(report, files=sha256_of(drafted))
            report.write(drafted)
    return report


def _report_of(model: PreTrainedModel, directory) -> ExportReport:
    """Return what an export of a model would say that was never partitioned."""
    return ExportReport(Path(directory), "full", "full", model.num_parameters(), 0, 0.0, None, {})


def _converted(
    directory, drafted: Path, format: str, quantization: str, tokenizer, sources
) -> tuple[str, Translate, int]:
    """Convert; return the runtime and its version, how it translates, and the bytes of weights that it loads."""
    threads, runtime = torch.get_num_threads(), runtime_version(FORMATS[format])
    if format == "ctranslate2":
        convert_to_ctranslate2(directory, drafted, quantization)
        save_tokenizer(tokenizer, drafted)
        size_bytes = (drafted / "model.bin").stat().st_size
        return runtime, CTranslate2Network(drafted, directory, quantization, threads).translate, size_bytes
    export_onnx(directory, drafted, quantization)
    write_fast_tokenizer(tokenizer, drafted, sources)
    size_bytes = sum(graph_file(drafted, graph, quantization).stat().st_size for graph in (ENCODER, MERGED))
    network = OnnxNetwork(drafted, quantization, threads)
    return runtime, _by_generate(network, tokenizer), size_bytes


def _by_generate(network, tokenizer: PreTrainedTokenizerBase, early_stopping: bool = False) -> Translate:
    """Return how a model of transformers translates; with as many finished hypotheses as beams CTranslate2 stops."""

    def translate(sources, num_beams, longest):
        config = copy.deepcopy(network.generation_config)
        config.update(num_beams=num_beams, do_sample=False)
        if config.max_new_tokens is None:  # whichever of the two says how long a translation may be
            config.max_length = longest + 1
        else:
            config.max_new_tokens = longest
        config.early_stopping = early_stopping and num_beams > 1
        config.pad_token_id = tokenizer.pad_token_id
        rows: list[list[int]] = [[] for _ in sources]
        with in_eval_mode(network), torch.no_grad():
            for indices, batch in batches_by_length(tokenizer, sources, max(1, len(sources))):
                for index, ids in zip(indices, network.generate(**batch, generation_config=config), strict=True):
                    rows[index] = _words(ids.tolist()[1:], tokenizer)
        return rows

    return translate


def _words(ids: list[int], tokenizer) -> list[int]:
    return ids[: ids.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in ids else ids


def made_up_sentences(tokenizer: PreTrainedTokenizerBase, number: int = _MADE_UP) -> list[str]:
    """Return sentences of 4 to 20 pieces drawn from the vocabulary, the same each time."""
    draw = random.Random(0)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    pieces = [index for index in range(len(tokenizer)) if index not in special]
    return [tokenizer.decode(draw.choices(pieces, k=draw.randint(4, 20))) for _ in range(number)]


def _compare(
    translators: tuple[Translate, Translate],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: list[list[int]],
    references: Sequence[str] | None,
    tokenize: str | None,
    *,
    must_equal: bool,
    rounds: int,
    what: str,
) -> dict[str, dict]:
    """Return by search how many translations are the same, how far apart the others are, BLEU, and seconds.

    Args:
        translators: PyTorch's and the runtime's.
        model: PyTorch's, by which two translations are weighed.
        tokenizer: of both.
        encoded: the sentences.
        references: their translations, or None.
        tokenize: sacreBLEU's tokenizer.
        must_equal: whether the arithmetic is the same, so that only ties may fall otherwise.
        rounds: how often the seconds are measured.
        what: the runtime, for the message.
    """
    rows = [row for row in encoded if row]
    longest = min(_LONGEST, longest_input(model.config), 20 + 2 * max(map(len, rows)))
    found = {}
    for search, beams in _SEARCHES.items():
        expected, translated = (
            [ids[: longest - 1] for part in _parts(rows, 32) for ids in translate(part, beams, longest)]
            for translate in translators
        )
        differing = [index for index, ids in enumerate(expected) if ids != translated[index]]
        gaps = [_gap(model, tokenizer, rows[i], expected[i], translated[i], beams) for i in differing]
        if must_equal and beams == 1 and sum(gap > _TIE for gap in gaps) > 0.1 * len(rows):
            worst = differing[gaps.index(max(gaps))]
            raise ValueError(
                f"{what} does not translate as PyTorch does: {len(differing)} of {len(rows)} translations differ, and "
                f"that of sentence {worst + 1} in a word that PyTorch holds for {max(gaps):.3g} nats less likely. "
                "Nothing was written."
            )
        found[search] = {
            "equal": 1 - len(differing) / len(rows),
            "largest_gap": max(gaps, default=0.0),
            **_scores(tokenizer, encoded, expected, translated, references, tokenize),
            "seconds_per_sentence": _seconds(translators, rows, beams, longest, rounds),
        }
    return found


def _parts(rows: list, size: int) -> list[list]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@torch.no_grad()
def _gap(model, tokenizer, source: list[int], expected: list[int], found: list[int], beams: int) -> float:
    """Return by how many nats PyTorch prefers its own translation: greedily at the first other word, else for a word.

    Of a search with beams it is the difference of the mean for each word, by which the beams are ranked.
    """
    start, end = model.generation_config.decoder_start_token_id, tokenizer.eos_token_id
    totals = []
    first = next((i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]), None)
    first = min(len(expected), len(found)) if first is None else first
    for ids in (expected, found):
        words = torch.tensor([[*ids, end]])
        before = torch.tensor([[start, *ids]])
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=before).logits.log_softmax(-1)
        scores = logits.gather(-1, words[..., None])[0, :, 0]
        totals.append(scores[first].item() if beams == 1 else scores.mean().item())
    return abs(totals[0] - totals[1])


def _scores(tokenizer, encoded, expected, translated, references, tokenize) -> dict:
    texts = {}
    for name, rows in (("pytorch", expected), ("runtime", translated)):
        decoded = iter(tokenizer.batch_decode(rows, skip_special_tokens=True))
        texts[name] = [next(decoded).strip() if row else "" for row in encoded]
    against = score_translations(texts["runtime"], texts["pytorch"], tokenize=tokenize)["bleu"]
    if references is None:
        return {"bleu_against_pytorch": against}
    scores = {name: score_translations(texts[name], references, tokenize=tokenize) for name in texts}
    return {
        "bleu_against_pytorch": against,
        "bleu": scores["runtime"]["bleu"],
        "bleu_pytorch": scores["pytorch"]["bleu"],
        "bleu_signature": scores["runtime"]["bleu_signature"],
    }


def _seconds(translators, rows: list[list[int]], beams: int, longest: int, rounds: int) -> dict[str, dict]:
    """Return by the size of a batch the median seconds for a sentence, in PyTorch and in the runtime, in turns."""
    taken = {}
    for size in _BATCH_SIZES:
        if len(rows) < size or not rounds:
            continue
        step = max(1, len(rows) // 64)
        parts = [part for part in _parts(rows[::step], size)[: max(1, 16 // size)] if len(part) == size]
        timed = time_in_turns(
            {
                name: lambda translate=translate, parts=parts: [translate(part, beams, longest) for part in parts]
                for name, translate in zip(("pytorch", "runtime"), translators, strict=True)
            },
            rounds,
        )
        sentences = sum(map(len, parts))
        taken[f"batch {size}"] = {name: spread(values)["median"] / sentences for name, values in timed.items()}
    return taken
