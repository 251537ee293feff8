"""What a Trainer adds to a step: ours and Transformers', each over the bare loop that does the same by hand."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import MarianMTModel, Seq2SeqTrainer, Seq2SeqTrainingArguments, get_scheduler
from transformers.trainer_pt_utils import LabelSmoother

from hf_ats import ATSSeq2SeqTrainer
from hf_ats.data import TokenBudgetBatchSampler, TranslationCollator, decoder_inputs, sequence_lengths
from hf_ats.evaluation import ratio, spread
from hf_ats.partition import set_level
from hf_ats.training import ATSSeq2SeqTrainingArguments, label_smoothed_cross_entropy, levels_at_step

from .epoch_setup import EpochBenchmark, Text, build, trained_in_turns, training_arguments
from .turns import Turn, train_in_turns

# What is compared, each time the first over the second.
RATIOS = {
    "Trainer overhead over a bare loop, small model": ("ats_trainer", "ats_bare_loop"),
    "Seq2SeqTrainer overhead over a bare loop, small model": ("stock_trainer", "stock_bare_loop"),
    "Trainer with data loading / bare loop": ("ats_trainer_with_data", "ats_bare_loop"),
}


class _OverGivenBatches:
    """A mixin of trainers: the data set is the batches, ready and in their order."""

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=lambda batches: batches[0])
        return self.accelerator.prepare(loader)


class _StockTrainer(_OverGivenBatches, Seq2SeqTrainer):
    pass


class _ATSTrainer(_OverGivenBatches, ATSSeq2SeqTrainer):
    pass


def measure_overhead(settings: EpochBenchmark, text: Text, directory: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """Time trainers and bare loops in turns, a turn being one pass over the same batches; no dropout.

    Returns:
        `(measurements, ratios)` for `build_record`.

    Raises:
        RuntimeError: a trainer and its bare loop end with different weights.
    """
    settings = replace(settings, dropout=0.0)
    text = few_sentences(settings, text)
    rounds = settings.overhead_rounds + 1
    stock, stock_bare = (build(settings, text.tokenizer, partitioned=False) for _ in range(2))
    ours, ours_bare, ours_with_data = (build(settings, text.tokenizer, partitioned=True) for _ in range(3))
    collator = TranslationCollator(text.tokenizer)
    sampler = TokenBudgetBatchSampler(sequence_lengths(text.dataset), settings.max_tokens, seed=settings.seed)
    batches = [dict(collator(text.dataset.__getitems__(rows))) for rows in sampler]
    for batch in batches:  # a bare loop takes the labels out of the batch, and needs these
        batch["decoder_input_ids"] = decoder_inputs(stock, batch["labels"])

    common = training_arguments(settings, directory, rounds)
    trainers = {
        "stock_trainer": _StockTrainer(stock, Seq2SeqTrainingArguments(**common), train_dataset=batches),
        "ats_trainer": _ATSTrainer(ours, ATSSeq2SeqTrainingArguments(**common), train_dataset=batches),
        "ats_trainer_with_data": ATSSeq2SeqTrainer(
            ours_with_data,
            ATSSeq2SeqTrainingArguments(max_tokens=settings.max_tokens, **common),
            train_dataset=text.dataset,
            data_collator=collator,
        ),
    }
    runs = {name: trained_in_turns(trainer) for name, trainer in trainers.items()}
    runs["stock_bare_loop"] = bare_loop(stock_bare, batches, rounds, settings, alternating=False)
    runs["ats_bare_loop"] = bare_loop(ours_bare, batches, rounds, settings, alternating=True)
    seconds = train_in_turns(runs, len(batches), device=settings.device)
    # The first round includes the start of everything.
    seconds = {name: [lap / len(batches) for lap in laps[1:]] for name, laps in seconds.items()}
    check_same_weights(stock, stock_bare)
    check_same_weights(ours, ours_bare)

    measurements = {name: {"seconds_per_step": spread(values)} for name, values in seconds.items()}
    ratios = {name: ratio(seconds[above], seconds[below]) for name, (above, below) in RATIOS.items()}
    for name in list(ratios)[:2]:
        ratios[name]["limit"] = 1.0
    return measurements, ratios


def few_sentences(settings: EpochBenchmark, text: Text) -> Text:
    """Take the sentences of about `overhead_batches` batches."""
    sampler = TokenBudgetBatchSampler(sequence_lengths(text.dataset), settings.max_tokens, seed=settings.seed)
    count = len(text.dataset) * min(settings.overhead_batches, len(sampler)) // len(sampler)
    return Text(text.tokenizer, text.dataset.select(range(count)))


def bare_loop(
    model: MarianMTModel, batches: list[dict], epochs: int, settings: EpochBenchmark, *, alternating: bool
) -> Callable[[Turn], None]:
    """Return a run for `train_in_turns`: what the trainer does, with its optimizer, clipping and learning rates."""
    device, smoothing = torch.device(settings.device), settings.label_smoothing_factor
    autocast = torch.autocast(device.type, torch.bfloat16) if settings.bf16 else contextlib.nullcontext()

    def loss_of(outputs, labels):
        if alternating:
            return label_smoothed_cross_entropy(outputs, labels, label_smoothing=smoothing)
        return LabelSmoother(smoothing)(outputs, labels)

    def run(turn: Turn) -> None:
        model.to(device).train()
        # As `train` makes them by default; what the model never saves, its tables of positions, is not trained.
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
        scheduler = get_scheduler("linear", optimizer, 0, epochs * len(batches))
        for epoch in range(epochs):
            for number, batch in enumerate(batches):
                if alternating:
                    (level,) = levels_at_step("alternating", epoch * len(batches) + number, 2)
                    set_level(model, level)
                inputs = {name: values.to(device) for name, values in batch.items()}
                labels = inputs.pop("labels")
                with autocast:
                    outputs = model(**inputs)
                loss_of(outputs, labels).backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                turn.step()
            turn.lap()

    return run


def check_same_weights(first: nn.Module, second: nn.Module) -> None:
    """Refuse to compare loops that do not do the same.

    Raises:
        RuntimeError: a parameter differs by more than the order of the sums can explain.
    """
    others = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        difference = (parameter - others[name]).abs().max().item()
        if not difference <= 1e-3:
            raise RuntimeError(
                f"The trainer and the bare loop end with another {name}: they differ by {difference:.2g}."
            )
