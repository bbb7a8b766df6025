"""A trajectory and its convexified form in one plane, with their accuracy.

Shapes: `P` parameters.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from raydd.analysis.buffers import SPLIT
from raydd.analysis.document import Document, names_of
from raydd.analysis.stages import full_buffer, known_expert, open_work
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.convexified import Convexified
from raydd.config.parsing import Tree
from raydd.data.batches import Feed
from raydd.figures.landscape import principal_plane
from raydd.io.console import Screen
from raydd.numerics.flat import Layout, seeded, split
from raydd.numerics.rng import generator
from raydd.training.expert import measure_accuracy

STATISTICS_IMAGES, STATISTICS_BATCH = 2048, 256


def landscape(
    folder: Path,
    expert: int = 0,
    waypoints: tuple[int, ...] = (),
    *,
    images: Tree | None = None,
    device: torch.device,
    screen: Screen,
) -> Document:
    """An expert's trajectory and its convexified form in the former's principal plane, with their accuracy.

    The accuracy of stored snapshots is the buffer's own; elsewhere a network is run on the same split.
    BatchNorm's running statistics, which such points do not have, are measured on 2,048 training images.

    Args:
        folder: A buffer with a snapshot an epoch.
        expert: Its number.
        waypoints: Epochs that the convexified trajectory passes, beside the first and the last.
        images: ``dataset`` and ``size`` of `DataConfig`, where the buffer's name does not lead to its images.
        device: Where networks run.
        screen: Where progress is told.

    Raises:
        ValueError: A convexified buffer, no such expert, no validation accuracy, or other images than its own.

    Reference:
        Zhong et al., arXiv 2406.19827 (MCT), Eq. 7-9 and Fig. 1a.
    """
    buffer = full_buffer(folder)
    stored = _stored_accuracy(buffer, expert)
    source = Convexified(buffer, waypoints)
    kept = list(source.kept)
    epochs = range(buffer.epochs + 1)
    points = torch.stack([source.point(expert, t) for t in epochs])
    work = open_work(buffer, images or {}, device)
    network = seeded(work.build, generator(0, "landscape")).to(device)
    feeds = work.feed(work.dataset.train), work.feed(work.dataset.validation)
    accuracy = []
    with screen.progress("landscape", len(epochs)) as update:
        for t in epochs:
            at_kept = t in kept  # there the two paths are one network
            accuracy.append(stored[t] if at_kept else accuracy_at(points[t], network, buffer.layout, *feeds))
            update(t + 1, "points measured")
    snapshots = torch.stack([buffer.snapshot(expert, t) for t in epochs])
    plane = principal_plane(snapshots)
    paths = {"trajectory": (snapshots, stored), "convexified": (points, accuracy)}
    return {
        "analysis": "landscape",
        "name": names_of([folder])[0],
        "folder": str(folder),
        "expert": expert,
        "split": SPLIT,
        "kept": kept,
        "epochs": list(epochs),
        "explained": plane.explained.tolist(),
        **{
            key: dict(zip("xy", plane.project(path).T.tolist(), strict=True)) | {"accuracy": values}
            for key, (path, values) in paths.items()
        },
    }


def _stored_accuracy(buffer: ArrowBuffer, expert: int) -> list[float]:
    accuracy: list[float] = buffer.accuracy[buffer.experts.index(known_expert(buffer, expert))].tolist()
    if any(map(math.isnan, accuracy)):
        raise ValueError(
            f"{buffer.folder} has no validation accuracy; train experts with --set data.validation=0.1, say"
        )
    return accuracy


def accuracy_at(theta: Tensor, network: nn.Module, layout: Layout, train: Feed, validation: Feed) -> float:
    """The accuracy of parameters (P,), a fraction; the network is left with them.

    Args:
        theta: The point, on any device.
        network: Of theta's layout, on the device of the images.
        layout: Of theta.
        train: Training images for BatchNorm's running statistics; not read by other networks.
        validation: Images that the accuracy is measured on.
    """
    network.load_state_dict(split(theta.to(validation.targets.device), layout), strict=False)
    rows = torch.randperm(len(train), generator=generator(0, "statistics"))[:STATISTICS_IMAGES]
    parts = rows.tensor_split(-(-len(rows) // STATISTICS_BATCH))  # of one size, since each counts the same
    update_bn((train(part)[0] for part in parts), network)
    return measure_accuracy(network, validation)
