"""Constraints and conditions of a search space: arithmetic and comparisons of settings, by their dotted names.

``window.low <= window.current <= window.high``, ``method == 'datm' and pruning.rate > 0``: numbers, text, lists, true,
false, null, + - * /, comparisons, in, and, or, not. The syntax tree is checked against this list and then walked; no
code is executed.
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
Linear = tuple[dict[str, float], float]
"""A linear form: the factors of searched settings, and the sum of all constants."""

MAX_CHARACTERS = 1000
MAX_PARTS = 200
MAX_DEPTH = 30
_LARGEST = 1e300
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}
_Operators = dict[type[ast.AST], Callable[[Any, Any], Any]]
_ARITHMETIC: _Operators = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
_ARITHMETIC |= {ast.Div: lambda a, b: float(a / b)}
_ORDER: _Operators = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
_EQUALITY: _Operators = {ast.Eq: operator.eq, ast.NotEq: operator.ne}
_EQUALITY |= {ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b}
_ALLOWED: tuple[Any, ...] = (
    *(ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Name, ast.Attribute, ast.Constant, ast.List, ast.Tuple),
    *(ast.And, ast.Or, ast.Not, ast.USub, ast.Load, *_ARITHMETIC, *_ORDER, *_EQUALITY),
)


@dataclass(frozen=True)
class Expression:
    """A condition on settings."""

    text: str
    tree: ast.expr

    @property
    def names(self) -> list[str]:
        """The settings in the expression, in order, each once."""
        return list(dict.fromkeys(_names(self.tree)))

    def holds(self, settings: Settings, *, null: bool) -> bool:
        """Return whether the expression is true; ``null`` is the value of an order comparison with null."""
        try:
            return bool(_value(self.tree, settings, null))
        except (TypeError, ArithmeticError) as error:
            raise ValueError(f"{self.text!r} cannot be computed: {error}") from None

    def narrow(self, bounds: dict[str, Bounds], settings: Settings, whole: Container[str] = ()) -> dict[str, Bounds]:
        """Return tighter bounds of searched settings, which exclude only values for which the expression is false.

        Only sums on both sides of <, <=, > and >= are used.
        """
        narrowed = dict(bounds)
        for less, more, strict in _orderings(self.tree):
            low, high = _linear(less, narrowed, settings), _linear(more, narrowed, settings)
            if low is not None and high is not None:
                _tighten(narrowed, _add(low, high, -1.0), whole if strict else ())
        return narrowed


def parse(text: str) -> Expression:
    """Parse an expression.

    >>> parse("window.high + span <= 50").holds({"window.high": 40, "span": 5}, null=True)
    True
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{text[:40]!r}... has more than {MAX_CHARACTERS} characters; write several expressions")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice of the Python compiler
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} is not an expression; write one such as 'window.low <= window.high'") from None
    nodes = list(ast.walk(tree))
    if len(nodes) > MAX_PARTS or _is_deeper(tree, MAX_DEPTH):
        raise ValueError(f"{text[:40]!r}... has too many parts; write several expressions")
    for node in nodes:
        valid = not isinstance(node, ast.Constant) or isinstance(node.value, int | float | str | None)
        if not (valid and isinstance(node, _ALLOWED)):
            part = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
            raise ValueError(f"{text!r}: {part} is not allowed; use settings, numbers, + - * / and comparisons")
    return Expression(text.strip(), tree)


def _is_deeper(node: ast.AST, depth: int) -> bool:
    return depth == 0 or any(_is_deeper(child, depth - 1) for child in ast.iter_child_nodes(node))


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=inner, attr=last):
            return f"{_dotted(inner)}.{last}"
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is not a setting; write dotted names such as window.low")


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name | ast.Attribute):
        if (name := _dotted(node)).lower() not in _CONSTANTS:
            yield name
        return
    for child in ast.iter_child_nodes(node):
        yield from _names(child)


