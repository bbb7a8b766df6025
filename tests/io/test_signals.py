"""SIGTERM as an exception, and handlers that are put back."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from raydd.io import signals
from raydd.io.signals import TERMINATED, terminate, terminates


def term():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """Each test begins as a program does, and what it changes is undone."""
    monkeypatch.setattr(signals, "_received", [])
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_sigterm_unwinds_with_the_code_of_a_shell():
    done = []

    def works():
        with terminates():
            try:
                term()
            finally:
                done.append(signal.getsignal(signal.SIGTERM))

    with pytest.raises(SystemExit) as caught:
        works()
    assert (caught.value.code, TERMINATED) == (143, 143)
    assert done == [terminate]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_another_library_may_change_the_handler_and_the_code():
    """As Ray does: its `init` sets a handler, and an exception that a handler raises while it waits gets the code 1."""

    def works():
        with terminates() as again:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            again()
            try:
                term()
            except SystemExit:
                sys.exit(1)

    with pytest.raises(SystemExit) as caught:
        works()
    assert caught.value.code == 143


def test_other_exits_keep_their_code():
    with pytest.raises(SystemExit) as caught, terminates():
        sys.exit(7)
    assert caught.value.code == 7


def test_a_handler_of_the_programs_own_is_kept():
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    with terminates() as again:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        again()
        term()
    term()
    assert seen == [signal.SIGTERM] * 2


def test_another_thread_sets_no_handler():
    seen = []

    def works():
        with terminates() as again:
            again()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=works)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_a_verb_without_ray_ends_with_a_line(tmp_path):
    code = "import os, signal\nfrom raydd import cli\n"
    code += "import raydd.cli.files\nimport raydd.data.datasets as data\n"
    code += "data.load_dataset = lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM)\ncli.main(['datasets', 'digits'])"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1][:25]) == (143, "raydd: ended by SIGTERM; "), done.stderr
