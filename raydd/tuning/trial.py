"""One trial of a search: a distillation in its own run folder that yields a report at every score. Without Ray.

A trial's run folder also holds ``reports.json``: the reports so far, and the seconds that the steps took.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from raydd.buffer.arrow_buffer import refresh_manifest
from raydd.buffer.expert_file import expert_path
from raydd.config.schema import DistillConfig, ExpertsConfig
from raydd.data.run_progress import CHECKPOINT, is_unfinished
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, resolve_device, set_precision
from raydd.figures.synset_picture import grid, save_png
from raydd.io.document import Document, Finite, Whole, read_document, write_document
from raydd.io.memory import keep_memory
from raydd.io.uri import is_uri
from raydd.run.requirements import memory_use
from raydd.run.resolve import BufferRequest, RunContext, resolve
from raydd.run.rollout_worker import StartWorkers
from raydd.run.run import Run
from raydd.training.expert_worker import ExpertJob, ExpertTrainer, default_buffer, prepare
from raydd.tuning.space import Space

REPORTS = "reports.json"
LOG_REMEDY = "remove it: the trial continues from its checkpoint, and only its seconds are lost"
GOLDEN = (math.sqrt(5) - 1) / 2
Number = Finite | None


class SearchContext(NamedTuple):
    """What all trials of a search share."""

    space: Space
    buffer: Path | str | None  # experts of the space's own settings: a folder, or a URI that each node downloads
    folder: Path  # below which this process has the trials' runs
    device: str  # of the trials: the user's word, and in a worker the device that it has


class Report(NamedTuple):
    """What a trial reports at a score."""

    index: int  # type: ignore[assignment]  # from 1; hides the tuple's method of that name
    step: int
    accuracy: float  # the best so far on the validation split, in [0, 1]; the trial keeps the set with this score
    now: float  # accuracy of the current set
    loss: float  # of the last outer step; NaN where there was none
    seconds: float  # of the outer steps, each counted once however often the trial restarts; without scores
    memory_mb: float  # peak of tensors on the GPU; on the CPU the memory of the process


def trial_folder(out: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return out / "trials" / f"{number:04d}"


def run_trial(
    context: SearchContext,
    number: int,
    values: Mapping[str, Any],
    inherited: Path | None = None,
    saved: Callable[[], None] = lambda: None,
    start_workers: StartWorkers | None = None,
) -> Iterator[Report]:
    """Run a trial, or the rest of it, and yield a report at every score.

    Reports of before a restart are repeated unchanged; a finished trial does nothing else. The folder `inherited` has
    another trial's checkpoint, with which this trial starts unless it has its own. ``saved`` is called after each state
    that the trial writes between two reports; ``start_workers`` starts those that compute its rollouts.
    """
    keep_memory()
    if resolve_device(context.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    folder = trial_folder(context.folder, number)
    path = folder / "synset.arrow"
    if path.exists() and not is_unfinished(synset := SyntheticSet.load(path)):
        yield from ReportLog(folder, synset.history).reports
        return
    fresh = not (folder / "checkpoint" / "state.arrow").exists()
    run, source = Run(_resolve(context, number, values), start_workers), folder
    if inherited is not None and fresh:
        run.inherit(state_of(inherited))
        source = inherited if (inherited / REPORTS).exists() else inherited.parent
    log = ReportLog(folder, run.history, run.saved, source / REPORTS)
    log.write()
    yield from log.reports
    yield from _finish(run, log, saved)
    save_png(grid(SyntheticSet.load(folder / "synset.arrow")), folder / "synset.png")


def state_of(inherited: Path) -> Path:
    """Return the state in another trial's checkpoint; older versions wrote it without its folder."""
    state = inherited / CHECKPOINT
    return state if state.exists() else inherited / state.name


class _LogDocument(Document):
    """The schema of ``reports.json``; an unknown number of a report is null."""

    marks: tuple[tuple[Whole, Finite], ...] = ()
    reports: tuple[tuple[Whole, Whole, Number, Number, Number, Number, Number], ...] = ()


