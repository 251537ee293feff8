"""What the modules of a model read on some text, from which `partition_` and a plan choose what a core keeps."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..partition import InputMoments, is_partitioned, is_translation_model, vocabulary_tables
from ..remote_code import longest_input
from .decoding import decoding_threads, encode_sentences, in_eval_mode


@torch.no_grad()
def input_moments(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], progress: bool = True
) -> dict[str, InputMoments]:
    """Return what every linear layer and every lookup in a vocabulary table reads, by the module's name.

    The decoder is shown the model's own greedy translations, of at most twice as many tokens as their sources and ten.

    Args:
        model: an encoder-decoder, not partitioned, on any device.
        tokenizer: its tokenizer, with its languages set if it has any.
        sentences (`list[str]`): source text, a hundred or so, with the prefix that the model wants; what is longer
            than the model reads is cut.
        progress: whether to show a bar on standard error.

    Raises:
        ValueError: no sentence has text; or the model is partitioned, or does not translate.

    Example:

    ```python
    >>> moments = input_moments(model, tokenizer, ["Zwei Hunde rennen.", "Ein Kind lacht."])
    >>> partition_(model, PartitionConfig("width", [0.25], init="importance"), moments)
    ```
    """
    if is_partitioned(model) or not is_translation_model(model):
        raise ValueError(
            f"calibration shows sentences to a translation model before it is partitioned, and this "
            f"{type(model).__name__} is none; give one, or leave the calibration out."
        )
    encoded = list(filter(None, encode_sentences(tokenizer, sentences, [model], truncate=True)))
    if not encoded:
        raise ValueError(f"the calibration has {len(sentences)} sentences, none with text; give some.")
    found: dict[str, InputMoments] = {}

    def read_rows(name: str, module: nn.Linear, inputs: tuple) -> None:
        rows = inputs[0].flatten(0, -2).float()
        add(name, InputMoments(len(rows), rows.sum(0), rows.T @ rows))

    def read_tokens(name: str, module: nn.Embedding, inputs: tuple) -> None:
        tokens = inputs[0].flatten()
        add(name, InputMoments(len(tokens), tokens.bincount(minlength=len(module.weight)).float()))

    def add(name: str, moments: InputMoments) -> None:
        found[name] = found[name] + moments if name in found else moments

    readers = {name for names in vocabulary_tables(model) for name in names}
    hooks = {
        module: partial(read_rows if isinstance(module, nn.Linear) else read_tokens, name)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or name in readers
    }
    positions = longest_input(model.config)
    with in_eval_mode(model), decoding_threads(model):
        for row in tqdm(encoded, desc="calibration", unit=" sentences", disable=not progress):
            source = torch.tensor([row], device=model.device)
            given = {"input_ids": source, "attention_mask": torch.ones_like(source)}
            longest = 1 + min(10 + 2 * len(row), positions - 1)
            target = model.generate(**given, num_beams=1, do_sample=False, max_length=longest, max_new_tokens=None)
            handles = [module.register_forward_pre_hook(hook) for module, hook in hooks.items()]
            model(**given, decoder_input_ids=target)
            for handle in handles:
                handle.remove()
    return found
