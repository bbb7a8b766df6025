"""What is measured of features: against naive loops in float64 and numbers worked by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from toy_runs import train_buffer

from raydd.analysis.expert_networks import AnalysisContext, check_epochs, expert_network, load_snapshot, measure_epochs
from raydd.analysis.features import class_means, correlation, features_of, sample_classes
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.config.schema import DataConfig, ExpertConfig, ExpertsConfig
from raydd.data.workspace import accuracy, open_workspace
from raydd.io.console import Screen
from raydd.models.classifier import Classifier
from raydd.numerics.flat import split

CPU = torch.device("cpu")


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def toy(classes=3):
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU()), 5, classes).double()


@pytest.fixture(scope="module")
def batchnorm_buffer(cache, tmp_path_factory):
    """One expert of two epochs whose network has running statistics."""
    config = ExpertsConfig(experts=ExpertConfig(network="ConvNetW4D1BN", num_experts=1, epochs=2))
    return ArrowBuffer(train_buffer(tmp_path_factory.mktemp("buffers") / "bn", config))


def test_correlation_is_pearsons():
    a, b = draws(4, 7), draws(4, 7, seed=1)
    naive = []
    for row, other in zip(a.tolist(), b.tolist(), strict=True):
        mine, theirs = sum(row) / 7, sum(other) / 7
        above = sum((x - mine) * (y - theirs) for x, y in zip(row, other, strict=True))
        below = math.sqrt(sum((x - mine) ** 2 for x in row) * sum((y - theirs) ** 2 for y in other))
        naive.append(above / below)
    np.testing.assert_allclose(correlation(a, b), naive, atol=1e-12)
    np.testing.assert_allclose(correlation(3 * a + 5, a), np.ones(4), atol=1e-12)
    # (-1, 0, 1) and (-2, 1, 1): 3 / sqrt(2 * 6).
    found = correlation(torch.tensor([[1.0, 2, 3]]).double(), torch.tensor([[0.0, 3, 3]]).double())
    assert float(found) == pytest.approx(3 / math.sqrt(12))


def test_a_constant_row_correlates_with_nothing():
    a = torch.tensor([[2.0, 2, 2], [math.nan, 1, 2]], dtype=torch.float64)
    found = correlation(a, draws(2, 3)).tolist()
    assert found[0] == 0
    assert math.isnan(found[1])  # a class without images


@pytest.mark.parametrize("size", [2, 5, 9])
def test_class_means_whatever_the_batches(size):
    network, x, y = toy(), draws(9, 1, 2, 2), torch.tensor([2, 0, 2, 2, 0, 0, 2, 0, 2])
    with torch.no_grad():
        found = class_means(network, zip(x.split(size), y.split(size), strict=True), 3)
        rows = [network.body(image[None])[0].tolist() for image in x]
    for label in (0, 2):
        members = [row for row, target in zip(rows, y.tolist(), strict=True) if target == label]
        naive = [sum(column) / len(members) for column in zip(*members, strict=True)]
        np.testing.assert_allclose(found[label], naive, atol=1e-12)
    assert found[1].isnan().all()
    torch.testing.assert_close(features_of(network, [(x[:4], y), (x[4:], y)]), torch.tensor(rows, dtype=torch.float64))


def test_accuracy_counts_images_not_batches():
    network = lambda x: x.flatten(1)  # noqa: E731 - logits as given
    x = torch.eye(3)[[0, 1, 2, 0]].reshape(4, 3, 1, 1)
    y = torch.tensor([0, 1, 0, 0])
    assert accuracy(network, [(x[:3], y[:3]), (x[3:], y[3:])]) == 0.75


def test_some_images_of_each_class():
    targets = torch.tensor([1, 0, 1, 1, 0, 1, 2])
    rows = sample_classes(targets, 2, torch.Generator().manual_seed(0))
    assert targets[rows].tolist() == [0, 0, 1, 1, 2]
    assert len(set(rows.tolist())) == 5
    assert sample_classes(targets, 2, torch.Generator().manual_seed(0)).tolist() == rows.tolist()
    seen = {tuple(sample_classes(targets, 2, torch.Generator().manual_seed(s)).tolist()) for s in range(20)}
    assert len(seen) > 5
    assert sorted(sample_classes(targets, 9, torch.Generator()).tolist()) == list(range(7))
    with pytest.raises(ValueError, match="--images 0"):
        sample_classes(targets, 0, torch.Generator())


def test_a_network_put_at_a_stage_scores_what_its_buffer_says(small_buffer, batchnorm_buffer):
    """Running statistics count: with those of another epoch a BatchNorm network scores otherwise."""
    for source in (ArrowBuffer(small_buffer), batchnorm_buffer):
        work = open_workspace(DataConfig(), source.spec.network, CPU)
        network, validation = expert_network(source, CPU), work.feed(work.dataset.validation)
        found = []
        for epoch in range(source.epochs + 1):
            load_snapshot(network, source, 0, epoch)
            with torch.no_grad():
                found.append(accuracy(network, validation.in_order()))
        assert found == source.accuracy[0].tolist()
    network.load_state_dict(split(source.running_stats(0, 0), source.spec.buffer_layout), strict=False)
    assert accuracy(network, validation.in_order()) != found[-1]


def test_every_expert_is_asked_at_every_stage(small_buffer):
    source = ArrowBuffer(small_buffer)

    def ask(network):
        return [float(next(network.parameters()).sum()), 7.0]

    found = measure_epochs("look", source, [0, 3], AnalysisContext(CPU, Screen()), ask)
    expected = [[float(source.snapshot(e, t)[: 128 * 64].view(128, 64).sum()) for t in (0, 3)] for e in (0, 1)]
    assert found.tolist() == [expected, [[7, 7], [7, 7]]]


def test_stages_that_are_there(small_buffer):
    source = ArrowBuffer(small_buffer)
    assert check_epochs(source, ()) == [0, 1, 2, 3]
    assert check_epochs(source, (3, 0, 3)) == [0, 3]
    with pytest.raises(ValueError, match=r"--epochs 4: .* 0 to 3"):
        check_epochs(source, (0, 4))
