"""Campaigns: the cells of papers' tables by one call, resumable anywhere."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from raydd.analysis.document import check_folder
from raydd.api.campaign_scores import Result, Scorer
from raydd.api.experts import train_experts
from raydd.api.league import check_league, settle
from raydd.campaigns.budget import NO_LIMITS, Budget, Limits
from raydd.campaigns.cell_settings import Options, check_options
from raydd.campaigns.costs import GPU_SPEED, estimate, measure_speed
from raydd.campaigns.graph import Graph, build_graph
from raydd.campaigns.league import check_entries, read_entries
from raydd.campaigns.order import Order, Task, order_of
from raydd.campaigns.plan import Plan, load_plan
from raydd.campaigns.records import NodeRecord, measured, read_records, run_costs, write_record
from raydd.campaigns.scales import find_scale
from raydd.campaigns.table import Spent, campaign_document, spent_before
from raydd.config.placement import HERE, Where, check_workers
from raydd.evaluation.scores import check_scoring
from raydd.io.console import Pace, QuietScreen, Screen, left
from raydd.io.document import write_document
from raydd.io.paths import below
from raydd.io.provenance import commit
from raydd.io.uri import is_uri
from raydd.run.resolve import check_names
from raydd.run.storage import RunStorage, open_storage

TABLE = "campaign.json"
WRITE_SECONDS = 10.0


class CampaignIncomplete(RuntimeError):
    """Some work of a campaign failed, or its budget was spent; ``result`` is the document of what is done."""

    def __init__(self, message: str, result: dict[str, Any]) -> None:
        super().__init__(message)
        self.result = result


def campaign(
    plans: Sequence[Plan | str] | str,
    out: Path | str,
    scale: Options | str = "paper",
    *,
    limits: Limits = NO_LIMITS,
    where: Where = HERE,
    screen: Screen | None = None,
) -> dict[str, Any]:
    """Do all that the cells of plans need, each once: experts, distillations, and scores.

    The folder or URI gets ``experts/``, ``runs/``, ``nodes/`` with a record of what is done, and ``campaign.json`` with
    the tables. The same call goes on where it stopped, also on another machine.

    Args:
        plans: The tables: names that `raydd campaigns` lists, paths of YAML files, or plans.
        out: The folder, or a URI such as ``s3://bucket/table1``.
        scale: The size, ``paper``, ``cpu`` or ``digits``; or that with data, a seed and settings.
        limits: The budget.
        where: Device, cluster and number of workers.
        screen: Shows progress.

    Returns:
        The document of `raydd.campaigns.table.CampaignDocument`.

    Raises:
        ValueError: A plan or a setting is impossible; nothing is written.
        CampaignIncomplete: Some work failed, or the budget is spent; its ``result`` is the document of the rest.

    Example: examples/reproduce_table.py (it starts a Ray).
    """
    screen = screen or Screen()
    check_workers(where)
    options = Options(find_scale(scale)) if isinstance(scale, str) else scale
    named = [plans] if isinstance(plans, str) else plans
    tables = [load_plan(plan) if isinstance(plan, str) else plan for plan in named]
    names = [plan.name for plan in tables]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two plans are named {twice[0]}; rename one, or its file")
    check_options(tables, options)
    graph = build_graph(tables, options)
    _check(graph)
    for plan in tables:
        check_league(plan, options)
    check_folder(out)
    with open_storage(out, "raydd campaign", screen.note) as storage:
        before = spent_before(storage.folder / TABLE, tables, options, storage.name)
        budget, failures = Budget(limits), list[str]()
        if any(plan.league for plan in tables):
            for plan in tables:
                check_entries(plan, read_entries(storage.folder, plan), options, storage.name)
            path = partial(_path_below, str(out))
            results = [settle(one, options, storage, path, where, screen, budget) for one in tables]
            tables = [one.plan for one in results]
            failures = [f"{one.plan.name}, {row}: {why}" for one in results for row, why in one.failures.items()]
            graph = build_graph(tables, options)
        work = _Campaign(tables, str(out), options, graph, storage, where, screen)
        return work.run(budget, before, failures)


def _check(graph: Graph) -> None:
    for node in graph.distillations.values():
        check_names(node.config)
    for scoring in graph.scores.values():
        check_scoring(scoring.config)


def _path_below(out: str, *parts: str) -> Path | str:
    """Return where a part of a campaign lies, a folder or a URI."""
    return below(out, "/".join(parts)) if is_uri(out) else Path(out, *parts)


class _Campaign:
    """A campaign at work."""

    def __init__(
        self,
        plans: list[Plan],
        out: str,
        options: Options,
        graph: Graph,
        storage: RunStorage,
        where: Where,
        screen: Screen,
    ) -> None:
        self._plans, self._out, self._options, self._graph = plans, out, options, graph
        self._storage, self._where, self._screen = storage, where, screen
        self._records = read_records(storage.folder, graph, screen.note)
        self._saves, self._saving = count(storage.saved + 1), threading.Lock()
        self._part = graph.part(options.rows)
        self._quiet: dict[str, QuietScreen] = {}
        self._stopped = False
        self._written, self._worked = float("-inf"), False

    def run(self, budget: Budget, before: Spent, failures: Sequence[str]) -> dict[str, Any]:
        """Return the document of all that is done within a budget; ``failures`` are those of searches."""
        self._budget, self._before, self._version = budget, before, commit()
        speed = GPU_SPEED if self._where.device == "cuda" else measure_speed()
        seconds = estimate(self._part, speed).seconds
        order = order_of(self._part, seconds)
        for key in order.tasks.keys() & self._records:
            order.done(key)
        self._write(order)
        if order.unfinished and self._budget.may_start:
            there = len(order.tasks.keys() & self._records)
            self._screen.note(f"{self._storage.name}: {there} of {len(order.tasks)} parts are there")
            self._work(order, seconds)
        document = self._write(order)
        with self._saving:
            self._storage.save_last()
        if order.unfinished or order.failed:
            raise CampaignIncomplete(self._incomplete(order), document)
        if failures:
            words = f"{len(failures)} searches failed or did not begin: {failures[0]}; the same command tries again"
            raise CampaignIncomplete(words, document)
        return document

    def _work(self, order: Order, seconds: Mapping[str, float]) -> None:
        from raydd.remote.campaign import Executor
        from raydd.remote.session import session

        with session(self._where.address, self._screen.note):
            executor = Executor(order, self._start(order), self._where, self._budget, self._screen.note)
            pace, there = Pace(), [key for key in seconds if key in self._records]
            with self._screen.progress("campaign", len(order.tasks)) as update:

                def show() -> None:
                    able = [key for key in seconds if key not in order.failed and key not in there]
                    done, total = sum(seconds[key] * self._done(key) for key in able), sum(seconds[key] for key in able)
                    words = f"{self._words(executor.running, order.failed)} {left(pace.left(done, total))}"
                    update(len(order.tasks.keys() & self._records), words.rstrip())
                    if time.monotonic() - self._written > WRITE_SECONDS:
                        self._write(order)

                executor.run(show)

    def _start(self, order: Order) -> Any:
        """Return how the tasks of each stage are started, a `raydd.remote.campaign.Start`."""
        from raydd.remote.campaign import InSteps, InThread, Start
        from raydd.remote.distillation import Request, distill_in_steps

        def experts(task: Task, workers: int) -> Any:
            where = self._where._replace(num_workers=workers)
            config, screen = self._graph.experts[task.key], self._quiet_screen(task.key)

            def train() -> Iterator[None]:
                train_experts(config, self._path("experts", task.key), where=where, screen=screen)
                yield None

            return InThread(workers, train, lambda _: self._end(task.key), self._stop)

        def distillation(task: Task) -> Any:
            node = self._graph.distillations[task.key]
            buffer = self._path("experts", node.experts) if node.experts else None
            place = self._path("runs", node.name)
            request = Request(node.config, place, buffer, True, self._where._replace(num_workers=1))
            steps = distill_in_steps(request, self._quiet_screen(task.key), _no_training)
            return InSteps(steps, lambda _: self._end(task.key, **run_costs(place, node.config.steps)))

        def scores(tasks: Sequence[Task], workers: int) -> Any:
            where = self._where._replace(num_workers=workers)
            keys = [task.key for task in tasks]
            scorer = Scorer(self._graph, self._path, self._quiet_screen, where)
            return InThread(workers, lambda: scorer(keys), lambda results: self._keep(order, results), self._stop)

        return Start(experts, distillation, scores)

    def _done(self, key: str) -> float:
        """Return how much of a part is done, from 0 to 1, of what this command found undone."""
        if key in self._records:
            return 1.0
        return self._quiet[key].part if key in self._quiet else 0.0

    def _words(self, running: Sequence[str], failed: Mapping[str, str]) -> str:
        """Return in words what is at work."""
        names = {key: node.name for key, node in self._graph.distillations.items()}
        names |= {key: f"scores of {names[one.distillation]}" for key, one in self._graph.scores.items()}
        ended = self._records.keys() | failed
        unfinished = [key for key in reversed(running) if key in self._quiet and key not in ended]
        screens = {self._quiet[key]: key for key in unfinished}  # scores that run together have one screen
        words = [f"{names.get(key, key)} {screen.words}" for screen, key in reversed(screens.items())]
        return f"{len(running)} at work: {'; '.join(words[:2])}" if words else f"{len(running)} at work"

    def _path(self, *parts: str) -> Path | str:
        return _path_below(self._out, *parts)

    def _quiet_screen(self, *keys: str) -> QuietScreen:
        """Return the screen of a part, or of several that run together."""
        log = self._storage.folder / "campaign.log"

        def tell(line: str) -> None:
            with self._saving, log.open("a", encoding="utf-8") as file:  # a file that grows cannot be saved
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {keys[0]}: {line}\n")

        screen = self._quiet.get(keys[0]) or QuietScreen(tell)
        self._quiet |= dict.fromkeys(keys, screen)
        screen.stopped = self._stopped
        return screen

    def _stop(self) -> None:
        """Let all that runs in threads end soon."""
        self._stopped = True
        for screen in [*self._quiet.values()]:  # threads add to them
            screen.stopped = True

    def _keep(self, order: Order, results: Mapping[str, Result]) -> None:
        for key, result in results.items():
            if isinstance(result, str):
                self._screen.note(f"failed: {result}")
                order.fail(key, result)
            elif isinstance(result, list):
                self._end(key, scores=tuple(score.to_document() for score in result))
            else:
                self._end(key, ranking=result)

    def _end(self, key: str, **known: Any) -> None:
        """Record that a node is done."""
        self._records[key] = NodeRecord(key=key, **known)
        write_record(self._storage.folder, self._records[key])
        self._worked = True
        with self._saving:
            self._storage.save(next(self._saves), "part")

    def _write(self, order: Order) -> dict[str, Any]:
        """Write the tables as far as they are known, and return them."""
        self._written = time.monotonic()
        known, before, budget = measured(self._records, order.failed), self._before, self._budget
        hours = before.gpu_hours + budget.gpu_seconds / 3600
        version = before.commit if before.commit and not self._worked else self._version
        spent = Spent(before.seconds + budget.seconds, hours, version)
        document = campaign_document(self._plans, self._options, self._graph, known, spent)
        write_document(self._storage.folder / TABLE, document)
        return document

    def _incomplete(self, order: Order) -> str:
        if order.failed:
            reason = next(iter(order.failed.values()))
            return f"{len(order.failed)} of {len(order.tasks)} parts failed: {reason}; the same command tries again"
        return f"the budget is spent with {order.unfinished} of {len(order.tasks)} parts left; the same command goes on"


def _no_training(config: Any) -> Path:
    raise RuntimeError("a campaign trains experts before its distillations")
