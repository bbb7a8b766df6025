"""The commands `raydd campaigns` and `raydd campaign`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydd.cli.flags import SET, Output, TrainingMachine, command, offer
from raydd.cli.output import lines_of, show
from raydd.cli.paths import output, writable
from raydd.config.names import absolute_dataset, check_name
from raydd.config.parsing import parse_settings

if TYPE_CHECKING:
    from raydd.campaigns.graph import Cell, Graph
    from raydd.campaigns.plan import Plan
    from raydd.campaigns.preview import Preview

app = typer.Typer()
ALL = "all"
_PLAN = "Names from `raydd campaigns`, the word all for every table of a paper, or plans of your own (YAML)."
_SCALE = "Size: paper (as published), cpu (narrow networks, few steps) or digits (few steps, small bundled images)."
_OUT = "Folder or URI; the same command resumes there. By default a folder below runs/."
_DATA = "Where a data set is, such as cifar10=/data/cifar10; may be repeated."
_ROW = "Only this row of the tables, by its name there; may be repeated."
_PAPER = "Also test ten sets of each run and report the best test accuracy, as papers do; that is optimistic."
_DRY = "Print what would be done, what is already done, and an estimate of time, disk and GPU hours."
_HOURS = "Start no new part after so many hours of this command; parts that run are finished."
_GPU_HOURS = "Start no new part after so many GPU hours of this command; parts that run are finished."
_SCALES = ("paper", "cpu", "digits")


@command(app, "raydd campaigns --missing", name="campaigns")
def campaigns(
    screen: Output,
    missing: Annotated[bool, typer.Option("--missing", help="Name the cells that raydd cannot run, and why.")] = False,
) -> None:
    """List the tables of papers that `raydd campaign` can reproduce."""
    from raydd.campaigns.cell_settings import Options
    from raydd.campaigns.graph import build_graph
    from raydd.campaigns.plan import PAPERS, campaigns as shipped, load_plan
    from raydd.campaigns.scales import find_scale

    plans = [load_plan(name) for name in shipped()]
    graph = build_graph(plans, Options(find_scale("paper")))
    rows = [_summary(plan, [cell for cell in graph.cells if cell.plan == plan.name]) for plan in plans]
    lines = ["ipc stands for images per class"]
    for paper in dict.fromkeys(plan.paper for plan in plans):
        lines += ["", f"{paper}: {PAPERS[paper]}"]
        lines += [line for row in rows if row["paper"] == paper for line in _lines(row, missing)]
    show(screen, {"campaigns": rows}, lines)


def _summary(plan: "Plan", cells: "Sequence[Cell]") -> dict[str, Any]:
    """Return the row of a plan; a cell without a published value is missed by nobody."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.missing and cell.published:
            reasons.setdefault((cell.row, cell.missing), []).append(cell.column)
    lacks = [{"row": row, "columns": columns, "why": why} for (row, why), columns in reasons.items()]
    top = {"name": plan.name, "paper": plan.paper, "table": plan.table, "title": plan.title}
    return top | {"cells": sum(not cell.missing for cell in cells), "missing": lacks}


def _lines(row: dict[str, Any], missing: bool) -> list[str]:
    count = sum(len(one["columns"]) for one in row["missing"])
    lines = [f"{row['name']:13} {row['cells']:4} cells{f', and {count} missing' if count else '':17} {row['title']}"]
    if missing:
        lines += [f"    {one['row']} ({_by_dataset(one['columns'])}): {one['why']}" for one in row["missing"]]
    return lines


def _by_dataset(columns: "Sequence[str]") -> str:
    """Return the names of columns, those of a data set together.

    >>> _by_dataset(["cifar10, ipc 1", "cifar10, ipc 10", "top 5"])
    'cifar10 ipc 1/10; top 5'
    """
    sizes: dict[str, list[str]] = {}
    for column in dict.fromkeys(columns):
        dataset, _, ipc = column.partition(", ipc ")
        sizes.setdefault(dataset, []).extend([ipc] if ipc else [])
    return "; ".join(f"{name} ipc {'/'.join(ipcs)}" if ipcs else name for name, ipcs in sizes.items())


