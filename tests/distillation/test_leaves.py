"""The optimisers of what is learned: SGD, Adam, AdamW and the halving of learning rates."""

import pytest
import torch

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.leaves import FACTOR, Leaf, Optimizers, pixel_leaf
from raydd.distillation.loop import Distillation
from raydd.io.tensor_file import flatten_tree, unflatten_tree
from raydd.numerics.rng import generator


def synset(images=None):
    images = torch.randn(4, 1, 3, 3, generator=generator(0)) if images is None else images
    return SyntheticSet(images, torch.arange(4) % 2, torch.tensor(0.5), Transform("raw01"), "toy", ("a", "b"))


class Bowl:
    """The mean square about a point that is drawn each step; from ``flat_from`` on the loss it tells is constant."""

    parts, joint = 1, False

    def __init__(self, flat_from=None):
        self.flat_from = flat_from

    def init(self, rng):
        return None

    def loss(self, synset, state, step, rng, part=0):
        center = 0.1 * torch.randn((), generator=rng)
        loss = (synset.images - center).square().mean() + (synset.lr - 0.2).square()
        if self.flat_from is not None and step >= self.flat_from:
            loss = loss - loss.detach() + 1.0
        return loss, state


def learn(optimizer, **more):
    return {"images": Leaf(0.1, 0.5, optimizer=optimizer, **more), "lr": Leaf(0.01, 0.5, optimizer=optimizer, **more)}


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_loop_steps_by_pytorchs_optimiser(name, kind):
    run = Distillation(Bowl(), synset(), learn(name), 3)
    steps = list(run.run(12))
    images, lr = synset().images.requires_grad_(), torch.tensor(0.5).requires_grad_()
    decay = 0.01 if name == "adamw" else 0.0
    optimizer = kind([{"params": [images], "lr": 0.1}, {"params": [lr], "lr": 0.01}], weight_decay=decay)
    for step in range(12):
        rng = generator(3, "outer", step, 0)
        loss, _ = Bowl().loss(synset().with_leaves({"images": images, "lr": lr}), None, step, rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert float(loss.detach()) == steps[step].loss
    assert torch.equal(run.result.images, images)
    assert torch.equal(run.result.lr, lr)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("patience", [None, 2])
def test_a_run_goes_on_from_any_step_to_the_same_bits(optimizer, patience):
    how = learn(optimizer, patience=patience)
    whole = Distillation(Bowl(4), synset(), how, 0)
    states = [whole.state_dict() for _ in whole.run(14)]
    for state in states[:-1]:
        tensors, plain = flatten_tree(state)
        again = Distillation(Bowl(4), synset(), how, 0)
        again.load_state_dict(unflatten_tree(tensors, plain))
        list(again.run(14))
        assert torch.equal(again.result.images, whole.result.images)
        assert torch.equal(again.result.lr, whole.result.lr)


def test_a_state_of_sgd_is_what_it_was_before_there_was_a_choice():
    state = Distillation(Bowl(), synset(), learn("sgd"), 0).state_dict()
    assert {*state} == {"step", "leaves", "momentum", "mean", "objective"}


def test_learning_rates_are_halved_where_the_loss_stays():
    leaf = torch.ones(1).requires_grad_()
    optimizers = Optimizers({"images": leaf}, {"images": Leaf(0.8, patience=2)})
    seen = []
    for loss in (5.0, 4.0, 4.0, 4.1, 3.99999, 3.0, 3.0, 3.0, 3.0, -1.0, -1.0, -1.0, -1.0):
        optimizers.observe(loss)
        seen.append(optimizers.steppers["images"].lr / 0.8)
    assert seen == [1, 1, 1, 1, FACTOR, FACTOR, FACTOR, FACTOR, FACTOR**2, FACTOR**2, FACTOR**2, FACTOR**2, FACTOR**3]


def test_without_patience_they_stay():
    optimizers = Optimizers({"images": torch.ones(1)}, {"images": Leaf(0.8)})
    for _ in range(5000):
        optimizers.observe(1.0)
    assert optimizers.steppers["images"].lr == 0.8


def test_adam_moves_pixels_by_its_rate_whatever_their_preprocessing():
    """One step of Adam moves each pixel by the learning rate, in units of pixels, not of normalised ones."""
    mean, std = torch.tensor([0.5, 0.25, 0.5]), torch.tensor([0.25, 0.125, 0.5])
    transform = Transform("normalise", tensors={"mean": mean, "std": std})
    start = torch.rand(2, 3, 2, 2, generator=generator(0)) * 0.5 + 0.25
    images = transform(start)
    leaf = pixel_leaf(0.01, 0.5, transform)._replace(optimizer="adam")
    made = SyntheticSet(images, torch.arange(2), torch.tensor(0.5), transform, "toy", ("a", "b"))
    run = Distillation(Bowl(), made, {"images": leaf}, 0)
    list(run.run(1))
    moved = transform.inverse(run.result.images) - start
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.01), rtol=1e-3, atol=1e-6)
