"""Scores that take the help of labels and of augmentation out of an accuracy: LRS and ARS of DD-Ranking.

Soft labels bring the knowledge of a teacher, and random images gain by them and by augmentation as well. These scores
compare with the whole data under hard labels, and with random images under the set's own, augmented and not.

Shapes: none; accuracies are fractions.

Reference: arXiv 2505.13300, the definitions of LRS and ARS, as the project prints them in doc/introduction.md of
https://github.com/NUS-HPC-AI-Lab/DD-Ranking.

Differs: the package ddranking 0.2.0 puts percent where its documentation has fractions, so that its scores leave
[0, 1]; it takes the best epoch on test, searches the step size of the random images on test, and divides variances by
n. Here accuracies are fractions, of whatever protocol they come from, and variances have n - 1.
"""

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

LabelKind = Literal["hard", "logits"]


class Training(NamedTuple):
    """One kind of training that a score needs an accuracy of.

    Attributes:
        kind: What is trained on: the distilled set, as many random real images, or the whole data.
        labels: hard, or own, the distilled set's kind: a teacher's logits of random images, where the set has logits.
        augment: Whether with the protocol's augmentation.
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
"""By name. DD-Ranking's marks: real-hard, syn-hard, syn-any = syn-aug, rdm-any = rdm-aug, syn-naug, rdm-naug.

Differs: its documentation wants one setting for both hard trainings and does not say whether it has augmentation. Here
both have it. Its code leaves it out of both for sets with soft labels, and of the whole data's for sets with hard ones.
"""

Accuracies = Mapping[Training, Mapping[int, float]]
"""Of every training, the accuracy of each seed."""


class Row(NamedTuple):
    """One score: a weighted sum of accuracies.

    Attributes:
        factors: From the score's weight in [0, 1], the factor of every training of `TRAININGS` by name, in the order in
            which the function of the score takes the accuracies.
        normalised: Whether the sum is brought to [0, 1] by `normalise`.
    """

    factors: Callable[[float], dict[str, float]]
    normalised: bool


SCORES = {
    "hlr": Row(lambda _: {"whole_hard": 1.0, "distilled_hard": -1.0}, False),
    "ior": Row(lambda _: {"distilled_own": 1.0, "random_own": -1.0}, False),
    "lrs": Row(lambda w: {"whole_hard": w - 1, "distilled_hard": 1 - w, "distilled_own": w, "random_own": -w}, True),
    "ars": Row(lambda w: {"distilled_own": w, "random_own": -w, "distilled_plain": 1 - w, "random_plain": w - 1}, True),
}
"""By name: hard label recovery, improvement over random, label-robust score, augmentation-robust score."""


@dataclass(frozen=True)
class Spread:
    """A score over seeds.

    Attributes:
        mean: The mean of ``values``; or the score of the mean accuracies.
        std: The standard deviation of the score of one seed a training, over networks and draws of random images; the
            distilled set is one and the same. None where a training has one seed only.
        values: One score a seed, in the order of the seeds; empty where seeds are not paired.
        how: ``by seed``: trainings have the same seeds, and the score was taken of each. ``of means``: they differ, the
            score is of means, and ``std`` takes trainings as independent, to first order.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]
    how: Literal["by seed", "of means"]


def hard_label_recovery(whole_hard: float, distilled_hard: float) -> float:
    """What is missing to the whole data under hard labels; less is better.

    HLR = Acc_real-hard - Acc_syn-hard

    Args:
        whole_hard: Accuracy after training on the whole data with hard labels, in [0, 1].
        distilled_hard: Accuracy after training on the distilled set with hard labels, in [0, 1].

    Returns:
        A difference in [-1, 1]; 0 for perfect recovery.

    Raises:
        ValueError: An accuracy outside [0, 1].

    >>> round(hard_label_recovery(0.848, 0.668), 6)
    0.18
    """
    return _combine("hlr", 0.5, whole_hard, distilled_hard)


def improvement_over_random(distilled_own: float, random_own: float) -> float:
    """What the distilled set gains over as many random real images, labelled and augmented alike; more is better.

    IOR = Acc_syn-any - Acc_rdm-any

    Args:
        distilled_own: Accuracy after training on the distilled set with its own labels, in [0, 1].
        random_own: The same on random images, in [0, 1].

    Returns:
        A difference in [-1, 1]; 0 at the level of random images.

    Raises:
        ValueError: An accuracy outside [0, 1].

    >>> round(improvement_over_random(0.668, 0.31), 6)
    0.358
    """
    return _combine("ior", 0.5, distilled_own, random_own)


def label_robust_score(
    *, whole_hard: float, distilled_hard: float, distilled_own: float, random_own: float, weight: float = 0.5
) -> float:
    """The label-robust score (LRS): what remains of a set's quality without the help of its labels; more is better.

    alpha = w IOR - (1 - w) HLR;  LRS = (e^alpha - e^-1) / (e - e^-1)

    Args:
        whole_hard: Accuracy after training on the whole data with hard labels, in [0, 1].
        distilled_hard: The same on the distilled set with hard labels.
        distilled_own: The same on the distilled set with its own labels; ``distilled_hard`` where they are hard.
        random_own: The same on random images with labels of that kind.
        weight: w in [0, 1], how much improvement over random counts.

    Returns:
        A score in [0, 1]; 1 / (1 + e) = 0.269 where nothing is missing to the whole data and nothing won over random.

    Raises:
        ValueError: An accuracy or the weight outside [0, 1].

    >>> round(label_robust_score(whole_hard=0.85, distilled_hard=0.55, distilled_own=0.67, random_own=0.47), 6)
    0.248192
    """
    return _combine("lrs", weight, whole_hard, distilled_hard, distilled_own, random_own)


