"""What two runs left, compared byte by byte, but for what a clock says and what only one of them was told."""

import io
import json
import pickle
import re
from pathlib import Path

import torch

# Keys of JSON files: times, what they are divided by, names drawn at random, and whether a run was resumed.
_OF_THE_CLOCK = re.compile(
    r"(\w+_)?(runtime|seconds|per_second)|created|run|run_id|resumed_from|resume_from_checkpoint|train_loss|"
    r"decoding_speed|command"
)
# Files that hold such things: their digests in another file are not compared, and these are.
_WITH_A_CLOCK = {"trainer_state.json", "training_args.bin", "results.json", "checkpoint.json", "report.html"}
_WITH_A_CLOCK |= {"optimizer.pt", "scheduler.pt"}  # of which equal values are pickled in several ways
_NOT_COMPARED = {"training_args.bin"}  # a pickle of the flags, whether to resume among them
# Of a page: moments, lengths of time, the command, and where a resumed run went on from.
_ON_A_PAGE = re.compile(
    rb"\d{4}-\d\d-\d\dT[\d:.+]+|\d+ (h|min|s)\b|<pre[^>]*aria-label=.Command.*?</pre>|"
    rb"[^\n]*(Went on from|resume_from_checkpoint)[^\n]*\n",
    re.DOTALL,
)


def differences(expected: Path, actual: Path) -> list[str]:
    """Return the names of files that only one of two folders has, or that are not equal, each with what is wrong."""
    names = {folder: {path.relative_to(folder).as_posix() for path in _files(folder)} for folder in (expected, actual)}
    found = [f"{name} is missing" for name in names[expected] - names[actual]]
    found += [f"{name} is too many" for name in names[actual] - names[expected]]
    found += [
        f"{name} differs"
        for name in names[expected] & names[actual]
        if contents(expected / name) != contents(actual / name)
    ]
    return sorted(found)


def contents(path: Path):
    """Return what is compared of a file: its bytes, of pickles the values, of JSON and HTML what is not of a clock."""
    if path.is_dir():
        return "an empty directory"
    if path.name in _NOT_COMPARED:
        return None
    data = path.read_bytes()
    if path.suffix == ".json":
        try:
            return _without_clock(json.loads(data))
        except ValueError:
            return data
    if path.suffix == ".pt":
        try:
            return _plain(torch.load(io.BytesIO(data), weights_only=True))
        except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
            return data
    return _ON_A_PAGE.sub(b"", data) if path.suffix == ".html" else data


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir() or not any(path.iterdir())]


def _without_clock(value):
    if isinstance(value, list):
        return [_without_clock(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_clock(one)
        for key, one in value.items()
        if not _OF_THE_CLOCK.fullmatch(key) and key not in _WITH_A_CLOCK and (key, type(one)) != ("sha256", str)
    }


def _plain(value):
    """Return values in which tensors are bytes, which are equal or not."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
