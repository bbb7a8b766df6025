"""A distillation in a run folder: checked before it starts, saved as it goes, resumed where it stopped.

A run folder holds ``config.yaml``, ``metrics.jsonl``, ``checkpoint/state.arrow`` and, at the end,
``synset.arrow`` and ``synset.png``.
"""

import hashlib
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

from raydd.config import DistillConfig
from raydd.data.buffer import ArrowBuffer, expert_path, verify
from raydd.data.files import open_arrow, sweep, write_atomic
from raydd.data.initial import INITIAL
from raydd.data.synset import SyntheticSet
from raydd.data.tensors import flatten_tree, load_tensors, save_tensors, unflatten_tree
from raydd.data.trajectory import check_window
from raydd.data.transform import load_transform
from raydd.distill.loop import Distillation, Step
from raydd.methods import METHODS, Setup, start_window
from raydd.numerics.rng import generator
from raydd.settings import build, dump
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
    check_method(config)
    INITIAL["real"](work.dataset, work.transform, config.ipc, generator(config.seed, "check"))
    check_window(start_window(config, config.experts.epochs), config.span, config.experts.epochs)
    _check_selection(config, work)


def check_method(config: DistillConfig) -> None:
    """Refuse an unknown method, before anything is loaded."""
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}; use one of {', '.join(METHODS)}")


def _check_selection(config: DistillConfig, work: Workspace) -> None:
    if config.evaluate_every is not None and not len(work.dataset.validation):
        raise ValueError(
            f"evaluate_every = {config.evaluate_every} needs a validation split; use --set data.validation=0.1"
        )


def open_buffer(
    folder: Path, config: DistillConfig, device: torch.device, most: int | None = None
) -> tuple[ArrowBuffer, Workspace]:
    """Open a buffer and the workspace it belongs to; its preprocessing is the experts' own.

    Every byte is read once and compared with its checksum, so that no run starts on damaged experts.

    Args:
        folder: The buffer's.
        config: The run that shall use it.
        device: Where the run computes.
        most: Use the first so many experts; None uses all.

    Raises:
        ValueError: The buffer is damaged, or of another network, data set or preprocessing.
    """
    buffer = ArrowBuffer(folder, most)
    buffer.expect(network=config.experts.network)
    if buffer.spec.preprocessing["kind"] != config.data.preprocessing:
        raise ValueError(
            f"{folder} has preprocessing {buffer.spec.preprocessing['kind']!r}, not {config.data.preprocessing!r}; "
            f"use --set data.preprocessing={buffer.spec.preprocessing['kind']} or another --buffer"
        )
    if (held := buffer.spec.recipe["validation"]) != config.data.validation:
        raise ValueError(
            f"{folder} held out data.validation={held} of the training images, not {config.data.validation}; "
            f"use --set data.validation={held} or another --buffer"
        )
    transform = load_transform(folder)
    work = open_workspace(config.data, config.experts.network, device, transform)
    buffer.expect(fingerprint=work.dataset.fingerprint, preprocessing_hash=transform.hash)
    for problem in verify(folder):
        raise ValueError(f"{folder / problem.file} is damaged: {problem.what}")
    return buffer, work


def settle(config: DistillConfig, buffer: ArrowBuffer, folder: Path) -> DistillConfig:
    """The configuration as it really runs: the buffer's own recipe, and a number of CPU threads.

    A resumed run keeps the threads it had; they are part of it, since sums depend on them.
    """
    before = read_config(folder)
    threads = config.threads or (before.threads if before else None) or len(os.sched_getaffinity(0))
    recipe = {key: value for key, value in buffer.spec.recipe.items() if key in type(config.experts).model_fields}
    experts = {"network": buffer.spec.network, "num_experts": len(buffer.experts)} | recipe
    return build(DistillConfig, config.model_dump(), {"threads": threads, "experts": experts})


def read_config(folder: Path) -> DistillConfig | None:
    """The configuration of a run folder, or None where it holds no run.

    Raises:
        ValueError: If its config.yaml cannot be read.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return None
    try:
        return build(DistillConfig, yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no configuration of this raydd ({error}); name another --out") from None


def claim(folder: Path, resume: bool) -> None:
    """Refuse a folder that holds a run already, unless it shall be resumed.

    Raises:
        ValueError: Naming the folder and the remedy.
    """
    if not resume and (folder / "config.yaml").exists():
        raise ValueError(f"{folder} holds a run already; go on with --resume, or name another --out")


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
        check_window(start_window(self.config, self.buffer.epochs), self.config.span, self.buffer.epochs)
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
        self._saved, self._identity = 0, self._buffer_identity()
        self._records: list[dict[str, Any]] = []
        self._history: list[dict[str, Any]] = []
        if self.folder.exists():
            sweep(self.folder)
        if self.resume and self._checkpoint.exists():
            self._restore()
        else:
            write_atomic(self.folder / "config.yaml", dump(self.config).encode())

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint" / "state.arrow"

    def _claim_folder(self) -> None:
        claim(self.folder, self.resume)
        before = read_config(self.folder)
        if before and (different := _first_difference(before.model_dump(), self.config.model_dump())):
            raise ValueError(
                f"{self.folder} was started with other settings: {different}; repeat them, or another --out"
            )

    def _restore(self) -> None:
        tensors, metadata = load_tensors(self._checkpoint)
        if metadata["buffer"] != self._identity:
            raise ValueError(
                f"{self.folder} was started with other experts than {self.buffer.folder}; name its --buffer"
            )
        self._distillation.load_state_dict(unflatten_tree(tensors, metadata["plain"]))
        self._saved = self._distillation.step
        self._records, self._history = metadata["records"], metadata["history"]

    def _buffer_identity(self) -> str:
        """What all experts' bytes hash to."""
        files = (expert_path(self.buffer.folder, index) for index in self.buffer.experts)
        sums = "".join(open_arrow(path).metadata["checksum"] for path in files)
        return hashlib.sha256(sums.encode()).hexdigest()

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
        tensors, plain = flatten_tree(state)
        records = [record for record in self._records if record["step"] <= done]
        history = [entry for entry in self._history if entry["step"] <= done]
        metadata = {"plain": plain, "records": records, "history": history, "buffer": self._identity}
        save_tensors(self._checkpoint, tensors, metadata)
        lines = "".join(json.dumps(record, sort_keys=True) + "\n" for record in self._records)
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
        if self._history and best.exists():
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


def _first_difference(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str | None:
    for key, value in now.items():
        other = before.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if inner := _first_difference(other, value, f"{prefix}{key}."):
                return inner
        elif value != other:
            return f"{prefix}{key} was {other!r} and is {value!r}"
    return None
