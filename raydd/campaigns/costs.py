"""Estimates of what a campaign takes: floating-point operations, from them time, and disk. No data are read.

Shapes: one image is `1 C H W`.
"""

import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from raydd.campaigns.graph import Graph, Scoring
from raydd.campaigns.scales import TRAIN
from raydd.config.components import KernelConfig
from raydd.config.schema import DistillConfig, ExpertsConfig
from raydd.data.datasets import DATASETS
from raydd.evaluation.protocols import protocol_of
from raydd.models.zoo import build

TEST, USUAL = 10_000, "cifar10"
GRADIENT, SECOND = 3, 9
"""Operations of a gradient, and of a second derivative with the steps again, in forward passes."""
GPU_SPEED = 1e13
"""Assumed floating-point operations a second of small networks on one GPU in float32: about a fifth of an H100's."""
OPTIMIZER = {"sgd": 1, "momentum": 1, "adam": 1, "gsam": 2, "smooth": 3}
"""Gradients of an expert's step, by its optimiser."""


class Network(NamedTuple):
    """A network on the images of a data set: operations of a forward pass of one image, and parameters."""

    operations: float
    parameters: int


class Estimate(NamedTuple):
    """What a campaign takes: worker-seconds by key, and bytes of disk."""

    seconds: dict[str, float]
    disk: int


def estimate(graph: Graph, speed: float, done: frozenset[str] = frozenset()) -> Estimate:
    """Return what the nodes of a graph take that are not done, at a number of operations a second."""
    work = {key: experts_operations(config) for key, config in graph.experts.items()}
    work |= {key: distillation_operations(node.config) for key, node in graph.distillations.items()}
    work |= {key: score_operations(scoring, graph) for key, scoring in graph.scores.items()}
    disk = sum(_experts_bytes(config) for key, config in graph.experts.items() if key not in done)
    return Estimate({key: count / speed for key, count in work.items() if key not in done}, disk)


def experts_operations(config: ExpertsConfig) -> float:
    """Return the operations of training a buffer of experts."""
    recipe, data = config.experts, _known(config.data.dataset)
    images = TRAIN[data] * (1 - config.data.validation)
    gradient = GRADIENT * OPTIMIZER[recipe.optimizer] * network(recipe.network, data).operations
    return recipe.num_experts * recipe.epochs * images * gradient


def distillation_operations(config: DistillConfig) -> float:
    """Return the operations of a distillation."""
    data = _known(config.data.dataset)
    classes, one = DATASETS[data].classes, network(config.experts.network, data).operations
    if config.match == "nothing":
        return TRAIN[data] * one
    images = config.ipc * classes * config.formation.factor**2
    if config.match == "trajectories":
        batch = min(config.batch_size or images, images)
        return config.steps * config.rollouts * config.student_steps * batch * one * (GRADIENT + SECOND)
    if config.match == "loss":
        batch, through = min(config.batch_size or images, images), config.unrolled.window or config.student_steps
        training = batch * (config.student_steps * GRADIENT + through * SECOND)
        return config.steps * one * (training + config.unrolled.batch_real * GRADIENT)
    images *= max(1, config.formation.styles)  # which a student's step shows one of
    if config.match == "kernel":
        return config.steps * one * _regression(config.kernel, images)
    statistic = config.statistic
    synthetic = classes * min(statistic.batch_synthetic or images, images / classes)
    real, learned = (GRADIENT, SECOND) if statistic.of == "gradient" else (1, GRADIENT)
    step = classes * statistic.batch_real * real + synthetic * learned
    return config.steps * one * (step + statistic.epochs * images * GRADIENT)


def _regression(kernel: KernelConfig, images: int) -> float:
    """Return the forward passes of a step of the kernel family, counted in images."""
    if kernel.of != "linearised":
        return kernel.batch_real + 2 * images * GRADIENT
    products, slopes = 2 * kernel.solver_steps * (GRADIENT + 1), 4 * SECOND
    training = kernel.pool_steps / 2 * GRADIENT
    return kernel.batch_real * SECOND + images * (1 + kernel.mirror) * (products + slopes + training)


def score_operations(scoring: Scoring, graph: Graph) -> float:
    """Return the operations of a score's trainings and tests."""
    run = graph.distillations[scoring.distillation].config
    data, evaluation = _known(run.data.dataset), scoring.config
    protocol = protocol_of(evaluation).on(run.data.dataset, run.ipc)
    images = run.ipc * DATASETS[data].classes * run.formation.factor**2 * max(1, run.formation.styles) * protocol.epochs
    if evaluation.real_epochs != 0:
        images += TRAIN[data] * protocol.real_epochs
    one = sum(network(name, data).operations for name in evaluation.networks)
    return scoring.trainings / len(evaluation.networks) * one * (images * GRADIENT + TEST)


@cache
def network(name: str, dataset: str) -> Network:
    """Return the operations and parameters of a network, counted on tensors without values."""
    row = DATASETS[dataset]
    with torch.device("meta"):
        model = build(name, channels=row.channels, size=row.size, classes=row.classes).eval()
        image = torch.empty(1, row.channels, row.size, row.size)
    from torch.utils.flop_counter import FlopCounterMode  # loads the compiler of GPU kernels

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(image)
    return Network(counter.get_total_flops(), sum(p.numel() for p in model.parameters()))


def measure_speed(seconds: float = 0.3) -> float:
    """Return the operations a second of a small convolution on one CPU thread of this machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x, weight = torch.randn(64, 32, 16, 16), torch.randn(32, 32, 3, 3)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        torch.nn.functional.conv2d(x, weight, padding=1)
        count += 1
    spent = time.perf_counter() - start
    torch.set_num_threads(threads)
    return count * 2 * x.numel() * weight[0].numel() / spent


def _experts_bytes(config: ExpertsConfig) -> int:
    recipe = config.experts
    rows = recipe.epochs + 1 if recipe.kept is None else len(recipe.kept) + 2
    itemsize = 4 if recipe.storage == "float32" else 2
    return itemsize * recipe.num_experts * rows * network(recipe.network, _known(config.data.dataset)).parameters


def _known(dataset: str) -> str:
    """Return the data set whose sizes are taken: of a path those of a named one in its name, if there is one."""
    name = Path(dataset).name
    near = (known for known in sorted(TRAIN, key=len, reverse=True) if known in name)
    return name if name in TRAIN else next(near, USUAL)
