"""Constraints and conditions of a search space: arithmetic and comparisons of settings, by their dotted names.

``window.low <= window.current <= window.high``, ``window.high + span <= experts.epochs``, ``method == 'datm' and
pruning.rate > 0``: numbers, text, true, false, null, + - * /, comparisons, in, and, or, not. Nothing else is run.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Bounds = tuple[float, float]
Settings = Mapping[str, Any]

_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_ORDER: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_EQUAL: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
MAX_CHARACTERS = 1000
MAX_PARTS = 200
MAX_DEPTH = 30
_LARGEST = 1e300
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_SHAPES: tuple[type[ast.AST], ...] = (
    *(ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare),
    *(ast.Name, ast.Attribute, ast.Constant, ast.List, ast.Tuple),
)
_MARKS: tuple[type[ast.AST], ...] = (ast.And, ast.Or, ast.Not, ast.USub, ast.Load, *_BINARY, *_ORDER, *_EQUAL)


@dataclass(frozen=True)
class Expression:
    """A condition on settings.

    Attributes:
        text: As it was written.
        tree: As it was read.
    """

    text: str
    tree: ast.expr

    @property
    def names(self) -> list[str]:
        """The settings it speaks of, in order, each once."""
        return list(dict.fromkeys(_names(self.tree)))

    def holds(self, settings: Settings, *, null: bool) -> bool:
        """Whether it is true.

        Args:
            settings: By dotted name.
            null: What an ordering is whose one side is null: a constraint on nothing holds, a condition does not.

        Raises:
            ValueError: Values that cannot be compared or counted with.
        """
        try:
            return bool(_value(self.tree, settings, null))
        except (TypeError, ArithmeticError) as error:
            raise ValueError(f"{self.text!r} cannot be computed: {error}") from None

    def narrow(self, bounds: dict[str, Bounds], settings: Settings, whole: Container[str] = ()) -> dict[str, Bounds]:
        """Bounds of searched settings that leave out only what can never hold.

        Sums on both sides of <, <=, > and >= are looked at; anything else narrows nothing.

        Args:
            bounds: The least and the largest value of each searched setting.
            settings: All others.
            whole: Those of the searched settings that are whole numbers.
        """
        narrowed = dict(bounds)
        for less, more, strict in _orderings(self.tree):
            low, high = _linear(less, narrowed, settings), _linear(more, narrowed, settings)
            if low is not None and high is not None:
                _tighten(narrowed, low, high, whole if strict else ())
        return narrowed


def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        ValueError: If it is none, or holds more than this language has.

    >>> parse("window.high + span <= 50").holds({"window.high": 40, "span": 5}, null=True)
    True
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{text[:40]!r}... has more than {MAX_CHARACTERS} characters; write several expressions")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python advises its own programs
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} is no expression; write one such as 'window.low <= window.high'") from None
    nodes = list(ast.walk(tree))
    if len(nodes) > MAX_PARTS or _deeper(tree, MAX_DEPTH):
        raise ValueError(f"{text[:40]!r}... has too many parts; write several expressions")
    for node in nodes:
        known = not isinstance(node, ast.Constant) or isinstance(node.value, int | float | str | None)
        if not (known and isinstance(node, (*_SHAPES, *_MARKS))):
            part = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
            raise ValueError(f"{text!r}: {part} is not understood; use settings, numbers, + - * / and comparisons")
    return Expression(text.strip(), tree)


def _deeper(node: ast.AST, depth: int) -> bool:
    """Whether an expression is nested deeper."""
    return depth == 0 or any(_deeper(child, depth - 1) for child in ast.iter_child_nodes(node))


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=inner, attr=last):
            return f"{_dotted(inner)}.{last}"
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is no setting; write dotted names such as window.low")


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.Name, ast.Attribute)):
        if (name := _dotted(node)).lower() not in _WORDS:
            yield name
        return
    for child in ast.iter_child_nodes(node):
        yield from _names(child)


def _value(node: ast.expr, settings: Settings, null: bool) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            name = _dotted(node)
            return _WORDS[name.lower()] if name.lower() in _WORDS else settings[name]
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part, settings, null) for part in parts]
        case ast.BoolOp(op=op, values=parts):
            return (all if isinstance(op, ast.And) else any)(_value(part, settings, null) for part in parts)
        case ast.Compare():
            return _compare(node, settings, null)
    return _computed(node, settings, null)


def _computed(node: ast.expr, settings: Settings, null: bool) -> Any:
    """A sum, product or sign; nothing of nothing."""
    match node:
        case ast.UnaryOp(op=op, operand=inner):
            value = _value(inner, settings, null)
            return not value if isinstance(op, ast.Not) else None if value is None else -value
        case ast.BinOp(left=left, op=op, right=right):
            sides = _value(left, settings, null), _value(right, settings, null)
            return None if None in sides else _counted(type(op), *sides)
    raise AssertionError(ast.dump(node))  # parse lets nothing else through


def _counted(op: type[ast.AST], left: Any, right: Any) -> float:
    """A sum, product or quotient of numbers; of words and lists there is none."""
    for side in (left, right):
        if not isinstance(side, int | float):
            raise TypeError(f"{side!r} is no number")
    return float(_BINARY[op](left, right)) if op is ast.Div else _BINARY[op](left, right)


def _compare(node: ast.Compare, settings: Settings, null: bool) -> bool:
    values = [_value(part, settings, null) for part in (node.left, *node.comparators)]
    for left, op, right in zip(values, node.ops, values[1:], strict=False):
        if type(op) in _EQUAL:
            true = _EQUAL[type(op)](left, right)
        else:
            true = null if left is None or right is None else _ORDER[type(op)](left, right)
        if not true:
            return False
    return True


def _orderings(node: ast.expr) -> Iterator[tuple[ast.expr, ast.expr, bool]]:
    """The pairs (less, more) that must hold for the expression to hold, and whether they may not be equal."""
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            for part in parts:
                yield from _orderings(part)
        case ast.Compare(left=first, ops=ops, comparators=rest):
            for left, op, right in zip((first, *rest), ops, rest, strict=False):
                if isinstance(op, (ast.Lt, ast.LtE)):
                    yield left, right, isinstance(op, ast.Lt)
                elif isinstance(op, (ast.Gt, ast.GtE)):
                    yield right, left, isinstance(op, ast.Gt)


Linear = tuple[dict[str, float], float]
"""Searched settings with their factors, and the sum of all else."""


def _linear(node: ast.expr, bounds: Mapping[str, Bounds], settings: Settings) -> Linear | None:
    match node:
        case ast.Constant(value=int() | float() as value) if abs(value) < _LARGEST:
            return {}, float(value)
        case ast.Name() | ast.Attribute():
            name = _dotted(node)
            if name in bounds:
                return {name: 1.0}, 0.0
            fixed = settings.get(name)
            return ({}, float(fixed)) if isinstance(fixed, int | float) and abs(fixed) < _LARGEST else None
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            one, two = _linear(left, bounds, settings), _linear(right, bounds, settings)
            if one is None or two is None:
                return None
            sign = 1.0 if isinstance(op, ast.Add) else -1.0
            factors = {key: one[0].get(key, 0) + sign * two[0].get(key, 0) for key in (*one[0], *two[0])}
            return factors, one[1] + sign * two[1]
    return None


def _tighten(bounds: dict[str, Bounds], less: Linear, more: Linear, strict: Container[str]) -> None:
    """Put bounds nearer where less <= more would fail for every value of the other settings.

    The limit itself is no bound of those in ``strict``, which are whole numbers.
    """
    factors = {key: less[0].get(key, 0) - more[0].get(key, 0) for key in (*less[0], *more[0])}
    rest = less[1] - more[1]  # sum of factor x setting + rest <= 0
    least = {key: min(factor * end for end in bounds[key]) for key, factor in factors.items()}
    for key, factor in factors.items():
        low, high = bounds[key]
        limit = -(rest + sum(value for other, value in least.items() if other != key))
        if factor > 0:
            bounds[key] = low, min(high, _below(limit / factor) if key in strict else limit / factor)
        elif factor < 0:
            bounds[key] = max(low, -_below(-limit / factor) if key in strict else limit / factor), high


def _below(limit: float) -> float:
    """The greatest whole number below a limit."""
    return math.ceil(limit) - 1.0
