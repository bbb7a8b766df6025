import math
from functools import partial
from itertools import product
from statistics import fmean, stdev

import pytest

from raydd.evaluation.robust import SCORES, TRAININGS, Training, needed, normalise, over_seeds

GRID = (0.0, 0.1, 0.5, 0.8, 1.0)
NEUTRAL = 1 / (1 + math.e)
LABELS = ("whole_hard", "distilled_hard", "distilled_own", "random_own")
AUGMENTATION = ("distilled_own", "random_own", "distilled_plain", "random_plain")


def score_of(score, weight=0.5, **accuracies):
    """The score of one seed."""
    return over_seeds(score, {TRAININGS[name]: {0: value} for name, value in accuracies.items()}, "logits", weight).mean


label_robust_score = partial(score_of, "lrs")
augmentation_robust_score = partial(score_of, "ars")


def hard_label_recovery(whole, distilled):
    return score_of("hlr", whole_hard=whole, distilled_hard=distilled)


def improvement_over_random(distilled, random):
    return score_of("ior", distilled_own=distilled, random_own=random)


# Which way each accuracy moves the score.
SIGNS = {
    label_robust_score: dict(zip(LABELS, (-1, 1, 1, -1), strict=True)),
    augmentation_robust_score: dict(zip(AUGMENTATION, (1, -1, 1, -1), strict=True)),
}
MEASURED = {
    "whole_hard": {3: 0.9, 4: 0.8, 5: 0.85},
    "distilled_hard": {3: 0.6, 4: 0.5, 5: 0.52},
    "distilled_own": {3: 0.7, 4: 0.72, 5: 0.69},
    "random_own": {3: 0.4, 4: 0.5, 5: 0.42},
    "distilled_plain": {3: 0.61, 4: 0.63, 5: 0.66},
    "random_plain": {3: 0.39, 4: 0.33, 5: 0.31},
}
BY_TRAINING = {TRAININGS[name]: by_seed for name, by_seed in MEASURED.items()}


