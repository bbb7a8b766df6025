"""The kinds of folders that a page can show, a row a kind. A folder may be of several kinds."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from raydd.report import continual, distillation, experts, folder, ranking, reproduce, scores, search
from raydd.report.continual import CONTINUAL
from raydd.report.distillation import distilled_headline
from raydd.report.documents import SCORES
from raydd.report.html import Section


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
    remedy = "name a folder of raydd distill, tune, nas, evaluate --out, continual, ablate or experts"
    if path.is_file():
        raise ValueError(f"{path} is no file that a report is made of; {remedy}, a scores.json or a synset.arrow")
    names = sorted(entry.name for entry in path.iterdir())
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    holds = f"holds {', '.join(names[:5])}{more}" if names else "is empty"
    inside = [entry for entry in sorted(path.iterdir()) if any(kind.is_one(entry) for kind in KINDS)]
    hint = f"name a run in it, such as {inside[0]}" if inside else remedy
    raise ValueError(f"{path} {holds}, which is no run; {hint}")
