"""The types of import and export: sets in other projects' files, and layouts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from raydd.data.synset import SyntheticSet

Space = Literal["network", "pixels", "bytes"]
"""The stored images: a network's input, pixels in [0, 1], or pixels of 0..255."""


class Foreign(NamedTuple):
    """A set in files of another project."""

    images: Tensor  # (N, C, H, W), floating point, or uint8
    labels: Tensor  # (N,) classes, or (N, K) logits
    lr: float | None = None  # the students' learning rate, if the files have it
    notes: tuple[str, ...] = ()
    space: Space | None = None  # the space of the images, if it is not the layout's


class Outgoing(NamedTuple):
    """A set for export."""

    synset: SyntheticSet  # the set in a form that the layout can hold: on the CPU, float32, with labels of its kind
    images: Tensor  # its images (N, C, H, W) in the layout's space


class Layout(NamedTuple):
    """One project's files."""

    files: str
    find: Callable[[Path], Path | None]  # returns the file or folder for `read` from a user's path, or None
    read: Callable[[Path, tuple[str, ...]], Foreign]  # reads it; takes the names of the K classes in label order, too
    write: Callable[[Outgoing, Path], list[Path]]  # writes the files into a folder and returns their paths
    space: Space = "network"  # the space of their images
    labels: tuple[str, ...] = ("hard",)  # the kinds of labels that they hold: hard, logits
    subfolder: Callable[[SyntheticSet], str] = lambda synset: ""  # the folder below the user's
    together: bool = False  # whether the project needs the images of a class together
    mosaics: bool = False  # whether images stay mosaics, which the project splits itself
    scored: tuple[str, ...] = ()  # preprocessing that the project's own scripts test on; empty if they test on any


def name_of(words: str, longest: int = 255) -> str:
    """Return a name of a class or a data set as one part of a path, of at most ``longest`` bytes.

    >>> name_of("aquarium/fish")
    'aquarium_fish'
    """
    name = words.replace("/", "_").replace("\0", "_")
    if name in {"", ".", ".."}:
        raise ValueError(f"the data set is called {words!r}, which names no file: use --format mtt, datm or ddranking")
    if (length := len(name.encode())) > longest:
        raise ValueError(
            f"{name[:40]}... is a name of {length} bytes, {longest} are allowed: use --format mtt, datm or ddranking"
        )
    return name


class Written(NamedTuple):
    """The result of an export."""

    paths: list[Path]
    images: int
    notes: tuple[str, ...]  # changes of the set, a line each


class Read(NamedTuple):
    """The result of an import."""

    synset: SyntheticSet
    layout: str  # a key of `raydd.interop.layouts.LAYOUTS`, or `raydd` for a set of our own
    notes: tuple[str, ...]  # assumptions, a line each

    def document(self) -> dict[str, Any]:
        """Describe the result in JSON values."""
        synset = self.synset
        return {
            "layout": self.layout,
            "dataset": synset.dataset,
            "images": len(synset.images),
            "shape": list(synset.images.shape[1:]),
            "classes": len(synset.classes),
            "ipc": synset.ipc,
            "labels": synset.label_kind,
            "preprocessing": synset.transform.kind,
            "lr": float(synset.lr),
            "formation": synset.formation.document(),
            "notes": list(self.notes),
        }