class ReportLog:
    """The reports of a trial and the time of its outer steps, up to the checkpoint of `step`, stored in its folder."""

    def __init__(
        self, folder: Path, history: Sequence[Mapping[str, Any]], step: int | None = None, path: Path | None = None
    ) -> None:
        self._file = folder / REPORTS
        path = path or self._file
        stored = read_document(path, _LogDocument, LOG_REMEDY) if path.exists() else _LogDocument()
        rows: list[list[Any]] = [[math.nan if value is None else value for value in row] for row in stored.reports]
        earlier = [Report(*row) for row in rows]
        marks = [(0, 0.0), *stored.marks, *((report.step, report.seconds) for report in earlier)]
        self.step, self.seconds = max(mark for mark in marks if step is None or mark[0] <= step)
        self.reports: list[Report] = []
        for index, entry in enumerate(history):
            report = self.add(entry, math.nan, self.seconds, math.nan)
            if index < len(earlier) and earlier[index][1:4] == report[1:4]:
                self.reports[index] = earlier[index]

    def add(self, entry: Mapping[str, Any], loss: float, seconds: float, memory_mb: float) -> Report:
        """Append and return the report of the next score."""
        best = max([entry["mean"], *(report.now for report in self.reports)])
        report = Report(len(self.reports) + 1, entry["step"], best, entry["mean"], loss, seconds, memory_mb)
        self.reports.append(report)
        return report

    def mark(self, step: int, seconds: float) -> None:
        """Record a checkpoint: its step, and the time of the outer steps up to it."""
        self.step, self.seconds = step, seconds
        self.write()

    def write(self) -> None:
        """Write the file."""
        rows = [[None if math.isnan(value) else value for value in report] for report in self.reports]
        write_document(self._file, {"marks": [[self.step, self.seconds]], "reports": rows})


def _finish(run: Run, log: ReportLog, saved: Callable[[], None]) -> Iterator[Report]:
    """Take the steps that are left and report the scores."""
    start = before = log.seconds
    for step in run.steps():
        now = start + run.seconds
        if run.saved > log.step:  # the checkpoint is of this step, or of the one before
            log.mark(run.saved, now if run.saved == step.step else before)
            saved()
        yield from _new_reports(run, log, step.loss, now)
        before = now
    yield from _new_reports(run, log, math.nan, before)


def progress_of(folder: Path) -> tuple[int, int, bool]:
    """Return how far a trial's folder is: the step of its checkpoint, its reports, and whether it has its result."""
    path = folder / REPORTS
    stored = read_document(path, _LogDocument, LOG_REMEDY) if path.exists() else _LogDocument()
    step = max((step for step, _ in stored.marks), default=0)
    return step, len(stored.reports), (folder / "synset.arrow").exists()


def _new_reports(run: Run, log: ReportLog, loss: float, seconds: float) -> Iterator[Report]:
    """Yield a report of each new score, after writing it to the log."""
    for entry in run.history[len(log.reports) :]:
        used = memory_use(run.context.work.device)
        report = log.add(entry, loss, seconds, used["device_mb"] or used["resident_mb"] or math.nan)
        log.write()
        yield report


def _resolve(context: SearchContext, number: int, values: Mapping[str, Any]) -> RunContext:
    """Return the context of the trial's run, which goes on from its checkpoint where there is one."""
    config, device = context.space.config(values), resolve_device(context.device)
    shared, limit = shares_experts(context, config), values.get("experts.num_experts")
    if shared and context.space.buffer is None:  # of the cache's buffer, whose copy may have more
        limit = limit or config.experts.num_experts
    named = shared and context.buffer is not None and Path(context.buffer).absolute() != _cached(config)
    request = BufferRequest(
        train=lambda config, work: _train_missing(number, config, work, device),
        named=context.buffer if named else None,  # the buffer that the user named
        limit=limit,
        # The driver verified a folder already; of a URI, this node has its own copy.
        verified=shared and not is_uri(context.buffer or ""),
    )
    run = resolve(config, trial_folder(context.folder, number), request, device, resume=True)
    if limit and run.buffer and len(run.buffer.experts) < limit:
        raise ValueError(
            f"experts.num_experts {limit}: {run.buffer.folder} has {len(run.buffer.experts)}; "
            "train more, or search fewer"
        )
    torch.set_num_threads(run.config.threads or 1)
    set_precision(run.config.precision)
    return run


def shares_experts(context: SearchContext, config: DistillConfig) -> bool:
    """Return whether a trial's experts are those of the space's own settings, in any number; those are verified."""
    return context.buffer is not None and _cached(config) == _cached(context.space.config({}))


def _cached(config: DistillConfig) -> Path:
    """Return the cache's folder of a run's experts, in any number."""
    return default_buffer(ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)).absolute()


def _train_missing(number: int, config: DistillConfig, work: Workspace, device: torch.device) -> Path:
    """Train what the cache's buffer lacks, in this process, and return its folder.

    Trials that need the same experts start at different ones, and skip those that another trial has finished.
    """
    folder, total = _cached(config), config.experts.num_experts
    if all(expert_path(folder, index).exists() for index in range(total)):
        return folder
    job, missing = prepare(ExpertJob(config.data, config.experts, config.seed, folder, device.type))
    first, trainer = int(total * (number * GOLDEN % 1)), ExpertTrainer(job)
    for index in sorted(missing, key=lambda index: (index - first) % total):
        trainer.train(index)
    refresh_manifest(folder)
    return folder
