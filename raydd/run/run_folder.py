"""The files of a run folder: its settings, its result, and the sets of its scored steps.

A folder holds a run once it has a ``config.yaml``. The sets of scored steps, ``steps/000100.arrow``, are tested when
the run is done.
"""

import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from raydd.config.parsing import build
from raydd.config.schema import DistillConfig
from raydd.data.mirroring import stored_settings
from raydd.data.preprocessing import Transform
from raydd.data.run_progress import UNFINISHED
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, with_absolute_path
from raydd.io.bounded_file import read_text
from raydd.io.document import remove_text_checksum
from raydd.io.provenance import commit
from raydd.io.safe_yaml import parse_yaml
from raydd.run.claim import claim

_SCORED_SET = re.compile(r"\d{6,}\.arrow")
_RUN_FILE = re.compile(
    r"config\.yaml|(metrics|memory|probe)\.jsonl|checkpoint/state\.arrow|(synset|best|last)\.arrow|synset\.png|"
    r"window\.(json|png)|frames/(frames\.json|step-\d+\.png)|tensorboard/events\.[\w.-]+|steps/\d+\.arrow"
)


def read_config(folder: Path) -> DistillConfig | None:
    """Return the configuration of a run folder, or None where it holds no run."""
    path = folder / "config.yaml"
    if not path.exists():
        return None
    try:
        tree = parse_yaml(remove_text_checksum(read_text(path)))
        data = tree.get("data") if isinstance(tree, dict) else None
        layers = {"data": stored_settings(data)} if isinstance(data, dict) else {}
        return with_absolute_path(build(DistillConfig, tree if isinstance(tree, dict) else {"config": tree}, layers))
    except ValueError as error:
        reason = " ".join(str(error).split())[:400]
        raise ValueError(f"{path} is no configuration of this raydd ({reason}); name another --out") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); name another --out") from None


def previous_run(folder: Path, resume: bool) -> DistillConfig | None:
    """Return the configuration of the run that a folder holds, to be resumed, or None where it holds none."""
    claim(folder, resume)
    return read_config(folder)


def is_run_file(name: str) -> bool:
    """Return whether a run writes a file of this name, relative to its folder.

    >>> is_run_file("checkpoint/state.arrow"), is_run_file("report.html")
    (True, False)
    """
    return _RUN_FILE.fullmatch(name) is not None


def scored_set_path(folder: Path, step: int) -> Path:
    """Return where a run folder holds the set of an outer step."""
    return folder / "steps" / f"{step:06d}.arrow"


def scored_set_paths(folder: Path) -> dict[int, Path]:
    """Return the sets that a run folder holds, by outer step, ascending."""
    paths = (path for path in (folder / "steps").glob("*.arrow") if _SCORED_SET.fullmatch(path.name))
    return dict(sorted((int(path.stem), path) for path in paths))


def load_scored_sets(folder: Path) -> dict[int, SyntheticSet]:
    """Return the sets that a run folder holds, by outer step; those of equal preprocessing share one object."""
    paths = scored_set_paths(folder)
    if not paths:
        raise ValueError(
            f"{folder} has no kept steps, among which the paper's number is chosen; "
            "distill with --set evaluate_every=N --set keep_scored=true"
        )
    sets, transforms = dict[int, SyntheticSet](), dict[str, Transform]()
    for step, path in paths.items():
        synset = SyntheticSet.load(path)
        shared = transforms.setdefault(synset.transform.hash, synset.transform)  # ZCA of CIFAR takes 75 MB
        sets[step] = replace(synset, transform=shared)
    return sets


def drop_scored_sets(folder: Path, step: int) -> None:
    """Remove the sets of later outer steps than one, to which a run has gone back."""
    for later, path in scored_set_paths(folder).items():
        if later > step:
            path.unlink()


def with_provenance(
    synset: SyntheticSet, config: DistillConfig, work: Workspace, history: tuple[dict[str, Any], ...], chosen: str
) -> SyntheticSet:
    """Return a set, on the CPU, with its recipe, its provenance and the scores up to it."""
    provenance = {
        "raydd": version("raydd"),
        "torch": torch.__version__,
        "commit": commit(),
        "fingerprint": work.dataset.fingerprint,
        "network": config.experts.network,
        "chosen": chosen,
    }
    return replace(synset.to("cpu"), recipe=config.model_dump(mode="json"), provenance=provenance, history=history)


def save_result(folder: Path, last: SyntheticSet, step: int, steps: int) -> None:
    """Write a run's ``synset.arrow``: the best set on the validation split, where there are scores, else the last."""
    chosen, best = last, folder / "best.arrow"
    if last.history and best.exists():
        last.save(folder / "last.arrow")
        chosen = SyntheticSet.load(best)
        history = max(last.history, chosen.history, key=len)  # a killed run's best may be of a score after a checkpoint
        chosen = replace(chosen, history=history)
    if step < steps:
        chosen = replace(chosen, provenance=dict(chosen.provenance) | {UNFINISHED: f"step {step} of {steps}"})
    chosen.save(folder / "synset.arrow")
