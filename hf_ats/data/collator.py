"""From tokenized sentence pairs to one padded batch."""

from dataclasses import dataclass

import torch
from transformers import BatchEncoding, DataCollatorForSeq2Seq


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
        columns = ("input_ids", "attention_mask", "labels")
        batch = super().__call__([{name: row[name] for name in columns} for row in features], return_tensors)
        if "decoder_input_ids" not in batch:
            batch["decoder_input_ids"] = shift_right(batch["labels"], self.model.config)
        return batch


def shift_right(labels: torch.Tensor, config) -> torch.Tensor:
    """The decoder's input for `labels` (batch, target length): one place later, after `decoder_start_token_id`.

    -100 becomes `pad_token_id`. This is what the `forward` of every encoder-decoder family does with labels.
    """
    shifted = labels.new_full(labels.shape, config.decoder_start_token_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill_(shifted == -100, config.pad_token_id)
