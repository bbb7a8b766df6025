"""The synthetic set: the result of a distillation, and the training data of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from raydd.config.components import StoredFormation
from raydd.config.schema import DataConfig
from raydd.data.preprocessing import Transform
from raydd.io.document import Document, Finite, Whole, validate
from raydd.io.tensor_file import load_tensors, save_tensors
from raydd.numerics.formation import PLAIN, Formation, decode
from raydd.numerics.styles import check_styles

FORMATS = (1, 2)
"""The newer one is of sets whose labels are targets of a regression, which older versions do not know."""
NAMES = ("dataset", "classes", "recipe", "provenance", "history")
"""What a file holds beside numbers."""


class ScoreDocument(Document, extra="allow"):
    """A score on the validation split during distillation."""

    step: Whole
    mean: Finite
    networks: Whole = 1
    split: str = "validation"


def _known_data(data: dict[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in data.items() if key in DataConfig.model_fields}
    DataConfig.model_validate(known, strict=True)
    return data


class RecipeDocument(Document, extra="allow"):
    """The keys that are read of the configuration of a set, which another version may have written."""

    method: str = ""
    match: str = ""
    data: Annotated[dict[str, Any], AfterValidator(_known_data)] = Field(default={})


class ProvenanceDocument(Document, extra="allow"):
    """The keys that are read of a set's provenance."""

    fingerprint: str | None = None
    network: str = ""
    chosen: str = ""


class TransformDocument(Document):
    """The preprocessing; `raydd.data.preprocessing` has the kinds."""

    kind: str
    hash: str


def _checked(kind: type[Document]) -> AfterValidator:
    """Return the check of plain values that stay as they are."""
    return AfterValidator(lambda tree: validate(kind, tree) and tree)


RecipeTree = Annotated[dict[str, Any], _checked(RecipeDocument)]
ProvenanceTree = Annotated[dict[str, Any], _checked(ProvenanceDocument)]
History = tuple[Annotated[dict[str, Any], _checked(ScoreDocument)], ...]


class SetDocument(Document):
    """The metadata of a synthetic set."""

    dataset: str
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    recipe: RecipeTree
    provenance: ProvenanceTree
    history: History
    transform: TransformDocument
    formation: StoredFormation = StoredFormation()
    format: Literal[1, 2]
    kind: Literal["synset"]
    labels: Literal["targets"] | None = None  # absent: the tensor tells classes from logits


LabelKind = Literal["hard", "logits", "targets"]


