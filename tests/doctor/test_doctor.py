"""`raydd doctor` where something is wrong: packages that are missing or broken, and disks and memory that are full."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import venv
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from raydd.cli import run
from raydd.doctor import CHECKS, examine, machine, packages, versions
from raydd.doctor.findings import Finding, attempt
from raydd.doctor.probe import PARTS, Probe
from raydd.io.paths import default_cache

PACKAGES = Path(str(metadata.distribution("torch").locate_file("")))
NMS = "operator torchvision::nms does not exist"
BROKEN = f"raise RuntimeError({NMS!r})\n"
CRASHING = "import os\nos.abort()\n"


def installation(folder, missing=(), fakes=()):
    """A virtual environment of this one's packages without some, and with others in their place; its Python.

    Each fake is its name, its version, what it needs, and the source of its module.
    """
    venv.EnvBuilder(symlinks=True).create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    gone = {*missing, *(name for name, *_ in fakes)}
    for path in PACKAGES.iterdir():
        if re.split(r"[-.]", path.name)[0] not in gone:
            (site / path.name).symlink_to(path)
    for name, version, needs, source in fakes:
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(source)
        about = site / f"{name}-{version}.dist-info"
        about.mkdir()
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {version}",
            *(f"Requires-Dist: {n}" for n in needs),
        ]
        (about / "METADATA").write_text("\n".join(lines) + "\n")
    return folder / "bin" / "python"


def start(python, *words, cwd, **environment):
    return subprocess.Popen(
        [python, "-m", "raydd", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def small_disk():
    """A disk of its own, of 8 MB."""
    folder = Path(tempfile.mkdtemp())  # a short path, which Ray's files may have
    words = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        folder.rmdir()
        pytest.skip(f"no disk can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


@contextlib.contextmanager
def filled(folder):
    """A disk without room for another byte."""
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(1 << 12)):
                pass
        assert shutil.disk_usage(folder).free == 0
        yield


@pytest.fixture(scope="module")
def ill(tmp_path_factory):
    """Commands in installations with one thing wrong each, which run at the same time; how each ended."""
    root = tmp_path_factory.mktemp("ill")
    without_ray = installation(root / "no-ray", missing=["ray"])
    unfit = installation(root / "old-vision", fakes=[("torchvision", "0.20.1", ["torch==2.5.1"], BROKEN)])
    crashing = installation(root / "bad-torch", fakes=[("torch", metadata.version("torch"), [], CRASHING)])
    running = {
        "ray": start(without_ray, "doctor", "--json", cwd=root),
        "torch": start(crashing, "doctor", "--json", cwd=root),
        "quickstart": start(without_ray, "quickstart", "--out", str(root / "out"), cwd=root),
        "version": start(without_ray, "--version", cwd=root),
    }

    def ended(name):
        out, err = running[name].communicate(timeout=120)
        return running[name].returncode, out, err

    ended.quick, ended.unfit, ended.root = crashing, unfit, root  # the quick one spends no time on torch
    yield ended
    for process in running.values():
        process.kill()
        process.communicate()


def checks(out):
    """The findings of a document, by name."""
    return {check["name"]: check for check in json.loads(out)["checks"]}


def test_this_machine_is_told_of(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    code = run(["doctor", "--json"])
    out = capfd.readouterr().out
    document, found = json.loads(out), checks(out)
    rows = {*CHECKS} - {"optional"} | {"timm", "tensorboard"}
    assert {*found} == rows
    assert {found[name]["state"] for name in ("python", "raydd", "torch", "torchvision", "ray", "packages")} == {"ok"}
    assert found["torch"]["found"].startswith(metadata.version("torch"))
    assert found["data sets"]["found"].startswith("digits")
    assert found["terminal"]["found"].startswith("none")
    faults = [check for check in found.values() if check["state"] == "fault"]
    assert document["faults"] == len(faults)
    assert code == bool(faults)
    assert all(bool(check["remedy"]) == (check["state"] != "ok") for check in found.values())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ray_missing_is_a_fault(ill):
    code, out, _ = ill("ray")
    found = checks(out)
    assert code == 1
    assert found["ray"]["state"] == "fault"
    assert "not installed" in found["ray"]["found"]
    assert "uv pip install 'ray[" in found["ray"]["remedy"]
    assert [name for name, check in found.items() if check["state"] == "fault"] == ["ray"]
    assert json.loads(out)["versions"]["ray"] is None


def test_commands_that_need_ray_name_the_doctor_in_one_line(ill):
    code, out, err = ill("quickstart")
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert "Traceback" not in err
    assert "No module named 'ray'" in last
    assert "raydd doctor" in last


def test_the_version_is_told_without_ray(ill):
    code, out, _ = ill("version")
    assert code == 0
    assert out == f"raydd {metadata.version('raydd')} (torch {metadata.version('torch')}, ray not installed)\n"


@pytest.mark.integration
def test_a_torchvision_for_another_torch_is_a_fault(ill):
    process = start(ill.unfit, "doctor", cwd=ill.root)
    out, err = process.communicate(timeout=120)
    code = process.returncode
    (line,) = [line for line in out.splitlines() if line.startswith("fault")]
    assert (code, err) == (1, "")
    for words in ("torchvision", "0.20.1", "torch==2.5.1", metadata.version("torch"), NMS, "--reinstall torchvision"):
        assert words in line
    assert re.search(r"^ok +data sets +digits", out, re.MULTILINE)


def test_a_torch_that_ends_the_process_is_a_fault_and_the_rest_is_told(ill):
    code, out, _ = ill("torch")
    found = checks(out)
    assert code == 1
    assert "cannot be imported (the process ended with signal 6" in found["torch"]["found"]
    assert [name for name, check in found.items() if check["state"] == "fault"] == ["torch"]
    assert {found[name]["state"] for name in ("torchvision", "data sets")} == {"warning"}
    assert {found[name]["state"] for name in ("python", "raydd", "packages", "ray", "cpus", "cache")} == {"ok"}


def test_a_full_disk_is_a_fault(small_disk, monkeypatch):
    monkeypatch.setenv("RAYDD_CACHE", str(small_disk / "cache"))
    (little,) = machine.cache()
    assert (little.state, "8 MB of disk free, too little" in little.detail) == ("fault", True)
    with filled(small_disk):
        (full,) = machine.cache()
    assert full.state == "fault"
    assert "no space is left" in full.detail
    assert "set RAYDD_CACHE" in full.remedy
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_is_a_fault_of_the_command(small_disk, ill):
    """In a process: a cache, runs and Ray's files on a disk without room are a line each."""
    places = {"RAYDD_CACHE": str(small_disk), "RAY_TMPDIR": str(small_disk)}
    with filled(small_disk):
        process = start(ill.quick, "doctor", cwd=small_disk, **places)
        out, err = process.communicate(timeout=120)
    faults = [line for line in out.splitlines() if line.startswith("fault")]
    assert (process.returncode, err) == (1, "")
    assert [line.split()[1] for line in faults] == ["torch", "local", "cache", "runs"]
    assert all("no space is left on its disk" in line for line in faults[1:])


