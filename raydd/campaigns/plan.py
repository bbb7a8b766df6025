"""The plan of a campaign: a paper's table, with the published values. One YAML a table."""

import difflib
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from raydd.campaigns.scales import SCALES
from raydd.config.components import Count, Positive
from raydd.config.names import check_name
from raydd.config.parsing import Config, Tree, build, undotted
from raydd.io.safe_yaml import parse_yaml, read_yaml
from raydd.methods import find_method
from raydd.selection.coresets import CORESETS

WHOLE, OWN, OURS = "whole", "own", "raydd"
RANKING = "rank correlation"
PAPERS = {
    "AST": "Shen et al., arXiv 2310.10541",
    "DATM": "Guo et al., arXiv 2310.05773",
    "DPD": "Cao et al., PMLR 304:415-430, 2025",
    "MCT": "Zhong et al., arXiv 2406.19827",
    "TGDD": "Ran et al., arXiv 2512.02469",
    OURS: "comparisons of raydd's own, without published values",
}
"""The papers of the shipped plans, by the name that ``Plan.paper`` has."""
_VALUE = re.compile(r"(\d+(?:\.\d+)?)(?:±(\d+(?:\.\d+)?))?")
_NAME = re.compile(r"[\w-]{1,80}")


class League(Config):
    """Equal compute for the methods of a table.

    Attributes:
        seconds: By scale: the seconds of one worker, a CPU core or a GPU, that each method has for its experts, which
            count once and in full, for its trials and for its sets.
        trials: Distillations with other settings, of which the best on held-out images gives the settings of the sets.
    """

    seconds: dict[str, Positive]
    trials: Count = 6


class Row(Config):
    """A row of a table.

    Attributes:
        method: The method that distills its sets.
        real: A selection of real images in place of a method, or ``whole`` for all training images.
        preset: Stem of the preset's file, such as ``tgdd-official``; the method's by default, and none if it is empty.
        ablation: A row of the method's ablation, by name.
        set: Settings over the preset's.
        relabel: Give the finished set soft labels, by an expert's last snapshot.
        protocol: The recipe that trains its networks; the plan's by default.
        missing: Why raydd has no such row.
        search: Settings that are searched where the plan has a ``league``, and their domains: those of a search space,
            or ``times: 10``, from a tenth of the row's own value to ten times it.
        exact: Settings over those of the scale.
        times: How many times the column's images it has, which its networks see in as many steps: their batches are as
            large as the column's sets, and their epochs as many times fewer.
    """

    method: str | None = None
    real: str | None = None
    preset: str | None = None
    ablation: str | None = None
    set: Tree = Field(default_factory=dict)
    relabel: bool = False
    protocol: str | None = None
    missing: str | None = None
    search: Tree = Field(default_factory=dict)
    exact: Tree = Field(default_factory=dict)
    times: Count = 1


class Column(Config):
    """A column of a table, or several that differ in their ipc.

    Attributes:
        dataset: The data set, which selects the presets.
        ipc: Synthetic images per class.
        title: What the column is called; its data set and ipc by default.
        preset: The ipc whose values of the preset the column takes; its own by default.
        top: Of a rank correlation: among how many architectures, those that the set ranks best.
        set: Settings over those of the row.
    """

    dataset: str = "cifar10"
    ipc: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    title: str | None = None
    preset: Count | None = None
    top: Count | None = None
    set: Tree = Field(default_factory=dict)


class Plan(Config):
    """A table to reproduce.

    Attributes:
        name: The stem of its file.
        title: What the table shows.
        paper: The paper, such as TGDD.
        table: Its number there, such as Table 1.
        rows: The rows, by the name that the paper gives them.
        columns: The columns, from left to right.
        measure: What a cell has: the accuracy on test images in percent, the seconds of an outer step, or a rank
            correlation.
        networks: Networks that each set is scored on; ``own``, the default, is the one that it was distilled with.
        seeds: Networks trained a score.
        sets: Sets of a method, by distillations of other seeds from the same experts; with a ``league`` of seeds that
            its searches have not.
        league: Equal compute for all methods, with a search of each one's settings.
        most: At a scale smaller than the paper's: largest values of settings, by dotted name, in place of its own.
        epochs: At such a scale: epochs of the networks that are trained on sets.
        protocol: The recipe that trains them.
        published: By row: the published values, as ``46.3±0.8``, or ``-`` where there is none. They
            stand in the order of the columns, and of the networks in each column.
        notes: What a reader should know about the published values.
    """

    name: str = "campaign"
    title: str
    paper: str = ""
    table: str = ""
    rows: Annotated[dict[str, Row], Field(min_length=1)]
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]
    measure: Literal["accuracy", "seconds", "rank correlation"] = "accuracy"
    networks: Annotated[tuple[str, ...], Field(min_length=1)] = (OWN,)
    seeds: Count = 5
    sets: Count = 1
    league: League | None = None
    most: dict[str, Count] = Field(default_factory=dict)
    epochs: Count | None = None
    protocol: str = "mtt"
    published: dict[str, str] = Field(default_factory=dict)
    notes: str = ""

    def single_columns(self) -> list[Column]:
        """Return the columns, each with one ipc."""
        return [column.model_copy(update={"ipc": (ipc,)}) for column in self.columns for ipc in column.ipc]


