"""A matrix of trainings on one Ray Train worker group, balanced as its workers get done."""

import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import ray
import ray.train
import torch
from ray.exceptions import RayError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raydd.evaluation.matrix import Job, Matrix, Outcome, Scorer
from raydd.evaluation.set_cache import Shelf, shelve
from raydd.evaluation.successive_halving import Halving, Rungs
from raydd.io.signals import terminated
from raydd.remote.session import plan, resources

POLL_SECONDS = 0.2
Keep = Callable[[Job, Outcome], None]


class Progress(NamedTuple):
    """Trainings done, of how many, and the seconds since the group was started."""

    done: int
    total: int
    seconds: float
    note: str = ""


class Board:
    """The jobs that are left, those in hand, and the results; knows nothing of Ray.

    A worker that asks again has lost what it had in hand: those jobs are done anew, so that no job is
    lost when a group is started again while workers of the last one still answer.

    Args:
        jobs: What shall be done, in the order in which it is handed out.
        rungs: Where trainings are compared, of one entry and seed each with each; None compares none.

    >>> board = Board([Job(0, "MLP", 0)])
    >>> board.take("rank 0"), board.take("rank 1"), board.take("rank 0")
    (Job(entry=0, network='MLP', seed=0), None, Job(entry=0, network='MLP', seed=0))
    """

    def __init__(self, jobs: list[Job], rungs: Rungs | None = None) -> None:
        self._left = deque(jobs)
        self._in_hand: dict[str, list[Job]] = {}
        self._results: dict[Job, Outcome] = {}
        self._failure = ""
        self._halving = Halving(rungs.reduction) if rungs else None

    def take(self, worker: str) -> Job | None:
        """The next job for a worker, or None when none is left."""
        lost = [job for job in self._in_hand.pop(worker, []) if job not in self._results]
        self._left.extendleft(lost)
        if self._failure or not self._left:
            return None
        job = self._left.popleft()
        self._in_hand[worker] = [job]
        return job

    def goes_on(self, job: Job, epoch: int, value: float) -> bool:
        """Whether a training goes on from a rung, by its accuracy there."""
        entry, network, seed = job
        return self._halving is None or self._halving.goes_on((entry, seed), epoch, network, value)

    def put(self, worker: str, job: Job, outcome: Outcome) -> None:
        """Take a worker's result."""
        self._results[Job(*job)] = outcome
        self._in_hand[worker] = [other for other in self._in_hand.get(worker, []) if other != Job(*job)]

    def fail(self, reason: str) -> None:
        """What would happen again has happened, such as a training that raised: nothing more is handed out."""
        self._failure = self._failure or reason

    def failure(self) -> str:
        """What failed first and why; empty while nothing did."""
        return self._failure

    def results(self, skip: int = 0) -> list[tuple[Job, Outcome]]:
        """The results so far, in the order in which they came, without the first ones."""
        return list(islice(self._results.items(), skip, None))


def _work(config: dict[str, Any]) -> None:
    """One worker of the group: jobs from the board until none is left."""
    torch.set_num_threads(1)
    context = ray.train.get_context()
    board, worker = config["board"], f"rank {context.get_world_rank()}"
    matrix, places = ray.get(config["matrix"])
    scorer = Scorer(matrix, Shelf(places, ray.get))
    while (job := ray.get(board.take.remote(worker))) is not None:

        def goes_on(epoch: int, value: float, job: Job = job) -> bool:
            return bool(ray.get(board.goes_on.remote(job, epoch, value)))

        try:
            outcome = scorer.score(Job(*job), goes_on)
        except (ValueError, RuntimeError, OSError) as error:
            row, (network, seed) = matrix.entries[job[0]].name, job[1:]
            ray.get(board.fail.remote(f"{row}, on {network}, seed {seed}: {' '.join(str(error).split())}"))
            break
        ray.get(board.put.remote(worker, job, outcome))
    ray.train.report({"done": 1})


