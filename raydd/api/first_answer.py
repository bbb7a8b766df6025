"""A first answer on one's own images: what a few distilled images a class are worth, within some minutes."""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raydd.api.campaign import campaign
from raydd.buffer.local_path import local_path
from raydd.campaigns.cell_settings import Options
from raydd.campaigns.graph import build_graph
from raydd.campaigns.plan import Plan, make_plan
from raydd.campaigns.records import run_costs
from raydd.campaigns.scales import Scale
from raydd.config.parsing import Tree, build, dump, merged
from raydd.config.placement import HERE, Where
from raydd.config.schema import DataConfig, DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import load_images, open_workspace, resolve_device
from raydd.evaluation.protocols import find_protocol
from raydd.evaluation.student import evaluate as train_and_test
from raydd.io.console import Screen
from raydd.io.paths import below
from raydd.io.uri import is_uri
from raydd.methods import complete
from raydd.training.expert import measure_accuracy

METHODS = ("dm", "dsa")
"""Methods that need no experts."""
START_SECONDS = 70.0
"""Until the workers of distillations and evaluations have started, and for the report."""
LEAST_SECONDS = 10.0
"""For the steps of each method."""
MOST_MINUTES = 24.0 * 60
LONG_MINUTES, LARGE_SIDE, SIDE = 15.0, 64, 32
BATCH = 64
"""Real images a class and step: a quarter of the papers', so that a short budget has more steps."""
STEPS, SEEDS, EPOCHS = 3, 3, 300
"""Outer steps that are timed before, at least; networks a score, and their epochs."""
TIMED_SECONDS, MOST_STEPS = 5.0, 2000
"""How long the timed steps take, and how many they are at most."""
CHOOSING_NETWORKS, CHOOSING_EPOCHS, TIMED_EPOCHS = 2, 100, 10
"""Networks on held-out images, by which a method is chosen, and their epochs; epochs that are timed before."""
SELECTIONS = {"random": "random", "k-means": "kmeans"}
PROTOCOL = "dm"


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
    begin, budget = time.monotonic(), 60 * minutes - START_SECONDS
    if budget < LEAST_SECONDS:
        raise ValueError(f"--minutes {minutes:g} is too short: the workers alone take {START_SECONDS:.0f} s to start")
    with screen.doing("reading the images"):
        images = load_images(data)
    ipc = 10 if minutes >= LONG_MINUTES else 1
    side = SIDE if images.size > LARGE_SIDE and data.size is None and minutes < LONG_MINUTES else None
    workers = where.num_workers or len(os.sched_getaffinity(0))
    short = _settings_by_method(data, Settings(ipc, side, dict.fromkeys(METHODS, STEPS)), seed)
    with screen.doing(f"timing {' and '.join(METHODS)}"), tempfile.TemporaryDirectory() as folder:
        with ThreadPoolExecutor(min(workers, len(METHODS))) as pool:
            times = [pool.submit(_step_seconds, config, Path(folder, name), where) for name, config in short.items()]
        seconds = {name: each.result() for name, each in zip(short, times, strict=True)}
        synset = SyntheticSet.load(Path(folder, METHODS[-1]) / "synset.arrow")
    with screen.doing("timing a network"):
        scoring = _scoring_seconds(short[METHODS[-1]], synset, resolve_device(where.device))
    left = budget - (time.monotonic() - begin) - scoring / workers
    each = left * min(len(METHODS), workers) / len(METHODS)
    if each < LEAST_SECONDS:
        need = (60 * minutes - each + LEAST_SECONDS) / 60
        raise ValueError(f"--minutes {minutes:g} is too short for these images here; give at least {need:.1f}")
    return Settings(ipc, side, {name: max(STEPS, int(each / max(seconds[name], 1e-3))) for name in METHODS})


def _settings_by_method(data: DataConfig, settings: Settings, seed: int) -> dict[str, DistillConfig]:
    return {name: complete(build(DistillConfig, _settings(data, settings, name, seed))) for name in METHODS}


