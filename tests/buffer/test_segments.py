import math
from collections import Counter

import numpy as np
import pytest
import torch

from raydd.buffer.expert_file import step_norms
from raydd.buffer.segments import InMemory, check_window
from raydd.numerics.flat import layout_of
from raydd.numerics.rng import generator


def paths(experts=3, snapshots=6, parameters=4):
    """theta[e][t] = 100 e + t everywhere, so that a value tells where it came from."""
    return [torch.arange(snapshots)[:, None].double().expand(-1, parameters) + 100 * e for e in range(experts)]


def test_segment_is_the_experts_snapshots():
    source = InMemory(paths())
    assert (source.epochs, source.parameters) == (5, 4)
    for i in range(30):
        s = source.segment((1, 3), 2, generator(0, i), between=True)
        base = 100.0 * s.expert + s.epoch
        assert s.start.tolist() == [base] * 4
        assert s.target.tolist() == [base + 2] * 4
        assert s.between.tolist() == [[base + 1] * 4]
        assert s.start.dtype == torch.float64


def test_draws_are_uniform_over_experts_and_the_closed_window():
    source, rng = InMemory(paths()), generator(7)
    draws = 6000
    counts = Counter((s.expert, s.epoch) for s in (source.segment((1, 4), 1, rng) for _ in range(draws)))
    assert set(counts) == {(e, float(t)) for e in range(3) for t in range(1, 5)}
    expected = draws / 12
    chi_square = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi_square < 31.3  # 0.999 quantile with 11 degrees of freedom


def test_fractional_window_holds_only_its_integers():
    source, rng = InMemory(paths()), generator(7)
    assert {source.segment((0.5, 3.9), 1, rng).epoch for _ in range(200)} == {1.0, 2.0, 3.0}


def test_same_generator_same_segment():
    source = InMemory(paths())
    a, b = (source.segment((0, 4), 1, generator(3)) for _ in range(2))
    assert (a.expert, a.epoch) == (b.expert, b.epoch)
    assert torch.equal(a.start, b.start)
    assert len({(s.expert, s.epoch) for s in (source.segment((0, 4), 1, generator(i)) for i in range(20))}) > 1


def test_between_is_only_given_when_asked_and_can_be_empty():
    source = InMemory(paths())
    assert source.segment((0, 0), 3, generator(0)).between is None
    assert source.segment((0, 0), 1, generator(0), between=True).between.shape == (0, 4)
    assert source.segment((0, 0), 5, generator(0), between=True).between.shape == (4, 4)


def test_segments_are_copies():
    trajectories = [path.clone() for path in paths()]
    source = InMemory(trajectories)
    before = [path.clone() for path in trajectories]
    for tensor in source.segment((0, 0), 3, generator(0), between=True)[:2]:
        tensor.add_(1)
    source.segment((0, 0), 3, generator(0), between=True).between.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(before, trajectories, strict=True))


@pytest.mark.parametrize(
    ("window", "span", "named"),
    [
        ((0, 4), 2, ["(0, 4)", "span of 2", "but they have 5", "at 3 or earlier"]),
        ((-1, 2), 2, ["(-1, 2)", "0 <= low"]),
        ((3, 2), 2, ["(3, 2)"]),
        ((1.2, 1.8), 2, ["(1.2, 1.8)"]),
        ((math.nan, 2), 2, ["nan"]),
        ((0, 0), 9, ["span of 9", "at most 5"]),
        ((0, 2), 0, ["span of 0"]),
    ],
)
def test_bad_windows_are_refused_in_one_line(window, span, named):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        InMemory(paths()).segment(window, span, generator(0))
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in named)


def test_the_longest_window_is_allowed():
    check_window((0, 3), 2, 5)
    assert InMemory(paths()).segment((3, 3), 2, generator(0)).epoch == 3


def test_a_window_between_two_epochs_holds_reals_but_no_whole_one():
    check_window((1.2, 1.8), 2, 5, whole=False)
    for window in ((1.8, 1.2), (-0.1, 1), (1, 3.5), (math.nan, 2)):
        with pytest.raises(ValueError, match="window"):
            check_window(window, 2, 5, whole=False)


def test_snapshots_and_norms_of_memory():
    trajectories = [path.clone() for path in paths()]
    trajectories[1][3, 0] += 3  # the first number goes 4 and then 2 back, the others 1 on
    source = InMemory(trajectories, layout_of({"a": torch.zeros(1), "b": torch.zeros(1, 3)}))
    assert ([*source.experts], source.kept) == ([0, 1, 2], None)
    assert source.snapshot(2, 4).tolist() == [204] * 4
    source.snapshot(2, 4).zero_()
    assert source.snapshot(2, 4).tolist() == [204] * 4
    third = math.sqrt(3)
    expected = torch.tensor([[0, 0], [1, third], [1, third], [4, third], [2, third], [1, third]], dtype=torch.float64)
    torch.testing.assert_close(source.norms(1), expected)
    assert source.norms(1)[3, 0] == 4


def test_without_a_layout_theta_is_one_tensor():
    source = InMemory(paths())
    assert source.layout == layout_of({"theta": torch.zeros(4)})
    assert source.norms(0).tolist() == [[0.0]] + [[2.0]] * 5
    with pytest.raises(ValueError, match="layout has 3 parameters but the trajectories 4"):
        InMemory(paths(), layout_of({"a": torch.zeros(3)}))


@pytest.mark.parametrize("bad", [[], [torch.zeros(3)], [torch.zeros(3, 2), torch.zeros(3, 4)], [torch.zeros(0, 4)]])
def test_trajectories_of_odd_shapes_are_refused(bad):
    with pytest.raises(ValueError, match="trajectories have shapes"):
        InMemory(bad)


def test_step_norms_against_a_loop():
    layout = layout_of({"a": torch.zeros(2, 3), "b": torch.zeros(1), "c": torch.zeros(4)})
    theta = torch.randn(5, 11, generator=generator(1)).numpy()
    found = step_norms(theta, layout)
    assert found.shape == (5, 3)
    assert found[0].tolist() == [0, 0, 0]
    for t in range(1, 5):
        for k, slot in enumerate(layout):
            inside = range(slot.offset, slot.offset + slot.numel)
            total = sum((float(theta[t, i]) - float(theta[t - 1, i])) ** 2 for i in inside)
            np.testing.assert_allclose(found[t, k], math.sqrt(total), rtol=1e-13)
