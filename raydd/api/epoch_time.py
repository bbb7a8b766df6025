"""The time that an epoch of an expert takes, measured on a worker."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raydd.api.experts import train_experts
from raydd.config.placement import Where
from raydd.config.schema import ExpertsConfig
from raydd.io.console import QuietScreen, Update

MEASURED_EPOCHS = 3


class _EpochClock(QuietScreen):
    """Notes when it first shows each number of finished epochs."""

    def __init__(self) -> None:
        super().__init__(lambda line: None)
        self._times: dict[float, float] = {}

    @contextmanager
    def progress(self, title: str, total: float) -> Iterator[Update]:
        """Note the first time of each number, and the last of none."""

        def update(done: float, words: str) -> None:
            if not done or done not in self._times:
                self._times[done] = time.monotonic()

        yield update

    @property
    def seconds(self) -> float:
        """The seconds of an epoch: without the first, unless all ended before the first update."""
        times = sorted(self._times.items())
        (first, begin), (last, end) = times[-2 if len(times) < 3 else 1], times[-1]
        return (end - begin) / (last - first)


def epoch_seconds(config: ExpertsConfig, where: Where) -> float:
    """Return the seconds of an epoch of an expert."""
    recipe = config.experts.model_copy(
        update={"num_experts": 1, "epochs": MEASURED_EPOCHS, "milestones": (), "kept": None}
    )
    clock, alone = _EpochClock(), where._replace(num_workers=1)
    with tempfile.TemporaryDirectory(prefix="raydd-league-") as folder:
        small = config.model_copy(update={"experts": recipe})
        train_experts(small, Path(folder, "buffer"), where=alone, screen=clock)
    return clock.seconds
