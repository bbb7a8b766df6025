"""A first answer on one's own images: what a few distilled images a class are worth, within some minutes."""

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydd.api.campaign import campaign
from raydd.api.distill import distill
from raydd.buffer.local_path import local_path
from raydd.campaigns.graph import Options, build_graph
from raydd.campaigns.plan import Plan, make_plan
from raydd.campaigns.records import run_costs
from raydd.campaigns.scales import Scale, over
from raydd.config.parsing import Tree, build
from raydd.config.placement import HERE, Where
from raydd.config.schema import DataConfig, DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import load_images
from raydd.io.console import QuietScreen, Screen
from raydd.io.filesystem import is_uri
from raydd.io.paths import below

METHODS = ("dm", "dsa")
"""Methods that need no experts."""
START_SECONDS = 45.0
"""Until the workers of distillations and evaluations have started."""
SHARE = 0.6
"""Of the other time, for the distillations; the rest is for the networks that test the sets."""
MOST_MINUTES = 24.0 * 60
LONG_MINUTES, LARGE_SIDE, SIDE = 15.0, 64, 32
STEPS, SEEDS, EPOCHS = 3, 3, 300
"""Outer steps that are timed before; networks a score, and their epochs."""


@dataclass(frozen=True)
class Settings:
    """What was chosen for the images and the budget: images per class, their side, and outer steps by method."""

    ipc: int
    side: int | None
    steps: Mapping[str, int]


def first_answer(
    data: DataConfig,
    minutes: float,
    out: Path | str,
    *,
    seed: int = 0,
    where: Where = HERE,
    screen: Screen | None = None,
) -> dict[str, Any]:
    """Distill images by two methods within a budget, and test them against random and k-means selections.

    The method is chosen by the accuracy on held-out training images; all are then tested on the test images once.

    Args:
        data: The images.
        minutes: The budget, on this machine; a cluster may be faster.
        out: Folder or URI, as of `raydd.campaign`.
        seed: Of every draw.
        where: Device, cluster and number of workers.
        screen: Shows progress.

    Returns:
        ``dataset``, ``ipc``, ``best`` (the chosen method), ``accuracy`` (on the test images, by row),
        ``validation`` (by method), ``seconds``, and ``next``: commands that go on from here.

    Raises:
        ValueError: The images cannot be read, or the budget is too short.
    """
    screen, begin = screen or Screen(), time.monotonic()
    settings = choose(data, minutes, seed, where, screen)
    words = ", ".join(f"{settings.steps[name]} steps of {name}" for name in METHODS)
    screen.note(f"{data.dataset}: {settings.ipc} images a class, {words}")
    plan = make_plan(_plan(data, settings, seed), "the plan of this data set")
    scale = Scale("try", evaluation={"epochs": EPOCHS, "real_epochs": 0}, seeds=SEEDS)
    options = Options(scale, seed=seed)
    document = campaign([plan], out, options, where=where, screen=screen)
    validation = _validation(plan, options, out)
    best = max(validation, key=lambda name: validation[name])
    accuracy = {cell["row"]: {"mean": cell["mean"], "std": cell["std"]} for cell in document["cells"]}
    return {
        "dataset": data.dataset,
        "ipc": settings.ipc,
        "best": best,
        "accuracy": accuracy,
        "validation": validation,
        "seconds": time.monotonic() - begin,
        "next": _commands(data, best, settings),
    }


def choose(data: DataConfig, minutes: float, seed: int, where: Where, screen: Screen) -> Settings:
    """Return the settings for images and a budget, from the time that some steps of each method take here."""
    if not 0 < minutes <= MOST_MINUTES:
        raise ValueError(f"--minutes {minutes:g}: give minutes such as 5, and {MOST_MINUTES:g} at most")
    with screen.doing("reading the images"):
        images = load_images(data)
    ipc = 10 if minutes >= LONG_MINUTES else 1
    side = SIDE if images.size > LARGE_SIDE and data.size is None and minutes < LONG_MINUTES else None
    workers = min(len(METHODS), where.num_workers or len(os.sched_getaffinity(0)))
    each = SHARE * (60 * minutes - START_SECONDS) * workers / len(METHODS)
    if each < 10:
        raise ValueError(f"--minutes {minutes:g} is too short: the workers alone take {START_SECONDS:.0f} s to start")
    steps = {}
    for name in METHODS:
        with screen.doing(f"timing {name}"), tempfile.TemporaryDirectory() as folder:
            config = build(DistillConfig, _settings(data, Settings(ipc, side, {name: STEPS}), name, seed))
            distill(config, folder, where=where._replace(address=None), screen=QuietScreen(lambda line: None))
            spent = float(run_costs(folder, STEPS)["run_seconds"] or 0.0)
        steps[name] = max(STEPS, int(each * STEPS / max(spent, 1e-3)))
    return Settings(ipc, side, steps)


def _settings(data: DataConfig, settings: Settings, method: str, seed: int) -> Tree:
    tree: Tree = {"method": method, "ipc": settings.ipc, "seed": seed, "threads": 1, "steps": settings.steps[method]}
    tree["data"] = data.model_dump(exclude_unset=True) | ({"size": settings.side} if settings.side else {})
    if method == "dsa":  # the class-wise loops of its paper for this many images
        tree["statistic"] = {"refresh": settings.ipc, "epochs": settings.ipc}
    return tree


def _plan(data: DataConfig, settings: Settings, seed: int) -> Tree:
    rows: Tree = {}
    for name in METHODS:
        tree = _settings(data, settings, name, seed)
        own = {key: value for key, value in tree.items() if key not in ("method", "ipc", "seed", "threads")}
        scored = {"evaluate_every": tree["steps"], "evaluate_epochs": EPOCHS // 3}
        rows[name] = {"method": name, "preset": "", "set": over(own, scored)}
    column = {"dataset": data.dataset, "ipc": [settings.ipc], "title": f"{settings.ipc} a class"}
    title = f"First answer on {Path(data.dataset).name}"
    selections = {"random": "random", "k-means": "kmeans"}
    return {
        "name": "try",
        "title": title,
        "columns": [column],
        "rows": rows | selections,
        "seeds": SEEDS,
        "protocol": "dm",
    }


def _validation(plan: Plan, options: Options, out: Path | str) -> dict[str, float]:
    """Return each method's accuracy on held-out training images."""
    graph = build_graph([plan], options)
    scores = {}
    for node in graph.distillations.values():
        place = below(str(out), f"runs/{node.name}") if is_uri(out) else Path(out, "runs", node.name)
        synset = SyntheticSet.load(local_path(place) / "synset.arrow")
        scores[node.config.method] = float(synset.history[-1]["mean"])
    return scores


def _commands(data: DataConfig, best: str, settings: Settings) -> list[str]:
    """Return the commands that go on from a first answer: more steps, more images, and methods that need experts."""
    name, more = Path(data.dataset).name, 10 * settings.ipc
    steps = 10 * settings.steps[best]
    return [
        f"raydd distill --method {best} --dataset {data.dataset} --ipc {settings.ipc} --set steps={steps} "
        f"--out runs/{name}-{best}",
        f"raydd distill --method {best} --dataset {data.dataset} --ipc {more} --out runs/{name}-{best}-ipc{more}",
        f"raydd distill --method mtt --dataset {data.dataset} --ipc {settings.ipc} --out runs/{name}-mtt",
        f"raydd tune --space mtt_digits --dataset {data.dataset} --num-samples 16 --out runs/{name}-tune",
    ]
