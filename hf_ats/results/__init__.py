"""What belongs here writes down and shows what a run found: results.json, tables, plots, report page, model cards."""

from .cards import render_card, render_space_card
from .comparison import render_comparison, training_arguments, update_marked_block
from .deployed import deployed_note, name_of_network, render_deployed, render_deployed_card
from .facts import check_facts, hub_languages, with_facts
from .page import report_page, write_report_page
from .plots import plot_training
from .portable import portable_results
from .provenance import installed_versions
from .results import (
    RESULTS,
    build_results,
    fingerprint,
    json_text,
    read_json,
    read_results,
    select_samples,
    task_of,
    write_json,
    write_results,
)
from .tables import (
    align,
    core_sizes,
    mean_and_deviation,
    number,
    parts_of,
    render_table,
    sample_translations,
    told_sizes,
    unique,
)

__all__ = [
    "RESULTS",
    "align",
    "build_results",
    "check_facts",
    "core_sizes",
    "deployed_note",
    "fingerprint",
    "hub_languages",
    "installed_versions",
    "json_text",
    "mean_and_deviation",
    "name_of_network",
    "number",
    "parts_of",
    "plot_training",
    "portable_results",
    "read_json",
    "read_results",
    "render_card",
    "render_comparison",
    "render_deployed",
    "render_deployed_card",
    "render_space_card",
    "render_table",
    "report_page",
    "sample_translations",
    "select_samples",
    "task_of",
    "told_sizes",
    "training_arguments",
    "unique",
    "update_marked_block",
    "with_facts",
    "write_json",
    "write_report_page",
    "write_results",
]
