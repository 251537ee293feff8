"""What a run found, written down and shown: results.json, tables, plots, the report page, model cards."""

from .cards import render_card
from .comparison import render_comparison, update_marked_block
from .facts import check_facts, hub_languages, update_facts
from .page import report_page, write_report_page
from .plots import plot_training
from .portable import portable_results
from .provenance import installed_versions
from .results import (
    build_results,
    fingerprint,
    json_text,
    read_json,
    read_results,
    select_samples,
    write_json,
    write_results,
)
from .tables import render_table

__all__ = [
    "build_results",
    "check_facts",
    "fingerprint",
    "hub_languages",
    "installed_versions",
    "json_text",
    "plot_training",
    "portable_results",
    "read_json",
    "read_results",
    "render_card",
    "render_comparison",
    "render_table",
    "report_page",
    "select_samples",
    "update_facts",
    "update_marked_block",
    "write_json",
    "write_report_page",
    "write_results",
]