@command(app, "raydd campaign tgdd_table4 --scale digits --out runs/tgdd_table4", main="scale out dry_run")
def campaign(  # noqa: PLR0913, PLR0917 - one a flag
    plans: Annotated[list[str], typer.Argument(metavar="PLAN", help=_PLAN)],
    where: TrainingMachine,
    screen: Output,
    scale: Annotated[str, typer.Option(help=_SCALE, autocompletion=offer(lambda: _SCALES))] = "paper",
    out: Annotated[str | None, typer.Option(help=_OUT, callback=writable)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY)] = False,
    data: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH", help=_DATA)] = None,
    row: Annotated[list[str] | None, typer.Option(metavar="NAME", help=_ROW)] = None,
    seed: Annotated[int, typer.Option(help="Seed of every distillation.")] = 0,
    paper: Annotated[bool, typer.Option("--paper", help=_PAPER)] = False,
    hours: Annotated[float | None, typer.Option(help=_HOURS)] = None,
    gpu_hours: Annotated[float | None, typer.Option(help=_GPU_HOURS)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET)] = None,
) -> None:
    """Reproduce tables of papers: experts, sets and scores of all cells, beside the published values.

    What several cells of the tables share, such as experts, is done once.
    """
    paths = dict(_path(word) for word in data or ())
    from raydd.campaigns.cell_settings import Options
    from raydd.campaigns.plan import load_plan, of_papers
    from raydd.campaigns.scales import find_scale

    names = [name for word in plans for name in (of_papers() if word == ALL else [word])]
    loaded = [load_plan(name) for name in dict.fromkeys(names)]
    options = Options(find_scale(scale), paths, seed, paper, parse_settings(settings or ()), tuple(row or ()))
    place = out or f"runs/{Path(plans[0]).stem}-{scale}"
    if dry_run:
        from raydd.campaigns.preview import preview

        _show_preview(screen, preview(loaded, options, place, where))
        return
    from raydd.api.campaign import CampaignIncomplete, campaign as run
    from raydd.campaigns.budget import Limits

    incomplete = ""
    try:
        document = run(loaded, place, options, limits=Limits(hours, gpu_hours), where=where, screen=screen)
    except CampaignIncomplete as error:
        document, incomplete = error.result, str(error)
    from raydd.figures.campaign import campaign_tables, missing_lines

    outputs = {"tables": output(place, "campaign.json")}
    show(
        screen,
        document | {"outputs": outputs},
        [*missing_lines(document), f"tables: {outputs['tables']}"],
        campaign_tables(document),
    )
    if incomplete:
        screen.note(f"raydd: {incomplete}")
        raise typer.Exit(1)


def _path(word: str) -> tuple[str, str]:
    name, equals, path = word.partition("=")
    if not equals:
        raise ValueError(f"--data {word!r} is not of the form NAME=PATH, such as cifar10=/data/cifar10")
    check_name("dataset", path)
    return name, absolute_dataset(path)


def _show_preview(screen: Any, plan: "Preview") -> None:
    graph: Graph = plan.graph
    hours = sum(plan.seconds.values()) / 3600
    of_papers = {cell.plan for cell in graph.cells if cell.published}
    missing = [cell for cell in graph.cells if cell.missing and (cell.published or cell.plan not in of_papers)]
    counts = {
        "cells": len(graph.cells),
        "missing": len(missing),
        "experts": sum(config.experts.num_experts for config in graph.experts.values()),
        "buffers": len(graph.experts),
        "distillations": len(graph.distillations),
        "scores": len(graph.scores),
        "trainings": sum(node.trainings for node in graph.scores.values()),
        "done": len(plan.done),
    }
    estimate = {"gpu_hours" if plan.gpu else "cpu_hours": round(hours, 2), "disk_gb": round(plan.disk / 1e9, 2)}
    document: dict[str, Any] = counts | {"estimate": estimate}
    document["graph"] = {
        "experts": {key: config.model_dump(mode="json") for key, config in graph.experts.items()},
        "distillations": {
            key: {"name": node.name, "experts": node.experts} for key, node in graph.distillations.items()
        },
        "scores": {key: graph.requirements(key) for key in graph.scores},
    }
    speed = "an assumed 10 TFLOP/s a GPU" if plan.gpu else "what one core of this machine does now"
    lines = [*lines_of(counts), *lines_of(estimate), f"estimated from operations counted, at {speed}"]
    show(screen, document, lines)
