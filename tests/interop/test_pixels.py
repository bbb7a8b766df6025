import pytest
import torch

from raydd.data.datasets import DATASETS
from raydd.data.preprocessing import Transform
from raydd.interop.pixels import as_bytes, to_bytes, to_pixels


def normalise(mean, std):
    arrays = {"mean": torch.tensor(mean, dtype=torch.float64), "std": torch.tensor(std, dtype=torch.float64)}
    return Transform("normalise", arrays)


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "svhn", "cifar10", "tiny_imagenet"])
def test_every_number_in_0_to_1_comes_back(name):
    row = DATASETS[name]
    transform = normalise(row.mean, row.std)
    rng = torch.Generator().manual_seed(0)
    even = torch.rand(20_000, generator=rng)
    tiny = 10 ** (-8 * torch.rand(5_000, generator=rng))
    numbers = torch.cat([even, tiny, torch.arange(256) / 255, torch.tensor([0.0, 1.0])])
    pixels = numbers[:, None, None, None].expand(-1, row.channels, 1, 1).contiguous()
    images = transform(pixels)
    found, notes = to_pixels(transform, images)
    assert notes == []
    assert torch.equal(transform(found), images)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_bytes_come_back_as_themselves():
    transform = normalise((0.3053,), (0.376,))
    pixels = (torch.arange(256) / 255).view(-1, 1, 1, 1)
    assert torch.equal(to_pixels(transform, transform(pixels))[0], pixels)


def test_what_no_pixel_leads_to_gets_the_nearest_and_a_note():
    transform = normalise((0.5,), (0.25,))
    images = torch.nextafter(torch.tensor(1e-3), torch.tensor(1.0)).view(1, 1, 1, 1)  # finer than float32 near 0.5
    found, notes = to_pixels(transform, images)
    error = float((transform(found) - images).abs())
    others = [torch.nextafter(found, torch.tensor(side)) for side in (0.0, 1.0)]
    assert 0 < error <= min(float((transform(other) - images).abs()) for other in others)
    assert notes == [f"as float32 pixels, 1 of 1 numbers change, by {error:.3g} at most"]


def test_bytes_are_clamped_and_rounded_and_the_loss_is_said():
    transform = Transform("raw01")
    images = torch.tensor([-0.5, 0.2, 0.2004, 1.5]).view(4, 1, 1, 1)
    found, notes = to_bytes(transform, images)
    assert found.flatten().tolist() == [0, 51, 51, 255]
    assert notes == ["as 8-bit pixels, 3 of 4 numbers change, by 0.5 at most"]
    assert as_bytes(torch.tensor(0.0)).dtype == torch.uint8
