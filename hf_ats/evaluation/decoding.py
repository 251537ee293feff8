"""Translate many sentences, and measure how fast models do it."""

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from tqdm import tqdm
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoint import longest_input, with_generation_defaults


def decoding_settings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **generate_kwargs) -> dict:
    """How `translate` decodes with these arguments: `num_beams`, the length, and whatever else was given.

    Example:
    ```python
    >>> decoding_settings(model, tokenizer, num_beams=5)
    {'num_beams': 5, 'max_length': 200}
    ```
    """
    options = with_generation_defaults(model, tokenizer, generate_kwargs)
    used = options.pop("generation_config", model.generation_config).to_diff_dict() | options
    lengths = [name for name in ("max_new_tokens", "max_length") if used.get(name) is not None]  # as `generate` ranks
    settings = {"num_beams": used.get("num_beams") or 1} | {name: used[name] for name in lengths[:1]}
    plain = {name: value for name, value in generate_kwargs.items() if isinstance(value, (bool, int, float, str))}
    return settings | {name: value for name, value in plain.items() if name not in ("max_length", "max_new_tokens")}


def translate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    batch_size: int = 32,
    *,
    truncate: bool = False,
    progress: bool = True,
    **generate_kwargs,
) -> list[str]:
    """Translate sentences, in their own order.

    Batches hold sentences of like length, the longest first, so that little is spent on padding and a batch too large
    for the memory fails at once. An empty sentence gives an empty translation and costs nothing. A partitioned model
    translates at its live level.

    Args:
        model: a sequence-to-sequence model, on any device; it decodes in eval mode and goes back to its own mode.
        tokenizer: the model's; set its languages before, where it has any.
        sentences (`list[str]`): the source text, one sentence each.
        batch_size (`int`, defaults to 32): sentences decoded at once.
        truncate (`bool`, defaults to `False`): cut sentences that are longer than the model reads instead of raising.
        progress (`bool`, defaults to `True`): show a bar on standard error once the work has taken five seconds.
        generate_kwargs: what `model.generate` takes, such as `num_beams=5`; by default the model's generation config,
            and for what it leaves open 4 beams and 256 new tokens, as `pipeline("translation")` has it.

    Returns:
        `list[str]`: as many translations as sentences.

    Raises:
        ValueError: a sentence has more tokens than the model reads and `truncate` is off; before any is translated.

    Example:
    ```python
    >>> translate(model, tokenizer, ["Zwei Hunde rennen."], num_beams=5)
    ['Two dogs are running.']
    ```
    """
    translations = [""] * len(sentences)
    batches = _batches(model, tokenizer, sentences, batch_size, truncate)
    options = with_generation_defaults(model, tokenizer, generate_kwargs)
    bar = tqdm(total=len(sentences), desc="translate", unit=" sentences", delay=5, disable=not progress)
    with _in_eval_mode(model), bar:
        for indices, encoded in batches:
            generated = model.generate(**encoded.to(model.device), **options)
            for index, text in zip(indices, tokenizer.batch_decode(generated, skip_special_tokens=True), strict=True):
                translations[index] = text.strip()
            bar.update(len(indices))
    return translations


def decoding_speed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    batch_size: int = 32,
    num_beams: int | None = None,
    *,
    repeats: int = 5,
    truncate: bool = False,
    **generate_kwargs,
) -> dict[str, float | int | str]:
    """How fast one model decodes; `compare_decoding_speed` of that model alone."""
    speeds = compare_decoding_speed(
        {"model": model},
        tokenizer,
        sentences,
        batch_size,
        num_beams,
        repeats=repeats,
        truncate=truncate,
        **generate_kwargs,
    )
    return speeds["model"]


