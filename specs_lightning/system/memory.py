"""How the C library hands out memory, set so that training on a CPU does not spend half its time in page faults."""

from __future__ import annotations

import ctypes
import platform

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_GIBIBYTE = 2**30


def keep_freed_memory() -> bool:
    """Let freed tensors be used again instead of being returned to the system each time; whether that was possible.

    By default glibc maps every large tensor anew, and the kernel zeroes its pages at first touch. PyTorch's own caching
    allocator does this job on a GPU; on a CPU there is none.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _GIBIBYTE, _M_TOP_PAD: _GIBIBYTE // 16}
    results = [mallopt(option, value) for option, value in options.items()]
    return results == [1] * len(options)
