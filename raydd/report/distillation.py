"""A distillation on a page: its result, its numbers by outer step, and its window."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from raydd.analysis.runs import labels, matching, memory, reading
from raydd.figures.cells import spread
from raydd.figures.curves import Curve, draw_curves, draw_labels, draw_matching, draw_memory, draw_window
from raydd.figures.score_tables import SELECTIONS
from raydd.figures.style import PAGE_WIDTH
from raydd.figures.svg import number
from raydd.numerics.windows import Window, growing
from raydd.report.documents import SCORES
from raydd.report.folder import NOT_RECORDED, RunFolder
from raydd.report.frames import image_section
from raydd.report.html import Section, chart, macros, plural
from raydd.report.reproduce import resume_command

STEEP = 50  # the ratio of the largest to the least loss from which a logarithmic scale shows more
LOSSES = {
    "statistics": "distance of the statistics of real and synthetic images",
    "loss": "cross-entropy of trained students on real images",
    "kernel": "error of a regression to real labels",
}


def distilled_headline(path: Path) -> str:
    """Return the method, data set and accuracy in a line."""
    run = RunFolder(path)
    words = title_of(run)
    if not run.finished:
        return f"{words}: unfinished, at step {run.last_step} of {run.setting('steps', '?')}"
    return f"{words}: {score_words(run)}"


def distilled_sections(path: Path) -> list[Section]:
    """Return the result of a run: an overview, and its images."""
    run = RunFolder(path)
    other = run.folder is not None and SCORES.find(path) is not None  # scores that may be of another set
    body = macros("distillation").overview(run, resume_command(run), NOT_RECORDED, SELECTIONS, other)
    return [Section("overview", "Overview", body), image_section(run)]


def course_sections(path: Path) -> list[Section]:
    """Return the course of a run: its numbers by outer step, its window, its memory."""
    run = RunFolder(path)
    bodies = {
        ("steps", "By outer step"): _progress(run),
        ("window", "Window of start epochs"): _window(run),
        ("probes", "On an expert that takes no part"): _probes(run),
        ("memory", "Memory"): _memory(run),
    }
    return [Section(anchor, title, body) for (anchor, title), body in bodies.items() if body is not None]


def title_of(run: RunFolder) -> str:
    """Return the method, data set and size."""
    synset = run.synset
    dataset = Path(str(run.setting("data.dataset", synset.dataset if synset else "unknown data"))).name
    ipc = run.setting("ipc", synset.ipc if synset else "?")
    method = str(run.setting("method", "set"))
    return f"{method.upper() if len(method) <= 4 else method} on {dataset}, {plural(ipc, 'image')} a class"


def score_words(run: RunFolder) -> str:
    """Return the test accuracy with all that it depends on, or the best validation accuracy."""
    if not run.scores:
        best = max((value for entry in run.history if (value := reading(entry["mean"])) is not None), default=None)
        return "not tested" if best is None else f"not tested; best validation accuracy {100 * best:.1f} %"
    own = str(run.setting("experts.network", ""))
    row = next((row for row in run.scores if row.network == own), run.scores[0])
    networks = plural(row.networks, "fresh network")
    details = f"{networks} {row.network}, protocol {row.protocol}, {row.selection} selection"
    return f"{spread(row.mean, row.spread)} % test accuracy ({details})"


def progress_curves(name: str, run: RunFolder) -> dict[str, Curve]:
    """Return the curves of loss, students' learning rate and validation accuracy that have values, each ``name``."""
    curves = {key: Curve(name, *_column(run.records, key)) for key in ("loss", "lr")}
    steps, means = _column(run.history, "mean")
    curves["accuracy"] = Curve(name, steps, [None if value is None else 100 * value for value in means])
    return {key: curve for key, curve in curves.items() if any(value is not None for value in curve.y)}


