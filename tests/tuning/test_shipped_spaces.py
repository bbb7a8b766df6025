"""Every shipped space: it loads, its points are valid, and each builds its distiller.

Images and snapshots are random: a distiller is built, and nothing is learned. They are preprocessed without whitening
where a space asks for it, since fitting that to images of Tiny ImageNet takes minutes and is not what is tested here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from variants import first

from raydd.buffer.segments import Segment, draw
from raydd.config.names import search_spaces
from raydd.config.parsing import build, flat
from raydd.config.presets import load_preset
from raydd.config.rules import method_rules
from raydd.config.schema import DistillConfig
from raydd.data.datasets import DATASETS, Dataset, Split
from raydd.data.preprocessing import fit_transform
from raydd.data.workspace import Workspace
from raydd.distillation.setup import Setup
from raydd.methods import METHODS, complete
from raydd.models.zoo import build as build_network
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel, Layout
from raydd.numerics.rng import generator
from raydd.run.resolve import check_data, check_settings, check_start
from raydd.selection.starting_images import INITIAL
from raydd.tuning.space_files import load_space, with_settings

FOLDER = Path(__file__).parents[2] / "tune_spaces"
DATA = ("digits", "cifar10", "cifar100", "tiny_imagenet")
SEARCHED = {
    "tgdd": {"statistic.alpha", "statistic.region", "formation.factor", "experts.num_experts"},
    "datm": {"window.low", "window.current", "window.high", "window.interval", "lr.images", "lr.labels"},
    "dpd": {"pruning.rate", "pruning.metric"},
    "ast": {"experts.smooth.mu", "experts.smooth.low", "experts.smooth.epochs"}
    | {"intermediate", "balance", "perturbation"},
    "mct": {"span", "waypoints"},
    "mtt": {"student_steps", "span", "lr.images", "lr.lr", "lr.start"},
}
SPACES = [f"{method}_{data}" for method in SEARCHED for data in DATA]
COMPOSED = ["compose_digits", *(f"compose{part}_cifar10" for part in ("", "_datm", "_mosaics", "_optimizers"))]
GRIDS = {  # how many points
    "tgdd_fig6a_cifar10": 6,
    "tgdd_fig6b_cifar10": 7,
    "tgdd_fig6c_cifar10": 6,
    "tgdd_fig6d_cifar10": 5,
    "dpd_fig4a_cifar10": 4,  # rate 0 has no metric
    "dpd_fig4b_cifar10": 5,
    "mct_table3_cifar10": 15,
    "datm_fig9_left_cifar100": 10,
    "datm_fig9_middle_cifar10": 5,
}
NETWORK = "ConvNetW4"


@dataclass(frozen=True)
class Snapshots:
    """A source of random snapshots, each made when it is asked for; those that ``kept`` leaves out are not there."""

    layout: Layout
    epochs: int
    experts: Sequence[int]
    kept: tuple[int, ...] | None

    @cached_property
    def parameters(self):
        return sum(slot.numel for slot in self.layout)

    def snapshot(self, expert, epoch):
        assert expert in self.experts
        assert epoch in (self.kept or range(self.epochs + 1))
        return 0.1 * torch.randn(self.parameters, generator=generator(0, expert, epoch))

    def norms(self, expert):
        moved = torch.rand((self.epochs + 1, len(self.layout)), dtype=torch.float64, generator=generator(0, expert))
        moved[0] = 0
        return moved

    def segment(self, window, span, rng, *, between=False):
        expert, t = draw(window, span, len(self.experts), self.epochs, rng)
        inside = [self.snapshot(expert, t + k) for k in range(1, span)]
        start, target = self.snapshot(expert, t), self.snapshot(expert, t + span)
        return Segment(start, target, float(t), torch.stack(inside) if between else None, expert)


@lru_cache(maxsize=2)
def workspace(name, ipc):
    """A workspace of random images, of the data set's shape and classes: so many a class, and 2 held out."""
    row = DATASETS[name]
    shape = (row.classes * (ipc + 2), row.channels, row.size, row.size)
    pixels = np.frombuffer(np.random.default_rng(0).bytes(int(np.prod(shape))), np.uint8).reshape(shape)
    labels = np.arange(len(pixels)) % row.classes
    kept, held = np.split(np.arange(len(pixels)), [row.classes * ipc])
    dataset = Dataset(
        name=name,
        classes=tuple(f"class {label}" for label in range(row.classes)),
        mean=row.mean,
        std=row.std,
        flip=row.flip,
        train=Split(pixels, labels, kept),
        validation=Split(pixels, labels, held),
        test=Split(pixels, labels, held),
        fingerprint="random",
    )
    shared = augment("dsa", flip=row.flip)
    return Workspace(dataset, fit_transform("normalise", dataset), NETWORK, torch.device("cpu"), shared)


