"""What is wrong is refused before data is decoded or Ray is loaded; names, keys and paths even before PyTorch is."""

import json
import os
import resource
import subprocess
import sys

import pytest

from raydd.api.distill import distill
from raydd.config.schema import DistillConfig
from raydd.interop.writing import write_synset

DISTILLING = ("experts", "distill", "ablate", "tune --space datm_digits")
MATCHING = DISTILLING[1:]
SCORING = ("evaluate", "nas", "continual")
# Of each row: the command, whose {run} is a set's folder, {buffer} experts and {old} a folder with a run; and a word of
# the line that refuses it. `file` is a file.
TABLE = [
    ("quickstart --set stepps=1", "stepps"),
    ("quickstart --device gpu", "--device"),
    ("quickstart --out file/run", "cannot be written"),
    ("quickstart --out {old} --set experts.num_experts=1 --set window.auto=true", "window.auto"),
    *((f"{verb} --dataset diggits", "diggits") for verb in DISTILLING),
    *((f"{verb} --dataset ./nowhere", "nowhere") for verb in DISTILLING),
    *((f"{verb} --network LeNett", "LeNet") for verb in DISTILLING),
    *((f"{verb} --set stepps=1", "stepps") for verb in DISTILLING),
    *((f"{verb} --set x", "a.b=value") for verb in DISTILLING),
    *((f"{verb} --num-workers 0", "--num-workers") for verb in DISTILLING),
    *((f"{verb} --device gpu", "--device") for verb in DISTILLING),
    *((f"{verb} --address nonsense:", "--address") for verb in DISTILLING),
    *((f"{verb} --out file/run", "cannot be written") for verb in DISTILLING),
    ("experts --out s4://b/x", "s4"),
    *((f"{verb} --buffer nowhere", "nowhere") for verb in MATCHING),
    *((f"{verb} --buffer s4://b/x", "s4") for verb in MATCHING),
    *((f"{verb} --set data.validation=much", "data.validation = 'much'") for verb in DISTILLING),
    *((f"{verb} {{run}} --seeds 0", "seeds = 0") for verb in SCORING),
    ("distill --ipc 0", "ipc = 0"),
    ("distill --ipc many", "--ipc"),
    ("settings stepps", "did you mean steps"),
    ("export {run} --out {old}", "is not an empty folder"),
    ("import {foreign} --out {run}/synset.arrow", "exists already"),
    ("analyse landscape {buffer} --dataset ./nowhere", "nowhere"),
    ("experts --optimizer lamb", "optimizer"),
    ("experts --gpus-per-worker 0", "--gpus-per-worker"),
    ("experts --out {buffer} --network LeNet", "another buffer"),
    ("distill --method mmt", "mmt"),
    ("distill --preset cifar10/mmt", "cifar10/mmt"),
    ("distill --window 5:3", "window"),
    ("distill --set span=99", "span"),
    ("distill --set window.high=60", "60"),
    ("distill --set keep_scored=true", "keep_scored"),
    ("distill --set evaluate_every=5 --set data.validation=0", "evaluate_every"),
    ("distill --method dm --window auto", "window.auto"),
    ("distill --set lr.labels=2", "lr.labels"),
    ("distill --out {old}", "--resume"),
    ("distill --network LeNet --buffer {buffer}", "network"),
    ("distill --network MLP --buffer {buffer} --set window.high=1 --set data.validation=0.5", "data.validation"),
    ("ablate --method mtt", "mtt"),
    ("ablate --protocol none", "protocol"),
    ("ablate --preset nowhere.yaml", "nowhere.yaml"),
    ("tune --space datm_digitss", "datm_digitss"),
    ("tune", "--space"),
    ("tune --resume --out nowhere", "--space"),
    ("tune --space datm_digits --protocol none", "protocol"),
    ("tune --space datm_digits --num-samples 0", "--num-samples"),
    ("tune --space datm_digits --max-concurrent 0", "--max-concurrent"),
    ("tune --space datm_digits --gpus-per-trial 0", "--gpus-per-trial"),
    ("tune --space datm_digits --time-budget soon", "--time-budget"),
    ("tune --space datm_digits --mlflow nowhere", "mlflow"),
    ("tune --space datm_digits --out {search}", "--resume"),
    *(
        (f"{verb} nowhere", "nowhere")
        for verb in ("evaluate", "nas", "continual", "export --out x", "finish", "report")
    ),
    *((f"{verb} {{run}} --dataset diggits", "diggits") for verb in SCORING),
    *((f"{verb} {{run}} --dataset ./nowhere", "nowhere") for verb in SCORING),
    *((f"{verb} {{run}} --protocol none", "protocol") for verb in SCORING),
    *((f"{verb} {{run}} --protocol no.yaml", "no.yaml") for verb in SCORING),
    *((f"{verb} {{run}} --baselines best", "best") for verb in SCORING),
    *((f"{verb} {{run}} --nets LeNett", "LeNett") for verb in ("evaluate", "continual")),
    *((f"{verb} {{run}} --set x=1", "'x'") for verb in SCORING),
    *((f"{verb} {{run}} --num-workers 0", "--num-workers") for verb in SCORING),
    *((f"{verb} {{run}} --address nonsense:", "--address") for verb in SCORING),
    *((f"{verb} {{run}} --device gpu", "--device") for verb in SCORING),
    *((f"{verb} {{run}} --format mttt", "mttt") for verb in SCORING),
    *((f"{verb} {{run}} --buffer nowhere", "nowhere") for verb in ("evaluate", "continual")),
    ("evaluate {run} --out file/x.json", "cannot be written"),
    ("evaluate {run} --scores best", "best"),
    ("evaluate {run} --test t", "test"),
    ("evaluate {run} --baselines forgetting", "--buffer"),
    ("nas {run} --out file/x", "cannot be written"),
    ("nas {run} --space convnet7200", "convnet720"),
    ("nas {run} --sample 9999", "9999"),
    ("nas {run} --top x", "--top"),
    ("nas {run} --real nowhere.csv", "nowhere.csv"),
    ("nas {run} --first-rung 3", "--asha"),
    ("nas {run} --baselines forgetting", "experts"),
    ("continual {run} --out file/x", "cannot be written"),
    ("continual {run} --steps 99", "99"),
    ("continual {run} --set scores=[lrs]", "scores"),
    ("finish {run} --device gpu", "--device"),
    ("datasets diggits", "diggits"),
    ("datasets digits --set data.sizes=3", "data.sizes"),
    ("export {run} --out x --format mttt", "mttt"),
    ("import nowhere --out x.arrow", "nowhere"),
    ("import {run} --out x", ".arrow"),
    ("import {foreign} --out file/x.arrow --dataset digits", "cannot be written"),
    ("import {foreign} --out x.arrow --dataset diggits", "diggits"),
    ("buffer info nowhere", "nowhere"),
    ("buffer copy nowhere x", "nowhere"),
    ("buffer copy {buffer} file/x", "cannot be written"),
    ("buffer convexify {buffer} file/x --waypoints 2", "cannot be written"),
    ("buffer convexify nowhere x --waypoints 2", "nowhere"),
    ("buffer import nowhere --out x --dataset digits", "nowhere"),
    ("buffer import {foreign} --out x --dataset digits", "replay_buffer"),
    *((f"analyse {verb} nowhere", "nowhere") for verb in ("experts", "landscape", "storage", "matching", "labels")),
    ("analyse landscape {buffer} --dataset diggits", "diggits"),
    ("analyse landscape {buffer} --expert 9", "9"),
    ("analyse experts {buffer} --out x.pdf", "PNG"),
    ("report {run} --out x.txt", "x.html"),
]

