"""Results of trainings, kept by what decided them: what was done once is never done again.

A file a result lies in ``<cache>/scores/<two digits>/<key>.json``, whole or not there; equal trainings have equal
keys, whatever evaluation asks for them.
"""

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydd.data.datasets import Dataset
from raydd.data.synset import SyntheticSet
from raydd.evaluation.matrix import Entry, Job, Matrix, Outcome
from raydd.io.bounded_file import read_bytes
from raydd.io.document import Document, Finite, Fraction, Whole, digest, parse_document, write_document
from raydd.io.paths import default_cache

SCHEMA = 1
"""To be raised whenever a training's result changes for the same key."""
LATER = {"rule": None, "strategy": None, "lengths": ()}
"""Fields of a protocol that younger versions have, as they are of older ones: such keys stay as they were."""

Key = dict[str, Any]


class _Result(Document):
    """A file of a result."""

    key: dict[str, Any]
    value: Fraction
    seconds: Finite
    curve: tuple[tuple[Whole, Fraction], ...]
    stopped: bool
    commit: str | None


class Ledger:
    """The results on this machine, or of all that share a cache.

    Args:
        folder: Where; None takes ``<cache>/scores``.
        commit: The source that runs, kept with every result; None where it is not known.

    Attributes:
        damaged: Files of results that were looked for and could not be used; they are written anew.
    """

    def __init__(self, folder: Path | None = None, commit: str | None = None) -> None:
        self._folder = folder or default_cache() / "scores"
        self._commit = commit
        self.damaged: list[Path] = []

    def find(self, key: Key) -> "Kept | None":
        """The result of a training; None where there is none, or its file is damaged."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            record, tree = parse_document(read_bytes(path), _Result, always_sealed=True)
            if digest(tree["key"]) != digest(key):
                raise ValueError("it is of another training")
        except (OSError, ValueError):
            self.damaged.append(path)
            return None
        return Kept(Outcome(record.value, record.seconds, record.curve, record.stopped), record.commit)

    def keep(self, key: Key, outcome: Outcome) -> None:
        """Write a result, whole or not at all."""
        record = {"key": key, **outcome._asdict(), "commit": self._commit, "when": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_document(self._path(key), record)

    def _path(self, key: Key) -> Path:
        name = digest(key)[:32]
        return self._folder / name[:2] / f"{name}.json"


@dataclass(frozen=True)
class Kept:
    """A result that was kept, and the commit of the source that made it."""

    outcome: Outcome
    commit: str | None


class Keys:
    """What decides the result of each job of a matrix.

    Args:
        matrix: The trainings.
        dataset: Its real images.
    """

    def __init__(self, matrix: Matrix, dataset: Dataset) -> None:
        self._matrix, self._dataset = matrix, dataset
        self._version = version("raydd")
        self._digests: dict[int, str] = {}  # by identity: the matrix holds the sets

    def of(self, job: Job) -> Key:
        """The key of a job that runs to its end."""
        matrix, data = self._matrix, self._dataset
        entry, synset = matrix.entries[job.entry], matrix.set_of(job)
        protocol = matrix.protocol.on(synset.dataset, synset.ipc) if synset else matrix.protocol
        unused = {"name", *(("real_epochs",) if synset else ("epochs", "plain_epochs", "lengths"))}
        unused |= {name for name, usual in LATER.items() if getattr(protocol, name) == usual}
        key = {
            "schema": SCHEMA,
            "raydd": self._version,
            "torch": torch.__version__,
            "timm": version("timm") if job.network.startswith("timm:") else None,
            "device": matrix.device,
            "data": {"fingerprint": data.fingerprint, "classes": len(data.classes), "flip": data.flip},
            "transform": (synset or matrix.look()).transform.hash,
            "protocol": protocol.model_dump(mode="json", exclude=unused),
            "augment": matrix.data.augment if entry.augment else "none",
            "network": str(matrix.rows.get(job.network, job.network)),
            "seed": job.seed,
            "split": entry.split,
            "classes": entry.classes,
        }
        if synset is None or len(entry.lrs) > 1 or entry.split == "validation":
            key["validation"] = [matrix.data.validation, data.name]  # which images are held out goes by the name too
        return key | self._learned(entry, synset)

    def stopped(self, job: Job) -> Key:
        """The key of a job that may have been stopped at a rung: among others it might have gone on."""
        matrix = self._matrix
        among = digest({"networks": sorted(str(matrix.rows.get(name, name)) for name in matrix.networks)})
        return self.of(job) | {"rungs": matrix.rungs, "among": among}

    def _learned(self, entry: Entry, synset: SyntheticSet | None) -> Key:
        if synset is None:
            return {"set": "whole"}
        own = self._matrix.protocol.lr is None and not entry.lrs
        formation = None if synset.formation.plain else list(synset.formation)
        lr = float(synset.lr) if own else None
        if id(synset) not in self._digests:
            self._digests[id(synset)] = _digest(synset)
        return {"set": self._digests[id(synset)], "formation": formation, "lr": lr, "lrs": entry.lrs}


def _digest(synset: SyntheticSet) -> str:
    """sha256 of the images and labels of a set; 32 hex digits."""
    found = hashlib.sha256()
    for tensor in (synset.images, synset.labels):
        _feed(found, tensor)
    return found.hexdigest()[:32]


def _feed(found: Any, tensor: Tensor) -> None:
    array = tensor.detach().cpu().contiguous().numpy()
    found.update(f"|{array.dtype} {array.shape}|".encode())
    found.update(array.tobytes())


def known(matrix: Matrix, keys: Keys, ledger: Ledger) -> dict[Job, Kept]:
    """The jobs of a matrix whose results are kept already."""
    found = {}
    for job in matrix.jobs():
        kept = ledger.find(keys.of(job))
        if kept is None and matrix.rungs is not None:
            kept = ledger.find(keys.stopped(job))
        if kept is not None:
            found[job] = kept
    return found


def commits(found: Iterable[Kept]) -> list[str]:
    """The commits that kept results are of, each once."""
    return sorted({kept.commit or "unknown" for kept in found})
