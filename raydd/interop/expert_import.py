"""Import experts of other projects into a trajectory buffer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from raydd.buffer.arrow_buffer import complete_experts, create_buffer, refresh_manifest
from raydd.buffer.expert_file import expert_path
from raydd.buffer.expert_writer import ExpertWriter, Rows, pieces
from raydd.buffer.mirror import written_folder
from raydd.buffer.precision import STORAGES
from raydd.buffer.spec import BufferSpec, spec_of
from raydd.config.parsing import Tree, build, flat, merged
from raydd.config.schema import ExpertsConfig
from raydd.data.datasets import DATASETS
from raydd.data.mirroring import data_recipe
from raydd.data.preprocessing import fit_transform, load_transform, save_transform
from raydd.data.workspace import Workspace, accuracy, open_workspace
from raydd.interop.expert_files import FORMATS, ForeignExpert, Format, Source, Target, find_experts
from raydd.io.arrow_file import open_arrow
from raydd.io.console import Screen
from raydd.numerics.flat import Layout, flatten, seeded
from raydd.numerics.rng import generator

TRIED = 512
"""Training images on which the first expert is tried."""
NO_VALIDATION: Tree = {"data": {"validation": 0.0}}
"""Other projects hold no training images out."""
FROM_FILES = ("experts.epochs", "experts.num_experts", "experts.kept")
"""Settings that the files decide."""


class Imported(NamedTuple):
    """The result of an import."""

    layout: str  # a key of `raydd.interop.expert_files.FORMATS`
    config: ExpertsConfig  # the buffer's settings; those of neither the files nor the user are in `assumed`
    experts: int  # the number of experts in the files
    new: int  # the number of those that were not in the buffer yet
    accuracy: float  # of the first expert's last snapshot on some training images, a fraction
    assumed: Tree  # settings from the project's own defaults, by name


def import_experts(
    paths: Sequence[Path | str],
    out: Path | str,
    settings: Tree,
    *,
    layout: str | None = None,
    screen: Screen | None = None,
) -> Imported:
    """Write experts of other projects into a trajectory buffer; a second call continues where the first was stopped.

    One snapshot is held at a time, and one file is open. Experts are numbered folder by folder, in each by the number
    in the file's name. Accuracies and losses are NaN, because the files have none. Settings of `ExpertsConfig` that are
    not given come from the project's own defaults, and the buffer's recipe lists them. Experts that are not finite,
    differ in length or never move are refused; complete experts stay.
    """
    screen = screen or Screen()
    layout, sources = find_experts([Path(path).expanduser() for path in paths], layout)
    _check_settings(settings, layout)
    work = _images(settings)
    target = Target(work.network, seeded(work.build, generator(0, "layout")))
    with written_folder(out, screen.note) as folder:
        first = FORMATS[layout].read(sources[0], target)
        _check_epochs(first, first[0].epochs)  # before the buffer is made
        buffer = _open(folder, work, target, settings, (layout, first[0].epochs))
        accuracy = _accuracy(buffer.work, target, first[0])
        del first  # its file, before others are read
        screen.note(_accuracy_note(accuracy, work))
        count, new = _take(buffer, FORMATS[layout], sources, target, screen)
    return Imported(layout, buffer.config, count, new, accuracy, buffer.assumed)


def _take(buffer: "_Buffer", row: Format, sources: Sequence[Source], target: Target, screen: Screen) -> tuple[int, int]:
    """Write the experts that the buffer lacks; return the number of all experts and of the new ones."""
    done, count = complete_experts(buffer.folder, buffer.spec), 0
    try:
        with screen.progress("importing files", len(sources)) as update:
            for number, source in enumerate(sources):
                experts = _check_epochs(row.read(source, target), buffer.config.experts.epochs)
                for part, expert in enumerate(experts):
                    update(number + part / len(experts), expert.place)
                    (_check_same if count in done else _write)(buffer, count, expert)
                    count += 1
                del experts, expert  # their file, before the next is read
    finally:
        refresh_manifest(buffer.folder)
    return count, count - len(done & set(range(count)))


@dataclass(frozen=True, eq=False)
class _Buffer:
    """The buffer that is written."""

    folder: Path
    config: ExpertsConfig
    spec: BufferSpec
    work: Workspace
    assumed: Tree


def _check_settings(settings: Tree, layout: str) -> None:
    """Refuse settings that the files decide, and a missing data set, network or preprocessing."""
    given = flat(settings)
    for name, flag in {"data.dataset": "--dataset", "experts.network": "--network"}.items():
        if name not in given:
            raise ValueError(f"these files do not say their {flag[2:].replace('dataset', 'data set')}: give {flag}")
    for name in FROM_FILES:
        if name in given:
            raise ValueError(f"{name} = {given[name]!r} is for training experts; the files decide it: leave it out")
    if (ask := FORMATS[layout].ask) and "data.preprocessing" not in given:
        raise ValueError(ask)


def _images(settings: Tree) -> Workspace:
    """Open the data set and the network, before any preprocessing is fitted."""
    config = build(ExpertsConfig, NO_VALIDATION, settings)
    plain = config.data.model_copy(update={"preprocessing": "raw01"})
    return open_workspace(plain, config.experts.network, torch.device("cpu"))


def _check_epochs(experts: list[ForeignExpert], epochs: int) -> list[ForeignExpert]:
    """Return the experts of a source; all must have the same epochs, at least 1."""
    for expert in experts:
        if not expert.epochs:
            raise ValueError(f"{expert.place} has one snapshot: a trajectory needs two at least, leave it out")
        if expert.epochs != epochs:
            what = f"has epochs 0 to {expert.epochs}, and the first expert 0 to {epochs}"
            raise ValueError(f"{expert.place} {what}: import those of each length into a buffer of their own")
    return experts


def _open(folder: Path, work: Workspace, target: Target, settings: Tree, kind: tuple[str, int]) -> _Buffer:
    """Make or check the buffer's folder and its preprocessing; ``kind`` is the files' layout and the last epoch."""
    layout, epochs = kind
    mirrored: Tree = {} if settings["data"]["dataset"] in DATASETS else {"data": {"flip": True}}  # as all projects do
    defaults = merged(NO_VALIDATION, FORMATS[layout].recipe(epochs), mirrored)
    config = build(ExpertsConfig, defaults, settings, {"experts": {"epochs": epochs}})
    names = {*flat(defaults), "data.preprocessing"} - set(flat(settings))
    assumed = {name: value for name, value in flat(config).items() if name in names}
    stored, wanted = folder / "preprocessing.arrow", config.data.preprocessing
    transform = load_transform(folder) if stored.exists() else fit_transform(wanted, work.dataset)
    if transform.kind != wanted:
        raise ValueError(f"{folder} has preprocessing {transform.kind!r}, not {wanted!r}; name another --out")
    recipe = config.experts.recipe() | data_recipe(config.data)
    recipe["imported"] = {"format": layout, "assumed": sorted(assumed)}
    work = replace(work, transform=transform)
    spec = spec_of(work, target.network, recipe, config.seed, storage=config.experts.storage)
    create_buffer(folder, spec)
    if not stored.exists():
        save_transform(folder, transform)
    return _Buffer(folder, config, spec, work, assumed)


def _vector(snapshot: dict[str, Tensor], layout: Layout) -> Tensor:
    return flatten({slot.name: snapshot[slot.name] for slot in layout})


def _write(buffer: _Buffer, index: int, expert: ForeignExpert) -> None:
    """Write one expert, a snapshot at a time; refuse one that is not finite, or whose snapshots are all equal."""
    spec, rows = buffer.spec, Rows(buffer.spec, index)
    still, before = True, None
    with ExpertWriter(buffer.folder, spec, index) as writer:
        for epoch in range(expert.epochs + 1):
            snapshot = expert.snapshot(epoch)
            theta, statistics = _vector(snapshot, spec.layout), _vector(snapshot, spec.buffer_layout)
            if not (theta.isfinite().all() and statistics.isfinite().all()):
                raise ValueError(f"{expert.place} is not finite at epoch {epoch}, it diverged: leave it out")
            for piece in pieces(rows.row(theta, statistics, epoch, math.nan, math.nan)):
                writer.add(piece)
            still, before = still and (before is None or torch.equal(before, theta)), theta
        if still:
            what = (
                "never moves: scripts that keep parameters without copying them save the last for all when run on a CPU"
            )
            raise ValueError(f"{expert.place} {what}; train it on a GPU, or with `raydd experts`")
        writer.finish()


def _check_same(buffer: _Buffer, index: int, expert: ForeignExpert) -> None:
    """Refuse files of another expert than that of the buffer, by its last snapshot."""
    path, storage = expert_path(buffer.folder, index), STORAGES[buffer.spec.storage]
    last = storage.narrow(_vector(expert.snapshot(expert.epochs), buffer.spec.layout).numpy())
    if not np.array_equal(open_arrow(path).rows("theta", expert.epochs, expert.epochs + 1)[0], last):
        raise ValueError(f"{path} is not {expert.place}: name the same files in the same order, or another --out")


def _accuracy(work: Workspace, target: Target, expert: ForeignExpert) -> float:
    """Return the accuracy of an expert's last snapshot on training images: a test of the assumed settings."""
    network, feed = target.network.eval(), work.feed(work.dataset.train)
    network.load_state_dict(expert.snapshot(expert.epochs), strict=False)
    rows = torch.linspace(0, len(feed) - 1, min(TRIED, len(feed))).long()
    with torch.no_grad():
        return accuracy(network, map(feed, rows.split(64)))


def _accuracy_note(accuracy: float, work: Workspace) -> str:
    images, chance = min(TRIED, len(work.dataset.train)), 1 / len(work.dataset.classes)
    line = f"the first expert ends with {100 * accuracy:.1f} % of {images} training images right"
    if accuracy >= 2 * chance:
        return line
    return f"{line}, about chance: --network, --preprocessing or the order of the classes may not be the experts'"


def describe_import(imported: Imported, out: str) -> dict[str, Any]:
    """Describe an import into a buffer at ``out`` in JSON values."""
    config = imported.config
    return {
        "format": imported.layout,
        "dataset": config.data.dataset,
        "network": config.experts.network,
        "preprocessing": config.data.preprocessing,
        "experts": imported.experts,
        "new": imported.new,
        "epochs": config.experts.epochs,
        "accuracy": imported.accuracy,
        "assumed": imported.assumed,
        "outputs": {"buffer": out},
    }