# Refusals that need data, experts or the methods' own settings, and so PyTorch; all others are of names, keys, values
# and paths alone.
LATE = {
    "quickstart --out {old} --set experts.num_experts=1 --set window.auto=true",
    "experts --out {buffer} --network LeNet",
    "distill --window 5:3",
    "distill --set span=99",
    "distill --set window.high=60",
    "distill --method dm --window auto",
    "distill --set lr.labels=2",
    "distill --network LeNet --buffer {buffer}",
    "distill --network MLP --buffer {buffer} --set window.high=1 --set data.validation=0.5",
    "tune --space datm_digits --gpus-per-trial 0",
    "tune --space datm_digits --mlflow nowhere",
    "evaluate {run} --baselines forgetting",
    "nas {run} --sample 9999",
    "nas {run} --first-rung 3",
    "nas {run} --baselines forgetting",
    "continual {run} --steps 99",
    "continual {run} --set scores=[lrs]",
    "buffer import {foreign} --out x --dataset digits",
    "analyse landscape {buffer} --expert 9",
}
SECONDS = 2.0
"""Seconds of CPU that an early refusal may take as a process of its own."""

PROBE = """
import contextlib, io, json, os, signal, sys
from raydd.cli import run

def late(number, frame):
    raise SystemExit("late: it was not refused")

def refuse(words):
    err = io.StringIO()
    signal.alarm(20)
    with contextlib.redirect_stderr(err):
        try:
            code = run(words)
        except SystemExit as error:
            code = str(error)
    signal.alarm(0)
    loaded = sorted({"ray", "torch"} & sys.modules.keys())
    print(json.dumps([code, err.getvalue(), loaded, sorted(os.listdir(os.environ["RAYDD_CACHE"]))]), flush=True)

signal.signal(signal.SIGALRM, late)
early, rest = json.load(sys.stdin)
for words in early:  # each in a copy of this process, which has loaded the command line alone
    if not (child := os.fork()):
        refuse(words)
        os._exit(0)
    os.waitpid(child, 0)
for words in rest:
    refuse(words)
"""


