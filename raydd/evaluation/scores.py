"""The trainings of an evaluation, and the scores from their results."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

import torch

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.config.names import absolute_dataset
from raydd.config.schema import DataConfig, EvaluateConfig, ExpertConfig
from raydd.data.mirroring import flips, stored_settings
from raydd.data.score_record import Score, StepScore
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, open_workspace
from raydd.evaluation.baselines import baselines, check_kinds, mosaics, open_experts
from raydd.evaluation.compatibility import check_compatible
from raydd.evaluation.jobs import Job, Outcome
from raydd.evaluation.matrix import Matrix, ScoreRow
from raydd.evaluation.protocols import find_protocol, protocol_of
from raydd.evaluation.result_cache import commits
from raydd.evaluation.robust import needed
from raydd.evaluation.robust_plan import OWN, Conditions, robust_rows
from raydd.io.pulse import PULSE
from raydd.models.zoo import find
from raydd.selection.coresets import CORESETS


def summarise(matrix: Matrix, results: Mapping[Job, Outcome]) -> list[Score]:
    """Return one score a row and network, of the seeds that have a result; none where no seed has."""
    scores = []
    for index in range(len(matrix.rows)):
        for network in matrix.networks:
            jobs = {seed: Job(index, network, seed) for seed in matrix.seeds_of(index)}
            if by_seed := {seed: results[job] for seed, job in jobs.items() if job in results}:
                scores.append(_score(matrix, index, network, by_seed))
    return scores


def _score(matrix: Matrix, index: int, network: str, by_seed: Mapping[int, Outcome]) -> Score:
    row, outcomes = matrix.rows[index], by_seed.values()
    values = tuple(outcome.value for outcome in outcomes)
    partial = len(by_seed) < len(matrix.seeds_of(index))
    return Score(
        name=row.name,
        kind=row.kind,
        dataset=Path(matrix.data.dataset).name,
        network=network,
        protocol=matrix.protocol.name,
        selection=row.selection,
        ipc=row.sets[0].ipc if row.sets else None,
        networks=len(values),
        mean=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        values=values,
        seconds=statistics.fmean(outcome.seconds for outcome in outcomes),
        commits=tuple(commits(outcomes)),
        split=row.split,
        augment=row.augment,
        part=row.part,
        of=row.of,
        lrs=row.lrs,
        asked=row.requested,
        labels=(row.sets[0].label_kind if row.sets else "hard") if row.part else "",
        seeds=tuple(by_seed) if row.part or partial else (),
    )


def best_of_steps(scores: Sequence[Score], steps: Mapping[str, int]) -> list[Score]:
    """Replace the scores of a run's kept steps by the best on test, which is what papers report.

    The kept steps of a run and network become one score ``<name>, best of n steps on test``: that of the step with the
    highest mean (of equal ones, the first), with its ``step`` and the ``steps`` of all. The argument ``steps`` has the
    outer step of each kept set's row, by name.
    """
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        if score.name in steps:
            groups.setdefault((score.of, score.network), []).append(score)
    results = []
    for score in scores:
        if score.name not in steps:
            results.append(score)
        elif rows := groups.pop((score.of, score.network), None):
            best = max(rows, key=lambda row: row.mean)
            of_steps = tuple(
                StepScore(step=steps[row.name], mean=row.mean, std=row.std, values=row.values) for row in rows
            )
            name = f"{best.of}, best of {len(rows)} steps on test"
            results.append(best.model_copy(update={"name": name, "step": steps[best.name], "steps": of_steps}))
    return results


def check_scoring(config: EvaluateConfig) -> None:
    """Refuse an unknown protocol, network, baseline or robust score, before any work starts."""
    find_protocol(config.protocol)
    for kind in config.baselines or ():
        if kind not in CORESETS:
            raise ValueError(f"unknown baseline {kind!r}; use some of {', '.join(CORESETS)}, or none")
    for network in config.networks:
        find(network)
    needed(config.scores, "logits")


def titles(synsets: Sequence[SyntheticSet], names: Sequence[str] | None = None) -> list[str]:
    """Return distinct names of the sets' rows: as given, else by method and ipc."""
    wanted = names or [f"{synset.recipe.get('method', 'set')}, {synset.ipc:g} a class" for synset in synsets]
    distinct: list[str] = []
    for name in wanted:
        numbered = (f"{name} ({number})" for number in count(2))
        distinct.append(next(title for title in chain([name], numbered) if title not in distinct))
    return distinct


def step_title(name: str, step: int) -> str:
    """Return the name of a kept step's row."""
    return f"{name}, step {step}"


