"""Architecture search by proxy on a page, from the ``nas.json`` that `raydd nas` writes; docs/nas.md has its keys."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from markupsafe import Markup
from pydantic import Field, model_validator

from raydd.figures.ranking import draw_ranking
from raydd.figures.score_tables import chance, decimal, percent, spread
from raydd.io.console import clock
from raydd.io.document import Document, Finite, Fraction, read_document
from raydd.report.documents import document_file, file_of
from raydd.report.html import Cell, Column, Row, Section, chart, macros, table
from raydd.report.scores import SELECTIONS, number_cell

Numbers = Mapping[str, float]  # by architecture
Values = Mapping[str, Sequence[float]]
RANKING = ("nas.json", "nas")
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


def is_ranking(path: Path) -> bool:
    """Return whether it is a document of `raydd nas`, or a folder that holds it."""
    return file_of(path, *RANKING) is not None


def nas_headline(path: Path) -> str:
    """Return the agreement of the first proxy with real data in a line."""
    document = _read(path)
    first = document.proxies[0]
    counts = f"{document.architectures} architectures of {document.space} on {document.dataset}"
    if first.agreement is None:
        return f"{first.name} ranks {counts}: the best is {first.winner.architecture}"
    return f"{first.name} ranks {counts}: Spearman {decimal(first.agreement.spearman)} with training on real data"


def nas_sections(path: Path) -> list[Section]:
    """Return the scatters, the agreement of the rankings, and the architectures."""
    document, template = _read(path), macros("ranking")
    seconds = None if document.real_seconds is None else clock(document.real_seconds)
    charts = "" if document.real is None else _scatters(document, document.real)
    judged = [agreed for proxy in document.proxies if (agreed := proxy.agreement) is not None]
    undefined = any(None in (top.spearman, top.overlap) for agreed in judged for top in agreed.tops)
    agreement = _agreement(document) if document.real is not None and judged else ""
    best = judged[0] if judged else None
    body = template.section(document, _words(document), charts, MOST_POINTS, agreement, best, seconds, undefined)
    each = template.architectures(document, MOST_ROWS, _architectures(document))
    return [Section("ranking", "Architectures ranked", body), Section("architectures", "Each architecture", each)]


def _read(path: Path) -> Ranking:
    return read_document(document_file(path, *RANKING), Ranking, "`raydd nas` with the same --out writes it anew")


def _words(document: Ranking) -> list[tuple[str, str]]:
    """Return the budget, the selection, and the best architecture by each proxy."""
    pairs = [("data set", document.dataset), ("protocol", document.protocol)]
    pairs.append(("seeds", f"{document.seeds}, from {document.seed}"))
    ranked = f"{document.selection}: {SELECTIONS.get(document.selection, '')}".rstrip(": ")
    words = {"honest": "honest: proxies rank on validation images, which real training and the final test do not use"}
    pairs.append((f"ranked on {document.split} images", words.get(document.selection, ranked)))
    if document.rungs:
        pairs.append(("stopped early", f"those far from the best after {', '.join(map(str, document.rungs))} epochs"))
    for proxy in document.proxies:
        best = proxy.winner
        text = f"{best.architecture}, {percent(best.accuracy)} % on the proxy"
        if best.real_accuracy is not None and best.regret is not None:
            text += f"; {percent(best.real_accuracy)} % by real data, {percent(best.regret)} below the best of all"
        pairs.append((f"best by {proxy.name}", text))
    return pairs


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


def _agreement(document: Ranking) -> Markup:
    """Return a row a proxy: correlations, tops, and times."""
    judged = [(proxy, agreed) for proxy in document.proxies if (agreed := proxy.agreement) is not None]
    columns = [Column("proxy"), Column("Spearman, all", numeric=True), Column("95 % interval")]
    columns += [Column("p", numeric=True, note="two-sided, of no association"), Column("Kendall tau-b", numeric=True)]
    for k in (top.k for top in judged[0][1].tops):
        columns.append(Column(f"Spearman, top {k}", numeric=True, note=f"among the proxy's best {k}"))
        columns.append(Column(f"overlap, top {k}", numeric=True, note=f"of the proxy's best {k}, the real best {k}"))
        columns.append(Column(f"regret, top {k}", numeric=True, note="points of % below the best of all"))
    columns += [Column("time", numeric=True, note="of all trainings together"), Column("s a training", numeric=True)]
    caption = f"Agreement with the ranking by real data, {judged[0][1].architectures} architectures"
    return table(columns, [_row(*pair) for pair in judged], caption)


def _row(proxy: Proxy, agreed: Agreement) -> Row:
    low, high = agreed.spearman_low, agreed.spearman_high
    interval = "-" if low is None or high is None else f"{decimal(low)} to {decimal(high)}"
    p = number_cell(chance(agreed.spearman_p), agreed.spearman_p)
    cells: list[Cell | str] = [proxy.name, _cell(agreed.spearman), interval, p, _cell(agreed.kendall)]
    for top in agreed.tops:
        shared = None if top.overlap is None else round(top.overlap * top.k)
        cells.append(_cell(top.spearman, "" if top.spearman_p is None else f"p {chance(top.spearman_p)}"))
        cells.append(number_cell("-" if shared is None else f"{shared} of {top.k}", shared))
        cells.append(number_cell(percent(top.regret), top.regret))
    return [*cells, Cell(clock(proxy.seconds), proxy.seconds), Cell(f"{proxy.seconds_mean:.2f}", proxy.seconds_mean)]


def _architectures(document: Ranking) -> Markup:
    """Return a row an architecture, the first proxy's best first."""
    real = document.real
    columns, sources = [Column("architecture")], list[tuple[Numbers, Values, Numbers, Numbers, Numbers]]()
    for proxy in document.proxies:
        columns += [Column(f"{proxy.name}: {word}", numeric=True) for word in ("accuracy", "rank", "seconds")]
        ranks = {name: place for place, name in enumerate(proxy.ranking, start=1)}
        sources.append((proxy.scores, proxy.values, ranks, proxy.seconds_of, proxy.stopped_after))
    if real is not None:
        columns += [Column(f"real data: {word}", numeric=True) for word in ("accuracy", "rank", "seconds")]
        ranking = sorted(real, key=real.__getitem__, reverse=True)  # of equal ones the first, as in ranking.csv
        ranks = {name: place for place, name in enumerate(ranking, start=1)}
        sources.append((real, document.real_values or {}, ranks, document.real_seconds_of or {}, {}))
    names = document.proxies[0].ranking[:MOST_ROWS]
    rows: list[Row] = [[name, *(cell for source in sources for cell in _cells(name, *source))] for name in names]
    return table(columns, rows, f"Architectures of {document.space}, accuracy in %")


def _cells(
    name: str, scores: Numbers, values: Values, ranks: Numbers, seconds: Numbers, stopped: Numbers
) -> list[Cell]:
    """Return an architecture's accuracy, rank and seconds."""
    if name not in scores:
        return [number_cell("-", None)] * 3
    each = values.get(name, ())
    text = spread(scores[name], statistics.stdev(each) if len(each) > 1 else None)
    text += f" ({len(each)})" if len(each) > 1 else ""
    early = f"stopped after {stopped[name]} epochs" if name in stopped else ""
    time = seconds.get(name)
    first = Cell(text + (", stopped" if early else ""), scores[name], early)
    last = number_cell("-" if time is None else f"{time:.1f}", time)
    return [first, Cell(str(ranks[name]), ranks[name]), last]


def _cell(value: float | None, note: str = "") -> Cell:
    return number_cell(decimal(value), value, note)
