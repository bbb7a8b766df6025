import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from variants import first

from raydd.config.components import GsamConfig, SmoothConfig
from raydd.config.schema import DataConfig, ExpertConfig
from raydd.data.workspace import open_workspace
from raydd.numerics.augment import augment
from raydd.numerics.rng import generator
from raydd.training.expert import make_optimizer, measure_accuracy, train_expert
from raydd.training.optimizer_steps import STEPS

SMALL = 200


def feeds(work, part=SMALL):
    train = replace(work.dataset.train, index=work.dataset.train.index[:part])
    return work.feed(train), work.feed(work.dataset.validation)


def work_of(network="ConvNetW8", device="cpu"):
    return open_workspace(DataConfig(), network, torch.device(device))


@pytest.fixture(scope="module")
def work():
    return work_of()


def train(work, seed=(0, 0), draw=None, **settings):
    config = ExpertConfig(**{"epochs": 3, "batch_size": 64, "lr": 0.05, **settings})
    return list(train_expert(config, work.build, *feeds(work), draw or work.augment, seed))


def vector(tensors):
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def naive(work, config, seed=(0, 0)):
    """SGD written out, on the same draws: parameters and mean loss after each epoch."""
    path = (seed[0], "expert", seed[1])
    torch.manual_seed(int(torch.randint(2**62, (), generator=generator(*path, "init"))))
    network = work.build()
    images = work.transform(work.dataset.train.take(torch.arange(SMALL)))
    labels = work.dataset.train.targets[:SMALL]
    momentum = config.momentum if config.optimizer == "momentum" else 0.0
    velocity = [torch.zeros_like(p) for p in network.parameters()]
    history = [(vector(network.parameters()), math.nan)]
    for epoch in range(1, config.epochs + 1):
        lr = config.lr
        for milestone in config.milestones:
            lr = lr * config.gamma if epoch > milestone else lr
        order = torch.randperm(SMALL, generator=generator(*path, "order", epoch))
        rng, total = generator(*path, "augment", epoch), 0.0
        for start in range(0, SMALL, config.batch_size):
            rows = order[start : start + config.batch_size]
            x = work.augment.draw((len(rows), 1, 8, 8), rng)(images[rows])
            loss = nn.functional.cross_entropy(network(x), labels[rows])
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            total += loss.item() * len(rows)
            with torch.no_grad():
                for place, (p, g) in enumerate(zip(network.parameters(), gradients, strict=True)):
                    g = g.add(p, alpha=config.weight_decay)
                    velocity[place] = velocity[place] * momentum + g
                    p.add_(velocity[place], alpha=-lr)
        history.append((vector(network.parameters()), total / SMALL))
    return history


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.01},
        {"optimizer": "momentum", "momentum": 0.9},
        {"optimizer": "momentum", "momentum": 0.5, "weight_decay": 0.02, "milestones": (1, 3), "gamma": 0.5},
    ],
)
def test_an_expert_is_plain_sgd_on_its_draws(settings, work):
    config = ExpertConfig(**{"epochs": 4, "batch_size": 64, "lr": 0.0625, **settings})
    snapshots = list(train_expert(config, work.build, *feeds(work), work.augment, (3, 7)))
    expected = naive(work, config, (3, 7))
    assert [snapshot.epoch for snapshot in snapshots] == [0, 1, 2, 3, 4]
    for snapshot, (theta, loss) in zip(snapshots, expected, strict=True):
        assert torch.equal(snapshot.theta, theta)
        assert snapshot.train_loss == pytest.approx(loss, rel=1e-12, nan_ok=True)


