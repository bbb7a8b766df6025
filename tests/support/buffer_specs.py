"""Descriptions of buffers for tests."""

from typing import Any

from raydd.buffer.spec import BufferSpec
from raydd.numerics.flat import Layout


def make_spec(layout: Layout, **changes: Any) -> BufferSpec:
    """Return the description of a buffer of MLPs on digits whose parameters have a layout, with some other fields."""
    fields: dict[str, Any] = {
        "dataset": "digits",
        "fingerprint": "f" * 16,
        "preprocessing_hash": "a" * 16,
        "preprocessing": {"kind": "raw01"},
        "network": "MLP",
        "channels": 1,
        "size": 8,
        "classes": 10,
        "buffer_layout": (),
        "recipe": {"lr": 0.01},
        "seed": 3,
    }
    return BufferSpec(layout=layout, **(fields | changes))
