r"""Time whole epochs as a user runs them, and what the trainer adds to a bare loop.

    python -m benchmarks.epoch --train_prefix data/multi30k/train --output epoch.json
    python -m benchmarks.epoch --train_prefix data/multi30k/train --sentences 29000 --rounds 1 \
        --parts epoch --ways stock_random full_budget
    python -m benchmarks.epoch --device cuda --bf16 --architecture iwslt --max_tokens 12000 --sentences 20000

Without --train_prefix it runs on generated text. Two parts, each of which can be left out:

epoch      The stock Seq2SeqTrainer as transformers' run_translation example sets it up (a fixed number of sentences,
           at random, DataCollatorForSeq2Seq), the same with sentences grouped by length, and ATSSeq2SeqTrainer with
           such random batches and with batches by token budget, with schedules full and alternating. All begin
           with the same network and see every sentence once in an epoch, at the same precision. The fixed number of
           sentences is chosen so that a step of either kind sees as many real tokens on average: then an epoch has
           as many steps of each kind, and trains on as much in each of them. What differs is the padding.
overhead   ATSSeq2SeqTrainer over a bare PyTorch loop of the same alternating steps on the same batches, with data
           loading and without, and Seq2SeqTrainer over its own bare loop.

Everything that is compared runs in turns of a few steps, so that a drifting machine hits all alike.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import torch
import transformers
from transformers import DataCollatorForSeq2Seq, MarianMTModel, Seq2SeqTrainer

from hf_ats.evaluation import ratio, spread
from hf_ats.partition import FlopsLedger, blank_sentences, level_names
from hf_ats.run import keep_freed_memory
from hf_ats.training import levels_at_step

from .command import run_command
from .epoch_setup import WAYS, EpochBenchmark, Text, Way, build_trainer, load_text, trained_in_turns
from .overhead import measure_overhead
from .record import build_record
from .turns import train_in_turns

# Each with the two ways that it compares, the whole first, then its shares.
RATIOS = {
    "token-budget epoch / fixed-batch random epoch, equal precision": ("full_budget", "stock_random"),
    "token-budget epoch / fixed-batch random epoch, both ours": ("full_budget", "full_random"),
    "token-budget epoch / fixed-batch epoch grouped by length": ("full_budget", "stock_grouped"),
    "alternating token-budget epoch / fixed-batch random epoch": ("alternating_budget", "stock_random"),
    "alternating epoch / full epoch, both by token budget": ("alternating_budget", "full_budget"),
}


# ---- What an epoch holds ----


@dataclass
class Survey:
    """What the batches of one epoch hold.

    Attributes:
        shapes: of each batch in its order: sentences, padded source length, padded target length.
        tokens: real tokens, source and target together.
        rows: how often each pair of token sequences occurs.
    """

    shapes: list[tuple[int, int, int]]
    tokens: int
    rows: Counter

    @property
    def padded_tokens(self) -> int:
        """What the network computes over: sentences times both padded lengths."""
        return sum(count * (source + target) for count, source, target in self.shapes)

    @property
    def padding_share(self) -> float:
        """The part of `padded_tokens` that is padding."""
        return 1 - self.tokens / self.padded_tokens


def survey(batches: Iterable[dict[str, torch.Tensor]]) -> Survey:
    """Count an epoch's batches, as the collator made them."""
    shapes, rows = [], Counter()
    tokens = 0
    for batch in batches:
        source, target = batch["attention_mask"].bool().cpu(), batch["labels"].ne(-100).cpu()
        tokens += int(source.sum() + target.sum())
        shapes.append((*source.shape, target.shape[1]))
        for ids, real, labels, right in zip(
            batch["input_ids"].cpu(), source, batch["labels"].cpu(), target, strict=True
        ):
            rows[(tuple(ids[real].tolist()), tuple(labels[right].tolist()))] += 1
    return Survey(shapes, tokens, rows)


def training_flops(way: Way, shapes: list[tuple[int, int, int]], model: MarianMTModel) -> int:
    """Count the operations of an epoch of these batches in this order, padding included."""
    ledger = FlopsLedger(model)
    if way.schedule != "alternating":
        return sum(ledger.training_flops(blank_sentences(*shape)) for shape in shapes)
    levels = (levels_at_step("alternating", step, len(level_names(model)))[0] for step in range(len(shapes)))
    return sum(
        ledger.training_flops(blank_sentences(*shape), level) for shape, level in zip(shapes, levels, strict=True)
    )


