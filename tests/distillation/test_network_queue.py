from collections import Counter

import pytest
import torch
from torch import nn

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.network_queue import INITIAL_SIZE, Queue
from raydd.io.tensor_file import flatten_tree, unflatten_tree
from raydd.models.zoo import build
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator

SIZE, CLASSES, REAL = 8, 3, 24


def make():
    return build("ConvNetW8", channels=1, size=SIZE, classes=CLASSES)


MODEL = FlatModel(make)
TARGETS = torch.arange(REAL) % CLASSES
IMAGES = torch.randn(REAL, 1, SIZE, SIZE, generator=generator(0, "real"), dtype=torch.float64)
IMAGES += TARGETS[:, None, None, None]


def batch(count, rng):
    rows = torch.randperm(REAL, generator=rng)[:count]
    return IMAGES[rows], TARGETS[rows]


def synset(device="cpu", dtype=torch.float64):
    images = torch.zeros(CLASSES, 1, SIZE, SIZE, device=device, dtype=dtype)
    labels, lr = torch.arange(CLASSES, device=device), torch.tensor(0.01)
    return SyntheticSet(images, labels, lr, Transform("raw01"), "toy", ("a", "b", "c"))


def queue(**changes):
    return Queue(MODEL, batch, **{"size": 5, "interval": 4, "steps": 2, "lr": 0.05, "batch_size": 8, **changes})


def walk(networks, steps, state=None, first=0):
    """Every look and the state after it, each step's draws from a generator of its own."""
    state = networks.init(generator(0)) if state is None else state
    for step in range(first, steps):
        look, state = networks.draw(synset(), state, step, generator(1, step))
        yield look, state


def trained(network, steps, size, lr, rng):
    """SGD by an ordinary module and optimiser that has gone on since the network's birth, and what it got right."""
    module, place = make().double(), 0
    for parameter in module.parameters():
        parameter.data = network["theta"][place : place + parameter.numel()].double().clone().view(parameter.shape)
        place += parameter.numel()
    optimizer = torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    right = 0
    for _ in range(steps):
        images, targets = batch(size, rng)
        optimizer.zero_grad()
        logits = module(images)
        right += sum(int(row.argmax()) == int(target) for row, target in zip(logits, targets, strict=True))
        nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()]), right


@pytest.mark.parametrize("steps", [1, 5])
def test_a_pupil_takes_steps_of_sgd_with_momentum_and_decay_and_is_counted(steps):
    networks = queue(steps=steps)
    start = networks.init(generator(0))["networks"]["0"]
    ours, theirs = generator(3), generator(3)
    after = networks._trained(start, synset().images, ours)
    expected, right = trained(start, steps, 8, 0.05, theirs)
    torch.testing.assert_close(after["theta"], expected, rtol=1e-9, atol=1e-12)
    assert (after["seen"], after["right"]) == (8 * steps, right)
    assert torch.equal(ours.get_state(), theirs.get_state())
    twice = networks._trained(after, synset().images, ours)
    expected, more = trained(start, 2 * steps, 8, 0.05, generator(3))
    torch.testing.assert_close(twice["theta"], expected, rtol=1e-9, atol=1e-12)
    assert twice["right"] == more


def test_networks_join_by_the_interval_and_the_oldest_leaves():
    names = [sorted(state["networks"], key=int) for _, state in walk(queue(), 14)]
    assert names[:4] == [["0", "1", "2", "3"]] * 4
    assert names[4:8] == [["0", "1", "2", "3", "4"]] * 4
    assert names[8:12] == [["1", "2", "3", "4", "5"]] * 4
    assert names[12:] == [["2", "3", "4", "5", "6"]] * 2


def test_two_networks_are_trained_before_every_look_but_the_first():
    before, taught = None, Counter()
    for step, (_, state) in enumerate(walk(queue(), 200)):
        seen = {name: network["seen"] for name, network in state["networks"].items()}
        if step == 0:
            assert set(seen.values()) == {0}
        else:
            pupils = [name for name in seen if seen[name] != before.get(name, 0)]
            assert all(seen[name] - before[name] == 16 for name in pupils)
            gone = set(before) - set(seen)
            assert len(pupils) == 2 or gone  # the other pupil left in the same step
            taught.update(pupils)
        before = seen
    assert len(taught) > 40


def test_a_look_is_one_of_the_networks_and_trusted_as_far_as_it_was_right():
    looked, trusts = Counter(), set()
    for look, state in walk(queue(interval=1000), 120):
        names = [n for n, network in state["networks"].items() if torch.equal(network["theta"].double(), look.theta)]
        (name,) = names
        network = state["networks"][name]
        assert look.judge is look.theta
        assert look.trust == (network["right"] / network["seen"] if network["seen"] else 0)
        looked[name] += 1
        trusts.add(look.trust)
    assert sorted(looked) == [str(name) for name in range(INITIAL_SIZE + 1)]
    assert all(15 < count < 50 for count in looked.values())
    assert max(trusts) > 0.6  # they learn


def test_a_checkpoint_in_any_order_goes_on_bitwise():
    networks = queue(interval=1, size=12)
    states = list(walk(networks, 16))
    tensors, plain = flatten_tree(states[12][1])
    kept = unflatten_tree(tensors, plain)
    kept["networks"] = dict(sorted(kept["networks"].items()))
    assert list(kept["networks"]) != list(states[12][1]["networks"])
    for place, (look, _) in enumerate(walk(networks, 16, kept, 13), start=13):
        assert torch.equal(look.theta, states[place][0].theta)
        assert look.trust == states[place][0].trust


def test_a_draw_leaves_the_state_it_was_given_alone():
    networks = queue()
    state = networks.init(generator(0))
    for step in range(3):
        frozen = {name: network["theta"].clone() for name, network in state["networks"].items()}
        _, after = networks.draw(synset(), state, step, generator(1, step))
        assert list(frozen) == list(state["networks"])
        assert all(torch.equal(frozen[name], state["networks"][name]["theta"]) for name in frozen)
        state = after


def test_looks_come_to_the_set(device):
    networks = queue()
    _, state = networks.draw(synset(device), networks.init(generator(0)), 0, generator(0))
    look, _ = networks.draw(synset(device), state, 1, generator(1))
    assert (look.theta.dtype, look.theta.device.type) == (torch.float64, device.type)
