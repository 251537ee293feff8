"""The fast loss against PyTorch's own."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from hf_ats.training import label_smoothed_cross_entropy
from hf_ats.training import loss as loss_module


def logits_and_labels(dtype, spread=3.0):
    torch.manual_seed(0)
    logits = (spread * torch.randn(3, 5, 11, dtype=torch.float64)).to(dtype)
    labels = torch.randint(0, 11, (3, 5))
    labels[0, 3:] = labels[2, 1] = -100
    return logits, labels


def value_and_gradient(loss, logits):
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    (3 * value).backward()  # whoever scales the loss scales its gradient
    return value.detach(), logits.grad


def ours(logits, labels, label_smoothing):
    return value_and_gradient(
        lambda x: label_smoothed_cross_entropy(SimpleNamespace(logits=x), labels, 7, label_smoothing), logits
    )


def plain(logits, labels, label_smoothing):
    # Half precision is widened first, as the Trainer's own loss has it.
    wide = torch.promote_types(logits.dtype, torch.float32)
    return value_and_gradient(
        lambda x: (
            F.cross_entropy(
                x.flatten(0, 1).to(wide), labels.flatten(), reduction="sum", label_smoothing=label_smoothing
            )
            / 7
        ),
        logits,
    )


@pytest.mark.law(number=8)
@pytest.mark.parametrize("at_once", [1, 25, 2**22], ids=["a row", "two rows and a rest", "all"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Half precision: one rounding of the gradient to 8 or 11 bits.
    [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 2**-8), (torch.float16, 2**-10)],
)
def test_the_loss_and_its_gradient_are_those_of_pytorch(dtype, tolerance, label_smoothing, at_once, monkeypatch):
    monkeypatch.setattr(loss_module, "_LOGITS_AT_ONCE", at_once)
    logits, labels = logits_and_labels(dtype)
    value, gradient = ours(logits, labels, label_smoothing)
    expected_value, expected_gradient = plain(logits, labels, label_smoothing)
    assert value.dtype == expected_value.dtype and gradient.dtype == dtype
    torch.testing.assert_close(value, expected_value, rtol=min(tolerance, 1e-6), atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance * 1e-1)


def test_large_logits_neither_overflow_nor_underflow():
    logits, labels = logits_and_labels(torch.float32, spread=1e4)
    value, gradient = ours(logits, labels, 0.1)
    expected_value, expected_gradient = plain(logits, labels, 0.1)
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(gradient, expected_gradient)


def test_by_default_the_loss_is_per_target_token():
    logits, labels = logits_and_labels(torch.float64)
    loss = label_smoothed_cross_entropy(SimpleNamespace(logits=logits), labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), labels.flatten()))


def test_a_second_backward_pass_gives_the_same_gradient():
    logits, labels = logits_and_labels(torch.float64)
    logits.requires_grad_()
    loss = label_smoothed_cross_entropy(SimpleNamespace(logits=logits), labels, label_smoothing=0.1)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(2 * loss, logits)
    torch.testing.assert_close(second, 2 * first)


def test_the_backward_pass_makes_one_tensor_of_the_size_of_the_logits():
    logits, labels = logits_and_labels(torch.float32)
    logits = logits.repeat(1, 40, 1).requires_grad_()
    labels = labels.repeat(1, 40)
    loss = label_smoothed_cross_entropy(SimpleNamespace(logits=logits), labels, label_smoothing=0.1)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        loss.backward()
    taken = sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())
    assert logits.nbytes <= taken < 1.5 * logits.nbytes
