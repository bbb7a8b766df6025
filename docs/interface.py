"""The pages of Python names: signatures from the source, and docstrings as Markdown."""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import raydd
from raydd.config.parsing import Config

API_HEAD = """# Python

`import raydd` has these names and imports neither torch nor Ray; each name is loaded on first use. An error that the
user can correct is a `ValueError` of one line. Settings are frozen, and a nested one may be given as a mapping. The
parts that methods are made of have [a page of their own](parts.md).
"""

PARTS_HEAD = """# Parts of a method

[Adding a method](extending.md#a-method) composes these. The modules are open to scripts, but may change between
versions more freely than [the names of `raydd`](api.md).
"""

PARTS = {
    "raydd.methods.method": ("Method",),
    "raydd.distillation.setup": ("Setup", "Recipe"),
    "raydd.distillation.objective": ("Objective", "Divisible"),
    "raydd.distillation.parts": ("Division", "Parts"),
    "raydd.distillation.loop": ("Leaf", "Step", "Distillation"),
    "raydd.distillation.trajectory_matching": ("TrajectoryMatching", "match_trajectories"),
    "raydd.distillation.statistic_matching": ("StatisticMatching", "RealImages", "match_statistics"),
    "raydd.distillation.network_sources": ("NetworkPair", "Networks", "RandomInit", "Trained", "Snapshots", "Mixed"),
    "raydd.distillation.network_queue": ("Queue",),
    "raydd.numerics.flat": ("FlatModel",),
    "raydd.numerics.unroll": ("unroll",),
    "raydd.numerics.distances": ("normalized", "normalized_mse", "along", "at_end", "matched_parameters", "pruned"),
    "raydd.numerics.statistics": ("means", "cosine", "gaussian"),
    "raydd.numerics.losses": ("cross_entropy", "balance", "clip_weight", "gradient_penalty"),
    "raydd.numerics.sharpness": ("perturbation", "surrogate"),
    "raydd.numerics.perturbation": ("perturb",),
    "raydd.numerics.formation": ("Formation", "encode"),
    "raydd.numerics.augment": ("augment",),
    "raydd.numerics.rng": ("generator",),
    "raydd.selection.coresets": ("herding_order", "kcenter_order"),
    "raydd.data.score_record": ("Score", "Comparison", "RobustScore"),
    "raydd.data.image_source": ("Source", "Content", "Part", "from_array"),
    "raydd.data.datasets": ("Row",),
    "raydd.models.zoo": ("Network", "build"),
    "raydd.models.classifier": ("Classifier",),
    "raydd.models.spaces": ("Grid", "ConvNetRow", "build", "parse"),
    "raydd.evaluation.protocols": ("Protocol",),
    "raydd.plugins": ("Table",),
}
"""By module: the names that the page of parts shows."""

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
_SECTION = re.compile(rf"({'|'.join((*SECTIONS, 'Reference', 'Differs', 'Example'))}):[ \t]*(.*)")
_ENTRY = re.compile(r"    (\*{0,2}\w+(?:, \w+)*): (.*)")


def interface() -> str:
    """Return the page of every public name of raydd, by kind."""
    groups: dict[str, list[str]] = {"Functions": [], "Settings": [], "Objects": [], "Tables": []}
    for name in raydd.__all__:
        groups[_kind(getattr(raydd, name))].append(name)
    page = [API_HEAD]
    for title, names in groups.items():
        page.append(f"## {title}\n")
        page += [entry(f"raydd.{name}", getattr(raydd, name), raydd._HOMES[name]) for name in names]
    return "\n".join(page)


def _kind(value: object) -> str:
    if inspect.isclass(value):
        return "Settings" if issubclass(value, Config) else "Objects"
    return "Functions" if callable(value) else "Tables"


def parts() -> str:
    """Return the page of the parts of methods, data sets and networks."""
    page = [PARTS_HEAD]
    for module, names in PARTS.items():
        home = importlib.import_module(module)
        page += [f"## {module}\n", *(entry(f"{module}.{name}", getattr(home, name), module) for name in names)]
    return "\n".join(page)


def entry(title: str, value: Any, home: str) -> str:
    """Return the section of one name: its heading, its signature and its docstring."""
    name = title.rpartition(".")[2]
    head = f"### {title}\n"
    if isinstance(value, dict):
        module = importlib.import_module(home if home.startswith("raydd") else f"raydd.{home}")
        known = f"Its names: {', '.join(f'`{key}`' for key in value)}."
        return f"{head}\n{markdown(_docstring_of_variable(module, name))}\n\n{known}\n"
    node = _node(value)
    text = [head, f"```python\n{signature(node)}\n```\n", markdown(inspect.getdoc(value) or ""), ""]
    if isinstance(node, ast.ClassDef):
        for method in _methods(node):
            doc = ast.get_docstring(method) or ""
            text += [f"`{signature(method, one_line=True)}`\n", _quoted(markdown(doc))]
            text.append("")
    return "\n".join(text)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _node(value: Any) -> Any:
    """Return the definition of a function or class."""
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def _methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Yield the public methods that have a docstring."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and ast.get_docstring(part):
            yield part


