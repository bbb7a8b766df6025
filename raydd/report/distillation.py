"""A distillation on a page: what it came to, how its numbers went by outer step, and its window.

Shapes: none; accuracies are fractions in files, per cent on the page.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raydd.figures.score_tables import spread
from raydd.numerics.windows import Window, growing
from raydd.report.axes import number
from raydd.report.charts import Curve, lines
from raydd.report.folder import NOT_RECORDED, RunFolder, reading
from raydd.report.html import Section, code, definitions, details, paragraph
from raydd.report.images import image_section
from raydd.report.reproduce import resume_command
from raydd.report.scores import SELECTIONS, is_scored

STEEP = 50  # the largest loss by the least, from which on a logarithmic scale shows more


def distilled_headline(path: Path) -> str:
    """What was distilled and how good it is, in a line."""
    run = RunFolder(path)
    words = title_of(run)
    if not run.finished:
        return f"{words}: unfinished, at step {run.last_step} of {run.setting('steps', '?')}"
    return f"{words}: {score_words(run)}"


def distilled_sections(path: Path) -> list[Section]:
    """What a run came to: an overview, and its images.

    Raises:
        ValueError: A file is damaged.
    """
    run = RunFolder(path)
    return [_overview(run), image_section(run)]


def course_sections(path: Path) -> list[Section]:
    """How a run went: its numbers by outer step, its window, its memory.

    Raises:
        ValueError: A file is damaged.
    """
    run = RunFolder(path)
    return [*_progress(run), *_window(run), *_probes(run), *_memory(run)]


def title_of(run: RunFolder) -> str:
    """Method, data set and size."""
    synset = run.synset
    dataset = Path(str(run.setting("data.dataset", synset.dataset if synset else "unknown data"))).name
    ipc = run.setting("ipc", synset.ipc if synset else "?")
    method = str(run.setting("method", "set"))
    return f"{method.upper() if len(method) <= 4 else method} on {dataset}, {_plural(ipc, 'image')} a class"


def score_words(run: RunFolder) -> str:
    """The set's test accuracy with all that it hangs on, or what there is instead."""
    if not run.scores:
        best = max((found for entry in run.history if (found := reading(entry["mean"])) is not None), default=None)
        return "not tested" if best is None else f"not tested; best validation accuracy {100 * best:.1f} %"
    own = str(run.setting("experts.network", ""))
    row = next((row for row in run.scores if row.network == own), run.scores[0])
    told = f"{_plural(row.networks, 'fresh network')} {row.network}, protocol {row.protocol}, {row.selection} selection"
    return f"{spread(row.mean, row.spread)} % test accuracy ({told})"


def progress_charts(name: str, run: RunFolder) -> dict[str, list[Curve]]:
    """The curves of loss, students' step size and validation accuracy by what they are, called ``name``."""
    steps = [float(record["step"]) for record in run.records]
    scored = [float(entry["step"]) for entry in run.history]
    accuracies = [reading(entry["mean"]) for entry in run.history]
    found = {
        "loss": Curve(name, steps, [reading(record.get("loss")) for record in run.records]),
        "lr": Curve(name, steps, [reading(record.get("lr")) for record in run.records]),
        "accuracy": Curve(name, scored, [None if value is None else 100 * value for value in accuracies]),
    }
    return {what: [curve] for what, curve in found.items() if any(value is not None for value in curve.y)}


def draw_progress(curves: dict[str, list[Curve]], loss: str = "matching loss") -> str:
    """A chart for each of `progress_charts`, of one run or of several."""
    words = {
        "loss": (loss, "Loss"),
        "lr": ("students' step size", "Step size of the students"),
        "accuracy": ("validation accuracy (%)", "Accuracy on the validation split"),
    }
    return "".join(
        lines(curves[what], x="outer step", y=y, title=title, log_y=what == "loss" and steep(curves[what]))
        for what, (y, title) in words.items()
        if curves.get(what)
    )


def steep(curves: Sequence[Curve]) -> bool:
    """Whether values reach over so many sizes that a logarithmic scale shows more of them."""
    values = [value for curve in curves for value in curve.y if value is not None and value > 0]
    return bool(values) and max(values) > STEEP * min(values)


