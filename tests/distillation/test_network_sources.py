from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import nn

from raydd.buffer.convexified import Convexified
from raydd.buffer.segments import InMemory
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.network_sources import Exchanged, Mixed, RandomInit, Snapshots, Trained, loss_gradient, sgd_step
from raydd.models.zoo import build
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.formation import Formation
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator

SIZE, CLASSES, IMAGES = 8, 3, 7
PLAIN = Formation()
EPOCHS, EXPERTS, PARAMETERS = 6, 3, 4


def make():
    return build("ConvNetW8", channels=1, size=SIZE, classes=CLASSES)


MODEL = FlatModel(make)


def synset(device="cpu", dtype=torch.float64, soft=False, formation=PLAIN):
    images = torch.randn(IMAGES, 1, SIZE, SIZE, generator=generator(0, "images"), dtype=torch.float64)
    labels = torch.arange(IMAGES) % CLASSES
    if soft:
        labels = torch.randn(IMAGES, CLASSES, generator=generator(0, "labels"), dtype=torch.float64).to(dtype)
    lr, classes = torch.tensor(0.01), ("a", "b", "c")
    images = images.to(device, dtype)
    return SyntheticSet(images, labels.to(device), lr, Transform("raw01"), "toy", classes, formation=formation)


def named(epochs=EPOCHS):
    """Experts whose parameters say whose they are, and of which epoch: 100 expert + epoch."""
    rows = torch.arange(epochs + 1.0)[:, None].expand(-1, PARAMETERS)
    return InMemory([rows + 100 * expert for expert in range(EXPERTS)])


def test_a_random_network_is_the_models_own_and_new_every_step(device):
    networks = RandomInit(MODEL)
    assert networks.init(generator(0)) is None
    rng = generator(1)
    (first, state), (second, _) = (
        networks.draw(synset(device), None, 0, rng),
        networks.draw(synset(device), None, 1, rng),
    )
    assert torch.equal(first.theta, MODEL.init(generator(1)).to(device, torch.float64))
    assert first.judge is first.theta
    assert (first.theta.dtype, first.theta.device.type) == (torch.float64, device.type)
    assert not torch.equal(first.theta, second.theta)
    assert state is None


def trained(**changes):
    values = {"refresh": 3, "epochs": 2, "lr": 0.1, "batch_size": 4, "augment": augment("none")}
    return Trained(MODEL, **{**values, **changes})


def naive_training(theta, images, targets, networks, rng):
    """Plain SGD by an ordinary module and optimiser; draws of an epoch: the order, then a view a batch."""
    network, place = make().double(), 0
    for parameter in network.parameters():
        parameter.data = theta[place : place + parameter.numel()].clone().view(parameter.shape)
        place += parameter.numel()
    optimizer = torch.optim.SGD(network.parameters(), lr=networks.lr)
    for _ in range(networks.epochs):
        order = torch.randperm(len(images), generator=rng)
        for at in range(0, len(images), networks.batch_size):
            rows = order[at : at + networks.batch_size]
            view = networks.augment.draw(images[rows].shape, rng)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(view(images[rows])), targets[rows]).backward()
            optimizer.step()
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])


