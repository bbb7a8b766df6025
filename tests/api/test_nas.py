"""Rankings of architectures: from outcomes that are known by a formula, and from small trainings in this process."""

import csv
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import yaml
from variants import first_rows

import raydd.evaluation.result_cache
from raydd.api.nas import architectures, rank_architectures
from raydd.config.nas import NasConfig
from raydd.config.placement import Where
from raydd.config.schema import DataConfig
from raydd.data.datasets import load_dataset
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.architecture_results import RealRanking, read_real, save_real
from raydd.evaluation.jobs import Outcome
from raydd.evaluation.matrix import Scorer
from raydd.io.document import without_checksum
from raydd.models.spaces import SPACES, parse
from raydd.numerics.rng import generator
from raydd.remote.job_queue import JobQueue
from raydd.selection.class_sampler import Request
from raydd.selection.starting_images import INITIAL

HERE = Where(device="cpu")
SIX = NasConfig(sample=6, epochs=9, real_epochs=2, top=(2, 3))


@pytest.fixture(scope="module")
def synset(cache):
    """Ten real digits."""
    work = open_workspace(DataConfig(), None, torch.device("cpu"))
    images, labels = INITIAL["real"](Request(work.dataset, work.transform, 1, generator(0, "test")))
    recipe, provenance = {"data": DataConfig().model_dump(mode="json"), "method": "random"}, {"chosen": "last step"}
    classes = work.dataset.classes
    return SyntheticSet(images, labels, torch.tensor(0.01), work.transform, "digits", classes, recipe, provenance)


@pytest.fixture(scope="module")
def digits(cache):
    return load_dataset("digits")


@pytest.fixture
def pretended(monkeypatch, pretend):
    """The sessions of Ray and the calls of trainings, in order; what a training comes to is `formula`."""
    done = pretend(formula)
    monkeypatch.setattr("raydd.remote.session.session", lambda *_: nullcontext(done.append("session")))
    return done


def counts(done):
    """The number of trainings of each call, between the sessions."""
    return [each if each == "session" else len(each.jobs) for each in done]


def formula(matrix, job):
    """Of n architectures the i-th has 0.3 + 0.1 i by real data and 0.05 less by the first set; by random images, the
    order is reversed. A seed adds a thousandth, an architecture takes i + 1 seconds.
    """
    place = matrix.networks.index(job.network)
    kind = matrix.rows[job.row].kind
    steps = len(matrix.networks) - 1 - place if kind == "random" else place
    base = {"whole": 0.3, "distilled": 0.25, "random": 0.1}[kind]
    return Outcome(base + 0.1 * steps + 0.001 * job.seed, place + 1.0)


def table(folder):
    """The lines of ``ranking.csv``."""
    return list(csv.DictReader((folder / "ranking.csv").read_text(encoding="utf-8").splitlines()))


def ranked(synset, config, out, **options):
    return rank_architectures([synset], config, out, where=HERE, **options)


def test_a_proxy_like_real_data_agrees_fully_and_a_reversed_one_not_at_all(synset, pretended, tmp_path):
    found = ranked(synset, SIX, tmp_path, names=["same"])
    same, reversed_ = found["proxies"]
    names = list(architectures(SIX)[1])
    assert (same["name"], same["kind"], reversed_["name"], reversed_["kind"]) == (
        "same",
        "distilled",
        "random, 1 a class",
        "random",
    )
    assert (same["agreement"]["spearman"], same["agreement"]["kendall"]) == (1, 1)
    assert (reversed_["agreement"]["spearman"], reversed_["agreement"]["kendall"]) == (-1, -1)
    assert same["ranking"] == names[::-1] == reversed_["ranking"][::-1]
    assert [top["overlap"] for top in same["agreement"]["tops"]] == [1, 1]
    assert [top["overlap"] for top in reversed_["agreement"]["tops"]] == [0, 0]
    assert same["winner"] == {
        "architecture": names[-1],
        "accuracy": pytest.approx(0.75),
        "real_accuracy": pytest.approx(0.8),
        "regret": 0,
    }
    assert reversed_["winner"]["regret"] == pytest.approx(0.5)
    assert (same["seconds"], same["seconds_mean"], same["seconds_of"][names[2]]) == (21, 3.5, 3)
    assert found["real_seconds"] == 21
    assert (found["space"], found["space_size"], found["architectures"]) == ("convnet720", 720, 6)
    assert (found["epochs"], found["real_epochs"], found["dataset"], found["rungs"]) == (9, 2, "digits", [])


