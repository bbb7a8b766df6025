import math

import pytest
import torch
from torch import nn

from raydd.numerics.flat import Slot, layout_of
from raydd.numerics.rng import generator
from raydd.numerics.statistics import BANDWIDTHS, Characteristic, cosine, covariances, gaussian, means, squared

LAYOUT = (
    Slot("conv", (2, 3, 2, 2), 0),
    Slot("conv.bias", (2,), 24),
    Slot("layernorm", (2, 3, 3), 26),
    Slot("linear", (3, 4), 44),
    Slot("linear.bias", (3,), 56),
)
SIZE = 59


def drawn(*shape, device="cpu"):
    return torch.randn(*shape, generator=generator(0, *shape), dtype=torch.float64).to(device)


def batches(device="cpu"):
    return drawn(5, 7, device=device), drawn(3, 7, device=device) + 0.5


def naive_means(real, syn):
    total = 0.0
    for feature in range(real.shape[1]):
        ours = sum(float(row[feature]) for row in syn) / len(syn)
        theirs = sum(float(row[feature]) for row in real) / len(real)
        total += (theirs - ours) ** 2
    return total


def test_means_is_the_squared_distance_of_mean_features(device):
    real, syn = batches(device)
    value = means(real, syn)
    assert value.item() == pytest.approx(naive_means(real, syn), rel=1e-12)
    assert (value.shape, value.dtype, value.device.type) == ((), torch.float64, device.type)
    assert means(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]])).item() == 5.0  # 1 + 4


def test_means_slopes_by_two_gaps_over_the_batch():
    real, syn = batches()
    syn.requires_grad_()
    (gradient,) = torch.autograd.grad(means(real, syn), syn)
    gap = syn.detach().mean(0) - real.mean(0)
    for row in gradient:
        assert row.tolist() == pytest.approx([2 * float(value) / 3 for value in gap], rel=1e-12)


def naive_cosine(real, syn):
    total = 0.0
    for slot in LAYOUT:
        if len(slot.shape) == 1:
            continue
        width = slot.numel // slot.shape[0]
        for row in range(slot.shape[0]):
            at = slot.offset + row * width
            a = [float(value) for value in real[at : at + width]]
            b = [float(value) for value in syn[at : at + width]]
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
            total += 1 - dot / (norms + 1e-6)
    return total


def test_cosine_sums_one_minus_the_cosine_of_every_row_of_weights(device):
    real, syn = drawn(SIZE, device=device), drawn(SIZE, 1, device=device)[:, 0]
    value = cosine(real, syn, LAYOUT)
    assert value.item() == pytest.approx(naive_cosine(real, syn), rel=1e-12)
    assert (value.shape, value.dtype, value.device.type) == ((), torch.float64, device.type)


def test_cosine_by_hand():
    layout = (Slot("weight", (3, 2), 0),)
    real = torch.tensor([1.0, 0.0, 3.0, 4.0, 0.0, 2.0], dtype=torch.float64)
    syn = torch.tensor([0.0, 5.0, 6.0, 8.0, 0.0, -1.0], dtype=torch.float64)  # a right angle, the same, opposite
    assert cosine(real, syn, layout).item() == pytest.approx(1 + 0 + 2, abs=1e-5)


def test_cosine_leaves_tensors_of_one_axis_out():
    real, syn = drawn(SIZE), drawn(SIZE, 1)[:, 0].requires_grad_()
    other = real.clone()
    other[24:26], other[56:] = 9.0, -9.0
    assert torch.equal(cosine(real, syn, LAYOUT), cosine(other, syn, LAYOUT))
    (gradient,) = torch.autograd.grad(cosine(real, syn, LAYOUT), syn)
    counted = [place for place in range(SIZE) if not 24 <= place < 26 and place < 56]
    assert torch.nonzero(gradient)[:, 0].tolist() == counted
    biases = (Slot("bias", (4,), 0),)
    nothing = cosine(torch.ones(4), torch.zeros(4, requires_grad=True), biases)
    assert nothing.item() == 0.0
    assert nothing.requires_grad


def test_cosine_slopes_as_small_steps_do():
    real, syn = drawn(SIZE), drawn(SIZE, 1)[:, 0].requires_grad_()
    assert torch.autograd.gradcheck(lambda at: cosine(real, at, LAYOUT), syn)


def test_cosine_reads_the_layout_of_a_network():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.LayerNorm((3, 4, 4)), nn.Flatten(), nn.Linear(48, 5))
    layout = layout_of(dict(network.named_parameters()))
    gradient = torch.randn(sum(slot.numel for slot in layout), generator=generator(3), dtype=torch.float64)
    assert cosine(gradient, -gradient, layout).item() == pytest.approx(2 * (3 + 3 + 3 + 5), rel=1e-5)


def naive_gaussian(real, syn, factors=BANDWIDTHS):
    points = [[float(value) for value in row] for row in (*real, *syn)]
    gaps = [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in points] for x in points]
    mean = sum(map(sum, gaps)) / (len(points) * (len(points) - 1))

    def expected(rows, columns):
        kernels = [sum(math.exp(-gaps[i][j] / (m * mean)) for m in factors) for i in rows for j in columns]
        return sum(kernels) / len(kernels)

    ours, theirs = range(len(real), len(points)), range(len(real))
    return expected(theirs, theirs) + expected(ours, ours) - 2 * expected(theirs, ours)


def test_gaussian_is_the_mean_discrepancy_under_the_sum_of_kernels(device):
    real, syn = batches(device)
    value = gaussian(real, syn)
    assert value.item() == pytest.approx(naive_gaussian(real, syn), rel=1e-11)
    assert gaussian(real, syn, (0.7,)).item() == pytest.approx(naive_gaussian(real, syn, (0.7,)), rel=1e-11)
    assert (value.shape, value.dtype, value.device.type) == ((), torch.float64, device.type)


