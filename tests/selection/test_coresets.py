"""Coresets against their definitions, each written out again by plain loops in float64."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raydd.buffer.segments import InMemory
from raydd.data.datasets import load_dataset
from raydd.data.preprocessing import fit_transform
from raydd.models.zoo import build
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Experts, Request
from raydd.selection.coresets import (
    BY_DISTANCE,
    CORESETS,
    SEEDED,
    Others,
    centres,
    forgetting,
    forgetting_counts,
    glister_order,
    herding,
    herding_order,
    kcenter,
    kcenter_order,
    kmeans,
    nearest,
)
from raydd.selection.starting_images import INITIAL, NEED_EXPERTS

MLP = FlatModel(lambda: build("MLP", channels=1, size=8, classes=10))


@pytest.fixture(scope="module")
def digits():
    """Thirty training images a class: enough to choose from, and few enough for plain loops."""
    data = load_dataset("digits")
    targets = data.train.targets
    rows = torch.cat([torch.nonzero(targets == label).flatten()[:30] for label in range(10)]).sort().values
    return replace(data, train=replace(data.train, index=data.train.index[rows.numpy()]))


@pytest.fixture(scope="module")
def experts():
    """Two MLPs at random places in each of six epochs."""
    paths = [torch.stack([MLP.init(generator(seed, epoch)) for epoch in range(6)]) for seed in range(2)]
    return Experts(MLP, InMemory(paths, MLP.layout), torch.device("cpu"))


def squared(a, b):
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))


def middle(points):
    return [sum(column) / len(points) for column in zip(*points, strict=True)]


def naive_herding(points, count):
    """Each time the point with which the mean of the chosen ones comes closest to the mean of all."""
    points, chosen = points.double().tolist(), []
    mean = middle(points)
    for _ in range(count):
        left = [i for i in range(len(points)) if i not in chosen]
        chosen.append(min(left, key=lambda i: squared(mean, middle([points[j] for j in [*chosen, i]]))))
    return chosen


def naive_kcenter(points, count):
    """The point nearest to the mean, then each time the one farthest from its nearest chosen one."""
    points = points.double().tolist()
    chosen = [min(range(len(points)), key=lambda i: squared(points[i], middle(points)))]
    while len(chosen) < count:
        left = [i for i in range(len(points)) if i not in chosen]
        chosen.append(max(left, key=lambda i: min(squared(points[i], points[j]) for j in chosen)))
    return chosen


def reach(points, chosen):
    """How far the farthest point is from its nearest chosen one."""
    return max(min(squared(point, points[j]) for j in chosen) for point in points) ** 0.5


ORDERS = [(herding_order, naive_herding), (kcenter_order, naive_kcenter)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("order", "naive"), ORDERS)
def test_orders_are_those_of_brute_force_on_thirty_points(order, naive, dtype):
    for seed, width in enumerate((1, 2, 7, 40)):
        points = torch.randn((30, width), generator=generator(seed), dtype=dtype) * 3 + 5
        for count in (1, 2, 9, 30):
            found = order(points, count)
            assert found.dtype == torch.int64
            assert found.tolist() == naive(points, count)


def test_orders_by_hand():
    line = torch.tensor([[0.0], [1.0], [2.0], [10.0], [12.0]])  # mean 5
    # 2 is nearest to 5; with 10 the mean is 6, with 12 it is 7; then 4 with 0 and 13/3 with 1, and 12 makes it 8;
    # last, with 0 it is 3.25 and with 12 6.25
    assert herding_order(line, 4).tolist() == [2, 3, 1, 4]
    # 2; 12 is 10 away; 0, 1 and 10 are 2, 1 and 2 away, and 0 comes first
    assert kcenter_order(line, 4).tolist() == [2, 4, 0, 3]


@pytest.mark.parametrize("offset", [1e3, 1e5])
@pytest.mark.parametrize(("order", "naive"), ORDERS)
def test_far_from_the_origin_single_precision_costs_no_pick(order, naive, offset):
    for seed in range(3):
        points = torch.randn((30, 5), generator=generator(seed)) + offset
        assert order(points, 30).tolist() == naive(points, 30)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_greedy_centres_reach_at_most_twice_as_far_as_the_best(count):
    ratios = []
    for seed in range(20):
        points = torch.randn((8, 2), generator=generator(seed), dtype=torch.float64)
        rows = points.tolist()
        best = min(reach(rows, chosen) for chosen in itertools.combinations(range(8), count))
        ratios.append(reach(rows, kcenter_order(points, count).tolist()) / best)
    assert all(1 - 1e-12 <= ratio <= 2 for ratio in ratios)
    assert max(ratios) > 1.05  # it is greedy, not the best


@pytest.mark.parametrize("order", [herding_order, kcenter_order])
def test_no_point_is_picked_twice_however_equal_they_are(order):
    points = torch.tensor([[1.0, 2.0]] * 4 + [[0.0, 0.0]])
    assert sorted(order(points, 5).tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(points, torch.tensor([[1.0, 2.0]] * 4 + [[0.0, 0.0]]))


@pytest.mark.parametrize("order", [herding_order, kcenter_order])
@pytest.mark.parametrize("count", [0, 4])
def test_a_number_of_points_that_there_is_not_is_refused(order, count):
    with pytest.raises(ValueError, match=f"{count} of 3 points cannot be picked; ask for 1 to 3"):
        order(torch.zeros(3, 2), count)


def naive_forgotten(right):
    """Right and then wrong, counted for one image; as many as there are snapshots where it was never right."""
    if not any(right):
        return len(right)
    return sum(now and not then for now, then in itertools.pairwise(right))


def test_forgetting_is_counted_by_image():
    right = torch.rand((9, 40), generator=generator(0)) < 0.4
    right[:, 7], right[:, 8] = False, True
    counts = forgetting_counts(right).tolist()
    assert counts == [naive_forgotten(column) for column in right.T.tolist()]
    assert (counts[7], counts[8]) == (9, 0)
    assert len(set(counts)) > 3


def classes_of(data, transform):
    """The preprocessed training images of each class, in the order of their rows."""
    images = transform(data.train.take(torch.arange(len(data.train))))
    return [images[data.train.targets == label] for label in range(10)]


@pytest.mark.parametrize(("select", "naive"), [(herding, naive_herding), (kcenter, naive_kcenter)])
@pytest.mark.parametrize("kind", ["raw01", "zca"])
def test_without_experts_pixels_count(select, naive, kind, digits):
    transform = fit_transform(kind, digits)
    images, labels = select(Request(digits, transform, 3, generator(0), None))
    expected = [members[naive(members.flatten(1), 3)] for members in classes_of(digits, transform)]
    assert torch.equal(images, torch.cat(expected))
    assert labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert torch.equal(images, select(Request(digits, transform, 3, generator(1)))[0])


@pytest.mark.parametrize(("select", "naive"), [(herding, naive_herding), (kcenter, naive_kcenter)])
def test_with_experts_the_last_features_of_one_of_them_count(select, naive, digits, experts):
    transform, members = fit_transform("raw01", digits), classes_of(digits, fit_transform("raw01", digits))
    expected = []
    for path in experts.source.trajectories:
        chosen = [part[naive(MLP.features(path[-1], part).detach(), 3)] for part in members]
        expected.append(torch.cat(chosen))
    assert not torch.equal(*expected)
    found = [select(Request(digits, transform, 3, generator(seed), experts))[0] for seed in range(8)]
    picked = [[torch.equal(images, one) for one in expected].index(True) for images in found]
    assert set(picked) == {0, 1}
    assert not torch.equal(expected[0], select(Request(digits, transform, 3, generator(0), None))[0])


def test_kmeans_draws_a_permutation_a_class_and_then_its_clusters(digits, experts):
    transform, rng = fit_transform("normalise", digits), generator(4)
    members = classes_of(digits, transform)
    for part in members:
        torch.randperm(len(part), generator=rng)
    expected = [part[nearest(centres(part.flatten(1), 2, rng), part.flatten(1))] for part in members]
    pixels = kmeans(Request(digits, transform, 2, generator(4)))[0]
    assert torch.equal(pixels, torch.cat(expected))
    assert not torch.equal(pixels, kmeans(Request(digits, transform, 2, generator(4), experts))[0])


def counts_of(digits, transform, experts):
    """How often the experts together forgot each training image, class by class, asked one by one."""
    counts = []
    for label, members in enumerate(classes_of(digits, transform)):
        counts.append([0] * len(members))
        for path in experts.source.trajectories:
            said = [MLP(theta, members).argmax(1).tolist() for theta in path]
            for row in range(len(members)):
                counts[-1][row] += naive_forgotten([answers[row] == label for answers in said])
    return counts


def test_forgetting_takes_what_the_experts_forgot_most(digits, experts):
    transform, ipc = fit_transform("raw01", digits), 6
    counts, members = counts_of(digits, transform, experts), classes_of(digits, transform)
    images, labels = forgetting(Request(digits, transform, ipc, generator(0), experts))
    assert labels.tolist() == [label for label in range(10) for _ in range(ipc)]
    ties = 0
    for label in range(10):
        mine = images[label * ipc : (label + 1) * ipc]
        rows = [int(torch.nonzero((members[label] == image).flatten(1).all(1))[0]) for image in mine]
        assert len(set(rows)) == ipc
        assert [counts[label][row] for row in rows] == sorted(counts[label], reverse=True)[:ipc]
        ties += sorted(counts[label])[-ipc] == sorted(counts[label])[-ipc - 1]
    assert ties
    assert torch.equal(images, forgetting(Request(digits, transform, ipc, generator(0), experts))[0])
    assert not torch.equal(images, forgetting(Request(digits, transform, ipc, generator(1), experts))[0])


def test_forgetting_without_all_snapshots_is_refused(digits, experts):
    class Convexified(InMemory):
        @property
        def kept(self):
            return 0, 3, 5

    few = replace(experts, source=Convexified(experts.source.trajectories, MLP.layout))
    with pytest.raises(ValueError, match="snapshots of all epochs, not of 0, 3, 5; give a full buffer") as caught:
        forgetting(Request(digits, fit_transform("raw01", digits), 1, generator(0), few))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(INITIAL))
def test_starts_that_ask_experts_say_so_and_the_others_do_without(name, digits):
    given = digits, fit_transform("raw01", digits), 2, generator(0), None
    if name in NEED_EXPERTS:
        with pytest.raises(ValueError, match=f"{name} asks trained networks .* give experts with --buffer") as caught:
            INITIAL[name](Request(*given))
        assert "\n" not in str(caught.value)
    else:
        assert len(INITIAL[name](Request(*given))[0]) == 20


def test_coresets_are_starts():
    assert {name: start for name, start in CORESETS.items() if name != "random"}.items() <= INITIAL.items()
    assert CORESETS["random"] is INITIAL["real"]
    assert SEEDED | BY_DISTANCE | {"forgetting", "glister"} == set(CORESETS)
    assert set(NEED_EXPERTS) <= set(INITIAL)


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that anything makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


@pytest.mark.parametrize("order", [herding_order, kcenter_order])
def test_nothing_larger_than_the_points_is_made(order):
    points = torch.randn((500, 8), generator=generator(0))
    with Largest() as largest:
        order(points, 20)
    assert largest.numbers == points.numel()


def test_glister_picks_what_lowers_the_loss_of_others_most():
    """By autograd: the gradient of the last layer on each image, and on the others' mean loss at the weights so far."""
    rng = generator(4)
    features, others = (torch.randn(n, 5, generator=rng, dtype=torch.float64) for n in (12, 9))
    weight, labels = torch.randn(3, 6, generator=rng, dtype=torch.float64), torch.arange(12) % 3

    def extended(points):
        return torch.cat([points, torch.ones(len(points), 1, dtype=torch.float64)], 1)

    def gradient(at, points, targets):
        at = at.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(extended(points) @ at.T, targets)
        return torch.autograd.grad(loss, at)[0]

    own = [gradient(weight, features[i : i + 1], labels[i : i + 1]) for i in range(12)]
    at, picked = weight, []
    for _ in range(6):
        whole = gradient(at, others, torch.arange(9) % 3)
        gains = [-math.inf if i in picked else float((whole * own[i]).sum()) for i in range(12)]
        picked.append(gains.index(max(gains)))
        at = at - 0.5 * own[picked[-1]]
    errors = torch.softmax(extended(features) @ weight.T, 1) - torch.nn.functional.one_hot(labels, 3)
    known = Others(others, extended(others) @ weight.T, torch.arange(9) % 3)
    order, after = glister_order(features, errors, known, 6, lr=0.5)
    assert order.tolist() == picked
    torch.testing.assert_close(after.logits, extended(others) @ at.T)
