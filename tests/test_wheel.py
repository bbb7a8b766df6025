"""The wheel: what is in it, the types that it has, and that it runs where nothing else is."""

import ast
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import raydd as package
from raydd.data.synset import SyntheticSet

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "raydd"
SMALL = (
    "steps=3",
    "experts.epochs=4",
    "experts.num_experts=2",
    "experts.network=MLP",
    "student_steps=2",
    "window.high=1",
)


# What a user may write: every public name, with the types that come out.
SCRIPT = """
from pathlib import Path

import raydd


def main(out: Path) -> float:
    data = raydd.DataConfig(dataset="digits", preprocessing="zca")
    experts = raydd.ExpertConfig(network="MLP", num_experts=2, epochs=3, optimizer="gsam")
    where = raydd.Where(num_workers=2, device="cpu")
    place: Path | str = raydd.train_experts(raydd.ExpertsConfig(data=data, experts=experts), out / "b", where=where)
    epochs: int = raydd.ArrowBuffer(place).epochs
    config = raydd.DistillConfig(method="mtt", ipc=2, steps=10, span=epochs - 1, data=data, experts=experts)
    synset: raydd.SyntheticSet = raydd.distill(config, out / "run", buffer=place, resume=True, where=where)
    synset.save(out / "synset.arrow")
    shape: tuple[int, ...] = raydd.SyntheticSet.load(out / "synset.arrow").images.shape
    scores = raydd.evaluate([synset, out / "run"], raydd.EvaluateConfig(networks=("MLP",), seeds=2), names=["a", "b"])
    accuracy: float = scores[0].mean
    space: raydd.Space = raydd.load_space("datm_digits")
    found = raydd.tune(space, out / "tune", num_samples=2, time_budget=60.0, where=where)
    best = found.best
    accuracy += 0.0 if best is None else best.metrics["accuracy"]
    ranking = raydd.rank_architectures([found.synset], raydd.NasConfig(sample=4, top=(1, 2)), out / "nas")
    learned = raydd.evaluate_continual([synset], out=out / "continual", steps=(5,))
    table = raydd.campaign("tgdd_table4", out / "table", "digits", where=where)
    written = raydd.write_synset(synset, out / "mtt", "mtt")
    again: raydd.SyntheticSet = raydd.read_synset(out / "mtt", layout="mtt", data=data, lr=0.01).synset
    size: int = raydd.load_dataset("digits", validation=0.2).size
    names: list[str] = [*raydd.METHODS, *raydd.NETWORKS, *raydd.DATASETS, *raydd.PROTOCOLS]
    print(shape, ranking["proxies"], learned["runs"], table["cells"], names, raydd.DATASETS["digits"].size)
    print(written.images, again.ipc)
    return accuracy + raydd.NETWORKS["MLP"].smallest + raydd.PROTOCOLS["dm"].epochs + size
"""
WRONG = {
    'raydd.distill("mtt", "out")': "arg-type",
    "raydd.load_dataset(3)": "arg-type",
    'raydd.tune("datm_digits", num_sample=2)': "call-arg",
    "raydd.Synset": "attr-defined",
    "number: int = raydd.evaluate([])": "assignment",
    'raydd.DistillConfig(method="mtt", inner_steps=3)': "call-arg",
    'raydd.DataConfig(preprocessing="whitened")': "arg-type",
    'raydd.SyntheticSet.load("x").image': "attr-defined",
    "raydd.Where().workers": "attr-defined",
}


