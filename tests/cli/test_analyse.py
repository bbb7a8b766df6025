"""`raydd analyse`: its documents against numbers worked by hand, its figures, its refusals."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from analyses import document, refusal
from buffer_specs import make_spec
from torch import nn

from raydd.analysis.buffers import accuracy_at
from raydd.analysis.document import default_out
from raydd.buffer.arrow_buffer import ArrowBuffer, create_buffer, refresh_manifest
from raydd.buffer.convexified import Convexified, convexify
from raydd.buffer.expert_file import ExpertTrajectory, write_expert
from raydd.cli import run
from raydd.cli.analyse import app
from raydd.config.schema import DataConfig
from raydd.data.preprocessing import Transform, save_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.numerics.flat import FlatModel, flatten, layout_of

NAN = float("nan")
SPEC = make_spec(
    layout_of({"w": torch.zeros(1, 2), "b": torch.zeros(1)}),
    dataset="toy",
    classes=2,
    recipe={"optimizer": "gsam"},
    seed=0,
)
# Steps of lengths (5, 1), (0, 2), (1, 0) and twice those: squared 26, 4, 1 and 104, 16, 4.
THETA = [[0.0, 0, 0], [3, 4, 1], [3, 4, 3], [3, 5, 3]]
ACCURACY = [[0.1, 0.5, 0.75, 0.5], [0.25, 0.5, 0.625, 0.75]]


def buffer(folder, accuracy=ACCURACY):
    create_buffer(folder, SPEC)
    for index, scores in enumerate(accuracy):
        theta = torch.tensor(THETA) * (index + 1)
        write_expert(folder, SPEC, index, ExpertTrajectory(theta, None, range(4), scores, [NAN, 1, 1, 1]))
    refresh_manifest(folder)
    save_transform(folder, Transform("raw01"))
    return folder


def probed(folder, losses=((0.9, 1.25), (0.8, None)), spread=(0.2, 0.25), steps=(0, 10)):
    folder.mkdir(parents=True)
    rows = [
        dict(zip(("step", "losses", "label_std"), row, strict=True)) for row in zip(steps, losses, spread, strict=True)
    ]
    (folder / "probe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_experts_of_two_buffers(capfd, tmp_path):
    full, small = buffer(tmp_path / "full"), tmp_path / "small"
    convexify(full, small, (1,))
    found = document(capfd, "analyse", "experts", full, small, "--out", tmp_path / "figure.png")
    assert found["split"] == "validation"
    a, b = found["buffers"]
    assert (a["name"], a["experts"], a["epochs"]) == ("gsam, full", 2, 3)
    # Expert 0: (26 + 4 + 1) / 3, expert 1: four times that.
    assert a["avg_var"] == {"mean": pytest.approx(2.5 * 31 / 3), "std": pytest.approx(1.5 * 31 / 3)}
    assert a["change"]["epochs"] == [1, 2, 3]
    assert a["change"]["mean"] == pytest.approx([65, 10, 2.5])
    assert a["change"]["std"] == pytest.approx([39, 6, 1.5])
    assert a["last"] == {"mean": 0.625, "std": 0.125}
    assert a["best"] == {"mean": 0.75, "std": 0}
    assert a["accuracy"]["mean"] == pytest.approx([0.175, 0.5, 0.6875, 0.625])
    for key in ("avg_var", "change"):
        assert {name: pytest.approx(value) for name, value in a[key].items()} == b[key]
    assert b["accuracy"]["epochs"] == [0, 1, 3]
    assert b["accuracy"]["mean"] == pytest.approx([0.175, 0.5, 0.625])


def test_experts_without_a_validation_split(capfd, tmp_path):
    folder = buffer(tmp_path / "blind", [[NAN] * 4] * 2)
    (found,) = document(capfd, "analyse", "experts", folder)["buffers"]
    assert found["last"] == found["best"] == {"mean": None, "std": None}
    assert (tmp_path / "blind-experts.png").is_file()


def test_storage_is_what_convexifying_writes(capfd, tmp_path):
    full, small = buffer(tmp_path / "full"), tmp_path / "small"
    convexify(full, small, (2,))
    found = document(capfd, "analyse", "storage", full, small, "--waypoints", "2", "--out", tmp_path / "a.png")
    a, b = found["buffers"]
    sizes = [(folder / "expert-00000.arrow").stat().st_size for folder in (full, small)]
    assert (a["full_bytes"], a["convexified_bytes"]) == tuple(sizes)
    assert a["ratio"] == sizes[1] / sizes[0]
    assert (b["full_bytes"], b["convexified_bytes"], b["ratio"]) == (None, sizes[1], None)
    assert a["kept"] == b["kept"] == [0, 2, 3]
    assert a["total_bytes"] == sum(path.stat().st_size for path in full.glob("expert-*"))


def test_landscape_of_a_trained_expert(capfd, small_buffer, tmp_path):
    flags = ("--expert", "1", "--waypoints", "1", "--device", "cpu", "--out", tmp_path / "figure.png")
    found = document(capfd, "analyse", "landscape", small_buffer, *flags)
    source = ArrowBuffer(small_buffer)
    assert (found["epochs"], found["kept"], found["expert"]) == ([0, 1, 2, 3], [0, 1, 3], 1)
    stored = source.accuracy[1].tolist()
    assert found["trajectory"]["accuracy"] == stored
    path = Convexified(source, (1,))
    work = open_workspace(DataConfig(), "MLP", torch.device("cpu"))
    x, y = next(work.feed(work.dataset.validation).in_order())
    between = float((FlatModel(work.build)(path.point(1, 2), x).argmax(dim=1) == y).double().mean())
    assert found["convexified"]["accuracy"] == [stored[0], stored[1], between, stored[3]]

    theta = torch.stack([source.snapshot(1, t) for t in range(4)]).double()
    centred = theta - theta.mean(dim=0)
    singular = torch.linalg.svdvals(centred)
    share = (singular.square() / singular.square().sum())[:2]
    torch.testing.assert_close(torch.tensor(found["explained"]).double(), share)
    xy = torch.tensor([found["trajectory"][axis] for axis in "xy"]).double()
    torch.testing.assert_close(xy.square().sum(dim=1), singular[:2].square())
    axes = torch.linalg.lstsq(centred, xy.T).solution  # the least-norm axes that give these coordinates
    points = torch.stack([path.point(1, t) for t in range(4)]).double() - theta.mean(dim=0)
    shown = torch.tensor([found["convexified"][axis] for axis in "xy"]).double()
    torch.testing.assert_close((points @ axes).T, shown)


def test_a_stored_snapshot_scores_what_its_buffer_says(small_buffer):
    source = ArrowBuffer(small_buffer)
    work = open_workspace(DataConfig(), "MLP", torch.device("cpu"))
    feeds = work.feed(work.dataset.train), work.feed(work.dataset.validation)
    network = work.build()
    found = [accuracy_at(source.snapshot(0, t), network, source.layout, *feeds) for t in range(4)]
    assert found == source.accuracy[0].tolist()


def test_running_statistics_are_measured_anew():
    """BatchNorm's own are of another point: whatever they were, the score is the same."""
    work = open_workspace(DataConfig(), "MLP", torch.device("cpu"))
    feeds = work.feed(work.dataset.train), work.feed(work.dataset.validation)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    theta, layout = flatten(dict(network.named_parameters())), layout_of(dict(network.named_parameters()))
    first = accuracy_at(theta, network, layout, *feeds)
    with torch.no_grad():
        network[1].running_mean.fill_(1e6)
    assert accuracy_at(theta, network, layout, *feeds) == first
    x = torch.cat([x for x, _ in work.feed(work.dataset.train).in_order()]).flatten(1)
    torch.testing.assert_close(network[1].running_mean, x.mean(dim=0), atol=0.005, rtol=0)


