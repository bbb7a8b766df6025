"""The checkpoint and the logs of a run: their schemas, writing and reading."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raydd.data.synset import ScoreDocument
from raydd.io.document import Document, Finite, Tree, Whole
from raydd.io.tensor_file import Tensors, flatten_tree, load_checked, save_tensors, unflatten_tree


class RecordDocument(Document, extra="allow"):
    """An outer step: a line of ``metrics.jsonl``; a loss that was not finite is text."""

    step: Whole
    loss: Finite | str
    lr: Finite
    stepped: bool
    rolled_back_to: Whole | None = None


class ProbeDocument(Document, extra="allow"):
    """A measure of the held-out expert: a line of ``probe.jsonl``."""

    step: Whole
    losses: tuple[float | None, ...] = ()
    label_std: float | None = None


class MemoryDocument(Document, extra="allow"):
    """The memory of a process at an outer step, and the seconds of all steps until then: a line of ``memory.jsonl``."""

    step: Whole
    resident_mb: Finite | None
    device_mb: Finite | None = None
    seconds: Finite | None = None


LOGS: dict[str, type[Document]] = {
    "metrics.jsonl": RecordDocument,
    "memory.jsonl": MemoryDocument,
    "probe.jsonl": ProbeDocument,
}
"""The schema of a line of each of a run's logs."""
AGAIN = "distill the run again"


class _State(Document, extra="allow"):
    """The part of a state of `raydd.distillation.loop.Distillation` that is not tensors."""

    step: Whole
    leaves: dict[str, None]
    momentum: dict[str, None]
    mean: None = None
    objective: Any = None


class _CheckpointDocument(Document):
    plain: _State
    buffer: str
    records: tuple[RecordDocument, ...] = ()
    history: tuple[ScoreDocument, ...] = ()
    probes: tuple[ProbeDocument, ...] = ()


class Checkpoint(NamedTuple):
    """A run's state, the hash of its experts' bytes (empty without experts), and its logs up to there."""

    state: Tree
    buffer: str
    log: dict[str, list[Tree]]

    @property
    def tensors(self) -> Tensors:
        """The state's tensors, by path."""
        return flatten_tree(self.state)[0]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    tensors, plain = flatten_tree(checkpoint.state)
    save_tensors(path, tensors, {"plain": plain, "buffer": checkpoint.buffer} | checkpoint.log)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of `save_checkpoint`."""
    tensors, _, metadata = load_checked(path, _CheckpointDocument)
    try:
        state = unflatten_tree(tensors, metadata["plain"])
        for name, value in tensors.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name[:200]} is not finite")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {AGAIN}") from None
    log = {name: metadata.get(name, []) for name in ("records", "history", "probes")}
    return Checkpoint(state, metadata["buffer"], log)


def check_state(path: Path, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse the state of another run: of other learned parts, or other shapes."""
    for group in ("leaves", "momentum", "second"):
        if state.get(group, {}).keys() != own.get(group, {}).keys():
            parts = [", ".join(sorted(each.get(group, {}))) or "nothing" for each in (state, own)]
            raise ValueError(f"{path} learned {parts[0]}, and this run learns {parts[1]}; {AGAIN}")
    pairs = {f"leaves/{name}": (state["leaves"][name], leaf) for name, leaf in own["leaves"].items()}
    for group in ("momentum", "second"):
        pairs |= {f"{group}/{name}": (value, own["leaves"][name]) for name, value in state.get(group, {}).items()}
    pairs |= {name: (state.get(name), own.get(name)) for name in ("mean", "mean_labels", "mean_styles")}
    for name, (stored, wanted) in pairs.items():
        if stored is None and (wanted is None or name.startswith(("momentum/", "second/"))):
            continue
        if not isinstance(stored, Tensor) or wanted is None or _type(stored) != _type(wanted):
            what = _type(stored) if isinstance(stored, Tensor) else "missing"
            raise ValueError(f"{path}: {name} is {what} instead of {wanted is not None and _type(wanted)}; {AGAIN}")


def _type(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
