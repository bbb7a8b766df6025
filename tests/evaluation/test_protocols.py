"""Protocols by name and from files; every refusal is one line that names the file and the remedy."""

import os
from collections import Counter

import pytest

from raydd.config.parsing import dump
from raydd.data.datasets import DATASETS
from raydd.data.named_sets import SUBSETS
from raydd.evaluation.protocols import PROTOCOLS, find_protocol
from raydd.numerics.augment import augment
from raydd.numerics.rng import generator

WHOLE = "epochs: 300\nplain_epochs: 200\nreal_epochs: 0\nlr: 0.01\n"


@pytest.fixture
def write(tmp_path):
    """Makes the file of a protocol; its path in words."""

    def make(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return make


def refusal(word):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        find_protocol(word)
    return str(caught.value)


@pytest.mark.rows("name", PROTOCOLS)
def test_a_name_is_its_row(name):
    assert find_protocol(name) is PROTOCOLS[name]
    assert PROTOCOLS[name].name == name


def test_the_published_numbers():
    """The last tables of the papers, a second time."""
    mtt, datm, ast, dm, dcbench, tgdd, ncfm, sre2l, rded = PROTOCOLS.values()
    assert [*PROTOCOLS] == ["mtt", "datm", "ast", "dm", "dcbench", "tgdd", "ncfm", "sre2l", "rded"]
    assert (mtt.epochs, mtt.plain_epochs, mtt.lr, mtt.batch_size) == (1000, 1000, None, 256)
    assert datm == mtt.model_copy(update={"name": "datm", "batch_size": 128})
    assert ast == mtt.model_copy(update={"name": "ast", "gamma": 0.5})
    for protocol in (dm, dcbench):
        assert (protocol.epochs, protocol.plain_epochs, protocol.lr, protocol.batch_size) == (1000, 300, 0.01, 256)
    for protocol in (mtt, dm, dcbench):
        assert (protocol.milestones, protocol.gamma, protocol.cutmix) == ((0.5,), 0.1, 0)
    assert (tgdd.epochs, tgdd.plain_epochs, tgdd.lr, tgdd.batch_size) == (1500, 1500, 0.01, 64)
    assert (tgdd.milestones, tgdd.gamma, tgdd.cutmix) == ((2 / 3, 5 / 6), 0.2, 0.5)
    assert tgdd.rule == "dsa_idc"
    assert set(tgdd.strategy.split("_")) == {"color", "crop", "flip", "scale", "rotate"}
    assert all((one.rule, one.strategy, one.lengths) == (None, None, ()) for one in (mtt, datm, ast, dm, dcbench))
    by_sgd = (mtt, datm, ast, dm, dcbench, tgdd)
    assert {(one.momentum, one.weight_decay, one.optimizer) for one in by_sgd} == {(0.9, 5e-4, "sgd")}
    assert {(one.weight_decay, one.optimizer, one.lr) for one in (ncfm, sre2l, rded)} == {(0.01, "adamw", 1e-3)}
    assert (ncfm.epochs, ncfm.batch_size, ncfm.gamma, ncfm.cutmix, ncfm.rule) == (2000, 128, 0.5, 0.5, "dsa")
    assert [int(2000 * part) for part in ncfm.milestones] == [400, 800, 1200, 1600]
    assert (sre2l.epochs, sre2l.batch_size, sre2l.cosine, sre2l.temperature, sre2l.cutmix) == (300, 1024, 1, 20, 1)
    assert rded == sre2l.model_copy(update={"name": "rded", "batch_size": 50, "cosine": 0.5})


def test_a_whole_file_is_its_fields_and_the_stem_its_name(write):
    found = find_protocol(write(WHOLE, "short one.yml"))
    assert found.model_dump() == {
        "name": "short one",
        "epochs": 300,
        "plain_epochs": 200,
        "real_epochs": 0,
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "batch_size": 256,
        "milestones": (0.5,),
        "gamma": 0.1,
        "cutmix": 0.0,
        "rule": None,
        "strategy": None,
        "lengths": (),
        "compile": False,
        "optimizer": "sgd",
        "cosine": 0.0,
        "temperature": 1.0,
    }


@pytest.mark.parametrize("base", PROTOCOLS)
def test_a_base_gives_what_a_file_leaves_out(write, base):
    found = find_protocol(write(f"base: {base}\nbatch_size: 128\nweight_decay: 1e-3\nmilestones: [0.25, 0.75]\n"))
    wanted = {"name": "mine", "batch_size": 128, "weight_decay": 1e-3, "milestones": (0.25, 0.75)}
    assert found.model_dump() == PROTOCOLS[base].model_dump() | wanted
    assert find_protocol(write(f"base: {base}\n")) == PROTOCOLS[base].model_copy(update={"name": "mine"})


def test_a_file_may_take_back_the_step_size_of_its_base(write):
    assert find_protocol(write("base: dm\nlr: null\n")).lr is None


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_that_was_written_is_read_again(write, name):
    found = find_protocol(write(dump(PROTOCOLS[name]), "again.yaml"))
    assert found == PROTOCOLS[name].model_copy(update={"name": "again"})


@pytest.mark.rows("word", ["MTT", "", "dd", "mine.json", "mtt "])
def test_an_unknown_name_is_told_all_names(word):
    line = refusal(word)
    assert repr(word) in line
    assert all(name in line for name in PROTOCOLS)
    assert "YAML file" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no fields"),
        ("- epochs: 3\n", "holds no fields"),
        ("epochs", "holds no fields"),
        ("epochs: [", "is no YAML"),
        ("epochs: 1\n---\nepochs: 2\n", "is no YAML"),
        ("epochs: !!python/object:os.system x\n", "is no YAML"),
        ("epochs: 2001-99-99\n", "is no YAML"),
        ("\0", "is no YAML"),
        (b"\xff\xfe\xfa", "is no YAML"),
        ("epochs: 300\n", r"lacks plain_epochs, real_epochs, lr; give them, or a base"),
        ("base: mtt2\n", r"base 'mtt2' is unknown; use one of mtt, datm, ast, dm, dcbench, tgdd"),
        ("base: [mtt]\n", r"base \['mtt'\] is unknown"),
        ("base: {mtt: 1}\n", r"base \{'mtt': 1\} is unknown"),
        ("base: ''\n", "base '' is unknown"),
        ("base: mtt\nepoch: 3\n", "unknown setting 'epoch'; did you mean epochs"),
        ("base: mtt\n5: 3\n", "5 = 5: keys should be strings"),
        ("base: mtt\nepochs: 0\n", "epochs = 0: .* greater than or equal to 1"),
        ("base: mtt\nplain_epochs: 2.5\n", "plain_epochs = 2.5: .* integer"),
        ("base: mtt\nreal_epochs: -1\n", "real_epochs = -1: .* greater than or equal to 0"),
        ("base: mtt\nlr: 0\n", "lr = 0: .* greater than 0"),
        ("base: mtt\nlr: .inf\n", "lr = inf: .* finite"),
        ("base: mtt\nmomentum: 1\n", "momentum = 1: .* less than 1"),
        ("base: mtt\nweight_decay: -1\n", "weight_decay = -1: .* greater than or equal to 0"),
        ("base: mtt\nbatch_size: 0\n", "batch_size = 0: .* greater than or equal to 1"),
        ("base: mtt\nmilestones: 0.5\n", "milestones = 0.5: .* tuple"),
        ("base: mtt\nmilestones: [0.5, 1]\n", "milestones.1 = 1: .* less than 1"),
        ("base: mtt\ngamma: 0\n", "gamma = 0: .* greater than 0"),
        ("base: mtt\ncutmix: 1.5\n", "cutmix = 1.5: .* less than or equal to 1"),
        ("base: mtt\nepochs: {high: 3}\n", "epochs = .* integer"),
        ("base: mtt\nrule: dsa_ibc\n", "rule = 'dsa_ibc'"),
        ("base: mtt\nstrategy: color_crap\n", "strategy = 'color_crap': unknown operation 'crap'"),
        ("base: mtt\ncosine: 0.5\n", "optimizer: adamw"),
        ("base: rded\ntemperature: 0\n", "temperature"),
        ("base: mtt\nlengths: [{datasets: [digits], ipc: 1}]\n", "lengths.0.epochs"),
    ],
)
def test_a_file_that_is_no_protocol_is_refused_by_its_name(write, text, words):
    line = refusal(write(text))
    assert "mine.yaml" in line
    with pytest.raises(ValueError, match=words):
        find_protocol(write(text))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_file_cannot_take_the_name_of_a_built_in_protocol(write, name):
    """Its scores would be called the published ones."""
    line = refusal(write(f"base: {name}\nepochs: 3\n", f"{name}.yaml"))
    assert f"{name}.yaml" in line
    assert "another name" in line


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    assert os.strerror(2) in refusal(str(tmp_path / "none.yaml"))
    assert os.strerror(21) in refusal(str(tmp_path / "folder.yaml"))


