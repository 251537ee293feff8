"""BLEU and chrF by sacreBLEU, as functions, as the `compute_metrics` of a trainer, and through `evaluate`."""

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from transformers import EvalPrediction, PreTrainedTokenizerBase

TRANSLATION_METRIC = str(Path(__file__).parent / "translation_metric")
"""The folder of the same scores as a module of `evaluate`: `evaluate.load(TRANSLATION_METRIC)`."""

# Languages and scripts that put no blanks between words. Korean does, and sacreBLEU cuts its words into morphemes.
_BY_LANGUAGE, _BY_SCRIPT = (
    {code: name for name, codes in of_tokenizers.items() for code in codes.split()}
    for of_tokenizers in (
        {
            "zh": "zh zho chi cmn yue lzh wuu gan",
            "ja-mecab": "ja jpn",
            "ko-mecab": "ko kor",
            "char": "th tha lo lao km khm my mya bur bo bod tib dz dzo shn",
        },
        {
            "zh": "hans hant hani",
            "ja-mecab": "jpan hira kana hrkt",
            "ko-mecab": "kore hang",
            "char": "thai laoo khmr mymr tibt",
        },
    )
)
# Thai, Lao, Tibetan; Burmese; Khmer; kana; Chinese characters.
_WITHOUT_BLANKS = re.compile(r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def bleu_tokenizer(*languages: str | None) -> str:
    """Return the tokenizer by which sacreBLEU scores a target language, as its `BLEU(trg_lang=...)` chooses.

    `"zh"` for Chinese; `"ja-mecab"` for Japanese and `"ko-mecab"` for Korean where these are installed
    (`sacrebleu[ja]`, `sacrebleu[ko]`), else `"char"`; `"char"` for Thai, Lao, Khmer, Burmese and others that write
    without blanks, of which `"13a"` would find that a sentence is one word; `"13a"` for all others.

    Args:
        languages: what is known of the language: codes such as `"zh"`, `"zho_Hans"`, `"zh_CN"`, `"ja_XX"`. The first
            that names one of the languages above counts; a script in a code counts more than its language.

    Example:
    ```python
    >>> bleu_tokenizer("zho_Hans"), bleu_tokenizer("de"), bleu_tokenizer("tgt", "tha_Thai")
    ('zh', '13a', 'char')
    ```
    """
    for language in filter(None, languages):
        first, *more = re.split("[-_]", language.lower())
        script = next((part for part in more if len(part) == 4), None)
        name = _BY_LANGUAGE.get(first) if script is None else _BY_SCRIPT.get(script)
        if name is not None:
            return name if not name.endswith("-mecab") or _is_installed(name) else "char"
    return "13a"


def _is_installed(tokenizer: str) -> bool:
    from sacrebleu.metrics import BLEU

    try:
        BLEU(tokenize=tokenizer)
    except (ImportError, RuntimeError):
        return False
    return True


def score_translations(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    *,
    tokenize: str | None = None,
    lowercase: bool = False,
) -> dict[str, float | int | str]:
    """Compute corpus BLEU and chrF by sacreBLEU, each with its signature. Needs no network and no folder.

    Args:
        predictions (`list[str]`): one translation for each sentence, detokenized.
        references (`list[str]` or `list[list[str]]`): one for each sentence, or several, as many for each.
        tokenize (`str`, *optional*): sacreBLEU's tokenizer for BLEU, such as `"zh"`; `bleu_tokenizer` says which one
            a language needs. Its default is `"13a"`, with a warning for text without blanks.
        lowercase (`bool`, defaults to `False`): whether both scores ignore case.

    Returns:
        `dict`: `bleu` and `chrf` from 0 to 100, `bleu_signature`, `chrf_signature`, `length_ratio` (tokens translated
        per token of the reference) and `sentences`.

    Raises:
        ValueError: there is nothing to score, the counts of predictions and references differ, or sacreBLEU has no
            such tokenizer.

    Example:
    ```python
    >>> score_translations(["a dog runs ."], ["a dog runs ."])["bleu"]
    100.0
    ```
    """
    # Where nothing is scored, as where an export is only loaded, sacreBLEU need not be installed.
    from sacrebleu.metrics import BLEU, CHRF

    check_counts(predictions, references)
    if isinstance(references[0], str):
        references = [[reference] for reference in references]
    counts = {len(several) for several in references}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(
            f"references has between {min(counts)} and {max(counts)} references for a sentence; sacreBLEU needs "
            "as many for each, and at least one."
        )
    streams = [list(stream) for stream in zip(*references, strict=True)]
    if tokenize is None:
        _warn_of_text_without_blanks(streams[0])
    try:
        bleu = BLEU(tokenize=tokenize, lowercase=lowercase)
    except KeyError:
        raise ValueError(
            f"tokenize={tokenize!r} is not a tokenizer of sacreBLEU; write one of {', '.join(BLEU.TOKENIZERS)}."
        ) from None
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"tokenize={tokenize!r} cannot be used: {' '.join(str(error).split())}") from error
    chrf = CHRF(lowercase=lowercase)
    bleu_score = bleu.corpus_score(list(predictions), streams)
    chrf_score = chrf.corpus_score(list(predictions), streams)
    return {
        "bleu": bleu_score.score,
        "chrf": chrf_score.score,
        "bleu_signature": str(bleu.get_signature()),
        "chrf_signature": str(chrf.get_signature()),
        "length_ratio": bleu_score.sys_len / bleu_score.ref_len if bleu_score.ref_len else 0.0,
        "sentences": len(predictions),
    }


