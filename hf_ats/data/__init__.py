"""What belongs here makes batches out of text: parallel text, a tokenizer, token budgets, the embedded corpus.

It knows nothing of partitions, training or exports.
"""

from .batches import COUNTS, TokenBudgetBatchSampler, sequence_lengths
from .collator import TranslationCollator, decoder_inputs, pad_rows
from .corpora import load_corpus, load_parallel
from .embedded_corpus import default_corpus
from .fingerprint import fingerprint_examples
from .normalization import RULES
from .parallel_text import read_lines, shows_nothing
from .tokenization import tokenize_corpus
from .tokenizer import train_tokenizer
from .unknown import check_code_of_prefix, foreign_codes

__all__ = [
    "COUNTS",
    "RULES",
    "TokenBudgetBatchSampler",
    "TranslationCollator",
    "check_code_of_prefix",
    "decoder_inputs",
    "default_corpus",
    "fingerprint_examples",
    "foreign_codes",
    "load_corpus",
    "load_parallel",
    "pad_rows",
    "read_lines",
    "sequence_lengths",
    "shows_nothing",
    "tokenize_corpus",
    "train_tokenizer",
]
