"""Translate many sentences, and measure how fast models do it."""

import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from tqdm import tqdm
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from ..data import pad_rows, shows_nothing
from ..remote_code import longest_input, with_generation_defaults

# A network of this size gains little from a second thread when it decodes: it gained a third to nothing on two free
# cores, and took 10 to 150 times as long on two that others used, since each of its many short operations waits for
# both threads.
_PARAMETERS_OF_ONE_THREAD = 4_000_000
_OWN_THREADS = torch.get_num_threads()


def decoding_settings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **generate_kwargs) -> dict:
    """Return how `translate` decodes with these arguments: `num_beams`, the length, and all other arguments given.

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
    translates at its live level. On a CPU a small one decodes on one thread, see `decoding_threads`.

    Args:
        model: a sequence-to-sequence model, on any device; it decodes in eval mode and goes back to its own mode.
        tokenizer: the model's; set its languages before, if it has any.
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
    encoded = encode_sentences(tokenizer, sentences, [model], truncate=truncate)
    return translate_encoded(model, tokenizer, encoded, batch_size, progress=progress, **generate_kwargs)


def translate_encoded(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[list[int]],
    batch_size: int = 32,
    *,
    progress: bool = True,
    **generate_kwargs,
) -> list[str]:
    """Translate what `encode_sentences` returned; as `translate`, for sentences that several networks translate."""
    translations = [""] * len(encoded)
    options = with_generation_defaults(model, tokenizer, generate_kwargs)
    bar = tqdm(total=len(encoded), desc="translate", unit=" sentences", delay=5, disable=not progress)
    with in_eval_mode(model), decoding_threads(model), bar:
        for indices, batch in batches_by_length(tokenizer, encoded, batch_size):
            generated = model.generate(**batch.to(model.device), **options)
            for index, text in zip(indices, _decoded(tokenizer, generated), strict=True):
                translations[index] = text.strip()
            bar.update(len(indices))
    return translations


def _decoded(tokenizer: PreTrainedTokenizerBase, generated: torch.Tensor) -> list[str]:
    try:
        return tokenizer.batch_decode(generated, skip_special_tokens=True)
    except IndexError as error:  # as sentencepiece says it, which is behind Marian's tokenizer
        raise ValueError(
            f"the model writes token {generated.max().item()}, and its tokenizer has {len(tokenizer)} entries; give "
            f"the tokenizer that it was trained with ({error})."
        ) from error


def compare_decoding_speed(
    models: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[list[int]],
    batch_size: int = 32,
    num_beams: int | None = None,
    *,
    repeats: int = 5,
    **generate_kwargs,
) -> dict[str, dict[str, float | int | str]]:
    """Measure how fast models decode, in turns so that other work of the machine affects all alike.

    One repeat decodes all sentences: batch by batch each model in turn, and the first of them changes with every
    batch. Before the first repeat one batch of each model warms up. Only `generate` is timed, not the tokenizer.

    Args:
        models (`dict[str, PreTrainedModel]`): by name, all on the same device; one partitioned model must not be there
            twice, so export its levels first.
        tokenizer: their common one.
        encoded: the source text, as `encode_sentences` returns it; a few hundred sentences give a steady figure.
        batch_size (`int`, defaults to 32): sentences decoded at once.
        num_beams (`int`, *optional*): beams; 1 is greedy. The default is that of `translate`, as for what follows.
        repeats (`int`, defaults to 5): how often all sentences are decoded; the figure is the median.
        generate_kwargs: what else `model.generate` takes, such as `max_new_tokens`.

    Returns:
        `dict[str, dict]`: for each name `tokens_per_second` (the median over repeats; output tokens of the best
        hypotheses, end of sentence included, padding and the start token not), its `slowest` and `fastest` repeat,
        `output_tokens` of one repeat, and how it was measured: `sentences`, `batch_size`, `num_beams`, `repeats`,
        `device`, `threads`, `dtype`.

    Raises:
        ValueError: there are no sentences with text, no repeats, or models are on different devices.

    Example:
    ```python
    >>> encoded = encode_sentences(tokenizer, sentences, [core, full])
    >>> speeds = compare_decoding_speed({"core": core, "full": full}, tokenizer, encoded, num_beams=5)
    >>> speeds["core"]["tokens_per_second"] / speeds["full"]["tokens_per_second"]
    ```
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} measures nothing; write 1 or more.")
    if not any(encoded):
        raise ValueError(f"encoded holds {len(encoded)} sentences, none with text; give the speed some to decode.")
    devices = {name: str(model.device) for name, model in models.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"models are on different devices, {devices}; move them to one with model.to(device).")
    device = next(iter(models.values())).device
    batches = [batch.to(device) for _, batch in batches_by_length(tokenizer, encoded, batch_size)]
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

    with in_eval_mode(*models.values()), decoding_threads(*models.values()):
        threads = torch.get_num_threads()
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
            "threads": threads,
            "dtype": str(models[name].dtype).removeprefix("torch."),
        }
        for name in names
    }


