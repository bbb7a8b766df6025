import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from raydd.config.schema import DataConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation import student
from raydd.evaluation.protocols import PROTOCOLS, Protocol
from raydd.evaluation.student import evaluate, evaluate_real
from raydd.models.zoo import build
from raydd.numerics.augment import augment
from raydd.numerics.cutmix import cutmix
from raydd.numerics.formation import PLAIN, Formation, decode
from raydd.numerics.rng import generator
from raydd.numerics.sgd import Sgd
from raydd.selection.class_sampler import Request, real
from raydd.selection.starting_images import noise

SHORT = Protocol(name="short", epochs=6, plain_epochs=4, real_epochs=2, lr=None, batch_size=7)


@pytest.fixture(scope="module")
def work():
    return open_workspace(DataConfig(), "ConvNetW8", torch.device("cpu"))


@pytest.fixture
def trained(monkeypatch):
    """The networks that were tested, as they were then."""
    seen = []

    def spy(network, images):
        seen.append(nn.utils.parameters_to_vector(network.parameters()).detach().clone())
        return measure(network, images)

    measure = student.measure_accuracy
    monkeypatch.setattr(student, "measure_accuracy", spy)
    return seen


def synset(work, ipc=2, lr=0.05, soft=False):
    images, labels = real(Request(work.dataset, work.transform, ipc, generator(0)))
    if soft:
        labels = 3 * torch.randn(len(labels), 10, generator=generator(1))
    return SyntheticSet(images, labels, torch.tensor(lr), work.transform, "digits", work.dataset.classes)


def shuffled(images, targets, size):
    """The batches of an epoch, by the generator of its order."""

    def batches(order):
        for rows in torch.randperm(len(images), generator=order).split(size):
            yield images[rows], targets[rows]

    return batches


def soft_cross_entropy(logits, q):
    return -(q * logits.log_softmax(1)).sum(1).mean()


def naive(work, batches, protocol, draw, lr, epochs, seed, *, mix=lambda x, q: (x, q), error=soft_cross_entropy):
    """Heavy-ball SGD written out on the same draws; the step size falls to a tenth at half the epochs."""
    torch.manual_seed(int(torch.randint(2**62, (), generator=generator(seed, "student", "init"))))
    network = work.build()
    velocity = [torch.zeros_like(p) for p in network.parameters()]
    order, rng = generator(seed, "student", "order"), generator(seed, "student", "augment")
    for epoch in range(epochs):
        rate = lr * 0.1 if epoch >= epochs // 2 else lr
        for x, y in batches(order):
            q = y if y.ndim == 2 else nn.functional.one_hot(y, 10).float()
            x, q = mix(draw.draw(x.shape, rng)(x), q)
            loss = error(network(x), q)
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            with torch.no_grad():
                for place, (p, g) in enumerate(zip(network.parameters(), gradients, strict=True)):
                    velocity[place] = protocol.momentum * velocity[place] + (g + protocol.weight_decay * p)
                    p -= rate * velocity[place]
    test = work.dataset.test
    logits = network(work.transform(test.take(torch.arange(len(test)))))
    right = int((logits.argmax(1) == test.targets).sum())
    return nn.utils.parameters_to_vector(network.parameters()).detach(), right / len(test)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", ["none", "dsa"])
@pytest.mark.parametrize("lr", [None, 0.02])
def test_a_student_is_heavy_ball_sgd_on_its_draws(soft, name, lr, work, trained):
    protocol, draw, data = (
        SHORT.model_copy(update={"lr": lr, "weight_decay": 0.01}),
        augment(name),
        synset(work, soft=soft),
    )
    found = evaluate(data, work.build, work.feed(work.dataset.test), protocol, draw, 3)
    batches = shuffled(data.images, data.labels.softmax(1) if soft else data.labels, 7)
    epochs = 4 if name == "none" else 6
    theta, accuracy = naive(work, batches, protocol, draw, 0.05 if lr is None else lr, epochs, 3)
    torch.testing.assert_close(trained[0], theta, rtol=0, atol=1e-4)
    assert found == accuracy


