import copy

import pytest
import torch
from torch import nn

from raydd.config.components import GsamConfig, SmoothConfig
from raydd.config.schema import ExpertConfig
from raydd.numerics.rng import generator
from raydd.training.optimizer_steps import STEPS


def make_network(norm, device="cpu", dtype=torch.float64):
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), norm(4, affine=True), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 9, 3)
    return nn.Sequential(*layers).to(device, dtype)


def make_batch(device="cpu", dtype=torch.float64):
    x = torch.randn(6, 2, 5, 5, generator=generator(1), dtype=torch.float64)
    return x.to(device, dtype), torch.tensor([0, 2, 1, 1, 0, 2], device=device)


def gradients(network, loss):
    return torch.autograd.grad(loss, list(network.parameters()))


def cross_entropy(network, x, y):
    return nn.functional.cross_entropy(network(x), y)


def settings(optimizer):
    gsam, smooth = GsamConfig(rho=0.2, alpha=0.7), SmoothConfig(low=0.25, high=0.75, epochs=3, mu=0.5, norm=0.4)
    return ExpertConfig(optimizer=optimizer, gsam=gsam, smooth=smooth)


def naive_plain(network, x, y, weight):
    return gradients(network, cross_entropy(network, x, y))


def naive_gsam(network, x, y, weight):
    """Every parameter in one vector; the gradient at the weights, then at the perturbed ones."""
    shapes = [p.shape for p in network.parameters()]
    p = nn.utils.parameters_to_vector(network.parameters()).detach()
    clean = torch.cat([g.reshape(-1) for g in gradients(network, cross_entropy(network, x, y))])
    moved = copy.deepcopy(network)
    nn.utils.vector_to_parameters(p + 0.2 * p**2 * clean / (p.abs() * clean).norm(), moved.parameters())
    adversarial = torch.cat([g.reshape(-1) for g in gradients(moved, cross_entropy(moved, x, y))])
    along = clean.dot(adversarial) / adversarial.dot(adversarial) * adversarial
    whole = adversarial - 0.7 * (clean - along)
    return [part.view(shape) for part, shape in zip(whole.split([s.numel() for s in shapes]), shapes, strict=True)]


def naive_smooth(network, x, y, weight):
    """One image's penalty after another; W is the sum of its logits."""
    penalty = 0.0
    for image in x:
        image = image[None].clone().requires_grad_()
        (slope,) = torch.autograd.grad(network(image).sum(), image, create_graph=True)
        penalty = penalty + (slope.square().sum().sqrt() - 0.4) ** 2 / len(x)
    return gradients(network, weight * cross_entropy(network, x, y) + 0.5 * penalty)


NAIVE = {"sgd": naive_plain, "momentum": naive_plain, "adam": naive_plain, "gsam": naive_gsam, "smooth": naive_smooth}


@pytest.mark.parametrize(("epoch", "weight"), [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)])
@pytest.mark.parametrize("optimizer", STEPS)
def test_a_step_leaves_the_written_out_direction(optimizer, epoch, weight, device):
    network, (x, y) = make_network(nn.InstanceNorm2d, device), make_batch(device)
    expected = NAIVE[optimizer](copy.deepcopy(network), x, y, weight)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)  # of the batch before
    loss = STEPS[optimizer](settings(optimizer))(network, x, y, epoch)
    for parameter, direction in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, direction, rtol=1e-9, atol=1e-12)
    assert loss.item() == pytest.approx(cross_entropy(network, x, y).item(), rel=1e-14)
    assert not loss.requires_grad


def test_the_steps_differ():
    network, (x, y) = make_network(nn.InstanceNorm2d), make_batch()
    found = {}
    for optimizer in ("sgd", "gsam", "smooth"):
        STEPS[optimizer](settings(optimizer))(network, x, y, 4)
        found[optimizer] = network[0].weight.grad.clone()
    for a, b in (("sgd", "gsam"), ("sgd", "smooth"), ("gsam", "smooth")):
        assert (found[a] - found[b]).abs().max() > 1e-3


@pytest.mark.parametrize("optimizer", STEPS)
def test_a_step_counts_the_batch_once_and_leaves_the_weights(optimizer):
    network, (x, y) = make_network(nn.BatchNorm2d, dtype=torch.float32), make_batch(dtype=torch.float32)
    once = copy.deepcopy(network)
    once(x)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    STEPS[optimizer](settings(optimizer))(network, x, y, 1)
    for name, buffer in once.named_buffers():
        assert torch.equal(network.get_buffer(name), buffer), name
    assert network[1].num_batches_tracked == 1
    for parameter, value in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.grad.shape == value.shape
        assert not parameter.grad.requires_grad


def test_sharpness_sees_the_batch_statistics_in_both_evaluations():
    network, (x, y) = make_network(nn.BatchNorm2d), make_batch()
    expected = naive_gsam(copy.deepcopy(network), x, y, 1.0)
    STEPS["gsam"](settings("gsam"))(network, x, y, 1)
    for parameter, direction in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, direction, rtol=1e-9, atol=1e-12)


def test_no_constraint_leaves_the_plain_gradient_bit_for_bit():
    network, (x, y) = make_network(nn.InstanceNorm2d, dtype=torch.float32), make_batch(dtype=torch.float32)
    free = ExpertConfig(optimizer="smooth", smooth=SmoothConfig(epochs=0, mu=0))
    STEPS["sgd"](free)(network, x, y, 1)
    plain = [parameter.grad.clone() for parameter in network.parameters()]
    STEPS["smooth"](free)(network, x, y, 1)
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), plain, strict=True))


@pytest.mark.parametrize("optimizer", STEPS)
def test_a_step_leaves_the_images_alone(optimizer):
    network, (x, y) = make_network(nn.InstanceNorm2d), make_batch()
    kept = x.clone()
    STEPS[optimizer](settings(optimizer))(network, x, y, 1)
    assert torch.equal(x, kept)
    assert (x.requires_grad, x.grad) == (False, None)


def test_a_parameter_that_the_network_does_not_use_stays_where_it_is():
    network, (x, y) = make_network(nn.InstanceNorm2d), make_batch()
    network.spare = nn.Parameter(torch.ones(2, dtype=torch.float64))
    network.forward = lambda images: nn.Sequential(*list(network.children()))(images)
    for optimizer in STEPS:
        STEPS[optimizer](settings(optimizer))(network, x, y, 1)
        assert network.spare.grad is None or not network.spare.grad.any()
