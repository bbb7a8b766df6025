"""The commands that list methods and settings: what they say is what the schema and the tables hold."""

import json

import pytest

from raydd.cli import run
from raydd.config.components import WindowConfig
from raydd.config.fields import meanings, settings
from raydd.config.nas import NasConfig
from raydd.config.schema import DistillConfig, EvaluateConfig
from raydd.methods import METHODS, complete

KINDS = {"distill": DistillConfig, "evaluate": EvaluateConfig, "nas": NasConfig}


def document(capfd, *words):
    assert run([*words, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_methods_are_listed_a_line_each(capfd):
    found = document(capfd, "methods")["methods"]
    assert [row["method"] for row in found] == list(METHODS)
    assert all(row["summary"].endswith(".") for row in found)
    assert {row["method"]: row["match"] for row in found}["tgdd"] == "statistics"
    assert run(["methods"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    assert "Matching Training Trajectories" in lines[list(METHODS).index("mtt")]


def test_all_settings_are_listed_with_meaning_default_and_readers(capfd):
    rows = document(capfd, "settings")["settings"]
    assert [(row["command"], row["key"]) for row in rows] == [
        (verb, key) for verb, kind in KINDS.items() for key in settings(kind)
    ]
    assert [row["key"] for row in rows if not row["meaning"]] == []
    by_key = {row["key"]: row for row in rows if row["command"] == "distill"}
    assert (by_key["lr.images"]["default"], by_key["experts.optimizer"]["choices"][0]) == (100.0, "sgd")
    families = {name: complete(DistillConfig(method=name)).match for name in METHODS}
    for key, match in (("pruning.rate", "trajectories"), ("statistic.alpha", "statistics")):
        assert by_key[key]["methods"] == [name for name in METHODS if families[name] == match]
    assert by_key["ipc"]["methods"] == list(METHODS)


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("pruning.rate", ["pruning.rate"]),
        ("pruning", ["pruning.rate", "pruning.metric"]),
        ("rate", ["pruning.rate"]),
        ("smooth", ["experts.smooth." + name for name in ("low", "high", "epochs", "mu", "norm")]),
        ("span", ["span"]),
    ],
)
def test_a_key_may_be_one_setting_or_a_part_of_several(key, keys, capfd):
    assert [row["key"] for row in document(capfd, "settings", key)["settings"]] == keys
    assert run(["settings", key]) == 0
    assert f"{keys[0]} (raydd distill; default: " in capfd.readouterr().out


def test_an_unknown_key_is_refused_with_what_is_near(capfd):
    hints = {
        "stepps": ": did you mean steps?",
        "lr.imges": ": did you mean lr.images?",
        "imges": ": did you mean lr.images?",
        "zzzzzz": "",
    }
    for key, hint in hints.items():
        assert run(["settings", key]) == 2
        assert capfd.readouterr().err == f"raydd: unknown setting {key!r}{hint}; `raydd settings` lists all\n"


def test_every_setting_has_a_meaning_and_no_meaning_is_of_nothing():
    assert {*meanings(WindowConfig)} == {*WindowConfig.model_fields}
    for kind in KINDS.values():
        assert {*meanings(kind)} == {*kind.model_fields}


def test_a_flag_says_what_the_schema_says(capfd):
    """Meaning, choices and default of a flag are those of its setting."""
    assert run(["experts", "--help"]) == 0
    out = " ".join(capfd.readouterr().out.split())
    setting = settings(DistillConfig)["experts.optimizer"]
    assert f"--optimizer <str> {setting.meaning} (one of sgd, momentum, adam, gsam, smooth; default: sgd) --seed" in out
