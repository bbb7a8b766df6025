"""The matching loss on an expert that takes no part, and how a run keeps it."""

import itertools
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from toy_runs import by_vector, open_run, toy_of, train_buffer
from variants import first

from raydd.buffer.arrow_buffer import ArrowBuffer, refresh_manifest
from raydd.buffer.expert_file import ExpertTrajectory, expert_path, write_expert
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.held_out import label_spread
from raydd.distillation.setup import Setup
from raydd.methods import METHODS
from raydd.numerics.rng import generator
from raydd.run.experts import open_buffer, without_last
from raydd.run.resolve import check_settings

CPU = torch.device("cpu")
TOY = {
    "ipc": 1,
    "steps": 5,
    "student_steps": 3,
    "span": 2,
    "checkpoint_every": 2,
    "probe_every": 2,
    "threads": 1,
    "lr": {"images": 20, "lr": 1e-4, "start": 0.05},
    "experts": {"network": "MLP", "num_experts": 3, "epochs": 4, "lr": 0.05},
}


toy = toy_of(TOY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_buffer(tmp_path_factory.mktemp("probe") / "buffer", toy("mtt"))


@pytest.fixture(scope="module")
def opened(folder):
    return open_buffer(folder, toy("mtt"), CPU)


def lines(out):
    return [json.loads(line) for line in (out / "probe.jsonl").read_text().splitlines()]


def recipe_without_last(config, buffer, work):
    return METHODS[config.method](Setup(config, work, without_last(buffer)))


def naive_losses(synset, buffer, work, expert, labels=None, nu=lambda t: 1.0):
    """Guo et al., Eq. 1, from every start epoch: S steps of SGD on the whole set by PyTorch alone, in float64."""
    _, student = by_vector(work.build().double())
    x, losses = synset.images.double(), []
    for t in range(3):
        start, target = (buffer.snapshot(expert, epoch).double() for epoch in (t, t + 2))
        theta, q = start, labels(student, target, x) if labels else synset.targets
        for _ in range(3):
            theta = theta.detach().requires_grad_()
            loss = nu(t) * torch.nn.functional.cross_entropy(student(theta, x), q.detach())
            theta = theta - float(synset.lr) * torch.autograd.grad(loss, theta)[0]
        losses.append(float(((theta.detach() - target) ** 2).sum() / ((start - target) ** 2).sum()))
    return losses


@pytest.mark.parametrize(
    ("layer", "how"),
    [
        ({"method": "mtt"}, {}),
        ({"method": "dpd", "lr": {"labels": 0}, "initial": "real"}, {}),
        ({"method": "tesla"}, {"labels": lambda student, target, x: student(target, x).softmax(1)}),
        # T+ is 2, its middle 1
        ({"method": "ast"}, {"nu": lambda t: 1 / math.log(9) if t < 1 else math.log(8 + t - 1)}),
    ],
)
def test_the_losses_are_equation_1_whatever_the_method_adds_to_it(layer, how, opened):
    buffer, work = opened[0], open_buffer(opened[0].folder, toy("mtt", {"data": {"augment": "none"}}), CPU)[1]
    recipe = recipe_without_last(toy(layer["method"], layer), buffer, work)
    look = recipe.probe(2)
    doubled = {"images": recipe.synset.images.double(), "lr": recipe.synset.lr.double()}
    losses = look.losses(recipe.synset.with_leaves(doubled))
    expected = naive_losses(recipe.synset, buffer, work, 2, **how)
    assert losses == pytest.approx(expected, rel=1e-6)
    assert all(abs(loss - 1) > 1e-3 for loss in losses)
    assert look.losses(recipe.synset.with_leaves(doubled), [2, 0]) == [losses[2], losses[0]]


def test_two_measures_see_the_same_batches_and_views(opened):
    recipe = recipe_without_last(toy("mtt", {"batch_size": 7}), *opened)
    look = recipe.probe(2)
    losses = look.losses(recipe.synset)
    assert len(losses) == 3
    torch.manual_seed(5)
    assert look.losses(recipe.synset) == losses
    near = recipe.synset.with_leaves({"images": recipe.synset.images + 1e-6})
    assert look.losses(near) == pytest.approx(losses, rel=1e-4)
    other = recipe_without_last(toy("mtt", {"batch_size": 7, "seed": 1}), *opened).probe(2)
    assert other.losses(recipe.synset) != pytest.approx(losses, rel=1e-3)
    assert recipe.probe(1).losses(recipe.synset) != pytest.approx(losses, rel=1e-3)


@pytest.fixture(scope="module")
def exchanged(folder, tmp_path_factory):
    """The same buffer with another expert in the last one's place."""
    out = shutil.copytree(folder, tmp_path_factory.mktemp("exchanged") / "buffer")
    source, nothing = ArrowBuffer(folder), [math.nan] * 5
    theta = torch.stack([1.5 * source.snapshot(2, epoch) for epoch in range(5)])
    expert_path(out, 2).unlink()
    write_expert(out, source.spec, 2, ExpertTrajectory(theta, None, range(5), nothing, nothing))
    refresh_manifest(out)
    return out


@pytest.mark.parametrize("method", first(name for name in METHODS if toy(name).match == "trajectories"))
def test_the_expert_that_is_looked_at_takes_no_part(method, folder, exchanged, tmp_path):
    """With another in its place the set is the same, bit by bit, unless it may take part; the measures are not."""
    sets, measures = {}, []
    for every in (2, None):
        for buffer in (folder, exchanged):
            config, out = toy(method, {"probe_every": every, "steps": 8}), tmp_path / f"{every}-{buffer == folder}"
            list(open_run(config, out, *open_buffer(buffer, config, CPU)).steps())
            sets.setdefault(every, []).append(SyntheticSet.load(out / "synset.arrow"))
            measures += [lines(out)] if every else []
    assert same(*sets[2])
    assert not same(*sets[None])
    assert measures[0] != measures[1]


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "labels", "lr"))


