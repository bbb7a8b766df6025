import math

import pytest
import torch

from raydd.numerics.cutmix import cutmix
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator


def images(count=5, height=9, width=12, dtype=torch.float64):
    return torch.rand(count, 2, height, width, generator=generator(0, "images"), dtype=dtype)


def naive(x, y, rng):
    """The same draws, a pixel at a time."""
    kept = float(torch.rand((), generator=rng))
    order = torch.randperm(len(x), generator=rng).tolist()
    height, width = x.shape[2:]
    half_height, half_width = (math.floor(side * math.sqrt(1 - kept)) // 2 for side in (height, width))
    row, column = (int(torch.randint(side, (), generator=rng)) for side in (height, width))
    mixed, replaced = x.clone(), 0
    for i in range(height):
        for j in range(width):
            if -half_height <= i - row < half_height and -half_width <= j - column < half_width:
                replaced += 1
                for b in range(len(x)):
                    mixed[b, :, i, j] = x[order[b], :, i, j]
    return mixed, torch.stack([y[b] for b in order]), 1 - replaced / (height * width)


@pytest.mark.rows("soft", [False, True])
@pytest.mark.rows(("height", "width"), [(9, 12), (8, 8), (3, 5)])
def test_mixed_images_are_those_of_a_loop(height, width, soft):
    x = images(5, height, width)
    y = torch.rand(5, 3, generator=generator(1)) if soft else torch.tensor([0, 1, 2, 0, 1])
    before, shares = x.clone(), set()
    for seed in range(40):
        found, partners, share = cutmix(x, y, generator(seed))
        expected, labels, kept = naive(x, y, generator(seed))
        assert torch.equal(found, expected)
        assert torch.equal(partners, labels)
        assert share == pytest.approx(kept, abs=1e-12)
        shares.add(share)
    assert torch.equal(x, before)
    assert len(shares) > 1


def test_the_share_counts_the_pixels_that_stay():
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 32, 32)
    y = torch.arange(4)
    for seed in range(50):
        found, partners, share = cutmix(x, y, generator(seed))
        assert (found == x).double().mean((1, 2, 3))[partners != y].tolist() == pytest.approx(
            [share] * int((partners != y).sum())
        )
        assert bool((found[partners == y] == x[partners == y]).all())


def test_the_kept_share_is_spread_as_beta_1_1_with_boxes_cut_off_at_the_border():
    x, y = torch.zeros(1, 1, 64, 64), torch.zeros(1, dtype=torch.int64)
    shares = torch.tensor([cutmix(x, y, generator(seed))[2] for seed in range(3000)])
    # A side of length s = sqrt(1 - lambda) keeps s - s^2 / 4 of itself on average, the box the square of that:
    # E = int_0^1 (s - s^2 / 4)^2 2 s ds = 1/2 - 1/5 + 1/48 = 0.3208 of the image.
    assert float(shares.mean()) == pytest.approx(1 - 0.3208, abs=0.02)
    assert float(shares.min()) < 0.1
    assert float(shares.max()) == 1.0


def test_the_loss_of_hard_labels_is_that_of_their_mixed_probabilities():
    x, y = images(6, 8, 8), torch.tensor([0, 1, 2, 2, 1, 0])
    weight = torch.randn(128, 3, generator=generator(3), dtype=torch.float64)
    found, partners, share = cutmix(x, y, generator(4))
    logits = found.flatten(1) @ weight
    loss = share * cross_entropy(logits, y) + (1 - share) * cross_entropy(logits, partners)
    q = share * torch.nn.functional.one_hot(y, 3) + (1 - share) * torch.nn.functional.one_hot(partners, 3)
    assert 0 < share < 1
    assert not torch.equal(partners, y)
    assert float(loss) == pytest.approx(float(-(q * logits.log_softmax(1)).sum(1).mean()), rel=1e-12)


def test_draws_come_from_the_generator_alone():
    x, y, state = images(), torch.arange(5), torch.get_rng_state()
    first = cutmix(x, y, generator(7))
    torch.manual_seed(1)
    again = cutmix(x, y, generator(7))
    torch.set_rng_state(state)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[2] == again[2]
    assert len({cutmix(x, y, generator(seed))[2] for seed in range(10)}) > 5


def test_a_device_mixes_as_the_cpu_does(device):
    x, y = images(dtype=torch.float32), torch.arange(5)
    found, partners, share = cutmix(x.to(device), y.to(device), generator(1))
    expected, labels, kept = cutmix(x, y, generator(1))
    assert {found.device.type, partners.device.type} == {device.type}
    assert torch.equal(found.cpu(), expected)
    assert torch.equal(partners.cpu(), labels)
    assert share == kept
