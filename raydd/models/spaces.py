"""Search spaces of architectures: frozen rows, and the network of a row.

A row is an architecture as data, and ``str(row)`` its name, which `parse` reads: ``ConvNetW32D3BNARMP`` as in the zoo
with every axis, or an arch string of NAS-Bench-201, where ``op~i`` reads node i:
``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|``.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, overload

import torch
from torch import nn

from raydd.models.cells import CELLS, EDGES, OPERATIONS, CellRow, check_count
from raydd.models.classifier import Classifier, padded, stem_padding
from raydd.models.convnet import ACTIVATIONS, NORMS, POOLINGS, SPELLING, ConvNet
from raydd.plugins import Table

_WORDS = "".join(f"(?P<{axis}>{'|'.join(words.values())})" for axis, words in SPELLING.items())
_CONVNET = re.compile(rf"ConvNetW(?P<width>[0-9]{{1,6}})D(?P<depth>[0-9]{{1,3}}){_WORDS}")
_NODES = r"\+".join(r"\|" + r"\|".join(f"([a-z0-9_]+)~{of}" for of in range(to)) + r"\|" for to in (1, 2, 3))
_ARCH = re.compile(rf"{_NODES}(?: N=([0-9]{{1,3}}))?")

Item = TypeVar("Item")


class Row(Protocol):
    """One architecture as data; hashable, and ``str(row)`` is its name."""

    def network(self, channels: int, size: int, classes: int) -> nn.Module:
        """Build the network with new weights; `build` checks the numbers first."""


@dataclass(frozen=True)
class ConvNetRow:
    """A network of the ConvNet family: the five axes of `raydd.models.convnet.ConvNet`.

    Raises:
        ValueError: An axis has a value that no ConvNet has.

    Differs: Where the image is too small for ``depth`` halvings, and the official code fails, a block pools only if
        that leaves at least 2 pixels a side to the next block (an instance norm of one pixel is constant); the last
        block pools if it has at least 2. Networks that `ConvNet` can build are built by it.

    >>> row = ConvNetRow(width=32, depth=4, norm="batch", pooling="max")
    >>> str(row), row.network(1, 8, 10).classifier.in_features
    ('ConvNetW32D4BNARMP', 32)
    """

    width: int = 128
    depth: int = 3
    norm: str = "instance"
    activation: str = "relu"
    pooling: str = "avg"

    def __post_init__(self) -> None:
        for what, number, most in (("width", self.width, 4096), ("depth", self.depth, 64)):
            check_count(f"{what} of a ConvNet", number, most)
        for what, words in SPELLING.items():
            word = getattr(self, what)
            if word not in tuple(words):
                raise ValueError(f"unknown {what} {word!r} of a ConvNet: choose from {', '.join(words)}")
        if self.norm == "group" and self.width % 4:
            raise ValueError(f"group norm cannot split width {self.width} into 4 groups: use a multiple of 4")

    def __str__(self) -> str:
        words = "".join(spelled[getattr(self, axis)] for axis, spelled in SPELLING.items())
        return f"ConvNetW{self.width}D{self.depth}{words}"

    @property
    def values(self) -> tuple[int | str, ...]:
        """Width, depth, norm, activation, pooling."""
        return (self.width, self.depth, self.norm, self.activation, self.pooling)

    @classmethod
    def of(cls, values: Sequence[Any]) -> Self:
        """Return the row of its `values`."""
        return cls(*values)

    def network(self, channels: int, size: int, classes: int) -> Classifier:
        """Build the network with new weights."""
        if self.pooling == "none" or padded(size) >= 2**self.depth:
            return ConvNet(channels, size, classes, **asdict(self))
        side, inputs, layers = padded(size), channels, list[nn.Module | None]()
        for last in (*[False] * (self.depth - 1), True):
            padding = 1 if layers else stem_padding(size, 3)
            pooled = side >= (2 if last else 4)
            layers += [nn.Conv2d(inputs, self.width, 3, padding=padding), NORMS[self.norm](self.width, side)]
            layers += [ACTIVATIONS[self.activation](), POOLINGS[self.pooling]() if pooled else None]
            side, inputs = side // 2 if pooled else side, self.width
        body = nn.Sequential(*(layer for layer in layers if layer is not None))
        return Classifier(body, self.width * side * side, classes)


AnyRow = TypeVar("AnyRow", ConvNetRow, CellRow)


@dataclass(frozen=True)
class Grid(Sequence[AnyRow]):
    """Every combination of some axes, computed on access; the last axis changes fastest.

    Attributes:
        kind: The type of the rows.
        axes: The choices for each of the rows' ``values``.

    >>> space = Grid(ConvNetRow, ((8, 16), (1, 2, 3), ("batch",), ("relu",), ("avg", "max")))
    >>> len(space), str(space[-1]), ConvNetRow(8, 2, "batch") in space, ConvNetRow(8, 2) in space
    (12, 'ConvNetW16D3BNARMP', True, False)
    """

    kind: type[AnyRow]
    axes: tuple[tuple[int | str, ...], ...]

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self.axes)

    @overload
    def __getitem__(self, index: int) -> AnyRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[AnyRow, ...]: ...
    def __getitem__(self, index: int | slice) -> AnyRow | tuple[AnyRow, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(len(self))[index])
        place, values = range(len(self))[index], list[int | str]()
        for axis in reversed(self.axes):
            place, choice = divmod(place, len(axis))
            values.append(axis[choice])
        return self.kind.of(values[::-1])

    def __iter__(self) -> Iterator[AnyRow]:
        return map(self.kind.of, product(*self.axes))

    def __contains__(self, row: object) -> bool:
        if not isinstance(row, self.kind):
            return False
        return all(value in axis for value, axis in zip(row.values, self.axes, strict=True))


def nasbench201(cells: int = CELLS) -> Grid[CellRow]:
    """Return the 15,625 architectures of NAS-Bench-201, of ``cells`` cells a stage (the paper's 5; fewer are faster).

    By the paper's count they compute 6,466 different functions. The operation of the last edge changes fastest; the
    official files have another order, so match tables by arch string.

    Reference: arXiv 2001.00326, section 2.1.
    """
    return Grid(CellRow, (*[tuple(OPERATIONS)] * len(EDGES), (cells,)))


_CONVNET_AXES = ((32, 64, 128, 256), (1, 2, 3, 4), tuple(NORMS), tuple(ACTIVATIONS), tuple(POOLINGS))

# convnet720: the architecture search of arXiv 2006.05929, which later papers repeat.
_SHIPPED: dict[str, Sequence[Row]] = {"convnet720": Grid(ConvNetRow, _CONVNET_AXES), "nasbench201": nasbench201()}
SPACES: Table[Sequence[Row]] = Table("ARCHITECTURES", Sequence, _SHIPPED)


def build(row: Row, *, channels: int, size: int, classes: int) -> nn.Module:
    """Build the network of a row with new weights.

    Args:
        row: A row of a space, or of `parse`.
        channels: Channels of an image, C.
        size: Side of an image in pixels, H = W; at least 2, since on fewer not all rows differ.
        classes: Number of logits, K.

    Returns:
        A module with ``features(x) -> (B, F)`` and ``forward(x) -> logits (B, K)``, x (B, C, H, W).

    Raises:
        ValueError: A number under 1, or images under 2x2.

    >>> build(SPACES["convnet720"][7], channels=1, size=8, classes=10)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    for what, value in (("channels", channels), ("size", size), ("classes", classes)):
        if value < 1:
            raise ValueError(f"{what} of a network is {value}: use at least 1")
    if size < 2:
        raise ValueError(f"{row} cannot run on {size}x{size} images: use 2x2 or larger ones")
    return row.network(channels, size, classes)


def sample(space: Sequence[Item], n: int, rng: torch.Generator) -> list[Item]:
    """Draw ``n`` different rows of a space evenly, in the order of the space.

    Generators in the same state draw nested samples: the 20 rows of ``n=20`` are among the 60 of ``n=60``.

    >>> [str(row) for row in sample(SPACES["convnet720"], 2, torch.Generator().manual_seed(1))]
    ['ConvNetW32D2GNARMP', 'ConvNetW64D1INARAP']
    """
    if not 1 <= n <= len(space):
        raise ValueError(f"a sample of {n} rows from a space of {len(space)}: use 1 to {len(space)}")
    order = torch.randperm(len(space), generator=rng, device="cpu")  # not the default device
    return [space[place] for place in sorted(order[:n].tolist())]


def parse(text: str) -> ConvNetRow | CellRow:
    """Return the row of a name.

    Raises:
        ValueError: The name is unknown; the message says how rows are written.

    >>> parse("ConvNetW32D4BNASNP")
    ConvNetRow(width=32, depth=4, norm='batch', activation='sigmoid', pooling='none')
    >>> parse("|none~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2| N=1").cells
    1
    """
    if match := _CONVNET.fullmatch(text):
        words = {axis: {short: word for word, short in spelled.items()} for axis, spelled in SPELLING.items()}
        named = {axis: words[axis][match[axis]] for axis in words}
        return ConvNetRow(int(match["width"]), int(match["depth"]), **named)
    if match := _ARCH.fullmatch(text):
        *operations, cells = match.groups()
        return CellRow(tuple(operations), int(cells or CELLS))
    raise ValueError(
        f"unknown architecture {text!r}: write ConvNetW32D3BNARMP (width, depth, norm, activation, pooling) or"
        f" |op~0|+|op~0|op~1|+|op~0|op~1|op~2| (op: {', '.join(OPERATIONS)})"
    )


def load_rows(path: str | Path, read: Callable[[str], object]) -> tuple[ConvNetRow | CellRow, ...]:
    """Read a user's space: a list of ConvNets by their axes, or of names.

    In YAML, where missing axes are those of `ConvNetRow` and arch strings need quotes::

        - {width: 32, depth: 2, norm: batch, activation: relu, pooling: max}
        - ConvNetW64D3INARAP
        - "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
    """
    try:
        if Path(path).exists() and not Path(path).is_file():  # reading a pipe would wait
            raise OSError(0, "not a file")
        entries = read(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"space {str(path)!r} cannot be read: {error.strerror}; give a YAML file of rows") from None
    except Exception as error:  # of any reader, which all have their own
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no list of rows ({reason}): check it, and quote arch strings") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} holds no list of rows: write one a line, such as '- ConvNetW32D3BNARMP'")
    return tuple(_distinct(str(path), entries))


def _distinct(path: str, entries: Iterable[object]) -> Iterator[ConvNetRow | CellRow]:
    """Yield the rows of a file's entries, and refuse a row that is there twice."""
    places: dict[ConvNetRow | CellRow, int] = {}
    for place, entry in enumerate(entries, start=1):
        try:
            row = _read(entry)
        except ValueError as error:
            raise ValueError(f"{path}, row {place}: {error}") from None
        if row in places:
            raise ValueError(f"{path}, row {place}: {row} is row {places[row]} again: keep one")
        places[row] = place
        yield row


def _read(entry: object) -> ConvNetRow | CellRow:
    if isinstance(entry, str):
        return parse(entry)
    known = [field.name for field in fields(ConvNetRow)]
    if not isinstance(entry, Mapping):
        raise ValueError(f"{entry!r} is no row: write its axes ({', '.join(known)}) as a mapping, or its name")
    for axis in entry:
        if axis not in known:
            raise ValueError(f"unknown axis {axis!r} of a ConvNet: choose from {', '.join(known)}")
    return ConvNetRow(**entry)