def test_every_file_is_written_and_reads_back(synset, pretended, tmp_path, digits):
    found = ranked(synset, SIX, tmp_path / "a" / "b", names=["same"])
    folder = tmp_path / "a" / "b"
    assert without_checksum(json.loads((folder / "nas.json").read_text())) == found
    assert (folder / "nas.png").read_bytes().startswith(b"\x89PNG")
    read = read_real(folder / "real.json", list(found["real"]), digits)
    assert (read.accuracy, read.seconds) == (found["real"], found["real_seconds_of"])
    assert read.label == found["real_label"] == "2 epochs on all training images (test images)"
    lines = table(folder)
    assert [line["architecture"] for line in lines] == found["proxies"][0]["ranking"]
    assert [int(line["same: rank"]) for line in lines] == [1, 2, 3, 4, 5, 6] == [int(x["real rank"]) for x in lines]
    assert [int(line["random, 1 a class: rank"]) for line in lines] == [6, 5, 4, 3, 2, 1]
    assert {line["architecture"]: float(line["real accuracy"]) for line in lines} == found["real"]
    assert {line["architecture"]: float(line["same: accuracy"]) for line in lines} == found["proxies"][0]["scores"]
    assert [float(line["same: seconds"]) for line in lines] == [6, 5, 4, 3, 2, 1]


def test_scores_are_means_over_the_seeds(synset, pretended, tmp_path):
    found = ranked(synset, SIX.model_copy(update={"seeds": 3, "seed": 5}), tmp_path)
    proxy = found["proxies"][0]
    assert proxy["scores"][next(iter(proxy["scores"]))] == pytest.approx(0.25 + 0.006)
    assert (found["seeds"], proxy["seconds"], proxy["seconds_mean"]) == (3, 63, 3.5)
    assert counts(pretended) == ["session", 6 * 3 * 3]
    last = list(found["real"])[-1]
    assert proxy["values"][last] == pytest.approx([0.755, 0.756, 0.757])
    assert found["real_values"][last] == pytest.approx([0.805, 0.806, 0.807])
    assert json.loads((tmp_path / "real.json").read_text())["values"] == found["real_values"]
    line = table(tmp_path)[0]
    deviations = [float(line[column]) for column in line if column.endswith("std")]
    assert deviations == pytest.approx([0.001] * 3)


def test_kept_results_are_used_and_start_no_ray(synset, pretended, tmp_path):
    first = ranked(synset, SIX, tmp_path / "first")
    assert counts(pretended) == ["session", 18]
    assert ranked(synset, SIX, tmp_path / "second") == first
    assert counts(pretended) == ["session", 18]
    fewer = ranked(synset, SIX.model_copy(update={"sample": 4}), tmp_path / "fewer")
    assert set(fewer["real"]) < set(first["real"])
    assert counts(pretended) == ["session", 18]
    ranked(synset, SIX.model_copy(update={"epochs": 8}), tmp_path / "epochs")  # the real ranking stays
    assert counts(pretended) == ["session", 18, "session", 12]
    ranked(synset, SIX, tmp_path / "fresh", fresh=True)
    assert counts(pretended)[4:] == ["session", 18]


