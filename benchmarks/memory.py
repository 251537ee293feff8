"""Peak memory of a piece of work, in a process of its own, where nothing else counts."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch


def peak_memory(work: Callable, *arguments, device: torch.device | str = "cpu") -> int:
    """Measure the most bytes that `work(*arguments)` held at once, above what its process held before.

    On a CPU that is resident memory, the pages that the allocator keeps for later included; on a GPU what PyTorch
    allocated.

    Args:
        work: a function of a module, since a new process imports it.
        arguments: what it is called with; they are pickled.
        device: where it computes.

    Raises:
        RuntimeError: the work failed; its own message is on standard error.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, str(device), torch.get_num_threads(), work, arguments))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        result = None
    process.join()
    if result is None:
        raise RuntimeError(
            f"measuring the memory of {work.__name__} failed: its process ended with {process.exitcode}."
        )
    return result


def _measure(sender, device: str, threads: int, work: Callable, arguments: tuple) -> None:
    torch.set_num_threads(threads)
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work(*arguments)
        sender.send(torch.cuda.max_memory_allocated(device) - before)
        return
    before = _resident("VmRSS")
    work(*arguments)
    sender.send(_resident("VmHWM") - before)


def _resident(field: str) -> int:
    # Unlike getrusage's figure, which a new process inherits, this one is of the process's own memory.
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {field}, so this system's memory cannot be measured.")
