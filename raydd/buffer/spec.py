"""The settings that identify a trajectory buffer."""

import dataclasses
import json
import math
import reprlib
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from raydd.buffer.precision import FULL, STORAGES
from raydd.data.workspace import Workspace
from raydd.io.document import Tree, Whole, validate
from raydd.numerics.flat import Layout, layout_of, running_statistics

SCHEMA: Literal[1] = 1
_MOST_PARAMETERS = 2**40
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


Side = Annotated[int, Field(gt=0, lt=2**31)]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class BufferSpec:
    """What a buffer is of. Buffers with equal specs hold the same experts, however many.

    Attributes:
        dataset: Its name or path.
        fingerprint: Of the data set's stored bytes.
        preprocessing_hash: Of the preprocessing object.
        preprocessing: The preprocessing's metadata, with its ``kind``.
        network: Its name.
        channels: Of an image.
        size: Of an image, in pixels.
        classes: Their number.
        layout: Where each parameter lies in theta (P,).
        buffer_layout: Where each running statistic lies in the vector (Q,); empty without BatchNorm.
        recipe: The experts' hyper-parameters, JSON-able.
        seed: Of the run.
        schema_version: Of the files.
        kept: The epochs of a convexified trajectory whose snapshots are stored, from 0 to K; None stores all.
        storage: The number format of theta in the files, a key of `STORAGES`.
    """

    dataset: str
    fingerprint: str
    preprocessing_hash: str
    preprocessing: dict[str, Any]
    network: str
    channels: Side
    size: Side
    classes: Side
    layout: Layout
    buffer_layout: Layout
    recipe: dict[str, Any]
    seed: int
    schema_version: Literal[1] = SCHEMA
    kept: tuple[Whole, ...] | None = None
    storage: str = FULL

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise ValueError(f"unknown storage {self.storage!r}: use one of {', '.join(STORAGES)}")
        if self.kept is not None and (self.kept[:1] != (0,) or not ascends(self.kept)):
            raise ValueError(f"the kept epochs {self.kept} do not ascend from 0 to a last one; give at least those two")
        for layout in (self.layout, self.buffer_layout):
            _check_layout(layout)

    @property
    def parameters(self) -> int:
        """The number of parameters, P."""
        return sum(slot.numel for slot in self.layout)

    @property
    def statistics(self) -> int:
        """The number of running statistics, Q."""
        return sum(slot.numel for slot in self.buffer_layout)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``kept`` and ``storage`` only if they are set, since older files never had them."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))
        defaults = {"kept": None, "storage": FULL}
        return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "BufferSpec":
        """Return the spec of the values of `to_json`; refuse other values."""
        return validate(cls, values)

    def difference(self, other: "BufferSpec") -> str | None:
        """Return the first field that differs, with both values, or None."""
        mine, theirs = _leaves(self.to_json()), _leaves(other.to_json())
        for name in [*mine, *(name for name in theirs if name not in mine)]:
            if mine.get(name) != theirs.get(name):
                return f"{name} is {_SHORT.repr(mine.get(name))} instead of {_SHORT.repr(theirs.get(name))}"
        return None


def spec_of(
    work: Workspace, network: nn.Module, recipe: Tree, seed: int, *, kept: tuple[int, ...] | None = None, storage: str
) -> BufferSpec:
    """Return the spec of a buffer of experts of a network on a workspace's data; see `BufferSpec`."""
    dataset = work.dataset
    return BufferSpec(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        preprocessing_hash=work.transform.hash,
        preprocessing=work.transform.metadata(),
        network=work.network,
        channels=dataset.channels,
        size=dataset.size,
        classes=len(dataset.classes),
        layout=layout_of(dict(network.named_parameters())),
        buffer_layout=layout_of(running_statistics(network)),
        recipe=recipe,
        seed=seed,
        kept=kept,
        storage=storage,
    )


def _check_layout(layout: Layout) -> None:
    """Refuse a layout whose tensors do not lie one after another."""
    offset = 0
    for slot in layout:
        if slot.offset != offset:
            raise ValueError(f"{slot.name} lies at {slot.offset} instead of {offset}")
        if not all(0 < side < 2**31 for side in slot.shape):
            raise ValueError(f"{slot.name} has the shape {slot.shape}")
        offset += math.prod(slot.shape)
        if offset > _MOST_PARAMETERS:
            raise ValueError(f"{slot.name} ends at {offset}, and a network has at most {_MOST_PARAMETERS} parameters")
    if len({slot.name for slot in layout}) != len(layout):
        raise ValueError("a parameter is there twice")


def ascends(epochs: tuple[int, ...]) -> bool:
    """Return whether there are at least two epochs, each later than the one before."""
    return len(epochs) > 1 and all(before < after for before, after in pairwise(epochs))


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves
