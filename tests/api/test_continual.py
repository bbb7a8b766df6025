"""Class-incremental learning: which classes come when, what is trained on them, and what it comes to."""

import json
import statistics
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from raydd.api.continual import class_order, evaluate_continual, incremental, seen_after
from raydd.config.placement import Where
from raydd.config.schema import DataConfig, EvaluateConfig
from raydd.data.datasets import Split
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Feed, open_workspace
from raydd.evaluation.jobs import Job, Outcome
from raydd.evaluation.matrix import Matrix, Scorer, ScoreRow, select_classes
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.student import evaluate, evaluate_real
from raydd.io.document import without_checksum
from raydd.models import zoo
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Request, real

DATA = DataConfig(augment="none")
HERE = Where(device="cpu")
SHORT = Protocol(name="short", epochs=30, plain_epochs=30, real_epochs=8, lr=0.05)
QUICK = EvaluateConfig(networks=("MLP",), seeds=2, protocol="dm", baselines=("random",))


@pytest.fixture(scope="module")
def work(cache):
    return open_workspace(DATA, "MLP", torch.device("cpu"))


def chosen(work, seed=0, ipc=2, **changes):
    images, labels = real(Request(work.dataset, work.transform, ipc, generator(seed)))
    found = SyntheticSet(images, labels, torch.tensor(0.05), work.transform, "digits", work.dataset.classes)
    return replace(found, **changes)


def soft(work, ipc=2):
    """A set whose labels are logits, largest at the image's class."""
    hard = chosen(work, ipc=ipc)
    logits = torch.randn(len(hard.images), 10, generator=generator(5)) + 6 * torch.eye(10)[hard.labels]
    assert torch.equal(logits.argmax(dim=1), hard.labels)
    return replace(hard, labels=logits)


def matrix(*entries, seeds=range(4, 7)):
    return Matrix(entries, ("MLP",), seeds, SHORT, DATA, "cpu")


def value_of(entry, job):
    """What a pretended training comes to, by what is trained, on how many classes, with which seed."""
    base = {"distilled": 0.9, "random": 0.7, "herding": 0.8, "whole": 0.95}[entry.kind]
    return base - 0.04 * len(entry.classes) - 0.003 * job.seed**2


@pytest.fixture
def trained(pretend):
    """The trainings that were asked for; what one comes to is `value_of`."""
    return pretend(lambda matrix, job: Outcome(value_of(matrix.rows[job.row], job), 2.0))


def test_an_order_is_a_permutation_that_its_seed_alone_decides():
    orders = [class_order(seed, 100) for seed in range(20)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len(set(orders)) == 20
    torch.rand(7)
    assert class_order(3, 100) == orders[3]


@pytest.mark.parametrize("classes", [1, 2, 10, 23, 100])
def test_steps_are_as_even_as_can_be_and_end_with_all_classes(classes):
    for steps in range(1, classes + 1):
        seen = seen_after(classes, steps)
        sizes = np.diff([0, *seen])
        assert (len(seen), seen[-1]) == (steps, classes)
        assert sizes.min() >= 1
        assert sizes.max() - sizes.min() <= 1
        assert set(seen) <= set(seen_after(classes, 2 * steps)) if 2 * steps <= classes else True


def test_the_papers_steps_bring_20_and_10_classes():
    assert seen_after(100, 5) == (20, 40, 60, 80, 100)
    assert seen_after(100, 10) == tuple(range(10, 101, 10))


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_impossible_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"^10 classes cannot come in {steps} steps; use 1 to 10 --steps$"):
        seen_after(10, steps)


