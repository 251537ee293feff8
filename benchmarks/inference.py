r"""Measure what decoding costs: the stock model, the exported full network, the exported core, and core-dense.

    python -m benchmarks.inference
    python -m benchmarks.inference --run runs/demo --beams 5 --rounds 15
    python -m benchmarks.inference --threads 1 --runtimes ctranslate2 onnxruntime --batch_sizes 1 \
        --output benchmarks/results/inference-runtimes.json
    python -m benchmarks.inference --run runs/width --threads 1 --runtimes ctranslate2 --sources data/test.de
    python -m benchmarks.inference --partition '{"method": "depth", "decoder_layers": [1]}' --runtimes ctranslate2
    python -m benchmarks.inference --device cuda --dtype bfloat16 --batch_sizes 1 32 256

Every network decodes the same sources, pieces of running text of equal length, to the same number of tokens: an
untrained model never stops, and trained ones stop at different places. All run in one process in turns, so that what
drifts on the machine hits all of them alike; quote the ratios. The networks:

    stock        a MarianMTModel of transformers, nothing of this package
    full         what export_full wrote: the stock class with W + V U merged
    core         what export_core wrote: the factors U and V, or the stock class with a smaller ffn_dim or fewer layers
    core-dense   of a core by rank: with V U multiplied out, the stock class

and, with --runtimes, full and core-dense in CTranslate2, full and core in ONNX Runtime, behind generate of
transformers, all in float32 and in int8 (pip install ".[deploy]"); a core of the stock class goes through CTranslate2
as it is.

Before anything is timed, all decode in float32: full must give what stock gives and core what the partitioned model
gives at its core level, token for token; core-dense and the runtimes what the same network gives in transformers, for
nine sentences in ten at least (`equal`, also of int8, for which nothing is required). Of a trained run, CTranslate2 is
compared by whole translations, which end by themselves. A mismatch ends the benchmark.

`limit` is what the ratio would be if time were proportional to floating-point operations. Peak memory is that of
loading the network and decoding the largest batch with the widest beam, measured in a process for each.
"""

import itertools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from hf_ats.checkpoint import load_network
from hf_ats.data import default_corpus, read_lines
from hf_ats.deployment import require_runtime
from hf_ats.evaluation import ratio, score_translations, spread, time_in_turns
from hf_ats.partition import flops_per_token, partition_from_dict

from .command import run_command
from .equality import check_equal, compare_logits
from .memory import peak_memory
from .networks import (
    CORE,
    DENSE,
    FULL,
    PARTITIONED,
    STOCK,
    TransformersNetwork,
    networks_of_run,
    untrained_networks,
)
from .openings import Opening, find_openings
from .profiles import profile_shares
from .record import build_record

# Sentences whose whole translations are compared.
_COMPARED = 32
# Text enough for the sources; the other parts are not used.
_CORPUS = {"train": 1, "validation": 1, "test": 300}
# A runtime that rounds in another order may choose another of two words that are equally likely.
_LEAST_EQUAL = 0.9


