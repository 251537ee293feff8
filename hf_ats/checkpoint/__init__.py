"""What belongs here writes what a run leaves on disk and reads it back: exports, `load_partitioned`.

Importing it makes cores and `pipeline("translation")` known to transformers.
"""

from .exports import export_adapter, export_core, export_full, export_level
from .files import is_unscaled_t5, save_network, save_tokenizer, weights_size
from .loading import (
    is_partitioned_checkpoint,
    load_network,
    load_partitioned,
    load_processor,
    load_tokenizer,
    stored_levels,
)
from .networks import blank_core, check_core_class
from .registration import register
from .report import REPORT_NAME, ExportReport
from .writing import check_replaceable

__all__ = [
    "REPORT_NAME",
    "ExportReport",
    "blank_core",
    "check_core_class",
    "check_replaceable",
    "export_adapter",
    "export_core",
    "export_full",
    "export_level",
    "is_partitioned_checkpoint",
    "is_unscaled_t5",
    "load_network",
    "load_partitioned",
    "load_processor",
    "load_tokenizer",
    "register",
    "save_network",
    "save_tokenizer",
    "stored_levels",
    "weights_size",
]

register()
