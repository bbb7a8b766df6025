"""A distillation in a run folder: checked before it starts, saved as it goes, resumed where it stopped.

A run folder holds ``config.yaml``, ``metrics.jsonl``, ``checkpoint/state.arrow`` and, at the end,
``synset.arrow`` and ``synset.png``.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from raydd.config import DistillConfig, build, dump
from raydd.data.buffer import ArrowBuffer
from raydd.data.files import write_atomic
from raydd.data.initial import INITIAL
from raydd.data.synset import SyntheticSet
from raydd.data.tensors import load_tensors, save_tensors
from raydd.data.trajectory import check_window
from raydd.data.transform import Transform
from raydd.distill.loop import Distillation, Step
from raydd.methods import METHODS, Setup
from raydd.numerics.rng import generator
from raydd.training.protocol import PROTOCOLS
from raydd.training.student import evaluate
from raydd.workspace import Workspace, open_workspace

SELECTION_NETWORKS = 2


def check(config: DistillConfig, work: Workspace) -> None:
    """Refuse, before anything is written, what cannot run.

    Raises:
        ValueError: Unknown method; more images a class than there are; a window beyond the experts;
            no validation split to select on.
    """
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}; use one of {', '.join(METHODS)}")
    INITIAL["real"](work.dataset, work.transform, config.ipc, generator(config.seed, "check"))
    epochs = config.experts.epochs
    high = epochs - config.span if config.window.high is None else config.window.high
    check_window((config.window.low, high), config.span, epochs)
    _check_selection(config, work)


def _check_selection(config: DistillConfig, work: Workspace) -> None:
    if config.evaluate_every is not None and not len(work.dataset.validation):
        raise ValueError(
            f"evaluate_every = {config.evaluate_every} needs a validation split; use --set data.validation=0.1"
        )


def open_buffer(folder: Path, config: DistillConfig, device: torch.device) -> tuple[ArrowBuffer, Workspace]:
    """Open a buffer and the workspace it belongs to; its preprocessing is the experts' own.

    Raises:
        ValueError: The buffer is damaged, or of another network, data set or preprocessing.
    """
    buffer = ArrowBuffer(folder)
    buffer.expect(network=config.experts.network)
    if buffer.spec.preprocessing["kind"] != config.data.preprocessing:
        raise ValueError(
            f"{folder} has preprocessing {buffer.spec.preprocessing['kind']!r}, not {config.data.preprocessing!r}; "
            f"use --set data.preprocessing={buffer.spec.preprocessing['kind']} or another --buffer"
        )
    transform = load_transform(folder)
    work = open_workspace(config.data, config.experts.network, device, transform)
    buffer.expect(fingerprint=work.dataset.fingerprint, preprocessing_hash=transform.hash)
    return buffer, work


def settle_threads(config: DistillConfig, folder: Path) -> DistillConfig:
    """The configuration with its CPU threads settled: as given, as the folder's run had, or one a core."""
    if config.threads is not None:
        return config
    path = folder / "config.yaml"
    before = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    return config.model_copy(update={"threads": before.get("threads") or len(os.sched_getaffinity(0))})


def save_transform(folder: Path, transform: Transform) -> None:
    """Keep a buffer's preprocessing beside its experts."""
    save_tensors(folder / "preprocessing.arrow", transform.arrays(), transform.metadata())


def load_transform(folder: Path) -> Transform:
    """A buffer's preprocessing, as its experts were trained with it."""
    arrays, metadata = load_tensors(folder / "preprocessing.arrow")
    return Transform.restore(metadata, arrays)


