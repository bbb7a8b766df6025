import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from variants import first

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.checkpoint import check_state
from raydd.distillation.leaves import Leaf, pixel_leaf
from raydd.distillation.loop import Distillation
from raydd.io.tensor_file import flatten_tree, unflatten_tree
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

    parts, joint = 1, False

    def loss(self, synset, state, step, rng, part=0):
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
    assert whole.rollback_state["step"] == 10
    second = Distillation(Quadratic(noise=1), synset(), LEARN, 0, keep_every=5)
    second.load_state_dict(whole.rollback_state)
    assert list(second.run(14)) == steps[10:]
    assert same(whole, second)


def test_the_running_mean_is_of_labels_too_where_they_are_targets_of_a_regression(tmp_path):
    start = replace(synset(), regression=True)
    plain, _ = run(Quadratic(noise=1), 7, start=start)
    averaged, _ = run(Quadratic(noise=1), 7, start=start, ema=0.7)
    mean = start.labels
    for step in range(1, 8):
        mean = 0.7 * mean + 0.3 * run(Quadratic(noise=1), step, start=start)[0].result.labels
    torch.testing.assert_close(averaged.result.labels, mean, rtol=1e-12, atol=1e-13)
    assert torch.equal(run(Quadratic(noise=1), 7, ema=0.7)[0].result.labels, plain.result.labels)  # logits have none
    resumed = Distillation(Quadratic(noise=1), start, LEARN, 0, ema=0.7)
    resumed.load_state_dict(run(Quadratic(noise=1), 4, start=start, ema=0.7)[0].state_dict())
    list(resumed.run(7))
    assert torch.equal(resumed.result.labels, averaged.result.labels)
    state = averaged.state_dict()
    check_state(tmp_path, state, averaged.state_dict())
    with pytest.raises(ValueError, match=r"mean_labels is missing instead of torch\.float64 \(4, 2\)"):
        check_state(tmp_path, {key: value for key, value in state.items() if key != "mean_labels"}, state)


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


class Spiked:
    """Half the squared distance to a point that is drawn anew each time; once at each of some steps, the step leads far
    away, where the loss is infinite."""

    parts, joint = 1, False

    def __init__(self, *spikes):
        self.spikes = set(spikes)

    def init(self, rng):
        return {"seen": torch.zeros((), dtype=torch.float64)}

    def loss(self, synset, state, step, rng, part=0):
        point = torch.randn(synset.images.shape, generator=rng, dtype=torch.float64)
        loss = (synset.images - point).square().sum() / 2 + 0.1 * state["seen"]
        if (step, rng.initial_seed()) in self.spikes:
            loss = 1e200 * synset.images.sum()  # finite itself, and so is its gradient
        return loss, {"seen": state["seen"] + synset.images.detach().mean()}


def spikes(*at):
    """Steps, and the attempts in which they lead astray."""
    return [(step, generator(0, "outer", step, attempt).initial_seed()) for step, attempt in at]


def naive_run(attempts, ema=0.7):
    """By hand, from the draws of each step's last attempt: the images, their velocity, the running mean, the losses."""
    images = synset().images.clone()
    velocity, mean, seen, losses = torch.zeros_like(images), images.clone(), torch.zeros((), dtype=torch.float64), []
    for step, attempt in enumerate(attempts):
        point = torch.randn(images.shape, generator=generator(0, "outer", step, attempt), dtype=torch.float64)
        losses.append(float((images - point).square().sum() / 2 + 0.1 * seen))
        seen = seen + images.mean()
        velocity = 0.5 * velocity + (images - point)
        images = images - 0.1 * velocity
        mean = 0.7 * mean + 0.3 * images
    return images, velocity, mean, losses


GENTLE = {"images": Leaf(0.1, 0.5)}


