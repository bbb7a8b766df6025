"""Shipped presets of the statistics family against the papers' and codes' values, written out here once more."""

from importlib import resources

import pytest
import yaml

from raydd.config.parsing import build
from raydd.config.presets import load_preset
from raydd.config.schema import DistillConfig
from raydd.data.datasets import DATASETS
from raydd.data.named_sets import SUBSETS
from raydd.methods import complete

SMALL = ("svhn", "cifar10", "cifar100", "tiny_imagenet")

# Zhao et al., arXiv 2006.05929 and 2102.08259: outer and inner loops of the published code, by ipc.
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}

# Zhao and Bilen, arXiv 2110.04181: step size of the images, by ipc.
DM = {
    "svhn": {1: 1, 10: 1, 50: 1},
    "cifar10": {1: 1, 10: 1, 50: 1, 100: 10, 200: 10, 500: 10, 1000: 10, 1250: 10},
    "cifar100": {1: 1, 10: 1, 50: 1, 100: 1, 125: 1},
    "tiny_imagenet": {1: 1, 10: 1, 50: 1},
}

# Ran et al., arXiv 2512.02469, implementation details, and Tables 1 and 2 for which cells there are.
TGDD = """
sets   ipc images alpha factor epochs
small  1   0.01   2.5   2      60
small  10  0.1    2.5   2      60
small  50  0.5    0.5   2      60
subset 1   0.1    2.5   3      80
subset 10  1.0    2.5   3      80
"""

# Zhao et al., arXiv 2307.09742 (IDM): the published commands; their weight of the cross-entropy is of an accuracy in
# per cent, and what a command leaves out is 256 real images, a fresh network in 30 steps and 10 steps of training.
IDM = """
set           ipc weight real fresh train
cifar10       1   0.5    5000 5     10
cifar10       10  0.5    256  30    10
cifar10       50  0.1    256  30    10
cifar100      1   0.5    5000 5     10
cifar100      10  0.1    256  30    50
cifar100      50  0.1    256  30    10
tiny_imagenet 1   0.5    256  30    10
tiny_imagenet 10  0.5    256  30    10
tiny_imagenet 50  0.8    256  30    50
"""

# Zhang et al., arXiv 2406.01063 (DANCE): step size of the images, for either CIFAR.
DANCE = {1: 0.01, 10: 0.1, 50: 0.5}


