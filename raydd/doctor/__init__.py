"""`raydd doctor`: check that packages, Ray, memory and disk of this machine can run raydd, and say what to fix.

Each check runs by itself, so that a broken part hides no other. A broken package may end the process that imports it,
so `raydd.doctor.probe` imports such packages in another process. Ray is checked without importing it.
"""

from functools import partial
from importlib import import_module

from raydd.doctor.findings import Finding, attempt
from raydd.doctor.probe import Probe, Results

CHECKS = {
    "python": "packages.python",
    "raydd": "packages.raydd",
    "torch": "packages.torch",
    "torchvision": "packages.torchvision",
    "ray": "packages.ray",
    "packages": "packages.required",
    "optional": "packages.optional",
    "cpus": "machine.cpus",
    "gpu": "packages.devices",
    "memory": "machine.memory",
    "local ray": "machine.local_ray",
    "cache": "machine.cache",
    "runs": "machine.runs",
    "data sets": "machine.datasets",
    "terminal": "machine.terminal",
}
"""The function of each check, below `raydd.doctor`."""
PROBED = ("torch", "torchvision", "gpu", "data sets")
"""Checks that take the results of `raydd.doctor.probe`."""


def examine() -> list[Finding]:
    """Run all checks; this takes a few seconds, starts no Ray and leaves no files behind."""
    probe = Probe("torch", "datasets", "torchvision")  # it works while the other checks run
    findings = {name: attempt(name, partial(_run, name)) for name in CHECKS if name not in PROBED}
    results = probe.results()
    findings |= {name: attempt(name, partial(_run, name, results)) for name in PROBED}
    return [finding for name in CHECKS for finding in findings[name]]


def _run(name: str, *results: Results) -> list[Finding]:
    """Import the check's module and run it: a failing import is a fault of this check alone."""
    module, function = CHECKS[name].split(".")
    findings: list[Finding] = getattr(import_module(f"raydd.doctor.{module}"), function)(*results)
    return findings


def versions() -> dict[str, str | None]:
    """Return the versions of Python, raydd and its requirements; {} where they are unknown, as `examine` then says."""
    try:
        from raydd.doctor import packages

        return packages.versions()
    except Exception:  # as in `attempt`
        return {}
