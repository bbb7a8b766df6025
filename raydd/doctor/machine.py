"""Checks of this machine: processors, memory, disk, the terminal, and whether a local Ray can start."""

import errno
import os
import shutil
import tempfile
import time
from pathlib import Path

from raydd.doctor.findings import FIRST, Finding, State
from raydd.doctor.probe import Results
from raydd.io.memory import control_groups, format_bytes, system_memory
from raydd.io.paths import default_cache, existing
from raydd.io.private import root

SHM = Path("/dev/shm")
LEAST_MEMORY, SOME_MEMORY = 1e9, 4e9
"""Bytes: enough for a local Ray and one worker; for two workers with room."""
LEAST_DISK, SOME_DISK = 256e6, 2e9
"""Bytes: enough for a small run; for a buffer of a hundred small experts."""
TRIAL_BYTES = 1 << 20
"""Bytes of a temporary file that tests whether a folder can be written."""
OBJECT_STORE_SHARE, OBJECT_STORE_LEAST, OBJECT_STORE_MOST, SLOW_STORE_MOST = 0.3, 75 << 20, 200e9, 10**10
"""Ray's own numbers, from ``ray/_private/ray_constants.py``: the share of free memory that the object store of a local
Ray takes, its bounds in bytes, and the size up to which it may exceed /dev/shm."""
FULL = 0.95
"""Ray's ``local_fs_capacity_threshold``: the object store writes no objects to a disk that is fuller."""
COUNT_SECONDS = 1.0


def cpus() -> list[Finding]:
    """Check the processors of this process, and the share of them that its container grants."""
    usable, total = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    share = float(usable)
    for group in control_groups():
        try:
            quota, period = (group / "cpu.max").read_text().split()
            share = min(share, int(quota) / int(period))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    detail = f"{usable} of {total} may be used"
    if share < usable:
        remedy = f"Give --num-workers {max(1, int(share))}: the default is one worker a processor."
        return [Finding("cpus", "warning", f"{detail}, and the container gives the time of {share:g}", remedy)]
    return [Finding("cpus", "ok", detail)]


def memory() -> list[Finding]:
    """Check the free memory."""
    free, total = system_memory()
    detail = f"{format_bytes(free)} of {format_bytes(total)} free"
    if free < LEAST_MEMORY:
        remedy = f"End other programs: Ray and one worker take {format_bytes(LEAST_MEMORY)}."
        return [Finding("memory", "fault", detail, remedy)]
    if free < SOME_MEMORY:
        remedy = "Give --num-workers 1, or end other programs: each worker takes half a GB and its network."
        return [Finding("memory", "warning", detail, remedy)]
    return [Finding("memory", "ok", detail)]


def local_ray() -> list[Finding]:
    """Check whether a local Ray can start, by Ray's own rules; none is started."""
    free, _ = system_memory()
    shared = shutil.disk_usage(SHM).free if SHM.is_dir() else 0
    store = min(OBJECT_STORE_SHARE * free, OBJECT_STORE_MOST, max(SLOW_STORE_MOST, 0.95 * shared))
    if store < OBJECT_STORE_LEAST:
        need = f"its object store takes {format_bytes(OBJECT_STORE_LEAST)}, {OBJECT_STORE_SHARE:.0%} of free memory"
        detail = f"cannot start: an object store of {format_bytes(store)}"
        return [Finding("local ray", "fault", detail, f"End other programs: {need}.")]
    try:
        _, folder, note = root()
    except ValueError as error:
        problem, _, remedy = str(error).rpartition("; ")
        return [Finding("local ray", "fault", f"cannot start: {problem}", f"{remedy[:1].upper()}{remedy[1:]}.")]
    room = space("local ray", folder, "Set RAY_TMPDIR to a folder on another disk")
    if room.state == "fault":
        return [room]
    detail = f"an object store of {format_bytes(store)} ({SHM} has {format_bytes(shared)}), its files in {folder}"
    usage = shutil.disk_usage(existing(folder))
    if store > shared:
        remedy = f"Make {SHM} larger, in Docker with --shm-size: the object store is on the disk otherwise, and slow."
        return [Finding("local ray", "warning", detail, remedy)]
    if usage.used > FULL * (usage.used + usage.free):
        remedy = "Make room there, or set RAY_TMPDIR to another disk: Ray writes no objects to a disk so full."
        return [Finding("local ray", "warning", f"{detail}, a disk that is over {FULL:.0%} full", remedy)]
    return [Finding("local ray", "ok", f"can start, with {detail}{note and f' ({note})'}")]


