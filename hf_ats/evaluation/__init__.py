"""What belongs here measures: BLEU and chrF of translations, decoding and its speed, timing in turns."""

from .decoding import (
    batches_by_length,
    compare_decoding_speed,
    decoding_settings,
    decoding_threads,
    device_name,
    encode_sentences,
    in_eval_mode,
    synchronize,
    translate,
    translate_encoded,
)
from .metrics import (
    TRANSLATION_METRIC,
    bleu_tokenizer,
    build_compute_metrics,
    compute_accuracy,
    score_translations,
)
from .moments import input_moments
from .networks import measure_networks
from .timing import ratio, spread, time_in_turns

__all__ = [
    "TRANSLATION_METRIC",
    "batches_by_length",
    "bleu_tokenizer",
    "build_compute_metrics",
    "compare_decoding_speed",
    "compute_accuracy",
    "decoding_settings",
    "decoding_threads",
    "device_name",
    "encode_sentences",
    "in_eval_mode",
    "input_moments",
    "measure_networks",
    "ratio",
    "score_translations",
    "spread",
    "synchronize",
    "time_in_turns",
    "translate",
    "translate_encoded",
]
