"""Rules between settings: the schema's own hold at once, those of a method when its values are set."""

import pytest

from raydd.config.parsing import build
from raydd.config.rules import FITS, FOREIGN, SOFT_LABELS, method_rules, unread
from raydd.config.schema import DistillConfig
from raydd.methods import complete
from raydd.selection.starting_images import INITIAL

OWN = [
    ({"window": {"low": 2, "high": 1}}, ["window (2, 1)", "--window 0:1"]),
    ({"window": {"current": 9, "high": 5}}, ["window 0, 9, 5", "T- <= T <= T+"]),
    ({"keep_scored": True}, ["keep_scored", "evaluate_every=N"]),
    ({"evaluate_every": 5, "data": {"validation": 0}}, ["evaluate_every = 5", "data.validation=0.1"]),
    ({"waypoints": [1], "experts": {"kept": [2]}}, ["waypoints (1,)", "experts.kept (2,)"]),
    ({"ipc": 5, "formation": {"decode": "bounded", "bound": 3}}, ["bound 3", "ipc 5", "bound=5"]),
    ({"formation": {"factor": 2}, "data": {"preprocessing": "zca"}}, ["formation.factor 2", "zca", "normalise"]),
    ({"space": "pixels", "data": {"preprocessing": "zca"}}, ["space = pixels", "zca", "space=network"]),
    ({"labels": "expert", "lr": {"labels": 3}}, ["lr.labels = 3", "labels = expert", "lr.labels=0"]),
    ({"labels": "expert", "formation": {"factor": 2}}, ["labels = expert", "formation.factor=1"]),
]


@pytest.mark.parametrize(("layer", "named"), OWN)
def test_the_schema_refuses_what_contradicts_itself(layer, named):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - every word of the message is looked at
        build(DistillConfig, layer)
    assert "\n" not in str(caught.value)
    assert [word for word in named if word not in str(caught.value)] == [], str(caught.value)
    with pytest.raises(ValueError, match=r"\b1 validation error"):
        DistillConfig.model_validate(layer)
    assert build(DistillConfig, layer, partial=True).model_fields_set == {*layer}


def test_a_part_of_a_configuration_still_has_known_keys_and_types():
    with pytest.raises(ValueError, match="unknown setting 'stepps'"):
        build(DistillConfig, {"stepps": 1}, partial=True)
    with pytest.raises(ValueError, match="steps = 'many'"):
        build(DistillConfig, {"steps": "many"}, partial=True)


def test_rules_of_a_method_wait_for_its_own_values():
    """datm learns labels, and starts from images that have some: what is said of a part is no contradiction yet."""
    said = build(DistillConfig, {"method": "datm", "lr": {"labels": 2}})
    assert method_rules(complete(said)) is None
    with pytest.raises(ValueError, match=r"lr\.labels = 2"):
        method_rules(said)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "mtt", "label_epoch": 3}, "label_epoch = 3 is of soft labels"),
        ({"method": "datm", "label_epoch": 51}, "use --set label_epoch=50 or less"),
        ({"method": "dm", "statistic": {"judge": "last"}}, "statistic.judge = last"),
        ({"method": "dm", "lr": {"labels": 1.0}, "initial": "real_soft"}, "method dm learns no labels"),
        ({"method": "frepo", "formation": {"factor": 2, "decode": "bounded", "bound": 9}}, "decode = bounded shows"),
    ],
)
def test_settings_that_have_nothing_to_act_on_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        method_rules(complete(build(DistillConfig, values)))


def test_tables_name_what_there_is():
    fields = DistillConfig.model_fields
    assert {name for names in FOREIGN.values() for name in names} <= {*fields}
    assert {*INITIAL} > SOFT_LABELS
    assert {"features", "layers", "unit_features", "attention", "gradient", "batch_norm"} == {*FITS}
    assert unread("window.low", "statistics")
    assert not unread("window.low", "trajectories")
    assert [match for match in FOREIGN if not unread("statistic.beside", match)] == ["trajectories"]
