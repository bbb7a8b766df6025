"""A run's page: its numbers are those of its files, and its commands make the run again, or go on with it."""

import io
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from raydd.cli import run
from raydd.data.synset import SyntheticSet
from raydd.evaluation.jobs import Outcome
from raydd.figures.curves import Curve
from raydd.figures.svg import number
from raydd.io.document import dump_document
from raydd.report.distillation import course_sections, distilled_headline, distilled_sections, steep
from raydd.report.folder import RunFolder, is_distilled
from raydd.report.frames import members_of, read_images
from raydd.report.html import png_address
from raydd.report.reproduce import commands, made_sections, resume_command
from raydd.run import run as runs

WORDS = ("--network", "MLP", "--method", "datm", "--ipc", "2")
SETTINGS = {
    "steps": 6,
    "student_steps": 1,
    "span": 1,
    "window.current": 0,
    "window.high": 2,
    "window.interval": 2,
    "checkpoint_every": 2,
    "evaluate_every": 3,
    "evaluate_epochs": 1,
    "evaluate_networks": 1,
    "probe_every": 3,
    "threads": 1,
}


def words(buffer, out):
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    return ["distill", *WORDS, *settings, "--buffer", str(buffer), "--out", str(out)]


@pytest.fixture(scope="module")
def whole(small_buffer, tmp_path_factory):
    """A run of DATM with soft labels, scored on the way; read only."""
    out = tmp_path_factory.mktemp("whole") / "digits run"
    assert run(words(small_buffer, out)) == 0
    return out


@pytest.fixture(scope="module")
def stopped(small_buffer, tmp_path_factory):
    """The same run, stopped in its fifth step; read only."""
    out = tmp_path_factory.mktemp("stopped") / "digits run"
    original = runs.Run.steps

    def until(self):
        for step in original(self):
            yield step
            if step.step == 5:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.Run, "steps", until)
        assert run(words(small_buffer, out)) == 130
    return out


@pytest.fixture
def scored(whole, tmp_path, pretend):
    """The finished run, with scores of two networks."""
    out = tmp_path / "scored"
    shutil.copytree(whole, out)
    pretend(lambda matrix, job: Outcome(0.5 + 0.04 * job.seed + 0.1 * (job.network == "LeNet"), 1.0))
    flags = ["--nets", "LeNet,MLP", "--seeds", "2", "--set", "epochs=3", "--out", str(out / "scores.json")]
    assert run(["evaluate", str(out), *flags]) == 0
    return out


def frames(section):
    (text,) = re.findall(r'<script type="application/json" data-frame="[^"]+">(.*?)</script>', section.body)
    return json.loads(text)


def cells(section):
    return re.findall(r'<svg class="cell"[^>]*aria-label="([^"]*)"', section.body)


def test_targets_of_a_regression_are_said_and_shown_as_they_are(tmp_path, read):
    out = tmp_path / "frepo"
    settings = ["--set", "steps=2", "--set", "kernel.batch_real=20", "--set", "threads=1"]
    assert run(["distill", "--method", "frepo", "--network", "MLP", *settings, "--out", str(out)]) == 0
    overview, images = distilled_sections(out)
    said = read([overview, images]).definitions
    assert said["synthetic set"] == "10 images of 10 classes, 1 a class, targets of a regression"
    assert "targets: the 5 largest classes" in " ".join(images.body.split())
    synset = SyntheticSet.load(out / "synset.arrow")
    largest, second = synset.labels[0].sort(descending=True).values[:2].tolist()
    assert f"0 {largest:.2f}, " in cells(images)[0]
    assert f" {second:.2f}" in cells(images)[0]
    assert "%" not in cells(images)[0]


@pytest.mark.parametrize(
    ("values", "expected"), [([60.0, 1.0], True), ([40.0, 1.0], False), ([60.0, 1.0, -0.1], False), ([], False)]
)
def test_losses_of_both_signs_have_no_logarithm(values, expected):
    assert steep([Curve("a", [*range(len(values))], values)]) is expected


