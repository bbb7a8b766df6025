import pytest

from raydd.numerics.windows import fixed, growing


def test_fixed_never_moves():
    assert {fixed(2, 5.5)(step) for step in range(100)} == {(2, 5.5)}


@pytest.mark.rows(("low", "current", "high", "interval"), [(0, 3, 9, 7), (1, 1, 4, 1), (2, 5, 5, 10)])
def test_growing_gains_an_epoch_every_interval(low, current, high, interval):
    window, end = growing(low, current, high, interval), current
    for step in range(100):
        if step and step % interval == 0 and end < high:
            end += 1
        assert window(step) == (low, end)
    assert end == high


def test_growing_by_fractions_stops_at_the_end():
    window = growing(0, 0.5, 2, 10)
    assert [window(step)[1] for step in (0, 10, 20, 30)] == [0.5, 1.5, 2, 2]


def test_windows_remember_nothing():
    window = growing(0, 2, 9, 10)
    late = window(50)
    window(0)
    assert window(50) == late == (0, 7)


@pytest.mark.rows(("low", "current", "high"), [(3, 2, 9), (0, 5, 4), (2, 2, 1)])
def test_growing_refuses_ends_out_of_order(low, current, high):
    with pytest.raises(ValueError, match=f"^window {low}, {current}, {high}: .* must hold; set window.low"):
        growing(low, current, high, 10)


def test_growing_refuses_an_empty_interval():
    with pytest.raises(ValueError, match=r"^window.interval 0 must be at least 1 outer step$"):
        growing(0, 1, 2, 0)
