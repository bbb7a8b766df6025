from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from variants import first

from raydd.buffer.segments import InMemory
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Feed
from raydd.distillation.image_statistics import STATISTICS, History
from raydd.distillation.leaves import Leaf
from raydd.distillation.loop import Distillation
from raydd.distillation.network_queue import Queue
from raydd.distillation.network_sources import Mixed, NetworkPair, RandomInit, Snapshots, Trained
from raydd.distillation.real_images import RealImages, Representatives
from raydd.distillation.rollouts import step_generator
from raydd.distillation.statistic_matching import StatisticMatching
from raydd.models.zoo import build
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.formation import Formation
from raydd.numerics.rng import derived, generator
from raydd.numerics.statistics import Characteristic, cosine, gaussian, means
from raydd.selection.coresets import centres, nearest

SIZE, CLASSES, IPC, REAL = 8, 3, 2, 9
PLAIN = Formation()


def make():
    return build("ConvNetW8", channels=1, size=SIZE, classes=CLASSES)


MODEL = FlatModel(make)
POOL = torch.randn(CLASSES, REAL, 1, SIZE, SIZE, generator=generator(0, "pool"), dtype=torch.float64)
POOL += torch.arange(CLASSES)[:, None, None, None, None]
SOURCE = InMemory([torch.stack([MODEL.init(generator(expert, epoch)) for epoch in range(4)]) for expert in range(2)])


def real(label, count, rng):
    """Some of a class's images of `POOL`."""
    return POOL[label][torch.randperm(REAL, generator=rng)[:count]]


def synset(device="cpu", dtype=torch.float64, soft=False, formation=PLAIN, ipc=IPC):
    images = torch.randn(CLASSES * ipc, 1, SIZE, SIZE, generator=generator(0, "images"), dtype=torch.float64)
    labels = torch.arange(CLASSES).repeat(ipc)  # not in class order
    if soft:
        labels = 4 * nn.functional.one_hot(labels, CLASSES).to(dtype)
    lr, classes = torch.tensor(0.01), ("a", "b", "c")
    images, labels = images.to(device, dtype), labels.to(device)
    return SyntheticSet(images, labels, lr, Transform("raw01"), "toy", classes, formation=formation)


def matching(**changes):
    values = {
        "networks": RandomInit(MODEL),
        "model": MODEL,
        "statistic": STATISTICS["features"],
        "distance": means,
        "real": real,
        "classes": CLASSES,
        "batch_real": 5,
        "augment": augment("dsa", siamese=True),
    }
    return StatisticMatching(**{**values, **changes})


DM = matching()
DC = matching(
    networks=Trained(MODEL, 2, 1, 0.1, 4, augment("none")),
    statistic=STATISTICS["gradient"],
    distance=partial(cosine, layout=MODEL.layout),
    augment=augment("none"),
)
TGDD = matching(
    networks=Snapshots(SOURCE, 2),
    augment=augment("dsa_idc", siamese=True, strategy="color_crop_cutout"),
    alpha=2.5,
    each_class=True,
)
DANCE = matching(networks=Mixed(SOURCE), alpha=1.0, each_class=True)
M3D = matching(networks=Trained(MODEL, 3, 0, 0.1, 4, augment("none")), distance=gaussian)


def all_classes(count, rng):
    """Real images of `POOL` with their classes."""
    rows = torch.randperm(CLASSES * REAL, generator=rng)[:count]
    return POOL.flatten(0, 1)[rows], rows // REAL


IDM = matching(networks=Queue(MODEL, all_classes, size=5, interval=2, steps=1), alpha=50.0, each_class=True)
METHODS = {"dm": DM, "dc": DC, "tgdd": TGDD, "dance": DANCE, "m3d": M3D, "idm": IDM}


def network(theta):
    """An ordinary network with theta's numbers, copied in by counting them off."""
    module, place = make().to(theta), 0
    for parameter in module.parameters():
        parameter.data = theta[place : place + parameter.numel()].clone().view(parameter.shape)
        place += parameter.numel()
    return module


