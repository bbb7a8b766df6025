"""``raydd.json``: the values of a set that other projects' files cannot hold, written beside them."""

import hashlib
import os
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from raydd.config.components import MosaicConfig
from raydd.config.parsing import Config, build
from raydd.config.schema import DataConfig
from raydd.data.synset import NAMES, History, ProvenanceTree, RecipeTree, SyntheticSet, TransformDocument
from raydd.io.bounded_file import read_bytes
from raydd.io.document import parse, without_checksum, write_document

NAME = "raydd.json"


class Sidecar(Config):
    """The values of a set beside its images and labels."""

    format: Literal[1] = 1
    layout: str  # the layout of the files beside it
    digest: str  # the `digest` of the images and labels in those files
    dataset: str
    classes: tuple[str, ...]
    preprocessing: TransformDocument  # kind and hash of the preprocessing; it is fitted again on reading
    lr: float
    formation: MosaicConfig = MosaicConfig()  # how stored images become networks' images
    order: tuple[int, ...] | None = None  # the row in the set of every stored image, if these differ
    recipe: RecipeTree
    provenance: ProvenanceTree
    history: History = ()


def digest(images: Tensor, labels: Tensor) -> str:
    """Return the SHA-256 of stored images' and labels' types, shapes and bytes; 16 hex digits."""
    checksum = hashlib.sha256()
    for tensor in (images, labels):
        checksum.update(f"|{tensor.dtype} {tuple(tensor.shape)}|".encode())
        checksum.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return checksum.hexdigest()[:16]


def describe(synset: SyntheticSet, layout: str, order: tuple[int, ...] | None, stored: str) -> Sidecar:
    """Return the sidecar of a set, see `Sidecar`; ``stored`` is the `digest` of the stored images and labels."""
    values = {name: getattr(synset, name) for name in NAMES}
    values |= {"lr": float(synset.lr), "preprocessing": synset.transform.metadata()}
    written = {"layout": layout, "digest": stored, "order": order}
    return build(Sidecar, values, written | {"formation": synset.formation.document()})


def write(sidecar: Sidecar, folder: Path) -> Path:
    """Write a sidecar into a folder; return the path."""
    return write_document(folder / NAME, sidecar.model_dump(mode="json"))


def read(folder: Path) -> Sidecar | None:
    """Read the sidecar of a folder, or return None; refuse one that is damaged or of another version."""
    path = folder / NAME
    if not os.path.lexists(path):
        return None
    try:
        tree = parse(read_bytes(path))
        sidecar = build(Sidecar, without_checksum(tree) if isinstance(tree, dict) else {"raydd.json": tree})
        build(DataConfig, sidecar.recipe.get("data", {}), {"preprocessing": sidecar.preprocessing.kind})
    except ValueError as error:
        raise ValueError(f"{path} is not a sidecar of raydd ({str(error)[:400]}): export again, or remove it") from None
    return sidecar