@pytest.mark.parametrize(
    ("free", "state"),
    [(0, "fault"), (machine.LEAST_DISK - 1, "fault"), (machine.SOME_DISK - 1, "warning"), (machine.SOME_DISK, "ok")],
)
def test_little_disk_by_what_the_system_says(free, state, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    found = machine.space("cache", tmp_path / "new" / "folder", "Move it")
    assert found.state == state
    assert ("or move it." in found.remedy) == (state != "ok")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_files_is_a_fault(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("RAYDD_CACHE", str(file / "cache"))
    (found,) = machine.cache()
    assert (found.state, found.remedy) == ("fault", "Set RAYDD_CACHE to another folder.")
    assert f"{file / 'cache'} cannot be written (Not a directory)" in found.detail


def test_the_cache_is_the_one_that_is_used(tmp_path, monkeypatch):
    for value in ("", str(tmp_path), "~/elsewhere"):
        monkeypatch.setenv("RAYDD_CACHE", value)
        assert str(default_cache()) in machine.cache()[0].detail
    monkeypatch.delenv("RAYDD_CACHE")
    assert str(default_cache()) in machine.cache()[0].detail


def test_the_cache_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(bytes(3_000_000))
    assert machine.folder_bytes(tmp_path) == (3_000_000, True)
    (found,) = machine.cache()
    assert found.detail.endswith(", 3 MB in it")
    monkeypatch.setattr(machine, "COUNT_SECONDS", -1.0)
    assert machine.cache()[0].detail.endswith(", over 0 MB in it")


def container(folder, monkeypatch, **values):
    """A control group's files, as a container has them."""
    for name, value in values.items():
        (folder / name.replace("_", ".")).write_text(value)
    monkeypatch.setattr("raydd.io.memory.CGROUP", folder)


def test_a_container_with_less_time_than_processors_is_a_warning(tmp_path, monkeypatch):
    container(tmp_path, monkeypatch, cpu_max="50000 100000\n")
    (found,) = machine.cpus()
    assert (found.state, "the time of 0.5" in found.detail) == ("warning", True)
    assert "--num-workers 1" in found.remedy
    container(tmp_path, monkeypatch, cpu_max="max 100000\n")
    (found,) = machine.cpus()
    assert found == Finding("cpus", "ok", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} may be used")


@pytest.mark.parametrize(
    ("held", "state", "ray"),
    [("3900000000", "fault", "fault"), ("2000000000", "warning", "ok"), ("3950000000", "fault", "fault")],
)
def test_a_containers_memory_is_what_counts(held, state, ray, tmp_path, monkeypatch):
    files = {
        "memory_max": "4000000000\n",
        "memory_current": f"{held}\n",
        "memory_stat": "anon 1\ninactive_file 1000000\n",
    }
    container(tmp_path, monkeypatch, **files)
    free, total = machine.system_memory()
    assert (free, total) == (4_000_000_000 - int(held) + 1_000_000, 4_000_000_000)
    assert machine.memory()[0].state == state
    assert (machine.local_ray()[0].state == "fault") == (ray == "fault")
    assert (machine.memory()[0].remedy == "") == (state == "ok")


def test_little_shared_memory_makes_a_local_ray_slow(small_disk, monkeypatch):
    monkeypatch.setattr(machine, "SHM", small_disk)
    monkeypatch.setattr(machine, "system_memory", lambda: (8e9, 16e9))
    (found,) = machine.local_ray()
    assert (found.state, "--shm-size" in found.remedy) == ("warning", True)
    assert "an object store of 2.4 GB" in found.detail
    assert "has 8 MB" in found.detail


@pytest.mark.parametrize("mode", [0o777, 0o700])
def test_a_folder_that_others_can_change_is_a_fault(mode, tmp_path, monkeypatch):
    tmp_path.chmod(mode)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "below"))
    (found,) = machine.local_ray()
    assert found.state == ("fault" if mode == 0o777 else "ok")
    assert ("other users can rename" in found.detail) == ("another folder" in found.remedy) == (mode == 0o777)
    assert list(tmp_path.iterdir()) == []


