"""Memory that a training step on a CPU keeps from the step before, which saves time."""

import ctypes
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Have the C library of this process keep freed memory for the next allocation instead of giving it back.

    Every step allocates and frees the same large tensors. By default glibc returns these to the system, which hands
    them out again page by page, filled with zeros; on a CPU that takes a noticeable part of a step
    (docs/performance.md). The process then holds its peak until its end, so this is for programs that train, not for
    a library that is imported.

    Returns:
        Whether the C library could be told; others than glibc are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    # No trimming, no mapping of large blocks one by one, and growth by 64 MiB at a time.
    return all((mallopt(_M_TRIM_THRESHOLD, -1), mallopt(_M_MMAP_MAX, 0), mallopt(_M_TOP_PAD, 64 * 2**20)))
