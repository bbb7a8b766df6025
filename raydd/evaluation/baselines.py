"""Selections of real images, as baselines of synthetic sets.

Slow selections are cached in ``<cache>/coresets/<key>.arrow``, by everything that decides them.

Shapes: `N` images, `C H W` image; see `raydd.selection.coresets`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.expert_file import expert_path
from raydd.buffer.verification import check_whole
from raydd.config.schema import DataConfig
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet, check_parts
from raydd.data.workspace import Workspace, open_workspace
from raydd.evaluation.matrix import ScoreRow
from raydd.evaluation.student import REAL_LR
from raydd.io.arrow_file import open_arrow
from raydd.io.console import Screen
from raydd.io.paths import default_cache
from raydd.io.tensor_file import load_tensors, save_tensors
from raydd.numerics.flat import FlatModel
from raydd.numerics.formation import encode
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Experts, Request
from raydd.selection.coresets import BY_DISTANCE, CORESETS, SEEDED
from raydd.selection.starting_images import NEED_EXPERTS

MOSAIC_CLUSTERS = 50
"""Clusters per class up to which k-means also selects the images of mosaics; more take minutes on usual data sets."""

SCHEMA = 1
"""Raise it whenever a selection changes for the same key."""


def baselines(
    synset: SyntheticSet,
    work: Workspace,
    seeds: range,
    experts: Experts | None = None,
    kinds: Sequence[str] | None = None,
) -> list[ScoreRow]:
    """Return selections of as many real images as the set stores; one a seed where the selection is random.

    Herding and k-center measure distances between the experts' features, or between pixels without experts; forgetting
    needs experts. K-means always uses pixels. See `mosaics` for sets of mosaics.
    """
    wanted, ipc = check_kinds(experts, kinds), len(synset.images) // len(synset.classes)
    if wanted and (ipc < 1 or len(synset.images) % len(synset.classes)):
        raise ValueError(
            f"a set has {len(synset.images)} images of {len(synset.classes)} classes, and selections of real images "
            "of the same size need a whole number a class; use --baselines none"
        )
    rows = []
    for kind in wanted:
        drawn = kind in SEEDED
        chosen = [
            _select(kind, work, synset.transform, ipc, seed, None if drawn else experts)
            for seed in (seeds if drawn else seeds[:1])
        ]
        space = f" ({'pixels' if experts is None else 'features'})" if kind in BY_DISTANCE else ""
        sets = tuple(_as_set(synset, images, labels) for images, labels in chosen)
        rows.append(ScoreRow(f"{kind}{space}, {ipc} a class", kind, sets))
    return rows


def mosaics(synset: SyntheticSet, work: Workspace, seeds: range, kinds: Sequence[str] | None = None) -> list[ScoreRow]:
    """Return mosaics of real images, as many as a set of mosaics stores: rho^2 real images each, one selection a seed.

    They are encoded and decoded as the set's own, so that networks see as many images of the same size. Their images
    are drawn at random, and by k-means up to `MOSAIC_CLUSTERS` clusters per class. A set without mosaics gives no rows.
    Arguments are those of `baselines`.
    """
    factor, ipc = synset.formation.factor, len(synset.images) // len(synset.classes)
    count = ipc * factor**2
    wanted = [kind for kind in CORESETS if kind in SEEDED and (kinds is None or kind in kinds)]
    if factor == 1 or not wanted:
        return []
    fewest = int(work.dataset.train.targets.bincount(minlength=len(synset.classes)).min())
    if fewest < count:
        raise ValueError(
            f"mosaics of real images beside a set of mosaics take {count} training images a class, and a class of "
            f"{work.dataset.name} has {fewest}; use --baselines herding,kcenter, or none"
        )
    rows = []
    for kind in wanted:
        if kind == "kmeans" and count > MOSAIC_CLUSTERS:
            continue
        chosen = [_select(kind, work, synset.transform, count, seed, None) for seed in seeds]
        sets = tuple(
            replace(_as_set(synset, encode(images, factor), labels[:: factor**2]), formation=synset.formation)
            for images, labels in chosen
        )
        rows.append(ScoreRow(f"{kind} mosaics ({factor} x {factor}), {ipc} a class", f"{kind}-mosaic", sets))
    return rows


def _as_set(synset: SyntheticSet, images: Tensor, labels: Tensor) -> SyntheticSet:
    """Return real images as a set with the preprocessing of another."""
    return SyntheticSet(images, labels, torch.tensor(REAL_LR), synset.transform, synset.dataset, synset.classes)


def check_kinds(experts: Experts | None, kinds: Sequence[str] | None) -> list[str]:
    """Return the possible kinds in the order of `CORESETS` (None: all), and refuse a named one that lacks experts."""
    missing = NEED_EXPERTS if experts is None else frozenset()
    if named := [kind for kind in kinds or () if kind in missing]:
        raise ValueError(f"--baselines {named[0]} asks trained networks about the images; give experts with --buffer")
    return [kind for kind in CORESETS if kind not in missing and (kinds is None or kind in kinds)]


def _select(
    kind: str, work: Workspace, transform: Transform, ipc: int, seed: int, experts: Experts | None
) -> tuple[Tensor, Tensor]:
    """Return images (N, C, H, W) and labels (N,) of a selection, from the cache where possible.

    Random selections are fast and not cached; nor are those by experts that are in no buffer.
    """

    def select() -> tuple[Tensor, Tensor]:
        return CORESETS[kind](Request(work.dataset, transform, ipc, generator(seed, "coreset", kind), experts))

    if kind == "random" or not (experts is None or isinstance(experts.source, ArrowBuffer)):
        return select()
    key = {"kind": kind, "ipc": ipc, "seed": seed} | _data_key(work, transform) | _experts_key(experts)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = default_cache() / "coresets" / f"{digest}.arrow"
    if cached := _cached(path, key, len(work.dataset.classes)):
        return cached
    images, labels = select()
    save_tensors(path, {"images": images, "labels": labels}, key)
    return images, labels


def _cached(path: Path, key: dict[str, Any], classes: int) -> tuple[Tensor, Tensor] | None:
    """Return the cached selection of a key; None where there is none, or its file is damaged."""
    if not path.exists():
        return None
    try:
        tensors, stored_key = load_tensors(path)
        check_parts(tensors | {"lr": torch.ones(())}, classes)
    except ValueError as error:
        Screen().note(f"{' '.join(str(error).split())} (the images are selected again)")
        return None
    return (tensors["images"], tensors["labels"]) if stored_key == key else None


def _data_key(work: Workspace, transform: Transform) -> dict[str, Any]:
    """Return the part of a cache key that images, preprocessing and packages decide."""
    data = work.dataset
    return {
        "schema": SCHEMA,
        **{package: version(package) for package in ("raydd", "torch", "scikit-learn")},
        "data": [data.name, data.fingerprint],
        "rows": hashlib.sha256(data.train.index.tobytes()).hexdigest(),  # without those that are held out
        "transform": [transform.hash, str(transform.dtype)],
    }


def _experts_key(experts: Experts | None) -> dict[str, Any]:
    """Return the part of a cache key that experts decide: the network, and each expert's number and checksum."""
    if experts is None or not isinstance(experts.source, ArrowBuffer):
        return {}
    buffer = experts.source
    sums = [[index, open_arrow(expert_path(buffer.folder, index)).metadata["checksum"]] for index in buffer.experts]
    key = {"network": buffer.spec.network, "epochs": buffer.epochs, "device": experts.device.type, "experts": sums}
    return key | ({"batch_norm": "running statistics"} if buffer.spec.buffer_layout else {})


def open_experts(folder: Path, data: DataConfig, synsets: Sequence[SyntheticSet], device: str) -> Experts:
    """Return a buffer's experts, which select real images as baselines of sets and compute on a device."""
    buffer = ArrowBuffer(folder)
    if buffer.kept is not None:
        raise ValueError(f"{folder} is convexified (MCT), and forgetting needs all snapshots; give a full --buffer")
    work = open_workspace(data, buffer.spec.network, torch.device(device), synsets[0].transform)
    buffer.expect(fingerprint=work.dataset.fingerprint)
    for synset in synsets:
        buffer.expect(preprocessing_hash=synset.transform.hash)
    check_whole(folder)
    return Experts(FlatModel(work.build), buffer, work.device)