def test_matching_loss_by_start_epoch(capfd, tmp_path):
    found = document(capfd, "analyse", "matching", probed(tmp_path / "run"))
    assert (found["name"], found["start_epochs"], found["steps"]) == ("run", [0, 1], [0, 10])
    assert found["losses"] == [[0.9, 1.25], [0.8, None]]
    assert (tmp_path / "run-matching.png").is_file()


def test_a_step_that_was_repeated_counts_once(capfd, tmp_path):
    losses = ((0.9, 1.0), (float("inf"), 1.0), (0.5, 0.5))
    run_folder = probed(tmp_path / "run", losses, (None,) * 3, steps=(0, 20, 0))
    found = document(capfd, "analyse", "matching", run_folder)
    assert (found["steps"], found["losses"]) == ([0, 20], [[0.5, 0.5], [None, 1.0]])


def test_labels_of_two_runs_of_one_name(capfd, tmp_path):
    runs = [probed(tmp_path / "a" / "run"), probed(tmp_path / "b" / "run", spread=(0.1, 0.125))]
    found = document(capfd, "analyse", "labels", *runs, "--out", tmp_path / "labels.png")["runs"]
    assert [entry["label_std"] for entry in found] == [[0.2, 0.25], [0.1, 0.125]]
    assert [entry["name"] for entry in found] == ["a/run", "b/run"]


