"""What this machine has: processors, memory, disk, the terminal, and whether a local Ray has room."""

import errno
import os
import shutil
import tempfile
import time
from pathlib import Path

from raydd.doctor.findings import Finding
from raydd.doctor.probe import Said
from raydd.io.memory import control_groups, format_bytes, system_memory
from raydd.io.paths import default_cache, existing
from raydd.io.private import root

SHM = Path("/dev/shm")
LEAST_MEMORY, SOME_MEMORY = 1e9, 4e9
"""Bytes: a local Ray and one worker; two workers with room."""
LEAST_DISK, SOME_DISK = 256e6, 2e9
"""Bytes: a small run; a buffer of a hundred small experts."""
TRIED = 1 << 20
"""Bytes that are written, and taken away again, to see whether a folder takes any."""
OBJECT_STORE_SHARE, OBJECT_STORE_LEAST, OBJECT_STORE_MOST, SLOW_STORE_MOST = 0.3, 75 << 20, 200e9, 10**10
"""Ray's own, of ``ray/_private/ray_constants.py``: the share of free memory that a local Ray's object store takes, its
bounds in bytes, and the size up to which it does without enough of /dev/shm."""
FULL = 0.95
"""Ray's ``local_fs_capacity_threshold``: on a disk that is fuller its object store writes nothing out."""
COUNTING_SECONDS = 1.0


def cpus() -> list[Finding]:
    """The processors that this process may use, and the share of them that its container lets it have."""
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    shares = [usable * 1.0]
    for group in control_groups():
        try:
            quota, period = (group / "cpu.max").read_text().split()
            shares.append(int(quota) / int(period))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    share = min(shares)
    if share < usable:
        found = f"{usable} of {there} may be used, and the container gives the time of {share:g}"
        remedy = f"Give --num-workers {max(1, int(share))}, since by default there is a worker a processor."
        return [Finding("cpus", "warning", found, remedy)]
    return [Finding("cpus", "ok", f"{usable} of {there} may be used")]


def memory() -> list[Finding]:
    """Free memory."""
    free, total = system_memory()
    found = f"{format_bytes(free)} of {format_bytes(total)} free"
    if free < LEAST_MEMORY:
        return [
            Finding(
                "memory", "fault", found, f"End other programs: Ray and one worker take {format_bytes(LEAST_MEMORY)}."
            )
        ]
    if free < SOME_MEMORY:
        remedy = "Give --num-workers 1, or end other programs: each worker takes about half a GB and its network."
        return [Finding("memory", "warning", found, remedy)]
    return [Finding("memory", "ok", found)]


def local_ray() -> list[Finding]:
    """Whether a local Ray could start, by Ray's own rules; none is started."""
    free, _ = system_memory()
    store = min(OBJECT_STORE_SHARE * free, OBJECT_STORE_MOST)
    shared = shutil.disk_usage(SHM).free if SHM.is_dir() else 0
    store = min(store, max(SLOW_STORE_MOST, 0.95 * shared))
    if store < OBJECT_STORE_LEAST:
        need = f"its object store takes {format_bytes(OBJECT_STORE_LEAST)}, {OBJECT_STORE_SHARE:.0%} of free memory"
        found = f"cannot start: an object store of {format_bytes(store)}"
        return [Finding("local ray", "fault", found, f"End other programs: {need}.")]
    try:
        _, folder, note = root()
    except ValueError as error:
        problem, _, remedy = str(error).rpartition("; ")
        return [Finding("local ray", "fault", f"cannot start: {problem}", f"{remedy[:1].upper()}{remedy[1:]}.")]
    room = space("local ray", folder, "Set RAY_TMPDIR to a folder on another disk")
    if room.state == "fault":
        return [room]
    found = f"an object store of {format_bytes(store)} ({SHM} has {format_bytes(shared)}), its files in {folder}"
    usage = shutil.disk_usage(existing(folder))
    if store > shared:
        remedy = "Make it larger, in Docker with --shm-size: the object store lies on the disk otherwise, and is slow."
    elif usage.used > FULL * (usage.used + usage.free):
        found += f", a disk that is over {FULL:.0%} full"
        remedy = "Make room there, or set RAY_TMPDIR to another disk: Ray writes nothing out on a disk so full."
    else:
        found, remedy = f"can start, with {found}{note and f' ({note})'}", ""
    return [Finding("local ray", "warning" if remedy else "ok", found, remedy)]


