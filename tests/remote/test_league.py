"""A table at equal compute: measured steps, a search a row, several sets, and the same bits again."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

from raydd.api import league
from raydd.api.campaign import CampaignIncomplete, campaign
from raydd.campaigns.budget import Limits
from raydd.campaigns.cell_settings import Options
from raydd.campaigns.plan import League, load_plan
from raydd.campaigns.preview import preview
from raydd.campaigns.scales import SCALES
from raydd.config.placement import Where
from raydd.data.synset import SyntheticSet
from raydd.io.console import QuietScreen
from raydd.io.document import dump_document
from raydd.report.build import write_report

pytestmark = pytest.mark.remote

NETWORK = {"experts.network": "MLP"}
OTHER = {"lr": {"images": 2.0}}
PLAN = {
    "title": "equal compute",
    "protocol": "dm",
    "epochs": 20,
    "seeds": 2,
    "sets": 2,
    "league": {"seconds": {"digits": 4.0}, "trials": 2},
    "most": {"experts.num_experts": 1, "experts.epochs": 3},
    "columns": [{"dataset": "digits", "ipc": 1}],
    "rows": {
        "Random": "random",
        "DM": {"method": "dm", "set": NETWORK, "search": {"lr.images": {"log_uniform": [0.1, 10]}}},
        "MTT": {"method": "mtt", "set": NETWORK, "search": {"lr.images": {"log_uniform": [1, 50]}}},
    },
}
HERE = Where(device="cpu", num_workers=2)
QUIET = QuietScreen(lambda line: None)


def unsearched(entry):
    """An entry as it is while its search goes on."""
    return {key: value for key, value in entry.items() if key not in ("values", "trials", "accuracy", "sha256")}


def test_every_method_has_the_same_seconds_and_its_own_settings(tmp_path, monkeypatch, ray2):
    monkeypatch.setattr(league, "MEASURED_SECONDS", 0.2)
    path, out = tmp_path / "small.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(PLAN))
    plan, options = load_plan(str(path)), Options(SCALES["digits"])
    document = campaign([plan], out, options, where=HERE, screen=QUIET)
    entries = {name: json.loads((out / "league" / "small" / f"{name}.json").read_text()) for name in ("dm", "mtt")}
    for name, entry in entries.items():
        each = (4.0 - entry["experts_seconds"]) / 4
        assert entry["steps"] == int(each / entry["step_seconds"])
        assert (entry["experts_seconds"] > 0) == (name == "mtt")
        assert len(entry["trials"]) == 2
        best = max(entry["trials"], key=lambda trial: trial["accuracy"])
        assert entry["values"] == best["values"]
        assert entry["accuracy"] == best["accuracy"]
    cells = {cell["row"]: cell for cell in document["cells"]}
    assert [len(cells[row]["sets"]) for row in ("Random", "DM", "MTT")] == [0, 2, 2]
    assert [cells[row]["networks"] for row in ("Random", "DM", "MTT")] == [2, 4, 4]
    assert {cell["place"] for cell in cells.values()} <= {1, 2, 3}
    runs = sorted((out / "runs").iterdir())
    assert len(runs) == 4, "two sets of each method; random images stand beside one of them"
    recipes = [SyntheticSet.load(run / "synset.arrow").recipe for run in runs]
    assert sorted(recipe["seed"] for recipe in recipes if recipe["method"] == "mtt") == [1, 2]
    trials = [SyntheticSet.load(path).recipe for path in (out / "league").glob("*/*/trials/*/synset.arrow")]
    assert {trial["seed"] for trial in trials} == {0}, "no set has the seed of a trial"
    assert {recipe["steps"] for recipe in recipes if recipe["method"] == "dm"} == {entries["dm"]["steps"]}
    before = preview([plan], options, out, HERE)
    assert before.done == {*before.graph.experts, *before.graph.distillations, *before.graph.scores}
    assert not before.seconds
    write_report([out], tmp_path / "page.html", [str(out)])
    page = (tmp_path / "page.html").read_text()
    assert all(words in page for words in ("experts&#39; share", "held-out accuracy", "lr.images ", " #1"))
    check_record(out, plan, cells, entries)
    (out / "league" / "small" / "dm.json").write_bytes(dump_document({**unsearched(entries["dm"])}))
    lines = []
    assert campaign([plan], out, options, where=HERE, screen=QuietScreen(lines.append))["cells"] == document["cells"]
    searched = [line for line in lines if "searching" in line]
    assert searched == ["DM: searching its settings, 1 of 2"], "it goes on with the steps that were measured"
    assert not any("measuring" in line for line in lines)
    check_what_stays(plan, options, out, document["cells"])


def check_what_stays(plan, options, out, cells):
    """A row alone leaves the cells of the others, and what was found is refused at another scale, seed or setting."""
    only = options._replace(rows=("Random",))
    assert campaign([plan], out, only, where=HERE, screen=QUIET)["cells"] == cells, "all rows stay there"
    (out / "campaign.json").unlink()
    for other in (options._replace(seed=1), options._replace(set=OTHER), options._replace(scale=SCALES["cpu"])):
        plan = plan.model_copy(update={"league": League(seconds={"digits": 4.0, "cpu": 4.0}, trials=2)})
        with pytest.raises(
            ValueError, match=r"out: the steps and settings of DM were found with --s(eed|et|cale) .*, and"
        ):
            campaign([plan], out, other, where=HERE, screen=QUIET)
        with pytest.raises(ValueError, match="the steps and settings of DM were found with --s"):
            preview([plan], other, out, HERE)


def test_a_budget_of_hours_counts_searches_and_a_row_alone_is_searched_alone(tmp_path, monkeypatch, ray2, s3):
    """In a bucket, in which no search has begun: that is no fault of the row's."""
    monkeypatch.setattr(league, "MEASURED_SECONDS", 0.1)
    path, out, lines = tmp_path / "small.yaml", s3(f"bucket/{tmp_path.name}"), []
    path.write_text(yaml.safe_dump(PLAN | {"sets": 1, "league": {"seconds": {"digits": 2.0}, "trials": 1}}))
    plan, only = load_plan(str(path)), Options(SCALES["digits"], rows=("DM",), paper=True)
    with pytest.raises(CampaignIncomplete, match="DM: the budget was spent before its search"):
        campaign([plan], out, only, limits=Limits(hours=0.0), where=HERE, screen=QuietScreen(lines.append))
    assert not any("measuring" in line for line in lines)
    both, limits = only._replace(rows=("DM", "MTT")), Limits(gpu_hours=1e-9)
    with monkeypatch.context() as patch:
        patch.setattr(league, "on_gpu", lambda place: True)
        with pytest.raises(CampaignIncomplete, match="the budget is spent") as spent:
            campaign([plan], out, both, limits=limits, where=HERE, screen=QuietScreen(lines.append))
    missing = {cell["row"]: cell["missing"] for cell in spent.value.result["cells"]}
    assert missing["MTT"] == "the budget was spent before its search"
    assert 0.0 < 3600 * spent.value.result["gpu_hours"] <= 1.0, "what its only trial was given"
    document = campaign([plan], out, only, where=HERE, screen=QuietScreen(lines.append))
    assert [line for line in lines if "measuring" in line] == ["DM: measuring its steps, 1 of 2"]
    assert {cell["row"]: cell["mean"] is not None for cell in document["cells"]} == {
        "Random": False,
        "DM": True,
        "MTT": False,
    }
    assert not any("training 1 of 1 experts" in line for line in lines), "MTT alone has any"
    assert not any("s3cret" in text for text in [*lines, json.dumps(document)]), "secrets of the URI"
    bests = {cell["row"]: cell["best"] is not None for cell in document["cells"]}
    assert bests == {"Random": False, "DM": True, "MTT": False}, "the best on test of the steps that --paper keeps"