def space(name: str, folder: Path, elsewhere: str) -> Finding:
    """Check that a folder, or the nearest existing one above it, can be written and has room.

    Args:
        name: The finding's name.
        folder: Where files would be written.
        elsewhere: How to write them elsewhere, the beginning of a sentence.
    """
    parent = existing(folder)
    remedy = f"Make room, or {elsewhere[:1].lower()}{elsewhere[1:]}."
    try:
        with tempfile.TemporaryFile(dir=parent) as file:
            file.write(bytes(TRIAL_BYTES))
            file.flush()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return Finding(name, "fault", f"{folder}: no space is left on its disk", remedy)
        return Finding(name, "fault", f"{folder} cannot be written ({error.strerror})", f"{elsewhere}.")
    free = shutil.disk_usage(parent).free
    detail = f"{folder}: {format_bytes(free)} of disk free"
    if free < LEAST_DISK:
        return Finding(name, "fault", f"{detail}, too little for a run", remedy)
    if free < SOME_DISK:
        return Finding(name, "warning", f"{detail}, little for experts", remedy)
    return Finding(name, "ok", detail)


def cache() -> list[Finding]:
    """Check the cache: its folder, its size, whether it can be written, and the room on its disk."""
    folder = default_cache()
    room = space("cache", folder, "Set RAYDD_CACHE to another folder")
    if room.state == "fault" or not folder.is_dir():
        return [room]
    size, complete = folder_bytes(folder)
    return [room._replace(detail=f"{room.detail}, {'' if complete else 'over '}{format_bytes(size)} in it")]


def folder_bytes(folder: Path) -> tuple[int, bool]:
    """Return the bytes of the files in a folder, and whether `COUNT_SECONDS` were enough to count all of them."""
    size, end = 0, time.monotonic() + COUNT_SECONDS
    for parent, _, names in os.walk(folder):
        if time.monotonic() > end:
            return size, False
        for name in names:
            try:
                size += os.lstat(os.path.join(parent, name)).st_size
            except OSError:  # removed meanwhile
                continue
    return size, True


def runs() -> list[Finding]:
    """Check the current folder: runs go to ``runs/`` in it unless ``--out`` names another one."""
    return [space("runs", Path.cwd() / "runs", "Give --out a folder elsewhere")]


def datasets(results: Results) -> list[Finding]:
    """Check which data sets are here without a download, by the results of `raydd.doctor.probe`."""
    folder = os.environ.get("RAYDD_DATA")
    if folder and not Path(folder).expanduser().is_dir():
        remedy = "Make that folder, or set RAYDD_DATA to the one that holds the raw data."
        return [Finding("data sets", "warning", f"RAYDD_DATA is {folder}, which is not a folder", remedy)]
    if "error" in results["datasets"]:
        state: State = "warning" if "error" in results["torch"] else "fault"
        return [Finding("data sets", state, f"not checked ({results['datasets']['error']})", FIRST)]
    value = results["datasets"]["value"]
    others = [name for name in value["all"] if name not in value["here"]]
    missing = f"; not here: {', '.join(others)} (`raydd datasets NAME` gets it, or says how)" if others else ""
    decoded = f"; {len(value['decoded'])} decoded in the cache" if value["decoded"] else ""
    return [Finding("data sets", "ok", ", ".join(value["here"]) + decoded + missing)]


def terminal() -> list[Finding]:
    """Check the terminal behind stderr, which shows progress."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        return [Finding("terminal", "ok", "none: progress comes in plain lines")]
    detail = f"{console.width} columns, {console.color_system or 'no'} colours, {console.encoding}"
    if "utf" not in console.encoding.lower():
        return [Finding("terminal", "warning", detail, "Set LANG to a locale with UTF-8, such as C.UTF-8.")]
    return [Finding("terminal", "ok", detail)]
