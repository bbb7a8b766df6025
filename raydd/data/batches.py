"""Preprocessed batches of a stored split."""

from collections.abc import Iterator

import torch
from torch import Tensor

from raydd.data.datasets import Split
from raydd.data.preprocessing import Transform


class Feed:
    """Images of a split by row, preprocessed on a device.

    On the CPU the stored bytes stay in the memory-mapped file that all processes share; to a GPU they are copied once.
    """

    def __init__(self, split: Split, transform: Transform, device: torch.device) -> None:
        self._split = split
        self._transform = transform.to(device)
        self._device = device
        self._bytes = split.take(torch.arange(len(split))).to(device) if device.type != "cpu" else None
        self.targets = split.targets.to(device)

    def __len__(self) -> int:
        return len(self._split)

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return preprocessed images (B, C, H, W), float32, and classes (B,) of CPU rows (B,)."""
        stored = self._split.take(rows) if self._bytes is None else self._bytes[rows.to(self._device)]
        return self._transform(stored), self.targets[rows.to(self._device)]

    def shuffled(self, batch_size: int, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch in random order; the last batch may be smaller."""
        for rows in torch.randperm(len(self), generator=rng).split(batch_size):
            yield self(rows)

    def in_order(self, batch_size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images once, in stored order."""
        for rows in torch.arange(len(self)).split(batch_size):
            yield self(rows)
