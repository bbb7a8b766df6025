"""Interrupted trainings: from any of their checkpoints they go on to the same bits."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from raydd.config.schema import DataConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation import saver as module
from raydd.evaluation.jobs import Job
from raydd.evaluation.matrix import Matrix, Scorer, ScoreRow
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.saver import Saver
from raydd.evaluation.student import evaluate, evaluate_real
from raydd.evaluation.successive_halving import Rungs
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Request, real

SHORT = Protocol(
    name="short", epochs=5, plain_epochs=4, real_epochs=2, lr=0.02, batch_size=7, cutmix=0.5, milestones=(0.5,)
)


@pytest.fixture
def every_batch(monkeypatch):
    """Checkpoints are written after every batch, whatever they cost."""
    monkeypatch.setattr(module, "MOST_SHARE", math.inf)


@pytest.fixture(scope="module")
def work():
    return open_workspace(DataConfig(augment="dsa"), "ConvNetW8D2BN", torch.device("cpu"))


@pytest.fixture(scope="module")
def synset(work):
    images, labels = real(Request(work.dataset, work.transform, 2, generator(0)))
    return SyntheticSet(images, labels, torch.tensor(0.05), work.transform, "digits", work.dataset.classes)


def frozen(state):
    """A state as its reader gets it from shared memory: its arrays cannot be written."""
    if isinstance(state, dict):
        return {key: frozen(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [frozen(value) for value in state]
    if isinstance(state, np.ndarray):
        state.flags.writeable = False
    return state


def flat(state):
    """Every number of a state but the time."""
    if isinstance(state, dict):
        return [(key, flat(value)) for key, value in state.items() if key != "seconds"]
    if isinstance(state, list | tuple):
        return [flat(value) for value in state]
    return state.tobytes() if isinstance(state, np.ndarray) else state


def train(kind, work, synset, saver):
    """One training; its accuracy."""
    test = work.feed(work.dataset.test)
    if kind == "synthetic":
        return saver.part(partial(evaluate, synset, work.build, test, SHORT, work.augment, 3, None, saver))
    few = work.feed(work.dataset.train)
    protocol = SHORT.model_copy(update={"batch_size": 400})
    return saver.part(partial(evaluate_real, few, work.build, test, protocol, work.augment, 3, saver))


@pytest.mark.parametrize("kind", ["synthetic", "real"])
def test_from_every_checkpoint_a_training_goes_on_to_the_same_bits(every_batch, kind, work, synset):
    states = []
    value = train(kind, work, synset, Saver(states.append, seconds=0.0))
    steps = {"synthetic": 5 * 3, "real": 2 * -(-len(work.dataset.train) // 400)}[kind]
    assert len(states) == steps
    assert len({state["part"]["epoch"] for state in states}) == {"synthetic": 5, "real": 2}[kind]
    assert train(kind, work, synset, Saver()) == value, "saving changes nothing"
    for place in range(0, steps, 2):
        later = []
        assert train(kind, work, synset, Saver(later.append, frozen(states[place]), 0.0)) == value
        assert flat(later) == flat(states[place + 1 :]), f"the training from checkpoint {place} differs"


def test_a_row_of_several_trainings_repeats_none_that_has_ended(every_batch, work, synset):
    """Three learning rates are compared on the validation split, and the best is tested, with comparisons at rungs."""
    matrix = Matrix(
        (ScoreRow("a", "distilled", (synset,), lrs=(0.001, 0.1, 0.02)),),
        ("ConvNetW8D2BN",),
        range(1),
        SHORT,
        DataConfig(augment="dsa"),
        "cpu",
        rungs=Rungs((1, 3), 2),
    )
    job, states, epochs = Job(0, "ConvNetW8D2BN", 0), [], []

    def score(saver):
        return Scorer(matrix).score(job, lambda epoch, value: not epochs.append(epoch), saver)

    whole = score(Saver(states.append, seconds=0.0))
    assert ([len(state["values"]) for state in states], epochs) == ([0] * 15 + [1] * 15 + [2] * 15 + [3] * 15, [1, 3])
    for place in (0, 14, 20, 44, 47, 57):
        epochs.clear()
        later = []
        outcome = score(Saver(later.append, frozen(states[place]), 0.0))
        assert outcome._replace(seconds=whole.seconds) == whole
        assert len(later) == len(states) - place - 1
        assert epochs == [epoch for epoch in (1, 3) if place < 45 + 3 * epoch]


def test_checkpoints_are_written_by_time_and_cost_little_of_it(monkeypatch):
    """A checkpoint that takes 4 s is followed by the next one after 80 s, however short the interval."""
    now, states = [0.0], []

    def save(state):
        now[0] += 4.0
        states.append(state)

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    saver = Saver(save, seconds=30.0)
    times = []
    for _ in range(400):
        now[0] += 1.0
        before = len(states)
        saver.offer(dict)
        times += [now[0]] * (len(states) > before)
    assert np.diff([0.0, *times]).tolist() == [34.0, *[84.0] * (len(times) - 1)]
    assert len(times) == 5
    assert states[0]["seconds"] == 30.0
