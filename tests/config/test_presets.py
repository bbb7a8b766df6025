"""Shipped presets against the papers' tables, each table written out here once more."""

from importlib import resources

import pytest
import yaml

from raydd.config.parsing import build, merge
from raydd.config.presets import expand_preset, load_preset
from raydd.config.schema import DistillConfig
from raydd.data.datasets import DATASETS
from raydd.data.named_sets import SUBSETS
from raydd.methods import complete
from raydd.run.resolve import check_settings, check_start

HELD = (
    "# The paper trains on all training images; here 10 % of them are held out. --set data.validation=0 is its split.\n"
)
TRAJECTORIES = {"mtt", "ftd", "tesla", "datm", "dpd", "ast", "mct", "haba"}  # the others: test_preset_statistics.py

# Cazenavette et al., arXiv 2203.11932; T- is 0 and every start epoch may be drawn from the first step on.
MTT = """
set           ipc zca N  M high images lr   start batch
cifar10       1   y   50 2 2    100    1e-7 0.01  all
cifar10       10  y   30 2 20   100    1e-5 0.001 all
cifar10       50  n   30 2 40   1000   1e-5 0.001 all
cifar100      1   y   20 3 20   1000   1e-5 0.01  all
cifar100      10  n   20 2 20   1000   1e-5 0.01  all
cifar100      50  y   80 2 40   1000   1e-5 0.01  125
tiny_imagenet 1   n   10 2 10   10000  1e-4 0.01  all
tiny_imagenet 10  n   20 2 40   10000  1e-4 0.01  200
tiny_imagenet 50  n   20 2 40   10000  1e-4 0.01  300
"""

# Du et al., arXiv 2211.11004.
FTD = """
set           ipc zca N  M high images lr   start batch alpha ema
cifar10       1   y   50 2 2    100    1e-7 0.01  all   0.3   0.9999
cifar10       10  y   30 2 20   100    1e-5 0.001 all   0.3   0.9995
cifar10       50  n   30 2 40   1000   1e-5 0.01  all   1     0.999
cifar100      1   y   40 3 20   1000   1e-5 0.01  all   1     0.9995
cifar100      10  y   20 2 40   1000   1e-5 0.01  all   1     0.9995
cifar100      50  y   80 2 40   1000   1e-5 0.01  1000  1     0.999
tiny_imagenet 1   n   30 2 10   10000  1e-4 0.01  all   1     0.999
tiny_imagenet 10  n   20 2 40   10000  1e-4 0.01  500   1     0.999
"""

# The commands of the code of Liu et al., arXiv 2210.16774; images and styles have one learning rate.
HABA = """
set           ipc zca N  M high images lr   start batch
cifar10       1   y   50 2 2    100    1e-7 0.01  all
cifar10       10  y   30 2 20   100    1e-5 0.001 all
cifar10       50  y   30 2 20   100    1e-5 0.01  all
"""

# What authors of MTT and FTD told users of their code of ImageNet subsets.
MTT_SUBSETS = """
ipc zca N  M high images lr   start batch
1   n   20 2 10   100000 1e-6 0.01  all
10  n   20 2 10   100000 1e-6 0.01  20
"""
FTD_SUBSETS = """
ipc zca N  M high images lr   start batch alpha ema
1   n   20 2 10   10000  1e-4 0.01  all   1     0.999
10  n   20 2 10   10000  1e-4 0.001 all   1     0.999
"""

# Guo et al., arXiv 2310.05773, Table 6 in its own order; lr and start of MTT, alpha of FTD.
DATM = """
set           ipc  N  M low T  high I   batch labels images lr   start alpha
cifar10       1    80 2 0   4  4    -   10    5      100    1e-7 0.01  0.3
cifar10       10   80 2 0   10 20   100 100   2      100    1e-5 0.001 0.3
cifar10       50   80 2 0   20 40   100 500   2      1000   1e-5 0.001 1
cifar10       500  80 2 40  60 60   -   1000  10     50     1e-5 0.001 1
cifar10       1000 80 2 40  60 60   -   1000  10     50     1e-5 0.001 1
cifar100      1    40 3 0   10 20   100 100   10     1000   1e-5 0.01  1
cifar100      10   80 2 0   30 50   100 1000  10     1000   1e-5 0.01  1
cifar100      50   80 2 20  70 70   -   1000  10     1000   1e-5 0.01  1
cifar100      100  80 2 30  70 70   -   1000  10     50     1e-5 0.01  1
tiny_imagenet 1    60 2 0   15 20   400 200   10     10000  1e-4 0.01  1
tiny_imagenet 10   60 2 10  50 50   -   250   10     100    1e-4 0.01  1
tiny_imagenet 50   80 2 40  70 70   -   250   10     100    1e-4 0.01  1
"""

