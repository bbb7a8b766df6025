"""Every verb's --out at a store: what a folder would hold is there, a rerun goes on, and a report reads it."""

import json
import re
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from variants import first

from raydd.api.evaluate import save_scores
from raydd.cli import run
from raydd.data.score_record import Score
from raydd.evaluation.jobs import Failure, Outcome
from raydd.io import store_claim
from raydd.io.document import validate
from raydd.io.filesystem import open_store
from raydd.io.paths import below
from raydd.io.stored_folder import stored_copy
from raydd.io.uri import public_uri
from raydd.run import storage as storages
from raydd.run.storage import open_storage

ONE = ["--seeds", "1", "--baselines", "none"]
VERBS = {
    "evaluate": (["evaluate", "SET", *ONE], ["scores.json"]),
    "nas": (["nas", "SET", "--space", "convnet720", "--sample", "3", "--real-epochs", "1", *ONE], ["nas.json"]),
    "continual": (["continual", "SET", "--steps", "2", *ONE], ["continual.json", "continual.png"]),
}


@pytest.fixture
def uri(s3, tmp_path, monkeypatch):
    """The URI of an empty folder; the current folder is empty."""
    monkeypatch.setattr(store_claim, "POLL_SECONDS", 0.1)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return s3(f"bucket/{tmp_path.name}")


@pytest.fixture
def trainings(monkeypatch, tmp_path):
    """Trainings without Ray: those that each call ran; what is in `lost` fails. Each `forget` is another machine."""
    calls, lost = [], []

    def pretend(matrix, where, show, known, keep):
        found = dict(known)
        jobs = [job for job in matrix.jobs() if job not in known]
        for job in jobs:
            gone = any(fits(matrix, job) for fits in lost)
            found[job] = Failure("no memory left") if gone else Outcome(0.25 + job.seed / 100 + job.row / 50, 1.0)
            if not gone:
                keep(job, found[job])
        calls.append(len(jobs))
        return found

    def forget():
        monkeypatch.setattr("raydd.evaluation.result_cache.default_cache", lambda: tmp_path / f"kept-{len(calls)}")

    monkeypatch.setattr("raydd.remote.train_matrix.train_matrix", pretend)
    monkeypatch.setattr("raydd.remote.session._connected", lambda *_: nullcontext())
    forget()
    return calls, lost, forget


def call(capfd, *words, code=0):
    """The document that a command prints."""
    capfd.readouterr()
    found = run([*map(str, words), "--json"])
    out, err = capfd.readouterr()
    assert found == code, err
    return json.loads(out)


@pytest.mark.parametrize("verb", first(VERBS, 1))
def test_results_are_at_the_uri_and_another_machine_trains_nothing_again(
    verb, uri, trainings, small_synset, tmp_path, capfd
):
    calls, _, forget = trainings
    words, names = VERBS[verb]
    words = [small_synset if word == "SET" else word for word in words]
    first = call(capfd, *words, "--out", uri)
    assert {f"s3://bucket/{tmp_path.name}/{name}" for name in names} <= {*first["outputs"].values()}
    assert {*names} <= {path.name for path in stored_copy(uri).iterdir()}
    forget()
    again = call(capfd, *words, "--out", uri)
    assert (len(calls), again) == (1, first)
    folder = call(capfd, *words, "--out", (tmp_path / verb).as_uri() if verb != "evaluate" else tmp_path.as_uri())
    assert {key: value for key, value in folder.items() if key != "outputs"} == {
        key: value for key, value in first.items() if key != "outputs"
    }
    assert not [*(tmp_path / "here").iterdir()]
    page = call(capfd, "report", uri, "--out", below(uri, "page.html"))
    assert page == {
        "runs": [public_uri(uri)],
        "missing": [],
        "outputs": {"report": f"s3://bucket/{tmp_path.name}/page.html"},
    }
    assert f"<title>{tmp_path.name}" in (stored_copy(uri) / "page.html").read_text()


