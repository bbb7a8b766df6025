"""One trial of a search: a distillation in a run folder of its own, told of by its scores. Knows nothing of Ray.

A trial's folder is a run folder that also holds ``reports.json``: what the trial has told, and what its steps took.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from raydd.buffer.arrow_buffer import refresh_manifest
from raydd.buffer.expert_file import expert_path
from raydd.buffer.mirror import local_folder
from raydd.config.schema import DistillConfig, ExpertsConfig
from raydd.data.progress import is_unfinished
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace, resolve_device
from raydd.distillation.probe import memory
from raydd.figures.synset_picture import grid, save_png
from raydd.io.document import Document, Finite, Whole, read_document, write_document
from raydd.io.filesystem import is_uri
from raydd.io.memory import keep_memory
from raydd.methods import complete
from raydd.run.experts import open_buffer, settle
from raydd.run.families import needs_experts
from raydd.run.resolve import as_before, check, read_config
from raydd.run.run import Run
from raydd.training.expert_worker import Job, Trainer, default_buffer, prepare
from raydd.tuning.space import Space

REPORTS = "reports.json"
GOLDEN = (math.sqrt(5) - 1) / 2
Number = Finite | None


class Task(NamedTuple):
    """What all trials of a search share.

    Attributes:
        space: The search space.
        buffer: The experts of the space's own settings, a folder or an URI that each node fetches for itself; None
            where these need none.
        folder: Of the search; a trial's is below it.
        device: auto, cpu or cuda.
    """

    space: Space
    buffer: Path | str | None
    folder: Path
    device: str


class Report(NamedTuple):
    """What a trial tells at a score.

    Attributes:
        index: Which score it is, from 1.
        step: Outer steps done.
        accuracy: The best so far on the validation split, a fraction; that set is what the trial keeps.
        now: That of the set as it stands.
        loss: Of the last outer step; NaN where there was none.
        seconds: Spent in outer steps up to here, over all restarts; a step that a restart repeats counts once, and
            scores and checkpoints do not count.
        memory_mb: The most that tensors took on the GPU so far; on the CPU what the process holds.
    """

    index: int  # type: ignore[assignment]  # hides the tuple's method of that name, which none needs
    step: int
    accuracy: float
    now: float
    loss: float
    seconds: float
    memory_mb: float


def trial_folder(out: Path, number: int) -> Path:
    """The run folder of a trial."""
    return out / "trials" / f"{number:04d}"


def run_trial(task: Task, number: int, values: Mapping[str, Any], inherited: Path | None = None) -> Iterator[Report]:
    """Run a trial, or what is left of it, yielding a report at every score.

    What was told before a restart is told again, the same; a finished trial does nothing else.

    Args:
        task: What all trials share.
        number: The trial's place in the search.
        values: The settings that are searched, by dotted name.
        inherited: The ``checkpoint`` folder of another trial, to go on from where this one has no checkpoint yet.

    Raises:
        ValueError: The settings cannot be run, an expert diverged, or the folder holds other settings.
        FloatingPointError: The loss stays infinite or NaN; the checkpoint is kept.
    """
    keep_memory()
    if resolve_device(task.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    folder = trial_folder(task.folder, number)
    path = folder / "synset.arrow"
    if path.exists() and not is_unfinished(synset := SyntheticSet.load(path)):
        yield from Book(folder, synset.history).reports
        return
    fresh = not (folder / "checkpoint" / "state.arrow").exists()
    run, before = _open(task, number, values), folder
    if inherited is not None and fresh:
        run.inherit(inherited / "state.arrow")
        before = inherited if (inherited / REPORTS).exists() else inherited.parent
    book = Book(before, run.history, run.saved)
    book.folder = folder
    book.write()
    yield from book.reports
    yield from _go_on(run, book)
    save_png(grid(SyntheticSet.load(folder / "synset.arrow")), folder / "synset.png")


class _BookDocument(Document):
    """``reports.json``; a number of a report that is not known is null."""

    marks: tuple[tuple[Whole, Finite], ...] = ()
    reports: tuple[tuple[Whole, Whole, Number, Number, Number, Number, Number], ...] = ()


class Book:
    """What a trial has told, and the seconds that its outer steps took; kept in a file of its folder.

    Args:
        folder: Where the file is, if there is one yet.
        history: The trial's scores.
        step: The outer step of its checkpoint; None where it is finished.

    Attributes:
        folder: Where the file is written.
        reports: One a score.
        step: The outer step of the last checkpoint that the file knows.
        seconds: Of outer steps up to there.
    """

    def __init__(self, folder: Path, history: Sequence[Mapping[str, Any]], step: int | None = None) -> None:
        self.folder, path = folder, folder / REPORTS
        remedy = "remove it: a trial goes on from its checkpoint, and only its seconds are lost"
        stored = read_document(path, _BookDocument, remedy) if path.exists() else _BookDocument()
        rows: list[list[Any]] = [[math.nan if value is None else value for value in row] for row in stored.reports]
        told = [Report(*row) for row in rows]
        marks = [(0, 0.0), *stored.marks, *((report.step, report.seconds) for report in told)]
        self.step, self.seconds = max(mark for mark in marks if step is None or mark[0] <= step)
        self.reports: list[Report] = []
        for index, entry in enumerate(history):
            report = self.add(entry, math.nan, self.seconds, math.nan)
            if index < len(told) and told[index][1:4] == report[1:4]:
                self.reports[index] = told[index]

    def add(self, entry: Mapping[str, Any], loss: float, seconds: float, memory_mb: float) -> Report:
        """The report of the next score."""
        best = max([entry["mean"], *(report.now for report in self.reports)])
        report = Report(len(self.reports) + 1, entry["step"], best, entry["mean"], loss, seconds, memory_mb)
        self.reports.append(report)
        return report

    def mark(self, step: int, seconds: float) -> None:
        """A checkpoint was written of this step, after so many seconds of outer steps."""
        self.step, self.seconds = step, seconds
        self.write()

    def write(self) -> None:
        """Put all of it into the file."""
        rows = [[None if math.isnan(value) else value for value in report] for report in self.reports]
        write_document(self.folder / REPORTS, {"marks": [[self.step, self.seconds]], "reports": rows})


def _go_on(run: Run, book: Book) -> Iterator[Report]:
    """Take the steps that are left, and tell of the scores."""
    start = before = book.seconds
    for step in run.steps():
        now = start + run.seconds
        if run.saved > book.step:  # a checkpoint is of this step, or of the one before
            book.mark(run.saved, now if run.saved == step.step else before)
        yield from _told(run, book, step.loss, now)
        before = now
    yield from _told(run, book, math.nan, before)


def _told(run: Run, book: Book, loss: float, seconds: float) -> Iterator[Report]:
    """Reports of the scores that the book does not have yet, each in its file first."""
    for entry in run.history[len(book.reports) :]:
        found = memory(run.work.device)
        report = book.add(entry, loss, seconds, found["device_mb"] or found["resident_mb"] or math.nan)
        book.write()
        yield report


def _open(task: Task, number: int, values: Mapping[str, Any]) -> Run:
    """The trial's run, at its checkpoint where there is one."""
    config, device = complete(task.space.config(values)), resolve_device(task.device)
    folder = trial_folder(task.folder, number)
    config = as_before(config, read_config(folder))
    buffer = _experts(task, number, config)
    if buffer is None:
        experts, work = None, open_workspace(config.data, config.experts.network, device)
    else:
        own = task.space.buffer is not None and "experts.num_experts" not in values
        most = None if own else config.experts.num_experts  # of a buffer that was named all count, as in a distillation
        verified = shares(task, config) and not is_uri(task.buffer or "")  # of an URI another node's copy was compared
        experts, work = open_buffer(buffer, config, device, most, verified=verified)
        if "experts.num_experts" in values and most and len(experts.experts) < most:
            raise ValueError(
                f"experts.num_experts {most}: {buffer} has {len(experts.experts)}; train more, or search fewer"
            )
    config = settle(config, experts, folder)
    check(config, work)
    torch.set_num_threads(config.threads or 1)
    return Run(config, folder, experts, work, resume=True)