def drawn_class(objective, start, label, rng):
    """Real and synthetic images of one class as the method sees them, in the order of its draws."""
    decoded = start.decoded()
    labels = decoded.labels if decoded.labels.ndim == 1 else decoded.labels.argmax(1)
    ours = torch.stack([image for image, of in zip(decoded.images, labels, strict=True) if of == label])
    most = objective.batch_synthetic
    if most is not None and len(ours) > most:
        ours = ours[torch.randperm(len(ours), generator=rng)[:most]]
    theirs = real(label, objective.batch_real, rng).to(ours)
    view = objective.augment.draw(ours.shape, rng)
    return view(theirs), view(ours)


def naive_term_of_eq_4(theta, theirs, ours):
    """|1/|B_T| sum psi(x) - 1/|B_S| sum psi(s)|^2, image by image."""
    module = network(theta)
    mean_real = sum(module.features(image[None])[0].detach() for image in theirs) / len(theirs)
    mean_syn = sum(module.features(image[None])[0] for image in ours) / len(ours)
    return sum((a - b) ** 2 for a, b in zip(mean_real, mean_syn, strict=True))


def naive_term_of_eq_5(theta, ours, label):
    """1/|B_S| sum l(phi(s), y), image by image."""
    module = network(theta)
    logits = [module(image[None])[0] for image in ours]
    return sum(-(row[label].exp() / row.exp().sum()).log() for row in logits) / len(ours)


def naive_gradient(module, images, label):
    loss = sum(-torch.log_softmax(module(image[None])[0], 0)[label] for image in images) / len(images)
    return torch.autograd.grad(loss, list(module.parameters()), create_graph=True)


def naive_dc(theta, theirs, ours, label):
    """sum over weights' rows of 1 - cos, of the gradients that autograd gives for an ordinary network."""
    module, total = network(theta), 0
    for a, b in zip(naive_gradient(module, theirs, label), naive_gradient(module, ours, label), strict=True):
        if a.ndim == 1:
            continue
        for x, y in zip(a.detach(), b, strict=True):
            total = total + 1 - (x * y).sum() / (x.square().sum().sqrt() * y.square().sum().sqrt() + 1e-6)
    return total


def outer(objective, start, seed):
    """The losses of all parts of one outer step, summed, and the state after them."""
    state, total = objective.init(generator(0)), 0.0
    for part in range(objective.parts):
        value, state = objective.loss(start, state, 0, step_generator(seed, 0, 0, part), part)
        total = total + value
    return total, state


def networks_of(seed):
    """What the networks of the first outer step are drawn from."""
    return derived(step_generator(seed, 0, 0), "networks")


def compared(objective, start, naive, seed, **loss):
    """Our loss and its gradient to the images, and the naive ones, which are given what a class draws from."""
    start = start.with_leaves({"images": start.images.requires_grad_()})
    if "part" in loss:
        value, state = objective.loss(start, loss["state"], 0, step_generator(seed, 0, 0, loss["part"]), loss["part"])
    else:
        value, state = outer(objective, start, seed)
    expected = naive(start, lambda label: step_generator(seed, 0, 0, label))
    (ours,) = torch.autograd.grad(value, start.images)
    (wanted,) = torch.autograd.grad(expected, start.images)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(ours, wanted, rtol=1e-7, atol=1e-10)
    assert (value.shape, value.dtype) == ((), torch.float64)
    return state, ours


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("formation", [PLAIN, Formation(2), Formation(2, "multi")])
@pytest.mark.parametrize("most", [None, 3])
def test_dm_sums_equation_4_over_the_classes(soft, formation, most):
    objective, start = matching(batch_synthetic=most), synset(soft=soft, formation=formation)

    def naive(start, drawn):
        theta = MODEL.init(networks_of(1)).double()
        pairs = [drawn_class(objective, start, label, drawn(label)) for label in range(CLASSES)]
        return sum(naive_term_of_eq_4(theta, *pair) for pair in pairs)

    state, gradient = compared(objective, start, naive, 1)
    assert (objective.parts, objective.joint) == (CLASSES, True)
    assert state == {"networks": None}
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("formation", [PLAIN, Formation(2)])
@pytest.mark.parametrize("alpha", [2.5, 0.5, 0.0])
def test_tgdd_takes_equations_4_and_5_a_class_through_one_pair_of_snapshots(formation, alpha):
    objective, start = matching(**{**vars(TGDD), "alpha": alpha, "batch_synthetic": 4}), synset(formation=formation)
    state = objective.init(generator(0))
    look, _ = objective.networks.draw(start, None, 0, networks_of(8))
    assert not torch.equal(look.theta, look.judge)
    assert (objective.parts, objective.joint) == (CLASSES, False)
    for label in range(CLASSES):

        def naive(start, drawn, label=label):
            real_images, images = drawn_class(objective, start, label, drawn(label))
            matched = naive_term_of_eq_4(look.theta, real_images, images)
            return matched + alpha * naive_term_of_eq_5(look.judge, images, label)

        state, gradient = compared(objective, start, naive, 8, state=state, part=label)
        others = start.labels != label
        assert gradient[others].abs().sum() == 0
        assert (gradient[~others].flatten(1).abs().sum(1) > 0).all()
        kept = {"networks", "theta", "judge", "trust"} if label < CLASSES - 1 else {"networks"}
        assert set(state) == kept


