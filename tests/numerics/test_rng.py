import subprocess
import sys

import torch

from raydd.numerics.rng import generator


def draws(*arguments):
    return torch.rand(4, generator=generator(*arguments), dtype=torch.float64).tolist()


def test_equal_arguments_equal_draws_whatever_was_drawn_before():
    first = draws(0, "expert", 7)
    torch.manual_seed(99)
    draws(1)
    assert draws(0, "expert", 7) == first


def test_each_part_of_the_path_counts():
    paths = [(0,), (1,), (-1,), (0, "a"), (0, "a", 1), (0, "a", 2), (0, 1, "a"), (0, "a1"), (0, "a", "1"), (0, "b")]
    assert len({tuple(draws(*path)) for path in paths}) == len(paths)


def test_a_thousand_neighbours_differ():
    first = torch.tensor([draws(0, "outer", step, attempt)[0] for step in range(500) for attempt in range(2)])
    assert len(first.unique()) == 1000
    assert abs(first.mean() - 0.5) < 0.04
    assert abs(torch.corrcoef(torch.stack([first[:-1], first[1:]]))[0, 1]) < 0.12


def test_another_process_draws_the_same():
    """Python's own string hash differs from process to process; the seed must not."""
    code = (
        "import torch; from raydd.numerics.rng import generator; "
        "print(torch.rand(4, generator=generator(3, 'x', 1), dtype=torch.float64).tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == str(draws(3, "x", 1))


def test_the_global_generator_is_untouched_and_the_new_one_is_on_the_cpu():
    state = torch.get_rng_state()
    assert generator(0).device.type == "cpu"
    draws(0, "x")
    assert torch.equal(torch.get_rng_state(), state)
