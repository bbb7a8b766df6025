"""Experts that are written a snapshot at a time: the bytes of the whole trajectory, and never more held than one."""

import dataclasses
import os
import signal
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from buffer_specs import make_spec

from raydd.buffer.arrow_buffer import complete_experts
from raydd.buffer.expert_file import ExpertTrajectory, expert_path, step_norms, write_expert
from raydd.buffer.expert_writer import ExpertWriter, Row, Rows, pieces
from raydd.buffer.manifest import write_manifest
from raydd.buffer.verification import verify
from raydd.io.arrow_file import checksum, open_arrow, write_arrow
from raydd.io.files import remove_temporaries, writer
from raydd.numerics.flat import layout_of
from raydd.numerics.rng import generator

PLAIN = make_spec(layout_of({"w": torch.zeros(30, 5), "b": torch.zeros(4)}))
STATISTICS = dataclasses.replace(PLAIN, buffer_layout=layout_of({"mean": torch.zeros(2), "var": torch.zeros(2)}))
SPECS = {
    "plain": PLAIN,
    "statistics": STATISTICS,
    "kept": dataclasses.replace(STATISTICS, kept=(0, 2, 7)),
    "float16": dataclasses.replace(PLAIN, storage="float16"),
    "kept in bfloat16": dataclasses.replace(STATISTICS, kept=(0, 3, 5, 7), storage="bfloat16"),
}


def snapshots(spec, count=8):
    """theta (T, P), running statistics (T, Q), accuracies and losses."""
    rng, nan = generator(5), float("nan")
    p, q = (sum(slot.numel for slot in layout) for layout in (spec.layout, spec.buffer_layout))
    theta = torch.randn(count, p, generator=rng).cumsum(0)
    return theta, torch.randn(count, q, generator=rng), [nan, *(0.1 * t for t in range(1, count))], [nan] * count


def spooled(folder, spec, most=None, index=3):
    rows, columns = Rows(spec, index), snapshots(spec)
    with ExpertWriter(folder, spec, index) as spool:
        for epoch, (theta, buffers, accuracy, loss) in enumerate(zip(*columns, strict=True)):
            row = rows.row(theta.clone(), buffers, epoch, accuracy, loss)
            for piece in pieces(row, most) if most else [row]:
                spool.add(piece)
        return spool.finish()


def whole(folder, spec, index=3):
    """The same by `write_expert`, which is given all at once."""
    theta, buffers, accuracy, loss = snapshots(spec)
    epochs = range(8) if spec.kept is None else spec.kept
    at = [*epochs]
    norms = None if spec.kept is None else step_norms(theta.numpy(), spec.layout)
    accuracy, loss = [accuracy[t] for t in at], [loss[t] for t in at]
    return write_expert(folder, spec, index, ExpertTrajectory(theta[at], buffers[at], epochs, accuracy, loss, norms))


@pytest.mark.parametrize("most", [None, 1, 100, 10**6])
@pytest.mark.parametrize("name", SPECS)
def test_the_bytes_are_those_of_the_whole_trajectory(tmp_path, name, most):
    spec = SPECS[name]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_manifest(tmp_path / folder, spec, [])
    one, other = spooled(tmp_path / "a", spec, most), whole(tmp_path / "b", spec)
    assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in one.parent.iterdir()) == ["expert-00003.arrow", "manifest.json"]
    assert verify(tmp_path / "a") == []


def test_pieces_are_no_larger_than_asked(tmp_path):
    row = Rows(PLAIN, 0).row(torch.arange(154.0), torch.zeros(0), 0, 0.5, 0.5)
    found = [*pieces(row, 160)]
    assert [len(piece.theta if isinstance(piece, Row) else piece) for piece in found] == [40, 40, 40, 34]
    assert np.concatenate([found[0].theta, *found[1:]]).tolist() == list(range(154))
    assert [*pieces(row._replace(theta=None), 160)] == [row._replace(theta=None)]


def one_by_one(count, alive):
    """Snapshots; ``alive`` gets how many of them are held when one has just been made."""
    made = []
    for epoch in range(count):
        values = np.full(154, float(epoch), np.float32)
        made.append(weakref.ref(values))
        alive.append(sum(reference() is not None for reference in made))
        yield torch.from_numpy(values), torch.zeros(4), epoch, 0.0, 0.0
        del values  # as in training, the snapshot is the taker's alone


@pytest.mark.parametrize("name", SPECS)
def test_two_snapshots_are_held_at_most(tmp_path, name):
    alive, spec = [], SPECS[name]
    rows = Rows(spec, 0)
    with ExpertWriter(tmp_path, spec, 0) as spool:
        for snapshot in one_by_one(8, alive):
            spool.add(rows.row(*snapshot))
            del snapshot
    assert alive == [1, 2, 2, 2, 2, 2, 2, 2]


