"""The kinds of folders that a page can show, a row a kind. A folder may be of several kinds."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from raydd.report.continual import (
    ablation_headline,
    ablation_sections,
    continual_headline,
    continual_sections,
    is_ablation,
    is_continual,
)
from raydd.report.distillation import course_sections, distilled_headline, distilled_sections
from raydd.report.experts import buffer_headline, buffer_sections, is_buffer
from raydd.report.folder import is_distilled
from raydd.report.html import Section
from raydd.report.ranking import is_ranking, nas_headline, nas_sections
from raydd.report.reproduce import made_sections
from raydd.report.scores import is_scored, score_headline, score_sections
from raydd.report.search import is_search, tune_headline, tune_sections


class Kind(NamedTuple):
    """A kind of folder."""

    name: str  # in words
    is_one: Callable[[Path], bool]  # returns whether a path is of this kind
    # returns its parts of the page; a ValueError refuses a damaged file in one line, and so in headline
    sections: Callable[[Path], list[Section]]
    headline: Callable[[Path], str]  # returns the result in a line of plain text


KINDS: tuple[Kind, ...] = (
    Kind("distillation", is_distilled, distilled_sections, distilled_headline),
    Kind("search", is_search, tune_sections, tune_headline),
    Kind("ranking of architectures", is_ranking, nas_sections, nas_headline),
    Kind("class-incremental learning", is_continual, continual_sections, continual_headline),
    Kind("ablation", is_ablation, ablation_sections, ablation_headline),
    Kind("scores", is_scored, score_sections, score_headline),
    Kind("course of the distillation", is_distilled, course_sections, distilled_headline),
    Kind("experts", is_buffer, buffer_sections, buffer_headline),
    Kind("what was run", is_distilled, made_sections, distilled_headline),
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
