import subprocess
import sys

import pytest
import torch

from raydd.numerics.sgd import Sgd


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("milestones", [(), (2, 3), (2, 2), (0, 1)])
def test_every_bit_is_that_of_torchs_optimiser_and_schedule(device, momentum, decay, milestones):
    torch.manual_seed(0)
    ours = [torch.randn(shape, device=device, requires_grad=True) for shape in ((3, 4), (5,), ())]
    theirs = [value.detach().clone().requires_grad_() for value in ours]
    sgd = Sgd(ours, 0.1, momentum, decay, milestones, 0.3)
    optimizer = torch.optim.SGD(theirs, lr=0.1, momentum=momentum, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.3)
    for step in range(12):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = None if step == 5 and one.ndim == 1 else torch.randn_like(one)
            other.grad = None if one.grad is None else one.grad.clone()
        sgd.step()
        optimizer.step()
        if step % 3 == 2:
            sgd.end_epoch()
            schedule.step()
        assert sgd.lr == optimizer.param_groups[0]["lr"]
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    stored = [optimizer.state[other].get("momentum_buffer") for other in theirs]
    if momentum:
        assert all(torch.equal(one, other) for one, other in zip(sgd.velocities, stored, strict=True))
    else:
        assert sgd.velocities == [None] * 3


def test_torchs_compiler_is_not_loaded():
    code = (
        "import sys, torch; from raydd.numerics.sgd import Sgd; x = torch.ones(2, requires_grad=True); "
        "x.sum().backward(); s = Sgd([x], 0.1, 0.9); s.step(); s.end_epoch(); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
