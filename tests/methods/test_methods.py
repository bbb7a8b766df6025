"""What every method promises, checked for each row of `METHODS` at toy size."""

import itertools
import math
from importlib import resources

import pytest
import torch
import yaml
from toy_runs import open_run, toy_of, train_buffer
from variants import first

from raydd.api.distill import distill
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.convexified import convexify
from raydd.buffer.segments import InMemory
from raydd.config.parsing import build
from raydd.config.presets import load_preset, preset_layers
from raydd.config.schema import DistillConfig
from raydd.data.named_sets import SUBSETS
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.distillation.leaves import Leaf
from raydd.distillation.loop import Distillation
from raydd.distillation.rollouts import Matcher
from raydd.distillation.setup import Recipe, Setup, initial, leaves
from raydd.distillation.weighted_sum import WeightedSum
from raydd.methods import METHODS, complete
from raydd.methods.method import Method
from raydd.numerics.rng import generator
from raydd.run.experts import find_experts, open_buffer, settle
from raydd.run.resolve import check_data, check_settings, needs_experts
from raydd.run.rollout_worker import as_arrays, as_tensors, division_of, matches_of

CPU = torch.device("cpu")
DEFAULTS = {name: row.defaults for name, row in METHODS.items() if row.defaults}
PARTS = ("images", "labels", "lr")
TOY = {
    "ipc": 1,
    "checkpoint_every": 2,
    "lr": {"start": 0.05},
    "experts": {"network": "ConvNetW8", "num_experts": 2, "epochs": 3, "lr": 0.05},
}
FAMILIES = {
    "trajectories": {"steps": 5, "student_steps": 4, "span": 1, "lr": {"images": 20, "lr": 1e-4}},
    # A trained network lives for three steps, so that it counts where a run goes on.
    "statistics": {
        "steps": 5,
        "statistic": {"batch_real": 8, "refresh": 3, "epochs": 2, "region": 2, "batch_size": 32, "queue_steps": 2},
    },
    "loss": {
        "steps": 5,
        "student_steps": 5,
        "lr": {"images": 0.02, "lr": 0.0},
        "unrolled": {"batch_real": 16, "window": 3, "radius": 0},
    },
    "kernel": {"steps": 5, "lr": {"images": 0.02}, "kernel": {"batch_real": 16, "pool": 2, "renew": 2}},
    "nothing": {},
}


WHOLE = {"haba": {"formation": {"contrast": 0}}}
"""What makes a sum of losses the match of trajectories alone, which can be divided."""


def family(method):
    return complete(build(DistillConfig, {"method": method})).match


def toy(method, *layers):
    return complete(build(DistillConfig, TOY, FAMILIES[family(method)], {"method": method}, *layers))


def thorough(*layers):
    """Variants that `-m slow` adds to the ones that the default run has."""
    return [pytest.param(*values, marks=pytest.mark.slow) for values in layers]


def of(*families, most=99):
    """Each method of some families without an objective of its own; coresets learn nothing."""
    names = [name for name in METHODS if family(name) in families and METHODS[name].compose is None]
    return pytest.mark.parametrize("method", first(names, most))


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


SHARED = [method for method in METHODS if method != "sre2l"]  # whose experts have batch norm: a shipped cell below
each_method = pytest.mark.parametrize("method", SHARED)


def lively(method, space):
    """Step sizes by which a few steps on digits lead downwards; the published one of the queue does not."""
    own = complete(build(DistillConfig, {"method": method}))
    if own.statistic.networks == "queue":
        sizes = {"lr": {"images": 0.05}, "statistic": {"alpha": 5}}
    else:
        sizes = {"lr": {"images": 1.0 if own.space == "pixels" else own.lr.images}}
    sizes["lr"]["images"] *= 0.1 if space == "pixels" else 1  # a pixel is about a third of a standard deviation
    return sizes | {"space": space}


@each_method
def test_it_runs_from_the_start_that_the_settings_ask_for(method, source, device):
    config = toy(method)
    steps, result = distil(config, source, device)
    assert [step.step for step in steps] == list(range(1, config.steps + 1))
    assert (len(steps) == 0) == (config.match == "nothing")
    assert all(math.isfinite(step.loss) and step.stepped for step in steps)
    assert result.images.shape == (10, 1, 8, 8)
    assert {getattr(result, name).device.type for name in PARTS} == {device.type}
    assert (result.dataset, len(result.classes), result.ipc) == ("digits", 10, 1)
    start = METHODS[method](setup(config, source)).synset
    assert float(start.lr) == pytest.approx(0.05)
    assert start.transform.hash == result.transform.hash
    assert start.formation == result.formation
    assert torch.equal(start.images.to(device), result.images) == (not steps)


@of("trajectories", most=2)
@pytest.mark.parametrize(
    "layer", [{"batch_size": 7}, *thorough(({},), ({"initial": "noise", "lr": {"labels": 0}},), ({"ipc": 2},))]
)
def test_its_loss_goes_down(method, layer, source):
    """On one segment and without augmentation, so that only learning changes the loss."""
    still = {"window": {"low": 1, "high": 1}, "data": {"augment": "none"}, "steps": 40}
    steps, _ = distil(toy(method, still, layer), one(source))
    losses = [step.loss for step in steps]
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


@of("statistics", most=2)
@pytest.mark.parametrize(
    ("space", "layer"),
    [
        ("pixels", {}),
        *thorough(
            ("network", {}), ("network", {"initial": "noise"}), ("pixels", {"ipc": 2, "formation": {"factor": 2}})
        ),
    ],
)
def test_learned_images_are_closer_through_networks_they_were_not_learned_from(method, layer, space, source):
    """The same draws for the start and for the result: other networks, real images and views than in the run."""
    config = toy(method, {"steps": 20, "statistic": {"batch_real": 64}}, lively(method, space), layer)
    recipe = METHODS[method](setup(config, source))
    steps, result = distil(config, source)
    assert all(math.isfinite(step.loss) and step.stepped for step in steps)
    before, after = (sum(seen(recipe, shown, generator(9, k)) for k in range(4)) for shown in (recipe.synset, result))
    assert after < 0.97 * before
    pixels = result.transform.inverse(result.images)
    assert bool(((pixels > -1e-5) & (pixels < 1 + 1e-5)).all()) == (space == "pixels")


