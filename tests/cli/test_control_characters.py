"""What outside files are called and say reaches neither the terminal nor the page raw."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from unicodedata import category

import numpy as np
import pytest
import torch
from PIL import Image
from rich.table import Table

from raydd.cli import run
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.io.console import Screen, visible

Call = Callable[..., subprocess.CompletedProcess[bytes]]
EVIL = "\x1b[31m\x1b]0;owned\x07\r\x9b2J\u202ecat\u2066\u200b"
SAFE = r"\x1b[31m\x1b]0;owned\x07\r\x9b2J\u202ecat\u2066\u200b"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """Runs one command in this process, as on a terminal without colours."""
    for name, value in {"RAYDD_CACHE": str(tmp_path / "cache"), "FORCE_COLOR": "", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)

    def call(*words: str) -> subprocess.CompletedProcess[bytes]:
        code = run([*words])
        return subprocess.CompletedProcess([*words], code, *capfdbinary.readouterr())

    return call


def raw(text: str) -> set[str]:
    return {one for one in text if category(one) in {"Cc", "Cf", "Cs"} and one not in "\n\t"}


def test_hidden_characters_become_numbers_and_all_others_stay() -> None:
    assert visible(EVIL) == SAFE
    assert visible("\udce9 \u2028 \x7f") == r"\udce9 \u2028 \x7f"
    kept = "línea\n\ttab 图像 می‌خواهم 👩‍👧 \u00a0 \\x1b"
    assert visible(kept) == kept
    assert visible(visible(EVIL)) == visible(EVIL)


def test_errors_of_the_command_line_are_plain(tmp_path: Path, cli: Call) -> None:
    root = tmp_path / "set"
    (root / "a").mkdir(parents=True)
    (root / EVIL).mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "a" / "0.png")
    done = cli("datasets", str(root))
    said = done.stderr.decode()
    assert done.returncode == 2
    assert r"\x1b[31m" in said
    assert r"\u202ecat" in said
    assert raw(said) == set()
    unknown = cli("datasets", f"./{EVIL}")
    assert unknown.returncode == 2
    assert raw(unknown.stderr.decode()) == set()
    preset = tmp_path / "own.yaml"
    preset.write_text(f'"{EVIL.encode("unicode_escape").decode()}": 1\n')
    refused = cli("distill", "--preset", str(preset), "--out", str(tmp_path / "run"))
    assert refused.returncode == 2
    assert raw(refused.stderr.decode()) == set()


def test_a_described_data_set_is_plain(tmp_path: Path, cli: Call) -> None:
    for name in (EVIL, "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / "set" / name / f"{number}.png")
    for words in (["datasets"], ["datasets", "--json"]):
        done = cli(words[0], str(tmp_path / "set"), *words[1:])
        assert done.returncode == 0
        assert raw(done.stdout.decode() + done.stderr.decode()) == set()


def test_notes_tables_and_titles_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.note(f"a note of {EVIL}")
    table = Table(f"head {EVIL}", title=EVIL)
    table.add_row(f"cell {EVIL}")
    screen.result({}, lambda console: console.print(table))
    out, err = capsys.readouterr()
    assert raw(out + err) == set()
    assert r"cell \x1b[31m" in out
    assert r"\u202ecat" in err


def test_a_page_is_plain(tmp_path: Path, cli: Call) -> None:
    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    transform = Transform("raw01")
    synset = SyntheticSet(images, labels, torch.tensor(0.01), transform, EVIL, (EVIL, "<script>dog"))
    synset.save(tmp_path / "synset.arrow")
    done = cli("report", str(tmp_path), "--out", str(tmp_path / "page.html"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert raw(page) == set()
    assert SAFE in page
    assert "<script>dog" not in page