def augmentation_robust_score(
    *, distilled_own: float, random_own: float, distilled_plain: float, random_plain: float, weight: float = 0.5
) -> float:
    """The augmentation-robust score (ARS): improvement over random with augmentation and without; more is better.

    beta = gamma (Acc_syn-aug - Acc_rdm-aug) + (1 - gamma) (Acc_syn-naug - Acc_rdm-naug)
    ARS = (e^beta - e^-1) / (e - e^-1)

    Args:
        distilled_own: Accuracy after training on the distilled set with its own labels and augmentation, in [0, 1].
        random_own: The same on random images.
        distilled_plain: As ``distilled_own``, without augmentation.
        random_plain: As ``random_own``, without augmentation.
        weight: gamma in [0, 1], how much the improvement with augmentation counts.

    Returns:
        A score in [0, 1]; 1 / (1 + e) = 0.269 at the level of random images.

    Raises:
        ValueError: An accuracy or the weight outside [0, 1].

    >>> round(augmentation_robust_score(distilled_own=0.7, random_own=0.5, distilled_plain=0.5, random_plain=0.4), 5)
    0.3378
    """
    return _combine("ars", weight, distilled_own, random_own, distilled_plain, random_plain)


def normalise(exponent: float) -> float:
    """(e^x - e^-1) / (e - e^-1), which leads [-1, 1] to [0, 1].

    >>> normalise(-1.0), round(normalise(0.0), 6), normalise(1.0)
    (0.0, 0.268941, 1.0)
    """
    return (math.exp(exponent) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def needed(scores: Iterable[str], label_kind: LabelKind) -> tuple[Training, ...]:
    """The distinct trainings that scores need, in the order of `TRAININGS`.

    Args:
        scores: Names of `SCORES`.
        label_kind: Of the distilled set. Where it is hard, a set's own labels are hard labels, and the two trainings on
            the distilled set with augmentation are one.

    Raises:
        ValueError: An unknown score.

    >>> len(needed(["lrs", "ars"], "logits")), len(needed(["lrs", "ars"], "hard"))
    (6, 5)
    """
    names = {name for score in scores for name in _factors(score, 0.5)}
    return tuple(dict.fromkeys(resolve(name, label_kind) for name in TRAININGS if name in names))


def over_seeds(score: str, accuracies: Accuracies, label_kind: LabelKind, weight: float = 0.5) -> Spread:
    """A score over several seeds: seed by seed where all trainings have the same seeds, else of the means.

    Where seeds differ, std^2 = sum_i (s'(x) f_i)^2 var_i over trainings i, with x = sum_i f_i mean_i and s the score as
    a function of x. A training that stands for two names counts once, with both factors.

    Args:
        score: A name of `SCORES`.
        accuracies: In [0, 1], of every training that `needed` names, by seed. Equal seeds mean equal initial weights.
        label_kind: Of the distilled set.
        weight: w of LRS, gamma of ARS, in [0, 1].

    Raises:
        ValueError: An unknown score, a training without accuracy, or an accuracy or the weight outside [0, 1].
    """
    factors = _merged(_factors(score, weight), accuracies, label_kind)
    row = SCORES[score]
    by_seed = [dict(accuracies[training]) for training in factors]
    if all(found.keys() == by_seed[0].keys() for found in by_seed):
        sums = [_dot(factors.values(), [found[seed] for found in by_seed]) for seed in sorted(by_seed[0])]
        values = tuple(_finish(row, x) for x in sums)
        return Spread(statistics.fmean(values), _std(values), values, "by seed")
    x = _dot(factors.values(), [statistics.fmean(found.values()) for found in by_seed])
    slope = math.exp(x) / (math.exp(1) - math.exp(-1)) if row.normalised else 1.0
    stds = [_std(found.values()) for found in by_seed]
    known = [slope * factor * std for factor, std in zip(factors.values(), stds, strict=True) if std is not None]
    return Spread(_finish(row, x), math.hypot(*known) if len(known) == len(stds) else None, (), "of means")


def _merged(factors: dict[str, float], accuracies: Accuracies, label_kind: LabelKind) -> dict[Training, float]:
    """The factor of every distinct training, all of which have proper accuracies."""
    merged: dict[Training, float] = {}
    for name, factor in factors.items():
        training = resolve(name, label_kind)
        if not accuracies.get(training):
            raise ValueError(f"there is no accuracy of {name}, {tuple(training)}; do this training first")
        for value in accuracies[training].values():
            _check(name, value)
        merged[training] = merged.get(training, 0.0) + factor
    return merged


def _combine(score: str, weight: float, *accuracies: float) -> float:
    """The score of one accuracy a training, in the order of the score's factors."""
    factors = _factors(score, weight)
    for name, value in zip(factors, accuracies, strict=True):
        _check(name, value)
    return _finish(SCORES[score], _dot(factors.values(), accuracies))


def _factors(score: str, weight: float) -> dict[str, float]:
    if score not in SCORES:
        raise ValueError(f"unknown score {score!r}; use one of {', '.join(SCORES)}")
    _check("weight", weight)
    return SCORES[score].factors(weight)


def _dot(factors: Iterable[float], accuracies: Iterable[float]) -> float:
    return math.fsum(factor * value for factor, value in zip(factors, accuracies, strict=True))


def _finish(row: Row, x: float) -> float:
    # Within [-1, 1] in floating point too: factors of a sign add up to 1, and `fsum` rounds once.
    return normalise(x) if row.normalised else x


def resolve(name: str, label_kind: LabelKind) -> Training:
    """The training of a name, with hard labels where the set's own are hard."""
    training = TRAININGS[name]
    return training._replace(labels="hard") if label_kind == "hard" else training


def _check(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{what} {value!r} is not in [0, 1]; give a fraction, such as percent over 100")


def _std(values: Collection[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
