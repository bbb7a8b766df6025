"""What every method promises, checked for each row of `METHODS` at toy size."""

import itertools
import math

import pytest
import torch

from raydd.checks import open_buffer
from raydd.config import DistillConfig
from raydd.data.buffer import ArrowBuffer, refresh_manifest
from raydd.data.trajectory import InMemory
from raydd.distill.loop import Distillation
from raydd.experts import Job, Trainer, prepare
from raydd.methods import METHODS, complete
from raydd.numerics.rng import generator
from raydd.recipe import Recipe, Setup, initial, leaves
from raydd.runs import Run
from raydd.settings import build
from raydd.workspace import open_workspace

CPU = torch.device("cpu")
PARTS = ("images", "labels", "lr")
TOY = {
    "ipc": 1,
    "steps": 5,
    "student_steps": 4,
    "span": 1,
    "checkpoint_every": 2,
    "lr": {"images": 20, "lr": 1e-4, "start": 0.05},
    "experts": {"network": "ConvNetW8", "num_experts": 2, "epochs": 3, "lr": 0.05},
}


def toy(method, *layers):
    return complete(build(DistillConfig, TOY, {"method": method}, *layers))


def train_buffer(folder, config):
    job, missing = prepare(Job(config.data, config.experts, config.seed, folder, "cpu"))
    trainer = Trainer(job)
    for index in missing:
        trainer.train(index)
    refresh_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_buffer(tmp_path_factory.mktemp("methods") / "buffer", toy("mtt"))


@pytest.fixture(scope="module")
def source(folder):
    """The experts in memory: nothing here needs a folder."""
    buffer = ArrowBuffer(folder)
    paths = [torch.stack([buffer.snapshot(e, t) for t in range(4)]) for e in buffer.experts]
    return InMemory(paths, buffer.layout)


def setup(config, source, device=CPU):
    return Setup(config, open_workspace(config.data, config.experts.network, device), source)


def distillation(config, source, device=CPU):
    recipe = METHODS[config.method](setup(config, source, device))
    return Distillation(recipe.objective, recipe.synset, recipe.learn, config.seed, gate=recipe.gate, ema=recipe.ema)


def distil(config, source, device=CPU):
    whole = distillation(config, source, device)
    return list(whole.run(config.steps)), whole.result


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in PARTS)


each_method = pytest.mark.parametrize("method", METHODS)


@each_method
def test_it_runs_from_the_start_that_the_settings_ask_for(method, source, device):
    config = toy(method)
    steps, result = distil(config, source, device)
    assert [step.step for step in steps] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(step.loss) and step.stepped for step in steps)
    assert result.images.shape == (10, 1, 8, 8)
    assert {getattr(result, name).device.type for name in PARTS} == {device.type}
    assert (result.dataset, len(result.classes), result.ipc) == ("digits", 10, 1)
    start = METHODS[method](setup(config, source)).synset
    assert float(start.lr) == pytest.approx(0.05)
    assert start.transform.hash == result.transform.hash


@each_method
@pytest.mark.parametrize("layer", [{}, {"batch_size": 7}, {"initial": "noise", "lr": {"labels": 0}}, {"ipc": 2}])
def test_its_loss_goes_down(method, layer, source):
    """On one segment and without augmentation, so that only learning changes the loss."""
    still = {"window": {"low": 1, "high": 1}, "data": {"augment": "none"}, "steps": 40}
    steps, _ = distil(toy(method, still, layer), InMemory(source.trajectories[:1], source.layout))
    losses = [step.loss for step in steps]
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


@each_method
@pytest.mark.parametrize("step", [0, 1e-4])
def test_gradients_reach_exactly_the_declared_leaves(method, step, source):
    config = toy(method, {"lr": {"lr": step}, "steps": 1})
    recipe = METHODS[method](setup(config, source))
    assert ("lr" in recipe.learn) == (step > 0)
    leaves = {name: getattr(recipe.synset, name).clone().requires_grad_() for name in recipe.learn}
    state = recipe.objective.init(generator(0))
    loss, _ = recipe.objective.loss(recipe.synset.with_leaves(leaves), state, 0, generator(1))
    for gradient in torch.autograd.grad(loss, list(leaves.values())):
        assert torch.isfinite(gradient).all()
        assert gradient.flatten(1).abs().sum(1).min() > 0 if gradient.ndim > 1 else gradient.abs().sum() > 0
    _, result = distil(config, source)
    for name in PARTS:
        assert torch.equal(getattr(result, name), getattr(recipe.synset, name)) == (name not in recipe.learn)


