"""A campaign on Ray: every cell once, whatever is killed, and the same table in the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from fake_cluster import fake_cluster
from variants import first

from raydd.api.campaign import CampaignIncomplete, campaign
from raydd.api.campaign_scores import Scorer
from raydd.campaigns.budget import Budget, Limits
from raydd.campaigns.cell_settings import Options
from raydd.campaigns.graph import build_graph
from raydd.campaigns.order import Order, Task
from raydd.campaigns.plan import load_plan
from raydd.campaigns.scales import SCALES
from raydd.config.placement import Where
from raydd.io.console import QuietScreen, Screen
from raydd.remote.campaign import MOST, Executor, Start

pytestmark = pytest.mark.remote

PLAN = {
    "title": "a small table",
    "columns": [{"dataset": "digits", "ipc": [1]}],
    "rows": {
        "MTT": {"method": "mtt", "set": {"student_steps": 2}},
        "MTT again": {"method": "mtt", "set": {"student_steps": 2}},
        "MTT, two labels": {"method": "mtt", "set": {"student_steps": 2}, "relabel": True},
        "DM": "dm",
        "Random": "random",
        "Forgetting": "forgetting",
        "Whole": "whole",
        "CAFE": {"missing": "raydd has no CAFE yet"},
    },
    "seeds": 2,
    "published": {"MTT": "46.3±0.8"},
}
SET = {"steps": 3, "checkpoint_every": 1, "experts": {"network": "MLP", "num_experts": 2, "epochs": 6}}
HERE = Where(device="cpu", num_workers=2)


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    return load_plan(str(path))


def values(document):
    return {cell["row"]: (cell["mean"], cell["std"], cell["missing"]) for cell in document["cells"]}


class Lines(Screen):
    def __init__(self):
        super().__init__()
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.fixture
def small(plan):
    """The plan with its trajectory settings in the rows that have them."""
    extra = {"window": {"low": 0, "high": 2}, "span": 1}
    rows = {
        name: row.model_copy(update={"set": row.set | extra}) if row.method == "mtt" else row
        for name, row in plan.rows.items()
    }
    return plan.model_copy(update={"rows": rows})


@pytest.mark.slow
def test_every_kind_of_row_is_measured(small, tmp_path):
    """A method, soft labels assigned afterwards, selections that ask experts or not, and the whole data."""
    found = values(campaign([small], tmp_path / "out", Options(SCALES["digits"], set=SET), where=HERE, screen=Lines()))
    assert found.pop("CAFE") == (None, None, "raydd has no CAFE yet")
    assert all(mean is not None and missing == "" for mean, _, missing in found.values()), found
    assert found["MTT"] == found["MTT again"] != found["MTT, two labels"]
    assert len({found[name] for name in ("Whole", "Random", "Forgetting", "DM")}) == 4


def test_sets_rank_architectures_against_real_images(tmp_path):
    columns = [{"dataset": "digits", "title": f"top {top}", "top": top} for top in (2, 3)]
    tree = {
        "title": "rankings",
        "measure": "rank correlation",
        "columns": columns,
        "rows": {"Random": {"method": "random", "preset": ""}},
    }
    path = tmp_path / "ranking.yaml"
    path.write_text(yaml.safe_dump(tree | {"protocol": "dm", "published": {"Random": "0.5 0.25"}}))
    scale = SCALES["digits"]._replace(ranking={"sample": 3, "epochs": 1, "real_epochs": 1})
    document = campaign([load_plan(str(path))], tmp_path / "out", Options(scale), where=HERE, screen=Lines())
    (folder,) = (tmp_path / "out" / "rankings").iterdir()
    numbers = json.loads((folder / "nas.json").read_text())
    tops = {top["k"]: top["spearman"] for top in numbers["proxies"][0]["agreement"]["tops"]}
    assert {cell["column"]: cell["mean"] for cell in document["cells"]} == {f"top {k}": tops[k] for k in (2, 3)}
    assert (numbers["split"], numbers["architectures"], [*tops]) == ("test", 3, [2, 3])


def test_sets_that_are_scored_together_are_as_far_as_their_one_evaluation(tmp_path):
    """The time left would otherwise count the others as not begun, or as done."""
    rows = {name: {"method": name, "preset": ""} for name in ("random", "kmeans")}
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(PLAN | {"rows": rows, "seeds": 1, "protocol": "dm", "published": {}}))
    given, out = Options(SCALES["digits"], set={"experts": {"network": "MLP"}}), tmp_path / "out"
    plan, screens = load_plan(str(path)), {}
    document = campaign([plan], out, given, where=HERE, screen=Lines())
    graph = build_graph([plan], given)

    def screen(*keys):
        return screens.setdefault(keys, QuietScreen(lambda line: None))

    (results,) = Scorer(graph, out.joinpath, screen, HERE)(list(graph.scores))
    assert [results[cell.score][0].mean for cell in graph.cells] == [cell["mean"] for cell in document["cells"]]
    assert [*screens] == [tuple(graph.scores)]


def test_every_cell_is_measured_once_and_a_second_call_does_nothing(small, tmp_path):
    given = Options(SCALES["digits"], set=SET)
    small = small.model_copy(update={"rows": {name: small.rows[name] for name in ("MTT", "MTT again", "CAFE")}})
    graph = build_graph([small], given)
    assert (len(graph.experts), len(graph.distillations), len(graph.scores)) == (1, 1, 1)
    document = campaign([small], tmp_path / "out", given, where=HERE, screen=Lines())
    found = values(document)
    assert found["CAFE"] == (None, None, "raydd has no CAFE yet")
    assert found["MTT"] == found["MTT again"]
    assert 0.1 < found["MTT"][0] < 1
    costs = {cell["row"]: (cell["seconds"], cell["memory_mb"]) for cell in document["cells"]}
    assert costs["MTT"][0] > 0
    assert costs["MTT"][1] > 50
    written = json.loads((tmp_path / "out" / "campaign.json").read_text())
    assert values(written) == values(document)
    assert sorted(path.name for path in (tmp_path / "out" / "runs").iterdir()) == sorted(
        node.name for node in graph.distillations.values()
    )
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*") if path.is_file()}
    again = campaign([small], tmp_path / "out", given, where=HERE, screen=Lines())
    assert values(again) == values(document)
    assert again["seconds"] > document["seconds"] > 1, "of all commands"
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_budget_that_is_spent_ends_it_and_the_rest_follows(small, tmp_path):
    given = Options(SCALES["digits"], set=SET)
    with pytest.raises(CampaignIncomplete, match=r"the budget is spent with \d+ of \d+ parts left") as ended:
        campaign([small], tmp_path / "out", given, limits=Limits(hours=0), where=HERE, screen=Lines())
    assert {cell["missing"] for cell in ended.value.result["cells"]} == {"not done yet", "raydd has no CAFE yet"}


def test_another_campaign_in_the_folder_is_refused(small, tmp_path):
    given = Options(SCALES["digits"], set=SET)
    with pytest.raises(CampaignIncomplete):
        campaign([small], tmp_path / "out", given, limits=Limits(hours=0), where=HERE, screen=Lines())
    with pytest.raises(ValueError, match=r"holds another campaign \(small at --scale digits, seed 0\)"):
        campaign([small], tmp_path / "out", given._replace(seed=1), where=HERE, screen=Lines())


@pytest.mark.integration
def test_what_fails_is_named_and_the_others_go_on(small, tmp_path):
    """An expert of a learning rate that diverges ends what needs it, and nothing else."""
    rows = {name: small.rows[name] for name in ("MTT", "DM")}
    rows["MTT"] = rows["MTT"].model_copy(
        update={"set": rows["MTT"].set | {"experts": {"lr": 1e12, "network": "MLP", "num_experts": 1, "epochs": 6}}}
    )
    broken = small.model_copy(update={"rows": rows, "published": {}})
    set_of = {key: value for key, value in SET.items() if key != "experts"}
    set_of["experts"] = {"network": "MLP"}
    with pytest.raises(CampaignIncomplete, match=r"3 of 5 parts failed: .*loss is nan.*lower experts.lr") as ended:
        campaign([broken], tmp_path / "out", Options(SCALES["digits"], set=set_of), where=HERE, screen=Lines())
    found = values(ended.value.result)
    assert found["DM"][0] is not None
    assert found["MTT"][0] is None
    assert "lower experts.lr" in found["MTT"][2]


def command(path, out, *words):
    call = [sys.executable, "-m", "raydd", "campaign", str(path), "--scale", "digits", "--num-workers", "2", *words]
    call += [f"--set={key}={value}" for key, value in (("steps", 60), ("experts.network", "MLP"))]
    return [*call, "--set=experts.num_experts=2", "--set=experts.epochs=6", "--device", "cpu", "--out", str(out)]


@pytest.mark.integration
@pytest.mark.parametrize("stage", first(["evaluating: ", "training 2 of 2 experts", "starting a worker"]))
def test_an_interrupted_campaign_ends_in_a_line_and_leaves_no_process(small, tmp_path, stage):
    small = small.model_copy(update={"rows": {name: small.rows[name] for name in ("MTT", "DM")}})
    path, out = tmp_path / "plan.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(small.model_dump(mode="json", exclude={"name"})))
    process = subprocess.Popen(command(path, out), stdout=-1, stderr=-1, text=True, start_new_session=True)
    end, log = time.monotonic() + 120, out / "campaign.log"
    while not (log.exists() and stage in log.read_text()) and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("raydd: interrupted; the same command goes on"), err
    end = time.monotonic() + 20
    while (left := _session(process.pid)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left


@pytest.mark.slow
def test_a_killed_driver_leaves_what_the_next_call_goes_on_with(small, tmp_path):
    small = small.model_copy(update={"rows": {name: small.rows[name] for name in ("MTT", "DM")}})
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(small.model_dump(mode="json", exclude={"name"})))
    process = subprocess.Popen(command(path, tmp_path / "killed", "--json"), stdout=-1, stderr=-1, text=True)
    end = time.monotonic() + 120
    while not list((tmp_path / "killed" / "nodes").glob("e*.json")) and time.monotonic() < end:
        time.sleep(0.1)
    process.kill()
    process.communicate()
    experts = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "experts").rglob("expert-*.arrow")}
    assert experts
    tables = []
    for name in ("killed", "whole"):
        done = subprocess.run(command(path, tmp_path / name, "--json"), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        tables.append(values(json.loads(done.stdout)))
    assert tables[0] == tables[1]
    assert experts == {path: path.stat().st_mtime_ns for path in experts}


@pytest.mark.slow
def test_a_paper_table_is_the_same_after_a_worker_a_node_and_the_driver_were_killed(tmp_path):
    words = ("campaign", "tgdd_table1", "--scale", "digits", "--device", "cpu", "--json")
    tables = {}
    for name in ("whole", "killed"):
        with fake_cluster(((1, 0), (1, 0))) as cluster:
            folder = tmp_path / name
            folder.mkdir()
            call = (*words, "--out", str(tmp_path / f"out-{name}"), "--address", cluster.address)
            process = cluster.start(folder, *call)
            if name == "killed":
                nodes = Path(tmp_path / "out-killed" / "nodes")
                _after(nodes, 1, process)
                workers = [pid for pid, title in _titles() if title.startswith("ray::DistillationActor")]
                os.kill(workers[0], signal.SIGKILL)
                _after(nodes, 4, process)
                cluster.add_node(1, 0)
                os.kill(cluster.raylets()[0], signal.SIGKILL)
                _after(nodes, 7, process)
                process.kill()
                process.communicate()
                process = cluster.start(folder, *call)
            done = cluster.end(folder, process, seconds=900)
            assert done.code == 0, done.err
            tables[name] = values(json.loads(done.out[done.out.index("{") :]))
    assert tables["whole"] == tables["killed"]
    assert len(tables["whole"]) > 10


def _after(nodes, count, process):
    """Wait until so many parts are done."""
    end = time.monotonic() + 600
    while len(list(nodes.glob("*.json"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.2)
    time.sleep(1)


def _session(leader):
    """The processes of a session."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(path.name))
    return found


