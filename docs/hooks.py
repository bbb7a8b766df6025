"""What the site's build does beside Markdown: pages from the package, links out of `docs/`, equations, drawings."""

import html
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

import reference

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "examples/README.md": "examples.md",
    "cluster/README.md": "cluster_files.md",
    "tune_spaces/README.md": "tune_spaces.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
}
"""Files beside `docs/`, and the pages that show them; the home page stands for the README."""
_LINK = re.compile(r"\]\((?!\w+:|#|/)([^)#\s]+)(#[^)\s]*)?\)")
_MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_DRAWING = re.compile(r'<p>\s*<img alt="([^"]*)" src="(images/[\w.-]+\.svg)"\s*/?>\s*</p>')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that show files beside `docs/`."""
    for origin, name in OUTSIDE.items():
        if files.get_file_from_path(name) is None:
            text = reference.examples() if name == "examples.md" else (ROOT / origin).read_text(encoding="utf-8")
            files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Fill in what comes from the package, and point links at the site's pages."""
    name = page.file.src_uri
    origin = next((path for path, shown in OUTSIDE.items() if shown == name != "index.md"), f"docs/{name}")
    markdown = _LINK.sub(lambda found: f"]({address(origin, found[1])}{found[2] or ''})", markdown)
    return "\n".join(_row(line) for line in markdown.split("\n"))


def address(origin: str, link: str) -> str:
    """Where a link of a file leads on the site.

    >>> address("docs/tuning.md", "../examples/README.md"), address("examples/README.md", "../docs/tuning.md")
    ('examples.md', 'tuning.md')
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("examples/") and path.endswith(".py"):
        return f"examples.md#{posixpath.basename(path).replace('.', '')}"
    return OUTSIDE.get(path, link)


def _row(line: str) -> str:
    """A row of a table without the backslashes that other readers of Markdown want before a bar in code."""
    return re.sub(r"`[^`]*`", lambda code: code[0].replace("\\|", "|"), line) if line.startswith("|") else line


def on_page_content(content: str, **kwargs: Any) -> str:
    """Turn equations into MathML, which browsers draw themselves, and put drawings into the page."""
    return _DRAWING.sub(lambda found: drawing(found[2]), _MATH.sub(lambda found: equation(found[1], found[2]), content))


def equation(tag: str, text: str) -> str:
    """One equation as MathML.

    Raises:
        ValueError: Something in it is not known, and would be shown as it is written.
    """
    made: str = convert(html.unescape(text).strip(), display="block" if tag == "div" else "inline")
    if "\\" in made:
        raise ValueError(f"the equation {text!r} has what latex2mathml does not know")
    return re.sub(r">&<", ">&amp;<", made)


def drawing(path: str) -> str:
    """A drawing of `docs/` as a part of the page, so that it takes the page's colours."""
    svg = (ROOT / "docs" / path).read_text(encoding="utf-8")
    return f'<figure class="drawing">{svg[svg.index("<svg") :]}</figure>'
