"""A search space: the distillation, the searched settings, the search algorithm and the budget. One YAML per space."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator

from raydd.config.components import Count
from raydd.config.parsing import Config, Tree, build, flat, merged, nested, undotted
from raydd.config.presets import expand_preset, load_preset
from raydd.config.schema import DistillConfig
from raydd.data.datasets import DATASETS
from raydd.methods import complete
from raydd.numerics.rng import generator
from raydd.tuning.domains import Domain
from raydd.tuning.expressions import Expression, parse
from raydd.tuning.plan import METRICS, Budget, Scheduler, SearchSettings

ATTEMPTS = 10_000
MAX_POINTS = 100_000
MAX_DOMAINS = 100


class Space(Config):
    """A search space.

    Attributes:
        name: The stem of its file.
        method: A name of `raydd.METHODS`.
        dataset: The data set, which selects the preset; ``data.dataset`` in ``set`` may be another path of its images.
        ipc: Synthetic images per class; may be searched, and the preset follows it.
        preset: Another preset, shipped or a file; None takes that of the data set and the method.
        buffer: Experts, a folder or a URI; None takes the cache's.
        set: Settings that override the preset's.
        domains: The searched settings, by dotted name.
        constraints: Conditions that every trial's settings fulfil.
        metrics: ``accuracy``, or ``accuracy`` and ``seconds``, which searches for a Pareto front.
        search: How values are proposed.
        scheduler: How trials are stopped early.
        budget: Number and length of trials.
        seed: Determines every draw of the search and of each trial.
    """

    name: str = "space"
    method: str = "mtt"
    dataset: str = "digits"
    ipc: Count = 1
    preset: str | None = None
    buffer: str | None = None
    set: Tree = Field(default_factory=dict)
    domains: Annotated[dict[str, Domain], Field(max_length=MAX_DOMAINS)]
    constraints: Annotated[tuple[str, ...], Field(max_length=MAX_DOMAINS)] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    search: SearchSettings = SearchSettings()
    scheduler: Scheduler = Scheduler()
    budget: Budget = Budget()
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _without_dots(cls, tree: Any) -> Any:
        """Accept dotted keys everywhere, as in ``--set``: ``budget.samples``, ``experts.epochs`` below ``set``."""
        if not isinstance(tree, Mapping):
            return tree
        nested_tree = undotted(tree, whole={"domains"})
        search = nested_tree.get("search")
        if isinstance(search, Mapping) and isinstance(search.get("first"), Mapping):
            nested_tree["search"] = {**search, "first": flat(search["first"])}
        return nested_tree

    @property
    def directions(self) -> dict[str, Literal["max", "min"]]:
        """Whether each metric is maximised or minimised."""
        return {name: METRICS[name] for name in self.metrics}

    @cached_property
    def rules(self) -> tuple[Expression, ...]:
        """The parsed constraints."""
        return tuple(parse(text) for text in self.constraints)

    @cached_property
    def conditions(self) -> dict[str, Expression]:
        """The parsed conditions, by the setting that is searched only under one."""
        return {key: parse(domain.when) for key, domain in self.domains.items() if domain.when is not None}

    @cached_property
    def narrowed(self) -> dict[str, Domain]:
        """The domains without the ends that the constraints exclude.

        Raises:
            ValueError: A domain is empty then.
        """
        if "ipc" in self.domains:  # the fixed settings then differ between trials
            return dict(self.domains)
        settings = self.settings({})
        bounds = {key: self._extent(key, settings) for key in self.domains}
        numbers = {key: ends for key, ends in bounds.items() if ends is not None}
        whole = {key for key in numbers if self.domains[key].whole}
        for _ in range(len(self.rules) * len(numbers) + 1):
            before = dict(numbers)
            for rule in self.rules:
                numbers = rule.narrow(numbers, settings, whole)
            if numbers == before:
                break
        narrowed = dict(self.domains)
        for key, (low, high) in numbers.items():
            left = self.domains[key].within(low, high)
            if left is None:
                raise ValueError(f"domains.{key}: {self._impossible(key)}")
            narrowed[key] = left
        return narrowed

    def _extent(self, key: str, settings: Mapping[str, Any]) -> tuple[float, float] | None:
        """Return the smallest and the largest value of a searched setting, with its fixed value under a condition."""
        ends, usual = self.domains[key].extent(), settings[key]
        if ends is None or key not in self.conditions:
            return ends
        return (min(ends[0], usual), max(ends[1], usual)) if isinstance(usual, int | float) else None

    def _impossible(self, key: str) -> str:
        rules = [rule for rule in self.rules if key in rule.names]
        settings = self.settings({})
        others = dict.fromkeys(name for rule in rules for name in rule.names if name not in self.domains)
        fixed = ", ".join(f"{name} = {settings[name]}" for name in others)
        text = "no value is left under " + " and ".join(repr(rule.text) for rule in rules)
        return text + (f" with {fixed}" if fixed else "") + "; widen the domain, or change the other settings"

    @cached_property
    def _bases(self) -> dict[int, tuple[DistillConfig, dict[str, Any]]]:
        return {}

    def _base(self, ipc: int) -> tuple[DistillConfig, dict[str, Any]]:
        if ipc not in self._bases:
            base = self.config({"ipc": ipc})
            self._bases[ipc] = base, flat(base)
        return self._bases[ipc]

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings of a trial by dotted name."""
        return self._base(values.get("ipc", self.ipc))[1] | dict(values)

    def config(self, values: Mapping[str, Any]) -> DistillConfig:
        """Return the complete configuration of a trial.

        A trial uses one thread, and is scored ``budget.reports`` times at most, unless ``set`` changes that.

        Raises:
            ValueError: A setting does not accept a value.
        """
        ipc = values.get("ipc", self.ipc)
        preset = expand_preset(self.preset, ipc) if self.preset else load_preset(self.dataset, self.method, ipc)
        own: Tree = {"method": self.method, "ipc": ipc, "seed": self.seed, "data": {"dataset": self.dataset}}
        layers = ({"threads": 1}, preset, own, self.set, nested(values))
        config = complete(build(DistillConfig, *layers, partial=True), partial=True)
        if "evaluate_every" in config.model_fields_set and config.evaluate_every is not None:
            return config
        every = max(1, math.ceil(config.steps / self.budget.reports))
        return build(DistillConfig, config.model_dump(exclude_unset=True), {"evaluate_every": every}, partial=True)

    def reports(self, values: Mapping[str, Any]) -> int:
        """Return how often a trial is scored: at every due step and at the last."""
        config = self.config(values)
        return max(1, math.ceil(config.steps / (config.evaluate_every or 1)))

    def draw(self, suggest: Callable[[str, Domain], Any]) -> dict[str, Any]:
        """Return values of the searched settings, in their order.

        Args:
            suggest: Returns a value of a domain; called only for those whose condition holds.
        """
        values: dict[str, Any] = {}
        for key, domain in self.narrowed.items():
            if self.searched(key, values):
                values[key] = suggest(key, domain)
        return values

    def searched(self, key: str, values: Mapping[str, Any]) -> bool:
        """Return whether a setting is searched, given the values of those above it."""
        return key not in self.conditions or self.conditions[key].holds(self.settings(values), null=False)

    def violated(self, values: Mapping[str, Any]) -> str | None:
        """Return the first constraint that does not hold, or None."""
        settings = self.settings(values)
        return next((rule.text for rule in self.rules if not rule.holds(settings, null=True)), None)

    def grid(self) -> list[dict[str, Any]]:
        """Return all allowed points; the first domain's value changes slowest.

        Raises:
            ValueError: A domain has no finite number of values.
        """
        for key, domain in self.narrowed.items():
            if domain.finite() is None:
                raise ValueError(
                    f"domains.{key}: a grid needs a finite number of values, and {domain.kind} has none; use choice"
                )
        points: list[dict[str, Any]] = [{}]
        for key, domain in self.narrowed.items():
            branches = itertools.chain.from_iterable(self._branches(point, key, domain) for point in points)
            points = list(itertools.islice(branches, MAX_POINTS + 1))
            if len(points) > MAX_POINTS:
                raise ValueError(f"domains: the grid has more than {MAX_POINTS} points; use fewer values, or random")
        return [point for point in points if self.violated(point) is None]

    def _branches(self, point: dict[str, Any], key: str, domain: Domain) -> Iterator[dict[str, Any]]:
        if self.searched(key, point):
            yield from (point | {key: value} for value in domain.finite() or ())
        else:
            yield point

    def preset_values(self) -> dict[str, Any] | None:
        """Return the preset's values, overridden by ``search.first``; None where they are outside the space."""
        over = self.search.first if isinstance(self.search.first, dict) else {}
        ipc = over.get("ipc", self.ipc)
        settings = self._base(ipc)[1] | over
        values: dict[str, Any] = {}
        for key, domain in self.narrowed.items():
            if self.searched(key, values):
                if not domain.has(settings[key]):
                    return None
                values[key] = settings[key]
        return None if self.violated(values) else values

    @cached_property
    def first_is_protected(self) -> bool:
        """Whether trial 0 has the preset's values, so that it is never stopped early."""
        return self.search.algorithm != "grid" and self.search.first != "none" and self.preset_values() is not None

    def example(self) -> dict[str, Any]:
        """Return a point of the space: the preset's, or the grid's first, or a random one."""
        if (own := self.preset_values()) is not None:
            return own
        return self.grid()[0] if self.search.algorithm == "grid" else self.sample(generator(self.seed, "example"))

    def sample(self, rng: torch.Generator) -> dict[str, Any]:
        """Return a random point: all values are drawn independently, again until all constraints hold.

        Raises:
            ValueError: `ATTEMPTS` draws found none.
        """
        failed: dict[str, int] = {}
        for _ in range(ATTEMPTS):
            values = self.draw(lambda key, domain: domain.at(float(torch.rand((), generator=rng, dtype=torch.float64))))
            rule = self.violated(values)
            if rule is None:
                return values
            failed[rule] = failed.get(rule, 0) + 1
        worst = max(failed, key=lambda rule: failed[rule])
        raise ValueError(f"constraint {worst!r} failed in {failed[worst]} of {ATTEMPTS} draws; widen its domains")

    def with_settings(self, settings: Tree) -> "Space":
        """Return the space with settings fixed, which are then no longer searched.

        A registered data set selects its own preset; a path is another copy of the same images.

        Raises:
            ValueError: Nothing is left to search, or the method is another one.
        """
        fixed_keys = flat(settings)
        if (method := fixed_keys.get("method", self.method)) != self.method:
            raise ValueError(f"--set method={method}: the space is for {self.method}; use another --space")
        fixed = merged(self.set, settings)
        domains = {key: domain for key, domain in self.domains.items() if key not in fixed_keys}
        if not domains:
            raise ValueError("--set fixes every searched setting; leave one, or use raydd distill")
        own: Tree = {key: settings[key] for key in ("ipc", "seed") if key in settings}  # the preset follows ipc
        if fixed_keys.get("data.dataset") in DATASETS:
            own["dataset"] = fixed_keys["data.dataset"]
        space = self.model_copy(update={"domains": domains, "set": fixed} | own)
        if isinstance(self.search.first, dict):
            first = {key: value for key, value in self.search.first.items() if key not in fixed_keys}
            space = space.model_copy(update={"search": self.search.model_copy(update={"first": first})})
        return Space.model_validate(space.model_dump(exclude_unset=True))
