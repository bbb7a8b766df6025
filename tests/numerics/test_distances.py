import math
from decimal import Decimal
from types import SimpleNamespace

import pytest
import torch

from raydd.numerics.distances import (
    METRICS,
    along,
    at_end,
    difference,
    matched_parameters,
    normalized,
    normalized_mse,
    pruned,
)
from raydd.numerics.rng import generator


def vectors(count, device):
    return torch.randn(count, 7, generator=generator(0), dtype=torch.float64).to(device)


def test_normalized_mse_is_equation_2(device):
    start, target, middle, end = vectors(4, device)
    path = (start, middle, end)
    value = normalized_mse(path, SimpleNamespace(start=start, target=target))
    above = sum((float(end[i]) - float(target[i])) ** 2 for i in range(7))
    below = sum((float(start[i]) - float(target[i])) ** 2 for i in range(7))
    assert value.item() == pytest.approx(above / below, rel=1e-12)
    assert (value.shape, value.dtype, value.device.type) == ((), torch.float64, device.type)


def test_gradient_is_twice_the_gap_over_the_experts_way(device):
    start, target, end = vectors(3, device)
    end.requires_grad_()
    (gradient,) = torch.autograd.grad(normalized_mse((end,), SimpleNamespace(start=start, target=target)), end)
    below = sum((float(start[i]) - float(target[i])) ** 2 for i in range(7))
    expected = [2 * (end[i].item() - target[i].item()) / below for i in range(7)]
    assert gradient.tolist() == pytest.approx(expected, rel=1e-12)


def test_one_at_the_start_and_zero_at_the_target():
    start, target = vectors(2, "cpu")
    ends = SimpleNamespace(start=start, target=target)
    assert normalized_mse((start,), ends).item() == 1
    assert normalized_mse((start, target), ends).item() == 0


@pytest.mark.rows(("end", "value"), [(2.0, math.inf), (1.0, math.nan)])
def test_where_the_expert_stands_still_no_number_is_given(end, value):
    point = torch.ones(3)
    found = normalized_mse((torch.full((3,), end),), SimpleNamespace(start=point, target=point))
    assert found.item() == pytest.approx(value, nan_ok=True)


def test_normalized_at_the_end_is_normalized_mse(device):
    start, target, middle, end = vectors(4, device)
    ends = SimpleNamespace(start=start, target=target)
    assert torch.equal(at_end(normalized)((start, middle, end), ends), normalized_mse((start, middle, end), ends))


def naive_kept(student, target, count, metric):
    """Sort in descending order of difference, the higher index first, and drop what comes first."""
    gaps = []
    for s, t in zip(student.tolist(), target.tolist(), strict=True):
        gap = {"abs": abs(s - t), "squared": (s - t) ** 2}.get(metric)
        if gap is None:
            gap = abs(s - t) / abs(t) if t else math.inf if s else 0.0
        gaps.append(gap)
    worst = sorted(range(len(gaps)), key=lambda place: (gaps[place], place), reverse=True)[:count]
    return [place for place in range(len(gaps)) if place not in worst]


def test_differences_by_hand():
    s, t = torch.tensor([1.0, -3.0, 0.0, 2.0, 2.5]), torch.tensor([2.0, 1.0, 0.0, 0.0, -2.0])
    assert difference(s, t, "abs").tolist() == [1, 4, 0, 2, 4.5]
    assert difference(s, t, "squared").tolist() == [1, 16, 0, 4, 20.25]
    assert difference(s, t, "relative").tolist() == [0.5, 4, 0, math.inf, 2.25]


@pytest.mark.parametrize(
    ("metric", "rate", "expected"),
    [
        ("abs", 0.2, [0, 1, 2, 3]),
        ("abs", 0.4, [0, 2, 3]),
        ("abs", 0.6, [0, 2]),
        ("squared", 0.4, [0, 2, 3]),
        ("relative", 0.2, [0, 1, 2, 4]),
        ("relative", 0.4, [0, 2, 4]),
        ("abs", 0.19, [0, 1, 2, 3, 4]),
    ],
)
def test_the_kept_parameters_by_hand(metric, rate, expected, device):
    """Differences abs 1, 4, 0, 2, 4.5 and relative 0.5, 4, 0, infinite, 2.25: floor(5 rate) of them go."""
    s = torch.tensor([1.0, -3.0, 0.0, 2.0, 2.5], device=device)
    t = torch.tensor([2.0, 1.0, 0.0, 0.0, -2.0], device=device)
    rows = matched_parameters(s, t, rate, metric)
    assert rows.tolist() == expected
    assert (rows.dtype, rows.device.type) == (torch.int64, device.type)


@pytest.mark.parametrize("metric", METRICS)
def test_the_kept_parameters_are_those_of_a_sort(metric, device):
    student, target = torch.randn(2, 101, generator=generator(5), dtype=torch.float64).to(device)
    target[:40] = student[:40].round(decimals=0)  # some equal differences and some zero targets
    student[90:] = target[90:] = 0.0
    for count in (0, 1, 37, 60, 100):
        rows = matched_parameters(student, target, count / 101 + 1e-9, metric)
        assert rows.tolist() == naive_kept(student, target, count, metric)


@pytest.mark.rows("metric", METRICS)
def test_of_equal_differences_the_lower_index_is_kept(metric):
    student, target = torch.full((50,), 3.0), torch.ones(50)
    assert matched_parameters(student, target, 0.5, metric).tolist() == list(range(25))