def test_gaussian_by_hand():
    """One real and one synthetic point: every pair but those with itself is at the mean distance."""
    real, syn = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    expected = sum(2 - 2 * math.exp(-1 / factor) for factor in (0.25, 0.5, 1, 2, 4))
    assert gaussian(real, syn).item() == pytest.approx(expected, rel=1e-12)


def test_gaussian_sees_what_the_mean_does_not():
    real = torch.tensor([[-2.0], [2.0]], dtype=torch.float64)
    syn = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    assert means(real, syn).item() == 0.0
    assert gaussian(real, syn).item() > 0.1


def test_gaussian_does_not_move_with_both_and_survives_far_offsets():
    real, syn = (batch.float() for batch in batches())
    near = gaussian(real, syn).item()
    assert gaussian(real + 1000, syn + 1000).item() == pytest.approx(near, rel=1e-2)
    assert near == pytest.approx(naive_gaussian(real, syn), rel=1e-4)


def test_gaussian_slopes_with_its_bandwidth_held():
    real, syn = batches()
    syn.requires_grad_()
    (gradient,) = torch.autograd.grad(gaussian(real, syn), syn)
    points = torch.cat([real, syn.detach()])
    held = torch.cdist(points, points).square().sum() / (8 * 7)

    def kernel(x, y):
        return sum(torch.exp(-(x[:, None] - y[None]).square().sum(2) / (m * held)) for m in BANDWIDTHS).mean()

    def discrepancy(at):
        return kernel(real, real) + kernel(at, at) - 2 * kernel(real, at)

    expected = torch.autograd.functional.jacobian(discrepancy, syn.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


ROWS = (Slot("weight", (3, 4), 0),)
DISTANCES = {
    "means": means,
    "gaussian": gaussian,
    "covariances": covariances,
    "characteristic": Characteristic(16).draw(4, generator(0)),
    "cosine": lambda a, b: cosine(a.flatten(), b.flatten(), ROWS),
    "squared": lambda a, b: squared(a.flatten(), b.flatten(), ROWS),
}


@pytest.mark.rows("name", DISTANCES)
@pytest.mark.rows("value", [0.0, 1.0])
def test_gradients_are_finite_where_nothing_differs(name, value):
    real, syn = torch.full((3, 4), value), torch.full((3, 4), value, requires_grad=True)
    loss = DISTANCES[name](real, syn)
    (gradient,) = torch.autograd.grad(loss, syn)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_equal_sets_are_at_no_distance():
    real, _ = batches()
    flat = drawn(SIZE)
    assert means(real, real.flip(0)).item() == pytest.approx(0, abs=1e-30)
    assert gaussian(real, real.flip(0)).item() == pytest.approx(0, abs=1e-14)
    assert cosine(flat, 3 * flat, LAYOUT).item() == pytest.approx(0, abs=1e-5)


def naive_covariance(points):
    """The covariance of features by loops, a mean over the images."""
    count, width = points.shape
    mean = [sum(float(row[f]) for row in points) / count for f in range(width)]
    return [
        [sum((float(row[f]) - mean[f]) * (float(row[g]) - mean[g]) for row in points) / count for g in range(width)]
        for f in range(width)
    ]


def test_covariances_add_the_squared_difference_of_two_covariances():
    real, syn = batches()
    ours, theirs = naive_covariance(syn), naive_covariance(real)
    gap = sum((a - b) ** 2 for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True))
    expected = naive_means(real, syn) + 50 * gap / real.shape[1]
    assert covariances(real, syn).item() == pytest.approx(expected, rel=1e-12)
    assert covariances(real, syn[:1]).item() == pytest.approx(
        naive_means(real, syn[:1]) + 50 * sum(a**2 for row in theirs for a in row) / real.shape[1], rel=1e-12
    )


def test_squared_counts_the_weights_of_convolutions_alone():
    real, syn = drawn(SIZE), drawn(SIZE) * 0.5
    assert squared(real, syn, LAYOUT).item() == pytest.approx((real[:24] - syn[:24]).square().sum().item(), rel=1e-12)
    flat = (Slot("linear", (3, 4), 0), Slot("bias", (3,), 12))
    real, syn = drawn(15), drawn(15) + 1
    assert squared(real, syn, flat).item() == pytest.approx((real[:12] - syn[:12]).square().sum().item(), rel=1e-12)


def test_characteristic_is_the_distance_of_two_complex_means():
    """The oracle: complex numbers, a frequency at a time; amplitude and phase weigh the same."""
    (real, syn), distance = batches(), Characteristic(frequencies=11)
    frequencies = torch.randn(7, 11, generator=generator(5))
    total = 0.0
    for t in range(11):
        wave = frequencies[:, t].double()
        theirs = sum(complex(math.cos(row @ wave), math.sin(row @ wave)) for row in real) / len(real)
        ours = sum(complex(math.cos(row @ wave), math.sin(row @ wave)) for row in syn) / len(syn)
        amplitudes = (abs(theirs) - abs(ours)) ** 2
        phases = abs(theirs - ours) ** 2 - amplitudes  # 2 (|a| |b| - Re a conj b)
        total += math.sqrt(0.5 * amplitudes + 0.5 * phases)
    assert distance(real, syn, frequencies).item() == pytest.approx(300 * total / 11, rel=1e-8)
    drawn_distance = distance.draw(7, generator(5))
    assert drawn_distance(real, syn).item() == pytest.approx(300 * total / 11, rel=1e-8)


def test_characteristic_is_nothing_between_equal_sets():
    real, _ = batches()
    assert Characteristic(8).draw(7, generator(0))(real, real.flip(0)).item() < 300 * 2e-6