@dataclass
class InferenceBenchmark:
    """What to measure."""

    run: str | None = field(
        default=None,
        metadata={"help": "a trained run, a directory with full/ and core/; without it, untrained networks are made"},
    )
    architecture: str = field(default="iwslt", metadata={"help": "tiny, iwslt or wmt, the sizes of Table 4"})
    partition: str = field(
        default="{}",
        metadata={
            "help": "fields of PartitionConfig in JSON, or of several, as "
            '{"parts": [{"method": "depth", "decoder_layers": [1]}, {"target_modules": ["embeddings"]}]}; '
            "a run has its own"
        },
    )
    vocab_size: int = field(default=10_000, metadata={"help": "entries of the joint vocabulary"})
    batch_sizes: list[int] = field(default_factory=lambda: [1, 32], metadata={"help": "sentences decoded at once"})
    beams: list[int] = field(default_factory=lambda: [1, 5], metadata={"help": "widths of the search; 1 is greedy"})
    length: int = field(default=25, metadata={"help": "tokens of each source and of each translation; no padding"})
    sentences: int = field(default=2, metadata={"help": "decoded in a round, at least one batch"})
    sources: str | None = field(
        default=None, metadata={"help": "a text file, one sentence a line (default: the test part of our own corpus)"}
    )
    dtype: str = field(
        default="float32",
        metadata={"help": "of the weights, in transformers", "choices": ["float32", "bfloat16", "float16"]},
    )
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa, eager, ... as from_pretrained has it"})
    runtimes: list[str] = field(
        default_factory=list, metadata={"help": "ctranslate2, onnxruntime or both, beside transformers, on the CPU"}
    )
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    rounds: int = field(default=5, metadata={"help": "how often each is timed"})
    memory: bool = field(default=True, metadata={"help": "also peak memory, each in a process of its own"})
    profile: bool = field(default=True, metadata={"help": "also what the time of decoding goes into"})
    seed: int = field(default=0, metadata={"help": "of the weights"})

    def __post_init__(self):
        try:
            self.core = partition_from_dict(json.loads(self.partition))
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(
                f"partition={self.partition!r} is none: {error}; write fields of PartitionConfig in JSON."
            ) from None
        for runtime in self.runtimes:
            require_runtime(runtime)
        if self.runtimes and torch.device(self.device).type != "cpu":
            raise ValueError(
                f"runtimes={self.runtimes} are measured on the CPU; leave them out or write device='cpu'."
            )

    @property
    def combinations(self) -> list[tuple[int, int]]:
        """`(batch size, beams)`, all of them."""
        return list(itertools.product(self.batch_sizes, self.beams))