@pytest.mark.parametrize("name", ["none", "dsa"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_trained_network_goes_on_from_the_last_look_by_sgd_on_the_decoded_set(name, soft, factor):
    start, networks = synset(soft=soft, formation=Formation(factor)), trained(augment=augment(name))
    ours, theirs = generator(5), generator(5)
    look, state = networks.draw(start, networks.init(ours), 0, ours)
    assert torch.equal(look.theta, MODEL.init(theirs).double())
    look, state = networks.draw(start, state, 1, ours)
    shown = start.decoded()
    assert len(shown.images) == IMAGES * factor**2
    expected = naive_training(MODEL.init(generator(5)).double(), shown.images, shown.targets, networks, theirs)
    torch.testing.assert_close(look.theta, expected, rtol=1e-9, atol=1e-12)
    assert state["age"] == 2
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_a_trained_network_gives_way_to_a_fresh_one_after_its_time():
    networks, state, rng, kept = trained(epochs=0), None, generator(2), []
    for step in range(7):
        look, state = networks.draw(synset(), state, step, rng)
        kept.append(look.theta)
    same = [torch.equal(a, b) for a, b in pairwise(kept)]
    assert same == [True, True, False, True, True, False]


def test_a_trained_network_resumes_bitwise_and_keeps_no_graph():
    networks, start = trained(augment=augment("dsa")), synset()
    start = start.with_leaves({"images": start.images.requires_grad_()})
    state, looks = networks.init(generator(0)), []
    for step in range(5):
        looks.append(networks.draw(start, state, step, generator(9, step)))
        state = looks[-1][1]
    copy = {"theta": looks[1][1]["theta"].clone(), "age": looks[1][1]["age"]}
    for step in (2, 3, 4):
        look, copy = networks.draw(start, copy, step, generator(9, step))
        assert torch.equal(look.theta, looks[step][0].theta)
        assert not look.theta.requires_grad
    assert not torch.equal(looks[1][0].theta, looks[2][0].theta)


def test_the_slope_is_the_gradient_of_the_mean_cross_entropy(device):
    start = synset(device)
    images = start.images.requires_grad_()
    theta = MODEL.init(generator(3)).to(images)
    at = theta.clone().requires_grad_()
    expected = torch.autograd.grad(cross_entropy(MODEL(at, images), start.labels), at)[0]
    found = loss_gradient(MODEL, theta, images, start.labels)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    assert found.requires_grad
    with torch.no_grad():
        constant = loss_gradient(MODEL, theta, images, start.labels)
    torch.testing.assert_close(constant, expected, rtol=1e-10, atol=1e-14)
    assert not constant.requires_grad
    after = sgd_step(MODEL, theta, images, start.labels, 0.5)
    torch.testing.assert_close(after, theta - 0.5 * expected, rtol=1e-10, atol=1e-14)
    assert not after.requires_grad


def draws(networks, count, dtype=torch.float32):
    start = synset(dtype=dtype)
    for step in range(count):
        yield networks.draw(start, networks.init(generator(0)), step, generator(7, step))[0]


@pytest.mark.parametrize("region", [1, 3, 7, 100])
def test_snapshots_are_one_experts_and_the_judge_is_of_the_region(region):
    networks, found = Snapshots(named(), region), Counter()
    for look in draws(networks, 4000):
        expert, epoch = divmod(int(look.theta[0]), 100)
        other, later = divmod(int(look.judge[0]), 100)
        assert look.theta.tolist() == [100.0 * expert + epoch] * PARAMETERS
        assert other == expert
        found[expert, epoch, later] += 1
    wanted = {
        (expert, epoch, later)
        for expert in range(EXPERTS)
        for epoch in range(EPOCHS + 1)
        for later in range(epoch, min(epoch + region - 1, EPOCHS) + 1)
    }
    assert set(found) == wanted
    pairs = Counter()
    for (expert, epoch, _), count in found.items():
        pairs[expert, epoch] += count
    mean = 4000 / (EXPERTS * (EPOCHS + 1))
    assert all(0.7 * mean < count < 1.3 * mean for count in pairs.values())
    for (expert, epoch, _), count in found.items():
        share = pairs[expert, epoch] / (min(epoch + region - 1, EPOCHS) - epoch + 1)
        assert abs(count - share) < 5 * share**0.5


def test_the_last_snapshot_judges_every_other_one_of_its_expert():
    for look in draws(Snapshots(named(), 2, last=True), 300):
        expert, end = divmod(int(look.judge[0]), 100)
        assert (int(look.theta[0]) // 100, end) == (expert, EPOCHS)


@pytest.mark.parametrize("uses", [("theta",), ("judge",), ("theta", "judge")])
def test_fresh_networks_take_the_place_of_an_experts(uses):
    own = Snapshots(named(), 3)
    pairs = list(zip(draws(own, 20), draws(Exchanged(own, MODEL, uses), 20), strict=True))
    for use in ("theta", "judge"):
        same = [torch.equal(getattr(plain, use), getattr(changed, use)) for plain, changed in pairs]
        assert not any(same) if use in uses else all(same)
    fresh = {getattr(changed, uses[0])[0].item() for _, changed in pairs}
    assert len(fresh) == 20
    assert Exchanged(own, MODEL, uses).stateless


def test_snapshots_come_to_the_set_and_leave_the_experts_alone(device):
    source = named()
    look, state = Snapshots(source, 3).draw(synset(device), None, 0, generator(0))
    assert state is None
    for tensor in (look.theta, look.judge):
        assert (tensor.dtype, tensor.device.type) == (torch.float64, device.type)
        tensor += 1000
    assert torch.equal(source.snapshot(1, 2), torch.full((PARAMETERS,), 102.0))


def test_snapshots_refuse_a_convexified_buffer_and_an_empty_region():
    with pytest.raises(ValueError, match=r"^the buffer is convexified: it keeps the epochs 0, 2, 6 alone; .*--buffer$"):
        Snapshots(Convexified(named(), (2,)), 3)
    with pytest.raises(ValueError, match=r"^a region of 0 epochs holds no snapshot; .*statistic\.region"):
        Snapshots(named(), 0)


def test_mixtures_lie_between_an_experts_start_and_end():
    places, experts = [], Counter()
    for look in draws(Mixed(named()), 600, torch.float64):
        expert, end = divmod(int(look.judge[0]), 100)
        assert end == EPOCHS
        place = (look.theta - 100 * expert) / EPOCHS
        assert torch.allclose(place, place[:1])
        assert 0 <= place[0] <= 1
        places.append(float(place[0]))
        experts[expert] += 1
    assert sorted(experts) == list(range(EXPERTS))
    for quarter in range(4):
        assert 100 < sum(quarter <= 4 * place < quarter + 1 for place in places) < 200


def test_a_mixture_by_hand_and_of_a_convexified_buffer():
    rng = generator(4)
    source = InMemory([torch.tensor([[1.0, 2.0], [5.0, 5.0], [3.0, -2.0]], dtype=torch.float64)])
    look, state = Mixed(source).draw(synset(), None, 0, rng)
    rng = generator(4)
    torch.randint(1, (), generator=rng)
    share = float(torch.rand((), generator=rng))
    assert look.theta.tolist() == pytest.approx([share + 3 * (1 - share), 2 * share - 2 * (1 - share)], rel=1e-12)
    assert look.judge.tolist() == [3.0, -2.0]
    assert state is None
