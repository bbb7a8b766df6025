"""The settings of an architecture search by proxy."""

from typing import Annotated, Literal

from pydantic import Field

from raydd.config.components import Count
from raydd.config.parsing import Config


class NasConfig(Config):
    """Which architectures are ranked, and how.

    Attributes:
        space: A name of `SPACES`, or a YAML file of rows (`raydd.models.spaces.load_rows`).
        cells: Cells of a stage of nasbench201; None takes the paper's 5.
        sample: How many architectures are drawn from the space; None takes all. Smaller samples of a seed are parts of
            larger ones.
        dataset: Name or path of the real images; None takes the first set's own.
        seeds: Fresh networks an architecture and set, whose mean accuracy ranks it.
        seed: Of the sample and of the first network; the others count on from it.
        protocol: A name of `raydd.PROTOCOLS`, or a YAML file of a protocol's fields.
        epochs: Epochs on a proxy set; None takes the protocol's.
        real_epochs: Epochs on the whole data; None takes the protocol's.
        real: None trains on the whole data; ``none`` does without; else a file of accuracies (`read_real`).
        split: Images that the proxy ranks on.
        baselines: Selections of real images of the same size that rank too, names of `CORESETS`.
        top: Sizes of the tops.
        asha: Stop architectures early that are far from the best.
        first_rung: Epochs before the first are stopped; None takes a share of 1 / reduction^2.
        reduction: About one in so many goes on from each rung; None takes 3.
    """

    space: str = "convnet720"
    cells: Count | None = None
    sample: Count | None = None
    dataset: str | None = None
    seeds: Count = 1
    seed: int = 0
    protocol: str = "dm"
    epochs: Count | None = None
    real_epochs: Count | None = None
    real: str | None = None
    split: Literal["validation", "test"] = "validation"
    baselines: tuple[str, ...] = ("random",)
    top: tuple[Count, ...] = (5, 10, 20)
    asha: bool = False
    first_rung: Count | None = None
    reduction: Annotated[int, Field(ge=2)] | None = None
