"""Every method on one data set, beside random and k-means selections and the whole data: one table.

python benchmarks/methods.py --dataset digits --write
python benchmarks/methods.py --dataset digits --table statistics --write
python benchmarks/methods.py --dataset shared/data/cifar10-jpeg --plan benchmarks/methods-cifar10.yaml --write

A plan is a YAML of settings that lie over the presets: ``all``, ``methods`` by name, ``ipc`` by number (each
again with ``all`` and ``methods``), ``buffers``, a folder of experts for every optimizer, and ``rows``, more rows of
the table: a name, its ``method``, and what it sets. Finished runs and experts are kept in --out and in the cache, so
that the same command goes on where it was stopped.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from raydd.api.evaluate import evaluate
from raydd.api.experts import train_experts
from raydd.config.parsing import build, dump, merge
from raydd.config.presets import load_preset
from raydd.config.schema import DistillConfig, EvaluateConfig, ExpertsConfig
from raydd.data.score_record import Score
from raydd.data.synset import SyntheticSet
from raydd.io.provenance import commit
from raydd.methods import METHODS, complete
from raydd.run.resolve import needs_experts

OWN = {name: complete(DistillConfig(method=name)) for name in METHODS}
FIELD = (
    *("cafe", "datadam", "dsdm", "ncfm", "idc", "dream", "sre2l", "bptt", "ratbptt", "atbptt", "frepo", "kip"),
    *("rcig", "haba", "glister", "rded"),
)
"""What the five papers compare with, and later methods."""
TABLES = {
    "methods": [name for name, own in OWN.items() if name not in FIELD and own.match == "trajectories"],
    "statistics": [
        name
        for name, own in OWN.items()
        if name not in FIELD and (own.match == "statistics" or (own.match == "nothing" and needs_experts(own)))
    ],
    "field": [*FIELD],
}
"""The rows of a table where --methods names none; random and k-means selections stand in every one."""


def settings(plan: dict[str, Any], row: str, ipc: int) -> dict[str, Any]:
    """What a plan says of a row and an ipc: of its method first, then of the row."""
    tree: dict[str, Any] = {}
    extra = dict(plan.get("rows", {}).get(row, {}))
    method = extra.pop("method", row)
    for part in (plan, plan.get("ipc", {}).get(ipc, {})):
        for layer in (part.get("all"), part.get("methods", {}).get(method)):
            merge(tree, layer or {})
    merge(tree, extra)
    return tree | {"method": method}


def configure(options: argparse.Namespace, plan: dict[str, Any], row: str, ipc: int) -> DistillConfig:
    """The whole configuration: method's defaults, preset, plan."""
    own = settings(plan, row, ipc)
    said = {"ipc": ipc, "data": {"dataset": options.dataset}, "threads": 1, "seed": options.seed}
    return complete(build(DistillConfig, load_preset(options.dataset, own["method"], ipc), said, own))


def buffer_of(config: DistillConfig, plan: dict[str, Any]) -> Path | None:
    """The experts of a run: the plan's, or the cache's, trained first where they lack; None where it needs none."""
    if not needs_experts(config):
        return None
    given = plan.get("buffers", {}).get(config.experts.optimizer)
    return Path(given) if given else train_experts(ExpertsConfig(data=config.data, experts=config.experts))


def distill(config: DistillConfig, buffer: Path | None, out: Path) -> None:
    """One run in a process of its own; what is finished is left as it is, and other settings are refused."""
    out.parent.mkdir(parents=True, exist_ok=True)
    preset = out.parent / f"{out.name}.yaml"
    preset.write_text(dump(config), encoding="utf-8")
    words = ["distill", "--preset", str(preset), "--out", str(out), "--resume"]
    words += [] if buffer is None else ["--buffer", str(buffer)]
    subprocess.run([sys.executable, "-m", "raydd", *words], check=True)


def told(config: DistillConfig) -> dict[str, Any]:
    """A configuration as it is recorded: the data set by name, since its place is this machine's affair."""
    tree = config.model_dump(mode="json")
    tree["data"]["dataset"] = Path(config.data.dataset).name
    return tree


def table(scores: list[Score]) -> str:
    """Scores as Markdown: a row a set, a column an ipc, per cent."""
    cells = {(score.name.split(",")[0], score.ipc): score for score in scores if score.ipc is not None}
    names, ipcs = list(dict.fromkeys(name for name, _ in cells)), sorted({ipc for _, ipc in cells})
    lines = ["| | " + " | ".join(f"ipc {ipc:g}" for ipc in ipcs) + " |", "|---|" + "---|" * len(ipcs)]
    for name in names:
        row = (cells.get((name, ipc)) for ipc in ipcs)
        shown = ("" if s is None else f"{100 * s.mean:.1f} ± {100 * s.std:.1f}" for s in row)
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    lines += [
        f"| {s.name} | " + " | ".join([f"{100 * s.mean:.1f} ± {100 * s.std:.1f}"] * len(ipcs)) + " |"
        for s in scores
        if s.ipc is None
    ]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--table", choices=TABLES, default="methods", help="which methods, and the record's name")
    parser.add_argument("--methods", help="rows, with commas; none takes the table's and the plan's")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5, help="fresh networks a cell")
    parser.add_argument("--epochs", type=int, help="epochs on a synthetic set; none takes the protocol's")
    parser.add_argument("--real-epochs", type=int, help="epochs on the whole data")
    parser.add_argument("--write", action="store_true", help="record the result beside this script")
    return parser.parse_args()


def main() -> None:
    """Train experts, distill every cell, score all of them in one evaluation, and print the table."""
    options, start = parse(), time.monotonic()
    name = Path(options.dataset).name
    words = [name if word == options.dataset else word for word in sys.argv[1:]]  # its place is this machine's affair
    if Path(options.dataset).exists():
        options.dataset = str(Path(options.dataset).resolve())
    plan = yaml.safe_load(options.plan.read_text(encoding="utf-8")) if options.plan else {}
    rows = options.methods.split(",") if options.methods else [*TABLES[options.table], *plan.get("rows", {})]
    cells = [(row, ipc) for ipc in options.ipc for row in rows]
    configs = {cell: configure(options, plan, *cell) for cell in cells}
    buffers = {cell: buffer_of(config, plan) for cell, config in configs.items()}
    runs = {cell: options.out / name / f"{cell[0].replace(' ', '-')}-ipc{cell[1]}" for cell in cells}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda cell: distill(configs[cell], buffers[cell], runs[cell]), cells))
    synsets = [SyntheticSet.load(runs[cell] / "synset.arrow") for cell in cells]
    titles = [f"{method}, {ipc} a class" for method, ipc in cells]
    asked = EvaluateConfig(seeds=options.seeds, epochs=options.epochs, real_epochs=options.real_epochs)
    scores = evaluate(synsets, asked, names=titles)
    print(table(scores))
    result = {
        "command": "python benchmarks/methods.py " + shlex.join(words),
        "commit": commit(),
        "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, CPU",
        "versions": {package: version(package) for package in ("raydd", "ray", "torch")},
        "minutes": round((time.monotonic() - start) / 60, 1),
        "settings": {f"{method}-ipc{ipc}": told(configs[method, ipc]) for method, ipc in cells},
        "scores": [score.to_document() for score in scores],
    }
    if options.write:
        target = Path(__file__).with_name(f"{options.table}-{name}.json")
        target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