def progress_charts(curves: dict[str, list[Curve]], loss: str = "matching loss") -> list[Markup]:
    """Return a chart for each kind of `progress_curves`, of one run or of several."""
    words = {
        "loss": (loss, "Loss"),
        "lr": ("students' learning rate", "Learning rate of the students"),
        "accuracy": ("validation accuracy (%)", "Accuracy on the validation split"),
    }
    return [
        chart(
            draw_curves(curves[key], "outer step", y, title, log=key == "loss" and steep(curves[key]), width=PAGE_WIDTH)
        )
        for key, (y, title) in words.items()
        if curves.get(key)
    ]


def steep(curves: Sequence[Curve]) -> bool:
    """Return whether a logarithmic scale shows more of the values."""
    values = [value for curve in curves for value in curve.y if value is not None]
    return bool(values) and min(values) > 0 and max(values) > STEEP * min(values)


def _column(records: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float | None]]:
    return [float(record["step"]) for record in records], [reading(record.get(key)) for record in records]


def _progress(run: RunFolder) -> Markup | None:
    curves = {key: [curve] for key, curve in progress_curves(title_of(run), run).items()}
    if not curves:
        return macros("distillation").selected() if run.setting("match") == "nothing" else None
    loss = LOSSES.get(str(run.setting("match", "trajectories")), "distance between student and expert")
    gated = sum(record.get("stepped") is False for record in run.records)
    networks = max((int(entry.get("networks", 1)) for entry in run.history), default=0) if "accuracy" in curves else 0
    return macros("distillation").steps(run, loss, gated, networks, progress_charts(curves))


def _window(run: RunFolder) -> Markup | None:
    """Return the range of start epochs, and how it was chosen."""
    low, current, high = (run.setting(f"window.{name}") for name in ("low", "current", "high"))
    if run.setting("match", "trajectories") != "trajectories" or not run.settings.get("window"):
        return None
    interval, growth = int(run.setting("window.interval", 1)), ""
    grows = current is not None and high is not None and current < high
    if grows:
        growth = _growth(growing(low or 0, current, high, interval), int(run.setting("steps", 0)))
    trials = run.search["trials"] if run.search else []
    search = chart(draw_window(run.search)) if run.search and trials else ""
    return macros("distillation").window(growth, low or 0, current, high, interval if grows else 0, search, len(trials))


def _growth(window: Window, steps: int) -> str:
    """Return a chart of the range of start epochs by outer step; nothing where it is constant."""
    if window(steps) == window(0):
        return ""
    places = sorted({0, steps, *range(0, steps + 1, max(1, steps // 200))})
    low, high = ([window(step)[end] for step in places] for end in (0, 1))
    middle = [(start + end) / 2 for start, end in zip(low, high, strict=True)]
    curve = Curve("range of start epochs", places, middle, low, high)
    title = "Range of start epochs (band) and its middle"
    return chart(draw_curves([curve], "outer step", "start epoch", title, width=PAGE_WIDTH))


def _probes(run: RunFolder) -> Markup | None:
    """Return the measurements on an expert that takes no part."""
    if not run.probes:
        return None
    charts = [chart(draw_matching(matching(run.path) | {"name": title_of(run)}, PAGE_WIDTH))]
    if any(reading(record.get("label_std")) is not None for record in run.probes):
        numbers = labels([run.path])["runs"][0] | {"name": title_of(run)}
        charts.append(chart(draw_labels({"runs": [numbers]}, PAGE_WIDTH)))
    return macros("distillation").probes(charts)


def _memory(run: RunFolder) -> Markup | None:
    if not run.memory:
        return None
    numbers = memory([run.path])["runs"][0] | {"name": title_of(run)}
    words = {"process": numbers["resident_mb"], "tensors on the GPU, most so far": numbers["device_mb"]}
    known = {name: [value for value in values if value is not None] for name, values in words.items()}
    most = "; ".join(f"{name} {number(max(values))} MB" for name, values in known.items() if values)
    return macros("distillation").memory(most, chart(draw_memory({"runs": [numbers]}, PAGE_WIDTH)))