def test_the_overview_says_what_the_files_say(whole, read):
    overview, images = distilled_sections(whole)
    found = read([overview, images])
    synset = SyntheticSet.load(whole / "synset.arrow")
    said = found.definitions
    assert said["method"] == "datm"
    assert said["data set"] == "digits"
    assert said["synthetic set"] == "20 images of 10 classes, 2 a class, soft labels (logits)"
    assert said["learning rate of students"] == f"{float(synset.lr):.4g}"
    assert said["outer steps"] == "6 of 6"
    assert "not measured" in said["test accuracy"]
    best = max(entry["mean"] for entry in synset.history)
    assert distilled_headline(whole) == (
        f"DATM on digits, 2 images a class: not tested; best validation accuracy {100 * best:.1f} %"
    )


def test_scores_are_told_with_their_seeds_protocol_and_selection(scored, read):
    line = distilled_headline(scored)
    assert line.endswith("52.0 ± 2.8 % test accuracy (2 fresh networks MLP, protocol mtt, 3 epochs, honest selection)")
    said = read(distilled_sections(scored)).definitions
    assert said["seeds"] == "2 fresh networks, ± their standard deviation"
    assert said["protocol"] == "mtt, 3 epochs"
    assert said["selection"].startswith("honest: ")


def test_images_carry_their_soft_labels(whole):
    synset = SyntheticSet.load(whole / "synset.arrow")
    section = distilled_sections(whole)[1]
    labels = cells(section)
    assert len(labels) == 20
    shares, order = synset.targets.double().sort(dim=1, descending=True)
    for place, label in enumerate(labels):
        row, column = divmod(place, 2)
        title, told = label.split("; ")
        assert title == f"class {synset.classes[row]}, image {column + 1}"
        top = zip(order[place, :5].tolist(), shares[place, :5].tolist(), strict=True)
        assert told == ", ".join(f"{synset.classes[index]} {100 * share:.1f} %" for index, share in top)


def test_the_slider_goes_from_the_start_to_the_result(whole):
    grid = read_images(RunFolder(whole))
    shown = frames(distilled_sections(whole)[1])
    assert [frame["address"] for frame in shown] == [png_address(stop.png) for stop in grid.stops]
    kept = sorted((whole / "frames").glob("step-*.png"))
    assert len(kept) >= 2
    assert shown[0]["address"] == png_address(kept[0].read_bytes())
    assert shown[0]["words"] == "step 0 of 6"
    assert "result" in shown[-1]["words"]
    first, last = (np.asarray(Image.open(io.BytesIO(stop.png))) for stop in (grid.stops[0], grid.stops[-1]))
    assert first.shape == last.shape == (10 * 8, 2 * 8)
    assert (first != last).any()
    pixels = SyntheticSet.load(whole / "synset.arrow").pixels()[5]  # class 2, the second image
    assert np.array_equal(last[16:24, 8:16], (pixels[0] * 255).round().byte().numpy())


def test_without_frames_the_result_stands_alone(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("frames"))
    section = distilled_sections(out)[1]
    assert "application/json" not in section.body
    assert "kept no frames" in section.body
    assert len(cells(section)) == 20


def test_a_damaged_frame_is_named(whole, tmp_path, refuse):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    first = sorted((out / "frames").glob("step-*.png"))[0]
    first.write_bytes(first.read_bytes()[:30])
    assert "frames" in refuse(distilled_sections, out)
    assert f"{first} is damaged" in refuse(distilled_sections, out)
    first.unlink()  # as a run that goes back does; the others are shown
    assert any(section.anchor == "images" for section in distilled_sections(out))


def test_images_of_another_order_stand_in_the_rows_of_their_classes(whole):
    synset = SyntheticSet.load(whole / "synset.arrow")
    labels = torch.tensor([1, 0, 1, 1, 9])
    other = SyntheticSet(
        synset.images[:5],
        labels,
        synset.lr,
        synset.transform,
        synset.dataset,
        synset.classes,
        formation=synset.formation,
    )
    assert members_of(other) == [[1], [0, 2, 3], [], [], [], [], [], [], [], [4]]
    assert members_of(synset) == [[2 * row, 2 * row + 1] for row in range(10)]