def test_an_evaluation_that_is_killed_trains_only_the_rest_on_another_machine(
    uri, trainings, small_synset, monkeypatch, capfd
):
    calls, _, forget = trainings
    monkeypatch.setattr(storages, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(storages, "SAVE_SHARE", 1e9)

    class Killed(BaseException):
        pass

    def dying(matrix, where, show, known, keep):
        for job in matrix.jobs()[:2]:
            keep(job, Outcome(0.5, 1.0))
        raise Killed

    words = ["evaluate", small_synset, "--seeds", "5", "--baselines", "none", "--set", "real_epochs=0"]
    with monkeypatch.context() as patch:
        patch.setattr("raydd.remote.train_matrix.train_matrix", dying)
        with pytest.raises(Killed):
            run([*map(str, words), "--out", uri])
    assert not (stored_copy(uri) / "scores.json").exists()
    calls.append(0)
    forget()
    document = call(capfd, *words, "--out", uri)
    assert calls[1:] == [3]
    assert document["scores"][0]["values"][:2] == [0.5, 0.5]


def test_what_failed_is_on_the_page_beside_the_score_that_lacks_it(uri, trainings, small_synset, capfd):
    calls, lost, forget = trainings
    lost.append(lambda matrix, job: job.seed == 1)
    words = ["evaluate", small_synset, "--seeds", "2", "--baselines", "random", "--set", "real_epochs=0"]
    document = call(capfd, *words, "--out", uri, code=1)
    page = call(capfd, "report", uri)
    own = [one for one in page["missing"] if one.get("asked")]
    assert [(one["network"], one["seed"], one["reason"]) for one in own] == [("MLP", 1, "no memory left")]
    assert [{key: one[key] for key in one if key != "run"} for one in page["missing"]] == document["missing"]
    html = Path("report.html").read_text()
    assert "2 trainings failed, which the numbers here lack" in html
    assert re.search(r"25\.0 \(1\), 1 missing", html)
    lost.clear()
    forget()
    call(capfd, *words, "--out", uri)
    assert call(capfd, "report", uri)["missing"] == []
    assert "missing" not in Path("report.html").read_text()
    assert calls == [4, 2]


def test_figures_sets_and_scores_are_written_to_a_uri_and_read_again(uri, trainings, small_synset, tmp_path, capfd):
    assert call(capfd, "analyse", "memory", small_synset.parent, "--out", uri)["outputs"] == {
        "figure": f"s3://bucket/{tmp_path.name}/digits-memory.png",
        "numbers": f"s3://bucket/{tmp_path.name}/digits-memory.json",
    }
    assert (stored_copy(uri) / "digits-memory.png").stat().st_size > 1000
    place = below(uri, "set")
    outputs = call(capfd, "import", small_synset, "--out", place)["outputs"]
    assert outputs == {"synset": f"s3://bucket/{tmp_path.name}/set/synset.arrow"}
    assert run(["import", str(small_synset), "--out", place]) == 2
    assert f"s3://bucket/{tmp_path.name}/set/synset.arrow exists already" in capfd.readouterr().err
    scores = call(capfd, "evaluate", place, *ONE, "--out", "scores.json")
    assert [one["path"] for one in scores["sets"]] == [public_uri(place)]
    written = json.loads(Path("scores.json").read_text())
    assert written["sets"] == scores["sets"]
    save_scores([validate(Score, score) for score in scores["scores"]], below(uri, "first.json"))
    assert {"first.json", "digits-memory.png"} <= {path.name for path in stored_copy(uri).iterdir()}
    call(capfd, "report", below(uri, "first.json"))
    assert scores["scores"][0]["name"] in Path("report.html").read_text()


@pytest.mark.slow
def test_rows_of_an_ablation_are_runs_below_its_uri(uri, trainings, small_buffer, tmp_path, capfd):
    words = ["ablate", "--method", "ast", "--dataset", "digits", "--network", "MLP", "--buffer", small_buffer]
    for setting in ("steps=1", "student_steps=1", "span=1", "threads=1", "window.high=1"):
        words += ["--set", setting]
    outputs = call(capfd, *words, "--seeds", "1", "--out", uri)["outputs"]
    assert outputs["ablation.json"] == f"s3://bucket/{tmp_path.name}/ablation.json"
    rows = json.loads((stored_copy(uri) / "ablation.json").read_text())["scores"]
    first = re.sub(r"[^a-z0-9]+", "-", next(row["name"] for row in rows if row.get("asked")).lower()).strip("-")
    assert (stored_copy(below(uri, first)) / "config.yaml").exists()
    page = call(capfd, "report", uri, below(uri, first))
    assert len(page["runs"]) == 2
    again = call(capfd, *words, "--seeds", "1", "--out", uri)
    assert (again["outputs"], len(trainings[0])) == (outputs, 1)


@pytest.mark.parametrize("verb", first([*VERBS, "report", "analyse"]))
def test_two_drivers_at_one_uri_and_a_store_that_is_away_are_a_line(
    verb, uri, trainings, small_synset, monkeypatch, capfd
):
    monkeypatch.setattr(store_claim, "BEAT_SECONDS", 0.1)
    known = {"report": ["report", small_synset.parent], "analyse": ["analyse", "memory", small_synset.parent]}
    words = known.get(verb) or [small_synset if word == "SET" else word for word in VERBS[verb][0]]
    words = [*map(str, words), "--out"]
    with Thread(uri):
        assert run([*words, uri]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("raydd: ")]
    assert "(raydd first) works there; wait for its end, or name another one" in line
    assert run([*words, uri.replace("bucket/", "nowhere/")]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("raydd: ")]
    assert "s3://nowhere/" in line
    assert "check its name, the credentials and the network" in line
    assert trainings[0] == []


class Thread:
    """Another driver that works at a URI for the block; a thread has no open storages of this one."""

    def __init__(self, uri):
        self._uri, self._begun, self._end = uri, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self):
        with open_storage(self._uri, "raydd first", print):
            self._begun.set()
            self._end.wait(60)

    def __enter__(self):
        self._thread.start()
        assert self._begun.wait(60)

    def __exit__(self, *error):
        self._end.set()
        self._thread.join()


def test_what_holds_something_else_is_refused_in_a_line(uri, trainings, small_buffer, small_synset, capfd):
    assert run(["buffer", "copy", str(small_buffer), uri]) == 0
    for what in ("buffer", "search"):
        assert run(["evaluate", str(small_synset), *ONE, "--out", uri]) == 2
        assert f"holds a {what}; name another --out" in capfd.readouterr().err
        store = open_store(uri)
        store.delete("manifest.json")
        store.put(small_synset.parent / "config.yaml", "space.yaml")
