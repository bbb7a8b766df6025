"""Training of a student from scratch on few images, and its test on real ones.

Shapes: `N` synthetic images, `K` classes, `B` batch, `C H W` image.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Feed
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.saver import Saver, State, to_arrays, to_tensor
from raydd.numerics.adamw import AdamW
from raydd.numerics.augment import Augment
from raydd.numerics.compiled import check_compiler
from raydd.numerics.cutmix import cutmix
from raydd.numerics.flat import seeded
from raydd.numerics.losses import cross_entropy, squared_error
from raydd.numerics.rng import generator, moved
from raydd.numerics.sgd import Sgd
from raydd.training.compiled_step import CompiledStep, Step
from raydd.training.expert import measure_accuracy

REAL_LR = 0.01
"""Learning rate on real images, under protocols that take the synthetic set's own: MTT's initial one."""

Epoch = Callable[[torch.Generator], Iterator[tuple[Tensor, Tensor]]]
"""Makes one epoch of batches (B, C, H, W), (B,) or (B, K), in an order drawn from the generator."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs (B, K) and labels (B,) or (B, K) -> a scalar."""

KeepTraining = Callable[[int, float], bool]
"""(epoch, accuracy after it) -> whether the training continues."""


class EarlyStop(NamedTuple):
    """Epochs after which a training may be stopped; one that continues gives the same result as without."""

    epochs: tuple[int, ...]
    keep_training: KeepTraining


def evaluate(  # noqa: PLR0913, PLR0917 - what a training depends on, and two ways to watch it
    synset: SyntheticSet,
    build: Callable[[], nn.Module],
    test: Feed,
    protocol: Protocol,
    augment: Augment,
    seed: int,
    early_stop: EarlyStop | None = None,
    saver: Saver | None = None,
) -> float:
    """Return the accuracy, in [0, 1], of one fresh network trained on a synthetic set and tested on real images.

    The loss is the cross-entropy, and of labels that are targets of a regression the squared error.
    ``test`` is preprocessed as the set's ``transform`` says; the set is moved to its device. ``saver`` has the state
    from which an interrupted training goes on, and saves it; the result is the same to the bit.
    """
    protocol = protocol.on(synset.dataset, synset.ipc)
    synset = synset.to(test.targets.device).decoded()
    if synset.label_kind == "logits":
        synset = replace(synset, labels=synset.labels / protocol.temperature)
    images, targets = synset.images, synset.targets

    def epoch(rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(images), generator=rng).split(protocol.batch_size):
            rows = moved(rows, images.device)
            yield images[rows], targets[rows]

    lr = float(synset.lr) if protocol.lr is None else protocol.lr
    epochs = protocol.plain_epochs if augment.plain else protocol.epochs
    loss = squared_error if synset.regression else partial(_cross_entropy, protocol.temperature)
    plan = _Plan(epoch, augment, epochs, protocol, loss, early_stop)
    return _fit_and_test(_Student(build, test, protocol, (lr, epochs), seed), plan, test, saver or Saver())


def evaluate_real(
    train: Feed,
    build: Callable[[], nn.Module],
    test: Feed,
    protocol: Protocol,
    augment: Augment,
    seed: int,
    saver: Saver | None = None,
) -> float:
    """Return the accuracy of one fresh network trained on all real images, an upper bound.

    As `evaluate`, but for ``protocol.real_epochs`` epochs, and with `REAL_LR` where the protocol takes the set's own
    learning rate.
    """
    lr, epochs = REAL_LR if protocol.lr is None else protocol.lr, protocol.real_epochs
    plan = _Plan(partial(train.shuffled, protocol.batch_size), augment, epochs, protocol, cross_entropy)
    return _fit_and_test(_Student(build, test, protocol, (lr, epochs), seed), plan, test, saver or Saver())


@dataclass(frozen=True)
class _Plan:
    """What a student is trained on, and how long."""

    epoch: Epoch
    augment: Augment
    epochs: int
    protocol: Protocol
    loss: Loss
    early_stop: EarlyStop | None = None