def test_memory_with_and_without_a_device(capfd, tmp_path):
    rows = [{"step": 1, "resident_mb": 100.5, "device_mb": None}, {"step": 2, "resident_mb": 120, "device_mb": 7.0}]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "memory.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = document(capfd, "analyse", "memory", tmp_path / "run")["runs"]
    assert (found["steps"], found["resident_mb"], found["device_mb"]) == ([1, 2], [100.5, 120], [None, 7.0])


def scored_run(folder, like, accuracy=(0.25, 0.5, 0.49), seconds=2.0):
    """A run of 20 outer steps whose set was scored three times."""
    folder.mkdir(exist_ok=True)
    history = tuple({"step": 10 * place, "mean": value} for place, value in enumerate(accuracy))
    synset = replace(SyntheticSet.load(like), history=history, recipe={"method": "dm"})
    synset.save(folder / "synset.arrow")
    rows = [
        {"step": step, "resident_mb": 100.0 + step, "device_mb": None, "seconds": seconds * step}
        for step in (1, 10, 20)
    ]
    (folder / "memory.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_convergence_tells_how_soon_a_run_was_near_its_best(capfd, small_synset, tmp_path):
    runs = [scored_run(tmp_path / "a", small_synset), scored_run(tmp_path / "b", small_synset, (0.5, 0.51, 0.4))]
    found = document(capfd, "analyse", "convergence", *runs, "--out", tmp_path / "convergence.png")
    assert [row["accuracy"] for row in found["runs"]] == [[0.25, 0.5, 0.49], [0.5, 0.51, 0.4]]
    keys = ("name", "best", "last", "near_step", "near_seconds")
    assert [[row[key] for key in keys] for row in found["runs"]] == [
        ["a", 0.5, 0.49, 10, 20.0],
        ["b", 0.51, 0.4, 0, None],
    ]
    assert "evaluate_every" in refusal(
        capfd, tmp_path, "analyse", "convergence", scored_run(tmp_path / "c", small_synset, ())
    )
    assert "that has ended" in refusal(capfd, tmp_path, "analyse", "convergence", tmp_path)


def test_cost_is_what_the_logs_say(capfd, small_synset, tmp_path):
    runs = [scored_run(tmp_path / "a", small_synset), scored_run(tmp_path / "b", small_synset, (), 0.5)]
    found = document(capfd, "analyse", "cost", *runs, "--out", tmp_path / "cost.png")["runs"]
    keys = ("name", "method", "steps", "seconds", "step_seconds", "memory_mb", "on_device", "accuracy")
    assert [[row[key] for key in keys] for row in found] == [
        ["a", "dm", 20, 40.0, 2.0, 120.0, False, 0.49],
        ["b", "dm", 20, 10.0, 0.5, 120.0, False, None],
    ]
    (tmp_path / "a" / "memory.jsonl").write_text('{"step": 1, "resident_mb": 1.0}\n')
    assert "has no seconds" in refusal(capfd, tmp_path, "analyse", "cost", tmp_path / "a")


def test_a_table_and_the_files_are_named(capfd, tmp_path):
    folder = probed(tmp_path / "[red]run")  # what looks like markup is shown as it is
    assert run(["analyse", "matching", str(folder)]) == 0
    out = capfd.readouterr().out
    assert "start epoch" in out
    assert "[red]run-matching.png" in out
    assert run(["analyse", "matching", str(folder)]) == 0  # again: its own files may be replaced


def test_where_figures_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_out([Path("runs/a")], "labels") == Path("runs/a-labels.png")
    assert default_out([Path("runs/a"), Path("b")], "labels") == Path("labels.png")
    assert default_out([Path(".")], "labels") == tmp_path.with_name(f"{tmp_path.name}-labels.png")


@pytest.mark.parametrize("name", sorted(command.callback.__name__ for command in app.registered_commands))
def test_every_figure_goes_into_a_folder_that_is_there(name, capfd, small_buffer, small_synset, tmp_path):
    out = tmp_path / "figures of mine.d"
    out.mkdir()
    run_folder = probed(tmp_path / "run")
    (run_folder / "memory.jsonl").write_text('{"step": 1, "resident_mb": 100.5, "device_mb": null}\n')
    given = {"experts": [small_buffer], "storage": [small_buffer], "landscape": [small_buffer, "--device", "cpu"]}
    given |= {key: [run_folder] for key in ("matching", "labels", "memory", "convergence", "cost")}
    if name in ("convergence", "cost"):
        scored_run(run_folder, small_synset)
    given["embedding"] = [small_synset, "--buffer", small_buffer, "--device", "cpu", "--epochs", "3", "--images", "5"]
    words = given.get(name, [small_synset, "--buffer", small_buffer, "--device", "cpu"])
    document(capfd, "analyse", name, *words, "--out", out)
    stem = words[0].with_suffix("").name
    assert sorted(path.name for path in out.iterdir()) == [f"{stem}-{name}.json", f"{stem}-{name}.png"]
    (tmp_path / "file").write_text("kept")
    below = tmp_path / "file" / "a.png"
    assert "cannot be written" in refusal(capfd, tmp_path, "analyse", name, *words, "--out", below)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", ["is empty"]),
        ('{"step": 1, "losses": [0.5]}\n{"st', ["line 2"]),
        ('{"step": 1, "losses": "no"}\n', ["line 1"]),
        ('{"losses": [1]}\n', ["line 1", "step"]),
        ("[1]\n", ["line 1"]),
        ('{"step": 1, "losses": [1]}\n{"step": 2, "losses": [1, 2]}\n', ["[1, 2]"]),
    ],
)
def test_broken_records_are_refused(capfd, tmp_path, text, named):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "probe.jsonl").write_text(text)
    err = refusal(capfd, tmp_path, "analyse", "matching", folder)
    assert [word for word in ["probe.jsonl", *named] if word not in err] == []


