"""The command line of a benchmark: read the flags, measure, print the tables, write the record."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import HfArgumentParser

from hf_ats.run import Manual

from .record import write_record
from .report import render_record


def run_command(settings_class: type, measure: Callable[[object], dict | None], manual: str) -> None:
    """Measure what the command line asks for.

    Args:
        settings_class: a dataclass, whose fields are the flags.
        measure: from the settings to a record (`build_record`); None if another process prints it.
        manual: the module's docstring.
    """
    parser = HfArgumentParser(settings_class, description=manual, formatter_class=Manual)
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU (default: its own choice)")
    parser.add_argument("--output", type=Path, help="a JSON file for what was measured, on what, and how")
    try:
        settings, others = parser.parse_args_into_dataclasses()
        if others.threads:
            torch.set_num_threads(others.threads)
        record = measure(settings)
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    if record is None:
        return
    print(render_record(record))
    if others.output:
        write_record(others.output, record)
        print(f"\nwritten to {others.output}", file=sys.stderr)
