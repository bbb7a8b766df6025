"""Class-incremental learning with a synthetic set as the memory: classes come in steps.

After every step the memory is the images of all classes seen so far. A fresh network is trained on the memory alone
and tested on the test images of those classes, so it knows early classes only from their images.

References:
    Prabhu et al., GDumb, ECCV 2020: a fresh network a step, trained on a balanced memory alone. Zhao and Bilen,
    arXiv 2110.04181 (DM), Figs. 4 and 5, and Ran et al. (TGDD), Fig. 7: memories that are distilled.

Differs:
    In the DM paper each step's classes are distilled without the others. Here a set was distilled once, of all
    classes. For a method that matches each class separately, through untrained networks, the result is the same (DM,
    M3D); for one that uses networks trained on all classes, or learns labels, the accuracy is an upper estimate. The
    same holds for coresets by an expert's features, and for ZCA, which is fitted to all classes. A network here has
    one output per class seen; DM's code has one per class from the start.
"""

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from raydd.analysis.document import check_folder, check_out, save
from raydd.api.evaluate import EVALUATION, SynsetSource, load_set
from raydd.api.trainings import driver_device, run_matrix
from raydd.buffer.mirror import local_folder
from raydd.config.placement import HERE, Where, check_workers
from raydd.config.schema import EvaluateConfig
from raydd.data.synset import SyntheticSet
from raydd.evaluation.failures import complete, separate
from raydd.evaluation.jobs import Job, Outcome
from raydd.evaluation.matrix import Matrix, ScoreRow
from raydd.evaluation.scores import plan
from raydd.figures.continual import draw_continual
from raydd.io.console import Screen
from raydd.io.memory import keep_memory
from raydd.numerics.rng import generator
from raydd.run.storage import open_storage

STEPS = (5, 10)
"""The papers' numbers of steps."""

BASELINES = ("random", "herding")
"""The papers' baselines; names of `CORESETS`."""

EVALUATE_ONLY = {"scores", "score_weight", "paper", "test"}
"""Settings of `EvaluateConfig` without effect here."""


def class_order(seed: int, classes: int) -> tuple[int, ...]:
    """Return the order of the classes in the run of a seed: a permutation, the same for every memory.

    >>> class_order(0, 4) == class_order(0, 4), sorted(class_order(1, 4))
    (True, [0, 1, 2, 3])
    """
    return tuple(torch.randperm(classes, generator=generator(seed, "continual", "classes")).tolist())


