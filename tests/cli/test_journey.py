"""A newcomer's whole way on letters of their own, as files have them: every verb, from images to a set that is shared.

The letters are drawn here in three fonts. Their sizes differ and none is square; names of classes have spaces and
letters of other scripts. Verbs that start a Ray run as processes of their own, as a person runs them.
"""

import io
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image, ImageDraw, ImageFont

from raydd.cli import run
from raydd.data.synset import SyntheticSet

LETTERS = {"big Ö": "Ö", "délta Δ": "Δ", "letter A": "A"}
STYLES = ("Sans", "Serif", "SansMono")
FONTS = [Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVu{style}.ttf") for style in STYLES]
COUNTS = {"train": 24, "test": 6}
NETWORK = "ConvNetW8D2"
FEW = ["--set", "data.size=16", "--network", NETWORK]
SHORT = [word for setting in ("steps=2", "threads=1") for word in ("--set", setting)]
TRAJECTORIES = [
    word for setting in ("student_steps=1", "span=1", "window.low=0", "window.high=2") for word in ("--set", setting)
]
METHODS = {
    "mtt": TRAJECTORIES,
    "datm": [*TRAJECTORIES, "--set", "window.current=1"],
    "tgdd": ["--set", "statistic.batch_real=8"],
}


def letter(text, random):
    """One drawn letter, grey, 20 to 30 pixels a side and wider than high."""
    height = int(random.integers(20, 26))
    picture = Image.new("L", (height + int(random.integers(1, 6)), height), int(random.integers(40)))
    font = ImageFont.truetype(str(FONTS[random.integers(len(FONTS))]), int(random.integers(14, 18)))
    middle = [side / 2 + random.normal() for side in picture.size]
    ImageDraw.Draw(picture).text(middle, text, fill=int(random.integers(180, 256)), font=font, anchor="mm")
    return picture


def drawn(part):
    """The letters of a part: pairs of class name and picture, in the order of the names."""
    random = np.random.default_rng(len(part))
    return [(name, letter(text, random)) for name, text in LETTERS.items() for _ in range(COUNTS[part])]


def png(picture):
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()


def as_folder(root):
    """One folder a class, in ``train`` and ``test``."""
    for part in COUNTS:
        for number, (name, picture) in enumerate(drawn(part)):
            path = root / "my photos" / part / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return root / "my photos"


def as_parquet(root, labels=None, metadata=None):
    """Encoded images with labels, whole numbers that the schema's metadata names unless others are given."""
    names = [*LETTERS]
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    metadata = {"huggingface": json.dumps(features)} if labels is None else metadata
    for part in COUNTS:
        rows = drawn(part)
        images = pa.array([{"bytes": png(picture), "path": None} for _, picture in rows])
        column = [(labels or names.index)(name) for name, _ in rows]
        path = root / "parquet" / f"{part}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": images, "label": column}).replace_schema_metadata(metadata), path)
    return root / "parquet"


def as_strings(root):
    """Parquet whose labels are the names themselves."""
    return as_parquet(root, str)


def as_npz(root):
    """Arrays, all pictures of one size, and not square."""
    arrays = {}
    for part in COUNTS:
        rows = drawn(part)
        arrays[f"x_{part}"] = np.stack([np.asarray(picture.resize((24, 20))) for _, picture in rows])
        arrays[f"y_{part}"] = np.array([[*LETTERS].index(name) for name, _ in rows])
    np.savez(root / "letters.npz", **arrays)
    return root / "letters.npz"


KINDS = {"folder": as_folder, "parquet": as_parquet, "npz": as_npz, "strings": as_strings}
"""How the letters are kept, by the reader that they are for."""
NUMBERED = {"npz"}
"""Kinds whose classes have numbers and no names."""


def here(capfd, *words):
    """The JSON document of a command that starts no Ray."""
    capfd.readouterr()
    code = run([*map(str, words), "--json"])
    told = capfd.readouterr()
    assert code == 0, told.err
    return json.loads(told.out)


