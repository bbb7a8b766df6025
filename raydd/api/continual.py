"""Class-incremental learning with a synthetic set as the memory: classes come in steps, and none shall be forgotten.

After every step the memory is the images of all classes seen so far. A fresh network is trained on the memory alone
and tested on the test images of those classes, so what it knows of early classes is what their images tell.

Shapes: none; accuracies are fractions.

References:
    Prabhu et al., GDumb, ECCV 2020: a fresh network a step, trained on a balanced memory alone. Zhao and Bilen,
    arXiv 2110.04181 (DM), Figs. 4 and 5, and Ran et al. (TGDD), Fig. 7: memories that are distilled.

Differs:
    In the DM paper every step's classes are distilled for themselves, without a look at the others. Here a set was
    distilled once, of all classes. For a method that matches each class apart, through networks that were never
    trained, that comes to the same (DM, M3D); for one that sees through networks trained on all classes, or that learns
    labels, the accuracy is an upper estimate. The same holds of coresets by an expert's features, and of ZCA, which
    is fitted to all classes. A network here has one output a class seen; DM's code gives it one a class from the start.
"""

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from raydd.analysis.document import check_folder, check_out, save
from raydd.api.evaluate import EVALUATION, Asked, do_matrix, opened
from raydd.buffer.mirror import local_folder
from raydd.config.placement import HERE, Where, check_workers
from raydd.config.schema import EvaluateConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import resolve_device
from raydd.evaluation.matrix import Entry, Job, Matrix, Outcome
from raydd.evaluation.scores import plan
from raydd.figures.continual import draw_continual
from raydd.io.console import Screen
from raydd.io.lock import alone
from raydd.io.memory import keep_memory
from raydd.numerics.rng import generator

STEPS = (5, 10)
"""The papers'."""

BASELINES = ("random", "herding")
"""The papers'; names of `CORESETS`."""

EVALUATE_ONLY = {"scores", "score_weight", "paper", "test"}
"""Settings of `EvaluateConfig` that nothing here looks at."""


def class_order(seed: int, classes: int) -> tuple[int, ...]:
    """The order in which classes come in the run of this seed: a permutation, the same for every memory.

    >>> class_order(0, 4) == class_order(0, 4), sorted(class_order(1, 4))
    (True, [0, 1, 2, 3])
    """
    return tuple(torch.randperm(classes, generator=generator(seed, "continual", "classes")).tolist())


