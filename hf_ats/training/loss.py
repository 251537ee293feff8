"""The translation loss, normalised so that it does not depend on how a batch is cut (law 8)."""

from collections.abc import Iterator

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# How many logits are handled at once: as float32 they stay in a CPU's cache, and fill a GPU.
_LOGITS_AT_ONCE = 2**22


def label_smoothed_cross_entropy(
    outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Compute the cross-entropy per target token, with label smoothing (Table 4's `label_smoothed_cross_entropy`).

    Args:
        outputs: the model's output with `logits`, shape `(batch, target length, vocabulary)`.
        labels: shape `(batch, target length)`; -100 where there is no target.
        num_items_in_batch: the number of target tokens in the whole optimizer step, all micro-batches and processes
            together; None: those of this batch.
        label_smoothing: the weight of the uniform distribution over the vocabulary.

    Returns:
        A scalar, differentiable once: the sum over this batch's target tokens, divided by `num_items_in_batch`.
    """
    if num_items_in_batch is None:
        num_items_in_batch = labels.ne(-100).sum()
    total = _SummedCrossEntropy.apply(outputs.logits.flatten(0, 1), labels.flatten(), label_smoothing)
    return total / num_items_in_batch


class _SummedCrossEntropy(torch.autograd.Function):
    """`F.cross_entropy(..., reduction="sum")` that makes no tensor of the size of the logits but their gradient.

    PyTorch makes several on the way, most of them for label smoothing, and the vocabulary is where a small model
    spends its memory and, on a CPU, much of its time.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        """Return a scalar in at least float32; `logits` has shape `(tokens, vocabulary)`, `labels` `(tokens,)`."""
        precision = torch.promote_types(logits.dtype, torch.float32)
        normaliser = torch.empty(len(logits), dtype=precision, device=logits.device)
        mean = torch.zeros_like(normaliser)
        for rows in _rows(logits):
            chunk = logits[rows].to(precision)
            torch.logsumexp(chunk, dim=1, out=normaliser[rows])
            if label_smoothing:
                torch.mean(chunk, dim=1, out=mean[rows])
        is_target = labels.ne(-100)
        target = labels.where(is_target, 0)
        right = logits.gather(1, target[:, None]).squeeze(1).to(precision)
        ctx.save_for_backward(logits, normaliser, target, is_target)
        ctx.label_smoothing = label_smoothing
        losses = normaliser - (1 - label_smoothing) * right - label_smoothing * mean
        return losses.where(is_target, 0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, scale: torch.Tensor):
        """Return the softmax less the smoothed target, times `scale`; shape `(tokens, vocabulary)`."""
        logits, normaliser, target, is_target = ctx.saved_tensors
        scales = (scale * is_target)[:, None]
        gradient = torch.empty_like(logits)
        in_place = logits.dtype == normaliser.dtype
        for rows in _rows(logits):
            out = gradient[rows] if in_place else None
            chunk = torch.sub(logits[rows], normaliser[rows, None], out=out).exp_()
            chunk.sub_(ctx.label_smoothing / logits.shape[1]).mul_(scales[rows])
            chunk.scatter_add_(1, target[rows, None], (ctx.label_smoothing - 1) * scales[rows])
            if not in_place:
                gradient[rows] = chunk
        return gradient, None, None


def _rows(logits: torch.Tensor) -> Iterator[slice]:
    step = max(1, _LOGITS_AT_ONCE // logits.shape[1])
    return (slice(start, start + step) for start in range(0, len(logits), step))


def token_losses(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Return the loss of each target token, shape `(batch, target length)`, 0 where there is none.

    Args:
        logits: shape `(batch, target length, vocabulary)`; the softmax is taken in float32 at least.
        labels: shape `(batch, target length)`; -100 where there is no target.
        label_smoothing: as in `label_smoothed_cross_entropy`.
    """
    flat = logits.flatten(0, 1)
    losses = F.cross_entropy(
        flat.to(torch.promote_types(flat.dtype, torch.float32)),
        labels.flatten(),
        ignore_index=-100,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses.view(labels.shape)
