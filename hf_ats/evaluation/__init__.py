"""What the trained networks are worth: BLEU and chrF, decoding speed, and the report of a run."""

from .budget import (
    Budget,
    Level,
    choose_level,
    copy_export,
    exported_levels,
    measure_latency,
    parse_bytes,
    parse_parameters,
    render_levels,
)
from .comparison import render_comparison, update_marked_block
from .decoding import compare_decoding_speed, decoding_settings, decoding_speed, device_name, synchronize, translate
from .metrics import TRANSLATION_METRIC, build_compute_metrics, compute_accuracy, score_translations
from .networks import measure_networks, sample_translations
from .page import report_page, write_report_page
from .plots import plot_training
from .provenance import installed_versions
from .results import (
    build_results,
    fingerprint,
    json_text,
    read_json,
    read_results,
    select_samples,
    weights_sha256,
    weights_size,
    write_json,
    write_results,
)
from .tables import render_table

__all__ = [
    "TRANSLATION_METRIC",
    "Budget",
    "Level",
    "build_compute_metrics",
    "build_results",
    "choose_level",
    "compare_decoding_speed",
    "compute_accuracy",
    "copy_export",
    "decoding_settings",
    "decoding_speed",
    "device_name",
    "exported_levels",
    "fingerprint",
    "installed_versions",
    "json_text",
    "measure_latency",
    "measure_networks",
    "parse_bytes",
    "parse_parameters",
    "plot_training",
    "read_json",
    "read_results",
    "render_comparison",
    "render_levels",
    "render_table",
    "report_page",
    "sample_translations",
    "score_translations",
    "select_samples",
    "synchronize",
    "translate",
    "update_marked_block",
    "weights_sha256",
    "weights_size",
    "write_json",
    "write_report_page",
    "write_results",
]
