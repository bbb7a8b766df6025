"""Searches by the user's own Ray Tune objects, of which our journal records every trial."""

from types import SimpleNamespace

import pytest
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch

import raydd
from raydd.data.synset import SyntheticSet
from raydd.io.console import Screen
from raydd.remote.own_search import OwnObjects, OwnSearcher, OwnStopping, tune_domains
from raydd.tuning.results import load_results
from raydd.tuning.space_files import make_space
from raydd.tuning.study import Study
from raydd.tuning.trial_scheduler import TrialScheduler

SPACE = {
    "method": "mtt",
    "set": {
        **{"steps": 20, "student_steps": 4, "evaluate_epochs": 20, "window": {"high": 6}},
        "experts": {"network": "MLP", "num_experts": 2, "epochs": 8},
    },
    "domains": {"lr.images": {"log_uniform": [0.1, 100]}, "span": {"integer": [1, 3]}},
    "constraints": ["window.high + span <= experts.epochs", "lr.images >= span"],
    "budget": {"samples": 5, "reports": 4},
}


class Points(Searcher):
    """Suggests listed points and notes what it is told."""

    def __init__(self, *points):
        super().__init__()
        self.points, self.results = [*points], {}

    def suggest(self, trial_id):
        return self.points.pop(0) if self.points else Searcher.FINISHED

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.results[trial_id] = "error" if error else result["accuracy"]

    def save(self, checkpoint_path):
        pass

    restore = save


@pytest.fixture
def trials(tmp_path):
    """Makes the trials of a search of five, over a space."""

    def make(**changes):
        study = Study(make_space(SPACE | changes), tmp_path / "study.journal")
        return TrialScheduler(study, 5, lambda progress: None)

    return make


def test_a_search_algorithm_proposes_what_the_space_allows(trials):
    good, forbidden = {"lr.images": 2.0, "span": 1}, {"lr.images": 1.5, "span": 2}
    own = Points(forbidden, good, None, good, Searcher.FINISHED)
    searcher = OwnSearcher(trials(), own)
    assert searcher.suggest("a") == {"trial": 0, "values": {"lr.images": 5.0, "span": 2}}  # the preset's
    assert searcher.suggest("b") == {"trial": 1, "values": good}
    assert own.results == {"b": "error"}
    assert searcher.suggest("c") is None
    assert searcher.suggest("c") == {"trial": 2, "values": good}
    searcher.on_trial_complete("a", {"index": 4, "accuracy": 0.5})
    searcher.on_trial_complete("b", {"index": 4, "accuracy": 0.7})
    searcher.on_trial_complete("c", {"index": 0, "accuracy": float("nan"), "failed": "it diverged"})
    assert own.results == {"b": "error", "b-1": 0.7, "c": "error"}
    assert searcher.suggest("d") == Searcher.FINISHED
    again = OwnSearcher(trials(), Points())  # of a later call: unfinished trials come first
    assert [again.suggest(name)["trial"] for name in "ab"] == [0, 1]


@pytest.mark.rows(
    "point, words",
    [
        ({"lr.images": 2.0}, "it suggests no span"),
        ({"lr.images": 2.0, "span": 7}, "it suggests span = 7, which is not in the space"),
    ],
)
def test_a_point_outside_of_the_space_is_refused(trials, point, words):
    searcher = OwnSearcher(trials(search={"first": "none"}), Points(point))
    with pytest.raises(ValueError, match=words):
        searcher.suggest("a")


def test_points_that_all_violate_the_constraints_end_the_search(trials):
    searcher = OwnSearcher(trials(search={"first": "none"}), Points(*[{"lr.images": 1.5, "span": 2}] * 200))
    with pytest.raises(ValueError, match="100 points in a row violate the constraints"):
        searcher.suggest("a")


def test_the_domains_of_a_space_are_those_of_tune(trials):
    domains = {"lr.images": {"uniform": [0.5, 1]}, "span": {"integer": [1, 5], "step": 2}}
    domains |= {"batch_size": {"log_integer": [2, 64]}, "window.high": {"choice": [5, None]}}
    space = make_space(SPACE | {"domains": domains, "constraints": [], "search": {"algorithm": "random"}})
    found = tune_domains(space)
    assert {key: type(domain).__name__ for key, domain in found.items()} == {
        **{"lr.images": "Float", "span": "Categorical", "batch_size": "Integer", "window.high": "Categorical"}
    }
    assert found["span"].categories == [1, 3, 5]
    assert {found["batch_size"].sample() for _ in range(300)} <= {*range(2, 65)}