def alone(*words):
    """The JSON document of a command in a process of its own, which starts a Ray."""
    command = [sys.executable, "-m", "raydd", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_letters_are_read_alike_from_every_kind_of_file(kind, capfd, tmp_path):
    data = KINDS[kind](tmp_path)
    found = here(capfd, "datasets", data, "--set", "data.size=16")
    assert found["classes"] == (["0", "1", "2"] if kind in NUMBERED else [*LETTERS])
    assert (found["channels"], found["size"]) == (1, 16)
    assert found["train"] + found["validation"] == 3 * COUNTS["train"]
    assert found["test"] == 3 * COUNTS["test"]
    assert run(["datasets", str(data)]) == 2
    err = capfd.readouterr().err
    assert "--set data.size=64" in err
    assert err.count("\n") == 1


@pytest.mark.remote
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_newcomer_walks_from_images_to_a_set_that_is_shared(kind, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = KINDS[kind](tmp_path).relative_to(tmp_path)
    classes = ["0", "1", "2"] if kind in NUMBERED else [*LETTERS]

    experts = alone("experts", "--dataset", data, *FEW, "--num-experts", 2, "--epochs", 3, "--out", "buffer")
    assert (experts["experts"], experts["epochs"], experts["classes"]) == (2, 3, 3)
    assert 0 <= experts["accuracy"]["last"]["mean"] <= 1
    assert here(capfd, "buffer", "verify", "buffer") == {"problems": []}

    for method, words in METHODS.items():
        ask = ("--method", method, "--dataset", data, "--buffer", "buffer", "--out", f"runs/{method}")
        made = here(capfd, "distill", *ask, *FEW, "--ipc", 2, *SHORT, *words)
        assert (made["method"], made["dataset"], made["ipc"]) == (method, data.name.removesuffix(".npz"), 2)
    sets = {method: SyntheticSet.load(Path("runs", method, "synset.arrow")) for method in METHODS}
    assert {synset.classes for synset in sets.values()} == {tuple(classes)}
    seen = {method: (len(synset.decoded().images), synset.label_kind) for method, synset in sets.items()}
    assert seen == {"mtt": (6, "hard"), "datm": (6, "logits"), "tgdd": (24, "hard")}

    check_scores(capfd)
    check_search(capfd, data)
    check_page(capfd, classes)
    check_sharing(capfd, sets)


def check_scores(capfd):
    """All sets and their baselines are scored and tested, into a folder that is there."""
    runs = [f"runs/{method}" for method in METHODS]
    words = ("--set", "augment=dsa", "--set", "epochs=2", "--set", "real_epochs=1", "--seeds", 2, "--num-workers", 1)
    found = alone("evaluate", *runs, *words, "--out", "runs")
    assert found["outputs"] == {"scores": "runs/scores.json"}
    assert json.loads(Path("runs/scores.json").read_text())["scores"] == found["scores"]
    beside = ["random", "kmeans", "herding", "kcenter", "random-mosaic", "kmeans-mosaic", "whole"]
    assert [score["kind"] for score in found["scores"]] == ["distilled"] * 3 + beside
    assert all(0 <= value <= 1 for score in found["scores"] for value in score["values"])
    assert all(len(score["values"]) == 2 for score in found["scores"])
    best = [test["first"] for test in found["comparisons"] if test["best_baseline"]]
    assert best == [*METHODS]
    capfd.readouterr()
    assert run(["evaluate", *runs, *map(str, words)]) == 0  # all is known now: it starts no Ray
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("(best)" in line for line in lines)


def check_search(capfd, data):
    """A space of one's own is searched, and its winner can be distilled again."""
    settings = {"steps": 2, "student_steps": 1, "span": 1, "window": {"high": 2}, "evaluate_networks": 1}
    settings |= {"evaluate_epochs": 1, "threads": 1, "data": {"size": 16}, "experts": {"network": NETWORK}}
    space = {"method": "mtt", "dataset": str(data.absolute()), "ipc": 1, "set": settings}
    space |= {"domains": {"lr.images": {"log_uniform": [1.0, 50.0]}}, "budget": {"samples": 2, "reports": 1}}
    Path("space.yaml").write_text(yaml.safe_dump(space, allow_unicode=True))
    words = ("--buffer", "buffer", "--seeds", 0, "--num-workers", 1, "--out", "runs/tune")
    found = alone("tune", "--space", "space.yaml", *words)
    assert found["trials"] == {"complete": 2}
    assert 1 <= found["best"]["values"]["lr.images"] <= 50
    assert 0 <= found["best"]["validation"]["accuracy"] <= 1
    best = yaml.safe_load(Path("runs/tune/best.yaml").read_text())
    assert best["lr"]["images"] == found["best"]["values"]["lr.images"]
    here(capfd, "distill", "--preset", "runs/tune/best.yaml", "--buffer", "buffer", "--out", "runs/best")
    kept = yaml.safe_load(Path("runs/best/config.yaml").read_text())
    assert (kept["lr"]["images"], kept["data"]["dataset"]) == (best["lr"]["images"], str(data.absolute()))


def check_page(capfd, classes):
    """The page of all runs has the classes, the accuracies and the baselines."""
    runs = [f"runs/{method}" for method in METHODS]
    Path("pages").mkdir()
    found = here(capfd, "report", *runs, "runs/scores.json", "--out", "pages")
    assert found["outputs"] == {"report": "pages/report.html"}
    page = Path("pages/report.html").read_text(encoding="utf-8")
    assert all(f'<span class="class">{name}</span>' in page for name in classes)
    shown = json.loads(Path("runs/scores.json").read_text())["scores"]
    assert all(f"{100 * score['mean']:.1f} ± {100 * score['std']:.1f} (2)" in page for score in shown)
    assert all(score["name"] in page for score in shown)
    places = [page.index(f'<article aria-labelledby="run-{number}">') for number in range(1, 4)]
    assert all(first < second for first, second in pairwise(places))


def check_sharing(capfd, sets):
    """What is exported and imported again is the same set, and pictures are as many as networks see."""
    for method, layout in (("mtt", "mtt"), ("datm", "datm"), ("tgdd", "tgdd")):
        here(capfd, "export", f"runs/{method}", "--format", layout, "--out", f"shared/{method}")
        here(capfd, "import", f"shared/{method}", "--out", f"shared/{method}.arrow")
        again = SyntheticSet.load(Path(f"shared/{method}.arrow"))
        # TGDD's own files hold pixels in [0, 1]; the others hold what networks are given.
        rounding = 1e-5 if method == "tgdd" else 0
        torch.testing.assert_close(again.images, sets[method].images, atol=rounding, rtol=0)
        assert torch.equal(again.labels, sets[method].labels)
        assert (again.classes, again.formation) == (sets[method].classes, sets[method].formation)
        assert float(again.lr) == float(sets[method].lr)
    here(capfd, "export", "runs/tgdd", "--out", "shared/pictures")
    assert len([*Path("shared/pictures").rglob("*.png")]) == 24
