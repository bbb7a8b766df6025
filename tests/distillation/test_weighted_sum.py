"""A sum of objectives: its parts, weights and gradients."""

import pytest
import torch

from raydd.config.parsing import build
from raydd.config.rules import method_rules
from raydd.config.schema import DistillConfig
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.leaves import Leaf
from raydd.distillation.loop import Distillation
from raydd.distillation.weighted_sum import WeightedSum
from raydd.methods import complete
from raydd.numerics.rng import generator


class Pull:
    """The square of the images' distance from a point, and of lr, in as many parts as told."""

    joint = False

    def __init__(self, parts, point, reads_lr=False):
        self.parts, self.point, self.reads_lr = parts, point, reads_lr

    def init(self, rng):
        return {"seen": 0}

    def loss(self, synset, state, step, rng, part=0):
        loss = (part + 1) * (synset.images - self.point).square().sum()
        loss = loss + synset.lr.square() if self.reads_lr else loss
        return loss, {"seen": state["seen"] + 1}


def synset():
    images = torch.randn(2, 1, 2, 2, generator=generator(0), dtype=torch.float64)
    return SyntheticSet(images, torch.arange(2), torch.tensor(0.5), Transform("raw01"), "toy", ("a", "b"))


def test_parts_follow_each_other_and_their_gradients_are_weighted():
    terms = ((Pull(1, 1.0, reads_lr=True), 2.0), (Pull(3, -1.0), 0.5))
    objective = WeightedSum(terms)
    assert (objective.parts, objective.joint) == (4, True)
    images, lr = synset().images.requires_grad_(), torch.tensor(0.5).requires_grad_()
    state, total = objective.init(generator(0)), 0
    for part in range(4):
        loss, state = objective.loss(synset().with_leaves({"images": images, "lr": lr}), state, 0, generator(0), part)
        gradients = torch.autograd.grad(loss, [images, lr])
        total = total + gradients[0]
        assert gradients[1] == (2 * 2 * 0.5 if part == 0 else 0)
    expected = 2 * 2 * (images - 1) + 0.5 * 2 * (1 + 2 + 3) * (images + 1)
    torch.testing.assert_close(total, expected.detach())
    assert state == {"0": {"seen": 1}, "1": {"seen": 3}}


def test_the_loop_takes_one_step_on_the_sum():
    learn = {"images": Leaf(0.01), "lr": Leaf(0.01)}
    run = Distillation(WeightedSum(((Pull(1, 1.0, reads_lr=True), 2.0), (Pull(2, -1.0), 0.5))), synset(), learn, 0)
    (step,) = run.run(1)
    start = synset().images
    moved = start - 0.01 * (4 * (start - 1) + 3 * (start + 1))
    torch.testing.assert_close(run.result.images, moved)
    assert step.loss == pytest.approx(
        float(2 * ((start - 1).square().sum() + 0.25) + 1.5 * (start + 1).square().sum()), rel=1e-6
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "dm", "statistic": {"beside": 1.0}}, "method dm matches statistics"),
        ({"method": "mtt", "rollouts": 2, "statistic": {"beside": 1.0}}, "use --rollouts 1"),
        ({"method": "mtt", "statistic": {"beside": 1.0, "of": "gradient"}}, "does not compare statistic.of = gradient"),
    ],
)
def test_what_cannot_be_summed_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        method_rules(complete(build(DistillConfig, values)))
