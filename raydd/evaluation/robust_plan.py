"""The trainings of robust scores as rows of an evaluation, and the scores from their accuracies.

Shapes: `n` images, `K` classes; accuracies are fractions.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from raydd.data.score_record import RobustScore, Score
from raydd.data.synset import LabelKind, SyntheticSet
from raydd.data.workspace import Workspace
from raydd.evaluation.matrix import ScoreRow
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.robust import SCORES, TRAININGS, Accuracies, Training, needed, over_seeds, resolve
from raydd.evaluation.student import REAL_LR
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Experts, Request
from raydd.selection.coresets import CORESETS

OWN = "distilled_own"
"""The training of a robust score that a requested set's own row is."""
LRS = (0.001, 0.005, 0.01, 0.05, 0.1)
"""Learning rates for random images and for hard labels, where the protocol takes the set's own: that was learned for
other labels or images. Each network takes the best on the validation split.

Differs: the package ddranking 0.2.0 chooses among the same learning rates on test.
"""
_TITLES = {
    "whole_hard": "whole data",
    "distilled_hard": "hard labels",
    "random_own": "random images",
    "distilled_plain": "no augmentation",
    "random_plain": "random images, no augmentation",
}


class Conditions(NamedTuple):
    """What the rows of an evaluation have in common: real images, seeds of networks, protocol, and teachers."""

    work: Workspace
    seeds: range
    protocol: Protocol
    experts: Experts | None = None


def robust_rows(own: ScoreRow, scores: Iterable[str], conditions: Conditions) -> list[ScoreRow]:
    """Return the trainings that robust scores of a set need beside its own row, each a row with its ``part``.

    Where the set's labels are no classes, random images get the logits of a teacher: one of the experts after its last
    epoch, drawn for each seed. The images are those of the random baseline of that seed.
    """
    synset, rows, random = own.sets[0], list[ScoreRow](), tuple[SyntheticSet, ...]()
    names = {resolve(name, synset.label_kind): name for name in TRAININGS}
    lrs = LRS if conditions.protocol.lr is None else ()
    for training in needed(scores, synset.label_kind):
        if (name := names[training]) == OWN:
            continue
        _check(name, training, own, conditions)
        if training.kind == "random":
            random = random or _random_sets(synset, conditions)
            row = ScoreRow("", "random", random, lrs=lrs)
        elif training.kind == "whole":
            row = ScoreRow("", "whole", ())
        elif training.labels == "hard" and synset.label_kind != "hard":
            hard = replace(synset, labels=synset.hard_labels, regression=False)
            row = ScoreRow("", own.kind, (hard,), lrs=lrs)
        else:
            row = ScoreRow("", own.kind, own.sets)
        title = f"{own.name}: {_TITLES[name]}"
        rows.append(replace(row, name=title, augment=training.augment, part=name, of=own.name))
    return rows


def _check(name: str, training: Training, own: ScoreRow, conditions: Conditions) -> None:
    """Refuse a training that is impossible."""
    protocol, synset, dataset = conditions.protocol, own.sets[0], conditions.work.dataset
    if training.kind == "whole" and not protocol.real_epochs:
        raise ValueError(
            f"a robust score of {own.name} compares with the whole data, which real_epochs = 0 leaves out; "
            "use --set real_epochs=50, or --scores ior,ars"
        )
    if training.kind == "random" and synset.label_kind != "hard" and conditions.experts is None:
        labels = "targets of a regression" if synset.regression else "soft labels"
        raise ValueError(
            f"{own.name} has {labels}, and a robust score of it needs a teacher's labels of random images; "
            "give experts with --buffer"
        )
    tuned = training.kind == "random" or name == "distilled_hard"
    if tuned and protocol.lr is None and not len(dataset.validation):
        raise ValueError(
            f"protocol {protocol.name} takes the set's own lr, so that {_TITLES[name]} beside {own.name} need one "
            f"chosen on a validation split, and {dataset.name} has none; use --protocol dm or dcbench"
        )


def _random_sets(synset: SyntheticSet, conditions: Conditions) -> tuple[SyntheticSet, ...]:
    """Return as many random real images as the set stores, one selection a seed, with labels of the set's kind."""
    sets, work, experts = [], conditions.work, conditions.experts
    for seed in conditions.seeds:
        rng = generator(seed, "coreset", "random")
        images, labels = CORESETS["random"](Request(work.dataset, synset.transform, round(synset.ipc), rng))
        if synset.label_kind != "hard" and experts is not None:
            labels = experts.logits(experts.pick(generator(seed, "teacher")), images)
        lr = synset.lr.new_tensor(REAL_LR)
        sets.append(SyntheticSet(images, labels, lr, synset.transform, synset.dataset, synset.classes))
    return tuple(sets)


def robust_scores(
    scores: Sequence[Score], names: Sequence[str], weight: float = 0.5, *, partial: bool = False
) -> list[RobustScore]:
    """Return robust scores of every requested set and network, from the accuracies of the trainings that they need.

    ``partial`` leaves out the scores that need a training without an accuracy, which otherwise raise ValueError.
    """
    results = []
    for own in (score for score in scores if score.part == OWN):
        kind: LabelKind = "hard" if own.labels == "hard" else "logits"
        parts = [score for score in scores if score.part and (score.of, score.network) == (own.of, own.network)]
        accuracies: Accuracies = {
            resolve(score.part, kind): dict(zip(score.seeds, score.values, strict=True)) for score in parts
        }
        for name in names:
            if partial and not all(accuracies.get(resolve(part, kind)) for part in SCORES[name](weight)):
                continue
            spread = over_seeds(name, accuracies, kind, weight)
            means = {part: statistics.fmean(accuracies[resolve(part, kind)].values()) for part in SCORES[name](weight)}
            results.append(
                RobustScore(of=own.of, network=own.network, score=name, **vars(spread), weight=weight, parts=means)
            )
    return results
