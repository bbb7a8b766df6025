"""A matrix of trainings on one Ray Train worker group, balanced as its workers get done."""

import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
import ray.train
import torch
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

    >>> board = Board([Job(0, "MLP", 0)])
    >>> board.take("a"), board.take("b")
    (Job(entry=0, network='MLP', seed=0), None)
    >>> board.give_back(); board.take("b")
    Job(entry=0, network='MLP', seed=0)
    """

    def __init__(self, jobs: list[Job]) -> None:
        self._left = deque(jobs)
        self._in_hand: dict[str, Job] = {}
        self._results: dict[Job, float] = {}

    def take(self, worker: str) -> Job | None:
        """The next job for a worker, or None when none is left."""
        if not self._left:
            return None
        job = self._left.popleft()
        self._in_hand[worker] = job
        return job

    def put(self, worker: str, job: Job, value: float) -> None:
        """Take a worker's result."""
        self._in_hand.pop(worker, None)
        self._results[Job(*job)] = value

    def give_back(self) -> None:
        """Put what is in hand back in front: the group was started anew, its workers are gone."""
        self._left.extendleft(self._in_hand.values())
        self._in_hand.clear()

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
        ray.get(board.put.remote(worker, job, scorer.score(Job(*job))))
    ray.train.report({"done": 1})


class _RequeueLost(ray.train.UserCallback):  # type: ignore[misc]
    """Before a group is started anew, what the lost one had in hand goes back on the board."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        ray.get(self._board.give_back.remote())


def run_matrix(matrix: Matrix, num_workers: int | None, show: Callable[[Progress], None]) -> list[tuple[Job, float]]:
    """Do every job of a matrix on the connected Ray.

    The group is started once, whatever the number of jobs; a lost worker costs its job alone.

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
        with tempfile.TemporaryDirectory(prefix="raydd-evaluate-") as folder:
            _trainer(layout.workers, layout.gpus, folder, board, matrix).fit()
        results: list[tuple[Job, float]] = [(Job(*job), value) for job, value in ray.get(board.results.remote())]
    except ray.train.TrainingFailedError as error:
        reason = " ".join(str(error.__cause__ or error).split())[-300:]
        raise RuntimeError(f"evaluation failed: {reason}") from error
    finally:
        stop.set()
        watcher.join()
        ray.kill(board)
    return results


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
            failure_config=ray.train.FailureConfig(max_failures=3),
            callbacks=[_RequeueLost(board)],
        ),
    )


def _watch(board: Any, total: int, note: str, show: Callable[[Progress], None], stop: threading.Event) -> None:
    start = time.monotonic()
    show(Progress(0, total, 0.0, note))
    while not stop.wait(POLL_SECONDS):
        done = len(ray.get(board.results.remote()))
        show(Progress(done, total, time.monotonic() - start))