def test_the_proxy_ranks_on_validation_and_real_data_on_test_images(synset, monkeypatch, tmp_path):
    asked = []

    def pretend(matrix, dataset, **options):
        asked.append(matrix)
        return {job: formula(matrix, job) for job in matrix.jobs()}

    monkeypatch.setattr("raydd.api.nas.run_matrix", pretend)
    honest = ranked(synset, SIX, tmp_path)
    paper = ranked(synset, SIX.model_copy(update={"split": "test"}), tmp_path)
    assert [entry.split for entry in asked[0].rows] == ["validation", "validation", "test"]
    assert [entry.split for entry in asked[1].rows] == ["test", "test", "test"]
    assert (honest["split"], honest["selection"]) == ("validation", "honest")
    assert (paper["split"], paper["selection"]) == ("test", "paper")
    assert [len(entry.sets) for entry in asked[0].rows] == [1, 1, 0]
    assert list(asked[0].architectures) == list(asked[0].networks)
    assert {str(row) for row in asked[0].architectures.values()} == set(asked[0].networks)


STOPPED = {0: Outcome(0.9, 1.0, ((1, 0.9),), True), 1: Outcome(0.2, 2.0, ((1, 0.95), (3, 0.2)), True)}
"""By place: accuracies and where they were stopped; the others go on, with less than the first."""


def test_what_was_stopped_ranks_below_what_went_on(synset, monkeypatch, tmp_path):
    rungs = []

    def pretend(matrix, dataset, **options):
        rungs.append(matrix.rungs)
        done = {}
        for job in matrix.jobs():
            place = matrix.networks.index(job.network)
            ended = STOPPED.get(place) if matrix.rows[job.row].sets else None
            done[job] = ended or Outcome(0.1 * place, 1.0, ((1, 0.1), (3, 0.1)))
        return done

    monkeypatch.setattr("raydd.api.nas.run_matrix", pretend)
    config = SIX.model_copy(update={"asha": True, "sample": 5, "baselines": ()})
    found = ranked(synset, config, tmp_path)
    (proxy,) = found["proxies"]
    names = list(architectures(config)[1])
    assert rungs == [((1, 3), 3)]
    assert proxy["ranking"] == names[::-1]
    assert (proxy["agreement"]["spearman"], proxy["winner"]["regret"]) == (1, 0)
    assert proxy["stopped"] == names[:2]
    assert proxy["stopped_after"] == {names[0]: 1, names[1]: 3}
    assert max(proxy["scores"].values()) == proxy["scores"][names[0]] == 0.9
    lines = table(tmp_path)
    assert [line[f"{proxy['name']}: stopped after"] for line in lines] == ["", "", "", "3", "1"]
    assert found["rungs"] == [1, 3]


def test_of_several_seeds_the_mean_of_the_rungs_passed_ranks_first(synset, monkeypatch, tmp_path):
    """The first architecture is stopped at once with one seed of two, the second with both, but is more accurate."""

    def pretend(matrix, dataset, **options):
        early = Outcome(0.8, 1.0, ((1, 0.8),), True)
        whole = Outcome(0.4, 1.0, ((1, 0.4), (3, 0.4)))
        ends = [[early, whole], [early, early], [whole, whole]]
        return {
            job: ends[matrix.networks.index(job.network)][job.seed] if matrix.rows[job.row].sets else whole
            for job in matrix.jobs()
        }

    monkeypatch.setattr("raydd.api.nas.run_matrix", pretend)
    config = SIX.model_copy(update={"asha": True, "sample": 3, "seeds": 2, "baselines": ()})
    (proxy,) = ranked(synset, config, tmp_path)["proxies"]
    first, second, third = architectures(config)[1]
    assert proxy["ranking"] == [third, first, second]
    assert proxy["stopped"] == [first, second]
    assert proxy["scores"][first] == pytest.approx(0.6)


def narrow(path):
    """A space of four small ConvNets in a file."""
    rows = [{"width": width, "depth": 1, "norm": norm} for width in (2, 4) for norm in ("batch", "none")]
    path.write_text(yaml.safe_dump([*rows[:3], "ConvNetW4D1NNARAP"]))
    return str(path)


