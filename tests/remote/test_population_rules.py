"""Who takes over from whom in a population; Tune decides about trials that only stand there."""

from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial

from raydd.remote.population import Population


class Member:
    """A trial of a population, as Tune's scheduler sees it."""

    def __init__(self, number):
        self.config = {"trial": number, "values": {"lr": number}}
        self.trial_id = self.experiment_tag = f"trial-{number}"
        self.evaluated_params, self.status, self.checkpoint = {}, Trial.RUNNING, None
        manager = SimpleNamespace(checkpoint_config=SimpleNamespace(num_to_keep=None), _latest_checkpoint_result=None)
        self.run_metadata = SimpleNamespace(checkpoint_manager=manager)

    def is_finished(self):
        return self.status in (Trial.TERMINATED, Trial.ERROR)

    def set_experiment_tag(self, tag):
        self.experiment_tag = tag

    def set_config(self, config):
        self.config = config


class Journal:
    """Records who took over from whom."""

    def __init__(self):
        self.taken = []

    def report(self, number, result):
        return False

    def take_over(self, number, donor, report):
        self.taken.append((number, donor, report["accuracy"]))
        return {"lr": f"{donor} for {number}"}


@pytest.fixture
def population():
    """Makes a population of some trials; returns its trials, its reports to it, and who took over."""

    def make(count, first_is_protected=False, grace=1):
        plan = SimpleNamespace(grace=grace, reduction=2)
        space = SimpleNamespace(scheduler=plan, first_is_protected=first_is_protected)
        space.config = lambda values: SimpleNamespace(steps=100)
        journal, members = Journal(), [Member(number) for number in range(count)]
        scheduler = Population(journal, SimpleNamespace(space=space))
        controller = SimpleNamespace(search_alg=None, get_trials=lambda: members, pause_trial=pause)
        controller._schedule_trial_save = lambda trial, result: f"checkpoint of {trial.trial_id} at {result['index']}"
        for member in members:
            scheduler.on_trial_add(controller, member)

        def report(number, index, accuracy):
            member = members[number]
            member.status = Trial.RUNNING
            result = {"index": index, "step": 10 * index, "accuracy": accuracy}
            return scheduler.on_trial_result(controller, member, result)

        return members, report, journal.taken

    return make


def pause(trial, should_checkpoint):
    trial.status = Trial.PAUSED


def test_the_worse_goes_on_from_the_better_with_settings_of_its_own(population):
    members, report, taken = population(2)
    report(0, 1, 0.1)
    report(1, 1, 0.9)
    assert report(0, 2, 0.2) == "NOOP"
    assert taken == [(0, 1, 0.9)]
    assert members[0].config == {"trial": 0, "values": {"lr": "1 for 0"}}
    latest = members[0].run_metadata.checkpoint_manager._latest_checkpoint_result
    assert latest.checkpoint == "checkpoint of trial-1 at 1"
    assert members[1].config == {"trial": 1, "values": {"lr": 1}}


def test_a_checkpoint_is_taken_over_once_while_its_trial_waits(population):
    _, report, taken = population(2)
    report(0, 1, 0.1)
    report(1, 1, 0.9)
    for index in (2, 3, 4, 5):
        report(0, index, 0.2)
    assert taken == [(0, 1, 0.9)]
    report(1, 2, 0.8)  # alone: the other one takes no part
    report(0, 6, 0.2)
    report(1, 3, 0.8)
    report(0, 7, 0.2)
    assert taken == [(0, 1, 0.9), (0, 1, 0.8)]


def test_the_presets_trial_gives_and_never_takes(population):
    _, report, taken = population(3, first_is_protected=True)
    for index, accuracy in ((1, 0.1), (2, 0.2), (3, 0.3)):
        report(1, index, 0.5)
        report(2, index, 0.6)
        report(0, index, accuracy)
    assert taken
    assert not any(0 in (taker, source) for taker, source, _ in taken)
    report(0, 4, 0.9)
    report(1, 4, 0.4)
    assert taken[-1] == (1, 0, 0.9)


def test_tune_decides_at_every_graceth_report_and_not_at_the_last(population):
    _, report, taken = population(2, grace=2)
    for index in (1, 3, 10):
        report(1, index, 0.9)
        report(0, index, 0.2)
    assert taken == []
    for index in (2, 4):
        report(1, index, 0.9)
        report(0, index, 0.2)
    assert taken == [(0, 1, 0.9)]
