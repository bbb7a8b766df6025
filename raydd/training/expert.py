"""Training an expert: a network on real images, with a snapshot an epoch.

Shapes: `P` parameters, `Q` running statistics, `B` batch, `C H W` image, `K` classes.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from raydd.config.schema import ExpertConfig
from raydd.data.workspace import Feed
from raydd.numerics.augment import Augment
from raydd.numerics.compiled import check_compiler
from raydd.numerics.flat import flatten, running_statistics, seeded
from raydd.numerics.rng import generator
from raydd.numerics.sgd import Sgd
from raydd.training.compiled_step import CompiledStep
from raydd.training.optimizer_steps import STEPS, Step

WITH_MOMENTUM = ("momentum", "smooth")


class Snapshot(NamedTuple):
    """An expert at the end of an epoch."""

    theta: Tensor  # (P,) float32 on the CPU; a copy, never an alias of the live weights
    buffers: Tensor  # (Q,) running statistics, empty where the network has none
    epoch: int  # 0 is the start
    accuracy: float  # on the validation split, in [0, 1]; NaN without one
    train_loss: float  # mean cross-entropy of the epoch's batches, in nats; NaN at the start


def train_expert(
    config: ExpertConfig,
    build: Callable[[], nn.Module],
    train: Feed,
    validation: Feed,
    augment: Augment,
    seed: tuple[int, int],
) -> Iterator[Snapshot]:
    """Train one expert and yield its snapshots, epochs 0 to ``config.epochs``.

    The run's seed and the expert's index, ``seed``, determine all draws: neither the process nor the order in which
    experts are trained changes an expert. Augmentation is drawn for every batch, one image at a time.

    Reference:
        Cazenavette et al., arXiv 2203.11932, section 3.1 and appendix A.3; the steps have their own.
    """
    path = (seed[0], "expert", seed[1])
    network = seeded(build, generator(*path, "init")).to(train.targets.device)
    optimizer = make_optimizer(network, config)
    step = _step(config, train.targets.device)
    yield _snapshot(network, 0, validation, float("nan"))
    for epoch in range(1, config.epochs + 1):
        order, draws = generator(*path, "order", epoch), generator(*path, "augment", epoch)
        total = torch.zeros((), dtype=torch.float64, device=train.targets.device)
        for x, y in train.shuffled(config.batch_size, order):
            loss = step(network, augment.draw(x.shape, draws)(x), y, epoch)
            optimizer.step()
            total += loss * len(y)
        optimizer.end_epoch()
        mean = float(total) / len(train)
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"expert {seed[1]}: loss is {mean} in epoch {epoch}; lower experts.lr ({config.lr})"
            )
        yield _snapshot(network, epoch, validation, mean)


def _step(config: ExpertConfig, device: torch.device) -> Step:
    """Return the step of the optimiser, in the precision wanted, compiled if wanted."""
    exact = step = STEPS[config.optimizer](config)

    def rounded(network: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return exact(network, x, y, epoch)

    if config.precision == "bfloat16":
        step = rounded
    if not config.compile:
        return step
    check_compiler(device)
    compiled = CompiledStep(lambda network, x, y: step(network, x, y, 1))
    return lambda network, x, y, epoch: compiled(network, x, y)


class Adam:
    """PyTorch's Adam with a learning rate that falls at milestones, called as `raydd.numerics.sgd.Sgd` is."""

    def __init__(self, network: nn.Module, config: ExpertConfig) -> None:
        self._adam = torch.optim.Adam(network.parameters(), config.lr, weight_decay=config.weight_decay)
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(self._adam, list(config.milestones), config.gamma)

    def step(self) -> None:
        """Update the parameters by their gradients."""
        self._adam.step()

    def end_epoch(self) -> None:
        """Lower the learning rate after an epoch that is a milestone."""
        self._schedule.step()


def make_optimizer(network: nn.Module, config: ExpertConfig) -> Sgd | Adam:
    """Return Adam, or SGD with the momentum of ``config.optimizer``, with the schedule."""
    if config.optimizer == "adam":
        return Adam(network, config)
    momentum = config.momentum if config.optimizer in WITH_MOMENTUM else 0.0
    return Sgd(network.parameters(), config.lr, momentum, config.weight_decay, config.milestones, config.gamma)


def measure_accuracy(network: nn.Module, images: Feed) -> float:
    """Return the fraction of correctly classified images, with running statistics; NaN without images."""
    if not len(images):
        return float("nan")
    network.eval()
    with torch.no_grad():
        right = int(sum((network(x).argmax(dim=1) == y).sum() for x, y in images.in_order()))  # read once
    network.train()
    return right / len(images)


def _snapshot(network: nn.Module, epoch: int, validation: Feed, train_loss: float) -> Snapshot:
    theta = flatten(dict(network.named_parameters())).cpu()
    buffers = flatten(running_statistics(network)).cpu()
    return Snapshot(theta, buffers, epoch, measure_accuracy(network, validation), train_loss)