def run_matrix(
    matrix: Matrix,
    num_workers: int | None,
    show: Callable[[Progress], None],
    known: Mapping[Job, Outcome] | None = None,
    keep: Keep | None = None,
) -> dict[Job, Outcome]:
    """Do every job of a matrix on the connected Ray.

    The group is started once, whatever the number of jobs. When a worker dies, Train starts the group
    anew; results that are in stay, and only the jobs that were in hand are done again.

    Args:
        matrix: The trainings.
        num_workers: Workers asked for; None takes one a CPU.
        show: Called with the progress, a few times a second.
        known: Results there are already; these jobs are not done.
        keep: Called here with every other result, as soon as it is seen.

    Returns:
        A result a job; its accuracy is the same whatever the number of workers.

    Raises:
        RuntimeError: If a training failed again and again, or a result could not be kept.
    """
    known = known or {}
    jobs = [job for job in matrix.jobs() if job not in known]
    if not jobs:
        return dict(known)
    cpus, gpus = resources()
    layout = plan(num_workers, len(jobs), cpus, gpus if matrix.device == "cuda" else 0)
    board = ray.remote(Board).options(num_cpus=0).remote(jobs, matrix.rungs)
    for job, outcome in known.items():
        for epoch, value in outcome.curve:
            board.goes_on.remote(job, epoch, value)
    watcher = _Watcher(board, len(jobs), layout.note, show, keep or (lambda job, outcome: None))
    try:
        with tempfile.TemporaryDirectory(prefix="raydd-evaluate-") as folder, _interrupts():
            _trainer(layout.workers, layout.gpus, folder, board, ray.put(shelve(matrix, jobs, ray.put))).fit()
        failure = ray.get(board.failure.remote())
    except ray.train.TrainingFailedError as error:
        reason = " ".join(str(error.__cause__ or error).split())[-300:]
        raise RuntimeError(f"evaluation failed: {reason}") from error
    finally:
        results = watcher.stop()
        ray.kill(board)
    if failure := watcher.fault or failure:
        raise RuntimeError(f"evaluation failed: {failure}; the other finished trainings are kept")
    if len(results) != len(jobs):
        raise RuntimeError(f"evaluation ended with {len(results)} of {len(jobs)} results; run it again")
    return {**known, **results}


@contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C is KeyboardInterrupt inside too, and as before outside: Train installs a handler that exits with 0."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if terminated():
            raise
        raise KeyboardInterrupt from None
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def _trainer(workers: int, gpus: float, folder: str, board: Any, matrix: Any) -> DataParallelTrainer:
    """The group; one of torch would open a port on every interface, for sums between workers that none here takes."""
    use_gpu = gpus > 0
    share = {"CPU": 1.0} | ({"GPU": gpus} if use_gpu else {})
    return DataParallelTrainer(
        _work,
        train_loop_config={"board": board, "matrix": matrix},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=share),
        run_config=ray.train.RunConfig(
            name="evaluate",
            storage_path=folder,
            failure_config=ray.train.FailureConfig(max_failures=3, controller_failure_limit=3),
        ),
    )


class _Watcher:
    """Sees results come in, beside the thread that waits for the group.

    Attributes:
        fault: Why a result could not be kept; empty while all were.
    """

    def __init__(self, board: Any, total: int, note: str, show: Callable[[Progress], None], keep: Keep) -> None:
        self._board, self._total, self._show, self._keep = board, total, show, keep
        self._results: dict[Job, Outcome] = {}
        self.fault = ""
        self._start, self._stop = time.monotonic(), threading.Event()
        show(Progress(0, total, 0.0, note))
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS) and self._look():
            pass

    def _look(self) -> bool:
        """Take what is new; False when the board went with the run, whose end is told by the main thread."""
        try:
            new = ray.get(self._board.results.remote(len(self._results)))
        except RayError:
            return False
        for job, outcome in new:
            self._results[Job(*job)] = Outcome(*outcome)
            try:
                self._keep(Job(*job), Outcome(*outcome))
            except OSError as error:  # such as a full disk, which may still have room for another
                self.fault = self.fault or f"a result cannot be kept: {' '.join(str(error).split())}"
                self._board.fail.remote(self.fault)
        self._show(Progress(len(self._results), self._total, time.monotonic() - self._start))
        return True

    def stop(self) -> dict[Job, Outcome]:
        """All results, the last ones too."""
        self._stop.set()
        self._thread.join()
        self._look()
        return self._results
