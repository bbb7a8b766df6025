"""Trainings that failed: the reason in one line, and the error that ends an evaluation without all of its results."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from raydd.data.score_record import Missing
from raydd.evaluation.jobs import Failure, Job, Outcome, Result
from raydd.evaluation.matrix import Matrix

T = TypeVar("T")
MOST_CHARACTERS = 300
_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "failed to allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Return whether a training ran out of memory, on whatever device.

    >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory")), out_of_memory(ValueError("no"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY)


def reason_of(error: BaseException) -> str:
    """Return an error as one line: of a long one its beginning.

    >>> reason_of(ValueError("no images of"))
    'no images of'
    >>> reason_of(KeyError("images")), reason_of(MemoryError())
    ("KeyError: 'images'", 'out of memory')
    """
    text = " ".join(str(error).split())
    if out_of_memory(error):
        text = text if any(words in text.lower() for words in _MEMORY) else f"out of memory: {text}".rstrip(": ")
    elif not text or not isinstance(error, ValueError | RuntimeError | OSError):
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."


class MissingTrainings(RuntimeError):
    """Some trainings of an evaluation failed.

    Attributes:
        result: What the function would have returned, without the missing trainings: scores, or a document.
        missing: The missing trainings, with their reasons.
    """

    def __init__(self, result: Any, missing: Sequence[Missing], total: int) -> None:
        self.result, self.missing, self.total = result, tuple(missing), total
        first = "; ".join(one.line for one in self.missing[:3])
        more = f"; and {len(self.missing) - 3} more" if len(self.missing) > 3 else ""
        super().__init__(f"{len(missing)} of {total} trainings failed: {first}{more}; the same call trains only these")


def separate(matrix: Matrix, results: Mapping[Job, Result]) -> tuple[dict[Job, Outcome], list[Missing]]:
    """Return the outcomes of a matrix's trainings, and the trainings without one.

    Raises:
        RuntimeError: No training has an outcome.
    """
    outcomes = {job: result for job, result in results.items() if isinstance(result, Outcome)}
    missing = [_missing(matrix, job, result) for job in matrix.jobs() if isinstance(result := results[job], Failure)]
    if missing and not outcomes:
        others = f"; so did the other {len(missing) - 1} trainings" if len(missing) > 1 else ""
        raise RuntimeError(f"evaluation failed: {missing[0].line}{others}")
    return outcomes, missing


def _missing(matrix: Matrix, job: Job, failure: Failure) -> Missing:
    row, network, seed = matrix.rows[job.row], job.network, job.seed
    return Missing(name=row.name, network=network, seed=seed, reason=failure.reason, asked=row.requested)


def complete(result: T, missing: Sequence[Missing], total: int) -> T:
    """Return a result that lacks no training.

    Raises:
        MissingTrainings: Some of the ``total`` trainings are missing.
    """
    if missing:
        raise MissingTrainings(result, missing, total)
    return result
