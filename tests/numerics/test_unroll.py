from itertools import count
from types import SimpleNamespace

import pytest
import torch

from raydd.models.zoo import build
from raydd.numerics.augment import OPERATIONS, augment
from raydd.numerics.distances import normalized_mse
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator
from raydd.numerics.unroll import Batch, saved_bytes, unroll

MODES = ["full", "adjoint", "truncated"]


def along_the_way(path, segment):
    """A distance that reads points on the way, too: sum over n of w_n |theta_n - target|^2."""
    weights = {0: 0.3, 1: 0.5, len(path) // 2: 0.7, len(path) - 2: 1.1, len(path) - 1: 2.0}
    return sum(weight * (path[n] - segment.target).square().sum() for n, weight in weights.items())


DISTANCES = [normalized_mse, along_the_way]


class Problem:
    """A ConvNet with instance norm; batches of 5 of 12 images, each under its own DSA view."""

    def __init__(self, device, steps, size=8, network="ConvNetW8"):
        self.model = FlatModel(lambda: build(network, channels=3, size=size, classes=4))
        rng = generator(0, "problem")
        start, target = (self.model.init(rng).to(device, torch.float64) for _ in range(2))
        self.segment = SimpleNamespace(start=start, target=target)
        images = torch.randn(12, 3, size, size, generator=rng, dtype=torch.float64)
        labels = torch.randn(12, 4, generator=rng, dtype=torch.float64)
        lr = torch.tensor(0.05, dtype=torch.float64)
        self.leaves = {"images": images, "labels": labels, "lr": lr, "theta": start}
        self.leaves = {name: leaf.to(device).clone().requires_grad_() for name, leaf in self.leaves.items()}
        self.rows = [torch.randperm(12, generator=rng)[:5] for _ in range(steps)]
        rng = generator(0, "views")
        self.views = [augment("dsa").draw((5, 3, size, size), rng) for _ in range(steps)]

    def inner(self, theta, x, y):
        return cross_entropy(self.model(theta, x), y.softmax(dim=1))

    def batches(self):
        x, y = self.leaves["images"], self.leaves["labels"]
        return [Batch(x[rows], y[rows], view) for rows, view in zip(self.rows, self.views, strict=True)]

    def gradients(self, mode, distance, memory=None):
        path = unroll(self.inner, self.leaves["theta"], self.batches(), self.leaves["lr"], mode, memory=memory)
        return torch.autograd.grad(distance(path, self.segment), list(self.leaves.values()))

    def naive(self, distance, truncated):
        """SGD as one writes it; truncated: each step's gradient is taken at a constant theta."""
        point, lr = self.leaves["theta"], self.leaves["lr"]
        path = [point]
        for rows, view in zip(self.rows, self.views, strict=True):
            at = point.detach().requires_grad_() if truncated else point
            loss = self.inner(at, view(self.leaves["images"][rows]), self.leaves["labels"][rows])
            point = point - lr * torch.autograd.grad(loss, at, create_graph=True)[0]
            path.append(point)
        return torch.autograd.grad(distance(path, self.segment), list(self.leaves.values()))


def gap(ours, theirs):
    """The largest relative error over several gradients."""
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("size", [8, 16])
def test_adjoint_and_truncated_equal_their_definitions_over_20_steps(distance, size, device):
    problem = Problem(device, steps=20, size=size)
    assert {name for view in problem.views for name, _ in view.steps} == set(OPERATIONS)
    assert len({tuple(rows.tolist()) for rows in problem.rows}) == 20
    full, exact = problem.gradients("full", distance), problem.naive(distance, truncated=False)
    cut = problem.naive(distance, truncated=True)
    assert gap(full, exact) < 1e-10
    assert gap(problem.gradients("adjoint", distance), full) < 1e-10
    assert gap(problem.gradients("truncated", distance), cut) < 1e-10
    assert all(gap([a], [b]) > 1e-3 for a, b in zip(cut, exact, strict=True))


def test_adjoint_equals_full_under_batch_norm(device):
    problem = Problem(device, steps=4, network="ConvNetW8BN")
    full = problem.gradients("full", along_the_way)
    assert gap(problem.gradients("adjoint", along_the_way), full) < 1e-10


def mlp(theta, x, y):
    """A network of 3 inputs, 4 hidden units and 2 classes."""
    hidden = torch.tanh(x @ theta[:12].view(3, 4) + theta[12:16])
    return cross_entropy(hidden @ theta[16:24].view(4, 2) + theta[24:26], y)


def quadratic(theta, x, y):
    return ((x @ theta[:3] - y[:, 0]) ** 2).mean() + 0.1 * theta.square().sum()


@pytest.mark.parametrize("inner", [mlp, quadratic])
@pytest.mark.parametrize("mode", ["full", "adjoint"])
def test_finite_differences_agree(inner, mode, device):
    rng = generator(0, "gradcheck")
    shapes = [(26,), (5, 3), (5, 2), ()]
    leaves = [(0.5 * torch.randn(shape, generator=rng, dtype=torch.float64)).to(device) for shape in shapes]
    leaves[3] = torch.tensor(0.3, dtype=torch.float64, device=device)

    def path(theta, x, y, lr):
        parts = [slice(0, 3), slice(2, 5), slice(0, 5)]
        return unroll(inner, theta, [Batch(x[part], y[part], torch.tanh) for part in parts], lr, mode)

    assert torch.autograd.gradcheck(path, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wanted", ["images", "labels", "lr", "theta"])
def test_one_leaf_alone_gets_what_it_gets_among_all(mode, wanted, device):
    problem = Problem(device, steps=3)
    together = problem.gradients(mode, along_the_way)[list(problem.leaves).index(wanted)]
    for name, leaf in problem.leaves.items():
        leaf.requires_grad_(name == wanted)
    path = unroll(problem.inner, problem.leaves["theta"], problem.batches(), problem.leaves["lr"], mode)
    along_the_way(path, problem.segment).backward()
    assert gap([problem.leaves[wanted].grad], [together]) < 1e-12
    assert all(leaf.grad is None for name, leaf in problem.leaves.items() if name != wanted)


@pytest.mark.parametrize("mode", ["adjoint", "truncated"])
def test_images_shared_by_all_steps_sum_their_gradients(mode, device):
    problem = Problem(device, steps=4)
    problem.rows = [torch.arange(5)] * 4
    x, y, lr = problem.leaves["images"][:5], problem.leaves["labels"][:5], problem.leaves["lr"]
    batches = [Batch(x, y, view) for view in problem.views]
    path = unroll(problem.inner, problem.leaves["theta"], batches, lr, mode)
    ours = torch.autograd.grad(along_the_way(path, problem.segment), list(problem.leaves.values()))
    assert gap(ours, problem.naive(along_the_way, truncated=mode == "truncated")) < 1e-10


@pytest.mark.parametrize("mode", MODES)
def test_hard_labels_and_the_path_itself(mode, device):
    problem = Problem(device, steps=3)
    labels = torch.arange(12, device=device) % 4
    x, lr = problem.leaves["images"], problem.leaves["lr"]
    triples = list(zip(problem.rows, problem.views, strict=True))
    batches = [Batch(x[rows], labels[rows], view) for rows, view in triples]
    path = unroll(lambda t, x, y: cross_entropy(problem.model(t, x), y), problem.leaves["theta"], batches, lr, mode)
    assert isinstance(path, tuple)
    point = problem.segment.start
    assert torch.equal(path[0], point)
    for after, (rows, view) in zip(path[1:], triples, strict=True):
        at = point.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(problem.model(at, view(x.detach()[rows])), labels[rows])
        point = point - 0.05 * torch.autograd.grad(loss, at)[0]
        torch.testing.assert_close(after, point, rtol=1e-12, atol=1e-13)
    assert torch.autograd.grad(path[-1].sum(), x)[0].abs().max() > 0


@pytest.mark.rows("mode", MODES)
def test_views_are_the_identity_by_default_and_no_steps_stay_at_the_start(mode):
    x, y, lr = torch.ones(1, 3).double(), torch.ones(1, 2).double(), torch.tensor(0.1).double()
    theta = torch.ones(3, dtype=torch.float64, requires_grad=True)
    plain = unroll(quadratic, theta, [(x, y)], lr, mode)[-1]
    assert torch.equal(plain, unroll(quadratic, theta, [Batch(x, y, lambda x: x)], lr, mode)[-1])
    (only,) = unroll(quadratic, theta, [], lr, mode)
    assert torch.autograd.grad(only.sum(), theta)[0].tolist() == [1, 1, 1]


@pytest.mark.rows("mode", MODES)
def test_a_loss_linear_in_theta(mode):
    """Its second derivatives do not exist for autograd, and are zero."""
    theta, lr = torch.ones(3, dtype=torch.float64, requires_grad=True), torch.tensor(0.1, dtype=torch.float64)
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=mode == "full")
    end = unroll(lambda theta, x, y: (x.detach() @ theta).sum(), theta, [Batch(x, x)] * 2, lr.requires_grad_(), mode)[
        -1
    ]
    by_theta, by_lr = torch.autograd.grad(end.sum(), [theta, lr])
    assert by_theta.tolist() == [1, 1, 1]
    assert by_lr.item() == pytest.approx(-12, rel=1e-12)


@pytest.mark.parametrize("mode", ["adjoint", "truncated"])
def test_float32_stays_float32(mode, device):
    problem = Problem(device, steps=3)
    exact = problem.gradients(mode, normalized_mse)
    problem.segment = SimpleNamespace(**{name: value.float() for name, value in vars(problem.segment).items()})
    problem.leaves = {name: leaf.detach().float().requires_grad_() for name, leaf in problem.leaves.items()}
    ours = problem.gradients(mode, normalized_mse)
    assert {gradient.dtype for gradient in ours} == {torch.float32}
    assert gap([gradient.double() for gradient in ours], exact) < 1e-3


def test_an_unknown_mode_is_refused():
    theta = torch.ones(3)
    with pytest.raises(ValueError, match=r"^backprop 'half' is unknown; use full, adjoint or truncated$"):
        unroll(quadratic, theta, [], torch.tensor(0.1), "half")


def most_saved(steps, mode, memory=0):
    """The most bytes that autograd kept at one time, storages counted once; five views take turns."""
    problem, held, numbers, most = Problem("cpu", steps), {}, count(), 0
    problem.views = [problem.views[step % 5] for step in range(steps)]

    class Held:
        def __init__(self, tensor):
            self.number, self.tensor = next(numbers), tensor.detach()
            held[self.number] = self.tensor.untyped_storage()

        def __del__(self):
            held.pop(self.number)

    def pack(tensor):
        nonlocal most
        wrapped = Held(tensor)
        most = max(most, sum({storage.data_ptr(): storage.nbytes() for storage in held.values()}.values()))
        return wrapped

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda wrapped: wrapped.tensor):
        problem.gradients(mode, normalized_mse, memory)
    return most


