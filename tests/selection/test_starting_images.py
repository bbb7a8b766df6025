from dataclasses import replace

import numpy as np
import pytest
import torch

from raydd.buffer.segments import InMemory
from raydd.data.datasets import load_dataset
from raydd.data.preprocessing import fit_transform
from raydd.data.workspace import Feed
from raydd.models.zoo import build
from raydd.numerics.flat import FlatModel, split
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Experts, Request, real
from raydd.selection.coresets import CORESETS, herding, kcenter, kmeans, nearest
from raydd.selection.starting_images import INITIAL, NEED_EXPERTS, noise

KINDS = ["raw01", "normalise", "zca"]


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def marked(dataset):
    """The same data set with each image telling, in its first pixels, which stored row it is."""
    images = np.array(dataset.train.images)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(images)) // 256, np.arange(len(images)) % 256
    splits = {name: replace(getattr(dataset, name), images=images) for name in ("train", "validation")}
    return replace(dataset, **splits)


def rows_of(images):
    pixels = (images * 255).round().long()
    return (pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 0, 1]).tolist()


@pytest.mark.parametrize("select", [CORESETS[name] for name in CORESETS if name not in NEED_EXPERTS])
def test_real_images_are_of_the_train_split_in_class_order_without_repetition(select, digits):
    data = marked(digits)
    images, labels = select(Request(data, fit_transform("raw01", data), 7, generator(0)))
    rows = rows_of(images)
    assert labels.tolist() == [label for label in range(10) for _ in range(7)]
    assert [int(data.train.labels[row]) for row in rows] == labels.tolist()
    assert len(set(rows)) == 70
    assert set(rows) <= set(data.train.index.tolist())
    assert not set(rows) & set(data.validation.index.tolist())
    assert torch.equal(images, torch.from_numpy(data.train.images[rows]) / 255)


@pytest.mark.parametrize("select", [real, noise, kmeans, herding, kcenter])
def test_a_selection_depends_on_its_generator_alone(select, digits):
    transform = fit_transform("normalise", digits)
    torch.manual_seed(1)
    np.random.seed(1)
    first, _ = select(Request(digits, transform, 2, generator(0)))
    torch.manual_seed(2)
    np.random.seed(2)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    again, _ = select(Request(digits, transform, 2, generator(0)))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    if select in {real, noise}:
        assert not torch.equal(first, select(Request(digits, transform, 2, generator(1)))[0])


def test_all_draws_together_reach_every_training_image(digits):
    data = marked(digits)
    whole = min(torch.bincount(data.train.targets).tolist())
    images, _ = real(Request(data, fit_transform("raw01", data), whole, generator(0)))
    label = int(torch.bincount(data.train.targets).argmin())
    mine = rows_of(images)[label * whole : (label + 1) * whole]
    assert sorted(mine) == sorted(row for row in data.train.index.tolist() if data.train.labels[row] == label)


@pytest.mark.parametrize("select", [real, kmeans, herding, kcenter])
def test_more_images_than_there_are_is_refused_with_the_remedy(select, digits):
    counts, transform = torch.bincount(digits.train.targets).tolist(), fit_transform("raw01", digits)
    least = min(counts)
    name = digits.classes[counts.index(least)]
    message = f"ipc {least + 1} is larger than class '{name}' of digits, which has {least} training images; "
    with pytest.raises(ValueError, match=message + f"use --ipc {least} or less"):
        select(Request(digits, transform, least + 1, generator(0)))


@pytest.mark.parametrize("kind", KINDS)
def test_real_images_are_preprocessed(kind, digits):
    transform, raw = fit_transform(kind, digits), fit_transform("raw01", digits)
    images, _ = real(Request(digits, transform, 3, generator(5)))
    plain, _ = real(Request(digits, raw, 3, generator(5)))
    torch.testing.assert_close(images, transform(plain), rtol=0, atol=1e-6)


def test_noise_is_standard_normal_in_class_order(digits):
    images, labels = noise(Request(digits, fit_transform("normalise", digits), 50, generator(0)))
    assert (images.shape, images.dtype) == ((500, 1, 8, 8), torch.float32)
    assert labels.tolist() == [label for label in range(10) for _ in range(50)]
    assert float(images.mean()) == pytest.approx(0, abs=0.02)  # 32,000 draws: 3.6 standard errors
    assert float(images.std()) == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize("kind", KINDS)
