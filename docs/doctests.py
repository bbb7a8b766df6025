"""Shows the doctests of docstrings as code, where Markdown would take `>>>` for quotations."""

import re
from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Fences every doctest, and what it prints, before docstrings are read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of anything that was loaded."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """A docstring whose doctests are blocks of code; the words before an indented block lose their second colon."""
    lines, inside = list[str](), False
    for line in text.splitlines():
        starts, ends = line.startswith(">>>"), inside and not line.strip()
        if (starts and not inside) or ends:
            lines.append("```pycon" if starts else "```")
        inside = (inside or starts) and not ends
        lines.append(line if inside else re.sub(r"::$", ":", line))
    return "\n".join([*lines, "```"] if inside else lines)
