"""The parts that methods are made of: every outer loss worked out anew, in float64, from the papers' equations."""

import math
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from toy_runs import by_vector, toy_of
from variants import first_rows

import raydd.distillation.trajectory_matching
from raydd.buffer.convexified import Convexified
from raydd.buffer.segments import InMemory
from raydd.config.parsing import build
from raydd.config.rules import method_rules
from raydd.config.schema import DistillConfig
from raydd.data.preprocessing import Transform
from raydd.data.workspace import open_workspace
from raydd.distillation.leaves import Leaf
from raydd.distillation.loop import Distillation
from raydd.distillation.setup import Setup, leaves
from raydd.distillation.trajectory_matching import start_window
from raydd.methods import METHODS, complete
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.run.resolve import check_start
from raydd.selection.class_sampler import Experts, Request
from raydd.selection.starting_images import INITIAL, SOFT_LABELS

EPOCHS, SPAN, STEPS, HIGH = 5, 2, 3, 2
NO_TRANSFORM = Transform("raw01")
TOY = {
    "ipc": 1,
    "steps": 2,
    "student_steps": STEPS,
    "span": SPAN,
    "window": {"low": 0, "high": HIGH},
    "lr": {"images": 20, "lr": 1e-4, "start": 0.05},
    "data": {"augment": "none"},
    "experts": {"network": "MLP", "num_experts": 2, "epochs": EPOCHS},
}


toy = toy_of(TOY)


WITH_STYLES = {"haba"}  # whose loss is written out in test_styles.py
TRAJECTORIES = [
    name for name in METHODS if complete(DistillConfig(method=name)).match == "trajectories" and name not in WITH_STYLES
]


@pytest.fixture(scope="module")
def work():
    config = toy("mtt")
    return open_workspace(config.data, config.experts.network, torch.device("cpu"))


@pytest.fixture(scope="module")
def source(work):
    """Two experts that walk at random, each tensor at a pace of its own that changes by the epoch."""
    model, paths = FlatModel(work.build), []
    for expert in range(2):
        rng = generator(0, "walk", expert)
        path = [model.init(rng)]
        for _ in range(EPOCHS):
            steps = [
                0.05 * torch.rand((), generator=rng) * torch.randn(slot.numel, generator=rng) for slot in model.layout
            ]
            path.append(path[-1] + torch.cat(steps))
        paths.append(torch.stack(path))
    return InMemory(paths, model.layout)


def composed(config, work, source):
    return METHODS[config.method](Setup(config, work, source))


def in_float64(synset, soft):
    labels = synset.labels.double() if soft else synset.labels
    return synset.with_leaves({"images": synset.images.double(), "labels": labels, "lr": synset.lr.double()})


class Paper(NamedTuple):
    """What a paper's outer loss adds to Cazenavette et al., arXiv 2203.11932, Algorithm 1."""

    expert_labels: bool = False  # Cui et al., section 3.4
    constant: bool = False  # Cui et al., section 3.2: weights are constants where a step is differentiated
    rate: float = 0.0  # DPD, Eq. 5-9
    theta: float | None = None  # Shen et al., Eq. 20
    rho: float = 0.0  # Shen et al., Eq. 23
    inside: bool = False  # Shen et al., Eq. 22
    straight: bool = False  # Zhong et al., Eq. 8-10


PAPERS = {
    "mtt": Paper(),
    "ftd": Paper(),
    "tesla": Paper(expert_labels=True, constant=True),
    "datm": Paper(),
    "dpd": Paper(rate=0.1),
    "ast": Paper(theta=8.0, rho=0.1, inside=True),
    "mct": Paper(straight=True),
}
ALONE = [
    ("mtt", {"balance": 3.0}, {"theta": 3.0}),
    ("mtt", {"intermediate": "equal"}, {"inside": True}),
    ("mtt", {"perturbation": 0.2}, {"rho": 0.2}),
    ("mtt", {"labels": "expert"}, {"expert_labels": True}),
    ("mtt", {"backprop": "truncated"}, {"constant": True}),
    *[(method, {"pruning": {"rate": 0.3}}, {"rate": 0.3}) for method in PAPERS],
    ("datm", {"balance": 8.0, "intermediate": "equal"}, {"theta": 8.0, "inside": True}),
    ("mct", {"intermediate": "equal", "perturbation": 0.1}, {"inside": True, "rho": 0.1}),
    ("mct", {"labels": "expert"}, {"expert_labels": True}),
]


