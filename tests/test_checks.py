"""What is refused before a run starts: one line, the remedy in it, and nothing written."""

import pytest
import torch

from raydd.api import Where, check_early, distill
from raydd.checks import check, check_start, open_buffer, settle
from raydd.config import DistillConfig
from raydd.methods import METHODS, complete
from raydd.runs import Run
from raydd.settings import build
from raydd.workspace import open_workspace

CPU = torch.device("cpu")
TOY = {
    "ipc": 1,
    "steps": 1,
    "student_steps": 1,
    "span": 1,
    "threads": 1,
    "experts": {"network": "MLP", "num_experts": 2, "epochs": 3},
}


def toy(method, *layers):
    return complete(build(DistillConfig, TOY, {"method": method}, *layers))


@pytest.fixture(scope="module")
def work():
    return open_workspace(toy("mtt").data, "MLP", CPU)


REFUSED = [
    ("magic", {}, ["'magic'", "mtt, ftd, tesla, datm, dpd, ast, mct"]),
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
    ("mtt", {"probe_every": 1, "experts": {"num_experts": 1}}, ["probe_every", "there is but 1", "--num-experts 2"]),
    ("mtt", {"window": {"auto": True}, "experts": {"num_experts": 1}}, ["window.auto", "--num-experts 2"]),
    ("mtt", {"window": {"auto": True}, "span": 4}, ["a span of 4 epochs is longer than the experts' 3"]),
]


@pytest.mark.parametrize(("method", "layer", "named"), REFUSED)
def test_what_cannot_run_is_refused_before_experts_are_trained_for_it(method, layer, named, work, cache):
    before, config = sorted(cache.rglob("*")), toy(method, layer)
    for refuse in (lambda: check(config, work), lambda: check_early(config, Where(device="cpu"))):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - every word of the message is looked at
            refuse()
        assert "\n" not in str(caught.value)
        assert [word for word in named if word not in str(caught.value)] == [], str(caught.value)
    assert sorted(cache.rglob("*")) == before


@pytest.mark.parametrize(("method", "layer", "named"), [row for row in REFUSED if "experts" not in row[1]])
def test_what_cannot_run_on_a_buffer_is_refused_before_anything_is_written(
    method, layer, named, small_buffer, tmp_path
):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - every word of the message is looked at
        distill(toy(method, layer), tmp_path / "run", buffer=small_buffer, where=Where(device="cpu"))
    assert [word for word in named if word not in str(caught.value)] == [], str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "layer",
    [
        {},
        {"window": {"low": 1, "current": 1, "high": 2}},
        {"probe_every": 1},
        {"window": {"auto": True, "high": 40}},
        {"ipc": 4, "clusters": 2},
        {"convexify": True, "waypoints": [1], "experts": {"kept": [1]}},
        {"initial": "correctly_classified", "labels": "own", "lr": {"labels": 3}},
    ],
)
def test_what_can_run_is_let_through(method, layer, work):
    assert check(toy(method, layer), work) is None


def test_a_window_is_checked_against_the_experts_that_are_there():
    config = toy("mtt", {"window": {"high": 2}})
    check_start(config, 3)
    with pytest.raises(ValueError, match=r"window \(0, 2\) with a span of 1 epochs needs experts of 3 epochs"):
        check_start(config, 2)


def test_a_run_is_settled_on_the_buffers_own_experts(small_buffer, tmp_path):
    asked = toy("mct", {"experts": {"kept": [2], "optimizer": "gsam", "lr": 7, "epochs": 50, "num_experts": 9}})
    buffer, work = open_buffer(small_buffer, asked, CPU)
    found = settle(asked, buffer, tmp_path).experts
    assert (found.kept, found.optimizer, found.lr, found.epochs, found.num_experts) == (None, "sgd", 0.01, 3, 2)
    list(Run(settle(asked, buffer, tmp_path), tmp_path / "run", buffer, work).steps())
    assert settle(toy("mct"), buffer, tmp_path / "run").experts == found
