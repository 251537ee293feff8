"""A whole run of translation training, as the training script does it: flags, preparation, report."""

from .architectures import ARCHITECTURES, build_model, keep_pad_row_zero_
from .finish import report, report_trained
from .flags import CardArguments, DataArguments, ModelArguments, PartitionArguments, parse_flags
from .languages import set_languages_, set_source_prefix_, source_prefix
from .memory import keep_freed_memory
from .preparation import Run, prepare
from .recipes import FlagParser, Recipe
from .start import start

__all__ = [
    "ARCHITECTURES",
    "CardArguments",
    "DataArguments",
    "FlagParser",
    "ModelArguments",
    "PartitionArguments",
    "Recipe",
    "Run",
    "build_model",
    "keep_freed_memory",
    "keep_pad_row_zero_",
    "parse_flags",
    "prepare",
    "report",
    "report_trained",
    "set_languages_",
    "set_source_prefix_",
    "source_prefix",
    "start",
]