def networks(work):
    """The network as a function of a vector, by PyTorch alone."""
    return by_vector(work.build().double())


def on_the_line(path, split, c):
    """Zhong et al., Eq. 8-10, from the first snapshot to the last, a tensor at a time; stored in float32."""
    snapshots = [split(row.double()) for row in path]
    parts = []
    for name in snapshots[0]:
        lengths = [float((b[name] - a[name]).norm()) for a, b in pairwise(snapshots)]
        beta = [sum(lengths[:t]) / sum(lengths) for t in range(len(snapshots))]
        below, above = beta[math.floor(c)], beta[math.ceil(c)]
        share = below + (c - math.floor(c)) * (above - below)
        parts.append(((1 - share) * snapshots[0][name] + share * snapshots[-1][name]).flatten())
    return torch.cat(parts).float().double()


def shaken(theta, split, rho, rng):
    """Shen et al., Eq. 23, a filter at a time."""
    parts = []
    for tensor in split(theta).values():
        if rho and tensor.ndim >= 2:
            d = torch.randn(tensor.flatten(1).shape, generator=rng).double()
            tensor = torch.stack([w + rho * r * w.norm() / r.norm() for w, r in zip(tensor, d, strict=True)])
        parts.append(tensor.flatten())
    return torch.cat(parts)


def closeness(student, start, target, rate):
    """|student - target|^2 / |start - target|^2 without the parameters that differ most (DPD, Eq. 5-9)."""
    gaps = (student - target).abs().tolist()
    order = sorted(range(len(gaps)), key=lambda row: -gaps[row])
    rows = order[math.floor(rate * len(gaps)) :] if rate else order
    return (student[rows] - target[rows]).square().sum() / (start[rows] - target[rows]).square().sum()