def _overview(run: RunFolder) -> Section:
    synset = run.synset
    body = ""
    if not run.finished:
        told = f"This run is unfinished: its last checkpoint is at outer step {run.last_step} of "
        told += f"{run.setting('steps', '?')}. What follows is of what there is. "
        told += "To go on with it (add its --buffer, where one was named):"
        body = f'<div class="notice">{paragraph(told)}{code(resume_command(run))}</div>'
    pairs = [("method", str(run.setting("method", NOT_RECORDED)))]
    pairs += [("data set", str(run.setting("data.dataset", synset.dataset if synset else NOT_RECORDED)))]
    if synset:
        soft = "soft labels (logits)" if synset.label_kind == "logits" else "hard labels"
        size = (
            f"{_plural(len(synset.images), 'image')} of {len(synset.classes)} classes, {synset.ipc:g} a class, {soft}"
        )
        pairs += [("synthetic set", size), ("step size of students", f"{float(synset.lr):.4g}")]
    pairs += [("result", run.result_words)]
    pairs += [("network", str(run.setting("experts.network", NOT_RECORDED)))]
    pairs += [("test accuracy", f"{spread(row.mean, row.spread)} % on {row.network}") for row in run.scores]
    pairs += [(word, said) for word, said in _protocol(run)]
    if not run.scores and run.finished:
        other = run.folder is not None and is_scored(run.path)
        said = "scores.json is of another set" if other else "not measured"
        pairs += [("test accuracy", f"{said}: the command at the end of this page measures it")]
    pairs += [("outer steps", f"{run.last_step} of {run.setting('steps', '?')}")] if run.records else []
    return Section("overview", "Overview", body + definitions(pairs))


def _protocol(run: RunFolder) -> list[tuple[str, str]]:
    """How the accuracy was measured; nothing where it was not."""
    if not run.scores:
        return []
    row = run.scores[0]
    fresh = _plural(row.networks, "fresh network") + (", ± their standard deviation" if row.networks > 1 else "")
    chosen = f"{row.selection}: {SELECTIONS.get(row.selection, 'see the settings')}"
    return [("seeds", fresh), ("protocol", row.protocol), ("selection", chosen)]


def _progress(run: RunFolder) -> list[Section]:
    curves = progress_charts(title_of(run), run)
    if not curves:
        learned = "This is a selection of real images: nothing is learned, and there is no step to draw."
        return [Section("steps", "By outer step", paragraph(learned))] if run.setting("match") == "nothing" else []
    what = {"statistics": "distance of the statistics of real and synthetic images"}.get(
        str(run.setting("match", "trajectories")), "distance between student and expert"
    )
    told = f"Loss: the {what}, without unit, lower is better. "
    if (gated := sum(record.get("stepped") is False for record in run.records)) > 0:
        told += (
            f"At {gated} of {len(run.records)} steps the loss was above the gate of {run.setting('gate')}, and the set "
        )
        told += "was left as it was. "
    if run.rollbacks:
        told += f"The run went back to an earlier step {_plural(run.rollbacks, 'time')}, as its loss was not finite. "
    if "accuracy" in curves:
        networks = max(int(entry.get("networks", 1)) for entry in run.history)
        told += (
            f"Validation accuracy: mean of {_plural(networks, 'fresh network')} on images held out of the training set."
        )
    else:
        told += "Validation accuracy was not measured on the way: distill with --set evaluate_every=N for that."
    return [Section("steps", "By outer step", paragraph(told.strip()) + draw_progress(curves))]


def _window(run: RunFolder) -> list[Section]:
    """From which epochs of the experts segments start."""
    low, current, high = (run.setting(f"window.{name}") for name in ("low", "current", "high"))
    if run.setting("match", "trajectories") != "trajectories" or not run.settings.get("window"):
        return []
    shown = "the experts' last epoch less the span" if high is None else str(high)
    pairs = [
        ("T-, the earliest start", str(low or 0)),
        ("T, the latest at step 0", shown if current is None else str(current)),
    ]
    pairs += [("T+, the latest start", shown)]
    body = paragraph("Start epochs: from which epochs of an expert's training an outer step may take its segment.")
    if current is not None and high is not None and current < high:
        interval = int(run.setting("window.interval", 1))
        pairs.append(("growth", f"one epoch every {_plural(interval, 'outer step')}"))
        body += _growth(growing(low or 0, current, high, interval), int(run.setting("steps", 0)))
    body += definitions(pairs)
    return [Section("window", "Window of start epochs", body + _search(run.search))]


