"""What a campaign would do: its graph, what is there already, and an estimate of the rest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from raydd.campaigns.cell_settings import Options
from raydd.campaigns.costs import GPU_SPEED, estimate, measure_speed
from raydd.campaigns.graph import Graph, build_graph
from raydd.campaigns.league import check_entries, read_entries, search_seconds, settled
from raydd.campaigns.plan import Plan, check_rows
from raydd.campaigns.records import read_records
from raydd.config.placement import HERE, Where
from raydd.io.uri import is_uri
from raydd.run.storage import open_storage


class Preview(NamedTuple):
    """What a campaign would do.

    Attributes:
        graph: All that it needs.
        done: The keys of what is there already.
        seconds: Estimated worker-seconds of what is left, by key.
        disk: Estimated bytes that are left to write.
        gpu: Whether the estimate is for GPUs.
    """

    graph: Graph
    done: frozenset[str]
    seconds: Mapping[str, float]
    disk: int
    gpu: bool


def preview(plans: Sequence[Plan], options: Options, out: Path | str | None = None, where: Where = HERE) -> Preview:
    """Return what a campaign would do, without doing it. Arguments are those of `campaign`."""
    check_rows(plans, options.rows)
    whole, done, searches = build_graph(plans, options), frozenset[str](), _searches(None, plans, options)
    if out is not None and (is_uri(out) or Path(out).exists()):
        with open_storage(out, "raydd campaign", lambda line: None) as storage:
            for plan in plans:
                check_entries(plan, read_entries(storage.folder, plan), options, str(out))
            whole = build_graph([settled(plan, read_entries(storage.folder, plan)) for plan in plans], options)
            done = frozenset(read_records(storage.folder, whole.part(options.rows), lambda line: None))
            searches = _searches(storage.folder, plans, options)
    graph = whole.part(options.rows)
    gpu = where.device == "cuda" or (where.device == "auto" and options.scale.name == "paper")
    rest = estimate(graph, GPU_SPEED if gpu else measure_speed(), done)
    return Preview(graph, done, rest.seconds | searches, rest.disk, gpu)


def _searches(folder: Path | None, plans: Sequence[Plan], options: Options) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for plan in plans:
        seconds |= search_seconds(plan, options, read_entries(folder, plan) if folder else {})
    return seconds
