"""Rows of other packages: found on a miss, checked, and refused in one line that names the plugin."""

import sys
from importlib.metadata import entry_points

import pytest

import raydd.plugins
from raydd.cli import run
from raydd.config.names import PLUGIN_SPACES
from raydd.config.schema import DistillConfig
from raydd.data.datasets import DATASETS, find_source
from raydd.evaluation.protocols import PROTOCOLS, find_protocol
from raydd.methods import METHODS, complete
from raydd.models.spaces import SPACES
from raydd.models.zoo import NETWORKS, Network, find
from raydd.plugins import TABLES, Table, installed, names, origin_of
from raydd.tuning.space_files import load_space

ROWS = """
from pathlib import Path

from raydd.data.datasets import DATASETS as SHIPPED
from raydd.evaluation.protocols import PROTOCOLS as THEIRS
from raydd.methods.method import Method
from raydd.models.spaces import ConvNetRow
from raydd.models.zoo import NETWORKS as ZOO

assert "Quick" not in ZOO  # a lookup while it is imported sees what there is
METHODS = {"plain": Method(name="plain", about="Plain.", defaults={"steps": 7})}
NETWORKS = {"Quick": ZOO["MLP"]}
DATASETS = {"figures": SHIPPED["digits"]}
PROTOCOLS = {"brief": THEIRS["mtt"].model_copy(update={"name": "brief", "epochs": 3})}
SPACES = {"rates": {"method": "dm", "domains": {"lr.images": {"log_uniform": [0.1, 1.0]}}, "budget": {"samples": 2}}}
ARCHITECTURES = {"pair": [ConvNetRow(8, 1), ConvNetRow(8, 2)]}
"""


NETWORK = "from raydd.models.zoo import Network\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package of one module as a plugin, and gives each table as a fresh process has it."""

    def install(text, name="mine"):
        (tmp_path / f"{name}_rows.py").write_text(text)
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[raydd.plugins]\n{name} = {name}_rows\n")
        installed.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    tables = (METHODS, NETWORKS, DATASETS, PROTOCOLS, SPACES, PLUGIN_SPACES)
    before = [dict(table) for table in tables]
    for table in tables:
        monkeypatch.setattr(table, "_complete", False)
    yield install
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)
    for name in [name for name in sys.modules if name.endswith("_rows")]:
        del sys.modules[name]
    installed.cache_clear()


def test_the_tables_of_raydd_are_all_open_to_plugins():
    tables = {METHODS.title, NETWORKS.title, DATASETS.title, PROTOCOLS.title, PLUGIN_SPACES.title, SPACES.title}
    assert tables == set(TABLES)
    assert not entry_points(group=raydd.plugins.GROUP), "the tests' environment has a plugin"


def test_rows_are_found_by_every_lookup(install):
    install(ROWS)
    assert complete(DistillConfig(method="plain")).steps == 7
    assert find("Quick") is NETWORKS["MLP"]
    assert find_source("figures").name == "digits"
    assert find_protocol("brief").epochs == 3
    assert load_space("rates").name == "rates"
    assert [str(row) for row in SPACES["pair"]] == ["ConvNetW8D1INARAP", "ConvNetW8D2INARAP"]
    assert DATASETS.get("figures") is DATASETS["digits"]


def test_names_are_known_without_their_table(install):
    assert names("METHODS") == []
    install(ROWS)
    assert names("METHODS") == ["plain"]
    assert names("SPACES") == ["rates"]
    assert dict.get(METHODS, "plain") is None


def test_nothing_is_imported_for_a_name_that_raydd_has(install):
    install("raise RuntimeError('imported')")
    assert find("MLP") is NETWORKS["MLP"]
    assert find("ConvNetW8D1").smallest == 1
    assert find("ResNet18W16").smallest == 2
    assert find_protocol("mtt").name == "mtt"
    assert load_space("datm_digits").name == "datm_digits"
    assert "dm" in METHODS
    assert find_source("digits").name == "digits"
    with pytest.raises(ValueError, match=r"plugin mine \(mine_rows\) cannot be imported \(RuntimeError: imported\)"):
        find("Quick")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nowhere_to_be_found", "cannot be imported (ModuleNotFoundError: No module named"),
        ("NETWORK = {}", "has no rows; give it one of the dictionaries METHODS, NETWORKS"),
        ("NETWORKS = ['Quick']", "NETWORKS is a list; use a dictionary of rows"),
        ("NETWORKS = {'Quick': len}", "NETWORKS['Quick'] is a builtin_function_or_method; use a Network"),
        (f"{NETWORK}NETWORKS = {{'MLP': Network(len, 1)}}", "NETWORKS['MLP'] exists already; rename the row"),
        (f"{NETWORK}NETWORKS = {{'a,b': Network(len, 1)}}", "has the name 'a,b'; use letters"),
    ],
)
def test_a_wrong_plugin_is_named_in_one_line(install, text, said):
    install(text)
    with pytest.raises(ValueError, match=r"^plugin mine") as caught:
        find("Quick")
    line = str(caught.value)
    assert line.startswith("plugin mine (mine_rows)")
    assert said in line, line
    assert "\n" not in line
    with pytest.raises(ValueError, match="plugin mine"):
        find("Quick")