class _Student:
    """A network between two batches, with all that the next ones depend on."""

    def __init__(
        self, build: Callable[[], nn.Module], test: Feed, protocol: Protocol, schedule: tuple[float, int], seed: int
    ) -> None:
        lr, epochs = schedule
        self.network = seeded(build, generator(seed, "student", "init")).to(test.targets.device).train()
        self.optimizer = _optimizer(self.network, protocol, lr, epochs)
        self.rngs = {name: generator(seed, "student", name) for name in ("order", "augment", "cutmix")}
        self.epoch, self.batch = 1, 0  # the current epoch, and its batches that have ended
        self._order = self.rngs["order"].get_state()  # at the start of the epoch

    def begin_epoch(self, epoch: int) -> None:
        """Begin an epoch, from its first batch."""
        self.epoch, self.batch, self._order = epoch, 0, self.rngs["order"].get_state()

    def state(self) -> State:
        """Return a copy of the state."""
        rngs = {name: rng.get_state() for name, rng in self.rngs.items()} | {"order": self._order}
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "network": to_arrays(self.network.state_dict()),
            "optimizer": self.optimizer.state(),
            "rngs": to_arrays(rngs),
        }

    def load(self, state: State) -> None:
        """Continue from a state."""
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.network.load_state_dict({name: to_tensor(array) for name, array in state["network"].items()})
        self.optimizer.load(state["optimizer"])
        for name, array in state["rngs"].items():
            self.rngs[name].set_state(to_tensor(array))
        self._order = self.rngs["order"].get_state()


def _optimizer(network: nn.Module, protocol: Protocol, lr: float, epochs: int) -> Sgd | AdamW:
    milestones = [int(epochs * part) for part in protocol.milestones]
    decay, gamma = protocol.weight_decay, protocol.gamma
    if protocol.optimizer == "sgd":
        return Sgd(network.parameters(), lr, protocol.momentum, decay, milestones, gamma)
    return AdamW(network.parameters(), lr, decay, milestones, gamma, epochs=epochs, cosine=protocol.cosine)


def _fit_and_test(student: _Student, plan: _Plan, test: Feed, saver: Saver) -> float:
    if (state := saver.take()) is not None:
        student.load(state)
    network, rngs, stop = student.network, student.rngs, plan.early_stop
    step = _step(plan.loss, plan.protocol, test.targets.device)
    for done in range(student.epoch, plan.epochs + 1):
        if done > student.epoch:
            student.begin_epoch(done)
        for x, y in islice(plan.epoch(rngs["order"]), student.batch, None):
            step(network, plan.augment.draw(x.shape, rngs["augment"])(x), y, rngs["cutmix"])
            student.optimizer.step()
            student.batch += 1
            saver.offer(student.state)
        student.optimizer.end_epoch()
        if stop and done in stop.epochs and done < plan.epochs:
            accuracy = measure_accuracy(network, test)
            if not stop.keep_training(done, accuracy):
                return accuracy
    return measure_accuracy(network, test)


def _step(
    loss: Loss, protocol: Protocol, device: torch.device
) -> Callable[[nn.Module, Tensor, Tensor, torch.Generator], None]:
    """Return what leaves the gradient of a batch's loss in a network, with the protocol's CutMix."""
    plain: Step = partial(_plain, loss)
    mixed: Step = partial(_mixed, loss)
    if protocol.compile:
        check_compiler(device)
        plain, mixed = CompiledStep(plain), CompiledStep(mixed)

    def step(network: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
        if not protocol.cutmix or float(torch.rand((), generator=rng)) >= protocol.cutmix:
            plain(network, x, y)
            return
        x, partners, share = cutmix(x, y, rng)
        mixed(network, x, y, partners, torch.tensor(share, device=device) if protocol.compile else share)

    return step


def _plain(loss: Loss, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return _backward(network, loss(network(x), y))


def _mixed(loss: Loss, network: nn.Module, x: Tensor, y: Tensor, partners: Tensor, share: Tensor | float) -> Tensor:
    outputs = network(x)
    return _backward(network, share * loss(outputs, y) + (1 - share) * loss(outputs, partners))


def _cross_entropy(temperature: float, logits: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(logits if temperature == 1 or y.ndim == 1 else logits / temperature, y)


def _backward(network: nn.Module, loss: Tensor) -> Tensor:
    network.zero_grad()
    loss.backward()
    return loss.detach()
