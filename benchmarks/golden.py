"""Digests of what every method computes at a small size: a redesign must leave them as they are.

    python benchmarks/golden.py --write      record them in benchmarks/golden.json
    python benchmarks/golden.py              compute them again and name those that differ

Bits depend on the processor and on the versions of torch, so compare records of one machine only. Everything runs in
this process on one thread, except experts and scores, which Ray's workers compute. Only public names are used.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyarrow import parquet

import raydd

RECORD = Path(__file__).with_suffix(".json")
EXPERTS = {"network": "ConvNetW8", "num_experts": 2, "epochs": 4}
KINDS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum": {"optimizer": "momentum", "milestones": (2,), "weight_decay": 5e-4},
    "gsam": {"optimizer": "gsam"},
    "smooth": {"optimizer": "smooth"},
    "convexified": {"kept": (1,)},
    "bfloat16": {"storage": "bfloat16"},
    "zca": {},
}
SMALL = {"steps": 3, "student_steps": 4, "span": 2, "window": {"high": 2}, "threads": 1}
ROWS: dict[str, dict[str, Any]] = {
    **{method: {"method": method} for method in sorted(raydd.METHODS) if method != "sre2l"},  # it needs batch norm
    **{method: {"method": method, "unrolled": {"window": 2}} for method in ("bptt", "ratbptt")},
    "atbptt": {"method": "atbptt", "unrolled": {"window": 2, "radius": 1}},
    "mtt full": {"method": "mtt", "backprop": "full"},
    "mtt truncated": {"method": "mtt", "backprop": "truncated"},
    "mtt ipc 3, batch 10, ema": {"method": "mtt", "ipc": 3, "batch_size": 10, "ema": 0.9},
    "mtt rollouts": {"method": "mtt", "rollouts": 2},
    "mtt pruned, perturbed": {"method": "mtt", "pruning": {"rate": 0.1}, "perturbation": 0.1},
    "mtt mosaic in pixels": {"method": "mtt", "ipc": 2, "formation": {"factor": 2}, "space": "pixels"},
    "mtt zca": {"method": "mtt"},
    "mtt bfloat16": {"method": "mtt"},
    "datm scored": {"method": "datm", "ipc": 2, "evaluate_every": 2, "evaluate_epochs": 5},
    "tgdd mosaic": {"method": "tgdd", "ipc": 2, "formation": {"factor": 2}},
}


def digest(*tensors: Any) -> str:
    """The sha256 of arrays' types, shapes and bytes."""
    total = hashlib.sha256()
    for tensor in tensors:
        array = np.ascontiguousarray(torch.as_tensor(tensor).detach().cpu().numpy())
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]


def data_of(kind: str) -> dict[str, Any]:
    """The data settings of a buffer."""
    return {"preprocessing": "zca" if kind == "zca" else "normalise"}


def expert_digests(folder: Path) -> dict[str, str]:
    """A digest per kind of expert: all snapshots of all experts."""
    found = {}
    for name, changes in KINDS.items():
        place = raydd.train_experts(raydd.ExpertsConfig(data=data_of(name), experts=EXPERTS | changes), folder / name)
        buffer = raydd.ArrowBuffer(place)
        epochs = buffer.kept or range(buffer.epochs + 1)
        found[name] = digest(*(buffer.snapshot(expert, epoch) for expert in buffer.experts for epoch in epochs))
    return found


def kind_of(row: str, method: str) -> str:
    """Which of the buffers a row matches: of the kind that its last word names, else the method's own."""
    own = {"mct": "convexified", "ast": "smooth", "ftd": "gsam", **dict.fromkeys(SNAPSHOTS, "momentum")}
    return row.split()[-1] if row.split()[-1] in KINDS else own.get(method, "sgd")


def set_digests(folder: Path) -> dict[str, str]:
    """A digest per method: images, labels, learning rate and the recorded losses."""
    found = {}
    for name, settings in ROWS.items():
        changes, match = SMALL | settings, raydd.METHODS[settings["method"]].match
        foreign = {"trajectories": set(), "loss": {"span", "window"}}.get(match, {"student_steps", "span", "window"})
        changes = {key: changes[key] for key in changes if key not in foreign}
        if match == "nothing":
            changes = {"ipc": 2, "threads": 1, **settings}
        kind = kind_of(name, settings["method"])
        config = raydd.DistillConfig(data=data_of(kind), experts=EXPERTS | KINDS[kind], **changes)
        out = folder / "runs" / name.replace(" ", "-")
        synset = raydd.distill(config, out, buffer=folder / kind)
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [float(json.loads(line)["loss"]) for line in lines]
        found[name] = digest(synset.images, synset.labels, synset.lr, torch.tensor(losses, dtype=torch.float64))
    return found