@pytest.mark.parametrize("method", ["mtt", "tesla", "datm", "mct"])
def test_a_run_measures_its_set_at_the_start_and_every_so_many_steps(method, opened, tmp_path):
    run = open_run(toy(method), tmp_path / "run", *opened)
    sets = {0: run._distillation.result}
    for step in run.steps():
        sets[step.step] = run._distillation.result
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found] == [0, 2, 4]
    look = recipe_without_last(toy(method), *opened).probe(2)
    for line in found:
        assert line["losses"] == look.losses(sets[line["step"]])
        if method in ("datm", "tesla"):  # the labels that are scored, which tesla has only in the end
            finished = run._finish_set(sets[line["step"]])
            assert line["label_std"] == pytest.approx(spread(finished.labels))
        else:
            assert line["label_std"] is None
    assert found[0]["losses"] != found[1]["losses"]


@pytest.mark.parametrize("method", first(["mtt", "datm", "ftd"], 1))
def test_killed_at_any_step_it_keeps_the_same_measures(method, opened, tmp_path):
    for every in (1, 2):
        config = toy(method, {"probe_every": every})
        list(open_run(config, tmp_path / f"whole{every}", *opened).steps())
        assert [line["step"] for line in lines(tmp_path / f"whole{every}")] == list(range(0, 6, every))
        for killed in range(6):
            out = tmp_path / f"{every}-{killed}"
            list(itertools.islice(open_run(config, out, *opened).steps(), killed))
            list(open_run(config, out, *opened, resume=True).steps())
            for name in ("probe.jsonl", "synset.arrow", "metrics.jsonl"):
                assert (out / name).read_bytes() == (tmp_path / f"whole{every}" / name).read_bytes()


class Spoiled:
    """Gives NaN at outer step 4 for the draws of the first attempt, as an unlucky draw would."""

    parts, joint = 1, False

    def __init__(self, objective):
        self._objective = objective

    def init(self, rng):
        return self._objective.init(rng)

    def loss(self, synset, state, step, rng, part=0):
        unlucky = rng.initial_seed() == generator(0, "outer", 3, 0).initial_seed()
        loss, state = self._objective.loss(synset, state, step, rng, part)
        return loss * float("nan") if unlucky else loss, state