def space(name: str, folder: Path, elsewhere: str) -> Finding:
    """Whether a folder, or the nearest above it that exists, takes files, and how much room there is.

    Args:
        name: What the finding is called.
        folder: Where files would be written.
        elsewhere: How to have them written elsewhere, the beginning of a sentence.
    """
    there = existing(folder)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(TRIED))
            file.flush()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return Finding(
                name, "fault", f"{folder}: no space is left on its disk", f"Make room, or {_lower(elsewhere)}."
            )
        return Finding(name, "fault", f"{folder} cannot be written ({error.strerror})", f"{elsewhere}.")
    free = shutil.disk_usage(there).free
    found = f"{folder}: {format_bytes(free)} of disk free"
    if free < LEAST_DISK:
        return Finding(name, "fault", f"{found}, too little for a run", f"Make room, or {_lower(elsewhere)}.")
    if free < SOME_DISK:
        return Finding(name, "warning", f"{found}, little for experts", f"Make room, or {_lower(elsewhere)}.")
    return Finding(name, "ok", found)


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def cache() -> list[Finding]:
    """The cache: where it is, how large, whether it takes files, and how much room its disk has."""
    folder = default_cache()
    room = space("cache", folder, "Set RAYDD_CACHE to another folder")
    if room.state == "fault" or not folder.is_dir():
        return [room]
    held, whole = counted(folder)
    return [room._replace(found=f"{room.found}, {'' if whole else 'over '}{format_bytes(held)} in it")]


def counted(folder: Path) -> tuple[int, bool]:
    """Bytes of the files in a folder, and whether all were counted before `COUNTING_SECONDS` were over."""
    held, end = 0, time.monotonic() + COUNTING_SECONDS
    for home, _, names in os.walk(folder):
        if time.monotonic() > end:
            return held, False
        for name in names:
            try:
                held += os.lstat(os.path.join(home, name)).st_size
            except OSError:  # gone meanwhile
                continue
    return held, True


def here() -> list[Finding]:
    """The folder where this is run: runs go to ``runs/`` in it unless ``--out`` names another place."""
    return [space("runs", Path.cwd() / "runs", "Give --out a folder elsewhere")]


def datasets(said: Said) -> list[Finding]:
    """The data sets that are here without a download.

    Args:
        said: What `raydd.doctor.probe` found.
    """
    root = os.environ.get("RAYDD_DATA")
    if root and not Path(root).expanduser().is_dir():
        remedy = "Make that folder, or set RAYDD_DATA to the one that holds the raw data."
        return [Finding("data sets", "warning", f"RAYDD_DATA is {root}, which is no folder", remedy)]
    if "error" in said["datasets"]:
        words, remedy = (
            f"not looked for ({said['datasets']['error']})",
            "Mend that first, then run `raydd doctor` again.",
        )
        return [Finding("data sets", "warning" if "error" in said["torch"] else "fault", words, remedy)]
    found = said["datasets"]["found"]
    others = [name for name in found["all"] if name not in found["here"]]
    missing = f"; not here: {', '.join(others)} (`raydd datasets NAME` gets it, or says how)" if others else ""
    decoded = f"; {len(found['decoded'])} decoded in the cache" if found["decoded"] else ""
    return [Finding("data sets", "ok", ", ".join(found["here"]) + decoded + missing)]


def terminal() -> list[Finding]:
    """What progress is shown on: stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        return [Finding("terminal", "ok", "none: progress comes in plain lines")]
    found = f"{console.width} columns, {console.color_system or 'no'} colours, {console.encoding}"
    if "utf" not in console.encoding.lower():
        return [Finding("terminal", "warning", found, "Set LANG to a locale with UTF-8, such as C.UTF-8.")]
    return [Finding("terminal", "ok", found)]
