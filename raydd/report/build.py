"""The page of one or several runs, in one file that fetches nothing."""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup, escape

from raydd.data.score_record import Missing
from raydd.io.console import Screen
from raydd.io.files import write_atomic
from raydd.io.uri import is_uri, public_uri
from raydd.report import continual, distillation, experts, folder, ranking, reproduce, scores, search
from raydd.report.campaign import CAMPAIGN, campaign_headline, campaign_sections
from raydd.report.compare import compare_section, names_of
from raydd.report.continual import CONTINUAL
from raydd.report.distillation import distilled_headline
from raydd.report.documents import SCORES
from raydd.report.html import Section, render
from raydd.run.storage import open_file

_INNER = re.compile(r'( id="|href="#|data-frame="|url\(#)((?:frame|figure)-[0-9a-f]+[-"])')


class Kind(NamedTuple):
    """A kind of folder."""

    name: str  # in words
    is_one: Callable[[Path], object]  # returns a true value if a path is of this kind
    # returns its parts of the page; a ValueError refuses a damaged file in one line, and so in headline
    sections: Callable[[Path], list[Section]]
    headline: Callable[[Path], str]  # returns the result in a line of plain text


KINDS: tuple[Kind, ...] = (
    Kind("distillation", folder.is_distilled, distillation.distilled_sections, distilled_headline),
    Kind("search", search.is_search, search.tune_sections, search.tune_headline),
    Kind("ranking of architectures", ranking.RANKING.find, ranking.nas_sections, ranking.nas_headline),
    Kind("class-incremental learning", CONTINUAL.find, continual.continual_sections, continual.continual_headline),
    Kind("ablation", continual.ABLATION.find, continual.ablation_sections, continual.ablation_headline),
    Kind("campaign", CAMPAIGN.find, campaign_sections, campaign_headline),
    Kind("scores", SCORES.find, scores.score_sections, scores.score_headline),
    Kind("course of the distillation", folder.is_distilled, distillation.course_sections, distilled_headline),
    Kind("experts", experts.is_buffer, experts.buffer_sections, experts.buffer_headline),
    Kind("what was run", folder.is_distilled, reproduce.made_sections, distilled_headline),
)
"""In the order of their sections on a page; the first kind of a path gives the headline."""


def kinds_of(path: Path) -> list[Kind]:
    """Return the kinds of a path."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; name a folder that raydd wrote")
    if kinds := [kind for kind in KINDS if kind.is_one(path)]:
        return kinds
    remedy = "name a folder of raydd distill, tune, nas, evaluate --out, continual, ablate, campaign or experts"
    if path.is_file():
        raise ValueError(f"{path} is no file that a report is made of; {remedy}, a scores.json or a synset.arrow")
    names = sorted(entry.name for entry in path.iterdir())
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    holds = f"holds {', '.join(names[:5])}{more}" if names else "is empty"
    inside = [entry for entry in sorted(path.iterdir()) if any(kind.is_one(entry) for kind in KINDS)]
    hint = f"name a run in it, such as {inside[0]}" if inside else remedy
    raise ValueError(f"{path} {holds}, which is no run; {hint}")


class RunPart(NamedTuple):
    """A run's part of a page of several."""

    anchor: str
    name: str
    headline: str
    sections: list[Section]


def missing_of(path: Path) -> list[Missing]:
    """Return the trainings that the results of a path lack."""
    files = (SCORES, ranking.RANKING, CONTINUAL, continual.ABLATION)
    return [one for file in files if file.find(path) for one in file.read(path).missing]


def write_report(paths: Sequence[Path], out: Path | str, places: Sequence[str] = ()) -> Path | str:
    """Write the page of one or several runs to a path or a URI, whole or not at all; equal runs give equal bytes.

    Returns:
        The page's path; at a URI where it is there, as text.
    """
    page = build_page(paths, places).encode()
    with open_file(out, "raydd report", Screen().note) as (storage, file):
        write_atomic(file, page)
    return storage.output(file) if is_uri(out) else file


def build_page(paths: Sequence[Path], places: Sequence[str] = ()) -> str:
    """Return the page of one or several runs, in this order; a ValueError refuses a damaged file.

    ``places`` are where the runs are, if ``paths`` are copies of what is at URIs: the page names those.
    """
    if not paths:
        raise ValueError("no run is given; name a folder that raydd wrote, such as runs/quickstart")
    pairs = zip(paths, places or map(str, paths), strict=True)
    known = [public_uri(place).partition("?")[0] if is_uri(place) else str(path) for path, place in pairs]
    page = _whole(paths, names_of([*map(Path, known)]))
    for path, place in zip(paths, known, strict=True):
        page = page.replace(escape(str(path)), escape(place))
    return page


def _whole(paths: Sequence[Path], names: Sequence[str]) -> str:
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