@pytest.mark.parametrize("cutmix", [0.0, 0.5])
@pytest.mark.parametrize("temperature", [1, 4])
def test_targets_of_a_regression_are_learned_by_the_squared_error(cutmix, temperature, work, trained):
    protocol = SHORT.model_copy(update={"lr": 0.02, "cutmix": cutmix, "temperature": temperature})
    data = replace(synset(work, soft=True), regression=True)
    found = evaluate(data, work.build, work.feed(work.dataset.test), protocol, work.augment, 3)
    batches = shuffled(data.images, data.labels, 7)

    def distance(outputs, targets):
        rows = zip(outputs, targets, strict=True)
        return sum((row - target).square().sum() for row, target in rows) / len(outputs) / 2

    mix = mixing(generator(3, "student", "cutmix"), cutmix, {True: 0, False: 0}) if cutmix else lambda x, q: (x, q)
    # the gradient is that of the distance from the mixed targets
    theta, accuracy = naive(work, batches, protocol, work.augment, 0.02, 6, 3, mix=mix, error=distance)
    torch.testing.assert_close(trained[0], theta, rtol=0, atol=1e-4)
    assert found == accuracy


@pytest.mark.parametrize("lr", [None, 0.05])
def test_the_upper_end_is_the_same_on_real_images(lr, work, trained):
    split = replace(work.dataset.train, index=work.dataset.train.index[:150])
    protocol = SHORT.model_copy(update={"lr": lr, "batch_size": 64, "real_epochs": 3})
    found = evaluate_real(work.feed(split), work.build, work.feed(work.dataset.test), protocol, work.augment, 1)
    batches = shuffled(work.transform(split.take(torch.arange(150))), split.targets, 64)
    theta, accuracy = naive(work, batches, protocol, work.augment, 0.01 if lr is None else lr, 3, 1)
    torch.testing.assert_close(trained[0], theta, rtol=0, atol=1e-4)
    assert found == accuracy


def test_a_score_is_its_seeds_and_leaves_the_set_and_the_global_generator_alone(work, trained):
    data, test = synset(work), work.feed(work.dataset.test)
    before, state = data.images.clone(), torch.get_rng_state()
    first = evaluate(data, work.build, test, SHORT, work.augment, 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert evaluate(data, work.build, test, SHORT, work.augment, 0) == first
    evaluate(data, work.build, test, SHORT, work.augment, 1)
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])
    assert torch.equal(data.images, before)


def test_running_statistics_count_in_the_test(work):
    """A network tested on one image at a time must not normalise by that image."""
    normal = open_workspace(DataConfig(), "ConvNetW8BN", torch.device("cpu"))
    data, test = synset(normal, 5), normal.dataset.test
    seen = []

    def build():
        seen.append(normal.build())
        return seen[-1]

    protocol = SHORT.model_copy(update={"batch_size": 50, "epochs": 60})
    found = evaluate(data, build, normal.feed(test), protocol, augment("none"), 0)
    alone = [seen[0].eval()(normal.transform(test.take(torch.tensor([row])))) for row in range(len(test))]
    right = int((torch.cat(alone).argmax(1) == test.targets).sum())
    assert found == right / len(test)


def test_students_learn_digits_from_ten_images_a_class_and_nothing_from_noise(work):
    protocol = PROTOCOLS["mtt"].model_copy(update={"epochs": 300})
    test = work.feed(work.dataset.test)
    assert evaluate(synset(work, 10), work.build, test, protocol, work.augment, 0) > 0.8
    images, labels = noise(Request(work.dataset, work.transform, 10, generator(0)))
    nothing = synset(work, 10).with_leaves({"images": images, "labels": labels})
    assert evaluate(nothing, work.build, test, protocol, work.augment, 0) < 0.4


def test_soft_labels_teach_their_classes(work):
    data = synset(work, 10)
    taught = data.with_leaves({"labels": 8.0 * nn.functional.one_hot((data.labels + 1) % 10, 10)})
    test, protocol = work.feed(work.dataset.test), PROTOCOLS["mtt"].model_copy(update={"plain_epochs": 150})
    assert evaluate(taught, work.build, test, protocol, augment("none"), 0) < 0.1  # every class is named one too high
    honest = data.with_leaves({"labels": 8.0 * nn.functional.one_hot(data.labels, 10)})
    assert evaluate(honest, work.build, test, protocol, augment("none"), 0) > 0.75


