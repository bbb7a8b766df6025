"""Small configurations, buffers and networks that tests of several packages make."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from raydd.buffer.arrow_buffer import ArrowBuffer, refresh_manifest
from raydd.config.parsing import build
from raydd.config.schema import DistillConfig, ExpertsConfig
from raydd.data.workspace import Workspace
from raydd.methods import complete
from raydd.run.resolve import bind
from raydd.run.run import Run
from raydd.run.run_folder import previous_run
from raydd.training.expert_worker import ExpertJob, ExpertTrainer, prepare

Vector = Callable[[Tensor], dict[str, Tensor]]


def toy_of(base: Mapping[str, Any]) -> Callable[..., DistillConfig]:
    """Return what makes a method's configuration from a base and further layers."""
    return lambda method, *layers: complete(build(DistillConfig, base, {"method": method}, *layers))


def train_buffer(folder: Path, config: DistillConfig | ExpertsConfig) -> Path:
    """Train the experts that a folder lacks, in this process; return the folder."""
    job, missing = prepare(ExpertJob(config.data, config.experts, config.seed, folder, "cpu"))
    trainer = ExpertTrainer(job)
    for index in missing:
        trainer.train(index)
    refresh_manifest(folder)
    return folder


def open_run(config: DistillConfig, folder: Path, buffer: ArrowBuffer, work: Workspace, resume: bool = False) -> Run:
    """Return a new run of a folder, or the one that it holds."""
    return Run(bind(config, folder, buffer, work, previous_run(folder, resume)))


def by_vector(network: nn.Module) -> tuple[Vector, Callable[[Tensor, Tensor], Tensor]]:
    """Return the parameters by name, and the network, as functions of a vector of all parameters, by PyTorch alone."""
    names, shapes = zip(*[(name, value.shape) for name, value in network.named_parameters()], strict=True)

    def split(theta: Tensor) -> dict[str, Tensor]:
        parts = theta.split([shape.numel() for shape in shapes])
        return {name: part.view(shape) for name, shape, part in zip(names, shapes, parts, strict=True)}

    return split, lambda theta, x: functional_call(network, split(theta), (x,))
