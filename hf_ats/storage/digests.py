"""Digests of what is in a directory, by which a file that is missing, cut off or altered is found."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath


def sha256_of(directory: str | os.PathLike, names: Iterable[str] | None = None) -> dict[str, str]:
    """Return the SHA-256 of files in a directory, by their paths relative to it, with `/` between the parts.

    Args:
        directory: where they are.
        names: which ones; None for all, those in folders below it too.
    """
    directory = Path(directory)
    if names is None:
        names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    hashes = {}
    for name in names:
        with (directory / name).open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def sealed(record: dict) -> dict:
    """Return a record, as JSON holds it, with its own SHA-256 as `sha256`."""
    return {**record, "sha256": _digest(record)}


def is_sealed(record) -> bool:
    """Return whether a record is what `sealed` returned."""
    return isinstance(record, dict) and record.get("sha256") == _digest(record)


def _digest(record: dict) -> str:
    facts = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def check_files(directory: str | os.PathLike, sha256: Mapping[str, str], what: str) -> None:
    """Raise an error that names the first file which is not what was written.

    Args:
        directory: where the files are.
        sha256: as `sha256_of` returned it when they were written.
        what: what the directory is, for the message, such as `"the checkpoint"`.

    Raises:
        ValueError: a file is missing, empty, or another than was written, or its name is not a path in the directory.
    """
    for name, written in sha256.items():
        path = inside(directory, name, links=True)  # links are what the Hub's cache is made of
        if not path.is_file():
            fault = "is missing"
        elif not path.stat().st_size and written != hashlib.sha256().hexdigest():
            fault = "is empty"
        elif sha256_of(directory, [name])[name] != written:
            fault = "is not what was written: it has been cut off, altered or replaced"
        else:
            continue
        raise ValueError(f"{what} {directory} is not whole: {name} {fault}.")


def inside(directory: str | os.PathLike, name: str, *, links: bool = False) -> Path:
    """Return the path of a file in a directory, for a name that nobody vouches for.

    Args:
        directory: where it must be.
        name: its path relative to the directory, with `/` between the parts.
        links: whether it may be a link that leads elsewhere.

    Raises:
        ValueError: the name is not a relative path, or leads out of the directory, by `..` or by a link.
    """
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name or Path(name).is_absolute():
        raise ValueError(f"{directory} names the file {name!r}, which is not a path inside it.")
    path = Path(directory).joinpath(*parts)
    if not (links or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))):
        raise ValueError(f"{directory} names the file {name!r}, which is a link that leads out of it.")
    return path
