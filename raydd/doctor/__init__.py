"""`raydd doctor`: whether packages, Ray, memory and disk of this machine carry raydd, and what to do where they do not.

Every look is made for itself, so that what is broken hides nothing else. Packages that could end the process that
imports them are imported by another one, see `raydd.doctor.probe`; Ray is found without importing it.
"""

from functools import partial
from importlib import import_module
from typing import NamedTuple

from raydd.doctor.findings import Finding, attempt
from raydd.doctor.probe import Probe, Said


class Row(NamedTuple):
    """One look.

    Attributes:
        name: What is looked at.
        module: Where the look is, below `raydd.doctor`.
        look: Its name there.
        told: Whether it is told what `raydd.doctor.probe` found, by part; else it looks for itself.
    """

    name: str
    module: str
    look: str
    told: bool = False


LOOKS = (
    Row("python", "packages", "python"),
    Row("raydd", "packages", "raydd"),
    Row("torch", "packages", "torch", told=True),
    Row("torchvision", "packages", "torchvision", told=True),
    Row("ray", "packages", "ray"),
    Row("packages", "packages", "needed"),
    Row("optional", "packages", "optional"),
    Row("cpus", "machine", "cpus"),
    Row("gpu", "packages", "devices", told=True),
    Row("memory", "machine", "memory"),
    Row("local ray", "machine", "local_ray"),
    Row("cache", "machine", "cache"),
    Row("runs", "machine", "here"),
    Row("data sets", "machine", "datasets", told=True),
    Row("terminal", "machine", "terminal"),
)


def examine() -> list[Finding]:
    """Look at everything; takes a few seconds, starts no Ray, and leaves nothing behind."""
    probe = Probe("torch", "datasets", "torchvision")
    found = {row: attempt(row.name, partial(_look, row)) for row in LOOKS if not row.told}
    said = probe.said()
    found |= {row: attempt(row.name, partial(_look, row, said)) for row in LOOKS if row.told}
    return [finding for row in LOOKS for finding in found[row]]


def _look(row: Row, *said: Said) -> list[Finding]:
    """Make a look; its module is imported here, so that what that lacks is a fault of the look alone."""
    found: list[Finding] = getattr(import_module(f"raydd.doctor.{row.module}"), row.look)(*said)
    return found


def versions() -> dict[str, str | None]:
    """The versions of Python, raydd and what it needs; {} where they cannot be told, and `examine` says why."""
    try:
        from raydd.doctor import packages

        return packages.versions()
    except Exception:  # as in `attempt`
        return {}