def test_a_set_alone_is_shown_with_hard_labels(small_synset, tmp_path, read):
    alone = tmp_path / "alone.arrow"
    shutil.copy(small_synset, alone)
    assert is_distilled(alone)
    overview, images = distilled_sections(alone)
    assert cells(images) == [f"class {digit}, image 1; labelled {digit}" for digit in range(10)]
    found = read([overview, images, *course_sections(alone), *made_sections(alone)])
    assert found.definitions["method"] == "mtt"
    assert "steps: 1" in found.text


def test_curves_are_those_of_the_metrics(whole, read):
    charts = {chart.title: chart for chart in read(course_sections(whole)).charts}
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    history = SyntheticSet.load(whole / "synset.arrow").history
    losses = [line["loss"] for line in lines]
    said = charts["Loss"].said
    assert f"{number(losses[0])} at outer step 1" in said
    assert f"least {number(min(losses))}, most {number(max(losses))}" in said
    assert f"{number(lines[-1]['lr'])} at 6" in charts["Learning rate of the students"].said
    accuracies = [100 * entry["mean"] for entry in history]
    assert f"most {number(max(accuracies))}" in charts["Accuracy on the validation split"].said
    assert {"Memory while distilling", "Spread of the soft labels, mean over images"} <= set(charts)
    assert any(title.endswith(": matching loss on an expert that takes no part") for title in charts)


def test_the_window_is_told_and_drawn(whole, read):
    found = read(course_sections(whole))
    assert found.definitions["T-, the earliest start"] == "0"
    assert found.definitions["T, the latest at step 0"] == "0"
    assert found.definitions["T+, the latest start"] == "2"
    assert found.definitions["growth"] == "one epoch every 2 outer steps"
    (chart,) = (chart for chart in found.charts if chart.title.startswith("Range of start epochs"))
    assert "1 at 6" in chart.said  # the middle of 0 to 2


def test_the_trials_of_a_window_are_drawn(whole, tmp_path, read, refuse):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    trial = {"low": 0, "high": 2, "before": [0.5, 0.75, None], "after": [0.25, 0.5, 1.0], "missed": []}
    search = {"low": 0, "current": 1, "high": 2, "trials": [trial]}
    (out / "window.json").write_text(json.dumps(search))
    found = read(course_sections(out))
    (chart,) = (chart for chart in found.charts if chart.title == "window: T- 0, T 1, T+ 2")
    assert "T- 0, T+ 2" in chart.texts
    assert "before the trial: 0.5 at start epoch 0, 0.75 at 1" in chart.said
    assert "How the window was chosen: 1 trial" in found.summaries
    (out / "window.json").write_text("{}")
    assert "window.json is damaged" in refuse(course_sections, out)


def test_rolled_back_and_gated_steps_are_counted(whole, tmp_path, read):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    lines = [
        {"step": 1, "loss": 0.5, "lr": 0.1, "stepped": True},
        {"step": 2, "loss": "nan", "lr": 0.1, "stepped": False, "rolled_back_to": 1},
        {"step": 2, "loss": 0.25, "lr": 0.1, "stepped": False},
        {"step": 3, "loss": 30.0, "lr": 0.1, "stepped": True},
    ]
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read(course_sections(out))
    assert "back to an earlier step 1 time," in found.text
    assert "At 1 of 3 steps the loss was above the gate" in found.text
    (loss,) = (chart for chart in found.charts if chart.title == "Loss")
    assert "0.5 at outer step 1, 30 at 3; least 0.25, most 30" in loss.said


def test_a_damaged_line_is_named(whole, tmp_path, refuse):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    path = out / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 7, "lo')
    assert f"{path}, line 7 is no record of a run" in refuse(course_sections, out)
    (out / "config.yaml").write_text("- a list")
    assert "config.yaml holds no settings" in refuse(distilled_sections, out)
    (out / "synset.arrow").write_bytes(b"ARROW1")
    assert "synset.arrow is not a complete raydd file" in refuse(distilled_sections, out)


