"""YAML of users: read with bounds on size, depth and the values that aliases repeat."""

from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_BYTES = 4 << 20
MAX_DEPTH = 32
MAX_NODES = 200_000
"""Values of a file; the values of an alias count each time that it is used."""
MAX_DIGITS = 100


class _Bounded(yaml.SafeLoader):
    """A loader that counts nodes before it makes values of them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._weights: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._weights:  # it is being composed
                raise yaml.YAMLError(f"an alias stands inside of what it repeats in line {line}")
            return node
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MAX_DEPTH} deep in line {line}")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None:
            self._weights[id(node)] = self._weight(node, line)
        return node

    def _weight(self, node: Node, line: int) -> int:
        children: list[Node] = []
        if isinstance(node, MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, SequenceNode):
            children = node.value
        weight = 1 + sum(self._weights[id(child)] for child in children)
        if weight > MAX_NODES:
            raise yaml.YAMLError(f"it has more than {MAX_NODES} values, with all that aliases repeat, in line {line}")
        return weight

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, ScalarNode) and key.value != "<<"]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.YAMLError(f"it has the key {twice[:80]!r} twice, in lines from {node.start_mark.line + 1} on")
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise yaml.YAMLError(f"a number has more than {MAX_DIGITS} digits in line {node.start_mark.line + 1}")
        return int(super().construct_yaml_int(node))


_Bounded.add_constructor("tag:yaml.org,2002:int", _Bounded.construct_yaml_int)


def parse_yaml(text: str) -> Any:
    """Parse a YAML text.

    >>> parse_yaml("lr: {images: 10}")
    {'lr': {'images': 10}}
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MB")
    try:
        return yaml.load(text, Loader=_Bounded)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"{error.problem}" + (f" in line {mark.line + 1}" if mark else "")) from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:  # such as impossible dates
        raise ValueError(" ".join(str(error).split())) from None


def read_yaml(path: Path) -> Any:
    """Read a YAML file."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would be waited for
            raise OSError(0, "not a file")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES >> 20} MB")
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); name a YAML file") from None
    except ValueError as error:
        raise ValueError(f"{path} is no YAML ({error}); correct it") from None
