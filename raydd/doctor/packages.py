"""The packages that raydd needs: which are here, and whether their versions fit it and each other."""

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from raydd.doctor.findings import Finding
from raydd.doctor.probe import Said
from raydd.io.memory import format_bytes
from raydd.io.provenance import commit

if TYPE_CHECKING:
    from packaging.requirements import Requirement

MODULES = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml"}
"""Packages whose module has another name."""

ALONE = ("torch", "torchvision", "ray")
"""Packages that have a look of their own."""

DRIVER = Path("/proc/driver/nvidia/version")
"""It is there where a driver of NVIDIA is loaded."""

OPTIONAL = {
    "timm": ("networks timm:NAME", "timm"),
    "tensorboard": ("its pages of the event files that distill and tune write", "tensorboard"),
}
"""What is not needed: by package, what it is for, and what to install."""


def version(name: str) -> str | None:
    """The version of an installed package; None where it is not, or where its module is not there."""
    try:
        found = metadata.version(name)
        return found if find_spec(MODULES.get(name, name)) is not None else None
    except (metadata.PackageNotFoundError, ImportError, ValueError):
        return None


def requirements(name: str, extras: tuple[str, ...] = ()) -> Iterator["Requirement"]:
    """What a package needs on this machine, with some of its extras; nothing where it is not installed."""
    from packaging.requirements import Requirement

    try:
        needs = metadata.requires(name) or ()
    except metadata.PackageNotFoundError:
        return
    for text in needs:
        asked = Requirement(text)
        if asked.marker is None or any(asked.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield asked


def versions() -> dict[str, str | None]:
    """The version of Python, of raydd and its commit, and of everything that raydd needs; None where it is missing."""
    found = {"python": platform.python_version(), "raydd": version("raydd"), "commit": commit()}
    return found | {asked.name: version(asked.name) for asked in requirements("raydd")}


def python() -> list[Finding]:
    """The Python that runs."""
    return [Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")]


def raydd() -> list[Finding]:
    """The raydd that runs, and the commit it is of."""
    home, made = Path(__file__).parents[1], commit()
    of = f"commit {made}, " if made else ""
    found = version("raydd")
    if found is None:
        remedy = "Install it, such as with `uv pip install .` in its folder: what it needs is not known otherwise."
        return [Finding("raydd", "warning", f"runs from {home}, and is not installed", remedy)]
    return [Finding("raydd", "ok", f"{found} ({of}{home})")]


def needed() -> list[Finding]:
    """What raydd needs beside `ALONE`, in one line; what is missing or too old has lines of its own."""
    wrong, fine = list[Finding](), list[str]()
    for asked in requirements("raydd"):
        found = version(asked.name)
        if asked.name in ALONE:
            continue
        if problem := lacks(asked, found):
            wrong.append(problem)
        else:
            fine.append(f"{asked.name} {found}")
    return [Finding("packages", "ok", ", ".join(fine) or "none are known to be needed"), *wrong]


def lacks(asked: "Requirement", found: str | None) -> Finding | None:
    """The fault of a package that is missing or of a wrong version."""
    wanted = str(asked).partition(";")[0].strip()
    remedy = f"Install it: uv pip install '{wanted}'."
    if found is None:
        return Finding(asked.name, "fault", "is not installed, or only a part of it is left", remedy)
    if not asked.specifier.contains(found, prereleases=True):
        return Finding(asked.name, "fault", f"{found} is not {asked.specifier}, as raydd needs", remedy)
    return None


def unfit(name: str) -> Finding | None:
    """The fault of a package that raydd lacks, or has in a wrong version."""
    from packaging.requirements import Requirement

    asked = (asked for asked in requirements("raydd") if asked.name == name)
    return lacks(next(asked, Requirement(name)), version(name))


def torch(said: Said) -> list[Finding]:
    """The torch that can be imported.

    Args:
        said: What `raydd.doctor.probe` found.
    """
    installed, problem = version("torch"), unfit("torch")
    if installed is None or problem:
        return [problem] if problem else []
    if "error" in said["torch"]:
        remedy = "Install it anew: uv pip install --reinstall torch torchvision."
        return [Finding("torch", "fault", f"{installed} cannot be imported ({said['torch']['error']})", remedy)]
    found = said["torch"]["found"]
    built = f"for CUDA {found['cuda']}" if found["cuda"] else "for CPUs"
    return [twice("torch", installed, found["version"]) or Finding("torch", "ok", f"{found['version']}, {built}")]


def torchvision(said: Said) -> list[Finding]:
    """The torchvision that can be imported, and whether it is made for this torch.

    Which versions go together is said by torchvision's own metadata: each names the torch it was built for. That it
    works is seen by running one of its compiled operators.

    Args:
        said: What `raydd.doctor.probe` found.
    """
    installed, beside, problem = version("torchvision"), version("torch"), unfit("torchvision")
    if installed is None or beside is None:
        return [problem] if problem else []
    wanted = [asked.specifier for asked in requirements("torchvision") if asked.name == "torch"]
    wrong = [specifier for specifier in wanted if not specifier.contains(beside, prereleases=True)]
    failed = f"cannot be used ({said['torchvision']['error']})" if "error" in said["torchvision"] else ""
    if "error" in said["torch"] and not wrong:
        remedy = "Mend torch first, then run `raydd doctor` again."
        return [Finding("torchvision", "warning", f"{installed}, not tried without torch", remedy)]
    if not wrong and not failed and not problem:
        imported = said["torchvision"]["found"]["version"]
        own = Finding("torchvision", "ok", f"{imported}, fits torch {beside}")
        return [twice("torchvision", installed, imported) or own]
    reasons = [f"is made for torch{specifier}, and torch is {beside}" for specifier in wrong]
    reasons += ["is too old or too new for raydd"] if problem else []
    remedy = f"Install the one made for torch {beside}: uv pip install --reinstall torchvision torch=={beside}."
    return [Finding("torchvision", "fault", f"{installed} " + "; ".join(filter(None, [*reasons, failed])), remedy)]


def twice(name: str, installed: str, imported: str) -> Finding | None:
    """The warning that what is imported is not what is installed: two copies lie over each other."""
    if installed.partition("+")[0] == imported.partition("+")[0]:
        return None
    found = f"{imported} is imported, and {installed} is installed: there are two copies"
    return Finding(name, "warning", found, f"Remove both and install one: uv pip install --reinstall {name}.")


def devices(said: Said) -> list[Finding]:
    """The GPUs that torch can use.

    Args:
        said: What `raydd.doctor.probe` found.
    """
    if "error" in said["torch"]:
        return []
    found = said["torch"]["found"]
    if found["gpus"]:
        each = [
            f"{gpu['name']} ({format_bytes(gpu['free'])} of {format_bytes(gpu['total'])} free)" for gpu in found["gpus"]
        ]
        return [Finding("gpu", "ok", ", ".join(each))]
    if not DRIVER.exists():
        return [Finding("gpu", "ok", "none: everything runs on CPUs")]
    why = "torch is built for CPUs" if not found["cuda"] else "torch cannot use it: CUDA_VISIBLE_DEVICES or the driver"
    remedy = "See what `nvidia-smi` says, and install a torch that is built for a CUDA that the driver knows."
    return [Finding("gpu", "warning", f"there is a driver of NVIDIA, and {why}", remedy)]


def ray() -> list[Finding]:
    """Ray and what its parts need, found without importing it."""
    installed = version("ray")
    if problem := unfit("ray"):
        return [problem]
    extras = {extra for asked in requirements("raydd") if asked.name == "ray" for extra in asked.extras}
    needs = {asked.name for asked in requirements("ray", tuple(sorted(extras)))}
    missing = sorted(name for name in needs if _gone(name))
    if missing:
        remedy = f"Install them: uv pip install 'ray[{','.join(sorted(extras))}]=={installed}'."
        return [Finding("ray", "warning", f"{installed}, without {', '.join(missing)}", remedy)]
    return [Finding("ray", "ok", f"{installed} with {', '.join(sorted(extras))}")]


def _gone(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return True
    return False


def optional() -> list[Finding]:
    """What raydd can do with and without."""
    rows = []
    for name, (use, what) in OPTIONAL.items():
        found = version(name)
        rows.append(Finding(name, "ok", found or f"not installed (optional, for {use}: uv pip install {what})"))
    return rows
