"""The ConvNet family against the published architecture, written out by hand."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.models.convnet import ACTIVATIONS, NORMS, POOLINGS, ConvNet, natural_depth


def images(channels: int, size: int, count: int = 3) -> Tensor:
    return torch.randn(count, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def standardised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(dims, keepdim=True) + 1e-5).sqrt()


def grouped(x: Tensor) -> Tensor:
    quarter = x.shape[1] // 4
    return torch.cat([standardised(part, (1, 2, 3)) for part in x.split(quarter, dim=1)], dim=1)


def pairs(x: Tensor) -> Tensor:
    """The four pixels of each 2x2 square, (4, B, C, H / 2, W / 2); an odd last row or column is dropped."""
    side = x.shape[-1] // 2 * 2
    x = x[..., :side, :side]
    return torch.stack([x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)])


NAIVE_NORMS = {
    "none": lambda x: x,
    "batch": lambda x: standardised(x, (0, 2, 3)),
    "layer": lambda x: standardised(x, (1, 2, 3)),
    "instance": lambda x: standardised(x, (2, 3)),
    "group": grouped,
}
NAIVE_ACTIVATIONS = {
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "relu": lambda x: torch.where(x > 0, x, 0 * x),
    "leakyrelu": lambda x: torch.where(x > 0, x, 0.01 * x),
}
NAIVE_POOLINGS = {"none": lambda x: x, "max": lambda x: pairs(x).amax(0), "avg": lambda x: pairs(x).mean(0)}
FORMS = [(norm, "relu", "avg") for norm in NAIVE_NORMS]
FORMS += [("instance", "sigmoid", "max"), ("group", "leakyrelu", "none"), ("layer", "leakyrelu", "none")]


@pytest.mark.rows(("norm", "activation", "pooling"), FORMS)
@pytest.mark.rows("size", [8, 11, 28])
def test_equals_the_architecture_written_out(norm: str, activation: str, pooling: str, size: int) -> None:
    torch.manual_seed(3)
    form = {"norm": norm, "activation": activation, "pooling": pooling}
    network = ConvNet(2, size, 5, width=8, depth=2, **form).double()
    parameters = list(network.parameters())
    per_block = 2 if norm == "none" else 4
    for index in range(2):  # a scale and a shift that matter
        for parameter in parameters[per_block * index + 2 : per_block * (index + 1)]:
            torch.nn.init.normal_(parameter)

    found = images(2, size)
    for index in range(2):
        weight, bias, *affine = parameters[per_block * index : per_block * (index + 1)]
        border = 3 if size == 28 and index == 0 else 1
        found = F.conv2d(F.pad(found, (border,) * 4), weight, bias)
        found = NAIVE_NORMS[norm](found)
        if affine:
            scale, shift = (value if norm == "layer" else value.view(-1, 1, 1) for value in affine)
            found = found * scale + shift
        found = NAIVE_POOLINGS[pooling](NAIVE_ACTIVATIONS[activation](found))
    features = found.reshape(3, -1)
    logits = features @ parameters[-2].T + parameters[-1]

    torch.testing.assert_close(network.features(images(2, size)), features, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(network(images(2, size)), logits, rtol=1e-10, atol=1e-10)


def test_parameters_and_features_of_the_published_network() -> None:
    network = ConvNet(3, 32, 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 320_010
    assert network.features(torch.zeros(2, 3, 32, 32)).shape == (2, 2048)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    shapes = [tuple(parameter.shape) for parameter in network.parameters()]
    first, later = (128, 3, 3, 3), (128, 128, 3, 3)
    assert shapes == [first, *3 * [(128,)], later, *3 * [(128,)], later, *3 * [(128,)], (10, 2048), (10,)]


@pytest.mark.rows("channels", [1, 3])
def test_28_pixels_become_32(channels: int) -> None:
    assert ConvNet(channels, 28, 10).features(torch.zeros(2, channels, 28, 28)).shape == (2, 2048)


@pytest.mark.rows(("size", "depth"), [(4, 2), (8, 2), (16, 2), (28, 3), (32, 3), (48, 3), (64, 4), (128, 5)])
def test_natural_depth(size: int, depth: int) -> None:
    assert natural_depth(size) == depth


def test_depth_up_to_one_pixel() -> None:
    assert ConvNet(1, 9, 10, width=4).features(torch.zeros(2, 1, 9, 9)).shape == (2, 4)
    with pytest.raises(ValueError, match=r"depth 4 cannot halve 9x9 images 4 times: use depth 3 or less"):
        ConvNet(1, 9, 10, depth=4)
    assert ConvNet(1, 28, 10, width=4, depth=5).features(torch.zeros(2, 1, 28, 28)).shape == (2, 4)
    with pytest.raises(ValueError, match=r"depth 6 cannot halve 28x28 images 6 times: use depth 5 or less"):
        ConvNet(1, 28, 10, depth=6)
    assert ConvNet(1, 9, 10, width=4, depth=4, pooling="none").features(torch.zeros(2, 1, 9, 9)).shape == (2, 324)


@pytest.mark.rows(
    ("setting", "said"),
    [
        ({"norm": "batchnorm"}, "unknown norm 'batchnorm' of a ConvNet: choose from none, batch,"),
        ({"activation": "gelu"}, "unknown activation 'gelu' of a ConvNet: choose from sigmoid, relu"),
        ({"pooling": "sum"}, "unknown pooling 'sum' of a ConvNet: choose from none, max, avg"),
        ({"width": 0}, "width 0 and depth 3"),
        ({"depth": 0}, "width 128 and depth 0"),
        ({"width": 6, "norm": "group"}, "cannot split width 6 into 4 groups"),
    ],
)
def test_what_it_refuses(setting: dict[str, str | int], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        ConvNet(3, 32, 10, **setting)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_every_choice_is_checked_above() -> None:
    assert {norm for norm, _, _ in FORMS} == set(NORMS)
    assert {activation for _, activation, _ in FORMS} == set(ACTIVATIONS)
    assert {pooling for _, _, pooling in FORMS} == set(POOLINGS)
