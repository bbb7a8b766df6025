"""The graph of a campaign: the experts, distillations and scores that the cells of its tables need, each once."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from raydd.campaigns.cell_settings import MissingCell, Options, distill_config, options_of, title_of
from raydd.campaigns.plan import OWN, RANKING, WHOLE, Column, Plan, Published, Row, published_values
from raydd.campaigns.scales import Scale
from raydd.config.nas import NasConfig
from raydd.config.parsing import Tree, build
from raydd.config.schema import DistillConfig, EvaluateConfig, ExpertsConfig
from raydd.data.datasets import DATASETS
from raydd.evaluation.protocols import protocol_of
from raydd.io.document import digest
from raydd.models.spaces import SPACES
from raydd.run.resolve import needs_experts
from raydd.selection.coresets import BY_DISTANCE
from raydd.selection.starting_images import NEED_EXPERTS

T = TypeVar("T")
UNLIKE = {"preset", "memory", "checkpoint_every", "checkpoint_seconds"}
"""Settings on which no bit of a distillation depends."""


class Cell(NamedTuple):
    """A value of a table.

    Attributes:
        plan: The name of the plan.
        row: The row's name.
        column: The column's name.
        network: The scored network, as the scale has it.
        published: The published value.
        score: Key of the scores that have it; empty where it is missing.
        others: Keys of the scores of further sets.
        kind: ``distilled``, or the selection of real images.
        distillation: Key of the distillation that made the set; empty for real images.
        missing: Why no command gives it.
        top: Of a rank correlation: among how many architectures.
    """

    plan: str
    row: str
    column: str
    network: str
    published: Published | None
    score: str = ""
    kind: str = "distilled"
    distillation: str = ""
    missing: str = ""
    top: int = 0
    others: tuple[str, ...] = ()

    @property
    def scores(self) -> tuple[str, ...]:
        """The keys of the scores of all its sets."""
        return (self.score, *self.others) if self.score else ()


class Distillation(NamedTuple):
    """A synthetic set: its run's name and settings, and the key of its experts, empty without any."""

    name: str
    config: DistillConfig
    experts: str


class Scoring(NamedTuple):
    """Scores of a synthetic set, or of real images beside it.

    Attributes:
        distillation: Key of the set.
        config: The evaluation.
        experts: Key of the experts that are asked about images; empty where none are.
        relabel: Whether they give the set soft labels before.
        ranking: The architectures that the set ranks instead, with how they are trained.
    """

    distillation: str
    config: EvaluateConfig
    experts: str = ""
    relabel: bool = False
    ranking: NasConfig | None = None

    @property
    def trainings(self) -> int:
        """How many networks are trained; of a ranking each also on the real images."""
        if self.ranking is None:
            return self.config.seeds * len(self.config.networks)
        return self.ranking.sample or len(SPACES[self.ranking.space])


@dataclass
class Graph:
    """All that the cells need, by key, in the order in which the cells ask for it."""

    cells: list[Cell] = field(default_factory=list)
    experts: dict[str, ExpertsConfig] = field(default_factory=dict)
    distillations: dict[str, Distillation] = field(default_factory=dict)
    scores: dict[str, Scoring] = field(default_factory=dict)

    def requirements(self, key: str) -> tuple[str, ...]:
        """Return the keys of what a node needs directly."""
        if node := self.distillations.get(key):
            return (node.experts,) if node.experts else ()
        if score := self.scores.get(key):
            return (score.distillation, score.experts) if score.experts else (score.distillation,)
        return ()

    def all_requirements(self, keys: Iterable[str]) -> set[str]:
        """Return some keys, and those of all that their nodes need."""
        needed, rest = set[str](), [*keys]
        while rest:
            if (key := rest.pop()) not in needed:
                needed.add(key)
                rest += self.requirements(key)
        return needed

    def part(self, rows: Collection[str]) -> "Graph":
        """Return what some rows need; all where none is named."""
        if not rows:
            return self
        cells = [cell for cell in self.cells if cell.row in rows]
        needed = self.all_requirements(score for cell in cells for score in cell.scores)

        def needed_of(nodes: Mapping[str, T]) -> dict[str, T]:
            return {key: node for key, node in nodes.items() if key in needed}

        return Graph(cells, needed_of(self.experts), needed_of(self.distillations), needed_of(self.scores))