def seen(recipe, synset, rng):
    """The loss of one outer step, summed over its parts."""
    state, total = recipe.objective.init(rng), 0.0
    for part in range(recipe.objective.parts):
        loss, state = recipe.objective.loss(synset, state, 0, rng, part)
        total += float(loss.detach())
    return total


def one(source):
    return InMemory(source.trajectories[:1], source.layout)


@pytest.mark.parametrize(
    "layer",
    [
        {"labels": "own", "batch_size": 7},
        *thorough(
            ({"labels": "own"},),
            ({"lr": {"lr": 0, "start": 0.2}},),  # labels that follow the images, and images alone
            ({"initial": "noise", "lr": {"images": 200, "lr": 0, "start": 0.5}},),
        ),
    ],
)
def test_the_truncated_gradient_leads_downwards_whatever_the_labels(layer, source):
    still = {"window": {"low": 1, "high": 1}, "data": {"augment": "none"}, "steps": 40}
    config = toy("tesla", still, layer)
    assert config.backprop == "truncated"
    losses = [step.loss for step in distil(config, one(source))[0]]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@of("trajectories")
@pytest.mark.parametrize("step", [0, 1e-4])
def test_gradients_reach_exactly_the_declared_leaves(method, step, source):
    config = toy(method, {"lr": {"lr": step}, "steps": 1})
    recipe = METHODS[method](setup(config, source))
    assert ("lr" in recipe.learn) == (step > 0)
    leaves = {name: getattr(recipe.synset, name).clone().requires_grad_() for name in recipe.learn}
    state = recipe.objective.init(generator(0))
    loss, _ = recipe.objective.loss(recipe.synset.with_leaves(leaves), state, 0, generator(1))
    for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        assert torch.isfinite(gradient).all()
        each = gradient.flatten(1).abs().sum(1) if gradient.ndim > 1 else gradient.abs()
        assert (each.max() if name == "styles" else each.min()) > 0  # few steps do not show all styles
    _, result = distil(config, source)
    for name in PARTS:
        assert torch.equal(getattr(result, name), getattr(recipe.synset, name)) == (name not in recipe.learn)


@of("statistics")
@pytest.mark.parametrize("layer", [{}, {"formation": {"factor": 2}, "statistic": {"batch_synthetic": None}}])
def test_gradients_of_all_parts_together_reach_every_image_and_nothing_else(method, layer, source):
    config = toy(method, {"steps": 1, "ipc": 2}, layer)
    recipe = METHODS[method](setup(config, source))
    assert set(recipe.learn) == {"images"}
    rng, total = generator(1), torch.zeros(20)
    images, state = recipe.synset.images.clone().requires_grad_(), recipe.objective.init(generator(0))
    for part in range(recipe.objective.parts):
        loss, state = recipe.objective.loss(recipe.synset.with_leaves({"images": images}), state, 0, rng, part)
        (gradient,) = torch.autograd.grad(loss, images)
        reached = gradient.flatten(1).abs().sum(1)
        assert torch.isfinite(gradient).all()
        assert ((reached > 0) == (recipe.synset.labels == part)).all()
        total += reached
    assert total.min() > 0
    _, result = distil(config, source)
    assert [name for name in PARTS if not torch.equal(getattr(result, name), getattr(recipe.synset, name))] == [
        "images"
    ]


@of("nothing")
def test_a_selection_learns_nothing(method, source):
    recipe = METHODS[method](setup(toy(method), source))
    assert recipe.learn == {}
    with pytest.raises(ValueError, match="a selection learns nothing; use --set steps=0"):
        recipe.objective.loss(recipe.synset, recipe.objective.init(generator(0)), 0, generator(0))


@pytest.mark.parametrize("method", first(METHODS, 0, keep=("mtt", "dm")))
def test_a_run_is_its_seed_and_nothing_else(method, source):
    config = toy(method)
    torch.manual_seed(1)
    steps, first = distil(config, source)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, second = distil(toy(method), source)
    assert torch.equal(torch.get_rng_state(), state)
    assert steps == again
    assert same(first, second)
    _, other = distil(toy(method, {"seed": 1}), source)
    chosen = config.match == "nothing" and config.initial != "real"  # by distances or counts, not by chance
    assert chosen or not torch.equal(first.images, other.images)


class Workers:
    """Computes the parts of a step as workers do, which have recipes of their own, in no good order."""

    def __init__(self, config, source, count):
        recipes = (METHODS[config.method](setup(config, source)) for _ in range(count))
        self.divisions = [division_of(config, recipe) for recipe in recipes]

    def share(self, value):
        return as_arrays(value)

    def __call__(self, *arguments):
        sent, results = as_arrays(arguments), {}
        for index in reversed(range(self.divisions[0].count)):
            part = self.divisions[index % len(self.divisions)].part
            results[index] = as_tensors(as_arrays(part(index, *as_tensors(sent))))
        return [results[index] for index in sorted(results)]


def in_shards(config, source, workers=0):
    """The steps and the result of a run whose steps are cut: by workers, or in this process."""
    made = setup(config, source)
    recipe = METHODS[config.method](made)
    run = Distillation(recipe.objective, recipe.synset, recipe.learn, config.seed, gate=recipe.gate, ema=recipe.ema)
    start = (lambda task, division: Workers(config, source, workers)) if workers else None
    return list(run.run(config.steps, matches_of(made, recipe, start))), run.result, run.state_dict()


