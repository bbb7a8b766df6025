"""The documentation's site, built strictly: nothing missing, nothing dead, nothing that is loaded from elsewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import raydd
from raydd.config.fields import settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LOADED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "use": "href",
}
VOID = {"img", "link", "meta", "br", "hr", "input"}

pytest.importorskip("mkdocs", reason="the group `docs` is not installed")


def loaded(name):
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Site(HTMLParser):
    """What a page has: its anchors, its links, what it loads, its text by the anchor of the heading above."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loads, self.text, self.math = set(), [], [], {"": ""}, []
        self._here, self._inside = "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        self._inside += [tag] if tag not in VOID else []
        if "id" in of:
            self.anchors.add(of["id"])
            if re.fullmatch("h[1-6]", tag):
                self._here = of["id"]
                self.text[self._here] = ""
        if tag == "a" and "href" in of:
            self.links.append(of["href"])
        if tag in LOADED and LOADED[tag] in of:
            self.loads.append(of[LOADED[tag]])
        if tag == "math":
            self.math.append((of.get("display"), []))

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if {"script", "style"} & set(self._inside):
            return
        if "math" in self._inside:
            self.math[-1][1].append(data)
        else:
            self.text[self._here] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The built site."""
    out = tmp_path_factory.mktemp("site")  # without --quiet, which would keep warnings from --strict
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return out


@pytest.fixture(scope="module")
def pages(folder):
    """Every page of it, read, by file name."""
    return {path.name: Site(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.html"))}


def test_every_file_of_docs_is_a_page(pages):
    written = {path.stem for path in DOCS.glob("*.md")}
    outside = {"examples", "cluster_files", "tune_spaces", "contributing", "changelog"}
    assert {f"{name}.html" for name in written | outside} | {"404.html"} == set(pages)


def test_every_public_name_is_documented(pages):
    told = pages["api.html"].text
    missing = [name for name in raydd.__all__ if len(told.get(f"raydd{name}".lower(), "").split()) < 5]
    assert not missing, f"no words on {missing}"


def test_every_method_has_a_section_with_what_it_sets(pages):
    told = pages["methods.html"].text
    assert set(raydd.METHODS) <= set(told)
    for name in raydd.METHODS:
        assert re.search("It sets (nothing )?by default", told[name]), name
        assert len(told[name].split()) > 20, name


def test_methods_that_learn_say_when_to_take_them_and_have_their_presets(pages):
    told = pages["methods.html"].text
    presets = {path.stem.removesuffix("-official") for path in (ROOT / "raydd" / "presets").rglob("*.yaml")}
    assert presets <= set(told)
    for name in presets:
        assert "Take it when:" in told[name], name
        assert "Costs:" in told[name], name
        assert f"Presets of {name}" in told[name], name
        assert f"digits/{name}" in told[name], name


def test_every_command_and_flag_stands_on_the_page_of_commands(pages):
    import typer

    from raydd.cli import app

    told = pages["commands.html"].text
    for words, command, _ in loaded("reference").walk(typer.main.get_command(app), "raydd"):
        text = told[words.replace(" ", "-")]
        flags = [name for param in command.params for name in param.opts if name.startswith("--")]
        assert not [flag for flag in flags if flag not in text], words
        assert " ".join((command.help or "").split("\n\n")[0].replace("`", "").split()) in " ".join(text.split()), words


def test_every_setting_is_told_with_its_default_and_meaning(pages):
    text = "".join(pages["settings.html"].text.values())
    rows = [*settings(raydd.DistillConfig).values(), *settings(raydd.EvaluateConfig).values()]
    assert len(rows) > 80
    assert not [row.key for row in rows if row.key not in text or not row.meaning]


def test_pages_load_nothing_from_elsewhere(folder, pages):
    foreign = [(name, path) for name, page in pages.items() for path in page.loads if "//" in path]
    assert not foreign
    assert all(page.loads for page in pages.values())
    for style in folder.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_what_pages_load_is_there(folder, pages):
    gone = [
        (name, path)
        for name, page in pages.items()
        for path in page.loads
        if name != "404.html" and not path.startswith("data:") and not (folder / unquote(urlsplit(path).path)).is_file()
    ]
    assert not gone


def test_links_between_pages_lead_to_anchors_that_are_there(pages):
    dead, seen = [], 0
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or name == "404.html":
                continue
            seen += 1
            target = unquote(parts.path) or name
            if target in (".", "./"):
                target = "index.html"
            if target not in pages or (parts.fragment and unquote(parts.fragment) not in pages[target].anchors):
                dead.append((name, link))
    assert not dead
    assert seen > 500


def test_links_to_docs_from_other_files_lead_to_headings(pages):
    found = []
    for origin in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("*/README.md")]:
        for path, anchor in re.findall(
            r"\]\((?:\.\./)?docs/(\w+)\.md(?:#([\w-]+))?\)", origin.read_text(encoding="utf-8")
        ):
            found.append(f"{path}.html")
            assert found[-1] in pages, f"{origin}: docs/{path}.md"
            assert not anchor or anchor in pages[found[-1]].anchors, f"{origin}: docs/{path}.md#{anchor}"
    assert "results.html" in found


def test_equations_are_drawn_by_the_browser_itself(pages):
    for name, page in pages.items():
        text = "".join(page.text.values())
        assert "$$" not in text, name
        assert "arithmatex" not in text, name
    shown = ["".join(told) for kind, told in pages["methods.html"].math if kind == "block"]
    assert len(shown) == (DOCS / "methods.md").read_text(encoding="utf-8").count("\n$$\n") / 2 >= 15
    assert all(equation.strip() and "\\" not in equation for equation in shown)


def test_an_equation_that_is_not_known_is_an_error():
    hooks = loaded("hooks")
    assert "<mfrac>" in hooks.equation("div", r"\frac{a}{b} &lt; 1")
    with pytest.raises(ValueError, match="latex2mathml does not know"):
        hooks.equation("span", r"\unheard x")


def test_links_out_of_docs_lead_to_the_pages_that_show_those_files():
    address = loaded("hooks").address
    assert address("docs/tuning.md", "../examples/README.md") == "examples.md"
    assert address("docs/nas.md", "../examples/rank_architectures.py") == "examples.md#rank_architecturespy"
    assert address("examples/README.md", "../docs/tuning.md") == "tuning.md"
    assert address("examples/README.md", "tune.py") == "examples.md#tunepy"
    assert address("docs/tuning.md", "nas.md") == "nas.md"