def test_every_run_trains_its_own_order_alone_on_nested_classes(work):
    drawn = tuple(chosen(work, seed) for seed in range(3))
    first = chosen(work)
    rows = matrix(
        ScoreRow("a", "distilled", (first,), "paper"), ScoreRow("random", "random", drawn), ScoreRow("w", "whole", ())
    )
    runs, places = incremental(rows, 10, {3, 5, 8, 10})
    jobs, whose = runs.jobs(), {index: key for key, index in places.items()}
    assert len(runs.rows) == len(set(jobs)) == len(jobs) == 3 * 3 * 4
    assert {job.row for job in jobs} == set(range(len(runs.rows)))
    by_run = defaultdict(dict)
    for job in jobs:
        stage, (row, seed, seen) = runs.rows[job.row], whose[job.row]
        assert stage.seeds == (seed,) == (job.seed,)
        by_run[row, seed][seen] = stage
        assert runs.set_of(job) is (first, drawn[job.seed - 4], None)[row]
        assert (stage.name, stage.kind, stage.selection) == (
            ("a", "distilled", "paper"), ("random", "random", "honest"), ("w", "whole", "honest"),
        )[row]  # fmt: skip
    for (_, seed), stages in by_run.items():
        assert sorted(stages) == [3, 5, 8, 10]
        for seen, stage in stages.items():
            assert stage.classes == class_order(seed, 10)[:seen]
    whole = [not runs.rows[job.row].sets for job in jobs]
    assert whole == sorted(whole, reverse=True)
    assert (runs.networks, runs.seeds, runs.protocol, runs.data) == (("MLP",), range(4, 7), SHORT, DATA)


def by_hand(synset, classes):
    """The images of some classes and their labels' places, one after another."""
    images, labels = [], []
    for image, label in zip(synset.images, synset.labels, strict=True):
        own = int(label) if label.ndim == 0 else int(label.argmax())
        if own in classes:
            images.append(image)
            place = torch.tensor(list(classes).index(own))
            labels.append(place if label.ndim == 0 else torch.stack([label[each] for each in classes]))
    names = tuple(synset.classes[each] for each in classes)
    return replace(synset, images=torch.stack(images), labels=torch.stack(labels), classes=names)


def split_by_hand(work, split, classes):
    rows = [row for row in split.index if split.labels[row] in classes]
    labels = np.array([classes.index(int(split.labels[row])) for row in rows])
    return Feed(Split(split.images[rows], labels, np.arange(len(rows))), work.transform, work.device)


@pytest.mark.parametrize("kind", ["hard", "soft", "whole"])
def test_a_network_learns_and_is_tested_on_the_classes_seen(work, kind):
    """Through the matrix, and with sets that are taken apart by hand: the same network, the same accuracy."""
    sets = {"hard": (chosen(work, ipc=10),), "soft": (soft(work, 10),), "whole": ()}[kind]
    anchor = ScoreRow("first", "distilled", (chosen(work),))  # the whole data takes its preprocessing
    row = ScoreRow(kind, "whole" if kind == "whole" else "distilled", sets)
    runs, places = incremental(matrix(row, anchor), 10, (2, 5))
    scorer = Scorer(runs)
    for seen in (2, 5):
        (job,) = (job for job in runs.jobs() if job.row == places[0, 4, seen])
        classes = class_order(4, 10)[:seen]
        test = split_by_hand(work, work.dataset.test, classes)
        build = lambda: zoo.build("MLP", channels=1, size=8, classes=seen)  # noqa: B023, E731 - called at once
        if kind == "whole":
            train = split_by_hand(work, work.dataset.train, classes)
            expected = evaluate_real(train, build, test, SHORT, work.augment, 4)
        else:
            expected = evaluate(by_hand(sets[0], classes), build, test, SHORT, work.augment, 4)
        found = scorer.score(job).value
        assert found == expected
        assert found > {2: 0.9, 5: 0.7}[seen]
        assert found * len(test) == pytest.approx(round(found * len(test)))


def test_the_test_images_are_those_of_the_classes_seen(work):
    test = work.dataset.test
    for seen in (2, 5, 10):
        classes = class_order(4, 10)[:seen]
        found = select_classes(test, classes)
        assert len(found) == sum(int(label) in classes for label in test.targets)
        named = [classes[place] for place in found.targets.tolist()]
        assert named == [label for label in test.targets.tolist() if label in classes]


