"""Descriptions of buffers for users."""

import math
import os
from statistics import mean, pstdev
from typing import Any

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.expert_file import expert_path
from raydd.buffer.manifest import read_manifest
from raydd.buffer.mirror import MANIFEST, fetch
from raydd.io.files import AnyPath
from raydd.io.uri import is_uri

FIELDS = ("dataset", "fingerprint", "network", "channels", "size", "classes", "recipe", "seed", "storage")


def describe(folder: AnyPath) -> dict[str, Any]:
    """Describe a buffer in JSON values; accuracies are fractions, their std is over the experts (ddof 0)."""
    buffer = ArrowBuffer(folder)
    spreads = [{"mean": float(a.mean()), "std": float(a.std(correction=0))} for a in buffer.accuracy.T]
    first, last = (None if math.isnan(spreads[t]["mean"]) else spreads[t] for t in (0, -1))
    return {
        **{name: getattr(buffer.spec, name) for name in FIELDS},
        "preprocessing": buffer.spec.preprocessing.get("kind"),
        "experts": len(buffer.experts),
        "epochs": buffer.epochs,
        "kept": None if buffer.kept is None else [*buffer.kept],
        "parameters": buffer.parameters,
        "bytes": sum(expert_path(folder, index).stat().st_size for index in buffer.experts),
        "accuracy": {"first": first, "last": last},
        "rounding": buffer.rounding,
    }


def summary(uri: str) -> dict[str, Any]:
    """Describe a buffer in a store in JSON values, from its manifest alone; no expert is fetched."""
    spec, entries = read_manifest(fetch(uri, (MANIFEST,)))
    last = [entry["accuracy"] for entry in entries.values() if entry["accuracy"] is not None]
    return {
        **{name: getattr(spec, name) for name in FIELDS},
        "experts": len(entries),
        "bytes": sum(entry["bytes"] for entry in entries.values()),
        "accuracy": {"first": None, "last": {"mean": mean(last), "std": pstdev(last)} if last else None},
    }


def describe_location(location: AnyPath) -> dict[str, Any]:
    """Describe a buffer in a folder, or at a URI from its manifest alone."""
    return summary(os.fspath(location)) if is_uri(location) else describe(location)
