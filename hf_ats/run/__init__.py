"""A whole run of the command line: its flags and recipes, the steps before training, and the report after it."""

from .architectures import ARCHITECTURES, build_model, keep_pad_row_zero_
from .calibration import check_calibration, read_calibration
from .card_flags import CardArguments
from .command import (
    check_output,
    count,
    device,
    early_ends,
    manual_parser,
    one_line,
    translate_as_told,
    translation_parser,
    user_errors,
)
from .finish import rehearse, rehearse_report, report_trained, show_report
from .flags import DataArguments, ModelArguments, PartitionArguments, parse_flags
from .languages import set_languages_, set_source_prefix_, source_prefix
from .memory import keep_freed_memory
from .networks import build_networks, name_base_of_adapter_
from .preparation import (
    card_facts,
    check_core,
    check_run,
    complete_generation_config_,
    load_parts,
    tokenize,
    validation_references,
)
from .recipes import RECIPES, FlagParser, Manual, Recipe
from .start import start

__all__ = [
    "ARCHITECTURES",
    "RECIPES",
    "CardArguments",
    "DataArguments",
    "FlagParser",
    "Manual",
    "ModelArguments",
    "PartitionArguments",
    "Recipe",
    "build_model",
    "build_networks",
    "card_facts",
    "check_calibration",
    "check_core",
    "check_output",
    "check_run",
    "complete_generation_config_",
    "count",
    "device",
    "early_ends",
    "keep_freed_memory",
    "keep_pad_row_zero_",
    "load_parts",
    "manual_parser",
    "name_base_of_adapter_",
    "one_line",
    "parse_flags",
    "read_calibration",
    "rehearse",
    "rehearse_report",
    "report_trained",
    "set_languages_",
    "set_source_prefix_",
    "show_report",
    "source_prefix",
    "start",
    "tokenize",
    "translate_as_told",
    "translation_parser",
    "user_errors",
    "validation_references",
]
