"""Real loss: a network that is trained on the synthetic set must do well on real images. No expert is needed.

Shapes: `N` synthetic images, `B` batch, `C H W` image, `P` parameters, `T` student steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.real_images import RealImages
from raydd.distillation.setup import Recipe, Setup, initial, leaves
from raydd.distillation.student_batches import student_batches
from raydd.distillation.trajectory_matching import classification
from raydd.numerics.adam import Moments, adam_step, begin, unroll_adam
from raydd.numerics.augment import Augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.unroll import Backprop, Batch, Inner, unroll


@dataclass(frozen=True)
class RealLoss:
    r"""The cross-entropy on real images of a network that was trained on the synthetic set.

    A fresh network takes student steps on synthetic batches. The gradient goes back through a window of them alone: the
    steps before it only lead to where it starts, and those after it are left out.

    Attributes:
        model: The network as a function of theta.
        inner: The student's loss.
        real: Draws real images (B, C, H, W) and classes (B,).
        batch_real: Real images a step.
        student_steps: T.
        steps: Outer steps in all, for a position by ``gradient``.
        window: Student steps that the gradient goes through; T at most.
        position: Where the window lies: at the ``last`` steps, anywhere by ``random``, or by ``gradient``; see
            `choose_window`.
        radius: Half the range of the window's length, by ``gradient``.
        optimizer: The student's: ``sgd`` or ``adam``.
        augment: Drawn afresh for every student step, and for the real images.
        batch_size: Synthetic images a student step; None takes all.
        backprop: How the path is differentiated.
        memory: Bytes for graphs of steps that need not be computed again.

    Reference:
        Wang et al., arXiv 1811.10959 (BPTT); Feng et al., arXiv 2311.07025 (RaT-BPTT); Li et al., arXiv 2510.04838
        (AT-BPTT).
    """

    parts: ClassVar[int] = 1
    joint: ClassVar[bool] = False
    model: FlatModel
    inner: Inner
    real: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    batch_real: int
    student_steps: int
    steps: int
    window: int
    augment: Augment
    position: str = "last"
    radius: int = 0
    optimizer: str = "adam"
    batch_size: int | None = None
    backprop: Backprop = "adjoint"
    memory: float | None = None

    def init(self, rng: torch.Generator) -> None:
        """Carry no state from step to step."""

    def loss(
        self, synset: SyntheticSet, state: None, step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, None]:
        """Return the cross-entropy on a real batch, a scalar; all draws come from ``rng``."""
        start = begin(self.model.init(rng).to(synset.images))
        seen = synset.decoded()
        batches = student_batches(
            seen.images, seen.targets, self.student_steps, self.batch_size, self.augment, rng, synset.formation.styles
        )
        first, length = self.choose_window(step, start, batches, synset.lr, rng)
        before, _ = self._walk(start, batches[:first], synset.lr)
        end = self._unrolled(before, batches[first : first + length], synset.lr)
        images, targets = self.real(self.batch_real, rng)
        images = images.to(synset.images)
        view = self.augment.draw(images.shape, rng)
        return self.inner(end, view(images), targets.to(images.device)), state

    def choose_window(
        self, step: int, start: Moments, batches: Sequence[Batch], lr: Tensor, rng: torch.Generator
    ) -> tuple[int, int]:
        """Return the first step of the window, and its length.

        By ``gradient`` it depends on the norms of the student's gradients, and on the third of the outer steps: in the
        first a start is drawn by the softmax of the norms, and the window is longer the more the norm changes there; in
        the second any start is drawn for a window of ``window + radius``; in the last one of ``window - radius`` lies
        as far from the end as the drawn step from the beginning.

        Reference: Li et al., arXiv 2510.04838 (AT-BPTT).
        Differs: Its code leaves a stage when the accuracy on the test images rises no more; here a stage is a third.
        """
        steps, window = self.student_steps, self.window
        stage = 3 * step // max(1, self.steps)
        if self.position == "last":
            return steps - window, window
        if self.position == "random" or stage == 1:
            window += self.radius
            return int(torch.randint(steps - window + 1, (), generator=rng)), window
        norms = self._walk(start, batches, lr)[1].cpu()  # a GPU is waited for here
        drawn = int(torch.multinomial(torch.softmax(norms, dim=0), 1, generator=rng))
        if stage:
            window -= self.radius
            return min(max(steps - drawn - window, 0), steps - window), window
        changes = torch.diff(norms, prepend=norms[:1]).abs()
        rank = int((changes < changes[drawn]).sum())
        window += int(2 * self.radius * rank / steps) - self.radius
        return min(drawn, steps - window), window

    def _walk(self, at: Moments, batches: Sequence[Batch], lr: Tensor) -> tuple[Moments, Tensor]:
        """Return the student after steps without a graph, and the norms of its gradients."""
        norms = list[Tensor]()
        for x, y, view in batches:
            theta = at.theta.detach().requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(self.inner(theta, view(x.detach()), y.detach()), theta)
            norms.append(gradient.norm())
            with torch.no_grad():
                if self.optimizer == "adam":
                    at = adam_step(at, gradient, lr)
                else:
                    at = at._replace(theta=at.theta - lr * gradient)
        return at, torch.stack(norms) if norms else torch.empty(0)

    def _unrolled(self, at: Moments, batches: Sequence[Batch], lr: Tensor) -> Tensor:
        if self.optimizer == "adam":
            return unroll_adam(self.inner, at, batches, lr, self.backprop, self.memory)
        return unroll(self.inner, at.theta, batches, lr, self.backprop, None, self.memory)[-1]


def match_real_loss(setup: Setup) -> Recipe:
    """Return the recipe of real loss."""
    config, work, model = setup.config, setup.work, setup.model()
    chosen, start = config.unrolled, initial(setup)
    objective = RealLoss(
        model=model,
        inner=classification(model),
        real=RealImages(work.feed(work.dataset.train)).mixed,
        batch_real=chosen.batch_real,
        student_steps=config.student_steps,
        steps=config.steps,
        window=chosen.window or config.student_steps,
        augment=work.augment,
        position=chosen.position,
        radius=chosen.radius if chosen.position == "gradient" else 0,
        optimizer=chosen.optimizer,
        batch_size=config.batch_size,
        backprop=config.backprop,
        memory=config.memory,
    )
    return Recipe(objective, start, leaves(config, start.transform), config.gate, config.ema)
