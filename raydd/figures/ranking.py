"""How a proxy set ranks architectures against real data: a scatter a proxy set, and the table beside it.

A ranking document has ``space``, ``dataset``, ``proxy_label`` and ``real_label`` (how the networks were trained and
on which images tested: words that go on from "trained"), ``real`` (accuracy by architecture), ``real_seconds`` (may be
absent), and ``proxies``: dicts of ``name``, ``scores`` (accuracy by architecture), ``stopped`` (architectures stopped
early, whose accuracy is the last that was measured), ``agreement`` (of `raydd.evaluation.rank_agreement`) and
``seconds`` (may be absent).
"""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from itertools import product
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raydd.figures.cells import Cell, Row, chance, decimal, interval, number_cell, percent
from raydd.figures.style import add_tooltips, label, legend_below, new_figure, series_style
from raydd.io.console import clock

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
Styles = Mapping[str, Mapping[str, Any]]
ACROSS = 3  # panels side by side
LETTERS = 38  # of a line that is as wide as a panel
PLAIN = "an architecture"  # one that has no group
RING: dict[str, Any] = {"marker": "o", "facecolors": "none", "edgecolors": "black", "linewidths": 1.2}


def draw_ranking(document: Document, groups: Mapping[str, str] | None = None) -> "Figure":
    """Draw accuracy by the proxy set against accuracy by real data, a mark an architecture and a panel a proxy set.

    Hollow marks were stopped early; rings mark the proxy's best, as many as the first of its tops has. The colour is
    that of an architecture's group, such as its normalisation.
    """
    proxies = document["proxies"]
    across = min(ACROSS, len(proxies))
    down = -(-len(proxies) // across)
    words = {name: (groups or {}).get(name, PLAIN) for name in document["real"]}
    styles = {word: series_style(index) for index, word in enumerate(sorted(set(words.values())))}
    figure = new_figure(max(5.2, 0.6 + 4.0 * across), 1.4 + 3.7 * down + 0.1 * len(styles))
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for index, axes in enumerate(panels):
        if index >= len(proxies):
            axes.set_visible(False)
            continue
        _scatter(axes, document["real"], proxies[index], words, styles)
        x, y = (f"accuracy (%), trained {document[key]}" for key in ("proxy_label", "real_label"))
        label(axes, fill(x, LETTERS), fill(y, LETTERS) if index % across == 0 else "", _title(proxies[index]))
        axes.tick_params(labelleft=True)
        axes.margins(0.07)
    title = f"{document['dataset']}, {document['space']}: accuracy by a proxy set and by real data"
    figure.suptitle(fill(title, int(1.4 * LETTERS * across)), x=0.01, ha="left", fontsize="medium")
    legend_below(figure)
    return figure


def agreement_title(document: Document) -> str:
    """Return the title of a table of `agreement_rows`, with how the networks were trained."""
    title = f"{document['dataset']}, {document['space']}: agreement of the ranking trained {document['proxy_label']} "
    return f"{title}with that trained {document['real_label']}; regret: points of % below the best of all"


def agreement_rows(document: Document) -> list[Row]:
    """Return of each proxy set that is compared with real data the correlations, the tops and the times.

    Architectures are not named: names of NAS-Bench-201 have 80 letters.
    """
    return [_agreement(proxy) for proxy in document["proxies"] if proxy["agreement"] is not None]


def _agreement(proxy: Document) -> Row:
    agreed = proxy["agreement"]
    row: dict[str, Cell | str] = {
        "proxy": proxy["name"],
        "Spearman, all": number_cell(decimal(agreed["spearman"]), agreed["spearman"]),
        "95 % interval": interval(agreed["spearman_low"], agreed["spearman_high"], decimal),
        "p": number_cell(chance(agreed["spearman_p"]), agreed["spearman_p"]),
        "Kendall tau-b": number_cell(decimal(agreed["kendall"]), agreed["kendall"]),
    }
    for top in agreed["tops"]:
        k, p, shared = top["k"], top["spearman_p"], None if top["overlap"] is None else round(top["overlap"] * top["k"])
        note = "" if p is None else f"p {chance(p)}"
        row[f"Spearman, top {k}"] = number_cell(decimal(top["spearman"]), top["spearman"], note)
        row[f"overlap, top {k}"] = number_cell("-" if shared is None else f"{shared} of {k}", shared)
        row[f"regret, top {k}"] = number_cell(percent(top["regret"]), top["regret"])
    mean = proxy["seconds_mean"]
    return row | {"time": Cell(clock(proxy["seconds"]), proxy["seconds"]), "s a training": Cell(f"{mean:.2f}", mean)}


class Source(NamedTuple):
    """What the trainings on one proxy set, or on real data, say of each architecture."""

    name: str
    scores: Mapping[str, float]  # accuracy
    values: Mapping[str, Sequence[float]]  # accuracy, one a seed
    ranks: Mapping[str, int]  # from 1, the best
    seconds: Mapping[str, float]
    stopped: Mapping[str, int] | None  # the epochs after which it was stopped early; None of real data

    def deviation(self, name: str) -> float | None:
        """Return the standard deviation (n - 1) over seeds; None of a single one."""
        each = self.values.get(name, ())
        return statistics.stdev(each) if len(each) > 1 else None


def sources(document: Document) -> list[Source]:
    """Return the proxies of a ranking, and real data where it is ranked by it."""
    results = [
        Source(
            one["name"], one["scores"], one["values"], _ranks(one["ranking"]), one["seconds_of"], one["stopped_after"]
        )
        for one in document["proxies"]
    ]
    if (real := document["real"]) is not None:
        ranking = sorted(real, key=real.__getitem__, reverse=True)  # of equal ones the first, as `rank_agreement.best`
        more = document["real_values"] or {}, _ranks(ranking), document["real_seconds_of"] or {}
        results.append(Source("real data", real, *more, None))
    return results


def _ranks(ranking: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(ranking, start=1)}


def ranking_csv(document: Document) -> str:
    """Return a line an architecture, the first proxy's best first, with standard deviations (n - 1) over seeds."""
    columns: dict[str, Document] = {}
    for one in sources(document):
        start = "real " if one.stopped is None else f"{one.name}: "
        columns[f"{start}accuracy"] = one.scores
        deviations = {name: std for name in one.values if (std := one.deviation(name)) is not None}
        columns |= {f"{start}std": deviations} if deviations else {}
        columns |= {f"{start}rank": one.ranks, f"{start}seconds": one.seconds}
        columns |= {} if one.stopped is None else {f"{start}stopped after": one.stopped}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["architecture", *columns])
    for name in document["proxies"][0]["ranking"]:
        writer.writerow([name, *(column.get(name, "") for column in columns.values())])
    return text.getvalue()