def test_adjoint_keeps_the_path_and_the_batches_only():
    few, many = 5, 25
    theta = 8 * Problem("cpu", steps=0).model.size
    step = theta + 5 * 8 * (3 * 8 * 8 + 4) + 12 * 8  # and images, labels, the permutation they were drawn by
    saved = {mode: [most_saved(steps, mode) for steps in (few, many)] for mode in MODES}
    for mode in ("adjoint", "truncated"):
        assert (many - few) * theta <= saved[mode][1] - saved[mode][0] <= (many - few) * step
    assert saved["full"][1] - saved["full"][0] > 5 * (many - few) * step


@pytest.mark.parametrize("mode", ["adjoint", "truncated"])
def test_kept_graphs_take_the_memory_that_they_may_and_no_more(mode):
    nothing = most_saved(12, mode)
    with saved_bytes() as saved:
        problem = Problem("cpu", steps=1)
        problem.naive(normalized_mse, truncated=False)
    step = saved()
    grown = [most_saved(12, mode, share * step) - nothing for share in (2.5, 4.5, 6.5, 100)]
    assert grown == sorted(grown)
    for share, more in zip((2.5, 4.5, 6.5), grown, strict=False):
        assert 0.5 * (share - 1) * step <= more <= share * step


class Other(torch.nn.Module):
    """PyTorch's own layers: their gradients are rounded in another way where they can be differentiated."""

    def __init__(self):
        super().__init__()
        layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(4, 8), torch.nn.GELU(), torch.nn.BatchNorm2d(8)]
        self.body = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.LayerNorm(288), torch.nn.Linear(288, 4))

    def forward(self, x):
        return self.body(x)