def seen_after(classes: int, steps: int) -> tuple[int, ...]:
    """Return the number of classes seen after each step; the classes of two steps differ by at most one.

    >>> seen_after(10, 5), seen_after(10, 4)
    ((2, 4, 6, 8, 10), (3, 5, 8, 10))
    """
    if not 1 <= steps <= classes:
        raise ValueError(f"{classes} classes cannot come in {steps} steps; use 1 to {classes} --steps")
    return tuple(-(-classes * step // steps) for step in range(1, steps + 1))


RowIndex = Mapping[tuple[int, int, int], int]
"""By row of the plan, seed and number of classes seen: the row that is trained then."""


def incremental(matrix: Matrix, classes: int, counts: Collection[int]) -> tuple[Matrix, RowIndex]:
    """Return the trainings of rows on the classes seen so far: each seed is a run with its own class order.

    Runs with other numbers of steps share trainings, since all take the seed's one class order. A network is trained
    after each number of classes in ``counts``. An empty memory raises ValueError.
    """
    index, rows = dict[tuple[int, int, int], int](), list[ScoreRow]()
    for seed in matrix.seeds:
        order = class_order(seed, classes)
        for number, row in enumerate(matrix.rows):
            synset = row.set_of(seed - matrix.seeds.start)
            for seen in sorted(counts):
                _check_memory(row.name, synset, order[:seen])
                index[number, seed, seen] = len(rows)
                sets = () if synset is None else (synset,)
                rows.append(replace(row, sets=sets, classes=order[:seen], seeds=(seed,)))
    return replace(matrix, rows=tuple(rows)), index


def evaluate_continual(  # noqa: PLR0913 - as `evaluate`, and two more
    synsets: Sequence[SynsetSource],
    config: EvaluateConfig = EVALUATION,
    out: Path | str = "runs/continual",
    *,
    steps: Sequence[int] = STEPS,
    names: Sequence[str] | None = None,
    buffer: Path | str | None = None,
    where: Where = HERE,
    screen: Screen | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Score synthetic sets as memories of class-incremental learning, beside selections of real images and all of them.

    Each of ``config.seeds`` runs has its own class order, fresh network a step and random selection. The set is not
    distilled again for a step; the module says when the accuracy is an upper estimate.

    Args:
        synsets: The sets, or their paths.
        config: Real images, networks, runs, protocol. Without named baselines they are `BASELINES`.
        out: A folder or URI for ``continual.json`` and ``continual.png``.
        steps: Numbers of steps in which the classes come; each is a panel of the figure.
        names: Names of the sets' rows; None takes method and ipc.
        buffer: Experts, a folder or a URI; herding then measures distances of their features.
        where: Workers, cluster and device.
        screen: Where progress is printed.
        fresh: Run every training again, also those with a cached result.

    Returns:
        The document of `raydd.figures.continual`, with ``orders``, the classes of each seed in their order; its runs
        also have ``values`` (after every step one a seed), ``seconds`` a training, ``selection`` and ``ipc``.

    Raises:
        ValueError: Impossible steps; settings of `evaluate` only; an unknown data set, network, protocol or baseline;
            or sets or experts that do not fit the images.
        RuntimeError: No run has all of its trainings.
        MissingTrainings: Some trainings failed: the curves lack the runs without all of theirs. Its ``result`` is the
            document.

    Example: examples/continual_learning.py (it starts a Ray).
    """
    screen = screen or Screen()
    keep_memory()
    check_workers(where)
    check_folder(out)
    if foreign := sorted(EVALUATE_ONLY & config.model_fields_set):
        raise ValueError(f"{', '.join(foreign)}: such settings are of `raydd evaluate`; leave them out here")
    if config.baselines is None:
        config = config.model_copy(update={"baselines": BASELINES})
    with open_storage(out, "raydd continual", screen.note) as storage:
        check_out(png := storage.folder / "continual.png", "continual")
        sets = [load_set(source, config, screen).synset for source in synsets]
        classes = len(sets[0].classes)
        seen_by_steps = {count: seen_after(classes, count) for count in dict.fromkeys(steps)}
        if not seen_by_steps:
            raise ValueError("no number of --steps; use such as 5,10")
        folder = None if buffer is None else local_folder(buffer, screen.note)
        matrix, work = plan(sets, names, config, driver_device(where), folder)
        runs, index = incremental(matrix, classes, {seen for each in seen_by_steps.values() for seen in each})
        results = run_matrix(runs, work.dataset, fresh=fresh, where=where, screen=screen)
        outcomes, missing = separate(runs, results)
        document = _document(matrix, index, outcomes, seen_by_steps)
        if not document["runs"]:
            raise RuntimeError(f"no run has all of its trainings, so there is no curve: {missing[0].line}")
        document |= {"missing": [one.to_document() for one in missing]}
        save(document, draw_continual, png)
        storage.save_last()
        return complete(document, missing, len(results))


def _check_memory(name: str, synset: SyntheticSet | None, classes: tuple[int, ...]) -> None:
    """Refuse an empty memory."""
    if synset is not None and not torch.isin(synset.hard_labels, torch.tensor(classes)).any():
        words = ", ".join(synset.classes[label] for label in classes)
        raise ValueError(f"{name} has no image of {words}, all that a first step would bring; use fewer --steps")


def _document(
    matrix: Matrix, index: RowIndex, outcomes: Mapping[Job, Outcome], seen_by_steps: Mapping[int, tuple[int, ...]]
) -> dict[str, Any]:
    counts, several = sorted({seen for _, _, seen in index}), len(matrix.networks) > 1
    runs: list[dict[str, Any]] = []
    for number, row in enumerate(matrix.rows):
        for network in matrix.networks:
            jobs = {
                seed: {seen: Job(index[number, seed, seen], network, seed) for seen in counts} for seed in matrix.seeds
            }
            whole = [by_count for by_count in jobs.values() if outcomes.keys() >= set(by_count.values())]
            if not whole:  # every seed lacks a training
                continue
            by_seen = {seen: [outcomes[by_count[seen]] for by_count in whole] for seen in counts}
            head = {
                "name": f"{row.name}, {network}" if several else row.name,
                "kind": row.kind,
                "selection": row.selection,
                "ipc": row.sets[0].ipc if row.sets else None,
            }
            runs += [head | {"steps": count} | _curve(by_seen, seen) for count, seen in seen_by_steps.items()]
    return {
        "analysis": "continual",
        "dataset": Path(matrix.data.dataset).name,
        "network": ", ".join(matrix.networks),
        "protocol": matrix.protocol.name,
        "orders": [{"seed": seed, "classes": list(class_order(seed, counts[-1]))} for seed in matrix.seeds],
        "runs": runs,
    }


def _curve(by_seen: Mapping[int, Sequence[Outcome]], counts: Sequence[int]) -> dict[str, Any]:
    """Return accuracies after every step: mean and standard deviation (n - 1; None for one run) over the runs."""
    values = [[outcome.value for outcome in by_seen[seen]] for seen in counts]
    return {
        "classes": list(counts),
        "mean": [statistics.fmean(each) for each in values],
        "std": [statistics.stdev(each) if len(each) > 1 else None for each in values],
        "values": values,
        "seconds": [statistics.fmean(outcome.seconds for outcome in by_seen[seen]) for seen in counts],
        "networks": len(values[0]),
    }
