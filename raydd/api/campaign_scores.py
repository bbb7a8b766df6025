"""The scores of a campaign's sets: evaluations of equal settings together, and rankings of architectures."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raydd.api.evaluate import evaluate, load_set
from raydd.api.nas import rank_architectures
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.mirror import local_folder
from raydd.campaigns.graph import Graph, Scoring
from raydd.config.nas import NasConfig
from raydd.config.placement import Where
from raydd.data.score_record import Score
from raydd.data.synset import SyntheticSet
from raydd.evaluation.failures import MissingTrainings
from raydd.evaluation.relabel import relabel
from raydd.io.console import Screen

Result = list[Score] | dict[str, Any] | str
"""Scores, rank correlations by their top, or why there are none."""


class Scorer:
    """Scores sets of a campaign.

    Args:
        graph: The campaign's.
        path: Returns where a part of it lies, a folder or a URI.
        screen: Returns the screen of parts that run together.
        where: Device, cluster and number of workers.
    """

    def __init__(
        self, graph: Graph, path: Callable[..., Path | str], screen: Callable[..., Screen], where: Where
    ) -> None:
        self._graph, self._path, self._screen, self._where = graph, path, screen, where

    def __call__(self, keys: Sequence[str]) -> Iterator[dict[str, Result]]:
        """Yield the results of several scorings; those of equal settings are one evaluation, and come together."""
        groups: dict[str, list[str]] = {}
        for key in keys:
            scoring = self._graph.scores[key]
            data = self._graph.distillations[scoring.distillation].config.data
            alone = key if scoring.ranking or scoring.config.baselines or scoring.config.real_epochs != 0 else ""
            groups.setdefault(f"{scoring.config!r} {data!r} {alone}", []).append(key)
        from raydd.remote.training_workers import kept_workers

        with kept_workers():
            for group in groups.values():
                try:
                    yield self._rank(group[0]) if self._graph.scores[group[0]].ranking else self._evaluate(group)
                except (ValueError, RuntimeError, OSError) as error:
                    yield dict.fromkeys(group, str(error))

    def _evaluate(self, keys: Sequence[str]) -> dict[str, Result]:
        first, screen = self._graph.scores[keys[0]], self._screen(*keys)
        buffer = self._path("experts", first.experts) if first.experts else None
        missing: dict[str, str] = {}
        sets = [self._set(self._graph.scores[key], screen) for key in keys]
        try:
            scores = evaluate(sets, first.config, buffer=buffer, names=keys, where=self._where, screen=screen)
        except MissingTrainings as error:
            scores = error.result
            missing = {one.name.partition(", ")[0]: one.line for one in error.missing}  # of a kept step too
            if len(keys) == 1:
                missing = dict.fromkeys(keys, error.missing[0].line)
        if len(keys) == 1:
            return {keys[0]: missing.get(keys[0], scores)}
        return {key: missing.get(key, [one for one in scores if key in (one.name, one.of)]) for key in keys}

    def _rank(self, key: str) -> dict[str, Result]:
        """Return how the ranking by a set agrees with that by the real images: Spearman's coefficient by its top."""
        scoring, screen = self._graph.scores[key], self._screen(key)
        config, out = scoring.ranking or NasConfig(), self._path("rankings", key)
        sets = [load_set(self._run_of(scoring), scoring.config, screen).synset]
        document = rank_architectures(sets, config, out, names=[key], where=self._where, screen=screen)
        return {key: {str(top["k"]): top["spearman"] for top in document["proxies"][0]["agreement"]["tops"]}}

    def _run_of(self, scoring: Scoring) -> Path | str:
        return self._path("runs", self._graph.distillations[scoring.distillation].name)

    def _set(self, scoring: Scoring, screen: Screen) -> SyntheticSet | Path | str:
        if not scoring.relabel:
            return self._run_of(scoring)
        synset = load_set(self._run_of(scoring), scoring.config.model_copy(update={"paper": False}), screen).synset
        return relabel(synset, ArrowBuffer(local_folder(self._path("experts", scoring.experts))))