def test_a_tmpdir_that_cannot_be_used_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file/below"))
    (found,) = machine.local_ray()
    assert (found.state, "it cannot be written (Not a directory)" in found.detail) == ("ok", True)
    assert found.detail.endswith("the files of the local Ray go to /tmp)")


def test_rays_numbers_are_rays_own():
    from ray._private import ray_constants

    assert machine.OBJECT_STORE_SHARE == ray_constants.DEFAULT_OBJECT_STORE_MEMORY_PROPORTION
    assert machine.OBJECT_STORE_LEAST == ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES
    assert machine.OBJECT_STORE_MOST == ray_constants.DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES
    assert machine.SLOW_STORE_MOST == ray_constants.REQUIRE_SHM_SIZE_THRESHOLD


def test_packages_of_a_wrong_version_are_faults():
    old = packages.mismatch(Requirement("numpy>=2; python_version > '3'"), "1.26.4")
    assert old == Finding(
        "numpy", "fault", "1.26.4 is not >=2, as raydd needs", "Install it: uv pip install 'numpy>=2'."
    )
    assert packages.mismatch(Requirement("torch>=2.11"), "2.15.0+cu132") is None
    assert packages.mismatch(Requirement("torch>=2.11"), "2.12.0.dev20260101") is None


def test_a_raydd_that_is_not_installed_is_a_warning(monkeypatch):
    real = metadata.distribution

    def without(name):
        if name == "raydd":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "distribution", without)
    (own,) = packages.raydd()
    assert (own.state, "is not installed" in own.detail) == ("warning", True)
    assert {finding.state for finding in (*packages.required(), *packages.ray())} == {"ok"}


