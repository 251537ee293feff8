"""BLEU and chrF, through `evaluate` and without the Hub, and as the `compute_metrics` of a trainer."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from transformers import EvalPrediction, PreTrainedTokenizerBase

TRANSLATION_METRIC = str(Path(__file__).parent / "translation_metric")
"""The folder of the metric module that ships with this package: `evaluate.load(TRANSLATION_METRIC)`."""


@cache
def _translation_metric():
    # Imported where it is used: it takes seconds, and training without BLEU does not need it.
    import evaluate

    return evaluate.load(TRANSLATION_METRIC, keep_in_memory=True)


def score_translations(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    *,
    tokenize: str | None = None,
    lowercase: bool = False,
) -> dict[str, float | int | str]:
    """Compute corpus BLEU and chrF by sacreBLEU, each with its signature. Needs no network.

    Args:
        predictions (`list[str]`): one translation for each sentence, detokenized.
        references (`list[str]` or `list[list[str]]`): one for each sentence, or several, as many for each.
        tokenize (`str`, *optional*): sacreBLEU's tokenizer for BLEU, such as `"zh"`; its default is `"13a"`.
        lowercase (`bool`, defaults to `False`): whether both scores ignore case.

    Returns:
        `dict`: `bleu` and `chrf` from 0 to 100, `bleu_signature`, `chrf_signature`, `length_ratio` (tokens translated
        per token of the reference) and `sentences`.

    Raises:
        ValueError: there is nothing to score, or the counts of predictions and references differ.

    Example:
    ```python
    >>> score_translations(["a dog runs ."], ["a dog runs ."])["bleu"]
    100.0
    ```
    """
    return _translation_metric().compute(
        predictions=list(predictions), references=list(references), tokenize=tokenize, lowercase=lowercase
    )


def build_compute_metrics(tokenizer: PreTrainedTokenizerBase) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return the `compute_metrics` of a `Seq2SeqTrainer` that generates: `bleu`, `chrf` and `gen_len`.

    Args:
        tokenizer: the one that made the labels; predictions and labels are decoded with it, special tokens left out.

    Returns:
        A function from an `EvalPrediction`, with `predictions` and `label_ids` of shape `(sentences, tokens)` padded
        by -100 or `<pad>`, to the scores; `gen_len` is the mean number of generated tokens, end of sentence included
        and the start token not.

    Raises:
        ValueError: in the function, when the predictions are logits, since `predict_with_generate` was off.

    Example:
    ```python
    >>> args = ATSSeq2SeqTrainingArguments("out", predict_with_generate=True, eval_strategy="epoch")
    >>> ATSSeq2SeqTrainer(model, args, compute_metrics=build_compute_metrics(tokenizer), ...)
    ```
    """

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predicted = prediction.predictions
        if isinstance(predicted, tuple) or predicted.ndim != 2:
            raise ValueError(
                "predictions are logits, not generated tokens, so there is no translation to score; write "
                "predict_with_generate=True in the training arguments."
            )
        predicted, labels = (
            np.where(ids == -100, tokenizer.pad_token_id, ids) for ids in (predicted, prediction.label_ids)
        )
        translations, references = (
            [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
            for ids in (predicted, labels)
        )
        scores = score_translations(translations, references)
        # `generate` puts the decoder's start token first, which for Marian and T5 is the padding token.
        generated = (predicted[:, 1:] != tokenizer.pad_token_id).sum(axis=1)
        return {"bleu": scores["bleu"], "chrf": scores["chrf"], "gen_len": float(generated.mean())}

    return compute_metrics


def compute_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Compute the metrics of a classifier: `accuracy`, the percentage whose class has the highest logit.

    Args:
        prediction: with `predictions`, logits of shape `(examples, classes)`, and `label_ids` `(examples,)`.
    """
    found = prediction.predictions.argmax(axis=-1)
    return {"accuracy": 100 * float((found == prediction.label_ids).mean())}
