"""Find, read and check search spaces. Shipped spaces are files of ``tune_spaces/``; a user's space is a path."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raydd.config.names import PLUGIN_SPACES, absolute_dataset, find_space
from raydd.config.parsing import Tree, build, flat, merged
from raydd.config.schema import DistillConfig
from raydd.io.safe_yaml import read_yaml
from raydd.numerics.rng import generator
from raydd.tuning.plan import METRICS
from raydd.tuning.population import check_changeable
from raydd.tuning.space import Space

FIXED = (
    *("method", "seed", "threads", "preset", "window.auto"),
    *("data.dataset", "data.validation", "data.size", "data.channels"),
    *("checkpoint_every", "checkpoint_seconds", "evaluate_every", "evaluate_networks", "evaluate_epochs"),
    *("probe_every", "memory"),
)
"""Settings that cannot be searched: they change what a score means, or nothing at all."""


def load_space(name: str | Path) -> Space:
    """Read and check a space.

    Args:
        name: Of a space that is shipped or a plugin has, or a path of a YAML file.

    Returns:
        The space, which is known to be searchable.

    Raises:
        ValueError: In one line, naming the file, the key and the remedy.

    >>> space = load_space("datm_digits")
    >>> space.method, space.dataset, space.budget.samples
    ('datm', 'digits', 32)
    """
    path = find_space(name)
    if path is None:
        return make_space({"name": name} | PLUGIN_SPACES[str(name)], f"space {name}")
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ValueError(f"{path} is not a mapping; a space has lines such as 'method: datm' and 'domains:'")
    return make_space({"name": path.stem} | tree, str(path))


def make_space(tree: Mapping[str, Any], source: str = "space") -> Space:
    """Build and check a space."""
    try:
        space = build(Space, tree)
        check_space(space)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return space


def check_space(space: Space) -> None:
    """Refuse a space that cannot be searched."""
    _check_plan(space)
    _check_fixed(space.config({}))
    known = space.settings({})
    for key in space.domains:
        if key in FIXED:
            raise ValueError(f"domains.{key}: trials that differ in it cannot be compared; move it to set")
        _check_known([key], known, f"domains.{key}")
    order = list(space.domains)
    for key, condition in space.conditions.items():
        _check_known(condition.names, known, f"domains.{key}.when")
        for name in set(condition.names) & set(order[order.index(key) :]):
            raise ValueError(f"domains.{key}.when uses {name}, which is drawn later; put {name} above {key}")
    for rule in space.rules:
        _check_known(rule.names, known, f"constraint {rule.text!r}")
    _check_values(space)
    if space.search.algorithm == "grid":
        if not space.grid():
            raise ValueError(
                f"constraints: no point of the grid fulfils {' and '.join(space.constraints)}; widen the domains"
            )
    else:
        space.sample(generator(space.seed, "check"))


def _check_plan(space: Space) -> None:
    if not space.domains:
        raise ValueError("domains is empty; name at least one setting to search")
    for metric in space.metrics:
        if metric not in METRICS:
            raise ValueError(f"metrics: {metric!r} is unknown; use {' and '.join(METRICS)}")
    if space.metrics[:1] != ("accuracy",) or len(set(space.metrics)) != len(space.metrics):
        raise ValueError(f"metrics: {list(space.metrics)}; start with accuracy, and name each metric once")
    _check_scheduler(space)
    algorithm = space.search.algorithm
    if space.budget.samples is None and algorithm != "grid":
        raise ValueError(f"budget.samples: {algorithm} needs a number of trials, such as 16")
    first = space.search.first
    if isinstance(first, dict):
        _check_known(first, space.domains, "search.first")


def _check_fixed(config: DistillConfig) -> None:
    if not config.data.validation:
        raise ValueError("data.validation = 0 leaves no images to compare trials with; use --set data.validation=0.1")
    if config.window.auto:
        raise ValueError("window.auto = True: trials do not search their own window; search window.high instead")


def _check_scheduler(space: Space) -> None:
    name, algorithm = space.scheduler.name, space.search.algorithm
    if name != "none" and len(space.metrics) > 1:
        raise ValueError(f"scheduler.name: {name} uses one metric, and here are {len(space.metrics)}; use none")
    if name == "pbt" and algorithm != "random":
        raise ValueError(f"search.algorithm: pbt perturbs settings itself and does not use {algorithm}; use random")
    if name == "pbt":
        check_changeable(space)


def _check_known(names: Iterable[str], known: Mapping[str, Any], source: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "use dotted names such as window.low or lr.images"
            raise ValueError(f"{source}: unknown setting {name!r}; {hint}")


def _check_values(space: Space) -> None:
    """Refuse values that their setting does not accept."""
    for key, domain in space.narrowed.items():
        for value in domain.choice if domain.choice is not None else (domain.low, domain.high):
            try:
                space.config({key: value})
            except ValueError as error:
                raise ValueError(f"domains.{key}: {error}") from None
            if isinstance(value, dict):
                raise ValueError(f"domains.{key}: {value} has values of several settings; search each by its name")


def with_settings(space: Space, settings: Tree) -> Space:
    """Return the space with settings fixed, which are then no longer searched, and check it again."""
    changed = space.with_settings(settings)
    check_space(changed)
    return changed


def with_absolute_paths(space: Space) -> Space:
    """Return the space with absolute paths, because workers run in other folders."""
    paths = {"preset": space.preset, "buffer": space.buffer}
    changed: Tree = {key: str(Path(path).absolute()) for key, path in paths.items() if path and Path(path).exists()}
    changed["dataset"] = absolute_dataset(space.dataset)
    if isinstance(data := flat(space.set).get("data.dataset"), str):
        changed["set"] = merged(space.set, {"data": {"dataset": absolute_dataset(data)}})
    return space.model_copy(update=changed)
