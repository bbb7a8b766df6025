"""Smoothness, accuracy, size on disk and loss landscape of a buffer's experts.

Shapes: `E` experts, `K` the last epoch, `T` kept snapshots, `L` parameter tensors, `P` parameters.
"""

import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from raydd.analysis.document import Document, finite_or_none
from raydd.analysis.expert_networks import AnalysisContext, check_expert, full_buffer, open_images
from raydd.buffer.arrow_buffer import ArrowBuffer, create_buffer, refresh_manifest
from raydd.buffer.convexified import Convexified, convexify
from raydd.buffer.expert_file import expert_path
from raydd.data.workspace import Feed
from raydd.figures.landscape import principal_plane
from raydd.io.paths import short_names
from raydd.numerics.flat import Layout, seeded, split
from raydd.numerics.rng import generator
from raydd.training.expert import measure_accuracy

SPLIT = "validation"
STATISTICS_IMAGES, STATISTICS_BATCH = 2048, 256


def experts(folders: Sequence[Path]) -> Document:
    """Return the smoothness and the accuracy of each buffer's experts.

    ``Avg_Var = E_t |theta_t - theta_{t-1}|_2^2`` over the epochs t = 1..K of an expert, from the norms that the buffer
    stores. Standard deviations are over the experts (ddof 0).

    Reference:
        Shen et al., arXiv 2310.10541 (AST), Fig. 9 and Table VII.

    Differs:
        The paper names two consecutive iterations; snapshots, its own too, are an epoch apart.
    """
    named = zip(folders, short_names(folders), strict=True)
    numbers = [_expert_numbers(ArrowBuffer(folder), name) for folder, name in named]
    return {"analysis": "experts", "split": SPLIT, "buffers": numbers}


def _expert_numbers(buffer: ArrowBuffer, name: str) -> Document:
    lengths = torch.stack([buffer.norms(expert) for expert in buffer.experts]).double()
    change = lengths.square().sum(dim=2)[:, 1:]  # (E, K)
    accuracy = buffer.accuracy  # (E, T)
    best = accuracy.nan_to_num(-1).amax(dim=1)
    best[best < 0] = math.nan
    return {
        "name": f"{buffer.spec.recipe.get('optimizer', 'experts')}, {name}",
        "folder": str(buffer.folder),
        "dataset": buffer.spec.dataset,
        "network": buffer.spec.network,
        "experts": len(buffer.experts),
        "epochs": buffer.epochs,
        "avg_var": spread(change.mean(dim=1)),
        "last": spread(accuracy[:, -1]),
        "best": spread(best),
        "change": {"epochs": list(range(1, buffer.epochs + 1))} | spread(change),
        "accuracy": {"epochs": list(buffer.kept or range(buffer.epochs + 1))} | spread(accuracy),
    }


def spread(values: Tensor) -> Document:
    """Return mean and standard deviation (ddof 0) over the first dimension, as plain numbers."""
    std = values.std(dim=0, correction=0)
    return {"mean": finite_or_none(values.mean(dim=0).tolist()), "std": finite_or_none(std.tolist())}


def storage(folders: Sequence[Path], waypoints: tuple[int, ...] = ()) -> Document:
    """Return the size on disk of an expert, full and convexified; a convexified file is written to measure it.

    Experts of one buffer have one shape, so the first is measured.

    Args:
        folders: Buffers, full or convexified.
        waypoints: Epochs that a full buffer's convexified form keeps, beside the first and the last.

    Reference:
        Zhong et al., arXiv 2406.19827 (MCT), section 4.3 and Fig. 3c.
    """
    named = zip(folders, short_names(folders), strict=True)
    numbers = [{"name": name} | _storage_numbers(ArrowBuffer(folder), waypoints) for folder, name in named]
    return {"analysis": "storage", "waypoints": list(waypoints), "buffers": numbers}


def _storage_numbers(buffer: ArrowBuffer, waypoints: tuple[int, ...]) -> Document:
    size = expert_path(buffer.folder, buffer.experts[0]).stat().st_size
    full = size if buffer.kept is None else None
    convexified = size if full is None else _convexified_bytes(buffer, waypoints)
    return {
        "folder": str(buffer.folder),
        "network": buffer.spec.network,
        "parameters": buffer.parameters,
        "experts": len(buffer.experts),
        "epochs": buffer.epochs,
        "kept": list(buffer.kept or (0, *waypoints, buffer.epochs)),
        "full_bytes": full,
        "convexified_bytes": convexified,
        "ratio": None if full is None else convexified / full,
        "total_bytes": sum(expert_path(buffer.folder, index).stat().st_size for index in buffer.experts),
    }


