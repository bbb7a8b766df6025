"""Several matches an outer step: their mean, their draws, and what they leave as it is."""

import copy

import pytest
import torch

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.leaves import Leaf
from raydd.distillation.loop import Distillation
from raydd.distillation.parts import Rollout, Sequential
from raydd.distillation.rollouts import Matcher, averaged, mean, rollout_division

LEARN = {"images": Leaf(0.5, 0.5), "lr": Leaf(0.01)}


class Noisy:
    """Half the squared distance to a point that is drawn anew each time: its gradient is known."""

    parts, joint = 1, False

    def __init__(self, spoiled=()):
        self.points, self.spoiled = [], spoiled

    def init(self, rng):
        return None

    def loss(self, synset, state, step, rng, part=0):
        point = torch.randn(synset.images.shape, generator=rng).to(synset.images)
        self.points.append((step, point))
        loss = (synset.images - point).square().sum() / 2 + (synset.lr - 0.3).square()
        return (loss * torch.nan if len(self.points) - 1 in self.spoiled else loss), state


def synset(device="cpu"):
    images = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    start = SyntheticSet(images, torch.tensor([0, 1]), torch.tensor(0.1), Transform("raw01"), "toy", ("a", "b"), {}, {})
    return start.to(device)


def sequential(matcher, count):
    """The rollouts of a step, one after another in this process."""
    division = rollout_division(matcher, count)
    return division.matches(Sequential(division.part, division.count))


def taken(rolls, steps=5, objective=None, **options):
    run = Distillation(objective or Noisy(), synset(), LEARN, 0, **options)
    return run, list(run.run(steps, rolls))


def same(one, other):
    return all(torch.equal(getattr(one.result, name), getattr(other.result, name)) for name in LEARN)


def test_one_rollout_is_the_loop_itself_to_the_bit():
    alone, steps = taken(None)
    rolled, others = taken(sequential(Matcher(Noisy(), synset(), 0), 1))
    assert steps == others
    assert same(alone, rolled)


def test_a_step_takes_the_mean_of_gradients_known_by_a_formula():
    objective = Noisy()
    rolled, steps = taken(sequential(Matcher(objective, synset(), 0), 4), steps=1)
    points = torch.stack([point for _, point in objective.points]).double()
    start = synset().images.double()
    assert len(points.unique(dim=0)) == 4  # each rollout draws its own
    expected = start - 0.5 * (start - points.mean(0))
    assert torch.allclose(rolled.result.images.double(), expected, atol=1e-6, rtol=0)
    losses = (start - points).square().flatten(1).sum(1) / 2 + 0.2**2
    assert steps[0].loss == pytest.approx(float(losses.mean()), rel=1e-6)


def test_the_first_rollout_draws_what_a_run_of_one_draws():
    one, four = Noisy(), Noisy()
    taken(sequential(Matcher(one, synset(), 0), 1), steps=3)
    taken(sequential(Matcher(four, synset(), 0), 4), steps=3)
    assert [step for step, _ in four.points] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one.points, four.points[::4], strict=True))


def test_rollouts_made_in_any_order_give_the_same_bits():
    matcher = Matcher(Noisy(), synset(), 0)

    class Backwards(Sequential):
        def __call__(self, *arguments):
            return [self.part(index, *arguments) for index in (2, 1, 0)][::-1]

    assert same(taken(sequential(matcher, 3))[0], taken(averaged(Backwards(matcher, 3)))[0])


def test_the_leaves_given_are_left_as_they_are():
    leaves = {name: getattr(synset(), name) for name in LEARN}
    before = copy.deepcopy(leaves)
    Matcher(Noisy(), synset(), 0)(1, leaves, 0, 0)
    assert all(torch.equal(leaves[name], before[name]) and not leaves[name].requires_grad for name in LEARN)


def test_the_mean_is_summed_in_order():
    big = [Rollout(value, (torch.tensor([value]),)) for value in (1e8, 1.0, -1e8, 1.0)]
    assert mean(big).gradients[0].item() == ((torch.tensor(1e8) + 1.0 - 1e8 + 1.0) / 4).item()
    assert mean(big).loss == 0.5
    assert mean(big[:1]) == big[0]


def test_a_rollout_that_is_not_finite_rolls_the_step_back():
    spoiled = Noisy(spoiled={3 * 3 + 1})  # the second rollout of the fourth step
    run, steps = taken(sequential(Matcher(spoiled, synset(), 0), 3), steps=4, keep_every=2)
    expected = [(1, None), (2, None), (3, None), (4, 2), (3, None), (4, None)]
    assert [(step.step, step.rolled_back_to) for step in steps] == expected
    assert run.step == 4
    again = spoiled.points[12:15]
    assert all(step == 2 for step, _ in again)
    assert not torch.equal(again[0][1], spoiled.points[6][1])  # another attempt draws anew


def test_the_gate_looks_at_the_mean_loss():
    matcher = Matcher(Noisy(), synset(), 0)
    first = taken(sequential(matcher, 4), steps=1)[1][0].loss
    _, steps = taken(sequential(matcher, 4), steps=1, gate=first * 0.999)
    assert not steps[0].stepped
    _, steps = taken(sequential(matcher, 4), steps=1, gate=first * 1.001)
    assert steps[0].stepped
