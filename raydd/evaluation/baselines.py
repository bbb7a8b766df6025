"""Selections of real images that stand beside synthetic sets.

Those that take long to choose lie in ``<cache>/coresets/<key>.arrow``, by what decides them.

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

from raydd.buffer.arrow_buffer import ArrowBuffer, verify
from raydd.buffer.expert_file import expert_path
from raydd.config.schema import DataConfig
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.data.synset_schema import check_parts
from raydd.data.workspace import Workspace, open_workspace
from raydd.evaluation.matrix import Entry
from raydd.io.console import Screen
from raydd.io.files import open_arrow
from raydd.io.paths import default_cache
from raydd.io.tensor_file import load_tensors, save_tensors
from raydd.numerics.flat import FlatModel
from raydd.numerics.formation import encode
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Experts
from raydd.selection.coresets import CORESETS, DRAWN, MEASURED
from raydd.selection.starting_images import ASKS_EXPERTS

BASELINE_LR = 0.01
"""Step size of networks that are trained on selections, under protocols that take the set's own.

Real images have learned none. It is MTT's first step size, and the one of networks that are trained on the whole data;
protocols with a step size of their own do not use it.
"""

MOSAIC_CLUSTERS = 50
"""Clusters a class up to which k-means chooses the images of mosaics too; more take minutes on data of usual size."""

SCHEMA = 1
"""To be raised whenever a selection changes for the same key."""


def baselines(
    synset: SyntheticSet,
    work: Workspace,
    seeds: range,
    experts: Experts | None = None,
    kinds: Sequence[str] | None = None,
) -> list[Entry]:
    """Selections of real images, as many as the set stores: a fresh one a seed, where they are drawn.

    Herding and k-center measure distances of the experts' features, or of pixels where there are none, and
    forgetting is left out then. K-means is always of pixels.

    A set of mosaics has mosaics of real images beside it too, see `mosaics`.

    Args:
        synset: The set that they stand beside.
        work: The real images.
        seeds: Of the networks that will be trained on them.
        experts: Who is asked about the images.
        kinds: Names of `CORESETS`; None takes all that can be had.

    Raises:
        ValueError: A kind that was named asks experts and there are none, or the set's images are no whole number
            a class.
    """
    wanted, ipc = _wanted(experts, kinds), len(synset.images) // len(synset.classes)
    if wanted and (ipc < 1 or len(synset.images) % len(synset.classes)):
        raise ValueError(
            f"a set has {len(synset.images)} images of {len(synset.classes)} classes, and selections of real images "
            "of the same size need a whole number a class; use --baselines none"
        )
    entries = []
    for kind in wanted:
        asked = None if kind in DRAWN else experts
        chosen = [
            _chosen(kind, work, synset.transform, ipc, seed, asked) for seed in (seeds if kind in DRAWN else seeds[:1])
        ]
        space = f" ({'pixels' if experts is None else 'features'})" if kind in MEASURED else ""
        sets = tuple(_plain(synset, images, labels) for images, labels in chosen)
        entries.append(Entry(f"{kind}{space}, {ipc} a class", kind, sets))
    return entries


def mosaics(synset: SyntheticSet, work: Workspace, seeds: range, kinds: Sequence[str] | None = None) -> list[Entry]:
    """Mosaics of real images, as many as the set of mosaics stores: rho^2 real images in each, a fresh choice a seed.

    They are cut and decoded as the set's own, so that networks see as many images of the same size. Their images are
    drawn at random, and by k-means where that makes no more than `MOSAIC_CLUSTERS` clusters a class.

    Args:
        synset: The set that they stand beside; there are none beside a set without mosaics.
        work: The real images.
        seeds: Of the networks that will be trained on them.
        kinds: Names of `CORESETS`; None takes random and kmeans.

    Raises:
        ValueError: A class has too few training images to fill its mosaics.
    """
    factor, ipc = synset.formation.factor, len(synset.images) // len(synset.classes)
    count = ipc * factor**2
    wanted = [kind for kind in CORESETS if kind in DRAWN and (kinds is None or kind in kinds)]
    if synset.formation.plain or not wanted:
        return []
    fewest = int(work.dataset.train.targets.bincount(minlength=len(synset.classes)).min())
    if fewest < count:
        raise ValueError(
            f"mosaics of real images beside a set of mosaics take {count} training images a class, and a class of "
            f"{work.dataset.name} has {fewest}; use --baselines herding,kcenter, or none"
        )
    entries = []
    for kind in wanted:
        if kind == "kmeans" and count > MOSAIC_CLUSTERS:
            continue
        chosen = [_chosen(kind, work, synset.transform, count, seed, None) for seed in seeds]
        sets = tuple(
            replace(_plain(synset, encode(images, factor), labels[:: factor**2]), formation=synset.formation)
            for images, labels in chosen
        )
        entries.append(Entry(f"{kind} mosaics ({factor} x {factor}), {ipc} a class", f"{kind}-mosaic", sets))
    return entries


def _plain(synset: SyntheticSet, images: Tensor, labels: Tensor) -> SyntheticSet:
    """Real images as a set that stands beside another."""
    lr = torch.tensor(BASELINE_LR)
    return SyntheticSet(images, labels, lr, synset.transform, synset.dataset, synset.classes)


def _wanted(experts: Experts | None, kinds: Sequence[str] | None) -> list[str]:
    """The kinds that can be had, in the order of `CORESETS`; those that were named must be."""
    missing = ASKS_EXPERTS if experts is None else frozenset()
    if named := [kind for kind in kinds or () if kind in missing]:
        raise ValueError(f"--baselines {named[0]} asks trained networks about the images; give experts with --buffer")
    return [kind for kind in CORESETS if kind not in missing and (kinds is None or kind in kinds)]


def _chosen(
    kind: str, work: Workspace, transform: Transform, ipc: int, seed: int, experts: Experts | None
) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) and labels (N,) of a selection: kept ones, else chosen now, and kept.

    Random ones are drawn at once, and none are kept that ask experts who are in no buffer.
    """

    def choose() -> tuple[Tensor, Tensor]:
        return CORESETS[kind](work.dataset, transform, ipc, generator(seed, "coreset", kind), experts)

    if kind == "random" or not (experts is None or isinstance(experts.source, ArrowBuffer)):
        return choose()
    key = {"kind": kind, "ipc": ipc, "seed": seed} | _ground(work, transform) | _asked(experts)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = default_cache() / "coresets" / f"{digest}.arrow"
    if kept := _kept(path, key, len(work.dataset.classes)):
        return kept
    images, labels = choose()
    save_tensors(path, {"images": images, "labels": labels}, key)
    return images, labels


