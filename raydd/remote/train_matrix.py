"""A matrix of trainings on one Ray Train worker group; workers take the next job when they finish one."""

import signal
import tempfile
import threading
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
from raydd.evaluation.set_cache import SetCache, store_sets
from raydd.evaluation.successive_halving import Rungs, SuccessiveHalving
from raydd.io.signals import terminated
from raydd.remote.session import plan, resources

POLL_SECONDS = 0.2
Store = Callable[[Job, Outcome], None]


class MatrixProgress(NamedTuple):
    """Finished trainings and their total number."""

    done: int
    total: int
    note: str = ""


class JobQueue:
    """The waiting jobs, the running jobs, and the results; independent of Ray.

    A worker that takes a job again has lost its running ones: they run anew, so that no job is lost when a group is
    restarted while workers of the last one still answer.

    >>> queue = JobQueue([Job(0, "MLP", 0)])
    >>> queue.take("rank 0"), queue.take("rank 1"), queue.take("rank 0")
    (Job(row=0, network='MLP', seed=0), None, Job(row=0, network='MLP', seed=0))
    """

    def __init__(self, jobs: list[Job], rungs: Rungs | None = None) -> None:
        self._waiting = deque(jobs)
        self._running: dict[str, list[Job]] = {}
        self._results: dict[Job, Outcome] = {}
        self._failure = ""
        self._halving = SuccessiveHalving(rungs.reduction) if rungs else None

    def take(self, worker: str) -> Job | None:
        """Return the next job for a worker, or None when none is left."""
        self._waiting.extendleft(job for job in self._running.pop(worker, []) if job not in self._results)
        if self._failure or not self._waiting:
            return None
        job = self._waiting.popleft()
        self._running[worker] = [job]
        return job

    def keep_training(self, job: Job, epoch: int, value: float) -> bool:
        """Return whether a training continues after a rung, by its accuracy there."""
        row, network, seed = job
        return self._halving is None or self._halving.keep_training((row, seed), epoch, network, value)

    def put(self, worker: str, job: Job, outcome: Outcome) -> None:
        """Store a worker's result."""
        self._results[Job(*job)] = outcome
        self._running[worker] = [other for other in self._running.get(worker, []) if other != Job(*job)]

    def fail(self, reason: str) -> None:
        """Stop handing out jobs: a training failed in a way that would repeat."""
        self._failure = self._failure or reason

    def failure(self) -> str:
        """Return the reason of the first failure; empty without one."""
        return self._failure

    def results(self, skip: int = 0) -> list[tuple[Job, Outcome]]:
        """Return the results in order of arrival, without the first ``skip``."""
        return list(islice(self._results.items(), skip, None))


def _work(config: dict[str, Any]) -> None:
    """Run jobs of the queue in one worker of the group, until none is left."""
    torch.set_num_threads(1)
    context = ray.train.get_context()
    queue, worker = config["queue"], f"rank {context.get_world_rank()}"
    matrix, handles = ray.get(config["matrix"])
    scorer = Scorer(matrix, SetCache(handles, ray.get))
    while (job := ray.get(queue.take.remote(worker))) is not None:

        def keep_training(epoch: int, value: float, job: Job = job) -> bool:
            return bool(ray.get(queue.keep_training.remote(job, epoch, value)))

        try:
            outcome = scorer.score(Job(*job), keep_training)
        except (ValueError, RuntimeError, OSError) as error:
            row, (network, seed) = matrix.rows[job[0]].name, job[1:]
            ray.get(queue.fail.remote(f"{row}, on {network}, seed {seed}: {' '.join(str(error).split())}"))
            break
        ray.get(queue.put.remote(worker, job, outcome))
    ray.train.report({"done": 1})


def train_matrix(
    matrix: Matrix,
    num_workers: int | None,
    show: Callable[[MatrixProgress], None],
    known: Mapping[Job, Outcome] | None = None,
    store: Store | None = None,
) -> dict[Job, Outcome]:
    """Run every job of a matrix on the connected Ray.

    The group is started once for all jobs. When a worker dies, Ray Train restarts the group; stored results stay, and
    only the running jobs run again. No accuracy depends on the number of workers. Jobs in ``known`` do not run;
    ``store`` is called here with every other result, soon after it arrives.
    """
    known = known or {}
    jobs = [job for job in matrix.jobs() if job not in known]
    if not jobs:
        return dict(known)
    cpus, gpus = resources()
    layout = plan(num_workers, len(jobs), cpus, gpus if matrix.device == "cuda" else 0)
    queue = ray.remote(JobQueue).options(num_cpus=0).remote(jobs, matrix.rungs)
    for job, outcome in known.items():
        for epoch, value in outcome.curve:
            queue.keep_training.remote(job, epoch, value)
    poller = _ResultPoller(queue, len(jobs), layout.note, show, store or (lambda job, outcome: None))
    try:
        with tempfile.TemporaryDirectory(prefix="raydd-evaluate-") as folder, _interrupts():
            _trainer(layout.workers, layout.gpus, folder, queue, ray.put(store_sets(matrix, jobs, ray.put))).fit()
        failure = ray.get(queue.failure.remote())
    except ray.train.TrainingFailedError as error:
        reason = " ".join(str(error.__cause__ or error).split())[-300:]
        raise RuntimeError(f"evaluation failed: {reason}") from error
    finally:
        results = poller.stop()
        ray.kill(queue)
    if failure := poller.fault or failure:
        raise RuntimeError(f"evaluation failed: {failure}; the other finished trainings are cached")
    if len(results) != len(jobs):
        raise RuntimeError(f"evaluation ended with {len(results)} of {len(jobs)} results; run it again")
    return {**known, **results}


@contextmanager
def _interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, and restore the handler: Ray Train installs one that exits with 0."""
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


def _trainer(workers: int, gpus: float, folder: str, queue: Any, matrix: Any) -> DataParallelTrainer:
    """Return the group; a TorchTrainer would open a port on every interface for collectives that are not used."""
    use_gpu = gpus > 0
    share = {"CPU": 1.0} | ({"GPU": gpus} if use_gpu else {})
    return DataParallelTrainer(
        _work,
        train_loop_config={"queue": queue, "matrix": matrix},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=share),
        run_config=ray.train.RunConfig(
            name="evaluate",
            storage_path=folder,
            failure_config=ray.train.FailureConfig(max_failures=3, controller_failure_limit=3),
        ),
    )


class _ResultPoller:
    """Fetches and stores results in a thread, while the main thread waits for the group."""

    def __init__(self, queue: Any, total: int, note: str, show: Callable[[MatrixProgress], None], store: Store) -> None:
        self._queue, self._total, self._show, self._store = queue, total, show, store
        self._results: dict[Job, Outcome] = {}
        self.fault = ""
        self._stop = threading.Event()
        show(MatrixProgress(0, total, note))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS) and self._poll():
            pass

    def _poll(self) -> bool:
        """Store new results; return False when the queue is gone, whose reason the main thread reports."""
        try:
            new = ray.get(self._queue.results.remote(len(self._results)))
        except RayError:
            return False
        for job, outcome in new:
            self._results[Job(*job)] = Outcome(*outcome)
            try:
                self._store(Job(*job), Outcome(*outcome))
            except OSError as error:  # such as a full disk, which may still have room for another
                self.fault = self.fault or f"a result cannot be cached: {' '.join(str(error).split())}"
                self._queue.fail.remote(self.fault)
        self._show(MatrixProgress(len(self._results), self._total))
        return True

    def stop(self) -> dict[Job, Outcome]:
        """Return all results, including the last ones."""
        self._stop.set()
        self._thread.join()
        self._poll()
        return self._results