def test_protocols_are_the_published_ones():
    by_sgd, tgdd = {name: p for name, p in PROTOCOLS.items() if p.optimizer == "sgd"}, PROTOCOLS["tgdd"]
    common = {name: protocol for name, protocol in by_sgd.items() if name != "tgdd"}
    assert {name: (p.epochs, p.plain_epochs, p.real_epochs, p.lr) for name, p in common.items()} == {
        "mtt": (1000, 1000, 50, None),
        "datm": (1000, 1000, 50, None),
        "ast": (1000, 1000, 50, None),
        "dm": (1000, 300, 50, 0.01),
        "dcbench": (1000, 300, 50, 0.01),
    }
    for name, protocol in by_sgd.items():
        assert protocol.name == name
        assert (protocol.momentum, protocol.weight_decay) == (0.9, 5e-4)
    for name, protocol in common.items():
        assert (protocol.batch_size, protocol.gamma) == (128 if name == "datm" else 256, 0.5 if name == "ast" else 0.1)
        assert (protocol.milestones, protocol.cutmix) == ((0.5,), 0.0)
    assert (tgdd.epochs, tgdd.plain_epochs, tgdd.real_epochs, tgdd.lr) == (1500, 1500, 50, 0.01)
    assert (tgdd.batch_size, tgdd.gamma, tgdd.cutmix) == (64, 0.2, 0.5)
    assert [int(1500 * part) for part in tgdd.milestones] == [1000, 1250]


def rates_of(monkeypatch, protocol, data, work):
    """The learning rate of every step of a student under a protocol, whose steps are not taken."""
    rates = []

    class Spy(Sgd):
        def step(self):
            rates.append(self.lr)

    monkeypatch.setattr(student, "Sgd", Spy)
    linear = partial(build, "ConvNetW1D1", channels=1, size=8, classes=10)
    evaluate(data, linear, work.feed(work.dataset.test), protocol, augment("none"), 0)
    return rates


@pytest.mark.parametrize(
    ("protocol", "ipc", "rates"),
    [
        (SHORT.model_copy(update={"batch_size": 256}).changed(5), 2, [0.05] * 2 + [0.005] * 3),
        (PROTOCOLS["tgdd"].changed(12), 1, [0.01] * 8 + [0.002] * 2 + [0.0004] * 2),
        (PROTOCOLS["ast"], 1, [0.05] * 500 + [0.025] * 500),
        (PROTOCOLS["datm"].changed(4), 13, [0.05] * 4 + [0.005] * 4),  # 130 images are two batches
    ],
    ids=["a tenth at half", "twice", "half at half", "batches of 128"],
)
def test_the_learning_rate_falls_as_the_protocol_says(protocol, ipc, rates, work, monkeypatch):
    assert rates_of(monkeypatch, protocol, synset(work, ipc), work) == pytest.approx(rates)


