"""BLEU and chrF of translations, by sacreBLEU, as a module of Hugging Face's `evaluate`."""

import datasets
import evaluate

from hf_ats.evaluation.metrics import check_counts, score_translations

_DESCRIPTION = """
Corpus BLEU and chrF2 as sacreBLEU computes them, each with the signature that says how it was computed.
"""

_CITATION = """\
@inproceedings{post-2018-call,
    title = "A Call for Clarity in Reporting {BLEU} Scores",
    author = "Post, Matt",
    booktitle = "Proceedings of the Third Conference on Machine Translation: Research Papers",
    year = "2018",
    url = "https://aclanthology.org/W18-6319",
    pages = "186--191",
}
@inproceedings{popovic-2015-chrf,
    title = "chr{F}: character n-gram {F}-score for automatic {MT} evaluation",
    author = "Popovi{\\'c}, Maja",
    booktitle = "Proceedings of the Tenth Workshop on Statistical Machine Translation",
    year = "2015",
    url = "https://aclanthology.org/W15-3049",
    pages = "392--395",
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): one translation for each sentence, without tokenization of its own.
    references (`list[str]` or `list[list[str]]`): one reference for each sentence, or several, as many for each.
    tokenize (`str`, *optional*): sacreBLEU's tokenizer for BLEU, such as "zh" or "ja-mecab"; its default is "13a".
    lowercase (`bool`, defaults to `False`): whether both scores ignore case.

Returns:
    bleu (`float`): corpus BLEU, 0 to 100.
    chrf (`float`): corpus chrF2, 0 to 100.
    bleu_signature, chrf_signature (`str`): sacreBLEU's signatures.
    length_ratio (`float`): tokens in the translations for each token in the references; far below 1 costs BLEU.
    sentences (`int`): how many sentences were scored.

Raises:
    ValueError: there is nothing to score, or the counts of predictions and references differ.

Example:

    >>> metric = evaluate.load(TRANSLATION_METRIC)
    >>> metric.compute(predictions=["a dog runs ."], references=["a dog runs ."])["bleu"]
    100.0
"""


class TranslationMetric(evaluate.Metric):
    """See the module's `inputs_description`."""

    def _info(self):
        prediction = datasets.Value("string", id="sequence")
        several = datasets.Features({"predictions": prediction, "references": datasets.Sequence(prediction)})
        one = datasets.Features({"predictions": prediction, "references": prediction})
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[several, one],
            homepage="https://github.com/mjpost/sacrebleu",
            reference_urls=["https://github.com/mjpost/sacrebleu"],
        )

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Check what the base class would answer with an IndexError, then compute."""
        if predictions is not None and references is not None:
            check_counts(predictions, references)
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions, references, **options):
        return score_translations(predictions, references, **options)
