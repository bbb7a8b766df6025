"""Random generators; every random draw of raydd comes from one of these."""

import hashlib

import torch
from torch import Tensor


def generator(seed: int, *path: str | int) -> torch.Generator:
    """Return a new CPU generator that depends on nothing but ``seed`` and ``path``.

    Draws are made on the CPU and moved, so that a seed gives the same numbers on every device, in every process and in
    any order of work.

    Args:
        seed: The run's seed.
        *path: The purpose of the draws, for example ``("expert", 7, "epoch", 3)``.

    >>> a, b = generator(0, "expert", 1), generator(0, "expert", 1)
    >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
    True
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def derived(rng: torch.Generator, *path: str | int) -> torch.Generator:
    """Return a generator that depends on another one's seed and on ``path``, not on the draws from the other.

    >>> rng = generator(0, "step", 3)
    >>> before, _ = derived(rng, "networks"), torch.rand(3, generator=rng)
    >>> before.initial_seed() == derived(rng, "networks").initial_seed()
    True
    """
    return generator(rng.initial_seed(), *path)


def moved(draws: Tensor, device: torch.device) -> Tensor:
    """Return draws on a device; a GPU gets them without the CPU waiting for what it does.

    >>> moved(torch.ones(2), torch.device("cpu"))
    tensor([1., 1.])
    """
    if device.type != "cuda":
        return draws.to(device)
    return draws.pin_memory().to(device, non_blocking=True)