def naive(paper, synset, source, work, rng):
    """One outer loss and the start epoch it was drawn for."""
    split, network = networks(work)
    path = source.trajectories[int(torch.randint(2, (), generator=rng))]
    if paper.straight:
        t = HIGH * float(torch.rand((), dtype=torch.float64, generator=rng))
        passed = [on_the_line(path, split, t + k) for k in range(SPAN + 1)]
    else:
        t = int(torch.randint(0, HIGH + 1, (), generator=rng))
        passed = [path[t + k].double() for k in range(SPAN + 1)]
    start, nu = shaken(passed[0], split, paper.rho, rng), 1.0
    if paper.theta is not None:
        value = math.log(abs(t - HIGH / 2) + paper.theta)
        nu = value if t >= HIGH / 2 else 1 / value
    if paper.expert_labels:
        q = network(passed[-1], synset.images).softmax(1)
    elif synset.labels.ndim == 2:
        q = synset.labels.softmax(1)
    else:
        q = torch.eye(10, dtype=torch.float64)[synset.labels]
    thetas = [start.detach().requires_grad_()]
    for _ in range(STEPS):
        at = thetas[-1].detach().requires_grad_() if paper.constant else thetas[-1]
        said = network(at, synset.images)
        loss = -nu * (q * (said - said.exp().sum(1, keepdim=True).log())).sum() / len(q)
        thetas.append(thetas[-1] - synset.lr * torch.autograd.grad(loss, at, create_graph=True)[0])
    total = closeness(thetas[-1], start, passed[-1], paper.rate)
    for k in range(1, SPAN) if paper.inside else ():
        total = total + closeness(thetas[k * STEPS // SPAN], start, passed[k], paper.rate)
    return total, t


def compare(config, paper, work, source):
    """Loss and gradients of some draws against the naive ones; returns the start epochs."""
    recipe, epochs = composed(config, work, source), set()
    start = in_float64(recipe.synset, recipe.synset.label_kind == "logits")
    for draw in range(5):
        found = {name: getattr(start, name).clone().requires_grad_() for name in recipe.learn}
        loss, _ = recipe.objective.loss(start.with_leaves(found), None, 0, generator(draw))
        gradients = torch.autograd.grad(loss, list(found.values()))
        again = {name: getattr(start, name).clone().requires_grad_() for name in recipe.learn}
        expected, t = naive(paper, start.with_leaves(again), source, work, generator(draw))
        epochs.add(t)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        for gradient, right in zip(gradients, torch.autograd.grad(expected, list(again.values())), strict=True):
            assert gradient.abs().sum() > 0
            torch.testing.assert_close(gradient, right, rtol=1e-6, atol=1e-9 * float(right.abs().max()))
    return epochs


@pytest.mark.parametrize("method", TRAJECTORIES)
def test_the_outer_loss_of_every_method_is_its_papers(method, work, source):
    epochs = compare(toy(method), PAPERS[method], work, source)
    if method == "mct":
        assert all(epoch != int(epoch) for epoch in epochs)
    else:
        assert epochs == {0, 1, 2}


@pytest.mark.parametrize(("method", "layer", "part"), first_rows(ALONE, 4))
def test_every_part_is_had_with_any_method(method, layer, part, work, source):
    epochs = compare(toy(method, layer), PAPERS[method]._replace(**part), work, source)
    assert 0 <= min(epochs) <= max(epochs) < EPOCHS


@pytest.mark.parametrize(
    ("method", "layer"),
    [
        ("mtt", {"balance": 8.0}),
        ("mtt", {"intermediate": "equal"}),
        ("mtt", {"intermediate": "varied"}),
        ("mtt", {"perturbation": 0.1}),
        ("mtt", {"initial": "representative"}),
        ("mtt", {"initial": "correctly_classified"}),
        ("mtt", {"ema": 0.5}),
        ("mct", {"window": {"continuous": False}}),
        ("mct", {"waypoints": [2]}),
        ("datm", {"lr": {"labels": 0}}),
        *[(method, {"pruning": {"rate": 0.2}}) for method in TRAJECTORIES],
        ("mtt", {"formation": {"factor": 2}}),
        ("mtt", {"space": "pixels", "lr": {"images": 2}}),
        ("mtt", {"initial": "herding"}),
    ],
)
def test_a_part_changes_what_is_distilled(method, layer, work, source):
    results = []
    for config in (toy(method), toy(method, layer)):
        recipe = composed(config, work, source)
        run = Distillation(recipe.objective, recipe.synset, recipe.learn, config.seed, ema=recipe.ema)
        assert all(math.isfinite(step.loss) for step in run.run(2))
        results.append(run.result.images)
    assert not torch.equal(*results)


def test_ftd_averages_the_images_and_its_experts_are_sharpness_aware(work, source):
    config = toy("ftd")
    assert composed(config, work, source).ema == 0.9995
    assert config.experts.optimizer == "gsam"


def test_tesla_is_scored_with_the_mean_probabilities_of_all_experts_after_their_last_epoch(work, source):
    config = toy("tesla", {"window": {"high": 1}})
    recipe = composed(config, work, source)
    assert recipe.objective.backprop == "truncated"
    assert recipe.synset.label_kind == "hard"
    finished = recipe.finish(recipe.synset)
    _, network = networks(work)
    images = recipe.synset.images.double()
    expected = sum(network(path[EPOCHS].double(), images).softmax(1) for path in source.trajectories) / 2
    torch.testing.assert_close(finished.targets.double(), expected, rtol=1e-4, atol=1e-6)
    assert (expected - network(source.trajectories[0][EPOCHS].double(), images).softmax(1)).abs().max() > 0.01
    assert torch.equal(finished.images, recipe.synset.images)
    assert finished.labels.requires_grad is False


def test_labels_and_their_gradient_do_not_depend_on_how_many_images_are_asked_about_at_once(work, source, monkeypatch):
    config = toy("tesla", {"backprop": "adjoint"})
    synset = composed(config, work, source).synset
    found = []
    for at_once in (512, 3):
        monkeypatch.setattr(raydd.distillation.trajectory_matching, "LABEL_BATCH", at_once)
        recipe = composed(config, work, source)
        images = synset.images.clone().requires_grad_()
        loss, _ = recipe.objective.loss(synset.with_leaves({"images": images}), None, 0, generator(1))
        (gradient,) = torch.autograd.grad(loss, images)
        found.append((loss.detach(), gradient, recipe.finish(synset).labels))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"tesla", "sre2l"}))