def _step_seconds(config: DistillConfig, folder: Path, where: Where) -> float:
    """Return the seconds of an outer step in a process of its own, beside which others run as they will later."""
    seconds = _run_seconds(config, folder, where)
    if seconds < TIMED_SECONDS:
        steps = min(MOST_STEPS, int(config.steps * TIMED_SECONDS / max(seconds, 1e-3)) + 1)
        config = config.model_copy(update={"steps": steps})
        seconds = _run_seconds(config, folder.with_name(f"{folder.name}-longer"), where)
    return seconds / config.steps


def _run_seconds(config: DistillConfig, folder: Path, where: Where) -> float:
    preset = folder.with_suffix(".yaml")
    preset.write_text(dump(config), encoding="utf-8")
    words = ["distill", "--preset", str(preset), "--out", str(folder), "--device", where.device]
    done = subprocess.run([sys.executable, "-m", "raydd", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError((done.stderr.strip() or "raydd distill: no word").splitlines()[-1].removeprefix("raydd: "))
    return float(run_costs(folder, config.steps)["run_seconds"] or 0.0)


def _scoring_seconds(config: DistillConfig, synset: SyntheticSet, device: torch.device) -> float:
    """Return the estimated seconds, on one worker, of all networks that are trained on a set and tested."""
    work = open_workspace(config.data, config.experts.network, device, synset.transform)
    held_out, threads = work.feed(work.dataset.validation), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network, begin = work.build().to(device), time.monotonic()
        measure_accuracy(network, held_out)
        test = time.monotonic() - begin
        protocol = find_protocol(PROTOCOL).changed(TIMED_EPOCHS)
        train_and_test(synset, work.build, held_out, protocol, work.augment, config.seed)
        epoch = max(0.0, time.monotonic() - begin - 2 * test) / TIMED_EPOCHS
    finally:
        torch.set_num_threads(threads)
    sets, more = len(METHODS) + len(SELECTIONS), len(work.dataset.test) / max(1, len(held_out))
    choosing = len(METHODS) * CHOOSING_NETWORKS * (CHOOSING_EPOCHS * epoch + test)
    return SEEDS * sets * (EPOCHS * epoch + more * test) + choosing


def _settings(data: DataConfig, settings: Settings, method: str, seed: int) -> Tree:
    tree: Tree = {"method": method, "ipc": settings.ipc, "seed": seed, "threads": 1, "steps": settings.steps[method]}
    tree["data"] = data.model_dump(exclude_unset=True) | ({"size": settings.side} if settings.side else {})
    tree["statistic"] = {"batch_real": BATCH}
    if method == "dsa":  # the class-wise loops of its paper for this many images
        tree["statistic"] |= {"refresh": settings.ipc, "epochs": settings.ipc}
    return tree


def _plan(data: DataConfig, settings: Settings, seed: int) -> Tree:
    rows: Tree = {}
    for name in METHODS:
        tree = _settings(data, settings, name, seed)
        own = {key: value for key, value in tree.items() if key not in ("method", "ipc", "seed", "threads")}
        scored = {"evaluate_every": tree["steps"], "evaluate_epochs": CHOOSING_EPOCHS}
        scored["evaluate_networks"] = CHOOSING_NETWORKS
        rows[name] = {"method": name, "preset": "", "set": merged(own, scored)}
    column = {"dataset": data.dataset, "ipc": [settings.ipc], "title": f"{settings.ipc} a class"}
    title = f"First answer on {Path(data.dataset).name}"
    return {
        "name": "try",
        "title": title,
        "columns": [column],
        "rows": rows | SELECTIONS,
        "seeds": SEEDS,
        "protocol": PROTOCOL,
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
    side = settings.side or data.size
    images = f"--dataset {shlex.quote(data.dataset)}" + (f" --set data.size={side}" if side else "")
    return [
        f"raydd distill --method {best} {images} --ipc {settings.ipc} --set steps={10 * settings.steps[best]} "
        f"--out runs/{name}-{best}",
        f"raydd distill --method {best} {images} --ipc {more} --out runs/{name}-{best}-ipc{more}",
        f"raydd distill --method mtt {images} --ipc {settings.ipc} --out runs/{name}-mtt",
        f"raydd tune --space mtt_digits {images} --num-samples 16 --out runs/{name}-tune",
    ]
