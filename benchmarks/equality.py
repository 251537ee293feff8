"""What is compared before decoding is timed: two networks that are one must decode the same."""

import torch

from .networks import CORE, DENSE, FULL, STOCK


def check_equal(name: str, translations: torch.Tensor, expected: torch.Tensor, least: float) -> float:
    """Return the share of rows of `translations` `(sentences, length)` that equal those of `expected`.

    Raises:
        ValueError: the shapes differ, or fewer than the share `least` are equal; names the first difference.
    """
    if translations.shape != expected.shape:
        raise ValueError(
            f"{name} decodes {tuple(translations.shape)} tokens and not {tuple(expected.shape)}; nothing was timed."
        )
    differences = (translations != expected).nonzero().tolist()
    share = (translations == expected).all(dim=1).double().mean().item()
    if share < least:
        row, column = differences[0]
        raise ValueError(
            f"{name} does not decode what it must: {share:.0%} of {len(expected)} translations are equal, and "
            f"{least:.0%} must be. First difference: sentence {row + 1}, token {column + 1}, "
            f"{translations[row, column]} instead of {expected[row, column]}. Nothing was timed. Where both are "
            "equally likely, another seed or other sources tell."
        )
    return share


@torch.no_grad()
def compare_logits(networks: dict, sources: torch.Tensor, length: int) -> None:
    """Raise ValueError if two networks of transformers differ by more than the rounding of float32."""
    target = networks[STOCK].decode(sources, 1, length)
    logits = {}
    pairs = [(name, other) for name, other in ((FULL, STOCK), (DENSE, CORE)) if name in networks]
    for name in {name for pair in pairs for name in pair}:
        device = networks[name].model.device
        batch = {"input_ids": sources.to(device), "decoder_input_ids": target.to(device)}
        logits[name] = networks[name].model(**batch, use_cache=False).logits
    for name, other in pairs:
        check_close(f"the logits of {name} and {other}", logits[name], logits[other])


def check_close(what: str, values: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Raise ValueError if the largest difference is over `tolerance` times the largest of `expected`."""
    difference, largest = (values - expected).abs().max().item(), expected.abs().max().item()
    if not difference <= tolerance * largest:
        raise ValueError(
            f"{what} differ by {difference:.3g}, and rounding explains {tolerance * largest:.3g}; nothing was timed."
        )