SNAPSHOTS = ("tgdd", "dance", "dsdm", "ncfm")


def hashed(value: Any) -> str:
    """The digest of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def numbers(tree: Any) -> Any:
    """A result without what time, place and version decide: names, accuracies, correlations and orders."""
    volatile = {"seconds", "commit", "commits", "path", "outputs", "settings", "digest", "note", "notes", "version"}
    if isinstance(tree, dict):
        return {key: numbers(tree[key]) for key in tree if key not in volatile and "seconds" not in key}
    return [numbers(one) for one in tree] if isinstance(tree, list | tuple) else tree


def score_digests(folder: Path) -> dict[str, str]:
    """A digest per row of scores: names, networks, means and deviations."""
    chosen = [folder / "runs" / name / "synset.arrow" for name in ("mtt", "tgdd-mosaic", "datm-scored")]
    config = raydd.EvaluateConfig(networks=("ConvNetW8", "MLP"), seeds=2, epochs=20, real_epochs=1)
    robust = config.model_copy(update={"networks": ("MLP",), "scores": ("lrs",)})
    scores = [score.to_document() for score in [*raydd.evaluate(chosen, config), *raydd.evaluate(chosen[:1], robust)]]
    kept = ("name", "kind", "network", "selection", "ipc", "part", "mean", "std")
    found = {}
    for row in scores:
        name = " ".join(str(row[key]) for key in ("name", "network", "part") if row.get(key))
        found[name] = hashed([row.get(key) for key in kept])
    return found


def other_digests(folder: Path) -> dict[str, str]:
    """Digests of an architecture ranking, of class-incremental learning and of a search."""
    synset = raydd.SyntheticSet.load(folder / "runs/mtt/synset.arrow")
    search = raydd.NasConfig(sample=3, epochs=3, real_epochs=1, top=(2,))
    ranking = raydd.rank_architectures([synset], search, folder / "nas")
    config = raydd.EvaluateConfig(networks=("MLP",), seeds=2, epochs=5, baselines=("random",))
    continual = raydd.evaluate_continual([synset], config, folder / "continual", steps=(2,))
    space = {
        "method": "mtt",
        "buffer": str(folder / "sgd"),
        "set": SMALL | {"steps": 4, "evaluate_epochs": 3, "data": data_of("sgd"), "experts": EXPERTS},
        "domains": {"lr.images": {"log_uniform": [1.0, 100.0]}},
        "budget": {"samples": 3, "reports": 2},
    }
    raydd.tune(space, folder / "tune", where=raydd.Where(num_workers=1))
    rows = parquet.read_table(folder / "tune/results.parquet").to_pylist()
    trials = [[row[key] for key in ("trial", "state", "accuracy", "settings.lr.images")] for row in rows]
    return {"nas": hashed(numbers(ranking)), "continual": hashed(numbers(continual)), "tune": hashed(trials)}


def measured() -> dict[str, dict[str, str]]:
    """All digests, by group."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["RAYDD_CACHE"] = str(folder / "cache")  # nothing that an earlier version computed
        experts, sets = expert_digests(folder), set_digests(folder)
        return {"experts": experts, "sets": sets, "scores": score_digests(folder), "others": other_digests(folder)}


def main() -> int:
    """Record digests, or name those that differ from the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record the digests")
    write = parser.parse_args().write
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    found = measured()
    if write:
        RECORD.write_text(json.dumps({"machine": machine, **found}, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {RECORD}")
        return 0
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    if record["machine"] != machine:
        print(f"recorded on {record['machine']}, this is {machine}: bits may differ")
    before = {f"{group}: {key}": value for group in found for key, value in record[group].items()}
    now = {f"{group}: {key}": value for group in found for key, value in found[group].items()}
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    print("\n".join(f"differs: {key}" for key in changed) or f"the same {len(now)} digests")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