@lru_cache
def layout_of(name):
    row = DATASETS[name]
    make = partial(build_network, NETWORK, channels=row.channels, size=row.size, classes=row.classes)
    return FlatModel(make).layout


def narrow(config):
    """The configuration with a narrow network: the one thing that is changed."""
    return build(DistillConfig, config.model_dump(), {"experts": {"network": NETWORK}})


def tiles(config):
    return config.ipc * config.formation.factor**2


@lru_cache
def points(name):
    """A space and its points: all of a grid, else 10 at random."""
    space = load_space(name)
    if name in GRIDS:
        return space, space.grid()
    rng = generator(0, "points", name)
    return space, [space.sample(rng) for _ in range(10)]


@pytest.fixture
def starts(monkeypatch):
    """Each start is found once a test for the same images, experts and draws; it is the same again, only slow."""
    for name, start in INITIAL.items():
        monkeypatch.setitem(INITIAL, name, once(start))


def once(start):
    known = {}

    def found(request):
        experts = request.experts
        asked = experts and (experts.clusters, experts.source.epochs, tuple(experts.source.experts))
        key = request.dataset.name, request.ipc, request.rng.initial_seed(), asked
        if key not in known:
            known[key] = start(request)
        return known[key]

    return found


def refuse(config, work):
    """Every check that a run goes through before it starts."""
    check_start(config, config.experts.epochs)
    check_settings(config)
    check_data(config, work)


def distiller(config, work):
    """The recipe of a configuration, made of experts such as it asks for."""
    trained, kept = config.experts, config.experts.kept
    layout = layout_of(work.dataset.name)
    knots = None if kept is None else (0, *kept, trained.epochs)
    return METHODS[config.method](
        Setup(config, work, Snapshots(layout, trained.epochs, range(trained.num_experts), knots))
    )


def arrived(recipe, config):
    """Whether the values that are searched stand in the distiller."""
    objective = recipe.objective.terms[0][0] if config.statistic.beside else recipe.objective
    if config.match == "statistics":
        networks, factor = objective.networks, recipe.synset.formation.factor
        said = objective.alpha, networks.region, len(networks.source.experts), factor
        wanted = config.statistic.alpha, config.statistic.region, config.experts.num_experts, config.formation.factor
        return said == wanted
    window, first = config.window, objective.window(0)
    high = window.high if window.current is None else window.current
    waypoints = getattr(objective.source, "waypoints", ())
    said = objective.student_steps, objective.span, first, recipe.synset.lr.item(), waypoints
    kept = config.waypoints or config.experts.kept or ()
    wanted = config.student_steps, config.span, (window.low, high), pytest.approx(config.lr.start), kept
    return said == wanted


def test_spaces_are_those_of_every_method_and_data_set_and_the_papers_sweeps():
    assert sorted([*SPACES, *COMPOSED, *GRIDS]) == search_spaces()
    assert all(load_space(name).name == name for name in search_spaces())


@pytest.mark.usefixtures("starts")
@pytest.mark.parametrize("name", [*COMPOSED, *first([*SPACES, *GRIDS], 8)])
def test_points_are_valid_and_construct_their_distillers(name):
    space, found = points(name)
    configs = [narrow(space.config(values)) for values in found]
    work = workspace(space.dataset, max(tiles(config) for config in configs))
    row = DATASETS[space.dataset]
    for values, config in zip(found, configs, strict=True):
        assert space.violated(values) is None
        said = flat(config)
        assert {key: said[key] for key in values} == values
        refuse(config, work)
        recipe = distiller(config, work)
        assert recipe.synset.images.shape == (row.classes * config.ipc, row.channels, row.size, row.size)
        assert {leaf: learnt.lr for leaf, learnt in recipe.learn.items()} == {
            leaf: size for leaf, size in dict(config.lr).items() if leaf in ("images", "labels", "lr") and size
        }
        assert arrived(recipe, config)


@pytest.mark.rows("name", SPACES)
def test_points_differ_in_every_setting_that_is_searched(name):
    space, found = points(name)
    assert set(space.domains) >= SEARCHED[space.method]
    assert len(space.domains) <= 8
    for key in space.domains:
        assert len({str(values[key]) for values in found if key in values}) > 1, key


@pytest.mark.rows("name", SPACES)
def test_the_first_trial_is_the_preset(name):
    space = load_space(name)
    values = space.preset_values()
    assert values is not None
    preset = complete(build(DistillConfig, load_preset(space.dataset, space.method, space.ipc)))
    ours = {"threads", "evaluate_every", "evaluate_epochs", "experts.kept"}  # how it is computed, scored and stored
    said, wanted = flat(space.config(values)), flat(preset)
    assert {key: value for key, value in said.items() if value != wanted[key] and key not in ours} == {}