def _titles():
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                yield int(path.name), (path / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue


class Ticks:
    """Work of a number of looks at it."""

    pending = None

    def __init__(self, workers, ticks, log, name):
        self.workers, self._left, self._log, self._name = workers, ticks, log, name
        log.append((name, workers))

    def advance(self):
        self._left -= 1
        return self._left <= 0

    def close(self):
        pass


def test_no_worker_waits_while_there_are_scores(ray2, monkeypatch):
    """A long distillation has one worker; the scores go on with the other, and then with both, in several batches."""
    tasks = [Task("d", "distillation"), *(Task(f"s{number}", "scores", parts=2) for number in range(100))]
    order, log, most = Order(tasks, [["d"]]), [], []

    def scores(batch, workers):
        assert sum(task.parts for task in batch) <= MOST * workers
        return Ticks(workers, sum(task.parts for task in batch) // workers, log, "scores")

    start = Start(experts=None, distillation=lambda task: Ticks(1, 60, log, "distillation"), scores=scores)
    executor = Executor(order, start, HERE, Budget(), lambda line: None)
    monkeypatch.setattr("raydd.remote.campaign.wait_for", lambda calls: most.append(executor._used()))
    executor.run(lambda: None)
    assert order.unfinished == 0
    assert max(most) == 2
    assert len(most) <= (60 + 200) / 2 + MOST, "both work until the last batch"
    assert len(log) <= 8, "batches are not small"