def check_record(out, plan, cells, entries):
    """The page of documentation has the campaign's own numbers, the best row first."""
    spec = importlib.util.spec_from_file_location("league_page", Path(__file__).parents[2] / "benchmarks" / "league.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    found = script.record(out, plan)
    assert [row["row"] for row in found["rows"]] == sorted(cells, key=lambda row: -cells[row]["mean"])
    head, rule, *lines = script.lines(found, plan)
    assert head.count("|") == rule.count("|")
    for row, line in zip(found["rows"], lines, strict=True):
        cell, search = cells[row["row"]], entries.get(row["row"].lower())
        words = [word.strip() for word in line.split("|")[1:-1]]
        assert words[:2] == [str(cell["place"]), row["row"]]
        assert words[2] == f"{100 * cell['mean']:.1f} ± {100 * cell['std']:.1f}"
        assert words[3] == (f"{100 * search['accuracy']:.1f}" if search else "-")
        assert words[5] == (str(search["steps"]) if search else "-")
        assert len(words) == head.count("|") - 1
    assert [row["row"] for row in script.shown(found)] == [
        row["row"] for row in found["rows"] if row["row"] != "Random"
    ]
    assert all((out / row["run"] / "synset.png").exists() for row in script.shown(found))


def test_a_row_whose_search_fails_is_missing_and_the_others_go_on(tmp_path, monkeypatch, ray2):
    """Its experts take more than it has; what cannot be searched at all is refused before anything is measured."""
    monkeypatch.setattr(league, "MEASURED_SECONDS", 0.1)
    monkeypatch.setattr(league, "epoch_seconds", lambda *given: 100.0)
    path, out = tmp_path / "small.yaml", tmp_path / "out"
    rows = {name: PLAN["rows"][name] for name in ("DM", "MTT")}
    path.write_text(
        yaml.safe_dump(PLAN | {"rows": rows, "sets": 1, "league": {"seconds": {"digits": 1.0}, "trials": 1}})
    )
    with pytest.raises(
        CampaignIncomplete, match=r"1 searches failed or did not begin: small, MTT: experts take"
    ) as caught:
        campaign([load_plan(str(path))], out, Options(SCALES["digits"]), where=HERE, screen=QUIET)
    document = caught.value.result
    cells = {cell["row"]: cell for cell in document["cells"]}
    assert cells["DM"]["mean"] is not None
    assert "experts take 300 s and a step" in cells["MTT"]["missing"]
    assert "raise league.seconds" in cells["MTT"]["missing"]
    for key, times, words in (
        ("lr.image", 10, r"times is of a number above 0, and lr\.image is no"),
        ("lr.images", "10", "times is a number above 1, and not '10'"),
    ):
        rows["MTT"] = {"method": "mtt", "search": {key: {"times": times}}}
        path.write_text(yaml.safe_dump(PLAN | {"rows": rows}))
        with pytest.raises(ValueError, match=rf"rows\.MTT\.search: {key}: {words}"):
            campaign([load_plan(str(path))], tmp_path / "other", Options(SCALES["digits"]), where=HERE, screen=QUIET)
        assert not (tmp_path / "other").exists()
