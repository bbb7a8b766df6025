"""Architecture search by proxy on a page, from the ``nas.json`` that `raydd nas` writes; docs/nas.md has its keys.

Shapes: none; accuracies are fractions in documents, per cent on the page.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from raydd.figures.score_tables import chance, percent, spread
from raydd.io.console import clock
from raydd.report.charts import Point, scatter
from raydd.report.documents import Document, Finite, Fraction, file_of, found_in, read_document
from raydd.report.html import Cell, Column, Section, definitions, paragraph, table
from raydd.report.scores import SELECTIONS, number_cell

RANKING = ("nas.json", "nas")
MOST_ROWS = 400  # of the table; ranking.csv has all
MOST_POINTS = 800  # of a scatter; of more, evenly through the ranking
STOPPED, OTHER = "stopped early, its last accuracy", "an architecture"


class Top(Document):
    """How the proxy's best k agree with the real ones."""

    k: int
    overlap: Fraction | None
    spearman: Finite | None
    spearman_p: Finite | None = None
    regret: Finite | None
    names: tuple[str, ...] | None
    found_accuracy: Fraction | None


class Agreement(Document):
    """How a proxy's ranking agrees with that by real data."""

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
    """The architecture that a search by the proxy would take."""

    architecture: str
    accuracy: Fraction
    real_accuracy: Fraction | None
    regret: Finite | None


class Proxy(Document):
    """A set that ranks."""

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
    """What `raydd nas` writes."""

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
    """Whether it is a document of `raydd nas`, or a folder that holds it."""
    return file_of(path, *RANKING) is not None


def nas_headline(path: Path) -> str:
    """How far the first proxy agrees, in a line."""
    found = _read(path)
    first, counts = found.proxies[0], f"{found.architectures} architectures of {found.space} on {found.dataset}"
    if first.agreement is None:
        return f"{first.name} ranks {counts}: the best is {first.winner.architecture}"
    return f"{first.name} ranks {counts}: Spearman {_number(first.agreement.spearman)} with training on real data"


def nas_sections(path: Path) -> list[Section]:
    """The scatters, how the rankings agree, and the architectures.

    Raises:
        ValueError: The document is damaged.
    """
    found = _read(path)
    body = paragraph(_sentence(found)) + definitions(_words(found))
    if found.real is not None:
        body += "".join(_scatter(found, proxy, found.real) for proxy in found.proxies)
        body += _agreement(found)
    each = _left_out(found) + _architectures(found)
    return [Section("ranking", "Architectures ranked", body), Section("architectures", "Each architecture", each)]


def _read(path: Path) -> Ranking:
    return read_document(found_in(path, *RANKING), Ranking, "`raydd nas` with the same --out writes it anew")


def _sentence(found: Ranking) -> str:
    size = "all" if found.architectures == found.space_size else f"{found.architectures} of {found.space_size}"
    text = f"{size[0].upper()}{size[1:]} architectures of {found.space} were trained {found.proxy_label}"
    text += f", and {found.real_label}" if found.real is not None else "; no ranking by real data stands beside it"
    seeds = (
        f"Accuracies are means of {found.seeds} fresh networks" if found.seeds > 1 else "Accuracies are of one network"
    )
    return f"{text}. {seeds} an architecture, in per cent."


def _words(found: Ranking) -> list[tuple[str, str]]:
    """Budget, honesty, and the architecture that each proxy finds."""
    pairs = [("data set", found.dataset), ("protocol", found.protocol), ("seeds", f"{found.seeds}, from {found.seed}")]
    ranked = f"{found.selection}: {SELECTIONS.get(found.selection, '')}".rstrip(": ")
    words = {"honest": "honest: proxies rank on validation images, which real training and the final test do not use"}
    pairs.append((f"ranked on {found.split} images", words.get(found.selection, ranked)))
    if found.rungs:
        pairs.append(("stopped early", f"those far from the best after {', '.join(map(str, found.rungs))} epochs"))
    for proxy in found.proxies:
        best = proxy.winner
        text = f"{best.architecture}, {percent(best.accuracy)} % on the proxy"
        if best.real_accuracy is not None and best.regret is not None:
            text += f"; {percent(best.real_accuracy)} % by real data, {percent(best.regret)} below the best of all"
        pairs.append((f"best by {proxy.name}", text))
    return pairs


