import math
from dataclasses import replace

import pytest
import torch

from raydd.config.schema import DataConfig, EvaluateConfig
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.jobs import Job, Outcome
from raydd.evaluation.matrix import Matrix, Scorer, ScoreRow
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.scores import best_of_steps, plan, summarise, titles
from raydd.evaluation.student import evaluate, evaluate_real
from raydd.numerics.augment import augment
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Request, real

DATA = DataConfig(augment="none")
SHORT = Protocol(name="short", epochs=20, plain_epochs=20, real_epochs=2, lr=None)


@pytest.fixture(scope="module")
def work():
    return open_workspace(DATA, "ConvNetW8", torch.device("cpu"))


def synset(work, seed=0, ipc=2):
    images, labels = real(Request(work.dataset, work.transform, ipc, generator(seed)))
    return SyntheticSet(images, labels, torch.tensor(0.05), work.transform, "digits", work.dataset.classes)


def matrix(*entries, networks=("ConvNetW8",), seeds=range(3), **changes):
    return Matrix(entries, networks, seeds, SHORT, DATA, "cpu", **changes)


def test_jobs_are_every_cell_once_with_whole_data_first(work):
    one = synset(work)
    rows = ScoreRow("a", "distilled", (one,)), ScoreRow("w", "whole", ()), ScoreRow("b", "random", (one,) * 2)
    jobs = matrix(*rows, networks=("X", "Y"), seeds=range(5, 7)).jobs()
    assert [tuple(job) for job in jobs] == [
        (entry, network, seed) for entry in (1, 0, 2) for network in ("X", "Y") for seed in (5, 6)
    ]


def test_a_summary_has_mean_and_sample_deviation_in_the_order_of_seeds(work):
    rows = matrix(ScoreRow("a", "distilled", (synset(work),), "paper"), ScoreRow("w", "whole", ()), networks=("X", "Y"))
    values = {(0, "X"): [0.1, 0.2, 0.6], (0, "Y"): [0.5, 0.5, 0.5], (1, "X"): [0.0, 1.0, 0.5], (1, "Y"): [1, 1, 0]}
    results = {Job(e, n, s): Outcome(found[s], s) for s in (2, 0, 1) for (e, n), found in values.items()}
    records = summarise(rows, results)
    assert [(record.name, record.network) for record in records] == [
        ("a", "X"), ("a", "Y"), ("w", "X"), ("w", "Y"),
    ]  # fmt: skip
    first = records[0]
    assert first.values == (0.1, 0.2, 0.6)
    assert first.seconds == 1
    assert first.mean == pytest.approx(0.3)
    assert first.std == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert records[1].std == 0
    assert records[3].std == pytest.approx(math.sqrt((2 / 9 + 4 / 9) / 2))
    assert {key: getattr(first, key) for key in ("kind", "dataset", "protocol", "selection", "ipc", "networks")} == {
        "kind": "distilled",
        "dataset": "digits",
        "protocol": "short",
        "selection": "paper",
        "ipc": 2,
        "networks": 3,
    }
    assert (records[2].kind, records[2].ipc, records[2].selection) == ("whole", None, "honest")


def test_one_network_has_no_deviation(work):
    rows = matrix(ScoreRow("a", "distilled", (synset(work),)), seeds=range(4, 5))
    assert summarise(rows, {Job(0, "ConvNetW8", 4): Outcome(0.25, 1.0)})[0].std is None


def test_a_plan_asks_the_experts_it_is_given(work, small_buffer):
    config = EvaluateConfig(seeds=2, networks=("MLP", "LeNet"))
    kinds = {}
    for buffer in (None, small_buffer):
        found, _ = plan([synset(work)], None, config, "cpu", buffer)
        kinds[buffer] = [entry.kind for entry in found.rows]
    assert kinds[None] == ["distilled", "random", "kmeans", "herding", "kcenter", "whole"]
    asking = ["forgetting", "glister"]
    assert kinds[small_buffer] == ["distilled", "random", "kmeans", "herding", "kcenter", *asking, "whole"]


