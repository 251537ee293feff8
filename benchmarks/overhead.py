"""What a Trainer adds to a step: ours and Transformers', each over the bare loop that does the same by hand."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import DataCollatorForSeq2Seq, MarianMTModel, Seq2SeqTrainer, Seq2SeqTrainingArguments, get_scheduler
from transformers.trainer_pt_utils import LabelSmoother

from hf_ats.data import TokenBudgetBatchSampler, TranslationCollator, decoder_inputs, sequence_lengths
from hf_ats.evaluation import ratio, spread, time_in_turns
from hf_ats.partition import partitioned_layers
from hf_ats.trainers import ATSSeq2SeqTrainer
from hf_ats.training import ATSSeq2SeqTrainingArguments, label_smoothed_cross_entropy, levels_at_step

from .epoch_setup import EpochBenchmark, Text, build, silenced, trained_in_turns, training_arguments, without_dropout
from .turns import Turn, train_in_turns

OVERHEAD = "Trainer overhead over a bare loop, small model"

# What is compared, each time the first over the second.
RATIOS = {
    OVERHEAD: ("ats_trainer", "ats_bare_loop"),
    "Seq2SeqTrainer overhead over a bare loop, small model": ("stock_trainer", "stock_bare_loop"),
    "Trainer with data loading / bare loop": ("ats_trainer_with_data", "ats_bare_loop"),
    "TranslationCollator / DataCollatorForSeq2Seq": ("load_and_collate", "load_and_collate_stock"),
}


class _OverGivenBatches:
    """A mixin of trainers: the data set is the batches, ready and in their order."""

    def get_train_dataloader(self) -> DataLoader:
        """One batch after another, as it is."""
        loader = DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=lambda batches: batches[0])
        return self.accelerator.prepare(loader)


class _StockTrainer(_OverGivenBatches, Seq2SeqTrainer):
    pass


class _ATSTrainer(_OverGivenBatches, ATSSeq2SeqTrainer):
    pass


def measure_overhead(settings: EpochBenchmark, text: Text, directory: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """Times trainers and bare loops in turns, a turn being one pass over the same batches; no dropout.

    Returns:
        `(measurements, ratios)` for `build_record`.

    Raises:
        RuntimeError: a trainer and its bare loop end with different weights.
    """
    settings = without_dropout(settings)
    text = few_sentences(settings, text)
    rows = list(TokenBudgetBatchSampler(sequence_lengths(text.dataset), settings.max_tokens, seed=settings.seed))
    rounds = settings.overhead_rounds + 1
    stock = {name: build(settings, text.tokenizer, partitioned=False) for name in ("trainer", "bare")}
    ours = {name: build(settings, text.tokenizer, partitioned=True) for name in ("trainer", "bare", "data")}
    collator = TranslationCollator(text.tokenizer)
    batches = [dict(collator(text.dataset.__getitems__(batch))) for batch in rows]
    for batch in batches:  # which a bare loop, that takes the labels out of the batch, has to be given
        batch["decoder_input_ids"] = decoder_inputs(stock["bare"], batch["labels"])

    arguments = training_arguments(settings, directory, rounds)
    trainers = {
        "stock_trainer": _StockTrainer(stock["trainer"], Seq2SeqTrainingArguments(**arguments), train_dataset=batches),
        "ats_trainer": _ATSTrainer(ours["trainer"], ATSSeq2SeqTrainingArguments(**arguments), train_dataset=batches),
        "ats_trainer_with_data": ATSSeq2SeqTrainer(
            ours["data"],
            ATSSeq2SeqTrainingArguments(max_tokens=settings.max_tokens, **arguments),
            train_dataset=text.dataset,
            data_collator=TranslationCollator(text.tokenizer),
        ),
    }
    runs = {name: trained_in_turns(silenced(trainer)) for name, trainer in trainers.items()}
    runs["stock_bare_loop"] = bare_loop(stock["bare"], batches, rounds, settings, alternating=False)
    runs["ats_bare_loop"] = bare_loop(ours["bare"], batches, rounds, settings, alternating=True)
    seconds = train_in_turns(runs, len(batches), device=settings.device)
    # The first round has the start of everything.
    seconds = {name: [lap / len(batches) for lap in laps[1:]] for name, laps in seconds.items()}
    check_same_weights(stock["trainer"], stock["bare"])
    check_same_weights(ours["trainer"], ours["bare"])
    seconds |= time_loading(rows, text, ours["data"], settings.overhead_rounds)

    measurements = {name: {"seconds_per_step": spread(values)} for name, values in seconds.items()}
    ratios = {name: ratio(seconds[above], seconds[below]) for name, (above, below) in RATIOS.items()}
    for name in list(ratios)[:2]:
        ratios[name]["limit"] = 1.0
    return measurements, ratios


def few_sentences(settings: EpochBenchmark, text: Text) -> Text:
    """The sentences of about `overhead_batches` batches.

    Raises:
        ValueError: the text makes fewer.
    """
    sampler = TokenBudgetBatchSampler(sequence_lengths(text.dataset), settings.max_tokens, seed=settings.seed)
    if len(sampler) < settings.overhead_batches:
        raise ValueError(
            f"{len(text.dataset)} sentences make {len(sampler)} batches of {settings.max_tokens} tokens, less than "
            f"--overhead_batches {settings.overhead_batches}; give more --sentences, a smaller --max_tokens or fewer "
            "batches."
        )
    count = len(text.dataset) * settings.overhead_batches // len(sampler)
    return Text(text.tokenizer, text.dataset.select(range(count)))


def bare_loop(
    model: MarianMTModel,
    batches: list[dict[str, torch.Tensor]],
    epochs: int,
    settings: EpochBenchmark,
    *,
    alternating: bool,
) -> Callable[[Turn], None]:
    """A run for `train_in_turns`: the loop that the trainer stands for, with its optimizer, clipping and schedule."""
    device = torch.device(settings.device)
    smoothing = settings.label_smoothing_factor
    loss_of = (
        partial(label_smoothed_cross_entropy, label_smoothing=smoothing) if alternating else stock_loss(smoothing)
    )

    def run(turn: Turn) -> None:
        model.to(device).train()
        layers = list(partitioned_layers(model).values())
        # As `train` makes them by default; what the model never saves, its tables of positions, is not trained.
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
        scheduler = get_scheduler("linear", optimizer, 0, epochs * len(batches))
        for epoch in range(epochs):
            for number, batch in enumerate(batches):
                if alternating:
                    (level,) = levels_at_step("alternating", epoch * len(batches) + number, 2)
                    for layer in layers:
                        layer.level = level
                inputs = {name: values.to(device) for name, values in batch.items()}
                labels = inputs.pop("labels") if alternating or smoothing else None
                with torch.autocast(device.type, torch.bfloat16) if settings.bf16 else contextlib.nullcontext():
                    outputs = model(**inputs)
                loss = outputs.loss if labels is None else loss_of(outputs, labels)
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                turn.step()
            turn.lap()

    return run


def stock_loss(smoothing: float) -> Callable:
    """What the stock trainer computes with label smoothing; without it the model has a loss of its own."""
    smoother = LabelSmoother(epsilon=smoothing)
    return lambda outputs, labels: smoother(outputs, labels)


def check_same_weights(first: nn.Module, second: nn.Module) -> None:
    """Refuses to compare loops that do not do the same.

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


def time_loading(rows: list[list[int]], text: Text, model: MarianMTModel, rounds: int) -> dict[str, list[float]]:
    """Seconds of a batch from the data set to tensors, by our collator and by Transformers'; once for each round."""
    collators = {
        "load_and_collate": TranslationCollator(text.tokenizer),
        "load_and_collate_stock": DataCollatorForSeq2Seq(text.tokenizer, model),
    }

    def load(collator):
        return lambda: [collator(text.dataset.__getitems__(batch)) for batch in rows]

    seconds = time_in_turns({name: load(collator) for name, collator in collators.items()}, rounds)
    return {name: [value / len(rows) for value in values] for name, values in seconds.items()}
