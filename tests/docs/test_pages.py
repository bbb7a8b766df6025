"""The documentation as it stands in the repository: generated pages are current, links lead somewhere."""

import importlib.util
import re
import sys
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

import raydd

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("*/README.md")])


@pytest.fixture(scope="module")
def reference():
    """The module that generates pages; docs/ is no package."""
    if "reference" in sys.modules:
        return sys.modules["reference"]
    spec = importlib.util.spec_from_file_location("docs_reference", DOCS / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_current(reference):
    texts = reference.generated()
    assert {path.name for path in texts} >= {*reference.PAGES, "methods.md"}
    stale = [path.name for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run: python docs/reference.py"


def test_a_page_that_differs_is_seen(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    monkeypatch.setattr(reference, "PAGES", {})
    (tmp_path / "page.md").write_text("A\n<!-- defaults: dm -->\nold\n<!-- end -->\nB\n")
    ((path, text),) = reference.generated().items()
    assert path == tmp_path / "page.md"
    assert text.startswith("A\n<!-- defaults: dm -->\nIt sets by default")
    assert text.endswith("<!-- end -->\nB\n")
    assert "old" not in text


def test_no_page_has_an_empty_block():
    for path in PAGES:
        empty = re.findall(r"<!-- (\w+: \w+) -->\s*(?:<!-- end -->|\Z)", path.read_text(encoding="utf-8"))
        assert empty == [], path


def anchors(path):
    """The anchors of a page's headings, as they are on GitHub."""
    tokens = MarkdownIt("commonmark").parse(path.read_text(encoding="utf-8"))
    seen, found = {}, set()
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            text = "".join(child.content for child in token.children if child.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            seen[slug] = seen.get(slug, -1) + 1
            found.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
    return found


def links(path):
    """The links of a page within the repository, as (path, anchor)."""
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8")):
        for child in token.children or ():
            link = child.attrGet("href") or child.attrGet("src")
            if link and not re.match(r"\w+:", link):
                target, _, anchor = unquote(link).partition("#")
                yield (path.parent / target).resolve() if target else path, anchor


def test_links_lead_to_files_and_headings_of_the_repository():
    known, seen, dead = {path: anchors(path) for path in PAGES}, 0, []
    for path in PAGES:
        for target, anchor in links(path):
            seen += 1
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in known[target]):
                dead.append(f"{path.relative_to(ROOT)}: {target.name}#{anchor}")
    assert dead == []
    assert seen > 100


def test_every_public_name_has_its_signature_and_words(reference):
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in raydd.__all__:
        _, _, text = page.partition(f"\n### raydd.{name}\n")
        assert len(text.split("\n### ")[0].split()) > 5, name


def test_docstrings_become_markdown(reference):
    shown = sys.modules["interface"].markdown
    assert shown("Adds::\n\n    a b\n\nThen.") == "Adds:\n\n```text\na b\n```\n\nThen."
    assert shown("No more.\n\n>>> 2\n2") == "No more.\n\n```pycon\n>>> 2\n2\n```"
    assert shown("Raises:\n    ValueError: It is\n        ``wrong``.") == "**Raises**\n\n* `ValueError`: It is `wrong`."
    assert shown("Returns:\n    The set; see: there.") == "**Returns**\n\nThe set; see: there."
    assert shown("Reference: arXiv 1,\n    Eq. 2.") == "**Reference**\n\narXiv 1, Eq. 2."


def test_signatures_are_as_written(reference):
    shown = sys.modules["interface"].signature
    import ast

    def of(source, **options):
        return shown(ast.parse(source).body[0], **options)

    assert of("def f(a, /, b: int = 1, *c, d=2, **e) -> int: ...") == "f(a, /, b: int = 1, *c, d=2, **e) -> int"
    assert of("class A:\n    x: int = 1\n    _y: int") == "class A:\n    x: int = 1"
    assert of("class A:\n    def __init__(self, x: int) -> None: ...") == "A(x: int)"
    assert of("@property\ndef p(self) -> int: ...") == "p: int"
    assert of(f"def f({'a' * 60}: int, {'b' * 60}: int): ...").count("\n") == 3