def build_graph(plans: Iterable[Plan], options: Options) -> Graph:
    """Return the graph of plans.

    Raises:
        ValueError: A row's settings are impossible.
    """
    graph = Graph()
    for plan in plans:
        values, own_options = published_values(plan), options_of(plan, options)
        for place, column in enumerate(plan.single_columns()):
            for name in plan.rows:
                networks = plan.networks
                own = values[name][place * len(networks) : (place + 1) * len(networks)]
                try:
                    graph.cells += _cells(graph, plan, name, column, own_options, own)
                except MissingCell as error:
                    graph.cells += [
                        Cell(plan.name, name, title_of(column), network, value, missing=str(error))
                        for network, value in zip(networks, own, strict=True)
                    ]
                except ValueError as error:
                    raise ValueError(f"campaign {plan.name}, {name}, {title_of(column)}: {error}") from None
    return graph


def _cells(
    graph: Graph, plan: Plan, name: str, column: Column, options: Options, published: list[Published | None]
) -> Iterator[Cell]:
    row, title = plan.rows[name], title_of(column)
    if row.missing is not None:
        raise MissingCell(row.missing)
    kind = "distilled" if row.method else str(row.real)
    carrier = name if row.method else _carrier(plan, column, options, asks=kind in NEED_EXPERTS | BY_DISTANCE)
    row_of_set = plan.rows[carrier] if carrier else Row(method="random", preset="")
    first = 0 if plan.league is None else 1  # the trials of a search have the campaign's own seed
    key = _add_distillation(graph, row_of_set, column, options, first)
    made_by = graph.distillations[key].config.experts.network
    if plan.measure == RANKING:
        score = _add_ranking(graph, plan, row, key, options)
        yield Cell(plan.name, name, title, "", published[0], score, kind, key, top=column.top or 0)
        return
    networks = [made_by if name == OWN else options.scale.networks.get(name, name) for name in plan.networks]
    config = _evaluation(plan, row, column, kind, networks, options)
    asks = kind in NEED_EXPERTS or row.relabel
    experts = graph.distillations[key].experts if asks or kind in BY_DISTANCE else ""
    if asks and not experts:
        raise MissingCell("it asks experts about the images, and no row of this column trains any")
    sets = [key]
    if kind == "distilled":
        sets += [_add_distillation(graph, row, column, options, first + number) for number in range(1, plan.sets)]
    scores = [_add_score(graph, Scoring(each, config, experts, row.relabel)) for each in sets]
    for network, value in zip(networks, published, strict=True):
        own = key if kind == "distilled" else ""
        yield Cell(plan.name, name, title, network, value, scores[0], kind, own, others=tuple(scores[1:]))


def _add_score(graph: Graph, scoring: Scoring) -> str:
    """Return the key of a set's scores."""
    parts = {"set": scoring.distillation, "config": scoring.config.model_dump(mode="json")}
    key = "s" + digest(parts | {"experts": scoring.experts, "relabel": scoring.relabel})[:11]
    graph.scores[key] = scoring
    return key


