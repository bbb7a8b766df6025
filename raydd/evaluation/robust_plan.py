"""The trainings of robust scores as rows of an evaluation, and the scores from their accuracies.

Shapes: `n` images, `K` classes; accuracies are fractions.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace
from raydd.evaluation.matrix import Entry
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.robust import SCORES, TRAININGS, Accuracies, Training, needed, over_seeds, resolve
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Experts
from raydd.selection.coresets import CORESETS

OWN = "distilled_own"
"""The part of a robust score that the asked set's own row is."""
LRS = (0.001, 0.005, 0.01, 0.05, 0.1)
"""Step sizes of which the trainings on random images and under hard labels take the one that is best on the validation
split, where the protocol takes the set's own: that was learned for other labels, or for other images.

Differs: the package ddranking 0.2.0 searches the same step sizes on test.
"""
_WORDS = {
    "whole_hard": "whole data",
    "distilled_hard": "hard labels",
    "random_own": "random images",
    "distilled_plain": "no augmentation",
    "random_plain": "random images, no augmentation",
}


class Ground(NamedTuple):
    """What the trainings of robust scores are made from.

    Attributes:
        work: The real images.
        seeds: Of the networks.
        protocol: How they are trained.
        experts: The teachers; None where there are none.
    """

    work: Workspace
    seeds: range
    protocol: Protocol
    experts: Experts | None = None


def components(asked: Entry, scores: Iterable[str], ground: Ground) -> list[Entry]:
    """The trainings that robust scores of a set need beside its own row, each a row with its ``part``.

    Where the set has logits, random images are labelled by a teacher: one of the experts after its last epoch, for each
    seed drawn anew. The images are those of the random baseline of that seed.

    Args:
        asked: The set's own row.
        scores: Names of `SCORES`.
        ground: What they are made from.

    Raises:
        ValueError: An unknown score; soft labels without teachers; the whole data left out; or no validation split to
            choose step sizes on.
    """
    synset, rows, random = asked.sets[0], list[Entry](), tuple[SyntheticSet, ...]()
    names = {resolve(name, synset.label_kind): name for name in TRAININGS}
    for training in needed(scores, synset.label_kind):
        if (name := names[training]) == OWN:
            continue
        _check(name, training, asked, ground)
        if training.kind == "random":
            random = random or _random_sets(synset, ground)
            row = Entry("", "random", random, lrs=_lrs(ground.protocol))
        elif training.kind == "whole":
            row = Entry("", "whole", ())
        elif training.labels == "hard" and synset.label_kind == "logits":
            row = Entry("", asked.kind, (replace(synset, labels=synset.hard_labels),), lrs=_lrs(ground.protocol))
        else:
            row = Entry("", asked.kind, asked.sets)
        title = f"{asked.name}: {_WORDS[name]}"
        rows.append(replace(row, name=title, augment=training.augment, part=name, of=asked.name))
    return rows


def _lrs(protocol: Protocol) -> tuple[float, ...]:
    return LRS if protocol.lr is None else ()


def _check(name: str, training: Training, asked: Entry, ground: Ground) -> None:
    """Refuse a training that cannot be done."""
    protocol, synset = ground.protocol, asked.sets[0]
    if training.kind == "whole" and not protocol.real_epochs:
        raise ValueError(
            f"a robust score of {asked.name} compares with the whole data, which real_epochs = 0 leaves out; "
            "use --set real_epochs=50, or --scores ior,ars"
        )
    if training.kind == "random" and synset.label_kind == "logits" and ground.experts is None:
        raise ValueError(
            f"{asked.name} has soft labels, and a robust score of it needs a teacher's of random images; "
            "give experts with --buffer"
        )
    tuned = training.kind == "random" or name == "distilled_hard"
    if tuned and _lrs(protocol) and not len(ground.work.dataset.validation):
        raise ValueError(
            f"protocol {protocol.name} takes the set's own lr, so that {_WORDS[name]} beside {asked.name} need one "
            f"chosen on a validation split, and {ground.work.dataset.name} has none; use --protocol dm or dcbench"
        )


def _random_sets(synset: SyntheticSet, ground: Ground) -> tuple[SyntheticSet, ...]:
    """As many random real images as the set stores, one choice a seed, labelled as the set is: classes or logits."""
    sets, work = [], ground.work
    for seed in ground.seeds:
        rng = generator(seed, "coreset", "random")
        images, labels = CORESETS["random"](work.dataset, synset.transform, round(synset.ipc), rng, None)
        if synset.label_kind == "logits" and ground.experts is not None:
            labels = ground.experts.logits(ground.experts.pick(generator(seed, "teacher")), images)
        lr = synset.lr.new_tensor(0.01)
        sets.append(SyntheticSet(images, labels, lr, synset.transform, synset.dataset, synset.classes))
    return tuple(sets)


def robust_scores(
    records: Sequence[Mapping[str, Any]], names: Sequence[str], weight: float = 0.5
) -> list[dict[str, Any]]:
    """Robust scores of every asked set and network, from the accuracies of the trainings that they need.

    Args:
        records: Of `raydd.evaluation.scores.summarise`; those of an evaluation that was asked for these scores.
        names: Names of `SCORES`.
        weight: w of LRS, gamma of ARS, in [0, 1].

    Returns:
        A dict a set, network and score: ``of``, ``network``, ``score``, ``mean``, ``std``, ``values`` and ``how`` of
        its `Spread`, ``weight``, and ``parts``: of every training of its formula the mean accuracy.

    Raises:
        ValueError: An unknown score, one that lacks a training, or a weight outside [0, 1].
    """
    found = []
    for asked in (record for record in records if record.get("part") == OWN):
        kind, whose = asked["labels"], (asked["of"], asked["network"])
        parts = [record for record in records if (record.get("of"), record["network"]) == whose and "part" in record]
        accuracies: Accuracies = {
            resolve(record["part"], kind): dict(zip(record["seeds"], record["values"], strict=True)) for record in parts
        }
        for name in names:
            spread = over_seeds(name, accuracies, kind, weight)
            means = {
                part: statistics.fmean(accuracies[resolve(part, kind)].values())
                for part in SCORES[name].factors(weight)
            }
            row = {"of": asked["of"], "network": asked["network"], "score": name, **vars(spread)}
            found.append(row | {"values": list(spread.values), "weight": weight, "parts": means})
    return found
