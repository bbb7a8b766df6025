"""A distillation in a run folder: saved as it goes, resumed where it stopped.

A run folder holds ``config.yaml``, ``metrics.jsonl``, ``memory.jsonl``, ``checkpoint/state.arrow`` and, at the
end, ``synset.arrow`` and ``synset.png``; with ``probe_every`` also ``probe.jsonl``, with ``keep_scored`` ``steps/``.
"""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from raydd.buffer.expert_file import expert_path
from raydd.config.parsing import dump
from raydd.data.run_progress import CHECKPOINT
from raydd.data.synset import SyntheticSet
from raydd.distillation.checkpoint import Checkpoint, MemoryDocument, check_state, load_checkpoint, save_checkpoint
from raydd.distillation.held_out import Probe, label_spread
from raydd.distillation.loop import Distillation, Step
from raydd.distillation.setup import Recipe, Setup
from raydd.evaluation.protocols import PROTOCOLS
from raydd.evaluation.student import evaluate
from raydd.io.arrow_file import open_arrow
from raydd.io.document import add_text_checksum, read_log, write_log
from raydd.io.files import sweep, write_atomic
from raydd.io.tensor_file import flatten_tree
from raydd.methods import find_method
from raydd.run.experts import without_last
from raydd.run.requirements import memory_use
from raydd.run.resolve import RunContext
from raydd.run.rollout_worker import StartWorkers, matches_of
from raydd.run.run_folder import drop_scored_sets, save_result, scored_set_path, with_provenance

_LEARNED = re.compile(r"leaves/|mean$")


@dataclass
class Log:
    """The lines of a run's logs, which its checkpoint holds too."""

    records: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)


