"""What a campaign would do: its graph, what is there already, and an estimate of the rest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from raydd.campaigns.cell_settings import Options, check_options
from raydd.campaigns.costs import GPU_SPEED, estimate, measure_speed
from raydd.campaigns.graph import Graph, build_graph
from raydd.campaigns.league import Entry, check_entries, read_entries, search_seconds, settled
from raydd.campaigns.plan import Plan
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
    check_options(plans, options)
    entries, done = [dict[str, Entry]() for _ in plans], frozenset[str]()
    graph = build_graph(plans, options).part(options.rows)
    if out is not None and (is_uri(out) or Path(out).exists()):
        with open_storage(out, "raydd campaign", lambda line: None) as storage:
            entries = [read_entries(storage.folder, plan) for plan in plans]
            for plan, known in zip(plans, entries, strict=True):
                check_entries(plan, known, options, storage.name)
            after = [settled(plan, known) for plan, known in zip(plans, entries, strict=True)]
            graph = build_graph(after, options).part(options.rows)
            done = frozenset(read_records(storage.folder, graph, lambda line: None))
    searches: dict[str, float] = {}
    for plan, known in zip(plans, entries, strict=True):
        searches |= search_seconds(plan, options, known)
    gpu = where.device == "cuda" or (where.device == "auto" and options.scale.name == "paper")
    rest = estimate(graph, GPU_SPEED if gpu else measure_speed(), done)
    return Preview(graph, done, rest.seconds | searches, rest.disk, gpu)
