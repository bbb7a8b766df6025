"""What is refused before a run starts: one line, the remedy in it, and nothing written."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from raydd.api.distill import distill
from raydd.config.parsing import build
from raydd.config.placement import Where
from raydd.config.schema import DistillConfig
from raydd.data.workspace import open_workspace
from raydd.distillation.statistic_matching import NETWORKS
from raydd.methods import METHODS, complete
from raydd.run.experts import open_buffer, settle
from raydd.run.resolve import check_data, check_run, check_settings, check_start, needs_experts
from raydd.run.run import Run

CPU = torch.device("cpu")
TOY = {
    "ipc": 1,
    "student_steps": 1,
    "span": 1,
    "threads": 1,
    "experts": {"network": "MLP", "num_experts": 2, "epochs": 3},
}


def family(method):
    return complete(DistillConfig(method=method)).match


def toy(method, *layers):
    steps = {} if family(method) == "nothing" else {"steps": 1}
    own = {"unrolled": {"window": 1, "radius": 0}} if family(method) == "loss" else {}
    if method == "sre2l":
        own = {"experts": {"network": "ConvNetW8BN"}}  # it matches the statistics of batch norm
    return complete(build(DistillConfig, TOY, steps, own, {"method": method}, *layers))


@pytest.fixture(scope="module")
def work():
    return open_workspace(toy("mtt").data, "MLP", CPU)


REFUSED = [
    ("magic", {}, ["'magic'", "ast, datm, dpd, ftd, haba, mct, mtt, tesla"]),
    ("mtt", {"lr": {"labels": 3}}, ["lr.labels = 3", "initial = real", "lr.labels=0"]),
    ("tesla", {"lr": {"labels": 3}}, ["lr.labels = 3", "labels = expert", "lr.labels=0"]),
    ("datm", {"initial": "noise"}, ["lr.labels = 5", "initial = noise", "initial=correctly_classified"]),
    ("datm", {"labels": "expert"}, ["lr.labels = 5", "labels = expert"]),
    ("datm", {"window": {"current": 2, "high": 1}}, ["window 0, 2, 1", "T- <= T <= T+"]),
    ("datm", {"window": {"low": 2, "current": 1}}, ["window 2, 1, 2", ".current"]),
    ("datm", {"window": {"low": 0, "current": 1, "high": 3}}, ["window (0, 3)", "experts of 4 epochs", "they have 3"]),
    ("mtt", {"window": {"low": 2, "high": 1}}, ["window (2, 1) holds no epoch"]),
    ("mct", {"waypoints": [3]}, ["waypoints [3]", "between 0 and 3"]),
    ("mct", {"waypoints": [2, 1]}, ["waypoints [2, 1]", "rising"]),
    ("mtt", {"waypoints": [1]}, ["waypoints is for convexified", "--method mct", "convexify=true"]),
    ("datm", {"window": {"continuous": True}}, ["window.continuous is for convexified", "--method mct"]),
    ("mtt", {"experts": {"kept": [1]}}, ["experts.kept is for convexified", "--method mct"]),
    ("mct", {"waypoints": [1], "experts": {"kept": [2]}}, ["waypoints (1,)", "experts.kept (2,)", "the same epochs"]),
    ("ast", {"ipc": 4, "clusters": 3}, ["clusters 3", "ipc 4", "--set clusters"]),
    ("mtt", {"probe_every": 1, "experts": {"num_experts": 1}}, ["probe_every", "there is one", "--num-experts 2"]),
    ("mtt", {"window": {"auto": True}, "experts": {"num_experts": 1}}, ["window.auto", "--num-experts 2"]),
    ("mtt", {"window": {"auto": True}, "span": 4}, ["a span of 4 epochs is longer than the experts' 3"]),
    ("mtt", {"match": "statistics"}, ["match = statistics", "method mtt matches trajectories", "--method"]),
    ("tgdd", {"match": "trajectories"}, ["match = trajectories", "method tgdd matches statistics"]),
    ("herding", {"match": "statistics", "steps": 1}, ["match = statistics", "method herding matches nothing"]),
    ("herding", {"steps": 5}, ["steps = 5", "herding selects images", "--method dm --set initial=herding"]),
    ("random", {"steps": 5}, ["steps = 5", "random selects images", "--set initial=real"]),
    ("dm", {"lr": {"lr": 1e-4}}, ["lr.lr = 0.0001", "method dm has no students", "lr.lr=0"]),
    ("dm", {"initial": "correctly_classified", "lr": {"labels": 2}}, ["lr.labels = 2", "method dm learns no"]),
    ("datm", {"formation": {"factor": 2}}, ["initial = correctly_classified", "formation.factor 2", "initial=real"]),
    ("dm", {"window": {"low": 9}}, ["window.low = 9 means nothing", "method dm", "matches statistics", "drop it"]),
    ("tgdd", {"convexify": True}, ["convexify = True", "method tgdd", "matches statistics"]),
    ("mtt", {"statistic": {"alpha": 1}}, ["statistic.alpha = 1.0 means nothing", "method mtt", "matches trajectories"]),
    ("herding", {"ema": 0.5}, ["ema = 0.5", "method herding", "matches nothing"]),
    ("herding", {"initial": "noise"}, ["initial = noise", "method herding is herding"]),
    ("dm", {"ipc": 5, "formation": {"factor": 2, "decode": "bounded", "bound": 3}}, ["bound 3", "ipc 5", "bound=5"]),
    ("dm", {"formation": {"factor": 2}, "data": {"preprocessing": "zca"}}, ["formation.factor 2", "zca", "factor=1"]),
    ("dm", {"lr": {"labels": 2}}, ["lr.labels = 2", "initial = real"]),
    ("dm", {"probe_every": 1}, ["probe_every", "method dm matches none", "drop it"]),
    ("tgdd", {"window": {"auto": True}}, ["window.auto measures matched trajectories", "method tgdd", "drop it"]),
    ("dc", {"statistic": {"distance": "means"}}, ["distance = means", "of = gradient", "distance=cosine"]),
    ("tgdd", {"statistic": {"strategy": "crop_blur"}}, ["'blur'", "'crop_blur'", "cutout"]),
    ("dm", {"statistic": {"of": "gradient"}}, ["distance = means", "of = gradient", "distance=cosine"]),
    (
        "dm",
        {"data": {"preprocessing": "zca"}, "space": "pixels"},
        ["space = pixels", "zca", "--set space=network", "normalise"],
    ),
    ("dm", {"ipc": 40, "formation": {"factor": 2}}, ["ipc 40", "factor 2", "160 images", "'8'", "has 125", "--ipc 31"]),
    ("dm", {"ipc": 1, "formation": {"factor": 9}}, ["formation.factor 9", "cuts 8 pixels"]),
    ("dm", {"ipc": 126}, ["ipc 126", "'8'", "--ipc 125"]),
    ("mtt", {"ipc": 32, "formation": {"factor": 2}}, ["ipc 32", "128 images", "--ipc 31"]),
    ("tesla", {"formation": {"factor": 2}}, ["labels = expert", "formation.factor 2", "formation.factor=1"]),
    ("haba", {"formation": {"factor": 2}}, ["formation.styles = 5", "formation.factor = 2", "formation.factor=1"]),
    ("ast", {"formation": {"factor": 2}, "clusters": 3}, ["clusters 3", "ipc 4"]),
    ("mtt", {"shards": 2, "backprop": "full"}, ["shards = 2", "backprop = full", "backprop=adjoint", "--shards 1"]),
    ("mtt", {"shards": 11}, ["shards = 11", "a student step has 10 images", "--shards 10"]),
    ("mtt", {"shards": 5, "batch_size": 4}, ["shards = 5", "has 4 images", "--shards 4"]),
    ("dm", {"shards": 11}, ["shards = 11", "digits has 10 classes", "--shards 10"]),
    ("tgdd", {"shards": 2, "gate": 0.5}, ["shards = 2", "statistic.each_class", "gate = 0.5", "--shards 1"]),
    ("herding", {"shards": 2}, ["shards = 2 means nothing", "method herding", "matches nothing"]),
]
BATCH_NORM = [
    *[
        (
            method,
            layer,
            name,
            ["has batch norm", f"method {method} ", "one class a batch", f"such as --network {other}"],
        )
        for method, layer in (
            ("tgdd", {}),
            ("dance", {}),
            ("dm", {"formation": {"factor": 1}}),
            ("dc", {}),
            ("idm", {}),
        )
        for name, other in (("ResNet18BNW8", "ResNet18W8"), ("ConvNetW8BN", "ConvNetW8"), ("DenseNet121W2", "ConvNet"))
    ],
    (
        "mtt",
        {"shards": 2},
        "ConvNetW8BN",
        ["shards = 2", "ConvNetW8BN has batch norm", "depend on each other", "--shards 1, or ", "--network ConvNetW8"],
    ),
    (
        "mct",
        {"labels": "expert"},
        "ResNet18BNW8",
        ["labels = expert", "between the epochs", "labels=own", "instance or group norm", "--network ResNet18W8"],
    ),
]


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(("method", "layer", "named"), REFUSED)
def test_what_cannot_run_is_refused_before_experts_are_trained_for_it(method, layer, named, cache):
    before = sorted(cache.rglob("*"))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - every word of the message is looked at
        check_run(toy(method, layer), CPU)
    assert "\n" not in str(caught.value)
    assert [word for word in named if word not in str(caught.value)] == [], str(caught.value)
    assert sorted(cache.rglob("*")) == before


@pytest.mark.parametrize(("method", "layer", "named"), [row for row in REFUSED if not {"experts", "data"} & {*row[1]}])
def test_what_cannot_run_on_a_buffer_is_refused_before_anything_is_written(
    method, layer, named, small_buffer, tmp_path
):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - every word of the message is looked at
        distill(toy(method, layer), tmp_path / "run", buffer=small_buffer, where=Where(device="cpu"))
    assert [word for word in named if word not in str(caught.value)] == [], str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.rows(("method", "layer", "network", "named"), BATCH_NORM)
def test_batch_norm_without_right_statistics_is_refused_before_experts_are_trained(
    method, layer, network, named, cache
):
    before, config = sorted(cache.rglob("*")), toy(method, layer, {"experts": {"network": network}})
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - every word of the message is looked at
        check_run(config, CPU)
    assert "\n" not in str(caught.value)
    assert [word for word in named if word not in str(caught.value)] == [], str(caught.value)
    assert sorted(cache.rglob("*")) == before


@pytest.mark.rows("method", ["mtt", "tesla", "datm", "ast", "mct", "herding", "forgetting"])
def test_batch_norm_is_fine_where_its_statistics_are(method):
    check_run(toy(method, {"experts": {"network": "ResNet18BNW8"}}), CPU)


ANY = [{}, {"ipc": 4, "clusters": 2}, {"experts": {"epochs": 2, "num_experts": 3}}]
MOSAICS = {"ipc": 31, "formation": {"factor": 2, "styles": 0, "contrast": 0}}
OF_LEARNERS = [
    {"initial": "noise", "lr": {"labels": 0}},
    {"initial": "real", "labels": "own", "lr": {"labels": 0}, **MOSAICS},
]
OF_TRAJECTORIES = [
    {"window": {"low": 1, "current": 1, "high": 2}},
    {"probe_every": 1},
    {"window": {"auto": True, "high": 40}},
    {"convexify": True, "waypoints": [1], "experts": {"kept": [1]}},
    {"initial": "correctly_classified", "labels": "own", "lr": {"labels": 3}},
]
LET_THROUGH = [
    (method, layer)
    for method in METHODS
    for layer in [
        *ANY,
        *([MOSAICS] * (method != "rded") if family(method) == "nothing" else OF_LEARNERS),
        *(OF_TRAJECTORIES if family(method) == "trajectories" else ()),
    ]
]


@pytest.mark.rows(("method", "layer"), LET_THROUGH)
def test_what_can_run_is_let_through(method, layer, work):
    config = toy(method, layer)
    check_start(config, config.experts.epochs)
    check_settings(config)
    assert check_data(config, replace(work, network=config.experts.network)) is None


@pytest.mark.rows("method", METHODS)
def test_experts_are_needed_to_be_matched_looked_through_or_asked(method):
    own = toy(method)
    looked = family(method) == "statistics" and own.statistic.networks in ("experts", "mixed")
    features = {"initial": "herding", "select_by": "features"}
    for layer, needed in (
        ({}, own.initial in ("herding", "kcenter", "forgetting", "glister", "rded")),
        ({"initial": "real"}, False),
        ({"initial": "noise"}, False),
        ({"initial": "representative"}, True),
        ({"initial": "correctly_classified"}, True),
        (features, True),
        (features | {"select_by": "pixels"}, False),
        ({"initial": "forgetting", "select_by": "pixels"}, True),
    ):
        assert needs_experts(toy(method, layer)) == (needed or looked or family(method) == "trajectories")


def test_the_networks_of_the_settings_decide_whether_experts_are_needed():
    found = {name: needs_experts(toy("dm", {"statistic": {"networks": name}})) for name in NETWORKS}
    assert found == {name: name in ("experts", "mixed") for name in NETWORKS}
    assert {*NETWORKS} == {"random", "trained", "queue", "real", "experts", "mixed"}
    assert not needs_experts(toy("random", {"statistic": {"networks": "experts"}}))


WITHOUT = [name for name in METHODS if not needs_experts(toy(name))]


@pytest.mark.parametrize("method", WITHOUT)
def test_without_experts_none_are_trained_and_a_run_goes_on(method, cache, tmp_path, monkeypatch):
    """The command's own way: no buffer is named, none is made; killed in the middle it ends with the same bits."""
    seen, here = sorted(cache.rglob("buffers")), Where(device="cpu")
    sizes = {"batch_real": 4, "refresh": 2, "epochs": 1, "queue_steps": 1}
    small = {"statistic": sizes} if family(method) == "statistics" else {}
    steps = {} if family(method) == "nothing" else {"steps": 4, "checkpoint_every": 1} | small
    config = toy(method, steps)
    whole = distill(config, tmp_path / "whole", where=here)
    assert (tmp_path / "whole" / "synset.png").exists()
    if steps:
        original = Run.steps
        monkeypatch.setattr(Run, "steps", lambda run: islice(original(run), 3))
        with pytest.raises(ValueError, match=r"synset\.arrow"):
            distill(config, tmp_path / "killed", where=here)
        monkeypatch.setattr(Run, "steps", original)
        again = distill(config, tmp_path / "killed", resume=True, where=here)
        assert torch.equal(again.images, whole.images)
    same = distill(config, tmp_path / "whole", resume=True, where=here)
    assert torch.equal(same.images, whole.images)
    assert sorted(cache.rglob("buffers")) == seen
    assert whole.recipe["experts"]["num_experts"] == 2