def run_inference_benchmark(settings: InferenceBenchmark) -> dict:
    """Make or read the networks, compare what they decode, measure, and return the record (`build_record`).

    Raises:
        ValueError: two networks that must decode alike do not, so that the times would be of different things; the
            run does not hold Marian networks.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if settings.run is None:
            directories = untrained_networks(
                settings.architecture, settings.core, settings.vocab_size, folder, seed=settings.seed
            )
        else:
            directories = networks_of_run(settings.run, folder)
        openings = find_openings(directories, settings.runtimes, folder, settings.dtype)
        sources = _sources(settings, directories[FULL])
        equal = _compare(settings, openings, directories, sources)
        # The arithmetic that is timed; what is compared is in float32, where it is nearly exact.
        networks = {name: _open(settings, opening) for name, opening in openings.items()}
        return _measure(settings, networks, openings, sources, equal)


def _sources(settings: InferenceBenchmark, directory: Path) -> torch.Tensor:
    """Return ids `(sentences, length)`: running text cut into pieces of equal length, each with an end of sentence."""
    eos = AutoTokenizer.from_pretrained(directory).eos_token_id
    text = itertools.cycle([token for ids in _sentences(settings, directory) for token in ids if token != eos])
    rows = max(settings.sentences, *settings.batch_sizes)
    return torch.tensor([[*itertools.islice(text, settings.length - 1), eos] for _ in range(rows)])


def _sentences(settings: InferenceBenchmark, directory: Path) -> list[list[int]]:
    """Return the ids of the sentences that the text is made of."""
    if settings.sources is None:
        sentences = [pair["de"] for pair in default_corpus(sizes=_CORPUS)["test"]["translation"]]
    else:
        sentences = read_lines(settings.sources)
    return AutoTokenizer.from_pretrained(directory)(sentences)["input_ids"]


def _compare(
    settings: InferenceBenchmark, openings: dict[str, Opening], directories: dict[str, Path], sources: torch.Tensor
) -> dict[tuple[str, int], dict]:
    """Return by candidate and beams `equal_share`, a share, and `bleu_against_float32` of int8, over pieces.

    All candidates decode all sources in float32. `full` must decode what `stock` decodes and `core` what the
    partitioned model decodes at its core level, token for token; `core-dense` and the runtimes in float32 what the
    same network decodes in transformers, but for one in ten. Of a trained run CTranslate2 is compared by whole
    translations, which end by themselves: past the end of a sentence it scores words otherwise than transformers.
    """
    networks = {name: _open(settings, opening, "float32") for name, opening in openings.items()}
    tokenizer = AutoTokenizer.from_pretrained(directories[FULL])
    compare_logits(networks, sources[: settings.batch_sizes[0]], settings.length)
    partitioned = None  # a trained run need not have kept it
    if (directories[STOCK].parent / PARTITIONED).exists():
        model = load_network(
            directories[STOCK].parent / PARTITIONED, "core", attn_implementation=settings.attn_implementation
        )
        partitioned = TransformersNetwork(model, settings.device)
    compared = {}
    for beams in settings.beams:
        decoded = {name: network.decode(sources, beams, settings.length) for name, network in networks.items()}
        expected = {name: name.split(",")[0] if "," in name else name for name in networks}
        expected |= {FULL: STOCK, DENSE: CORE}
        references = {name: decoded[expected[name]] for name in networks}
        if partitioned is not None:
            references[CORE] = partitioned.decode(sources, beams, settings.length)
        for name, translations in decoded.items():
            if settings.run is not None and openings[name].runtime == "ctranslate2":
                both = (networks[name], networks[expected[name]])
                translations, references[name] = _whole_translations(both, settings, directories[FULL], beams)
            least = {FULL: 1.0, CORE: 1.0}.get(name, 0.0 if name.endswith("int8") else _LEAST_EQUAL)
            share = check_equal(name, translations, references[name], least)
            compared[name, beams] = {"equal_share": share}
            if name.endswith("int8"):
                # Over pieces, since what an untrained network decodes makes few words.
                pieces = [
                    [
                        " ".join(tokenizer.convert_ids_to_tokens([id_ for id_ in row if id_ >= 0]))
                        for row in ids.tolist()
                    ]
                    for ids in (translations, references[name])
                ]
                compared[name, beams]["bleu_against_float32"] = score_translations(*pieces, tokenize="none")["bleu"]
    return compared


def _whole_translations(
    networks: Sequence, settings: InferenceBenchmark, directory: Path, beams: int
) -> list[torch.Tensor]:
    """Return each network's translations of the first sentences, `(sentences, longest)`, filled up with -1."""
    positions = AutoConfig.from_pretrained(directory).max_position_embeddings
    sources = [ids for ids in _sentences(settings, directory) if len(ids) < positions][:_COMPARED]
    longest = min(4 * settings.length, positions - 1)
    ids = torch.full((len(networks), len(sources), longest), -1)
    for network, rows in zip(networks, ids, strict=True):
        for source, row in zip(sources, rows, strict=True):
            translation = network.translate([source], beams, longest)[0][:longest]
            row[: len(translation)] = torch.tensor(translation)
    return list(ids)


def _measure(
    settings: InferenceBenchmark,
    networks: dict,
    openings: dict[str, Opening],
    sources: torch.Tensor,
    equal: dict[tuple[str, int], dict],
) -> dict:
    flops = {
        name: flops_per_token(networks[name].model, source_length=settings.length, target_length=settings.length)
        for name in (STOCK, FULL, CORE, DENSE)
        if name in networks
    }
    measurements = {}
    for name, opening in openings.items():
        measurements[name] = {"size_bytes": opening.size_bytes}
        if name in flops:
            measurements[name] |= {"parameters": networks[name].model.num_parameters(), "flops_per_token": flops[name]}
    seconds = {}
    for batch, beams in settings.combinations:
        where = _where(batch, beams)
        batches = sources[: max(batch, settings.sentences)].split(batch)
        batches = [ids for ids in batches if len(ids) == batch]
        timed = {
            name: lambda network=network, beams=beams, batches=batches: [
                network.decode(ids, beams, settings.length) for ids in batches
            ]
            for name, network in networks.items()
        }
        taken = time_in_turns(timed, settings.rounds, device=settings.device, progress=where)
        seconds[where] = {name: [value / len(batches) for value in values] for name, values in taken.items()}
        for name, values in seconds[where].items():
            latency = spread(values)
            measurements[f"{name}, {where}"] = {
                "seconds_per_batch": latency,
                "tokens_per_second": batch * settings.length / latency["median"],
                **equal.get((name, beams), {}),
            }
    if settings.profile:
        _profile(settings, networks, sources, measurements)
    if settings.memory:
        batch, beams = max(settings.batch_sizes), max(settings.beams)
        for name, opening in openings.items():
            measurements[name]["peak_bytes"] = peak_memory(
                _decode_once, settings, opening, sources[:batch], beams, device=settings.device
            )
    return build_record(
        "inference",
        settings=asdict(settings),
        measurements=measurements,
        ratios=_ratios(seconds, flops, measurements),
        device=settings.device,
    )