def type_check(folder, *words):
    """What mypy --strict says of the script and of wrong lines, by file and line."""
    (folder / "script.py").write_text(SCRIPT)
    (folder / "wrong.py").write_text("import raydd\n\n" + "\n".join(WRONG) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--hide-error-context", "--no-error-summary", *words]
    done = subprocess.run(
        [*command, "script.py", "wrong.py"], capture_output=True, text=True, cwd=folder, timeout=600, check=False
    )
    return done.stdout + done.stderr


def check_types(told):
    """That the script has no error, and that every wrong line has the one that it should have."""
    assert "script.py" not in told, told
    found = {int(line): code for line, code in re.findall(r"^wrong\.py:(\d+): error: .*\[([a-z-]+)\]$", told, re.M)}
    assert found == dict(enumerate(WRONG.values(), start=3)), told


@pytest.fixture(scope="session")
def uv():
    found = os.environ.get("UV") or shutil.which("uv")
    if found is None:
        pytest.skip("no uv to build a wheel with")
    return found


@pytest.fixture(scope="session")
def wheel(uv, tmp_path_factory):
    """The wheel of this source tree."""
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [uv, "build", "--wheel", "--out-dir", str(out), str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("*.whl")
    return found


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_the_wheel_has_all_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = {name.rpartition("/")[2]: archive.read(name).decode() for name in names if ".dist-info/" in name}
    package = {path.relative_to(ROOT).as_posix() for path in files(PACKAGE)}
    spaces = {f"raydd/tune_spaces/{path.name}" for path in (ROOT / "tune_spaces").iterdir()}
    assert {name for name in names if ".dist-info/" not in name} == package | spaces
    assert {"raydd/py.typed", "raydd/presets/digits/mtt.yaml", "raydd/tune_spaces/datm_digits.yaml"} <= names
    assert {"raydd/report/style.css", "raydd/report/page.js"} <= names
    assert not [name for name in names if "test" in name.split("/")[1]]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nVersion: {version}\n" in about["METADATA"]
    assert "raydd = raydd.cli:main" in about["entry_points.txt"]
    assert about["LICENSE"] == (ROOT / "LICENSE").read_text()


def links(text):
    """Where a page's images and links lead, in order."""
    return re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", text)


def test_the_readme_of_a_package_index_needs_no_files_beside_it(wheel):
    """Its images and links are those of the repository, absolute, below the one homepage of the project."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(name))
    urls = dict(line.split(", ") for line in about.get_all("Project-URL"))
    home = urls["Homepage"]
    assert {"Homepage", "Documentation", "Changelog"} <= set(urls)
    assert all(url.startswith(home) for url in urls.values())
    assert about["Description-Content-Type"] == "text/markdown"
    here = links((ROOT / "README.md").read_text())
    assert len(here) > 15
    kinds = {"!": "raw", "": "blob"}
    assert links(about.get_payload()) == [(mark, f"{home}/{kinds[mark]}/HEAD/{path}") for mark, path in here]
    assert all((ROOT / path.partition("#")[0]).is_file() for _, path in here)
    project = (ROOT / "pyproject.toml").read_text()
    assert set(re.findall(r"https://[\w.-]+/[\w-]+/[\w-]+", project)) == {home}


def test_the_script_uses_every_name():
    used = {node.attr for node in ast.walk(ast.parse(SCRIPT)) if isinstance(node, ast.Attribute)}
    assert {*package.__all__} <= used


@pytest.mark.integration
def test_users_scripts_are_type_checked_by_what_is_installed(tmp_path):
    """With the cache of the check of the package itself, before which this takes half a minute."""
    assert (PACKAGE / "py.typed").is_file()
    cached = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"))
    check_types(type_check(tmp_path, *cached))


@pytest.fixture(scope="session")
def installed(uv, wheel, tmp_path_factory):
    """The wheel in an empty environment, with the versions that every check is run with; its folder of programs."""
    home = tmp_path_factory.mktemp("environment")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    (home / "constraints.txt").write_text("\n".join(settings["constraint-dependencies"]) + "\n")
    subprocess.run([uv, "venv", "--python", sys.executable, str(home / "env")], check=True, capture_output=True)
    python = home / "env" / "bin" / "python"
    words = [uv, "pip", "install", "--python", str(python), "--constraint", str(home / "constraints.txt"), str(wheel)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return python.parent


@pytest.fixture
def raydd(installed, tmp_path):
    """Runs the installed program in a folder outside of the source tree, with a cache of its own."""
    own = {"RAYDD_CACHE": str(tmp_path / "cache"), "PATH": f"{installed}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    hidden = {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | own
    work = tmp_path / "work"
    work.mkdir()

    def command(*words):
        done = subprocess.run(
            ["raydd", *words], capture_output=True, text=True, cwd=work, env=environment, timeout=1800, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command.work = work
    return command


@pytest.mark.slow
def test_the_wheel_alone_says_what_it_is_and_that_all_is_well(raydd, installed):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert raydd("--version").startswith(f"raydd {version} (torch 2.")
    document = json.loads(raydd("doctor", "--json"))
    home = next(check["found"] for check in document["checks"] if check["name"] == "raydd")
    assert document["faults"] == 0
    assert str(installed.parent) in home
    assert "datm_digits" in raydd("spaces")


@pytest.mark.slow
def test_the_wheel_alone_runs_the_whole_job(raydd):
    settings = [word for setting in SMALL for word in ("--set", setting)]
    scores = json.loads(raydd("quickstart", "--out", "quick", "--json", *settings))["scores"]
    assert {score["kind"] for score in scores} >= {"distilled", "random", "whole"}
    assert SyntheticSet.load(raydd.work / "quick" / "synset.arrow").ipc == 1
    assert yaml.safe_load((raydd.work / "quick" / "config.yaml").read_text())["steps"] == 3


@pytest.mark.slow
def test_the_wheel_alone_searches(raydd):
    small = (
        "--set",
        "steps=4",
        "--set",
        "evaluate_every=2",
        "--set",
        "experts.epochs=20",
        "--set",
        "experts.network=MLP",
    )
    found = json.loads(raydd("tune", "--space", "datm_digits", "--num-samples", "2", "--out", "tune", "--json", *small))
    assert sum(found["trials"].values()) == 2
    assert found["best"]["validation"]["accuracy"] > 0
    assert (raydd.work / "tune" / "best.yaml").is_file()


@pytest.mark.slow
def test_the_wheel_alone_has_types(installed, tmp_path):
    check_types(type_check(tmp_path, "--config-file=", "--python-executable", str(installed / "python")))
