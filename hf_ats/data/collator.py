"""From tokenized sentence pairs to one padded batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from transformers import BatchEncoding, DataCollatorForSeq2Seq

_COLUMNS = ("input_ids", "attention_mask", "labels")


@dataclass
class TranslationCollator(DataCollatorForSeq2Seq):
    """`DataCollatorForSeq2Seq` that always makes `decoder_input_ids`.

    With label smoothing the Trainer takes the labels out of the batch before the forward pass, so the decoder's input
    has to be there. transformers' collator leaves that to `model.prepare_decoder_input_ids_from_labels`, which some
    families (M2M100 and NLLB) lack; for those the labels are shifted right here, as their own `forward` would.

    Give at least `tokenizer` and `model`; the other fields are those of the parent. A batch has `input_ids` and
    `attention_mask` (batch, source length), `labels` (batch, target length; -100 where padded) and
    `decoder_input_ids` (batch, target length); other columns of the examples are left out.

    Raises:
        ValueError: there is no model to ask, or its config has no `decoder_start_token_id`.
    """

    def __post_init__(self):
        if self.model is None:
            raise ValueError("TranslationCollator needs model=..., which says how its decoder's input begins.")
        config = self.model.config
        if config.decoder_start_token_id is None or config.pad_token_id is None:
            raise ValueError(
                f"The model's config has decoder_start_token_id={config.decoder_start_token_id} and "
                f"pad_token_id={config.pad_token_id}; set both, the decoder's input cannot be made without them."
            )

    def __call__(self, features: list[dict], return_tensors: str | None = None) -> BatchEncoding:
        if self._pads_to_the_longest(return_tensors):
            batch = self._pad(features)
        else:
            batch = super().__call__([{name: row[name] for name in _COLUMNS} for row in features], return_tensors)
        if "decoder_input_ids" not in batch:
            batch["decoder_input_ids"] = shift_right(batch["labels"], self.model.config)
        return batch

    def _pads_to_the_longest(self, return_tensors: str | None) -> bool:
        """Whether the batch is the usual one, which `_pad` makes several times as fast as the parent."""
        return (
            self.padding in (True, "longest")
            and (return_tensors or self.return_tensors) == "pt"
            and self.tokenizer.pad_token_id is not None
        )

    def _pad(self, features: list[dict]) -> BatchEncoding:
        """What the parent makes, without its Python objects for every row and token."""
        fills = (self.tokenizer.pad_token_id, 0, self.label_pad_token_id)
        side, multiple = self.tokenizer.padding_side, self.pad_to_multiple_of
        batch = BatchEncoding(
            {
                name: torch.from_numpy(pad_rows([row[name] for row in features], fill, multiple, side))
                for name, fill in zip(_COLUMNS, fills, strict=True)
            }
        )
        if hasattr(self.model, "prepare_decoder_input_ids_from_labels"):
            batch["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        return batch


def pad_rows(
    rows: Sequence[Sequence[int]], fill: int, multiple_of: int | None = None, side: str = "right"
) -> np.ndarray:
    """Rows of integers under one another, int64, shape `(rows, longest row)`.

    Args:
        rows: lists, arrays or tensors, at least one.
        fill: what stands where a row has no integer.
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


def shift_right(labels: torch.Tensor, config) -> torch.Tensor:
    """The decoder's input for `labels` (batch, target length): one place later, after `decoder_start_token_id`.

    -100 becomes `pad_token_id`. This is what the `forward` of every encoder-decoder family does with labels.
    """
    shifted = labels.new_full(labels.shape, config.decoder_start_token_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill_(shifted == -100, config.pad_token_id)
