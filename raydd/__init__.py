"""raydd: distributed dataset distillation on Ray.

Four verbs: `train_experts`, `distill`, `tune`, `evaluate`. Two things flow between them: trajectories (`ArrowBuffer`)
and synthetic sets (`SyntheticSet`). A set can also rank architectures (`rank_architectures`), serve as the memory of
class-incremental learning (`evaluate_continual`), and be read from or written to other projects' files (`read_synset`,
`write_synset`).

The types that these functions take and return are in their modules: `raydd.data.datasets.Dataset` of `load_dataset`,
`raydd.api.tune.Results` of `tune`, `raydd.buffer.segments` for sources of trajectories of your own.

>>> import raydd
>>> config = raydd.DistillConfig(method="random", ipc=2)
>>> config.method in raydd.METHODS, config.data.dataset in raydd.DATASETS, config.experts.network
(True, True, 'ConvNetW32')
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydd.api.campaign import campaign as campaign
    from raydd.api.continual import evaluate_continual as evaluate_continual
    from raydd.api.distill import distill as distill
    from raydd.api.evaluate import evaluate as evaluate
    from raydd.api.experts import train_experts as train_experts
    from raydd.api.nas import rank_architectures as rank_architectures
    from raydd.api.tune import tune as tune
    from raydd.buffer.arrow_buffer import ArrowBuffer as ArrowBuffer
    from raydd.config.nas import NasConfig as NasConfig
    from raydd.config.placement import Where as Where
    from raydd.config.schema import (
        DataConfig as DataConfig,
        DistillConfig as DistillConfig,
        EvaluateConfig as EvaluateConfig,
        ExpertConfig as ExpertConfig,
        ExpertsConfig as ExpertsConfig,
    )
    from raydd.data.datasets import DATASETS as DATASETS, load_dataset as load_dataset
    from raydd.data.synset import SyntheticSet as SyntheticSet
    from raydd.evaluation.protocols import PROTOCOLS as PROTOCOLS
    from raydd.interop.reading import read_synset as read_synset
    from raydd.interop.writing import write_synset as write_synset
    from raydd.methods import METHODS as METHODS
    from raydd.models.zoo import NETWORKS as NETWORKS
    from raydd.tuning.space import Space as Space
    from raydd.tuning.space_files import load_space as load_space

_HOMES = {
    "train_experts": "api.experts",
    "distill": "api.distill",
    "evaluate": "api.evaluate",
    "campaign": "api.campaign",
    "evaluate_continual": "api.continual",
    "rank_architectures": "api.nas",
    "NasConfig": "config.nas",
    "read_synset": "interop.reading",
    "write_synset": "interop.writing",
    "Where": "config.placement",
    "EvaluateConfig": "config.schema",
    "DataConfig": "config.schema",
    "DistillConfig": "config.schema",
    "ExpertConfig": "config.schema",
    "ExpertsConfig": "config.schema",
    "ArrowBuffer": "buffer.arrow_buffer",
    "DATASETS": "data.datasets",
    "load_dataset": "data.datasets",
    "SyntheticSet": "data.synset",
    "METHODS": "methods",
    "NETWORKS": "models.zoo",
    "PROTOCOLS": "evaluation.protocols",
    "tune": "api.tune",
    "load_space": "tuning.space_files",
    "Space": "tuning.space",
}

__all__ = sorted(_HOMES)


if not TYPE_CHECKING:  # with it a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Load a public name from its module at its first use, so that importing raydd stays cheap."""
        if name not in _HOMES:
            raise AttributeError(f"module 'raydd' has no attribute {name!r}")
        return getattr(import_module(f"raydd.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names, also those that are not loaded yet, for completion in a notebook."""
    return sorted({*globals(), *__all__})