def _scatter(axes: "Axes", real: Document, proxy: Document, words: Mapping[str, str], styles: Styles) -> None:
    places = {name: (100 * score, 100 * real[name]) for name, score in proxy["scores"].items() if name in real}
    size, stopped = 30 if len(places) <= 100 else 14, set(proxy["stopped"])
    early: str | None = "stopped early, its last accuracy"
    for hollow, (word, style) in product((False, True), styles.items()):
        names = [name for name in places if words[name] == word and (name in stopped) == hollow]
        if hollow and not names:
            continue
        x, y = (np.array([places[name][axis] for name in names]) for axis in (0, 1))
        filled = {"facecolors": "none" if hollow else style["color"], "edgecolors": style["color"], "linewidths": 1}
        text, early = (early, None) if hollow else (word, early)  # one entry of the legend for all colours
        drawn = axes.scatter(x, y, s=size, marker=style["marker"], alpha=0.75, zorder=2, label=text, **filled)
        texts = f"{{}}: {{:.1f}} % by {proxy['name']}, {{:.1f}} % by real data"
        add_tooltips(drawn, [texts.format(*point) for point in zip(names, x, y, strict=True)])
    chosen = [places[name] for name in _chosen(proxy)]
    if chosen:
        x, y = np.array(chosen).T
        axes.scatter(x, y, s=4.5 * size, zorder=3, label=f"the best {len(chosen)} by the proxy set", **RING)


def _title(proxy: Document) -> str:
    agreed = proxy["agreement"]
    if agreed is None:
        return fill(proxy["name"], LETTERS)
    numbers = f"Spearman {decimal(agreed['spearman'])}, Kendall {decimal(agreed['kendall'])}"
    return f"{fill(proxy['name'], LETTERS)}\n{numbers}"


def _chosen(proxy: Document) -> list[str]:
    """The proxy's best of the first top; none where the sample is smaller than it."""
    tops = proxy["agreement"]["tops"] if proxy["agreement"] else []
    return (tops[0]["names"] or []) if tops else []
