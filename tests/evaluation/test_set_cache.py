"""What whoever does the jobs of a matrix holds of its sets: those in use, and on the right device."""

import pickle
import weakref
from dataclasses import replace

import pytest
import torch

from raydd.config.schema import DataConfig
from raydd.data.preprocessing import Transform, fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.jobs import Job
from raydd.evaluation.matrix import Matrix, Scorer, ScoreRow
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.set_cache import CACHED_SETS, SetCache, store_sets
from raydd.numerics.formation import Formation
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Request, real

CPU = torch.device("cpu")
SHORT = Protocol(name="short", epochs=8, plain_epochs=8, real_epochs=1, lr=None)


@pytest.fixture(scope="module")
def work():
    return open_workspace(DataConfig(), "MLP", CPU)


@pytest.fixture(scope="module")
def white(work):
    return fit_transform("zca", work.dataset)


def synset(work, transform, seed=0):
    images, labels = real(Request(work.dataset, transform, 2, generator(seed)))
    return SyntheticSet(images, labels, torch.tensor(0.1), transform, "digits", work.dataset.classes)


def matrix(*entries, **changes):
    return Matrix(entries, ("MLP",), range(3, 6), SHORT, DataConfig(), "cpu", **changes)


class Store:
    """As an object store: what is put is copied, and so is every time what is got."""

    def __init__(self):
        self.held, self.got = {}, []

    def put(self, value):
        handle = f"{type(value).__name__} {len(self.held)}"
        self.held[handle] = pickle.dumps(value)
        return handle

    def get(self, handle):
        self.got.append(handle)
        return pickle.loads(self.held[handle])

    def stored(self, kind):
        return [handle for handle in self.held if handle.startswith(kind.__name__)]


def rows(work, white):
    """Every kind of row: own sets a seed, shared ones, two kinds of preprocessing, mosaics, soft labels, whole data."""
    drawn = tuple(synset(work, white, seed) for seed in range(3))
    plain = synset(work, work.transform)
    soft = replace(plain, labels=torch.randn(20, 10, generator=generator(1)))
    return (
        ScoreRow("drawn", "random", drawn),
        ScoreRow("again", "random", drawn[:1], lrs=(0.1, 0.5)),
        ScoreRow("plain", "distilled", (plain,), classes=(1, 5)),
        ScoreRow("soft", "distilled", (replace(soft, formation=Formation(2)),), augment=False),
        ScoreRow("whole", "whole", ()),
    )


def test_sets_on_a_shelf_come_to_the_same_accuracies(work, white):
    given, store = matrix(*rows(work, white)), Store()
    light, places = pickle.loads(pickle.dumps(store_sets(given, given.jobs(), store.put)))
    scorer, plain = Scorer(light, SetCache(places, store.get)), Scorer(given)
    expected = {job: plain.score(job).value for job in given.jobs()}
    assert {job: scorer.score(job).value for job in given.jobs()} == expected
    assert len(set(expected.values())) > 8


def test_what_is_sent_to_every_worker_has_no_set(work, white):
    given, store = matrix(*rows(work, white)), Store()
    sent = pickle.dumps(store_sets(given, given.jobs(), store.put))
    assert len(sent) < 5000 < min(len(store.held[handle]) for handle in store.stored(SyntheticSet))
    assert len(pickle.dumps(given)) > 10 * len(sent)


def test_every_set_and_every_preprocessing_is_put_away_once(work, white):
    """By hash: each loaded file brings its own object."""
    first = synset(work, white)
    copied = replace(first, transform=Transform(white.kind, dict(white.tensors)))
    plain = synset(work, work.transform)
    entries = [ScoreRow(str(number), "distilled", (one,)) for number, one in enumerate((first, copied, first, plain))]
    given, store = matrix(*entries), Store()
    store_sets(given, given.jobs(), store.put)
    assert len(store.stored(SyntheticSet)) == 3
    assert len(store.stored(Transform)) == 2
    assert all(len(store.held[handle]) < 20_000 for handle in store.stored(SyntheticSet))
    assert max(len(store.held[handle]) for handle in store.stored(Transform)) > 30_000


def test_only_sets_of_jobs_that_will_be_done_are_put_away(work, white):
    given, store = matrix(*rows(work, white)), Store()
    _, places = store_sets(given, [Job(0, "MLP", 4)], store.put)
    assert (len(store.stored(SyntheticSet)), len(store.stored(Transform))) == (1, 1)
    assert places.first is None
    with pytest.raises(KeyError):
        SetCache(places, store.get).set_of(Job(0, "MLP", 5))


def test_a_worker_fetches_what_its_jobs_ask_for_and_lets_it_go(work, white):
    given, store = matrix(*rows(work, white)), Store()
    light, places = store_sets(given, given.jobs(), store.put)
    alive = []

    def get(handle):
        found = store.get(handle)
        if isinstance(found, SyntheticSet):
            alive.append(weakref.ref(found.images))
        return found

    scorer = Scorer(light, SetCache(places, get))
    scorer.score(Job(1, "MLP", 3))
    scorer.score(Job(1, "MLP", 4))
    assert (len(alive), len(store.got)) == (1, 2), "a set and its preprocessing, once"
    for job in given.jobs():
        scorer.score(job)
        assert sum(ref() is not None for ref in alive) <= CACHED_SETS
    assert len(alive) > CACHED_SETS
    assert sorted(handle for handle in store.got if handle.startswith("Transform")) == sorted(store.stored(Transform))


def test_a_worker_makes_its_own_gpu_deterministic(work, monkeypatch):
    """It is a process of its own, in which nobody else asked for the device."""
    seen = []

    def spy(data, network, device, transform):
        seen.append((device.type, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark))
        return open_workspace(data, network, CPU, transform)

    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("raydd.evaluation.matrix.open_workspace", spy)
    given = matrix(ScoreRow("a", "distilled", (synset(work, work.transform),)))
    Scorer(replace(given, device="cuda")).score(Job(0, "MLP", 3))
    assert seen == [("cuda", True, False)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no usable CUDA device"):
        Scorer(replace(given, device="cuda")).score(Job(0, "MLP", 3))