def test_what_was_not_recorded_is_refused(capfd, tmp_path):
    hard = probed(tmp_path / "hard", spread=(None, None))
    assert "hard labels" in refusal(capfd, tmp_path, "analyse", "labels", probed(tmp_path / "soft"), hard)
    assert "memory.jsonl" in refusal(capfd, tmp_path, "analyse", "memory", hard)
    assert "probe_every" in refusal(capfd, tmp_path, "analyse", "matching", tmp_path)
    assert "does not exist" in refusal(capfd, tmp_path, "analyse", "matching", tmp_path / "no")


def test_figures_that_would_replace_something_else_are_refused(capfd, tmp_path):
    folder = probed(tmp_path / "run")
    err = refusal(capfd, tmp_path, "analyse", "matching", folder, "--out", tmp_path / "a.pdf")
    assert "a.png" in err
    for text in ('{"analysis": "labels"}', '{"spec": 1}', "[]", "no json"):
        (tmp_path / "manifest.json").write_text(text)
        err = refusal(capfd, tmp_path, "analyse", "matching", folder, "--out", tmp_path / "manifest.png")
        assert "manifest.json" in err
        assert (tmp_path / "manifest.json").read_text() == text


def test_landscapes_that_cannot_be_are_refused(capfd, small_buffer, images, tmp_path):
    folder = shutil.copytree(small_buffer, tmp_path / "buffer")

    def refused(where, *flags):
        return refusal(capfd, tmp_path, "analyse", "landscape", where, "--device", "cpu", *flags)

    assert "0, 1" in refused(folder, "--expert", "7")
    assert "'1,x'" in refused(folder, "--waypoints", "1,x")
    assert "between 0 and 3" in refused(folder, "--waypoints", "9")
    assert "fingerprint" in refused(folder, "--dataset", images)
    assert "--device" in refused(folder, "--device", "gpu")
    convexify(folder, tmp_path / "small")
    assert "0, 3" in refused(tmp_path / "small")
    assert "validation" in refused(buffer(tmp_path / "blind", [[NAN] * 4]))
    assert "--dataset" in refused(buffer(tmp_path / "toy"))
