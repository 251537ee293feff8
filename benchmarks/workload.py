"""What the benchmarks of single steps train: models with random weights, batches of random words without padding."""

from dataclasses import dataclass

import torch
from transformers import MarianMTModel

from hf_ats.partition import PartitionConfig
from hf_ats.run.architectures import ARCHITECTURES, build_model


def build_untrained(architecture: str, vocab_size: int, *, seed: int, dropout: float | None = None) -> MarianMTModel:
    """`build_model` without a tokenizer."""
    return build_model(architecture, _Vocabulary(vocab_size), seed=seed, dropout=dropout)


def random_batch(
    sentences: int, length: int, vocab_size: int, generator: torch.Generator, device: torch.device
) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask`, `decoder_input_ids` and `labels`, each of shape `(sentences, length)`."""
    shape = (sentences, length)

    def ids():
        # Neither the end of a sentence nor padding, the first and the last entry.
        return torch.randint(1, vocab_size - 1, shape, generator=generator).to(device)

    mask = torch.ones(shape, dtype=torch.long, device=device)
    return dict(input_ids=ids(), attention_mask=mask, decoder_input_ids=ids(), labels=ids())


def check_model_settings(settings) -> None:
    """Refuses what the fields that the benchmarks share cannot be.

    Raises:
        ValueError: `settings.architecture`, `ratios`, `rounds` or `device` is out of range.
    """
    if settings.architecture not in ARCHITECTURES:
        raise ValueError(f"architecture={settings.architecture!r} is not one of {', '.join(ARCHITECTURES)}.")
    if len(settings.ratios) != 1:
        raise ValueError(f"ratios={settings.ratios} must be one ratio: what is measured here has one core.")
    PartitionConfig(ratios=settings.ratios)  # refuses a ratio out of range
    if settings.rounds < 1:
        raise ValueError(f"rounds={settings.rounds} times nothing; write 1 or more.")
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={settings.device!r}, but PyTorch sees no GPU; write device='cpu'.")


@dataclass(frozen=True)
class _Vocabulary:
    """What building a model asks of a tokenizer."""

    vocab_size: int
    eos_token_id: int = 0
    separate_vocabs: bool = False

    @property
    def pad_token_id(self) -> int:
        return self.vocab_size - 1
