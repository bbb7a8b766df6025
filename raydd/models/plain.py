"""The networks without shortcuts: MLP, LeNet, AlexNet and VGG11, in their small-image forms.

On 32x32 images they are those of the official code of arXiv 2006.05929. The first convolution pads 28x28 images to
32x32. Maps larger than those of 32x32 images are averaged to about that side, so that the linear layer does not grow.
"""

from torch import nn

from raydd.models.classifier import Classifier, Norm, instance_norm, padded, stem_padding


def mlp(channels: int, size: int, classes: int) -> Classifier:
    """Build three linear layers of width 128; 128 features."""
    inputs = channels * size * size
    body = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
    return Classifier(body, 128, classes)


def lenet(channels: int, size: int, classes: int) -> Classifier:
    """Build LeNet-5 with ReLU and max pooling; 84 features. Images under 32x32 are padded to 32x32."""
    padding = max(0, 33 - size) // 2
    side = ((size + 2 * padding - 4) // 2 - 4) // 2
    average = side // 5
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 6, 5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AvgPool2d(average),
        nn.Flatten(),
        nn.Linear(16 * (side // average) ** 2, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
    ]
    return Classifier(nn.Sequential(*layers), 84, classes)


# A row a convolution: its width in halves of the first one's, kernel, whether a max pooling follows.
_ALEXNET = ((2, 5, True), (3, 5, True), (4, 3, False), (3, 3, False), (3, 3, True))


def alexnet(channels: int, size: int, classes: int, *, width: int = 128) -> Classifier:
    """Build five convolutions, the first of ``width`` channels; 192 x 4 x 4 features on 32x32 images."""
    if width % 2:
        raise ValueError(f"AlexNet cannot be {width} channels wide: use an even number")
    layers, inputs = list[nn.Module](), channels
    for place, (halves, kernel, pooled) in enumerate(_ALEXNET):
        padding, outputs = kernel // 2 if place else stem_padding(size, kernel), halves * width // 2
        layers += [nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pooled else []
        inputs = outputs
    side = padded(size) // 8
    average = max(1, side // 4)
    layers.append(nn.AvgPool2d(average))
    return Classifier(nn.Sequential(*layers), inputs * (side // average) ** 2, classes)


# Widths of the convolutions between the poolings, in widths of the first.
_VGG11 = ((1,), (2,), (4, 4), (8, 8), (8, 8))


def vgg11(channels: int, size: int, classes: int, *, norm: Norm = instance_norm, width: int = 64) -> Classifier:
    """Build VGG11 with a norm after each convolution, the first of ``width`` channels; 512 features.

    On images under 32x32 there is no max pooling that would leave one pixel to a later convolution: an instance norm of
    one pixel is constant. The last map is averaged.
    """
    layers, inputs, side, padding = list[nn.Module](), channels, padded(size), stem_padding(size, 3)
    for place, factors in enumerate(_VGG11, start=1):
        for factor in factors:
            outputs = factor * width
            layers += [nn.Conv2d(inputs, outputs, 3, padding=padding), norm(outputs), nn.ReLU()]
            inputs, padding = outputs, 1
        if side >= 4 or place == len(_VGG11):
            layers.append(nn.MaxPool2d(2))
            side //= 2
    return Classifier(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1)), inputs, classes)
