"""`raydd campaigns` and `raydd campaign`: lists, dry runs and refusals; tests/remote/test_campaign.py runs them."""

import json

import pytest

from raydd.campaigns.plan import campaigns
from raydd.campaigns.scales import SCALES
from raydd.cli import campaign as module, run
from raydd.io.document import write_document
from raydd.report.build import build_page, kinds_of


def answer(capfd, *words):
    assert run([*words, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_the_shell_completes_to_every_scale():
    assert tuple(SCALES) == module._SCALES


def test_every_plan_is_listed_with_what_it_lacks(capfd):
    rows = answer(capfd, "campaigns")["campaigns"]
    assert [row["name"] for row in rows] == campaigns()
    (table,) = (row for row in rows if row["name"] == "ast_table4")
    why = [
        {
            "row": "CAFE",
            "columns": ["cifar10, ipc 50"] * 4,
            "why": "no settings of cafe for cifar10 with ipc 50 are published",
        }
    ]
    top = {"paper": "AST", "table": "Table IV", "title": "Cross-architecture evaluation of sets of a ConvNet, CIFAR-10"}
    assert table == {"name": "ast_table4", **top, "cells": 16, "missing": why}


def test_reasons_are_told_on_demand(capfd):
    assert run(["campaigns"]) == 0
    assert "no settings of cafe for cifar10 with ipc 50 are published" not in capfd.readouterr().out
    assert run(["campaigns", "--missing"]) == 0
    out = capfd.readouterr().out
    assert "  CAFE (cifar10 ipc 50): no settings of cafe for cifar10 with ipc 50 are published\n" in out
    assert "AST (imagenet_nette ipc 1/10): raydd ships no settings of ast for imagenet_nette\n" in out
    assert "\nDPD: Cao et al., PMLR" in out


@pytest.mark.parametrize("name", campaigns())
def test_every_plan_is_dry_run(capfd, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = answer(capfd, "campaign", name, "--scale", "digits", "--dry-run")
    assert found["done"] == 0
    assert found["estimate"].keys() == {"cpu_hours", "disk_gb"}
    graph = found["graph"]
    assert [len(graph[key]) for key in ("experts", "distillations", "scores")] == [
        found[key] for key in ("buffers", "distillations", "scores")
    ]
    assert all(node["experts"] in graph["experts"] for node in graph["distillations"].values() if node["experts"])
    assert not list(tmp_path.iterdir())


def test_all_of_them_at_the_papers_scale(capfd):
    found = answer(capfd, "campaign", "all", "--dry-run")
    assert found["cells"] > 1000
    assert found["estimate"]["gpu_hours"] > 100
    assert found["distillations"] == len(found["graph"]["distillations"]) > 200


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tgdd_table9"], "campaign 'tgdd_table9' is neither a shipped plan nor a YAML file; did you mean tgdd_table4"),
        (["tgdd_table4", "--scale", "large"], "--scale 'large' is unknown; use one of paper, cpu, digits"),
        (["tgdd_table4", "--data", "cifar10"], "--data 'cifar10' is not of the form NAME=PATH"),
        (["tgdd_table4", "--data", "cifar10=/no/where"], "data set /no/where does not exist"),
        (
            ["tgdd_table4", "--set", "stepps=1"],
            "campaign tgdd_table4, DM, cifar10, ipc 10: unknown setting 'stepps'; did you mean steps?",
        ),
        (["tgdd_table4", "--num-workers", "0"], "--num-workers 0: at least 1 worker is needed"),
    ],
)
def test_what_is_wrong_is_one_line_and_writes_nothing(capfd, tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    assert run(["campaign", *words, "--out", "out"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert line in err
    assert not list(tmp_path.iterdir())


def test_the_page_shows_every_table(tmp_path):
    cell = {
        "plan": "mine",
        "row": "MTT",
        "column": "digits, ipc 1",
        "network": "MLP",
        "published": 46.3,
        "published_std": 0.8,
        "mean": 0.512,
        "std": 0.01,
        "networks": 5,
        "protocol": "mtt, 100 epochs",
        "difference": 4.9,
        "p": 0.0004,
        "best": 0.55,
        "seconds": 12.0,
        "memory_mb": 300.0,
        "run": "runs/a",
        "missing": "",
    }
    lacking = cell | {"row": "CAFE", "mean": None, "std": None, "p": None, "best": None, "missing": "no CAFE <yet>"}
    plan = {"name": "mine", "title": "A table", "paper": "MTT", "table": "Table 1", "measure": "accuracy"}
    document = {
        "analysis": "campaign",
        "plans": [plan | {"protocol": "mtt", "seeds": 5, "notes": "A note."}],
        "scale": "paper",
        "seed": 0,
        "paper": True,
        "cells": [cell, lacking | {"seconds": None, "memory_mb": None, "difference": None}],
        "seconds": 3.0,
        "gpu_hours": 0.0,
        "commit": "abc",
    }
    write_document(tmp_path / "campaign.json", document)
    assert [kind.name for kind in kinds_of(tmp_path)] == ["campaign"]
    page = build_page([tmp_path])
    for text in (
        "MTT, Table 1",
        "51.2 ± 1.0*, best on test 55.0 (46.3)",
        "+4.9",
        "&lt; 0.001",
        "A note.",
        "mtt, 100 epochs",
    ):
        assert text in page, text
    assert "CAFE, digits, ipc 1: no CAFE &lt;yet&gt;" in page
    assert "not comparable" not in page
    write_document(tmp_path / "campaign.json", document | {"scale": "digits"})
    assert "not comparable" in build_page([tmp_path])


def test_a_row_alone_needs_what_its_cells_need_and_an_unknown_one_is_refused(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("campaign", "tgdd_table1", "mct_table2", "--scale", "cpu", "--dry-run", "--row")
    one, two = (answer(capfd, *words, name) for name in ("Random", "DM"))
    both = answer(capfd, *words, "Random", "--row", "DM")
    assert both["scores"] == one["scores"] + two["scores"] > one["scores"] > 0
    assert both["cells"] == one["cells"] + two["cells"] < answer(capfd, *words[:-1])["cells"]
    assert run([*words, "PP"]) == 2
    assert "unknown row of these 2 tables 'PP'" in capfd.readouterr().err
    assert run([*(word for word in words if word != "--dry-run"), "PP"]) == 2
    assert "unknown row of these 2 tables 'PP'" in capfd.readouterr().err, (
        "before data are looked for, which are not here"
    )
