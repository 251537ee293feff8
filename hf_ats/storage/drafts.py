"""Drafts: a directory or file of its final name is always whole, whenever the process is killed."""

import contextlib
import ctypes
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows, where drafts of the dead stay
    fcntl = None

_DRAFT = re.compile(r"\.(?P<target>.+)-[0-9a-f]{8}(?P<old>-old)?")


@contextlib.contextmanager
def draft(target: str | os.PathLike, tag: str | None = None) -> Iterator[Path]:
    """Yield a new directory, which takes the place of `target` if the block succeeds, and vanishes if it fails.

    On the way its files are written through to the disk, and get the permissions that new files have here (some
    writers of weights take away those of the group and of others). Drafts of `target` whose process died are removed
    before.

    Args:
        target: the directory to make; one that is there is replaced, and stays as it was if the block fails.
        tag: eight hexadecimal digits in the draft's name, by which other processes know it; by default random ones.
    """
    target = Path(os.path.realpath(target))
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file, and a directory is to be written there; move it away.")
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_drafts(target.parent, target.name)
    path = draft_of(target, tag or uuid.uuid4().hex[:8])
    path.mkdir()
    with _held(path):
        try:
            yield path
            _write_through(path)
            _move(path, target)
        finally:
            shutil.rmtree(path, ignore_errors=True)


def draft_of(target: str | os.PathLike, tag: str) -> Path:
    """Return the directory that `draft(target, tag)` yields."""
    target = Path(os.path.realpath(target))
    return target.parent / f".{target.name}-{tag}"


def write_file(path: str | os.PathLike, data: str | bytes) -> None:
    """Write a file whole or not at all: an earlier one stays as it was until all of this one is on the disk.

    Args:
        path: where to write; `/dev/stdout` and other things that are not files are written to as they are.
        data: its contents; a text is written in UTF-8, its line ends as they are.
    """
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = Path(os.path.realpath(path))  # a link stays a link
    part = path.parent / f".{path.name}-{uuid.uuid4().hex[:8]}"
    try:
        with part.open("xb") as file, _held(part):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_whole(directory: str | os.PathLike) -> None:
    """Remove a directory, of which no name but a draft's is ever seen in part."""
    path = draft_of(directory, uuid.uuid4().hex[:8])
    Path(directory).rename(path)
    shutil.rmtree(path, ignore_errors=True)


def remove_drafts(directory: str | os.PathLike, target: str | None = None) -> None:
    """Remove the drafts in a directory whose process died, and put back what one of them was about to replace.

    Args:
        directory: where to look; not below it.
        target: only those of this name.
    """
    for path in sorted(Path(directory).glob(".*-*"), reverse=True):  # what was there before comes first
        match = _DRAFT.fullmatch(path.name)
        if match is None or target not in (None, match["target"]):
            continue
        with contextlib.suppress(OSError), _held(path) as of_the_dead:
            if not of_the_dead:
                continue
            if not path.is_dir():
                path.unlink()
            elif match["old"] and not path.with_name(match["target"]).exists():
                path.rename(path.with_name(match["target"]))
            else:
                shutil.rmtree(path)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold the lock of a draft, which ends with its process at the latest; yield whether it could be had."""
    if fcntl is None:
        yield False
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield _locks(handle)
    finally:
        os.close(handle)


def _locks(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process holds it, or the file system has no locks
        return False
    return True


def _write_through(directory: Path) -> None:
    mode = directory.stat().st_mode & 0o666
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            path = os.path.join(folder, name)
            os.chmod(path, mode)
            _sync(path)
        _sync(folder)


def _sync(path: str | os.PathLike) -> None:
    if fcntl is None:  # Windows has no such handle of a directory
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _move(path: Path, target: Path) -> None:
    """Rename a directory to `target`, and remove what was there, which stays where it was if that fails.

    At any moment the name holds one or the other, but for an instant where the system cannot exchange two names; then
    `remove_drafts` puts back what was there.
    """
    if not target.exists():
        path.rename(target)
    elif _exchanged(path, target):
        shutil.rmtree(path, ignore_errors=True)
    else:
        old = path.with_name(f"{path.name}-old")
        target.rename(old)
        try:
            path.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange the names of two directories at once, by Linux's renameat2; return whether that could be done."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if exchange is None:
        return False
    here, both = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of its header files
    return exchange(here, os.fsencode(one), here, os.fsencode(other), both) == 0
