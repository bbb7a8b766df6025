"""What a person at a terminal sees: something that moves, whatever a command works at."""

import os
import pty
import select
import subprocess
import sys
import time

import pytest

SILENCE_SECONDS = 3.0
MACHINE_SECONDS = 3.0  # what a machine with more to do than processors may hold the ticking up
QUICK = "--set threads=1 --set steps=20 --set student_steps=1 --set span=1 --set window.high=1"


def watched(folder, command, cache):
    """Run a command at a terminal: its exit code, the longest silence before its end, where that was, and the text."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "RAYDD_CACHE": str(cache)}
    words = [sys.executable, "-m", "raydd", *command.split()]
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        last, longest, place, text = time.monotonic(), 0.0, "", ""
        while content := _read(ours):
            if (gap := time.monotonic() - last) > longest:
                longest, place = gap, text[-200:]
            last = time.monotonic()
            text += content
        os.close(ours)
        return process.wait(60), longest, place, text


def _read(terminal):
    ready, _, _ = select.select([terminal], [], [], 60)
    try:
        return os.read(terminal, 65536).decode(errors="replace") if ready else ""
    except OSError:  # the other end is closed
        return ""


@pytest.mark.remote
@pytest.mark.slow
def test_no_command_is_silent_for_long(tmp_path, small_buffer):
    """Loading, reading images, choosing, Ray's start, workers' start, steps, scores, the report."""
    distill = f"distill --network MLP --buffer {small_buffer} {QUICK} --set evaluate_every=10 --set evaluate_epochs=50"
    commands = {
        "experts --network MLP --num-experts 2 --epochs 3 --num-workers 1 --out experts": ["starting Ray", "experts"],
        f"{distill} --out run": ["loading raydd", "mtt, ipc 1"],
        "evaluate run --seeds 1 --num-workers 1 --set epochs=5 --set real_epochs=2": ["starting Ray", "evaluate"],
    }
    for command, seen in commands.items():
        code, longest, place, text = watched(tmp_path, command, tmp_path / "cache")
        assert code == 0, text[-2000:]
        assert longest < SILENCE_SECONDS + MACHINE_SECONDS, (command, longest, place)
        assert [words for words in seen if words not in text] == []
        assert not text.rpartition("\x1b[2K")[2].strip().endswith(" s")