def rows(table):
    """Each line of a table as a dictionary of its columns, with the table's head as keys."""
    head, *lines = (line.split() for line in table.strip().splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


def loop_cells():
    """(data set, ipc) of DC and DSA; Tiny ImageNet has the three ipc that are ever reported."""
    return [(name, ipc) for name in SMALL for ipc in LOOPS if name != "tiny_imagenet" or ipc in {1, 10, 50}]


def dm_cells():
    return [(name, ipc, lr) for name, sizes in DM.items() for ipc, lr in sizes.items()]


def tgdd_cells():
    """(data set, row of the table) of every cell."""
    names = {"small": SMALL, "subset": tuple(SUBSETS)}
    return [pytest.param(name, row, id=f"{name}-{row['ipc']}") for row in rows(TGDD) for name in names[row["sets"]]]


def whole(dataset, preset, ipc):
    """A preset as it runs: with the method's own values, and the data set, ipc and name it must have."""
    config = complete(build(DistillConfig, load_preset(dataset, preset, ipc)))
    assert (config.data.dataset, config.ipc) == (dataset, ipc)
    assert config.method == preset.removesuffix("-official")
    assert config.preset == f"{dataset}/{preset}.yaml, ipc {ipc}"
    assert config.match == "statistics"
    assert config.data.preprocessing == "normalise"
    assert (config.lr.lr, config.lr.labels, config.lr.start, config.lr.momentum) == (0, 0, 0.01, 0.5)
    return config


def operations(dataset):
    """All six of DSA, without mirroring for digits."""
    words = ["color", "crop", "cutout", "flip", "scale", "rotate"]
    return "_".join(word for word in words if DATASETS[dataset].flip or word != "flip")


@pytest.mark.rows(("dataset", "ipc"), [*loop_cells()])
@pytest.mark.rows(("method", "initial", "augment"), [("dc", "noise", "none"), ("dsa", "real", "dsa")])
def test_dc_and_dsa_train_a_thousand_networks_on_the_set(method, initial, augment, dataset, ipc):
    config = whole(dataset, method, ipc)
    outer, inner = LOOPS[ipc]
    found = config.statistic
    assert (config.steps, found.refresh, found.epochs) == (1000 * outer, outer, inner)
    assert (found.networks, found.of, found.distance, found.alpha) == ("trained", "gradient", "cosine", 0)
    assert (found.batch_real, found.batch_size, found.lr, found.each_class) == (256, 256, 0.01, False)
    assert (found.augment, config.initial, config.lr.images) == (augment, initial, 0.1)
    if augment == "dsa":
        assert found.strategy == operations(dataset)
    assert (config.experts.network, config.space, config.formation.factor) == ("ConvNet", "network", 1)


@pytest.mark.rows(("dataset", "ipc", "images"), [*dm_cells()])
def test_dm_looks_through_a_fresh_network_each_step(dataset, ipc, images):
    config = whole(dataset, "dm", ipc)
    found = config.statistic
    assert (config.steps, config.lr.images, config.initial) == (20000, images, "real")
    assert (found.networks, found.of, found.distance, found.alpha) == ("random", "features", "means", 0)
    assert (found.batch_real, found.batch_synthetic, found.each_class) == (256, None, False)
    assert (found.augment, found.strategy) == ("dsa", operations(dataset))
    assert (config.experts.network, config.space, config.formation.factor) == ("ConvNet", "network", 1)


@pytest.mark.rows(("dataset", "row"), [*tgdd_cells()])
@pytest.mark.rows("preset", ["tgdd", "tgdd-official"])
def test_tgdd(preset, dataset, row):
    config = whole(dataset, preset, int(row["ipc"]))
    found = config.statistic
    assert (config.lr.images, found.alpha) == (float(row["images"]), float(row["alpha"]))
    assert (config.formation.factor, config.formation.decode) == (int(row["factor"]), "uniform")
    assert (config.steps, config.initial, config.space) == (10000, "real", "pixels")
    assert (found.networks, found.of, found.distance, found.region) == ("experts", "features", "means", 7)
    assert (found.batch_real, found.batch_synthetic, found.each_class) == (128, 200, True)
    assert (found.augment, found.strategy) == ("dsa_idc", "color_crop_cutout")


@pytest.mark.rows(("dataset", "row"), [*tgdd_cells()])
def test_tgdd_and_its_code_have_other_experts(dataset, row):
    plain, code = (whole(dataset, preset, int(row["ipc"])).experts for preset in ("tgdd", "tgdd-official"))
    epochs = int(row["epochs"])
    for experts in (plain, code):
        assert (experts.num_experts, experts.epochs) == (5, epochs)
        assert (experts.optimizer, experts.lr, experts.momentum) == ("momentum", 0.01, 0.9)
        assert experts.weight_decay == 5e-4
    assert (plain.network, plain.batch_size, plain.milestones) == ("ConvNet", 256, ())
    assert code.network == ("ConvNetD3" if dataset == "tiny_imagenet" else "ConvNet")
    assert (code.batch_size, code.gamma) == (64, 0.2)
    assert code.milestones == (2 * epochs // 3, 5 * epochs // 6)


@pytest.mark.rows("ipc", DANCE)
@pytest.mark.rows("dataset", ["cifar10", "cifar100"])
def test_dance_looks_between_the_ends_of_its_experts(dataset, ipc):
    config = whole(dataset, "dance", ipc)
    found, experts = config.statistic, config.experts
    assert (config.steps, config.lr.images, config.initial, config.space) == (10000, DANCE[ipc], "real", "pixels")
    assert (config.formation.factor, config.formation.decode) == (2, "uniform")
    assert (found.networks, found.of, found.distance, found.alpha) == ("mixed", "features", "means", 1)
    assert (found.batch_real, found.batch_synthetic, found.each_class) == (128, 200, True)
    assert (found.augment, found.strategy) == ("dsa_idc", "color_crop_cutout")
    assert (experts.num_experts, experts.epochs, experts.optimizer, experts.weight_decay) == (5, 60, "momentum", 5e-4)
    assert (experts.network, experts.batch_size, experts.milestones) == ("ConvNet", 64, (40, 50))
    assert (experts.lr, experts.momentum, experts.gamma) == (0.01, 0.9, 0.2)


@pytest.mark.rows(("dataset", "ipc"), [(name, ipc) for name in SUBSETS for ipc in (1, 10)] + [("tiny_imagenet", 50)])
def test_dance_beyond_cifar_has_its_codes_rates_and_experts(dataset, ipc):
    config, subset = whole(dataset, "dance", ipc), dataset in SUBSETS
    assert config.lr.images == pytest.approx((0.1 if subset else 0.01) * ipc)
    assert (config.formation.factor, config.experts.epochs) == ((3, 80) if subset else (2, 60))
    epochs = config.experts.epochs
    assert config.experts.milestones == (round(epochs * 2 / 3), round(epochs * 5 / 6))
    assert (config.statistic.networks, config.experts.num_experts) == ("mixed", 5)


@pytest.mark.rows("row", rows(IDM), ids=lambda row: f"{row['set']}-{row['ipc']}")
def test_idm_looks_through_a_queue(row):
    config = whole(row["set"], "idm", int(row["ipc"]))
    found = config.statistic
    assert (config.steps, config.lr.images, config.initial, config.space) == (20000, 0.2, "real", "network")
    assert (config.formation.factor, config.formation.decode) == (2, "uniform")
    assert (found.networks, found.of, found.distance) == ("queue", "features", "means")
    assert found.alpha == pytest.approx(100 * float(row["weight"]))
    assert (found.batch_real, found.batch_synthetic, found.each_class) == (int(row["real"]), None, True)
    assert (found.refresh, found.queue_steps, found.queue_size) == (int(row["fresh"]), int(row["train"]), 100)
    assert (found.lr, found.batch_size) == (0.01, 256)
    assert (found.augment, found.strategy) == ("dsa", operations(row["set"]))
    assert config.experts.network == "ConvNet"


def shipped():
    """(data set, preset, ipc) of every shipped cell of the family, digits aside."""
    family = {"dc", "dsa", "dm", "tgdd", "dance", "idm", "m3d"}
    for folder in (resources.files("raydd") / "presets").iterdir():
        for file in folder.iterdir():
            name = file.name.removesuffix(".yaml")
            if folder.name != "digits" and name.removesuffix("-official") in family:
                yield from ((folder.name, name, ipc) for ipc in yaml.safe_load(file.read_text())["ipc"])


def test_the_tables_and_the_folder_have_the_same_cells():
    expected = {(name, method, ipc) for name, ipc in loop_cells() for method in ("dc", "dsa")}
    expected |= {(name, "dm", ipc) for name, ipc, _ in dm_cells()}
    tgdd = [cell.values for cell in tgdd_cells()]
    expected |= {(name, preset, int(row["ipc"])) for name, row in tgdd for preset in ("tgdd", "tgdd-official")}
    expected |= {(name, "dance", ipc) for name in ("cifar10", "cifar100", "tiny_imagenet") for ipc in DANCE}
    expected |= {(name, "dance", ipc) for name in SUBSETS for ipc in (1, 10)}
    expected |= {(row["set"], "idm", int(row["ipc"])) for row in rows(IDM)}
    assert set(shipped()) == expected


@pytest.mark.rows("ipc", [1, 10])
@pytest.mark.rows("method", ["dc", "dsa", "dm", "tgdd", "dance", "idm", "m3d"])
def test_digits_take_hundreds_of_steps_and_not_thousands(method, ipc):
    config = whole("digits", method, ipc)
    assert 100 <= config.steps <= 1000
    assert config.experts.network == "ConvNetW32"
    assert config.experts.epochs * config.experts.num_experts <= 500
