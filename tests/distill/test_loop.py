import math

import pytest
import torch

from raydd.data.synset import SyntheticSet
from raydd.data.transform import Transform
from raydd.distill.loop import Distillation, Leaf
from raydd.numerics.rng import generator

LEARN = {"images": Leaf(5.0, 0.5), "labels": Leaf(2.0, 0.9), "lr": Leaf(0.01, 0.5)}


def synset(device="cpu", dtype=torch.float64):
    rng = generator(0, "synset")
    images = torch.randn(4, 1, 3, 3, generator=rng, dtype=torch.float64).to(device, dtype)
    labels = torch.randn(4, 2, generator=rng, dtype=torch.float64).to(device, dtype)
    lr = torch.tensor(0.5, device=device, dtype=dtype)
    return SyntheticSet(images, labels, lr, Transform("raw01", dtype=dtype), "toy", ("a", "b"))


class Quadratic:
    """Mean squares of what is learned, about points that depend on the draws and on what is carried."""

    def __init__(self, noise=0.0, spoil=None):
        self.noise, self.spoil = noise, spoil
        self.seen, self.drawn, self.states = [], [], []

    def init(self, rng):
        start = torch.rand((), generator=rng, dtype=torch.float64)
        return {"count": 0, "past": {"mean": start}}

    def loss(self, synset, state, step, rng):
        draw = self.noise * torch.randn((), generator=rng, dtype=torch.float64)
        learned = {name for name in LEARN if getattr(synset, name).requires_grad}
        self.seen.append((step, learned, synset.images.detach().clone(), synset.lr.item()))
        self.drawn.append(draw.item())
        self.states.append((state["count"], state["past"]["mean"].item()))
        center = draw.to(synset.images) + 0.1 * state["past"]["mean"].to(synset.images)
        loss = (synset.images - center).square().mean() + (synset.labels - center).square().mean()
        loss = loss + (synset.lr - 0.2).square()
        mean = 0.9 * state["past"]["mean"] + 0.1 * synset.images.detach().mean().cpu().double()
        if self.spoil is not None:
            loss = self.spoil(loss, step, len(self.seen) - 1, synset)
        return loss, {"count": state["count"] + 1, "past": {"mean": mean}}


def run(objective, steps, learn=None, start=None, seed=0, **options):
    distillation = Distillation(objective, start or synset(), LEARN if learn is None else learn, seed, **options)
    return distillation, list(distillation.run(steps))


def leaves(distillation):
    return {name: getattr(distillation.result, name) for name in ("images", "labels", "lr")}