def ddranking(x):
    return (math.exp(x) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def test_differences_are_those_of_the_definition():
    assert hard_label_recovery(0.848, 0.668) == pytest.approx(0.18)
    assert hard_label_recovery(0.3, 0.5) == pytest.approx(-0.2)
    assert improvement_over_random(0.668, 0.31) == pytest.approx(0.358)
    assert improvement_over_random(0.2, 0.6) == pytest.approx(-0.4)


def test_label_robust_score_by_hand():
    # HLR = 0.85 - 0.55 = 0.30 and IOR = 0.67 - 0.47 = 0.20; alpha = -0.05 and -0.2 * 0.3 + 0.8 * 0.2 = 0.10.
    given = {"whole_hard": 0.85, "distilled_hard": 0.55, "distilled_own": 0.67, "random_own": 0.47}
    # e^-0.05 = 0.9512294, e^0.1 = 1.1051709, e^-1 = 0.3678794, e - e^-1 = 2.3504024.
    assert label_robust_score(**given) == pytest.approx((0.9512294 - 0.3678794) / 2.3504024, abs=1e-6)
    assert label_robust_score(**given, weight=0.8) == pytest.approx((1.1051709 - 0.3678794) / 2.3504024, abs=1e-6)


def test_augmentation_robust_score_by_hand():
    # Gains 0.2 with augmentation and 0.1 without; beta = 0.15 and 0.9 * 0.2 + 0.1 * 0.1 = 0.19.
    given = {"distilled_own": 0.7, "random_own": 0.5, "distilled_plain": 0.5, "random_plain": 0.4}
    # e^0.15 = 1.1618342, e^0.19 = 1.2092496.
    assert augmentation_robust_score(**given) == pytest.approx((1.1618342 - 0.3678794) / 2.3504024, abs=1e-6)
    found = augmentation_robust_score(**given, weight=0.9)
    assert found == pytest.approx((1.2092496 - 0.3678794) / 2.3504024, abs=1e-6)


def test_limits_of_the_label_robust_score():
    def score(*accuracies):
        return label_robust_score(**dict(zip(LABELS, accuracies, strict=True)))

    assert score(0.8, 0.8, 0.5, 0.5) == pytest.approx(NEUTRAL), "perfect recovery, at the level of random images"
    assert score(0.8, 0.8, 1.0, 0.0) == pytest.approx(ddranking(0.5)), "perfect recovery, all won over random images"
    assert score(0.9, 0.0, 0.5, 0.5) == pytest.approx(ddranking(-0.45)), "no recovery, at the level of random images"
    assert score(1.0, 0.0, 0.0, 1.0) == 0.0, "the worst"
    assert score(0.0, 1.0, 1.0, 0.0) == 1.0, "the best"


def test_limits_of_the_augmentation_robust_score():
    def score(*accuracies):
        return augmentation_robust_score(**dict(zip(AUGMENTATION, accuracies, strict=True)))

    assert score(0.6, 0.6, 0.3, 0.3) == pytest.approx(NEUTRAL), "the level of random images"
    assert score(0.6, 0.5, 0.3, 0.4) == pytest.approx(NEUTRAL), "won with augmentation what is lost without"
    assert (score(0.0, 1.0, 0.0, 1.0), score(1.0, 0.0, 1.0, 0.0)) == (0.0, 1.0)


@pytest.mark.parametrize("score", SIGNS)
def test_weight_chooses_between_two_differences(score):
    first = {name: 0.25 for name in SIGNS[score]}
    won = {"distilled_own": 0.75}
    other = {"distilled_hard" if score is label_robust_score else "distilled_plain": 0.75}
    assert score(**first | won, weight=1.0) == pytest.approx(ddranking(0.5))
    assert score(**first | won, weight=0.0) == pytest.approx(NEUTRAL)
    assert score(**first | other, weight=0.0) == pytest.approx(ddranking(0.5))
    assert score(**first | other, weight=1.0) == pytest.approx(NEUTRAL)


@pytest.mark.parametrize("score", SIGNS)
@pytest.mark.parametrize("weight", [0.0, 1e-17, 0.1, 1 / 3, 0.5, 0.7, 1.0])
def test_scores_stay_in_the_unit_interval(score, weight):
    found = [score(**dict(zip(SIGNS[score], row, strict=True)), weight=weight) for row in product(GRID, repeat=4)]
    assert min(found) == 0
    assert max(found) == 1


@pytest.mark.parametrize(("score", "name"), [(score, name) for score, names in SIGNS.items() for name in names])
def test_scores_rise_with_what_is_good_and_fall_with_what_is_not(score, name):
    for row in product(GRID, repeat=4):
        given = dict(zip(SIGNS[score], row, strict=True))
        found = [score(**given | {name: value}) for value in GRID]
        assert found == sorted(found, reverse=SIGNS[score][name] < 0)
        assert len(set(found)) == len(GRID)


@pytest.mark.parametrize("value", [-0.01, 1.01, 66.8, math.nan, math.inf])
def test_values_out_of_range_are_refused(value):
    rows = {label_robust_score: LABELS, augmentation_robust_score: AUGMENTATION}
    for score, names in rows.items():
        for name in (*names, "weight"):
            with pytest.raises(ValueError, match=rf"^{name} {value!r} is not in \[0, 1\]; give a fraction"):
                score(**dict.fromkeys(names, 0.5) | {name: value})
    with pytest.raises(ValueError, match=r"^whole_hard .* is not in \[0, 1\]"):
        hard_label_recovery(value, 0.5)
    with pytest.raises(ValueError, match=r"^random_own .* is not in \[0, 1\]"):
        improvement_over_random(0.5, value)
    with pytest.raises(ValueError, match=r"^distilled_own .* is not in \[0, 1\]"):
        over_seeds("ior", BY_TRAINING | {TRAININGS["distilled_own"]: {3: 0.5, 4: value}}, "logits")


def test_normalise_is_the_documented_formula():
    assert [normalise(x) for x in (-1.0, -0.3, 0.0, 0.6, 1.0)] == [ddranking(x) for x in (-1.0, -0.3, 0.0, 0.6, 1.0)]


def test_trainings_of_a_set_with_soft_labels():
    assert set(needed(["hlr"], "logits")) == {("whole", "hard", True), ("distilled", "hard", True)}
    assert set(needed(["ior"], "logits")) == {("distilled", "own", True), ("random", "own", True)}
    assert set(needed(["lrs"], "logits")) == set(needed(["hlr", "ior"], "logits"))
    plain = {("distilled", "own", False), ("random", "own", False)}
    assert set(needed(["ars"], "logits")) == set(needed(["ior"], "logits")) | plain
    assert needed(["ars", "lrs"], "logits") == tuple(TRAININGS.values())


def test_trainings_of_a_set_with_hard_labels_are_shared():
    found = needed(["lrs"], "hard")
    assert found == (("whole", "hard", True), ("distilled", "hard", True), ("random", "hard", True))
    assert len(needed(SCORES, "hard")) == 5


@pytest.mark.parametrize("weight", [0.5, 0.8])
@pytest.mark.parametrize(("score", "function"), [("lrs", label_robust_score), ("ars", augmentation_robust_score)])
def test_equal_seeds_are_scored_one_by_one(score, function, weight):
    found = over_seeds(score, BY_TRAINING, "logits", weight)
    by_hand = [
        function(**{name: MEASURED[name][seed] for name in SIGNS[function]}, weight=weight) for seed in (3, 4, 5)
    ]
    assert found.how == "by seed"
    assert found.values == pytest.approx(by_hand)
    assert found.mean == pytest.approx(fmean(by_hand))
    assert found.std == pytest.approx(stdev(by_hand))


def test_order_of_the_seeds_does_not_matter():
    for name in LABELS:
        turned = BY_TRAINING | {TRAININGS[name]: dict(reversed(MEASURED[name].items()))}
        assert over_seeds("lrs", turned, "logits") == over_seeds("lrs", BY_TRAINING, "logits")


def test_other_seeds_are_scored_by_their_means():
    whole = {7: 0.9, 8: 0.8}
    found = over_seeds("lrs", BY_TRAINING | {TRAININGS["whole_hard"]: whole}, "logits", weight=0.8)
    means = {name: fmean(MEASURED[name].values()) for name in LABELS} | {"whole_hard": 0.85}
    assert found.how == "of means"
    assert found.values == ()
    assert found.mean == pytest.approx(label_robust_score(**means, weight=0.8))
    stds = {name: stdev(MEASURED[name].values()) for name in LABELS} | {"whole_hard": stdev(whole.values())}
    step = 1e-6
    first_order = [
        std * (label_robust_score(**means | {name: means[name] + step}, weight=0.8) - found.mean) / step
        for name, std in stds.items()
    ]
    assert found.std == pytest.approx(math.sqrt(sum(part**2 for part in first_order)), rel=1e-4)


def test_differences_of_other_seeds_add_variances():
    accuracies = {TRAININGS["distilled_own"]: {0: 0.5, 1: 0.7}, TRAININGS["random_own"]: {2: 0.3, 3: 0.4, 4: 0.5}}
    found = over_seeds("ior", accuracies, "logits")
    assert found.mean == pytest.approx(0.2)
    assert found.std == pytest.approx(math.sqrt(0.02 + 0.01))


def test_hard_labels_count_the_shared_training_once():
    hard = {
        Training("whole", "hard", True): {0: 0.9, 1: 0.8},
        Training("distilled", "hard", True): {0: 0.6, 1: 0.5},
        Training("random", "hard", True): {2: 0.4, 3: 0.3},
    }
    found = over_seeds("lrs", hard, "hard")
    # alpha = 0.5 (d - r) - 0.5 (w - d) = d - 0.5 r - 0.5 w, of means 0.55, 0.35, 0.85; every variance is 0.005.
    assert found.mean == pytest.approx(ddranking(-0.05))
    slope = math.exp(-0.05) / (math.exp(1) - math.exp(-1))
    assert found.std == pytest.approx(slope * math.sqrt(0.005 * (1 + 0.25 + 0.25)))


def test_one_seed_has_no_deviation():
    single = {training: {3: by_seed[3]} for training, by_seed in BY_TRAINING.items()}
    found = over_seeds("lrs", single, "logits")
    assert (found.how, found.std, found.values) == ("by seed", None, (found.mean,))
    once = over_seeds("lrs", BY_TRAINING | {TRAININGS["whole_hard"]: {3: 0.9}}, "logits")
    assert (once.how, once.std) == ("of means", None)


@pytest.mark.parametrize("lacking", [{}, {TRAININGS["distilled_own"]: {}}])
def test_a_missing_training_is_named(lacking):
    with pytest.raises(ValueError, match=r"^there is no accuracy of distilled_own, \('distilled', 'own', True\); do"):
        over_seeds("ior", lacking, "logits")


def test_unknown_scores_are_refused():
    with pytest.raises(ValueError, match=r"^unknown score 'LRS'; use one of hlr, ior, lrs, ars$"):
        needed(["LRS"], "hard")
