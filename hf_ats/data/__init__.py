"""Parallel text, a tokenizer from scratch, token-budget batches, and the embedded default corpus.

Stands alone: nothing here knows of partitions, training or exports.
"""

from hf_ats.data.batches import TokenBudgetBatchSampler, sequence_lengths
from hf_ats.data.collator import TranslationCollator, shift_right
from hf_ats.data.corpora import load_corpus, load_parallel
from hf_ats.data.embedded_corpus import default_corpus
from hf_ats.data.languages import set_languages_
from hf_ats.data.parallel_text import read_lines
from hf_ats.data.tokenization import tokenize_corpus
from hf_ats.data.tokenizer import train_tokenizer

__all__ = [
    "TokenBudgetBatchSampler",
    "TranslationCollator",
    "default_corpus",
    "load_corpus",
    "load_parallel",
    "read_lines",
    "sequence_lengths",
    "set_languages_",
    "shift_right",
    "tokenize_corpus",
    "train_tokenizer",
]
