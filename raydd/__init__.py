"""raydd: distributed dataset distillation on Ray.

Four verbs: `train_experts`, `distill`, `tune`, `evaluate`; what flows between them: trajectories
(`ArrowBuffer`) and synthetic sets (`SyntheticSet`). A set can also rank architectures (`rank_architectures`), be the
memory of class-incremental learning (`evaluate_continual`), and come from or go to other projects' files
(`read_synset`, `write_synset`).

What these names give and take beside each other is found in its module: `raydd.data.datasets.Dataset` of
`load_dataset`, `raydd.api.tune.Results` of `tune`, `raydd.buffer.segments` for sources of trajectories of one's own.

>>> import raydd
>>> config = raydd.DistillConfig(method="random", ipc=2)
>>> config.method in raydd.METHODS, config.data.dataset in raydd.DATASETS, config.experts.network
(True, True, 'ConvNetW32')
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydd.api.continual import evaluate_continual
    from raydd.api.evaluate import evaluate
    from raydd.api.nas import rank_architectures
    from raydd.api.tune import tune
    from raydd.api.verbs import distill, train_experts
    from raydd.buffer.arrow_buffer import ArrowBuffer
    from raydd.config.nas import NasConfig
    from raydd.config.placement import Where
    from raydd.config.schema import DataConfig, DistillConfig, EvaluateConfig, ExpertConfig, ExpertsConfig
    from raydd.data.datasets import DATASETS, load_dataset
    from raydd.data.synset import SyntheticSet
    from raydd.evaluation.protocols import PROTOCOLS
    from raydd.interop.reading import read_synset
    from raydd.interop.writing import write_synset
    from raydd.methods import METHODS
    from raydd.models.zoo import NETWORKS
    from raydd.tuning.space import Space
    from raydd.tuning.space_files import load_space

_HOMES = {
    "train_experts": "api.verbs",
    "distill": "api.verbs",
    "evaluate": "api.evaluate",
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

__all__ = [
    "DATASETS",
    "METHODS",
    "NETWORKS",
    "PROTOCOLS",
    "ArrowBuffer",
    "DataConfig",
    "DistillConfig",
    "EvaluateConfig",
    "ExpertConfig",
    "ExpertsConfig",
    "NasConfig",
    "Space",
    "SyntheticSet",
    "Where",
    "distill",
    "evaluate",
    "evaluate_continual",
    "load_dataset",
    "load_space",
    "rank_architectures",
    "read_synset",
    "train_experts",
    "tune",
    "write_synset",
]


if not TYPE_CHECKING:  # a type checker would take any name for one that is found so

    def __getattr__(name: str) -> Any:
        """Load a public name from its module when it is first asked for, so that importing stays cheap."""
        if name not in _HOMES:
            raise AttributeError(f"module 'raydd' has no attribute {name!r}")
        return getattr(import_module(f"raydd.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, also those that are not loaded yet: what a notebook completes to."""
    return sorted({*globals(), *__all__})
