"""Convexified implicit gradients: a linearised network, solved on the synthetic set, must classify real images.

Shapes: `N` synthetic images, `B` batch, `C H W` image, `F` features, `P` parameters, `K` classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.network_pool import Pool, targets_of
from raydd.numerics.adam import Moments, adam_step, begin
from raydd.numerics.flat import FlatModel
from raydd.numerics.linearised import Linearised, body_mask, conjugate_gradients
from raydd.numerics.losses import cross_entropy, label_margin

TEMPERATURE_LR = 0.03
"""Learning rate of the logarithm of the predictions' scale, which is learned beside the images."""


@dataclass(frozen=True)
class ImplicitGradient:
    r"""The cross-entropy of real images under a linearised network that is solved on the synthetic set.

    A network of the pool has features h(x) and logits whose change along tau, in its body's weights, is J(x) tau. Its
    linearised prediction is f(x) = J(x) tau + h(x) W, and (tau, W) minimise on the synthetic set

        1/2 |y_s - J_s tau - h_s W|^2 + lambda/2 (|W|^2 + |tau|^2).

    The best W for a tau is known, so that with A = (h_s h_s^T + lambda I)^-1 what remains is quadratic in tau,

        L_S(tau) = 1/2 <r, A r> + 1/2 |tau|^2,  r = y_s - J_s tau,  f(x) = J(x) tau + h(x) h_s^T A r.

    The loss is the outer one, L_T = CE(exp(s) f(x_t), y_t), with a scale s that is learned too, and its gradient in the
    images X is the direct one, with tau constant, and the implicit one:

        dL_T/dX - d/dX <v, grad L_S(tau)>,  H v = dL_T/dtau,  H = I + J_s^T A J_s.

    Labels y_s that are learned have a gradient of both kinds too, and their margin is taken off the loss: by how much
    the largest target of an image is above the next one, at most 1 / (2 K).

    Attributes:
        real: Draws real images (B, C, H, W) and classes (B,).
        batch_real: Real images a step.
        classes: K.
        regularisation: lambda over the number of synthetic images, N.
        pool: The networks.
        steps: Steps of conjugate gradients of each of the two systems of H, for tau and for v.
        mirror: Whether the set is seen with the mirror images of its images beside them.
        clip: Whether the implicit gradient in images, and that in labels, is shortened to the direct one's length where
            it is longer.

    Reference:
        Loo et al., arXiv 2302.06755 (RCIG), Algorithm 1, and its official code.

    Differs:
        The paper solves both systems by 20 steps of Adam, whose learning rates its code searches for and changes along
        the way; conjugate gradients have none, and come nearer in as many steps. Adam takes the place of AdaBelief.
    """

    parts: ClassVar[int] = 1
    joint: ClassVar[bool] = False
    real: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    batch_real: int
    classes: int
    regularisation: float
    pool: Pool
    steps: int = 20
    mirror: bool = False
    clip: bool = True

    def init(self, rng: torch.Generator) -> dict[str, Any]:
        """Return the networks of the pool, and the scale of the predictions."""
        return {"pool": self.pool.init(rng), "scale": begin(torch.zeros(1))._asdict()}

    def loss(
        self, synset: SyntheticSet, state: dict[str, Any], step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss on a real batch, a scalar, and the state after the step; all draws come from ``rng``.

        The loss has the gradient of `ImplicitGradient` in images and labels, which is computed here.
        """
        seen = synset.decoded()
        targets = targets_of(seen, self.classes)
        images, labels = self.real(self.batch_real, rng)
        ours = seen.images
        if self.mirror:
            ours, targets = torch.cat([ours, ours.flip(3)]), torch.cat([targets, targets])
        name = self.pool.draw(state["pool"], rng)
        network, scale = state["pool"][name], Moments(**state["scale"])
        scale = scale._replace(**{key: getattr(scale, key).to(ours) for key in ("theta", "first", "second")})
        learned = (ours, targets) if synset.regression else (ours,)
        loss, direct, implicit, of_scale = self._solve(
            network["theta"].to(ours), ours.detach(), targets.detach(), images.to(ours), labels, scale.theta
        )
        direct, implicit = direct[: len(learned)], implicit[: len(learned)]
        if self.clip:
            implicit = tuple(map(shortened, implicit, direct))
        scale = adam_step(scale, of_scale, torch.tensor(TEMPERATURE_LR).to(ours))
        used = self.pool.use(network, ours.detach(), targets.detach(), rng)
        for value, one, other in zip(learned, direct, implicit, strict=True):
            loss = loss + ((value - value.detach()) * (one + other)).sum()
        if synset.regression:
            loss = loss - label_margin(synset.labels, 1 / (2 * self.classes))
        return loss, {"pool": state["pool"] | {name: used}, "scale": scale._asdict()}

    def _solve(
        self, theta: Tensor, x: Tensor, targets: Tensor, images: Tensor, labels: Tensor, scale: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Return the loss, its direct and its implicit gradient in x and targets (N, K), and that in the scale (1,)."""
        model = self.pool.model
        features = _Features(model, theta, x, self.regularisation * len(x) / (2 if self.mirror else 1))
        with torch.no_grad():
            real = model.run(FlatModel.features, theta, images)
        body = body_mask(model, real.shape[1], self.classes).to(theta)
        ours, theirs = (Linearised(model, theta, batch, body) for batch in (x, images))

        def hessian(direction: Tensor) -> Tensor:
            return direction + ours.pull(features.solve(ours.change(direction)))

        tau = conjugate_gradients(hessian, ours.pull(features.solve(targets)), self.steps)
        with torch.enable_grad():
            changes = ours.change(tau), theirs.change(tau)
            inside, outside, scale = (each.detach().requires_grad_() for each in (*changes, scale))
            guess = outside + real @ features.value.T @ features.solve(targets - inside)
            loss = cross_entropy(guess * scale.exp(), labels)
        of_inside, of_outside, of_scale = torch.autograd.grad(loss, (inside, outside, scale), retain_graph=True)
        direct = features.slope(loss) + ours.slope(tau, of_inside), -of_inside  # y_s is less J_s tau wherever it is

        v = conjugate_gradients(hessian, ours.pull(of_inside) + theirs.pull(of_outside), self.steps)
        with torch.enable_grad():
            along = ours.change(v).detach().requires_grad_()
            product = (along * features.solve(targets - inside)).sum()
        of_along, of_inside = torch.autograd.grad(product, (along, inside), retain_graph=True)
        implicit = features.slope(product) + ours.slope(v, of_along) + ours.slope(tau, of_inside), -of_inside
        return loss.detach(), direct, implicit, of_scale


class _Features:
    """Features of the synthetic images, and the ridge regression on them.

    Attributes:
        value: The features (N, F), with a gradient.
    """

    def __init__(self, model: FlatModel, theta: Tensor, x: Tensor, ridge: float) -> None:
        with torch.enable_grad():
            self._x = x.detach().requires_grad_()
            self._whole = model.run(FlatModel.features, theta, self._x)
            self.value = self._whole.detach().requires_grad_()
            kernel = self.value.double() @ self.value.double().T
            self._factor = torch.linalg.cholesky_ex(kernel + ridge * torch.eye(len(x)).to(kernel)).L

    def solve(self, right: Tensor) -> Tensor:
        """Return A r (N, K) of a right side r (N, K), in its dtype; it is solved in float64."""
        return torch.cholesky_solve(right.double(), self._factor).to(right)

    def slope(self, scalar: Tensor) -> Tensor:
        """Return the gradient of a scalar in the images (N, C, H, W), as far as it comes by their features."""
        (of_features,) = torch.autograd.grad(scalar, self.value, retain_graph=True)
        (slope,) = torch.autograd.grad(self._whole, self._x, of_features, retain_graph=True)
        return slope


def shortened(gradient: Tensor, other: Tensor) -> Tensor:
    """Return a gradient, or its direction with the length of another of the same shape where it is longer."""
    length = gradient.norm()
    return gradient * torch.where(length > other.norm(), other.norm() / length, 1)
