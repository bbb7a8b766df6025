"""A compiled step of training does what the step does."""

import copy

import pytest
import torch
from torch import nn

from raydd.config.schema import ExpertConfig
from raydd.numerics.losses import cross_entropy
from raydd.training.compiled_step import CompiledStep
from raydd.training.optimizer_steps import STEPS


@pytest.fixture(params=["traced", pytest.param("compiled", marks=pytest.mark.slow)])
def _tier(request, monkeypatch):
    """The tracing alone takes a second, the compiler half a minute."""
    if request.param == "traced":
        monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)


def network(norm):
    return nn.Sequential(nn.Conv2d(1, 2, 3), norm(2), nn.Softplus(), nn.Flatten(), nn.Linear(8, 3)).double()


@pytest.mark.usefixtures("_tier")
@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, nn.BatchNorm2d])
@pytest.mark.parametrize("optimizer", ["sgd", "gsam"])
def test_it_leaves_the_same_gradients_and_running_statistics(optimizer, norm):
    step = STEPS[optimizer](ExpertConfig(optimizer=optimizer))
    plain, rng = network(norm), torch.Generator().manual_seed(0)
    fast, one = copy.deepcopy(plain), CompiledStep(lambda network, x, y: step(network, x, y, 1))
    for images in (6, 4, 6):  # a last batch is smaller
        x = torch.randn(images, 1, 4, 4, generator=rng, dtype=torch.float64)
        y = torch.arange(images) % 3
        loss = step(plain, x, y, 1)
        torch.testing.assert_close(one(fast, x, y), loss, rtol=1e-12, atol=0)
        for a, b in zip(plain.parameters(), fast.parameters(), strict=True):
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-10, atol=1e-12)
            with torch.no_grad():
                a -= 0.1 * a.grad
                b -= 0.1 * b.grad
        for name, buffer in plain.named_buffers():
            torch.testing.assert_close(fast.get_buffer(name), buffer, rtol=1e-12, atol=0)
    assert len(one._kernels) == 2


def test_it_takes_any_tensors_of_a_batch(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)

    def step(network, x, y, share):
        loss = share * cross_entropy(network(x), y)
        network.zero_grad()
        loss.backward()
        return loss.detach()

    one, made, x = CompiledStep(step), network(nn.InstanceNorm2d), torch.ones(2, 1, 4, 4, dtype=torch.float64)
    losses = [one(made, x, torch.tensor([0, 1]), torch.tensor(share, dtype=torch.float64)) for share in (0.5, 1.0)]
    assert losses[1].item() == pytest.approx(2 * losses[0].item())
    assert len(one._kernels) == 1


def test_a_loss_that_changes_with_the_epoch_is_refused():
    with pytest.raises(ValueError, match=r"experts.compile = true, but .* smooth changes with the epoch; drop it"):
        ExpertConfig(optimizer="smooth", compile=True)
