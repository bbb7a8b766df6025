"""What is done of a campaign: one small file a node of its graph."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from raydd.buffer.local_path import local_path
from raydd.campaigns.graph import Graph
from raydd.campaigns.table import Costs, Measured
from raydd.data.score_record import Score
from raydd.distillation.checkpoint import LOGS
from raydd.io.document import Document, Finite, Whole, read_document, read_log, validate, write_document

FOLDER = "nodes"


class NodeRecord(Document):
    """The file ``nodes/KEY.json`` of a node that is done."""

    key: str
    scores: tuple[dict[str, Any], ...] = ()
    ranking: dict[str, Finite | None] = Field(default_factory=dict)  # of a ranking: the correlation, by its top
    run_seconds: Finite | None = None  # of a distillation's steps
    memory_mb: Finite | None = None
    steps: Whole = 0


def write_record(folder: Path, record: NodeRecord) -> None:
    """Write the record of a node, whole or not at all."""
    path = folder / FOLDER / f"{record.key}.json"
    path.parent.mkdir(exist_ok=True)
    write_document(path, record.model_dump(mode="json"))


def read_records(folder: Path, graph: Graph, note: Callable[[str], None]) -> dict[str, NodeRecord]:
    """Return the records of a graph's nodes; ``note`` takes a line on a damaged one, whose node is done again."""
    records: dict[str, NodeRecord] = {}
    for key in (*graph.experts, *graph.distillations, *graph.scores):
        path = folder / FOLDER / f"{key}.json"
        if not path.exists():
            continue
        try:
            records[key] = read_document(path, NodeRecord, "it is done again")
        except ValueError as error:
            note(str(error))
    return records


def measured(records: Mapping[str, NodeRecord], failed: Mapping[str, str]) -> Measured:
    """Return the scores and costs of records, with the reasons of what failed."""
    scores = {
        key: [validate(Score, tree) for tree in record.scores] for key, record in records.items() if record.scores
    }
    costs = {
        key: Costs(record.run_seconds, record.memory_mb, record.steps)
        for key, record in records.items()
        if record.run_seconds is not None
    }
    rankings = {key: record.ranking for key, record in records.items() if record.ranking}
    return Measured(scores, costs, failed, rankings)


def on_gpu(place: Path | str) -> bool:
    """Return whether a run was on a GPU, from its logs."""
    memory = read_log(local_path(place) / "memory.jsonl", LOGS["memory.jsonl"], "distill it again")
    return any(row.get("device_mb") is not None for row in memory)


def run_costs(place: Path | str, steps: int) -> dict[str, Any]:
    """Return what a run took, from its logs."""
    folder = local_path(place)
    memory = read_log(folder / "memory.jsonl", LOGS["memory.jsonl"], "distill it again")
    peaks = [row.get("device_mb") or row.get("resident_mb") for row in memory]
    seconds = [float(row["seconds"]) for row in memory if row.get("seconds") is not None]
    peak = max((float(value) for value in peaks if value is not None), default=None)
    return {"run_seconds": max(seconds, default=None), "memory_mb": peak, "steps": steps}
