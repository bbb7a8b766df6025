"""The networks that statistics of real and synthetic images are compared through.

Shapes: `P` parameters, `K` the experts' last epoch.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from raydd.buffer.segments import TrajectorySource
from raydd.data.synset import SyntheticSet
from raydd.numerics.augment import Augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import derived, moved

State = TypeVar("State")


class NetworkPair(NamedTuple):
    """The networks of one outer step.

    Attributes:
        theta: Where statistics are taken, (P,).
        judge: The network that classifies the synthetic images, (P,).
        trust: Weight of the judge's cross-entropy, from 0 to 1.
    """

    theta: Tensor
    judge: Tensor
    trust: float = 1.0

    def to(self, like: Tensor) -> "NetworkPair":
        """Return the same networks on the device and in the dtype of ``like``."""
        theta = self.theta.to(like)
        return self._replace(theta=theta, judge=theta if self.judge is self.theta else self.judge.to(like))


class Networks(Protocol[State]):
    """Where the networks come from."""

    @property
    def stateless(self) -> bool:
        """Whether an outer step draws its networks without regard to the steps before, and to the images."""

    def init(self, rng: torch.Generator) -> State:
        """Return the state for outer step 0: nested dictionaries of tensors and numbers, or None."""

    def draw(self, synset: SyntheticSet, state: State, step: int, rng: torch.Generator) -> tuple[NetworkPair, State]:
        """Return the networks of an outer step, on the synthetic set's device, and the state for the next."""


class Stateless:
    """Networks that an outer step draws without regard to the steps before."""

    stateless: ClassVar[bool] = True

    def init(self, rng: torch.Generator) -> None:
        """Carry no state."""


@dataclass(frozen=True)
class RandomInit(Stateless):
    """A fresh random network every outer step.

    Reference:
        Zhao & Bilen, arXiv 2110.04181 (DM), Algorithm 1.
    """

    model: FlatModel

    def draw(self, synset: SyntheticSet, state: None, step: int, rng: torch.Generator) -> tuple[NetworkPair, None]:
        """Return a network drawn as its constructor draws it, for both uses."""
        theta = self.model.init(rng)
        return NetworkPair(theta, theta).to(synset.images), state


@dataclass(frozen=True)
class Trained:
    """A network that lives for some outer steps, and is trained on the synthetic set between them.

    Attributes:
        model: The network.
        refresh: Outer steps it lives; then a fresh one takes its place.
        epochs: Epochs over the decoded synthetic set before every use but the first.
        lr: Learning rate of that training, by plain SGD.
        batch_size: Images a step of it.
        augment: Drawn afresh for every step of it.

    Reference:
        Zhao, Mopuri & Bilen, arXiv 2006.05929 (DC), Algorithm 1; arXiv 2102.08259 (DSA), which augments.

    Differs:
        The official code fixes batch norm's statistics on real images before every use; networks with batch norm are
        refused here. The paper's algorithm trains the network once more after its last use, without effect.
    """

    stateless: ClassVar[bool] = False
    model: FlatModel
    refresh: int
    epochs: int
    lr: float
    batch_size: int
    augment: Augment

    def init(self, rng: torch.Generator) -> None:
        """Carry no network before the first draw."""

    def draw(
        self, synset: SyntheticSet, state: dict[str, Any] | None, step: int, rng: torch.Generator
    ) -> tuple[NetworkPair, dict[str, Any]]:
        """Return the network, trained on the current set; or a fresh one after ``refresh`` steps."""
        if state is None or state["age"] >= self.refresh:
            theta, age = self.model.init(rng).to(synset.images), 1
        else:
            theta, age = self._train(state["theta"].to(synset.images), synset, rng), state["age"] + 1
        return NetworkPair(theta, theta), {"theta": theta, "age": age}

    def _train(self, theta: Tensor, synset: SyntheticSet, rng: torch.Generator) -> Tensor:
        with torch.no_grad():
            decoded = synset.decoded()
            images, targets = decoded.images.detach(), decoded.targets.detach()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(images), generator=rng).split(self.batch_size):
                chosen = moved(rows, images.device)
                view = self.augment.draw(images[chosen].shape, rng)
                theta = sgd_step(self.model, theta, view(images[chosen]), targets[chosen], self.lr)
        return theta


def sgd_step(model: FlatModel, theta: Tensor, images: Tensor, targets: Tensor, lr: float) -> Tensor:
    """Return parameters (P,) after one step of plain SGD on the mean cross-entropy of a batch, without a graph."""
    with torch.no_grad():
        return theta - lr * model.run(loss_gradient, theta, images, targets)


