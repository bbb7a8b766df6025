"""Searches on a page: trials that were really distilled, and files that a search really wrote, read back."""

import json
import os
import shutil
import zlib

import pytest

import raydd
from raydd.buffer.local_path import local_path
from raydd.config.placement import Where
from raydd.evaluation.jobs import Outcome
from raydd.io.filesystem import open_store
from raydd.io.paths import below
from raydd.report.build import build_page
from raydd.report.search import is_search, tune_headline, tune_sections
from raydd.tuning.location import Location
from raydd.tuning.results import load_results, save_results
from raydd.tuning.trial import run_trial

SPACE = {
    "name": "toy & co",
    "method": "mtt",
    "preset": "none.yaml",
    "metrics": ["accuracy", "seconds"],
    "domains": {
        "lr.images": {"log_uniform": [1, 1000]},
        "student_steps": {"integer": [1, 2]},
        "pruning.rate": {"choice": [0.0, 0.1]},
        "pruning.metric": {"choice": ["abs", "relative"], "when": "pruning.rate > 0"},
    },
    "budget": {"samples": 6},
    "set": {
        "steps": 3,
        "student_steps": 1,
        "span": 1,
        "evaluate_every": 1,
        "evaluate_networks": 2,
        "evaluate_epochs": 20,
        "window": {"low": 0, "high": 1},
        "lr": {"images": 20.0, "lr": 1e-4, "start": 0.05},
        "experts": {"network": "MLP", "num_experts": 2, "epochs": 3},
    },
}
REASON = "the loss is nan <at step 2>"


def formula(matrix, job):
    entry = matrix.rows[job.row]
    return Outcome(0.5 + zlib.crc32(f"{entry.name} {job.seed}".encode()) / 2**32 / 5, 1.0)


def in_turn(task, trials, **options):
    """The trials one after another in this process: the third is stopped early, the fourth fails, the last goes on."""
    while ask := trials.next():
        if ask.number == 3:
            trials.fail(3, REASON)
            continue
        for report in run_trial(task, ask.number, ask.values):
            told = report._asdict()
            trials.report(ask.number, told)
            if ask.number == 2:
                trials.study.prune(2, {name: told[name] for name in ("accuracy", "seconds", "step")})
            if ask.number in (2, 5):
                break
        else:
            trials.complete(ask.number, told)


@pytest.fixture(scope="module")
def tuned(small_buffer, pretend, tmp_path_factory):
    """What a search of six trials returned; its folder is read only."""
    from raydd.remote import trial_demand, tune

    root = tmp_path_factory.mktemp("tuned")
    pretend(formula)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(tune, "run_trials", in_turn)
        patch.setattr(trial_demand, "trial_demand", lambda *arguments, **options: None)
        (root / "none.yaml").write_text("{}\n")
        scoring = raydd.EvaluateConfig(seeds=3, real_epochs=0, baselines=("random",))
        given = {"buffer": str(small_buffer), "evaluation": scoring}
        return raydd.tune(SPACE, root / "out", where=Where(device="cpu"), **given)


def percent(value):
    return f"{100 * value:.1f}"


def test_the_best_stands_beside_the_preset_on_test_images(tuned, read):
    page, scores = read(tune_sections(tuned.folder)), {score.name: score for score in tuned.scores}
    best = tuned.best
    expected = f"{percent(best.metrics['accuracy'])} % on validation images by trial {best.number} (complete)"
    assert page.definitions["best on validation"] == expected
    rows = [name for name, score in scores.items() if score.requested]
    assert rows[0] == f"best: trial {best.number}"
    assert rows[1:] == ([] if best.number == 0 else ["preset: trial 0"])
    for name in rows:
        mean, std = percent(scores[name].mean), percent(scores[name].std)
        assert page.definitions[f"on test, {name}"] == f"{mean} ± {std} % (3 networks), MLP, protocol mtt"
        assert f"{name.split(':')[0]} {mean} ± {std} % (3 networks)" in tune_headline(tuned.folder)
    assert tune_headline(tuned.folder).startswith(f"toy & co: {expected}, the best of 6; on the test images best ")
    assert page.definitions["trials"] == "6: 3 complete, 1 stopped early, 1 unfinished, 1 failed"
    assert "the mean of 2 fresh networks a score" in page.text


