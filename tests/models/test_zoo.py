"""The contract of every network of the zoo, and the names it answers to."""

import importlib.util
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

from raydd.models.convnet import ConvNet
from raydd.models.zoo import NETWORKS, build

SMALL = ("ConvNetW8", "ConvNetW8BN", "ConvNetW8D1LNALMP", "ConvNetW8GNASNP", "MLP", "LeNet")
BIG = ("AlexNet", "VGG11", "VGG11BN", "ResNet10", "ResNet10BN")
BATCH = {"VGG11BN", "ResNet10BN", "ResNet18BN", "DenseNet121"}
HEAVY = {"ResNet18", "ResNet18BN", "DenseNet121"}


def made(name: str, channels: int = 3, size: int = 8, classes: int = 4) -> nn.Module:
    torch.manual_seed(11)
    return build(name, channels=channels, size=size, classes=classes)


def images(channels: int, size: int, count: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    rng = torch.Generator().manual_seed(5)
    return torch.randn(count, channels, size, size, dtype=torch.float64, generator=rng).to(dtype)


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# Features at 8, 28, 32 and 64 pixels.
FEATURES = {
    "ConvNet": (512, 2048, 2048, 2048),
    "MLP": (128, 128, 128, 128),
    "LeNet": (84, 84, 84, 84),
    "AlexNet": (192, 3072, 3072, 3072),
    "VGG11": (512, 512, 512, 512),
    "VGG11BN": (512, 512, 512, 512),
    "ResNet10": (512, 512, 512, 512),
    "ResNet10BN": (512, 512, 512, 512),
    "ResNet18": (512, 512, 512, 512),
    "ResNet18BN": (512, 512, 512, 512),
    "DenseNet121": (1024, 1024, 1024, 1024),
}


@pytest.mark.rows("name", NETWORKS)
@pytest.mark.rows(("size", "channels", "place"), [(8, 1, 0), (28, 1, 1), (32, 3, 2), (64, 3, 3)])
def test_runs_at_every_size(name: str, size: int, channels: int, place: int) -> None:
    network, x = made(name, channels, size), images(channels, size)
    with torch.no_grad():
        features, logits = network.features(x), network(x)
        assert features.shape == (2, FEATURES[name][place])
        assert logits.shape == (2, 4)
        torch.testing.assert_close(logits, network.classifier(features))
        assert (features[0] - features[1]).abs().max() > 1e-4  # no layer made the images alike
        assert torch.equal(network(x), logits)  # no dropout, no dependence on running statistics
        network.eval()
        assert torch.equal(network(x), network(x))


@pytest.mark.rows(("channels", "size"), [(3, 8), (3, 28), (1, 32)])
@pytest.mark.rows("name", [name for name in NETWORKS if name not in HEAVY])
def test_runs_with_the_other_channels(name: str, channels: int, size: int) -> None:
    with torch.no_grad():
        assert made(name, channels, size)(images(channels, size)).shape == (2, 4)


@pytest.mark.rows("name", NETWORKS)
def test_runs_on_the_smallest_images_and_says_when_it_cannot(name: str) -> None:
    smallest = NETWORKS[name].smallest
    with torch.no_grad():
        features = made(name, 1, smallest).features(images(1, smallest, count=1))
    assert features.isfinite().all()
    assert features.abs().max() > 0
    if smallest > 1:
        said = rf"{name} cannot run on {smallest - 1}x{smallest - 1} images: use {smallest}x{smallest}"
        with pytest.raises(ValueError, match=said):
            made(name, 1, smallest - 1)


@pytest.mark.rows(
    ("name", "count"),
    [
        ("ConvNet", 320_010),
        ("MLP", 3072 * 128 + 128 + 128 * 128 + 128 + 1290),
        ("LeNet", 62_006),
        ("AlexNet", 9728 + 614_592 + 442_624 + 442_560 + 331_968 + 30_730),
        ("VGG11BN", 9_231_114),
        ("VGG11", 9_231_114),
        ("ResNet10BN", 4_903_242),
        ("ResNet18BN", 11_173_962),
        ("ResNet18", 11_173_962),
        ("DenseNet121", 6_956_298),
    ],
)
def test_published_parameter_counts_on_cifar10(name: str, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(made(name, 3, 32, 10)) == count


@pytest.mark.rows("name", [*SMALL, *NETWORKS])
def test_float64(name: str) -> None:
    network, x = made(name).eval(), images(3, 8)
    with torch.no_grad():
        single = network(x)
        double = network.double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


@pytest.mark.rows("name", NETWORKS)
def test_only_batch_norm_keeps_running_statistics(name: str) -> None:
    with torch.device("meta"):
        buffers = [key for key, _ in made(name).named_buffers()]
    means = [key for key in buffers if key.endswith("running_mean")]
    variances = [key for key in buffers if key.endswith("running_var")]
    assert len(means) == len(variances)
    assert bool(means) == (name in BATCH)
    assert bool(buffers) == (name in BATCH)


@pytest.mark.rows("name", [*SMALL, *NETWORKS])
def test_nothing_works_in_place(name: str) -> None:
    with torch.device("meta"):
        assert not [module for module in made(name).modules() if getattr(module, "inplace", False)]


def slope_norm(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The squared length of the loss's gradient by the parameters, as a function of the images."""
    parameters = {key: value.detach().requires_grad_() for key, value in network.named_parameters()}
    loss = F.cross_entropy(functional_call(network, parameters, (x,)), y)
    found = torch.autograd.grad(loss, tuple(parameters.values()), create_graph=True)
    return sum((gradient.square().sum() for gradient in found), torch.zeros((), dtype=x.dtype))


@pytest.mark.rows("name", [*SMALL, *BIG])
def test_gradient_of_gradient(name: str) -> None:
    network, x, y = made(name).double(), images(3, 8, dtype=torch.float64), torch.tensor([1, 3])
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(slope_norm(network, leaf, y), leaf)
    direction = found / found.norm()
    step = 1e-6 * float(slope_norm(network, x, y).detach() / found.norm())
    ahead, behind = (slope_norm(network, x + sign * step * direction, y) for sign in (1, -1))
    torch.testing.assert_close((ahead - behind).detach() / (2 * step), found.norm(), rtol=1e-4, atol=0)


@pytest.mark.rows("name", [*SMALL, "ResNet10"])
def test_function_transforms_agree_with_autograd(name: str) -> None:
    network, x, y = made(name).double(), images(3, 8, dtype=torch.float64), torch.tensor([1, 3])

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        buffers = {key: value.clone() for key, value in network.named_buffers()}
        return F.cross_entropy(functional_call(network, (parameters, buffers), (x,)), y)

    def slope(x: Tensor) -> Tensor:
        found = grad(loss)({key: value.detach() for key, value in network.named_parameters()}, x)
        return sum((gradient.square().sum() for gradient in found.values()), torch.zeros((), dtype=x.dtype))

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(slope_norm(network, leaf, y), leaf)
    torch.testing.assert_close(grad(slope)(x), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.rows(
    ("name", "settings"),
    [
        ("ConvNetD4", {"depth": 4}),
        ("ConvNetW256", {"width": 256}),
        ("ConvNetW32D2", {"width": 32, "depth": 2}),
        ("ConvNetBN", {"norm": "batch"}),
        ("ConvNetIN", {"norm": "instance"}),
        ("ConvNetLN", {"norm": "layer"}),
        ("ConvNetGN", {"norm": "group"}),
        ("ConvNetNN", {"norm": "none"}),
        ("ConvNetAS", {"activation": "sigmoid"}),
        ("ConvNetAR", {"activation": "relu"}),
        ("ConvNetAL", {"activation": "leakyrelu"}),
        ("ConvNetNP", {"pooling": "none"}),
        ("ConvNetMP", {"pooling": "max"}),
        ("ConvNetAP", {"pooling": "avg"}),
        ("ConvNetW32D3BN", {"width": 32, "depth": 3, "norm": "batch"}),
        (
            "ConvNetNPALBND2W16",
            {"width": 16, "depth": 2, "norm": "batch", "activation": "leakyrelu", "pooling": "none"},
        ),
    ],
)
def test_names_of_the_convnet_family(name: str, settings: dict[str, str | int]) -> None:
    with torch.device("meta"):
        expected = ConvNet(3, 32, 10, **settings)  # type: ignore[arg-type]
        assert str(made(name, 3, 32, 10)) == str(expected)


@pytest.mark.rows(("size", "depth"), [(8, 2), (28, 3), (32, 3), (64, 4)])
@pytest.mark.rows("name", ["ConvNet", "ConvNetW8"])
def test_depth_follows_the_size_unless_given(name: str, size: int, depth: int) -> None:
    with torch.device("meta"):
        layers = list(made(name, 3, size).modules())
    assert sum(isinstance(layer, nn.Conv2d) for layer in layers) == depth


@pytest.mark.rows(
    ("name", "said"),
    [
        ("ResNet8", r"unknown network 'ResNet8': did you mean ResNet18"),
        ("convnet", r"did you mean ConvNet"),
        ("ConvNetXX", r"unknown network 'ConvNetXX'.*W<width>, D<depth>, NN, BN"),
        ("ConvNetD", r"unknown network 'ConvNetD'"),
        ("zzz", r"unknown network 'zzz': choose from ConvNet, MLP, .*DenseNet121"),
        ("ConvNetBNIN", r"'ConvNetBNIN' sets .* twice: keep one"),
        ("ConvNetW8W16", r"'ConvNetW8W16' sets .* twice: keep one"),
        ("ConvNetD0", r"depth 0: use a width and a depth of at least 1"),
        ("MLPW8", r"unknown network 'MLPW8'"),
        ("DenseNet121BNW8", r"unknown network"),
        ("ResNet18W0", r"unknown network 'ResNet18W0'.*others with W<width>"),
        ("AlexNetW7", r"AlexNet cannot be 7 channels wide: use an even number"),
        ("ConvNetD4", r"depth 4 cannot halve 8x8 images 4 times: use depth 3 or less"),
    ],
)
def test_names_it_refuses(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        made(name)
    assert "\n" not in str(caught.value)


@pytest.mark.rows(
    ("name", "usual"),
    [
        ("AlexNetW128", "AlexNet"),
        ("VGG11W64", "VGG11"),
        ("VGG11BNW64", "VGG11BN"),
        ("ResNet10W64", "ResNet10"),
        ("ResNet18BNW64", "ResNet18BN"),
        ("DenseNet121W32", "DenseNet121"),
    ],
)
def test_a_width_scales_every_convolution(name: str, usual: str) -> None:
    """At the usual width it is the usual network, at half of it every convolution has half of the channels."""
    shapes = {key: tuple(value.shape) for key, value in made(usual).state_dict().items()}
    assert {key: tuple(value.shape) for key, value in made(name).state_dict().items()} == shapes
    width = int(name.rsplit("W", 1)[1])
    halved = made(f"{name.rsplit('W', 1)[0]}W{width // 2}")
    outputs = [layer.out_channels for layer in made(usual).modules() if isinstance(layer, nn.Conv2d)]
    assert [2 * layer.out_channels for layer in halved.modules() if isinstance(layer, nn.Conv2d)] == outputs
    assert halved(images(3, 8)).shape == (2, 4)


@pytest.mark.rows("what", ["channels", "size", "classes"])
def test_numbers_it_refuses(what: str) -> None:
    numbers = {"channels": 3, "size": 8, "classes": 4} | {what: 0}
    with pytest.raises(ValueError, match=f"{what} of a network is 0: use at least 1"):
        build("MLP", **numbers)


def test_without_timm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"'timm:resnet18' needs the timm package: pip install 'raydd\[timm\]'"):
        made("timm:resnet18")


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_timm(name: str) -> None:
    network, x = made(f"timm:{name}", 1, 32).eval(), images(1, 32)
    assert network(x).shape == (2, 4)
    assert network.features(x).shape == (2, {"resnet18": 512}.get(name, 192))
    assert not [module for module in network.modules() if getattr(module, "inplace", False)]
    with pytest.raises(ValueError, match=r"timm has no network 'resnet18x': choose .*resnet18"):
        made("timm:resnet18x")
    with pytest.raises(ValueError, match=r"timm:inception_v3 cannot take 1x8x8 images \(.*\): use another"):
        made("timm:inception_v3", 1, 8)