def _convexified_bytes(buffer: ArrowBuffer, waypoints: tuple[int, ...]) -> int:
    first = buffer.experts[0]
    with tempfile.TemporaryDirectory() as temporary:
        one, out = Path(temporary, "one"), Path(temporary, "out")
        create_buffer(one, buffer.spec)
        shutil.copy(buffer.folder / "preprocessing.arrow", one)
        expert_path(one, first).symlink_to(expert_path(buffer.folder, first).absolute())
        refresh_manifest(one)
        convexify(one, out, waypoints)
        return expert_path(out, first).stat().st_size


def landscape(folder: Path, expert: int = 0, waypoints: tuple[int, ...] = (), *, context: AnalysisContext) -> Document:
    """Return an expert's trajectory and its convexified form in the former's principal plane, with their accuracy.

    The accuracy of stored snapshots is the buffer's own; other points are measured on the same split. They have no
    BatchNorm statistics, which are measured on 2,048 training images.

    Args:
        folder: A buffer with a snapshot an epoch.
        expert: Number of the expert.
        waypoints: Epochs that the convexified trajectory passes, beside the first and the last.
        context: Device, progress and real images.

    Reference:
        Zhong et al., arXiv 2406.19827 (MCT), Eq. 7-9 and Fig. 1a.
    """
    buffer = full_buffer(folder)
    stored = _stored_accuracy(buffer, expert)
    source = Convexified(buffer, waypoints)
    waypoint_epochs = list(source.kept)
    epochs = range(buffer.epochs + 1)
    points = torch.stack([source.point(expert, t) for t in epochs])
    work = open_images(buffer, context.images, context.device)
    network = seeded(work.build, generator(0, "landscape")).to(context.device)
    feeds = work.feed(work.dataset.train), work.feed(work.dataset.validation)
    accuracy = []
    with context.screen.progress("landscape", len(epochs)) as update:
        for t in epochs:
            at_waypoint = t in waypoint_epochs  # both paths have the same network there
            accuracy.append(stored[t] if at_waypoint else accuracy_at(points[t], network, buffer.layout, *feeds))
            update(t + 1, "points measured")
    snapshots = torch.stack([buffer.snapshot(expert, t) for t in epochs])
    plane = principal_plane(snapshots)
    paths = {"trajectory": (snapshots, stored), "convexified": (points, accuracy)}
    return {
        "analysis": "landscape",
        "name": short_names([folder])[0],
        "folder": str(folder),
        "expert": expert,
        "split": SPLIT,
        "kept": waypoint_epochs,
        "epochs": list(epochs),
        "explained": plane.explained.tolist(),
        **{
            key: dict(zip("xy", plane.project(path).T.tolist(), strict=True)) | {"accuracy": values}
            for key, (path, values) in paths.items()
        },
    }


def _stored_accuracy(buffer: ArrowBuffer, expert: int) -> list[float]:
    accuracy: list[float] = buffer.accuracy[buffer.experts.index(check_expert(buffer, expert))].tolist()
    if any(map(math.isnan, accuracy)):
        raise ValueError(
            f"{buffer.folder} has no validation accuracy; train experts with --set data.validation=0.1, say"
        )
    return accuracy


def accuracy_at(theta: Tensor, network: nn.Module, layout: Layout, train: Feed, validation: Feed) -> float:
    """Return the validation accuracy of parameters theta (P,) of a layout, a fraction; they stay in the network.

    Training images give BatchNorm's running statistics.
    """
    network.load_state_dict(split(theta.to(validation.targets.device), layout), strict=False)
    rows = torch.randperm(len(train), generator=generator(0, "statistics"))[:STATISTICS_IMAGES]
    parts = rows.tensor_split(-(-len(rows) // STATISTICS_BATCH))  # of one size, since each has the same weight
    update_bn((train(part)[0] for part in parts), network)
    return measure_accuracy(network, validation)
