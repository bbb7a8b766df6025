"""An expert's trajectory and its convexified form in one plane, with their accuracy.

Shapes: `P` parameters.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from raydd.analysis.buffers import SPLIT
from raydd.analysis.document import Document
from raydd.analysis.expert_networks import AnalysisContext, check_expert, full_buffer, open_images
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.convexified import Convexified
from raydd.data.batches import Feed
from raydd.figures.landscape import principal_plane
from raydd.io.paths import short_names
from raydd.numerics.flat import Layout, seeded, split
from raydd.numerics.rng import generator
from raydd.training.expert import measure_accuracy

STATISTICS_IMAGES, STATISTICS_BATCH = 2048, 256


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
