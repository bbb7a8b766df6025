"""Rows with sets and preprocessing of their own, on one Ray Train group; and a row that cannot be trained."""

import pytest
import torch

from raydd.config.placement import Where
from raydd.config.schema import DataConfig
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.failures import separate
from raydd.evaluation.matrix import Matrix, Scorer, ScoreRow
from raydd.evaluation.protocols import Protocol
from raydd.numerics.rng import generator
from raydd.remote.train_matrix import train_matrix
from raydd.selection.class_sampler import Request, real

pytestmark = pytest.mark.remote


@pytest.mark.verb
def test_a_failure_names_its_row_and_the_others_are_those_of_one_process(ray2):
    """One worker: the row that fails is the last, since it chooses its step size on images that nobody held out."""
    data = DataConfig(augment="none", validation=0)
    dataset = open_workspace(data, None, torch.device("cpu")).dataset
    sets = []
    for seed, kind in enumerate(("normalise", "zca", "zca")):
        transform = fit_transform(kind, dataset)
        images, labels = real(Request(dataset, transform, 1, generator(seed)))
        sets.append(SyntheticSet(images, labels, torch.tensor(0.1), transform, "digits", dataset.classes))
    rows = (
        ScoreRow("plain", "distilled", (sets[0],)),
        ScoreRow("drawn", "random", tuple(sets[1:])),
        ScoreRow("whole", "whole", ()),
        ScoreRow("choosy", "distilled", (sets[0],), lrs=(0.1, 0.2)),
    )
    protocol = Protocol(name="short", epochs=20, plain_epochs=20, real_epochs=2, lr=None)
    matrix, kept = Matrix(rows, ("MLP",), range(3, 5), protocol, data, "cpu"), {}
    found = train_matrix(
        matrix, Where(num_workers=1), lambda step: None, None, lambda job, outcome: kept.update({job: outcome.value})
    )
    outcomes, missing = separate(matrix, found)
    assert [one.line for one in missing] == [
        f"choosy, on MLP, seed {seed}: digits has no validation images of any class; hold some out with data.validation"
        for seed in (3, 4)
    ]
    scorer = Scorer(matrix)
    assert kept == {job: scorer.score(job).value for job in matrix.jobs() if job.row != 3}
    assert kept == {job: outcome.value for job, outcome in outcomes.items()}
    assert len(set(kept.values())) > 3
