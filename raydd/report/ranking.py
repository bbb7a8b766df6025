"""Architecture search by proxy on a page, from the ``nas.json`` that `raydd nas` writes; docs/nas.md has its keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from markupsafe import Markup
from pydantic import Field, model_validator

from raydd.data.score_record import Missing
from raydd.figures.cells import Cell, Row, decimal, number_cell, spread
from raydd.figures.ranking import Source, agreement_rows, draw_ranking, sources
from raydd.figures.score_tables import SELECTIONS
from raydd.io.document import Document, Finite, Fraction
from raydd.report.documents import DocumentFile
from raydd.report.html import Section, chart, macros, table
from raydd.report.missing import missing_table

MOST_ROWS = 400  # of the table; ranking.csv has all
MOST_POINTS = 800  # of a scatter; of more, evenly through the ranking


class Top(Document):
    """The agreement of the proxy's best k with real data."""

    k: int
    overlap: Fraction | None
    spearman: Finite | None
    spearman_p: Finite | None = None
    regret: Finite | None
    names: tuple[str, ...] | None
    found_accuracy: Fraction | None


class Agreement(Document):
    """The agreement of a proxy's ranking with that by real data."""

    architectures: int
    spearman: Finite | None
    spearman_p: Finite | None = None
    spearman_low: Finite | None
    spearman_high: Finite | None
    kendall: Finite | None
    best: str
    best_accuracy: Fraction
    tops: tuple[Top, ...]


class Winner(Document):
    """The best architecture by the proxy."""

    architecture: str
    accuracy: Fraction
    real_accuracy: Fraction | None
    regret: Finite | None


class Proxy(Document):
    """A set that ranks architectures."""

    name: str
    kind: str
    selection: str = "unknown"
    scores: dict[str, Fraction]
    values: dict[str, tuple[Fraction, ...]] = Field(default_factory=dict)
    ranking: Annotated[tuple[str, ...], Field(min_length=1)]
    stopped_after: dict[str, int]
    seconds: Finite
    seconds_mean: Finite
    seconds_of: dict[str, Finite]
    winner: Winner
    agreement: Agreement | None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not set(self.ranking) == self.scores.keys() == self.seconds_of.keys():
            raise ValueError(f"{self.name}: ranking, scores and seconds_of name other architectures")
        return self


class Ranking(Document):
    """The document of `raydd nas`."""

    space: str
    space_size: int
    architectures: int
    dataset: str
    protocol: str
    epochs: int
    split: str
    selection: str = "unknown"
    seeds: int
    seed: int = 0
    rungs: tuple[int, ...]
    proxy_label: str
    real: dict[str, Fraction] | None
    real_values: dict[str, tuple[Fraction, ...]] | None = None
    real_label: str | None
    real_seconds: Finite | None
    real_seconds_of: dict[str, Finite] | None = None
    proxies: Annotated[tuple[Proxy, ...], Field(min_length=1)]
    missing: tuple[Missing, ...] = ()


RANKING = DocumentFile("nas.json", "nas", Ranking, "`raydd nas` with the same --out writes it anew")


def nas_headline(path: Path) -> str:
    """Return the agreement of the first proxy with real data in a line."""
    document = RANKING.read(path)
    first = document.proxies[0]
    counts = f"{document.architectures} architectures of {document.space} on {document.dataset}"
    if first.agreement is None:
        return f"{first.name} ranks {counts}: the best is {first.winner.architecture}"
    return f"{first.name} ranks {counts}: Spearman {decimal(first.agreement.spearman)} with training on real data"


def nas_sections(path: Path) -> list[Section]:
    """Return the scatters, the agreement of the rankings, and the architectures."""
    document, template = RANKING.read(path), macros("ranking")
    tree = document.model_dump()
    judged = [(proxy, agreed) for proxy in document.proxies if (agreed := proxy.agreement) is not None]
    charts = agreement = Markup()
    if document.real is not None:
        charts = _scatters(document, document.real)
    if document.real is not None and judged:
        notes = {"p": "two-sided, of no association", "time": "of all trainings together"}
        for k in (top.k for top in judged[0][1].tops):
            notes[f"Spearman, top {k}"] = f"among the proxy's best {k}"
            notes[f"overlap, top {k}"] = f"of the proxy's best {k}, the real best {k}"
            notes[f"regret, top {k}"] = "points of % below the best of all"
        caption = f"Agreement with the ranking by real data, {judged[0][1].architectures} architectures"
        agreement = table(agreement_rows(tree), caption, notes)
    undefined = any(None in (top.spearman, top.overlap) for _, agreed in judged for top in agreed.tops)
    best = judged[0][1] if judged else None
    body = template.section(document, SELECTIONS, charts, MOST_POINTS, agreement, best, undefined)
    body += missing_table(document.missing)
    known = sources(tree)
    rows: list[Row] = [
        {"architecture": name, **{title: cell for source in known for title, cell in _cells(name, source).items()}}
        for name in document.proxies[0].ranking[:MOST_ROWS]
    ]
    each = template.architectures(document, MOST_ROWS, table(rows, f"Architectures of {document.space}, accuracy in %"))
    return [Section("ranking", "Architectures ranked", body), Section("architectures", "Each architecture", each)]


def _scatters(document: Ranking, real: Mapping[str, float]) -> Markup:
    """Return accuracy by each proxy against accuracy by real data, of at most `MOST_POINTS` architectures a proxy."""
    proxies = []
    for proxy in document.proxies:
        tops = proxy.agreement.tops if proxy.agreement else ()
        best = (tops[0].names or ()) if tops else ()
        places = [name for name in proxy.ranking if name in real]
        every = -(-len(places) // MOST_POINTS)
        scores = {n: proxy.scores[n] for at, n in enumerate(places) if n in best or at % every == 0}
        proxies.append(proxy.model_dump() | {"scores": scores, "stopped": [*proxy.stopped_after]})
    return chart(draw_ranking(document.model_dump() | {"proxies": proxies}))


def _cells(name: str, source: Source) -> Row:
    """Return an architecture's accuracy, rank and seconds."""
    cells = [number_cell("-", None)] * 3
    if name in source.scores:
        text = spread(source.scores[name], source.deviation(name))
        text += f" ({len(source.values[name])})" if source.deviation(name) is not None else ""
        early = f"stopped after {source.stopped[name]} epochs" if source.stopped and name in source.stopped else ""
        time = source.seconds.get(name)
        cells[0] = Cell(text + (", stopped" if early else ""), source.scores[name], early)
        cells[1] = Cell(str(source.ranks[name]), source.ranks[name])
        cells[2] = number_cell("-" if time is None else f"{time:.1f}", time)
    return dict(zip((f"{source.name}: {word}" for word in ("accuracy", "rank", "seconds")), cells, strict=True))