# The official code's, whose T and T+ are left out when a start epoch is drawn.
DATM_OFFICIAL = """
set           ipc  N   M low T  high I   batch labels images lr   start alpha gate
cifar10       1    80  2 0   4  4    -   10    5      100    1e-7 0.01  0.3   1.1
cifar10       10   80  2 0   10 20   100 100   2      100    1e-5 0.01  0.3   1.0
cifar10       50   80  2 0   20 40   100 500   2      1000   1e-5 0.01  0.3   1.0
cifar10       500  40  2 40  60 60   -   1000  10     50     1e-5 0.01  0.3   1.0
cifar10       1000 100 2 40  60 60   -   1000  10     50     1e-5 0.01  0.3   1.0
cifar100      1    40  3 0   20 30   100 100   10     1000   1e-5 0.01  0.3   1.0
cifar100      10   80  2 0   30 50   100 1000  10     1000   1e-5 0.01  0.3   1.0
cifar100      50   80  2 20  70 70   -   1000  10     1000   1e-5 0.01  0.3   1.0
cifar100      100  80  2 30  70 70   -   1000  10     50     1e-5 0.01  0.3   1.0
tiny_imagenet 1    40  2 0   15 20   400 200   10     10000  1e-4 0.01  0.3   1.0
tiny_imagenet 10   40  2 10  50 50   -   500   10     100    1e-4 0.01  0.3   1.0
tiny_imagenet 50   20  2 40  70 70   -   1000  10     100    1e-4 0.01  0.3   1.0
"""

# Cao et al., PMLR 304:415-430, Table 3, transposed; batch of DATM, lr and start of MTT, alpha of FTD.
DPD = """
set           ipc N  M low T  high I   labels images rate  batch lr   start alpha
cifar10       1   80 2 0   4  4    -   5      100    0.1   10    1e-7 0.01  0.3
cifar10       10  80 2 0   10 20   100 2      100    0.125 100   1e-5 0.001 0.3
cifar10       50  80 2 0   20 40   100 2      1000   0.1   500   1e-5 0.001 1
cifar100      1   40 3 0   10 20   100 10     1000   0.1   100   1e-5 0.01  1
cifar100      10  80 2 0   30 50   100 10     1000   0.1   1000  1e-5 0.01  1
cifar100      50  80 2 20  70 70   -   10     1000   0.1   1000  1e-5 0.01  1
tiny_imagenet 1   60 2 0   15 20   400 10     10000  0.125 200   1e-4 0.01  1
tiny_imagenet 10  60 2 10  50 50   -   10     100    0.1   250   1e-4 0.01  1
tiny_imagenet 50  80 2 40  70 70   -   10     100    0.1   250   1e-4 0.01  1
"""


