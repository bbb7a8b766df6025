"""Scores that separate a set's quality from its labels and augmentation: LRS and ARS of DD-Ranking.

Soft labels carry a teacher's knowledge, and random images gain from them and from augmentation as well. These scores
compare a set with the whole data under hard labels, and with random images under the set's own labels.

    HLR = Acc_real-hard - Acc_syn-hard                                          (hard label recovery, less is better)
    IOR = Acc_syn-any - Acc_rdm-any                                             (improvement over random)
    LRS = normalise(w IOR - (1 - w) HLR)                                        (label-robust score)
    ARS = normalise(w (Acc_syn-aug - Acc_rdm-aug) + (1 - w) (Acc_syn-naug - Acc_rdm-naug))

Reference: arXiv 2505.13300, the definitions of LRS and ARS, as the project prints them in doc/introduction.md of
https://github.com/NUS-HPC-AI-Lab/DD-Ranking.

Differs: the package ddranking 0.2.0 uses percent where its documentation has fractions, so its scores leave [0, 1]; it
takes the best epoch on test, chooses the learning rate of random images on test, and divides variances by n. Here
accuracies are fractions of any protocol, and variances have n - 1.
"""

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from raydd.data.synset import LabelKind


class Training(NamedTuple):
    """One kind of training whose accuracy a score needs.

    Labels of kind ``own`` are as the distilled set's: random images get logits of a teacher where it has logits.
    """

    kind: Literal["distilled", "random", "whole"]
    labels: Literal["hard", "own"]
    augment: bool


TRAININGS = {
    "whole_hard": Training("whole", "hard", augment=True),
    "distilled_hard": Training("distilled", "hard", augment=True),
    "distilled_own": Training("distilled", "own", augment=True),
    "random_own": Training("random", "own", augment=True),
    "distilled_plain": Training("distilled", "own", augment=False),
    "random_plain": Training("random", "own", augment=False),
}
"""By name. DD-Ranking's names: real-hard, syn-hard, syn-any = syn-aug, rdm-any = rdm-aug, syn-naug, rdm-naug.

Differs: DD-Ranking's documentation asks for one setting of both hard trainings without saying whether it has
augmentation. Here both have it. Its code omits it from both for sets with soft labels, and from the whole data's for
sets with hard labels.
"""

Accuracies = Mapping[Training, Mapping[int, float]]
"""By training: the accuracy of each seed."""


SCORES: dict[str, Callable[[float], dict[str, float]]] = {
    "hlr": lambda _: {"whole_hard": 1.0, "distilled_hard": -1.0},
    "ior": lambda _: {"distilled_own": 1.0, "random_own": -1.0},
    "lrs": lambda w: {"whole_hard": w - 1, "distilled_hard": 1 - w, "distilled_own": w, "random_own": -w},
    "ars": lambda w: {"distilled_own": w, "random_own": -w, "distilled_plain": 1 - w, "random_plain": w - 1},
}
"""By name: from the weight w, the factor of each training in a weighted sum of accuracies."""
NORMALISED = {"lrs", "ars"}
"""Scores whose sum `normalise` maps to [0, 1]."""


@dataclass(frozen=True)
class Spread:
    """A score over seeds.

    ``by seed``: all trainings have the same seeds, and ``values`` has a score of each. ``of means``: seeds differ,
    ``values`` is empty, and ``std`` (None where a training has one seed) takes trainings as independent.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]
    how: Literal["by seed", "of means"]


def normalise(exponent: float) -> float:
    """Return (e^x - e^-1) / (e - e^-1), which maps [-1, 1] to [0, 1].

    >>> normalise(-1.0), round(normalise(0.0), 6), normalise(1.0)
    (0.0, 0.268941, 1.0)
    """
    return (math.exp(exponent) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def needed(scores: Iterable[str], label_kind: LabelKind) -> tuple[Training, ...]:
    """Return the distinct trainings that scores need, in the order of `TRAININGS`.

    >>> len(needed(["lrs", "ars"], "logits")), len(needed(["lrs", "ars"], "hard"))
    (6, 5)
    """
    names = {name for score in scores for name in _factors(score, 0.5)}
    return tuple(dict.fromkeys(resolve(name, label_kind) for name in TRAININGS if name in names))


def resolve(name: str, label_kind: LabelKind) -> Training:
    """Return the training of a name, with hard labels where the set's own labels are hard."""
    training = TRAININGS[name]
    return training._replace(labels="hard") if label_kind == "hard" else training


def over_seeds(score: str, accuracies: Accuracies, label_kind: LabelKind, weight: float = 0.5) -> Spread:
    """Return a score over several seeds: of each seed where all trainings have the same seeds, else of the means.

    Where seeds differ, std^2 = sum_i (s'(x) f_i)^2 var_i over trainings i, with x = sum_i f_i mean_i and s the score as
    a function of x. A training with two names counts once, with the sum of both factors. Equal seeds mean equal initial
    weights.
    """
    factors = _merged(_factors(score, weight), accuracies, label_kind)
    finish: Callable[[float], float] = normalise if score in NORMALISED else float
    by_seed = [dict(accuracies[training]) for training in factors]
    if all(values.keys() == by_seed[0].keys() for values in by_seed):
        sums = [_dot(factors.values(), [values[seed] for values in by_seed]) for seed in sorted(by_seed[0])]
        scores = tuple(finish(x) for x in sums)
        return Spread(statistics.fmean(scores), _std(scores), scores, "by seed")
    x = _dot(factors.values(), [statistics.fmean(values.values()) for values in by_seed])
    slope = math.exp(x) / (math.exp(1) - math.exp(-1)) if score in NORMALISED else 1.0
    stds = [_std(values.values()) for values in by_seed]
    known = [slope * factor * std for factor, std in zip(factors.values(), stds, strict=True) if std is not None]
    return Spread(finish(x), math.hypot(*known) if len(known) == len(stds) else None, (), "of means")


def _merged(factors: dict[str, float], accuracies: Accuracies, label_kind: LabelKind) -> dict[Training, float]:
    """Return the factor of each distinct training, and check their accuracies."""
    merged: dict[Training, float] = {}
    for name, factor in factors.items():
        training = resolve(name, label_kind)
        if not accuracies.get(training):
            raise ValueError(f"there is no accuracy of {name}, {tuple(training)}; do this training first")
        for value in accuracies[training].values():
            _check(name, value)
        merged[training] = merged.get(training, 0.0) + factor
    return merged


def _factors(score: str, weight: float) -> dict[str, float]:
    if score not in SCORES:
        raise ValueError(f"unknown score {score!r}; use one of {', '.join(SCORES)}")
    _check("weight", weight)
    return SCORES[score](weight)


def _dot(factors: Iterable[float], accuracies: Iterable[float]) -> float:
    """Sum with one rounding, so that an exponent stays in [-1, 1]: factors of one sign add up to 1."""
    return math.fsum(factor * value for factor, value in zip(factors, accuracies, strict=True))


def _check(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{what} {value!r} is not in [0, 1]; give a fraction, such as percent over 100")


def _std(values: Collection[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