NETWORKS = [lambda: build("ConvNetW8", channels=3, size=8, classes=4), Other]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("mode", ["adjoint", "truncated"])
def test_no_bit_depends_on_the_memory(mode, network):
    model = FlatModel(network)
    rng = generator(0, "images")
    theta = model.init(rng).requires_grad_()
    x, y = torch.randn(6, 3, 8, 8, generator=rng).requires_grad_(), torch.randn(6, 4, generator=rng).requires_grad_()
    lr = torch.tensor(0.1, requires_grad=True)
    views = [augment("dsa").draw(x.shape, rng) for _ in range(6)]
    calls = 0

    def inner(theta, x, y):
        nonlocal calls
        calls += 1
        return cross_entropy(model(theta, x), y.softmax(dim=1))

    def gradients(memory):
        nonlocal calls
        calls = 0
        path = unroll(inner, theta, [Batch(x, y, view) for view in views], lr, mode, memory=memory)
        found = torch.autograd.grad(path[-1].square().sum(), [theta, x, y, lr], retain_graph=True)
        first = calls
        again = torch.autograd.grad(path[-1].square().sum(), [theta, x, y, lr])  # nothing is left of the first sweep
        assert calls == first + 6
        return found, again, first

    with saved_bytes() as saved:
        unroll(inner, theta, [Batch(x, y, views[0])], lr, "full")
    nothing, some, everything = (gradients(memory) for memory in (0, 2.5 * saved(), None))
    assert nothing[2] == 12
    assert 6 < some[2] < 12
    assert everything[2] == 6
    for other in (nothing[1], some[0], some[1], everything[0], everything[1]):
        assert all(torch.equal(a, b) for a, b in zip(nothing[0], other, strict=True))


def test_shared_images_get_one_gradient_not_one_a_step():
    problem = Problem("cpu", steps=6)
    x, y, lr, theta = (problem.leaves[name] for name in ("images", "labels", "lr", "theta"))
    path = unroll(problem.inner, theta, [Batch(x, y)] * 6, lr, "adjoint")
    receivers = [function for function, _ in path[-1].grad_fn.next_functions if function is not None]
    assert [function.variable.shape for function in receivers] == [leaf.shape for leaf in (theta, lr, x, y)]