def test_dc_compares_gradients_row_by_row():
    def naive(start, drawn):
        theta = MODEL.init(networks_of(3)).double()
        return sum(naive_dc(theta, *drawn_class(DC, start, label, drawn(label)), label) for label in range(CLASSES))

    state, _ = compared(DC, synset(), naive, 3)
    assert state["networks"]["age"] == 1


def test_layers_are_the_features_of_every_block():
    objective, start = matching(statistic=STATISTICS["layers"], augment=augment("none")), synset()
    value, _ = outer(objective, start, 4)
    theta, expected = MODEL.init(networks_of(4)).double(), 0
    for label in range(CLASSES):
        theirs, ours = drawn_class(objective, start, label, step_generator(4, 0, 0, label))
        module = network(theta)
        for part in module.body:
            theirs, ours = part(theirs), part(ours)
            if isinstance(part, nn.AvgPool2d):
                expected += means(theirs.flatten(1), ours.flatten(1)).item()
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_attention_is_of_every_layer_but_the_last_before_it_is_pooled():
    theta, images = MODEL.init(generator(0)).double(), torch.cat([POOL[0], POOL[1]])
    module, x, vectors = network(theta), images, []
    parts = list(module.body)
    for place, part in enumerate(parts):
        x = part(x)
        if isinstance(part, nn.ReLU) and place < len(parts) - 2:
            flat = torch.stack([torch.stack([channel.abs() for channel in image]).sum(0).flatten() for image in x])
            vectors.append(10 * flat / flat.norm(dim=1, keepdim=True))
    assert len(vectors) == 1  # of two layers
    expected = torch.cat([*vectors, module(images)], dim=1)
    torch.testing.assert_close(STATISTICS["attention"](MODEL, theta, images, None), expected, rtol=1e-10, atol=1e-12)


def test_unit_features_have_length_one():
    theta = MODEL.init(generator(0)).double()
    features = STATISTICS["features"](MODEL, theta, POOL[0], None)
    unit = STATISTICS["unit_features"](MODEL, theta, POOL[0], None)
    torch.testing.assert_close(unit, torch.stack([row / row.norm() for row in features]), rtol=1e-12, atol=0)


