"""What training and running cost on the clock, measured beside the stock models of Transformers."""

from hf_ats.evaluation import ratio, spread, time_in_turns

from .memory import peak_memory
from .record import build_record, describe_machine, read_record, write_record
from .report import render_circumstances, render_ratios, render_record

__all__ = [
    "build_record",
    "describe_machine",
    "peak_memory",
    "ratio",
    "read_record",
    "render_circumstances",
    "render_ratios",
    "render_record",
    "spread",
    "time_in_turns",
    "write_record",
]