def test_sets_with_labels_of_their_own_are_scored_as_they_were_learned(method, work, source):
    recipe = composed(toy(method), work, source)
    assert recipe.finish(recipe.synset) is recipe.synset


@pytest.mark.parametrize("method", ["datm", "dpd"])
def test_datms_window_grows_and_its_labels_are_learned_logits(method, work, source):
    config = toy(method, {"window": {"current": 0, "interval": 7}})
    recipe = composed(config, work, source)
    windows = [recipe.objective.window(step) for step in (0, 6, 7, 13, 14, 999)]
    assert windows == [(0, 0), (0, 0), (0, 1), (0, 1), (0, 2), (0, 2)]
    assert recipe.learn == {"images": Leaf(20, 0.5), "labels": Leaf(5, 0.9), "lr": Leaf(1e-4, 0.5)}
    assert recipe.synset.labels.shape == (10, 10)
    assert recipe.synset.labels.argmax(1).tolist() == list(range(10))
    assert config.experts.optimizer == "gsam"


def test_mct_walks_a_line_through_the_waypoints(work, source):
    straight = composed(toy("mct", {"waypoints": [2]}), work, source).objective.source
    assert isinstance(straight, Convexified)
    assert straight.kept == (0, 2, EPOCHS)
    draws = [straight.segment((0, 2), SPAN, generator(draw)).epoch for draw in range(20)]
    assert all(0 < epoch < 2 and epoch != 1 for epoch in draws)
    whole = composed(toy("mct", {"window": {"continuous": False}}), work, source).objective.source
    assert {whole.segment((0, 2), SPAN, generator(draw)).epoch for draw in range(20)} == {0, 1, 2}
    with pytest.raises(ValueError, match=r"waypoints \[5\] do not fit"):
        composed(toy("mct", {"waypoints": [EPOCHS]}), work, source)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({}, (0, 48, 48)),
        ({"low": 3}, (3, 48, 48)),
        ({"high": 9}, (0, 9, 9)),
        ({"low": 1, "current": 4}, (1, 4, 48)),
        ({"low": 1, "current": 4, "high": 9}, (1, 4, 9)),
        ({"current": 0, "high": 0}, (0, 0, 0)),
    ],
)
def test_what_the_window_leaves_open_is_filled_from_the_experts(window, expected):
    assert start_window(build(DistillConfig, {"window": window, "span": 2}), 50) == expected


def test_a_part_whose_step_size_is_nothing_is_not_learned():
    sizes = {"images": 3, "labels": 0, "lr": 0, "momentum": 0.2}
    assert leaves(build(DistillConfig, {"lr": sizes}), NO_TRANSFORM) == {"images": Leaf(3, 0.2)}
    soft = {"initial": "correctly_classified_mean", "lr": {**sizes, "labels": 4, "labels_momentum": 0.7}}
    assert leaves(build(DistillConfig, soft), NO_TRANSFORM) == {"images": Leaf(3, 0.2), "labels": Leaf(4, 0.7)}


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        ({"labels": "expert", "initial": "correctly_classified"}, ["labels = expert", "lr.labels=0"]),
        ({"initial": "real"}, ["initial = real", "initial=correctly_classified", "lr.labels=0"]),
        ({"initial": "noise"}, ["initial = noise"]),
        ({"initial": "representative"}, ["initial = representative"]),
        ({"initial": "kcenter"}, ["initial = kcenter"]),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(layer, named):
    method_rules(build(DistillConfig, layer))
    with pytest.raises(ValueError, match=r"lr.labels = 2\b") as caught:
        method_rules(build(DistillConfig, {"lr": {"labels": 2}}, layer))
    assert "\n" not in str(caught.value)
    assert [word for word in named if word not in str(caught.value)] == []


@pytest.mark.parametrize("method", TRAJECTORIES)
def test_an_expert_that_cannot_serve_the_window_is_refused(method, work, source):
    with pytest.raises(ValueError, match=r"window \(0, 4\) with a span of 2 epochs needs experts of 6 epochs"):
        check_start(toy(method, {"window": {"high": 4}}), source.epochs)
    with pytest.raises(ValueError, match="T- <= T <= T"):
        composed(toy(method, {"window": {"low": 1, "current": 0}}), work, source)


