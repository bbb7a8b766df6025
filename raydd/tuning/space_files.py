"""Finding and reading search spaces, and refusing those that cannot be searched.

Shipped spaces are files of ``tune_spaces/``; a user's is a path.
"""

import difflib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from raydd.config.parsing import Tree, build, flat, merged
from raydd.config.schema import DistillConfig
from raydd.data.datasets import absolute_dataset
from raydd.io.safe_yaml import read_yaml
from raydd.numerics.rng import generator
from raydd.run.families import check_method
from raydd.tuning.plan import METRICS
from raydd.tuning.population import check_changeable
from raydd.tuning.space import Space

FIXED = (
    *("method", "seed", "threads", "preset", "window.auto"),
    *("data.dataset", "data.validation", "data.size", "data.channels"),
    *("checkpoint_every", "checkpoint_seconds", "evaluate_every", "evaluate_networks", "evaluate_epochs"),
    "probe_every",
)
"""Settings that decide what a score means, or none at all: trials that differ in them could not be compared."""


def folder() -> Path:
    """Where the shipped spaces are: in the package, or beside it in a source tree."""
    packaged = Path(str(resources.files("raydd"))) / "tune_spaces"
    return packaged if packaged.is_dir() else packaged.parents[1] / "tune_spaces"


def shipped_spaces() -> list[str]:
    """The names of the shipped spaces."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def load_space(name: str | Path) -> Space:
    """Read a space and check it.

    Args:
        name: Of a shipped space, or a path of a YAML file.

    Returns:
        The space, which is known to be searchable.

    Raises:
        ValueError: In one line, naming the file, the key and the remedy.

    >>> space = load_space("datm_digits")
    >>> space.method, space.dataset, space.budget.samples
    ('datm', 'digits', 32)
    """
    path = folder() / f"{name}.yaml"
    if not str(name).isidentifier() or not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = shipped_spaces()
        near = difflib.get_close_matches(str(name), known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"shipped are {', '.join(known)}"
        raise ValueError(f"--space {str(name)!r} is neither shipped nor a YAML file; {hint}")
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds no mapping; a space needs lines such as 'method: datm' and 'domains:'")
    return make_space({"name": path.stem} | tree, str(path))


def make_space(tree: Mapping[str, Any], source: str = "space") -> Space:
    """A space from nested values, checked.

    Args:
        tree: As in a YAML file.
        source: What an error names first.

    Raises:
        ValueError: In one line, naming the source, the key and the remedy.
    """
    try:
        space = build(Space, tree)
        check_space(space)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return space


def check_space(space: Space) -> None:
    """Refuse what cannot be searched.

    Raises:
        ValueError: Naming the key, what is wrong and the remedy.
    """
    _check_plan(space)
    _check_fixed(space.config({}))
    known = space.settings({})
    for key in space.domains:
        if key in FIXED:
            raise ValueError(f"domains.{key}: trials that differ in it cannot be compared; put it under set")
        _check_known([key], known, f"domains.{key}")
    order = list(space.domains)
    for key, condition in space.conditions.items():
        _check_known(condition.names, known, f"domains.{key}.when")
        for name in set(condition.names) & set(order[order.index(key) :]):
            raise ValueError(f"domains.{key}.when speaks of {name}, which is drawn later; put {name} above {key}")
    for rule in space.rules:
        _check_known(rule.names, known, f"constraint {rule.text!r}")
    _check_values(space)
    if space.search.algorithm == "grid":
        if not space.grid():
            raise ValueError(f"constraints: no point of the grid holds {' and '.join(space.constraints)}; widen it")
    else:
        space.sample(generator(space.seed, "check"))


def _check_plan(space: Space) -> None:
    if not space.domains:
        raise ValueError("domains is empty; name at least one setting to search")
    for metric in space.metrics:
        if metric not in METRICS:
            raise ValueError(f"metrics: {metric!r} is unknown; use {' and '.join(METRICS)}")
    if space.metrics[:1] != ("accuracy",) or len(set(space.metrics)) != len(space.metrics):
        raise ValueError(f"metrics: {list(space.metrics)}; begin with accuracy, and name each once")
    _check_scheduler(space)
    algorithm = space.search.algorithm
    if space.budget.samples is None and algorithm != "grid":
        raise ValueError(f"budget.samples: {algorithm} needs a number of trials, such as 16")
    first = space.search.first
    if isinstance(first, dict):
        _check_known(first, space.domains, "search.first")


def _check_fixed(config: DistillConfig) -> None:
    if not config.data.validation:
        raise ValueError("data.validation = 0 leaves no images to compare trials by; use --set data.validation=0.1")
    check_method(config)
    if config.window.auto:
        raise ValueError("window.auto = True: no trial looks for a window of its own; search window.high instead")


def _check_scheduler(space: Space) -> None:
    name, algorithm = space.scheduler.name, space.search.algorithm
    if name != "none" and len(space.metrics) > 1:
        raise ValueError(f"scheduler.name: {name} goes by one metric, and here are {len(space.metrics)}; use none")
    if name == "pbt" and algorithm != "random":
        raise ValueError(f"search.algorithm: pbt changes settings by itself, not by {algorithm}; use random")
    if name == "pbt":
        check_changeable(space)


def _check_known(names: Iterable[str], known: Mapping[str, Any], place: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "use dotted names such as window.low or lr.images"
            raise ValueError(f"{place}: unknown setting {name!r}; {hint}")


def _check_values(space: Space) -> None:
    """Refuse values that their setting does not take."""
    for key, domain in space.narrowed.items():
        for value in domain.choice if domain.choice is not None else domain.ends():
            try:
                space.config({key: value})
            except ValueError as error:
                raise ValueError(f"domains.{key}: {error}") from None
            if isinstance(value, dict):
                raise ValueError(f"domains.{key}: {value} is no value of one setting; search its parts")


def with_settings(space: Space, settings: Tree) -> Space:
    """The space with settings fixed, checked again; what is fixed is searched no more.

    Raises:
        ValueError: Nothing is left to search, or the constraints leave nothing.
    """
    changed = space.with_settings(settings)
    check_space(changed)
    return changed


def anywhere(space: Space) -> Space:
    """The space with its paths made absolute, since workers run elsewhere; relative ones are of this folder."""
    paths = {"preset": space.preset, "buffer": space.buffer}
    changed: Tree = {key: str(Path(path).absolute()) for key, path in paths.items() if path and Path(path).exists()}
    changed["dataset"] = absolute_dataset(space.dataset)
    if isinstance(data := flat(space.set).get("data.dataset"), str):
        changed["set"] = merged(space.set, {"data": {"dataset": absolute_dataset(data)}})
    return space.model_copy(update=changed)
