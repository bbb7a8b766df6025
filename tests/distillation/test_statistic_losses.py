"""Methods that match statistics, as they are composed: every outer loss worked out anew, in float64."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from toy_runs import by_vector, toy_of

from raydd.buffer.segments import InMemory
from raydd.config.components import StatisticConfig
from raydd.config.rules import FITS, method_rules
from raydd.data.workspace import open_workspace
from raydd.distillation.image_statistics import STATISTICS
from raydd.distillation.loop import Distillation
from raydd.distillation.rollouts import step_generator
from raydd.distillation.setup import Setup
from raydd.distillation.statistic_matching import DISTANCES, NETWORKS
from raydd.methods import METHODS
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import derived, generator

EPOCHS, EXPERTS, CLASSES, BATCH = 5, 3, 10, 6
TOY = {
    "ipc": 2,
    "steps": 2,
    "statistic": {"batch_real": BATCH},
    "experts": {"network": "ConvNetW8", "num_experts": EXPERTS, "epochs": EPOCHS},
}


toy = toy_of(TOY)


@pytest.fixture(scope="module")
def work():
    config = toy("dm")
    return open_workspace(config.data, config.experts.network, torch.device("cpu"))


@pytest.fixture(scope="module")
def source(work):
    """Experts that walk at random from a random start."""
    model, paths = FlatModel(work.build), []
    for expert in range(EXPERTS):
        rng = generator(0, "walk", expert)
        start = model.init(rng)
        paths.append(start + 0.05 * torch.randn(EPOCHS + 1, len(start), generator=rng).cumsum(0))
    return InMemory(paths, model.layout)


def at(work, theta):
    """An ordinary network with the numbers of theta (P,), and its parameters by name, in the graph of theta."""
    network = work.build().to(theta.dtype)
    return network, by_vector(network)[0](theta)


def logits_and_features(work, theta, images):
    """What the network says, and what its last linear layer is given."""
    network, named = at(work, theta)
    given = []
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    said = functional_call(network, named, (images,))
    return said, given[0]


def enlarged(tiles):
    """Tiles (N, 1, 4, 4) as images (N, 1, 8, 8), by linear interpolation between pixel centres."""
    weights = torch.zeros(8, 4, dtype=torch.float64)
    for i in range(8):
        place = min(max((i + 0.5) / 2 - 0.5, 0), 3)
        below = min(int(place), 2)
        weights[i, below] += below + 1 - place
        weights[i, below + 1] += place - below
    return weights @ tiles @ weights.T


def decoded(images, factor):
    """The tiles of each image, row by row."""
    if factor == 1:
        return images
    parts = [image[None, :, a : a + 4, b : b + 4] for image in images for a in (0, 4) for b in (0, 4)]
    return enlarged(torch.cat(parts))


def seen(synset, work, label, view, rng, *, most=None, factor=1):
    """Real and synthetic images of a class under one view, in the order in which the method draws them."""
    ours = decoded(synset.images[synset.labels == label], factor)
    if most is not None and most < len(ours):
        ours = ours[torch.randperm(len(ours), generator=rng)[:most]]
    train = work.dataset.train
    rows = torch.tensor([row for row in range(len(train)) if train.targets[row] == label])
    rows = rows[torch.randperm(len(rows), generator=rng)[:BATCH]]
    theirs = work.transform(train.take(rows)).double()
    shared = view.draw(ours.shape, rng)
    return shared(theirs), shared(ours)


def crossed(said, label):
    return -(said.exp() / said.exp().sum(1, keepdim=True))[:, label].log().mean()


def gap(work, theta, theirs, ours):
    """|mean psi(x) - mean psi(s)|^2: DM's and TGDD's Eq. 4 for one class."""
    real, syn = (logits_and_features(work, theta, images)[1] for images in (theirs, ours))
    return ((real.mean(0) - syn.mean(0)) ** 2).sum()


def gradient(work, theta, images, label):
    """By parameter: of the mean cross-entropy of images of one class."""
    theta = theta.detach().requires_grad_()
    network, named = at(work, theta)
    loss = crossed(functional_call(network, named, (images,)), label)
    return torch.autograd.grad(loss, list(named.values()), create_graph=True)


def angles(work, theta, theirs, ours, label):
    """DC's Eq. 10: of each output unit's weights, 1 - cos between the two gradients."""
    total = 0.0
    for a, b in zip(*(gradient(work, theta, images, label) for images in (theirs, ours)), strict=True):
        for x, y in zip(a.detach().flatten(1), b.flatten(1), strict=True) if a.ndim > 1 else ():
            total = total + 1 - (x @ y) / ((x @ x).sqrt() * (y @ y).sqrt() + 1e-6)
    return total


def recipe_of(config, work, source=None):
    recipe = METHODS[config.method](Setup(config, work, source))
    synset = recipe.synset.with_leaves({"images": recipe.synset.images.double()})
    return recipe.objective, synset


def networks_of(seed):
    """What the networks of the first outer step are drawn from."""
    return derived(step_generator(seed, 0, 0), "networks")


def agree(objective, synset, state, seed, naive, *, part=0, step=0):
    """Our loss and gradient, of a part or of joint parts together, against the naive ones, which draw by themselves."""
    leaves, loss = [synset.images.clone().requires_grad_() for _ in range(2)], 0.0
    for each in range(objective.parts) if objective.joint else [part]:
        shown, rng = synset.with_leaves({"images": leaves[0]}), step_generator(seed, 0, 0, each)
        found, state = objective.loss(shown, state, step, rng, each)
        loss = loss + found
    expected = naive(synset.with_leaves({"images": leaves[1]}))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    found, right = (torch.autograd.grad(value, leaf)[0] for value, leaf in zip((loss, expected), leaves, strict=True))
    assert right.abs().sum() > 0
    torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-9 * float(right.abs().max()))
    return state


@pytest.mark.parametrize("factor", [1, 2])
def test_dm_is_its_papers_equation_5(factor, work):
    objective, synset = recipe_of(toy("dm", {"formation": {"factor": factor}}), work)
    view = augment("dsa", flip=False, siamese=True)  # digits have no mirror images
    assert (objective.parts, objective.joint) == (CLASSES, True)
    for draw in range(3):
        theta = FlatModel(work.build).init(networks_of(draw)).double()

        def naive(shown, theta=theta, draw=draw):
            own = [step_generator(draw, 0, 0, label) for label in range(CLASSES)]
            pairs = [seen(shown, work, label, view, own[label], factor=factor) for label in range(CLASSES)]
            return sum(gap(work, theta, *pair) for pair in pairs)

        state = agree(objective, synset, objective.init(generator(9)), draw, naive)
        assert state == {"networks": None}


@pytest.mark.parametrize("alpha", [2.5, 0.5])
def test_tgdd_is_equation_4_and_alpha_times_equation_5_a_class_at_a_time(alpha, work, source):
    """Mosaics of 2 x 2, at most 5 of a class's 8 parts, and two snapshots of one expert for all the classes."""
    changed = {"statistic": {"alpha": alpha, "batch_synthetic": 5, "region": 3}}
    config = toy("tgdd", changed)
    assert config.formation.factor == 2
    objective, synset = recipe_of(config, work, source)
    assert (objective.parts, objective.joint) == (CLASSES, False)
    view, stages = augment("dsa_idc", flip=False, siamese=True, strategy="color_crop_cutout"), set()
    for draw in range(4):
        theirs = networks_of(draw)
        path = source.trajectories[int(torch.randint(EXPERTS, (), generator=theirs))].double()
        j = int(torch.randint(EPOCHS + 1, (), generator=theirs))
        later = int(torch.randint(j, min(j + 3 - 1, EPOCHS) + 1, (), generator=theirs))
        stages.add((j, later))
        state = objective.init(generator(9))
        for label in range(CLASSES):

            def naive(shown, label=label, path=path, j=j, later=later, draw=draw):
                real, syn = seen(shown, work, label, view, step_generator(draw, 0, 0, label), most=5, factor=2)
                return gap(work, path[j], real, syn) + alpha * crossed(
                    logits_and_features(work, path[later], syn)[0], label
                )

            state = agree(objective, synset, state, draw, naive, part=label)
    assert any(j < later for j, later in stages)
    assert len({j for j, _ in stages}) > 1


