"""Estimates of time and disk, against what is worked out by hand."""

import pytest
import torch

from raydd.campaigns.costs import (
    GRADIENT,
    SECOND,
    distillation_operations,
    estimate,
    experts_operations,
    measure_speed,
    network,
)
from raydd.campaigns.graph import Graph
from raydd.config.schema import DataConfig, DistillConfig, ExpertConfig, ExpertsConfig
from raydd.methods import complete
from raydd.models.zoo import build


def test_operations_of_a_network_are_its_products():
    """An MLP's are 2 a weight; a convolution's 2 a weight and pixel."""
    mlp = network("MLP", "cifar10")
    weights = sum(p.numel() for p in build("MLP", channels=3, size=32, classes=10).parameters() if p.ndim == 2)
    assert mlp.operations == 2 * weights
    convolution = network("ConvNetW32", "cifar10")
    layers = 2 * 9 * (3 * 32 * 32**2 + 32 * 32 * 16**2 + 32 * 32 * 8**2) + 2 * 32 * 16 * 10
    assert convolution.operations == layers


def test_operations_grow_with_all_that_they_depend_on():
    one = network("MLP", "digits").operations
    experts = ExpertConfig(network="MLP", num_experts=3, epochs=7)
    config = ExpertsConfig(data=DataConfig(validation=0.0), experts=experts)
    assert experts_operations(config) == 3 * 7 * 1437 * GRADIENT * one
    smooth = config.model_copy(update={"experts": experts.model_copy(update={"optimizer": "smooth"})})
    assert experts_operations(smooth) == 3 * experts_operations(config)
    run = complete(DistillConfig(steps=5, student_steps=4, ipc=2, batch_size=8, experts=experts))
    assert distillation_operations(run) == 5 * 4 * 8 * one * (GRADIENT + SECOND)
    whole = complete(DistillConfig(steps=5, student_steps=4, ipc=2, experts=experts))
    assert distillation_operations(whole) == 5 * 4 * 20 * one * (GRADIENT + SECOND)


def test_the_disk_of_experts_is_their_snapshots():
    config = ExpertsConfig(experts=ExpertConfig(network="MLP", num_experts=3, epochs=7))
    graph = Graph(experts={"e": config})
    found = estimate(graph, 1e9)
    assert found.disk == 4 * 3 * 8 * network("MLP", "digits").parameters
    assert estimate(graph, 1e9, frozenset({"e"})) == ({}, 0)
    assert found.seconds["e"] == pytest.approx(experts_operations(config) / 1e9)


def test_the_speed_of_this_machine_is_measured_on_one_thread_and_leaves_no_trace():
    threads = torch.get_num_threads()
    assert 1e8 < measure_speed(0.05) < 1e13
    assert torch.get_num_threads() == threads
