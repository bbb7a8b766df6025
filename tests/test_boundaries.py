"""What may import what, what is loaded when, and what ships."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import raydd

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "raydd"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 300
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORTS = (ast.Import, ast.ImportFrom)

# From the bottom up. A module imports its own package and the packages of lower layers.
LAYERS = (
    ("io", "plugins"),
    ("config", "models", "numerics"),
    ("data",),
    ("buffer", "figures", "doctor"),
    ("selection", "training", "interop"),
    ("distillation", "evaluation"),
    ("methods", "analysis"),
    ("run",),
    ("tuning", "campaigns"),
    ("remote", "report"),
    ("api",),
    ("cli",),
)
LOOSE = {"__init__", "__main__"}
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
# Beside torch, inside functions only: what the bottom layers import when it is asked for.
LAZY = {"raydd/numerics/whitening.py": {"kornia"}, "raydd/models/external.py": {"timm"}}


def imports(tree: ast.AST, module: str = "raydd") -> Iterator[str]:
    """Every module named by an import anywhere below ``tree``; relative ones as seen from a file of ``module``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parent(path: Path) -> str:
    """The package that a file's relative imports start from."""
    return ".".join(path.relative_to(ROOT).parent.parts)


def part(path: Path) -> str:
    """The package below raydd that a file belongs to, or its own name if it is loose."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def outside(path: Path, tree: ast.AST) -> set[str]:
    """Top-level packages imported that are neither of the standard library nor this one."""
    tops = {module.split(".")[0] for module in imports(tree, parent(path))}
    return tops - set(sys.stdlib_module_names) - {"raydd"}


def parts_imported(path: Path) -> set[str]:
    dotted = (module.split(".") for module in imports(parse(path), parent(path)))
    return {words[1] for words in dotted if words[0] == "raydd" and len(words) > 1}


def test_the_reader_of_imports_sees_every_form() -> None:
    source = "import a.b as c\nfrom d.e import f\ndef g():\n    from . import h\n    from ..i import j\n"
    found = set(imports(ast.parse(source), "raydd.data"))
    assert found == {"a.b", "d.e.f", "raydd.data.h", "raydd.i.j"}
    assert len(FILES) > 20


def test_importing_raydd_leaves_the_heavy_packages_unloaded() -> None:
    code = "import sys, raydd; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "raydd" in loaded
    assert not loaded & {"ray", "torchvision", "kornia", "sklearn", "matplotlib"}


def test_only_remote_imports_ray() -> None:
    guilty = [name(path) for path in FILES if part(path) != "remote" and "ray" in outside(path, parse(path))]
    assert guilty == []


@pytest.mark.parametrize("folder", ["numerics", "models"])
def test_the_bottom_layers_import_torch_only(folder: str) -> None:
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        tree = parse(path)
        assert outside(path, tree) <= {"torch"} | LAZY.get(name(path), set()), name(path)
        inside = {node for outer in ast.walk(tree) if isinstance(outer, FUNCTIONS) for node in ast.walk(outer)}
        early: list[ast.stmt] = [node for node in ast.walk(tree) if isinstance(node, IMPORTS) and node not in inside]
        assert outside(path, ast.Module(early, [])) <= {"torch"}, f"{name(path)}: import it inside the function"
        assert parts_imported(path) <= {"io", folder, *({"plugins"} if folder == "models" else ())}, name(path)


def test_every_module_is_in_a_package_of_the_layers() -> None:
    unknown = {part(path) for path in FILES} - set(RANK) - LOOSE
    assert not unknown, f"give {sorted(unknown)} a place in LAYERS"
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE
    assert len(LAYERS) <= 12


def test_the_tests_mirror_the_package() -> None:
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    outside = {".", "cluster", "docs", "examples", "fuzz"}
    assert folders - outside <= set(RANK)


def test_imports_only_point_down() -> None:
    upward = [
        f"{name(path)} imports raydd.{other}"
        for path in FILES
        if part(path) in RANK
        for other in sorted(parts_imported(path) - {part(path)})
        if RANK.get(other, len(LAYERS)) >= RANK[part(path)]
    ]
    assert upward == []


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    long = {name(path): count for path in FILES if (count := len(path.read_text().splitlines())) > MAX_LINES}
    assert long == {}


def test_no_file_is_a_drawer_of_odds_and_ends() -> None:
    drawers = {"utils", "util", "common", "helpers", "misc"}
    named = [name(path) for path in [*PACKAGE.rglob("*"), *(ROOT / "tests").rglob("*.py")] if path.stem in drawers]
    assert named == []


def test_the_wheel_ships_the_data_files() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["raydd"]
    assert wheel["force-include"] == {"tune_spaces": "raydd/tune_spaces"}
    assert (ROOT / "tune_spaces").is_dir()
    assert (PACKAGE / "py.typed").is_file()
    assert not {"include", "exclude", "only-include"} & set(wheel), "these may leave presets/*.yaml or py.typed out"


def test_no_public_name_is_hidden_by_a_module_of_the_same_name() -> None:
    """An import of `raydd.name` would put the module in the place of what ``raydd.name`` was."""
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    code = "import raydd; names = [getattr(raydd, n) for n in 2 * raydd.__all__]; print(raydd.distill.__qualname__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "distill\n"
    assert not set(raydd.__all__) & modules