def loss_gradient(model: FlatModel, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient (P,) of a batch's mean cross-entropy at theta (P,).

    It is differentiable in images and targets where gradients are enabled, and a constant elsewhere.
    """
    return gradient_and_logits(model, theta, images, targets)[0]


def gradient_and_logits(model: FlatModel, theta: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the `loss_gradient` (P,), and its logits (B, K), detached."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        at = theta.detach().requires_grad_()
        logits = model(at, images)
        (gradient,) = torch.autograd.grad(cross_entropy(logits, targets), at, create_graph=graph)
    return gradient, logits.detach()


@dataclass(frozen=True)
class Snapshots(Stateless):
    """Snapshots of stored experts: one for statistics, a later one of the same expert to judge.

    The expert is uniform, the epoch j of the first uniform on 0..K, that of the second on j..min(j + L - 1, K).

    Attributes:
        source: The experts.
        region: L, in epochs.
        last: Judge by the expert's last snapshot instead of one of the region.

    Raises:
        ValueError: The experts keep only some of their snapshots, or the region is empty.

    Reference:
        arXiv 2512.02469 (TGDD), section "Stage-wise Distribution Constraint" and Algorithm 1.

    Differs:
        The paper does not say what happens at the end of a trajectory; as in its code, the region ends there.
    """

    source: TrajectorySource
    region: int
    last: bool = False

    def __post_init__(self) -> None:
        if self.source.kept is not None:
            epochs = ", ".join(map(str, self.source.kept))
            raise ValueError(f"the buffer is convexified: it keeps the epochs {epochs} alone; give a full --buffer")
        if self.region < 1:
            raise ValueError(f"a region of {self.region} epochs holds no snapshot; use statistic.region of at least 1")

    def draw(self, synset: SyntheticSet, state: None, step: int, rng: torch.Generator) -> tuple[NetworkPair, None]:
        """Return two snapshots of one expert; the same one twice where they fall on the same epoch."""
        expert = _expert(self.source, rng)
        epoch = int(torch.randint(self.source.epochs + 1, (), generator=rng))
        end = min(epoch + self.region - 1, self.source.epochs)
        later = self.source.epochs if self.last else int(torch.randint(epoch, end + 1, (), generator=rng))
        theta = self.source.snapshot(expert, epoch)
        judge = theta if later == epoch else self.source.snapshot(expert, later)
        return NetworkPair(theta, judge).to(synset.images), state


@dataclass(frozen=True)
class Mixed(Stateless):
    """A point between an expert's start and end for statistics, and its end to judge.

    theta = u theta_0 + (1 - u) theta_K, where the expert and u in [0, 1) are uniform. A convexified buffer serves too.

    Reference:
        Zhang et al., arXiv 2406.01063 (DANCE), its "middle encoders" and "expert models".
    """

    source: TrajectorySource

    def draw(self, synset: SyntheticSet, state: None, step: int, rng: torch.Generator) -> tuple[NetworkPair, None]:
        """Return a mixture and an end, of one expert."""
        expert = _expert(self.source, rng)
        share = float(torch.rand((), generator=rng))
        start, end = (self.source.snapshot(expert, epoch).to(synset.images) for epoch in (0, self.source.epochs))
        return NetworkPair(share * start + (1 - share) * end, end), state


@dataclass(frozen=True)
class Exchanged:
    """Networks of another source, of which those of some uses are exchanged for a fresh random one.

    Attributes:
        networks: The other source.
        model: The network.
        uses: Which are exchanged: ``theta``, ``judge``, or both.

    Reference:
        Ran et al., arXiv 2512.02469 (TGDD), Fig. 5, which shows what either network brings.
    """

    networks: Networks[Any]
    model: FlatModel
    uses: tuple[str, ...]

    @property
    def stateless(self) -> bool:
        """Whether the other source is."""
        return self.networks.stateless

    def init(self, rng: torch.Generator) -> Any:
        """Return the other source's state."""
        return self.networks.init(rng)

    def draw(self, synset: SyntheticSet, state: Any, step: int, rng: torch.Generator) -> tuple[NetworkPair, Any]:
        """Return the other source's networks, some of them exchanged."""
        pair, after = self.networks.draw(synset, state, step, rng)
        fresh = self.model.init(derived(rng, "exchanged")).to(synset.images)
        theta, judge = (fresh if use in self.uses else getattr(pair, use) for use in ("theta", "judge"))
        return NetworkPair(theta, judge, pair.trust), after


def _expert(source: TrajectorySource, rng: torch.Generator) -> int:
    return source.experts[int(torch.randint(len(source.experts), (), generator=rng))]