def test_a_scorer_trains_what_the_job_says(work):
    sets = [synset(work, seed) for seed in range(3)]
    rows = matrix(
        ScoreRow("a", "distilled", (sets[0],)),
        ScoreRow("b", "random", tuple(sets)),
        ScoreRow("w", "whole", ()),
        networks=("ConvNetW8", "ConvNetW8BN"),
        seeds=range(7, 10),
    )
    scorer, none = Scorer(rows), augment("none")
    test = work.feed(work.dataset.test)
    for seed in (7, 9):
        assert scorer.score(Job(0, "ConvNetW8", seed)).value == evaluate(sets[0], work.build, test, SHORT, none, seed)
        expected = evaluate(sets[seed - 7], work.build, test, SHORT, none, seed)
        assert scorer.score(Job(1, "ConvNetW8", seed)).value == expected
    other = open_workspace(DATA, "ConvNetW8BN", torch.device("cpu"))
    assert scorer.score(Job(0, "ConvNetW8BN", 8)).value == evaluate(sets[0], other.build, test, SHORT, none, 8)
    train = work.feed(work.dataset.train)
    assert scorer.score(Job(2, "ConvNetW8", 7)).value == evaluate_real(train, work.build, test, SHORT, none, 7)
    one = Scorer(replace(rows, protocol=SHORT.changed(real_epochs=1))).score(Job(2, "ConvNetW8", 7)).value
    assert one == evaluate_real(train, work.build, test, SHORT.changed(real_epochs=1), none, 7)


def test_titles_differ(work):
    sets = [synset(work), synset(work, ipc=1), synset(work, 1), synset(work, 2)]
    assert titles(sets) == ["set, 2 a class", "set, 1 a class", "set, 2 a class (2)", "set, 2 a class (3)"]
    assert titles(sets[:3], ["a", "b", "a"]) == ["a", "b", "a (2)"]


def test_kept_steps_are_rows_of_their_own_beside_the_set(work):
    start, steps = synset(work), {4: synset(work, 1), 8: synset(work, 2)}
    config = EvaluateConfig(seeds=2, networks=("MLP",), baselines=())
    found, _ = plan([start, start], ["a", "b"], config, "cpu", None, [steps, {}])
    rows = [(entry.name, entry.selection, entry.of) for entry in found.rows[:4]]
    assert rows == [
        ("a", "unknown", ""),
        ("b", "unknown", ""),
        ("a, step 4", "paper", "a"),
        ("a, step 8", "paper", "a"),
    ]
    assert found.rows[3].sets == (steps[8],)


def test_a_kept_step_that_does_not_fit_is_refused_by_name(work):
    broken = replace(synset(work), images=torch.full((20, 1, 8, 8), float("nan")))
    with pytest.raises(ValueError, match=r"^a, step 4 has 1280 pixels that are not finite, digits has none"):
        plan([synset(work)], ["a"], EvaluateConfig(networks=("MLP",)), "cpu", None, [{4: broken}])


def test_the_papers_number_is_the_best_step_on_test_of_every_network(work):
    rows = [ScoreRow("a", "distilled", (synset(work),))]
    rows += [ScoreRow(f"a, step {step}", "distilled", (synset(work),), "paper", of="a") for step in (2, 4, 6)]
    given = matrix(*rows, ScoreRow("r", "random", (synset(work),)), networks=("X", "Y"), seeds=range(2))
    means = {"X": [0.5, 0.4, 0.7, 0.7, 0.1], "Y": [0.5, 0.9, 0.8, 0.3, 0.1]}
    results = {job: Outcome(means[job.network][job.row] + 0.02 * job.seed, 1.0) for job in given.jobs()}
    records = summarise(given, results)
    found = best_of_steps(records, {f"a, step {step}": step for step in (2, 4, 6)})
    assert [(record.name, record.network, record.selection) for record in found] == [
        ("a", "X", "honest"),
        ("a", "Y", "honest"),
        ("a, best of 3 steps on test", "X", "paper"),
        ("a, best of 3 steps on test", "Y", "paper"),
        ("r", "X", "honest"),
        ("r", "Y", "honest"),
    ]
    first, second = found[2:4]
    assert (first.step, second.step) == (4, 2)
    assert first.values == pytest.approx([0.7, 0.72])
    assert first.mean == pytest.approx(0.71)
    assert first.std == pytest.approx(0.02 / 2**0.5)
    assert [(row.step, row.mean) for row in second.steps] == [
        (2, pytest.approx(0.91)),
        (4, pytest.approx(0.81)),
        (6, pytest.approx(0.31)),
    ]
    assert all(record.mean <= first.mean for record in records if record.network == "X")
    assert best_of_steps(records[:2], {}) == records[:2]


