"""A cache of training results, by everything that decides them.

Each result is one file ``<cache>/scores/<two digits>/<key>.json``, written atomically. Equal trainings have equal keys
in all evaluations. Of an evaluation whose results go elsewhere, a log of one file has them, too: there another machine,
with another cache, finds them.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from raydd.data.datasets import Dataset
from raydd.data.synset import SyntheticSet
from raydd.evaluation.jobs import Job, Outcome
from raydd.evaluation.matrix import Matrix, ScoreRow
from raydd.io.bounded_file import read_bytes
from raydd.io.document import (
    MOST_LOG_BYTES,
    Document,
    Finite,
    Fraction,
    Whole,
    digest,
    parse,
    parse_document,
    validate,
    write_document,
)
from raydd.io.paths import default_cache

SCHEMA = 1
"""Raise it whenever a training's result changes for the same key."""
LATER_FIELDS = {
    "rule": None,
    "strategy": None,
    "lengths": (),
    "compile": False,
    "optimizer": "sgd",
    "cosine": 0.0,
    "temperature": 1.0,
}
"""Protocol fields of later versions, with the values that leave a key as earlier versions wrote it."""

Key = dict[str, Any]


class _Outcome(Document):
    value: Fraction
    seconds: Finite
    curve: tuple[tuple[Whole, Fraction], ...]
    stopped: bool
    commit: str | None

    def outcome(self) -> Outcome:
        return Outcome(self.value, self.seconds, self.curve, self.stopped, self.commit)


class _Result(_Outcome):
    """The file of a result."""

    key: dict[str, Any]


class _Line(_Outcome):
    """A line of a log of results."""

    key: str


class ResultCache:
    """The results on this machine, or of all processes that share a cache folder; and those of a log, if there is one.

    What is loaded or stored goes into the log.
    """

    def __init__(self, folder: Path | None = None, commit: str | None = None, log: Path | None = None) -> None:
        self._folder = folder or default_cache() / "scores"
        self._commit, self._log = commit, log
        self.damaged: list[Path] = []
        self._logged = dict[str, Outcome]()
        if log is not None and log.exists():
            self._read(log)

    def load(self, key: Key) -> Outcome | None:
        """Return the cached result of a training; None where there is none, or its file is damaged."""
        name = digest(key)[:32]
        outcome = self._load(name, key) or self._logged.get(name)
        if outcome is not None and name not in self._logged:
            self._write(name, outcome)
        return outcome

    def _load(self, name: str, key: Key) -> Outcome | None:
        path = self._path(name)
        try:
            result, tree = parse_document(read_bytes(path), _Result, always_sealed=True)
            if tree["key"] != key and digest(tree["key"])[:32] != name:
                raise ValueError("it is of another training")
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self.damaged.append(Path(path))
            return None
        return result.outcome()

    def store(self, key: Key, outcome: Outcome) -> None:
        """Write a result atomically."""
        outcome, name = outcome._replace(commit=self._commit), digest(key)[:32]
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        write_document(self._path(name), {"key": key, **outcome._asdict(), "when": when}, indent=None)
        self._write(name, outcome)

    def _write(self, name: str, outcome: Outcome) -> None:
        if self._log is not None:
            self._logged[name] = outcome
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": name} | outcome._asdict()) + "\n")

    def _read(self, log: Path) -> None:
        """Take the results of a log; a line that is damaged, or of another version, is left out."""
        for line in read_bytes(log, MOST_LOG_BYTES).splitlines():
            with contextlib.suppress(ValueError):
                result = validate(_Line, parse(line))
                self._logged[result.key] = result.outcome()

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name[:2]}/{name}.json"


