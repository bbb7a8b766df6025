"""Bases in styles: what students see of them, the contrast of styles, and what is learned, averaged and resumed."""

import math

import pytest
import torch
from toy_runs import by_vector, toy_of

from raydd.buffer.segments import InMemory
from raydd.config.parsing import build
from raydd.config.rules import method_rules
from raydd.config.schema import DistillConfig
from raydd.data.workspace import open_workspace
from raydd.distillation.loop import Distillation
from raydd.distillation.rollouts import Matcher
from raydd.distillation.setup import Setup, initial
from raydd.distillation.student_batches import student_batches
from raydd.distillation.style_contrast import StyleContrast
from raydd.distillation.weighted_sum import WeightedSum
from raydd.methods import METHODS, complete
from raydd.numerics.augment import augment
from raydd.numerics.contrast import similarity, supervised_contrast
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator

EPOCHS = 3
TOY = {
    "steps": 4,
    "student_steps": 3,
    "span": 1,
    "threads": 1,
    "lr": {"images": 20, "lr": 1e-4, "start": 0.05},
    "formation": {"styles": 3},
    "unrolled": {"batch_real": 8, "window": 2, "radius": 0},
    "kernel": {"batch_real": 8, "pool": 2},
    "statistic": {"batch_real": 4, "batch_size": 16, "queue_steps": 1, "epochs": 1},
    "data": {"augment": "none"},
    "experts": {"network": "MLP", "num_experts": 2, "epochs": EPOCHS},
}
toy = toy_of(TOY)


@pytest.fixture(scope="module")
def work():
    config = toy("haba")
    return open_workspace(config.data, config.experts.network, torch.device("cpu"))


@pytest.fixture(scope="module")
def source(work):
    """Two experts that walk at random."""
    model, paths = FlatModel(work.build), []
    for expert in range(2):
        rng = generator(0, "walk", expert)
        path = [model.init(rng)]
        for _ in range(EPOCHS):
            path.append(path[-1] + 0.02 * torch.randn(model.size, generator=rng))
        paths.append(torch.stack(path))
    return InMemory(paths, model.layout)


def recipe_of(config, work, source):
    return METHODS[config.method](Setup(config, work, source))


def started(config, work, source):
    recipe = recipe_of(config, work, source)
    return Distillation(recipe.objective, recipe.synset, recipe.learn, config.seed, ema=recipe.ema, keep_every=2)


