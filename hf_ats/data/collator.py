"""From tokenized sentence pairs to one padded batch."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase


class TranslationCollator:
    """A collator that pads sentence pairs to one batch, several times as fast as `DataCollatorForSeq2Seq`.

    A batch has `input_ids` and `attention_mask` (batch, source length) and `labels` (batch, target length), int64;
    other columns of the examples are left out. The trainers make the decoder's input from the labels
    (`decoder_inputs`).

    Args:
        tokenizer: says what sources are padded with, and on which side.
        pad_to_multiple_of: both lengths are rounded up to a multiple of this.
        label_pad_token_id: what labels are padded with; the loss leaves -100 out.

    Example:
        >>> TranslationCollator(tokenizer)(dataset.select(range(8)))["labels"].shape
        torch.Size([8, 31])
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        pad_to_multiple_of: int | None = None,
        label_pad_token_id: int = -100,
    ):
        self.pad_to_multiple_of = pad_to_multiple_of
        self._side = tokenizer.padding_side
        self._fills = {
            "input_ids": tokenizer.pad_token_id,
            "attention_mask": 0,
            "labels": label_pad_token_id,
        }

    def __call__(self, features: Sequence[dict]) -> BatchEncoding:
        return BatchEncoding(
            {
                name: torch.from_numpy(
                    pad_rows([row[name] for row in features], fill, self.pad_to_multiple_of, self._side)
                )
                for name, fill in self._fills.items()
            }
        )


def pad_rows(
    rows: Sequence[Sequence[int]], fill: int, multiple_of: int | None = None, side: str = "right"
) -> np.ndarray:
    """Put rows of integers under one another, int64, shape `(rows, longest row)`.

    Args:
        rows: lists, arrays or tensors, at least one.
        fill: the number where a row has none.
        multiple_of: the width is rounded up to a multiple of this.
        side: where the padding goes, `"right"` or `"left"`.
    """
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    width = lengths.max()
    if multiple_of is not None:
        width = -(-width // multiple_of) * multiple_of
    padded = np.full((len(rows), width), fill, dtype=np.int64)
    places = np.arange(width)
    taken = places < lengths[:, None] if side == "right" else places >= width - lengths[:, None]
    padded[taken] = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=lengths.sum())
    return padded


def decoder_inputs(model: PreTrainedModel, labels: torch.Tensor) -> torch.Tensor:
    """Return the decoder's input for `labels`, of the same shape (batch, target length): one place later.

    It begins with `decoder_start_token_id`, and -100 becomes `pad_token_id`. The `forward` of every encoder-decoder
    does the same with labels that it is given; some families (M2M100 and NLLB) have no method for it.
    """
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        return model.prepare_decoder_input_ids_from_labels(labels=labels)
    shifted = labels.new_full(labels.shape, model.config.decoder_start_token_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill_(shifted == -100, model.config.pad_token_id)