def test_a_users_space_is_trained_and_stopped_early_for_real(synset, monkeypatch, tmp_path):
    """Without Ray, but with its queue: real digits, real rungs."""

    def here(matrix, where, show, known, keep):
        queue, scorer = JobQueue([job for job in matrix.jobs() if job not in known], matrix.rungs), Scorer(matrix)
        while (job := queue.take("here")) is not None:
            outcome = scorer.score(job, lambda epoch, value, job=job: queue.keep_training(job, epoch, value))
            queue.put("here", job, outcome)
            keep(job, outcome)
        return {**known, **dict(queue.results())}

    monkeypatch.setattr("raydd.remote.train_matrix.train_matrix", here)
    monkeypatch.setattr("raydd.remote.session._connected", lambda *_: nullcontext())
    monkeypatch.setattr(raydd.evaluation.result_cache, "default_cache", lambda: tmp_path / "kept")
    config = NasConfig(space=narrow(tmp_path / "narrow.yaml"), epochs=6, real_epochs=1, top=(2,), asha=True)
    found = ranked(synset, config, tmp_path / "out")
    assert (found["space"], found["space_size"], found["architectures"], found["rungs"]) == ("narrow", 4, 4, [1, 3])
    names = ["ConvNetW2D1BNARAP", "ConvNetW2D1NNARAP", "ConvNetW4D1BNARAP", "ConvNetW4D1NNARAP"]
    assert list(found["real"]) == names
    for proxy in found["proxies"]:
        going = [name for name in proxy["ranking"] if name not in proxy["stopped"]]
        assert proxy["ranking"][: len(going)] == going
        assert names[0] in going  # the first to come to a rung
        assert min(proxy["seconds_of"].values()) > 0
    assert sum(len(proxy["stopped"]) for proxy in found["proxies"]) > 0
    assert len(set(found["real"].values())) > 1
    again = ranked(synset, config, tmp_path / "again")
    assert again == found


def test_without_real_data_there_is_a_ranking_and_no_figure(synset, pretended, tmp_path):
    ranked(synset, SIX, tmp_path)
    assert (tmp_path / "nas.png").exists()
    config = SIX.model_copy(update={"real": "none", "real_epochs": None})
    found = ranked(synset, config, tmp_path)
    assert (found["real"], found["real_label"], found["real_seconds"], found["real_epochs"]) == (None, None, None, None)
    assert [proxy["agreement"] for proxy in found["proxies"]] == [None, None]
    assert found["proxies"][0]["winner"]["regret"] is None
    assert without_checksum(json.loads((tmp_path / "nas.json").read_text())) == found
    assert not (tmp_path / "nas.png").exists()
    assert "real" not in (tmp_path / "ranking.csv").read_text().splitlines()[0]


