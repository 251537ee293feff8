"""What the trained networks are worth: BLEU and chrF, decoding speed, and the report of a run."""

from .comparison import render_comparison, update_marked_block
from .decoding import compare_decoding_speed, decoding_settings, decoding_speed, device_name, synchronize, translate
from .metrics import TRANSLATION_METRIC, build_compute_metrics, score_translations
from .networks import measure_networks, sample_translations
from .plots import plot_training
from .results import (
    build_results,
    fingerprint,
    installed_versions,
    read_json,
    read_results,
    weights_size,
    write_json,
    write_results,
)
from .tables import render_table

__all__ = [
    "TRANSLATION_METRIC",
    "build_compute_metrics",
    "build_results",
    "compare_decoding_speed",
    "decoding_settings",
    "decoding_speed",
    "device_name",
    "fingerprint",
    "installed_versions",
    "measure_networks",
    "plot_training",
    "read_json",
    "read_results",
    "render_comparison",
    "render_table",
    "sample_translations",
    "score_translations",
    "synchronize",
    "translate",
    "update_marked_block",
    "weights_size",
    "write_json",
    "write_results",
]
