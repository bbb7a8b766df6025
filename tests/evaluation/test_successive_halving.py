"""Rungs, and who goes on from them: against a plain reading of the rule, and over simulated searches."""

import math
import random
from itertools import pairwise

import pytest

from raydd.evaluation.successive_halving import Rungs, SuccessiveHalving


@pytest.mark.rows(("epochs", "first", "reduction"), [(300, 20, 3), (1000, 1, 2), (50, 49, 2), (8, 2, 2), (9, 3, 3)])
def test_rungs_grow_by_the_reduction_and_end_before_the_last_epoch(epochs, first, reduction):
    found = Rungs.geometric(epochs, first, reduction)
    assert found.reduction == reduction
    assert found.epochs[0] == first
    assert all(after == before * reduction for before, after in pairwise(found.epochs))
    assert found.epochs[-1] < epochs <= found.epochs[-1] * reduction


@pytest.mark.rows(
    ("epochs", "first", "reduction", "words"),
    [
        (300, 0, 3, "after 0 of 300 epochs: use 1 to 299"),
        (300, -5, 3, "use 1 to 299"),
        (300, 300, 3, "after 300 of 300 epochs: use 1 to 299"),
        (300, 20, 1, "reduction of 1: use at least 2"),
        (300, 20, 0, "reduction of 0: use at least 2"),
    ],
)
def test_impossible_rungs_are_refused_in_one_line(epochs, first, reduction, words):
    with pytest.raises(ValueError, match=words) as caught:
        Rungs.geometric(epochs, first, reduction)
    assert "\n" not in str(caught.value)


def told(halving, values, epoch=1, group="g"):
    return [halving.keep_training(group, epoch, f"n{place}", value) for place, value in enumerate(values)]


@pytest.mark.rows("seed", range(20))
@pytest.mark.rows("reduction", [2, 3, 5])
def test_who_goes_on_is_among_the_best_of_those_that_came_before(seed, reduction):
    """The rule, counted out: of n who have come, one's rank is at most n / eta rounded up; ties count as good."""
    rng = random.Random(seed)
    values = [rng.randrange(12) / 12 for _ in range(40)]
    wanted = []
    for place, value in enumerate(values):
        better = sum(other > value for other in values[:place])
        wanted.append(better + 1 <= math.ceil((place + 1) / reduction))
    assert told(SuccessiveHalving(reduction), values) == wanted
    assert len(set(wanted)) == 2


def test_the_first_goes_on_and_a_worse_one_does_not():
    assert told(SuccessiveHalving(2), [0.0, -1.0, 0.0, 0.5]) == [True, False, True, True]


@pytest.mark.rows("reduction", [2, 3, 4])
def test_about_one_in_eta_goes_on_from_every_rung_and_the_best_to_the_end(reduction):
    """400 trainings that come in random order; their accuracy at a rung is how good they are, with some noise."""
    rng, total = random.Random(reduction), 400
    left, halving, shares = list(range(total)), SuccessiveHalving(reduction), []
    for epoch in (10, 20, 40):
        rng.shuffle(left)
        before = len(left)
        left = [one for one in left if halving.keep_training("g", epoch, str(one), one / total + 0.02 * rng.random())]
        shares.append(len(left) / before)
    assert shares[:2] == [pytest.approx(1 / reduction, rel=0.2)] * 2
    assert shares[2] < 1
    assert total - 1 in left


def test_who_come_in_ascending_order_all_go_on():
    """The worst case of deciding at once: each is the best so far."""
    assert all(told(SuccessiveHalving(2), [place / 100 for place in range(100)]))


def test_groups_and_rungs_are_compared_apart():
    halving = SuccessiveHalving(2)
    assert told(halving, [0.9, 0.1]) == [True, False]
    assert told(halving, [0.1, 0.0], epoch=2) == [True, False]
    assert told(halving, [0.2, 0.1], group="h") == [True, False]


@pytest.mark.rows("seed", range(5))
def test_who_comes_again_is_told_the_same_and_changes_nothing(seed):
    """Workers die at random: trainings come to the same rung again, when others have been there meanwhile."""
    rng = random.Random(seed)
    values = {f"n{place}": rng.random() for place in range(30)}
    straight, disturbed = SuccessiveHalving(3), SuccessiveHalving(3)
    first = {name: straight.keep_training("g", 1, name, value) for name, value in values.items()}
    came, found = [], {}
    for name, value in values.items():
        found[name] = disturbed.keep_training("g", 1, name, value)
        came.append(name)
        for again in rng.sample(came, rng.randrange(len(came))):
            assert disturbed.keep_training("g", 1, again, values[again]) == found[again]
    assert found == first
    assert set(first.values()) == {True, False}
