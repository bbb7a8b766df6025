"""What a trial demands of a cluster, and how many trials are submitted; no Ray runs."""

from types import SimpleNamespace

import pytest

from raydd.config.schema import DistillConfig
from raydd.remote import demand as demands, trial_demand
from raydd.remote.demand import Demand, NodeShape
from raydd.remote.trial_demand import Limits, TrialPlan, WaitingNotes, trial_plan

GPU4 = NodeShape({"CPU": 16.0, "GPU": 4.0})
CPU2 = NodeShape({"CPU": 2.0})
LATER = NodeShape({"CPU": 4.0, "GPU": 1.0}, nodes=3, alive=False)
HEAD = NodeShape({"memory": 1e9})


@pytest.fixture
def planned(monkeypatch):
    """The plan of trials on a cluster of some nodes."""

    def make(nodes, trials, device="auto", turns=False, rollouts=1, **limits):
        for module in (demands, trial_demand):
            monkeypatch.setattr(module, "node_shapes", lambda: nodes)
        config = DistillConfig(threads=1, rollouts=rollouts)
        return trial_plan(config, device, Limits(**limits), trials, print, turns=turns)

    return make


@pytest.mark.rows(
    "nodes, trials, word, limits, workers, demand",
    [
        ([CPU2], 8, "auto", {}, 2, Demand(1, 0)),
        ([CPU2], 8, "auto", {"concurrent": 1}, 1, Demand(1, 0)),
        ([GPU4], 2, "auto", {}, 2, Demand(1, 1)),  # a GPU each while there are enough
        ([GPU4], 6, "cuda", {}, 6, Demand(1, 0.5)),
        ([GPU4], 100, "auto", {}, 16, Demand(1, 0.25)),
        ([GPU4], 100, "auto", {"concurrent": 3}, 3, Demand(1, 1)),
        ([GPU4], 100, "cpu", {}, 16, Demand(1, 0)),
        ([GPU4], 100, "cuda", {"gpus": 2.0}, 2, Demand(1, 2)),
        ([HEAD, LATER], 3, "auto", {}, 3, Demand(1, 1)),  # nodes that the autoscaler starts for the trials
        ([HEAD, CPU2, LATER], 100, "cuda", {}, 12, Demand(1, 0.25)),
    ],
)
def test_trials_share_the_gpus_that_a_cluster_has_or_can_start(planned, nodes, trials, word, limits, workers, demand):
    layout = planned(nodes, trials, word, **limits)
    assert (layout.workers, layout.demand) == (workers, demand)


def test_trials_in_turns_demand_the_cpus_by_which_no_more_run_at_once(planned):
    layout = planned([NodeShape({"CPU": 8.0})], 6, turns=True, concurrent=3)
    assert layout.demand.cpus == 3  # 8 CPUs hold two such trials, and four of 2 CPUs
    assert planned([NodeShape({"CPU": 8.0})], 6, turns=True).demand.cpus == 1


def test_what_a_cluster_has_room_for_beside_the_trials_computes_their_rollouts(planned):
    layout = planned([NodeShape({"CPU": 8.0})] * 2, 4, rollouts=8)
    assert (layout.workers, layout.helpers, layout.bundles) == (4, 3, [{"CPU": 1.0}] * 4)
    assert planned([NodeShape({"CPU": 8.0})], 4, rollouts=8, concurrent=1).helpers == 7
    assert planned([NodeShape({"CPU": 8.0})], 1, rollouts=2).helpers == 1
    for nodes, options in (
        ([CPU2], {"rollouts": 8}),
        ([GPU4], {"rollouts": 1}),
        ([GPU4], {"rollouts": 8, "turns": True}),
    ):
        assert planned(nodes, 2, **options).helpers == 0


@pytest.mark.rows(
    "nodes, word, limits, words",
    [
        ([CPU2], "cuda", {}, "--device cuda: no node of the cluster has a GPU"),
        ([CPU2], "auto", {"gpus": 0.5}, "--gpus-per-trial 0.5: no node of the cluster has a GPU"),
        ([GPU4], "cuda", {"gpus": 8.0}, "a trial needs 1 CPU, 8 GPU .*--gpus-per-trial"),
    ],
)
def test_trials_that_no_node_has_room_for_are_refused(planned, nodes, word, limits, words):
    with pytest.raises(ValueError, match=words):
        planned(nodes, 4, word, **limits)


def test_waiting_trials_are_noted_until_one_runs(monkeypatch):
    seconds, notes = [0.0], []
    monkeypatch.setattr(demands, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(demands, "node_shapes", lambda: [CPU2])
    events = SimpleNamespace(unusable="")
    watch = WaitingNotes(notes.append, events, TrialPlan(2, Demand(2, 1)), minutes=2)
    pending, running = SimpleNamespace(status="PENDING"), SimpleNamespace(status="RUNNING")
    moments = ((10, [pending]), (31, [pending]), (41, [pending]), (50, [pending]), (63, [running, pending]))
    for now, trials in moments:
        seconds[0] = now
        watch.on_step_begin(0, trials)
    start = "waiting for a node with 2 CPU, 1 GPU: 0 of 2 workers up"
    assert notes == [f"{start}, 10 s", f"{start}, 41 s"]
    seconds[0] = 80
    watch.on_step_begin(0, [pending])
    assert events.unusable == ""
    seconds[0] = 184
    watch.on_step_begin(0, [pending])
    assert events.unusable.startswith("no node has had 2 CPU, 1 GPU for a worker for 2 min (--max-wait 2): add a node")