def rows(table):
    """Each line of a table as a dictionary of its columns, with the table's head as keys."""
    head, *lines = (line.split() for line in table.strip().splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


def cells(table):
    return pytest.mark.rows("row", rows(table))


def both(preset, row, extra):
    """A preset as shipped, and as it must be: the row and ``extra``, and otherwise the settings' own values."""
    last = int(row["high"])
    window = {"low": int(row.get("low", 0)), "high": last}
    if row.get("I", "-") != "-":
        window |= {"current": int(row["T"]), "interval": int(row["I"])}
    else:
        assert int(row.get("T", last)) == last
    tree = {
        "method": preset.removesuffix("-official"),
        "ipc": int(row["ipc"]),
        "steps": 5000,
        "student_steps": int(row["N"]),
        "span": int(row["M"]),
        "window": window,
        "batch_size": None if row["batch"] == "all" else int(row["batch"]),
        "lr": {"images": row["images"], "lr": row["lr"], "start": row["start"], "labels": row.get("labels", 0)},
        "data": {"dataset": row["set"], "preprocessing": "normalise" if row.get("zca") == "n" else "zca"},
        "experts": {"network": "ConvNet", "num_experts": 100, "epochs": 50},
        "preset": f"{row['set']}/{preset}.yaml, ipc {row['ipc']}",
    }
    merge(tree, extra)
    config = build(DistillConfig, load_preset(row["set"], preset, int(row["ipc"])))
    return config.model_dump(), build(DistillConfig, tree).model_dump()


def soft(row):
    """What DATM and DPD add to a row of their tables."""
    return {"steps": 10000, "experts": {"epochs": 100, "gsam": {"rho": 0.01, "alpha": row["alpha"]}}}


@cells(MTT)
@pytest.mark.rows("method", ["mtt", "tesla"])
def test_mtt_and_tesla_have_one_table(method, row):
    found, wanted = both(method, row, {})
    assert found == wanted


@cells(FTD)
def test_ftd(row):
    found, wanted = both("ftd", row, {"ema": row["ema"], "experts": {"gsam": {"rho": 0.01, "alpha": row["alpha"]}}})
    assert found == wanted


@pytest.mark.rows("name", SUBSETS)
def test_imagenet_subsets(name):
    for row in rows(MTT_SUBSETS):
        found, wanted = both("mtt", row | {"set": name}, {})
        assert found == wanted
    for row in rows(FTD_SUBSETS):
        own = {"ema": row["ema"], "experts": {"gsam": {"rho": 0.01, "alpha": row["alpha"]}}}
        found, wanted = both("ftd", row | {"set": name}, own)
        assert found == wanted


@cells(DATM)
def test_datm(row):
    found, wanted = both("datm", row, soft(row))
    assert found == wanted


@cells(DATM_OFFICIAL)
def test_datm_official(row):
    shifted = row | {"high": str(int(row["high"]) - 1), "T": str(int(row["T"]) - 1)}
    extra = {**soft(row), "gate": row["gate"], "initial": "correctly_classified_mean"}
    found, wanted = both("datm-official", shifted, extra)
    assert found == wanted


@cells(DPD)
def test_dpd(row):
    own = row["rate"] == "0.1"  # the method's own value, which presets do not repeat
    found, wanted = both("dpd", row, soft(row) | ({} if own else {"pruning": {"rate": row["rate"], "metric": "abs"}}))
    assert found == wanted


AST = {
    "ast": {"milestones": [25], "gamma": 0.5, "smooth": {"low": 0.5, "high": 1, "epochs": 5, "mu": 1, "norm": 1}},
    "ast-official": {
        "lr": 0.003,
        "weight_decay": 1e-3,
        "milestones": [26],
        "gamma": 0.6,
        "smooth": {"low": 0.5, "high": 0.95, "epochs": 10, "mu": 2, "norm": 1},
    },
}


@cells(MTT.rpartition("tiny_imagenet 50")[0])  # the paper has no such cell
@pytest.mark.rows("preset", AST)
def test_ast_is_mtt_with_its_own_experts(preset, row):
    extra = {"experts": {"num_experts": 50, "momentum": 0.9, "lr": 0.01, "weight_decay": 0, **AST[preset]}}
    found, wanted = both(preset, row, extra | ({"clusters": 10} if row["ipc"] == "50" else {}))
    assert found == wanted


@cells(HABA)
def test_haba_is_as_its_commands_say(row):
    found, wanted = both("haba", row, {"lr": {"styles": 100}})
    assert (found.pop("steps"), wanted.pop("steps")) == (DistillConfig().steps, 5000)
    assert found == wanted
    whole = complete(build(DistillConfig, load_preset("cifar10", "haba", int(row["ipc"]))))
    assert (whole.steps, whole.lr.momentum, whole.lr.styles_momentum) == (15000, 0.95, 0.95)
    assert (whole.formation.styles, whole.formation.contrast) == (5, 0.1)


@cells(MTT)
def test_mct_is_mtt_along_a_convexified_trajectory(row):
    passed = [6, 25] if row["set"] == "cifar10" else [15, 30]
    own = {"zca": "y", "N": "50", "M": {"1": "5", "10": "6", "50": "6"}[row["ipc"]]}
    found, wanted = both("mct", row | own, {"waypoints": passed, "experts": {"kept": passed}})
    assert found == wanted


def shipped():
    """(data set, file's stem, ipc) of every cell in the folder of presets."""
    for folder in sorted((resources.files("raydd") / "presets").iterdir(), key=lambda folder: folder.name):
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            for ipc in yaml.safe_load(file.read_text())["ipc"]:
                yield folder.name, file.name.removesuffix(".yaml"), ipc


def trajectories(preset):
    """Whether a preset's method matches trajectories."""
    return preset.removesuffix("-official") in TRAJECTORIES


@pytest.mark.rows(("dataset", "preset", "ipc"), list(shipped()))
def test_every_shipped_cell_is_a_run_that_its_experts_allow(dataset, preset, ipc):
    config = complete(build(DistillConfig, load_preset(dataset, preset, ipc)))
    assert config.method == preset.removesuffix("-official")
    assert (config.data.dataset, config.ipc) == (dataset, ipc)
    assert (config.match == "trajectories") == (config.method in TRAJECTORIES)
    assert dataset in DATASETS
    check_settings(config)
    check_start(config, config.experts.epochs)
    assert all(0 < epoch < config.experts.epochs for epoch in config.experts.milestones)


@pytest.mark.rows(("dataset", "preset", "ipc"), [cell for cell in shipped() if trajectories(cell[1])])
def test_every_window_is_written_out_and_fits_the_experts(dataset, preset, ipc):
    config = build(DistillConfig, load_preset(dataset, preset, ipc))
    window = config.window
    assert window.low <= (window.high if window.current is None else window.current) <= window.high
    assert window.high + config.span <= config.experts.epochs
    assert all(0 < epoch < config.experts.epochs for epoch in (*config.waypoints, *(config.experts.kept or ())))


def test_no_table_has_a_cell_that_is_not_shipped_or_the_other_way_round():
    tables = {
        "mtt": MTT,
        "tesla": MTT,
        "mct": MTT,
        "ftd": FTD,
        "haba": HABA,
        "dpd": DPD,
        "datm": DATM,
        "datm-official": DATM_OFFICIAL,
    }
    expected = {(row["set"], preset, int(row["ipc"])) for preset, table in tables.items() for row in rows(table)}
    ast = {(row["set"], preset, int(row["ipc"])) for preset in AST for row in rows(MTT)}
    expected |= ast - {("tiny_imagenet", preset, 50) for preset in AST}
    expected |= {(name, preset, ipc) for name in SUBSETS for preset in ("mtt", "ftd") for ipc in (1, 10)}
    found = {cell for cell in shipped() if trajectories(cell[1])}
    assert {cell for cell in found if cell[0] != "digits"} == expected


def test_every_shipped_file_begins_with_where_its_values_come_from():
    for folder in (resources.files("raydd") / "presets").iterdir():
        for file in folder.iterdir():
            head = file.read_text().partition("all:")[0].splitlines()
            assert head, file.name
            assert all(line.startswith("# ") for line in head), file.name
            assert head[0].startswith("# Digits: ") if folder.name == "digits" else "et al., " in head[0], file.name


def test_official_values_are_a_preset_of_the_same_method():
    plain, official = (expand_preset(f"cifar10/{name}", 1) for name in ("datm", "datm-official"))
    assert plain["method"] == official["method"] == "datm"
    assert "gate" not in plain
    assert official["gate"] == 1.1
    assert official["preset"] == "cifar10/datm-official.yaml, ipc 1"
    assert load_preset("cifar10", "no_such-official", 1) == {}


def test_presets_of_papers_say_what_is_held_out_and_how_not_to():
    """Digits have no paper; every other preset trains on nine tenths of what its paper trains on."""
    home = resources.files("raydd") / "presets"
    files = [file for data in home.iterdir() if data.name != "digits" for file in data.iterdir()]
    assert len(files) > 60
    assert [str(file) for file in files if file.read_text(encoding="utf-8").count(HELD) != 1] == []
    for file in files:
        assert "validation" not in str(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert DistillConfig().data.validation == 0.1


def test_keys_of_a_preset_file_may_have_dots(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("window.high: 3\nexperts: {epochs: 6}\nexperts.network: MLP\n")
    assert expand_preset(str(file), 1) == {"window": {"high": 3}, "experts": {"epochs": 6, "network": "MLP"}}
    file.write_text("window: {high: 3}\nwindow.high: 4\n")
    with pytest.raises(ValueError, match=r"own.yaml: window.high is given twice"):
        expand_preset(str(file), 1)