def _experts(task: Task, number: int, config: DistillConfig) -> Path | None:
    """The buffer that a trial reads: the search's, or that of its own settings in the cache; None if it needs none."""
    folder = _cached(config)
    if task.buffer is not None and Path(task.buffer).absolute() != folder and shares(task, config):
        return local_folder(task.buffer)  # the user's own
    if not needs_experts(config):
        return None
    _train_missing(folder, number, config, resolve_device(task.device))
    return folder


def shares(task: Task, config: DistillConfig) -> bool:
    """Whether a trial's experts are those of the space's own settings, however many: then they have been checked."""
    return task.buffer is not None and _cached(config) == _cached(task.space.config({}))


def _cached(config: DistillConfig) -> Path:
    """Where the cache keeps a run's experts, however many."""
    return default_buffer(ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)).absolute()


def _train_missing(folder: Path, number: int, config: DistillConfig, device: torch.device) -> None:
    """Train what the cache's buffer lacks, in this process.

    Trials that need the same experts begin far from one another, and leave out what another has finished meanwhile.
    """
    total = config.experts.num_experts
    if all(expert_path(folder, index).exists() for index in range(total)):
        return
    plain = config.data.model_copy(update={"preprocessing": "raw01"})  # checks need no fitted preprocessing
    check(config, open_workspace(plain, config.experts.network, device))
    job, missing = prepare(Job(config.data, config.experts, config.seed, folder, device.type))
    first, trainer = int(total * (number * GOLDEN % 1)), Trainer(job)
    for index in sorted(missing, key=lambda index: (index - first) % total):
        trainer.train(index)
    refresh_manifest(folder)
