"""Shards of a student step: their sums are what whole batches give."""

import pytest
import torch
from variants import first

from raydd.models.zoo import build
from raydd.numerics.augment import OPERATIONS, augment, identity, rows_of
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator
from raydd.numerics.shards import Shard, cut, summed
from raydd.numerics.unroll import Batch, Slopes, WholeBatches, unroll

SIZE, CLASSES, IMAGES = 8, 4, 7
MODEL = FlatModel(lambda: build("ConvNetW8", channels=3, size=SIZE, classes=CLASSES))


def inner(theta, x, y):
    return cross_entropy(MODEL(theta, x), y if y.ndim == 1 else y.softmax(dim=1))


class Sharded:
    """Student steps of which each is the sum of its shards."""

    def __init__(self, shards, loss=inner):
        self.shards = [Shard(loss, index, shards) for index in range(shards)]

    def gradient(self, step, theta, batch):
        return sum(shard.gradient(theta, batch) for shard in self.shards)

    def slopes(self, step, theta, batch, adjoint, second_order):
        return summed([shard.slopes(theta, batch, adjoint, second_order) for shard in self.shards])


def problem(device, soft=True, siamese=False):
    rng = generator(0, "problem")
    theta, target = (MODEL.init(rng).to(device, torch.float64) for _ in range(2))
    images = torch.randn(IMAGES, 3, SIZE, SIZE, generator=rng, dtype=torch.float64).to(device).requires_grad_()
    labels = torch.randn(IMAGES, CLASSES, generator=rng, dtype=torch.float64).to(device).requires_grad_()
    lr = torch.tensor(0.05, dtype=torch.float64, device=device, requires_grad=True)
    views = [augment("dsa", siamese=siamese, strategy=word).draw(images.shape, rng) for word in OPERATIONS]
    y = labels if soft else torch.arange(IMAGES, device=device) % CLASSES
    batches = [Batch(images, y, view) for view in views] + [Batch(images[:5], y[:5])]
    return theta, target, batches, lr, [images, lr, *([labels] if soft else [])]


def gradients(device, mode, steps, **options):
    theta, target, batches, lr, leaves = problem(device, **options)
    path = unroll(inner, theta, batches, lr, mode, steps)
    loss = (path[-1] - target).square().sum() + 0.3 * (path[3] - target).square().sum()
    return [loss, *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("mode", first(["adjoint", "truncated"], 1))
@pytest.mark.rows("shards", [1, 2, 3, 5, 6])
@pytest.mark.rows("options", [{}, {"soft": False}, {"siamese": True}])
def test_a_path_of_sharded_steps_has_the_gradients_of_whole_ones(mode, shards, options, device):
    whole = gradients(device, mode, None, **options)
    ours = gradients(device, mode, Sharded(shards), **options)
    for a, b in zip(ours, whole, strict=True):
        assert (a - b).norm() <= 1e-12 * b.norm()


def test_one_shard_is_the_whole_batch_to_the_bit():
    theta, _, batches, *_ = problem("cpu")
    adjoint = torch.linspace(-1, 1, len(theta), dtype=torch.float64)
    for batch in batches:
        one, whole = Shard(inner, 0, 1), WholeBatches(inner)
        assert torch.equal(one.gradient(theta, batch), whole.gradient(0, theta, batch))
        pairs = zip(one.slopes(theta, batch, adjoint, True), whole.slopes(0, theta, batch, adjoint, True), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_a_shard_reads_its_own_images_alone():
    theta, _, batches, *_ = problem("cpu")
    shard = Shard(inner, 1, 3)  # images 2 and 3 of 7
    spoiled = batches[0].x.detach().clone()
    spoiled[:2] = torch.nan
    spoiled[4:] = torch.nan
    expected = shard.gradient(theta, batches[0])
    assert torch.equal(shard.gradient(theta, batches[0]._replace(x=spoiled)), expected)
    assert shard.slopes(theta, batches[0], expected, False).x.shape == (2, 3, SIZE, SIZE)


def test_slopes_that_a_loss_does_not_have_stay_absent():
    def linear(theta, x, y):
        return (x.detach() @ theta).mean()

    theta, x = torch.ones(2, dtype=torch.float64), torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    slopes = Sharded(2, linear).slopes(0, theta, Batch(x, x), theta, True)
    assert slopes.value.item() == pytest.approx(5.0, rel=1e-15)
    assert slopes[1:] == (None, None, None)
    assert summed([Slopes(theta.sum(), theta)] * 3).theta.tolist() == [3, 3]


@pytest.mark.rows("count, shards", [(1, 1), (7, 3), (8, 4), (10, 10), (3, 7), (0, 2)])
def test_a_cut_covers_all_in_order_and_evenly(count, shards):
    parts = [list(range(count)[part]) for part in cut(count, shards)]
    assert [thing for part in parts for thing in part] == list(range(count))
    sizes = {len(part) for part in parts}
    assert len(parts) == shards
    assert max(sizes) - min(sizes) <= 1


def test_rows_of_a_view_change_images_as_the_whole_view_does():
    x = torch.randn(6, 3, SIZE, SIZE, generator=generator(0, "x"), dtype=torch.float64)
    for seed in range(12):
        view = augment("dsa_idc").draw(x.shape, generator(seed))
        assert torch.allclose(rows_of(view, slice(2, 5))(x[2:5]), view(x)[2:5], rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="a view of 3 images was applied to 6"):
        rows_of(view, slice(2, 5))(x)
    assert rows_of(identity, slice(2, 5)) is identity