def _open(settings: InferenceBenchmark, opening: Opening, dtype: str | None = None):
    return opening.open(dtype or settings.dtype, settings.attn_implementation, settings.device)


def _decode_once(settings: InferenceBenchmark, opening: Opening, sources: torch.Tensor, beams: int) -> None:
    disable_progress_bar()
    _open(settings, opening).decode(sources, beams, settings.length)


def _profile(settings: InferenceBenchmark, networks: dict, sources: torch.Tensor, measurements: dict) -> None:
    """Add to the smallest batch's and widest beam's measurements of full and core what their time goes into."""
    batch, beams = min(settings.batch_sizes), max(settings.beams)
    for name in (FULL, CORE):
        network = networks[name]
        shares = profile_shares(
            lambda network=network: network.decode(sources[:batch], beams, settings.length),
            network.model.config.vocab_size,
            torch.device(settings.device),
            steps=1,
        )
        # The kinds of a training step that decoding does not have are left out.
        shares = {kind: share for kind, share in shares.items() if share >= 0.005}
        measurements[f"{name}, {_where(batch, beams)}"]["profile"] = shares


def _where(batch: int, beams: int) -> str:
    return f"batch {batch}, {'greedy' if beams == 1 else f'beam {beams}'}"


def _ratios(seconds: dict[str, dict[str, Sequence[float]]], flops: dict[str, float], measurements: dict) -> dict:
    """Return the ratios, paired by round; `limit` is the quotient of a forward pass's FLOPs over a sentence pair."""
    ratios = {}
    whole = {
        name: [sum(values) for values in zip(*(taken[name] for taken in seconds.values()), strict=True)]
        for name in (FULL, STOCK)
    }
    ratios["exported full / stock, decoding"] = ratio(whole[FULL], whole[STOCK]) | {
        "limit": flops[FULL] / flops[STOCK]
    }
    for where, taken in seconds.items():
        for name, other, title in (
            (CORE, FULL, "core / full latency"),
            (FULL, STOCK, "exported full / stock latency"),
            (DENSE, FULL, "core-dense / full latency"),
        ):
            if name not in taken:
                continue
            ratios[f"{title}, {where}"] = ratio(taken[name], taken[other]) | {"limit": flops[name] / flops[other]}
        for name in taken:
            network, comma, runtime = name.partition(", ")
            if comma:
                ratios[f"{name} / {network} latency, {where}"] = ratio(taken[name], taken[network])
            other = f"{FULL}, {runtime}"
            if comma and network != FULL:
                ratios[f"{name} / {other} latency, {where}"] = ratio(taken[name], taken[other]) | {
                    "limit": flops[network] / flops[FULL]
                }
    for unit, title in (("size_bytes", "size on disk"), ("peak_bytes", "peak memory")):
        if unit in measurements[CORE]:
            ratios[f"core / full {title}"] = {"value": measurements[CORE][unit] / measurements[FULL][unit]}
    return ratios


def main() -> None:
    """Measure what the command line asks for."""
    disable_progress_bar()  # of loading and saving; the rounds have their own
    run_command(InferenceBenchmark, run_inference_benchmark, __doc__)


if __name__ == "__main__":
    main()