@each_method
def test_a_run_is_its_seed_and_nothing_else(method, source):
    torch.manual_seed(1)
    steps, first = distil(toy(method), source)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, second = distil(toy(method), source)
    assert torch.equal(torch.get_rng_state(), state)
    assert steps == again
    assert same(first, second)
    _, other = distil(toy(method, {"seed": 1}), source)
    assert not torch.equal(first.images, other.images)


@each_method
@pytest.mark.parametrize("layer", [{}, {"ema": 0.5, "batch_size": 7}])
def test_killed_at_any_step_it_resumes_to_the_same_bits(method, layer, folder, tmp_path):
    config = toy(method, layer)
    buffer, work = open_buffer(folder, config, CPU)
    whole = Run(config, tmp_path / "whole", buffer, work)
    steps = list(whole.steps())
    assert len(steps) == 5
    expected = (tmp_path / "whole" / "synset.arrow").read_bytes()
    for killed in range(6):
        out = tmp_path / str(killed)
        list(itertools.islice(Run(config, out, buffer, work).steps(), killed))
        rest = list(Run(config, out, buffer, work, resume=True).steps())
        assert rest == steps[5 - len(rest) :]
        assert len(rest) < 5 or killed < 3
        assert (out / "synset.arrow").read_bytes() == expected
        assert (out / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@each_method
def test_batch_norm_experts_work_from_training_to_a_set(method, tmp_path):
    config = toy(method, {"experts": {"network": "ConvNetW8BN"}, "evaluate_every": 5})
    buffer, work = open_buffer(train_buffer(tmp_path / "buffer", config), config, CPU)
    assert buffer.running_stats(1, 2).numel() == 2 * 8 * 2
    steps = list(Run(config, tmp_path / "run", buffer, work).steps())
    assert all(math.isfinite(step.loss) and step.stepped for step in steps)
    assert (tmp_path / "run" / "synset.arrow").exists()


@pytest.mark.parametrize("backprop", ["full", "adjoint", "truncated"])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_mtt_is_composed_as_configured(backprop, batch_size, source):
    config = toy("mtt", {"backprop": backprop, "batch_size": batch_size, "window": {"low": 1}, "gate": 2, "ema": 0.9})
    recipe = METHODS["mtt"](setup(config, source))
    objective = recipe.objective
    assert objective.window(0) == objective.window(999) == (1, 2)
    assert (objective.span, objective.student_steps, objective.batch_size) == (1, 4, batch_size)
    assert objective.backprop == backprop
    assert (recipe.gate, recipe.ema) == (2, 0.9)
    assert recipe.learn == {"images": (20, 0.5), "lr": (1e-4, 0.5)}
    assert METHODS["mtt"](setup(toy("mtt", {"window": {"high": 0}}), source)).objective.window(0) == (0, 0)


def test_full_and_adjoint_are_the_same_method(source):
    (full, a), (adjoint, b) = (distil(toy("mtt", {"backprop": mode}), source) for mode in ("full", "adjoint"))
    assert [step.loss for step in full] == pytest.approx([step.loss for step in adjoint], rel=1e-4)
    torch.testing.assert_close(a.images, b.images, rtol=0, atol=1e-3)


class Brightness:
    """Matches nothing of the experts: the mean of the images shall be 1."""

    def init(self, rng):
        return None

    def loss(self, synset, state, step, rng):
        return (synset.images.mean() - 1).square(), state


def test_a_new_method_is_a_function_and_a_row(folder, tmp_path, monkeypatch):
    def bright(setup):
        return Recipe(Brightness(), initial(setup), leaves(setup.config))

    monkeypatch.setitem(METHODS, "bright", bright)
    config = toy("bright", {"lr": {"lr": 0, "images": 100}, "steps": 30})
    buffer, work = open_buffer(folder, config, CPU)
    run = Run(config, tmp_path / "run", buffer, work)
    losses = [step.loss for step in run.steps()]
    assert losses[-1] < 0.01 * losses[0]
