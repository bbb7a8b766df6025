"""Values that are shipped, one YAML a data set and method in ``presets/``, or written in a file of the user's."""

import re
from functools import cache
from importlib import resources
from pathlib import Path

from raydd.config.parsing import Tree, merge, undotted
from raydd.io.safe_yaml import parse_yaml, read_yaml

_NAME = re.compile(r"[\w-]{1,80}")


def load_preset(dataset: str, method: str, ipc: int) -> Tree:
    """The shipped values of a data set, a method and an ipc; {} where none are shipped.

    A preset file has the values of every ipc under ``all`` and those of one under ``ipc``. Where a paper and
    its official code part, the code's values are another file, such as ``datm-official``, of the same method.
    """
    content = _content(dataset, method)
    if content is None:
        return {}
    tree: Tree = {"method": method.removesuffix("-official"), "ipc": ipc, "data": {"dataset": dataset}}
    merge(tree, content.get("all", {}))
    exact = content.get("ipc", {}).get(ipc)
    merge(tree, exact or {})
    tree["preset"] = f"{dataset}/{method}.yaml, ipc {'any' if exact is None else ipc}"
    return tree


def preset_sizes(dataset: str, method: str) -> list[int] | None:
    """The ipc that a shipped file has values of its own for; None without such a file.

    >>> preset_sizes("digits", "mtt"), preset_sizes("digits", "unknown")
    ([1, 10], None)
    """
    content = _content(dataset, method)
    return None if content is None else list(content.get("ipc", {}))


@cache
def _content(dataset: str, method: str) -> Tree | None:
    """What a shipped file holds."""
    file = resources.files("raydd") / "presets" / dataset / f"{method}.yaml"
    if not (dataset.isidentifier() and _NAME.fullmatch(method)) or not file.is_file():
        return None
    content: Tree = parse_yaml(file.read_text(encoding="utf-8"))
    return content


def expand_preset(name: str, ipc: int) -> Tree:
    """The values of ``--preset``: a shipped ``dataset/method``, or a YAML file of one configuration.

    ``dataset/method-official`` is shipped where the official code has other values than the paper.

    Raises:
        ValueError: If it is neither, or the file does not hold a mapping.

    >>> expand_preset("digits/mtt", 1)["steps"]
    150
    """
    dataset, _, method = name.partition("/")
    shipped = load_preset(dataset, method, ipc)
    if shipped:
        return shipped
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"--preset {name!r} is neither shipped, such as digits/mtt, nor a YAML file")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"preset file {path} holds no mapping; it needs lines such as 'steps: 150'")
    try:
        return undotted(content)
    except ValueError as error:
        raise ValueError(f"preset file {path}: {error}") from None


def preset_layers(preset: str | None, values: Tree) -> tuple[Tree, Tree]:
    """Return the layers of a distillation: a preset's values, then what the user sets.

    The preset is the one named, or the one shipped for the data set, method and ipc that the user sets.

    >>> preset_layers(None, {"ipc": 10, "data": {"dataset": "cifar10"}})[0]["window"]
    {'low': 0, 'high': 20}
    """
    ipc, method, data = values.get("ipc", 1), values.get("method", "mtt"), values.get("data")
    dataset = data.get("dataset", "digits") if isinstance(data, dict) else "digits"
    return (expand_preset(preset, ipc) if preset else load_preset(str(dataset), str(method), ipc)), values
