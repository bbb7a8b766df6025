"""Import: another project's files as a synthetic set."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raydd.buffer.local_path import local_path
from raydd.config.components import FormationConfig
from raydd.config.parsing import build, merged
from raydd.config.schema import DataConfig
from raydd.data.datasets import Dataset
from raydd.data.mirroring import flips, stored_settings
from raydd.data.preprocessing import Transform, fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import load_images
from raydd.interop import sidecar
from raydd.interop.foreign import Foreign, Read, Space
from raydd.interop.layouts import LAYOUTS, OURS, detect
from raydd.interop.sidecar import Sidecar
from raydd.interop.torchfile import describe_value
from raydd.numerics.formation import PLAIN, Formation

LR = 0.01
"""The learning rate of most scripts, for files without one."""
MOST_OUTSIDE = 0.1
"""Images with a larger part of their numbers outside [0, 1] are not pixels in [0, 1]."""


def read_synset(
    path: Path | str,
    *,
    layout: str | None = None,
    data: DataConfig | None = None,
    lr: float | None = None,
    formation: Formation | int | None = None,
) -> Read:
    """Read a set of raydd, or of another project.

    Other projects' files hold neither the data set, nor the preprocessing, nor in general the students' learning rate.
    These come from the arguments, else from the ``raydd.json`` that an export wrote beside the files, else from
    defaults, which the notes list. The preprocessing is fitted again. Of a ``raydd.json`` beside other images or labels
    than its own, only data set, preprocessing and learning rate are used.

    Args:
        path: A ``synset.arrow``, a run folder, or files of a layout of `LAYOUTS`; or the URI of the first two.
        layout: A key of `LAYOUTS`; None detects it.
        data: The real images; only the fields that are set count.
        lr: The students' learning rate.
        formation: How stored images become networks' images, if the layout holds mosaics; a number is the factor,
            with the recorded decoding if the recorded factor is equal.

    Returns:
        The set, the layout of its files, and the assumptions. `write_synset` has an example.

    Raises:
        ValueError: Missing or damaged files, files with code, no data set named, or a set that does not fit it.
    """
    name, home = detect(local_path(path).expanduser(), layout)
    if name == OURS:
        given = any(value is not None for value in (data, lr, formation))
        note = (f"{home} holds all of its settings: the given ones are not used",) if given else ()
        return Read(SyntheticSet.load(home), OURS, note)
    notes = list[str]()
    beside = _beside(name, home, notes)
    case = _Case(name, home, beside, {} if data is None else data.model_dump(include=data.model_fields_set), notes)
    config = _data(case)
    dataset = load_images(config)
    transform = fit_transform(config.preprocessing, dataset)
    _check_preprocessing(case, config, dataset, transform)
    foreign = LAYOUTS[name].read(home, dataset.classes)
    case = _compared(case, foreign)
    formed = _formation(case, formation)
    space = foreign.space or LAYOUTS[name].space
    images = _images(case, foreign.images, dataset, transform, space)
    labels = _labels(case, foreign.labels, len(images), dataset)
    rows = _rows(case, len(images))
    recipe = beside.recipe if beside else {}
    recipe = recipe if case.exact else {"data": recipe.get("data", {})}  # of other images that of the data set
    synset = SyntheticSet(
        images=images[rows],
        labels=labels[rows],
        lr=torch.tensor(_lr(case, lr, foreign), dtype=torch.float32),
        transform=transform,
        dataset=beside.dataset if beside and "dataset" not in case.given else dataset.name,
        classes=dataset.classes,
        recipe=merged(recipe, {"data": config.model_dump(mode="json")}),
        provenance=_provenance(case, dataset),
        history=case.exact.history if case.exact else (),
        formation=formed,
    )
    return Read(synset, name, tuple(case.notes))


class _Case(NamedTuple):
    """The state of an import."""

    layout: str  # a key of `LAYOUTS`
    home: Path
    beside: Sidecar | None  # the sidecar of files of this layout there
    given: dict[str, Any]
    notes: list[str]
    exact: Sidecar | None = None  # the sidecar again, if it is of exactly these images and labels

    def refuse(self, what: str) -> ValueError:
        """Return an error that names the files."""
        return ValueError(f"{self.home} ({self.layout}) {what}")


def _beside(layout: str, home: Path, notes: list[str]) -> Sidecar | None:
    """Read the sidecar of files; ignore one of another layout."""
    folder = home if home.is_dir() else home.parent
    beside = sidecar.read(folder)
    if beside is None and layout == "hf" and folder.resolve().name == "data":  # an export has its files in there
        beside = sidecar.read(folder.resolve().parent)
    if beside and beside.layout != layout:
        notes.append(f"{sidecar.NAME} there was written beside {beside.layout} files: it is not used")
        return None
    return beside


def _compared(case: _Case, foreign: Foreign) -> _Case:
    """Return the case with its exact sidecar, if it is of these images and labels."""
    case.notes.extend(foreign.notes)
    if not case.beside or case.beside.digest == sidecar.digest(foreign.images, foreign.labels):
        return case._replace(exact=case.beside)
    case.notes.append(
        f"{sidecar.NAME} there was written beside other images or labels: only its data set, preprocessing and "
        "learning rate are used"
    )
    return case


def _data(case: _Case) -> DataConfig:
    """Return the settings of the real images: the arguments over the sidecar."""
    known: dict[str, Any] = {}
    if case.beside:
        known = {"dataset": case.beside.dataset, **case.beside.recipe.get("data", {})}
        known = stored_settings(known) if "data" in case.beside.recipe else known
        known["preprocessing"] = case.beside.preprocessing.kind
    known |= case.given
    if "dataset" not in known:
        why = f" ({case.notes[0]})" if case.notes else ""
        raise case.refuse(f"does not say which data set it stands for{why}: give --dataset, a name or a path")
    if "preprocessing" not in known:
        kind = DataConfig().preprocessing
        case.notes.append(f"preprocessing is not kept: taken as {kind}; for others give --preprocessing zca or raw01")
    return build(DataConfig, {"flip": flips(build(DataConfig, known))}, known)


def _check_preprocessing(case: _Case, config: DataConfig, dataset: Dataset, transform: Transform) -> None:
    """Refuse a data set or a preprocessing that differs from the recorded one."""
    if not case.beside:
        return
    if case.beside.classes != dataset.classes:
        names = [", ".join(classes[:5]) for classes in (case.beside.classes, dataset.classes)]
        raise case.refuse(f"is of the classes {names[0]}, {config.dataset} has {names[1]}: name the right --dataset")
    free = LAYOUTS[case.layout].space != "network" and "preprocessing" in case.given
    wanted = case.beside.preprocessing
    if not free and transform.metadata() != wanted.model_dump():
        raise case.refuse(
            f"was made with {wanted.kind} {wanted.hash}, fitted on {config.dataset} it is {transform.kind} "
            f"{transform.hash}: name the right --dataset, size and validation, or remove {sidecar.NAME} on purpose"
        )


def _formation(case: _Case, given: Formation | int | None) -> Formation:
    """Return how stored images become networks' images."""
    recorded = Formation(**case.exact.formation.model_dump()) if case.exact else None
    if isinstance(given, int):
        factor = build(FormationConfig, {"factor": given}).factor
        given = recorded if recorded and recorded.factor == factor else Formation(factor)
    if LAYOUTS[case.layout].mosaics:
        if given is None and recorded is None:
            case.notes.append("images are taken as plain: if they are mosaics, give --factor 2 (IDC, TGDD)")
        if given and recorded and given != recorded:
            words = [", ".join(f"{key} {value}" for key, value in one._asdict().items()) for one in (recorded, given)]
            case.notes.append(f"{sidecar.NAME} says {words[0]}: read with {words[1]}, as given")
        return given or recorded or PLAIN
    if given is not None and not given.plain:
        raise case.refuse(
            f"holds images as students see them, not mosaics of {given.factor} x {given.factor}: no --factor"
        )
    return PLAIN