def test_experts_labels_are_of_whole_images_alone():
    tesla = {"labels": "expert", "formation": {"factor": 2}}
    with pytest.raises(ValueError, match=r"labels = expert .* formation.factor 2 .* formation.factor=1") as caught:
        build(DistillConfig, tesla)
    assert "\n" not in str(caught.value)
    assert method_rules(build(DistillConfig, tesla | {"formation": {"factor": 1}})) is None


def test_mosaics_are_matched_as_their_parts(work, source):
    """The outer loss of a set of mosaics is that of the set of their parts, each with its whole's label."""
    recipe = composed(toy("mtt", {"formation": {"factor": 2}}), work, source)
    whole, parts = recipe.synset, recipe.synset.decoded()
    assert (len(whole.images), len(parts.images), parts.labels[:5].tolist()) == (10, 40, [0, 0, 0, 0, 1])
    losses = [recipe.objective.loss(synset, None, 0, generator(3))[0].item() for synset in (whole, parts)]
    assert losses[0] == losses[1]


STARTS = [(name, factor) for name in sorted(INITIAL) for factor in (1, 2) if factor == 1 or name not in SOFT_LABELS]


@pytest.mark.parametrize(("name", "factor"), STARTS)
def test_every_start_gives_images_of_its_class_in_class_order(name, factor, work, source):
    """With mosaics too, whose tiles are the images that the start chooses, made small."""
    config = toy("mtt", {"ipc": 2, "initial": name, "formation": {"factor": factor}, "lr": {"start": 0.25}})
    synset = composed(config, work, source).synset
    classes = synset.labels if synset.labels.ndim == 1 else synset.labels.argmax(1)
    if name not in ("real_soft", "rded"):  # whose labels are an expert's, right or wrong
        assert classes.tolist() == [label for label in range(10) for _ in range(2)]
    assert (synset.images.shape, float(synset.lr), synset.formation.factor) == ((20, 1, 8, 8), 0.25, factor)
    tiles = 1 if name == "noise" else factor**2  # noise is no picture to be cut up
    chosen, _ = INITIAL[name](
        Request(work.dataset, work.transform, 2 * tiles, generator(0, "initial"), experts(work, source))
    )
    if tiles == 1:
        assert torch.equal(synset.images, chosen)
    else:  # halved: a pixel is a weighted mean of those about it
        tiles = synset.images.unfold(2, 4, 4).unfold(3, 4, 4).flatten(0, 3)
        weights = halved()
        torch.testing.assert_close(tiles, weights @ chosen.flatten(0, 1) @ weights.T, rtol=1e-4, atol=1e-5)


def experts(work, source):
    return Experts(FlatModel(work.build), source, torch.device("cpu"))


def halved():
    """8 pixels made 4 with antialiasing: a triangle of half-width 2 about each new pixel's centre, of weight 1."""
    weights = torch.zeros(4, 8)
    for i in range(4):
        for j in range(8):
            weights[i, j] = max(0.0, 1 - abs((j + 0.5) - 2 * (i + 0.5)) / 2)
    return weights / weights.sum(1, keepdim=True)


def test_distances_are_of_features_where_there_are_experts_and_they_are_asked_for(work, source):
    starts = {
        name: composed(toy("mtt", {"initial": "herding", "ipc": 3, **layer}), work, source).synset.images
        for name, layer in (("features", {}), ("pixels", {"select_by": "pixels"}))
    }
    rng = generator(0, "initial")
    pixels, _ = INITIAL["herding"](Request(work.dataset, work.transform, 3, rng, None))
    assert torch.equal(starts["pixels"], pixels)
    assert not torch.equal(starts["features"], pixels)
    without = METHODS["dm"](Setup(toy("dm", {"initial": "herding", "ipc": 3, "lr": {"lr": 0}}), work, None))
    assert torch.equal(without.synset.images, pixels)


def test_what_needs_experts_says_so_where_there_are_none(work):
    for method, layer in (("mtt", {}), ("tgdd", {"lr": {"lr": 0}}), ("forgetting", {})):
        with pytest.raises(ValueError, match=r"needs experts|--buffer") as caught:
            METHODS[method](Setup(toy(method, layer), work, None))
        assert "\n" not in str(caught.value)
