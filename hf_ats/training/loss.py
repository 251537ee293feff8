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
    logits = outputs.logits.flatten(0, 1)
    total = F.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)),
        labels.flatten(),
        ignore_index=-100,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    if num_items_in_batch is None:
        num_items_in_batch = labels.ne(-100).sum()
    return total / num_items_in_batch