def _images(case: _Case, images: Tensor, dataset: Dataset, transform: Transform, space: Space) -> Tensor:
    """Return images (N, C, H, W) as a network's input, after comparing them with the data set."""
    wanted = (dataset.channels, dataset.size, dataset.size)
    if images.ndim != 4 or len(images) == 0 or tuple(images.shape[1:]) != wanted:
        raise case.refuse(
            f"has images of shape {tuple(images.shape)}, {dataset.name} has {wanted}: name the right --dataset, "
            "or its size (--set data.size)"
        )
    if space == "bytes":
        return transform(images)
    if not images.is_floating_point():
        raise case.refuse(f"has images of type {images.dtype}, {case.layout} keeps floating point: name another layout")
    if count := int((~torch.isfinite(images)).sum()):
        raise case.refuse(f"has {count} pixels that are not finite: its distillation failed, make it again")
    images = images.float().contiguous()
    _check_range(case, images, transform, space)
    return transform(images) if space == "pixels" else images


def _check_range(case: _Case, images: Tensor, transform: Transform, space: Space) -> None:
    """Check that pixels are in their declared space."""
    low, high = float(images.min()), float(images.max())
    outside = int(((images < 0) | (images > 1)).sum())
    if space == "network" and transform.kind != "raw01":
        if not outside:
            case.notes.append(
                f"all pixels lie in [0, 1], taken as {transform.kind}: if they are plain pixels, give raw01"
            )
        return
    if not outside:
        return
    what = f"{outside} of {images.numel()} pixels outside [0, 1] ({low:.3g} to {high:.3g})"
    if not case.exact and outside > MOST_OUTSIDE * images.numel():
        raise case.refuse(f"has {what}, and is read as pixels in [0, 1]: give --preprocessing, or another --format")
    case.notes.append(f"{what}, kept as they are")


