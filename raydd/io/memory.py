"""Memory: how much this process may still take, how it keeps what it has, and bytes as text."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MOST = 1 << 30
_TWO_HEAPS = 1 << 27


def format_bytes(count: float) -> str:
    """Return a number of bytes as text.

    >>> format_bytes(1.5e9), format_bytes(2e7), format_bytes(512)
    ('1.5 GB', '20 MB', '0 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def control_groups() -> Iterator[Path]:
    """Yield the folder of this process's control group and of those above it, the innermost first."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    inner = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), "")
    folder = CGROUP / inner
    yield from (group for group in (folder, *folder.parents) if group.is_relative_to(CGROUP))


def system_memory() -> tuple[float, float]:
    """Return the free and the total bytes of memory for this process: the machine's, or its container's.

    Files that a container has read count as used there and give way, so they are free. Both are infinite where the
    system does not say.
    """
    system = _numbers(Path("/proc/meminfo"))
    free, total = (1024 * system.get(name, float("inf")) for name in ("MemAvailable:", "MemTotal:"))
    for group in control_groups():
        try:
            most, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        except (OSError, ValueError):  # no such file, or "max"
            continue
        pages = _numbers(group / "memory.stat")
        cached = pages.get("inactive_file", 0) + pages.get("active_file", 0)  # not "file", which counts shared memory
        free, total = min(free, max(0, most - used + cached)), min(total, most)
    return free, total


def _numbers(path: Path) -> dict[str, int]:
    """Return the numbers of a file of lines, each a name and a number."""
    try:
        lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
        return {line[0]: int(line[1]) for line in lines}
    except OSError:
        return {}


def keep_memory() -> bool:
    """Keep freed memory for the next tensor instead of returning it to the system.

    By default glibc maps every block above 32 MB anew and unmaps it when it is freed, so the system clears the memory
    of each such tensor: that took half the time of an expert's step at batch 256 on the CPU. Outside the main thread,
    where blocks lie in heaps of 64 MB, it unmaps each heap that is free, unless two are to stay at the top: that took
    a seventh of the time of Ray Train's workers, which train in a thread. Values do not change.

    Returns:
        Whether the C library is glibc; with another one nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    wanted = {_M_MMAP_THRESHOLD: _MOST, _M_TRIM_THRESHOLD: _MOST, _M_TOP_PAD: _TWO_HEAPS}
    return all([bool(mallopt(option, value)) for option, value in wanted.items()])
