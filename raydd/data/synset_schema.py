"""The schema of a synthetic set's file: its metadata and its tensors.

Shapes: `N` images, `K` classes, `C H W` image.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from raydd.config.components import FormationConfig
from raydd.config.schema import DataConfig
from raydd.io.document import Document, Finite, Whole


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


class SetDocument(Document):
    """The metadata of a synthetic set."""

    dataset: str
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    recipe: RecipeDocument
    provenance: ProvenanceDocument
    history: tuple[ScoreDocument, ...]
    transform: TransformDocument
    formation: FormationConfig = FormationConfig()
    format: Literal[1]
    kind: Literal["synset"]


def check_parts(tensors: Mapping[str, Tensor], classes: int) -> None:
    """Refuse tensors that are not those of a set of ``classes`` classes.

    They are ``images`` (N, C, H, W), ``labels`` (N,) or (N, K), and the scalar ``lr``, all finite.
    """
    for name in ("images", "labels", "lr"):
        if name not in tensors:
            raise ValueError(f"it has no {name}")
        if tensors[name].is_floating_point() and not bool(torch.isfinite(tensors[name]).all()):
            raise ValueError(f"{name} are not finite")
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
