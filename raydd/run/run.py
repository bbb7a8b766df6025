"""A distillation in a run folder: checked before it starts, saved as it goes, resumed where it stopped.

A run folder holds ``config.yaml``, ``metrics.jsonl``, ``memory.jsonl``, ``checkpoint/state.arrow`` and, at the
end, ``synset.arrow`` and ``synset.png``; with ``probe_every`` also ``probe.jsonl``, with ``keep_scored`` ``steps/``.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raydd.buffer.arrow_buffer import ArrowBuffer, expert_path
from raydd.config.parsing import dump, first_difference
from raydd.config.rules import check_scores
from raydd.config.schema import DistillConfig
from raydd.data.progress import CHECKPOINT
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace
from raydd.distillation.checkpoint import Checkpoint, MemoryDocument, check_state, load_checkpoint, save_checkpoint
from raydd.distillation.loop import Distillation, Step
from raydd.distillation.probe import Probe, label_spread, memory
from raydd.distillation.recipe import Recipe, Setup
from raydd.evaluation.protocols import PROTOCOLS
from raydd.evaluation.student import evaluate
from raydd.io.document import read_log, sealed_text, write_log
from raydd.io.files import open_arrow, sweep, write_atomic
from raydd.io.tensor_file import flatten_tree
from raydd.methods import METHODS, complete
from raydd.run.claim import claim
from raydd.run.experts import without_last
from raydd.run.kept_steps import drop_kept, kept_path
from raydd.run.outcome import described, save_result
from raydd.run.resolve import check_learned, check_start, read_config
from raydd.run.rollout_worker import Spread, rolls_of


@dataclass
class Log:
    """What a run tells of its steps; kept in the checkpoint, so that a resumed run goes on with it.

    Attributes:
        records: A line a step: metrics.jsonl.
        history: Scores on the validation split.
        probes: Measures on the expert that takes no part: probe.jsonl.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Run:
    """One distillation and its folder.

    Args:
        config: What to run; a resumed run must be given the same.
        folder: The run folder.
        buffer: The experts; None where the settings need none.
        work: Data set, preprocessing, network, device.
        resume: Go on from the folder's checkpoint, where there is one.
        spread: Has others make the rollouts of a step; None makes them here.

    Attributes:
        seconds: Spent in outer steps by this process; scores and checkpoints are not counted.
        saved: The outer step of the last checkpoint.

    Raises:
        ValueError: The folder holds a run already and ``resume`` is False, or its configuration differs.
    """

    config: DistillConfig
    folder: Path
    buffer: ArrowBuffer | None
    work: Workspace
    resume: bool = False
    spread: Spread | None = None

    def __post_init__(self) -> None:
        data = self.config.data.model_copy(update={"flip": self.work.dataset.flip})
        self.config = complete(self.config).model_copy(update={"data": data})
        check_start(self.config, self.buffer.epochs if self.buffer else self.config.experts.epochs)
        check_scores(self.config, len(self.work.dataset.validation))
        self._claim_folder()
        probed = self.buffer and self.config.probe_every is not None
        source = without_last(self.buffer) if self.buffer and probed else self.buffer
        setup = Setup(self.config, self.work, source)
        recipe = METHODS[self.config.method](setup)
        self._finish_set, self._probe = recipe.finish, self._make_probe(recipe)
        self._distillation = Distillation(
            recipe.objective,
            recipe.synset,
            recipe.learn,
            self.config.seed,
            gate=recipe.gate,
            ema=recipe.ema,
            keep_every=self.config.checkpoint_every,
        )
        self._rolls = rolls_of(setup, recipe, self.spread)
        self.seconds, self.saved, self._saved_at = 0.0, 0, time.monotonic()
        self._identity, self._log = self._buffer_identity(), Log()
        for folder in (self.folder, self.folder / "steps"):
            sweep(folder)
        if self.resume and self._checkpoint.exists():
            self._restore()
        if not self.resume or read_config(self.folder) != self.config:
            write_atomic(self.folder / "config.yaml", sealed_text(dump(self.config)).encode())
        drop_kept(self.folder, self._distillation.step)  # of steps that are taken again

    def _make_probe(self, recipe: Recipe) -> Probe | None:
        if self.config.probe_every is None:
            return None
        if recipe.probe is None or self.buffer is None:
            raise ValueError(
                f"probe_every = {self.config.probe_every}: method {self.config.method} matches no trajectories; drop it"
            )
        return recipe.probe(self.buffer.experts[-1])

    @property
    def history(self) -> tuple[dict[str, Any], ...]:
        """Scores on the validation split so far, oldest first: ``step, split, networks, mean``."""
        return tuple(self._log.history)

    @property
    def synset(self) -> SyntheticSet:
        """The set as it stands, a copy; labels that experts give at the end are not there yet."""
        return self._distillation.result

    @property
    def _checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def _claim_folder(self) -> None:
        claim(self.folder, self.resume)
        before = read_config(self.folder)
        if before and (different := first_difference(_bound(before), _bound(self.config))):
            raise ValueError(
                f"{self.folder} was started with other settings: {different}; repeat them, or another --out"
            )

    def _restore(self) -> None:
        found = load_checkpoint(self._checkpoint)
        if found.buffer != self._identity:
            named = "none" if self.buffer is None else self.buffer.folder
            raise ValueError(f"{self.folder} was started with other experts than {named}; name its --buffer")
        if (step := found.state["step"]) > self.config.steps:
            raise ValueError(
                f"{self.folder} is at step {step} already, and steps = {self.config.steps} asks for fewer: use --set "
                f"steps={step} to end there, or more"
            )
        self._load(self._checkpoint, found)

    def _load(self, path: Path, found: Checkpoint) -> None:
        own = self._distillation.state_dict()
        for state in filter(None, (found.state, found.state.get("kept"))):
            check_state(path, state, own)
        self._distillation.load_state_dict(found.state)
        self.saved = self._distillation.step
        self._log = Log(**found.log)

    def inherit(self, checkpoint: Path) -> None:
        """Go on from another run's set, momenta, step and scores, though its settings differ; see `check_learned`.

        Args:
            checkpoint: The other run's ``state.arrow``. All of it is at once this run's own checkpoint.
        """
        found = load_checkpoint(checkpoint)
        own, _ = flatten_tree(self._distillation.state_dict())
        if best := check_learned(checkpoint, found.tensors, own, found.log["history"]):
            write_atomic(self.folder / "best.arrow", best.read_bytes())
        self._load(checkpoint, found)
        drop_kept(self.folder, -1)  # they are of what was learned here before
        self._save(self._distillation.state_dict())

    def _buffer_identity(self) -> str:
        """What all experts' bytes hash to; nothing where there are none."""
        if self.buffer is None:
            return ""
        files = (expert_path(self.buffer.folder, index) for index in self.buffer.experts)
        sums = "".join(open_arrow(path).metadata["checksum"] for path in files)
        return hashlib.sha256(sums.encode()).hexdigest()

    def steps(self) -> Iterator[Step]:
        """Take the outer steps that are left, yielding each; then write the result.

        A checkpoint is written every ``checkpoint_every`` steps, at states that a rollback would
        return to, so that a killed run goes on to the same bits; at such a step it holds the score too. Another one is
        written when the last is older than ``checkpoint_seconds``. One that is written at once, at a score, by time and
        at the end, also holds the state that a rollback would return to.
        """
        self._look(self._distillation.step)
        for step in self._timed(self._distillation.run(self.config.steps, self._rolls)):
            if self._distillation.kept["step"] > self.saved:
                self._save(self._distillation.kept)  # the log is of the steps up to there, rollbacks included
            self._log.records.append(_record(step))
            if step.rolled_back_to is not None:  # what was measured since is of sets that are no more
                self._log.probes = [entry for entry in self._log.probes if entry["step"] <= self._distillation.step]
                drop_kept(self.folder, self._distillation.step)
            else:
                self._look(step.step)
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
        """Score a due step and the last; where a checkpoint is due too it is written at once, so that none is lost."""
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

    def _look(self, step: int) -> None:
        """Measure the matching loss on the expert that takes no part, once at each due step."""
        if (
            self._probe
            and _due(step, self.config.probe_every)
            and step not in {entry["step"] for entry in self._log.probes}
        ):
            result = self._distillation.result
            losses, spread = self._probe.losses(result), label_spread(self._finish_set(result))
            self._log.probes.append({"step": step, "losses": losses, "label_std": spread})

    def _save(self, state: dict[str, Any]) -> None:
        save_checkpoint(self._checkpoint, Checkpoint(state, self._identity, vars(self._log)))
        write_log(self.folder / "metrics.jsonl", self._log.records)
        if self.config.probe_every is not None:
            write_log(self.folder / "probe.jsonl", self._log.probes)
        self._note_memory(state["step"])
        self.saved, self._saved_at = state["step"], time.monotonic()

    def _note_memory(self, step: int) -> None:
        path = self.folder / "memory.jsonl"
        before = read_log(path, MemoryDocument, "remove it: the run goes on without it") if path.exists() else []
        lines = [entry for entry in before if entry["step"] < step]
        write_log(path, [*lines, {"step": step, **memory(self.work.device)}])

    def _score(self, step: int) -> None:
        """Accuracy on the validation split of the set as it stands; the best set so far is kept."""
        work, synset = self.work, self._finish_set(self._distillation.result)
        feed = work.feed(work.dataset.validation)
        protocol = PROTOCOLS["mtt"].lasting(self.config.evaluate_epochs)
        seeds = range(self.config.evaluate_networks)
        scores = [evaluate(synset, work.build, feed, protocol, work.augment, seed) for seed in seeds]
        mean = sum(scores) / len(scores)
        best = max((entry["mean"] for entry in self._log.history), default=-1.0)
        self._log.history.append({"step": step, "split": "validation", "networks": len(scores), "mean": mean})
        if mean > best:
            self._described(synset, "best outer step on the validation split").save(self.folder / "best.arrow")
        if self.config.keep_scored:
            self._described(synset, f"outer step {step}").save(kept_path(self.folder, step))

    def _described(self, synset: SyntheticSet, chosen: str) -> SyntheticSet:
        return described(synset, self.config, self.work, self.history, chosen)

    def finish(self) -> None:
        """Write the set as it stands as the result; see `save_result`. The checkpoint stays as it is."""
        last = self._described(self._finish_set(self._distillation.result), "last outer step")
        save_result(self.folder, last, self._distillation.step, self.config.steps)


def _bound(config: DistillConfig) -> dict[str, Any]:
    """The settings that a resumed run must have again: all but those on which no bit of a step depends."""
    return config.model_dump(exclude={"steps", "checkpoint_seconds"})


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _record(step: Step) -> dict[str, Any]:
    record: dict[str, Any] = {"step": step.step, "loss": step.loss, "lr": step.lr, "stepped": step.stepped}
    if step.rolled_back_to is not None:
        record |= {"loss": str(step.loss), "rolled_back_to": step.rolled_back_to}
    return record
