"""Keeping freed memory is a matter of speed: no value depends on it."""

import ctypes
import subprocess
import sys

import pytest

from raydd.io import memory
from raydd.io.memory import keep_memory, system_memory

TRAININGS = """
import hashlib, torch
from raydd.io.memory import keep_memory
torch.set_num_threads(1)

def train():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(3):
        x, y = torch.randn(160_000, 8), torch.randint(3, (160_000,))  # 41 MB a layer: a block of its own by default
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in network.parameters())).hexdigest()

print(train(), keep_memory(), train(), train())
"""


@pytest.mark.integration
@pytest.mark.slow
def test_a_training_is_the_same_with_and_without():
    """In a process of its own, since what is asked of the C library cannot be taken back."""
    words = [sys.executable, "-c", TRAININGS]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    before, known, first, second = done.stdout.split()
    assert known in ("True", "False")
    assert len(before) == 64
    assert before == first == second


def test_it_says_whether_the_c_library_knows_of_it(monkeypatch):
    answers, asked = [1, 1, 1, 0, 1, 1, 1, 1, 0], []

    class Library:
        def mallopt(self, *arguments):
            asked.append(arguments)
            return answers.pop(0)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    assert [keep_memory() for _ in range(3)] == [True, False, False]
    # M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD -1 and M_TOP_PAD -2 in glibc's malloc.h
    assert asked[:3] == [(-3, 2**30), (-1, 2**30), (-2, 2**27)]


BLOCKS = """
import ctypes, resource, sys, threading
from raydd.io.memory import keep_memory
c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
PAGES, TIMES = 10_000, 20

def use():
    for _ in range(TIMES):
        blocks = [c.malloc(4096 * PAGES) for _ in range(2)]
        for block in blocks:
            c.memset(block, 1, 4096 * PAGES)
        for block in blocks:
            c.free(block)

def faults(thread):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    if thread:
        worker = threading.Thread(target=use)
        worker.start()
        worker.join()
    else:
        use()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / PAGES

before = faults(True)
keep_memory()
print(before, faults(False), faults(True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_not_cleared_again_in_any_thread():
    """Two blocks of 41 MB, for which a heap of a thread has no room, used 20 times; in a process of its own."""
    done = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, timeout=60, check=True)
    before, main, thread = map(float, done.stdout.split())
    assert before > 30
    assert main < 5
    assert thread < 5


@pytest.mark.parametrize("error", [AttributeError, OSError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    def unknown(name):
        raise error

    monkeypatch.setattr(memory.ctypes, "CDLL", unknown)
    assert keep_memory() is False


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_here_it_is_known():
    assert keep_memory() is True


def test_free_memory_is_that_of_the_tightest_control_group(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 1\nshmem 900\nfile 1700\ninactive_file 500\nactive_file 300\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert system_memory() == (1800, 5000)
    (tmp_path / "memory.max").write_text("max\n")
    assert system_memory() > (5000, 5000)
    monkeypatch.setattr(memory, "_numbers", lambda path: {})
    assert system_memory() == (float("inf"), float("inf"))