def test_the_document_has_mean_and_deviation_over_runs(work, trained, tmp_path):
    found = evaluate_continual([chosen(work)], QUICK, tmp_path, steps=(5, 3), names=["mine"], where=HERE)
    assert {key: found[key] for key in ("analysis", "dataset", "network")} == {
        "analysis": "continual", "dataset": "digits", "network": "MLP",
    }  # fmt: skip
    assert found["orders"] == [{"seed": seed, "classes": list(class_order(seed, 10))} for seed in (0, 1)]
    kinds = {"mine": "distilled", "random, 2 a class": "random", "whole data, 50 epochs": "whole"}
    assert [(run["name"], run["kind"], run["steps"]) for run in found["runs"]] == [
        (name, kind, steps) for name, kind in kinds.items() for steps in (5, 3)
    ]
    for run in found["runs"]:
        seen = {5: [2, 4, 6, 8, 10], 3: [4, 7, 10]}[run["steps"]]
        entry = ScoreRow("", run["kind"], ())
        values = [
            [value_of(replace(entry, classes=tuple(range(count))), Job(0, "MLP", seed)) for seed in (0, 1)]
            for count in seen
        ]
        assert (run["classes"], run["networks"], run["seconds"]) == (seen, 2, [2.0] * len(seen))
        assert run["values"] == values
        assert run["mean"] == pytest.approx([sum(each) / 2 for each in values])
        assert run["std"] == pytest.approx([abs(a - b) / 2**0.5 for a, b in values])
        assert run["ipc"] == (None if run["kind"] == "whole" else 2)
    assert without_checksum(json.loads((tmp_path / "continual.json").read_text())) == found
    assert (tmp_path / "continual.png").read_bytes().startswith(b"\x89PNG")
    (new,) = trained
    assert len(new.jobs) == 2 * 3 * len({2, 4, 6, 8, 10, 7})  # what both have in common is trained once


def test_one_run_has_no_deviation(work, trained, tmp_path):
    single = QUICK.model_copy(update={"seeds": 1})
    found = evaluate_continual([chosen(work)], single, tmp_path, steps=(2,), where=HERE)
    assert [run["std"] for run in found["runs"]] == [[None, None]] * 3
    assert (tmp_path / "continual.png").is_file()


def test_what_was_trained_is_not_trained_again(work, trained, tmp_path, monkeypatch):
    synset = chosen(work)
    first = evaluate_continual([synset], QUICK, tmp_path / "a", steps=(5,), where=HERE)
    both = evaluate_continual([synset], QUICK, tmp_path / "b", steps=(5, 10), where=HERE)
    assert [run for run in both["runs"] if run["steps"] == 5] == first["runs"]
    assert {len(entry.classes) for entry in trained[1].rows} == {1, 3, 5, 7, 9}
    more = QUICK.model_copy(update={"seeds": 3})
    evaluate_continual([synset], more, tmp_path / "c", steps=(5, 10), where=HERE)
    assert {job.seed for job in trained[2].jobs} == {2}

    def refuse(address, note):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("raydd.remote.session._connected", refuse)
    again = evaluate_continual([synset], more, tmp_path / "d", steps=(5, 10), where=HERE)
    assert len(trained) == 3
    for name in ("continual.json", "continual.png"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "d" / name).read_bytes()
    assert statistics.fmean(again["runs"][0]["values"][0]) == again["runs"][0]["mean"][0]


def test_everything_is_trained_anew_when_that_is_asked_for(work, trained, tmp_path):
    for fresh in (False, True):
        evaluate_continual([chosen(work)], QUICK, tmp_path, steps=(2,), where=HERE, fresh=fresh)
    assert len(trained[0].jobs) == len(trained[1].jobs) == 2 * 3 * 2


