"""What one worker needs of a cluster, by the shapes of its nodes: pure decisions, no Ray."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from raydd.remote import demand as module, local, node_types
from raydd.remote.demand import Demand, NodeShape, Waiting, capacity, demand_for, plan, worker_device

HEAD = NodeShape({"CPU": 0.0, "memory": 4e9})
BIG, GPU, DENSE = ({"CPU": 16.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 2.0})


def can_start(resources, most=math.inf):
    return NodeShape(resources, most, alive=False)


@pytest.fixture
def nodes(monkeypatch):
    """Sets the shapes of the cluster's nodes; each further one is what the cluster has a second later."""

    def use(*versions):
        seen = iter([*versions, *[versions[-1]] * 1000])
        monkeypatch.setattr(module, "node_shapes", lambda: list(next(seen)))

    return use


@pytest.fixture
def clock(monkeypatch):
    """A clock that sleeping moves."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(module, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(module, "sleep", lambda seconds: setattr(now, "seconds", now.seconds + seconds))
    return now


@pytest.fixture
def groups(monkeypatch):
    """The placement groups that wait, by name, and those of which the autoscaler says that nothing has room."""
    waiting, refused = [], []
    monkeypatch.setattr(module.ray.util, "placement_group", lambda bundles: waiting.append(bundles[0]) or bundles[0])
    monkeypatch.setattr(module.ray.util, "remove_placement_group", waiting.remove)
    monkeypatch.setattr(module, "refuses", lambda bundle: bundle in refused)
    return SimpleNamespace(waiting=waiting, refused=refused)


@pytest.mark.rows(
    ("shapes", "kind", "gpus", "expected"),
    [
        ([NodeShape({"CPU": 2.0})], "auto", None, Demand(1, 0)),
        ([NodeShape({"CPU": 2.0})], "cpu", None, Demand(1, 0)),
        ([HEAD, NodeShape(GPU)], "auto", None, Demand(1, 0.25)),
        ([HEAD, NodeShape(GPU)], "cuda", None, Demand(1, 0.25)),
        ([HEAD, NodeShape(GPU)], "cpu", None, Demand(1, 0)),
        ([HEAD, NodeShape(GPU)], "auto", 1.0, Demand(1, 1)),
        ([HEAD, NodeShape(DENSE), NodeShape({"CPU": 4.0})], "auto", None, Demand(0.5, 1)),
        ([HEAD, NodeShape(DENSE), NodeShape({"CPU": 4.0})], "auto", 0.25, Demand(0.125, 0.25)),
        ([HEAD, NodeShape(DENSE), NodeShape({"CPU": 4.0})], "auto", 2.0, Demand(1, 2)),
        ([HEAD, NodeShape(DENSE), NodeShape(GPU)], "cuda", None, Demand(0.5, 1)),
        ([HEAD, NodeShape({"CPU": 6.0, "GPU": 2.0})], "auto", None, Demand(1, 0.3333)),
        ([HEAD, can_start(GPU)], "auto", None, Demand(1, 0.25)),
        ([HEAD, can_start(GPU, 0)], "auto", None, "wait"),
        ([HEAD, can_start(GPU, 0), can_start(BIG, 3)], "auto", None, Demand(1, 0)),
        ([HEAD, NodeShape(BIG), can_start(DENSE, 2)], "auto", None, Demand(0.5, 1)),
        ([NodeShape({"CPU": 0.0, "GPU": 1.0}), NodeShape(BIG)], "auto", None, Demand(1, 0)),  # a head for no work
        ([HEAD], "auto", None, "wait"),
        ([HEAD], "cuda", None, "wait"),
    ],
)
def test_the_demand_of_a_worker_follows_the_nodes_that_the_cluster_has_or_can_start(
    nodes, clock, groups, shapes, kind, gpus, expected
):
    nodes(shapes)
    if expected == "wait":
        with pytest.raises(RuntimeError, match="no node has had"):
            demand_for(kind, gpus=gpus, default_gpus=0.25)
    else:
        assert demand_for(kind, gpus=gpus, default_gpus=0.25) == expected
    assert groups.waiting == []


@pytest.mark.rows(
    ("shapes", "options", "line"),
    [
        ([HEAD, NodeShape(BIG)], {"device": "cuda"}, "--device cuda: no node of the cluster has a GPU; use"),
        ([HEAD, can_start(BIG)], {"device": "cuda"}, "--device cuda: no node of the cluster has a GPU; use"),
        ([NodeShape(BIG)], {"device": "auto", "gpus": 0.25}, "--gpus-per-worker 0.25: no node of the cluster has a"),
        ([NodeShape(GPU)], {"device": "auto", "gpus": 2.0}, "a worker needs 1 CPU, 2 GPU of one node, and no node has"),
        ([NodeShape(GPU)], {"device": "cpu", "cpus": 8.0}, "a worker needs 8 CPU of one node, and no node has that; "),
        (
            [NodeShape(GPU | {"memory": 2e9})],
            {"device": "cuda", "cpus": 2.0, "memory": 3_000_000_000},
            "a worker needs 2 CPU, 1 GPU, 3.0 GB of one node, and no node has that; the most of any node: "
            "4 CPU, 1 GPU, 2.0 GB. Lower threads",
        ),
        ([NodeShape(DENSE), NodeShape(BIG)], {"device": "auto", "cpus": 2.0}, "a worker needs 2 CPU, 1 GPU of one"),
    ],
)
def test_a_demand_that_no_node_has_room_for_is_refused_at_once(nodes, shapes, options, line):
    nodes(shapes)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the line is compared below
        demand_for(**options)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.rows(
    ("demand", "shapes", "room"),
    [
        (Demand(1, 0), [HEAD, NodeShape(GPU), NodeShape(DENSE)], 5),
        (Demand(1, 0.25), [HEAD, NodeShape(GPU), NodeShape(BIG)], 4),
        (Demand(1, 0.3), [NodeShape({"CPU": 16.0, "GPU": 2.0})], 6),  # of one GPU, not of both
        (Demand(1, 0.4), [NodeShape({"CPU": 16.0, "GPU": 2.0})], 4),
        (Demand(1, 0.3333), [NodeShape({"CPU": 16.0, "GPU": 2.0})], 6),
        (Demand(0.5, 1), [NodeShape(DENSE), NodeShape(GPU)], 3),
        (Demand(1, 2), [NodeShape(DENSE), NodeShape(GPU)], 1),
        (Demand(1, 1), [HEAD, NodeShape(GPU), can_start(GPU, 7)], 7),
        (Demand(1, 1), [HEAD, NodeShape(GPU), can_start(BIG, 7)], 1),
        (Demand(1, 1), [HEAD, can_start(GPU)], math.inf),
        (Demand(1, 0, 3_000_000_000), [HEAD, NodeShape({"CPU": 16.0, "memory": 8e9})], 2),
        (Demand(1, 1), [HEAD], 0),
    ],
)
def test_the_room_of_a_cluster_is_that_of_its_nodes_one_by_one(demand, shapes, room):
    assert capacity(demand, shapes) == room


@pytest.mark.rows(
    ("shapes", "requested", "jobs", "grows", "workers", "note"),
    [
        ([NodeShape({"CPU": 2.0})], None, 10, False, 2, ""),
        ([NodeShape({"CPU": 2.0})], 2, 10, False, 2, ""),
        ([NodeShape({"CPU": 2.0})], 8, 10, False, 2, "8 workers requested, the machine has room for 2 (1 CPU each): "),
        ([NodeShape({"CPU": 16.0})], 4, 3, False, 3, "4 workers requested, 3 jobs left: running 3"),
        ([HEAD, NodeShape(BIG)], 20, 99, False, 16, "20 workers requested, the cluster has room for 16 (1 CPU each): "),
        ([HEAD, NodeShape(BIG)], 20, 99, True, 20, "20 workers requested, the cluster has room for 16 (1 CPU each): m"),
        ([HEAD, NodeShape(BIG)], None, 99, True, 16, ""),
        ([HEAD, can_start(BIG)], None, 99, True, 99, ""),
        ([HEAD, can_start(BIG, 2)], None, 99, False, 32, ""),
        ([HEAD, can_start(BIG)], 40, 99, False, 40, ""),
        ([HEAD], 4, 99, True, 4, "4 workers requested, the cluster has room for 0 "),
        ([HEAD, NodeShape(BIG)], 1, 0, False, 0, "1 workers requested, 0 jobs left"),
    ],
)
def test_workers_are_those_requested_as_far_as_there_is_room_and_work(
    nodes, shapes, requested, jobs, grows, workers, note
):
    nodes(shapes)
    planned = plan(Demand(), requested, jobs, grows)
    assert planned.workers == workers
    assert planned.note.startswith(note)
    assert bool(planned.note) == bool(note)


@pytest.mark.rows("requested", [0, -1])
def test_fewer_than_one_worker_is_refused(requested):
    with pytest.raises(ValueError, match=f"--num-workers {requested}: at least 1"):
        plan(Demand(), requested, 1)


@pytest.mark.rows(
    ("kind", "refused", "came", "expected"),
    [
        ("auto", [], GPU, Demand(1, 0.25)),
        ("auto", [], BIG, Demand(1, 0)),
        ("cpu", [], GPU, Demand(1, 0)),
        ("cuda", [], GPU, Demand(1, 0.25)),
        ("auto", [{"CPU": 1.0, "GPU": 0.25}], BIG, Demand(1, 0)),
    ],
)
def test_a_cluster_of_which_nothing_is_known_is_waited_for(nodes, clock, groups, kind, refused, came, expected):
    """The autoscaler starts a node for the placement group that waits meanwhile."""
    notes, seen = [], []
    groups.refused[:] = refused
    nodes(*[[HEAD]] * 200, [HEAD, NodeShape(came)])

    def note(line):
        notes.append(line)
        seen.append(list(groups.waiting))

    assert demand_for(kind, default_gpus=0.25, note=note) == expected
    words = "1 CPU" if kind == "cpu" else "1 CPU, 0.25 GPU"
    start = f"waiting for a node with {words}: none has joined yet"
    assert notes[0] == start
    rest = "waiting for a node with 1 CPU: none has joined yet" if refused else start
    assert notes[1:4] == [f"{rest}, 30 s", f"{rest}, 1 min", f"{rest}, 2 min"]
    bundle = {"CPU": 1.0} if kind == "cpu" else {"CPU": 1.0, "GPU": 0.25}
    assert seen[0] == [bundle]
    assert seen[-1] == [{"CPU": 1.0} if refused else bundle]
    assert groups.waiting == []


def test_workers_that_are_missing_are_said_at_once_and_every_30_seconds(nodes, clock):
    nodes([HEAD, NodeShape(GPU)])
    notes, moments = [], []
    waiting = Waiting(Demand(1, 1), 8, lambda line: (notes.append(line), moments.append(clock.seconds - 1000)))
    for _ in range(61):
        waiting.check(0)
        clock.seconds += 1
    assert moments == [0, 30, 60]
    assert notes[0] == "waiting for a node with 1 CPU, 1 GPU: 0 of 8 workers up"
    assert notes[-1] == "waiting for a node with 1 CPU, 1 GPU: 0 of 8 workers up, 1 min"
    for _ in range(600):
        waiting.check(2)
        clock.seconds += 1
    assert [later - earlier for earlier, later in itertools.pairwise(moments[3:])] == [30, 60, 120, 240]
    assert notes[4] == "waiting for a node with 1 CPU, 1 GPU: 2 of 8 workers up, 2 min"
    waiting.check(8)
    waiting.check(2, wanted=2)  # the rest of the work needs no more
    assert len(notes) == len(moments) == 8


def test_workers_that_only_start_are_not_said_to_wait(nodes, clock):
    nodes([NodeShape({"CPU": 2.0})])
    notes = []
    waiting = Waiting(Demand(), 2, notes.append)
    for _ in range(30):
        waiting.check(0)
        clock.seconds += 1
    waiting.check(2)
    assert notes == []
    for _ in range(31):
        clock.seconds += 1
        waiting.check(1)
    assert notes == ["waiting for a node with 1 CPU: 1 of 2 workers up, 31 s"]


def test_a_job_ends_when_no_worker_has_been_up_for_the_limit(nodes, clock):
    nodes([HEAD])
    waiting = Waiting(Demand(1, 0.5), 4, lambda line: None, minutes=5)
    for up in (0, 1):  # a worker that was up begins the limit again
        waiting.check(up)
        clock.seconds += 299
    waiting.check(0)
    clock.seconds += 2
    with pytest.raises(RuntimeError) as error:
        waiting.check(0)
    assert str(error.value) == (
        "no node has had 1 CPU, 0.5 GPU for a worker for 5 min (--max-wait 5): add a node, or end other work. "
        "What is finished is kept: the same command goes on, with --resume where it has that flag"
    )


def test_some_workers_are_waited_with_for_ever(nodes, clock):
    nodes([HEAD])
    notes = []
    waiting = Waiting(Demand(), 4, notes.append, minutes=1)
    for _ in range(100):
        waiting.check(1)
        clock.seconds += 100
    assert notes


def test_a_worker_without_a_gpu_computes_on_the_cpu():
    assert worker_device(Demand()) == torch.device("cpu")


def test_a_worker_refuses_a_gpu_that_it_cannot_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module.ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    with pytest.raises(RuntimeError) as error:
        worker_device(Demand(1, 0.25))
    assert str(error.value) == (
        f"Ray gave a worker on node 10.0.0.7 a GPU (CUDA_VISIBLE_DEVICES='1'), and torch {torch.__version__} "
        "cannot use it: install a CUDA build there, or use --device cpu"
    )


@pytest.mark.rows(
    ("demand", "options", "bundle", "kind"),
    [
        (Demand(2, 0), {"num_cpus": 2, "num_gpus": 0}, {"CPU": 2}, "cpu"),
        (Demand(0.5, 1), {"num_cpus": 0.5, "num_gpus": 1}, {"CPU": 0.5, "GPU": 1}, "cuda"),
        (Demand(1, 0, 7), {"num_cpus": 1, "num_gpus": 0, "memory": 7}, {"CPU": 1, "memory": 7}, "cpu"),
    ],
)
def test_a_demand_in_the_forms_that_ray_takes(demand, options, bundle, kind):
    assert (demand.options, demand.bundle, demand.device) == (options, bundle, kind)


FILE = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 3},
        "spot": {"resources": {"CPU": 8}, "max_workers": 40},
        "any": {"resources": {"CPU": 2}},
        "unknown": {"resources": {}},
    },
}


def test_the_types_of_a_file_of_ray_up():
    assert node_types.types_of(FILE) == [({"CPU": 4, "GPU": 1}, 3), ({"CPU": 8}, 5), ({"CPU": 2}, 5)]


IDLE = {
    "autoscaler_report": {"active_nodes": {}, "pending_nodes": [], "pending_launches": {}, "failed_nodes": []},
    "load_metrics_report": {"pg_demand": [[{"bundles": [[{"CPU": 1.0, "GPU": 0.25}, 1]], "strategy": "PACK"}, 1]]},
}


@pytest.mark.rows(
    ("report", "bundles"),
    [
        ({}, [{"CPU": 1.0, "GPU": 0.25}]),
        ({"node_availability_summary": {"node_availabilities": {}}}, [{"CPU": 1.0, "GPU": 0.25}]),
        ({"node_availability_summary": {"node_availabilities": {"gpu": {"is_available": False}}}}, []),
        ({"pending_launches": {"gpu": 1}}, []),
        ({"pending_nodes": [["", "gpu", "launching"]]}, []),
        ({"failed_nodes": [["10.0.0.7", "gpu"]]}, []),
    ],
)
def test_an_autoscaler_that_starts_nothing_for_a_demand_has_no_type_for_it(report, bundles):
    status = IDLE | {"autoscaler_report": IDLE["autoscaler_report"] | report}
    assert node_types.idle_demands(status) == bundles
    assert node_types.idle_demands({"autoscaler_report": None}) == []


def test_a_client_of_ray_asks_the_cluster_by_tasks(monkeypatch):
    """Its driver is outside the cluster, where neither the reported types nor the head's file can be read."""
    calls = []

    def remote(read):
        def call(*words):
            calls.append((read.__name__, options, *words))
            return {"_reported": [], "_address": "10.0.0.1:6379", "_from_file": node_types.types_of(FILE)}[
                read.__name__
            ]

        options = {}
        return SimpleNamespace(options=lambda **given: options.update(given) or SimpleNamespace(remote=call))

    monkeypatch.setattr(node_types.ray.util.client.ray, "is_connected", lambda: True)
    monkeypatch.setattr(node_types.ray, "remote", remote)
    monkeypatch.setattr(node_types.ray, "get", lambda answer: answer)
    head = {"NodeID": "h", "Alive": True, "Resources": {"CPU": 0.0, node_types.HEAD: 1.0}}
    monkeypatch.setattr(node_types.ray, "nodes", lambda: [head])
    node_types._by_task.cache_clear()
    shapes = module.node_shapes()
    assert shapes[0] == NodeShape(head["Resources"])
    assert shapes[1:] == [NodeShape(*kind, alive=False) for kind in node_types.types_of(FILE)]
    assert calls == [
        ("_reported", {"num_cpus": 0}),
        ("_address", {"num_cpus": 0}),
        ("_from_file", {"num_cpus": 0, "resources": {node_types.HEAD: 0.001}}, "10.0.0.1:6379"),
    ]
    node_types._by_task.cache_clear()


@pytest.mark.parametrize("search", [lambda: node_types._from_file("10.0.0.1:1"), lambda: local._processes(Path("/no"))])
def test_a_process_that_ends_while_all_are_read_is_no_error(monkeypatch, search):
    stat = Path.stat

    def ended(path, **options):
        if path.name in ("cmdline", "environ"):
            raise ProcessLookupError(3, "No such process", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", ended)
    assert search() == []
