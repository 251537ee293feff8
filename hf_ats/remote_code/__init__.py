"""What belongs here travels with a core, so that it loads where this package is not: torch and transformers only.

The files are copied by name into checkpoints, so they import nothing but each other.
"""

from . import modeling_ats
from .attention_ats import allow_narrow_keys_, check_attention
from .modeling_ats import refuse_nan
from .pipeline_ats import (
    ATSTranslationPipeline,
    MarianTokenizer,
    language_codes,
    language_id,
    longest_input,
    read_quotations_,
    target_codes,
    with_generation_defaults,
)

__all__ = [
    "ATSTranslationPipeline",
    "MarianTokenizer",
    "allow_narrow_keys_",
    "check_attention",
    "language_codes",
    "language_id",
    "longest_input",
    "modeling_ats",
    "read_quotations_",
    "refuse_nan",
    "target_codes",
    "with_generation_defaults",
]
