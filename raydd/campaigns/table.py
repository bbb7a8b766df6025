"""The results of a campaign: each cell with its published and its measured value, as a document."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field
from scipy.stats import ttest_ind_from_stats

from raydd.campaigns.cell_settings import Options
from raydd.campaigns.graph import Cell, Graph
from raydd.campaigns.plan import RANKING, Plan
from raydd.campaigns.standings import standings
from raydd.data.score_record import Score
from raydd.io.document import Document, Finite, Fraction, Whole, read_document

UNDONE = "not done yet"
NETWORKS = 5
"""Networks that a published mean and deviation are taken to be of: the papers' usual number."""


class CellDocument(Document):
    """A cell of ``campaign.json``; accuracies are fractions, published values as the paper prints them."""

    plan: str
    row: str
    column: str
    network: str
    published: Finite | None
    published_std: Finite | None
    mean: Finite | None  # the measured value: an accuracy in [0, 1], or seconds of an outer step
    std: Finite | None
    networks: Whole = 0
    values: tuple[Finite, ...] = ()  # of one set: the accuracy of each network
    sets: tuple[Finite, ...] = ()  # of several sets: each one's mean over its networks
    place: Whole = 0  # among the column's rows, where ties share a place; only where there are several sets
    behind: Finite | None = None  # how far it is behind the best row of its place
    interval: tuple[Finite, Finite] | None = None  # of that, 95 %
    protocol: str = ""
    best: Finite | None = None  # the best kept step on test, as papers report it: optimistic
    difference: Finite | None = None  # measured less published, in the units of the paper; only at its scale
    p: Fraction | None = None  # of Welch's test of that difference
    seconds: Finite | None = None  # of the distillation
    memory_mb: Finite | None = None  # its peak, on the device or else of the process
    run: str = ""  # the folder of the run, below that of the campaign
    missing: str = ""  # why there is no measured value


class CampaignDocument(Document):
    """The file ``campaign.json``."""

    analysis: str = "campaign"
    plans: tuple[dict[str, Any], ...]
    scale: str
    seed: int
    paper: bool
    settings: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, str] | None = None  # where data sets were, by name
    cells: tuple[CellDocument, ...]
    seconds: Finite
    gpu_hours: Finite
    commit: str | None  # None of an installed package


class Spent(NamedTuple):
    """What all commands of a campaign took, on the clock and of GPUs, and the commit of the last that did anything."""

    seconds: float = 0.0
    gpu_hours: float = 0.0
    commit: str | None = None


NOTHING_SPENT = Spent()


class Measured(NamedTuple):
    """What is known of the nodes: scores, costs of runs, reasons of failures, and rank correlations by their top."""

    scores: Mapping[str, list[Score]]
    costs: Mapping[str, "Costs"]
    failed: Mapping[str, str]
    rankings: Mapping[str, Mapping[str, float | None]] = {}


class Costs(NamedTuple):
    """What a distillation took."""

    seconds: float | None
    memory_mb: float | None
    steps: int


def campaign_document(
    plans: list[Plan], options: Options, graph: Graph, measured: Measured, spent: Spent = NOTHING_SPENT
) -> dict[str, Any]:
    """Return the document of a campaign, whether or not all of it is done."""
    by_name, comparable = {plan.name: plan for plan in plans}, not options.scale.most
    return {
        "analysis": "campaign",
        "plans": [plan.model_dump(mode="json", exclude={"rows", "columns", "published"}) for plan in plans],
        "scale": options.scale.name,
        "seed": options.seed,
        "paper": options.paper,
        "settings": dict(options.set),
        "data": dict(options.paths),
        "cells": placed([_cell(cell, by_name[cell.plan], graph, measured, comparable) for cell in graph.cells]),
        **spent._asdict(),
    }


def _cell(cell: Cell, plan: Plan, graph: Graph, measured: Measured, comparable: bool) -> dict[str, Any]:
    node = graph.distillations.get(cell.distillation)
    costs = measured.costs.get(cell.distillation, Costs(None, None, 0))
    tree: dict[str, Any] = {
        "plan": cell.plan,
        "row": cell.row,
        "column": cell.column,
        "network": cell.network,
        "published": cell.published.mean if cell.published else None,
        "published_std": cell.published.std if cell.published else None,
        "mean": None,
        "std": None,
        "best": None,
        "values": (),
        "sets": (),
        "difference": None,
        "p": None,
        "seconds": costs.seconds,
        "memory_mb": costs.memory_mb,
        "run": f"runs/{node.name}" if node else "",
        "missing": cell.missing or next((measured.failed[key] for key in cell.scores if key in measured.failed), ""),
    }
    if plan.measure == "seconds":
        value = costs.seconds / costs.steps if costs.seconds is not None and costs.steps else None
        return tree | _measured(tree, value, None, 0) | (_against(tree, value, None, 0, 1.0) if comparable else {})
    if plan.measure == RANKING:
        value = measured.rankings.get(cell.score, {}).get(str(cell.top))
        tree["protocol"] = plan.protocol
        return tree | _measured(tree, value, None, 0) | (_against(tree, value, None, 0, 1.0) if comparable else {})
    keys = _different(cell.scores, measured.scores)
    scores = [score for key in keys for score in measured.scores.get(key, ()) if _is_of(score, cell)]
    return _accuracy(tree, scores, len(keys), comparable)


