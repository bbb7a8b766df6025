"""The settings of an architecture search by proxy."""

from typing import Annotated, Literal

from pydantic import Field

from raydd.config.components import Count
from raydd.config.names import Named
from raydd.config.parsing import Config


class NasConfig(Config):
    """Which architectures are ranked, and how.

    Attributes:
        space: Search space of architectures, or a YAML file of rows, see docs/nas.md.
        cells: Cells per stage of nasbench201; the paper's 5 by default.
        sample: Architectures drawn from the space; all by default. Smaller samples are parts of larger ones.
        dataset: Data set of the real images, a name or a path; the first set's own by default.
        seeds: Networks trained per architecture and set; their mean accuracy ranks it.
        seed: Seed of the sample and of the first network; the others count on from it.
        protocol: Recipe that trains the networks, named after the paper that uses it; or a YAML file of its fields.
        epochs: Epochs on a synthetic set; the protocol's by default.
        real_epochs: Epochs on the whole data set; the protocol's by default.
        real: File of accuracies on real data, a real.json or a CSV of architecture,accuracy; none ranks by the
            synthetic sets alone. By default architectures are trained on the whole data set.
        split: Images on which the networks trained on synthetic sets are tested.
        baselines: Selections of real images of the same size that rank too, comma-separated, or none.
        top: Compare the best K architectures, for each of these K, comma-separated.
        asha: Stop architectures early that are far from the best.
        first_rung: Epochs before the first are stopped; by default 1 / reduction^2 of the epochs.
        reduction: Keep 1 of so many at each rung; 3 by default.
    """

    space: Annotated[str, Named("architectures")] = "convnet720"
    cells: Count | None = None
    sample: Count | None = None
    dataset: Annotated[str | None, Named("dataset")] = None
    seeds: Count = 1
    seed: int = 0
    protocol: Annotated[str, Named("protocol")] = "dm"
    epochs: Count | None = None
    real_epochs: Count | None = None
    real: str | None = None
    split: Literal["validation", "test"] = "validation"
    baselines: Annotated[tuple[str, ...], Named("coreset")] = ("random",)
    top: tuple[Count, ...] = (5, 10, 20)
    asha: bool = False
    first_rung: Count | None = None
    reduction: Annotated[int, Field(ge=2)] | None = None
