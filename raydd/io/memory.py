"""How this process keeps the memory it has."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST = 1 << 30


def keep_memory() -> bool:
    """Have freed memory kept for the next tensor, rather than given back to the system.

    By default glibc maps every block above 32 MB afresh and unmaps it when it is freed, so that each
    such tensor is cleared by the system anew: half the time of an expert's step at batch 256 on the CPU
    went there. Values are not touched; what a process holds no longer falls when tensors are freed.

    Returns:
        Whether the C library knows of it; others than glibc do not, and nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MOST)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))