@of("statistics", most=2)
@pytest.mark.parametrize(
    "layer",
    [
        {"ipc": 2, "formation": {"factor": 2}, "statistic": {"batch_synthetic": 5}},
        *thorough(({},), ({"space": "pixels", "lr": {"momentum": 0.9}},), ({"statistic": {"each_class": True}},)),
    ],
)
def test_groups_of_classes_give_the_bits_of_whole_steps(method, layer, source):
    config = toy(method, layer)
    whole = distillation(config, source)
    steps = list(whole.run(config.steps))
    for shards, workers in ((2, 0), (3, 2), (10, 3)):
        cut_steps, result, state = in_shards(toy(method, layer, {"shards": shards}), source, workers)
        assert cut_steps == steps
        assert same(result, whole.result)
        assert equal_trees(state, whole.state_dict())


def equal_trees(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal_trees(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@of("trajectories")
@pytest.mark.parametrize("layer", [{"batch_size": 7}, *thorough(({},), ({"ipc": 2, "formation": {"factor": 2}},))])
def test_pieces_of_a_batch_give_the_same_gradient_and_loss(method, layer, source):
    if "formation" in layer and DEFAULTS.get(method, {}).get("labels") == "expert":
        pytest.skip("experts label an image as a whole, not its parts")
    if "formation" in layer and "formation" in DEFAULTS.get(method, {}):
        pytest.skip("images of mosaics have no styles")
    config = toy(method, layer, WHOLE.get(method, {}))
    recipe = METHODS[method](setup(config, source))
    parts = {name: part.double() for name, part in recipe.synset.parts.items() if name != "labels"}
    if recipe.synset.labels.is_floating_point():
        parts["labels"] = recipe.synset.labels.double()
    synset = recipe.synset.with_leaves(parts)
    start = {name: getattr(synset, name) for name in recipe.learn}
    whole = Matcher(recipe.objective, synset, 0)(0, start, 1, 0)
    for shards in (2, 3, 7):
        division = recipe.objective.divide(synset, 0, shards)
        (ours,), _ = division.matches(Shuffled(division))(iter([start]), None, 1, 0)
        assert ours.loss == pytest.approx(whole.loss, rel=1e-12)
        for a, b in zip(ours.gradients, whole.gradients, strict=True):
            assert a.dtype == torch.float64
            assert (a - b).norm() <= 1e-12 * b.norm()


class Shuffled:
    """Computes parts in this process from the last to the first."""

    def __init__(self, division):
        self.division = division

    def share(self, value):
        return value

    def __call__(self, *arguments):
        return [self.division.part(index, *arguments) for index in reversed(range(self.division.count))][::-1]


@of("trajectories", most=2)
def test_pieces_of_a_batch_give_the_same_bits_whoever_computes_them(method, source):
    alone = WHOLE.get(method, {})
    config = toy(method, alone, {"shards": 3, "steps": 3})
    steps, here, _ = in_shards(config, source)
    for workers in (1, 2):
        there_steps, there, _ = in_shards(config, source, workers)
        assert there_steps == steps
        assert same(there, here)
    whole_steps, whole = distil(toy(method, alone, {"steps": 3}), source)
    assert [step.loss for step in steps] == pytest.approx([step.loss for step in whole_steps], rel=1e-2)
    assert torch.allclose(whole.images, here.images, atol=1e-2)


def test_rollouts_of_sharded_steps_are_averaged(source):
    config = toy("mtt", {"shards": 2, "rollouts": 2, "steps": 2})
    steps = in_shards(config, source)[0]
    assert in_shards(config, source, 2)[0] == steps
    two, _, _ = in_shards(toy("mtt", {"rollouts": 2, "steps": 2}), source)
    assert [step.loss for step in steps] == pytest.approx([step.loss for step in two], rel=1e-3)
    assert steps[0].loss != in_shards(toy("mtt", {"shards": 2, "steps": 2}), source)[0][0].loss


def opened(folder, config):
    """A buffer where the settings need one, and the workspace: as the command gets them."""
    if needs_experts(config):
        return open_buffer(folder, config, CPU)
    return None, open_workspace(config.data, config.experts.network, CPU)


RESUMED = [
    *[(name, layer) for name in METHODS if family(name) == "trajectories" for layer in ({}, {"batch_size": 7})],
    *[(name, {"formation": {"factor": 2}}) for name in SHARED if family(name) == "statistics"],
    *[(name, {}) for name in METHODS if family(name) in ("loss", "kernel")],
    ("mtt", {"statistic": {"beside": 0.1, "batch_real": 8}}),
]


@pytest.mark.parametrize("kills", [(3,), *thorough((range(6),))], ids=["once", "anywhere"])
@pytest.mark.parametrize(("method", "layer"), RESUMED)
def test_killed_at_any_step_it_resumes_to_the_same_bits(method, layer, kills, folder, tmp_path):
    config = toy(method, layer and {"ema": 0.5, **layer})
    buffer, work = opened(folder, config)
    whole = open_run(config, tmp_path / "whole", buffer, work)
    steps = list(whole.steps())
    assert len(steps) == 5
    expected = (tmp_path / "whole" / "synset.arrow").read_bytes()
    for killed in kills:
        out = tmp_path / str(killed)
        list(itertools.islice(open_run(config, out, buffer, work).steps(), killed))
        rest = list(open_run(config, out, buffer, work, resume=True).steps())
        assert rest == steps[5 - len(rest) :]
        assert len(rest) < 5 or killed < 3
        assert (out / "synset.arrow").read_bytes() == expected
        assert (out / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@of("nothing")
def test_a_selection_is_finished_at_once_and_once(method, folder, tmp_path):
    config = toy(method, {"ipc": 2, "formation": {"factor": 2}})
    buffer, work = opened(folder, config)
    assert list(open_run(config, tmp_path / "run", buffer, work).steps()) == []
    found = SyntheticSet.load(tmp_path / "run" / "synset.arrow")
    before = (tmp_path / "run" / "synset.arrow").read_bytes()
    assert (found.images.shape, found.ipc, len(found.decoded().images)) == ((20, 1, 8, 8), 2, 80)
    assert list(open_run(config, tmp_path / "run", buffer, work, resume=True).steps()) == []
    assert (tmp_path / "run" / "synset.arrow").read_bytes() == before


@of("statistics")
def test_batch_norm_is_refused_where_a_network_sees_one_class_a_batch(method):
    config = toy(method, {"experts": {"network": "ConvNetW8BN"}})
    work = open_workspace(config.data, "ConvNetW8BN", CPU)
    with pytest.raises(ValueError, match=rf"^ConvNetW8BN has batch norm, and method {method} .* --network ConvNetW8$"):
        check_data(config, work)


def test_batch_norm_is_refused_where_statistics_are_beside_trajectories():
    config = toy("mtt", {"experts": {"network": "ConvNetW8BN"}, "statistic": {"beside": 0.1}})
    work = open_workspace(config.data, "ConvNetW8BN", CPU)
    with pytest.raises(ValueError, match=r"^ConvNetW8BN has batch norm, and statistic.beside = 0.1 shows it one class"):
        check_data(config, work)


def test_a_network_without_batch_norm_is_refused_where_it_is_matched():
    config = toy("sre2l", {"experts": {"network": "MLP"}})
    with pytest.raises(ValueError, match=r"^method sre2l matches .*, and MLP has none; .* --network ConvNetBN$"):
        check_data(config, open_workspace(config.data, "MLP", CPU))


def test_only_where_steps_depend_on_how_many_there_are_a_resumed_run_must_repeat_them(folder, tmp_path):
    for method in ("ratbptt", "atbptt"):
        config, out = toy(method), tmp_path / method
        buffer, work = opened(folder, config)
        list(itertools.islice(open_run(config, out, buffer, work).steps(), 3))
        before = (out / "checkpoint" / "state.arrow").read_bytes()
        longer = config.model_copy(update={"steps": 9})
        if method == "ratbptt":
            assert len(list(open_run(longer, out, buffer, work, resume=True).steps())) >= 6
        else:
            with pytest.raises(ValueError, match="was started with other settings: steps was 5 and is 9"):
                open_run(longer, out, buffer, work, resume=True)
            assert (out / "checkpoint" / "state.arrow").read_bytes() == before


@of("trajectories", "nothing", most=2)
def test_batch_norm_experts_work_from_training_to_a_set(method, batch_norm, tmp_path):
    config = toy(method, {"experts": {"network": "ConvNetW8BN"}})
    if config.match == "trajectories":
        config = config.model_copy(update={"evaluate_every": 5, "evaluate_networks": 1, "evaluate_epochs": 2})
    buffer, work = batch_norm.open(config)
    assert buffer.running_stats(1, 2).numel() == 2 * 8 * 2
    steps = list(open_run(config, tmp_path / "run", buffer, work).steps())
    assert all(math.isfinite(step.loss) and step.stepped for step in steps)
    assert (tmp_path / "run" / "synset.arrow").exists()


def leaf_settings(tree, prefix=()):
    """Every value of a tree of settings, with the way to it."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaf_settings(value, (*prefix, key))
        else:
            yield (*prefix, key), value


OWN = [(method, path, value) for method, tree in DEFAULTS.items() for path, value in leaf_settings(tree)]


def at(config, path):
    for key in path:
        config = getattr(config, key)
    return config


def nested(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


@pytest.mark.parametrize(("method", "path", "value"), OWN)
def test_what_a_method_has_of_its_own_fills_what_is_unset_alone(method, path, value):
    assert at(complete(build(DistillConfig, {"method": method})), path) == value
    general = at(DistillConfig(), path)
    assert general != value
    said = build(DistillConfig, {"method": method}, nested(path, general))
    assert at(complete(said), path) == general
    for other, tree in DEFAULTS.items():
        if path not in dict(leaf_settings(tree)) and (path != ("lr", "images") or not METHODS[other].image_rates):
            assert at(complete(build(DistillConfig, {"method": other})), path) == general
    beside = {
        "lr": {"labels_momentum": 0.3},
        "experts": {"lr": 7},
        "pruning": {"metric": "squared"},
        "window": {"low": 1},
    }
    beside |= {"statistic": {"lr": 2}, "formation": {"bound": 9}}
    filled = complete(build(DistillConfig, {"method": method}, beside))
    assert at(filled, path) == value
    kept = filled.lr.labels_momentum, filled.experts.lr, filled.pruning.metric, filled.window.low
    assert kept == (0.3, 7, "squared", 1)
    assert (filled.statistic.lr, filled.formation.bound) == (2, 9)


def test_the_methods_own_values_are_their_papers():
    own = {method: {".".join(path): value for path, value in leaf_settings(tree)} for method, tree in DEFAULTS.items()}
    datm = {"initial": "correctly_classified", "lr.labels": 5.0, "experts.optimizer": "gsam"}
    dc = {
        "steps": 10000,
        "checkpoint_every": 200,
        "lr.images": 0.1,
        "lr.lr": 0.0,
        "statistic.networks": "trained",
        "statistic.of": "gradient",
        "statistic.distance": "cosine",
        "statistic.refresh": 10,
        "statistic.epochs": 50,
    }
    stages = {
        "steps": 10000,
        "checkpoint_every": 200,
        "space": "pixels",
        "formation.factor": 2,
        "lr.lr": 0.0,
        "statistic.each_class": True,
        "statistic.batch_real": 128,
        "statistic.batch_synthetic": 200,
        "statistic.augment": "dsa_idc",
        "statistic.strategy": "color_crop_cutout",
        "experts.optimizer": "momentum",
        "experts.weight_decay": 5e-4,
        "experts.epochs": 60,
        "experts.num_experts": 5,
    }
    idc = {
        "steps": 200000,
        "checkpoint_every": 100,
        "space": "pixels",
        "formation.factor": 2,
        "lr.images": 0.005,
        "lr.lr": 0.0,
        "statistic.networks": "real",
        "statistic.of": "gradient",
        "statistic.distance": "squared",
        "statistic.refresh": 100,
        "statistic.queue_steps": 16,
        "statistic.batch_size": 128,
        "statistic.batch_real": 64,
        **{key: stages[key] for key in stages if key in ("statistic.each_class", "statistic.batch_synthetic")},
        "statistic.augment": "dsa_idc",
        "statistic.strategy": "color_crop_cutout",
    }
    chosen = {"steps": 0}
    unrolled = {
        "steps": 60000,
        "checkpoint_every": 20,
        "student_steps": 200,
        "lr.images": 0.001,
        "lr.lr": 0.0,
        "lr.start": 0.001,
        "lr.optimizer": "adam",
        "unrolled.batch_real": 5000,
    }
    assert own == {
        "ftd": {"ema": 0.9995, "experts.optimizer": "gsam"},
        "tesla": {"backprop": "truncated", "labels": "expert"},
        "datm": datm,
        "dpd": datm | {"pruning.rate": 0.1},
        "ast": {
            "initial": "representative",
            "intermediate": "equal",
            "balance": 8.0,
            "perturbation": 0.1,
            "experts.optimizer": "smooth",
        },
        "mct": {"convexify": True, "window.continuous": True},
        "dc": dc | {"initial": "noise", "statistic.augment": "none"},
        "dsa": dc,
        "dm": {"steps": 20000, "checkpoint_every": 200, "lr.images": 1.0, "lr.lr": 0.0},
        "tgdd": stages | {"statistic.networks": "experts", "statistic.alpha": 2.5},
        "tgdd_adam": stages
        | {"statistic.networks": "experts", "statistic.alpha": 2.5}
        | {"initial": "kmeans", "lr.optimizer": "adam", "lr.images": 0.0015},
        "dance": stages | {"statistic.networks": "mixed", "statistic.alpha": 1.0},
        "idm": {
            "steps": 20000,
            "checkpoint_every": 500,
            "formation.factor": 2,
            "lr.images": 0.2,
            "lr.lr": 0.0,
            "statistic.networks": "queue",
            "statistic.each_class": True,
            "statistic.alpha": 50.0,
            "statistic.refresh": 30,
        },
        "m3d": {
            "steps": 20000,
            "checkpoint_every": 200,
            "formation.factor": 2,
            "lr.images": 1.0,
            "lr.lr": 0.0,
            "statistic.distance": "gaussian",
        },
        "cafe": {
            "steps": 2000,
            "checkpoint_every": 100,
            "lr.images": 0.1,
            "lr.lr": 0.0,
            "statistic.networks": "trained",
            "statistic.of": "layers",
            "statistic.refresh": 10,
            "statistic.epochs": 10,
        },
        "datadam": {
            "steps": 20000,
            "checkpoint_every": 200,
            "lr.images": 1.0,
            "lr.lr": 0.0,
            "statistic.of": "attention",
            "statistic.batch_real": 64,
        },
        "dsdm": {
            "steps": 10000,
            "checkpoint_every": 200,
            "space": "pixels",
            "formation.factor": 2,
            "lr.images": 0.1,
            "lr.lr": 0.0,
            "experts.optimizer": "momentum",
            "experts.weight_decay": 5e-4,
            "experts.epochs": 20,
            "statistic.networks": "experts",
            "statistic.distance": "covariances",
            "statistic.each_class": True,
            "statistic.history": 0.2,
        },
        "ncfm": stages
        | {
            "steps": 20000,
            "lr.images": 0.01,
            "lr.optimizer": "adamw",
            "lr.patience": 500,
            "statistic.networks": "mixed",
            "statistic.of": "unit_features",
            "statistic.distance": "characteristic",
            "statistic.alpha": 1.0,
            "statistic.batch_real": 1024,
        },
        "dream": idc
        | {"initial": "kmeans", "select_by": "pixels", "statistic.cluster_every": 10, "statistic.batch_real": 128},
        "idc": idc,
        "bptt": unrolled,
        "ratbptt": unrolled | {"unrolled.window": 60, "unrolled.position": "random"},
        "atbptt": unrolled | {"unrolled.window": 60, "unrolled.position": "gradient", "unrolled.radius": 20},
        "frepo": {
            "steps": 100000,
            "checkpoint_every": 100,
            "lr.images": 0.003,
            "lr.labels": 0.003,
            "lr.lr": 0.0,
            "lr.optimizer": "adam",
            "kernel.batch_real": 1024,
        },
        "kip": {
            "checkpoint_every": 100,
            "lr.images": 0.04,
            "lr.lr": 0.0,
            "lr.optimizer": "adam",
            "kernel.of": "tangent",
            "kernel.batch_real": 5000,
        },
        "rcig": {
            "steps": 10000,
            "checkpoint_every": 100,
            "ema": 0.99,
            "lr.images": 0.003,
            "lr.labels": 0.003,
            "lr.lr": 0.0,
            "lr.optimizer": "adam",
            "kernel.of": "linearised",
            "kernel.batch_real": 1024,
            "kernel.regularisation": 5e-4,
            "kernel.pool": 30,
            "kernel.lr": 5e-5,
            "kernel.pool_steps": 15,
        },
        "sre2l": {
            "initial": "noise",
            "steps": 4000,
            "checkpoint_every": 200,
            "lr.images": 0.25,
            "lr.lr": 0.0,
            "lr.optimizer": "adam",
            "experts.network": "ConvNetW32BN",
            "experts.optimizer": "momentum",
            "experts.num_experts": 1,
            "statistic.networks": "experts",
            "statistic.of": "batch_norm",
            "statistic.alpha": 0.01,
        },
        "haba": {"steps": 15000, "formation.styles": 5, "formation.contrast": 0.1, "lr.momentum": 0.95},
        "glister": chosen | {"initial": "glister", "experts.num_experts": 5},
        "rded": chosen | {"initial": "rded", "experts.optimizer": "momentum", "experts.num_experts": 1},
        "random": chosen,
        "kmeans": chosen | {"initial": "kmeans", "select_by": "pixels"},
        "herding": chosen | {"initial": "herding", "experts.num_experts": 1},
        "kcenter": chosen | {"initial": "kcenter", "experts.num_experts": 1},
        "forgetting": chosen | {"initial": "forgetting", "experts.num_experts": 5},
    }
    matched = {match: {name for name in METHODS if METHODS[name].match == match} for match in FAMILIES}
    statistics = {
        "dc",
        "dsa",
        "dm",
        "tgdd",
        "tgdd_adam",
        "dance",
        "idm",
        "m3d",
        "cafe",
        "datadam",
        "dsdm",
        "ncfm",
        "idc",
        "dream",
        "sre2l",
    }
    assert matched["statistics"] == statistics
    assert matched["loss"] == {"bptt", "ratbptt", "atbptt"}
    assert matched["kernel"] == {"frepo", "kip", "rcig"}
    assert matched["nothing"] == {"random", "kmeans", "herding", "kcenter", "forgetting", "glister", "rded"}
    # What the papers say and these methods share with what is general: DM's features and siamese augmentation.
    dm = toy("dm", {"statistic": {"refresh": 1, "epochs": 0}}).statistic
    assert (dm.networks, dm.of, dm.distance, dm.alpha, dm.each_class) == ("random", "features", "means", 0, False)
    assert (dm.augment, dm.strategy) == ("dsa", "color_crop_cutout_flip_scale_rotate")
    tgdd = complete(build(DistillConfig, {"method": "tgdd"})).statistic
    assert (tgdd.of, tgdd.distance, tgdd.region) == ("features", "means", 7)
    assert complete(build(DistillConfig, {"method": "dsa"})).statistic.augment == "dsa"
    assert toy("datm").lr.labels_momentum == 0.9


@pytest.mark.rows("method", ["tgdd", "dance"])
def test_the_learning_rate_of_the_images_grows_with_ipc_as_published(method):
    sets = ("cifar10", "svhn", "tiny_imagenet", "own/letters", *SUBSETS)
    for dataset, ipc in itertools.product(sets, (1, 3, 10, 20, 50)):
        tree = {"method": method, "ipc": ipc, "data": {"dataset": dataset}}
        hundredths = ipc * (10 if dataset in SUBSETS else 1)
        assert complete(build(DistillConfig, tree)).lr.images == hundredths / 100, (dataset, ipc)
        assert complete(build(DistillConfig, tree, {"lr": {"images": 7}})).lr.images == 7, (dataset, ipc)


@pytest.mark.rows(("method", "ipc", "rate"), [("tgdd", 1, 0.003), ("tgdd", 10, 0.1), ("dance", 1, 0.003)])
def test_a_preset_and_a_user_have_the_last_word_on_it(method, ipc, rate):
    """The tuned values of digits stay."""
    preset, said = preset_layers(None, {"method": method, "ipc": ipc})
    assert complete(build(DistillConfig, preset, said)).lr.images == rate
    preset, said = preset_layers(None, {"method": method, "ipc": 5})  # no row of its own
    assert complete(build(DistillConfig, preset, said)).lr.images == 0.05


def test_a_run_writes_the_learning_rate_that_it_has(tmp_path):
    config = {"method": "tgdd", "ipc": 3, "steps": 0, "formation": {"factor": 1}, "threads": 1}
    small = {"num_experts": 1, "epochs": 1, "network": "MLP"}
    config = build(DistillConfig, config, {"experts": small})
    buffer = train_buffer(tmp_path / "buffer", config)
    distill(config, tmp_path / "run", buffer=buffer)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["lr"]["images"] == 0.03


@each_method
def test_completing_twice_is_completing_once(method):
    config = complete(build(DistillConfig, {"method": method, "steps": 7}))
    assert complete(config) == config
    assert config.steps == 7
    assert config.match == METHODS[method].match
    if method not in DEFAULTS:
        assert config == build(DistillConfig, {"method": method, "steps": 7})


@pytest.mark.rows("backprop", ["full", "adjoint", "truncated"])
@pytest.mark.rows("batch_size", [None, 7])
def test_mtt_is_composed_as_configured(backprop, batch_size, source):
    config = toy("mtt", {"backprop": backprop, "batch_size": batch_size, "window": {"low": 1}, "gate": 2, "ema": 0.9})
    recipe = METHODS["mtt"](setup(config, source))
    objective = recipe.objective
    assert objective.window(0) == objective.window(999) == (1, 2)
    assert (objective.span, objective.student_steps, objective.batch_size) == (1, 4, batch_size)
    assert objective.backprop == backprop
    assert (recipe.gate, recipe.ema) == (2, 0.9)
    assert recipe.learn == {"images": Leaf(20, 0.5), "lr": Leaf(1e-4, 0.5)}
    assert METHODS["mtt"](setup(toy("mtt", {"window": {"high": 0}}), source)).objective.window(0) == (0, 0)


def test_full_and_adjoint_are_the_same_method(source):
    (full, a), (adjoint, b) = (distil(toy("mtt", {"backprop": mode}), source) for mode in ("full", "adjoint"))
    assert [step.loss for step in full] == pytest.approx([step.loss for step in adjoint], rel=1e-4)
    torch.testing.assert_close(a.images, b.images, rtol=0, atol=1e-3)


class Brightness:
    """Matches nothing of the experts: the mean of the images shall be 1."""

    parts, joint = 1, False

    def init(self, rng):
        return None

    def loss(self, synset, state, step, rng, part=0):
        return (synset.images.mean() - 1).square(), state


def test_a_new_method_is_a_function_and_a_row(folder, tmp_path, monkeypatch):
    def bright(setup):
        return Recipe(Brightness(), initial(setup), leaves(setup.config, setup.work.transform))

    monkeypatch.setitem(METHODS, "bright", Method("bright", "Images of mean 1.", compose=bright))
    config = toy("bright", {"lr": {"lr": 0, "images": 100}, "steps": 30})
    buffer, work = open_buffer(folder, config, CPU)
    run = open_run(config, tmp_path / "run", buffer, work)
    losses = [step.loss for step in run.steps()]
    assert losses[-1] < 0.01 * losses[0]


class Buffers:
    """Buffers of two networks on digits, trained when one is first asked for."""

    def __init__(self, folder):
        self._folder, self._made = folder, {}

    def open(self, config):
        """The buffer of a configuration's experts, and its workspace, as a run gets them."""
        kind = config.data.preprocessing, config.experts.network, config.experts.optimizer, config.experts.kept
        if kind not in self._made:
            self._made[kind] = train_buffer(self._folder / str(len(self._made)), config)
            self._made[kind] = open_buffer(self._made[kind], config, CPU)
        return self._made[kind]


@pytest.fixture(scope="module")
def batch_norm(tmp_path_factory):
    return Buffers(tmp_path_factory.mktemp("batch-norm"))


@pytest.fixture(scope="module")
def buffers(tmp_path_factory):
    return Buffers(tmp_path_factory.mktemp("buffers"))


EPOCHS = 8
SMALL = {
    "steps": 2,
    "student_steps": 2,
    "span": 2,
    "window": {"high": 4},
    "threads": 1,
    "experts": {"network": "MLP", "num_experts": 2, "epochs": EPOCHS, "lr": 0.05},
}


def small(method, *layers):
    return toy_of(SMALL)(method, *layers)


def test_smooth_experts_lead_elsewhere(buffers, tmp_path):
    results = []
    for optimizer in ("momentum", "smooth", "gsam"):
        config = small("mtt", {"experts": {"optimizer": optimizer}})
        run = open_run(config, tmp_path / optimizer, *buffers.open(config))
        assert all(math.isfinite(step.loss) for step in run.steps())
        results.append(SyntheticSet.load(tmp_path / optimizer / "synset.arrow").images)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(results, 2))


def distilled(config, buffer, work, out):
    list(itertools.islice(open_run(config, out, buffer, work).steps(), 2))
    list(open_run(config, out, buffer, work, resume=True).steps())
    return SyntheticSet.load(out / "synset.arrow")


def test_convexified_experts_give_what_the_full_ones_do_and_only_to_a_method_that_convexifies(buffers, tmp_path):
    full = small("mct", {"waypoints": [3], "steps": 5, "checkpoint_every": 2})
    source, work = buffers.open(full)
    kept = small("mct", {"steps": 5, "checkpoint_every": 2, "experts": {"kept": [3]}})
    straight = buffers.open(kept)
    assert straight[0].kept == (0, 3, EPOCHS)
    convexify(source.folder, tmp_path / "written", [3])
    written = open_buffer(tmp_path / "written", kept, CPU)
    first = distilled(full, source, work, tmp_path / "full")
    assert same(first, distilled(kept, *straight, tmp_path / "kept"))
    assert same(first, distilled(kept, *written, tmp_path / "again"))
    assert settle(small("mct"), straight[0]).experts.kept == settle(small("mct"), written[0]).experts.kept == (3,)
    assert settle(kept, source).experts.kept is None
    for method in (name for name in METHODS if family(name) == "trajectories" and name != "mct"):
        with pytest.raises(ValueError, match=r"is convexified \(MCT\): use --method mct, or a full buffer") as caught:
            find_experts(straight[0].folder, small(method, {"experts": {"kept": [3]}}))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"waypoints \(4,\) are not \(3,\)"):
        open_run(small("mct", {"waypoints": [4]}), tmp_path / "other", *straight)
    assert not (tmp_path / "other").exists()


def shipped(*families):
    """(data set, file's stem, ipc) of every cell in the folder of presets whose method is of some families."""
    for folder in sorted((resources.files("raydd") / "presets").iterdir(), key=lambda folder: folder.name):
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if family(file.name.removesuffix(".yaml").removesuffix("-official")) not in families:
                continue
            for ipc in yaml.safe_load(file.read_text())["ipc"]:
                yield folder.name, file.name.removesuffix(".yaml"), ipc


def once_a_method(cells):
    """Each method's first cell, and the others as `thorough` ones."""
    methods = set()
    for cell in cells:
        method = cell[1].removesuffix("-official")
        yield pytest.param(*cell, marks=[pytest.mark.slow] * (method in methods))
        methods.add(method)


def classes_of(dataset):
    return {"cifar100": 100, "tiny_imagenet": 200}.get(dataset, 10)


def shrunk(dataset, preset, ipc):
    """A shipped cell on digits with two MLPs of few epochs; what it switches on is as shipped."""
    tree = load_preset(dataset, preset, ipc)
    config = complete(build(DistillConfig, tree))
    window, share, span = config.window, EPOCHS / config.experts.epochs, min(config.span, 3)
    low = int(window.low * share)
    current = None if window.current is None else max(low, int(window.current * share))
    high = min(EPOCHS - span, max(int(window.high * share), low if current is None else current + 1))
    passed = [1 + int(epoch * share) for epoch in config.waypoints]
    fewer = min(ipc, 2)
    layers = {
        "ipc": fewer,
        "steps": 2,
        "student_steps": 2,
        "span": span,
        "window": {"low": low, "current": current, "high": high, "interval": 1},
        "batch_size": 7 if config.batch_size and config.batch_size < ipc * classes_of(dataset) else config.batch_size,
        "clusters": config.clusters and max(1, config.clusters * fewer // ipc),
        "waypoints": passed,
        "lr": {"images": min(config.lr.images, 20)},
        "threads": 1,
        "data": {"dataset": "digits"},
        "experts": {
            "network": "MLP",
            "num_experts": 2,
            "epochs": EPOCHS,
            "milestones": [int(epoch * share) for epoch in config.experts.milestones],
            "kept": config.experts.kept and passed,
        },
    }
    return config, complete(build(DistillConfig, tree, layers))


@pytest.mark.parametrize(("dataset", "preset", "ipc"), [*once_a_method(shipped("trajectories"))])
def test_every_shipped_cell_runs(dataset, preset, ipc, buffers, tmp_path):
    published, config = shrunk(dataset, preset, ipc)
    buffer, work = buffers.open(config)
    config = settle(config, buffer)
    check_settings(config)
    check_data(config, work)
    recipe = METHODS[config.method](Setup(config, work, buffer))
    objective, size = recipe.objective, len(recipe.synset.images)
    if isinstance(objective, WeightedSum):
        objective = objective.terms[0][0]
    assert (recipe.gate, recipe.ema) == (published.gate, published.ema)
    assert ("labels" in recipe.learn) == (published.lr.labels > 0) == (config.method in ("datm", "dpd"))
    assert objective.between == (config.method == "ast")
    assert ((objective.batch_size or size) < size) == (
        published.batch_size is not None and published.batch_size < ipc * classes_of(dataset)
    )
    assert (objective.window(0) != objective.window(1)) == (published.window.current is not None)
    steps = list(open_run(config, tmp_path / "run", buffer, work).steps())
    assert [step.step for step in steps] == [1, 2]
    assert all(math.isfinite(step.loss) for step in steps)
    synset = SyntheticSet.load(tmp_path / "run" / "synset.arrow")
    assert synset.label_kind == ("logits" if config.method in ("tesla", "datm", "dpd") else "hard")
    assert torch.isfinite(synset.images).all()
    assert torch.isfinite(synset.targets).all()
    moved = any(step.stepped for step in steps)
    assert torch.equal(synset.images, recipe.synset.images) != moved
    assert moved or recipe.gate is not None


def shrunk_statistics(dataset, preset, ipc):
    """A shipped cell on digits with two MLPs of few epochs and small batches; what it switches on is as shipped."""
    tree = load_preset(dataset, preset, ipc)
    chosen = complete(build(DistillConfig, tree)).statistic
    layers = {
        "ipc": min(ipc, 2),
        "steps": 2,
        "threads": 1,
        "preset": preset,
        "lr": {"images": 0.1},
        "data": {"dataset": "digits"},
        "statistic": {
            "batch_real": 8,
            "batch_synthetic": chosen.batch_synthetic and 3,
            "batch_size": 8,
            "refresh": min(chosen.refresh, 2),
            "epochs": min(chosen.epochs, 2),
            "region": min(chosen.region, 3),
            "alpha": min(chosen.alpha, 1.0),
            "queue_steps": 2,
        },
        "experts": {
            "network": "ConvNetW8BN" if preset == "sre2l" else "MLP",
            "num_experts": 2,
            "epochs": EPOCHS,
            "batch_size": 256,
            "milestones": [EPOCHS - 2 + k for k in range(len(tree.get("experts", {}).get("milestones", ())))],
        },
    }
    return complete(build(DistillConfig, tree, layers))


def distinct():
    """The cells of the statistics family that are still different when they are small."""
    kept = {}
    for cell in shipped("statistics"):
        config = shrunk_statistics(*cell)
        kept.setdefault(config.model_dump_json(exclude={"lr": {"images"}, "preset": True}), cell)
    return list(kept.values())


@pytest.mark.parametrize(("dataset", "preset", "ipc"), [*once_a_method(distinct())])
def test_every_shipped_cell_of_the_statistics_family_runs(dataset, preset, ipc, buffers, tmp_path):
    published = complete(build(DistillConfig, load_preset(dataset, preset, ipc)))
    config = shrunk_statistics(dataset, preset, ipc)
    buffer, work = buffers.open(config) if needs_experts(config) else opened(None, config)
    config = settle(config, buffer)
    check_settings(config)
    check_data(config, work)
    recipe = METHODS[config.method](Setup(config, work, buffer))
    if METHODS[config.method].compose is None:
        assert recipe.objective.joint != published.statistic.each_class
        assert (recipe.objective.alpha > 0) == (published.statistic.alpha > 0)
    assert (recipe.learn["images"].bounds is not None) == (published.space == "pixels")
    assert recipe.synset.formation.factor == published.formation.factor
    steps = list(open_run(config, tmp_path / "run", buffer, work).steps())
    assert [step.step for step in steps] == [1, 2]
    assert all(math.isfinite(step.loss) and step.stepped for step in steps)
    synset = SyntheticSet.load(tmp_path / "run" / "synset.arrow")
    assert torch.isfinite(synset.images).all()
    assert not torch.equal(synset.images, recipe.synset.images)
    assert torch.equal(synset.labels, recipe.synset.labels) == (preset != "sre2l")  # whose labels are its experts'
    assert len(synset.decoded().images) >= len(synset.images) * published.formation.factor**2
