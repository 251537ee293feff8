"""What many tests ask of a network before and after a step."""

import torch
from torch import nn


def snapshot(tensors) -> dict[str, torch.Tensor]:
    """Copies of a module's parameters, or of the tensors of any mapping."""
    if isinstance(tensors, nn.Module):
        tensors = dict(tensors.named_parameters())
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_still(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], names) -> None:
    """Bitwise the same, and there is something to compare."""
    names = list(names)
    assert names
    moved = [name for name in names if not torch.equal(before[name], after[name])]
    assert not moved, f"moved: {moved}"


def assert_moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], names) -> None:
    """Every one of them changed, and there is something to compare."""
    names = list(names)
    assert names
    still = [name for name in names if torch.equal(before[name], after[name])]
    assert not still, f"still: {still}"


def assert_same_weights(one: nn.Module, other: nn.Module, **tolerance) -> None:
    """Bitwise by default; `rtol` and `atol` as in torch.testing."""
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert_close_named(name, second[name], tensor, **(tolerance or {"rtol": 0, "atol": 0}))


def assert_close_named(name: str, actual: torch.Tensor, expected: torch.Tensor, **tolerance) -> None:
    """torch.testing.assert_close, which says which tensor it was."""
    torch.testing.assert_close(actual, expected, **tolerance, msg=lambda message: f"{name}: {message}")
