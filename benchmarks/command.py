"""What the benchmark scripts do: read the flags, measure, print the tables, write the record."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import HfArgumentParser

from hf_ats.run.recipes import Manual

from .record import write_record
from .report import render_record


def run_command(settings_class: type, measure: Callable[[object], dict], manual: str) -> None:
    """Measures what the command line asks for.

    Args:
        settings_class: a dataclass, whose fields are the flags.
        measure: from the settings to a record (`build_record`).
        manual: the script's docstring.
    """
    parser = benchmark_parser(settings_class, manual)
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU (default: its own choice)")
    try:
        settings, others = parser.parse_args_into_dataclasses()
        if others.threads:
            torch.set_num_threads(others.threads)
        record = measure(settings)
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    show(record, others.output)


def benchmark_parser(settings_class: type, manual: str) -> HfArgumentParser:
    """The fields of the settings, and where the record goes."""
    parser = HfArgumentParser(settings_class, description=manual, formatter_class=Manual)
    parser.add_argument("--output", type=Path, help="a JSON file for what was measured, on what, and how")
    return parser


def show(record: dict, output: Path | None) -> None:
    """Prints the tables; writes the record if a file for it was named."""
    print(render_record(record))
    if output:
        write_record(output, record)
        print(f"\nwritten to {output}", file=sys.stderr)