def plan(
    synsets: Sequence[SyntheticSet],
    names: Sequence[str] | None,
    config: EvaluateConfig,
    device: str,
    buffer: Path | None = None,
    steps: Sequence[Mapping[int, SyntheticSet]] = (),
) -> tuple[Matrix, Workspace]:
    """Return the trainings that score synthetic sets, selections of real images and the whole data set.

    ``buffer`` has experts that select real images, and label random ones for robust scores; None selects by pixels.
    ``steps`` has for every set those of its run's kept outer steps, among which papers choose on test.
    """
    check_scoring(config)
    if buffer is None:
        check_kinds(None, config.baselines)
    else:
        ArrowBuffer(buffer)  # refused before any image is decoded
    data = _data(synsets, config)
    networks = tuple(dict.fromkeys(config.networks)) or (
        str(synsets[0].provenance.get("network", ExpertConfig().network)),
    )
    for network in networks:
        work = open_workspace(data, network, torch.device("cpu"), synsets[0].transform)
    named = zip(titles(synsets, names), synsets, strict=True)
    requested = [_requested_row(title, synset, config) for title, synset in named]
    of_steps = [
        ScoreRow(step_title(row.name, step), row.kind, (synset,), "paper", of=row.name)
        for row, by_step in zip(requested, steps or [{}] * len(requested), strict=True)
        for step, synset in by_step.items()
    ]
    sets = ((row.name, row.sets[0]) for row in (*requested, *of_steps))
    check_compatible(sets, work, named=config.dataset is not None)
    seeds = range(config.seed, config.seed + config.seeds)
    protocol = protocol_of(config)
    experts = None if buffer is None else open_experts(buffer, data, synsets, device)
    conditions = Conditions(work, seeds, protocol, experts)
    parts = [part for row in requested for part in robust_rows(row, dict.fromkeys(config.scores), conditions)]
    with PULSE.doing("choosing real images"):
        rows = [*requested, *of_steps, *_reference_rows(synsets, conditions, config), *parts]
    distinct = titles((), [row.name for row in rows])  # a set may have the name of a selection
    rows = [replace(row, name=name) for row, name in zip(rows, distinct, strict=True)]
    return Matrix(tuple(rows), networks, seeds, protocol, data, device), work


def _data(synsets: Sequence[SyntheticSet], config: EvaluateConfig) -> DataConfig:
    """Return the real images: those of the sets' recipes, changed by the configuration."""
    known = [_data_of(synset) for synset in synsets]
    kinds = dict.fromkeys(data.augment for data in known)
    if config.augment is None and len(kinds) > 1:
        raise ValueError(
            f"the sets were distilled with the augmentations {' and '.join(kinds)}, and one evaluation takes one; "
            f"say which, such as --set augment={next(iter(kinds))}"
        )
    if config.flip is None and len({flips(data) for data in known if (config.augment or data.augment) != "none"}) > 1:
        raise ValueError(
            "some of the sets were distilled with mirror images (data.flip) and others without, and one evaluation "
            "takes one; say which, such as --set flip=false"
        )
    given = config.model_dump(include={"dataset", "augment", "flip", "validation"}, exclude_none=True)
    data = known[0].model_copy(update=given)
    return data.model_copy(update={"dataset": absolute_dataset(data.dataset)})


def _data_of(synset: SyntheticSet) -> DataConfig:
    """Return the real images that a set's recipe names, as far as it does."""
    if (recipe := synset.recipe.get("data")) is None:
        return DataConfig(dataset=synset.dataset)
    fields = {key: value for key, value in recipe.items() if key in DataConfig.model_fields}
    return DataConfig.model_validate(stored_settings(fields))


def _reference_rows(synsets: Sequence[SyntheticSet], conditions: Conditions, config: EvaluateConfig) -> list[ScoreRow]:
    """Return selections of every size and preprocessing that the sets have, and the whole data."""
    work, seeds, protocol, experts = conditions
    sizes = {(synset.ipc, synset.transform.hash): synset for synset in reversed(synsets)}
    formations = {(synset.ipc, synset.transform.hash, synset.formation): synset for synset in reversed(synsets)}
    several = len({key for _, key in sizes}) > 1
    pairs = [(synset, baselines(synset, work, seeds, experts, config.baselines)) for synset in sizes.values()]
    pairs += [(synset, mosaics(synset, work, seeds, config.baselines)) for synset in formations.values()]
    references = [
        replace(row, name=f"{row.name}, {synset.transform.kind}") if several else row
        for synset, rows in pairs
        for row in rows
    ]
    if epochs := protocol.real_epochs:
        kind = f", {synsets[0].transform.kind}" if several else ""
        references.append(ScoreRow(f"whole data, {epochs} epoch{'s' * (epochs > 1)}{kind}", "whole", ()))
    return references


def selection_of(synset: SyntheticSet) -> str:
    """Return how a set was chosen among outer steps: ``honest``, or ``unknown`` where its file does not say.

    Other projects usually choose their best files on test, and do not say so.
    """
    chosen = str(synset.provenance.get("chosen", ""))
    return "honest" if chosen.startswith("last ") or chosen.endswith("validation split") else "unknown"


def _requested_row(title: str, synset: SyntheticSet, config: EvaluateConfig) -> ScoreRow:
    """Return the row of a set that the user named; its kind is a coreset's name where nothing was learned."""
    coreset = synset.recipe.get("match") == "nothing"
    kind = str(synset.recipe["method"]) if coreset else "distilled"
    row = ScoreRow(title, kind, (synset,), selection_of(synset), requested=True)
    return replace(row, part=OWN, of=title) if config.scores else row
