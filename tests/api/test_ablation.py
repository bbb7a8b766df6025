"""A method taken apart: its rows, and the command that distills and scores them."""

import json
from importlib import resources

import pytest
import torch
import yaml

import raydd.api.ablation
from raydd.api.ablation import ABLATIONS, ablate, rows
from raydd.config.parsing import build
from raydd.config.placement import Where
from raydd.config.presets import load_preset
from raydd.config.schema import DistillConfig, EvaluateConfig
from raydd.data.score_record import Missing, Score
from raydd.data.synset import SyntheticSet
from raydd.evaluation.failures import MissingTrainings
from raydd.methods import METHODS, complete

HERE = Where(device="cpu")
TOY = {
    "steps": 2,
    "student_steps": 2,
    "span": 2,
    "threads": 1,
    "checkpoint_every": 1,
    "experts": {"network": "MLP", "num_experts": 2, "epochs": 3},
}


SMALL = {
    "tgdd": {"statistic": {"batch_real": 4, "region": 2}},
    "datm": {"seed": 1, "span": 1, "window": {"low": 1, "current": 1, "high": 2, "interval": 1}},
}


def toy(method, *layers):
    return build(DistillConfig, TOY, SMALL.get(method, {}), {"method": method}, *layers)


def shipped():
    """(method, tree) of every shipped cell of a method that can be taken apart."""
    for file in sorted((resources.files("raydd") / "presets").glob("*/*.yaml")):
        method = file.stem.removesuffix("-official")
        for ipc in yaml.safe_load(file.read_text())["ipc"] if method in ABLATIONS else ():
            yield pytest.param(method, load_preset(file.parent.name, file.stem, ipc), id=f"{file.parent.name}-{ipc}")


@pytest.mark.parametrize(("method", "tree"), list(shipped()))
def test_the_last_row_of_a_shipped_cell_is_the_whole_method_and_every_row_adds_something(method, tree):
    whole = complete(build(DistillConfig, tree))
    found = list(rows(build(DistillConfig, tree)).values())
    assert found[-1] == complete(found[-1]) == whole
    assert all(row.method == method for row in found)
    off = {
        "tgdd": [whole.formation.factor == 1],
        "datm": [whole.window.low == 0, whole.window.current is None],  # parts that ipc 1 of its presets has not
    }
    assert len(found) == len(ABLATIONS[method]) - sum(off.get(method, []))
    assert len({row.model_dump_json() for row in found}) == len(found)


def test_tgdds_rows_are_those_of_its_table_4():
    found = rows(toy("tgdd"))
    assert [
        (name, row.statistic.networks, row.formation.factor, row.statistic.alpha) for name, row in found.items()
    ] == [
        ("DM", "random", 1, 0.0),
        ("+ multi-formation", "random", 2, 0.0),
        ("+ stage-wise matching", "experts", 2, 0.0),
        ("+ stage-wise constraint", "experts", 2, 2.5),
    ]
    assert {(row.statistic.of, row.statistic.distance, row.space) for row in found.values()} == {
        ("features", "means", "pixels")
    }


def test_asts_rows_add_a_part_each():
    parts = [(row.initial, row.balance, row.intermediate, row.perturbation) for row in rows(toy("ast")).values()]
    assert parts == [
        ("real", None, "none", 0.0),
        ("representative", None, "none", 0.0),
        ("representative", 8.0, "none", 0.0),
        ("representative", 8.0, "equal", 0.0),
        ("representative", 8.0, "equal", 0.1),
    ]


def test_a_part_that_is_switched_off_is_no_row():
    assert list(rows(toy("tgdd", {"formation": {"factor": 1}}))) == [
        "DM",
        "+ stage-wise matching",
        "+ stage-wise constraint",
    ]


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(ABLATIONS)))
def test_a_method_without_parts_is_refused_before_anything_is_written(method, tmp_path):
    with pytest.raises(
        ValueError, match=f"--method {method}: no ablation is known; use one of ast, datm, dpd, mct, tgdd"
    ) as caught:
        ablate(toy(method), tmp_path / "out", where=HERE)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def scored(monkeypatch):
    """What was asked to be scored; the trainings themselves are done by `tests/remote`."""
    asked = []

    def pretend(sets, evaluation, *, names, where, screen):
        asked.append((list(sets), evaluation, names))
        common = {"dataset": "digits", "network": "MLP", "protocol": "mtt", "selection": "honest", "networks": 2}
        shown = [(name, "distilled", 0.5) for name in names] + [("random, 1 a class", "random", 0.3)]
        shown.append(("whole data", "whole", 0.9))
        return [
            Score(name=name, kind=kind, ipc=1, mean=mean, std=0.1, values=(mean, mean), **common)
            for name, kind, mean in shown
        ]

    monkeypatch.setattr(raydd.api.ablation, "evaluate", pretend)
    return asked