def signature(node: Any, *, one_line: bool = False) -> str:
    """Return the signature of a function, or the fields or arguments of a class.

    >>> signature(ast.parse("def f(self, a: int, *, b: str = 'x') -> None: ...").body[0], one_line=True)
    "f(a: int, *, b: str = 'x') -> None"
    """
    if isinstance(node, ast.ClassDef):
        fields = [ast.unparse(part) for part in node.body if isinstance(part, ast.AnnAssign) and _public(part)]
        start = next((part for part in node.body if getattr(part, "name", "") == "__init__"), None)
        if start is not None:
            return signature(start, one_line=one_line).replace("__init__", node.name, 1).removesuffix(" -> None")
        return "\n".join([f"class {node.name}:", *(f"    {field}" for field in fields)]) if fields else node.name
    if any(ast.unparse(mark) in ("property", "cached_property") for mark in node.decorator_list):
        return f"{node.name}: {ast.unparse(node.returns)}"
    arguments = [argument for argument in _arguments(node.args) if argument not in ("self", "cls")]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({', '.join(arguments)}){returns}"
    if one_line or len(line) <= 100:
        return line
    return f"{node.name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){returns}"


def _public(part: ast.AnnAssign) -> bool:
    return isinstance(part.target, ast.Name) and not part.target.id.startswith("_")


def _arguments(node: ast.arguments) -> Iterator[str]:
    """Yield the arguments as they are written."""
    positional = [*node.posonlyargs, *node.args]
    values: list[Any] = [None] * (len(positional) - len(node.defaults)) + list(node.defaults)
    shown = [*map(_argument, positional, values)]
    yield from [*shown[: len(node.posonlyargs)], *(["/"] if node.posonlyargs else [])]
    yield from shown[len(node.posonlyargs) :]
    if node.vararg or node.kwonlyargs:
        yield f"*{ast.unparse(node.vararg) if node.vararg else ''}"
    yield from map(_argument, node.kwonlyargs, node.kw_defaults)
    if node.kwarg:
        yield f"**{ast.unparse(node.kwarg)}"


def _argument(argument: ast.arg, value: ast.expr | None) -> str:
    equals = " = " if argument.annotation else "="
    return ast.unparse(argument) + (f"{equals}{ast.unparse(value)}" if value is not None else "")


def _docstring_of_variable(module: Any, name: str) -> str:
    """Return the string below the assignment of a variable."""
    body = ast.parse(inspect.getsource(sys.modules[module.__name__])).body
    for part, after in pairwise(body):
        targets = [part.target] if isinstance(part, ast.AnnAssign) else getattr(part, "targets", [])
        if any(getattr(target, "id", "") == name for target in targets):
            assert isinstance(after, ast.Expr), f"{name} has no docstring"
            return inspect.cleandoc(ast.literal_eval(after.value))
    raise ValueError(f"{module.__name__} does not assign {name}")


def markdown(docstring: str) -> str:
    """Return a docstring as Markdown: sections are lists, doctests and indented blocks are code."""
    docstring = re.sub(r"\n(?=(?:Args|Raises|Reference|Differs): )", "\n\n", docstring)
    blocks = re.split(r"\n\s*\n", re.sub(r"``(.+?)``", r"`\1`", docstring.strip(), flags=re.DOTALL))
    return "\n\n".join(text for block in blocks for text in _block(block))


def _block(block: str) -> Iterator[str]:
    """Yield a paragraph of a docstring as Markdown."""
    if block.startswith(">>>"):
        yield f"```pycon\n{block}\n```"
    elif block.startswith("    "):
        yield f"```text\n{textwrap.dedent(block)}\n```"
    elif found := _SECTION.match(block):
        title, first = found.groups()
        lines = ([f"    {first}"] if first else []) + block.splitlines()[1:]
        yield f"**{title}**"
        yield _entries(lines) if title in SECTIONS else " ".join(line.strip() for line in lines)
    else:
        yield re.sub(r"::$", ":", block)


def _entries(lines: list[str]) -> str:
    """Return the lines of a section as a list; a section of plain text stays a paragraph."""
    entries: list[str] = []
    for line in lines:
        if start := _ENTRY.fullmatch(line):
            entries.append(f"* `{start[1]}`: {start[2]}")
        elif entries:
            entries[-1] += f" {line.strip()}"
        else:
            return " ".join(each.strip() for each in lines)
    return "\n".join(entries)