@dataclass
class Run:
    """One distillation and its folder.

    Args:
        config: What to run; a resumed run must be given the same.
        folder: The run folder.
        buffer: The experts.
        work: Data set, preprocessing, network, device.
        resume: Go on from the folder's checkpoint, where there is one.

    Raises:
        ValueError: The folder holds a run already and ``resume`` is False, or its configuration differs.
    """

    config: DistillConfig
    folder: Path
    buffer: ArrowBuffer
    work: Workspace
    resume: bool = False

    def __post_init__(self) -> None:
        check_window(self._window, self.config.span, self.buffer.epochs)
        _check_selection(self.config, self.work)
        self._claim_folder()
        recipe = METHODS[self.config.method](Setup(self.config, self.work, self.buffer))
        self._distillation = Distillation(
            recipe.objective,
            recipe.synset,
            recipe.learn,
            self.config.seed,
            gate=recipe.gate,
            ema=recipe.ema,
            keep_every=self.config.checkpoint_every,
        )
        self._saved = 0
        self._records: list[dict[str, Any]] = []
        self._history: list[dict[str, Any]] = []
        if self._checkpoint.exists():
            self._restore()
        else:
            write_atomic(self.folder / "config.yaml", dump(self.config).encode())

    @property
    def _window(self) -> tuple[float, float]:
        high = self.config.window.high
        return self.config.window.low, self.buffer.epochs - self.config.span if high is None else high

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint" / "state.arrow"

    def _claim_folder(self) -> None:
        path = self.folder / "config.yaml"
        if not path.exists():
            return
        if not self.resume:
            raise ValueError(f"{self.folder} holds a run already; go on with --resume, or name another --out")
        before = build(DistillConfig, yaml.safe_load(path.read_text(encoding="utf-8")))
        different = _first_difference(before.model_dump(), self.config.model_dump())
        if different:
            raise ValueError(
                f"{self.folder} was started with other settings: {different}; repeat them, or another --out"
            )

    def _restore(self) -> None:
        tensors, metadata = load_tensors(self._checkpoint)
        self._distillation.load_state_dict(_unflatten(tensors, metadata["plain"]))
        self._saved = self._distillation.step
        self._records, self._history = metadata["records"], metadata["history"]

    def steps(self) -> Iterator[Step]:
        """Take the outer steps that are left, yielding each; then write the result.

        A checkpoint is written every ``checkpoint_every`` steps, at states that a rollback would
        return to, so that a killed run goes on to the same bits.
        """
        for step in self._distillation.run(self.config.steps):
            if self._distillation.kept["step"] > self._saved:
                self._save(self._distillation.kept, done=step.step - 1)
            self._records.append(_record(step))
            if self._due(step):
                self._score(step.step)
            yield step
        self._save(self._distillation.state_dict(), done=self.config.steps)
        self._finish()

    def _due(self, step: Step) -> bool:
        every = self.config.evaluate_every
        return every is not None and step.rolled_back_to is None and step.step % every == 0

    def _save(self, state: dict[str, Any], done: int) -> None:
        tensors, plain = _flatten(state)
        records = [record for record in self._records if record["step"] <= done]
        history = [entry for entry in self._history if entry["step"] <= done]
        save_tensors(self._checkpoint, tensors, {"plain": plain, "records": records, "history": history})
        lines = "".join(json.dumps(record) + "\n" for record in self._records)
        write_atomic(self.folder / "metrics.jsonl", lines.encode())
        self._saved = state["step"]

    def _score(self, step: int) -> None:
        """Accuracy on the validation split of the set as it stands; the best set so far is kept."""
        work, synset = self.work, self._distillation.result
        feed, protocol = work.feed(work.dataset.validation), PROTOCOLS["mtt"]
        scores = [
            evaluate(synset, work.build, feed, protocol, work.augment, seed) for seed in range(SELECTION_NETWORKS)
        ]
        mean = sum(scores) / len(scores)
        best = max((entry["mean"] for entry in self._history), default=-1.0)
        self._history.append({"step": step, "split": "validation", "networks": len(scores), "mean": mean})
        if mean > best:
            self._described(synset, "best").save(self.folder / "best.arrow")

    def _described(self, synset: SyntheticSet, chosen: str) -> SyntheticSet:
        provenance = {
            "raydd": version("raydd"),
            "torch": torch.__version__,
            "commit": commit(),
            "fingerprint": self.work.dataset.fingerprint,
            "network": self.config.experts.network,
            "chosen": "last outer step" if chosen == "last" else "best outer step on the validation split",
        }
        history = tuple(self._history)
        recipe = self.config.model_dump(mode="json")
        return replace(synset.to("cpu"), recipe=recipe, provenance=provenance, history=history)

    def _finish(self) -> None:
        last = self._described(self._distillation.result, "last")
        best = self.folder / "best.arrow"
        if best.exists():
            last.save(self.folder / "last.arrow")
            last = replace(SyntheticSet.load(best), history=tuple(self._history))
        last.save(self.folder / "synset.arrow")


def commit() -> str | None:
    """The commit of the source tree that runs, or None where it is no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _record(step: Step) -> dict[str, Any]:
    record: dict[str, Any] = {"step": step.step, "loss": step.loss, "lr": step.lr, "stepped": step.stepped}
    if step.rolled_back_to is not None:
        record |= {"loss": str(step.loss), "rolled_back_to": step.rolled_back_to}
    return record


def _flatten(tree: dict[str, Any], prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by dotted name, and everything else in the tree's own shape."""
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, torch.Tensor):
            tensors[prefix + key] = value
        elif isinstance(value, dict):
            below, plain[key] = _flatten(value, f"{prefix}{key}/")
            tensors |= below
        else:
            plain[key] = value
    return tensors, plain


def _unflatten(tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    tree = json.loads(json.dumps(plain))
    for name, value in tensors.items():
        *folders, key = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[key] = value
    return tree  # type: ignore[no-any-return]


def _first_difference(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str | None:
    for key, value in now.items():
        other = before.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if inner := _first_difference(other, value, f"{prefix}{key}."):
                return inner
        elif value != other:
            return f"{prefix}{key} was {other!r} and is {value!r}"
    return None
