"""The scripts in benchmarks/ still find what they import, and their plans what they set."""

import importlib.util
import json
import math
import re
from pathlib import Path

import pytest
import yaml

from raydd.campaigns.cell_settings import Options
from raydd.campaigns.league import Entry, read_entries, search_seconds
from raydd.campaigns.plan import load_plan
from raydd.campaigns.scales import SCALES
from raydd.campaigns.table import placed
from raydd.config.parsing import build
from raydd.config.rules import method_rules
from raydd.config.schema import DistillConfig
from raydd.evaluation.significance import welch
from raydd.methods import METHODS, complete
from raydd.run.resolve import check_family
from raydd.tuning.domains import Domain

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(path):
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_every_script_loads_and_has_a_main(path):
    assert callable(load(path).main)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_row_of_a_plan_is_a_configuration_that_its_method_takes(path):
    plan, script = yaml.safe_load(path.read_text(encoding="utf-8")), load(FOLDER / "methods.py")
    table = script.TABLES[path.stem.partition("-")[0]]
    for ipc in plan["ipc"]:
        for row in [*table, *plan.get("rows", {})]:
            config = complete(build(DistillConfig, script.settings(plan, row, ipc)))
            check_family(config)
            method_rules(config)
            assert config.method in METHODS
            assert row in METHODS or config != complete(DistillConfig(method=config.method))


@pytest.fixture(scope="module")
def search():
    return load(FOLDER / "search.py")


def two_searches(search, folder, objective):
    spaces = {name: search.space(name, seed=3, samples=16, startup=4) for name in search.ALGORITHMS}
    return {name: search.searched(found, folder / f"{name}.journal", objective) for name, found in spaces.items()}


def test_tpe_and_random_search_differ_in_nothing_but_what_follows_the_startup(search, tmp_path):
    def accuracy(number, values):
        return {"accuracy": 1 / (1 + abs(math.log10(values["lr.images"])))}

    found = two_searches(search, tmp_path, accuracy)
    tpe, random = found["tpe"], found["random"]
    assert [len(tpe), len(random)] == [16, 16]
    assert tpe[:4] == random[:4]
    assert all(one["values"] != other["values"] for one, other in zip(tpe[4:], random[4:], strict=True))
    assert [trial["accuracy"] for trial in tpe] == [accuracy(0, trial["values"])["accuracy"] for trial in tpe]


def test_a_trial_whose_loss_diverges_is_spent_and_counts_nothing(search, tmp_path):
    def accuracy(number, values):
        if number % 2:
            raise FloatingPointError("loss is nan")
        return {"accuracy": 0.5}

    for trials in two_searches(search, tmp_path, accuracy).values():
        assert [trial["accuracy"] for trial in trials] == [0.5, 0.0] * 8


def test_searches_are_summed_up_by_the_best_so_far(search):
    tpe, random = [[0.2, 0.1, 0.8, 0.4], [0.0, 0.4, 0.4, 0.6]], [[0.2, 0.3, 0.1, 0.1], [0.0, 0.4, 0.7, 0.8]]
    found = search.summary({"tpe": tpe, "random": random}, startup=2)
    assert found["best"]["tpe"]["2"]["values"] == [0.2, 0.4]
    assert found["best"]["tpe"]["4"]["mean"] == pytest.approx(0.7)
    assert found["best"]["random"]["4"] == {
        "values": [0.3, 0.8],
        "mean": pytest.approx(0.55),
        "std": pytest.approx(0.125**0.5),
    }
    assert found["area"]["tpe"]["values"] == pytest.approx([0.5, 0.35])
    assert found["tpe_less_random"]["best"]["4"]["values"] == pytest.approx([0.5, -0.2])
    assert found["tpe_less_random"]["area"]["values"] == pytest.approx([0.225, -0.125])
    assert found["tpe_wins"] is True
    assert search.summary({"tpe": random, "random": tpe}, startup=2)["tpe_wins"] is False


def test_what_is_recorded_of_the_searches_follows_from_their_trials(search):
    record = json.loads((FOLDER / "search.json").read_text(encoding="utf-8"))
    accuracies, startup = record["accuracies"], record["startup"]
    assert {len(one) for found in accuracies.values() for one in found} == {record["samples"]}
    assert [one[:startup] for one in accuracies["tpe"]] == [one[:startup] for one in accuracies["random"]]
    again = search.summary(accuracies, startup)
    assert {key: record[key] for key in again} == again
    assert record["space"] == search.SPACE
    best = {name: [trial["accuracy"] for trial in found] for name, found in record["winners"].items()}
    assert best == {name: [max(one) for one in found] for name, found in accuracies.items()}


