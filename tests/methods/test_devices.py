"""Nothing in a step waits for its device, and nothing is computed elsewhere.

On the device ``meta`` tensors have shapes and no numbers: what reads a number raises, and so does what mixes devices.
"""

from dataclasses import replace

import pytest
import torch
from variants import first

from raydd.buffer.segments import InMemory
from raydd.config.parsing import build
from raydd.config.schema import DataConfig, DistillConfig, ExpertConfig
from raydd.data import synset as module
from raydd.data.workspace import open_workspace
from raydd.distillation.loop import Distillation
from raydd.distillation.setup import Setup
from raydd.evaluation import student
from raydd.evaluation.protocols import find_protocol
from raydd.methods import METHODS, complete
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.training import expert
from raydd.training.optimizer_steps import STEPS

META, CPU = torch.device("meta"), torch.device("cpu")
TOY = {"ipc": 2, "lr": {"start": 0.05}, "experts": {"network": "ConvNetW8", "num_experts": 2, "epochs": 3}}
FAMILIES = {
    "trajectories": {"student_steps": 4, "span": 1, "lr": {"images": 20, "lr": 1e-4}},
    "statistics": {
        "statistic": {"batch_real": 8, "refresh": 3, "epochs": 2, "region": 2, "batch_size": 32, "queue_steps": 2}
    },
    "loss": {
        "student_steps": 5,
        "lr": {"images": 0.02, "lr": 0.0},
        "unrolled": {"batch_real": 16, "window": 3, "radius": 0},
    },
    "kernel": {"lr": {"images": 0.02}, "kernel": {"batch_real": 16, "pool": 2, "renew": 2}},
}
MOSAICS = {"formation": {"factor": 2}}


def family(method):
    return complete(build(DistillConfig, {"method": method})).match


QUICK = ("datm", "tgdd", "dc", "idm")
LEARNING = [method for method in METHODS if family(method) != "nothing"]


def setups(method, *layers):
    """The method's configuration and its experts, with everything on the CPU."""
    config = complete(build(DistillConfig, TOY, FAMILIES[family(method)], {"method": method}, *layers))
    work = open_workspace(config.data, config.experts.network, CPU)
    model = FlatModel(work.build)
    paths = [torch.stack([model.init(generator(0, one, epoch)) for epoch in range(4)]) for one in range(2)]
    return Setup(config, work, InMemory(paths, model.layout))


def on_meta(here, monkeypatch):
    """The method's recipe on the device ``meta``, from a start that was made on the CPU."""
    method = here.config.method
    start = METHODS[method](here).synset
    rows = module.rows_by_class(start)
    monkeypatch.setattr(module, "rows_by_class", lambda synset: rows)  # read once, from labels that are not learned
    return METHODS[method](here._replace(work=replace(here.work, device=META), start=start))


@pytest.mark.parametrize(
    ("method", "layer"),
    [
        *(pytest.param(method, {}, marks=[] if method in QUICK else pytest.mark.slow) for method in LEARNING),
        ("mtt", MOSAICS),
        ("tgdd", MOSAICS),
    ],
)
def test_the_loss_and_its_gradient_are_on_the_device_and_read_nothing(method, layer, monkeypatch):
    recipe = on_meta(setups(method, layer), monkeypatch)
    synset, state = recipe.synset, recipe.objective.init(generator(0))
    assert synset.images.device == synset.lr.device == META
    leaves = {name: getattr(synset, name).requires_grad_() for name in recipe.learn}
    for step in range(1 if method == "idm" else 3):  # its queue then reads how many images were right, once a network
        for part in range(min(3, recipe.objective.parts)):
            rng = generator(0, step, part)
            loss, state = recipe.objective.loss(synset.with_leaves(leaves), state, step, rng, part)
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            assert {loss.device, *(each.device for each in gradients if each is not None)} == {META}


@pytest.mark.parametrize("method", first(LEARNING, 0, keep=("mtt", "dm")))
def test_a_step_is_on_the_device_and_reads_it_once(method, monkeypatch):
    """A gate, which must know the loss before the step, is left out."""
    recipe = on_meta(setups(method), monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "__float__", lambda tensor: 0.05)  # the learning rate at the start
        run = Distillation(recipe.objective, recipe.synset, recipe.learn, 0, ema=recipe.ema)
    reads = []
    monkeypatch.setattr(Distillation, "_read", lambda run, losses, finite: (reads.append(losses), (1.0, 0.05, True))[1])
    steps = 1 if method == "idm" else 2  # its queue then reads how many images were right, once a network
    assert len(list(run.run(steps))) == len(reads) == steps
    assert {loss.device for losses in reads for loss in losses} == {META}
    assert run.result.images.device == META


@pytest.mark.parametrize("optimizer", STEPS)
def test_experts_are_trained_on_the_device_and_read_once_an_epoch(optimizer, monkeypatch):
    data = DataConfig()
    work = replace(open_workspace(data, "ConvNetW8", CPU), device=META)
    images, steps = work.feed(work.dataset.train), []
    monkeypatch.setattr(expert, "_snapshot", lambda *arguments: None)
    kind = expert.Adam if optimizer == "adam" else expert.Sgd
    own = kind.step
    monkeypatch.setattr(kind, "step", lambda self: steps.append(own(self)))
    config = ExpertConfig(network="ConvNetW8", epochs=1, batch_size=256, optimizer=optimizer)
    with pytest.raises(RuntimeError, match="item"):  # the mean loss of the epoch
        list(expert.train_expert(config, work.build, images, images, augment("dsa"), (0, 0)))
    assert len(steps) == -(-len(images) // 256)


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_an_evaluation_is_on_the_device_and_reads_nothing_before_its_test(cutmix, monkeypatch):
    here = setups("mtt")
    start, work = METHODS["mtt"](here).synset, replace(here.work, device=META)
    monkeypatch.setattr(student, "measure_accuracy", lambda network, test: next(network.parameters()).device)
    protocol = find_protocol("mtt").model_copy(update={"epochs": 3, "lr": 0.01, "cutmix": cutmix})
    test = work.feed(work.dataset.test)
    assert student.evaluate(start, work.build, test, protocol, augment("dsa"), 0) == META
