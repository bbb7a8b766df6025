"""Parts of a run's steps: who can compute them, and how they travel."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from raydd.config.schema import DistillConfig
from raydd.distillation.setup import Nothing, Recipe
from raydd.methods import complete
from raydd.run.rollout_worker import as_arrays, as_tensors, concurrent_parts, division_of


class Pair(NamedTuple):
    """Two values."""

    one: object
    other: object


def test_tensors_travel_as_arrays_of_the_same_bits():
    value = {"a": [torch.tensor(0.1), None], "b": Pair(torch.arange(3), {"c": torch.zeros(0, 2).double()}), "d": "text"}
    sent = as_arrays(value)
    assert isinstance(sent["a"][0], np.ndarray)
    assert sent["b"][1]["c"].dtype == np.float64
    back = as_tensors(sent)
    assert back["a"] == (torch.tensor(0.1), None)
    assert back["d"] == "text"
    assert torch.equal(back["b"][0], torch.arange(3))
    assert back["b"][1]["c"].shape == (0, 2)


def test_tensors_that_arrive_do_not_share_memory_with_the_arrays():
    array = np.zeros(2)
    array.flags.writeable = False  # as the object store gives them
    as_tensors(array).add_(1)
    assert array.tolist() == [0, 0]


@pytest.mark.rows(
    "settings, parts", [({}, 1), ({"rollouts": 3}, 3), ({"shards": 2}, 2), ({"shards": 2, "rollouts": 5}, 2)]
)
def test_the_parts_that_workers_compute_at_once(settings, parts):
    assert concurrent_parts(DistillConfig(**settings)) == parts


def test_an_objective_that_cannot_be_cut_is_refused():
    config = complete(DistillConfig(method="mtt", shards=2))
    with pytest.raises(ValueError, match=r"^shards = 2: the steps of method mtt cannot be cut; drop it$"):
        division_of(config, Recipe(Nothing(), None, {}))
