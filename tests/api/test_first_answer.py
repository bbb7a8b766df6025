"""A first answer on one's own images: what is chosen for a budget, and the whole of it."""

import json
import tempfile
import time

import pytest
import torch

from raydd.api import first_answer as module
from raydd.api.distill import distill
from raydd.api.first_answer import METHODS, Settings, choose, first_answer
from raydd.campaigns.cell_settings import Options
from raydd.campaigns.graph import build_graph
from raydd.campaigns.plan import make_plan
from raydd.campaigns.scales import SCALES
from raydd.cli import run
from raydd.config.placement import Where
from raydd.config.schema import DataConfig, DistillConfig
from raydd.data.workspace import open_workspace
from raydd.evaluation.protocols import find_protocol
from raydd.evaluation.student import evaluate as train_and_test
from raydd.io.console import QuietScreen

HERE = Where(device="cpu", num_workers=2)
QUIET = QuietScreen(lambda line: None)


@pytest.mark.parametrize(("ipc", "side"), [(1, None), (10, 32)])
def test_its_plan_has_every_cell_and_the_settings_that_were_chosen(ipc, side):
    settings = Settings(ipc, side, {"dm": 7, "dsa": 5})
    graph = build_graph([make_plan(module._plan(DataConfig(), settings, 3), "test")], Options(SCALES["paper"], seed=3))
    assert [(cell.row, cell.missing) for cell in graph.cells] == [
        (name, "") for name in (*METHODS, "random", "k-means")
    ]
    runs = {node.config.method: node.config for node in graph.distillations.values()}
    assert {name: config.steps for name, config in runs.items()} == settings.steps
    for config in runs.values():
        assert (config.ipc, config.data.size, config.seed, config.threads) == (ipc, side, 3, 1)
        assert config.evaluate_every == config.steps  # one score on held-out images, which chooses the method
    assert (runs["dsa"].statistic.refresh, runs["dsa"].statistic.epochs) == (ipc, ipc)
    assert not graph.experts


@pytest.mark.parametrize(("minutes", "workers", "share"), [(2, 2, 1.0), (4, 2, 1.0), (4, 1, 0.5), (4, 9, 1.0)])
def test_the_steps_are_what_fits_into_the_budget(monkeypatch, minutes, workers, share):
    """Of a second a step, each method takes its share of the time that starting, timing and scoring leave."""
    monkeypatch.setattr(module, "run_costs", lambda folder, steps: {"run_seconds": float(steps)})
    monkeypatch.setattr(module, "_scoring_seconds", lambda *given: 30.0)
    begin = time.monotonic()
    settings = choose(DataConfig(), minutes, 0, HERE._replace(num_workers=workers), QUIET)
    spent = time.monotonic() - begin
    most = share * (60 * minutes - 70 - 30 / workers)
    assert (settings.ipc, settings.side, {*settings.steps}) == (1, None, {*METHODS})
    assert all(most - share * spent - 1 <= steps <= most for steps in settings.steps.values())


def test_images_that_take_longer_than_the_budget_are_refused_with_one_that_is_enough(monkeypatch):
    monkeypatch.setattr(module, "_scoring_seconds", lambda *given: 600.0)
    with pytest.raises(
        ValueError, match=r"--minutes 5 is too short for these images here; give at least (5\.9|6\.\d)$"
    ):
        choose(DataConfig(), 5, 0, HERE, QUIET)


def test_the_time_of_scoring_is_that_of_its_networks():
    """Twelve trainings of 300 epochs and four of 100, each with its test: near what one of them takes."""
    config = DistillConfig(method="random", threads=1)
    work = open_workspace(config.data, config.experts.network, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        synset = distill(config, folder, where=HERE, screen=QUIET)
    torch.set_num_threads(1)
    protocol = find_protocol("dm").changed(100)
    estimate = min(
        module._scoring_seconds(config, synset, torch.device("cpu")) for _ in range(3)
    )  # the least disturbed
    begin = time.process_time()
    train_and_test(synset, work.build, work.feed(work.dataset.test), protocol, work.augment, 0)
    one = time.process_time() - begin
    assert 0.2 * 40 * one < estimate < 5 * 40 * one


def test_a_long_budget_distills_more_images(monkeypatch):
    monkeypatch.setattr(module, "run_costs", lambda folder, steps: {"run_seconds": float(steps)})
    monkeypatch.setattr(module, "_scoring_seconds", lambda *given: 30.0)
    assert choose(DataConfig(), 20, 0, HERE, QUIET).ipc == 10


def test_a_budget_in_which_nothing_can_start_is_refused(tmp_path, capfd):
    assert run(["try", "--dataset", "digits", "--minutes", "0.5", "--out", str(tmp_path / "out")]) == 2
    assert "--minutes 0.5 is too short: the workers alone take 70 s to start" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("minutes", ["nan", "inf", "-1", "0", "2000"])
def test_minutes_that_are_no_budget_are_refused_in_a_line(minutes, capfd, tmp_path):
    assert run(["try", "--dataset", "digits", "--minutes", minutes, "--out", str(tmp_path / "out")]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert f"--minutes {float(minutes):g}: give minutes such as 5, and 1440 at most" in err


@pytest.mark.slow
@pytest.mark.remote
def test_distilled_images_beat_random_ones_within_the_budget(tmp_path):
    answer = first_answer(DataConfig(), 2.0, tmp_path / "out", where=HERE, screen=QUIET)
    means = {name: row["mean"] for name, row in answer["accuracy"].items()}
    assert means[answer["best"]] > means["random"]
    assert answer["best"] == max(METHODS, key=lambda name: answer["validation"][name])
    assert answer["seconds"] < 150
    assert all(words.startswith("raydd ") and "--dataset digits" in words for words in answer["next"])
    document = json.loads((tmp_path / "out" / "campaign.json").read_text())
    assert {cell["row"]: cell["mean"] for cell in document["cells"]} == means
