"""What belongs here travels with what is published, and runs where this package is not: torch and transformers only.

The files are copied by name into checkpoints and Spaces, so they import nothing but each other. The page of a Space
needs Gradio too, so it is imported by itself: `from hf_ats.remote_code import page_ats`.
"""

from pathlib import Path

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

PAGE_FILES = {name: Path(__file__).with_name(name) for name in ("page_ats.py", "pipeline_ats.py")}
"""By name, the files that make the page of a Space."""

__all__ = [
    "PAGE_FILES",
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
