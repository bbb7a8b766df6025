"""A page put together: head, headline, contents, sections, style and script, all in one file that fetches nothing.

Shapes: none.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from raydd.io.files import write_atomic
from raydd.report.compare import compare_section, names_of
from raydd.report.html import Section, escape
from raydd.report.kinds import kinds_of

_INNER = re.compile(r'(id="|href="#|data-frame=")(frame-[0-9a-f]+)"')


def write_report(paths: Sequence[Path], out: Path) -> Path:
    """Write the page of one or several runs, whole or not at all; equal runs give equal bytes.

    Args:
        paths: Folders that raydd wrote, or files in them.
        out: The file; its name ends in ``.html``.

    Returns:
        The file.

    Raises:
        ValueError: See `build_page`; or ``out`` is no name of a page.
    """
    return write_atomic(out, build_page(paths).encode())


def build_page(paths: Sequence[Path]) -> str:
    """The page of one or several runs.

    Args:
        paths: Folders that raydd wrote, or files in them; in this order on the page.

    Raises:
        ValueError: None is given, one is no run, or a file is damaged.
    """
    if not paths:
        raise ValueError("no run is given; name a folder that raydd wrote, such as runs/quickstart")
    if len(paths) == 1:
        return _page_of_one(paths[0])
    found = [kinds_of(path) for path in paths]
    names, lead = names_of(paths), f"{len(paths)} runs side by side"
    shared = compare_section(paths, names)
    parts, contents = [_section(shared, 2)], [(shared.anchor, shared.title)]
    for place, (path, name, kinds) in enumerate(zip(paths, names, found, strict=True), 1):
        sections = _distinct((section for kind in kinds for section in kind.sections(path)), f"run-{place}-")
        inner = "".join(_section(section, 3) for section in sections)
        head = f'<h2 id="run-{place}">{escape(name)}</h2><p class="lead">{escape(kinds[0].headline(path))}</p>'
        inner = head + _links(_contents(sections), name) + _own(inner, place)
        parts.append(f'<article aria-labelledby="run-{place}">{inner}</article>')
        contents.append((f"run-{place}", name))
    return _page(", ".join(names), lead, contents, "".join(parts))


def _page_of_one(path: Path) -> str:
    kinds = kinds_of(path)
    sections = _distinct((section for kind in kinds for section in kind.sections(path)), "")
    body = "".join(_section(section, 2) for section in sections)
    return _page(names_of([path])[0], kinds[0].headline(path), _contents(sections), body)


def _distinct(sections: Iterable[Section], prefix: str) -> list[Section]:
    """The sections with anchors that stand for one of them each."""
    found: list[Section] = []
    for section in sections:
        anchor = f"{prefix}{section.anchor}"
        taken = {other.anchor for other in found}
        places = (f"{anchor}-{number}" for number in range(2, len(taken) + 3))
        found.append(
            section._replace(anchor=anchor if anchor not in taken else next(p for p in places if p not in taken))
        )
    return found


def _own(body: str, place: int) -> str:
    """A run's part whose pictures' names are its own: equal runs stand beside each other."""
    return _INNER.sub(rf'\1run-{place}-\2"', body)


def _contents(sections: Sequence[Section]) -> list[tuple[str, str]]:
    return [(section.anchor, section.title) for section in sections]


def _section(section: Section, level: int) -> str:
    title = f'<h{level} id="{section.anchor}">{escape(section.title)}</h{level}>'
    return f'<section aria-labelledby="{section.anchor}">{title}{section.body}</section>'


def _links(contents: Sequence[tuple[str, str]], name: str) -> str:
    entries = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in contents)
    return f'<nav class="contents screen-only" aria-label="{escape(name)}"><ul>{entries}</ul></nav>'


def _page(title: str, lead: str, contents: Sequence[tuple[str, str]], body: str) -> str:
    files = resources.files("raydd.report")
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    policy += "; base-uri 'none'; form-action 'none'"
    shown = escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta name="generator" content="raydd {version("raydd")}">\n'
        f'<title>{shown} - raydd</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n<body>\n'
        '<a class="skip" href="#content">Skip to the content</a>\n'
        f'<header><p class="brand">raydd report</p><h1>{shown}</h1><p class="lead">{escape(lead)}</p>'
        '<button type="button" id="theme" class="screen-only" hidden>Dark</button></header>\n'
        f'{_links(contents, "Contents")}\n<main id="content" tabindex="-1">{body}</main>\n'
        f"<footer><p>Made by raydd {version('raydd')} of what the run wrote; this file loads nothing.</p></footer>\n"
        f'<div id="tip" aria-hidden="true" hidden></div>\n<script>{script}</script>\n</body>\n</html>\n'
    )