def test_a_run_without_experts_does_not_go_on_with_some_nor_the_other_way_round(small_buffer, tmp_path):
    config, here = toy("dm", {"steps": 2, "checkpoint_every": 1, "statistic": {"batch_real": 4}}), Where(device="cpu")
    distill(config, tmp_path / "without", where=here)
    distill(config, tmp_path / "with", buffer=small_buffer, where=here)
    for name, buffer in (("without", small_buffer), ("with", None)):
        files = {path: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=r"was started with other (experts|settings)") as caught:
            distill(config, tmp_path / name, buffer=buffer, resume=True, where=here)
        assert "\n" not in str(caught.value)
        assert {path: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()} == files


def test_a_window_is_checked_against_the_experts_that_are_there():
    config = toy("mtt", {"window": {"high": 2}})
    check_start(config, 3)
    with pytest.raises(ValueError, match=r"window \(0, 2\) with a span of 1 epochs needs experts of 3 epochs"):
        check_start(config, 2)


def test_a_run_is_settled_on_the_buffers_own_experts(small_buffer):
    asked = toy("mct", {"experts": {"kept": [2], "optimizer": "gsam", "lr": 7, "epochs": 50, "num_experts": 9}})
    buffer, _ = open_buffer(small_buffer, asked, CPU)
    found = settle(asked, buffer).experts
    assert (found.kept, found.optimizer, found.lr, found.epochs, found.num_experts) == (None, "sgd", 0.01, 3, 2)
    assert settle(toy("mct"), buffer).experts == found
