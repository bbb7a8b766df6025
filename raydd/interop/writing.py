"""Export: a synthetic set in another project's files."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.interop import sidecar
from raydd.interop.foreign import Layout, Outgoing, Written
from raydd.interop.layouts import LAYOUTS, layout_row
from raydd.interop.pixels import loss_note, to_bytes, to_pixels

_SPACES = {"pixels": to_pixels, "bytes": to_bytes}
_LABELS = {"hard": "classes", "logits": "soft labels (logits)", "targets": "targets of a regression"}


def write_synset(synset: SyntheticSet, folder: Path | str, layout: str, *, hard: bool = False) -> Written:
    """Write a set in another project's layout, and the values that its files cannot hold into ``raydd.json`` there.

    Images are written as students see them, in that order: mosaics are split, unless the project does so itself, and
    bases are written in every style.
    Nothing is written before everything is checked.

    Args:
        synset: The set.
        folder: An empty or new folder.
        layout: A key of `LAYOUTS`.
        hard: Replace soft labels, and targets of a regression, by the class of the largest one.

    Returns:
        The files, the number of their images, and the changes of the set.

    Raises:
        ValueError: An unknown layout, a folder that is not empty, or a set that the layout cannot hold.

    >>> import tempfile, raydd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     synset = raydd.distill(raydd.DistillConfig(method="random", threads=1), f"{folder}/run")
    ...     images = raydd.write_synset(synset, f"{folder}/theirs", "mtt").images
    ...     images, raydd.read_synset(f"{folder}/theirs").synset.images.equal(synset.images)
    (10, True)
    """
    row, notes = layout_row(layout), list[str]()
    out = _fitting(synset, layout, row, hard, notes)
    home = Path(folder) / row.subfolder(out)
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise ValueError(f"{home} is not an empty folder; name another --out")
    whole, rows = out, None
    order = torch.argsort(out.hard_labels, stable=True)
    if row.together and out.label_kind == "hard" and not torch.equal(order, torch.arange(len(order))):
        notes.append(f"images are written class by class, as {layout} keeps them; raydd.json holds the set's order")
        rows, out = tuple(order.tolist()), replace(out, images=out.images[order], labels=out.labels[order])
    images, losses = _SPACES[row.space](out.transform, out.images) if row.space in _SPACES else (out.images, [])
    beside = sidecar.describe(whole, layout, rows, sidecar.digest(images, out.labels))
    paths = row.write(Outgoing(out, images), home)
    return Written([*paths, sidecar.write(beside, home)], len(images), (*notes, *losses))


def _fitting(synset: SyntheticSet, layout: str, row: Layout, hard: bool, notes: list[str]) -> SyntheticSet:
    """Return the set in a form that a layout can hold."""
    _check(synset)
    synset = _labelled(synset, layout, row, hard, notes)
    styles = synset.formation.styles
    if styles or not (row.mosaics or synset.formation.plain):
        stored, what = (
            len(synset.images),
            f"images are written in {styles} styles" if styles else "mosaics are taken apart",
        )
        synset = synset.decoded()
        notes.append(f"{what}: {stored} stored images are {len(synset.images)}")
    synset = synset.to("cpu")
    names = ("images", "labels", "lr")
    synset = synset.with_leaves({name: _narrow(name, getattr(synset, name).detach(), notes) for name in names})
    kind = synset.transform.kind
    if row.scored and kind not in row.scored:
        notes.append(
            f"the set's preprocessing is {kind}: it can be read back, but {layout} scores {' or '.join(row.scored)}"
        )
    side, factor = synset.images.shape[-1], synset.formation.factor
    if side % factor:
        notes.append(f"{factor} tiles do not divide a side of {side}: IDC's scripts pad it, and cut other tiles")
    return synset


def _check(synset: SyntheticSet) -> None:
    """Refuse a set that no reader would accept."""
    if not bool(torch.isfinite(synset.images).all() and torch.isfinite(synset.labels).all()):
        raise ValueError("the set has pixels or labels that are not finite: its distillation failed, make it again")
    low, high, classes = int(synset.hard_labels.min()), int(synset.hard_labels.max()), len(synset.classes)
    if low < 0 or high >= classes:
        raise ValueError(f"the set has labels {low} to {high} for {classes} classes: make it again")
    lr = float(synset.lr)
    if not 0 < lr < float("inf"):
        raise ValueError(f"the set's learning rate is {lr:g}, not a number above 0: its distillation failed")


def _labelled(synset: SyntheticSet, layout: str, row: Layout, hard: bool, notes: list[str]) -> SyntheticSet:
    """Return the set with labels that a layout holds."""
    if hard and synset.label_kind != "hard":
        notes.append(f"{_LABELS[synset.label_kind]} are lost: each image has the class of its largest one")
        synset = replace(synset, labels=synset.hard_labels, regression=False)
    if synset.label_kind in row.labels:
        return synset
    others = " | ".join(name for name, other in LAYOUTS.items() if synset.label_kind in other.labels)
    remedies = [f"--format {others}"] if others else []
    remedies += ["--hard to keep the classes of the largest ones"] if synset.label_kind != "hard" else []
    own, remedy = " or ".join(_LABELS[kind] for kind in row.labels), ", or ".join(remedies)
    raise ValueError(f"the set has {_LABELS[synset.label_kind]}, {layout} holds {own}: use {remedy}")


def _narrow(name: str, value: Tensor, notes: list[str]) -> Tensor:
    """Return floating point as float32, which all projects use; a copy with its own storage."""
    if not value.is_floating_point():
        return value.long().clone()
    narrow = value.float().clone(memory_format=torch.contiguous_format)
    notes += loss_note(f"{name} of {value.dtype} become float32", narrow.to(value.dtype), value)
    return narrow
