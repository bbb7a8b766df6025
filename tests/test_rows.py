"""The mark `rows`: one test goes over a table and names every row that fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TABLE = """
import pytest

@pytest.mark.rows("a", [1, 2, 3])
@pytest.mark.rows(("b", "c"), [(1, "x"), (2, "y")])
def test_table(a, b, c, tmp_path):
    assert tmp_path.is_dir()
    assert a != b, c
"""

called = []


@pytest.mark.rows("first, second", [(1, "a"), (2, "b")])
@pytest.mark.rows("third", [True, False])
def test_every_row_is_called(first, second, third):
    called.append((first, second, third))
    assert len({*called}) == len(called) <= 4


def test_all_rows_were_called():
    assert {*called} == {(1, "a", True), (1, "a", False), (2, "b", True), (2, "b", False)}


@pytest.mark.integration
def test_every_row_that_fails_is_named(tmp_path):
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (tmp_path / "test_table.py").write_text(TABLE)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_table.py"]
    at_a_desk = {name: value for name, value in os.environ.items() if name != "CI"}  # "CI" repeats all in a summary
    done = subprocess.run(words, cwd=tmp_path, env=at_a_desk, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout
    assert "1 failed" in done.stdout
    assert "failed with {'b': 1, 'c': 'x', 'a': 1}" in done.stdout
    assert "failed with {'b': 2, 'c': 'y', 'a': 2}" in done.stdout
    assert done.stdout.count("failed with {") == 2
