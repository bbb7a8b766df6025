"""Versions, and what the shell completes."""

import os
import shutil
import subprocess
import sys
from importlib import import_module, metadata

import pytest

from raydd.cli import run
from raydd.config import names
from raydd.config.presets import expand_preset
from raydd.models.zoo import find

HEAVY = {"torch", "ray", "numpy", "torchvision", "kornia"}
BASH = """
eval "$(raydd --show-completion)"
COMP_WORDS=(raydd tune --space datm_d) COMP_CWORD=3
_raydd_completion raydd
echo "${COMPREPLY[@]}"
complete -p raydd
"""
FISH = """
raydd --show-completion | source
complete -C 'raydd tune --space datm_d'
"""


def completed(capfd, monkeypatch, line, shell="bash"):
    """What a shell is told at the end of a line, by the protocol of its script."""
    words = line.split(" ")
    said = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_TYPER_COMPLETE_ARGS": line}
    said |= {"_RAYDD_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        run([])
    assert not ended.value.code
    return capfd.readouterr().out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("raydd do", ["doctor"]),
        ("raydd distill --method d", ["dance", "datadam", "datm", "dc", "dm", "dpd", "dream", "dsa", "dsdm"]),
        ("raydd ablate --method ", ["ast", "datm", "dpd", "mct", "tgdd"]),
        ("raydd experts --dataset cifar", ["cifar10", "cifar100"]),
        ("raydd datasets imagenet_m", ["imagenet_meow"]),
        ("raydd distill --network ResNet18", ["ResNet18", "ResNet18BN"]),
        ("raydd evaluate set --nets MLP,Le", ["MLP,LeNet"]),
        ("raydd evaluate set --baselines random,herding,k", ["random,herding,kcenter", "random,herding,kmeans"]),
        ("raydd evaluate set --scores l", ["lrs"]),
        ("raydd tune --space datm_di", ["datm_digits"]),
        ("raydd nas set --space ", ["convnet720", "nasbench201"]),
        ("raydd distill --preset digits/t", ["digits/tesla", "digits/tgdd", "digits/tgdd_adam"]),
        ("raydd continual set --protocol d", ["datm", "dcbench", "dm"]),
        ("raydd export set --format d", ["datm", "dc", "dcbench", "ddranking"]),
        ("raydd import set --format p", ["png"]),
        ("raydd buffer import theirs --format ", ["mtt", "tgdd"]),
        ("raydd buffer import theirs --preprocessing z", ["zca"]),
        ("raydd experts --optimizer s", ["sgd", "smooth"]),
        ("raydd analyse landscape b --device c", ["cpu", "cuda"]),
        ("raydd nas set --split v", ["validation"]),
    ],
)
def test_values_are_completed(line, expected, capfd, monkeypatch):
    assert completed(capfd, monkeypatch, line).split() == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_in_their_own_way(shell, capfd, monkeypatch):
    out = completed(capfd, monkeypatch, "raydd experts --optimizer s", shell)
    assert out.strip() == {"fish": "sgd\nsmooth", "zsh": '_arguments \'*: :(("sgd"\n"smooth"))\''}[shell]
    said = completed(capfd, monkeypatch, "raydd ", shell)
    assert "doctor" in said
    assert "Train expert networks" in said


