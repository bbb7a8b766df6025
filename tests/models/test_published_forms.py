"""The networks beside ConvNet on 32x32 images, against their published forms written out by hand.

Each form eats the parameters in order, so the order that trajectories are stored in is checked too.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.models.zoo import build

Take = Iterator[Tensor]


def instance(x: Tensor, take: Take) -> Tensor:
    centred = x - x.mean((2, 3), keepdim=True)
    scale, shift = next(take).view(-1, 1, 1), next(take).view(-1, 1, 1)
    return centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt() * scale + shift


def batch(x: Tensor, take: Take) -> Tensor:
    centred = x - x.mean((0, 2, 3), keepdim=True)
    scale, shift = next(take).view(-1, 1, 1), next(take).view(-1, 1, 1)
    return centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt() * scale + shift


def lenet(x: Tensor, take: Take) -> Tensor:
    for _ in range(2):
        x = F.max_pool2d(F.conv2d(x, next(take), next(take)).relu(), 2)
    x = x.flatten(1)
    for _ in range(2):
        x = (x @ next(take).T + next(take)).relu()
    return x


def alexnet(x: Tensor, take: Take) -> Tensor:
    for padding, pooled in ((2, True), (2, True), (1, False), (1, False), (1, True)):
        x = F.conv2d(x, next(take), next(take), padding=padding).relu()
        x = F.max_pool2d(x, 2) if pooled else x
    return x.flatten(1)


def vgg11(x: Tensor, take: Take) -> Tensor:
    for letter in "cMcMccMccMccM":
        if letter == "M":
            x = F.max_pool2d(x, 2)
        else:
            x = instance(F.conv2d(x, next(take), next(take), padding=1), take).relu()
    return x.flatten(1)


def resnet(x: Tensor, take: Take, blocks: int, norm: Callable[[Tensor, Take], Tensor]) -> Tensor:
    x = norm(F.conv2d(x, next(take), padding=1), take).relu()
    for block in range(4 * blocks):
        stride = 2 if block % blocks == 0 and block else 1
        found = norm(F.conv2d(x, next(take), stride=stride, padding=1), take).relu()
        found = norm(F.conv2d(found, next(take), padding=1), take)
        x = norm(F.conv2d(x, next(take), stride=stride), take) if stride == 2 else x
        x = (found + x).relu()
    return F.avg_pool2d(x, 4).flatten(1)


def densenet121(x: Tensor, take: Take) -> Tensor:
    x = F.conv2d(x, next(take), padding=1)
    for stage, layers in enumerate((6, 12, 24, 16)):
        if stage:
            x = F.avg_pool2d(F.conv2d(batch(x, take).relu(), next(take)), 2)
        for _ in range(layers):
            found = F.conv2d(batch(x, take).relu(), next(take))
            found = F.conv2d(batch(found, take).relu(), next(take), padding=1)
            x = torch.cat([found, x], 1)
    return F.avg_pool2d(batch(x, take).relu(), 4).flatten(1)


FORMS: dict[str, Callable[[Tensor, Take], Tensor]] = {
    "LeNet": lenet,
    "AlexNet": alexnet,
    "VGG11": vgg11,
    "ResNet10": lambda x, take: resnet(x, take, 1, instance),
    "ResNet18BN": lambda x, take: resnet(x, take, 2, batch),
    "DenseNet121": densenet121,
}


@pytest.mark.rows("name", FORMS)
def test_equals_the_published_form(name: str) -> None:
    rng = torch.Generator().manual_seed(5)
    torch.manual_seed(11)
    network = build(name, channels=3, size=32, classes=4).double()
    for parameter in network.parameters():
        if parameter.dim() == 1:  # scales and shifts that matter
            parameter.data += 0.2 * torch.rand(parameter.shape, dtype=torch.float64, generator=rng)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=rng)
    with torch.no_grad():
        take = iter(network.parameters())
        expected = FORMS[name](x, take)
        torch.testing.assert_close(network.features(x), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(network(x), expected @ next(take).T + next(take), rtol=1e-9, atol=1e-9)
    assert next(take, None) is None