@dataclass(frozen=True)
class SyntheticSet:
    """A small labelled image set, complete in itself.

    Attributes:
        images: (N, C, H, W), preprocessed by ``transform``.
        labels: (N,) int64 classes, or (N, K): logits of soft labels, or targets of a regression.
        lr: The students' learning rate, a scalar.
        transform: The preprocessing of the real images.
        dataset: Name or path of the real data set.
        classes: The K class names.
        recipe: The configuration that made it.
        provenance: Versions, commit, the source's fingerprint.
        history: Scores during distillation, oldest first.
        formation: How `decoded` makes networks' images of ``images``.
        styles: (S, D), where the formation has S styles; see `raydd.numerics.styles`.
        regression: Whether labels (N, K) are what a network's outputs must be by the squared error, and not logits.
    """

    images: Tensor
    labels: Tensor
    lr: Tensor
    transform: Transform
    dataset: str
    classes: tuple[str, ...]
    recipe: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()
    formation: Formation = PLAIN
    styles: Tensor | None = None
    regression: bool = False

    def __post_init__(self) -> None:
        wanted = ((len(self.images),), (len(self.images), len(self.classes)))
        if self.images.ndim != 4 or tuple(self.labels.shape) not in wanted:
            raise ValueError(
                f"images {tuple(self.images.shape)} and labels {tuple(self.labels.shape)} do not belong together; "
                "need (N, C, H, W) and (N,) or (N, K)"
            )
        if self.regression and self.labels.ndim == 1:
            raise ValueError("labels (N,) are classes, which are no targets of a regression; need (N, K)")
        check_styles(self.styles, self.formation.styles, self.images.shape[1:])

    @property
    def parts(self) -> dict[str, Tensor]:
        """The tensors that can be learned, by name; styles only where there are some."""
        parts = {"images": self.images, "labels": self.labels, "lr": self.lr}
        return parts if self.styles is None else parts | {"styles": self.styles}

    @property
    def label_kind(self) -> LabelKind:
        """Whether labels are classes, logits, or targets of a regression."""
        return "targets" if self.regression else "hard" if self.labels.ndim == 1 else "logits"

    @property
    def ipc(self) -> float:
        """Stored images a class; decoded ones may be more."""
        return len(self.images) / len(self.classes)

    @property
    def targets(self) -> Tensor:
        """The targets of a loss: (N,) classes, (N, K) probabilities, or (N, K) targets of a regression."""
        return torch.softmax(self.labels, dim=1) if self.label_kind == "logits" else self.labels

    @property
    def hard_labels(self) -> Tensor:
        """The class of each image (N,): its label, or that of its largest logit or target."""
        return self.labels if self.label_kind == "hard" else self.labels.argmax(dim=1)

    def rows(self, label: int) -> Tensor:
        """Return which images (n,) are of a class, by `hard_labels`."""
        rows = rows_by_class(self)
        return rows[label] if label in rows else self.labels.new_empty(0, dtype=torch.int64)

    def decoded(self) -> "SyntheticSet":
        """Return the set that networks see: mosaics are split and bases styled, each image with its source's label.

        Differentiable in images, labels and styles. A bounded decoding goes class by class, by `hard_labels`. A set of
        plain images is returned as it is.

        Raises:
            ValueError: A tile would have no pixel, or a class has more images than the formation's bound.
        """
        if self.formation.plain:
            return self
        if self.formation.decode != "bounded":
            images, rows = decode(self.images, self.formation, self.styles)
            return replace(self, images=images, labels=self.labels[rows], formation=PLAIN, styles=None)
        parts, origins = [], []
        for _, members in sorted(rows_by_class(self).items()):
            images, rows = decode(self.images[members], self.formation)
            parts.append(images)
            origins.append(members[rows])
        return replace(self, images=torch.cat(parts), labels=self.labels[torch.cat(origins)], formation=PLAIN)

    def with_leaves(self, leaves: dict[str, Tensor]) -> "SyntheticSet":
        """Return the set with other images, labels, lr or styles, by name."""
        changes: dict[str, Any] = dict(leaves)
        return replace(self, **changes)

    def to(self, device: torch.device | str) -> "SyntheticSet":
        """Return the set with its tensors on another device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self.parts.items()}
        return replace(self, transform=self.transform.to(device), **moved)

    def pixels(self) -> Tensor:
        """Return images (N, C, H, W) as pictures in [0, 1]: preprocessing undone, clamped."""
        return self.transform.inverse(self.images).clamp(0, 1)

    def save(self, path: Path | str) -> None:
        """Write one Arrow file, whole or not at all; equal sets give equal bytes."""
        tensors = self.parts
        tensors |= {f"transform.{name}": value for name, value in self.transform.arrays().items()}
        metadata: dict[str, Any] = {"format": FORMATS[0], "kind": "synset", "transform": self.transform.metadata()}
        if not self.formation.plain:
            metadata["formation"] = self.formation.document()
        if self.regression:
            metadata |= {"format": FORMATS[1], "labels": self.label_kind}
        save_tensors(Path(path), tensors, metadata | {name: getattr(self, name) for name in NAMES})

    @classmethod
    def load(cls, path: Path | str) -> "SyntheticSet":
        """Read a file of `save`; refuse one that is damaged, or no synthetic set of this format."""
        tensors, metadata = load_tensors(Path(path))
        if metadata.get("kind") != "synset" or metadata.get("format") not in FORMATS:
            raise ValueError(f"{path} is no synthetic set of format {FORMATS[-1]} or before; name a synset.arrow")
        try:
            document = validate(SetDocument, metadata)
            check_parts(tensors, len(document.classes))
            synset = cls(
                images=tensors["images"],
                labels=tensors["labels"],
                lr=tensors["lr"],
                transform=Transform.restore(metadata["transform"], tensors, "transform."),
                formation=Formation(**document.formation.model_dump()),
                styles=tensors.get("styles"),
                regression=document.labels is not None,
                **{name: getattr(document, name) for name in NAMES},
            )
            synset.transform.check_shape(synset.images.shape[1:])
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); make it again") from None
        return synset


def check_parts(tensors: Mapping[str, Tensor], classes: int) -> None:
    """Refuse tensors that are not those of a set of ``classes`` classes.

    They are ``images`` (N, C, H, W), ``labels`` (N,) or (N, K), and the scalar ``lr``, all finite, as ``styles`` are
    where there are some.
    """
    if missing := [name for name in ("images", "labels", "lr") if name not in tensors]:
        raise ValueError(f"it has no {missing[0]}")
    own = [name for name in ("images", "labels", "lr", "styles") if name in tensors]
    floats = [name for name in own if tensors[name].is_floating_point()]
    if broken := [name for name in floats if not bool(torch.isfinite(tensors[name]).all())]:
        raise ValueError(f"{broken[0]} are not finite")
    images, labels, lr = (tensors[name] for name in ("images", "labels", "lr"))
    if images.ndim != 4 or not images.is_floating_point() or 0 in images.shape:
        raise ValueError(f"images are {images.dtype} of shape {tuple(images.shape)}")
    if labels.ndim == 2 and labels.is_floating_point():
        known = labels.shape == (len(images), classes)
    else:
        known = labels.dtype == torch.int64 and labels.shape == (len(images),)
        known = known and int(labels.min()) >= 0 and int(labels.max()) < classes
    if not known:
        raise ValueError(f"labels {labels.dtype} of shape {tuple(labels.shape)} are not those of {classes} classes")
    if lr.ndim or not lr.is_floating_point():
        raise ValueError(f"lr is {lr.dtype} of shape {tuple(lr.shape)}")


_ROWS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # labels -> their version, and the rows of each class


def rows_by_class(synset: SyntheticSet) -> dict[int, Tensor]:
    """Return which images (n,) are of each class that has any; labels on a GPU are read once, not in every step."""
    labels = synset.labels
    known: tuple[int, dict[int, Tensor]] | None = _ROWS.get(labels)
    if known is not None and known[0] == labels._version:
        return known[1]
    classes = synset.hard_labels.cpu()
    rows = {label: torch.nonzero(classes == label)[:, 0].to(labels.device) for label in classes.unique().tolist()}
    _ROWS[labels] = labels._version, rows
    return rows
