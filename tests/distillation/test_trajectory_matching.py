import pytest
import torch
from torch import nn
from variants import first

from raydd.buffer.segments import InMemory
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.leaves import Leaf
from raydd.distillation.loop import Distillation
from raydd.distillation.trajectory_matching import TrajectoryMatching
from raydd.models.zoo import build
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator
from raydd.numerics.windows import fixed, growing

SIZE, CLASSES, IMAGES = 8, 3, 12


def make():
    return build("ConvNetW8", channels=2, size=SIZE, classes=CLASSES)


MODEL = FlatModel(make)


def experts(count=2, epochs=5):
    """Networks trained on noise whose classes differ in brightness."""
    rng = generator(0, "real")
    y = torch.arange(60) % CLASSES
    x = torch.randn(60, 2, SIZE, SIZE, generator=rng) + y[:, None, None, None]
    trajectories = []
    for expert in range(count):
        theta = MODEL.init(generator(0, "expert", expert))
        path = [theta]
        for _ in range(epochs):
            for rows in torch.randperm(60, generator=rng).split(20):
                at = theta.clone().requires_grad_()
                loss = cross_entropy(MODEL(at, x[rows]), y[rows])
                theta = theta - 0.05 * torch.autograd.grad(loss, at)[0]
            path.append(theta)
        trajectories.append(torch.stack(path))
    return InMemory(trajectories)


SOURCE = experts()


def synset(device="cpu", dtype=torch.float64, soft=True):
    rng = generator(0, "synset")
    y = torch.arange(IMAGES) % CLASSES
    images = torch.randn(IMAGES, 2, SIZE, SIZE, generator=rng, dtype=torch.float64)
    labels = 3 * nn.functional.one_hot(y, CLASSES).to(device, dtype) if soft else y.to(device)
    lr = torch.tensor(0.02, device=device, dtype=dtype)
    classes = ("a", "b", "c")
    return SyntheticSet(images.to(device, dtype), labels, lr, Transform("raw01", dtype=dtype), "toy", classes)


def inner(theta, x, y):
    return cross_entropy(MODEL(theta, x), y)


def matching(**changes):
    values = {"window": fixed(0, 3), "span": 2, "student_steps": 4, "augment": augment("dsa")}
    return TrajectoryMatching(**{"source": SOURCE, "inner": inner, **values, **changes})


def naive(synset, objective, step, rng):
    """Algorithm 1 by an ordinary module, in the order of its draws: segment, then rows and view a step."""
    segment = SOURCE.segment(objective.window(step), objective.span, rng)
    start, target = segment.start.to(synset.images), segment.target.to(synset.images)
    student, place = make().to(synset.images), 0
    for parameter in student.parameters():
        parameter.data = start[place : place + parameter.numel()].clone().view(parameter.shape)
        place += parameter.numel()
    optimizer = torch.optim.SGD(student.parameters(), lr=float(synset.lr))
    queue, shown = [], []
    for _ in range(objective.student_steps):
        rows = list(range(IMAGES))
        if objective.batch_size is not None and objective.batch_size < IMAGES:
            queue = queue or torch.randperm(IMAGES, generator=rng).tolist()
            rows, queue = queue[: objective.batch_size], queue[objective.batch_size :]
        shown.append(rows)
        view = objective.augment.draw((len(rows), 2, SIZE, SIZE), rng)
        loss = 0
        for logits, label in zip(student(view(synset.images[rows])), synset.labels[rows], strict=True):
            q = label.softmax(0) if label.ndim else nn.functional.one_hot(label, CLASSES)
            loss = loss - (q * (logits.exp() / logits.exp().sum()).log()).sum() / len(rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    end = torch.cat([parameter.detach().reshape(-1) for parameter in student.parameters()])
    return ((end - target) ** 2).sum() / ((start - target) ** 2).sum(), shown


@pytest.mark.parametrize("batch_size", [None, 5, 12, 100])
@pytest.mark.parametrize("backprop", ["full", "adjoint", "truncated"])
@pytest.mark.parametrize("soft", [True, False])
def test_the_loss_equals_algorithm_1(batch_size, backprop, soft, device):
    objective, start = matching(batch_size=batch_size, backprop=backprop), synset(device, soft=soft)
    assert objective.init(generator(0)) is None
    value, state = objective.loss(start, None, 0, generator(1))
    expected, shown = naive(start, objective, 0, generator(1))
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)
    assert abs(value.item() - 1) > 1e-4
    assert state is None
    assert [len(rows) for rows in shown] == ([5, 5, 2, 5] if batch_size == 5 else [12] * 4)


