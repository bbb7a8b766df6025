"""Private folders: who can enter them, and that they go."""

import fcntl
import os
import socket
import stat
import subprocess
import sys

import pytest

from raydd.io.private import LONGEST, SHORT, private_folder, root

HOLD = """
import os, sys
from pathlib import Path
from raydd.io.private import private_folder
if sys.argv[2] == "exit":
    folder = private_folder(Path(sys.argv[1]))
    print(folder.__enter__(), flush=True)
else:
    with private_folder(Path(sys.argv[1])) as folder:
        (folder / "token").write_text("secret")
        print(folder, flush=True)
        sys.stdin.read() if sys.argv[2] == "wait" else os.abort()
"""


def hold(folder, how):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), how], **pipes)
    return process, process.stdout.readline().strip()


def test_only_its_owner_enters_and_nothing_is_left(tmp_path):
    def fails():
        with private_folder(tmp_path / "new/place") as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            (folder / "a").mkdir()
            raise KeyError

    before = os.umask(0)
    try:
        with pytest.raises(KeyError):
            fails()
    finally:
        os.umask(before)
    assert list((tmp_path / "new/place").iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    killed, left = hold(tmp_path, "abort")
    killed.communicate(timeout=30)
    waits, lives = hold(tmp_path, "wait")
    assert not os.path.exists(left)
    with private_folder(tmp_path) as own:
        assert os.path.exists(lives), "its process lives"
        assert {str(own), lives} == {str(path) for path in tmp_path.iterdir()}
    waits.communicate(timeout=30)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_open_at_exit_is_removed(tmp_path):
    process, folder = hold(tmp_path, "exit")
    process.communicate(timeout=30)
    assert folder.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("host", "held"), [("another-machine", False), (socket.gethostname(), True), ("", False)])
def test_what_may_be_in_use_stays(host, held, tmp_path):
    """Of another machine that shares the folder, of a process that lives, and of somebody else's making."""
    (tmp_path / "raydd-abcdefgh").mkdir()
    with (tmp_path / "raydd-abcdefgh/lock").open("w") as lock:
        lock.write(host)
        lock.flush()
        if held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        with private_folder(tmp_path):
            pass
        assert [path.name for path in tmp_path.iterdir()] == ["raydd-abcdefgh"]


def test_a_link_in_place_of_a_folder_is_not_followed(tmp_path):
    other = tmp_path / "precious"
    other.mkdir()
    (other / "lock").write_text(socket.gethostname())
    (tmp_path / "raydd-abcdefgh").symlink_to(other)
    with private_folder(tmp_path):
        pass
    assert (other / "lock").exists()


@pytest.mark.parametrize(
    ("ray", "tmp", "folder", "large"),
    [
        (None, None, "/tmp", "/tmp"),
        (None, "short", "short", "short"),
        ("short", "other", "short", "short"),
        ("long", "short", "/tmp", "long"),
        (None, "long", "/tmp", "long"),
        (None, "file", "/tmp", "/tmp"),
    ],
)
def test_where_the_files_go(ray, tmp, folder, large, tmp_path, monkeypatch):
    places = {
        "short": "/tmp/a",
        "other": "/tmp/b",
        "long": str(tmp_path / ("x" * LONGEST)),
        "file": __file__,
        "/tmp": "/tmp",
    }
    for name, value in (("RAY_TMPDIR", ray), ("TMPDIR", tmp)):
        monkeypatch.setenv(name, places[value]) if value else monkeypatch.delenv(name, raising=False)
    found = root()
    assert (str(found.folder), str(found.large)) == (places[folder], places[large])
    assert bool(found.note) == (tmp == "file")
    assert str(SHORT) in found.note or not found.note
