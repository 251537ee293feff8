"""Drafts: whatever happens on the way, a name holds what was there before or all of what was written."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest

from hf_ats.storage import draft, draft_of, drafts, remove_drafts, write_file

SPAWN = multiprocessing.get_context("fork")


def names(directory) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


def write_and_die(target) -> None:
    with draft(target) as path:
        (path / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_draft_takes_its_place_when_all_of_it_is_written(exchanges, tmp_path, monkeypatch):
    if not exchanges:
        monkeypatch.setattr(drafts, "_exchanged", lambda one, other: False)
    target = tmp_path / "core"
    for content in ("first", "second"):
        with draft(target) as path:
            (path / "weights").write_text(content)
            os.chmod(path / "weights", 0o600)
        assert (target / "weights").read_text() == content
    assert names(tmp_path) == ["core"]
    assert (target / "weights").stat().st_mode & 0o777 == target.stat().st_mode & 0o666


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    with draft(tmp_path / "core") as path:
        (path / "weights").write_text("first")

    def fill_the_disk() -> None:
        with draft(tmp_path / "core") as path:
            (path / "weights").write_text("second")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert names(tmp_path) == ["core"]
    assert (tmp_path / "core/weights").read_text() == "first"


def test_drafts_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    process = SPAWN.Process(target=write_and_die, args=(tmp_path / "core",))
    process.start()
    process.join()
    assert len(names(tmp_path)) == 1
    with draft(tmp_path / "full") as alive:
        remove_drafts(tmp_path)
        assert names(tmp_path) == [alive.name]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    old = draft_of(tmp_path / "core", "0123abcd")
    old.mkdir()
    (old / "half").touch()
    before = Path(f"{old}-old")
    before.mkdir()
    (before / "weights").write_text("first")
    remove_drafts(tmp_path)
    assert names(tmp_path) == ["core"]
    assert (tmp_path / "core/weights").read_text() == "first"


@pytest.mark.skipif(sys.platform != "linux", reason="two names cannot be exchanged at once")
def test_a_name_never_lacks_its_directory_while_it_is_replaced(tmp_path, monkeypatch):
    target, original, seen = tmp_path / "core", Path.rename, []
    with draft(target) as path:
        (path / "weights").write_text("first")
    monkeypatch.setattr(Path, "rename", lambda one, other: seen.append(one) or original(one, other))
    with draft(target) as path:
        (path / "weights").write_text("second")
    assert not seen and (target / "weights").read_text() == "second" and names(tmp_path) == ["core"]


def test_only_drafts_are_removed(tmp_path):
    kept = [".git", ".core-backup", ".env-12345678x", "core-12345678"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".results.json-0123abcd").write_text("{")
    remove_drafts(tmp_path)
    assert names(tmp_path) == sorted(kept)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "out.txt"
    write_file(path, "eins\r\nzwei\n")
    assert path.read_bytes() == b"eins\r\nzwei\n"
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    write_file(link, b"drei")
    assert link.is_symlink() and path.read_bytes() == b"drei" and path.stat().st_mode & 0o777 == 0o640

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, "vier")
    assert names(tmp_path) == ["link", "out.txt"] and path.read_bytes() == b"drei"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")
def test_what_is_not_a_file_is_written_to_as_it_is():
    write_file("/dev/null", "text")
    with pytest.raises(OSError, match="No space"):
        write_file("/dev/full", "text")


def test_a_file_system_without_locks_is_written_to_and_never_tidied(tmp_path, monkeypatch):
    def unsupported(handle, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    (tmp_path / ".core-0123abcd").mkdir()  # of a process that could be alive
    with draft(tmp_path / "core") as path:
        (path / "weights").write_text("first")
    assert names(tmp_path) == [".core-0123abcd", "core"]


def test_a_file_of_the_name_is_kept(tmp_path):
    (tmp_path / "tokenizer").write_text("mine")
    with pytest.raises(FileExistsError, match="tokenizer is a file"), draft(tmp_path / "tokenizer"):
        pytest.fail("it began to write")
    assert names(tmp_path) == ["tokenizer"] and (tmp_path / "tokenizer").read_text() == "mine"
