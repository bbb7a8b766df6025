"""One process at a time writes to a place."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from raydd.cli import run
from raydd.io.lock import alone

HOLD = "import sys, time\nfrom pathlib import Path\nfrom raydd.io.lock import alone\n"
HOLD += "with alone(Path(sys.argv[1]), 'raydd distill'):\n    print('held', flush=True)\n    time.sleep(60)\n"


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_told_who_works_there(tmp_path, holder):
    folder = tmp_path / "run"
    who = rf"{folder}: process {holder.pid} on {socket.gethostname()} \(raydd distill\) works there; wait"
    with pytest.raises(ValueError, match=who), alone(folder, "raydd tune"):
        pass
    with alone(tmp_path / "other", "raydd tune"):  # of another folder nobody minds
        pass


@pytest.mark.parametrize(
    "arguments",
    [
        *("distill --method random --out {}", "distill --resume --out {}", "tune --space datm_digits --out {}"),
        *("experts --out {}", "quickstart --out {}", "ablate --out {}", "buffer copy {} {}"),
    ],
)
def test_no_verb_writes_where_another_process_works(tmp_path, holder, capfd, arguments, small_buffer):
    folder = tmp_path / "run"
    words = arguments.split()
    words = [str(small_buffer) if words[0] == "buffer" and place == 2 else w for place, w in enumerate(words)]
    assert run([word.format(folder) for word in words]) == 2
    err = capfd.readouterr().err
    assert f"process {holder.pid} on" in err
    assert err.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_killed_process_blocks_nobody(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / ".lock").exists()
    with alone(tmp_path / "run", "raydd distill"):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / ".lock").read_text()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_block_inside_has_the_folder_already_and_another_thread_has_not(tmp_path):
    refused = []

    def other():
        try:
            with alone(tmp_path, "raydd distill"):
                pass
        except ValueError as error:
            refused.append(error)

    with alone(tmp_path, "raydd quickstart"), alone(tmp_path, "raydd distill"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    other()
    assert len(refused) == 1


def test_whoever_waits_goes_on_when_the_holder_ends(tmp_path, holder):
    lines = []
    threading.Timer(1.0, holder.kill).start()
    start = time.monotonic()
    with alone(tmp_path / "run", "raydd experts", lines.append, wait=True):
        assert time.monotonic() - start >= 0.9
    assert lines == [f"{tmp_path / 'run'}: waiting for process {holder.pid} on {socket.gethostname()} (raydd distill)"]


def test_many_take_turns_though_each_removes_the_lock(tmp_path):
    """A lock file that its holder removes while another waits for it is no lock: two must never work at once."""
    inside, most = [], []

    def work():
        with alone(tmp_path / "run", "raydd experts", wait=True):
            inside.append(0)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raydd.io.lock.POLL_SECONDS", 0.001)
        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1] * 20


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError])
def test_a_folder_that_its_holder_removes_just_now_is_made_again(tmp_path, monkeypatch, error):
    make, refusals = Path.mkdir, [error(errno.EEXIST, "gone between two looks")]

    def mkdir(path, *words, **options):
        if refusals:
            raise refusals.pop()
        make(path, *words, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with alone(tmp_path / "run", "raydd experts"):
        assert (tmp_path / "run" / ".lock").exists()
    assert not refusals


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    refusal = r"run cannot be written \((File exists|Not a directory)\)"
    with pytest.raises(ValueError, match=refusal), alone(tmp_path / "run", "raydd experts"):
        pass


def test_files_beside_each_other_have_locks_of_their_own(tmp_path):
    with ExitStack() as stack:
        for name in ("a.json", "b.json"):
            stack.enter_context(alone(tmp_path / name, "raydd evaluate", beside=True))
        assert sorted(path.name for path in tmp_path.iterdir()) == [".a.json.lock", ".b.json.lock"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_of_and_worked_on(tmp_path, monkeypatch, number):
    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    lines = []
    with alone(tmp_path / "run", "raydd distill", lines.append):
        pass
    assert len(lines) == 1
    assert "has no locks" in lines[0]


@pytest.mark.parametrize("place", ["file/run", "/proc/nothing/run"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("")
    refused = pytest.raises(ValueError, match=r"cannot be written \(.+\); name another folder")
    with refused, alone(tmp_path / place, "raydd distill"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
