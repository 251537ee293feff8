"""The file of a benchmark: what was measured, on what, with which command."""

import datetime
import os
import platform
import shlex
import sys
from pathlib import Path

import torch

from hf_ats.evaluation import device_name
from hf_ats.results import installed_versions, read_json, write_json

FORMAT = 1
# What decides on a CPU how often memory goes back to the system, which a training step feels.
_ALLOCATOR = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "THP_MEM_ALLOC_ENABLE", "PYTORCH_CUDA_ALLOC_CONF")


def build_record(
    benchmark: str,
    *,
    settings: dict,
    measurements: dict[str, dict],
    ratios: dict[str, dict],
    device: torch.device | str = "cpu",
) -> dict:
    """Return the contents of a benchmark's file: what was measured, when, where, with which command and versions.

    Args:
        benchmark: the module of `benchmarks`, such as `"training"`.
        settings: everything that was chosen: model, batch, precision, rounds.
        measurements: by the name of what was measured, its figures; each name says its unit (`seconds`, `bytes`,
            `tokens_per_second`), and a figure is a number or a `spread`.
        ratios: by name, such as `"core step / stock step"`: a `spread` of paired quotients, or `{"value": x}` for one
            that was counted, and if it is known `limit`, the quotient that only FLOPs or numbers of parameters
            would allow.
        device: what it ran on.
    """
    return {
        "format": FORMAT,
        "benchmark": benchmark,
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": installed_versions(),
        "machine": describe_machine(device),
        "settings": settings,
        "measurements": measurements,
        "ratios": ratios,
    }


def write_record(path: str | os.PathLike, record: dict) -> None:
    """Write the file, wholly or not at all, and its folder."""
    write_json(path, record)


def read_record(path: str | os.PathLike) -> dict:
    """Read what `write_record` wrote.

    Raises:
        ValueError: the file does not hold the record of a benchmark; the message names the file.
    """
    record = read_json(path, "give a file that a benchmark wrote.")
    if not isinstance(record, dict) or record.get("format") != FORMAT or "benchmark" not in record:
        raise ValueError(f"{path} does not hold a benchmark in format {FORMAT}; give a file that a benchmark wrote.")
    return record


def describe_machine(device: torch.device | str = "cpu") -> dict:
    """Say what a figure depends on besides the code: processor, cores, threads, device, the allocator's settings."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device_name(torch.device(device)),
        "system": platform.system(),
        "allocator": {name: value for name, value in os.environ.items() if name.startswith(_ALLOCATOR)},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