def _value(node: ast.expr, settings: Settings, null: bool) -> Any:
    """Compute a part; arithmetic with null is null."""

    def value(part: ast.expr) -> Any:
        return _value(part, settings, null)

    match node:
        case ast.Constant() | ast.Name() | ast.Attribute():
            return _atom(node, settings)
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [value(part) for part in parts]
        case ast.BoolOp(op=op, values=parts):
            return (all if isinstance(op, ast.And) else any)(value(part) for part in parts)
        case ast.UnaryOp(op=op, operand=part):
            return not value(part) if isinstance(op, ast.Not) else _arithmetic(ast.Sub, 0, value(part))
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(type(op), value(left), value(right))
        case ast.Compare(left=left, ops=ops, comparators=rest):
            values = [value(part) for part in (left, *rest)]
            return all(_compare(type(op), a, b, null) for a, op, b in zip(values, ops, values[1:], strict=False))
    raise AssertionError(ast.dump(node))  # parse refuses everything else


def _atom(node: ast.expr, settings: Settings) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    name = _dotted(node)
    return _CONSTANTS[name.lower()] if name.lower() in _CONSTANTS else settings[name]


def _arithmetic(op: type[ast.AST], left: Any, right: Any) -> Any:
    """Compute with two numbers; text and lists are refused, which keeps results small."""
    if left is None or right is None:
        return None
    for side in (left, right):
        if not isinstance(side, int | float):
            raise TypeError(f"{side!r} is not a number")
    return _ARITHMETIC[op](left, right)


def _compare(op: type[ast.AST], left: Any, right: Any, null: bool) -> bool:
    if op in _EQUALITY:
        return bool(_EQUALITY[op](left, right))
    return null if left is None or right is None else bool(_ORDER[op](left, right))


def _orderings(node: ast.expr) -> Iterator[tuple[ast.expr, ast.expr, bool]]:
    """Yield the pairs (less, more) that must hold for the expression to hold, and whether they are strict."""
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            for part in parts:
                yield from _orderings(part)
        case ast.Compare(left=first, ops=ops, comparators=rest):
            for left, op, right in zip((first, *rest), ops, rest, strict=False):
                if type(op) in _ORDER:
                    pair = (left, right) if isinstance(op, ast.Lt | ast.LtE) else (right, left)
                    yield *pair, isinstance(op, ast.Lt | ast.Gt)


def _linear(node: ast.expr, bounds: Mapping[str, Bounds], settings: Settings) -> Linear | None:
    """Return a part as a linear form; None where it is not one."""
    match node:
        case ast.Constant(value=value):
            pass
        case ast.Name() | ast.Attribute():
            name = _dotted(node)
            if name in bounds:
                return {name: 1.0}, 0.0
            value = settings.get(name)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            one, two = _linear(left, bounds, settings), _linear(right, bounds, settings)
            return _add(one, two, 1.0 if isinstance(op, ast.Add) else -1.0) if one and two else None
        case _:
            return None
    return ({}, float(value)) if isinstance(value, int | float) and abs(value) < _LARGEST else None


def _add(one: Linear, two: Linear, sign: float) -> Linear:
    factors = {key: one[0].get(key, 0) + sign * two[0].get(key, 0) for key in (*one[0], *two[0])}
    return factors, one[1] + sign * two[1]


def _tighten(bounds: dict[str, Bounds], form: Linear, strict: Container[str]) -> None:
    """Exclude values for which ``form <= 0`` fails whatever the other settings are; ``form < 0`` for integers."""
    factors, rest = form
    least = {key: min(factor * end for end in bounds[key]) for key, factor in factors.items()}
    for key, factor in factors.items():
        low, high = bounds[key]
        limit = -(rest + sum(value for other, value in least.items() if other != key))
        if factor > 0:
            bounds[key] = low, min(high, math.ceil(limit / factor) - 1.0 if key in strict else limit / factor)
        elif factor < 0:
            bounds[key] = max(low, math.floor(limit / factor) + 1.0 if key in strict else limit / factor), high
