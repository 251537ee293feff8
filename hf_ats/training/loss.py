"""The translation loss, normalised so that it does not depend on how a batch is cut (law 8)."""

import torch
from torch.nn import functional as F


def label_smoothed_cross_entropy(
    outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy per target token, with label smoothing (Table 4's `label_smoothed_cross_entropy`).

    Args:
        outputs: the model's output with `logits`, shape `(batch, target length, vocabulary)`.
        labels: shape `(batch, target length)`; -100 where there is no target.
        num_items_in_batch: the number of target tokens in the whole optimizer step, all micro-batches and processes
            together; None: those of this batch.
        label_smoothing: the weight of the uniform distribution over the vocabulary.

    Returns:
        A scalar: the sum over this batch's target tokens, divided by `num_items_in_batch`.
    """
    if num_items_in_batch is None:
        num_items_in_batch = labels.ne(-100).sum()
    return token_losses(outputs.logits, labels, label_smoothing, reduction="sum") / num_items_in_batch


def token_losses(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0, reduction: str = "none"
) -> torch.Tensor:
    """The loss of each target token, shape `(batch, target length)`, 0 where there is none; or their sum, a scalar.

    Args:
        logits: shape `(batch, target length, vocabulary)`; the softmax is taken in float32 at least.
        labels: shape `(batch, target length)`; -100 where there is no target.
        label_smoothing: as in `label_smoothed_cross_entropy`.
        reduction: `"none"` or `"sum"`.
    """
    flat = logits.flatten(0, 1)
    losses = F.cross_entropy(
        flat.to(torch.promote_types(flat.dtype, torch.float32)),
        labels.flatten(),
        ignore_index=-100,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
    return losses.view(labels.shape) if reduction == "none" else losses
