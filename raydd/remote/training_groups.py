"""Groups of workers on Ray Train: as many workers as Ray can place now, more when there is room, others for lost ones.

Trainings are independent, so a group needs no fixed size. Ray Train's elastic groups count the resources of the whole
cluster instead of the free ones, round down fractions of a GPU, and restart all workers to change their number. Here
one request a worker waits at Ray, which is what makes an autoscaler start nodes; a group of fixed size starts where
requests have been granted, and another one where more are granted later.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
import ray.train
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from raydd.evaluation.saver import SECONDS
from raydd.remote.demand import Demand, Waiting
from raydd.remote.job_queue import Counts, Loss
from raydd.remote.train_worker import BrokenDeviceError, Work, work, worker_name

MOST_REQUESTS = 128  # that wait at a time
MOST_GROUPS = 8  # each has a few processes beside its workers
SETTLE_SECONDS = 2.0  # how long the first group waits for requests after the first granted one
GROW_SECONDS = 30.0  # the time between a group and the next one
ROOM_SECONDS = 5.0
CHECKPOINT_SECONDS = SECONDS
EARLY_SECONDS = 10.0
MOST_FAULTS = 3  # groups in a row that fail before any training ends


class _Trainer(DataParallelTrainer):  # type: ignore[misc]
    """A trainer without the actor of Ray Data, which takes 1.8 s of a CPU to start, for groups that read no data set.

    A version of Ray that does not ask for these callbacks starts the actor, and all else is the same.
    """

    def _create_default_callbacks(self) -> list[Any]:
        return [one for one in super()._create_default_callbacks() if type(one).__name__ != "DatasetsCallback"]


class _Group:
    """A Ray Train group of fixed size in a thread."""

    def __init__(self, name: str, workers: int, task: Work) -> None:
        self.name, self.workers, self.up = name, workers, False
        self.error: BaseException | None = None
        self._task = task
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="raydd-evaluate-", ignore_cleanup_errors=True) as folder:
                self._trainer(folder).fit()
        except BaseException as error:  # read by the main thread
            self.error = error

    def _trainer(self, folder: str) -> DataParallelTrainer:
        """Return the group; a TorchTrainer would open a port on every interface for collectives that are not used."""
        scaling = ray.train.ScalingConfig(
            num_workers=self.workers, use_gpu=self._task.demand.gpus > 0, resources_per_worker=self._task.demand.bundle
        )
        run = ray.train.RunConfig(
            name="evaluate",
            storage_path=folder,
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),
        )
        task = ray.put(self._task)  # what the controller is given it loads, and it needs no PyTorch
        return _Trainer(work, train_loop_config={"work": task}, scaling_config=scaling, run_config=run)

    def losses(self) -> dict[str, tuple[Loss, str]]:
        """Return the lost workers of a group that has ended, each with what was lost and the reason."""
        failures: dict[int, Exception] = getattr(self.error, "worker_failures", {})
        losses = {worker_name(self.name, rank): _loss(failure) for rank, failure in failures.items()}
        return {worker: loss for worker, loss in losses.items() if loss is not None}

    def fault(self) -> str:
        """Return why the group ended, if it is for no lost worker; empty without a fault."""
        failures = list(getattr(self.error, "worker_failures", {}).values())
        known = all(_loss(failure) is not None or isinstance(failure, BrokenDeviceError) for failure in failures)
        cause = failures[0] if failures else getattr(self.error, "controller_failure", self.error)
        late = isinstance(cause, WorkerGroupStartupTimeoutError)  # other work took its place
        if cause is None or late or (failures and known):
            return ""
        return " ".join(str(cause).split())[-300:] or type(cause).__name__


def _loss(error: BaseException) -> tuple[Loss, str] | None:
    """Return what was lost with a worker, and the reason in one line; None if its own code raised the error."""
    cause = getattr(error, "health_check_failure", error)
    text = " ".join(str(cause).split())
    if isinstance(cause, OutOfMemoryError) or "low on memory" in text or "NODE_OUT_OF_MEMORY" in text:
        return "memory", "Ray ended its worker, because the node was low on memory"
    if not isinstance(cause, RayActorError):
        return None
    node = cause.preempted or "node has died" in text or "node was terminated" in text
    return ("node", "its node has died") if node else ("worker", text.removeprefix("The actor died ")[-200:])


class Run(NamedTuple):
    """How groups work on a queue.

    Attributes:
        poll: Fetches new results, and returns the queue's counts.
        note: Prints a line.
        room: Returns how many workers fit.
        minutes: How long the jobs may be without any worker.
        poll_seconds: The time between two polls.
        keep: Whether the groups stay for other trainings.
    """

    poll: Callable[[], Counts]
    note: Callable[[str], None]
    room: Callable[[], int]
    minutes: float
    poll_seconds: float
    keep: bool = False


class TrainingGroups:
    """The groups that work on one queue; leaving the context ends them.

    Args:
        queue: The actor of the queue.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._note: Callable[[str], None] = lambda line: None
        self._groups: list[_Group] = []
        self._requests: list[PlacementGroup] = []
        self._started, self._faults = 0, 0
        self._granted_at: float | None = None
        self._grown_at = float("-inf")

    def __enter__(self) -> "TrainingGroups":
        """Return the groups, of which none has started."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the groups."""
        self.end()

    @property
    def working(self) -> bool:
        """Whether some group has not ended."""
        return any(group.thread.is_alive() for group in self._groups)

    def end(self) -> None:
        """Remove the requests, and end the workers that still train."""
        try:
            self._request(0, Demand())
            if self.working:
                for worker in ray.get(self._queue.workers.remote()):
                    ray.kill(worker)
            for group in self._groups:
                group.thread.join(timeout=10.0)
        except RayError:  # Ray itself has ended, and with it all workers
            return

    def start(self, demand: Demand, workers: int, most_seconds: float = EARLY_SECONDS) -> None:
        """Start the first group before its trainings are known; where nobody has room soon, leave that to `run`."""
        end = time.monotonic() + most_seconds
        self._request(workers, demand)
        while not self._groups and time.monotonic() < end:
            time.sleep(0.1)
            self._grow(demand, alone=False)

    def run(self, demand: Demand, run: "Run", *, alone: bool = False) -> None:
        """Work until no job waits: all jobs, or those that are to run ``alone``."""
        self._note, room = run.note, run.room
        workers, checked = room(), time.monotonic()
        missing = Waiting(demand, workers, run.note, run.minutes)
        while True:
            if time.monotonic() - checked > ROOM_SECONDS:  # nodes may have joined
                workers, checked = room(), time.monotonic()
            self._collect()
            counts = run.poll()
            waiting = 0 if counts.stopped else counts.alone if alone else counts.waiting
            if not waiting and not (counts.running if run.keep else self._groups):
                break
            running = sum(group.workers for group in self._groups)
            if self._all_up():
                self._request(min(workers - running, waiting, MOST_REQUESTS), demand)
                self._grow(demand, alone)
            try:
                missing.check(running, min(workers, running + waiting))
            except RuntimeError as error:
                ray.get(self._queue.stop.remote(str(error)))
            time.sleep(run.poll_seconds)
        self._request(0, demand)

    def _collect(self) -> None:
        """Remove the groups that have ended, and give back what their lost workers were training."""
        for group in [group for group in self._groups if not group.thread.is_alive()]:
            self._groups.remove(group)
            losses = group.losses()
            for worker, (loss, reason) in losses.items():
                ray.get(self._queue.lose.remote(worker, loss, reason))
            ray.get(self._queue.release.remote(group.name))
            if losses:
                self._note(f"{len(losses)} of {group.workers} workers lost: their trainings go on")
            fault = group.fault()
            self._faults = self._faults + 1 if fault else 0
            if self._faults >= MOST_FAULTS:
                ray.get(self._queue.stop.remote(f"{self._faults} groups of workers failed: {fault}"))

    def _all_up(self) -> bool:
        """Return whether the workers of all groups have started; until then a request would take their place."""
        for group in self._groups:
            group.up = group.up or ray.get(self._queue.joined.remote(group.name)) >= group.workers
        return all(group.up for group in self._groups)

    def _request(self, wanted: int, demand: Demand) -> None:
        """Keep as many requests for a worker as are wanted."""
        while len(self._requests) > max(0, wanted):
            remove_placement_group(self._requests.pop(0))
        while len(self._requests) < wanted:
            self._requests.append(placement_group([demand.bundle]))

    def _grow(self, demand: Demand, alone: bool) -> None:
        """Start a group of the granted requests, soon for the first group, and rarely for others."""
        if not self._requests or len(self._groups) >= MOST_GROUPS:
            return
        table = placement_group_table()
        granted = [one for one in self._requests if table.get(one.id.hex(), {}).get("state") == "CREATED"]
        now = time.monotonic()
        if not granted:
            self._granted_at = None
            return
        if self._granted_at is None:
            self._granted_at = now
        pause = GROW_SECONDS if self._groups else 0.0
        settled = len(granted) == len(self._requests) or now - self._granted_at >= SETTLE_SECONDS
        if not settled or now - self._grown_at < pause:
            return
        self._requests.sort(key=granted.__contains__)  # the waiting ones go first: they would take the others' room
        self._request(0, demand)
        self._started, self._grown_at, self._granted_at = self._started + 1, now, None
        name = f"group-{self._started}"
        task = Work(self._queue, demand, name, alone, CHECKPOINT_SECONDS)
        self._groups.append(_Group(name, len(granted), task))