@pytest.mark.rows("name", SUBSETS)
@pytest.mark.rows(("ipc", "epochs"), [(1, 2000), (10, 1000), (50, 1500), (2.5, 1500)])
def test_tgdd_trains_imagenet_subsets_by_their_size(name, ipc, epochs):
    found = PROTOCOLS["tgdd"].on(name, ipc)
    assert (found.epochs, found.plain_epochs, found.name, found.lengths) == (epochs, epochs, "tgdd", ())
    assert PROTOCOLS["tgdd"].changed(7).on(name, ipc).epochs == 7


@pytest.mark.rows("name", [name for name in DATASETS if name not in SUBSETS])
@pytest.mark.rows("ipc", [1, 10])
def test_other_data_train_for_1500_epochs_under_tgdd(name, ipc):
    assert PROTOCOLS["tgdd"].on(name, ipc).epochs == 1500
    assert PROTOCOLS["mtt"].on(name, ipc) == PROTOCOLS["mtt"]


def test_tgdd_augments_by_its_rule_whatever_rule_the_data_have():
    """Naive: flip and color in each draw, one of three beside them, never cutout, and no flip of what must not be."""
    for own, flip in (("dsa", True), ("dsa_idc", True), ("dsa", False)):
        found, rng = PROTOCOLS["tgdd"].augmentation(own, flip=flip), generator(0)
        drawn = [tuple(name for name, _ in found.draw((4, 3, 8, 8), rng).steps) for _ in range(300)]
        others = [[name for name in names if name not in ("flip", "color")] for names in drawn]
        assert all(names[:-1] == (("flip", "color") if flip else ("color",)) for names in drawn)
        assert {len(names) for names in others} == {1}
        counts = Counter(names[0] for names in others)
        assert counts.keys() == {"crop", "scale", "rotate"}
        assert min(counts.values()) > 70  # 100 each are expected, of 8 standard deviation
    assert PROTOCOLS["tgdd"].augmentation("none", flip=True).plain


@pytest.mark.rows("name", ["mtt", "datm", "ast", "dm", "dcbench"])
@pytest.mark.rows("own", ["dsa", "dsa_idc"])
def test_other_protocols_augment_as_the_data_do(name, own):
    assert PROTOCOLS[name].augmentation(own, flip=True) == augment(own)
    assert PROTOCOLS[name].augmentation(own, flip=False) == augment(own, flip=False)


def test_other_numbers_of_epochs_are_told_in_the_name():
    mtt = PROTOCOLS["mtt"]
    assert mtt.changed() == mtt
    longer = mtt.changed(7)
    assert (longer.epochs, longer.plain_epochs, longer.real_epochs) == (7, 7, 50)
    assert longer.name == "mtt, 7 epochs"
    assert mtt.changed(real_epochs=0) == mtt.model_copy(update={"real_epochs": 0})