@pytest.mark.parametrize(("ipc", "epochs"), [(1, 2000), (10, 1000)])
@pytest.mark.slow
def test_tgdd_trains_an_imagenet_subset_by_its_size(ipc, epochs, work, monkeypatch):
    data = replace(synset(work, ipc), dataset="imagenet_nette")
    rates = rates_of(monkeypatch, PROTOCOLS["tgdd"].model_copy(update={"batch_size": 256}), data, work)
    falls = [epochs * 2 // 3, epochs * 5 // 6 - epochs * 2 // 3, epochs - epochs * 5 // 6]
    assert rates == pytest.approx(
        [rate for rate, count in zip((0.01, 2e-3, 4e-4), falls, strict=True) for _ in range(count)]
    )


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("soft", [False, True])
def test_students_learn_from_decoded_mosaics(soft, factor, work, trained):
    mosaics = replace(synset(work, soft=soft), formation=Formation(factor))
    images, rows = decode(mosaics.images, mosaics.formation)
    plain = replace(mosaics, images=images, labels=mosaics.labels[rows], formation=PLAIN)
    test = work.feed(work.dataset.test)
    found = evaluate(mosaics, work.build, test, SHORT, work.augment, 0)
    assert found == evaluate(plain, work.build, test, SHORT, work.augment, 0)
    assert torch.equal(trained[0], trained[1])
    evaluate(replace(mosaics, formation=PLAIN), work.build, test, SHORT, work.augment, 0)
    assert not torch.equal(trained[0], trained[2])


def mixing(rng, probability, counts):
    """What CutMix makes of a batch and of its probabilities (B, K), for the batches that a coin chooses."""

    def mix(x, q):
        chosen = float(torch.rand((), generator=rng)) < probability
        counts[chosen] += 1
        if not chosen:
            return x, q
        x, partners, share = cutmix(x, q, rng)
        return x, share * q + (1 - share) * partners

    return mix


@pytest.mark.parametrize("soft", [False, True])
def test_cutmix_mixes_the_labels_of_augmented_batches_a_coin_chose(soft, work, trained):
    protocol, data, counts = (
        SHORT.model_copy(update={"lr": 0.05, "cutmix": 0.5}),
        synset(work, soft=soft),
        {True: 0, False: 0},
    )
    found = evaluate(data, work.build, work.feed(work.dataset.test), protocol, work.augment, 2)
    batches = shuffled(data.images, data.labels.softmax(1) if soft else data.labels, 7)
    mix = mixing(generator(2, "student", "cutmix"), 0.5, counts)
    theta, accuracy = naive(work, batches, protocol, work.augment, 0.05, 6, 2, mix=mix)
    torch.testing.assert_close(trained[0], theta, rtol=0, atol=1e-4)
    assert found == accuracy
    assert min(counts.values()) > 3


def test_cutmix_mixes_real_images_too(work, trained):
    split = replace(work.dataset.train, index=work.dataset.train.index[:150])
    protocol, counts = (
        SHORT.model_copy(update={"lr": 0.05, "batch_size": 64, "real_epochs": 3, "cutmix": 1.0}),
        {True: 0, False: 0},
    )
    found = evaluate_real(work.feed(split), work.build, work.feed(work.dataset.test), protocol, work.augment, 1)
    batches = shuffled(work.transform(split.take(torch.arange(150))), split.targets, 64)
    mix = mixing(generator(1, "student", "cutmix"), 1.0, counts)
    theta, accuracy = naive(work, batches, protocol, work.augment, 0.05, 3, 1, mix=mix)
    torch.testing.assert_close(trained[0], theta, rtol=0, atol=1e-4)
    assert found == accuracy
    assert counts == {True: 9, False: 0}


def test_without_cutmix_there_is_no_draw_for_it(work, trained, monkeypatch):
    states = []

    def spy(seed, *path):
        rng = generator(seed, *path)
        if path == ("student", "cutmix"):
            states.append((rng, rng.get_state()))
        return rng

    monkeypatch.setattr(student, "generator", spy)
    test = work.feed(work.dataset.test)
    evaluate(synset(work), work.build, test, SHORT, work.augment, 0)
    evaluate(synset(work), work.build, test, SHORT.model_copy(update={"cutmix": 0.9}), work.augment, 0)
    assert [torch.equal(rng.get_state(), before) for rng, before in states] == [True, False]
    assert not torch.equal(trained[0], trained[1])


@pytest.mark.parametrize("soft", [False, True])
def test_a_student_of_adamw_is_torchs_on_its_draws(soft, work, trained):
    """With PyTorch's own optimiser, schedule and divergence; the temperature is of soft labels alone."""
    cool = Protocol.model_validate(
        SHORT.model_dump()
        | {"name": "cool", "lr": 0.003, "optimizer": "adamw", "cosine": 0.5, "temperature": 4.0, "milestones": ()}
    )
    data = synset(work, soft=soft)
    found = evaluate(data, work.build, work.feed(work.dataset.test), cool, work.augment, 3)
    torch.manual_seed(int(torch.randint(2**62, (), generator=generator(3, "student", "init"))))
    network = work.build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / 12)))
    order, rng = generator(3, "student", "order"), generator(3, "student", "augment")
    for _ in range(6):
        for x, y in shuffled(data.images, data.labels, 7)(order):
            logits = network(work.augment.draw(x.shape, rng)(x))
            loss = nn.functional.cross_entropy(logits, y)
            if soft:
                teacher = (y / 4).softmax(1)
                loss = nn.functional.kl_div((logits / 4).log_softmax(1), teacher, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    theta = nn.utils.parameters_to_vector(network.parameters()).detach()
    torch.testing.assert_close(trained[0], theta, rtol=0, atol=2e-4)
    logits = network(work.transform(work.dataset.test.take(torch.arange(len(work.dataset.test)))))
    assert found == pytest.approx(float((logits.argmax(1) == work.dataset.test.targets).double().mean()), abs=0.006)
