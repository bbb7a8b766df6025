"""The settings of a table's cells: of a row and a column, at a scale."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from raydd.campaigns.plan import Column, Plan, Row
from raydd.campaigns.scales import TRAIN, Scale, fewer_steps, shrink
from raydd.config.names import unknown
from raydd.config.parsing import Tree, build, merged
from raydd.config.presets import load_preset, preset_sizes
from raydd.config.schema import DataConfig, DistillConfig
from raydd.data.datasets import DATASETS
from raydd.methods import complete, find_method
from raydd.run.resolve import check_settings

KEPT_SCORES = 10
"""How many sets of a run are kept to be tested, where the best on test is asked for as papers report it."""


class Options(NamedTuple):
    """How a campaign runs its plans.

    Attributes:
        scale: The size.
        paths: Where the data sets are, by name; those without a path are found by their names.
        seed: Seed of every distillation.
        paper: Also keep and test steps of each run, as papers do.
        set: Settings over all others.
        rows: The rows that are done, by name; all where none is named.
    """

    scale: Scale
    paths: Mapping[str, str] = {}
    seed: int = 0
    paper: bool = False
    set: Mapping[str, Any] = {}
    rows: tuple[str, ...] = ()

    def does(self, row: str) -> bool:
        """Return whether a row is done."""
        return not self.rows or row in self.rows


def check_options(plans: Sequence[Plan], options: Options) -> None:
    """Refuse the name of a row that no plan has, and of a data set that none asks for.

    >>> from raydd.campaigns.plan import load_plan
    >>> from raydd.campaigns.scales import SCALES
    >>> check_options([load_plan("league")], Options(SCALES["cpu"], rows=("bppt",)))
    Traceback (most recent call last):
    ...
    ValueError: unknown row of league 'bppt': did you mean BPTT or AT-BPTT or RaT-BPTT?
    """
    where = plans[0].name if len(plans) == 1 else f"these {len(plans)} tables"
    columns = (options.scale.dataset or column.dataset for plan in plans for column in plan.columns)
    for what, names, known in (
        ("row", options.rows, (row for plan in plans for row in plan.rows)),
        ("data set", options.paths, columns),
    ):
        there = dict.fromkeys(known)
        for name in names:
            if name not in there:
                raise ValueError(unknown(f"{what} of {where}", name, there))


class MissingCell(ValueError):
    """A cell that no command gives; the message says why."""


def options_of(plan: Plan, options: Options) -> Options:
    """Return how a campaign runs a plan, which may have bounds of its own."""
    scale = options.scale
    if not scale.most:
        return options
    evaluation = dict(scale.evaluation) | ({"epochs": plan.epochs} if plan.epochs else {})
    seeds = plan.seeds if plan.sets > 1 else scale.seeds
    return options._replace(scale=scale._replace(most={**scale.most, **plan.most}, evaluation=evaluation, seeds=seeds))


def title_of(column: Column) -> str:
    """Return the name of a column with one ipc."""
    return column.title or f"{column.dataset}, ipc {column.ipc[0]}"


def distill_config(row: Row, column: Column, options: Options) -> DistillConfig:
    """Return the complete configuration of a cell's distillation.

    Raises:
        MissingCell: No settings are known.
    """
    scale, method = options.scale, str(row.method)
    dataset = scale.dataset or column.dataset
    ipc = min(column.ipc[0], scale.most.get("ipc", column.ipc[0]))
    stem = method if scale.dataset else row.preset or method
    shipped = {} if row.preset == "" else _preset(dataset, stem, ipc, column.preset, nearest=bool(scale.most))
    layers = [shipped, {"ipc": ipc, "seed": options.seed, "data": {"dataset": dataset}}]
    config = complete(build(DistillConfig, *layers, {"method": method, "threads": 1}, partial=True), partial=True)
    tree = config.model_dump(exclude_unset=True)
    part = find_method(method).ablation[row.ablation] if row.ablation else {}
    config = build(DistillConfig, tree, part, row.set, column.set, partial=True)
    published, tree = config, merged(config.model_dump(exclude_unset=True), shrink(config, scale))
    if dataset in options.paths:
        tree = merged(tree, {"data": {"dataset": options.paths[dataset]}})
    chosen: Tree = merged(row.exact, dict(options.set))
    if row.times > 1:
        ipc *= row.times
        check_images(dataset, ipc)
        chosen = {"ipc": ipc} | chosen
    steps = build(DistillConfig, tree, chosen).steps
    if options.paper:
        tree = merged(tree, {"keep_scored": True, "evaluate_every": max(1, steps // KEPT_SCORES)})
    config = build(DistillConfig, tree, fewer_steps(published, steps), chosen)
    check_settings(config)
    return config


def check_images(dataset: str, ipc: int) -> None:
    """Refuse more images a class than a data set has for training."""
    if dataset in TRAIN and ipc > TRAIN[dataset] * (1 - DataConfig().validation) / DATASETS[dataset].classes:
        raise MissingCell(f"{dataset} has fewer than {ipc} images a class")


def _preset(dataset: str, stem: str, ipc: int, like: int | None, *, nearest: bool) -> Tree:
    """Return a preset's values for an ipc: its own, or where the scale is smaller those of the nearest one."""
    sizes = preset_sizes(dataset, stem)
    if sizes is None:
        own = "" if dataset in DATASETS else "; preset: '' in the row takes the method's own"
        raise MissingCell(f"raydd ships no settings of {stem} for {dataset}{own}")
    wanted = like or ipc
    if sizes and wanted not in sizes:
        if not nearest:
            raise MissingCell(f"no settings of {stem} for {dataset} with ipc {wanted} are published")
        wanted = min(sizes, key=lambda size: (abs(size - wanted), size))
    return _load(dataset, stem, wanted)


_load = cache(load_preset)