def test_frequencies_are_drawn_for_each_class_and_step():
    objective = matching(statistic=STATISTICS["unit_features"], distance=Characteristic(5), augment=augment("none"))
    theta = MODEL.init(generator(0)).double()
    losses = [objective.class_loss(synset(), NetworkPair(theta, theta), 0, generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(losses[0], losses[1])
    rng = generator(2)
    theirs = real(0, 5, rng)
    objective.augment.draw((IPC, 1, SIZE, SIZE), rng)
    frequencies = torch.randn(MODEL.features(theta, theirs).shape[1], 5, generator=rng)
    both = (STATISTICS["unit_features"](MODEL, theta, x, None) for x in (theirs, synset().images[synset().rows(0)]))
    torch.testing.assert_close(losses[2], Characteristic(5)(*both, frequencies), rtol=1e-10, atol=0)


def test_history_pulls_the_means_of_a_class_to_those_of_the_steps_before():
    """Against running means by hand: nothing at first, then from its step on."""
    plain = matching(augment=augment("none"))
    objective = matching(augment=augment("none"), history=History(0.2, 2))
    state, kept = objective.init(generator(0)), {}
    moving = synset()
    for step in range(4):
        moving = moving.with_leaves({"images": synset().images * (1 + step)})
        fresh = plain.init(generator(0))
        theta = MODEL.init(derived(step_generator(9, step, 0), "networks")).double()
        for label in range(CLASSES):
            loss, state = objective.loss(moving, state, step, step_generator(9, step, 0, label), label)
            without, fresh = plain.loss(moving, fresh, step, step_generator(9, step, 0, label), label)
            mean = MODEL.features(theta, moving.images[moving.rows(label)]).mean(0)
            expected = 0.0
            if label in kept and step >= 2:
                expected = 0.2 * (mean - kept[label]).square().sum() / len(mean)
            assert (loss - without).item() == pytest.approx(float(expected), rel=1e-8, abs=1e-12)
            kept[label] = mean if label not in kept else 0.99 * kept[label] + 0.01 * mean
    assert {*state["history"]} == {"0", "1", "2"}


class Halved:
    """Networks whose judge is worth half."""

    def init(self, rng):
        return None

    def draw(self, synset, state, step, rng):
        theta = MODEL.init(rng).to(synset.images)
        return NetworkPair(theta, theta, 0.5), None


@pytest.mark.parametrize("each_class", [False, True])
def test_the_trust_in_the_judge_weighs_the_cross_entropy_in_every_part(each_class):
    halved = matching(networks=Halved(), alpha=4.0, each_class=each_class)
    plain = matching(alpha=2.0, each_class=each_class)
    a, b = {"networks": None}, {"networks": None}
    for part in range(halved.parts):
        value, a = halved.loss(synset(), a, 0, step_generator(1, 0, 0, part), part)
        expected, b = plain.loss(synset(), b, 0, step_generator(1, 0, 0, part), part)
        assert torch.equal(value, expected)


def test_the_gaussian_distance_takes_the_same_features():
    objective, start = matching(distance=gaussian, augment=augment("none")), synset()
    value, _ = outer(objective, start, 4)
    theta, expected = MODEL.init(networks_of(4)).double(), 0
    for label in range(CLASSES):
        theirs, ours = drawn_class(objective, start, label, step_generator(4, 0, 0, label))
        expected += gaussian(network(theta).features(theirs), network(theta).features(ours)).item()
    assert value.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["dm", "dc", "tgdd", "dance"])  # m3d holds its bandwidth
def test_images_learn_through_every_operation_by_the_right_slope(name):
    """Along a random direction, the gradient says what a small step does."""
    objective, start, step = METHODS[name], synset(), 1e-6
    toward = torch.randn(start.images.shape, generator=generator(8), dtype=torch.float64)

    def at(images):
        return outer(objective, start.with_leaves({"images": images}), 5)[0]

    images = start.images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(at(images), images)
    with torch.no_grad():
        loss_gradient = (at(start.images + step * toward) - at(start.images - step * toward)) / (2 * step)
    assert (gradient * toward).sum().item() == pytest.approx(loss_gradient.item(), rel=1e-4)


def test_a_class_has_one_view_and_the_next_class_another():
    seen = []

    class Spy:
        plain = False

        def draw(self, shape, rng):
            mark = float(torch.rand((), generator=rng))
            return lambda x: (seen.append((mark, len(x))), x)[1]

    outer(matching(augment=Spy(), batch_real=4), synset(), 0)
    marks = [mark for mark, _ in seen]
    assert [size for _, size in seen] == [IPC, 4] * CLASSES
    assert marks[::2] == marks[1::2]
    assert len(set(marks)) == CLASSES


def test_labels_may_be_learned_where_a_judge_reads_them():
    start = synset(soft=True)
    labels = start.labels.clone().requires_grad_()
    start = start.with_leaves({"images": start.images.requires_grad_(), "labels": labels})
    objective = matching(alpha=1.0)
    value, _ = outer(objective, start, 0)
    gradient = torch.autograd.grad(value, labels)[0]
    assert (gradient.abs().sum(1) > 0).all()


def test_a_class_without_an_image_costs_nothing():
    start = synset()
    rows = start.labels != 1
    start = start.with_leaves({"images": start.images[rows].requires_grad_(), "labels": start.labels[rows]})
    _, state = TGDD.loss(start, TGDD.init(generator(0)), 0, step_generator(0, 0, 0), 0)
    value, _ = TGDD.loss(start, state, 0, step_generator(0, 0, 0, 1), 1)
    (gradient,) = torch.autograd.grad(value, start.images)
    assert value.item() == 0
    assert not gradient.any()


def feed(device="cpu"):
    labels = np.array([0, 1, 0, 0, 1, 0, 0], dtype=np.int64)
    images = torch.arange(7, dtype=torch.uint8)[:, None, None, None]
    split = type("Rows", (), {"targets": torch.from_numpy(labels), "__len__": lambda self: 7})()
    split.take = lambda rows: images[rows]
    return Feed(split, Transform("raw01"), torch.device(device))


def test_real_images_are_of_the_class_and_none_is_there_twice(device):
    images, found = RealImages(feed(device)), Counter()
    for draw in range(300):
        batch = images(0, 3, generator(draw))
        rows = (batch.flatten() * 255).round().int().tolist()
        assert len(set(rows)) == 3
        assert batch.device.type == device.type
        found.update(rows)
    assert sorted(found) == [0, 2, 3, 5, 6]
    assert all(140 < count < 220 for count in found.values())
    few = images(1, 3, generator(0))
    assert sorted((few.flatten() * 255).round().int().tolist()) == [1, 4]


def test_mixed_real_images_come_with_their_classes(device):
    seen = Counter()
    for draw in range(100):
        batch, classes = RealImages(feed(device)).mixed(4, generator(draw))
        rows = (batch.flatten() * 255).round().int().tolist()
        assert len(set(rows)) == 4
        assert classes.tolist() == [[0, 1, 0, 0, 1, 0, 0][row] for row in rows]
        seen.update(rows)
    assert sorted(seen) == list(range(7))


LEARN = {"images": Leaf(0.5, 0.5)}


def run(objective, steps, seed=0, start=None):
    distillation = Distillation(objective, start or synset(), LEARN, seed, keep_every=5)
    return distillation, list(distillation.run(steps))


@pytest.mark.parametrize("name", METHODS)
def test_resumed_equals_uninterrupted(name):
    objective = METHODS[name]
    whole, steps = run(objective, 7)
    first, _ = run(objective, 4)
    second = Distillation(objective, synset(), LEARN, 0, keep_every=5)
    second.load_state_dict(first.state_dict())
    assert list(second.run(7)) == steps[4:]
    assert torch.equal(whole.result.images, second.result.images)
    assert not torch.equal(whole.result.images, first.result.images)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits_whatever_the_global_generator_does(name):
    objective = METHODS[name]
    torch.manual_seed(1)
    a, steps = run(objective, 3)
    torch.manual_seed(2)
    b, again = run(objective, 3)
    assert torch.equal(a.result.images, b.result.images)
    assert steps == again
    assert not torch.equal(a.result.images, run(objective, 3, seed=1)[0].result.images)


@pytest.mark.parametrize("dtype", first([torch.float64, torch.float32], 1))
@pytest.mark.parametrize("name", ["dm", "dc", "tgdd"])
def test_learned_images_lower_the_loss_at_networks_they_never_met(name, dtype, device):
    objective, start = METHODS[name], synset(device, dtype)
    distillation, _ = run(objective, 60, start=start)
    after = distillation.result
    assert after.images.dtype == dtype
    assert after.images.device.type == device.type
    theta = MODEL.init(generator(77, "unmet")).to(start.images)

    def total(shown):
        look = NetworkPair(theta, theta)
        losses = [objective.class_loss(shown, look, label, generator(6)) for label in range(CLASSES)]
        return torch.stack(losses).sum().item()

    assert total(after) < 0.9 * total(start)


def losses_and_gradients(objective, look, classes, step=3, seed=0):
    """By class, each computed from the set, the networks and the class's own generator alone."""
    found = {}
    for label in classes:
        images = synset().images.clone().requires_grad_()
        start = synset().with_leaves({"images": images})
        loss = objective.class_loss(start, look, label, step_generator(seed, step, 0, label))
        found[label] = loss.item(), torch.autograd.grad(loss, images)[0]
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_class_is_the_same_bits_alone_and_in_any_order(name):
    objective = METHODS[name]
    look, _ = objective.networks.draw(synset(), objective.init(generator(0))["networks"], 0, networks_of(0))
    forwards = losses_and_gradients(objective, look, range(CLASSES))
    for order in (range(CLASSES)[::-1], [1], [2, 2]):
        for label, (loss, gradient) in losses_and_gradients(objective, look, order).items():
            assert loss == forwards[label][0]
            assert torch.equal(gradient, forwards[label][1])
    assert len({loss for loss, _ in forwards.values()}) == CLASSES
    assert losses_and_gradients(objective, look, [0], step=4)[0][0] != forwards[0][0]
    assert losses_and_gradients(objective, look, [0], seed=1)[0][0] != forwards[0][0]


@pytest.mark.parametrize("name", METHODS)
def test_what_a_class_draws_does_not_depend_on_the_others(name):
    """Another class that draws more, or has no image, changes neither the networks nor any other class."""
    objective, start, more = METHODS[name], synset(), []

    def greedy(label, count, rng):
        if label < more[0]:
            torch.rand(7, generator=rng)
        return real(label, count, rng)

    greedily, losses = matching(**{**vars(objective), "real": greedy}), {}
    for more[:] in ([0], [CLASSES - 1]):
        state = greedily.init(generator(0))
        for part in range(CLASSES):
            loss, state = greedily.loss(start, state, 0, step_generator(0, 0, 0, part), part)
            losses.setdefault(part, []).append(loss.item())
    assert losses[CLASSES - 1][0] == losses[CLASSES - 1][1]
    assert all(losses[label][0] != losses[label][1] for label in range(CLASSES - 1))


@pytest.mark.parametrize("name", ["dm", "dc", "m3d"])  # one optimiser step for all classes
def test_a_step_is_the_sum_of_classes_that_were_computed_backwards(name):
    objective, start = METHODS[name], synset()
    distillation, (step,) = run(objective, 1)
    look, _ = objective.networks.draw(start, objective.init(generator(0))["networks"], 0, networks_of(0))
    found = losses_and_gradients(objective, look, range(CLASSES)[::-1], step=0)
    assert step.loss == sum(found[label][0] for label in range(CLASSES))
    total = sum(found[label][1] for label in range(CLASSES))
    assert torch.equal(distillation.result.images, start.images - 0.5 * total)


def test_real_images_are_those_nearest_to_the_centres_of_clusters():
    """Chosen at the first step and every second one, of the features of the network in use then."""
    drawn = torch.randint(256, (36, 1, SIZE, SIZE), generator=generator(0, "pixels")).to(torch.uint8)
    split = type("Rows", (), {"targets": torch.arange(36) % CLASSES, "__len__": lambda self: 36})()
    split.take = lambda rows: drawn[rows]
    pool = RealImages(Feed(split, Transform("raw01"), torch.device("cpu")))
    chosen = Representatives(pool, MODEL, 2, most=8)
    objective = matching(real=pool, batch_real=3, augment=augment("none"), representatives=chosen)
    state, start = objective.init(generator(0)), synset(dtype=torch.float32)
    for step in range(3):
        theta = MODEL.init(derived(step_generator(9, step, 0), "networks"))
        for label in range(CLASSES):
            before = state["chosen"].get(str(label))
            loss, state = objective.loss(start, state, step, step_generator(9, step, 0, label), label)
            rows = state["chosen"][str(label)]
            if step == 1:
                assert torch.equal(rows, before)
            else:
                rng = step_generator(9, step, 0, label)
                looked = pool.draw(label, 8, rng)
                points = MODEL.features(theta, pool.take(looked))
                assert torch.equal(rows, looked[nearest(centres(points, 3, rng), points)])
            assert {int(split.targets[row]) for row in rows} == {label}
            assert len({*rows.tolist()}) == 3
            theirs, ours = (MODEL.features(theta, x) for x in (pool.take(rows), start.images[start.rows(label)]))
            assert loss.item() == pytest.approx(means(theirs, ours).item(), rel=1e-4)
