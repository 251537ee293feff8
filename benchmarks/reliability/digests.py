r"""Measure what the digests of a checkpoint cost, beside saving it, and what writing it through to the disk costs.

    python -m benchmarks.reliability.digests --output benchmarks/results/reliability/digests.json

A checkpoint here is what a resumed training needs most of: a Marian model with its core by rank, and Adam's state.
"""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import MarianConfig, MarianMTModel

from benchmarks.command import run_command
from benchmarks.record import build_record
from hf_ats import PartitionConfig, partition_
from hf_ats.evaluation import ratio, spread
from hf_ats.storage import draft, sha256_of

ROOT = Path(__file__).parents[2]
# Layers in each half, width, feed-forward width, heads, entries of the vocabulary.
SIZES = {"small": (2, 64, 128, 4, 1000), "Marian base": (6, 512, 2048, 8, 58_101)}
_SAVE, _DIGESTS, _THROUGH = "save_seconds", "digests_seconds", "write_through_seconds"


@dataclass
class DigestArguments:
    """What to measure."""

    sizes: list[str] = field(default_factory=lambda: list(SIZES), metadata={"help": "Which models."})
    rounds: int = field(default=5, metadata={"help": "How often each is saved."})
    folder: Path = field(
        default=ROOT / "runs" / "reliability" / "digests", metadata={"help": "On the disk that is meant."}
    )


def main() -> None:
    """Read the flags, measure, print and write."""
    run_command(DigestArguments, measure, __doc__)


def measure(settings: DigestArguments) -> dict:
    """Return the record: of each size the seconds of saving, digests and writing through, and their ratios.

    Raises:
        ValueError: there is no such size.
    """
    unknown = [size for size in settings.sizes if size not in SIZES]
    if unknown:
        raise ValueError(f"sizes={settings.sizes} holds {unknown[0]!r}; write some of {', '.join(SIZES)}.")
    measurements, ratios = {}, {}
    for size in settings.sizes:
        model, optimizer = build(size)
        rounds = [save(model, optimizer, settings.folder / "checkpoint") for _ in range(settings.rounds + 1)][1:]
        seconds = {name: [one[name] for one in rounds] for name in (_SAVE, _DIGESTS, _THROUGH)}
        measurements[size] = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "checkpoint_bytes": rounds[0]["bytes"],
            **{name: spread(values) for name, values in seconds.items()},
        }
        ratios[f"digests / saving, {size}"] = ratio(seconds[_DIGESTS], seconds[_SAVE])
        ratios[f"writing through / saving, {size}"] = ratio(seconds[_THROUGH], seconds[_SAVE])
    shutil.rmtree(settings.folder, ignore_errors=True)
    chosen = {"rounds": settings.rounds, "sizes": settings.sizes}
    return build_record("reliability.digests", settings=chosen, measurements=measurements, ratios=ratios)


def build(size: str) -> tuple[MarianMTModel, torch.optim.Optimizer]:
    """Return a partitioned model of a size of `SIZES`, and Adam after one step on random gradients."""
    layers, width, feed_forward, heads, vocabulary = SIZES[size]
    config = MarianConfig(
        vocab_size=vocabulary,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_ffn_dim=feed_forward,
        decoder_ffn_dim=feed_forward,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        pad_token_id=vocabulary - 1,
        decoder_start_token_id=vocabulary - 1,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = partition_(MarianMTModel(config), PartitionConfig(ratios=[0.03125], init="random"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def save(model: MarianMTModel, optimizer: torch.optim.Optimizer, directory: Path) -> dict[str, float]:
    """Save a checkpoint once; return the seconds of each part, and its bytes."""
    with draft(directory) as path:
        begin = time.perf_counter()
        model.save_pretrained(path)
        torch.save(optimizer.state_dict(), path / "optimizer.pt")
        saved = time.perf_counter()
        sha256_of(path)
        digested = time.perf_counter()
    done = time.perf_counter()
    size = sum(file.stat().st_size for file in directory.iterdir())
    return {_SAVE: saved - begin, _DIGESTS: digested - saved, _THROUGH: done - digested, "bytes": size}


if __name__ == "__main__":
    main()