def test_an_expert_that_diverges_is_refused_at_once(tmp_path):
    rows = Rows(STATISTICS, 4)
    rows.row(torch.zeros(154), torch.zeros(4), 0, 0.1, 0.1)
    for theta, buffers, words in (
        (torch.full((154,), float("nan")), torch.zeros(4), "theta is not finite at epoch 1"),
        (torch.zeros(154), torch.full((4,), float("inf")), "buffers is not finite at epoch 1"),
    ):
        with pytest.raises(ValueError, match=f"^expert 4 diverged: {words}; lower the experts' learning rate$"):
            rows.row(theta, buffers, 1, 0.1, 0.1)


def test_what_is_not_finished_leaves_nothing(tmp_path):
    def stopped():
        with ExpertWriter(tmp_path, PLAIN, 0) as spool:
            spool.add(Rows(PLAIN, 0).row(torch.zeros(154), torch.zeros(0), 0, 0.1, 0.1))
            assert len([*tmp_path.iterdir()]) == 1
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    assert [*tmp_path.iterdir()] == []


def test_rows_that_are_no_expert_are_refused(tmp_path):
    rows = Rows(PLAIN, 0)
    with ExpertWriter(tmp_path, PLAIN, 0) as spool:
        for epoch in (0, 2):
            spool.add(rows.row(torch.zeros(154), torch.zeros(0), epoch, 0.1, 0.1))
        with pytest.raises(ValueError, match=r"expert 0 does not fit its buffer: epochs are \[0, 2\]"):
            spool.finish()
    assert [*tmp_path.iterdir()] == []


KILLED = """
import os, signal, sys
import torch
from raydd.buffer.manifest import read_manifest
from raydd.buffer.expert_writer import Rows, ExpertWriter
spec = read_manifest(sys.argv[1])[0]
rows, spool = Rows(spec, 1), ExpertWriter(sys.argv[1], spec, 1)
for epoch in range(3):
    spool.add(rows.row(torch.zeros(154), torch.zeros(0), epoch, 0.1, 0.1))
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_what_is_swept_and_is_no_expert(tmp_path):
    write_manifest(tmp_path, PLAIN, [])
    spooled(tmp_path, PLAIN)
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = tmp_path.glob("*.tmp")
    assert left.name.startswith(f"expert-00001.arrow.{writer().split('.')[0]}.{int(done.stdout)}.")
    with ExpertWriter(tmp_path, PLAIN, 2):
        remove_temporaries(tmp_path, writer() + "0")  # another process's
        assert len([*tmp_path.glob("*.tmp")]) == 2
        assert complete_experts(tmp_path, PLAIN) == {3}
        assert len([*tmp_path.glob("*.tmp")]) == 1  # that of the living one
        remove_temporaries(tmp_path, writer())
        assert [*tmp_path.glob("*.tmp")] == []
    assert os.path.exists(expert_path(tmp_path, 3))


def test_large_columns_are_let_go_of_as_they_are_read(tmp_path):
    """Every 16 MB, with the bytes and the checksum unchanged."""
    columns = {"theta": np.arange(10 * 2**20, dtype=np.float32).reshape(5, -1), "epoch": np.arange(5, dtype=np.int32)}
    calls = []
    one = write_arrow(tmp_path / "a.arrow", columns, {"k": "v"}, lambda: calls.append(1))
    assert len(calls) >= 3
    assert one.read_bytes() == write_arrow(tmp_path / "b.arrow", columns, {"k": "v"}).read_bytes()
    calls.clear()
    table = open_arrow(one)
    assert checksum(table.columns, lambda: calls.append(1)) == checksum(columns)
    assert len(calls) >= 3
    table.release()
    assert table.columns["theta"][4, -1] == 10 * 2**20 - 1


def test_no_message_is_held_once_its_values_are_taken(tmp_path):
    """What comes from a worker is a view of its message, which stays in the object store for as long as the view."""
    spec = SPECS["kept in bfloat16"]
    rows = Rows(spec, 0)
    theta, buffers, accuracy, loss = (column[0] for column in snapshots(spec))
    row = rows.row(theta, buffers, 0, accuracy, loss)
    messages = []

    def came(values):
        message = np.frombuffer(bytearray(values.tobytes()), values.dtype)
        messages.append(weakref.ref(message))
        return message[:].reshape(values.shape)

    names = ("norm", "theta", "buffers", "rounding")
    with ExpertWriter(tmp_path, spec, 0) as spool:
        spool.add(row._replace(**{name: came(getattr(row, name)) for name in names}))
        assert [message() is None for message in messages] == [True] * 4