def _add_ranking(graph: Graph, plan: Plan, row: Row, key: str, options: Options) -> str:
    """Return the key of the ranking of architectures by a set, which is the same for all columns."""
    tops = tuple(dict.fromkeys(column.top for column in plan.columns))
    protocol = row.protocol or plan.protocol
    values: Tree = {"protocol": protocol, "split": "test", "baselines": (), "top": tops, "seed": options.seed}
    config = build(NasConfig, values, dict(options.scale.ranking))
    score = "r" + digest({"set": key, "config": config.model_dump(mode="json")})[:11]
    network = graph.distillations[key].config.experts.network
    tree: Tree = {"networks": (network,), "seeds": 1, "protocol": protocol, "real_epochs": config.real_epochs}
    graph.scores[score] = Scoring(key, build(EvaluateConfig, tree | {"epochs": config.epochs}), ranking=config)
    return score


def _carrier(plan: Plan, column: Column, options: Options, *, asks: bool) -> str:
    """Return the row whose set real images stand beside: they have its size, network and preprocessing.

    It is one with experts, where the selection ``asks`` them, without settings of its own, of the plan's protocol,
    under which its networks need not be trained again, and of the column's size; "" where no row has a set.
    """
    possible: dict[str, tuple[bool, bool, bool, bool]] = {}
    for name, row in plan.rows.items():
        if row.method and row.missing is None:
            try:
                config = distill_config(row, column, options)
            except ValueError:  # missing, or impossible, which that row's own cell says
                continue
            without, larger = asks and not needs_experts(config), config.ipc > column.ipc[0]
            possible[name] = without, bool(row.set), row.protocol is not None, larger
    return min(possible, key=lambda name: possible[name], default="")


def _evaluation(
    plan: Plan, row: Row, column: Column, kind: str, networks: list[str], options: Options
) -> EvaluateConfig:
    scale = options.scale
    epochs = {key: value for key, value in scale.evaluation.items() if key != "real_epochs"}
    real = scale.evaluation.get("real_epochs") if kind == WHOLE else 0
    config = build(
        EvaluateConfig,
        {
            "networks": tuple(dict.fromkeys(networks)),
            "seeds": min(plan.seeds, scale.seeds),
            "protocol": row.protocol or plan.protocol,
            "baselines": () if kind in ("distilled", WHOLE) else (kind,),
            "real_epochs": real,
            "paper": options.paper and kind == "distilled",
        },
        epochs,
    )
    return config if row.times == 1 else config.model_copy(update=_as_many_steps(config, row, column, scale))


def _as_many_steps(config: EvaluateConfig, row: Row, column: Column, scale: Scale) -> Tree:
    """Return the epochs and the batches by which networks see ``row.times`` the images of a column in its steps."""
    dataset, (ipc,) = scale.dataset or column.dataset, column.ipc
    if row.method is None:
        raise ValueError(f"times = {row.times} is of a row with a method, such as random")
    if (data := DATASETS.get(dataset)) is None:
        raise ValueError(f"times = {row.times} needs the number of classes, which {dataset} does not say; use exact")
    protocol = protocol_of(config).on(dataset, ipc)
    if protocol.epochs < row.times:
        raise ValueError(f"times = {row.times} leaves less than one of {protocol.epochs} epochs; lower it")
    return {"epochs": protocol.epochs // row.times, "batch_size": min(protocol.batch_size, ipc * data.classes)}


def experts_key(config: ExpertsConfig) -> str:
    """Return the key of a buffer."""
    return "e" + digest(config.model_dump(mode="json"))[:11]


def _add_distillation(graph: Graph, row: Row, column: Column, options: Options, number: int) -> str:
    """Return the key of a row's distillation, whose seed is ``number`` after the campaign's; all share experts."""
    config = distill_config(row, column, options)
    experts = ""
    if needs_experts(config):
        wanted = ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)
        experts = experts_key(wanted)
        graph.experts.setdefault(experts, wanted)
    config = config.model_copy(update={"seed": config.seed + number})
    key = "d" + digest(config.model_dump(mode="json", exclude=UNLIKE))[:11]
    name = f"{Path(config.data.dataset).name}-{config.method}-ipc{config.ipc}-{key[1:]}"
    graph.distillations.setdefault(key, Distillation(name, config, experts))
    return key