def test_the_speed_of_shards_is_compared_step_by_step():
    script = load(FOLDER / "shards.py")
    turns = [{1: (4.0, 4.0), 2: (2.0, 2.5)}, {1: (12.0, 4.0), 2: (8.0, 2.5)}]
    found = script.measured("mtt", turns)
    assert found["speedup"]["2"] == {"mean": 1.75, "std": pytest.approx(0.125**0.5), "min": 1.5, "max": 2.0}
    assert found["critical_speedup"]["2"]["mean"] == 1.6
    assert found["seconds"]["1"]["mean"] == 8
    assert found["accepted"] is True
    assert script.measured("mtt", [turns[1]] * 2)["accepted"] is False  # 1.5 times
    assert script.measured("mtt", [{1: (0.9, 0.9), 2: (0.4, 0.4)}] * 2)["accepted"] is False  # short steps


def test_what_is_recorded_of_shards_has_every_method_and_its_bits():
    script, record = load(FOLDER / "shards.py"), json.loads((FOLDER / "shards.json").read_text(encoding="utf-8"))
    assert record["methods"].keys() == script.SIZES.keys()
    for method, found in record["methods"].items():
        assert found["same_bits"] is True
        assert found["shards"] == script.SIZES[method]["shards"]
        assert found["seconds"].keys() == {str(workers) for workers in script.WORKERS[method]}
        fast = found["speedup"]["2"]["mean"] >= script.ACCEPTED and found["seconds"]["1"]["mean"] >= 1
        assert found["accepted"] is fast


def test_what_is_recorded_of_kills_adds_up_and_has_no_fault():
    script, record = load(FOLDER / "kills.py"), json.loads((FOLDER / "kills.json").read_text(encoding="utf-8"))
    assert record["verbs"].keys() == {"distill", "distill --shards", "evaluate", "tune"} <= set(script.ATTACKED)
    assert record["kills"] >= 60
    for found in record["verbs"].values():
        assert found["faults"] == []
        assert found["killed"].keys() <= script.KINDS.keys()
        assert sum(found["killed"].values()) == found["kills"] >= found["at_work"] > found["kills"] / 2
        assert found["compared"]
    assert record["kills"] == sum(record["killed"].values()) == sum(one["kills"] for one in record["verbs"].values())