def test_kmeans_of_one_image_is_the_one_nearest_to_the_class_mean(kind, digits):
    transform = fit_transform(kind, digits)
    images, labels = kmeans(Request(digits, transform, 1, generator(0)))
    everything = transform(digits.train.take(torch.arange(len(digits.train)))).double()
    for label in range(10):
        members = everything[digits.train.targets == label]
        distances = [float((member - members.mean(0)).square().sum()) for member in members]
        assert torch.equal(images[label].double(), members[distances.index(min(distances))])
    assert labels.tolist() == list(range(10))


def test_kmeans_finds_clusters_that_lie_apart(digits):
    stored, labels = digits.train.images.copy(), digits.train.labels
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        for group in range(3):
            stored[rows[group::3]] = 100 * group
            # one of each group is a little off its cluster's centre, and never to be chosen
            stored[rows[group::3][0]] = 100 * group + 20
    data = replace(digits, train=replace(digits.train, images=stored, index=np.arange(len(labels))))
    images, _ = kmeans(Request(data, fit_transform("raw01", data), 3, generator(0)))
    found = (images * 255).round().mean((1, 2, 3)).view(10, 3).sort(1).values
    assert found.tolist() == [[0.0, 100.0, 200.0]] * 10


def test_centres_that_share_their_nearest_image_get_different_ones():
    pixels = torch.tensor([[0.0], [10.0], [-30.0], [11.0]], dtype=torch.float64)
    centres = torch.tensor([[1.5], [-1.0], [-2.0]], dtype=torch.float64)
    assert (centres - pixels.T).abs().argmin(1).tolist() == [0, 0, 0]
    # -1 is the closest and has 0; then 1.5 has 10, and -2 what is left nearest to it
    assert nearest(centres, pixels).tolist() == [1, 0, 3]


def test_kmeans_never_repeats_an_image_however_many_are_wanted(digits):
    data = marked(digits)
    least = min(torch.bincount(data.train.targets).tolist())
    images, _ = kmeans(Request(data, fit_transform("raw01", data), least - 1, generator(0)))
    assert len(set(rows_of(images))) == 10 * (least - 1)


@pytest.mark.parametrize("room", [0.0, float("inf")])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_feed_gives_the_splits_images_preprocessed(kind, name, digits, device, room, monkeypatch):
    """Also where a GPU has no room for all of them."""
    monkeypatch.setattr("raydd.data.workspace._free_bytes", lambda device: room)
    split, transform = getattr(digits, name), fit_transform(kind, digits)
    feed, rows = Feed(split, transform, device), torch.tensor([5, 0, 5, 17])
    x, y = feed(rows)
    assert (feed._bytes is None) == (room == 0)
    expected = torch.stack([torch.from_numpy(np.array(split.images[split.index[row]])) for row in rows.tolist()])
    assert (x.device.type, y.device.type, len(feed)) == (device.type, device.type, len(split))
    torch.testing.assert_close(x.cpu(), transform(expected), rtol=0, atol=0 if device.type == "cpu" else 1e-5)
    assert y.tolist() == [int(split.labels[split.index[row]]) for row in rows.tolist()]
    assert torch.equal(feed.targets.cpu(), split.targets)