FOLDERS = {
    "tgdd": ["dm", "multi-formation", "stage-wise-matching", "stage-wise-constraint"],
    "datm": [
        "early-epochs-hard-labels",
        "aligned-difficulty",
        "soft-labels",
        "learned-labels",
        "sequential-generation",
    ],
    "dpd": ["datm", "pruning"],
    "mct": ["mtt", "straight-lines", "continuous-epochs"],
    "ast": ["mtt-on-smooth-experts", "representative-start", "balanced-loss", "intermediate-matching", "perturbation"],
}


@pytest.mark.parametrize("method", ABLATIONS)
def test_every_row_is_distilled_scored_and_drawn(method, small_buffer, scored, tmp_path):
    evaluation = EvaluateConfig(seeds=2, protocol="dm")
    scores = ablate(toy(method), tmp_path, evaluation, buffer=small_buffer, where=HERE)
    ((sets, asked, names),) = scored
    assert (asked, names) == (evaluation, list(ABLATIONS[method]))
    for folder, synset in zip(FOLDERS[method], sets, strict=True):
        stored = SyntheticSet.load(tmp_path / folder / "synset.arrow")
        assert torch.equal(stored.images, synset.images)
        assert (stored.recipe["method"], stored.recipe["steps"]) == (method, 2)
    assert not any(torch.equal(a.images, b.images) for a in sets for b in sets if a is not b)
    numbers = json.loads((tmp_path / "ablation.json").read_text())
    assert (numbers["analysis"], numbers["method"]) == ("ablation", method)
    assert numbers["scores"] == [score.to_document() for score in scores]
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_that_failed_is_written_and_raised_with_the_other_scores(
    small_buffer, scored, tmp_path, monkeypatch
):
    missing = Missing(name="DM", network="MLP", seed=1, reason="out of memory, also alone")
    whole = raydd.api.ablation.evaluate

    def partial(*sets, **options):
        raise MissingTrainings(whole(*sets, **options)[1:], [missing], 8)

    monkeypatch.setattr(raydd.api.ablation, "evaluate", partial)
    with pytest.raises(MissingTrainings, match="1 of 8 trainings failed: DM, on MLP, seed 1: out of memory") as caught:
        ablate(toy("tgdd"), tmp_path, EvaluateConfig(seeds=2, protocol="dm"), buffer=small_buffer, where=HERE)
    numbers = json.loads((tmp_path / "ablation.json").read_text())
    assert numbers["missing"] == [missing.to_document()]
    assert numbers["scores"] == [score.to_document() for score in caught.value.result]
    assert len(numbers["scores"]) == 5


def test_it_goes_on_where_it_was_stopped(small_buffer, scored, tmp_path, monkeypatch):
    ablate(toy("tgdd"), tmp_path / "whole", buffer=small_buffer, where=HERE)
    original, stop = raydd.api.ablation.distill, []

    def stopped(row, folder, **options):
        if len(stop) == 2:
            raise KeyboardInterrupt
        stop.append(folder)
        return original(row, folder, **options)

    monkeypatch.setattr(raydd.api.ablation, "distill", stopped)
    with pytest.raises(KeyboardInterrupt):
        ablate(toy("tgdd"), tmp_path / "killed", buffer=small_buffer, where=HERE)
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["dm", "multi-formation"]
    assert len(scored) == 1
    monkeypatch.setattr(raydd.api.ablation, "distill", original)
    ablate(toy("tgdd"), tmp_path / "killed", buffer=small_buffer, where=HERE)
    for folder in FOLDERS["tgdd"]:
        files = [(tmp_path / name / folder / "synset.arrow").read_bytes() for name in ("whole", "killed")]
        assert files[0] == files[1]
    assert len(scored) == 2


def test_finished_rows_of_other_settings_are_not_taken_for_these(small_buffer, scored, tmp_path):
    ablate(toy("tgdd"), tmp_path, buffer=small_buffer, where=HERE)
    with pytest.raises(ValueError, match="was started with other settings: seed was 0 and is 3") as caught:
        ablate(toy("tgdd", {"seed": 3}), tmp_path, buffer=small_buffer, where=HERE)
    assert "\n" not in str(caught.value)
    assert len(scored) == 1