class Run:
    """One distillation and its folder."""

    def __init__(self, context: RunContext, start_workers: StartWorkers | None = None) -> None:
        self.context, self.config, self._folder = context, context.config, context.folder
        config, source = context.config, context.buffer
        if source and config.probe_every is not None:
            source = without_last(source)
        setup = Setup(config, context.work, source)
        recipe = find_method(config.method)(setup)
        self._finish_set, self._probe = recipe.finish, self._make_probe(recipe)
        options: dict[str, Any] = {"gate": recipe.gate, "ema": recipe.ema, "keep_every": config.checkpoint_every}
        self._distillation = Distillation(recipe.objective, recipe.synset, recipe.learn, config.seed, **options)
        self._matches = matches_of(setup, recipe, start_workers)
        self.seconds, self.saved, self._saved_at = 0.0, 0, time.monotonic()
        self._earlier: float | None = None  # seconds of the steps that earlier processes took
        self._identity, self._log = self._buffer_identity(), Log()
        for folder in (self._folder, self._folder / "steps"):
            sweep(folder)
        if context.before is not None and self._checkpoint.exists():
            self._restore()
        if context.before != config:
            write_atomic(self._folder / "config.yaml", add_text_checksum(dump(config)).encode())
        drop_scored_sets(self._folder, self._distillation.step)  # of steps that are taken again

    def _make_probe(self, recipe: Recipe) -> Probe | None:
        every, buffer = self.config.probe_every, self.context.buffer
        if every is None:
            return None
        if recipe.probe is None or buffer is None:
            raise ValueError(f"probe_every = {every}: method {self.config.method} matches no trajectories; drop it")
        return recipe.probe(buffer.experts[-1])

    @property
    def history(self) -> tuple[dict[str, Any], ...]:
        """Scores on the validation split so far, oldest first: ``step, split, networks, mean``."""
        return tuple(self._log.history)

    @property
    def synset(self) -> SyntheticSet:
        """A copy of the current set, before experts label it at the end."""
        return self._distillation.result

    @property
    def _checkpoint(self) -> Path:
        return self._folder / CHECKPOINT

    def _restore(self) -> None:
        stored = load_checkpoint(self._checkpoint)
        if stored.buffer != self._identity:
            named = "none" if self.context.buffer is None else self.context.buffer.folder
            raise ValueError(f"{self._folder} was started with other experts than {named}; name its --buffer")
        if (step := stored.state["step"]) > self.config.steps:
            raise ValueError(
                f"{self._folder} is at step {step} already, and steps = {self.config.steps} asks for fewer: use --set "
                f"steps={step} to end there, or more"
            )
        self._load(self._checkpoint, stored)

    def _load(self, path: Path, stored: Checkpoint) -> None:
        own = self._distillation.state_dict()
        for state in filter(None, (stored.state, stored.state.get("kept"))):
            check_state(path, state, own)
        self._distillation.load_state_dict(stored.state)
        self.saved = self._distillation.step
        self._log = Log(**stored.log)

    def inherit(self, checkpoint: Path) -> None:
        """Go on from another run's set, momenta, step and scores, though its settings differ; see `inherited_best`."""
        stored = load_checkpoint(checkpoint)
        own, _ = flatten_tree(self._distillation.state_dict())
        if best := inherited_best(checkpoint, stored, own):
            write_atomic(self._folder / "best.arrow", best.read_bytes())
        self._load(checkpoint, stored)
        drop_scored_sets(self._folder, -1)  # they are of what was learned here before
        self._save(self._distillation.state_dict())

    def _buffer_identity(self) -> str:
        """The hash of all experts' bytes; empty without experts."""
        if self.context.buffer is None:
            return ""
        files = (expert_path(self.context.buffer.folder, index) for index in self.context.buffer.experts)
        sums = "".join(open_arrow(path).metadata["checksum"] for path in files)
        return hashlib.sha256(sums.encode()).hexdigest()

    def steps(self) -> Iterator[Step]:
        """Take the outer steps that are left, yielding each; then write the result.

        A checkpoint is written every ``checkpoint_every`` steps, of the state that a rollback would return to, so that
        a killed run goes on to the same bits; where a score is due at that step, the checkpoint holds it. Another one
        is written when the last is older than ``checkpoint_seconds``. Checkpoints of the current state (at a score, by
        time and at the end) also hold the state that a rollback would return to.
        """
        self._measure(self._distillation.step)
        for step in self._timed(self._distillation.run(self.config.steps, self._matches)):
            if self._distillation.rollback_state["step"] > self.saved:
                self._save(self._distillation.rollback_state)  # the log is of the steps up to there, rollbacks included
            record: dict[str, Any] = {"step": step.step, "loss": step.loss, "lr": step.lr, "stepped": step.stepped}
            self._log.records.append(record)
            if step.rolled_back_to is not None:  # later measures are of sets that no longer exist
                record |= {"loss": str(step.loss), "rolled_back_to": step.rolled_back_to}
                self._log.probes = [entry for entry in self._log.probes if entry["step"] <= self._distillation.step]
                drop_scored_sets(self._folder, self._distillation.step)
            else:
                self._measure(step.step)
                self._score_if_due(step.step)
                self._save_if_old(step.step)
            yield step
        last = self._distillation.step
        if self.config.evaluate_every is not None and [entry["step"] for entry in self.history[-1:]] != [last]:
            self._score(last)  # there was no step to take
        self._save(self._distillation.state_dict())
        self.finish()

    def _timed(self, steps: Iterator[Step]) -> Iterator[Step]:
        start = time.perf_counter()
        for step in steps:
            self.seconds += time.perf_counter() - start
            yield step
            start = time.perf_counter()

    def _score_if_due(self, step: int) -> None:
        """Score a due step and the last; where a checkpoint is due too, write it at once, so that no score is lost."""
        every = self.config.evaluate_every
        if _due(step, every) or (every is not None and step == self.config.steps):
            self._score(step)
            if _due(step, self.config.checkpoint_every):
                self._save(self._distillation.state_dict())

    def _save_if_old(self, step: int) -> None:
        """Lose no more than ``checkpoint_seconds`` of work to a kill, however long a step takes."""
        seconds = self.config.checkpoint_seconds
        if seconds is not None and self.saved != step and time.monotonic() - self._saved_at >= seconds:
            self._save(self._distillation.state_dict())

    def _measure(self, step: int) -> None:
        """Measure the matching loss on the held-out expert, once at each due step."""
        measured = {entry["step"] for entry in self._log.probes}
        if self._probe and _due(step, self.config.probe_every) and step not in measured:
            result = self._distillation.result
            losses, spread = self._probe.losses(result), label_spread(self._finish_set(result))
            self._log.probes.append({"step": step, "losses": losses, "label_std": spread})

    def _save(self, state: dict[str, Any]) -> None:
        save_checkpoint(self._checkpoint, Checkpoint(state, self._identity, vars(self._log)))
        write_log(self._folder / "metrics.jsonl", self._log.records)
        if self.config.probe_every is not None:
            write_log(self._folder / "probe.jsonl", self._log.probes)
        path = self._folder / "memory.jsonl"
        before = read_log(path, MemoryDocument, "remove it: the run goes on without it") if path.exists() else []
        lines = [entry for entry in before if entry["step"] < state["step"]]
        if self._earlier is None:
            self._earlier = float(lines[-1].get("seconds") or 0.0) if lines else 0.0
        took = round(self._earlier + self.seconds, 3)
        write_log(path, [*lines, {"step": state["step"], **memory_use(self.context.work.device), "seconds": took}])
        self.saved, self._saved_at = state["step"], time.monotonic()

    def _score(self, step: int) -> None:
        """Score the current set on the validation split; save it where it is the best so far."""
        work, synset = self.context.work, self._finish_set(self._distillation.result)
        feed = work.feed(work.dataset.validation)
        protocol = PROTOCOLS["mtt"].changed(self.config.evaluate_epochs)
        seeds = range(self.config.evaluate_networks)
        scores = [evaluate(synset, work.build, feed, protocol, work.augment, seed) for seed in seeds]
        mean = sum(scores) / len(scores)
        best = max((entry["mean"] for entry in self._log.history), default=-1.0)
        self._log.history.append({"step": step, "split": "validation", "networks": len(scores), "mean": mean})
        if mean > best:
            self._with_provenance(synset, "best outer step on the validation split").save(self._folder / "best.arrow")
        if self.config.keep_scored:
            self._with_provenance(synset, f"outer step {step}").save(scored_set_path(self._folder, step))

    def _with_provenance(self, synset: SyntheticSet, chosen: str) -> SyntheticSet:
        return with_provenance(synset, self.config, self.context.work, self.history, chosen)

    def finish(self) -> None:
        """Write the current set as the result, see `save_result`; the checkpoint stays as it is."""
        last = self._with_provenance(self._finish_set(self._distillation.result), "last outer step")
        save_result(self._folder, last, self._distillation.step, self.config.steps)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def inherited_best(checkpoint: Path, stored: Checkpoint, own: Mapping[str, Tensor]) -> Path | None:
    """Return the file of another run's best set, or None without scores; refuse a state that does not fit."""
    there, here = (_learned(tensors) for tensors in (stored.tensors, own))
    if there != here:
        raise ValueError(
            f"{checkpoint} learned {there}, and this run learns {here}; take one of the same ipc and parts"
        )
    history: Sequence[Mapping[str, Any]] = stored.log["history"]
    if not history:
        return None
    first = max(history, key=lambda entry: entry["mean"])
    for path in (folder / "best.arrow" for folder in checkpoint.parents[:2]):
        if path.exists() and first in SyntheticSet.load(path).history[-1:]:
            return path
    raise ValueError(f"{checkpoint} lies without the best.arrow of its scores; copy both right after a score")


def _learned(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of the learned parts of a state."""
    return {
        name.removeprefix("leaves/"): tuple(tensors[name].shape) for name in sorted(tensors) if _LEARNED.match(name)
    }
