import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))
WRITTEN = {
    "continual_learning": ("run/synset.arrow", "continual.json", "continual.png"),
    "experts_and_distill": ("buffer/manifest.json", "run/synset.arrow", "run/synset.png"),
    "other_projects": (
        "dc/res_DM_digits_ConvNet_10ipc.pt",
        "ddranking/images.pt",
        "hf/data/train-00000-of-00001.parquet",
    ),
    "own_dataset": ("shapes/ring/0039.png", "run/synset.arrow", "run/synset.png"),
    "own_method": ("dm/synset.arrow", "spread/synset.arrow", "spread/config.yaml"),
    "rank_architectures": ("set/synset.arrow", "nas/nas.json", "nas/ranking.csv", "nas/nas.png", "nas/real.json"),
    "reproduce_table": ("campaign.json", "campaign.log"),
    "submit_to_cluster": ("manifest.json", "expert-00001.arrow"),
    "tune": ("results.parquet", "best.yaml", "best/synset.arrow", "scores.json", "figures/values.png"),
    "tune_own_space": ("results.parquet", "best.yaml", "figures/pareto.png", "trials/0003/synset.arrow"),
}
PRINTED = {
    "continual_learning": r"^DM +5 steps: (\d+\.\d ){5}% of the classes seen$",
    "experts_and_distill": r"^MTT +\d+\.\d ± \d+\.\d %$",
    "other_projects": r"^theirs +MLP +\d+\.\d ± \d+\.\d %$",
    "own_dataset": r"^shapes: cross, disc, ring, square; \d+ training, \d+ validation and 32 test images; no test .*\n"
    r"DM +\d+\.\d ± \d+\.\d %$",
    "own_method": r"^dm +\d+\.\d ± \d+\.\d %\nspread +\d+\.\d ± \d+\.\d %$",
    "rank_architectures": r"^  its best is ConvNetW\d+D\d\w+: \d+\.\d % when it is trained on real data",
    "reproduce_table": r"^neither +\d+\.\d % \(72\.8 in the paper, on cifar10, ipc 50\)$",
    "submit_to_cluster": r"^raysubmit_\w+ has succeeded; its last lines:(\n.*){1,5}",
    "tune": r"^trial 2: (complete|pruned), \d+\.\d % on validation images$",
    "tune_own_space": r"^trial \d: \d+\.\d % on validation images in \d+\.\d+ s, \{'student_steps': \d+, 'span'",
}


PROCESSES = ("submit_to_cluster", "experts_and_distill")
"""Scripts that run as processes with a Ray of their own."""


def check_output(script, printed, folder):
    assert re.search(PRINTED[script.stem], printed, re.MULTILINE), printed
    (out,) = (folder / "runs").iterdir()
    assert all((out / name).stat().st_size for name in WRITTEN[script.stem])


@pytest.mark.remote
@pytest.mark.slow
@pytest.mark.parametrize("script", [FOLDER / f"{name}.py" for name in PROCESSES], ids=PROCESSES)
def test_an_example_runs_from_any_directory(script, apart):
    done, folder = apart(sys.executable, str(script), "--smoke", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-2000:]
    check_output(script, done.stdout, folder)


@pytest.mark.remote
@pytest.mark.usefixtures("ray2", "tables")
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem == "own_method" else pytest.mark.slow)
        for path in SCRIPTS
        if path.stem not in PROCESSES
    ],
)
def test_an_example_runs_on_the_ray_that_is_open(script, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--smoke"])
    runpy.run_path(str(script), run_name="__main__")
    check_output(script, capfd.readouterr().out, tmp_path)


def test_the_readme_tells_of_every_example():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\w+\.py)\]\(\1\) \|", text, re.MULTILINE)) == [path.name for path in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_examples_are_short_and_say_how_long_they_take(script):
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 70
    told = text.split('"""')[1]
    assert re.search(r"About \w+ minutes? on two cores", told)
    assert f"python examples/{script.name} [--smoke]" in told


def test_the_first_example_is_the_whole_job_in_twenty_lines():
    text = re.sub(r'""".*?"""', "", (FOLDER / "experts_and_distill.py").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len([line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]) <= 20
