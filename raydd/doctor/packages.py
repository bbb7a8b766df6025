"""Checks of the packages that raydd needs: which are installed, and whether their versions fit it and each other."""

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from raydd.doctor.findings import Finding
from raydd.doctor.probe import Results
from raydd.io.memory import format_bytes
from raydd.io.provenance import commit

if TYPE_CHECKING:
    from packaging.requirements import Requirement

MODULES = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml"}
"""Packages whose module has another name."""
SEPARATE = ("torch", "torchvision", "ray")
"""Packages that have a check of their own."""
DRIVER = Path("/proc/driver/nvidia/version")
"""This file exists where a driver of NVIDIA is loaded."""
OPTIONAL = {
    "timm": ("networks timm:NAME", "timm"),
    "tensorboard": ("its pages of the event files that distill and tune write", "tensorboard"),
}
"""Optional packages: what each is for, and what to install."""


def version(name: str) -> str | None:
    """Return the version of an installed package; None where it, or its module, is missing."""
    try:
        installed = metadata.version(name)
        return installed if find_spec(MODULES.get(name, name)) is not None else None
    except (metadata.PackageNotFoundError, ImportError, ValueError):
        return None


def requirements(name: str, extras: tuple[str, ...] = ()) -> Iterator["Requirement"]:
    """Yield what a package, with some of its extras, requires on this machine; nothing where it is not installed."""
    from packaging.requirements import Requirement

    try:
        texts = metadata.requires(name) or ()
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def versions() -> dict[str, str | None]:
    """Return the versions of Python, of raydd with its commit, and of its requirements; None where one is missing."""
    own = {"python": platform.python_version(), "raydd": version("raydd"), "commit": commit()}
    return own | {requirement.name: version(requirement.name) for requirement in requirements("raydd")}


