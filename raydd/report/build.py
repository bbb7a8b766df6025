"""The page of one or several runs, in one file that fetches nothing."""

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from raydd.io.files import write_atomic
from raydd.report.compare import compare_section, names_of
from raydd.report.html import Section, render
from raydd.report.kinds import kinds_of

_INNER = re.compile(r'( id="|href="#|data-frame="|url\(#)((?:frame|figure)-[0-9a-f]+[-"])')


class RunPart(NamedTuple):
    """A run's part of a page of several."""

    anchor: str
    name: str
    headline: str
    sections: list[Section]


def write_report(paths: Sequence[Path], out: Path) -> Path:
    """Write the page of one or several runs, whole or not at all; equal runs give equal bytes."""
    return write_atomic(out, build_page(paths).encode())


def build_page(paths: Sequence[Path]) -> str:
    """Return the page of one or several runs, in this order; a ValueError refuses a damaged file."""
    if not paths:
        raise ValueError("no run is given; name a folder that raydd wrote, such as runs/quickstart")
    names = names_of(paths)
    if len(paths) == 1:
        one = _part(paths[0], names[0], "")
        return _page(one.name, one.headline, one.sections, one.sections)
    parts = [_part(path, name, f"run-{place}") for place, (path, name) in enumerate(zip(paths, names, strict=True), 1)]
    shared = [compare_section(paths, names)]
    contents = shared + [Section(part.anchor, part.name, Markup()) for part in parts]
    return _page(", ".join(names), f"{len(paths)} runs side by side", contents, shared, parts)


def _part(path: Path, name: str, anchor: str) -> RunPart:
    """Return the sections of a run; anchors and the ids of pictures differ from those of other runs."""
    kinds, prefix = kinds_of(path), anchor and f"{anchor}-"
    sections: list[Section] = []
    for section in (section for kind in kinds for section in kind.sections(path)):
        known, own = {other.anchor for other in sections}, f"{prefix}{section.anchor}"
        names = [own, *(f"{own}-{number}" for number in range(2, len(known) + 3))]
        body = Markup(_INNER.sub(rf"\1{prefix}\2", str(section.body)))
        sections.append(Section(next(each for each in names if each not in known), section.title, body))
    return RunPart(anchor, name, kinds[0].headline(path), sections)


def _page(
    title: str, lead: str, contents: Sequence[Section], sections: Sequence[Section], runs: Sequence[RunPart] = ()
) -> str:
    files = resources.files("raydd.report")
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values = {"title": title, "lead": lead, "contents": contents, "sections": sections, "runs": runs}
    texts = {"style": Markup(style), "script": Markup(script), "digest": digest, "version": version("raydd")}
    return render("page", **values, **texts)
