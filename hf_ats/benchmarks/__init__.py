"""What training and running cost on the clock, measured beside the stock models of Transformers."""

from .record import build_record, describe_machine, read_record, write_record
from .timing import ratio, spread, synchronize, time_in_turns

__all__ = [
    "build_record",
    "describe_machine",
    "ratio",
    "read_record",
    "spread",
    "synchronize",
    "time_in_turns",
    "write_record",
]