class Published(NamedTuple):
    """A published value, of an accuracy in percent, with its standard deviation if the paper has one."""

    mean: float
    std: float | None = None


def campaigns() -> list[str]:
    """Return the names of the shipped plans."""
    return sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml"))


def of_papers() -> list[str]:
    """Return the names of the shipped plans that are tables of papers."""
    return [name for name in campaigns() if load_plan(name).paper != OURS]


def load_plan(name: str) -> Plan:
    """Return a plan.

    Args:
        name: Of a shipped one, or the path of a YAML file.

    Raises:
        ValueError: In one line, naming the plan, the key and the remedy.

    >>> plan = load_plan("tgdd_table4")
    >>> plan.paper, len(plan.single_columns())
    ('TGDD', 4)
    """
    shipped = _folder() / f"{name}.yaml"
    if _NAME.fullmatch(name) and shipped.is_file():
        return _shipped(name)
    path = Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, campaigns(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"shipped plans are {', '.join(campaigns())}"
        raise ValueError(f"campaign {name!r} is neither a shipped plan nor a YAML file; {hint}")
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ValueError(f"{path} is not a mapping; a plan has lines such as 'title:', 'rows:' and 'columns:'")
    return make_plan({"name": path.stem} | tree, str(path))


def make_plan(tree: Tree, source: str) -> Plan:
    """Build and check a plan."""
    try:
        plan = build(Plan, tree | {"rows": _rows(tree.get("rows")), "columns": _columns(tree.get("columns"))})
        for name, row in plan.rows.items():
            _check_row(name, row)
            if row.search and plan.league is None:
                raise ValueError(f"rows.{name}.search needs league, with the seconds of each method; add it")
        for column in plan.columns:
            check_name("dataset", column.dataset)
            if (plan.measure == RANKING) != (column.top is not None):
                raise ValueError(f"measure: {plan.measure}: every column of a {RANKING} needs top, and no other has it")
        for network in {*plan.networks} - {OWN}:
            check_name("network", network)
        for protocol in {plan.protocol, *(row.protocol for row in plan.rows.values() if row.protocol)}:
            check_name("protocol", protocol)
        if unknown := plan.most.keys() - SCALES["cpu"].most.keys():
            raise ValueError(f"most.{min(unknown)} is no bound of a scale; use some of {', '.join(SCALES['cpu'].most)}")
        published_values(plan)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return plan


def published_values(plan: Plan) -> dict[str, list[Published | None]]:
    """Return the published values of every row, in the order of columns and networks.

    >>> published_values(load_plan("tgdd_table4"))["DM"][0]
    Published(mean=55.2, std=0.2)
    """
    count, values = len(plan.single_columns()) * len(plan.networks), {}
    for name in plan.published:
        if name not in plan.rows:
            raise ValueError(f"published.{name}: there is no such row; name one of {', '.join(plan.rows)}")
    for name in plan.rows:
        words = plan.published.get(name, " ".join("-" * count)).split()
        if len(words) != count:
            raise ValueError(f"published.{name} has {len(words)} values for {count} columns; - stands for none")
        values[name] = [_published(name, word) for word in words]
    return values


def _published(name: str, word: str) -> Published | None:
    if word == "-":
        return None
    if not (match := _VALUE.fullmatch(word)):
        raise ValueError(f"published.{name}: {word!r} is no value; write one as 46.3±0.8, 46.3 or -")
    return Published(float(match[1]), None if match[2] is None else float(match[2]))


def _check_row(name: str, row: Row) -> None:
    if [row.method, row.real, row.missing].count(None) != 2:
        raise ValueError(f"rows.{name} needs one of method, real and missing")
    if row.real is not None and row.real not in (WHOLE, *CORESETS):
        raise ValueError(f"rows.{name}.real: {row.real!r} is unknown; use one of {WHOLE}, {', '.join(CORESETS)}")
    if row.method is None:
        return
    method = find_method(row.method)
    if row.ablation is not None and row.ablation not in method.ablation:
        known = ", ".join(method.ablation) or "none"
        raise ValueError(f"rows.{name}.ablation: {row.ablation!r} is no row of {row.method}'s; it has {known}")


def _rows(tree: Any) -> Any:
    """Return rows with their short forms written out: a method's name, or a real selection's."""
    if not isinstance(tree, dict):
        return tree
    return {name: _long(row) for name, row in tree.items()}


def _long(row: Any) -> Any:
    if isinstance(row, str):
        return {"real": row} if row in (WHOLE, *CORESETS) else {"method": row}
    return _undotted(row)


def _columns(tree: Any) -> Any:
    if not isinstance(tree, list):
        return tree
    columns = [_undotted(column) for column in tree]
    return [
        column | {"ipc": [column["ipc"]]} if isinstance(column, dict) and isinstance(column.get("ipc"), int) else column
        for column in columns
    ]


def _undotted(tree: Any) -> Any:
    """Return a row or a column whose settings may have dotted names."""
    if not isinstance(tree, dict):
        return tree
    return tree | {key: undotted(tree[key]) for key in ("set", "exact") if isinstance(tree.get(key), dict)}


def _folder() -> Any:
    return resources.files("raydd") / "campaigns" / "plans"


@cache
def _shipped(name: str) -> Plan:
    tree = parse_yaml((_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    return make_plan({"name": name} | tree, f"campaign {name}")
