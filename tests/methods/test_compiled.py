"""Every method that learns through a network has the same loss and gradient with compiled steps."""

import pytest
import torch

from raydd.config.parsing import build
from raydd.config.rules import method_rules, unread
from raydd.config.schema import DistillConfig
from raydd.data.workspace import open_workspace
from raydd.evaluation.protocols import find_protocol
from raydd.evaluation.student import evaluate
from raydd.methods import METHODS, complete
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from tests.methods.test_devices import LEARNING, QUICK, family, setups

WITHOUT = {"kip", "sre2l"}


@pytest.fixture
def traced(monkeypatch):
    """The functions that were compiled: traced alone, since the compiler takes half a minute."""
    graphs = []
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graphs.append(graph) or graph)
    return graphs


def gradients(method, compile):
    setup = setups(method, {"compile": compile})
    recipe = METHODS[method](setup)
    leaves = {name: getattr(recipe.synset, name).requires_grad_() for name in recipe.learn}
    state, found = recipe.objective.init(generator(0)), []
    for step in range(2):
        for part in range(min(2, recipe.objective.parts)):
            loss, state = recipe.objective.loss(
                recipe.synset.with_leaves(leaves), state, step, generator(0, step, part), part
            )
            found += [loss.detach(), *torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)]
    return found


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=[] if method in QUICK else pytest.mark.slow)
        for method in LEARNING
        if method not in WITHOUT
    ],
)
def test_the_loss_and_its_gradients_are_the_same_but_for_rounding(method, traced):
    plain = gradients(method, False)
    assert traced == []
    fast = gradients(method, True)
    assert traced
    for one, other in zip(fast, plain, strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm() + 1e-6, method
    for one, other in zip(gradients(method, True), fast, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_methods_with_nothing_to_compile_refuse_it(method):
    config = complete(build(DistillConfig, {"method": method, "compile": True}))
    if method in WITHOUT:
        with pytest.raises(ValueError, match=f"compile = true: method {method} has no steps of networks that could be"):
            method_rules(config)
    elif method in LEARNING:
        assert not unread("compile", family(method))
        method_rules(config)
    else:
        assert unread("compile", family(method))


def test_a_kernel_of_no_network_refuses_a_precision_of_networks():
    config = complete(build(DistillConfig, {"method": "kip", "precision": "bfloat16"}))
    with pytest.raises(ValueError, match="precision = bfloat16: the kernel of method kip is of no network"):
        method_rules(config)
    for method in ("frepo", "rcig"):
        method_rules(complete(build(DistillConfig, {"method": method, "precision": "bfloat16"})))


@pytest.mark.parametrize("cutmix", [0.0, 0.7])
def test_a_compiled_evaluation_comes_to_the_same_weights(cutmix, traced, monkeypatch):
    setup = setups("dm")
    work, ends = open_workspace(setup.config.data, "ConvNetW8", torch.device("cpu")), []
    monkeypatch.setattr("raydd.evaluation.student.measure_accuracy", lambda network, test: ends.append(network) or 1.0)
    synset = METHODS["dm"](setup).synset
    for compile in (False, True):
        protocol = find_protocol("dm").changed(3, compile=compile)
        protocol = protocol.model_copy(update={"cutmix": cutmix, "batch_size": 12})
        evaluate(synset, work.build, work.feed(work.dataset.test), protocol, augment("dsa"), 0)
    assert find_protocol("dm").changed(3, compile=True).name == "dm, 3 epochs, compiled"
    assert traced
    plain, fast = (torch.cat([value.flatten() for value in network.parameters()]) for network in ends)
    start = FlatModel(work.build).init(generator(0, "student", "init"))
    assert (plain - fast).norm() < 1e-3 * (plain - start).norm()
