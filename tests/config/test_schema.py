import shlex
from importlib import resources
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from raydd.config.components import WindowConfig
from raydd.config.parsing import build, dump, merge, parse_settings, words
from raydd.config.presets import expand_preset, load_preset
from raydd.config.schema import DistillConfig, EvaluateConfig, ExpertConfig, ExpertsConfig

SHIPPED = sorted(
    (folder.name, file.name.removesuffix(".yaml"))
    for folder in (resources.files("raydd") / "presets").iterdir()
    for file in folder.iterdir()
)


def refused(kind, *layers):
    """The message that a configuration is refused with, on one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - each caller looks at the message
        build(kind, *layers)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_later_layers_lie_over_earlier_ones_key_by_key():
    layers = ({"steps": 1, "lr": {"images": 2, "start": 3}}, {"lr": {"images": 4}}, {"steps": 5})
    before = [dict(layer) for layer in layers]
    config = build(DistillConfig, *layers)
    assert (config.steps, config.lr.images, config.lr.start) == (5, 4, 3)
    assert config.lr.lr == DistillConfig().lr.lr
    assert list(layers) == before
    assert layers[0]["lr"] == {"images": 2, "start": 3}


def test_a_layer_replaces_what_is_no_mapping_and_its_own_stays_untouched():
    tree, layer = {"a": 1, "b": {"c": 2}}, {"a": {"d": 3}, "b": 4}
    merge(tree, layer)
    assert tree == {"a": {"d": 3}, "b": 4}
    tree["a"]["d"] = 9
    assert layer["a"]["d"] == 3


@pytest.mark.rows(
    ("word", "tree"),
    [
        ("steps=5", {"steps": 5}),
        ("lr.lr=1e-5", {"lr": {"lr": 1e-5}}),  # YAML 1.1 takes these for text
        ("lr.lr=1E5", {"lr": {"lr": 1e5}}),
        ("lr.lr=-3e+2", {"lr": {"lr": -300.0}}),
        ("lr.lr=.5", {"lr": {"lr": 0.5}}),
        ("batch_size=null", {"batch_size": None}),
        ("batch_size=", {"batch_size": None}),
        ("experts.milestones=[20, 40]", {"experts": {"milestones": [20, 40]}}),
        ("networks=[ConvNet]", {"networks": ["ConvNet"]}),
        ("data.dataset=/a/b=c", {"data": {"dataset": "/a/b=c"}}),
        ("window={low: 1, high: 2}", {"window": {"low": 1, "high": 2}}),
    ],
)
def test_set_reads_yaml_values(word, tree):
    found = parse_settings([word])
    assert found == tree
    assert repr(found) == repr(tree)  # 5 and 5.0 are equal, but not the same


def test_set_words_add_up_and_the_last_one_counts():
    assert parse_settings(["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}
    assert parse_settings([]) == {}


@pytest.mark.rows("word", ["steps", "=5", "lr.=5", ".lr=5", "lr..lr=5"])
def test_set_refuses_words_without_key_or_value(word):
    with pytest.raises(ValueError, match=r"is not of the form a.b=value") as caught:
        parse_settings([word])
    assert repr(word) in str(caught.value)


@pytest.mark.rows("word", ["a=[1", "a={b: ", "a='x", "a=\tb: c"])
def test_set_refuses_what_is_no_yaml(word):
    with pytest.raises(ValueError, match="has no YAML value") as caught:
        parse_settings([word])
    assert "\n" not in str(caught.value)


@pytest.mark.rows(
    ("layer", "parts"),
    [
        ({"stepz": 5}, ["unknown setting 'stepz'", "did you mean steps?"]),
        ({"lr": {"image": 5}}, ["unknown setting 'lr.image'", "did you mean images?"]),
        ({"window": {"zzzz": 5}}, ["unknown setting 'window.zzzz'", "known keys: auto, continuous, current, high"]),
        ({"experts": {"epoch": 5}}, ["unknown setting 'experts.epoch'", "did you mean epochs"]),
        ({"size": 16}, ["unknown setting 'size'; did you mean data.size?"]),
        ({"num_experts": 5}, ["unknown setting 'num_experts'; did you mean experts.num_experts?"]),
        ({"data": {"epochs": 5}}, ["unknown setting 'data.epochs'; did you mean", "experts.epochs or"]),
        ({"ipc": 0}, ["ipc = 0", "greater than or equal to 1"]),
        ({"ipc": "many"}, ["ipc = 'many'", "integer"]),
        ({"ipc": 1.5}, ["ipc = 1.5", "integer"]),
        ({"lr": 5}, ["lr = 5", "dictionary"]),
        ({"lr": {"images": 0}}, ["lr.images = 0", "greater than 0"]),
        ({"lr": {"lr": float("nan")}}, ["lr.lr = nan", "finite"]),
        ({"lr": {"images": float("inf")}}, ["lr.images = inf", "finite"]),
        ({"backprop": "half"}, ["backprop = 'half'", "'full', 'adjoint' or 'truncated'"]),
        ({"initial": "zeros"}, ["initial = 'zeros'", "'real', 'noise'"]),
        ({"ema": 1}, ["ema = 1", "less than 1"]),
        ({"data": {"validation": 1}}, ["data.validation = 1", "less than 1"]),
        ({"data": {"augment": "mixup"}}, ["data.augment = 'mixup'", "'dsa'"]),
        ({"experts": {"milestones": [3, 0]}}, ["experts.milestones.1 = 0", "greater than or equal to 1"]),
        ({"experts": {"optimizer": "lamb"}}, ["experts.optimizer = 'lamb'", "'gsam' or 'smooth'"]),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(layer, parts):
    message = refused(DistillConfig, layer)
    assert all(part in message for part in parts), message


@pytest.mark.rows("kind", [DistillConfig, ExpertsConfig, ExpertConfig, EvaluateConfig, WindowConfig])
def test_configurations_are_frozen_closed_and_come_back_from_their_dump(kind):
    config = kind()
    name = next(iter(kind.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, name, getattr(config, name))
    assert "unknown setting 'nonsense_of_mine'" in refused(kind, {"nonsense_of_mine": 1})
    assert build(kind, yaml.safe_load(dump(config))) == config


EVERYTHING = {
    "method": "mtt",
    "ipc": 3,
    "seed": -4,
    "window": {"low": 1, "high": None},
    "lr": {"lr": 1e-7, "images": 1e20},
    "gate": 1.1,
    "ema": 0.9995,
    "preset": "it's mine, ipc 1",
    "experts": {"milestones": [20, 40], "weight_decay": 5e-4},
    "data": {"dataset": "/a folder/of images", "size": 16},
}


def test_dump_is_complete_and_comes_back():
    config = build(DistillConfig, EVERYTHING)
    tree = yaml.safe_load(dump(config))
    assert build(DistillConfig, tree) == config
    assert tree.keys() == DistillConfig.model_fields.keys()
    assert tree["experts"]["milestones"] == [20, 40]


@pytest.mark.rows("layer", [{}, EVERYTHING])
def test_words_are_what_set_takes(layer):
    config = build(DistillConfig, layer)
    assert build(DistillConfig, parse_settings(shlex.split(words(config)))) == config
    assert "\n" not in words(config)


def test_presets_are_shipped():
    assert {("cifar10", "mtt"), ("cifar100", "mtt"), ("tiny_imagenet", "mtt"), ("digits", "mtt")} <= set(SHIPPED)


@pytest.mark.rows(("dataset", "method"), SHIPPED)
@pytest.mark.rows("ipc", [1, 10, 50, 7])
def test_every_shipped_preset_is_a_valid_configuration(dataset, method, ipc):
    tree = load_preset(dataset, method, ipc)
    config = build(DistillConfig, tree, {"ipc": ipc, "method": method, "data": {"dataset": dataset}})
    file = yaml.safe_load((resources.files("raydd") / "presets" / dataset / f"{method}.yaml").read_text())
    assert set(file) <= {"all", "ipc"}
    assert config.preset == f"{dataset}/{method}.yaml, ipc {ipc if ipc in file['ipc'] else 'any'}"
    assert config.window.high is None or config.window.high + config.span <= config.experts.epochs
    for values in file["ipc"].values():  # also those of every other ipc
        build(DistillConfig, file["all"], values)


@pytest.mark.rows("name", ["nowhere", "../digits", "/etc", "digits/..", ""])
def test_a_data_set_without_presets_has_none(name):
    assert load_preset(name, "mtt", 1) == {}
    assert load_preset("digits", "no_such_method", 1) == {}


def test_a_preset_is_shipped_or_a_file(tmp_path: Path):
    assert expand_preset("cifar10/mtt", 10) == load_preset("cifar10", "mtt", 10) != {}
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 150\nlr: {lr: 1e-5}\n")
    assert build(DistillConfig, expand_preset(str(file), 1)).lr.lr == 1e-5
    with pytest.raises(ValueError, match="--preset 'digits/none' is neither shipped"):
        expand_preset("digits/none", 1)


@pytest.mark.parametrize("content", [b"- 1\n", b"steps", b"", b"a: [1\n", b"a: b: c\n", b"\xff\xfe\x00"])
def test_a_preset_file_must_hold_a_mapping(content, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine.yaml (holds no mapping|is no YAML)") as caught:
        expand_preset(str(file), 1)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)