def test_a_rollback_takes_back_what_was_measured_since(opened, tmp_path, monkeypatch):
    def spoil(setup):
        recipe = original(setup)
        return recipe._replace(objective=Spoiled(recipe.objective))

    original = METHODS["mtt"]
    look = recipe_without_last(toy("mtt"), *opened).probe(2)
    monkeypatch.setitem(METHODS, "mtt", replace(original, compose=spoil))
    config = toy("mtt", {"probe_every": 1})
    run, sets, back = open_run(config, tmp_path / "run", *opened), {}, []
    for step in run.steps():
        sets[step.step] = run._distillation.result
        back.append(step.rolled_back_to)
    assert back == [None, None, None, 2, None, None, None]
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found] == [0, 1, 2, 3, 4, 5]
    assert [line["losses"] for line in found[1:]] == [look.losses(sets[step]) for step in range(1, 6)]


def test_without_being_asked_a_run_measures_nothing_and_takes_all_experts(opened, tmp_path):
    run = open_run(toy("mtt", {"probe_every": None}), tmp_path / "run", *opened)
    list(run.steps())
    assert not (tmp_path / "run" / "probe.jsonl").exists()
    assert without_last(opened[0]).experts == (0, 1)
    assert opened[0].experts == (0, 1, 2)


def test_the_only_expert_cannot_be_left_out(folder, tmp_path):
    config = toy("mtt", {"experts": {"num_experts": 1}})
    alone, work = open_buffer(folder, config, CPU, 1)
    for refused in (lambda: open_run(config, tmp_path / "run", alone, work), lambda: without_last(alone)):
        with pytest.raises(ValueError, match="1 expert, and one takes no part: train at least 2") as caught:
            refused()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="probe_every needs an expert that takes no part"):
        check_settings(config)
    assert not (tmp_path / "run").exists()


def test_a_method_without_trajectories_has_nothing_to_measure(opened, tmp_path, monkeypatch):
    original = METHODS["mtt"]
    monkeypatch.setitem(METHODS, "mtt", replace(original, compose=lambda setup: original(setup)._replace(probe=None)))
    with pytest.raises(ValueError, match="probe_every = 2: method mtt matches no trajectories"):
        open_run(toy("mtt"), tmp_path / "run", *opened)
    assert not (tmp_path / "run").exists()


def spread(logits):
    """Guo et al., Fig. 6, an image at a time."""
    values = []
    for row in logits.double().tolist():
        shares = [math.exp(value) / sum(math.exp(other) for other in row) for value in row]
        mean = sum(shares) / len(shares)
        values.append(math.sqrt(sum((share - mean) ** 2 for share in shares) / len(shares)))
    return sum(values) / len(values)


def test_how_far_labels_spread_by_hand():
    def labelled(labels):
        images = torch.zeros(len(labels), 1, 2, 2)
        return SyntheticSet(images, labels, torch.tensor(0.1), Transform("raw01"), "toy", ("a", "b"))

    # softmax(ln 3, 0) = (3/4, 1/4) spreads by 1/4 about 1/2; an even label does not spread
    assert label_spread(labelled(torch.tensor([[math.log(3), 0.0]]))) == pytest.approx(0.25)
    assert label_spread(labelled(torch.tensor([[math.log(3), 0.0], [4.0, 4.0]]))) == pytest.approx(0.125)
    assert label_spread(labelled(torch.tensor([0, 1]))) is None


HELD = """
import torch
from raydd.run.requirements import memory_use
before = memory_use(torch.device("cpu"))
held = torch.ones(50_000_000)  # 200 MB
during = memory_use(torch.device("cpu"))
print(during["resident_mb"] - before["resident_mb"], during["device_mb"])
"""


@pytest.mark.slow
def test_memory_is_that_of_this_process():
    """In a process of its own: this one may have kept memory that such a tensor fits into."""
    answer = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True).stdout.split()
    assert float(answer[0]) == pytest.approx(200, abs=20)
    assert answer[1] == "None"
