"""The command line: its flags, its documents, its exit codes."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import typer
import yaml
from variants import first

from raydd.api.ablation import ABLATIONS
from raydd.api.evaluate import evaluate
from raydd.cli import app, run
from raydd.cli.commands import MODULES
from raydd.config.parsing import build
from raydd.config.presets import load_preset
from raydd.config.schema import DistillConfig, EvaluateConfig
from raydd.data.synset import SyntheticSet
from raydd.evaluation.jobs import Outcome
from raydd.io.console import Screen
from raydd.methods import METHODS, complete
from raydd.run.callbacks import Recorder
from raydd.run.resolve import needs_experts

COMMON = {"--json", "--help"}
JOB = COMMON | {"--seed", "--set", "--device"}
RAY = JOB | {"--num-workers", "--address", "--max-wait", "--out"}
TRAININGS = RAY | {"--gpus-per-worker", "--max-failed"}
FLAGS = {
    "quickstart": JOB | {"--out"},
    "experts": RAY | {"--dataset", "--network", "--num-experts", "--epochs", "--optimizer", "--gpus-per-worker"},
    "distill": RAY
    | {"--method", "--dataset", "--network", "--ipc", "--buffer", "--preset", "--resume", "--window"}
    | {"--rollouts", "--shards", "--gpus-per-worker"},
    "finish": COMMON | {"--buffer", "--device"},
    "ablate": TRAININGS
    | {"--method", "--dataset", "--network", "--ipc", "--buffer", "--preset", "--seeds", "--protocol"}
    | {"--epochs", "--real-epochs"},
    "evaluate": TRAININGS
    | {"--dataset", "--nets", "--seeds", "--protocol", "--baselines", "--buffer", "--fresh", "--scores", "--paper"}
    | {"--test", "--preprocessing", "--lr", "--format"},
    "nas": TRAININGS
    | {"--dataset", "--space", "--cells", "--sample", "--seeds", "--top", "--protocol", "--epochs", "--real-epochs"}
    | {"--real", "--split", "--baselines", "--asha", "--first-rung", "--reduction", "--fresh"}
    | {"--preprocessing", "--lr", "--format"},
    "continual": TRAININGS
    | {"--steps", "--dataset", "--nets", "--seeds", "--protocol", "--baselines", "--buffer", "--fresh"}
    | {"--preprocessing", "--lr", "--format"},
    "tune": RAY
    | {"--space", "--num-samples", "--max-concurrent", "--time-budget", "--resume", "--gpus-per-trial"}
    | {"--dataset", "--network", "--buffer", "--seeds", "--protocol", "--epochs", "--real-epochs"}
    | {"--mlflow", "--wandb"},
    "try": (RAY - {"--set"}) | {"--dataset", "--size", "--minutes", "--gpus-per-worker"},
    "campaigns": COMMON | {"--missing"},
    "campaign": TRAININGS | {"--scale", "--dry-run", "--data", "--row", "--paper", "--hours", "--gpu-hours"},
    "relabel": COMMON | {"--experts", "--out", "--epoch", "--expert"},
    "doctor": COMMON,
    "report": COMMON | {"--out"},
    "spaces": COMMON,
    "methods": COMMON,
    "settings": COMMON,
    "datasets": COMMON | {"--set"},
    "export": COMMON | {"--out", "--format", "--hard"},
    "import": COMMON | {"--out", "--format", "--dataset", "--preprocessing", "--lr", "--factor", "--set"},
    "analyse experts": COMMON | {"--out"},
    "analyse landscape": COMMON | {"--out", "--expert", "--waypoints", "--dataset", "--size", "--device"},
    "analyse storage": COMMON | {"--out", "--waypoints"},
    "analyse matching": COMMON | {"--out"},
    "analyse labels": COMMON | {"--out"},
    "analyse memory": COMMON | {"--out"},
    "analyse convergence": COMMON | {"--out"},
    "analyse cost": COMMON | {"--out"},
    "analyse similarity": COMMON | {"--out", "--buffer", "--epochs", "--images", "--dataset", "--size", "--device"},
    "analyse separability": COMMON | {"--out", "--buffer", "--epochs", "--device"},
    "analyse activation": COMMON | {"--out", "--buffer", "--device"},
    "analyse embedding": COMMON
    | {"--out", "--buffer", "--epochs", "--images", "--expert", "--seed", "--dataset", "--size", "--device"},
    "buffer info": COMMON,
    "buffer verify": COMMON,
    "buffer copy": COMMON,
    "buffer convexify": COMMON | {"--waypoints"},
    "buffer import": COMMON | {"--out", "--dataset", "--network", "--preprocessing", "--format", "--set"},
}
SCORE = {"name", "kind", "dataset", "network", "protocol", "selection", "ipc", "networks", "mean", "std", "values"}
SCORE |= {"seconds", "commits"}


def family(method):
    return complete(DistillConfig(method=method)).match


def document(capfd, *arguments, code=0):
    """The one JSON document that a command prints on stdout."""
    assert run([*arguments, "--json"]) == code
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def command(*arguments, **options):
    words = [sys.executable, "-m", "raydd", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, **options)


def commands(group, prefix=""):
    for name, entry in group.commands.items():
        inner = getattr(entry, "commands", None)
        if inner is None:
            yield prefix + name, entry
        else:
            yield from commands(entry, f"{prefix}{name} ")


def test_every_command_of_a_module_is_in_the_table():
    defined = {module: typer.main.get_group(import_module(f"raydd.cli.{module}").app) for module in MODULES}
    names = {module: [group.name] if group.name else [*group.commands] for module, group in defined.items()}
    assert names == {module: words.split() for module, words in MODULES.items()}


def test_no_command_is_an_error_below_the_help(capfd):
    for words in ([], ["buffer"]):
        assert run(words) == 2
        shown = capfd.readouterr()
        assert shown.out == ""
        assert shown.err.startswith(f"Usage: {' '.join(['raydd', *words])} [OPTIONS] COMMAND")
        assert shown.err.endswith("\nraydd: Missing command. (see raydd --help)\n")


def test_flags_are_the_settled_ones():
    context = typer.Context(typer.main.get_command(app))
    found = {
        name: {word for parameter in entry.get_params(context) for word in parameter.opts if word.startswith("-")}
        for name, entry in commands(typer.main.get_command(app))
    }
    assert found == FLAGS


@pytest.mark.parametrize("name", FLAGS)
def test_help_names_every_flag_and_an_example(name, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run([*name.split(), "--help"]) == 0
    out = capfd.readouterr().out
    assert f"Example: raydd {name}" in out
    assert [flag for flag in FLAGS[name] if flag not in out] == []


@pytest.mark.rows("name", FLAGS)
def test_bad_usage_is_a_json_error_too(name, capfd):
    """An unknown flag: the line on stderr, and one document on stdout that says the same."""
    assert run([*name.split(), "--json", "--nope"]) == 2
    out, err = capfd.readouterr()
    error = json.loads(out)["error"]
    assert (out.count("\n"), error["exit_code"]) == (1, 2)
    assert "--nope" in error["message"]
    assert err == f"raydd: {error['message']}\n"


def test_a_failure_is_a_json_error_with_its_exit_code(capfd, monkeypatch, tmp_path):
    refused = document(capfd, "distill", "--set", "stepps=1", code=2)
    assert refused == {"error": {"message": "unknown setting 'stepps'; did you mean steps?", "exit_code": 2}}

    def fail(*arguments, **options):
        raise RuntimeError("the disk\nis full")

    monkeypatch.setattr("raydd.api.distill.distill", fail)
    assert document(capfd, "distill", code=1) == {"error": {"message": "the disk is full", "exit_code": 1}}


def test_a_document_stays_the_only_one_when_what_follows_it_fails(capfd, monkeypatch):
    def fail(self, document, show, printed=Screen.result):
        printed(self, document, show)
        raise OSError("the disk is full")

    monkeypatch.setattr(Screen, "result", fail)
    assert "datasets" in document(capfd, "datasets", code=1)


def test_an_unfinished_run_says_how_far_it_is_and_can_be_made_a_set(tmp_path, capfd, monkeypatch, small_buffer):
    """Killed at step 4 of 6, with a checkpoint of step 2 or later; then evaluated, finished and gone on with."""
    words = ["distill", "--network", "MLP", "--buffer", str(small_buffer), "--out", str(tmp_path / "run")]
    quick = {"threads": 1, "steps": 6, "student_steps": 1, "span": 1, "window.high": 1, "checkpoint_every": 2}
    words += [word for key, value in quick.items() for word in ("--set", f"{key}={value}")]

    def killed(self, step, turn=Recorder.record):
        turn(self, step)
        if step.step == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "record", killed)
        assert run(words) == 130
    capfd.readouterr()
    for verb in ("evaluate", "nas", "continual", "export"):
        more = ["--out", str(tmp_path / "other")] if verb == "export" else []
        assert run([verb, str(tmp_path / "run"), *more]) == 2
        line = capfd.readouterr().err
        assert line == (
            f"raydd: {tmp_path / 'run'} is unfinished, at step 2 of 6: continue it by its command and --resume, "
            f"or make a set of its present state: raydd finish {tmp_path / 'run'}\n"
        )
    finish = ["finish", str(tmp_path / "run"), "--buffer", str(small_buffer)]
    made = document(capfd, *finish)
    assert (made["step"], made["steps"], made["ipc"]) == (2, 6, 1)
    assert all(Path(path).is_file() for path in made["outputs"].values())
    assert run(["export", str(tmp_path / "run"), "--out", str(tmp_path / "png")]) == 0
    assert run([*words, "--resume", "--set", "steps=5"]) == 0
    assert "unfinished" not in SyntheticSet.load(tmp_path / "run" / "synset.arrow").provenance
    capfd.readouterr()
    assert run([*words, "--resume", "--set", "steps=4"]) == 2
    assert "is at step 5 already" in capfd.readouterr().err
    assert document(capfd, *finish)["step"] == 5


def test_the_program_as_a_process(tmp_path):
    """Exit codes 0 and 2 of a true process; start-up must not load Ray."""
    good = command("datasets", "digits", "--json")
    assert (good.returncode, json.loads(good.stdout)["train"]) == (0, 1293)
    bad = command("distill", "--dataset", "diggits", cwd=tmp_path)
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (2, "", 1)
    assert "'diggits'" in bad.stderr
    assert "digits," in bad.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_command_is_refused_with_the_help(capfd):
    assert run([]) == 2
    assert "experts" in "".join(capfd.readouterr())


def test_datasets_document(capfd, images):
    listed = document(capfd, "datasets")["datasets"]
    assert listed["digits"] == {"classes": 10, "channels": 1, "size": 8, "flip": False}
    assert listed["cifar10"]["flip"] is True
    digits = document(capfd, "datasets", "digits")
    assert (digits["train"], digits["validation"], digits["test"], digits["size"]) == (1293, 145, 359, 8)
    folder = document(capfd, "datasets", str(images), "--set", "data.size=6", "--set", "data.validation=0.25")
    assert (folder["name"], folder["classes"], folder["size"]) == ("images", ["cat", "dog"], 6)
    assert (folder["train"], folder["validation"], folder["test"], folder["flip"]) == (6, 2, 2, False)
    assert document(capfd, "datasets", str(images), "--set", "data.flip=true")["flip"] is True


def test_experts_document_of_a_whole_buffer(capfd, small_buffer):
    """Nothing is missing: nothing is trained, no Ray is started."""
    before = {path.name: path.stat().st_mtime_ns for path in small_buffer.glob("expert-*")}
    flags = ("--network", "MLP", "--num-experts", "2", "--epochs", "3", "--out", str(small_buffer))
    found = document(capfd, "experts", *flags)
    assert found["outputs"] == {"buffer": str(small_buffer)}
    assert (found["experts"], found["epochs"], found["network"], found["seed"]) == (2, 3, "MLP", 0)
    assert {path.name: path.stat().st_mtime_ns for path in small_buffer.glob("expert-*")} == before


def test_buffer_documents(capfd, small_buffer):
    found = document(capfd, "buffer", "info", str(small_buffer))
    assert (found["dataset"], found["preprocessing"], found["experts"]) == ("digits", "normalise", 2)
    assert 0 <= found["accuracy"]["last"]["mean"] <= 1
    assert document(capfd, "buffer", "verify", str(small_buffer)) == {"problems": []}


def test_convexify_document(capfd, small_buffer, tmp_path):
    out = str(tmp_path / "straight")
    found = document(capfd, "buffer", "convexify", str(small_buffer), out, "--waypoints", "2")
    sizes = [sum(path.stat().st_size for path in Path(f).glob("expert-*")) for f in (small_buffer, out)]
    assert found == {
        "experts": 2,
        "kept": [0, 2, 3],
        "bytes": {"before": sizes[0], "after": sizes[1], "ratio": sizes[1] / sizes[0]},
        "outputs": {"folder": out},
    }
    assert document(capfd, "buffer", "verify", out) == {"problems": []}
    assert document(capfd, "buffer", "info", out)["kept"] == [0, 2, 3]
    assert run(["buffer", "convexify", str(small_buffer), out, "--waypoints", "2"]) == 0
    said = "".join(capfd.readouterr())
    assert [word for word in (out, "0, 2, 3", f"{sizes[0]:,}", f"{sizes[1]:,}", "%") if word not in said] == [], said


def test_verify_document_of_a_damaged_buffer(capfd, small_buffer, tmp_path):
    folder = shutil.copytree(small_buffer, tmp_path / "buffer")
    (folder / "expert-00000.arrow").write_bytes(b"")
    (problem,) = document(capfd, "buffer", "verify", str(folder), code=1)["problems"]
    assert problem["file"] == "expert-00000.arrow"
    assert "empty" in problem["what"]


def test_distill_document_and_run_folder(capfd, small_buffer, tmp_path):
    out = tmp_path / "run"
    flags = ("--network", "MLP", "--seed", "4", "--set", "steps=3", "--set", "student_steps=2")
    found = document(capfd, "distill", "--buffer", str(small_buffer), "--out", str(out), *flags, *WINDOW)
    names = {"config.yaml", "metrics.jsonl", "synset.arrow", "synset.png"}
    assert found["outputs"] == {name: str(out / name) for name in names}
    assert all((out / name).is_file() for name in names)
    assert (found["method"], found["dataset"], found["ipc"]) == ("mtt", "digits", 1)
    synset = SyntheticSet.load(out / "synset.arrow")
    assert found["lr"] == float(synset.lr)
    assert (synset.recipe["seed"], synset.recipe["steps"], synset.recipe["student_steps"]) == (4, 3, 2)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


WINDOW = ("--set", "window.high=1", "--set", "threads=1")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("0:1", {"low": 0, "current": None, "high": 1}),
        ("1:1", {"low": 1, "current": None, "high": 1}),
        ("0:0:1", {"low": 0, "current": 0, "high": 1}),
    ],
)
def test_window_words_lie_over_the_preset(word, expected, small_buffer, tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("steps: 1\nstudent_steps: 1\nthreads: 1\nwindow: {low: 1, current: 1, high: 9, interval: 7}\n")
    flags = ("--preset", str(preset), "--network", "MLP", "--buffer", str(small_buffer), "--window", word)
    assert run(["distill", *flags, "--out", str(tmp_path / "run")]) == 0
    found = SyntheticSet.load(tmp_path / "run" / "synset.arrow").recipe["window"]
    assert found == {**expected, "interval": 7, "continuous": False, "auto": False}


def test_window_auto_finds_one_and_a_resumed_run_keeps_it(capfd, small_buffer, tmp_path, monkeypatch):
    monkeypatch.setattr("raydd.run.window_search.PILOT_STEPS", 2)
    out = tmp_path / "run"
    flags = ("--network", "MLP", "--buffer", str(small_buffer), "--out", str(out), "--window", "auto", "--json")
    flags += ("--set", "threads=1", "--set", "steps=2", "--set", "student_steps=1")
    assert run(["distill", *flags]) == 0  # the preset's window reaches beyond these experts: it is not asked
    assert "window 0-1: mean loss" in capfd.readouterr().err
    found = json.loads((out / "window.json").read_text())
    assert (found["low"], found["high"]) == (0, 1)
    window = yaml.safe_load((out / "config.yaml").read_text())["window"]
    names = ("low", "current", "high")
    assert [window[name] for name in names] == [found[name] for name in names]
    assert window["auto"] is False
    assert (out / "window.png").stat().st_size > 5000
    before = {name: (out / name).read_bytes() for name in ("synset.arrow", "config.yaml", "window.json")}
    assert run(["distill", *flags, "--resume"]) == 0
    assert "mean loss" not in capfd.readouterr().err
    assert {name: (out / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("method", first(["datm", "mct", "ftd", "tesla", "dpd", "ast"]))
def test_every_method_distils_and_its_run_can_be_looked_at(capfd, method, small_buffer, tmp_path):
    out = tmp_path / "run"
    flags = ("--method", method, "--network", "MLP", "--buffer", str(small_buffer), "--out", str(out))
    flags += ("--window", "0:1", "--set", "span=2", "--set", "waypoints=[]", "--set", "threads=1")
    flags += ("--set", "steps=2", "--set", "student_steps=1", "--set", "probe_every=1")
    assert document(capfd, "distill", *flags)["method"] == method
    assert SyntheticSet.load(out / "synset.arrow").recipe["method"] == method
    recorded = [json.loads(line) for line in (out / "probe.jsonl").read_text().splitlines()]
    assert [line["step"] for line in recorded] == [0, 1, 2]
    for command in ("matching", "memory", *(["labels"] if method in ("datm", "dpd") else [])):
        found = document(capfd, "analyse", command, str(out), "--out", str(tmp_path / f"{command}.png"))
        assert all(Path(path).is_file() for path in found["outputs"].values())


@pytest.mark.parametrize("method", first([name for name in METHODS if family(name) != "trajectories"], 3))
def test_methods_without_trajectories_distil_too(capfd, method, small_buffer, tmp_path):
    """With the preset of the digits where there is one; experts are named where they are needed, and nowhere else."""
    out = tmp_path / "run"
    config = complete(build(DistillConfig, load_preset("digits", method, 1), {"method": method}))
    flags = ("--method", method, "--network", "MLP", "--out", str(out), "--set", "threads=1")
    if needs_experts(config):
        flags += ("--buffer", str(small_buffer))
    if family(method) == "statistics":
        flags += ("--set", "steps=2", "--set", "statistic.batch_real=8", "--set", "statistic.epochs=1")
    assert document(capfd, "distill", *flags)["method"] == method
    synset = SyntheticSet.load(out / "synset.arrow")
    assert (synset.recipe["method"], synset.recipe["match"], synset.ipc) == (method, family(method), 1)
    assert (out / "synset.png").stat().st_size > 500
    assert len((out / "metrics.jsonl").read_text().splitlines()) == (2 if family(method) == "statistics" else 0)
    assert len(document(capfd, "analyse", "memory", str(out), "--out", str(tmp_path / "memory.png"))["outputs"]) == 2


def test_mosaics_are_exported_as_the_images_they_stand_for(capfd, tmp_path):
    flags = ("--method", "random", "--network", "MLP", "--ipc", "2", "--set", "formation.factor=2")
    assert run(["distill", *flags, "--set", "threads=1", "--out", str(tmp_path / "run")]) == 0
    capfd.readouterr()
    found = document(capfd, "export", str(tmp_path / "run" / "synset.arrow"), "--out", str(tmp_path / "png"))
    assert found["outputs"]["images"] == 80
    assert len(list((tmp_path / "png").glob("*/*.png"))) == 80


def test_ablate_document(capfd, small_buffer, tmp_path, monkeypatch):
    """The words and the files; the trainings themselves are done by `tests/remote`."""
    monkeypatch.setattr(
        "raydd.remote.train_matrix.train_matrix", lambda matrix, *_: {job: Outcome(0.5, 1.0) for job in matrix.jobs()}
    )
    monkeypatch.setattr("raydd.remote.session._connected", lambda *_: nullcontext())
    out = tmp_path / "out"
    flags = ("--method", "tgdd", "--network", "MLP", "--buffer", str(small_buffer), "--out", str(out), "--seeds", "2")
    for setting in ("steps=1", "threads=1", "formation.factor=2", "statistic.batch_real=4"):
        flags += ("--set", setting)
    found = document(capfd, "ablate", *flags, "--epochs", "3", "--real-epochs", "2")
    assert found["outputs"] == {name: str(out / name) for name in ("ablation.png", "ablation.json")}
    assert all(Path(path).is_file() for path in found["outputs"].values())
    rows = [score["name"] for score in found["scores"] if score["kind"] == "distilled"]
    assert rows == list(ABLATIONS["tgdd"])
    assert all(set(score) - {"asked"} == SCORE for score in found["scores"])
    assert json.loads((out / "ablation.json").read_text())["scores"] == found["scores"]
    assert {score["networks"] for score in found["scores"]} == {2}


def test_distill_without_a_window_fits_it_to_the_buffer(capfd, small_buffer, tmp_path):
    preset = tmp_path / "plain.yaml"
    preset.write_text("steps: 1\nstudent_steps: 1\nthreads: 1\nexperts: {network: MLP}\n")
    flags = ("--preset", str(preset), "--buffer", str(small_buffer), "--out", str(tmp_path / "run"))
    assert document(capfd, "distill", *flags)["ipc"] == 1


def test_export_document(capfd, small_synset, tmp_path):
    out = tmp_path / "png"
    found = document(capfd, "export", str(small_synset), "--out", str(out))
    assert found["outputs"] == {"folder": str(out), "images": 10}
    assert len(list(out.glob("*/*.png"))) == 10


def test_evaluate_document(capfd, small_synset, tmp_path, monkeypatch):
    """The words and the file; the trainings themselves are done by `tests/remote`."""
    from raydd.remote import session, train_matrix as remote

    asked = []

    def pretend(matrix, where, show, known, keep):
        asked.append(where.num_workers)
        show(remote.MatrixProgress(0, len(matrix.jobs()), "two workers"))
        return {job: Outcome(0.5 + 0.1 * job.seed, 1.0) for job in matrix.jobs()}

    monkeypatch.setattr(remote, "train_matrix", pretend)
    monkeypatch.setattr(session, "_connected", lambda *_: nullcontext())
    out = tmp_path / "scores.json"
    flags = ("--nets", "MLP,LeNet", "--seeds", "2", "--num-workers", "2", "--out", str(out))
    found = document(capfd, "evaluate", str(small_synset), *flags)
    assert asked == [2]
    assert found["outputs"] == {"scores": str(out)}
    assert json.loads(out.read_text())["scores"] == found["scores"]
    assert all(set(score) - {"asked"} == SCORE for score in found["scores"])
    kinds = [(score["kind"], score["network"]) for score in found["scores"]]
    assert len(kinds) == len(set(kinds))
    assert {("distilled", "MLP"), ("distilled", "LeNet"), ("random", "MLP"), ("whole", "LeNet")} <= set(kinds)
    first = found["scores"][0]
    assert (first["selection"], first["protocol"], first["networks"], first["ipc"]) == ("honest", "mtt", 2, 1)
    assert first["values"] == [0.5, 0.6]
    assert first["mean"] == pytest.approx(0.55)
    assert first["std"] == pytest.approx(0.1 / 2**0.5)
    assert evaluate([SyntheticSet.load(small_synset)], EvaluateConfig(seeds=2))[0].network == "MLP"


def test_tables_and_notes_go_to_their_streams(capfd, small_buffer):
    assert run(["buffer", "info", str(small_buffer)]) == 0
    out, err = capfd.readouterr()
    assert "digits" in out
    assert err == ""


def test_interrupted_is_130_in_one_line(capfd, monkeypatch):
    monkeypatch.setattr("raydd.data.workspace.load_images", _interrupt)
    assert run(["datasets", "digits"]) == 130
    err = capfd.readouterr().err
    assert err == "raydd: interrupted; the same command goes on (distill and tune: with --resume)\n"


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def test_failures_of_the_work_are_1_in_one_line(capfd, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left\non device")

    monkeypatch.setattr("raydd.data.workspace.load_images", full)
    assert run(["datasets", "digits"]) == 1
    assert capfd.readouterr().err == "raydd: [Errno 28] No space left on device\n"


def test_a_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("RAYDD_TRACEBACK", "1")
    with pytest.raises(ValueError, match="diggits"):
        run(["datasets", "diggits"])


def test_set_reads_exponents_and_nested_keys(capfd, small_buffer, tmp_path):
    out = tmp_path / "run"
    flags = ("--network", "MLP", "--buffer", str(small_buffer), "--out", str(out), *WINDOW)
    flags += ("--set", "lr.lr=1e-7", "--set", "steps=1", "--set", "student_steps=1", "--set", "lr.images=3")
    assert run(["distill", *flags]) == 0
    recipe = SyntheticSet.load(out / "synset.arrow").recipe
    assert (recipe["lr"]["lr"], recipe["lr"]["images"], recipe["lr"]["start"]) == (1e-7, 3.0, 0.005)
    assert "lr.images=3" in capfd.readouterr().err


def test_two_seeds_differ_and_one_repeats(small_buffer, tmp_path):
    flags = ("--network", "MLP", "--buffer", str(small_buffer), *WINDOW, "--set", "steps=2", "--set", "student_steps=1")
    files = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert run(["distill", *flags, "--seed", seed, "--out", str(tmp_path / name)]) == 0
        files.append((tmp_path / name / "synset.arrow").read_bytes())
    assert files[0] == files[1]
    assert (
        SyntheticSet.load(tmp_path / "a/synset.arrow")
        .images.ne(SyntheticSet.load(tmp_path / "c/synset.arrow").images)
        .any()
    )


def test_resume_of_a_finished_run_changes_nothing(small_buffer, tmp_path):
    out = tmp_path / "run"
    flags = ["distill", "--network", "MLP", "--buffer", str(small_buffer), "--out", str(out), *WINDOW]
    flags += ["--set", "steps=2", "--set", "student_steps=1", "--resume"]
    assert run(flags) == 0
    before = (out / "synset.arrow").read_bytes()
    assert run(flags) == 0
    assert (out / "synset.arrow").read_bytes() == before


def test_the_users_cache_is_left_alone(cache):
    assert Path(os.environ["RAYDD_CACHE"]) == cache
    assert cache != Path("~/.cache/raydd").expanduser()