def test_every_trial_is_a_row_with_its_settings(tuned, read):
    table, rows = read(tune_sections(tuned.folder)).tables[0], load_results(tuned.folder / "results.parquet")
    keys = [key for key in rows[0] if key.startswith("settings.")]
    assert table.columns[5:] == [key.removeprefix("settings.") for key in keys]
    assert len(table.rows) == len(rows) == 6
    words = {"complete": "complete", "pruned": "stopped early", "failed": "failed", "unfinished": "unfinished"}
    for shown, row in zip(table.rows, rows, strict=True):
        assert shown[:2] == [str(row["trial"]), words[row["state"]]]
        assert shown[2] == ("-" if row["accuracy"] is None else percent(row["accuracy"]))
        assert shown[3] == str(row["step"])
        assert shown[4] == ("-" if row["seconds"] is None else f"{row['seconds']:.1f}")
        for cell, key in zip(shown[5:], keys, strict=True):
            value = row[key]
            assert cell == ("-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value))
    assert [row["state"] for row in rows] == ["complete", "complete", "pruned", "failed", "complete", "unfinished"]
    assert REASON in table.notes
    assert "1 without an accuracy" in read(tune_sections(tuned.folder)).text


def test_the_charts_are_of_the_trials(tuned, read):
    charts = {chart.title: chart for chart in read(tune_sections(tuned.folder)).charts}
    rows = load_results(tuned.folder / "results.parquet")
    scored = [row for row in rows if row["accuracy"] is not None]
    complete = [row["accuracy"] for row in rows if row["state"] == "complete"]
    history = next(chart for title, chart in charts.items() if title.startswith("toy & co: best "))
    first, best = f"{100 * complete[0]:.4g} at trial 0", f"{100 * max(complete):.4g}"
    assert f"best so far: {first}, {best} at" in history.said
    assert f"most {best}." in history.said
    values = charts["toy & co: accuracy against each setting"]
    keys = ("lr.images", "student_steps", "pruning.rate", "pruning.metric")
    having = [[row for row in scored if row[f"settings.{key}"] is not None] for key in keys]
    assert [len(each) for each in having[:3]] == [len(scored)] * 3 == [5] * 3
    assert 0 < len(having[3]) < 5
    for chart, count in ((history, 1), (values, 3)):
        for row in scored:
            text = f"trial {row['trial']}, {percent(row['accuracy'])} %:"
            drawn = sum(text in point for point in chart.points)
            assert drawn == count + (row in having[3] and chart is values)
    assert {"complete: 3", "stopped early: 1", "unfinished: 1", "failed: 1"} <= set(history.texts)
    assert {*keys, "complete", "stopped early", "unfinished"} <= set(values.texts)


def test_the_front_is_the_searchs(tuned, read):
    page = read(tune_sections(tuned.folder))
    chart = next(chart for chart in page.charts if chart.title.startswith("toy & co: accuracy against seconds"))
    numbers = [trial.number for trial in tuned.front]
    assert f"are the front: {', '.join(map(str, numbers))}." in page.text
    assert "front" in chart.texts
    assert len([point for point in chart.points if point.startswith("trial ")]) == 5
    accuracies = [trial.metrics["accuracy"] for trial in tuned.front]
    assert f"least {100 * min(accuracies):.4g}, most {100 * max(accuracies):.4g}." in chart.said.split("front: ")[1]


def test_the_best_settings_come_with_the_command_that_uses_them(tuned, small_buffer, read):
    page = read(tune_sections(tuned.folder))
    again = f"raydd distill --preset {tuned.folder / 'best.yaml'} --buffer {small_buffer} --out runs/best"
    assert page.codes[:2] == [f"raydd tune --resume --out {tuned.folder}", again]
    assert page.codes[2] == (tuned.folder / "best.yaml").read_text().strip()
    assert "the best trial's synthetic images, a row a class" in page.pictures
    assert any(alt.startswith("Parallel coordinates") for alt in page.pictures)
    assert "1 trials are unfinished" not in page.text
    assert "1 trial is unfinished." in page.text


def test_a_killed_search_is_read_from_its_study_which_stays_as_it_is(tuned, read, tmp_path):
    for name in ("space.yaml", "study.journal"):
        shutil.copy(tuned.folder / name, tmp_path)
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b'{"op_code": 5, "half')
    before = (tmp_path / "study.journal").read_bytes()
    assert is_search(tmp_path)
    page = read(tune_sections(tmp_path))
    assert page.tables[0].rows == read(tune_sections(tuned.folder)).tables[0].rows
    assert (tmp_path / "study.journal").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["space.yaml", "study.journal"]
    assert page.definitions["on test"] == "not measured"
    again = f"raydd tune --space {tmp_path / 'space.yaml'} --out runs/again"
    assert page.codes[:2] == [f"raydd tune --resume --out {tmp_path}", again]
    assert "on the test images" not in tune_headline(tmp_path)