def _growth(window: Window, steps: int) -> str:
    """The range of start epochs by outer step; nothing where it stays as it is."""
    if window(steps) == window(0):
        return ""
    places = sorted({0, steps, *range(0, steps + 1, max(1, steps // 200))})
    low, high = ([window(step)[end] for step in places] for end in (0, 1))
    middle = [(start + end) / 2 for start, end in zip(low, high, strict=True)]
    band = Curve("range of start epochs", [float(place) for place in places], middle, low, high)
    return lines([band], x="outer step", y="start epoch", title="Range of start epochs (band) and its middle")


def _search(search: dict[str, Any] | None) -> str:
    """The trials that found the window; nothing where it was given."""
    if search is None:
        return ""
    charts = []
    for trial in search["trials"]:
        epochs = [float(epoch) for epoch in range(len(trial["before"]))]
        curves = [
            Curve(f"{when} the trial", epochs, [reading(value) for value in trial[when]])
            for when in ("before", "after")
        ]
        title = f"T- {trial['low']}, T+ {trial['high']}"
        charts.append(lines(curves, x="start epoch", y="matching loss", title=title))
    told = (
        "The window was found by trials of fifty outer steps each. Drawn is the matching loss from each start epoch on "
    )
    told += "an expert that takes no part, before and after a trial."
    return details(f"How it was found: {_plural(len(charts), 'trial')}", paragraph(told) + "".join(charts))


def _probes(run: RunFolder) -> list[Section]:
    """What was measured on an expert that takes no part."""
    if not run.probes:
        return []
    steps = [float(record["step"]) for record in run.probes]
    epochs = min(len(record.get("losses", ())) for record in run.probes)
    chosen = sorted({round(place * (epochs - 1) / 4) for place in range(5)}) if epochs else []
    curves = [
        Curve(f"start epoch {epoch}", steps, [reading(record["losses"][epoch]) for record in run.probes])
        for epoch in chosen
    ]
    told = "The matching loss from some start epochs of an expert that takes no part, by outer step; at 1 the student "
    told += "ends as far from the target as it started."
    body = paragraph(told)
    body += lines(curves, x="outer step", y="matching loss", title="Matching loss on an expert apart")
    spreads = [reading(record.get("label_std")) for record in run.probes]
    if any(value is not None for value in spreads):
        title = "Spread of the soft labels"
        body += lines(
            [Curve(title, steps, spreads)], x="outer step", y="std over classes of softmax(labels)", title=title
        )
    return [Section("probes", "On an expert apart", body)]


def _memory(run: RunFolder) -> list[Section]:
    if not run.memory:
        return []
    steps = [float(record["step"]) for record in run.memory]
    names = {"resident_mb": "process", "device_mb": "tensors on the GPU, most so far"}
    curves = [Curve(words, steps, [reading(record.get(key)) for record in run.memory]) for key, words in names.items()]
    curves = [curve for curve in curves if any(value is not None for value in curve.y)]
    most = (f"{curve.name} {number(max(value for value in curve.y if value is not None))} MB" for curve in curves)
    told = f"Memory of the process that distilled, in MB (1e6 bytes), at each checkpoint. The most: {'; '.join(most)}."
    chart = lines(curves, x="outer step", y="memory (MB)", title="Memory while distilling", zero=True)
    return [Section("memory", "Memory", paragraph(told) + chart)]


def _plural(count: Any, word: str) -> str:
    """A number with what it counts.

    >>> _plural(1, "image"), _plural(2, "image")
    ('1 image', '2 images')
    """
    single = isinstance(count, int | float) and math.isclose(count, 1)
    return (
        f"{count:g} {word}{'' if single else 's'}"
        if isinstance(count, float)
        else f"{count} {word}{'' if single else 's'}"
    )
