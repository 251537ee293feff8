"""BLEU and chrF of translations, by sacreBLEU, as a module of Hugging Face's `evaluate`."""

import datasets
import evaluate
from sacrebleu.metrics import BLEU, CHRF

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
            if len(predictions) != len(references):
                raise ValueError(
                    f"predictions holds {len(predictions)} translations and references {len(references)} sentences; "
                    "give one reference, or one list of references, for each translation."
                )
            if len(predictions) == 0:
                raise ValueError("predictions and references are empty; there is no score of no sentences.")
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions, references, tokenize=None, lowercase=False):
        if isinstance(references[0], str):
            references = [[reference] for reference in references]
        counts = {len(several) for several in references}
        if len(counts) > 1 or 0 in counts:
            raise ValueError(
                f"references has between {min(counts)} and {max(counts)} references for a sentence; sacreBLEU needs "
                "as many for each, and at least one."
            )
        streams = [list(stream) for stream in zip(*references, strict=True)]
        bleu = BLEU(tokenize=tokenize, lowercase=lowercase)
        chrf = CHRF(lowercase=lowercase)
        bleu_score = bleu.corpus_score(predictions, streams)
        chrf_score = chrf.corpus_score(predictions, streams)
        return {
            "bleu": bleu_score.score,
            "chrf": chrf_score.score,
            "bleu_signature": str(bleu.get_signature()),
            "chrf_signature": str(chrf.get_signature()),
            "length_ratio": bleu_score.sys_len / bleu_score.ref_len if bleu_score.ref_len else 0.0,
            "sentences": len(predictions),
        }