def test_what_is_recorded_of_scale_has_the_sizes_that_the_docs_tell():
    trainings = json.loads((FOLDER / "scale.json").read_text())["trainings"]
    assert [(run["workers"], run["trainings"]) for run in trainings["runs"]] == [
        (n, 15_625) for n in (1, 10, 100, 1000)
    ]
    page = (FOLDER.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
    for run in trainings["runs"]:
        assert f"{run['trainings_per_second']:.0f}" in page
    rows = json.loads((FOLDER / "scale_trials.json").read_text())["rows"]
    searches = {(row["algorithm"], row["trials"]): row for row in rows if row["part"] == "search"}
    assert {*searches} == {(name, count) for name in ("random", "tpe") for count in (100, 300, 1000)}
    for row in searches.values():
        assert f"{row['trials_per_second']:.1f}" in page
        assert row["algorithm"] == "random" or f"{row['driver_mb']} MB" in page


def test_names_of_files_are_compared_without_times_and_numbers_of_checkpoints():
    script = load(FOLDER / "kills.py")
    names = ["trials/0000/checkpoint_000003/synset.arrow", "trials/0000/events.out.tfevents.17.host", "space.yaml"]
    objects = [f"state-{digit * 16}.arrow" for digit in "abc"]
    plain = {"trials/0000/checkpoint_N/synset.arrow", "trials/0000/events.out.tfevents", "space.yaml"}
    assert script._names(dict.fromkeys(names + objects[:2], b"")) == plain | {"state.arrow"}
    assert script._names(dict.fromkeys(names + objects, b"")) == plain | {"3 times state.arrow"}


def test_the_compiled_steps_of_the_docs_are_those_of_the_record():
    script, record = load(FOLDER / "compiled.py"), json.loads((FOLDER / "compiled.json").read_text(encoding="utf-8"))
    page = (FOLDER.parent / "docs" / "costs.md").read_text(encoding="utf-8")
    assert "\n".join(map(script.line, record["rows"])) in page
    assert [(row["step"], row["network"], row["images"]) for row in record["rows"]] == [*script.CASES]
    assert all(row["error"] < 0.02 for row in record["rows"])  # float32 itself is off by as much on a path


def test_the_floors_of_the_docs_are_those_of_the_record():
    script, record = load(FOLDER / "floors.py"), json.loads((FOLDER / "floors.json").read_text(encoding="utf-8"))
    page = (FOLDER.parent / "docs" / "costs.md").read_text(encoding="utf-8")
    names = {"expert", "expert, zca", "evaluation, mtt", "evaluation, dm", "dm", "tgdd"}
    assert {row["name"] for row in record["rows"]} == names
    assert "\n".join(map(script.line, record["rows"])) in page
    for row in record["rows"]:
        assert row["accepted"] is (row["over_floor"]["ours"]["mean"] <= script.MOST)
    missed = [(row["name"], row["network"]) for row in record["rows"] if not row["accepted"]]
    assert missed == [("expert, zca", "ConvNetW32")]  # as the page says


@pytest.mark.parametrize("path", sorted((FOLDER / "league").glob("*.json")), ids=lambda path: path.stem)
def test_the_leagues_table_of_the_docs_is_that_of_the_record(path):
    script, record = load(FOLDER / "league.py"), json.loads(path.read_text(encoding="utf-8"))
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.marked(page, record["plan"]["name"])[1] == script.block(record, load_plan(path.stem))
    for row in script.shown(record):
        assert (script.PICTURES / f"{path.stem}-{script.slug(row['row'])}.png").is_file()


@pytest.mark.parametrize(("table", "plan", "places"), [(0, "league", 5), (1, "league_ipc10", 6)])
def test_the_places_of_the_leagues_in_the_results_are_those_of_the_record(table, plan, places):
    script, record = load(FOLDER / "league.py"), json.loads((FOLDER / "league" / f"{plan}.json").read_text())
    page = (FOLDER.parent / "docs" / "results.md").read_text(encoding="utf-8")
    section = page.partition("## The league")[2].partition("\n## ")[0].split("| place |")[1 + table]
    cells = [row["networks"]["ConvNetW32"] for row in record["rows"]]
    lines = [line.split(" | ") for line in section.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [int(place.strip("| ")) for place, *_ in lines] == [*range(1, places + 1)]
    for place, best, others in lines:
        of_place = [script.percent(cell) for cell in cells if cell["place"] == int(place.strip("| "))]
        assert best.endswith(f" {of_place[0]}")
        means = {value.split()[0] for value in of_place[1:]}
        assert {*re.findall(r"\d\d\.\d", others)} <= means


def test_a_league_says_what_wins_what_ties_and_where_papers_have_another_order():
    """DSA is above DM in every paper, and FTD above DC; random images have no sets to be tested."""
    script = load(FOLDER / "league.py")
    made_up = {
        "DM": (0.5, [0.50, 0.51, 0.49]),
        "FTD": (0.4, [0.41, 0.40, 0.39]),
        "DC": (0.395, [0.40, 0.395, 0.39]),
        "DSA": (0.2, [0.21, 0.20, 0.19]),
        "Random": (0.15, []),
    }
    cells = [
        {"plan": "league", "column": "", "row": row, "network": network, "mean": mean, "std": 0.01, "sets": sets}
        | {"values": [mean, mean + 0.001]}
        for row, (mean, sets) in made_up.items()
        for network in ("ConvNetW32", "VGG11W16")
    ]
    rows = {name: {"row": name, "networks": {}} for name in made_up}
    for cell in placed(cells):
        rows[cell["row"]]["networks"][cell["network"]] = cell
    best, tied, papers, other, seeds = script.sentences({"rows": [*rows.values()]}, load_plan("league"))
    test = welch(made_up["DM"][1], made_up["FTD"][1])
    apart = f"10.0 points (95 % interval {100 * test.low:.1f} to {100 * test.high:.1f}) behind"
    assert best == f"* **DM** is best, at 50.0 ± 1.0 %; FTD, the first row that is told apart, is {apart}."
    assert tied == "* Behind it are tied: FTD and DC."
    assert papers == (
        "* Of 5 pairs that the papers' tables order: 1 in the same order here, 3 reversed, 1 not told apart: "
        "DC is below DM; DSA is below DM; FTD is below DM."
    )  # they do not order DC and DSA, and random images have no sets
    assert other == "* On VGG11W16 the order is that on ConvNetW32 with Kendall's tau 1.00, of 5 rows."
    assert seeds.startswith("* Sets of one seed have something in common (Friedman's test, 4 rows of 3 sets, p = 0.0")


def test_a_league_says_what_is_missing_and_which_settings_are_at_the_edge_of_their_domain():
    script, plan = load(FOLDER / "league.py"), load_plan("league")
    search = {"values": {"lr.images": 9.5}, "scale": "cpu", "seed": 0, "steps": 100}
    assert script.settings(search, plan, "DM") == "lr.images 9.5 (edge)"
    bptt = search | {"values": {"lr.images": 0.0095}}
    assert script.settings(bptt, plan, "BPTT") == "lr.images 0.0095", "a hundred times its own would be"
    haba = search | {"values": {"window.high": 4}}
    text = script.settings(haba, load_plan("league_ipc10"), "HaBa")
    assert text == "window.high 4 (edge)", "its experts have six epochs, and a segment two"
    assert script.settings(search | {"values": {"lr.images": 0.15}}, plan, "DM") == "lr.images 0.15"
    assert script.settings({"values": {}}, plan, "RDED") == "-"
    spans = [script.near_edge(Domain(integer=(1, 4)), value) for value in range(1, 5)]
    assert spans == [True, False, False, True]
    assert [script.near_edge(Domain(uniform=(0.2, 1.0)), value) for value in (0.21, 0.3, 0.99)] == [True, False, True]
    rows = [{"row": name, "networks": {"ConvNetW32": {}}, "search": {"steps": 1}, "run": "runs/a"} for name in "ABCD"]
    pictures = script.pictures({"plan": {"name": "league"}, "rows": rows})
    assert [pictures[at].split(" | ")[-1] for at in (0, 2)] == ["C |", "![C](images/league/league-c.png) |"]
    assert pictures[3:] == ["", "| D |", "| --- |", "| ![D](images/league/league-d.png) |"], "three side by side"
    undone = {"row": "DM", "networks": {}, "missing": script.UNDONE}
    one = {"row": "Random", "networks": {"ConvNetW32": {"mean": 0.1}}}
    under_way = ["* The campaign is under way: 1 of 2 rows are measured."]
    assert script.sentences({"rows": [undone, one]}, plan) == under_way
    assert script.sentences({"rows": [one]}, plan) == [], "without sets there are no places"
    failed = {"row": "AST", "networks": {}, "missing": "experts take 2000 s"}
    assert [*script.missing({"rows": [undone, failed]})] == ["* AST is missing: experts take 2000 s"]


def test_the_record_of_a_league_has_its_own_cells_alone(tmp_path, monkeypatch):
    script = load(FOLDER / "league.py")
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    cell = {"row": "DM", "network": "ConvNetW32", "missing": "", "values": [0.2]}
    cells = [cell | {"plan": "league_final", "mean": 0.9}, cell | {"plan": "league", "mean": 0.2}]
    document = {"plans": [{"name": "league"}, {"name": "league_final"}], "cells": cells}
    (tmp_path / "campaign.json").write_text(json.dumps(document))
    rows = {row["row"]: row["networks"] for row in script.record(tmp_path, load_plan("league"))["rows"]}
    assert rows.pop("DM") == {"ConvNetW32": {"mean": 0.2, "values": [0.2]}}
    assert not any(rows.values())
    with pytest.raises(SystemExit, match="has no table league_ipc10; give --plan league or league_final"):
        script.record(tmp_path, load_plan("league_ipc10"))


def test_the_record_of_a_league_is_left_alone_where_its_folder_is_misspelled(tmp_path, monkeypatch, capsys):
    script = load(FOLDER / "league.py")
    monkeypatch.setattr(script, "FOLDER", tmp_path / "record")
    monkeypatch.setattr("sys.argv", ["league.py", str(tmp_path / "gone"), "--write"])
    with pytest.raises(SystemExit):
        script.main()
    assert capsys.readouterr().err.endswith("gone is no folder; name that of a campaign\n")
    assert not (tmp_path / "record").exists()


def test_a_league_is_recorded_in_parts(tmp_path, monkeypatch):
    """Rows that a folder does not have stay as they are, with places among all; a row with other settings does not."""
    script, plan = load(FOLDER / "league.py"), load_plan("league")
    monkeypatch.setattr(script, "FOLDER", tmp_path)

    def cells(**sets):
        same = {"plan": "league", "network": "ConvNetW32", "missing": "", "std": 0.01, "networks": 9}
        means = {row.replace("_", "-"): [base, base + 0.001, base + 0.002] for row, base in sets.items()}
        return [same | {"row": row, "mean": three[1], "sets": three} for row, three in means.items()]

    def write(out, **sets):
        out.mkdir()
        about = {"plans": [{"name": "league"}], "scale": "cpu", "seed": 0, "commit": out.name}
        (out / "campaign.json").write_text(json.dumps(about | {"cells": cells(**sets)}))
        return script.record(out, plan)

    first = write(tmp_path / "first", DM=0.2, DC=0.3)
    (tmp_path / "league.json").write_text(json.dumps(first))
    second = write(tmp_path / "second", DC=0.3, IDM=0.25)
    places = {row["row"]: cell["place"] for row in second["rows"] for cell in row["networks"].values()}
    assert places == {"DC": 1, "IDM": 2, "DM": 3}
    assert [row["commit"] for row in second["rows"][:3]] == ["second", "second", "first"]
    assert [*script.against_record(tmp_path / "second", plan)] == ["* DC: the same accuracies as recorded"]
    write(tmp_path / "third", DC=0.3000001)
    assert [*script.against_record(tmp_path / "third", plan)] == ["* DC: OTHER ACCURACIES THAN RECORDED"]

    with pytest.raises(SystemExit, match="fourth has Gone, which league has no more; repeat its campaign command"):
        write(tmp_path / "fourth", Gone=0.3)
    changed = json.loads((tmp_path / "third" / "campaign.json").read_text()) | {"settings": {"lr": {"images": 2}}}
    (tmp_path / "fourth" / "campaign.json").write_text(json.dumps(changed))
    with pytest.raises(SystemExit, match=r"fourth holds a campaign with --set lr\.images=2, which the record has no"):
        script.record(tmp_path / "fourth", plan)

    entry = {"scale": "cpu", "seed": 0, "seconds": 60.0, "step_seconds": 1.0, "experts_seconds": 0.0, "steps": 4}
    script.write_entry(tmp_path / "third", plan, Entry.model_validate({"row": "DM", **entry}))
    rows = {row["row"]: row["networks"] for row in script.record(tmp_path / "third", plan)["rows"]}
    assert rows["DC"]
    assert not rows["DM"], "its sets had other steps"


def test_a_cell_of_the_league_is_made_again_with_what_the_record_has(tmp_path):
    script, plan = load(FOLDER / "league.py"), load_plan("league")
    rows = json.loads((FOLDER / "league" / "league.json").read_text(encoding="utf-8"))["rows"]
    script.restore(tmp_path, plan)
    searched = {row["row"]: row["search"] for row in rows if row.get("search")}
    found = read_entries(tmp_path, plan)
    assert found == {
        name: Entry.model_validate_json(json.dumps({"row": name} | search)) for name, search in searched.items()
    }
    assert all(found[name].steps == search["steps"] for name, search in searched.items())
    assert len(found) > 10
    done = {f"search of {plan.name}, {name}" for name, entry in found.items() if entry.trials}
    assert search_seconds(plan, Options(SCALES["cpu"]), found).keys().isdisjoint(done)
    with pytest.raises(SystemExit, match="has a league of its own; name an empty folder"):
        script.restore(tmp_path, plan)


def test_the_cached_results_of_the_docs_are_those_of_the_record():
    script, record = load(FOLDER / "caches.py"), json.loads((FOLDER / "caches.json").read_text(encoding="utf-8"))
    found, page = record["cached_results"], (FOLDER.parent / "docs" / "costs.md").read_text(encoding="utf-8")
    assert found["results"] == 10_000
    assert found["accepted"] is (found["slowest"]["cpu"] <= script.MOST_SECONDS) is True
    row = next(line for line in page.splitlines() if "`caches.py`" in line)
    assert f"| {found['slowest']['cpu']:.1f} s; " in row


def test_a_step_has_no_more_operations_than_recorded():
    """Each is a kernel or more on a GPU. A new version of torch may have others: then record them again."""
    script = load(FOLDER / "operations.py")
    recorded = json.loads((FOLDER / "operations.json").read_text(encoding="utf-8"))["operations"]
    assert list(recorded) == script.learning()
    found = {method: sum(script.operations(method).values()) for method in ("mtt", "datm", "tgdd", "dm")}
    assert all(count <= recorded[method] for method, count in found.items()), found


def test_the_benchmark_of_a_gpu_runs_without_one(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--smoke"])
    load(FOLDER / "gpu.py").main()
    found = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in found["methods"]] == ["mtt", "datm", "mct", "tgdd"]
    ways = [
        part
        for row in found["methods"]
        for part in (row["plain"], row.get("full"), row.get("adjoint"), row.get("ours"))
    ]
    assert all(way["seconds"] > 0 for way in ways if way is not None)
    assert all(value > 0 for row in found["methods"] for value in row["ratio"].values())
    assert found["evaluation"]["plain"]["seconds"] > 0
