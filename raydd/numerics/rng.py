"""Every random draw of raydd comes from a generator made here."""

import hashlib

import torch


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator that depends on nothing but ``seed`` and ``path``.

    Draws are made on the CPU and moved, so that a seed gives the same numbers on every device, in
    every process and in any order of work.

    Args:
        seed: The run's seed.
        *path: What the draws are for, for example ``("expert", 7, "epoch", 3)``.

    Returns:
        A fresh generator; equal arguments give generators that draw equal numbers.

    >>> a, b = generator(0, "expert", 1), generator(0, "expert", 1)
    >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
    True
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def derived(rng: torch.Generator, *path: str | int) -> torch.Generator:
    """A generator that depends on the seed of another and on ``path``, not on what was drawn from the other.

    >>> rng = generator(0, "step", 3)
    >>> before, _ = derived(rng, "networks"), torch.rand(3, generator=rng)
    >>> before.initial_seed() == derived(rng, "networks").initial_seed()
    True
    """
    return generator(rng.initial_seed(), *path)
