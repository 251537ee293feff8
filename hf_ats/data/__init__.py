"""Parallel text, a tokenizer from scratch, token-budget batches, and the embedded default corpus.

Stands alone: nothing here knows of partitions, training or exports.
"""

from .batches import TokenBudgetBatchSampler, sequence_lengths
from .collator import TranslationCollator, shift_right
from .corpora import load_corpus, load_parallel
from .embedded_corpus import default_corpus
from .parallel_text import read_lines
from .tokenization import tokenize_corpus
from .tokenizer import train_tokenizer

__all__ = [
    "TokenBudgetBatchSampler",
    "TranslationCollator",
    "default_corpus",
    "load_corpus",
    "load_parallel",
    "read_lines",
    "sequence_lengths",
    "shift_right",
    "tokenize_corpus",
    "train_tokenizer",
]