def test_the_real_ranking_may_come_from_a_file(synset, pretended, tmp_path):
    own = ranked(synset, SIX, tmp_path / "own")
    config = SIX.model_copy(update={"real_epochs": None, "real": str(tmp_path / "own" / "real.json")})
    found = ranked(synset, config, tmp_path / "json")
    assert (found["real"], found["real_label"], found["real_seconds"]) == (own["real"], own["real_label"], 21)
    assert found["proxies"] == own["proxies"]
    assert not (tmp_path / "json" / "real.json").exists()
    names = list(own["real"])
    lines = ["accuracy, architecture,note", *(f"{0.9 - 0.1 * i}, {name},x" for i, name in enumerate(names))]
    (tmp_path / "table.csv").write_text("\n".join([*lines, "0.99,another,x"]))
    found = ranked(synset, config.model_copy(update={"real": str(tmp_path / "table.csv")}), tmp_path / "csv")
    assert [proxy["agreement"]["spearman"] for proxy in found["proxies"]] == [-1, 1]
    assert (found["real_label"], found["real_seconds"]) == ("as table.csv says", None)
    assert list(found["real"]) == names
    assert counts(pretended) == ["session", 18]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "architecture,accuracy\nA,0.5\n", "lacks 2 of 3 architectures, the first is B: add them"),
        ("a.csv", "architecture,accuracy\nA,0.5\nB,0.5\nA,0.6\n", "has A twice"),
        ("a.csv", "architecture,accuracy\nA,0.5\nB,93.1\nC,0.5\n", "accuracy of B is '93.1'; give fractions"),
        ("a.csv", "architecture,accuracy\nA,0.5\nB,nan\nC,0.5\n", "accuracy of B is 'nan'"),
        ("a.csv", "architecture,accuracy\nA,0.5\nB,-0.1\nC,0.5\n", "accuracy of B is '-0.1'"),
        ("a.csv", "architecture,accuracy\nA,0.5\nB\nC,0.5\n", "accuracy of B is None"),
        ("a.csv", "name,value\nA,0.5\n", "has no accuracies"),
        ("a.csv", "", "has no accuracies"),
        ("a.csv", 'architecture,accuracy\n"A,0.5\n', "is damaged"),
        ("a.json", '{"accuracy": {"A": 0.5, "B": true, "C": 0.1}}', "accuracy of B is True"),
        ("a.json", '{"accuracy": [1, 2]}', "has no accuracies"),
        ("a.json", "[1]", "has no accuracies"),
        ("a.json", '{"accuracy": {"A": 0, "B": 0, "C": 0}, "values": {"B": 0.5}}', "values are no lists"),
        ("a.json", '{"accuracy": {"A": 0, "B": 0, "C": 0}, "values": {"B": [2]}}', "the accuracy of B is 2;"),
        ("a.json", '{"accuracy": {"A"', "is damaged"),
        ("a.json", '{"accuracy": {"A": 0, "B": 0, "C": 0}, "dataset": "mnist", "fingerprint": "0"}', "is of mnist"),
    ],
)
def test_a_file_of_accuracies_that_does_not_do_is_refused_in_a_line(name, text, said, tmp_path, digits):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"^--real ") as caught:
        read_real(tmp_path / name, ["A", "B", "C"], digits)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_real_ranking_reads_back(tmp_path, digits):
    real = RealRanking("2 epochs", {"A": 0.1, "B": 0.4}, {"A": 2.5, "B": 1.0}, {"A": [0.1, 0.1], "B": [0.3, 0.5]})
    save_real(real, tmp_path / "real.json", digits)
    assert read_real(tmp_path / "real.json", ["A", "B"], digits) == real
    assert read_real(tmp_path / "real.json", ["B"], digits) == RealRanking(
        "2 epochs", {"B": 0.4}, {"B": 1.0}, {"B": [0.3, 0.5]}
    )
    older = json.loads((tmp_path / "real.json").read_text())
    del older["values"], older["sha256"]
    (tmp_path / "real.json").write_text(json.dumps(older))
    assert read_real(tmp_path / "real.json", ["A", "B"], digits) == replace(real, values={})


def test_samples_are_nested_reproducible_and_follow_the_seed():
    small, large = (list(architectures(NasConfig(sample=n))[1]) for n in (20, 60))
    assert len(set(large)) == 60
    assert set(small) < set(large)
    assert list(architectures(NasConfig(sample=60))[1]) == large
    assert list(architectures(NasConfig(sample=60, seed=1))[1]) != large
    order = [str(row) for row in SPACES["convnet720"]]
    assert sorted(large, key=order.index) == large
    assert [str(parse(name)) for name in large] == large