def python() -> list[Finding]:
    """Report the Python that runs."""
    return [Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")]


def raydd() -> list[Finding]:
    """Report the raydd that runs, and its commit."""
    folder, own_commit, installed = Path(__file__).parents[1], commit(), version("raydd")
    if installed is None:
        remedy = (
            "Install it, for example with `uv pip install .` in its folder: its requirements are unknown otherwise."
        )
        return [Finding("raydd", "warning", f"runs from {folder}, and is not installed", remedy)]
    return [Finding("raydd", "ok", f"{installed} ({f'commit {own_commit}, ' if own_commit else ''}{folder})")]


def required() -> list[Finding]:
    """Check the requirements beside `SEPARATE`: one line for all, and one for each that is missing or too old."""
    faults, fine = list[Finding](), list[str]()
    for requirement in requirements("raydd"):
        if requirement.name not in SEPARATE:
            installed = version(requirement.name)
            if fault := mismatch(requirement, installed):
                faults.append(fault)
            else:
                fine.append(f"{requirement.name} {installed}")
    return [Finding("packages", "ok", ", ".join(fine) or "none are known to be needed"), *faults]


def mismatch(requirement: "Requirement", installed: str | None) -> Finding | None:
    """Return the fault of a package that is missing or has a wrong version."""
    remedy = f"Install it: uv pip install '{str(requirement).partition(';')[0].strip()}'."
    if installed is None:
        return Finding(requirement.name, "fault", "is not installed, or only a part of it is left", remedy)
    if not requirement.specifier.contains(installed, prereleases=True):
        detail = f"{installed} is not {requirement.specifier}, as raydd needs"
        return Finding(requirement.name, "fault", detail, remedy)
    return None


def fault_of(name: str) -> Finding | None:
    """Return the fault of a required package that is missing or has a wrong version."""
    from packaging.requirements import Requirement

    matching = (requirement for requirement in requirements("raydd") if requirement.name == name)
    return mismatch(next(matching, Requirement(name)), version(name))


def torch(results: Results) -> list[Finding]:
    """Check that torch can be imported, by the results of `raydd.doctor.probe`."""
    installed, fault = version("torch"), fault_of("torch")
    if installed is None or fault:
        return [fault] if fault else []
    if "error" in results["torch"]:
        remedy = "Install it anew: uv pip install --reinstall torch torchvision."
        return [Finding("torch", "fault", f"{installed} cannot be imported ({results['torch']['error']})", remedy)]
    value = results["torch"]["value"]
    build = f"for CUDA {value['cuda']}" if value["cuda"] else "for CPUs"
    return [duplicate("torch", installed, value["version"]) or Finding("torch", "ok", f"{value['version']}, {build}")]


def torchvision(results: Results) -> list[Finding]:
    """Check that torchvision can be imported and is built for this torch.

    The metadata of torchvision names the torch that it was built for. That it works is seen by running one of its
    compiled operators, in `raydd.doctor.probe`.
    """
    installed, beside, fault = version("torchvision"), version("torch"), fault_of("torchvision")
    if installed is None or beside is None:
        return [fault] if fault else []
    built_for = [requirement.specifier for requirement in requirements("torchvision") if requirement.name == "torch"]
    reasons = [
        f"is made for torch{specifier}, and torch is {beside}"
        for specifier in built_for
        if not specifier.contains(beside, prereleases=True)
    ]
    if "error" in results["torch"] and not reasons:
        remedy = "Fix torch first, then run `raydd doctor` again."
        return [Finding("torchvision", "warning", f"{installed}, not tried without torch", remedy)]
    reasons += ["is too old or too new for raydd"] if fault else []
    reasons += [f"cannot be used ({problem})"] if (problem := results["torchvision"].get("error")) else []
    if not reasons:
        imported = results["torchvision"]["value"]["version"]
        own = Finding("torchvision", "ok", f"{imported}, fits torch {beside}")
        return [duplicate("torchvision", installed, imported) or own]
    remedy = f"Install the one made for torch {beside}: uv pip install --reinstall torchvision torch=={beside}."
    return [Finding("torchvision", "fault", f"{installed} {'; '.join(reasons)}", remedy)]


def duplicate(name: str, installed: str, imported: str) -> Finding | None:
    """Return the warning that another version is imported than is installed: two copies lie over each other."""
    if installed.partition("+")[0] == imported.partition("+")[0]:
        return None
    detail = f"{imported} is imported, and {installed} is installed: there are two copies"
    return Finding(name, "warning", detail, f"Remove both and install one: uv pip install --reinstall {name}.")


def devices(results: Results) -> list[Finding]:
    """Report the GPUs that torch can use, by the results of `raydd.doctor.probe`."""
    if "error" in results["torch"]:
        return []
    value = results["torch"]["value"]
    if value["gpus"]:
        each = [f"{g['name']} ({format_bytes(g['free'])} of {format_bytes(g['total'])} free)" for g in value["gpus"]]
        return [Finding("gpu", "ok", ", ".join(each))]
    if not DRIVER.exists():
        return [Finding("gpu", "ok", "none: everything runs on CPUs")]
    why = "torch is built for CPUs" if not value["cuda"] else "torch cannot use it: CUDA_VISIBLE_DEVICES or the driver"
    remedy = "Run `nvidia-smi`, and install a torch that is built for a CUDA version of that driver."
    return [Finding("gpu", "warning", f"there is a driver of NVIDIA, and {why}", remedy)]


def ray() -> list[Finding]:
    """Check Ray and the requirements of its extras, without importing it."""
    installed = version("ray")
    if fault := fault_of("ray"):
        return [fault]
    extras = {
        extra for requirement in requirements("raydd") if requirement.name == "ray" for extra in requirement.extras
    }
    names = {requirement.name for requirement in requirements("ray", tuple(sorted(extras)))}
    missing = sorted(name for name in names if not any(metadata.distributions(name=name)))  # modules have any name
    if missing:
        remedy = f"Install them: uv pip install 'ray[{','.join(sorted(extras))}]=={installed}'."
        return [Finding("ray", "warning", f"{installed}, without {', '.join(missing)}", remedy)]
    return [Finding("ray", "ok", f"{installed} with {', '.join(sorted(extras))}")]


def optional() -> list[Finding]:
    """Report the optional packages."""
    return [
        Finding(name, "ok", version(name) or f"not installed (optional, for {use}: uv pip install {package})")
        for name, (use, package) in OPTIONAL.items()
    ]