FAULTY = """
from raydd.data.datasets import DATASETS as SHIPPED, Row
from raydd.models.zoo import Network

def find(root):
    return {}["images"]

def build(channels, size, classes):
    raise ValueError(f"no {size}x{size} images")

DATASETS = {
    "lost": Row(10, 1, 8, (0.5,), (0.5,), False, find),
    "coloured": Row(10, 3, 8, (0.5,) * 3, (0.5,) * 3, False, SHIPPED["digits"].find),
    "fewer": Row(2, 1, 8, (0.5,), (0.5,), False, SHIPPED["digits"].find),
}
NETWORKS = {"Broken": Network(build, 1)}
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--dataset lost", 1, "KeyError: 'images'; RAYDD_TRACEBACK=1 prints the traceback"),
        ("--dataset digits --network Broken", 2, "no 8x8 images"),
        ("--dataset fewer", 2, "DATASETS['fewer'] has 2 classes, its images have 10: correct the row"),
        ("--dataset coloured", 2, "DATASETS['coloured'] has 3 channels, its images have 1: correct the row"),
    ],
)
def test_an_error_of_a_plugins_code_names_the_plugin(install, tmp_path, capsys, words, code, said):
    install(FAULTY)
    assert run(f"experts {words} --epochs 1 --num-experts 1 --out {tmp_path / 'out'}".split()) == code
    assert capsys.readouterr().err.splitlines()[-1] == f"raydd: plugin mine (mine_rows): {said}"


def test_a_cause_and_a_worker_of_ray_name_the_plugin_and_a_refusal_by_raydd_does_not(install, tmp_path):
    install(f"{FAULTY}\ndef refused(name): return find_source(name)\nfrom raydd.data.datasets import find_source\n")
    with pytest.raises(KeyError) as caught:
        DATASETS["lost"].find(tmp_path)
    chained = RuntimeError("expert 3 failed")
    chained.__cause__ = caught.value
    assert origin_of(chained) == "plugin mine (mine_rows)"
    remote = RuntimeError("a task failed")
    remote.traceback_str = f'  File "{tmp_path / "mine_rows.py"}", line 7, in find\nKeyError'
    assert origin_of(remote) == "plugin mine (mine_rows)"
    with pytest.raises(ValueError, match="unknown data set") as refused:
        sys.modules["mine_rows"].refused("nowhere")
    assert origin_of(refused.value) is None


def test_a_row_has_the_name_of_its_key(install):
    install("from raydd.evaluation.protocols import PROTOCOLS as THEIRS\nPROTOCOLS = {'brief': THEIRS['mtt']}")
    with pytest.raises(ValueError, match=r"PROTOCOLS\['brief'\] is named 'mtt'; use one name"):
        find_protocol("brief")


def test_two_plugins_may_not_have_the_same_row(install):
    text = "from raydd.models.zoo import NETWORKS as ZOO\nNETWORKS = {'Quick': ZOO['MLP']}"
    install(text, "first")
    install(text, "second")
    with pytest.raises(ValueError, match=r"plugin second \(second_rows\): NETWORKS\['Quick'\] exists already"):
        find("Quick")


def test_a_miss_names_the_rows_of_plugins(install):
    install(ROWS)
    with pytest.raises(ValueError, match="did you mean Quick"):
        find("quick")
    with pytest.raises(ValueError, match="rates"):
        load_space("rate")


def test_a_plugin_may_import_a_table_of_raydd_and_write_into_it(install):
    install(f"{NETWORK}from raydd.models.zoo import NETWORKS\nNETWORKS['Quick'] = Network(len, 1)")
    assert find("Quick").build is len


def test_a_script_adds_rows_without_a_plugin():
    table = Table("NETWORKS", Network, NETWORKS)
    table["Own"] = NETWORKS["MLP"]
    assert table["Own"] is NETWORKS["MLP"]
    with pytest.raises(KeyError, match="Other"):
        table["Other"]