def test_adam_is_its_papers_algorithm():
    """Kingma and Ba, arXiv 1412.6980, Algorithm 1, in float64, with a learning rate that falls after a milestone."""
    config = ExpertConfig(lr=0.002, optimizer="adam", milestones=(2,), gamma=0.5)
    network, rng = nn.Linear(5, 3).double(), generator(4)
    optimizer = make_optimizer(network, config)
    weights = [p.detach().clone() for p in network.parameters()]
    first, second = ([torch.zeros_like(p) for p in weights] for _ in range(2))
    for step in range(1, 10):
        for number, parameter in enumerate(network.parameters()):
            g = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
            parameter.grad = g.clone()
            first[number] = 0.9 * first[number] + 0.1 * g
            second[number] = 0.999 * second[number] + 0.001 * g**2
            mean, square = first[number] / (1 - 0.9**step), second[number] / (1 - 0.999**step)
            weights[number] -= 0.002 * (0.5 if step > 6 else 1) * mean / (square.sqrt() + 1e-8)
        optimizer.step()
        if step % 3 == 0:
            optimizer.end_epoch()
    torch.testing.assert_close([*network.parameters()], weights, rtol=1e-13, atol=1e-15)


def test_every_setting_of_the_optimiser_counts(work):
    ends = [
        train(work, **settings)[-1].theta
        for settings in (
            {},
            {"lr": 0.1},
            {"optimizer": "momentum"},
            {"optimizer": "momentum", "momentum": 0.3},
            {"weight_decay": 0.1},
            {"batch_size": 32},
            {"milestones": (1,)},
            {"milestones": (1,), "gamma": 0.5},
            {"draw": augment("none")},
            {"optimizer": "adam"},
            {"optimizer": "adam", "milestones": (1,)},
            {"optimizer": "gsam"},
            {"optimizer": "gsam", "gsam": GsamConfig(rho=0.5)},
            {"optimizer": "gsam", "gsam": GsamConfig(alpha=1)},
            {"optimizer": "smooth"},
            {"optimizer": "smooth", "momentum": 0.3},
            {"optimizer": "smooth", "smooth": SmoothConfig(low=0.25)},
            {"optimizer": "smooth", "smooth": SmoothConfig(high=0.75)},
            {"optimizer": "smooth", "smooth": SmoothConfig(epochs=2)},
            {"optimizer": "smooth", "smooth": SmoothConfig(mu=2)},
            {"optimizer": "smooth", "smooth": SmoothConfig(norm=2)},
        )
    ]
    assert len({tuple(end.tolist()) for end in ends}) == len(ends)
    unused = {"gsam": GsamConfig(rho=0.5), "smooth": SmoothConfig(mu=2)}
    assert torch.equal(train(work, momentum=0.3, **unused)[-1].theta, ends[0])  # plain SGD knows none of these
    sharp = train(work, optimizer="gsam", momentum=0.3)[-1].theta
    assert torch.equal(sharp, train(work, optimizer="gsam")[-1].theta)


def test_smoothness_without_constraint_is_momentum(work):
    free = SmoothConfig(epochs=0, mu=0)
    snapshots = train(work, optimizer="smooth", smooth=free), train(work, optimizer="momentum")
    assert all(torch.equal(a.theta, b.theta) for a, b in zip(*snapshots, strict=True))
    assert [a.train_loss for a in snapshots[0]][1:] == [b.train_loss for b in snapshots[1]][1:]


def test_the_weight_of_the_loss_follows_the_epochs(work):
    ends = [train(work, optimizer="smooth", smooth=SmoothConfig(epochs=epochs, mu=0)) for epochs in (2, 3)]
    same = [torch.equal(a.theta, b.theta) for a, b in zip(*ends, strict=True)]
    assert same == [True, True, False, False]  # both start at half the loss; then one is at 1, the other at 0.75


def test_snapshots_are_copies_on_the_cpu_and_the_first_is_the_start(work, device):
    there = work_of(device=device)
    seen, kept = [], []
    for snapshot in train_expert(ExpertConfig(epochs=3), there.build, *feeds(there), there.augment, (0, 0)):
        seen.append(snapshot)
        kept.append(snapshot.theta.clone())
    assert len(seen) == 4
    for snapshot, theta in zip(seen, kept, strict=True):
        assert torch.equal(snapshot.theta, theta)
        assert (snapshot.theta.device.type, snapshot.theta.dtype) == ("cpu", torch.float32)
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(kept))
    assert torch.equal(kept[0], naive(work, ExpertConfig(epochs=1))[0][0])
    seen[1].theta.zero_()
    assert torch.equal(seen[2].theta, kept[2])