@pytest.mark.rows("name", SPACES)
def test_budgets_leave_a_scheduler_reports_to_go_by(name):
    space = load_space(name)
    assert 16 <= space.budget.samples <= 64
    assert 5 <= space.budget.reports <= 10
    assert space.scheduler.name in ("asha", "median")
    rungs = 1 if space.scheduler.name == "median" else space.scheduler.reduction
    assert space.scheduler.grace * rungs <= space.budget.reports  # asha stops twice at least


@pytest.mark.rows("name", [*SPACES, *GRIDS])
def test_trials_share_one_buffer_unless_they_search_what_experts_are_made_of(name):
    space, found = points(name)
    own = space.config({})
    trained = {repr((config.experts.recipe(), config.data)) for config in map(space.config, found)}
    searched = {key for key in space.domains if key.startswith("experts.")} - {"experts.num_experts"}
    if not searched:
        assert trained == {repr((own.experts.recipe(), own.data))}
    else:
        assert 1 < len(trained) <= (12 if space.dataset == "digits" else 8)
    assert max(space.config(values).experts.num_experts for values in found) <= own.experts.num_experts


@pytest.mark.rows("name", [name for name in SPACES if "window.high" in load_space(name).domains])
def test_shorter_experts_leave_a_smaller_space(name):
    space = with_settings(load_space(name), {"experts": {"epochs": 6}})
    rng = generator(0, "short", name)
    for values in (space.sample(rng) for _ in range(20)):
        config = space.config(values)
        check_start(config, 6)
        method_rules(config)
        assert config.window.high + config.span <= 6


@pytest.mark.rows("name", GRIDS)
def test_grids_have_every_point_once(name):
    space = load_space(name)
    found = space.grid()
    assert len(found) == GRIDS[name]
    assert len({str(values) for values in found}) == len(found)
    rng = generator(0, "grid", name)
    assert all(space.sample(rng) in found for _ in range(20))
    assert space.budget.samples is None
    assert space.scheduler.name == "none"


def column(name, key):
    return [point.get(key) for point in load_space(name).grid()]


def test_grids_are_the_papers_where_those_say_their_values():
    rates = column("dpd_fig4b_cifar10", "pruning.rate")
    assert rates == [0.05, 0.075, 0.1, 0.125, 0.15]  # DPD, section 4.3
    rates, metrics = (column("dpd_fig4a_cifar10", f"pruning.{part}") for part in ("rate", "metric"))
    assert list(zip(rates, metrics, strict=True)) == [(0.0, None), (0.1, "abs"), (0.1, "squared"), (0.1, "relative")]
    table = zip(column("mct_table3_cifar10", "ipc"), column("mct_table3_cifar10", "span"), strict=True)
    assert list(table) == [(ipc, m) for ipc in (1, 10, 50) for m in (3, 4, 5, 6, 7)]  # MCT, Table 3
    alpha = column("tgdd_fig6a_cifar10", "statistic.alpha")
    assert (min(alpha), max(alpha)) == (0.5, 10.5)  # TGDD, "Impact of alpha"
    assert 2.5 in alpha
    assert 80 in column("datm_fig9_middle_cifar10", "student_steps")  # DATM, A.3


def test_the_presets_of_table_3_follow_ipc():
    space = load_space("mct_table3_cifar10")
    ends = {ipc: space.config({"ipc": ipc, "span": 5}).window.high for ipc in (1, 10, 50)}
    assert ends == {1: 2, 10: 20, 50: 40}
    assert {space.config(point).student_steps for point in space.grid()} == {50}


def test_datm_learns_labels_or_has_classes():
    space, found = points("datm_fig9_left_cifar100")
    kinds = {(config.initial, config.lr.labels) for config in map(space.config, found)}
    assert kinds == {("correctly_classified", 10.0), ("real", 0.0)}


def test_the_readme_names_every_space_and_what_it_searches():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+_\w+) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(path.stem for path in FOLDER.glob("*.yaml"))
    for name, searched, _ in rows:
        assert re.findall(r"`(\S+)`", searched) == list(load_space(name).domains), name


def test_the_readmes_outline_is_a_space(tmp_path):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    outline = tmp_path / "outline.yaml"
    outline.write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0], encoding="utf-8")
    space = load_space(outline)
    told = set(yaml.safe_load(outline.read_text(encoding="utf-8")))
    assert told == set(type(space).model_fields) - {"name"}


@pytest.mark.rows("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_files_begin_by_telling_what_and_whose(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert re.match(r"# [A-Z]+[ ,].*(arXiv|PMLR|Fig\.|Table) ?", lines[0])
    assert max(map(len, lines)) <= 120
