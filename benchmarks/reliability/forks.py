"""Commands that start at once: a process that has imported everything, and forks a child for each of them.

A fresh interpreter takes seconds to import PyTorch and transformers, most of what a small run takes. A child begins
where a fresh interpreter would be after its imports, and leaves the same files; a test compares them bitwise.
"""

import contextlib
import ctypes
import importlib
import os
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import tqdm
from hf_ats_command import COMMANDS

_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def import_all(*modules: str) -> None:
    """Import the commands and further modules, and leave PyTorch without threads, which no child would have."""
    torch.set_num_threads(1)
    for name in (*(f"hf_ats.scripts.{script}" for script in COMMANDS.values()), *modules):
        importlib.import_module(name)


def import_what(command: str, arguments: Iterable, directory: Path) -> None:
    """Import what a command imports on its way, as it does in a child of its own.

    Args:
        command: as in `Fork`.
        arguments: those of a run that goes all the way.
        directory: where it runs.

    Raises:
        ValueError: the command failed; the message ends with what it wrote.
    """
    import_all()
    names = directory / "modules"
    child = Fork(command, arguments, directory, at_end=lambda: names.write_text("\n".join(sys.modules)))
    if child.wait() != 0:
        raise ValueError(f"{command} in {directory} failed: {child.err.read_text()[-2000:]}")
    for name in names.read_text().split():
        if name != "__main__" and name not in sys.modules:
            with contextlib.suppress(Exception):  # made by the run itself, such as the module of a metric
                importlib.import_module(name)


def die_with(parent: int) -> None:
    """Have the system kill this process when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # which has died already
        os._exit(1)


class Fork:
    """A command of `hf-ats` in a forked child, which ends with this process at the latest.

    Args:
        command: a name of `hf_ats_command.COMMANDS`.
        arguments: the words after it.
        directory: where it runs; made if it is missing. Beside it lie `NAME.out` and `NAME.err`, what it printed.
        stdin: a file that it reads as its standard input (default: nothing).
        at_start: called in the child before the command.
        at_end: called in the child after it, unless it failed.
    """

    def __init__(
        self,
        command: str,
        arguments: Iterable,
        directory: Path,
        *,
        stdin: Path | None = None,
        at_start: Callable[[], None] | None = None,
        at_end: Callable[[], None] | None = None,
    ):
        directory.mkdir(parents=True, exist_ok=True)
        self.out, self.err = (directory.parent / f"{directory.name}.{end}" for end in ("out", "err"))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.cpu_seconds = 0.0
        self._status: int | None = None
        self._parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self._settle(directory, stdin)
                status = _run(command, list(map(str, arguments)), at_start, at_end)
            finally:
                os._exit(status)
        self._handle = os.pidfd_open(self.pid)

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the status, negative for a signal as in `subprocess`; None if it runs after `timeout` seconds.

        `cpu_seconds` is then the time that its processors worked for it.
        """
        if self._status is None and select.select([self._handle], [], [], timeout)[0]:
            _, status, usage = os.wait4(self.pid, 0)
            os.close(self._handle)
            self.cpu_seconds = usage.ru_utime + usage.ru_stime
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait_cpu(self, seconds: float, patience: float = 600) -> int | None:
        """Return the status, or None when processors have worked so long for it, whatever else the machine does.

        Raises:
            TimeoutError: after `patience` seconds of the clock neither has come.
        """
        end = time.monotonic() + patience
        while self.wait(0.004) is None and self.cpu_seconds < seconds:
            if time.monotonic() > end:
                raise TimeoutError(f"process {self.pid} has stopped working; what it said is in {self.err}.")
            with open(f"/proc/{self.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            self.cpu_seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return self._status

    def send(self, number: int) -> None:
        """Send a signal, unless the command has ended."""
        if self.wait(0) is None:
            os.kill(self.pid, number)

    def _settle(self, directory: Path, stdin: Path | None) -> None:
        """Make this process, the child, what a shell would have started there."""
        die_with(self._parent)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number, path, flags in (
            (0, stdin or os.devnull, os.O_RDONLY),
            (1, self.out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (2, self.err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ):
            os.dup2(os.open(path, flags, 0o644), number)
        for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", buffering=1))
        # Which processes share: one that is killed while it holds the lock would stop all others.
        lock = threading.RLock()
        for bar in _kinds(tqdm.tqdm):
            bar.set_lock(lock)
        os.chdir(directory)
        scratch = directory.parent / f"{directory.name}.tmp"  # what dies in it goes with the benchmark's folder
        scratch.mkdir(exist_ok=True)
        tempfile.tempdir = str(scratch)


def _kinds(base: type) -> list[type]:
    """Return a class and all that are made from it."""
    return [base, *(kind for derived in base.__subclasses__() for kind in _kinds(derived))]


def _run(command: str, arguments: list[str], *around: Callable[[], None] | None) -> int:
    """Run the command as `hf-ats COMMAND` does; return the status that an interpreter would end with."""
    at_start, at_end = around
    sys.argv = [f"hf-ats {command}", *arguments]
    status = 0
    try:
        if at_start is not None:
            at_start()
        importlib.import_module(f"hf_ats.scripts.{COMMANDS[command]}").main()
        if at_end is not None:
            at_end()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:  # an interpreter prints any of them
        traceback.print_exc()
        status = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return status