def _labels(case: _Case, labels: Tensor, count: int, dataset: Dataset) -> Tensor:
    """Return classes (N,) int64 or logits (N, K) float32, after comparing them with the data set."""
    classes = len(dataset.classes)
    if len(labels.shape) not in (1, 2) or len(labels) != count:
        raise case.refuse(f"has labels of shape {tuple(labels.shape)} for {count} images: copy the files again")
    if labels.ndim == 2:
        if labels.shape[1] != classes or not labels.is_floating_point():
            raise case.refuse(
                f"has soft labels {tuple(labels.shape)} of {labels.dtype}, {dataset.name} has {classes} classes: "
                "name the right --dataset"
            )
        if not bool(torch.isfinite(labels).all()):
            raise case.refuse("has soft labels that are not finite: its distillation failed, make it again")
        if bool((labels >= 0).all()) and torch.allclose(labels.sum(1), torch.ones(count, dtype=labels.dtype)):
            case.notes.append("soft labels are taken as logits, though each row sums to 1 as probabilities do")
        return labels.float().contiguous()
    whole = labels.long()
    if not torch.equal(whole.to(labels.dtype), labels):
        raise case.refuse(f"has labels that are no whole numbers ({describe_value(labels)}): name another layout")
    low, high = int(whole.min()), int(whole.max())
    if low < 0 or high >= classes:
        raise case.refuse(
            f"has labels {low} to {high}, {dataset.name} has {classes} classes, 0 to {classes - 1}: "
            "name the right --dataset"
        )
    return whole


def _rows(case: _Case, count: int) -> Tensor:
    """Return the position in the files of each image of the set."""
    order = case.exact.order if case.exact else None
    if order is None:
        return torch.arange(count)
    if sorted(order) != list(range(count)):
        case.notes.append(f"{sidecar.NAME} is of {len(order)} images and there are {count}: its order is not used")
        return torch.arange(count)
    return torch.argsort(torch.tensor(order))


def _lr(case: _Case, given: float | None, foreign: Foreign) -> float:
    """Return the learning rate: the argument, else the files', else the sidecar's, else `LR`."""
    recorded = case.beside.lr if case.beside else None
    lr = next((value for value in (given, foreign.lr, recorded) if value is not None), None)
    if lr is None:
        case.notes.append(f"lr is not kept: taken as {LR}; for others give --lr")
        return LR
    if not 0 < lr < float("inf"):
        raise case.refuse(f"gets the learning rate {lr:g}: give --lr, a number above 0")
    return lr


def _provenance(case: _Case, dataset: Dataset) -> dict[str, Any]:
    """Return the provenance of an imported set."""
    known = dict(case.exact.provenance) if case.exact else {}
    recorded = known.get("fingerprint")
    if recorded not in (None, dataset.fingerprint):
        case.notes.append(f"was made from images {recorded}, {dataset.name} has {dataset.fingerprint}")
    if recorded is None or "dataset" in case.given:
        known["fingerprint"] = dataset.fingerprint
    return known | {"imported": case.layout}
