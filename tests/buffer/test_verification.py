"""A machine reads each file of a buffer once; one that has been touched since is read again."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch
from buffer_specs import make_spec

from raydd.buffer import verification
from raydd.buffer.arrow_buffer import create_buffer, refresh_manifest
from raydd.buffer.expert_file import ExpertTrajectory, expert_path, write_expert
from raydd.buffer.verification import check_whole, verify
from raydd.io import found_whole
from raydd.numerics.flat import layout_of
from raydd.numerics.rng import generator

SPEC = make_spec(layout_of({"w": torch.zeros(3, 5)}))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    create_buffer(tmp_path / "buffer", SPEC)
    for index in range(4):
        theta = torch.randn(3, 15, generator=generator(0, index))
        write_expert(tmp_path / "buffer", SPEC, index, ExpertTrajectory(theta, None, range(3), [0.5] * 3, [1.0] * 3))
    refresh_manifest(tmp_path / "buffer")
    long_ago = time.time
    monkeypatch.setattr(found_whole.time, "time", lambda: long_ago() + 60)
    return tmp_path / "buffer"


@pytest.fixture
def read(monkeypatch):
    """The number of files that have been read, and the threads that read them."""
    checksum, found = verification.checksum, []

    def count(*arguments):
        found.append(threading.get_ident())
        return checksum(*arguments)

    monkeypatch.setattr(verification, "checksum", count)
    return found


def flip(path, keep_time=False):
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[data.index(torch.randn(3, 15, generator=generator(0, 1)).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_was_found_whole_is_not_read_again(folder, read):
    check_whole(folder)
    assert len(read) == 4
    check_whole(folder)
    assert len(read) == 4
    check_whole(os.path.relpath(folder))
    assert len(read) == 4, "the same folder under another name"
    assert verify(folder) == []
    assert len(read) == 8, "the command reads everything"


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_file_that_was_touched_is_read_again(folder, read, keep_time):
    check_whole(folder)
    flip(expert_path(folder, 1), keep_time)
    for _ in range(2):  # damage is not remembered as whole
        with pytest.raises(ValueError, match=r"expert-00001\.arrow is damaged: its values changed"):
            check_whole(folder)
    assert len(read) == 6


def test_another_file_in_its_place_is_read(folder, read):
    check_whole(folder)
    path = expert_path(folder, 1)
    before = path.stat()
    copy = Path(f"{path}.copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(copy, path)
    check_whole(folder)
    assert len(read) == 5


def test_a_file_of_the_last_seconds_is_not_remembered(folder, read, monkeypatch):
    """A change within the same tick of the clock would leave its times as they were."""
    monkeypatch.setattr(found_whole.time, "time", lambda: expert_path(folder, 1).stat().st_ctime)
    for count in (4, 8):
        check_whole(folder)
        assert len(read) == count


@pytest.mark.parametrize("content", [b"", b"{}", b'{"folder": "a", "files": {"expert-00001.arrow": [1]}}'])
def test_a_damaged_memory_costs_a_reading(folder, read, content):
    check_whole(folder)
    (memory,) = verification.default_cache().glob("verified/*.json")
    memory.write_bytes(content)
    check_whole(folder)
    assert len(read) == 8
    check_whole(folder)
    assert len(read) == 8


def test_without_a_cache_every_byte_is_read_each_time(folder, read, monkeypatch):
    (folder.parent / "file").write_bytes(b"")
    monkeypatch.setenv("RAYDD_CACHE", str(folder.parent / "file"))
    for count in (4, 8):
        check_whole(folder)
        assert len(read) == count


def test_files_are_read_in_parallel(folder, monkeypatch):
    """Two threads meet in the checksum, which one alone would wait in for ever."""
    monkeypatch.setattr(verification.os, "sched_getaffinity", lambda process: {0, 1})
    together, checksum = threading.Barrier(2, timeout=20), verification.checksum
    monkeypatch.setattr(verification, "checksum", lambda *args: (together.wait(), checksum(*args))[1])
    assert verify(folder) == []