def same(a, b):
    return all(torch.equal(value, leaves(b)[name]) for name, value in leaves(a).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_goes_down_to_its_least(dtype, device):
    distillation, steps = run(Quadratic(), 60, start=synset(device, dtype))
    assert [step.step for step in steps] == list(range(1, 61))
    assert all(step.stepped and step.rolled_back_to is None for step in steps)
    assert steps[-1].loss < 0.01 < 0.5 < steps[0].loss
    assert {value.dtype for value in leaves(distillation).values()} == {dtype}
    assert {value.device.type for value in leaves(distillation).values()} == {device.type}


@pytest.mark.parametrize("names", [("images",), ("labels",), ("lr",), ("lr", "images"), ("images", "labels", "lr")])
def test_exactly_the_declared_leaves_are_learned(names):
    start, objective = synset(), Quadratic()
    before = {name: getattr(start, name).clone() for name in LEARN}
    distillation, _ = run(objective, 3, {name: LEARN[name] for name in names}, start)
    assert [(step, learned) for step, learned, _, _ in objective.seen] == [(step, set(names)) for step in range(3)]
    for name, value in leaves(distillation).items():
        assert torch.equal(value, before[name]) == (name not in names)
        assert torch.equal(getattr(start, name), before[name])
        assert not value.requires_grad


def test_a_step_is_sgd_with_momentum_at_each_leafs_own_rate():
    start, objective = synset(), Quadratic(noise=0.3)
    distillation, steps = run(objective, 6, start=start)
    value = {name: getattr(start, name).clone() for name in LEARN}
    velocity = {name: torch.zeros_like(leaf) for name, leaf in value.items()}
    for step, (draw, (count, past)) in enumerate(zip(objective.drawn, objective.states, strict=True)):
        assert count == step
        center = draw + 0.1 * past
        gradient = {
            "images": 2 * (value["images"] - center) / 36,
            "labels": 2 * (value["labels"] - center) / 8,
            "lr": 2 * (value["lr"] - 0.2),
        }
        for name, leaf in LEARN.items():
            velocity[name] = leaf.momentum * velocity[name] + gradient[name]
            value[name] = value[name] - leaf.lr * velocity[name]
        assert steps[step].lr == pytest.approx(value["lr"].item(), rel=1e-12)
    for name, result in leaves(distillation).items():
        torch.testing.assert_close(result, value[name], rtol=1e-12, atol=1e-13)


def test_the_same_seed_gives_the_same_bits_whatever_the_global_generator_does():
    torch.manual_seed(1)
    a, steps = run(Quadratic(noise=1), 12)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    b, again = run(Quadratic(noise=1), 12)
    assert same(a, b)
    assert steps == again
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(a, run(Quadratic(noise=1), 12, seed=1)[0])


@pytest.mark.parametrize("options", [{}, {"ema": 0.8}, {"ema": 0.8, "gate": 2.5}])
def test_resumed_at_a_kept_step_equals_uninterrupted(options, tmp_path):
    whole, steps = run(Quadratic(noise=1), 14, keep_every=5, **options)
    first, _ = run(Quadratic(noise=1), 10, keep_every=5, **options)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Distillation(Quadratic(noise=1), synset(), LEARN, 0, keep_every=5, **options)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.step == 10
    assert list(second.run(14)) == steps[10:]
    assert same(whole, second)
    momentum = [distillation.state_dict()["momentum"] for distillation in (whole, second)]
    assert all(torch.equal(momentum[0][name], momentum[1][name]) for name in LEARN)
    assert whole.state_dict()["objective"] == second.state_dict()["objective"]


def test_kept_is_the_last_state_at_a_multiple_and_resumes_as_well():
    whole, steps = run(Quadratic(noise=1), 14, keep_every=5)
    assert whole.kept["step"] == 10
    second = Distillation(Quadratic(noise=1), synset(), LEARN, 0, keep_every=5)
    second.load_state_dict(whole.kept)
    assert list(second.run(14)) == steps[10:]
    assert same(whole, second)


def test_a_state_is_a_copy():
    distillation, _ = run(Quadratic(noise=1), 5, ema=0.9)
    state = distillation.state_dict()
    images, momentum = state["leaves"]["images"].clone(), state["momentum"]["images"].clone()
    mean, past = state["mean"].clone(), state["objective"]["past"]["mean"].clone()
    list(distillation.run(8))
    assert torch.equal(state["leaves"]["images"], images)
    assert torch.equal(state["momentum"]["images"], momentum)
    assert torch.equal(state["mean"], mean)
    assert torch.equal(state["objective"]["past"]["mean"], past)
    assert not torch.equal(distillation.state_dict()["leaves"]["images"], images)
    distillation.load_state_dict(state)
    list(distillation.run(8))
    assert torch.equal(state["leaves"]["images"], images)
    assert torch.equal(state["momentum"]["images"], momentum)


def test_the_gate_holds_steps_back():
    gate, objective = 2.0, Quadratic(noise=1)
    distillation, steps = run(objective, 20, gate=gate, ema=0.5)
    assert {step.stepped for step in steps} == {True, False}
    images = [*(seen[2] for seen in objective.seen), distillation.state_dict()["leaves"]["images"]]
    mean = images[0]
    for number, step in enumerate(steps):
        assert (step.step, step.rolled_back_to) == (number + 1, None)
        assert step.stepped == (step.loss <= gate)
        assert torch.equal(images[number], images[number + 1]) != step.stepped
        mean = 0.5 * mean + 0.5 * images[number + 1] if step.stepped else mean
    torch.testing.assert_close(distillation.result.images, mean, rtol=1e-12, atol=1e-13)
    assert [count for count, _ in objective.states] == list(range(20))


def test_the_running_mean_equals_a_naive_loop_and_is_never_fed_back():
    plain, losses = run(Quadratic(noise=1), 9)
    averaged, also = run(Quadratic(noise=1), 9, ema=0.7)
    assert losses == also
    assert torch.equal(averaged.state_dict()["leaves"]["images"], leaves(plain)["images"])
    mean = synset().images
    for step in range(1, 10):
        mean = 0.7 * mean + 0.3 * leaves(run(Quadratic(noise=1), step)[0])["images"]
    torch.testing.assert_close(averaged.result.images, mean, rtol=1e-12, atol=1e-13)
    assert torch.equal(averaged.result.labels, plain.result.labels)
    assert (averaged.result.images - plain.result.images).abs().max() > 0.01


def test_the_students_lr_stays_above_a_hundredth_of_its_start():
    objective = Quadratic(spoil=lambda loss, step, call, synset: synset.lr if step < 5 else -0.01 * synset.lr)
    _, steps = run(objective, 10, {"lr": Leaf(0.2)})
    floor = 0.5 / 100
    assert [step.lr for step in steps[:5]] == pytest.approx([0.3, 0.1, floor, floor, floor], rel=1e-12)
    assert steps[5].lr > floor
    assert all(lr >= floor for _, _, _, lr in objective.seen)


def nan_loss(loss, step, call, synset):
    return loss * math.nan


def nan_gradient(loss, step, call, synset):
    """Finite itself, but 0 * inf in its gradient."""
    return loss + (synset.images * 0).abs().sqrt().sum()


@pytest.mark.parametrize("bad", [nan_loss, nan_gradient])
def test_a_loss_or_gradient_that_is_not_finite_rolls_back_and_goes_on(bad):
    objective = Quadratic(noise=1, spoil=lambda loss, *at: bad(loss, *at) if at[1] == 7 else loss)
    distillation, steps = run(objective, 10, keep_every=5)
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8, 9, 10]
    assert [step.rolled_back_to for step in steps] == [None] * 7 + [5] + [None] * 5
    assert [step.stepped for step in steps] == [True] * 7 + [False] + [True] * 5
    assert math.isnan(steps[7].loss) == (bad is nan_loss)
    kept, again = objective.seen[5], objective.seen[8]
    assert kept[0] == again[0] == 5
    assert torch.equal(kept[2], again[2])
    assert not torch.equal(kept[2], objective.seen[7][2])
    assert objective.states[5] == objective.states[8]
    assert objective.drawn[5] != objective.drawn[8]
    assert steps[5].loss != steps[8].loss
    assert all(bool(torch.isfinite(value).all()) for value in leaves(distillation).values())