class CacheKeys:
    """Computes the keys of a matrix's jobs: everything that decides their results on a data set."""

    def __init__(self, matrix: Matrix, dataset: Dataset) -> None:
        self._matrix, self._dataset = matrix, dataset
        self._version = version("raydd")
        self._digests: dict[int, str] = {}  # by identity: the matrix holds the sets
        self._shared: dict[tuple[int, int, str], Key] = {}  # by row, set and network

    def of(self, job: Job) -> Key:
        """Return the key of a job that runs to its end."""
        synset = self._matrix.set_of(job)
        place = job.row, id(synset), job.network
        if place not in self._shared:
            self._shared[place] = self._of(job, synset)
        return self._shared[place] | {"seed": job.seed}

    def _of(self, job: Job, synset: SyntheticSet | None) -> Key:
        """Return what the keys of a row's trainings of one set and network share."""
        matrix, data, row = self._matrix, self._dataset, self._matrix.rows[job.row]
        protocol = matrix.protocol.on(synset.dataset, synset.ipc) if synset else matrix.protocol
        unused = {"name", *(("real_epochs",) if synset else ("epochs", "plain_epochs", "lengths"))}
        unused |= {name for name, usual in LATER_FIELDS.items() if getattr(protocol, name) == usual}
        key = {
            "schema": SCHEMA,
            "raydd": self._version,
            "torch": torch.__version__,
            "timm": version("timm") if job.network.startswith("timm:") else None,
            "device": matrix.device,
            "data": {"fingerprint": data.fingerprint, "classes": len(data.classes), "flip": data.flip},
            "transform": (synset or matrix.first_set()).transform.hash,
            "protocol": protocol.model_dump(mode="json", exclude=unused),
            "augment": matrix.data.augment if row.augment else "none",
            "network": str(matrix.architectures.get(job.network, job.network)),
            "split": row.split,
            "classes": row.classes,
        }
        if synset is None or len(row.lrs) > 1 or row.split == "validation":
            key["validation"] = [matrix.data.validation, data.name]  # the name also decides which images are held out
        plain: Key = json.loads(json.dumps(key | self._set_key(row, synset)))  # as a file has it
        return plain

    def stopped(self, job: Job) -> Key:
        """Return the key of a job that may be stopped at a rung: among other networks it might have continued."""
        matrix = self._matrix
        among = digest({"networks": sorted(str(matrix.architectures.get(name, name)) for name in matrix.networks)})
        return self.of(job) | {"rungs": matrix.rungs, "among": among}

    def _set_key(self, row: ScoreRow, synset: SyntheticSet | None) -> Key:
        if synset is None:
            return {"set": "whole"}
        own = self._matrix.protocol.lr is None and not row.lrs
        formation = None if synset.formation.plain else list(synset.formation.document().values())
        lr = float(synset.lr) if own else None
        if id(synset) not in self._digests:
            self._digests[id(synset)] = _set_digest(synset)
        kind = {"labels": synset.label_kind} if synset.regression else {}  # of others the digest tells it
        return {"set": self._digests[id(synset)], "formation": formation, "lr": lr, "lrs": row.lrs, **kind}


def _set_digest(synset: SyntheticSet) -> str:
    """Return the sha256 of a set's images, labels and styles; 32 hex digits."""
    checksum = hashlib.sha256()
    for tensor in (part for name, part in synset.parts.items() if name != "lr"):
        array = tensor.detach().cpu().contiguous().numpy()
        checksum.update(f"|{array.dtype} {array.shape}|".encode())
        checksum.update(array.tobytes())
    return checksum.hexdigest()[:32]


def cached_outcomes(matrix: Matrix, keys: CacheKeys, cache: ResultCache) -> dict[Job, Outcome]:
    """Return the cached results of a matrix's jobs."""
    outcomes = {}
    for job in matrix.jobs():
        outcome = cache.load(keys.of(job))
        if outcome is None and matrix.rungs is not None:
            outcome = cache.load(keys.stopped(job))
        if outcome is not None:
            outcomes[job] = outcome
    return outcomes


def commits(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the distinct commits of results."""
    return sorted({outcome.commit or "unknown" for outcome in outcomes})
