"""Which neurons images activate: against gradients taken one image and one layer at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from raydd.analysis import expert_networks
from raydd.analysis.expert_networks import DecodedSet
from raydd.analysis.features import exceeding, neuron_gradients, ratios
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.models.classifier import Classifier
from raydd.models.zoo import build


def network(name="ConvNetW4", classes=3):
    torch.manual_seed(0)
    return build(name, channels=2, size=8, classes=classes).double().eval()


def images(count=5):
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def shown(x, labels, classes=3):
    names = tuple("abc"[:classes])
    return DecodedSet(
        "toy", Path("toy.arrow"), 1.0, SyntheticSet(x, labels, torch.tensor(0.01), Transform("raw01"), "toy", names)
    )


def naive_gradients(net, image, target):
    """Each hidden layer's gradient sizes for one image: the layers run again from an output made a leaf."""
    steps, found = [*net.body, nn.Flatten(), net.classifier], []
    for place, layer in enumerate(steps[:-1]):
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        z = image[None]
        for step in steps[: place + 1]:
            z = step(z)
        z = z.detach().requires_grad_()
        out = z
        for step in steps[place + 1 :]:
            out = step(out)
        (gradient,) = torch.autograd.grad(cross_entropy(out, target[None]), z)
        units = []
        for unit in gradient[0]:
            values = [abs(value) for value in unit.flatten().tolist()]
            units.append(sum(values) / len(values))
        found.append(units)
    return found


def naive_active(net, image, target):
    active = []
    for units in naive_gradients(net, image, target):
        mean = sum(units) / len(units)
        active += [unit > mean for unit in units]
    return active


@pytest.mark.parametrize("name", ["ConvNetW4", "MLP"])
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_of_neurons_one_image_at_a_time(name, soft):
    net, x, y = network(name), images(), torch.tensor([0, 1, 2, 1, 0])
    targets = torch.softmax(torch.arange(15.0, dtype=torch.float64).reshape(5, 3).sin(), dim=1) if soft else y
    found = neuron_gradients(net, x, targets)
    assert [layer.shape[1] for layer in found] == ([4, 4] if name == "ConvNetW4" else [128, 128])
    for row in range(5):
        naive = naive_gradients(net, x[row], targets[row])
        for layer, units in zip(found, naive, strict=True):
            np.testing.assert_allclose(5 * layer[row].detach(), units, atol=1e-12)  # the loss is a mean over 5


def test_gradients_by_hand():
    """z = (1, -1): the second unit is closed; p - y = (-1/2, 1/2) comes back through the first column alone."""
    net = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU()), 2, 2)
    with torch.no_grad():
        net.body[1].weight.copy_(torch.eye(2))
        net.body[1].bias.zero_()
        net.classifier.weight.copy_(torch.tensor([[0.0, 5.0], [0.0, 7.0]]))
        net.classifier.bias.zero_()
    x = torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1)
    (closed,) = neuron_gradients(net, x, torch.tensor([0]))
    assert closed.tolist() == [[0, 0]]  # the first has no weight to the logits
    with torch.no_grad():
        net.classifier.weight.copy_(torch.tensor([[3.0, 5.0], [3.0, 7.0]]))
        net.classifier.weight[1, 0] = 4.0
        net.classifier.bias.copy_(torch.tensor([1.0, 0.0]))  # logits (4, 4)
    (found,) = neuron_gradients(net, x, torch.tensor([0]))
    assert found.tolist() == [[0.5, 0]]  # |-1/2 * 3 + 1/2 * 4|
    assert exceeding(found).tolist() == [[True, False]]


@pytest.mark.parametrize("size", [2, 512])
def test_ratios_of_an_image_and_of_the_set(size, monkeypatch):
    monkeypatch.setattr(expert_networks, "BATCH", size)
    net, x, y = network(), images(), torch.tensor([0, 1, 2, 1, 0])
    active = [naive_active(net, x[row], y[row]) for row in range(5)]
    each = sum(sum(row) / 8 for row in active) / 5
    union = sum(any(column) for column in zip(*active, strict=True)) / 8
    found = ratios(net, shown(x, y))
    assert found == (pytest.approx(each), union, 8)
    assert 0 < each < union <= 1


def test_one_image_is_its_whole_set():
    found = ratios(network(), shown(images(1), torch.tensor([2])))
    assert found.image == found.whole


def test_soft_labels_count_as_they_are():
    net, x = network(), images()
    logits = torch.tensor([[9.0, 8, 0]] * 5, dtype=torch.float64)
    active = [naive_active(net, x[row], torch.softmax(logits[row], dim=0)) for row in range(5)]
    found = ratios(net, shown(x, logits))
    assert found.image == pytest.approx(sum(sum(row) for row in active) / 40)
    assert found.image != ratios(net, shown(x, torch.zeros(5, dtype=torch.int64))).image


def test_a_network_that_was_looked_into_is_as_before():
    net, x = network("ResNet10"), images()
    before = net(x).detach()
    layers = neuron_gradients(net, x, torch.zeros(5, dtype=torch.int64))
    assert len(layers) == len([m for m in net.modules() if isinstance(m, nn.Conv2d)])
    assert all(not module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(net(x), before)


def test_what_writes_into_a_layers_output_does_no_harm():
    torch.manual_seed(0)
    kept = Classifier(nn.Sequential(nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.5)), 4 * 36, 3).double()
    other = Classifier(nn.Sequential(kept.body[0], nn.LeakyReLU(0.5, inplace=True)), 4 * 36, 3).double()
    other.classifier = kept.classifier
    y = torch.tensor([0, 1, 2, 1, 0])
    (a,), (b,) = (neuron_gradients(net, images(), y) for net in (kept, other))
    assert torch.equal(a, b)
