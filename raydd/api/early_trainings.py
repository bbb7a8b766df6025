"""The trainings of an evaluation that depend on no synthetic set: they can run while the set is distilled."""

from pathlib import Path

import torch

from raydd.api.trainings import distinct_rows
from raydd.config.schema import DistillConfig, EvaluateConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace
from raydd.evaluation.jobs import Job
from raydd.evaluation.matrix import Matrix
from raydd.evaluation.result_cache import CacheKeys, ResultCache
from raydd.evaluation.scores import plan
from raydd.run.resolve import BufferRequest, resolve
from raydd.run.run_folder import with_provenance


def early_trainings(
    config: DistillConfig, folder: Path, buffer: Path | str, evaluation: EvaluateConfig
) -> tuple[Matrix, list[Job]]:
    """Return the trainings of `raydd.evaluate` on real images that have no cached result, before the set is distilled.

    Args:
        config: The distillation, complete.
        folder: Its run folder, which may have a checkpoint to resume from.
        buffer: Its experts, whose preprocessing the real images take.
        evaluation: The evaluation of the set.

    Returns:
        The matrix of the evaluation, with an empty set in place of the one that will be distilled, and the trainings.

    Raises:
        ValueError: The run cannot start, or its set cannot be evaluated.
    """
    run = resolve(config, folder, BufferRequest(_no_experts, buffer), torch.device("cpu"), resume=True)
    empty = _empty_set(run.config, run.work)
    matrix, work = plan([empty], None, evaluation, "cpu")
    fewer, _ = distinct_rows(matrix, work.dataset)
    cache, keys = ResultCache(), CacheKeys(fewer, work.dataset)
    known = [job for job in fewer.jobs() if fewer.set_of(job) is not empty]
    return fewer, [job for job in known if cache.load(keys.of(job)) is None]


def _no_experts(config: DistillConfig, work: Workspace) -> Path:
    raise AssertionError("the buffer is named")


def _empty_set(config: DistillConfig, work: Workspace) -> SyntheticSet:
    """Return a set of black images that has the size, the recipe and the preprocessing of the one to distill."""
    data = work.dataset
    labels = torch.arange(len(data.classes)).repeat_interleave(config.ipc)
    images = torch.zeros(len(labels), data.channels, data.size, data.size)
    synset = SyntheticSet(images, labels, torch.tensor(0.0), work.transform, data.name, data.classes)
    return with_provenance(synset, config, work, (), "last outer step")