def test_another_version_imported_than_installed_is_a_warning():
    installed = metadata.version("torch")
    found = {"version": installed, "cuda": None, "gpus": []}
    assert packages.torch({"torch": {"value": found}}) == [Finding("torch", "ok", f"{installed}, for CPUs")]
    (two,) = packages.torch({"torch": {"value": found | {"version": "1.0"}}})
    assert (two.state, "two copies" in two.detail) == ("warning", True)


def test_gpus_are_told_with_their_memory():
    gpu = {"name": "H200", "free": 140e9, "total": 150e9}
    (found,) = packages.devices({"torch": {"value": {"gpus": [gpu], "cuda": "13.2"}}})
    assert found == Finding("gpu", "ok", "H200 (140.0 GB of 150.0 GB free)")


@pytest.mark.parametrize(("cuda", "why"), [(None, "torch is built for CPUs"), ("13.2", "torch cannot use it")])
def test_a_gpu_that_torch_does_not_use_is_a_warning(cuda, why, tmp_path, monkeypatch):
    said = {"torch": {"value": {"gpus": [], "cuda": cuda}}}
    monkeypatch.setattr(packages, "DRIVER", tmp_path / "version")
    assert packages.devices(said) == [Finding("gpu", "ok", "none: everything runs on CPUs")]
    packages.DRIVER.touch()
    (found,) = packages.devices(said)
    assert (found.state, why in found.detail, "nvidia-smi" in found.remedy) == ("warning", True, True)


def test_data_sets_that_are_here_are_found_without_a_download(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    (raw / "cifar-10-batches-py").mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (raw / "cifar-10-batches-py" / name).touch()
    monkeypatch.setenv("RAYDD_DATA", str(raw))
    monkeypatch.setattr("raydd.data.named_sets._download", lambda *_: pytest.fail("it was downloaded"))
    found = PARTS["datasets"]()
    assert found["here"] == ["digits", "cifar10"]
    (told,) = machine.datasets({"datasets": {"value": found}})
    assert (told.state, "not here: mnist" in told.detail) == ("ok", True)
    monkeypatch.setenv("RAYDD_DATA", str(tmp_path / "nowhere"))
    (told,) = machine.datasets({"datasets": {"value": found}})
    assert (told.state, "not a folder" in told.detail) == ("warning", True)


def test_a_part_that_does_not_come_to_its_end_is_an_error(monkeypatch):
    monkeypatch.setattr("raydd.doctor.probe.SECONDS", 0.01)
    assert "not done after 0.01 s" in Probe("torch").results()["torch"]["error"]


def test_a_look_that_fails_hides_no_other(monkeypatch):
    monkeypatch.setattr(machine, "cpus", lambda: 1 / 0)
    said = {part: {"error": "none"} for part in PARTS}
    monkeypatch.setattr("raydd.doctor.Probe", lambda *_: SimpleNamespace(results=lambda: said))
    found = {finding.name: finding for finding in examine()}
    assert (found["cpus"].state, "ZeroDivisionError" in found["cpus"].detail) == ("fault", True)
    assert found["memory"].state in ("ok", "warning")
    assert attempt("it", lambda: [found["memory"]]) == [found["memory"]]


def test_versions_are_those_of_the_installation():
    found = versions()
    assert found["raydd"] == metadata.version("raydd")
    assert {"python", "commit", "torch", "torchvision", "ray", "kornia", "pyarrow", "optuna"} <= set(found)
    assert all(found[name] == metadata.version(name) for name in found if name not in ("python", "commit"))
