"""The sets that a run keeps at its scored steps, ``steps/000100.arrow``, to be tested when it is done."""

import re
from dataclasses import replace
from pathlib import Path

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet

_NAME = re.compile(r"\d{6,}\.arrow")


def kept_path(folder: Path, step: int) -> Path:
    """Where a run folder holds the set of an outer step."""
    return folder / "steps" / f"{step:06d}.arrow"


def kept_paths(folder: Path) -> dict[int, Path]:
    """The sets that a run folder holds, by outer step, ascending; empty where it holds none."""
    found = (path for path in (folder / "steps").glob("*.arrow") if _NAME.fullmatch(path.name))
    return dict(sorted((int(path.stem), path) for path in found))


def load_kept(folder: Path) -> dict[int, SyntheticSet]:
    """The sets that a run folder holds, by outer step; those of equal preprocessing share one object.

    Raises:
        ValueError: There are none, or one is damaged.
    """
    paths = kept_paths(folder)
    if not paths:
        raise ValueError(
            f"{folder} has no kept steps, among which the paper's number is chosen; "
            "distill with --set evaluate_every=N --set keep_scored=true"
        )
    found, transforms = dict[int, SyntheticSet](), dict[str, Transform]()
    for step, path in paths.items():
        synset = SyntheticSet.load(path)
        look = transforms.setdefault(synset.transform.hash, synset.transform)  # ZCA of CIFAR takes 75 MB
        found[step] = replace(synset, transform=look)
    return found


def drop_kept(folder: Path, step: int) -> None:
    """Remove the sets of later outer steps than one, to which a run has gone back."""
    for later, path in kept_paths(folder).items():
        if later > step:
            path.unlink()
