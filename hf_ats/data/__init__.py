"""What belongs here makes batches out of text: parallel text, a tokenizer, token budgets, the embedded corpus.

It knows nothing of partitions, training or exports.
"""

from .batches import COUNTS, TokenBudgetBatchSampler, sequence_lengths
from .collator import TranslationCollator, decoder_inputs, pad_rows
from .corpora import load_corpus, load_parallel
from .embedded_corpus import default_corpus
from .fingerprint import fingerprint_examples
from .normalization import RULES
from .parallel_text import read_lines
from .tokenization import tokenize_corpus
from .tokenizer import train_tokenizer

__all__ = [
    "COUNTS",
    "RULES",
    "TokenBudgetBatchSampler",
    "TranslationCollator",
    "decoder_inputs",
    "default_corpus",
    "fingerprint_examples",
    "load_corpus",
    "load_parallel",
    "pad_rows",
    "read_lines",
    "sequence_lengths",
    "tokenize_corpus",
    "train_tokenizer",
]
