"""Seconds of CPU until a person sees something; the best of three starts, since the first may write bytecode."""

import os
import resource
import signal
import subprocess
import sys

import pytest

from raydd.cli import main

SLACK = 1.5  # a machine of continuous integration may be slower than the one that the limits were set on
LIMITS = {
    ("-c", "import raydd"): 0.1,
    ("-m", "raydd", "--version"): 0.5,
    ("-m", "raydd", "--help"): 0.5,
    ("-m", "raydd", "distill", "--help"): 0.5,
}


def spent() -> float:
    """Seconds of CPU of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(words: tuple[str, ...], cache: str) -> float:
    """Seconds of CPU of one command, with bytecode in a folder of the test's own."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    before = spent()
    subprocess.run(
        [sys.executable, *words],
        env=environment | {"PYTHONPYCACHEPREFIX": cache},
        capture_output=True,
        check=True,
        timeout=60,
    )
    return spent() - before


@pytest.mark.parametrize("words", LIMITS, ids=" ".join)
def test_a_start_takes_little_of_the_processor(words, tmp_path_factory):
    cache = str(tmp_path_factory.getbasetemp() / "bytecode")
    assert min(seconds(words, cache) for _ in range(3)) < SLACK * LIMITS[words]


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)],
    ids=["unset", "spins given", "policy given"],
)
def test_a_waiting_thread_soon_sleeps_unless_the_environment_says_otherwise(given, spins, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.environ", dict(os.environ))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        main(["--version"])
    signal.signal(signal.SIGTERM, handler)
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_openmp_has_read_how_long_a_waiting_thread_spins(tmp_path):
    """It reads that when torch is loaded, which must not be before the command has set it."""
    words = ("distill", "--method", "random", "--dataset", "digits", "--ipc", "1", "--out", str(tmp_path / "run"))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    told = subprocess.run(
        [sys.executable, "-m", "raydd", *words],
        env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stderr
    assert "GOMP_SPINCOUNT = '5000'" in told
