"""What was lost with a worker, by the error that Ray raises; and the place of a training that ran out of memory."""

from types import SimpleNamespace

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError

from raydd.remote import train_matrix, training_groups
from raydd.remote.demand import Demand, NodeShape
from raydd.remote.train_matrix import alone_demand


def died(message, **fields):
    return ActorDiedError(ActorDiedErrorContext(actor_id=bytes(16), error_message=message, **fields))


PREEMPTED = NodeDeathInfo(reason=NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
ERRORS = {
    "memory monitor": (OutOfMemoryError("Task was killed due to the node running low on memory."), "memory"),
    "memory exit": (died("The actor is dead: Worker exit type: NODE_OUT_OF_MEMORY"), "memory"),
    "killed": (died("The actor is dead because its worker process has died. connection error code 2"), "worker"),
    "node": (died("The actor died because its node has died. Node Id: ab\n\tthe actor's node was terminated"), "node"),
    "spot": (died("The actor is dead", node_death_info=PREEMPTED), "node"),
    "silent": (ActorUnavailableError("unreachable", bytes(16)), "worker"),
    "own error": (KeyError("layer"), None),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_was_lost(name):
    error, expected = ERRORS[name]
    for shown in (error, SimpleNamespace(health_check_failure=error)):
        found = training_groups._loss(shown)
        assert (found and found[0]) == expected
        assert found is None or "\n" not in found[1]


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        (Demand(1.0, 0.25), Demand(1.0, 1.0)),
        (Demand(1.0, 2.0), Demand(1.0, 2.0)),
        (Demand(1.0), Demand(8.0)),
        (Demand(2.0), Demand(8.0)),
    ],
    ids=["a share of a GPU", "whole GPUs", "a CPU", "CPUs"],
)
def test_out_of_memory_is_tried_again_on_a_whole_gpu_or_on_the_node_with_the_most_memory(monkeypatch, demand, expected):
    shapes = [
        NodeShape({"CPU": 16.0, "GPU": 2.0, "memory": 1e9}),
        NodeShape({"CPU": 8.0, "memory": 4e9}),
        NodeShape({"CPU": 64.0, "memory": 9e9}, alive=False),
        NodeShape({"CPU": 0.0, "memory": 9e9}),
    ]
    monkeypatch.setattr(train_matrix, "node_shapes", lambda: shapes)
    assert alone_demand(demand) == expected
