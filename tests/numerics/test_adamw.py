import math
import subprocess
import sys

import pytest
import torch

from raydd.numerics.adamw import AdamW


def parameters(device):
    torch.manual_seed(0)
    return [torch.randn(shape, device=device, requires_grad=True) for shape in ((3, 4), (5,), ())]


def give(ours, theirs, step):
    for one, other in zip(ours, theirs, strict=True):
        one.grad = None if step == 5 and one.ndim == 1 else torch.randn_like(one)
        other.grad = None if one.grad is None else one.grad.clone()


@pytest.mark.parametrize(("milestones", "cosine"), [((), 0.0), ((1, 3), 0.0), ((), 1.0), ((), 0.5)])
def test_every_step_is_that_of_torchs_optimiser_and_schedule(device, milestones, cosine):
    ours = parameters(device)
    theirs = [value.detach().clone().requires_grad_() for value in ours]
    adamw = AdamW(ours, 0.1, 0.02, milestones, 0.3, epochs=4, cosine=cosine)
    optimizer = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.02)
    schedules = [torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.3)]
    if cosine:
        wave = lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch * cosine / 4))  # noqa: E731
        schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, wave)]
    for step in range(12):
        give(ours, theirs, step)
        adamw.step()
        optimizer.step()
        if step % 3 == 2:
            adamw.end_epoch()
            schedules[0].step()
        assert adamw.lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_it_goes_on_from_its_state_to_the_same_bits(device):
    ours = parameters(device)
    first = AdamW(ours, 0.1, 0.02, (1,), 0.3, epochs=4, cosine=0.5)
    for step in range(3):
        give(ours, [value.detach().clone() for value in ours], step)
        first.step()
    first.end_epoch()
    copies = [value.detach().clone().requires_grad_() for value in ours]
    again = AdamW(copies, 0.1, 0.02, (1,), 0.3, epochs=4, cosine=0.5)
    again.load(first.state())
    assert again.lr == first.lr != 0.1
    for step in range(3):
        give(ours, copies, step)
        first.step()
        again.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, copies, strict=True))


def test_torchs_compiler_is_not_loaded():
    code = (
        "import sys, torch; from raydd.numerics.adamw import AdamW; x = torch.ones(2, requires_grad=True); "
        "x.sum().backward(); s = AdamW([x], 0.1, 0.9); s.step(); s.end_epoch(); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
