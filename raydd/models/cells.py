"""Networks of one repeated cell: NAS-Bench-201.

Shapes: `B` batch, `C H W` maps, `K` classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from raydd.models.classifier import Classifier

EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
"""The edges of a cell as (to, from), in the order of an arch string."""
CELLS = 5
"""The paper's N, cells of a stage."""


def _convolution(inputs: int, width: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return activation, convolution and norm, in the order of the paper."""
    convolution = nn.Conv2d(inputs, width, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(width))


# Each takes the number of channels, which it does not change.
OPERATIONS: dict[str, Callable[[int], nn.Module | None]] = {
    "none": lambda width: None,
    "skip_connect": lambda width: nn.Identity(),
    "nor_conv_1x1": lambda width: _convolution(width, width, 1),
    "nor_conv_3x3": lambda width: _convolution(width, width, 3),
    "avg_pool_3x3": lambda width: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
}


class Cell(nn.Module):
    """Four nodes; each but the first is the sum of an operation on every node before it.

    Node 0 is the input and node 3 the output. A node that no edge reaches is zero.

    >>> cell = Cell(("skip_connect", "none", "avg_pool_3x3", "skip_connect", "none", "skip_connect"), width=2)
    >>> list(cell.edges), cell(torch.ones(1, 2, 4, 4)).unique()
    (['1<-0', '2<-1', '3<-0', '3<-2'], tensor([2.]))
    """

    def __init__(self, operations: tuple[str, ...], width: int) -> None:
        super().__init__()
        modules = {f"{to}<-{of}": OPERATIONS[name](width) for (to, of), name in zip(EDGES, operations, strict=True)}
        self.edges = nn.ModuleDict({edge: module for edge, module in modules.items() if module is not None})

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to the same shape."""
        nodes = [x]
        for to in range(1, 4):
            edges = [(self.edges[edge], nodes[of]) for of in range(to) if (edge := f"{to}<-{of}") in self.edges]
            inputs = [module(node) for module, node in edges] or [torch.zeros_like(x)]
            nodes.append(sum(inputs[1:], start=inputs[0]))
        return nodes[-1]


class Reduction(nn.Module):
    """``body(x) + shortcut(x)`` at half the side, rounded up: the residual block between two stages."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(inputs, width, 3, stride=2), _convolution(width, width, 3))
        # Round odd sides up, as the convolution of stride 2 does.
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(inputs, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, width, H / 2, W / 2)."""
        return cast(Tensor, self.body(x)) + cast(Tensor, self.shortcut(x))


def cell_network(channels: int, classes: int, operations: tuple[str, ...], *, cells: int = CELLS) -> Classifier:
    """Build a stem and three stages of ``cells`` equal cells at 16, 32 and 64 channels, averaged to 64 features.

    Each stage but the first begins with a residual block that halves the map. The network runs on images of any size.

    Reference: arXiv 2001.00326, section 2.1 and Figure 1.
    Differs: The official code multiplies an edge of the operation none by zero; here it is absent, so that not even an
        infinity passes. The shortcut of a residual block rounds odd sides up; the official code cannot run on them.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)]
    for stage in range(3):
        width = 16 * 2**stage
        layers += [Reduction(width // 2, width)] if stage else []
        layers += [Cell(operations, width) for _ in range(cells)]
    layers += [nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return Classifier(nn.Sequential(*layers), 64, classes)


@dataclass(frozen=True)
class CellRow:
    """A network of NAS-Bench-201: the operations of its cell, and the number of cells of a stage."""

    operations: tuple[str, ...]
    cells: int = CELLS

    def __post_init__(self) -> None:
        check_count("cells of a stage, N,", self.cells, 100)
        if len(self.operations) != len(EDGES):
            raise ValueError(f"a cell of {len(self.operations)} operations: give {len(EDGES)}, one an edge")
        for name in self.operations:
            if name not in OPERATIONS:
                raise ValueError(f"unknown operation {name!r} of a cell: choose from {', '.join(OPERATIONS)}")

    def __str__(self) -> str:
        edges = list(zip(EDGES, self.operations, strict=True))
        nodes = ("".join(f"|{name}~{of}" for (to, of), name in edges if to == node) + "|" for node in (1, 2, 3))
        return "+".join(nodes) + ("" if self.cells == CELLS else f" N={self.cells}")

    @property
    def values(self) -> tuple[int | str, ...]:
        """The operations, then the number of cells."""
        return (*self.operations, self.cells)

    @classmethod
    def of(cls, values: Sequence[Any]) -> Self:
        """Return the row of its `values`."""
        return cls(tuple(values[:-1]), values[-1])

    def network(self, channels: int, size: int, classes: int) -> Classifier:
        """Build the network with new weights; ``size`` does not matter."""
        return cell_network(channels, classes, self.operations, cells=self.cells)


def check_count(what: str, number: object, most: int) -> None:
    """Refuse a number that is not whole or not from 1 to ``most``: larger networks fill the memory."""
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
        raise ValueError(f"{what} is {number!r}: use a whole number of at least 1 and at most {most}")