def test_a_rollback_restores_leaves_momentum_and_mean():
    """With draws that do not count, the run goes on as if nothing had happened."""
    objective = Quadratic(spoil=lambda loss, step, call, synset: loss * math.nan if call == 7 else loss)
    distillation, _ = run(objective, 10, keep_every=5, ema=0.8)
    smooth, _ = run(Quadratic(), 10, keep_every=5, ema=0.8)
    assert same(distillation, smooth)


def test_a_run_resumed_after_a_rollback_meets_the_same_draws():
    def spoiled(loss, step, call, synset):
        return loss * math.nan if loss > 2.5 and step % 5 > 1 else loss

    whole, steps = run(Quadratic(noise=1, spoil=spoiled), 20, keep_every=5)
    assert any(step.rolled_back_to is not None for step in steps)
    for stop in (5, 10, 15):
        first, _ = run(Quadratic(noise=1, spoil=spoiled), stop, keep_every=5)
        second = Distillation(Quadratic(noise=1, spoil=spoiled), synset(), LEARN, 0, keep_every=5)
        second.load_state_dict(first.state_dict())
        list(second.run(20))
        assert same(whole, second)


def test_never_finite_again_is_an_error_after_ten_rollbacks():
    objective = Quadratic(spoil=lambda loss, step, call, synset: loss * math.nan if step == 3 else loss)
    distillation = Distillation(objective, synset(), LEARN, 0)
    message = r"^outer step 4: loss nan after 10 rollbacks to step 0; lower lr.images or lr.lr$"
    steps = []
    with pytest.raises(FloatingPointError, match=message):
        steps.extend(distillation.run(9))
    attempt = [(1, None), (2, None), (3, None), (4, 0)]
    assert [(step.step, step.rolled_back_to) for step in steps] == attempt * 10 + attempt[:3]
    assert len(objective.seen) == 44