def compare_decoding_speed(
    models: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    batch_size: int = 32,
    num_beams: int | None = None,
    *,
    repeats: int = 5,
    truncate: bool = False,
    **generate_kwargs,
) -> dict[str, dict[str, float | int | str]]:
    """How fast models decode, measured in turns so that what else the machine does hits all of them alike.

    One repeat decodes all sentences: batch by batch each model in turn, and the first of them changes with every
    batch. Before the first repeat one batch of each model warms up. Only `generate` is timed, not the tokenizer.

    Args:
        models (`dict[str, PreTrainedModel]`): by name, all on the same device; one partitioned model may not be there
            twice, so export its levels first.
        tokenizer: the one of all of them.
        sentences (`list[str]`): the source text; a few hundred sentences give a steady figure.
        batch_size (`int`, defaults to 32): sentences decoded at once.
        num_beams (`int`, *optional*): beams; 1 is greedy. The default is that of `translate`, as for what follows.
        repeats (`int`, defaults to 5): how often all sentences are decoded; the figure is the median.
        truncate (`bool`, defaults to `False`): cut sentences that are longer than the models read instead of raising.
        generate_kwargs: what else `model.generate` takes, such as `max_new_tokens`.

    Returns:
        `dict[str, dict]`: for each name `tokens_per_second` (the median over repeats; output tokens of the best
        hypotheses, end of sentence included, padding and the start token not), its `slowest` and `fastest` repeat,
        `output_tokens` of one repeat, and how it was measured: `sentences`, `batch_size`, `num_beams`, `repeats`,
        `device`, `threads`, `dtype`.

    Raises:
        ValueError: there are no models, no sentences with text, no repeats, a sentence is too long, or models are on
            different devices.

    Example:
    ```python
    >>> speeds = compare_decoding_speed({"core": core, "full": full}, tokenizer, sentences, num_beams=5)
    >>> speeds["core"]["tokens_per_second"] / speeds["full"]["tokens_per_second"]
    ```
    """
    _refuse_what_cannot_be_measured(models, sentences, repeats)
    device = next(iter(models.values())).device
    tightest = min(models.values(), key=lambda model: longest_input(model.config))
    batches = [encoded.to(device) for _, encoded in _batches(tightest, tokenizer, sentences, batch_size, truncate)]
    names = list(models)
    given = {"num_beams": num_beams, **generate_kwargs}
    options = {name: with_generation_defaults(model, tokenizer, given) for name, model in models.items()}
    seconds = {name: [0.0] * repeats for name in names}
    tokens = {name: [0] * repeats for name in names}

    def decode(name: str, batch) -> tuple[float, int]:
        synchronize(device)
        start = time.perf_counter()
        generated = models[name].generate(**batch, **options[name])
        synchronize(device)
        elapsed = time.perf_counter() - start
        # The start token, which Marian and T5 also pad with, comes first and was not decoded.
        return elapsed, int((generated[:, 1:] != tokenizer.pad_token_id).sum())

    with _in_eval_mode(*models.values()):
        for name in names:
            decode(name, batches[0])
        for repeat in range(repeats):
            for turn, batch in enumerate(batches):
                first = (repeat + turn) % len(names)
                for name in names[first:] + names[:first]:
                    elapsed, count = decode(name, batch)
                    seconds[name][repeat] += elapsed
                    tokens[name][repeat] += count
    sentences_decoded = sum(len(batch["input_ids"]) for batch in batches)
    speeds = {name: [n / s for n, s in zip(tokens[name], seconds[name], strict=True)] for name in names}
    return {
        name: {
            "tokens_per_second": statistics.median(speeds[name]),
            "slowest": min(speeds[name]),
            "fastest": max(speeds[name]),
            "output_tokens": tokens[name][0],
            "sentences": sentences_decoded,
            "batch_size": batch_size,
            "num_beams": decoding_settings(models[name], tokenizer, **given)["num_beams"],
            "repeats": repeats,
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "dtype": str(models[name].dtype).removeprefix("torch."),
        }
        for name in names
    }


def _refuse_what_cannot_be_measured(models, sentences, repeats) -> None:
    if not models:
        raise ValueError("models={} holds no model; write {'core': core, 'full': full}.")
    if repeats < 1:
        raise ValueError(f"repeats={repeats} measures nothing; write 1 or more.")
    if not any(sentence.strip() for sentence in sentences):
        raise ValueError(f"sentences holds {len(sentences)} sentences, none with text; give the speed some to decode.")
    devices = {name: str(model.device) for name, model in models.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"models are on different devices, {devices}; move them to one with model.to(device).")


def _batches(model, tokenizer, sentences, batch_size, truncate) -> Iterator[tuple[list[int], BatchEncoding]]:
    """`(indices of the sentences, their padded encoding)`, longest first; sentences without text are left out.

    Checks everything when it is called, and encodes a batch when it is its turn.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is not a number of sentences; write 1 or more.")
    longest = longest_input(model.config)
    options = {"truncation": True, "max_length": longest} if truncate and longest < sys.maxsize else {}
    indices = [index for index, sentence in enumerate(sentences) if sentence.strip()]
    lengths = {index: len(tokenizer(sentences[index], **options)["input_ids"]) for index in indices}
    for index, length in lengths.items():
        if length > longest:
            raise ValueError(
                f"sentence {index + 1} has {length} tokens, and this {type(model).__name__} reads at most {longest}; "
                "shorten or split it, or write truncate=True to cut what is over."
            )
    indices.sort(key=lengths.get, reverse=True)
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    return (
        (batch, tokenizer([sentences[index] for index in batch], padding=True, return_tensors="pt", **options))
        for batch in batches
    )


@contextmanager
def _in_eval_mode(*models: torch.nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def synchronize(device: torch.device) -> None:
    """Waits for what a GPU was given; a CPU has done it already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """A GPU's own name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