def test_a_search_that_goes_on_again_is_not_shown_as_it_ended_before(tuned, read, tmp_path):
    """Its results are those of two trials; since then its study has been written."""
    for name in ("space.yaml", "study.journal"):
        shutil.copy(tuned.folder / name, tmp_path)
    results = save_results(tuned.trials[:2], tmp_path / "results.parquet")
    ended = (tmp_path / "study.journal").stat().st_mtime_ns
    for later, trials in ((1, 2), (-1, 6)):
        os.utime(results, ns=(ended + later, ended + later))
        assert len(read(tune_sections(tmp_path)).tables[0].rows) == trials


def test_a_search_at_a_uri_has_the_page_of_one_in_a_folder(tuned, s3, tmp_path):
    uri, small = s3(f"bucket/{tmp_path.name}"), [path for path in tuned.folder.rglob("*") if path.is_file()]
    small = [path for path in small if "trials" not in path.parts and path.suffix != ".lock"]
    small.sort(key=lambda path: path.stat().st_mtime_ns)
    Location(tuned.folder, uri).send(small)
    copied, place = local_path(uri), f"s3://bucket/{tmp_path.name}"
    assert sorted(path.relative_to(copied) for path in copied.rglob("*.*")) == sorted(
        path.relative_to(tuned.folder) for path in small
    )
    page = build_page([copied], [uri])
    assert f"raydd tune --resume --out {place}" in page
    assert str(copied) not in page
    assert page.replace(place, str(tuned.folder)).replace(tmp_path.name, tuned.folder.name) == build_page(
        [tuned.folder]
    )
    open_store(uri).delete("scores.json")
    assert not (local_path(uri) / "scores.json").exists()
    assert (local_path(f"{below(uri, 'best/synset.arrow')}")).stat().st_size > 0


def test_a_search_without_scores_says_so(tuned, read, tmp_path):
    shutil.copy(tuned.folder / "space.yaml", tmp_path)
    (tmp_path / "study.journal").write_bytes(b"")
    assert is_search(tmp_path)
    page = read(tune_sections(tmp_path))
    assert page.definitions["best"] == "no trial has come to a score yet"
    assert page.definitions["trials"] == "none yet"
    assert "The search has not come to its end." in page.text
    assert page.codes[0] == f"raydd tune --resume --out {tmp_path}"
    assert tune_headline(tmp_path) == "toy & co: no trial of 0 has come to a score yet"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("results.parquet", b"PAR1 cut", "results.parquet cannot be read ("),
        ("space.yaml", b"domains: [", "space.yaml is damaged ("),
        ("space.yaml", b"[]", "space.yaml is damaged (it holds no mapping)"),
        ("space.yaml", b"{method: mtt, domains: {a: {choice: []}}}", "space.yaml is damaged (domains.a"),
        ("best.yaml", b"a: [", "best.yaml is damaged ("),
        ("scores.json", b"{", "scores.json is damaged ("),
        ("best/synset.png", b"", "synset.png is no PNG picture"),
    ],
)
def test_damaged_files_are_refused_in_a_line(name, content, said, tuned, refuse, tmp_path):
    folder = shutil.copytree(tuned.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("trials"))
    (folder / name).write_bytes(content)
    assert said in refuse(tune_sections, folder)


def test_a_damaged_study_is_refused_in_a_line(tuned, refuse, tmp_path):
    shutil.copy(tuned.folder / "space.yaml", tmp_path)
    (tmp_path / "study.journal").write_text(json.dumps({"no": "journal"}) + "\n")
    line = refuse(tune_sections, tmp_path)
    assert line == f"{tmp_path / 'study.journal'} is damaged, or not of space.yaml beside it; use another --out"


def test_other_folders_are_no_searches(tuned, tmp_path):
    assert is_search(tuned.folder)
    assert not is_search(tmp_path)
    assert not is_search(tuned.folder / "space.yaml")
    (tmp_path / "space.yaml").write_text("{}")
    assert not is_search(tmp_path)
