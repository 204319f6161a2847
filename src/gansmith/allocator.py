"""What the C library does with memory that torch gives back, on the CPU."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as in mallopt(3)
# Bytes: of blocks above it, and of free memory above it at the end of the heap, the system still gets some back.
_KEPT = 1 << 30


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next round; whether it was told to (another allocator may stand before it).

    Gradients and activations of a few MB are freed every round. glibc hands such memory back to the system, which
    gives it out again page by page, each zeroed: thousands of page faults a round. Measured: benchmarks/allocator.py.
    It holds for the whole process and cannot be taken back, so the command line asks for it and the library does not.
    Nothing happens where the environment has settings of its own (MALLOC_*, GLIBC_TUNABLES), or without glibc.
    """
    own = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if own or sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    # Older versions of glibc take no more than 32 MB for the first; the second alone would make things worse.
    return any(libc.mallopt(_M_MMAP_THRESHOLD, size) for size in (_KEPT, 32 << 20)) and bool(
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    )
