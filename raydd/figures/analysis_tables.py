"""The short tables that stand beside the figures; the same documents, the numbers that matter."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rich.table import Table

from raydd.figures.cells import rows_table
from raydd.figures.frames import frame_steps

MOST_ROWS = 8


def _number(value: float | None, digits: str = ".3g") -> str:
    return "-" if value is None else format(value, digits)


def _spread(numbers: dict[str, float | None], scale: float = 1, digits: str = ".1f") -> str:
    mean, std = numbers["mean"], numbers["std"]
    return "-" if mean is None or std is None else f"{scale * mean:{digits}} ± {scale * std:{digits}}"


def experts_table(numbers: dict[str, Any]) -> Table:
    """Return the smoothness and accuracy of each buffer's experts."""
    rows = [
        {
            "buffer": buffer["name"],
            "experts": str(buffer["experts"]),
            "epochs": str(buffer["epochs"]),
            "Avg_Var": _spread(buffer["avg_var"], digits=".2g"),
            "last": _spread(buffer["last"], 100),
            "best": _spread(buffer["best"], 100),
        }
        for buffer in numbers["buffers"]
    ]
    title = f"Avg_Var: mean over epochs of |theta_t - theta_t-1|^2; last, best: {numbers['split']} accuracy in %"
    return rows_table(f"{title}; mean ± std over experts", rows)


def landscape_table(numbers: dict[str, Any]) -> Table:
    """Return the accuracy of both paths at the kept epochs, and at their worst after the start."""
    first, second = numbers["explained"]
    rows = []
    for key in ("trajectory", "convexified"):
        accuracy = [100 * value for value in numbers[key]["accuracy"]]
        epochs = {f"epoch {t}": f"{accuracy[t]:.1f}" for t in numbers["kept"]}
        # A path that only rises never falls from one epoch to the next.
        fall = max((a - b for a, b in pairwise(accuracy)), default=0.0)
        rows.append({"path": key} | epochs | {"largest fall": f"{max(fall, 0):.1f}"})
    title = f"expert {numbers['expert']}: {numbers['split']} accuracy in %; the plane explains "
    return rows_table(f"{title}{100 * first:.1f} % + {100 * second:.1f} % of the trajectory's variance", rows)


def storage_table(numbers: dict[str, Any]) -> Table:
    """Return the bytes an expert, full and convexified."""
    rows = [
        {
            "buffer": buffer["name"],
            "experts": str(buffer["experts"]),
            "bytes an expert": _number(buffer["full_bytes"], ",.0f"),
            "convexified": _number(buffer["convexified_bytes"], ",.0f"),
            "ratio": "-" if buffer["ratio"] is None else f"{100 * buffer['ratio']:.1f} %",
        }
        for buffer in numbers["buffers"]
    ]
    return rows_table("size on disk", rows)


def matching_table(numbers: dict[str, Any]) -> Table:
    """Return the first and last loss of some start epochs, the first and the last of them among these."""
    first, last = numbers["losses"][0], numbers["losses"][-1]
    chosen = frame_steps(len(first) - 1, max(2, min(MOST_ROWS, len(first))))
    rows = [{"start epoch": str(t), "first": _number(first[t]), "last": _number(last[t])} for t in chosen]
    steps = f"outer steps {numbers['steps'][0]} and {numbers['steps'][-1]}"
    return rows_table(f"{numbers['name']}: matching loss on an expert that takes no part, {steps}", rows)


def labels_table(numbers: dict[str, Any]) -> Table:
    """Return the spread of the labels at the first and the last measure."""
    rows = []
    for run in numbers["runs"]:
        values = [value for value in run["label_std"] if value is not None]
        rows.append({"run": run["name"], "first": _number(values[0], ".4f"), "last": _number(values[-1], ".4f")})
    return rows_table("std over classes of softmax(labels), mean over images", rows)


def memory_table(numbers: dict[str, Any]) -> Table:
    """Return the largest memory of each run."""
    columns = {"process": "resident_mb", "device": "device_mb"}
    rows = [{"run": run["name"]} | {name: _most(run[key]) for name, key in columns.items()} for run in numbers["runs"]]
    return rows_table("largest memory while distilling, in MB", rows)