def test_whole_spaces_and_cells():
    size, rows = architectures(NasConfig())
    assert (size, len(rows)) == (720, 720)
    size, rows = architectures(NasConfig(space="nasbench201", sample=3, cells=1))
    assert size == 15625
    assert [row.cells for row in rows.values()] == [1, 1, 1]
    five = architectures(NasConfig(space="nasbench201", sample=3))[1]
    assert [f"{name} N=1" for name in five] == list(rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": "convnet72"}, "unknown space 'convnet72'; did you mean convnet720?"),
        ({"space": "zzz"}, "unknown space 'zzz'; use convnet720, nasbench201, or a YAML file"),
        ({"space": "missing.yaml"}, "space 'missing.yaml' cannot be read"),
        ({"cells": 2}, "--cells 2: convnet720 has no cells"),
        ({"sample": 721}, "a sample of 721 rows from a space of 720: use 1 to 720"),
        ({"real": "none"}, "--real-epochs 2: with --real none nothing is trained"),
        ({"real": "missing.csv", "real_epochs": None}, "--real missing.csv: No such file"),
        ({"baselines": ("forgetting",)}, "--baselines forgetting needs experts; use some of random, kmeans"),
        ({"baselines": ("randon",)}, "unknown baseline 'randon'"),
        ({"protocol": "mttt"}, "unknown protocol 'mttt'"),
        ({"reduction": 5}, "--reduction 5 stops nothing by itself: add --asha"),
        ({"asha": True, "epochs": 1}, "--asha: a training of 1 epoch cannot be stopped early; give 2 --epochs or more"),
        ({"first_rung": 2}, "--first-rung 2 stops nothing by itself: add --asha"),
        ({"first_rung": 9, "asha": True}, "a first rung after 9 of 9 epochs: use 1 to 8"),
        ({"dataset": "nonsense"}, "nonsense"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_trained_or_written(changes, said, synset, pretended, tmp_path):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are below
        ranked(synset, SIX.model_copy(update=changes), tmp_path / "out")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert pretended == []
    assert not (tmp_path / "out").exists()


def test_a_set_that_does_not_fit_the_images_is_refused(synset, images, pretended, tmp_path):
    with pytest.raises(ValueError, match=r"has images \(1, 8, 8\) of 10 classes, images has \(3, 8, 8\) of 2"):
        ranked(synset, SIX.model_copy(update={"dataset": str(images)}), tmp_path / "out")
    assert pretended == []


def test_two_sets_of_one_name_are_told_apart(synset, pretended, tmp_path):
    other = replace(synset, images=-synset.images)
    found = rank_architectures([synset, other], SIX, tmp_path, names=["a", "random, 1 a class"], where=HERE)
    names = ["a", "random, 1 a class", "random, 1 a class (2)"]
    assert [proxy["name"] for proxy in found["proxies"]] == names
    assert [column for column in table(tmp_path)[0] if column.endswith("rank")] == [
        *(f"{name}: rank" for name in names),
        "real rank",
    ]


def test_an_empty_validation_split_is_refused_unless_the_test_images_rank(images, pretended, tmp_path):
    data = DataConfig(dataset=str(images), validation=0.0)
    work = open_workspace(data, None, torch.device("cpu"))
    found, labels = INITIAL["real"](Request(work.dataset, work.transform, 1, generator(0, "test")))
    recipe = {"data": data.model_dump(mode="json"), "method": "random"}
    own = SyntheticSet(found, labels, torch.tensor(0.01), work.transform, str(images), work.dataset.classes, recipe)
    with pytest.raises(ValueError, match="the validation split of images is empty: rank with --split test"):
        ranked(own, SIX, tmp_path / "out")
    assert pretended == []
    found = ranked(own, SIX.model_copy(update={"split": "test"}), tmp_path / "out")
    assert found["selection"] == "paper"


def test_one_architecture_is_a_ranking_without_correlation(synset, pretended, tmp_path):
    found = ranked(synset, SIX.model_copy(update={"sample": 1}), tmp_path)
    assert found["proxies"][0]["agreement"]["spearman"] is None
    assert found["proxies"][0]["winner"]["regret"] == 0


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(10, [2, 6]), (100, [12, 36]), (300, [34, 102]), (1000, [112, 336]), (2, [1])]
)
def test_no_rung_is_just_before_the_end(epochs, rungs, synset, pretended, tmp_path):
    config = SIX.model_copy(update={"asha": True, "epochs": epochs, "sample": 2})
    assert ranked(synset, config, tmp_path)["rungs"] == rungs


def data(**changes):
    """The recipe of a set that was distilled on images so held out."""
    return {"data": DataConfig(**changes).model_dump(mode="json"), "method": "mtt"}