@pytest.mark.parametrize("method", ["dc", "dsa"])
def test_dc_and_dsa_match_gradients_row_by_row_at_a_network_trained_on_the_set(method, work):
    """At the first outer step the network is fresh; at the next it took two epochs of SGD on the set, in batches."""
    config = toy(method, {"statistic": {"epochs": 2, "lr": 0.3, "batch_size": 12}})
    objective, synset = recipe_of(config, work)
    name = {"dc": "none", "dsa": "dsa"}[method]
    shared, own = (augment(name, flip=False, siamese=siamese) for siamese in (True, False))
    state = objective.init(generator(9))

    def naive(shown):
        pairs = [
            (seen(shown, work, label, shared, step_generator(seed, 0, 0, label)), label) for label in range(CLASSES)
        ]
        return sum(angles(work, theta, *pair, label) for pair, label in pairs)

    seed = 1
    theta = start = FlatModel(work.build).init(networks_of(seed)).double()
    state = agree(objective, synset, state, seed, naive)
    seed, theirs = 2, networks_of(2)
    moved = synset.with_leaves({"images": synset.images + 0.1})
    for _ in range(2):
        order = torch.randperm(20, generator=theirs).tolist()
        for rows in (order[:12], order[12:]):
            images = own.draw((len(rows), 1, 8, 8), theirs)(moved.images[rows])
            at_theta = theta.detach().requires_grad_()
            said = functional_call(*at(work, at_theta), (images,))
            loss = nn.functional.cross_entropy(said, moved.labels[rows])
            theta = theta - 0.3 * torch.autograd.grad(loss, at_theta)[0]
    state = agree(objective, moved, state, seed, naive, step=1)
    assert state["networks"]["age"] == 2
    torch.testing.assert_close(state["networks"]["theta"], theta, rtol=1e-9, atol=1e-12)
    assert (theta - start).abs().max() > 1e-3


