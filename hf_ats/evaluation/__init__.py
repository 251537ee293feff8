"""What the trained networks are worth: BLEU and chrF, decoding, and its speed."""

from .decoding import compare_decoding_speed, decoding_settings, decoding_speed, device_name, synchronize, translate
from .metrics import TRANSLATION_METRIC, build_compute_metrics, compute_accuracy, score_translations
from .networks import measure_networks, sample_translations

__all__ = [
    "TRANSLATION_METRIC",
    "build_compute_metrics",
    "compare_decoding_speed",
    "compute_accuracy",
    "decoding_settings",
    "decoding_speed",
    "device_name",
    "measure_networks",
    "sample_translations",
    "score_translations",
    "synchronize",
    "translate",
]
