"""Training of a student from scratch on few images, and its test on real ones.

Shapes: `N` synthetic images, `K` classes, `B` batch, `C H W` image.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Feed
from raydd.evaluation.protocols import Protocol
from raydd.numerics.augment import Augment
from raydd.numerics.cutmix import cutmix
from raydd.numerics.flat import seeded
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator
from raydd.numerics.sgd import Sgd
from raydd.training.expert import measure_accuracy

REAL_LR = 0.01
"""Learning rate on real images, under protocols that take the synthetic set's own: MTT's initial one."""

Epoch = Callable[[torch.Generator], Iterator[tuple[Tensor, Tensor]]]
"""Makes one epoch of batches (B, C, H, W), (B,) or (B, K), in an order drawn from the generator."""

KeepTraining = Callable[[int, float], bool]
"""(epoch, accuracy after it) -> whether the training continues."""


class EarlyStop(NamedTuple):
    """Epochs after which a training may be stopped; one that continues gives the same result as without."""

    epochs: tuple[int, ...]
    keep_training: KeepTraining


def evaluate(
    synset: SyntheticSet,
    build: Callable[[], nn.Module],
    test: Feed,
    protocol: Protocol,
    augment: Augment,
    seed: int,
    early_stop: EarlyStop | None = None,
) -> float:
    """Return the accuracy, in [0, 1], of one fresh network trained on a synthetic set and tested on real images.

    ``test`` is preprocessed as the set's ``transform`` says; the set is moved to its device.
    """
    protocol = protocol.on(synset.dataset, synset.ipc)
    synset = synset.to(test.targets.device).decoded()
    images, targets = synset.images, synset.targets

    def epoch(rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(images), generator=rng).split(protocol.batch_size):
            rows = rows.to(images.device)
            yield images[rows], targets[rows]

    lr = float(synset.lr) if protocol.lr is None else protocol.lr
    epochs = protocol.plain_epochs if augment.plain else protocol.epochs
    return _fit_and_test(build, epoch, test, protocol, augment, lr, epochs, seed, early_stop)


def evaluate_real(
    train: Feed, build: Callable[[], nn.Module], test: Feed, protocol: Protocol, augment: Augment, seed: int
) -> float:
    """Return the accuracy of one fresh network trained on all real images, an upper bound.

    As `evaluate`, but for ``protocol.real_epochs`` epochs, and with `REAL_LR` where the protocol takes the set's own
    learning rate.
    """
    epoch = partial(train.shuffled, protocol.batch_size)
    lr = REAL_LR if protocol.lr is None else protocol.lr
    return _fit_and_test(build, epoch, test, protocol, augment, lr, protocol.real_epochs, seed)


def _fit_and_test(  # noqa: PLR0913, PLR0917 - the two functions above differ in these alone
    build: Callable[[], nn.Module],
    epoch: Epoch,
    test: Feed,
    protocol: Protocol,
    augment: Augment,
    lr: float,
    epochs: int,
    seed: int,
    early_stop: EarlyStop | None = None,
) -> float:
    network = seeded(build, generator(seed, "student", "init")).to(test.targets.device).train()
    milestones = [int(epochs * part) for part in protocol.milestones]
    optimizer = Sgd(network.parameters(), lr, protocol.momentum, protocol.weight_decay, milestones, protocol.gamma)
    order, draws = generator(seed, "student", "order"), generator(seed, "student", "augment")
    boxes = generator(seed, "student", "cutmix")
    for done in range(1, epochs + 1):
        for x, y in epoch(order):
            loss = _loss(network, augment.draw(x.shape, draws)(x), y, protocol.cutmix, boxes)
            network.zero_grad()
            loss.backward()
            optimizer.step()
        optimizer.end_epoch()
        if early_stop and done in early_stop.epochs and done < epochs:
            accuracy = measure_accuracy(network, test)
            if not early_stop.keep_training(done, accuracy):
                return accuracy
    return measure_accuracy(network, test)


def _loss(network: nn.Module, x: Tensor, y: Tensor, probability: float, rng: torch.Generator) -> Tensor:
    """Return the mean cross-entropy of a batch, mixed by CutMix with this probability; 0 draws nothing."""
    if not probability or float(torch.rand((), generator=rng)) >= probability:
        return cross_entropy(network(x), y)
    x, partners, share = cutmix(x, y, rng)
    logits = network(x)
    return share * cross_entropy(logits, y) + (1 - share) * cross_entropy(logits, partners)
