"""The order of a campaign's work, and its simulation with a clock of its own."""

from collections import Counter

import pytest
from simulated_order import simulate

from raydd.campaigns.cell_settings import Options
from raydd.campaigns.costs import GPU_SPEED, estimate
from raydd.campaigns.graph import build_graph
from raydd.campaigns.order import Order, Task, order_of
from raydd.campaigns.plan import campaigns, load_plan
from raydd.campaigns.scales import SCALES

TASKS = (
    Task("e1", "experts", (), 4, 40.0),
    Task("d1", "distillation", ("e1",), 1, 30.0),
    Task("d2", "distillation", (), 1, 20.0),
    Task("s1", "scores", ("d1",), 2, 4.0),
    Task("s2", "scores", ("d2",), 2, 4.0),
)
CELLS = (["s2", "d2"], ["s1", "d1", "e1"])


@pytest.fixture(scope="module")
def largest():
    graph = build_graph([load_plan(name) for name in campaigns()], Options(SCALES["paper"]))
    return graph, estimate(graph, GPU_SPEED).seconds


def test_what_ends_a_cell_comes_first():
    order = Order(TASKS, CELLS)
    assert [order.take().key, order.take().key, order.take()] == ["d2", "e1", None]
    order.end("d2")
    order.end("e1")
    assert [order.take().key, order.take().key] == ["s2", "d1"]


def test_what_needs_a_failed_task_fails_with_its_reason():
    order = Order(TASKS, CELLS)
    order.take(), order.take()
    order.fail("e1", "out of memory")
    assert order.failed == dict.fromkeys(["e1", "d1", "s1"], "out of memory")
    order.end("d2")
    assert order.take().key == "s2"
    order.end("s2")
    assert (order.unfinished, order.take()) == (0, None)


def test_what_was_done_before_is_not_taken_even_where_its_needs_are_to_be_done_again():
    order = Order(TASKS, CELLS)
    order.done("d1")
    assert [order.take().key, order.take().key, order.take().key, order.take()] == ["s1", "d2", "e1", None]
    order.end("e1")
    assert order.take() is None


def test_a_simulation_is_what_one_works_out_by_hand():
    """Two workers: d2 beside half of e1, its other half, the scores of d2, d1 and its scores."""
    started = []
    found = simulate(Order(TASKS, CELLS), 2, lambda now, key: started.append((now, key)))
    assert Counter(key for _, key in started) == {"e1": 4, "d1": 1, "d2": 1, "s1": 2, "s2": 2}
    times = {key: [now for now, name in started if name == key] for key in ("d2", "e1", "s2", "d1", "s1")}
    assert times == {"d2": [0], "e1": [0, 10, 20, 20], "s2": [30, 30], "d1": [32], "s1": [62, 62]}
    assert found == (64.0, 1.0, {"s2": 32.0, "s1": 64.0})


@pytest.mark.parametrize("workers", [2, 100])
def test_gpus_are_busy_until_the_last_cell_has_started(largest, workers):
    graph, seconds = largest
    found = simulate(order_of(graph, seconds), workers)
    assert found.busy > 0.9
    assert found.ends.keys() == graph.scores.keys()
    longest = max(seconds.values())
    assert sum(seconds.values()) / workers <= found.seconds <= sum(seconds.values()) / workers + 2 * longest


def test_whole_cells_end_early(largest):
    """A tenth of the cells is done in a fifth of the time; in the order of stages none would be before half of it."""
    graph, seconds = largest
    found = simulate(order_of(graph, seconds), 100)
    ends = sorted(found.ends.values())
    assert ends[len(ends) // 10] < found.seconds / 5