def check_same_text(surveys: dict[str, Survey]) -> None:
    """Refuse to compare epochs over different text.

    Raises:
        RuntimeError: two ways see different sentences, or one sentence not as often.
    """
    first, *others = surveys
    for name in others:
        if surveys[name].rows != surveys[first].rows:
            raise RuntimeError(f"An epoch of {name} does not hold the same sentences as one of {first}.")


def check_same_network(trainers: dict[str, Seq2SeqTrainer], batch: dict[str, torch.Tensor]) -> None:
    """Refuse to compare trainings that begin with different networks; all are at their full level.

    Raises:
        RuntimeError: two ways' logits for the batch differ by more than rounding.
    """
    logits = {}
    for name, trainer in trainers.items():
        model = trainer.model.eval()
        with torch.no_grad():
            logits[name] = model(**{key: value.to(model.device) for key, value in batch.items()}).logits.cpu()
        model.train()
    first, *others = logits
    for name in others:
        difference = (logits[name] - logits[first]).abs().max().item()
        if not difference <= 1e-3 * logits[first].abs().max().item():
            raise RuntimeError(f"{name} begins with another network than {first}: logits differ by {difference:.2g}.")


# ---- The measurement ----


def measure_epochs(settings: EpochBenchmark, text: Text, directory: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """Time the epochs of the chosen ways in turns.

    Returns:
        `(measurements, ratios)` for `build_record`. A ratio's `limit` is that of the floating-point operations.

    Raises:
        RuntimeError: the ways do not begin with the same network, or see different text.
    """
    epochs = settings.rounds + 1
    trainers = {
        name: build_trainer(WAYS[name], settings, text, directory, epochs=epochs)
        for name in dict.fromkeys(settings.ways)
    }
    surveys = {name: survey(trainer.get_train_dataloader()) for name, trainer in trainers.items()}
    check_same_text(surveys)
    probe = dict(
        DataCollatorForSeq2Seq(text.tokenizer)([text.dataset[row] for row in range(min(4, len(text.dataset)))])
    )
    check_same_network(trainers, probe)
    flops = {name: training_flops(WAYS[name], surveys[name].shapes, trainers[name].model) for name in trainers}
    seconds = train_in_turns(
        {name: trained_in_turns(trainer) for name, trainer in trainers.items()}, settings.turn, device=settings.device
    )
    seconds = {name: laps[1:] for name, laps in seconds.items()}
    measurements = {
        name: {
            "steps": len(one.shapes),
            "sentences": sum(one.rows.values()),
            "tokens": one.tokens,
            "padded_tokens": one.padded_tokens,
            "padding_share": one.padding_share,
            "flops": flops[name],
            "seconds": spread(seconds[name]),
            "tokens_per_second": spread([one.tokens / lap for lap in seconds[name]]),
        }
        for name, one in surveys.items()
    }
    ratios = {
        name: ratio(seconds[above], seconds[below]) | {"limit": flops[above] / flops[below]}
        for name, (above, below) in RATIOS.items()
        if above in seconds and below in seconds
    }
    return measurements, ratios


def run_epoch_benchmark(settings: EpochBenchmark) -> dict:
    """Measure the chosen parts; return the record.

    Raises:
        OSError, ValueError: the text is missing, bad or too little for the settings.
        RuntimeError: what is compared does not do the same.
    """
    measure = {"epoch": measure_epochs, "overhead": measure_overhead}
    if settings.keep_freed_memory and settings.device == "cpu":
        keep_freed_memory()
    measurements, ratios = {}, {}
    with tempfile.TemporaryDirectory() as directory:
        text = load_text(settings, Path(directory) / "tokenizer")
        for part in settings.parts:
            print(f"measuring: {part}", file=sys.stderr)
            measured, compared = measure[part](settings, text, Path(directory))
            measurements |= measured
            ratios |= compared
    return build_record(
        "epoch", settings=asdict(settings), measurements=measurements, ratios=ratios, device=settings.device
    )


def main() -> None:
    """Measure what the command line asks for."""
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    run_command(EpochBenchmark, run_epoch_benchmark, __doc__)


if __name__ == "__main__":
    main()