def convergence_table(numbers: dict[str, Any]) -> Table:
    """Return the best and the last accuracy of each run, and how soon it was near the best."""
    rows = [
        {
            "run": run["name"],
            "best": _number(100 * run["best"], ".1f"),
            "last": _number(100 * run["last"], ".1f"),
            "near at step": str(run["near_step"]),
            "after seconds": _number(run["near_seconds"], ",.0f"),
        }
        for run in numbers["runs"]
    ]
    return rows_table(f"{numbers['split']} accuracy in %; near: within {100 * numbers['near']:g} % of the best", rows)


def cost_table(numbers: dict[str, Any]) -> Table:
    """Return what each run took."""
    rows = [
        {
            "run": run["name"],
            "steps": f"{run['steps']:,}",
            "seconds a step": _number(run["step_seconds"]),
            "seconds": _number(run["seconds"], ",.0f"),
            "MB": _number(run["memory_mb"], ",.0f"),
            "accuracy": "-" if run["accuracy"] is None else _number(100 * run["accuracy"], ".1f"),
        }
        for run in numbers["runs"]
    ]
    return rows_table(
        "cost of distillations; MB: the peak on a GPU, or else of the process; validation accuracy in %", rows
    )


def _most(values: Sequence[float | None]) -> str:
    return _number(max((value for value in values if value is not None), default=None), ",.0f")


def similarity_table(numbers: dict[str, Any]) -> Table:
    """Return the correlation at the first and the last stage, and over all of them."""
    rows = [{"set": entry["name"]} | _stages(entry, numbers["epochs"], 1, ".3f") for entry in numbers["sets"]]
    title = f"correlation of real and synthetic mean features, on {numbers['buffer']}"
    return rows_table(f"{title}; mean ± std over {numbers['experts']} experts", rows)


def separability_table(numbers: dict[str, Any]) -> Table:
    """Return the accuracy on synthetic and on real images at the first and the last stage, and over all."""
    reference = {"name": f"real images ({numbers['reference']['split']})"} | numbers["reference"]
    stages = [(entry, _stages(entry, numbers["epochs"], 100, ".1f")) for entry in (*numbers["sets"], reference)]
    rows = [{"set": entry["name"]} | columns for entry, columns in stages]
    title = f"accuracy of {numbers['buffer']} on synthetic images in %"
    return rows_table(f"{title}; mean ± std over {numbers['experts']} experts", rows)


def _stages(entry: dict[str, Any], epochs: Sequence[int], scale: float, digits: str) -> dict[str, str]:
    """Return a curve's two ends and its mean."""
    ends = {
        f"epoch {epochs[index]}": _spread({key: entry[key][index] for key in ("mean", "std")}, scale, digits)
        for index in (0, -1)
    }
    values = [value for value in entry["mean"] if value is not None]
    mean = _number(scale * sum(values) / len(values) if values else None, digits)
    return ends | {"mean of all stages": mean}


def activation_table(numbers: dict[str, Any]) -> Table:
    """Return the shares of the neurons that are activated."""
    rows = [
        {
            "set": entry["name"],
            "images": str(entry["images"]),
            "an image": _spread(entry["image"], 100),
            "whole set": _spread(entry["whole"], 100),
        }
        for entry in numbers["sets"]
    ]
    title = f"activated part of {numbers['neurons']} neurons in %, epoch {numbers['epoch']} of {numbers['buffer']}"
    return rows_table(f"{title}; mean ± std over {numbers['experts']} experts", rows)


def embedding_table(numbers: dict[str, Any]) -> Table:
    """Return the number of points of each panel, and the divergence of its t-SNE."""
    counts = {kind: str(len(values)) for kind, values in numbers["classes"].items()}
    rows = [
        {"epoch": str(stage["epoch"])} | counts | {"KL divergence": _number(stage["divergence"])}
        for stage in numbers["stages"]
    ]
    title = f"{numbers['set']['name']}: t-SNE of features"
    return rows_table(f"{title}, expert {numbers['expert']} of {numbers['buffer']}", rows)