def _different(keys: Sequence[str], scores: Mapping[str, list[Score]]) -> Sequence[str]:
    """Return the first of several sets where no seed changes them, as of the images nearest to classes' means.

    Those have the same accuracies on all networks; networks at chance may have them on one.
    """
    each = [[(score.network, score.values) for score in scores.get(key, ())] for key in keys]
    return keys[:1] if each and each[0] and each.count(each[0]) == len(each) else keys


def _accuracy(tree: dict[str, Any], scores: Sequence[Score], sets: int, comparable: bool) -> dict[str, Any]:
    """Return a cell with the accuracy of so many sets: over all their networks, and tested over the means of sets."""
    own = [score for score in scores if score.step is None]
    if not own or len(own) < sets:
        return tree | {"missing": tree["missing"] or UNDONE}
    values = tested = own[0].mean, own[0].spread, own[0].networks
    if len(own) > 1:
        each, means = [value for score in own for value in score.values], [score.mean for score in own]
        values = statistics.fmean(each), statistics.stdev(each), len(each)
        tested = statistics.fmean(means), statistics.stdev(means), len(means)
        tree["sets"] = tuple(means)
    else:
        tree["values"] = own[0].values
    best = next((score.mean for score in scores if score.step is not None), None)
    beside = _against(tree, *tested, 100.0) if comparable else {}
    return tree | _measured(tree, *values) | beside | {"best": best, "protocol": own[0].protocol}


def placed(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells, with their places in the columns of plans of several sets; see `standings`.

    Rows of real images are placed by the networks of their one score. Each has a selection of its own where the seed
    changes it, as of random images and k-means; networks of one selection show less than sets differ.
    """
    columns: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        columns.setdefault((cell["plan"], cell["column"], cell["network"]), []).append(cell)
    for column in columns.values():
        if not any(cell.get("sets") for cell in column):
            continue
        rows = {cell["row"]: cell for cell in column if cell["mean"] is not None}
        for one in standings({name: cell.get("sets") or cell["values"] for name, cell in rows.items()}):
            rows[one.row] |= {"place": one.place, "behind": one.behind}
            if one.low is not None and one.high is not None:
                rows[one.row]["interval"] = (one.low, one.high)
    return cells


def _is_of(score: Score, cell: Cell) -> bool:
    if score.network != cell.network or score.part:
        return False
    if cell.kind != "distilled":
        return score.kind == cell.kind
    return score.requested or score.step is not None  # the best on test of kept steps


def _measured(tree: dict[str, Any], mean: float | None, std: float | None, count: int) -> dict[str, Any]:
    if mean is None:
        return {"missing": tree["missing"] or UNDONE}
    return {"mean": mean, "std": std, "networks": count}


def _against(tree: dict[str, Any], mean: float | None, std: float | None, count: int, unit: float) -> dict[str, Any]:
    """Return the difference from the published value, which is in another ``unit``, and its test."""
    if mean is None or tree["published"] is None:
        return {}
    values: dict[str, Any] = {"difference": unit * mean - tree["published"]}
    if std is not None and tree["published_std"] and count > 1:
        published = tree["published"], tree["published_std"], NETWORKS
        values["p"] = float(ttest_ind_from_stats(unit * mean, unit * std, count, *published, equal_var=False).pvalue)
    return values


def spent_before(path: Path, plans: Sequence[Plan], options: Options, out: str) -> Spent:
    """Return what earlier commands of a campaign took; refuse a folder that holds another campaign."""
    if not path.exists():
        return NOTHING_SPENT
    before = read_document(path, CampaignDocument, "name another --out")
    names = [str(plan["name"]) for plan in before.plans]
    now = ([plan.name for plan in plans], options.scale.name, options.seed, options.paper, dict(options.set))
    then = (names, before.scale, before.seed, before.paper, before.settings)
    if now != then:
        words = f"{', '.join(names)} at --scale {before.scale}, seed {before.seed}"
        raise ValueError(f"{out} holds another campaign ({words}); repeat it, or name another --out")
    if before.data is not None and before.data != options.paths:
        data = " ".join(f"--data {name}={where}" for name, where in before.data.items()) or "no --data"
        raise ValueError(f"{out} holds a campaign with {data}; give the same, or name another --out")
    return Spent(before.seconds, before.gpu_hours, before.commit)