def test_dance_looks_between_an_experts_ends_and_is_judged_by_its_last(work, source):
    objective, synset = recipe_of(toy("dance", {"statistic": {"batch_synthetic": None}}), work, source)
    view = augment("dsa_idc", flip=False, siamese=True, strategy="color_crop_cutout")
    theirs = networks_of(1)
    path = source.trajectories[int(torch.randint(EXPERTS, (), generator=theirs))].double()
    share = float(torch.rand((), generator=theirs))

    def naive(shown):
        real, syn = seen(shown, work, 0, view, step_generator(1, 0, 0), factor=2)
        matched = gap(work, share * path[0] + (1 - share) * path[EPOCHS], real, syn)
        return matched + crossed(logits_and_features(work, path[EPOCHS], syn)[0], 0)

    state = agree(objective, synset, objective.init(generator(9)), 1, naive)
    assert set(state) >= {"theta", "judge"}


def test_m3d_adds_five_gaussian_kernels(work):
    objective, synset = recipe_of(toy("m3d"), work)
    view = augment("dsa", flip=False, siamese=True)
    theta = FlatModel(work.build).init(networks_of(1)).double()

    def discrepancy(real, syn):
        points = [*real, *syn]
        gaps = [[((a - b) ** 2).sum() for b in points] for a in points]
        width = sum(float(gaps[i][j].detach()) for i in range(len(points)) for j in range(len(points)) if i != j)
        width /= len(points) * (len(points) - 1)
        signs = [1 / len(real)] * len(real) + [-1 / len(syn)] * len(syn)
        total = 0.0
        for i, row in enumerate(gaps):
            for j, value in enumerate(row):
                kernel = sum(torch.exp(-value / (factor * width)) for factor in (0.25, 0.5, 1, 2, 4))
                total = total + signs[i] * signs[j] * kernel
        return total

    def naive(shown):
        pairs = [seen(shown, work, label, view, step_generator(1, 0, 0, label), factor=2) for label in range(CLASSES)]
        return sum(discrepancy(*(logits_and_features(work, theta, x)[1] for x in pair)) for pair in pairs)

    state = agree(objective, synset, objective.init(generator(9)), 1, naive)
    assert set(state) == {"networks"}


def test_every_name_of_the_settings_is_a_part_and_every_statistic_has_its_distances():
    fields = StatisticConfig.model_fields
    own = {"batch_norm": "of sre2l, whose objective is its own"}
    for name, rows in (("networks", NETWORKS), ("of", STATISTICS | own), ("distance", DISTANCES), ("of", FITS)):
        assert set(fields[name].annotation.__args__) == set(rows)
    assert {distance for fit in FITS.values() for distance in fit} == set(DISTANCES)


@pytest.mark.parametrize(
    ("of", "distance", "instead"),
    [
        ("gradient", "means", "cosine"),
        ("gradient", "gaussian", "cosine"),
        ("features", "cosine", "means"),
        ("layers", "cosine", "means"),
    ],
)
def test_a_distance_of_something_else_is_refused(of, distance, instead):
    config = toy("dm", {"statistic": {"of": of, "distance": distance}})
    with pytest.raises(ValueError, match=f"distance = {distance} .*of = {of}; .*distance={instead}$") as caught:
        method_rules(config)
    assert "\n" not in str(caught.value)
    fitting = toy("dm", {"statistic": {"of": of, "distance": instead}})
    assert method_rules(fitting) is None


@pytest.mark.parametrize(
    "layer",
    [
        {"statistic": {"networks": "trained", "epochs": 1, "refresh": 2}},
        {"statistic": {"networks": "experts"}},
        {"statistic": {"networks": "mixed"}},
        {"statistic": {"networks": "queue", "queue_steps": 1}},
        {"statistic": {"of": "layers"}},
        {"statistic": {"of": "gradient", "distance": "cosine"}},
        {"statistic": {"distance": "gaussian"}},
        {"statistic": {"alpha": 1.0}},
        {"statistic": {"each_class": True}},
        {"statistic": {"batch_synthetic": 1}},
        {"statistic": {"batch_real": 3}},
        {"statistic": {"augment": "dsa_idc"}},
        {"statistic": {"augment": "none"}},
        {"statistic": {"strategy": "crop"}},
        {"formation": {"factor": 2, "decode": "multi"}},
        {"formation": {"factor": 2, "decode": "bounded", "bound": 3}},
        {"space": "pixels"},
        {"initial": "kcenter"},
    ],
)
def test_a_part_changes_what_is_distilled(layer, work, source):
    results = []
    for config in (toy("dm"), toy("dm", layer)):
        recipe = METHODS["dm"](Setup(config, work, source))
        run = Distillation(recipe.objective, recipe.synset, recipe.learn, config.seed)
        steps = list(run.run(2))
        assert all(step.stepped for step in steps)
        assert not torch.equal(run.result.images, recipe.synset.images)
        results.append(run.result.images)
    assert not torch.equal(*results)