def test_random_and_herding_stand_beside_sets_that_are_compared_on_the_same_classes(work, trained, tmp_path):
    config = QUICK.model_copy(update={"baselines": None, "real_epochs": 0})
    sets = [chosen(work, 7), soft(work), chosen(work, 8, ipc=3)]
    found = evaluate_continual(sets, config, tmp_path, steps=(5,), names=["a", "b", "c"], where=HERE)
    rows = {"a": 2, "b": 2, "c": 3}
    rows |= {f"{kind}, {ipc} a class": ipc for ipc in (3, 2) for kind in ("random", "herding (pixels)")}
    assert {run["name"]: run["ipc"] for run in found["runs"]} == rows
    (new,) = trained
    assert {entry.classes for entry in new.rows} == {
        class_order(seed, 10)[:seen] for seed in (0, 1) for seen in (2, 4, 6, 8, 10)
    }
    selections = {id(entry.sets[0]) for entry in new.rows if entry.name == "random, 2 a class"}
    assert len(selections) == 2  # a fresh one a run


def test_experts_choose_what_herding_keeps(work, small_buffer, trained, tmp_path):
    config = QUICK.model_copy(update={"baselines": ("herding",), "real_epochs": 0})
    synset = chosen(work)
    found = evaluate_continual([synset], config, tmp_path, steps=(2,), buffer=small_buffer, where=HERE)
    assert [run["name"] for run in found["runs"]][1] == "herding (features), 2 a class"


def test_each_of_several_networks_has_its_lines(work, trained, tmp_path):
    config = QUICK.model_copy(update={"networks": ("MLP", "ConvNetW8"), "baselines": (), "real_epochs": 0})
    found = evaluate_continual([chosen(work)], config, tmp_path, steps=(2,), names=["mine"], where=HERE)
    assert found["network"] == "MLP, ConvNetW8"
    assert [run["name"] for run in found["runs"]] == ["mine, MLP", "mine, ConvNetW8"]


def test_a_set_that_is_named_as_a_baseline_has_lines_of_its_own(work, trained, tmp_path):
    synset = chosen(work, recipe={"method": "random", "match": "nothing"})
    found = evaluate_continual([synset, synset], QUICK, tmp_path, steps=(2,), where=HERE)
    names = [run["name"] for run in found["runs"]]
    assert names[:2] == ["random, 2 a class", "random, 2 a class (2)"]
    assert len(set(names)) == len(names) == 4


def refusal(tmp_path, sets, config=QUICK, where=HERE, **options):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        evaluate_continual(sets, config, tmp_path, where=where, **options)
    return str(caught.value)


def test_what_cannot_be_scored_is_refused_before_anything_is_trained(work, trained, tmp_path):
    one = chosen(work)
    assert "use 1 to 10 --steps" in refusal(tmp_path, [one], steps=(5, 11))
    assert "no number of --steps" in refusal(tmp_path, [one], steps=())
    assert "are of `raydd evaluate`" in refusal(tmp_path, [one], QUICK.model_copy(update={"scores": ("lrs",)}))
    assert "are of `raydd evaluate`" in refusal(tmp_path, [one], QUICK.model_copy(update={"paper": True}))
    unknown = QUICK.model_copy(update={"baselines": ("ranom",)})
    assert "unknown baseline 'ranom'" in refusal(tmp_path, [one], unknown)
    assert "--num-workers" in refusal(tmp_path, [one], where=Where(0, device="cpu"))
    assert trained == []
    assert list(tmp_path.iterdir()) == []


def test_a_memory_of_nothing_is_refused(work, trained, tmp_path):
    full, lacking = chosen(work), class_order(1, 10)[0]
    synset = replace(full, labels=full.labels.where(full.labels != lacking, (lacking + 1) % 10))
    line = refusal(tmp_path, [synset], steps=(10,), names=["mine"])
    assert line.startswith(f"mine has no image of {work.dataset.classes[lacking]}, ")
    found = evaluate_continual([synset], QUICK, tmp_path, steps=(5,), where=HERE)  # another class is there
    assert found["runs"][0]["steps"] == 5


def test_numbers_of_something_else_are_not_replaced(work, trained, tmp_path):
    (tmp_path / "continual.json").write_text('{"analysis": "storage"}')
    assert "is not of this analysis" in refusal(tmp_path, [chosen(work)])
    assert (tmp_path / "continual.json").read_text() == '{"analysis": "storage"}'
    assert trained == []