def _scatter(found: Ranking, proxy: Proxy, real: Mapping[str, float]) -> str:
    """Accuracy by the proxy against accuracy by real data; the proxy's best and what was stopped are marked."""
    tops = proxy.agreement.tops if proxy.agreement else ()
    chosen = (tops[0].names or ()) if tops else ()
    places = [name for name in proxy.ranking if name in real]
    every = -(-len(places) // MOST_POINTS)
    shown = [name for place, name in enumerate(places) if name in chosen or place % every == 0]
    best = f"among the proxy's best {len(chosen)}"
    groups = {name: best if name in chosen else STOPPED if name in proxy.stopped_after else OTHER for name in shown}
    order = (OTHER, best, STOPPED)  # the same colours in every chart
    points = []
    for name in sorted(shown, key=lambda name: order.index(groups[name])):
        ends = f"{percent(proxy.scores[name])} % by {proxy.name}, {percent(real[name])} % by real data"
        points.append(Point(100 * proxy.scores[name], 100 * real[name], f"{name}: {ends}", groups[name]))
    rho = "" if proxy.agreement is None else f": Spearman {_number(proxy.agreement.spearman)}"
    part = f", {len(shown)} of {len(places)} drawn" if len(shown) < len(places) else ""
    x, y = f"accuracy by the proxy (%), {found.split} images", "accuracy by real data (%)"
    return scatter(points, x=x, y=y, title=f"{proxy.name}{rho}{part}")


def _agreement(found: Ranking) -> str:
    """A row a proxy: correlations, tops, what the search finds, and times."""
    judged = [(proxy, agreed) for proxy in found.proxies if (agreed := proxy.agreement) is not None]
    if not judged:
        return ""
    sizes = [top.k for top in judged[0][1].tops]
    columns = [Column("proxy"), Column("Spearman, all", numeric=True), Column("95 % interval")]
    columns += [Column("p", numeric=True, note="two-sided, of no association"), Column("Kendall tau-b", numeric=True)]
    for k in sizes:
        columns.append(Column(f"Spearman, top {k}", numeric=True, note=f"among the proxy's best {k}"))
        columns.append(Column(f"overlap, top {k}", numeric=True, note=f"of the proxy's best {k}, the real best {k}"))
        columns.append(Column(f"regret, top {k}", numeric=True, note="points of % below the best of all"))
    columns += [Column("time", numeric=True, note="of all trainings together"), Column("s a training", numeric=True)]
    rows = [_row(proxy, agreed) for proxy, agreed in judged]
    first = judged[0][1]
    time = "" if found.real_seconds is None else f" Training them by real data took {clock(found.real_seconds)} in all."
    told = (
        f"The best by real data is {first.best}, {percent(first.best_accuracy)} %.{time} Correlations compare at equal"
    )
    told += " budgets only."
    if any(None in (top.spearman, top.overlap) for _, agreed in judged for top in agreed.tops):
        told += " A dash: fewer architectures than the top has, or no correlation is defined."
    caption = f"Agreement with the ranking by real data, {first.architectures} architectures"
    return paragraph(told) + table(columns, rows, caption)


def _row(proxy: Proxy, agreed: Agreement) -> list[Cell | str]:
    low, high = agreed.spearman_low, agreed.spearman_high
    interval = "-" if low is None or high is None else f"{_number(low)} to {_number(high)}"
    p = number_cell(chance(agreed.spearman_p), agreed.spearman_p)
    cells: list[Cell | str] = [proxy.name, _cell(agreed.spearman), interval, p, _cell(agreed.kendall)]
    for top in agreed.tops:
        shared = None if top.overlap is None else round(top.overlap * top.k)
        note = "" if top.spearman_p is None else f"p {chance(top.spearman_p)}"
        cells.append(number_cell(_number(top.spearman), top.spearman)._replace(note=note))
        cells.append(number_cell("-" if shared is None else f"{shared} of {top.k}", shared))
        cells.append(number_cell(percent(top.regret), top.regret))
    return [*cells, Cell(clock(proxy.seconds), proxy.seconds), Cell(f"{proxy.seconds_mean:.2f}", proxy.seconds_mean)]


def _left_out(found: Ranking) -> str:
    count = len(found.proxies[0].ranking)
    part = (
        f"The best {MOST_ROWS} of {count} by {found.proxies[0].name}; ranking.csv has all. "
        if count > MOST_ROWS
        else ""
    )
    std = " ± standard deviation (n - 1), in brackets the number of networks" if found.seeds > 1 else ""
    return paragraph(f"{part}Accuracies in per cent{std}; seconds are of an architecture's trainings together.")


def _architectures(found: Ranking) -> str:
    """A row an architecture, the first proxy's best first."""
    real = found.real
    columns, makers = [Column("architecture")], list[Callable[[str], list[Cell]]]()
    for proxy in found.proxies:
        columns += [Column(f"{proxy.name}: {word}", numeric=True) for word in ("accuracy", "rank", "seconds")]
        makers.append(_maker(proxy.scores, proxy.values, proxy.ranking, proxy.seconds_of, proxy.stopped_after))
    if real is not None:
        columns += [Column(f"real data: {word}", numeric=True) for word in ("accuracy", "rank", "seconds")]
        ranking = sorted(real, key=real.__getitem__, reverse=True)  # of equal ones the first, as in ranking.csv
        makers.append(_maker(real, found.real_values or {}, ranking, found.real_seconds_of or {}, {}))
    names = found.proxies[0].ranking[:MOST_ROWS]
    rows: list[list[Cell | str]] = [[name, *(cell for maker in makers for cell in maker(name))] for name in names]
    return table(columns, rows, f"Architectures of {found.space}, accuracy in %")


def _maker(
    scores: Mapping[str, float],
    values: Mapping[str, Sequence[float]],
    ranking: Sequence[str],
    seconds: Mapping[str, float],
    stopped: Mapping[str, int],
) -> Callable[[str], list[Cell]]:
    """What makes an architecture's cells: accuracy, rank and seconds."""
    ranks = {name: place for place, name in enumerate(ranking, start=1)}

    def make(name: str) -> list[Cell]:
        if name not in scores:
            return [number_cell("-", None)] * 3
        each = values.get(name, ())
        shown = spread(scores[name], statistics.stdev(each) if len(each) > 1 else None)
        shown += f" ({len(each)})" if len(each) > 1 else ""
        early = f"stopped after {stopped[name]} epochs" if name in stopped else ""
        time = seconds.get(name)
        last = number_cell("-" if time is None else f"{time:.1f}", time)
        return [
            Cell(shown + (", stopped" if early else ""), scores[name], early),
            Cell(str(ranks[name]), ranks[name]),
            last,
        ]

    return make


def _cell(value: float | None) -> Cell:
    return number_cell(_number(value), value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