def test_the_commands_make_the_same_again(scored, small_buffer, tmp_path, capfd):
    first, second = commands(RunFolder(scored))
    out = tmp_path / "again"
    again = [*shlex.split(first)[1:-1], str(out), "--buffer", str(small_buffer)]
    assert shlex.split(first)[-2:] == ["--out", f"{scored}-again"]
    assert run(again) == 0
    for name in ("synset.arrow", "metrics.jsonl", "config.yaml"):
        assert (out / name).read_bytes() == (scored / name).read_bytes()
    command = [word.replace(f"{scored}-again", str(out)) for word in shlex.split(second)[1:]]
    assert run(command) == 0
    old, new = (json.loads((folder / "scores.json").read_text())["scores"] for folder in (scored, out))
    assert [row["values"] for row in new] == [row["values"] for row in old]
    assert [row["protocol"] for row in new] == [row["protocol"] for row in old]


def test_what_was_run_is_told_as_far_as_it_is_known(scored, read):
    found = read(made_sections(scored))
    source = SyntheticSet.load(scored / "synset.arrow").provenance
    said = found.definitions
    assert said["commit"] == (source["commit"] or "not recorded")
    assert said["PyTorch"] == source["torch"]
    assert said["fingerprint of the data"] == source["fingerprint"]
    assert said["seeds"] == "seed 0; scores: 2 networks"
    assert said["Python"] == "not recorded"
    assert (scored / "config.yaml").read_text().strip() in found.codes
    assert yaml.safe_load(found.codes[1]) == yaml.safe_load((scored / "config.yaml").read_text())


def test_scores_of_the_quick_start_are_made_again_by_their_rows(scored):
    document = json.loads((scored / "scores.json").read_text())
    rows = [{key: value for key, value in row.items() if key != "asked"} for row in document["scores"]]
    (scored / "scores.json").write_text(json.dumps({"scores": rows}))
    found = shlex.split(commands(RunFolder(scored))[1])
    assert found[3:-2] == ["--nets", "LeNet,MLP", "--seeds", "2", "--protocol", "mtt", "--set", "epochs=3"]


def test_scores_of_another_set_are_not_taken_for_the_runs(scored, read):
    document = json.loads((scored / "scores.json").read_text())
    assert len(RunFolder(scored).scores) == 2
    document["sets"][0]["digest"] = "0" * 64
    (scored / "scores.json").write_bytes(dump_document(document))
    assert RunFolder(scored).scores == []
    assert "not tested" in distilled_headline(scored)
    said = read(distilled_sections(scored)).definitions["test accuracy"]
    assert said.startswith("scores.json is of another set")


def test_settings_of_another_version_are_said_by_the_rows(scored):
    document = json.loads((scored / "scores.json").read_text())
    document["settings"]["of_tomorrow"] = 1
    (scored / "scores.json").write_bytes(dump_document(document))
    assert "--nets LeNet,MLP --seeds 2" in commands(RunFolder(scored))[1]


def test_a_run_that_is_here_is_named_by_its_folder(whole, monkeypatch):
    monkeypatch.chdir(whole)
    assert shlex.split(commands(RunFolder(Path()))[0])[-1] == f"{whole}-again"


def test_a_run_that_was_stopped_says_so_and_how_to_go_on(stopped, whole, small_buffer, tmp_path, read):
    out = tmp_path / "digits run"
    shutil.copytree(stopped, out)
    assert distilled_headline(out) == "DATM on digits, 2 images a class: unfinished, at step 4 of 6"
    overview, images = distilled_sections(out)
    found = read([overview, images, *course_sections(out), *made_sections(out)])
    assert "This run is unfinished" in found.text
    command = resume_command(RunFolder(out))
    assert found.codes[0] == command
    assert found.definitions["result"] == "none yet"
    assert len(cells(images)) == 20  # frames are there already
    assert "Accuracy on the validation split" in {chart.title for chart in found.charts}
    assert run([*shlex.split(command)[1:], "--buffer", str(small_buffer)]) == 0
    assert (out / "synset.arrow").read_bytes() == (whole / "synset.arrow").read_bytes()
    assert "unfinished" not in distilled_headline(out)


def test_a_run_without_a_step_still_has_a_page(stopped, tmp_path, read):
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(stopped / "config.yaml", out)
    sections = [*distilled_sections(out), *course_sections(out), *made_sections(out)]
    found = read(sections)
    assert "There are no images yet" in found.text
    assert distilled_headline(out).endswith("unfinished, at step 0 of 6")
