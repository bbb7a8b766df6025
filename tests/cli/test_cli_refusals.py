"""Bad input: one line that names it, exit code 2, and nothing written."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from raydd.buffer.arrow_buffer import refresh_manifest
from raydd.buffer.verification import verify
from raydd.cli import run
from raydd.data.datasets import load_dataset
from raydd.data.synset import SyntheticSet

QUICK = ("--set", "threads=1", "--set", "steps=1", "--set", "student_steps=1", "--set", "window.high=1")


def snapshot(*folders):
    """Every file and folder below some folders, with size and time of change."""
    found = {}
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        status = path.stat()
        found[str(path)] = (status.st_size, status.st_mtime_ns) if path.is_file() else "folder"
    return found


def flipped(content, images):
    """A file's bytes with one bit of its images changed."""
    place = content.index(images.numpy().tobytes()[:64]) + 5
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.fixture
def refused(capfd, cache, tmp_path, monkeypatch):
    """Runs a command in a folder of its own and returns the one line that refuses it."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def check(*arguments):
        before = snapshot(tmp_path, cache)
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert (code, out) == (2, ""), err
        assert err.startswith("raydd: ")
        assert err.count("\n") == 1, err
        assert snapshot(tmp_path, cache) == before
        return err

    return check


def distill(buffer, *more):
    return ("distill", "--network", "MLP", "--buffer", buffer, *QUICK, *more)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("datasets diggits", ["'diggits'", "digits"]),
        ("experts --dataset diggits", ["'diggits'", "digits"]),
        ("distill --dataset diggits", ["'diggits'", "digits"]),
        ("datasets ./nowhere", ["nowhere", "does not exist"]),
        ("distill --method mmt", ["'mmt'", "mtt"]),
        ("experts --network ConvNetX", ["'ConvNetX'"]),
        ("distill --network ConvNetX", ["'ConvNetX'"]),
        ("distill --network LeNett", ["'LeNett'", "LeNet"]),
        ("distill --set stepps=3", ["'stepps'", "steps"]),
        ("distill --set lr.image=3", ["'lr.image'", "images"]),
        ("experts --set experts.epoch=3", ["'experts.epoch'", "epochs"]),
        ("experts --set steps=3", ["'steps'"]),
        ("evaluate nothing.arrow --set seed_s=3", ["nothing.arrow"]),
        ("datasets digits --set data.sizes=3", ["'data.sizes'", "mean size?"]),
        ("distill --set steps", ["'steps'", "a.b=value"]),
        ("distill --set steps=many", ["steps", "'many'"]),
        ("distill --set steps=-1", ["steps", "-1"]),
        ("distill --set lr.images=0", ["lr.images", "0"]),
        ("distill --set lr=0.1", ["lr", "0.1"]),
        ("distill --set lr.images=.nan", ["lr.images", "nan"]),
        ("distill --set [=1", ["'['"]),
        ("distill --preset cifar10/mmt", ["'cifar10/mmt'", "digits/mtt"]),
        ("distill --ipc 0", ["ipc", "0"]),
        ("distill --ipc 500", ["ipc 500", "class", "--ipc 12"]),
        ("distill --set span=51 --set window.high=null", ["span", "51"]),
        ("distill --set window.high=60", ["60", "50"]),
        ("distill --set window.low=12", ["12", "10"]),
        ("distill --window 0", ["--window '0'", "0:20", "0:4:20", "auto"]),
        ("distill --window 0:1:2:3", ["--window '0:1:2:3'"]),
        ("distill --window 0:-3", ["--window '0:-3'"]),
        ("distill --window 0:1.5", ["--window '0:1.5'"]),
        ("distill --window :5", ["--window ':5'"]),
        ("distill --window Auto", ["--window 'Auto'", "auto"]),
        ("distill --window 0:60", ["window (0, 60)", "50"]),
        ("distill --window 5:3", ["window (5, 3)"]),
        ("distill --window 0:9:5", ["window 0, 9, 5", "T- <= T <= T+"]),
        ("distill --window 4:2:9", ["window 4, 2, 9"]),
        ("distill --window auto --set span=51", ["span", "51"]),
        ("distill --window auto --set experts.num_experts=1", ["window.auto", "--num-experts 2"]),
        ("distill --set probe_every=5 --set experts.num_experts=1", ["probe_every", "--num-experts 2"]),
        ("distill --method tesla --set lr.labels=3", ["lr.labels = 3", "labels = expert"]),
        ("distill --method datm --set initial=real", ["lr.labels = 5", "initial = real", "lr.labels=0"]),
        ("distill --set lr.labels=2", ["lr.labels = 2", "initial=correctly_classified"]),
        ("distill --method ast --ipc 4 --set clusters=3", ["clusters 3", "ipc 4"]),
        ("distill --method mct --set waypoints=[50]", ["waypoints [50]", "between 0 and 50"]),
        ("distill --method dpd --set pruning.rate=1", ["pruning.rate", "1"]),
        ("distill --method dpd --set pruning.metric=cosine", ["pruning.metric", "'cosine'"]),
        ("distill --method herding --set steps=5", ["steps = 5", "--method dm --set initial=herding"]),
        ("distill --method dm --set lr.lr=1e-4", ["lr.lr = 0.0001", "lr.lr=0"]),
        ("distill --method dm --set lr.labels=1 --set initial=correctly_classified", ["lr.labels = 1", "no labels"]),
        ("distill --method tgdd --set match=trajectories", ["match = trajectories", "method tgdd"]),
        ("distill --method dm --set match=none", ["match", "'none'"]),
        ("distill --method dm --set statistic.networks=best", ["statistic.networks", "'best'", "random"]),
        ("distill --method dm --set statistic.distance=cosine", ["distance = cosine", "of = features"]),
        ("distill --method dm --set statistic.strategy=crop_blur", ["'blur'", "crop"]),
        ("distill --method dm --set statistic.batch_real=0", ["statistic.batch_real", "0"]),
        ("distill --method tgdd --set statistic.region=0", ["statistic.region", "0"]),
        ("distill --method tgdd --set probe_every=5", ["probe_every", "method tgdd"]),
        ("distill --method tgdd --window auto", ["window.auto", "method tgdd"]),
        ("distill --method tgdd --set data.preprocessing=zca", ["space = pixels", "zca"]),
        ("distill --method dm --ipc 40 --set formation.factor=2", ["ipc 40", "160 images", "--ipc 31"]),
        ("distill --method dm --set formation.factor=0", ["formation.factor", "0"]),
        ("distill --method dm --set formation.factor=9", ["formation.factor 9"]),
        ("distill --method dm --set formation.decode=best", ["formation.decode", "'best'", "uniform"]),
        ("distill --method kmeans --set select_by=taste", ["select_by", "'taste'", "pixels"]),
        ("ablate --method dm", ["--method dm", "tgdd, ast"]),
        ("ablate --method tgdd --set stepps=3", ["'stepps'"]),
        ("ablate --device foo", ["'foo'"]),
        ("evaluate nothing.arrow --buffer nowhere", ["nothing.arrow"]),
        ("distill --set initial=best", ["initial", "'best'", "representative"]),
        ("distill --set balance=1", ["balance", "1"]),
        ("distill --preset cifar10/mtt-official", ["'cifar10/mtt-official'"]),
        ("analyse expert nowhere", ["'expert'"]),
        ("analyse experts", ["BUFFER"]),
        ("analyse experts nowhere", ["nowhere"]),
        ("analyse landscape . --waypoints six", ["--waypoints 'six'", "6,25"]),
        ("analyse storage nowhere", ["nowhere"]),
        ("analyse matching nowhere", ["nowhere"]),
        ("analyse labels nowhere", ["nowhere"]),
        ("analyse memory nowhere", ["nowhere"]),
        ("distill --buffer nowhere", ["nowhere", "raydd experts"]),
        ("distill --device foo", ["'foo'", "cuda"]),
        ("experts --device foo", ["'foo'", "cuda"]),
        ("experts --num-workers 0", ["--num-workers 0"]),
        ("distill --num-workers 0", ["--num-workers 0"]),
        ("distill --num-workers -3", ["--num-workers -3"]),
        ("experts --num-experts 0", ["num_experts", "0"]),
        ("experts --epochs two", ["--epochs"]),
        ("experts --optimizer lamb", ["optimizer", "'lamb'"]),
        ("experts --optimiser sgd", ["--optimiser"]),
        ("expert", ["'expert'"]),
        ("evaluate", ["SYNSET"]),
        ("evaluate missing.arrow", ["missing.arrow", "does not exist"]),
        ("export missing.arrow --out there", ["missing.arrow", "does not exist"]),
        ("buffer info nowhere", ["nowhere", "raydd experts"]),
        ("buffer verify nowhere", ["nowhere", "raydd experts"]),
        ("buffer convexify nowhere there", ["nowhere", "raydd experts"]),
        ("buffer convexify . there --waypoints six", ["--waypoints 'six'", "6,25"]),
        ("experts --epochs 3 --set experts.kept=[1,3]", ["experts.kept [1, 3]", "between 0 and 3"]),
        ("quickstart --set stepps=3", ["'stepps'"]),
        ("quickstart --device foo", ["'foo'"]),
    ],
)
def test_words(refused, arguments, named):
    load_dataset("digits")  # decoded once for good: counting a class needs it
    line = refused(*arguments.split())
    assert [word for word in named if word not in line] == [], line


@pytest.mark.parametrize(
    "arguments",
    ["distill --method mmt", "distill --network ConvNetX", "experts --network ConvNetX", "distill --set lr.imag=1"],
)
def test_a_wrong_name_is_refused_before_any_image_is_decoded(refused, monkeypatch, tmp_path, arguments):
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cold"))  # below what `refused` watches
    refused(*arguments.split())
    assert not (tmp_path / "cold").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("verb", ["experts", "distill", "quickstart"])
def test_cuda_where_there_is_none(refused, verb):
    assert "--device cuda" in refused(verb, "--device", "cuda")


def test_a_buffer_of_something_else(refused, small_buffer, images, tmp_path):
    line = refused("distill", "--buffer", small_buffer, *QUICK)
    assert "'MLP'" in line
    assert "'ConvNetW32'" in line
    line = refused(*distill(small_buffer, "--set", "data.preprocessing=zca"))
    assert "'normalise'" in line
    assert "'zca'" in line
    shutil.copytree(small_buffer, tmp_path / "other")
    run(["datasets", str(images), "--json"])  # decoded before, so that the cache is seen not to change
    line = refused(*distill(tmp_path / "other", "--dataset", images))
    assert "fingerprint" in line
    assert "digits" in line
    assert "not a trajectory buffer" in refused(*distill(images))


def test_experts_into_the_buffer_of_something_else(refused, small_buffer):
    flags = ("--network", "MLP", "--num-experts", "3", "--epochs", "3", "--out", small_buffer)
    assert "seed" in refused("experts", *flags, "--seed", "1")
    assert "epochs" in refused("experts", *flags, "--epochs", "4")
    assert "network" in refused("experts", *flags, "--network", "LeNet")


def test_a_window_beyond_the_experts(refused, small_buffer):
    line = refused(*distill(small_buffer, "--set", "window.high=2"))
    assert "window" in line
    assert "3" in line
    assert "span" in refused(*distill(small_buffer, "--set", "span=4"))


def test_methods_on_the_buffer_they_cannot_use(refused, small_buffer, tmp_path):
    folder = tmp_path / "straight"
    assert run(["buffer", "convexify", str(small_buffer), str(folder)]) == 0
    for method in ("mtt", "ftd", "tesla", "datm", "dpd", "ast"):
        line = refused(*distill(folder, "--method", method, "--window", "0:1", "--set", "span=2"))
        assert "is convexified (MCT): use --method mct, or a full buffer" in line
    assert "waypoints (2,) and experts.kept () differ" in refused(
        *distill(folder, "--method", "mct", "--window", "0:1", "--set", "span=2", "--set", "waypoints=[2]")
    )
    assert "convexified already" in refused("buffer", "convexify", folder, tmp_path / "again")


def test_looking_at_the_only_expert(refused, small_buffer, tmp_path):
    folder = shutil.copytree(small_buffer, tmp_path / "buffer")
    (folder / "expert-00001.arrow").unlink()
    refresh_manifest(folder)
    assert "probe_every" in refused(*distill(folder, "--set", "probe_every=1"))
    assert "window.auto" in refused(*distill(folder, "--window", "auto"))


def test_analyses_of_a_run_that_was_not_measured(refused, small_buffer, tmp_path):
    assert run([str(word) for word in distill(small_buffer, "--out", tmp_path / "run")]) == 0
    for command in ("matching", "labels"):
        line = refused("analyse", command, tmp_path / "run")
        assert "probe" in line
    assert run([str(word) for word in distill(small_buffer, "--set", "probe_every=1", "--out", tmp_path / "hard")]) == 0
    line = refused("analyse", "labels", tmp_path / "hard")
    assert "labels" in line
    assert str(tmp_path / "hard") in line


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "removed"])
def test_a_damaged_expert_file(refused, capfd, small_buffer, tmp_path, damage):
    """It is named; nothing is distilled from it; `buffer verify` finds it."""
    folder = shutil.copytree(small_buffer, tmp_path / "buffer")
    path = folder / "expert-00001.arrow"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    line = refused(*distill(folder, "--out", tmp_path / "run"))
    assert "expert-00001.arrow" in line
    assert "raydd experts" in line
    assert [problem.file for problem in verify(folder)] == [path.name]
    assert run(["buffer", "verify", str(folder)]) == 1
    assert path.name in capfd.readouterr().out


def test_a_damaged_manifest_or_preprocessing(refused, small_buffer, tmp_path):
    folder = shutil.copytree(small_buffer, tmp_path / "buffer")
    (folder / "manifest.json").write_text("{")
    assert "manifest.json" in refused(*distill(folder))
    shutil.copy(small_buffer / "manifest.json", folder)
    path = folder / "preprocessing.arrow"
    path.write_bytes(path.read_bytes()[:100])
    assert "preprocessing.arrow" in refused(*distill(folder))


@pytest.mark.parametrize("verb", ["datasets", "experts", "distill"])
def test_image_folders_that_cannot_be_read(refused, images, tmp_path, verb):
    words = (verb,) if verb == "datasets" else (verb, "--network", "MLP", "--dataset")
    (tmp_path / "nothing").mkdir()
    assert "nothing" in refused(*words, tmp_path / "nothing")
    folder = shutil.copytree(images, tmp_path / "images")
    (folder / "eel").mkdir()
    line = refused(*words, folder)
    assert "eel" in line
    assert "no images" in line
    (folder / "eel" / "notes.png").write_text("not an image")
    for name in range(3):
        shutil.copy(images / "cat" / "0.png", folder / "eel" / f"{name}.png")
    assert "notes.png" in refused(*words, folder)


def test_images_of_two_sizes(refused, images, tmp_path):
    folder = shutil.copytree(images, tmp_path / "images")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "cat" / "9.png")
    assert "size" in refused("datasets", folder)


def test_evaluation_of_what_cannot_be_scored(refused, small_synset, small_buffer, images, tmp_path):
    foreign = tmp_path / "foreign.arrow"
    foreign.write_bytes(b"ARROW1 it is not")
    assert "foreign.arrow" in refused("evaluate", foreign)
    assert "expert-00000.arrow" in refused("evaluate", small_buffer / "expert-00000.arrow")
    assert "preprocessing.arrow" in refused("evaluate", small_buffer / "preprocessing.arrow")
    damaged = tmp_path / "damaged.arrow"
    damaged.write_bytes(flipped(small_synset.read_bytes(), SyntheticSet.load(small_synset).images))
    assert "damaged.arrow" in refused("evaluate", damaged)
    line = refused("evaluate", small_synset, "--protocol", "mmt")
    assert "'mmt'" in line
    assert "dcbench" in line
    assert "'ConvNetX'" in refused("evaluate", small_synset, "--nets", "MLP,ConvNetX")
    assert "seeds" in refused("evaluate", small_synset, "--seeds", "0")
    assert "--num-workers 0" in refused("evaluate", small_synset, "--num-workers", "0")
    assert "'diggits'" in refused("evaluate", small_synset, "--dataset", "diggits")
    assert "'seed_s'" in refused("evaluate", small_synset, "--set", "seed_s=3")
    assert "--dataset" in refused("evaluate", small_synset, "--dataset", images)


def test_export_over_something_or_in_an_unknown_format(refused, small_synset, images, tmp_path):
    assert "not an empty folder" in refused("export", small_synset, "--out", images)
    line = refused("export", small_synset, "--out", tmp_path / "out", "--format", "gif")
    assert "'gif'" in line
    assert "png" in line
    (tmp_path / "file").write_text("x")
    assert "file" in refused("export", small_synset, "--out", tmp_path / "file")


def test_a_run_folder_that_holds_a_run(refused, small_buffer, tmp_path):
    words = distill(small_buffer, "--out", tmp_path / "run")
    assert run([str(word) for word in words]) == 0
    assert "--resume" in refused(*words)
    line = refused(*words, "--resume", "--set", "student_steps=2")
    assert "student_steps was 1 and is 2" in line
    assert "seed was 0 and is 7" in refused(*words, "--resume", "--seed", "7")
    state = tmp_path / "run" / "checkpoint" / "state.arrow"
    state.write_bytes(flipped(state.read_bytes(), SyntheticSet.load(tmp_path / "run" / "synset.arrow").images))
    assert "state.arrow" in refused(*words, "--resume")


def test_a_file_where_a_folder_should_be_made(refused, small_buffer, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    assert str(file) in refused(*distill(small_buffer, "--out", file))
    assert str(file) in refused("experts", "--network", "MLP", "--out", file)


def test_presets_that_hold_no_settings(refused, tmp_path):
    path = tmp_path / "preset.yaml"
    for text, named in (("- a\n", "mapping"), ("steps: {", "preset.yaml"), ("stepps: 3\n", "'stepps'")):
        path.write_text(text)
        assert named in refused("distill", "--preset", path)
    assert "state" in refused("distill", "--preset", tmp_path / "state")


def test_a_refusal_that_quotes_a_huge_value_stays_short(capfd):
    assert run(["distill", "--method", "m" * 100_000]) == 2
    err = capfd.readouterr().err
    assert err.startswith("raydd: unknown method 'mmm")
    assert len(err) < 4_200


@pytest.mark.parametrize("name", ["synset.arrow", "metrics.jsonl", "best.arrow"])
def test_what_lies_in_a_folder_without_a_run_is_not_replaced(name, capfd, tmp_path):
    (tmp_path / name).write_text("mine")
    words = ["distill", "--method", "random", "--network", "MLP", "--out", str(tmp_path)]
    for more in ([], ["--resume"]):
        assert run([*words, *more]) == 2
        assert f"holds {name} without a config.yaml" in capfd.readouterr().err
    assert (tmp_path / name).read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", ["expert-00000.arrow", "config.yaml", "synset.arrow"])
def test_experts_are_not_put_beside_what_would_be_replaced(name, capfd, tmp_path):
    (tmp_path / name).write_text("mine")
    assert run(["experts", "--network", "MLP", "--num-experts", "1", "--epochs", "1", "--out", str(tmp_path)]) == 2
    assert f"holds {name} without a manifest.json" in capfd.readouterr().err
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["synset.arrow", "thesis.json", "scores.json"])
def test_scores_replace_nothing_but_scores(name, small_synset, capfd, tmp_path):
    (tmp_path / name).write_text('{"mine": 1}')
    places = [tmp_path / name] + ([tmp_path] if name == "scores.json" else [])
    for place in places:
        assert run(["evaluate", str(small_synset), "--out", str(place)]) == 2
        err = capfd.readouterr().err
        assert "scores are JSON" in err or "holds no scores of `raydd evaluate`" in err
    assert (tmp_path / name).read_text() == '{"mine": 1}'