@pytest.mark.rows("rate", ["0.05", "0.075", "0.1", "0.125", "0.15", "0.29", "0.3", "0.57", "0.7", "1e-05"])
def test_the_number_pruned_is_the_floor_of_the_decimal(rate):
    for parameters in (1, 7, 10, 100, 1000, 100_000):
        count = int(Decimal(rate) * parameters)
        zeros = torch.zeros(parameters)
        assert len(matched_parameters(zeros, zeros, float(rate), "abs")) == parameters - count


def test_a_student_that_is_no_number_is_not_pruned_away():
    student, target = torch.tensor([0.0, math.nan, 1.0, 2.0]), torch.zeros(4)
    assert matched_parameters(student, target, 0.5, "abs").tolist() == [0, 1]
    assert pruned(0.5)(student, torch.ones(4), target).isnan()


def test_no_rate_prunes_nothing():
    assert pruned(0.0) is normalized
    start, target, end = vectors(3, "cpu")
    assert torch.equal(pruned(0.1)(end, start, target), normalized(end, start, target))  # floor(0.7) = 0


@pytest.mark.parametrize("metric", METRICS)
def test_the_pruned_distance_and_its_gradient_are_of_the_kept_parameters(metric, device):
    start, target, end = torch.randn(3, 20, generator=generator(6), dtype=torch.float64).to(device)
    end.requires_grad_()
    value = pruned(0.3, metric)(end, start, target)
    rows = naive_kept(end.detach(), target, 6, metric)
    naive = sum((end[i] - target[i]) ** 2 for i in rows) / sum((start[i] - target[i]) ** 2 for i in rows)
    assert value.item() == pytest.approx(naive.item(), rel=1e-12)
    (ours,), (theirs,) = torch.autograd.grad(value, end), torch.autograd.grad(naive, end)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    assert [i for i in range(20) if ours[i] == 0] == [i for i in range(20) if i not in rows]


def test_pruning_takes_any_closeness():
    seen = []
    closeness = pruned(0.5, "abs", lambda *vectors: seen.append([v.tolist() for v in vectors]) or vectors[0].sum())
    student, start, target = torch.tensor([9.0, 1.0]), torch.tensor([5.0, 6.0]), torch.tensor([0.0, 2.0])
    assert closeness(student, start, target).item() == 1
    assert seen == [[[1.0], [6.0], [2.0]]]


@pytest.mark.rows("rate", [1.0, -0.1, math.nan])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match=rf"^pruning.rate {rate} must be at least 0 and less than 1$"):
        pruned(rate)(*torch.zeros(3, 4))


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match=r"^pruning.metric 'l2' is unknown; use abs, squared, relative$"):
        difference(*torch.zeros(2, 4), "l2")
    with pytest.raises(ValueError, match=r"^intermediate 'none' is unknown; use equal, varied$"):
        along(normalized, "none")


def naive_along(path, segment, beta, rate_count=0):
    """Algorithm 2: at n = floor(k N / M) add beta_k times Eq. 22; at n = N, Eq. 5."""
    steps, span, total = len(path) - 1, len(segment.between) + 1, 0.0
    points = {k: segment.between[k - 1] for k in range(1, span)} | {span: segment.target}
    for n in range(steps + 1):
        for k, target in points.items():
            if n == math.floor(k * steps / span):
                rows = naive_kept(path[n].detach(), target, rate_count, "abs")
                above = sum((path[n][i] - target[i]) ** 2 for i in rows)
                below = sum((segment.start[i] - target[i]) ** 2 for i in rows)
                total = total + (1 if k == span else beta(k, span)) * above / below
    return total


@pytest.mark.parametrize(("steps", "span"), [(8, 4), (7, 3), (5, 2), (3, 1), (2, 3)])
@pytest.mark.parametrize(("weights", "beta"), [("equal", lambda k, m: 1), ("varied", lambda k, m: k / m)])
@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (0.3, 3)])
def test_along_is_algorithm_2(steps, span, weights, beta, rate, count, device):
    points = torch.randn(span + 1, 10, generator=generator(7), dtype=torch.float64).to(device)
    path = torch.randn(steps + 1, 10, generator=generator(8), dtype=torch.float64).to(device).requires_grad_()
    segment = SimpleNamespace(start=points[0], between=points[1:-1], target=points[-1])
    value = along(pruned(rate), weights)(tuple(path), segment)
    expected = naive_along(path, segment, beta, count)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    (ours,), (theirs,) = torch.autograd.grad(value, path), torch.autograd.grad(expected, path)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


def test_along_by_hand():
    """An expert at 0, 2, 4 and a student of five steps: theta_2 meets epoch 1, theta_5 epoch 2."""
    segment = SimpleNamespace(start=torch.zeros(1), between=torch.full((1, 1), 2.0), target=torch.full((1,), 4.0))
    path = tuple(torch.full((1,), value) for value in (0.0, 9.0, 1.0, 9.0, 9.0, 3.0))
    assert along(normalized, "equal")(path, segment).item() == 1 / 4 + 1 / 16
    assert along(normalized, "varied")(path, segment).item() == 0.5 / 4 + 1 / 16


def test_a_segment_without_its_inner_epochs_is_refused():
    segment = SimpleNamespace(start=torch.zeros(1), between=None, target=torch.ones(1))
    with pytest.raises(ValueError, match=r"^the segment came without its inner epochs; draw it with between=True$"):
        along(normalized, "equal")((torch.zeros(1),), segment)
