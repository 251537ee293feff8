"""The workload of single steps: models with random weights, batches of random words without padding."""

from dataclasses import dataclass

import torch
from transformers import MarianMTModel

from hf_ats.run import build_model


def build_untrained(architecture: str, vocab_size: int, *, seed: int, dropout: float | None = None) -> MarianMTModel:
    """Build a model as `build_model` does, without a tokenizer."""
    return build_model(architecture, _Vocabulary(vocab_size), seed=seed, dropout=dropout)


def random_batch(
    sentences: int, length: int, vocab_size: int, generator: torch.Generator, device: torch.device
) -> dict[str, torch.Tensor]:
    """Return `input_ids`, `attention_mask`, `decoder_input_ids` and `labels`, each of shape `(sentences, length)`."""
    shape = (sentences, length)

    def ids():
        # Neither the end of a sentence nor padding, the first and the last entry.
        return torch.randint(1, vocab_size - 1, shape, generator=generator).to(device)

    mask = torch.ones(shape, dtype=torch.long, device=device)
    return dict(input_ids=ids(), attention_mask=mask, decoder_input_ids=ids(), labels=ids())


@dataclass(frozen=True)
class _Vocabulary:
    """A stand-in for a tokenizer, with only what building a model needs."""

    vocab_size: int
    eos_token_id: int = 0
    separate_vocabs: bool = False

    @property
    def pad_token_id(self) -> int:
        return self.vocab_size - 1
