"""The one loop of every distiller: loss, gradient, step, for all learned parts of the synthetic set."""

import math
import operator
from collections.abc import Iterable, Iterator
from copy import copy
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.leaves import Leaf, Optimizers
from raydd.distillation.objective import Objective
from raydd.distillation.parts import Matches, Rollout
from raydd.distillation.rollouts import step_generator
from raydd.numerics.rng import generator


class Step(NamedTuple):
    """The result of an outer step.

    Attributes:
        step: Outer steps done, from 1.
        loss: The objective before the step, summed over its parts.
        lr: The student's learning rate after it.
        stepped: False where the gate held the step back.
        rolled_back_to: The outer step that the run returned to because the loss, a gradient or a learned value was not
            finite; None otherwise.
    """

    step: int
    loss: float
    lr: float
    stepped: bool
    rolled_back_to: int | None


def sum_of(values: Iterable[float]) -> float:
    """Return the sum of numbers, added one after another; that of later versions of Python is rounded otherwise."""
    return reduce(operator.add, values, 0.0)


def _extremes(values: Iterable[Tensor]) -> list[Tensor]:
    """Return the least and the largest number of each tensor: finite where all are, and read by one fast pass."""
    return [extreme for value in values for extreme in torch.aminmax(value)]


class Distillation:
    """A synthetic set that is learned: leaves, optimisers and all that resuming needs.

    The draws of a part of a step come from (seed, step, attempt, part) alone, so a state restored at step k goes on
    exactly as the uninterrupted run did; attempt counts the run's rollbacks. The state that a rollback returns to is
    one from which a finite step was taken: a state whose own loss is not known yet may be the broken one. The student's
    learning rate is clamped to at least a hundredth of its start, since a negative or vanishing one has no meaning.

    Args:
        objective: What to match.
        synset: The start.
        learn: Which of images, labels, lr and styles are learned, and how.
        seed: The run's seed.
        gate: Step only when the loss is at most this.
        ema: Decay of a running mean of images, styles, and labels that are targets of a regression, which `result` then
            returns; never fed back.
        keep_every: Steps between the states that a non-finite loss is rolled back to.
    """

    MAX_ROLLBACKS = 10

    def __init__(
        self,
        objective: Objective[Any],
        synset: SyntheticSet,
        learn: dict[str, Leaf],
        seed: int,
        *,
        gate: float | None = None,
        ema: float | None = None,
        keep_every: int = 10,
    ) -> None:
        self._objective, self._seed = objective, seed
        self._gate, self._decay, self._keep_every = gate, ema, keep_every
        self._synset = synset
        self._lr_floor = float(synset.lr) / 100
        self._leaves = {name: getattr(synset, name).detach().clone() for name in learn}
        for name, leaf in self._leaves.items():
            learn[name].clamp(leaf)
            leaf.requires_grad_()
        self._learn = learn
        self._optimizers = Optimizers(self._leaves, learn)
        averaged = {"images", "labels" if synset.regression else "", "styles"} & synset.parts.keys()
        averaged = averaged if ema is not None else set()
        self._means = {name: synset.parts[name].detach().clone() for name in sorted(averaged)}
        self._state = objective.init(generator(seed, "objective"))
        self.step = 0
        self._attempt = 0
        self._safe = self._copy()

    def run(self, steps: int, matches: Matches | None = None) -> Iterator[Step]:
        """Take outer steps until ``steps`` are done, yielding each.

        Args:
            steps: Outer steps in all.
            matches: Computes the losses and gradients of a step, as a division among workers does. None computes them
                here, one part after another.

        Raises:
            FloatingPointError: The loss is not finite again and again from the same state.
        """
        while self.step < steps:
            yield self._advance(matches)

    def _advance(self, matches: Matches | None) -> Step:
        due = self.step % self._keep_every == 0 and self._safe["step"] != self.step
        before = self._copy() if due else self._safe
        losses, extremes, stepped, state, summed = [], list[Tensor](), False, self._state, None
        for (loss, gradients), after in self._match(matches):
            state = after
            losses.append(loss)
            extremes += _extremes(gradients)
            if self._objective.joint:
                summed = gradients if summed is None else tuple(map(torch.add, summed, gradients))
            elif self._gate is None or float(loss) <= self._gate:
                self._descend(gradients)
                stepped = True
        if summed is not None and (self._gate is None or sum_of(map(float, losses)) <= self._gate):
            self._descend(summed)
            stepped = True
        total, lr, right = self._read(losses, extremes)
        if not right:
            return self._roll_back(total)
        if stepped and self._decay is not None:
            for name, mean in self._means.items():
                mean.mul_(self._decay).add_(self._current(name), alpha=1 - self._decay)
        self._state, self._safe = state, before
        self._optimizers.observe(total)
        self.step += 1
        return Step(self.step, total, lr, stepped, None)

    def _read(self, losses: list[Tensor | float], extremes: list[Tensor]) -> tuple[float, float, bool]:
        """Return the summed loss, the learning rate, and whether losses, gradients, leaves and momenta are finite.

        A finite gradient times its learning rate may overflow. All is read at once: a GPU is waited for once a step.
        """
        lr = self._current("lr")
        learned = [*self._leaves.values(), *self._optimizers.tensors]
        every = (lr, *losses, *extremes, *_extremes(learned))
        numbers = torch.stack([torch.as_tensor(each, dtype=torch.float64, device=lr.device) for each in every]).tolist()
        return sum_of(numbers[1 : len(losses) + 1]), numbers[0], all(map(math.isfinite, numbers[1:]))

    def _match(self, matches: Matches | None) -> Iterator[tuple[Rollout, Any]]:
        """Yield the loss and gradients of each part, and the state that follows it."""
        state = self._state
        if matches is not None:
            rollouts, state = matches(self._ahead(), state, self.step, self._attempt)
            yield from ((rollout, state) for rollout in rollouts)
            return
        for part in range(self._objective.parts):
            current = self._synset.with_leaves(self._leaves)
            rng = step_generator(self._seed, self.step, self._attempt, part)
            loss, state = self._objective.loss(current, state, self.step, rng, part)
            yield Rollout(loss.detach(), torch.autograd.grad(loss, list(self._leaves.values()))), state

    def _ahead(self) -> Iterator[dict[str, Tensor]]:
        """Yield the leaves before each part, as they are if all gradients before it are zero; momentum moves them."""
        yield {name: leaf.detach() for name, leaf in self._leaves.items()}
        ahead = copy(self)
        ahead._leaves = {name: leaf.detach().clone() for name, leaf in self._leaves.items()}
        ahead._optimizers = Optimizers(ahead._leaves, self._learn)
        ahead._optimizers.load(self._optimizers.state())
        zeros = tuple(torch.zeros_like(leaf) for leaf in ahead._leaves.values())
        for _ in range(1, self._objective.parts):
            if not self._objective.joint:
                ahead._descend(zeros)
            yield ahead._leaves

    def _descend(self, gradients: tuple[Tensor, ...]) -> None:
        for (name, stepper), gradient in zip(self._optimizers.steppers.items(), gradients, strict=True):
            self._leaves[name].grad = self._learn[name].gradient(gradient)
            stepper.step()
            self._leaves[name].grad = None
        with torch.no_grad():
            for name, leaf in self._leaves.items():
                self._learn[name].clamp(leaf)
            if "lr" in self._leaves:
                self._leaves["lr"].clamp_(min=self._lr_floor)

    def _roll_back(self, loss: float) -> Step:
        failed, attempt = self.step, self._attempt + 1
        if attempt - self._safe.get("attempt", 0) > self.MAX_ROLLBACKS:
            raise FloatingPointError(
                f"outer step {failed + 1}: loss {loss} after {self.MAX_ROLLBACKS} rollbacks to step "
                f"{self._safe['step']}; lower lr.images or lr.lr"
            )
        self._put(self._safe)
        self._attempt = attempt
        return Step(failed + 1, loss, float(self._current("lr")), False, self.step)

    def _current(self, name: str) -> Tensor:
        value: Tensor = self._leaves.get(name, getattr(self._synset, name))
        return value.detach()

    @property
    def result(self) -> SyntheticSet:
        """A copy of the current synthetic set, with the running means if there are any."""
        leaves = {name: self._current(name).clone() for name in self._leaves}
        leaves |= {name: mean.clone() for name, mean in self._means.items()}
        return self._synset.with_leaves(leaves)

    @property
    def rollback_state(self) -> dict[str, Any]:
        """The state that a non-finite loss is rolled back to: the one worth saving."""
        return self._safe

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that resuming needs: nested dictionaries of tensors and numbers.

        The loss of this state is not known yet, so ``kept`` holds the `rollback_state`.
        """
        return self._copy() | ({"kept": self._safe} if self._safe["step"] != self.step else {})

    def _copy(self) -> dict[str, Any]:
        """Return the state alone; ``attempt`` is left out of a run that was never rolled back."""
        means = {name: mean.clone() for name, mean in self._means.items()}
        optional: dict[str, Any] = {"attempt": self._attempt or None}
        optional |= {f"mean_{name}": means.get(name) for name in ("labels", "styles")}
        return {name: value for name, value in optional.items() if value is not None} | {
            "step": self.step,
            "leaves": {name: leaf.detach().clone() for name, leaf in self._leaves.items()},
            **self._optimizers.state(),
            "mean": means.get("images"),
            "objective": _copied(self._state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict` or `rollback_state`."""
        self._put(state)
        self._safe = _copied(state["kept"]) if "kept" in state else self._copy()

    def _put(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, leaf in self._leaves.items():
                leaf.copy_(state["leaves"][name])
            for name, mean in self._means.items():
                mean.copy_(state["mean" if name == "images" else f"mean_{name}"])
        self._optimizers.load(state)
        self._state = _copied(state["objective"])
        self.step, self._attempt = state["step"], state.get("attempt", 0)


def _copied(state: Any) -> Any:
    match state:
        case dict():
            return {key: _copied(value) for key, value in state.items()}
        case list():
            return [_copied(value) for value in state]
        case Tensor():
            return state.detach().clone()
        case _:
            return state