def test_a_scheduler_stops_trials_and_the_journal_records_it(trials):
    ours = trials()
    for _ in range(2):
        ours.next()
    stopping, events = OwnStopping(ours, FIFOScheduler()), []
    stopping._own = SimpleNamespace(
        on_trial_result=lambda controller, trial, result: events.append(result["index"]) or "STOP",
        on_trial_complete=lambda *event: events.append("end"),
    )
    trial = [SimpleNamespace(config={"trial": number}) for number in range(2)]
    report = {"accuracy": 0.5, "now": 0.5, "seconds": 1.0, "loss": 0.1, "memory_mb": 1.0}
    assert stopping.on_trial_result(None, trial[0], report | {"index": 0, "step": 0}) == "CONTINUE"  # between reports
    assert stopping.on_trial_result(None, trial[0], report | {"index": 2, "step": 10}) == "STOP"
    assert stopping.on_trial_result(None, trial[1], report | {"index": 4, "step": 20}) == "STOP"  # its last report
    stopping.on_trial_complete(None, trial[1], report | {"index": 4, "step": 20})
    assert events == [2, 4, "end"]
    assert [record.state for record in ours.study.records()] == ["pruned", "complete"]


@pytest.mark.rows(
    "own, changes, words",
    [
        (OwnObjects(scheduler="asha"), {}, "scheduler=str: give an object of ray.tune"),
        (OwnObjects(search_alg=FIFOScheduler()), {}, "search_alg=FIFOScheduler: give an object of ray.tune.search"),
        (OwnObjects(callbacks=(print,)), {}, "callbacks=builtin_function_or_method: give an object of ray.tune"),
        (OwnObjects(scheduler=FIFOScheduler()), {"scheduler": {"name": "asha"}}, "the space has scheduler asha"),
        (OwnObjects(search_alg=Points()), {"search": {"algorithm": "grid"}}, "proposes values by grid"),
    ],
)
def test_objects_that_do_not_fit_are_refused(own, changes, words):
    domains = {"lr.images": {"choice": [1, 10]}}
    with pytest.raises(ValueError, match=words):
        own.check(make_space(SPACE | {"domains": domains, "constraints": []} | changes))
    OwnObjects(FIFOScheduler(), Points(), (ray_tune.Callback(),)).check(make_space(SPACE))


class Counter(ray_tune.Callback):
    def __init__(self):
        self.events = []

    def on_trial_result(self, iteration, trials, trial, result, **info):
        self.events.append((trial.config["trial"], result["training_iteration"]))


@pytest.mark.remote
@pytest.mark.slow
def test_asha_optuna_and_a_callback_of_the_user_run_a_search(ray2, tmp_path):
    """Every trial is in the journal, the grid has its checkpoint, and what ASHA stops is recorded as pruned."""
    counter = Counter()
    results = raydd.tune(
        SPACE,
        tmp_path / "out",
        evaluation=None,
        screen=Screen(),
        scheduler=ASHAScheduler(max_t=4, grace_period=1, reduction_factor=2),
        search_alg=ConcurrencyLimiter(OptunaSearch(seed=0), max_concurrent=1),
        callbacks=[counter],
    )
    states = [trial.state for trial in results.trials]
    assert len(states) == 5
    assert {*states} <= {"complete", "pruned"}
    assert "pruned" in states
    assert [row["state"] for row in load_results(tmp_path / "out" / "results.parquet")] == states
    counts = [sum(number == trial.number for number, _ in counter.events) for trial in results.trials]
    assert counts == [len(trial.reports) for trial in results.trials]
    assert sum(count < 4 for count in counts) == states.count("pruned")
    assert len({trial.values["lr.images"] for trial in results.trials}) == 5
    best = results.grid.get_best_result("accuracy", "max", scope="last")
    assert best.metrics["accuracy"] == results.best.metrics["accuracy"]
    if results.best.state == "complete":
        with best.checkpoint.as_directory() as folder:
            assert SyntheticSet.load(f"{folder}/synset.arrow").history == results.synset.history
    assert len(results.grid.get_dataframe()) == 5
