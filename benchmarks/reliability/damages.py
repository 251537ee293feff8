"""Damaged files: each file of what a run leaves, in each way that disks, copies and people damage files."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from .cases import LIKE_RUN, PREFIXES, Case, base_words

_RESUME = f"--output_dir run {LIKE_RUN} {PREFIXES} --max_steps 6 --resume_from_checkpoint True"
_FROM = "--layers --width --feed_forward --heads --vocab_size"

# By folder of the material: the same folder of another run, and the commands that read it, each with its words.
_FOLDERS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "run/core": (
        "other/core",
        [
            ("translate", "--model run/core --input text.de"),
            ("evaluate", "--model run/core --test_prefix corpus/test"),
            ("choose", "--run run --max_parameters 1M --output_dir out"),
            ("push", "run --name numbers --license mit --dry_run out"),
        ],
    ),
    "run/full": (
        "other/full",
        [
            ("translate", "--model run/full --input text.de"),
            ("push", "run --name numbers --license mit --dry_run out"),
            ("train", f"--model_name_or_path run/full {' '.join(base_words('train', _FROM))}"),
        ],
    ),
    "run/checkpoint-4": (
        "other/checkpoint-4",
        [
            ("train", _RESUME),
            ("translate", "--model run/checkpoint-4 --level core --input text.de"),
            ("export", "--checkpoint run/checkpoint-4 --output_dir out"),
        ],
    ),
    "run/tokenizer": ("other/tokenizer", [("train", _RESUME)]),
    "run": (
        "other",
        [
            ("push", "run --name numbers --license mit --dry_run out"),
            ("report", "run"),
            ("choose", "--run run --max_parameters 1M --output_dir out"),
            ("train", _RESUME),
        ],
    ),
    "base": (
        "other/full",
        [
            ("translate", "--model base --input text.de"),
            ("train", f"--model_name_or_path base {' '.join(base_words('train', _FROM))}"),
        ],
    ),
    "adapter": (
        "other_adapter",
        [("train", f"--adapter_name_or_path adapter {' '.join(base_words('train', f'{_FROM} --ratios'))}")],
    ),
}
# Nobody wrote down what these folders held.
_UNSIGNED = ("base", "adapter")
# The whole input of a command, for which another one's is only other input.
_OWN_INPUT = {("run/results.json", "report"), ("run/trainer_state.json", "report")}
# Without scores the largest network is chosen, and a folder without export.json is a model like any other.
_LESS = {("removed", "run/results.json", "choose"), ("removed", "run/core/export.json", "evaluate")}
# What a page is made without, and a repository is pushed without.
_OPTIONAL = ("run/trainer_state.json", "run/training.png", "run/report.html")


def damaged_files(material: Path) -> Iterator[Case]:
    """Yield a case for each file, each damage, and each command that reads the file's folder.

    Args:
        material: what `set_up` of `inputs` made.
    """
    for folder, (other, readers) in _FOLDERS.items():
        files = [path for path in sorted((material / folder).iterdir()) if path.is_file()]
        for path in files:
            name = f"{folder}/{path.name}"
            for damage, change in _damages(material / other / path.name):
                if damage == "another run's" and _same(material / name, material / other / path.name):
                    continue
                for command, words in readers:
                    free = folder in _UNSIGNED
                    free |= damage == "another run's" and (name, command) in _OWN_INPUT
                    free |= damage == "removed" and name in _OPTIONAL
                    free |= (damage, name, command) in _LESS
                    yield Case(
                        f"a file of {_KINDS[folder]}",
                        f"{name} {damage}",
                        command,
                        tuple(words.split()),
                        prepare=partial(_change, name, change),
                        right="either" if free else "same",
                        damaged=name,
                    )


_KINDS = {
    "run/core": "an export",
    "run/full": "an export",
    "run/checkpoint-4": "a checkpoint",
    "run/tokenizer": "a run's folder",
    "run": "a run's folder",
    "base": "a pretrained model",
    "adapter": "an adapter",
}


def _change(name: str, change: Callable[[Path], None], directory: Path) -> None:
    change(directory / name)


def _damages(other: Path) -> list[tuple[str, Callable[[Path], None]]]:
    return [
        ("removed", Path.unlink),
        ("emptied", lambda path: path.write_bytes(b"")),
        ("cut off", lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])),
        ("flipped", _flip),
        ("a directory", _become_directory),
        *([("another run's", partial(shutil.copyfile, other))] if other.is_file() else []),
    ]


def _flip(path: Path) -> None:
    """Turn the highest bit of the byte in the middle; of text that leaves no valid UTF-8."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80
    path.write_bytes(data)


def _become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _same(path: Path, other: Path) -> bool:
    return path.read_bytes() == other.read_bytes()