def test_an_epoch_shows_every_image_once_in_the_generators_order(digits):
    feed = Feed(digits.validation, fit_transform("raw01", digits), torch.device("cpu"))
    batches = list(feed.shuffled(50, generator(3)))
    order = torch.randperm(len(feed), generator=generator(3))
    assert [len(y) for _, y in batches] == [50] * (len(feed) // 50) + [len(feed) % 50]
    assert torch.equal(torch.cat([x for x, _ in batches]), feed(order)[0])
    assert torch.equal(torch.cat([y for _, y in batches]), digits.validation.targets[order])
    assert order.tolist() != sorted(order.tolist())


def test_in_order_is_in_order(digits):
    feed = Feed(digits.validation, fit_transform("raw01", digits), torch.device("cpu"))
    batches = list(feed.in_order(64))
    assert torch.equal(torch.cat([x for x, _ in batches]), feed(torch.arange(len(feed)))[0])
    assert torch.equal(torch.cat([y for _, y in batches]), digits.validation.targets)
    assert max(len(y) for _, y in batches) == 64


def trained(digits, kind="raw01"):
    """An MLP's weights after a few passes over the training digits, and the data's preprocessing."""
    transform, rows = fit_transform(kind, digits), torch.arange(len(digits.train))
    x, y = transform(digits.train.take(rows)), digits.train.targets
    thetas = []
    for seed in (0, 1):
        theta = MLP.init(generator(seed, "theta"))
        for _ in range(70):
            at = theta.clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy(MLP(at, x), y)
            theta = theta - 0.5 * torch.autograd.grad(loss, at)[0]
        thetas.append(theta)
    return transform, thetas


MLP = FlatModel(lambda: build("MLP", channels=1, size=8, classes=10))
SOFT_LABELS = ["correctly_classified", "correctly_classified_mean"]


def experts(thetas, model=MLP, clusters=None, label_epoch=None):
    """Experts that have stood at these weights from the last epoch on, and elsewhere before."""
    paths = [torch.stack([torch.zeros_like(theta), theta]) for theta in thetas]
    return Experts(model, InMemory(paths, model.layout), torch.device("cpu"), clusters, label_epoch)


def confused(theta):
    """The same network with its answers moved on by one class: it is right about almost nothing."""
    parts = split(theta.clone(), MLP.layout)
    for name in ("classifier.weight", "classifier.bias"):
        parts[name].copy_(parts[name].roll(1, 0).clone())
    return torch.cat([part.flatten() for part in parts.values()])


@pytest.mark.parametrize("name", SOFT_LABELS)
def test_soft_starts_are_real_images_that_an_expert_gets_right_with_its_logits(name, digits):
    data = marked(digits)
    transform, thetas = trained(data)
    everything = transform(data.train.take(torch.arange(len(data.train))))
    wrong = (MLP(thetas[0], everything).argmax(1) != data.train.targets).float().mean()
    assert 0.02 < wrong < 0.5
    picked = []
    for seed in range(6):
        images, labels = INITIAL[name](Request(data, transform, 5, generator(seed), experts(thetas)))
        classes = torch.arange(10).repeat_interleave(5)
        rows = rows_of(images)
        assert len(set(rows)) == 50
        assert set(rows) <= set(data.train.index.tolist())
        assert [int(data.train.labels[row]) for row in rows] == classes.tolist()
        assert torch.equal(images, torch.from_numpy(data.train.images[rows]) / 255)
        assert torch.equal(labels.argmax(1), classes)
        said = [MLP(theta, images) for theta in thetas]
        if name == "correctly_classified":
            (expert,) = [place for place, logits in enumerate(said) if torch.allclose(logits, labels, atol=1e-5)]
            picked.append(expert)
            assert torch.equal(said[expert].argmax(1), classes)
        else:
            for row, label in enumerate(classes.tolist()):
                right = [logits[row].double() for logits in said if int(logits[row].argmax()) == label]
                torch.testing.assert_close(labels[row].double(), sum(right) / len(right), rtol=0, atol=1e-5)
    if name == "correctly_classified":
        assert set(picked) == {0, 1}


@pytest.mark.parametrize("name", SOFT_LABELS)
def test_where_no_expert_is_right_labels_are_right_all_the_same(name, digits):
    transform, thetas = trained(digits)
    wrong = confused(thetas[0])
    images, labels = INITIAL[name](Request(digits, transform, 20, generator(0), experts([wrong])))
    classes = torch.arange(10).repeat_interleave(20)
    said = MLP(wrong, images)
    assert (said.argmax(1) == classes).float().mean() < 0.2
    assert torch.isfinite(labels).all()
    assert torch.equal(labels.argmax(1), classes)
    torch.testing.assert_close(labels.sort(1).values, said.sort(1).values)
    for label in range(10):
        rows = torch.nonzero(digits.train.targets == label).flatten()
        answers = MLP(wrong, transform(digits.train.take(rows)))
        gaps = (answers.max(1).values - answers[:, label]).sort().values
        mine = said[classes == label]
        chosen = mine.max(1).values - mine[:, label]
        torch.testing.assert_close(chosen.sort().values, gaps[:20], rtol=0, atol=1e-5)
        assert (chosen[1:] - chosen[:-1]).min() > -1e-5  # the right ones first, then the nearest misses


def test_any_real_images_can_have_an_experts_logits_of_any_epoch(digits):
    transform, thetas = trained(digits)
    wrong = confused(thetas[0])
    for epoch, theta in ((None, wrong), (1, wrong), (0, torch.zeros_like(wrong))):
        request = Request(digits, transform, 5, generator(3), experts([wrong], label_epoch=epoch))
        images, labels = INITIAL["real_soft"](request)
        plain = Request(digits, transform, 5, generator(3), experts([wrong]))
        plain.experts.pick(plain.rng)
        assert torch.equal(images, INITIAL["real"](plain)[0])
        torch.testing.assert_close(labels, MLP(theta, images), rtol=0, atol=1e-5)
    assert (INITIAL["real_soft"](plain)[1].argmax(1) != plain.labels).float().mean() > 0.8


def test_an_untrained_expert_gives_a_start_too(digits):
    transform = fit_transform("normalise", digits)
    for name in SOFT_LABELS:
        images, labels = INITIAL[name](Request(digits, transform, 3, generator(0), experts([MLP.init(generator(0))])))
        assert labels.argmax(1).tolist() == [label for label in range(10) for _ in range(3)]
        assert torch.isfinite(labels).all()
        assert images.shape == (30, 1, 8, 8)


class Corner(torch.nn.Module):
    """Sees but the last two pixels, ten times as large."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.0))

    def features(self, x):
        return self.scale * x[:, 0, -1, -2:]

    def forward(self, x):
        return self.features(x).repeat(1, 5)


def grouped(digits):
    """Digits whose last pixels tell three groups of each class apart; all other pixels are noise."""
    labels, rng = digits.train.labels, np.random.default_rng(0)
    images = rng.integers(0, 256, digits.train.images.shape).astype(np.uint8)
    group = np.zeros(len(labels), int)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        group[rows] = np.arange(len(rows)) % 3
    images[:, 0, -1, -2:] = 80 * group[:, None] + rng.integers(0, 12, (len(labels), 2))
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(images)) // 256, np.arange(len(images)) % 256
    return replace(digits, train=replace(digits.train, images=images, index=np.arange(len(labels)))), group


@pytest.mark.parametrize(("ipc", "clusters"), [(3, None), (3, 3), (6, 3), (12, 3)])
def test_representatives_are_the_images_nearest_to_the_middles_of_what_an_expert_sees(ipc, clusters, digits):
    data, group = grouped(digits)
    theta, model = torch.tensor([10.0]), FlatModel(Corner)
    start = INITIAL["representative"]
    images, labels = start(
        Request(data, fit_transform("raw01", data), ipc, generator(0), experts([theta], model, clusters))
    )
    assert labels.tolist() == [label for label in range(10) for _ in range(ipc)]
    rows, each = rows_of(images), ipc // 3
    assert len(set(rows)) == 10 * ipc
    for label in range(10):
        mine = rows[label * ipc : (label + 1) * ipc]
        parts = [mine[place : place + each] for place in range(0, ipc, each)]
        assert sorted(int(group[part[0]]) for part in parts) == [0, 1, 2]
        for part in parts:
            members = np.flatnonzero((data.train.labels == label) & (group == group[part[0]]))
            seen = data.train.images[members][:, 0, -1, -2:].astype(float)
            order = np.argsort(((seen - seen.mean(0)) ** 2).sum(1), kind="stable")
            far = ((seen - seen.mean(0)) ** 2).sum(1)
            found = [float(far[np.flatnonzero(members == row)[0]]) for row in part]
            assert found == pytest.approx(far[order[:each]].tolist())


def test_representatives_repeat_with_their_generator(digits):
    data, _ = grouped(digits)
    given = fit_transform("raw01", data), 4
    network = experts([torch.tensor([10.0])], FlatModel(Corner))
    first, again, other = (
        INITIAL["representative"](Request(data, *given, generator(seed), network))[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("ipc", "clusters"), [(4, 3), (2, 4), (1, 2)])
def test_clusters_that_cannot_share_the_images_are_refused(ipc, clusters, digits):
    network = experts([torch.zeros(MLP.size)], clusters=clusters)
    message = f"clusters {clusters} does not divide ipc {ipc}; use --set clusters with a divisor of it"
    with pytest.raises(ValueError, match=message):
        INITIAL["representative"](Request(digits, fit_transform("raw01", digits), ipc, generator(0), network))


@pytest.mark.parametrize("name", sorted(set(INITIAL) - {"noise"}))
def test_no_start_has_more_images_than_a_class(name, digits):
    least = int(torch.bincount(digits.train.targets).min())
    given = digits, fit_transform("raw01", digits)
    network = experts([MLP.init(generator(0))])
    with pytest.raises(ValueError, match=f"use --ipc {least} or less") as caught:
        INITIAL[name](Request(*given, least + 1, generator(0), network))
    assert "\n" not in str(caught.value)
    if name not in {"representative", "kmeans"}:  # k-means of so many clusters takes a minute
        assert len(INITIAL[name](Request(*given, least, generator(0), network))[0]) == 10 * least