@pytest.fixture
def in_shell(tmp_path):
    """Runs a script in a shell that finds this raydd."""
    program = tmp_path / "raydd"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m raydd "$@"\n')
    program.chmod(0o755)
    own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def told(name, *words):
        if shutil.which(name) is None:
            pytest.skip(f"no {name}")
        command = [name, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | own, cwd=tmp_path, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return told


def test_bash_completes_by_the_script_that_is_shown(in_shell):
    assert in_shell("bash", "--norc", "-c", BASH) == "datm_digits\ncomplete -o default -F _raydd_completion raydd\n"


def test_fish_completes_by_the_script_that_is_shown(in_shell):
    assert in_shell("fish", "--no-config", "-c", FISH) == "datm_digits\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_shown_and_installed(shell, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        run(["--show-completion", shell])
    script = capfd.readouterr().out
    assert not ended.value.code
    assert f"_RAYDD_COMPLETE=complete_{shell}" in script
    with pytest.raises(SystemExit) as ended:
        run(["--install-completion", shell])
    assert not ended.value.code
    assert "installed in" in capfd.readouterr().out
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(f"_RAYDD_COMPLETE=complete_{shell}" in path.read_text() for path in written)


def test_a_key_press_loads_nothing_heavy():
    code = (
        "import sys\nfrom raydd.cli import run\n"
        "try:\n    run([])\nexcept SystemExit:\n    print('loaded:', *{name.split('.')[0] for name in sys.modules})"
    )
    said = {"COMP_WORDS": "raydd distill --preset digits/m", "COMP_CWORD": "3", "_RAYDD_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | said
    )
    *found, loaded = done.stdout.splitlines()
    assert found == ["digits/m3d", "digits/mct", "digits/mtt"]
    assert not HEAVY & set(loaded.split())


def rows_of(table):
    module, _, attribute = table.rows.partition(":")
    return getattr(import_module(module), attribute)


def test_the_names_known_without_pytorch_are_those_of_the_tables():
    for kind, table in names.TABLES.items():
        if table.rows:
            assert {*table.names} == {*rows_of(table)}, kind
    assert all(expand_preset(name, 1) for name in names.presets())
    assert len(names.presets()) > 50


@pytest.mark.parametrize(
    "name",
    [
        *("ConvNetW32", "ConvNetD4", "ConvNetBN", "ConvNetW16D3LNALNP", "ResNet18W16", "VGG11BNW16", "DenseNet121W8"),
        *(
            "AlexNetW32",
            "MLPW8",
            "LeNetW4",
            "ResNet18W0",
            "ConvNetX",
            "DenseNet121BNW8",
            "ConvNet32",
            "timm:",
            "Nothing",
        ),
    ],
)
def test_a_network_is_refused_without_pytorch_where_the_zoo_refuses_it(name):
    def known(check):
        try:
            check(name)
        except ValueError:
            return False
        return True

    assert known(lambda name: names.check_name("network", name)) == (known(find))


def test_the_version_is_one_line_of_installed_packages(capfd):
    assert run(["--version"]) == 0
    found = {name: metadata.version(name) for name in ("raydd", "torch", "ray")}
    assert capfd.readouterr().out == f"raydd {found['raydd']} (torch {found['torch']}, ray {found['ray']})\n"


def test_the_version_loads_nothing_heavy():
    code = "import sys\nfrom raydd.cli import run\nrun(['--version'])\n"
    code += "print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, loaded = done.stdout.splitlines()
    assert version.startswith("raydd ")
    assert not HEAVY & set(loaded.split())


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'kornia'"), ImportError("libcudart")])
def test_what_cannot_be_imported_is_one_line_that_names_the_doctor(error, capfd, monkeypatch):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr("raydd.data.workspace.load_images", broken)
    assert run(["datasets", "digits"]) == 1
    line = f"raydd: {type(error).__name__}: {error}; `raydd doctor` says what is wrong with the installation\n"
    assert capfd.readouterr().err == line


def test_a_module_whose_own_lines_fail_names_the_doctor_too(tmp_path, capfd, monkeypatch):
    (tmp_path / "broken_extension.py").write_text("raise RuntimeError('operator broken::nms does not exist')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def uses(*_, **__):
        import broken_extension

        return broken_extension

    monkeypatch.setattr("raydd.data.workspace.load_images", uses)
    assert run(["datasets", "digits"]) == 1
    assert "operator broken::nms does not exist; `raydd doctor` says" in capfd.readouterr().err


def test_errors_of_raydds_own_are_raised_on(monkeypatch):
    monkeypatch.setattr("raydd.data.workspace.load_images", lambda *_, **__: {}["none"])
    with pytest.raises(KeyError, match="none"):
        run(["datasets", "digits"])
