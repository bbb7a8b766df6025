"""A matrix of trainings on one Ray Train worker group, balanced as its workers get done."""

import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
import ray.train
import torch
from ray.exceptions import RayError
from ray.train.torch import TorchTrainer

from raydd.remote.session import plan, resources
from raydd.training.scores import Job, Matrix, Scorer

POLL_SECONDS = 0.5


class Progress(NamedTuple):
    """Trainings done, of how many, and the seconds since the group was started."""

    done: int
    total: int
    seconds: float
    note: str = ""

    @property
    def seconds_left(self) -> float | None:
        """An estimate; None before the first result."""
        return self.seconds / self.done * (self.total - self.done) if self.done else None


class Board:
    """The jobs that are left, those in hand, and the results; knows nothing of Ray.

    A worker that asks again has lost what it had in hand: those jobs are done anew, so that no job is
    lost when a group is started again while workers of the last one still answer.

    >>> board = Board([Job(0, "MLP", 0)])
    >>> board.take("rank 0"), board.take("rank 1"), board.take("rank 0")
    (Job(entry=0, network='MLP', seed=0), None, Job(entry=0, network='MLP', seed=0))
    """

    def __init__(self, jobs: list[Job]) -> None:
        self._left = deque(jobs)
        self._in_hand: dict[str, list[Job]] = {}
        self._results: dict[Job, float] = {}
        self._failure = ""

    def take(self, worker: str) -> Job | None:
        """The next job for a worker, or None when none is left."""
        lost = [job for job in self._in_hand.pop(worker, []) if job not in self._results]
        self._left.extendleft(lost)
        if self._failure or not self._left:
            return None
        job = self._left.popleft()
        self._in_hand[worker] = [job]
        return job

    def put(self, worker: str, job: Job, value: float) -> None:
        """Take a worker's result."""
        self._results[Job(*job)] = value
        self._in_hand[worker] = [other for other in self._in_hand.get(worker, []) if other != Job(*job)]

    def fail(self, job: Job, reason: str) -> None:
        """A training raised: it would again, so nothing more is handed out."""
        self._failure = f"{job.network}, seed {job.seed}: {reason}"

    def failure(self) -> str:
        """What failed first and why; empty while nothing did."""
        return self._failure

    def results(self) -> list[tuple[Job, float]]:
        """All results so far."""
        return list(self._results.items())


def _work(config: dict[str, Any]) -> None:
    """One worker of the group: jobs from the board until none is left."""
    torch.set_num_threads(1)
    context = ray.train.get_context()
    board, worker = config["board"], f"rank {context.get_world_rank()}"
    scorer = Scorer(ray.get(config["matrix"]))
    while (job := ray.get(board.take.remote(worker))) is not None:
        try:
            value = scorer.score(Job(*job))
        except (ValueError, RuntimeError, OSError) as error:
            ray.get(board.fail.remote(job, " ".join(str(error).split())))
            break
        ray.get(board.put.remote(worker, job, value))
    ray.train.report({"done": 1})


def run_matrix(matrix: Matrix, num_workers: int | None, show: Callable[[Progress], None]) -> list[tuple[Job, float]]:
    """Do every job of a matrix on the connected Ray.

    The group is started once, whatever the number of jobs. When a worker dies, Train starts the group
    anew; results that are in stay, and only the jobs that were in hand are done again.

    Args:
        matrix: The trainings.
        num_workers: Workers asked for; None takes one a CPU.
        show: Called with the progress, about twice a second.

    Returns:
        A result a job, in [0, 1]; the same whatever the number of workers.

    Raises:
        RuntimeError: If a training failed again and again.
    """
    jobs = matrix.jobs()
    cpus, gpus = resources()
    layout = plan(num_workers, len(jobs), cpus, gpus if matrix.device == "cuda" else 0)
    board = ray.remote(Board).options(num_cpus=0).remote(jobs)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(board, len(jobs), layout.note, show, stop), daemon=True)
    watcher.start()
    try:
        with tempfile.TemporaryDirectory(prefix="raydd-evaluate-") as folder, _interrupts():
            _trainer(layout.workers, layout.gpus, folder, board, matrix).fit()
        if failure := ray.get(board.failure.remote()):
            raise RuntimeError(f"evaluation failed: {failure}")
        results: list[tuple[Job, float]] = [(Job(*job), value) for job, value in ray.get(board.results.remote())]
    except ray.train.TrainingFailedError as error:
        reason = " ".join(str(error.__cause__ or error).split())[-300:]
        raise RuntimeError(f"evaluation failed: {reason}") from error
    finally:
        stop.set()
        watcher.join()
        ray.kill(board)
    if len(results) != len(jobs):
        raise RuntimeError(f"evaluation ended with {len(results)} of {len(jobs)} results; run it again")
    return results


@contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C is KeyboardInterrupt inside too, and as before outside: Train installs a handler that exits with 0."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def _trainer(workers: int, gpus: float, folder: str, board: Any, matrix: Matrix) -> TorchTrainer:
    use_gpu = gpus > 0
    share = {"CPU": 1.0} | ({"GPU": gpus} if use_gpu else {})
    return TorchTrainer(
        _work,
        train_loop_config={"board": board, "matrix": ray.put(matrix)},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=share),
        run_config=ray.train.RunConfig(
            name="evaluate",
            storage_path=folder,
            failure_config=ray.train.FailureConfig(max_failures=3, controller_failure_limit=3),
        ),
    )


def _watch(board: Any, total: int, note: str, show: Callable[[Progress], None], stop: threading.Event) -> None:
    start = time.monotonic()
    show(Progress(0, total, 0.0, note))
    while not stop.wait(POLL_SECONDS):
        try:
            done = len(ray.get(board.results.remote()))
        except RayError:  # the board went with the run: its end is told by the main thread
            return
        show(Progress(done, total, time.monotonic() - start))