def test_every_image_is_shown_once_before_any_is_shown_again():
    seen = []

    def labels(synset, segment):
        return torch.arange(IMAGES)

    def spy(theta, x, y):
        seen.append(y.tolist())
        return theta.square().sum() + 0 * x.sum()

    objective = matching(batch_size=5, labels=labels, student_steps=6)
    objective = TrajectoryMatching(**{**vars(objective), "inner": spy})
    objective.loss(synset(), None, 0, generator(4))
    assert [len(rows) for rows in seen] == [5, 5, 2, 5, 5, 2]
    for turn in (seen[:3], seen[3:]):
        assert sorted(image for rows in turn for image in rows) == list(range(IMAGES))
    assert seen[:3] != seen[3:]


def test_the_window_follows_the_outer_step():
    epochs = {0: set(), 30: set()}
    for step, found in epochs.items():

        def distance(path, segment, found=found):
            found.add(segment.epoch)
            return path[-1].sum()

        objective = matching(window=growing(0, 1, 3, 10), distance=distance, student_steps=1)
        for draw in range(40):
            objective.loss(synset(), None, step, generator(0, draw))
    assert epochs == {0: {0.0, 1.0}, 30: {0.0, 1.0, 2.0, 3.0}}


LEARN = {"images": Leaf(20.0, 0.5), "labels": Leaf(2.0, 0.5), "lr": Leaf(1e-4)}


def run(steps, learn=None, seed=0, start=None, **changes):
    objective = matching(batch_size=5, **changes)
    distillation = Distillation(objective, start or synset(), learn or LEARN, seed, keep_every=5)
    return distillation, list(distillation.run(steps))


def same(a, b):
    return all(torch.equal(getattr(a.result, name), getattr(b.result, name)) for name in LEARN)


@pytest.mark.parametrize("dtype", first([torch.float64, torch.float32], 1))
def test_the_loss_goes_down(dtype, device):
    distillation, steps = run(50, start=synset(device, dtype), augment=augment("none"), window=fixed(0, 1))
    losses = [step.loss for step in steps]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert distillation.result.images.dtype == dtype
    assert distillation.result.images.device.type == device.type


@pytest.mark.parametrize("names", [("images",), ("labels",), ("lr",), ("images", "labels", "lr")])
@pytest.mark.parametrize("backprop", ["full", "adjoint", "truncated"])
def test_exactly_the_declared_leaves_are_learned(names, backprop):
    distillation, _ = run(1, {name: LEARN[name] for name in names}, backprop=backprop, student_steps=2)
    for name in LEARN:
        changed = not torch.equal(getattr(distillation.result, name), getattr(synset(), name))
        assert changed == (name in names)


def test_the_same_seed_gives_the_same_bits_whatever_the_global_generator_does():
    torch.manual_seed(1)
    a, steps = run(4)
    torch.manual_seed(2)
    b, again = run(4)
    assert same(a, b)
    assert steps == again
    assert not same(a, run(4, seed=1)[0])


def test_resumed_equals_uninterrupted():
    whole, steps = run(8)
    first, _ = run(5)
    second = Distillation(matching(batch_size=5), synset(), LEARN, 0, keep_every=5)
    second.load_state_dict(first.state_dict())
    assert list(second.run(8)) == steps[5:]
    assert same(whole, second)


def test_an_expert_that_stands_still_is_refused():
    still = InMemory([MODEL.init(generator(0, "still")).expand(3, -1)])
    with pytest.raises(ValueError, match=r"^the expert stands still between start and target; .* larger lr$"):
        matching(source=still, window=fixed(0, 0), span=1).loss(synset(), None, 0, generator(0))