@pytest.mark.parametrize("batch_size", [None, 2, 9])
def test_a_step_shows_all_its_bases_in_one_style(batch_size):
    bases, styles, steps = 4, 3, 40
    images = torch.arange(bases * styles).view(-1, 1, 1, 1).float()
    rng, none = generator(0), augment("none")
    batches = student_batches(images, images[:, 0, 0, 0], steps, batch_size, none, rng, styles)
    seen = [batch.x.flatten().long() for batch in batches]
    size = min(batch_size or bases, bases)
    assert all(len((rows % styles).unique()) == 1 for rows in seen)
    assert {int(rows[0] % styles) for rows in seen} == set(range(styles))
    assert all(torch.equal(batch.x.flatten(), batch.y) for batch in batches)
    for first in range(0, steps, bases // size):
        together = torch.cat([rows // styles for rows in seen[first : first + bases // size]])
        assert sorted(together.tolist()) == list(range(bases))


def test_without_styles_nothing_more_is_drawn():
    images, ours, theirs = torch.randn(6, 1, 2, 2), generator(0), generator(0)
    for given in (images, images[:, :1]):
        student_batches(given, torch.arange(6), 2, None, augment("none"), ours)
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_a_start_has_styles_from_a_stream_of_their_own(work, source):
    found = initial(Setup(toy("haba", {"formation": {"styles": 3}}), work, source))
    plain = initial(Setup(toy("mtt", {"formation": {"styles": 0}}), work, source))
    assert (found.formation.styles, len(found.styles), plain.styles) == (3, 3, None)
    assert torch.equal(found.images, plain.images)
    assert len(found.decoded().images) == 3 * len(plain.images)
    assert torch.equal(found.decoded().labels, plain.labels.repeat_interleave(3))
    assert not torch.equal(initial(Setup(toy("haba", {"seed": 1}), work, source)).styles, found.styles)


def test_the_matching_loss_is_that_of_a_student_on_styled_bases(work, source):
    """The students' steps worked out anew from the batches, with one graph, in float64."""
    config = toy("mtt", {"batch_size": 4, "window": {"low": 1, "high": 1}, "seed": 3})
    recipe = recipe_of(config, work, source)
    parts = {name: part.double() for name, part in recipe.synset.parts.items() if name != "labels"}
    leaves = {name: part.requires_grad_() for name, part in parts.items()}
    synset, rng = recipe.synset.with_leaves(leaves), generator(5)
    segment, seen = recipe.objective.draw(0, rng).to(synset.images), synset.decoded()
    batches = student_batches(seen.images, seen.labels, 3, 4, work.augment, rng, 3)
    _, network = by_vector(work.build())
    theta = segment.start.clone().requires_grad_()
    for batch in batches:
        loss = cross_entropy(network(theta, batch.x), batch.y)
        theta = theta - synset.lr * torch.autograd.grad(loss, theta, create_graph=True)[0]
    expected = (theta - segment.target).square().sum() / (segment.start - segment.target).square().sum()
    value, _ = recipe.objective.loss(synset, None, 0, generator(5))
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    found, wanted = (torch.autograd.grad(each, list(leaves.values())) for each in (value, expected))
    for ours, theirs in zip(found, wanted, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)


def contrast(work, **changes):
    return StyleContrast(**{"model": FlatModel(work.build), "augment": augment("none"), "weight": 0.3} | changes)


def test_the_contrast_is_the_similarity_of_two_styles_of_each_base(work, source):
    synset, objective = initial(Setup(toy("haba"), work, source)), contrast(work)
    synset = synset.with_leaves({name: getattr(synset, name).double() for name in ("images", "styles")})
    state = objective.init(generator(0))
    images, targets = objective.pairs(synset, generator(1))
    decoded = synset.decoded().images.unflatten(0, (10, 3)).flatten(2)
    pairs = images.flatten(1).unflatten(0, (2, 10))
    own = [[decoded[targets[base]].sub(half[base]).abs().sum(1).argmin() for base in range(10)] for half in pairs]
    first, second = ({int(style) for style in half} for half in own)
    assert (len(first), len(second)) == (1, 1)
    assert first != second
    assert torch.equal(targets[:10], targets[10:])
    loss, after = objective.loss(synset, state, 0, generator(2))
    assert torch.equal(after["theta"].float(), state["theta"])  # the first step has no network's step before it
    theta, numbers = state["theta"].double(), []
    images, _ = objective.pairs(synset, draw(generator(2), "contrast"))
    features = objective.model.features(theta, images).tolist()
    for a, b in zip(features[:10], features[10:], strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        numbers.append((dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b)) + 1) / 2)
    assert float(loss) == pytest.approx(sum(numbers) / 10, rel=1e-10)


def draw(rng, name):
    return generator(rng.initial_seed(), name)


def test_its_network_takes_a_step_of_heavy_ball_between_two_outer_steps(work, source):
    synset, objective = initial(Setup(toy("haba"), work, source)), contrast(work, batch_size=6)
    state = objective.init(generator(0))
    theta, velocity = state["theta"], torch.zeros_like(state["theta"])
    for step in range(3):
        _, state = objective.loss(synset, state, step, generator(7, step))
        if not step:
            continue
        images, labels = objective.pairs(synset, draw(generator(7, step), "network"))
        assert len(images) == 12
        at = theta.clone().requires_grad_()
        features = objective.model.features(at, images)
        loss = cross_entropy(objective.model(at, images), labels)
        loss = loss + 0.3 * (1 - similarity(features[:6], features[6:])) + 0.3 * supervised_contrast(features, labels)
        velocity = 0.9 * velocity + torch.autograd.grad(loss, at)[0]
        theta = theta - 0.001 * velocity
        torch.testing.assert_close(state["theta"], theta)
    assert not state["theta"].requires_grad


def test_haba_adds_the_contrast_to_the_match_with_its_weight(work, source):
    config = toy("haba", {"formation": {"contrast": 0.25}})
    recipe = recipe_of(config, work, source)
    assert isinstance(recipe.objective, WeightedSum)
    (matched, one), (added, weight) = recipe.objective.terms
    assert (one, weight, added.weight, added.batch_size) == (1.0, 0.25, 0.25, None)
    state = recipe.objective.init(generator(0))
    styles = recipe.synset.styles.clone().requires_grad_()
    synset, total = recipe.synset.with_leaves({"styles": styles}), 0
    for part in range(2):
        loss, state = recipe.objective.loss(synset, state, 0, generator(1), part)
        total = total + torch.autograd.grad(loss, styles)[0]
    alone = matched.loss(synset, None, 0, generator(1))[0]
    beside = added.loss(synset, recipe.objective.init(generator(0))["1"], 0, generator(1))[0]
    expected = torch.autograd.grad(alone + 0.25 * beside, styles)[0]
    torch.testing.assert_close(total, expected)
    assert expected.abs().sum() > 0


@pytest.mark.parametrize("rate", [None, 0.0, 3.0])
def test_styles_have_a_learning_rate_of_their_own(rate, work, source):
    recipe = recipe_of(toy("mtt", {"lr": {"styles": rate}, "steps": 1}), work, source)
    assert {name: leaf.lr for name, leaf in recipe.learn.items()}.get("styles") == {None: 20, 0.0: None, 3.0: 3}[rate]
    run = Distillation(recipe.objective, recipe.synset, recipe.learn, 0)
    list(run.run(1))
    assert torch.equal(run.result.styles, recipe.synset.styles) == (rate == 0)


@pytest.mark.parametrize("method", ["haba", "mtt", "ftd", "datm", "ast", "dm", "dsa", "bptt", "frepo"])
def test_a_run_that_goes_on_has_the_bits_of_one_that_was_not_stopped(method, work, source):
    slow = {"lr": {"images": 0.1, "styles": 1e-3, "lr": 0.0}}
    layers = {"ftd": {"ema": 0.5}, "dm": slow, "dsa": slow, "bptt": slow, "frepo": slow}
    config = toy(method, layers.get(method, {}))
    whole, half, other = (started(config, work, source) for _ in range(3))
    steps = list(whole.run(config.steps))
    assert all(math.isfinite(step.loss) for step in steps)
    list(half.run(2))
    other.load_state_dict(half.state_dict())
    list(other.run(config.steps))
    for name, part in whole.result.parts.items():
        assert torch.equal(part, getattr(other.result, name)), name
    assert not torch.equal(whole.result.styles, recipe_of(config, work, source).synset.styles)


def test_a_running_mean_is_of_images_and_styles_alike(work, source):
    config = toy("mtt", {"ema": 0.75})
    run, plain = started(config, work, source), started(toy("mtt"), work, source)
    means = {name: getattr(run.result, name).clone() for name in ("images", "styles")}
    for _ in zip(run.run(4), plain.run(4), strict=True):
        means = {name: 0.75 * mean + 0.25 * getattr(plain.result, name) for name, mean in means.items()}
    for name, mean in means.items():
        torch.testing.assert_close(getattr(run.result, name), mean)


def test_rollouts_and_pieces_of_a_batch_give_the_same_gradients(work, source):
    recipe = recipe_of(toy("mtt"), work, source)
    parts = {name: part.double() for name, part in recipe.synset.parts.items() if name != "labels"}
    synset = recipe.synset.with_leaves(parts)
    start = {name: getattr(synset, name) for name in recipe.learn}
    assert set(start) == {"images", "lr", "styles"}
    whole = Matcher(recipe.objective, synset, 0)(0, start, 1, 0)
    division = recipe.objective.divide(synset, 0, 3)

    class InOrder:
        def share(self, value):
            return value

        def __call__(self, *arguments):
            return [division.part(index, *arguments) for index in range(division.count)]

    (ours,), _ = division.matches(InOrder())(iter([start]), None, 1, 0)
    for a, b in zip(ours.gradients, whole.gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"method": "idc", "formation": {"styles": 5}},
            r"formation.styles = 5 .* formation.factor = 2 .* formation.factor=1",
        ),
        ({"method": "tesla", "formation": {"styles": 5}}, r"labels = expert .* formation.styles = 5 .* labels=own"),
        ({"method": "haba", "formation": {"styles": 1}}, r"formation.contrast = 0.1 .* formation.styles=2 or more"),
        ({"method": "haba", "rollouts": 2}, r"formation.contrast = 0.1 .* --rollouts 1"),
        ({"method": "haba", "shards": 2}, r"formation.contrast = 0.1 .* --shards 1"),
        ({"method": "dm", "formation": {"styles": 3, "contrast": 1}}, "method dm matches statistics"),
        ({"method": "dm", "shards": 2, "formation": {"styles": 3}}, "shards = 2: groups of classes share the styles"),
        ({"method": "kmeans", "formation": {"styles": 3}}, "formation.styles = 3 are learned, and method kmeans"),
        ({"method": "sre2l", "formation": {"styles": 3}}, "formation.styles = 3 are learned, and method sre2l"),
    ],
)
def test_what_styles_do_not_go_with_is_refused_in_one_line(values, words):
    with pytest.raises(ValueError, match=words) as caught:
        method_rules(complete(build(DistillConfig, values)))
    assert "\n" not in str(caught.value)


def test_the_remedy_for_labels_of_experts_holds():
    config = build(DistillConfig, {"method": "tesla", "labels": "own", "formation": {"styles": 2}})
    assert method_rules(complete(config)) is None