def test_an_expert_is_its_seed_and_index_and_nothing_else(work):
    torch.manual_seed(1)
    first = train(work, (4, 2))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = train(work, (4, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a.theta, b.theta) for a, b in zip(first, again, strict=True))
    assert [(a.accuracy, a.epoch) for a in first] == [(b.accuracy, b.epoch) for b in again]
    for other in (train(work, (4, 3)), train(work, (5, 2))):
        assert not any(torch.equal(a.theta, b.theta) for a, b in zip(first, other, strict=True))


def test_a_longer_training_begins_as_the_shorter_one(work):
    short, long = train(work, epochs=2), train(work, epochs=3)
    assert all(torch.equal(a.theta, b.theta) for a, b in zip(short, long, strict=False))


@pytest.mark.parametrize("optimizer", first(STEPS))
def test_experts_learn(work, optimizer):
    config = ExpertConfig(epochs=8, batch_size=32, lr=0.1, optimizer=optimizer)
    snapshots = list(train_expert(config, work.build, *feeds(work, None), augment("none"), (0, 0)))
    assert snapshots[-1].accuracy > 0.85 > 0.4 > snapshots[0].accuracy
    assert snapshots[-1].train_loss < 0.5 * snapshots[1].train_loss


@pytest.mark.parametrize("optimizer", STEPS)
def test_running_statistics_are_kept_where_a_network_has_them(work, optimizer):
    normalised = train(work_of("ConvNetW8BN"), optimizer=optimizer)
    assert {tuple(snapshot.buffers.shape) for snapshot in normalised} == {(2 * 8 + 2 * 8,)}
    mean, variance = normalised[0].buffers.view(2, 2, 8).unbind(1)
    assert torch.equal(mean, torch.zeros(2, 8))
    assert torch.equal(variance, torch.ones(2, 8))
    assert not torch.equal(normalised[1].buffers, normalised[0].buffers)
    assert not torch.equal(normalised[2].buffers, normalised[1].buffers)
    assert {snapshot.buffers.numel() for snapshot in train(work)} == {0}


@pytest.mark.parametrize("network", ["ConvNetW8", "ConvNetW8BN"])
def test_accuracy_is_the_fraction_of_validation_images_recognised(network):
    work = work_of(network)
    split = work.dataset.validation
    for snapshot in train(work):
        student = work.build().eval()
        nn.utils.vector_to_parameters(snapshot.theta, student.parameters())
        floats = [buffer for buffer in student.buffers() if buffer.is_floating_point()]
        if floats:
            nn.utils.vector_to_parameters(snapshot.buffers, floats)
        right = 0
        for row in range(len(split)):
            logits = student(work.transform(split.take(torch.tensor([row]))))[0].tolist()
            right += int(logits.index(max(logits)) == int(split.targets[row]))
        assert snapshot.accuracy == right / len(split)


def test_measuring_leaves_a_training_network_as_it_was():
    work = work_of("ConvNetW8BN")
    network = work.build().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measure_accuracy(network, work.feed(work.dataset.validation))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_validation_images_give_no_accuracy(work):
    nothing = work.feed(replace(work.dataset.validation, index=work.dataset.validation.index[:0]))
    config = ExpertConfig(epochs=1)
    snapshots = list(train_expert(config, work.build, feeds(work)[0], nothing, work.augment, (0, 0)))
    assert all(math.isnan(snapshot.accuracy) for snapshot in snapshots)


def test_divergence_is_told_with_its_remedy(work):
    training = train_expert(
        ExpertConfig(lr=1e30, epochs=5, batch_size=50), work.build, *feeds(work), work.augment, (0, 6)
    )
    message = r"expert 6: loss is (nan|inf) in epoch 1; lower experts.lr \(1e\+30\)"
    with pytest.raises(FloatingPointError, match=message):
        list(training)