def _kept(path: Path, key: dict[str, Any], classes: int) -> tuple[Tensor, Tensor] | None:
    """What was kept under a key; None where nothing was, or its file is damaged."""
    if not path.exists():
        return None
    try:
        tensors, found = load_tensors(path)
        check_parts(tensors | {"lr": torch.ones(())}, classes)
    except ValueError as error:
        Screen().note(f"{' '.join(str(error).split())} (it is chosen anew)")
        return None
    return (tensors["images"], tensors["labels"]) if found == key else None


def _ground(work: Workspace, transform: Transform) -> dict[str, Any]:
    """The images that can be chosen, how they are seen, and what computes; as JSON holds it."""
    data = work.dataset
    return {
        "schema": SCHEMA,
        **{package: version(package) for package in ("raydd", "torch", "scikit-learn")},
        "data": [data.name, data.fingerprint],
        "rows": hashlib.sha256(data.train.index.tobytes()).hexdigest(),  # all but those that are held out
        "transform": [transform.hash, str(transform.dtype)],
    }


def _asked(experts: Experts | None) -> dict[str, Any]:
    """Who is asked: the network, and each expert's number and checksum."""
    if experts is None or not isinstance(experts.source, ArrowBuffer):
        return {}
    buffer = experts.source
    sums = [[index, open_arrow(expert_path(buffer.folder, index)).metadata["checksum"]] for index in buffer.experts]
    asked = {"network": buffer.spec.network, "epochs": buffer.epochs, "device": experts.device.type, "experts": sums}
    return asked | ({"batch_norm": "running statistics"} if buffer.spec.buffer_layout else {})


def open_experts(folder: Path, data: DataConfig, synsets: Sequence[SyntheticSet], device: str) -> Experts:
    """A buffer's experts, to choose real images by.

    Args:
        folder: The buffer's.
        data: The real images.
        synsets: The sets that the images shall stand beside.
        device: Where the experts compute.

    Raises:
        ValueError: No buffer, or one that is damaged, convexified, of other images or of other preprocessing.
    """
    buffer = ArrowBuffer(folder)
    if buffer.kept is not None:
        raise ValueError(f"{folder} is convexified (MCT), and forgetting needs all snapshots; give a full --buffer")
    work = open_workspace(data, buffer.spec.network, torch.device(device), synsets[0].transform)
    buffer.expect(fingerprint=work.dataset.fingerprint)
    for synset in synsets:
        buffer.expect(preprocessing_hash=synset.transform.hash)
    for problem in verify(folder):
        raise ValueError(f"{folder / problem.file} is damaged: {problem.what}")
    return Experts(FlatModel(work.build), buffer, work.device)