@pytest.fixture(scope="module")
def refusals(small_buffer, tmp_path_factory):
    """By command, how it ended: all in one process, in which Ray stays unloaded and the cache empty."""
    work = tmp_path_factory.mktemp("early")
    run, foreign, search = work / "run", work / "foreign", work / "search"
    synset = distill(DistillConfig(method="random", threads=1, experts={"network": "MLP"}), run)
    write_synset(synset, foreign, "mtt")
    (foreign / "raydd.json").unlink()
    search.mkdir()
    (search / "space.yaml").write_text("domains: {}\n")
    (work / "file").write_text("")
    places = {"run": run, "old": run, "buffer": small_buffer, "foreign": foreign, "search": search}
    before = sorted(str(path) for path in work.rglob("*"))
    cache = tmp_path_factory.mktemp("empty")
    early, late = ([command for command, _ in TABLE if (command in LATE) == asked] for asked in (False, True))
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps([[command.format(**places).split() for command in part] for part in (early, late)]),
        capture_output=True,
        text=True,
        cwd=work,
        env=os.environ | {"RAYDD_CACHE": str(cache), "RAYDD_DATA": str(cache / "data")},
        check=True,
        timeout=300,
    )
    ended = dict(zip(early + late, map(json.loads, done.stdout.splitlines()), strict=True))
    assert sorted(str(path) for path in work.rglob("*")) == before
    return ended


@pytest.mark.parametrize(("command", "word"), TABLE, ids=[command for command, _ in TABLE])
def test_what_is_wrong_is_refused_early(command, word, refusals):
    code, err, loaded, cached = refusals[command]
    assert (code, cached) == (2, []), err
    assert loaded == (["torch"] if command in LATE else []), err
    assert (err[:7], err.count("\n")) == ("raydd: ", 1), err
    assert word in err


@pytest.mark.parametrize(
    "command", ["distill --method mmt", "experts --out file/run", "evaluate nowhere", "tune --space x"]
)
def test_an_early_refusal_takes_little_of_the_processor(command, tmp_path):
    (tmp_path / "file").write_text("")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "raydd", *command.split()], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime < SECONDS