def check_counts(predictions: Sequence, references: Sequence) -> None:
    """Raise a ValueError if there is nothing to score, or not a reference for each translation."""
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions holds {len(predictions)} translations and references {len(references)} sentences; "
            "give one reference, or one list of references, for each translation."
        )
    if len(predictions) == 0:
        raise ValueError("predictions and references are empty; there is no score of no sentences.")


def _warn_of_text_without_blanks(references: Sequence[str]) -> None:
    text = "".join(references)
    if 2 * len(_WITHOUT_BLANKS.findall(text)) > len(text):
        warnings.warn(
            "the references are in a script without blanks between words, of which sacreBLEU's tokenizer 13a takes a "
            "sentence for one word, so that BLEU is near 0; write tokenize='zh', 'ja-mecab' or 'char'.",
            stacklevel=3,
        )


def _one_array(batches):
    """Return batches of token ids, which `eval_do_concat_batches=False` keeps apart, under one another."""
    if not isinstance(batches, list):
        return batches
    width = max(batch.shape[1] for batch in batches)
    return np.concatenate(
        [np.pad(batch, ((0, 0), (0, width - batch.shape[1])), constant_values=-100) for batch in batches]
    )


def build_compute_metrics(
    tokenizer: PreTrainedTokenizerBase, references: Sequence[str] | None = None, *, tokenize: str | None = None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return the `compute_metrics` of a `Seq2SeqTrainer` that generates: `bleu`, `chrf` and `gen_len`.

    Args:
        tokenizer: the one that made the labels; predictions are decoded with it, special tokens left out.
        references (`list[str]`, *optional*): the text that each example of the evaluation set is scored against, in
            the order of the set; the trainers of hf_ats keep it. Without them it is the decoded labels: what the
            tokenizer left of the text after normalisation and unknown characters, cut if the labels were. Such scores
            are higher than those of the text itself, and are not those of a test set.
        tokenize (`str`, *optional*): sacreBLEU's tokenizer, as in `score_translations`; `bleu_tokenizer` chooses it.

    Returns:
        A function from an `EvalPrediction`, with `predictions` and `label_ids` of shape `(sentences, tokens)` padded
        by -100 or `<pad>`, to the scores; `gen_len` is the mean number of generated tokens, end of sentence included
        and the start token not.

    Raises:
        ValueError: in the function, when the predictions are logits, since `predict_with_generate` was off, or are not
            as many as the references.

    Example:
    ```python
    >>> args = ATSSeq2SeqTrainingArguments("out", predict_with_generate=True, eval_strategy="epoch")
    >>> compute_metrics = build_compute_metrics(tokenizer, english, tokenize=bleu_tokenizer("en"))
    >>> ATSSeq2SeqTrainer(model, args, compute_metrics=compute_metrics, ...)
    ```
    """

    def decode(ids: np.ndarray) -> list[str]:
        return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predicted, labels = (_one_array(ids) for ids in (prediction.predictions, prediction.label_ids))
        if isinstance(predicted, tuple) or predicted.ndim != 2:
            raise ValueError(
                "predictions are logits, not generated tokens, so there is no translation to score; write "
                "predict_with_generate=True in the training arguments."
            )
        if references is not None and len(references) != len(predicted):
            raise ValueError(
                f"references has {len(references)} sentences, and the evaluation gave {len(predicted)}; give one for "
                "each example of the one evaluation set, in its order, or leave them out."
            )
        predicted, labels = (np.where(ids == -100, tokenizer.pad_token_id, ids) for ids in (predicted, labels))
        scores = score_translations(
            decode(predicted), decode(labels) if references is None else references, tokenize=tokenize
        )
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