def encode_sentences(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    models: Sequence[PreTrainedModel],
    *,
    truncate: bool = False,
) -> list[list[int]]:
    """Return the token ids of each sentence, as `translate_encoded` takes them; none of a sentence without text.

    Args:
        tokenizer: of the models.
        sentences: the source text.
        models: those that will read it; the smallest limit counts.
        truncate: cut what is longer than they read instead of raising.

    Raises:
        ValueError: a sentence has more tokens than a model reads, and `truncate` is off.
    """
    longest = min(longest_input(model.config) for model in models)
    options = {"truncation": True, "max_length": longest} if truncate and longest < sys.maxsize else {}
    with_text = [index for index, sentence in enumerate(sentences) if not shows_nothing(sentence)]
    encoded: list[list[int]] = [[] for _ in sentences]
    if with_text:
        ids = tokenizer([sentences[index] for index in with_text], verbose=False, **options)["input_ids"]
        for index, row in zip(with_text, ids, strict=True):
            encoded[index] = row
    for index, row in enumerate(encoded):
        if len(row) > longest:
            raise ValueError(
                f"sentence {index + 1} has {len(row)} tokens, and this {type(models[0]).__name__} reads at most "
                f"{longest}; shorten or split it, or write truncate=True to cut what is over."
            )
    return encoded


def batches_by_length(
    tokenizer: PreTrainedTokenizerBase, encoded: Sequence[list[int]], batch_size: int
) -> Iterator[tuple[list[int], BatchEncoding]]:
    """Yield `(indices of the sentences, their padded encoding)`, longest first; sentences without text are left out.

    Raises:
        ValueError: `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is not a number of sentences; write 1 or more.")
    indices = sorted((index for index, row in enumerate(encoded) if row), key=lambda index: -len(encoded[index]))
    for start in range(0, len(indices), batch_size):
        batch = indices[start : start + batch_size]
        rows = [encoded[index] for index in batch]
        padded = {
            "input_ids": pad_rows(rows, tokenizer.pad_token_id, side=tokenizer.padding_side),
            "attention_mask": pad_rows([[1] * len(row) for row in rows], 0, side=tokenizer.padding_side),
        }
        yield batch, BatchEncoding({name: torch.from_numpy(values) for name, values in padded.items()})


@contextmanager
def in_eval_mode(*models: torch.nn.Module) -> Iterator[None]:
    """Put models into eval mode for a `with` block, and every module back into its own mode."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def decoding_threads(*models: PreTrainedModel) -> Iterator[None]:
    """Let PyTorch use one thread for a `with` block if small models decode in it on a CPU, and then as many as before.

    Models of up to 4 million parameters are small. A number that somebody chose stays: by OMP_NUM_THREADS, or by
    `torch.set_num_threads` after the import of hf_ats.
    """
    before = torch.get_num_threads()
    chosen = "OMP_NUM_THREADS" in os.environ or before != _OWN_THREADS
    small = all(model.device.type == "cpu" and model.num_parameters() <= _PARAMETERS_OF_ONE_THREAD for model in models)
    if small and not chosen:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work; a CPU already has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """Return a GPU's own name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