@pytest.mark.parametrize(
    ("at", "told", "attempts"),
    [
        ([(9, 0)], [(11, 0)], [1] * 25),  # the state of step 10 is broken: back to the start
        ([(19, 0)], [(21, 10)], [0] * 10 + [1] * 15),
        ([(9, 0), (19, 1)], [(11, 0), (21, 10)], [1] * 10 + [2] * 15),
        ([(9, 0), (9, 1), (19, 2)], [(11, 0), (11, 0), (21, 10)], [2] * 10 + [3] * 15),
        ([(12, 0)], [(14, 10)], [0] * 10 + [1] * 15),  # in between, as ever
        ([], [], [0] * 25),
    ],
)
def test_a_spike_just_before_a_state_is_due_does_not_get_into_it(at, told, attempts):
    """Exact: the steps that count are those of the attempts that went through, from a state whose loss was finite."""
    distillation, steps = run(Spiked(*spikes(*at)), 25, GENTLE, keep_every=10, ema=0.7)
    assert [(step.step, step.rolled_back_to) for step in steps if step.rolled_back_to is not None] == told
    assert all(not math.isfinite(step.loss) for step in steps if step.rolled_back_to is not None)
    images, velocity, mean, losses = naive_run(attempts)
    state = distillation.state_dict()
    torch.testing.assert_close(state["leaves"]["images"], images, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(state["momentum"]["images"], velocity, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(distillation.result.images, mean, rtol=1e-12, atol=1e-13)
    assert [step.loss for step in steps[-5:]] == pytest.approx(losses[-5:], rel=1e-12)


@pytest.mark.parametrize("at", first([[(12, 0), (19, 1), (19, 2)], [(9, 0)], [(19, 0)], [(9, 0), (19, 1)]], 1))
def test_killed_anywhere_around_a_rollback_it_resumes_to_the_same_bits(at):
    """From the state that is worth saving, and from the state as it stands, whose loss may not be finite."""
    whole, steps = run(Spiked(*spikes(*at)), 25, GENTLE, keep_every=10, ema=0.7)
    assert sum(step.rolled_back_to is not None for step in steps) == len(at)
    for killed in range(len(steps)):
        first = Distillation(Spiked(*spikes(*at)), synset(), GENTLE, 0, keep_every=10, ema=0.7)
        for _, _step in zip(range(killed), first.run(25), strict=False):
            pass
        for state in (first.rollback_state, first.state_dict()):
            second = Distillation(Spiked(*spikes(*at)), synset(), GENTLE, 0, keep_every=10, ema=0.7)
            tensors, plain = flatten_tree(state)
            second.load_state_dict(unflatten_tree(tensors, plain))
            rest = list(second.run(25))
            assert rest == steps[len(steps) - len(rest) :]
            assert flatten_tree(second.state_dict())[1] == flatten_tree(whole.state_dict())[1]
            ours, theirs = (flatten_tree(run.state_dict())[0] for run in (second, whole))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_state_that_was_saved_before_its_loss_is_known_holds_the_one_before_it():
    distillation, _ = run(Spiked(), 20, GENTLE, keep_every=10)
    state = distillation.state_dict()
    assert (state["step"], state["kept"]["step"]) == (20, 10)
    assert "kept" not in distillation.rollback_state
    assert "attempt" not in state  # as before, where nothing was rolled back
    list(distillation.run(21))
    assert distillation.rollback_state["step"] == 20
    assert torch.equal(distillation.rollback_state["leaves"]["images"], state["leaves"]["images"])


def test_a_checkpoint_of_an_earlier_version_goes_on_from_itself():
    whole, _ = run(Spiked(), 25, GENTLE, keep_every=10)
    first, _ = run(Spiked(), 20, GENTLE, keep_every=10)
    old = {name: value for name, value in first.state_dict().items() if name not in {"kept", "attempt"}}
    second = Distillation(Spiked(), synset(), GENTLE, 0, keep_every=10)
    second.load_state_dict(old)
    assert second.rollback_state["step"] == 20
    list(second.run(25))
    assert torch.equal(whole.result.images, second.result.images)


BOUNDS = (torch.tensor(-1.0), torch.tensor(1.0))


@pytest.mark.parametrize("leaf", [Leaf(1e5), Leaf(1e5, 0.5), Leaf(0.1, 0.5, torch.tensor(1e3), BOUNDS)])
def test_a_finite_gradient_that_overflows_is_rolled_back_before_it_is_learned(leaf):
    """Bounds hide an infinity in the leaf, and momentum would keep it for good."""

    class Steep(Spiked):
        def loss(self, synset, state, step, rng, part=0):
            if (step, rng.initial_seed()) in self.spikes:
                return 1e305 * synset.images.sum(), state
            return 1e-6 * synset.images.square().sum(), state

    distillation, steps = run(Steep(*spikes((3, 0))), 6, {"images": leaf}, keep_every=2)
    assert [(step.step, step.rolled_back_to) for step in steps[:5]] == [
        (1, None),
        (2, None),
        (3, None),
        (4, 2),
        (3, None),
    ]
    assert math.isfinite(steps[3].loss)
    smooth, _ = run(Steep(), 6, {"images": leaf}, keep_every=2)
    assert same(distillation, smooth)
    assert torch.isfinite(distillation.result.images).all()


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


class Parted:
    """Three losses an outer step, each of one image; it carries what it has seen."""

    parts = 3

    def __init__(self, spoil=None, joint=False):
        self.spoil, self.joint, self.seen = spoil, joint, []

    def init(self, rng):
        return {"sum": torch.zeros((), dtype=torch.float64)}

    def loss(self, synset, state, step, rng, part=0):
        draw = torch.randn((), generator=rng, dtype=torch.float64)
        self.seen.append((step, part, draw.item(), state["sum"].item(), synset.images.detach().clone()))
        loss = (synset.images[part] - draw - 0.1 * state["sum"]).square().sum() + 0.01 * synset.images.square().sum()
        if self.spoil is not None:
            loss = self.spoil(loss, step, part, len(self.seen) - 1)
        return loss, {"sum": state["sum"] + synset.images.detach().mean()}


def test_every_part_is_an_optimiser_step_on_a_loss_of_its_own():
    start, objective = synset(), Parted()
    distillation, steps = run(objective, 4, {"images": Leaf(0.1, 0.5)}, start, ema=0.6)
    images, velocity, carried, mean = start.images.clone(), torch.zeros_like(start.images), 0.0, start.images.clone()
    calls = iter(objective.seen)
    for step in range(4):
        total = 0.0
        for part in range(3):
            rng = generator(0, "outer", step, 0, *([part] if part else []))  # of this part and step alone
            draw = torch.randn((), generator=rng, dtype=torch.float64).item()
            found = next(calls)
            assert found[:3] == (step, part, draw)
            assert found[3] == pytest.approx(carried, rel=1e-12)
            torch.testing.assert_close(found[4], images, rtol=1e-12, atol=1e-14)
            gap = images[part] - draw - 0.1 * carried
            total += float((gap**2).sum() + 0.01 * (images**2).sum())
            gradient = 0.02 * images
            gradient[part] += 2 * gap
            carried += float(images.mean())
            velocity = 0.5 * velocity + gradient
            images = images - 0.1 * velocity
        mean = 0.6 * mean + 0.4 * images  # once an outer step
        assert steps[step].loss == pytest.approx(total, rel=1e-12)
        assert steps[step].step == step + 1
    torch.testing.assert_close(distillation.state_dict()["leaves"]["images"], images, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(distillation.result.images, mean, rtol=1e-12, atol=1e-14)
    assert len(objective.seen) == 12


def test_the_gate_is_held_before_each_part():
    objective = Parted()
    distillation, steps = run(objective, 6, {"images": Leaf(0.05)}, gate=8.0)
    images = [*(seen[4] for seen in objective.seen), distillation.result.images]
    moved = [not torch.equal(a, b) for a, b in pairwise(images)]
    assert any(any(moved[3 * k : 3 * k + 3]) and not all(moved[3 * k : 3 * k + 3]) for k in range(6))
    assert [step.stepped for step in steps] == [any(moved[3 * k : 3 * k + 3]) for k in range(6)]
    assert all(bool(torch.isfinite(image).all()) for image in images)


def nan_in_the_second_part(loss, step, part, call):
    return loss * math.nan if call == 3 * 8 + 1 else loss  # in the middle of outer step 9, once


def test_a_part_that_is_not_finite_takes_the_whole_step_back():
    objective = Parted(nan_in_the_second_part)
    _, steps = run(objective, 10, {"images": Leaf(0.1, 0.5)}, keep_every=7, ema=0.7)
    assert [(step.step, step.rolled_back_to) for step in steps[7:10]] == [(8, None), (9, 7), (8, None)]
    assert math.isnan(steps[8].loss)
    assert not steps[8].stepped
    before, middle, again = (objective.seen[call] for call in (3 * 7, 3 * 8 + 1, 3 * 9))
    assert (before[:2], middle[:2], again[:2]) == ((7, 0), (8, 1), (7, 0))
    assert not torch.equal(before[4], middle[4])  # the first part had been learned from
    assert torch.equal(before[4], again[4])
    assert before[3] == again[3]
    assert before[2] != again[2]  # other draws than those that failed


def test_a_rollback_in_the_middle_of_a_step_leaves_no_trace():
    """Only the draws differ afterwards: from the kept state and with those, the run is the uninterrupted one."""
    whole, steps = run(Parted(nan_in_the_second_part), 10, {"images": Leaf(0.1, 0.5)}, keep_every=7, ema=0.7)
    clean, _ = run(Parted(), 7, {"images": Leaf(0.1, 0.5)}, keep_every=7, ema=0.7)
    state = clean.state_dict()
    follow = Distillation(Parted(), synset(), {"images": Leaf(0.1, 0.5)}, 0, keep_every=7, ema=0.7)
    follow.load_state_dict(state)
    follow._attempt = 1
    assert list(follow.run(10)) == steps[9:]
    assert torch.equal(follow.result.images, whole.result.images)
    assert torch.equal(follow.state_dict()["momentum"]["images"], whole.state_dict()["momentum"]["images"])


def test_joint_parts_are_one_optimiser_step_on_their_sum():
    start, objective = synset(), Parted(joint=True)
    distillation, steps = run(objective, 3, {"images": Leaf(0.1, 0.5)}, start)
    images, velocity, carried = start.images.clone(), torch.zeros_like(start.images), 0.0
    for step in range(3):
        gradient, total = 0.06 * images, 0.0
        for part in range(3):
            rng = generator(0, "outer", step, 0, *([part] if part else []))
            gap = images[part] - torch.randn((), generator=rng, dtype=torch.float64) - 0.1 * carried
            gradient[part] += 2 * gap
            total += float((gap**2).sum() + 0.01 * (images**2).sum())
            carried += float(images.mean())
        assert steps[step].loss == pytest.approx(total, rel=1e-12)
        velocity = 0.5 * velocity + gradient
        images = images - 0.1 * velocity
    torch.testing.assert_close(distillation.result.images, images, rtol=1e-12, atol=1e-13)


def test_the_gate_of_joint_parts_looks_at_their_sum():
    start = synset()
    _, (first,) = run(Parted(joint=True), 1, {"images": Leaf(0.1)}, start)
    held, (step,) = run(Parted(joint=True), 1, {"images": Leaf(0.1)}, start, gate=0.99 * first.loss)
    assert (step.stepped, step.loss) == (False, first.loss)
    assert torch.equal(held.result.images, start.images)
    _, (step,) = run(Parted(joint=True), 1, {"images": Leaf(0.1)}, start, gate=1.01 * first.loss)
    assert step.stepped


def test_runs_of_several_parts_resume_to_the_same_bits():
    whole, steps = run(Parted(), 9, {"images": Leaf(0.1, 0.5)}, keep_every=4)
    first, _ = run(Parted(), 6, {"images": Leaf(0.1, 0.5)}, keep_every=4)
    for state, left in ((first.state_dict(), steps[6:]), (whole.rollback_state, steps[8:])):
        second = Distillation(Parted(), synset(), {"images": Leaf(0.1, 0.5)}, 0, keep_every=4)
        second.load_state_dict(state)
        assert list(second.run(9)) == left
        assert torch.equal(second.result.images, whole.result.images)


SCALE = torch.tensor([0.25, 2.0, 3.0], dtype=torch.float64)[:, None]


class Narrow(Quadratic):
    """Far from its least: every step goes the same way for long."""

    def loss(self, synset, state, step, rng, part=0):
        return (synset.images + 3).square().sum(), state


def test_a_scaled_leaf_is_learned_in_a_space_of_its_own():
    """As p = z / scale would be, by SGD with momentum."""
    start = synset()
    distillation, _ = run(Quadratic(), 7, {"images": Leaf(3.0, 0.5, SCALE)}, start)
    p = (start.images / SCALE).requires_grad_()
    optimizer, objective = torch.optim.SGD([p], lr=3.0, momentum=0.5), Quadratic()
    state = objective.init(generator(0, "objective"))
    for step in range(7):
        current = start.with_leaves({"images": p * SCALE})
        loss, state = objective.loss(current, state, step, generator(0, "outer", step, 0))
        (p.grad,) = torch.autograd.grad(loss, p)
        optimizer.step()
    torch.testing.assert_close(distillation.result.images, p.detach() * SCALE, rtol=1e-12, atol=1e-13)
    plain, _ = run(Quadratic(), 7, {"images": Leaf(3.0, 0.5)}, start)
    assert (plain.result.images - distillation.result.images).abs().max() > 0.01


def test_a_bounded_leaf_stays_between_its_bounds_whatever_pulls_at_it():
    least = torch.tensor([-0.5, 0.0, -9.0], dtype=torch.float64)[:, None]
    distillation, _ = run(Narrow(), 40, {"images": Leaf(0.01, 0.5, None, (least, least + 1))})
    found = distillation.result.images
    assert torch.equal(found[:, :, :2], least[:2].expand_as(found[:, :, :2]))
    assert bool((found[:, :, 2] >= -9).all() and (found[:, :, 2] <= -8).all())


def normalised(dtype):
    mean, std = torch.tensor([0.4, 0.6], dtype=torch.float64), torch.tensor([0.2, 0.5], dtype=torch.float64)
    return Transform("normalise", {"mean": mean, "std": std}, dtype)


def coloured(transform, device, dtype):
    pixels = torch.rand(4, 2, 3, 3, generator=generator(0, "pixels"), dtype=torch.float64).to(device)
    labels, lr = torch.arange(4, device=device) % 2, torch.tensor(0.5, device=device)
    return pixels, SyntheticSet(transform(pixels).to(dtype), labels, lr, transform, "toy", ("a", "b"))


class Pull:
    """Draws the network's input to points some of which no picture reaches."""

    parts, joint = 1, False

    def init(self, rng):
        return None

    def loss(self, synset, state, step, rng, part=0):
        target = 4 * torch.randn(synset.images.shape, generator=generator(1), dtype=torch.float64)
        return (synset.images - target.to(synset.images)).square().mean(), state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["normalise", "raw01"])
def test_pixels_are_learned_between_0_and_1_whatever_the_network_sees(kind, dtype, device):
    """SGD with momentum on pixels p, clamped after every step; the network's input is (p - mean) / std."""
    transform = normalised(dtype) if kind == "normalise" else Transform("raw01", dtype=dtype)
    pixels, start = coloured(transform, device, dtype)
    leaf = pixel_leaf(0.4, 0.5, transform)
    distillation, _ = run(Pull(), 6, {"images": leaf}, start)
    p, velocity, clamped = pixels.clone(), torch.zeros_like(pixels), 0
    for _ in range(6):
        z = p.detach().requires_grad_()
        shown = start.with_leaves({"images": transform.to(device, torch.float64)(z)})
        (gradient,) = torch.autograd.grad(Pull().loss(shown, None, 0, None)[0], z)
        velocity = 0.5 * velocity + gradient
        p = p - 0.4 * velocity
        clamped += int(((p < 0) | (p > 1)).sum())
        p = p.clamp(0, 1)
    assert clamped > 10
    found = distillation.result.images
    assert (found.dtype, found.device.type) == (dtype, device.type)
    close = 1e-9 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(transform.inverse(found).double(), p, rtol=0, atol=close)
    assert bool((p == 0).any() and (p == 1).any() and ((p > 0.1) & (p < 0.9)).any())


def test_whitened_images_have_no_pixels_to_keep_in_bounds():
    with pytest.raises(ValueError, match=r"space = pixels: zca mixes pixels.* --set space=network") as caught:
        pixel_leaf(1.0, 0.5, Transform("zca"))
    assert "\n" not in str(caught.value)