def seen_after(classes: int, steps: int) -> tuple[int, ...]:
    """How many classes have been seen after each step: no step brings more than one class more than another.

    What fewer steps come through, a multiple of them comes through too.

    Raises:
        ValueError: Fewer than one step, or more than classes.

    >>> seen_after(10, 5), seen_after(10, 4)
    ((2, 4, 6, 8, 10), (3, 5, 8, 10))
    """
    if not 1 <= steps <= classes:
        raise ValueError(f"{classes} classes cannot come in {steps} steps; use 1 to {classes} --steps")
    return tuple(-(-classes * step // steps) for step in range(1, steps + 1))


Places = Mapping[tuple[int, int, int], int]
"""By row, seed and number of classes seen: the entry that is trained then."""


def incremental(matrix: Matrix, classes: int, counts: Collection[int]) -> tuple[Matrix, Places]:
    """The trainings of rows on the classes seen so far: each seed is a run with a class order of its own.

    Runs of another number of steps share what they have in common, since all take the seed's one class order.

    Args:
        matrix: The rows, each on all classes, and the seeds of the runs.
        classes: How many there are.
        counts: After how many classes seen a network is trained.

    Raises:
        ValueError: A memory would be empty.
    """
    places, entries = dict[tuple[int, int, int], int](), list[Entry]()
    for seed in matrix.seeds:
        order = class_order(seed, classes)
        for row, entry in enumerate(matrix.entries):
            synset = entry.set_of(seed - matrix.seeds.start)
            for seen in sorted(counts):
                _check_memory(entry.name, synset, order[:seen])
                places[row, seed, seen] = len(entries)
                sets = () if synset is None else (synset,)
                entries.append(replace(entry, sets=sets, classes=order[:seen], seeds=(seed,)))
    return replace(matrix, entries=tuple(entries)), places


def evaluate_continual(  # noqa: PLR0913 - as `evaluate`, and two more
    synsets: Sequence[Asked],
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

    Each of ``config.seeds`` runs has a class order, a fresh network a step and a random selection of its own. The set
    is not distilled anew for a step: see above for when the accuracy is an upper estimate.

    Args:
        synsets: The sets, or where they are.
        config: Real images, networks, runs, protocol. Where it names no baselines they are `BASELINES`.
        out: A folder; ``continual.json`` and ``continual.png`` are written there.
        steps: In how many steps the classes come; each number is a panel.
        names: What the sets' rows are called; None takes method and ipc.
        buffer: Experts, a folder or an URI; herding then chooses by what one of them sees.
        where: Workers, cluster and device.
        screen: Where progress is told.
        fresh: Do every training anew, also those whose results are kept in the cache.

    Returns:
        The document of `raydd.figures.continual`; its runs have besides ``values`` (after every step one a seed),
        ``seconds`` a training, ``selection`` and ``ipc``, and ``orders`` are the classes as they came, by seed.

    Raises:
        ValueError: Impossible steps, what only `evaluate` does, an unknown data set, network, protocol or baseline, or
            sets or experts that do not fit the images.

    Example: examples/continual_learning.py (it starts a Ray).
    """
    screen, png = screen or Screen(), Path(out) / "continual.png"
    keep_memory()
    check_workers(where)
    check_folder(Path(out))
    if foreign := sorted(EVALUATE_ONLY & config.model_fields_set):
        raise ValueError(f"{', '.join(foreign)}: such settings are of `raydd evaluate`; leave them out here")
    if config.baselines is None:
        config = config.model_copy(update={"baselines": BASELINES})
    with alone(png.parent, "raydd continual", screen.note):
        check_out(png, "continual")
        sets = [opened(asked, config, screen).synset for asked in synsets]
        classes = len(sets[0].classes)
        stages = {count: seen_after(classes, count) for count in dict.fromkeys(steps)}
        if not stages:
            raise ValueError("no number of --steps; use such as 5,10")
        folder = None if buffer is None else local_folder(buffer, screen.note)
        matrix, work = plan(sets, names, config, resolve_device(where.device).type, folder)
        runs, places = incremental(matrix, classes, {seen for stage in stages.values() for seen in stage})
        outcomes = do_matrix(runs, work.dataset, fresh=fresh, where=where, screen=screen)
        document = _document(matrix, places, outcomes, stages)
        save(document, draw_continual, png)
        return document


def _check_memory(name: str, synset: SyntheticSet | None, classes: tuple[int, ...]) -> None:
    """Refuse to train on nothing."""
    if synset is not None and not torch.isin(synset.hard_labels, torch.tensor(classes)).any():
        shown = ", ".join(synset.classes[label] for label in classes)
        raise ValueError(f"{name} has no image of {shown}, all that a first step would bring; use fewer --steps")


def _document(
    matrix: Matrix, places: Places, outcomes: Mapping[Job, Outcome], stages: Mapping[int, tuple[int, ...]]
) -> dict[str, Any]:
    counts, several = sorted({seen for _, _, seen in places}), len(matrix.networks) > 1
    lines: list[dict[str, Any]] = []
    for row, entry in enumerate(matrix.entries):
        for network in matrix.networks:
            found = {
                seen: [outcomes[Job(places[row, seed, seen], network, seed)] for seed in matrix.seeds]
                for seen in counts
            }
            about: dict[str, Any] = {"name": f"{entry.name}, {network}" if several else entry.name}
            about |= {"kind": entry.kind, "selection": entry.selection}
            about["ipc"] = entry.sets[0].ipc if entry.sets else None
            lines += [about | {"steps": count} | _line(found, stage) for count, stage in stages.items()]
    return {
        "analysis": "continual",
        "dataset": Path(matrix.data.dataset).name,
        "network": ", ".join(matrix.networks),
        "protocol": matrix.protocol.name,
        "orders": [{"seed": seed, "classes": list(class_order(seed, counts[-1]))} for seed in matrix.seeds],
        "runs": lines,
    }


def _line(found: Mapping[int, Sequence[Outcome]], stage: Sequence[int]) -> dict[str, Any]:
    """Accuracies after every step: mean and standard deviation (n - 1) over the runs, of one run None."""
    values = [[outcome.value for outcome in found[seen]] for seen in stage]
    return {
        "classes": list(stage),
        "mean": [statistics.fmean(each) for each in values],
        "std": [statistics.stdev(each) if len(each) > 1 else None for each in values],
        "values": values,
        "seconds": [statistics.fmean(outcome.seconds for outcome in found[seen]) for seen in stage],
        "networks": len(values[0]),
    }
