"""What a run leaves on disk and what reads it back: exports, the files that travel with a core, `load_partitioned`.

Importing it makes cores and `pipeline("translation")` known to transformers.
"""

from .exports import export_adapter, export_core, export_full
from .loading import load_network, load_partitioned, stored_levels
from .registration import register
from .writing import ExportReport

__all__ = [
    "ExportReport",
    "export_adapter",
    "export_core",
    "export_full",
    "load_network",
    "load_partitioned",
    "register",
    "stored_levels",
]

register()