@pytest.mark.parametrize(
    ("chosen", "selection"),
    [
        ("last outer step", "honest"),
        ("best outer step on the validation split", "honest"),
        ("outer step 100", "unknown"),
        (None, "unknown"),
    ],
)
def test_what_a_set_does_not_say_of_its_choice_is_not_called_honest(work, chosen, selection):
    given = replace(synset(work), provenance={} if chosen is None else {"chosen": chosen})
    found, _ = plan([given], ["a"], EvaluateConfig(networks=("MLP",), baselines=("random",)), "cpu")
    assert [entry.selection for entry in found.rows] == [selection, "honest", "honest"]


def test_rows_differ_in_name_though_a_set_is_called_as_a_selection(work):
    config = EvaluateConfig(networks=("MLP",), baselines=("random",))
    found, _ = plan([synset(work)], ["random, 2 a class"], config, "cpu")
    assert [(entry.name, entry.requested) for entry in found.rows] == [
        ("random, 2 a class", True),
        ("random, 2 a class (2)", False),
        ("whole data, 50 epochs", False),
    ]
    assert titles((), ["x", "x", "x (2)"]) == ["x", "x (2)", "x (2) (2)"]


def test_a_network_that_is_named_twice_is_trained_once(work):
    config = EvaluateConfig(networks=("MLP", "LeNet", "MLP"), seeds=1, baselines=())
    found, _ = plan([synset(work)], None, config, "cpu")
    assert found.networks == ("MLP", "LeNet")
    assert len(found.jobs()) == len(set(found.jobs())) == 4


def test_every_size_and_preprocessing_has_selections_of_its_own(work):
    raw = fit_transform("raw01", work.dataset)
    two = synset(work, ipc=2)
    sets = [synset(work, ipc=1), two, replace(two, images=two.pixels(), transform=raw)]
    config = EvaluateConfig(networks=("MLP",), baselines=("random",), seeds=1)
    found, _ = plan(sets, ["a", "b", "c"], config, "cpu")
    rows = {entry.name: entry.sets for entry in found.rows}
    assert set(rows) == {
        *"abc",
        "random, 1 a class, normalise",
        "random, 2 a class, normalise",
        "random, 2 a class, raw01",
        "whole data, 50 epochs, normalise",
    }
    assert rows["random, 2 a class, raw01"][0].transform is raw
    assert len(rows["random, 1 a class, normalise"][0].images) == 10


def test_augmentation_and_validation_are_the_sets_own_unless_asked_for(work):
    kinds = [{"data": DataConfig(augment=kind, validation=0.2).model_dump()} for kind in ("none", "dsa")]
    plain, augmented = (replace(synset(work), recipe=kind) for kind in kinds)
    quick = EvaluateConfig(networks=("MLP",), baselines=())
    assert plan([plain], None, quick, "cpu")[0].data.augment == "none"
    with pytest.raises(ValueError, match=r"^the sets .* augmentations none and dsa, .* --set augment=none$"):
        plan([plain, augmented], None, quick, "cpu")
    asked = quick.model_copy(update={"augment": "dsa", "validation": 0.5})
    for sets in ([plain, augmented], [augmented, plain]):
        found, opened = plan(sets, None, asked, "cpu")
        assert (found.data.augment, found.data.validation) == ("dsa", 0.5)
        assert len(opened.dataset.validation) > len(work.dataset.validation)


def test_a_setting_of_another_version_does_not_refuse_a_set(work):
    given = replace(synset(work), recipe={"data": {"dataset": "digits", "novel": 1}, "zzz": 2})
    assert plan([given], None, EvaluateConfig(networks=("MLP",), baselines=()), "cpu")[0].data.dataset == "digits"