@pytest.mark.parametrize(
    ("changes", "said"),
    first_rows(
        [
            ({"recipe": {}}, "b does not say which images were held out of it"),
            ({"recipe": {"data": {"dataset": "digits"}}}, "b does not say which images were held out of it"),
            ({"recipe": {"data": data()["data"]}, "provenance": {"imported": "dc"}}, "b does not say which images"),
            ({"recipe": data(validation=0)}, "b was made with validation 0 and ranks with 0.1"),
            ({"recipe": data(validation=0.2)}, "b was made with validation 0.2 and ranks with 0.1"),
            ({"recipe": data(dataset="/far/copy.npz")}, "b is of copy and ranks on digits"),
            (
                {"recipe": data(dataset="/far/digits.npz"), "provenance": {}},
                "b does not say on which images it was chosen",
            ),
        ]
    ),
)
def test_a_set_that_may_know_the_validation_images_is_not_honest(changes, said, synset, pretended, tmp_path, capsys):
    config = SIX.model_copy(update={"dataset": "digits"})
    sets = [synset, replace(synset, images=-synset.images, **changes)]
    found = rank_architectures(sets, config, tmp_path / "a", names=["a", "b"], where=HERE)
    assert [proxy["selection"] for proxy in found["proxies"]] == ["honest", "unknown", "honest"]
    assert found["selection"] == "unknown"
    notes = [line for line in capsys.readouterr().err.splitlines() if "selection" in line]
    assert len(notes) == 1
    assert notes[0].startswith(said)
    config = config.model_copy(update={"split": "test"})
    found = rank_architectures(sets, config, tmp_path / "b", names=["a", "b"], where=HERE)
    assert {found["selection"], *(proxy["selection"] for proxy in found["proxies"])} == {"paper"}


@pytest.mark.parametrize(
    ("name", "text"),
    [("nas.json", '{"analysis": "storage"}'), ("real.json", "mine"), ("ranking.csv", "mine"), ("nas.png", "mine")],
)
def test_files_of_something_else_are_not_replaced(name, text, synset, pretended, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]* is not of this analysis and would be replaced; name another --out$"):
        ranked(synset, SIX, tmp_path)
    assert pretended == []
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == text


def test_a_folder_that_cannot_be_written_is_found_before_the_trainings(synset, pretended, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/out cannot be written \(.*\); name another folder$"):
        ranked(synset, SIX, tmp_path / "file" / "out")
    assert pretended == []


def test_an_old_real_ranking_does_not_stay_but_a_users_does(synset, pretended, tmp_path):
    ranked(synset, SIX, tmp_path / "own")
    alone = SIX.model_copy(update={"real": "none", "real_epochs": None})
    ranked(synset, alone, tmp_path / "own")
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["nas.json", "ranking.csv"]
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "real.json").write_text("mine")
    ranked(synset, alone, tmp_path / "users")
    assert (tmp_path / "users" / "real.json").read_text() == "mine"


def test_a_top_that_is_named_twice_is_told_once(synset, pretended, tmp_path):
    found = ranked(synset, SIX.model_copy(update={"top": (3, 2, 3)}), tmp_path)
    assert [top["k"] for top in found["proxies"][0]["agreement"]["tops"]] == [3, 2]


def test_the_real_ranking_says_whose_preprocessing_it_has(synset, pretended, tmp_path):
    work = open_workspace(DataConfig(preprocessing="raw01"), None, torch.device("cpu"))
    other = replace(synset, images=synset.pixels(), transform=work.transform, recipe=data(preprocessing="raw01"))
    found = rank_architectures([synset, other], SIX, tmp_path, names=["a", "b"], where=HERE)
    assert found["real_label"].endswith("(test images), preprocessed as the first set (normalise)")
    own = {proxy["name"]: proxy["preprocessing"] for proxy in found["proxies"]}
    assert (own["a"], own["b"]) == ("normalise", "raw01")
    assert json.loads((tmp_path / "real.json").read_text())["label"] == found["real_label"]
