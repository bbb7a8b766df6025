"""A network as a function of one vector of parameters.

Shapes: `P` parameters, `Q` running statistics, `B` batch, `C H W` image, `K` classes, `F` features.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from raydd.numerics.compiled import Compiled
from raydd.numerics.losses import cross_entropy


class Slot(NamedTuple):
    """The position of one named tensor in a flat vector: ``vector[offset : offset + numel].view(shape)``."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def numel(self) -> int:
        """How many numbers the tensor has."""
        return torch.Size(self.shape).numel()


Layout = tuple[Slot, ...]


def layout_of(tensors: dict[str, Tensor]) -> Layout:
    """Return the flat layout of named tensors, in their order."""
    slots, offset = [], 0
    for name, tensor in tensors.items():
        slots.append(Slot(name, tuple(tensor.shape), offset))
        offset += tensor.numel()
    return tuple(slots)


def flatten(tensors: dict[str, Tensor]) -> Tensor:
    """Return named tensors as one new vector (P,); no tensors give an empty vector."""
    parts = [tensor.detach().reshape(-1).float() for tensor in tensors.values()]
    return torch.cat(parts) if parts else torch.zeros(0)


def split(vector: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Return views of a flat vector (P,) as named tensors; gradients flow back to the vector."""
    total = sum(slot.numel for slot in layout)
    if vector.shape != (total,):
        raise ValueError(f"theta has shape {tuple(vector.shape)}, but the network has {total} parameters")
    return {slot.name: vector[slot.offset : slot.offset + slot.numel].view(slot.shape) for slot in layout}


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Return a network's floating-point buffers by name: BatchNorm's running means and variances."""
    return {name: value for name, value in module.named_buffers() if value.is_floating_point()}


class _Whole(nn.Module):
    """Calls the wrapped network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


class _Features(_Whole):
    """Calls ``features`` of the wrapped network, so that `functional_call` reaches it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network.features(x)  # type: ignore[operator, no-any-return]


class _Layers(_Whole):
    """Calls the parts of the wrapped network's body one by one; see `FlatModel.layers`."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        body = getattr(self.network, "body", None)
        if not isinstance(body, nn.Sequential):
            raise ValueError("the network's body is not a sequence of layers; use statistic.of=features")
        parts, outputs, begun = list(body), list[Tensor](), False
        for part, after in zip(parts, [*parts[1:], None], strict=True):
            before, x, begun = x, part(x), begun or _has_weights(part)
            if after is None or (begun and _has_weights(after)):
                outputs.append(self.output(before if isinstance(part, POOLINGS) else x, x))
        return tuple(outputs)

    def output(self, map: Tensor, x: Tensor) -> Tensor:
        """Return the output of a layer: its features, from ``x``; ``map`` is before the pooling that may end it."""
        return x.flatten(1)


class _Maps(_Layers):
    """Calls the parts of the wrapped network's body one by one; see `FlatModel.maps`."""

    def output(self, map: Tensor, x: Tensor) -> Tensor:
        return map


class _NormInputs(_Whole):
    """Calls the wrapped network; see `FlatModel.norm_inputs`."""

    def forward(self, x: Tensor) -> Any:
        inputs: list[tuple[Tensor, ...]] = []

        def keep(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs.append((arguments[0], norm.running_mean, norm.running_var))  # type: ignore[arg-type]

        norms = [module for module in self.network.modules() if isinstance(module, _BatchNorm)]
        handles = [norm.register_forward_pre_hook(keep) for norm in norms]
        try:
            return self.network(x), tuple(inputs)
        finally:
            for handle in handles:
                handle.remove()


POOLINGS = (nn.AvgPool2d, nn.MaxPool2d)


def _has_weights(part: nn.Module) -> bool:
    """Whether a part has a convolution or a linear layer, so that a new layer begins with it."""
    return any(isinstance(module, nn.Conv2d | nn.Linear) for module in part.modules())


class FlatModel:
    """A network as ``f(theta, x)``, with all its parameters in one vector.

    The network keeps no state, so equal arguments give equal results. Without running statistics it is in training
    mode: BatchNorm uses the batch's own statistics, so that the images of a batch depend on each other. With them it is
    in evaluation mode, as a trained network must be.

    Args:
        build: Builds the network; it is called once here and once by each `init`.
        compile: Whether `run` compiles what it is given.
        dtype: Of the factors of the network's products, if other than theta's, such as bfloat16; sums, normalisations
            and all results have theta's.

    Attributes:
        layout: Name, shape and offset of each parameter, in ``named_parameters()`` order.
        size: The number of parameters, P.
        statistics_layout: Name, shape and offset of each running statistic (Q,); empty without BatchNorm.
        batch_norm: Whether the network has BatchNorm.
        tracks: Whether every BatchNorm keeps running statistics.

    >>> model = FlatModel(lambda: nn.Linear(3, 2))
    >>> theta = model.init(torch.Generator().manual_seed(0))
    >>> theta.shape, model(theta, torch.ones(5, 3)).shape
    (torch.Size([8]), torch.Size([5, 2]))
    """

    def __init__(self, build: Callable[[], nn.Module], compile: bool = False, dtype: torch.dtype | None = None) -> None:
        self._build, self._dtype = build, dtype
        self._compiled: dict[Any, Compiled] | None = {} if compile else None
        self._network = seeded(build, torch.Generator().manual_seed(0)).train()
        self.layout = layout_of(dict(self._network.named_parameters()))
        self.size = sum(slot.numel for slot in self.layout)
        self.statistics_layout = layout_of(running_statistics(self._network))
        norms = [module for module in self._network.modules() if isinstance(module, _BatchNorm)]
        self.batch_norm, self.tracks = bool(norms), all(norm.running_mean is not None for norm in norms)

    def init(self, rng: torch.Generator) -> Tensor:
        """Return a new random theta (P,), float32, from the network's own initialisation."""
        return flatten(dict(seeded(self._build, rng).named_parameters()))

    def __call__(self, theta: Tensor, x: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Return logits (B, K) of images x (B, C, H, W) at theta (P,), on theta's device and in its dtype.

        ``statistics`` (Q,) are the running statistics of evaluation mode; None is training mode.
        """
        logits: Tensor = self._call(_Whole, theta, x, statistics)
        return logits

    def features(self, theta: Tensor, x: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Return features (B, F) before the last layer; ``statistics`` as for logits."""
        features: Tensor = self._call(_Features, theta, x, statistics)
        return features

    def layers(self, theta: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Return features (B, F) after every layer of the body; the last are `features`.

        A layer is a convolution, a linear layer or a block, with the normalisation, activation and pooling after it.

        Raises:
            ValueError: The network's body is not a sequence of layers.
        """
        outputs: tuple[Tensor, ...] = self._call(_Layers, theta, x)
        return outputs

    def maps(self, theta: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps (B, C, H, W) of every layer of the body, before the pooling that may end it; see `layers`."""
        outputs: tuple[Tensor, ...] = self._call(_Maps, theta, x)
        return outputs

    def norm_inputs(
        self, theta: Tensor, x: Tensor, statistics: Tensor
    ) -> tuple[Tensor, tuple[tuple[Tensor, Tensor, Tensor], ...]]:
        """Return logits (B, K) in evaluation mode, and of every batch norm its input, running mean and variance."""
        logits, inputs = self._call(_NormInputs, theta, x, statistics)
        return logits, inputs

    def run(self, function: Callable[..., Tensor], *arguments: Tensor, scalar: bool = False) -> Tensor:
        """Return ``function(self, *arguments)``, by compiled code if this network is compiled.

        Args:
            function: Takes this network and tensors, and returns a tensor that depends on nothing else. It is known by
                its identity: give the same one again, not an equal one.
            arguments: The tensors.
            scalar: Whether the result is a scalar.
        """
        if self._compiled is None:
            return function(self, *arguments)
        if function not in self._compiled:
            self._compiled[function] = Compiled(partial(function, self), scalar)
        return self._compiled[function](*arguments)

    @cached_property
    def _evaluated(self) -> nn.Module:
        return deepcopy(self._network).eval()

    def _call(
        self, part: Callable[[nn.Module], nn.Module], theta: Tensor, x: Tensor, statistics: Tensor | None = None
    ) -> Any:
        state = split(theta, self.layout)
        state |= {name: _copied(value, theta) for name, value in self._network.named_buffers()}
        if statistics is not None:
            state |= split(statistics.to(theta), self.statistics_layout)
        network = part(self._network if statistics is None else self._evaluated)
        arguments: dict[str, Any] = {f"network.{name}": value for name, value in state.items()}
        if self._dtype is None:
            return functional_call(network, arguments, (x,))
        with torch.autocast(theta.device.type, self._dtype):
            return _in_dtype_of(theta, functional_call(network, arguments, (x,)))


def classification_loss(model: FlatModel, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy of images x (B, C, H, W) with labels y (B,) or (B, K) at theta (P,)."""
    return cross_entropy(model(theta, x), y)


def _in_dtype_of(like: Tensor, results: Any) -> Any:
    """Return a tensor, or each of nested ones, in the dtype of ``like``."""
    if isinstance(results, Tensor):
        return results.to(like.dtype)
    return tuple(_in_dtype_of(like, result) for result in results)


def _copied(buffer: Tensor, like: Tensor) -> Tensor:
    """Return a copy of a buffer on the device of ``like``, and in its dtype unless it holds integers."""
    return buffer.to(like.device, like.dtype if buffer.is_floating_point() else buffer.dtype, copy=True)


def seeded(build: Callable[[], nn.Module], rng: torch.Generator) -> nn.Module:
    """Return a network whose initial weights depend on ``rng`` alone.

    PyTorch's layers draw from the global generator. It is seeded from ``rng`` for the construction, then restored.
    """
    seed = int(torch.randint(2**62, (), generator=rng))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs' generators too
        return build()
