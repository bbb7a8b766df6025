import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from buffer_specs import make_spec

from raydd.buffer.arrow_buffer import ArrowBuffer, complete_experts, create_buffer, refresh_manifest
from raydd.buffer.describe import describe
from raydd.buffer.expert_file import ExpertTrajectory, expert_path, write_expert
from raydd.buffer.segments import InMemory
from raydd.buffer.spec import BufferSpec
from raydd.buffer.verification import verify
from raydd.io.arrow_file import open_arrow, write_arrow
from raydd.io.document import dump_document
from raydd.io.files import atomic_path, sweep, write_atomic
from raydd.numerics.flat import layout_of
from raydd.numerics.rng import generator

SPEC = make_spec(
    layout_of({"w": torch.zeros(3, 5), "b": torch.zeros(4)}),
    preprocessing={"kind": "zca", "eps": 0.1},
    network="ConvNetW32",
    recipe={"lr": 0.01, "optimizer": {"name": "sgd"}},
)
BATCHNORM = dataclasses.replace(
    SPEC, network="ConvNetBN", buffer_layout=layout_of({"mean": torch.zeros(2), "var": torch.zeros(2)})
)


def expert(index, spec=SPEC, snapshots=6):
    rng = generator(0, index)
    p, q = (sum(slot.numel for slot in layout) for layout in (spec.layout, spec.buffer_layout))
    return ExpertTrajectory(
        theta=torch.randn(snapshots, p, generator=rng),
        buffers=torch.randn(snapshots, q, generator=rng) if q else None,
        epochs=range(snapshots),
        accuracy=[0.1 * t + 0.01 * index for t in range(snapshots)],
        train_loss=[float("nan")] + [1.0 / t for t in range(1, snapshots)],
    )


def make(folder, spec=SPEC, experts=(0, 1, 2)):
    create_buffer(folder, spec)
    for index in experts:
        write_expert(folder, spec, index, expert(index, spec))
    refresh_manifest(folder)
    return folder


def one_line(caught, *words):
    text = str(caught.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == [], text


def flip(path, needle, bit=1):
    """Flip one bit in the file at the first place where ``needle``'s bytes are."""
    data = bytearray(path.read_bytes())
    data[data.index(needle)] ^= bit
    path.write_bytes(data)


def test_round_trip_is_bitwise(tmp_path):
    buffer = ArrowBuffer(make(tmp_path / "b", BATCHNORM))
    assert (buffer.experts, buffer.epochs, buffer.parameters) == ((0, 1, 2), 5, 19)
    assert buffer.spec == BATCHNORM
    for index in buffer.experts:
        written = expert(index, BATCHNORM)
        for t in range(6):
            assert torch.equal(buffer.snapshot(index, t), written.theta[t])
            assert torch.equal(buffer.running_stats(index, t), written.buffers[t])
        assert buffer.accuracy[index].tolist() == list(written.accuracy)
    assert buffer.accuracy.dtype == torch.float64
    assert verify(tmp_path / "b") == []


def test_any_arrow_reader_reads_an_expert_file(tmp_path):
    make(tmp_path)
    with pa.OSFile(str(expert_path(tmp_path, 1))) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.num_rows == 6
    assert str(table.schema.field("theta").type) == "fixed_size_list<item: float>[19]"
    assert str(table.schema.field("epoch").type) == "int32"
    theta = expert(1).theta
    assert table["theta"].to_pylist() == theta.tolist()
    norm = (theta[4, :15].double() - theta[3, :15].double()).norm()
    np.testing.assert_allclose(table["step_norm"].to_pylist()[4][0], norm, rtol=1e-14)


def test_without_batch_norm_there_are_no_running_statistics(tmp_path):
    assert ArrowBuffer(make(tmp_path)).running_stats(0, 0).shape == (0,)
    empty = dataclasses.replace(expert(3), buffers=torch.zeros(6, 0))
    write_expert(tmp_path, SPEC, 3, empty)
    assert complete_experts(tmp_path, SPEC) == {0, 1, 2, 3}


def test_rewriting_gives_the_same_bytes(tmp_path):
    make(tmp_path / "a", BATCHNORM)
    time.sleep(0.01)
    reordered = dataclasses.replace(BATCHNORM, recipe=dict(reversed(BATCHNORM.recipe.items())))
    make(tmp_path / "b", reordered)
    for index in range(3):
        one, other = (expert_path(tmp_path / folder, index).read_bytes() for folder in "ab")
        assert one == other
    assert os.uname().nodename.encode() not in expert_path(tmp_path / "a", 0).read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "mnist"}, ["dataset", "digits", "mnist"]),
        ({"fingerprint": "0" * 16}, ["fingerprint", "f" * 16, "0" * 16]),
        ({"network": "MLP"}, ["network", "ConvNetW32", "MLP"]),
        ({"seed": 4}, ["seed", "3", "4"]),
        ({"recipe": {"lr": 0.1, "optimizer": {"name": "sgd"}}}, ["recipe.lr", "0.01", "0.1"]),
        ({"recipe": {"lr": 0.01, "optimizer": {"name": "gsam"}}}, ["recipe.optimizer.name", "sgd", "gsam"]),
        ({"recipe": {**SPEC.recipe, "extra": 1}}, ["recipe.extra", "None", "1"]),
        ({"preprocessing_hash": "b" * 16}, ["preprocessing_hash", "a" * 16, "b" * 16]),
        ({"layout": layout_of({"w": torch.zeros(19)})}, ["layout"]),
    ],
)
def test_a_folder_of_other_settings_is_refused(tmp_path, change, words):
    make(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="holds another buffer") as caught:
        create_buffer(tmp_path, dataclasses.replace(SPEC, **change))
    one_line(caught, str(tmp_path), "another --out", *words)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_create_again_keeps_the_experts_and_a_buffer_can_be_extended(tmp_path):
    make(tmp_path, experts=(0,))
    create_buffer(tmp_path, SPEC)
    write_expert(tmp_path, SPEC, 4, expert(4))
    assert ArrowBuffer(tmp_path).experts == (0, 4)  # the files count, even before the manifest has them
    assert complete_experts(tmp_path, SPEC) == {0, 4}
    refresh_manifest(tmp_path)
    index = json.loads((tmp_path / "manifest.json").read_text())["experts"]
    assert [(e["index"], e["file"], e["snapshots"]) for e in index] == [
        (0, "expert-00000.arrow", 6),
        (4, "expert-00004.arrow", 6),
    ]
    assert index[1]["accuracy"] == expert(4).accuracy[-1]


def test_expect_names_both_values(tmp_path):
    buffer = ArrowBuffer(make(tmp_path))
    buffer.expect(fingerprint="f" * 16, preprocessing_hash="a" * 16, network="ConvNetW32")
    buffer.expect()
    for name, value in (("fingerprint", "f" * 16), ("preprocessing_hash", "a" * 16), ("network", "ConvNetW32")):
        with pytest.raises(ValueError, match=name) as caught:
            buffer.expect(**{name: "other"})
        one_line(caught, str(tmp_path), value, "'other'", "--buffer")


def test_segments_equal_those_of_memory(tmp_path):
    buffer = ArrowBuffer(make(tmp_path, experts=(2, 5, 11)))
    memory = InMemory([expert(index).theta for index in (2, 5, 11)])
    for i in range(40):
        mine, theirs = (s.segment((1, 3), 2, generator(0, i), between=True) for s in (buffer, memory))
        assert mine.expert == (2, 5, 11)[theirs.expert]
        assert mine.epoch == theirs.epoch
        for a, b in zip(mine[:2], theirs[:2], strict=True):
            assert torch.equal(a, b)
        assert torch.equal(mine.between, theirs.between)


def test_draws_are_uniform_over_experts_and_the_closed_window(tmp_path):
    buffer, rng = ArrowBuffer(make(tmp_path)), generator(1)
    draws = (buffer.segment((0, 3), 2, rng) for _ in range(3600))
    counts = Counter((s.expert, s.epoch) for s in draws)
    assert set(counts) == {(e, float(t)) for e in range(3) for t in range(4)}
    assert sum((n - 300) ** 2 / 300 for n in counts.values()) < 31.3  # 0.999 quantile, 11 degrees of freedom


def test_what_is_drawn_belongs_to_the_caller(tmp_path):
    buffer = ArrowBuffer(make(tmp_path, BATCHNORM))
    before = expert_path(tmp_path, 0).read_bytes()
    first = buffer.segment((0, 0), 4, generator(0), between=True)
    kept = first.start.clone()
    for tensor in (first.start, first.target, first.between, buffer.running_stats(0, 1), buffer.accuracy):
        tensor.mul_(0)
    assert torch.equal(buffer.segment((0, 0), 4, generator(0)).start, kept)
    assert expert_path(tmp_path, 0).read_bytes() == before
    assert verify(tmp_path) == []


def test_windows_and_epochs_beyond_the_experts_are_refused(tmp_path):
    buffer = ArrowBuffer(make(tmp_path))
    buffer.segment((3, 3), 2, generator(0))
    with pytest.raises(ValueError, match="window") as caught:
        buffer.segment((0, 4), 2, generator(0))
    one_line(caught, "(0, 4)", "span of 2", "have 5", "at 3 or earlier")
    for epoch in (6, -1):
        with pytest.raises(ValueError, match=f"epoch {epoch} is not one of 0 to 5"):
            buffer.snapshot(0, epoch)
    with pytest.raises(ValueError, match=r"expert-00009\.arrow is missing"):
        buffer.snapshot(9, 0)


def test_pickles_as_its_path(tmp_path, monkeypatch):
    make(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(ArrowBuffer("b"))
    monkeypatch.chdir("/")
    assert len(data) < 500
    assert torch.equal(pickle.loads(data).snapshot(1, 2), expert(1).theta[2])


def test_a_folder_that_is_no_buffer(tmp_path):
    with pytest.raises(ValueError, match="does not exist") as caught:
        ArrowBuffer(tmp_path / "none")
    one_line(caught, str(tmp_path / "none"), "raydd experts")
    with pytest.raises(ValueError, match=r"no manifest\.json") as caught:
        ArrowBuffer(tmp_path)
    one_line(caught, str(tmp_path), "raydd experts")
    create_buffer(tmp_path, SPEC)
    with pytest.raises(ValueError, match="holds no experts") as caught:
        ArrowBuffer(tmp_path)
    one_line(caught, str(tmp_path), "raydd experts")


def test_a_broken_or_newer_manifest(tmp_path):
    make(tmp_path)
    path = tmp_path / "manifest.json"
    text = path.read_text()
    for broken in (text[: len(text) // 2], "[]", "{}", ""):
        path.write_text(broken)
        with pytest.raises(ValueError, match="is corrupted") as caught:
            ArrowBuffer(tmp_path)
        one_line(caught, "manifest.json", "raydd experts")
    path.write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ValueError, match="schema version 2; this raydd reads 1"):
        create_buffer(tmp_path, SPEC)


def test_full_buffers_say_nothing_of_kept_epochs(tmp_path):
    """Nor did those of before convexified ones: either opens as the other."""
    make(tmp_path)
    path = tmp_path / "manifest.json"
    text = path.read_text()
    assert "kept" not in json.loads(text)["spec"]
    assert b"kept" not in expert_path(tmp_path, 0).read_bytes()
    assert (ArrowBuffer(tmp_path).kept, describe(tmp_path)["kept"]) == (None, None)
    manifest = json.loads(text)
    path.write_bytes(dump_document(manifest | {"spec": manifest["spec"] | {"kept": None}}))
    assert create_buffer(tmp_path, SPEC) == tmp_path
    assert complete_experts(tmp_path, SPEC) == {0, 1, 2}


@pytest.mark.parametrize("kept", ["[]", "[0]", "[1, 5]", "[0, 4, 2]", "[0, null]", "3"])
def test_kept_epochs_that_make_no_sense(tmp_path, kept):
    make(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', f'"schema_version": 1, "kept": {kept}'))
    with pytest.raises(ValueError, match="is corrupted"):
        ArrowBuffer(tmp_path)


def test_a_convexified_spec_is_another_buffer(tmp_path):
    make(tmp_path)
    kept = dataclasses.replace(SPEC, kept=(0, 2, 5))
    assert BufferSpec.from_json(json.loads(json.dumps(kept.to_json()))) == kept
    with pytest.raises(ValueError, match=r"kept is None instead of \[0, 2, 5\]"):
        create_buffer(tmp_path, kept)
    with pytest.raises(ValueError, match="ascend from 0"):
        dataclasses.replace(SPEC, kept=(0, 5, 5))


def test_norms_are_the_stored_ones_and_belong_to_the_caller(tmp_path):
    buffer = ArrowBuffer(make(tmp_path, BATCHNORM))
    memory = InMemory([expert(index, BATCHNORM).theta for index in range(3)], BATCHNORM.layout)
    for index in buffer.experts:
        assert torch.equal(buffer.norms(index), memory.norms(index))
    buffer.norms(1).zero_()
    assert torch.equal(buffer.norms(1), memory.norms(1))
    assert buffer.layout == BATCHNORM.layout


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file(tmp_path, keep):
    make(tmp_path)
    path = expert_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ValueError, match="expert-00001") as caught:
        ArrowBuffer(tmp_path)
    one_line(caught, str(path), "raydd buffer verify", "raydd experts")
    assert [problem.file for problem in verify(tmp_path)] == ["expert-00001.arrow"]
    assert complete_experts(tmp_path, SPEC) == {0, 2}
    assert not path.exists()
    assert path.with_name(path.name + ".bad").exists()
    with pytest.raises(ValueError, match=r"expert-00001\.arrow is missing"):
        ArrowBuffer(tmp_path)
    write_expert(tmp_path, SPEC, 1, expert(1))
    assert complete_experts(tmp_path, SPEC) == {0, 1, 2}
    assert verify(tmp_path) == []


@pytest.mark.parametrize("column", ["theta", "accuracy", "train_loss", "epoch", "step_norm", "buffers"])
def test_verify_finds_a_flipped_bit_in_every_column(tmp_path, column):
    make(tmp_path, BATCHNORM)
    array = expert(1, BATCHNORM).columns(BATCHNORM.layout)[column]
    flip(expert_path(tmp_path, 1), array[3:5].tobytes())
    problems = verify(tmp_path)
    assert [problem.file for problem in problems] == ["expert-00001.arrow"]
    assert "epoch" in problems[0].what if column == "epoch" else "checksum" in problems[0].what


def test_flipped_bits_anywhere_are_refused_found_or_harmless(tmp_path):
    make(tmp_path, experts=(0,))
    path = expert_path(tmp_path, 0)
    whole, theta = path.read_bytes(), expert(0).theta
    found = 0
    for place in range(0, len(whole), 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        if verify(tmp_path):
            found += 1
        else:
            assert torch.equal(torch.stack([ArrowBuffer(tmp_path).snapshot(0, t) for t in range(6)]), theta)
    assert found > 100


def test_verify_compares_with_the_manifest(tmp_path):
    make(tmp_path)
    write_expert(tmp_path, SPEC, 1, expert(7))
    expert_path(tmp_path, 2).unlink()
    write_expert(tmp_path, SPEC, 0, expert(0, snapshots=4))
    problems = dict(verify(tmp_path))
    assert set(problems) == {f"expert-0000{i}.arrow" for i in range(3)}
    assert "checksum" in problems["expert-00000.arrow"]
    assert "checksum" in problems["expert-00001.arrow"]
    assert "missing" in problems["expert-00002.arrow"]


def test_a_file_of_another_buffer_is_refused_and_set_aside(tmp_path):
    make(tmp_path)
    other = dataclasses.replace(SPEC, seed=8)
    write_expert(tmp_path, other, 1, expert(1, other))
    (tmp_path / "expert-00002.arrow").write_bytes(expert_path(tmp_path, 0).read_bytes())
    problems = dict(verify(tmp_path))
    assert "seed is 8 instead of 3" in problems["expert-00001.arrow"]
    assert "expert is 0" in problems["expert-00002.arrow"]
    assert complete_experts(tmp_path, SPEC) == {0}


def test_what_does_not_fit_is_not_written(tmp_path):
    create_buffer(tmp_path, SPEC)
    good = expert(0)
    diverged = good.theta.clone()
    diverged[2, 3] = float("nan")
    for change, words in (
        ({"theta": diverged}, ["expert 0 diverged", "epoch 2", "learning rate"]),
        ({"theta": good.theta[:, :-1]}, ["theta", "(6, 18)", "(6, 19)"]),
        ({"theta": good.theta.double()}, ["theta", "float64", "float32"]),
        ({"accuracy": [0.0]}, ["accuracy", "(1,)", "(6,)"]),
        ({"epochs": [0, 1, 2, 3, 4, 6]}, ["epochs", "6"]),
        ({"buffers": torch.zeros(6, 4)}, ["buffers"]),
    ):
        with pytest.raises(ValueError, match="expert 0") as caught:
            write_expert(tmp_path, SPEC, 0, dataclasses.replace(good, **change))
        one_line(caught, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_describe_is_json(tmp_path):
    make(tmp_path)
    report = json.loads(json.dumps(describe(tmp_path), allow_nan=False))
    last = [expert(i).accuracy[-1] for i in range(3)]
    mean = sum(last) / 3
    assert report["accuracy"]["last"]["mean"] == pytest.approx(mean)
    assert report["accuracy"]["last"]["std"] == pytest.approx((sum((a - mean) ** 2 for a in last) / 3) ** 0.5)
    assert report["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.arrow"))
    assert (report["dataset"], report["experts"], report["epochs"]) == ("digits", 3, 5)
    assert (report["preprocessing"], report["recipe"]) == ("zca", SPEC.recipe)
    unmeasured = dataclasses.replace(expert(3), accuracy=[float("nan")] * 6)
    write_expert(tmp_path, SPEC, 3, unmeasured)
    refresh_manifest(tmp_path)
    assert describe(tmp_path)["accuracy"] == {"first": None, "last": None}


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    path = write_atomic(tmp_path / "new" / "a", b"old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["a"]


def test_arrow_columns_of_any_shape_and_plain_type(tmp_path):
    columns = {"a": np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, :, ::-1], "b": np.array([1.5, -2])}
    table = open_arrow(write_arrow(tmp_path / "t.arrow", columns, {"k": "v"}))
    assert table.columns["a"].tolist() == columns["a"].reshape(2, 12).tolist()
    assert table.columns["b"].tolist() == [1.5, -2]
    assert table.metadata == {"k": "v"}
    assert not table.columns["a"].flags.writeable
    assert table.rows("a", 0, 1).flags.writeable
    with pytest.raises(ValueError, match="a column of bool"):
        write_arrow(tmp_path / "bool.arrow", {"a": np.array([True])}, {})


def test_a_killed_writers_leftovers_are_swept_and_a_living_ones_kept(tmp_path):
    """Where work begins, and where it ends: an orphan may die meanwhile."""
    make(tmp_path, experts=(0,))
    script = """
import os, signal, sys
from raydd.io.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half an expert")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, str(expert_path(tmp_path, 1))], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob("*.tmp")
    (tmp_path / "notes.tmp").write_text("somebody's own")
    elsewhere = tmp_path / "expert-00002.arrow.00000000.1.00000000.tmp"
    elsewhere.write_bytes(b"another machine's")
    with atomic_path(expert_path(tmp_path, 3)) as mine:
        mine.write_bytes(b"being written")
        assert complete_experts(tmp_path, SPEC) == {0}
        assert not left.exists()
        left.write_bytes(b"half an expert")
        refresh_manifest(tmp_path)
        assert not left.exists()
        assert mine.exists()
        assert elsewhere.exists()
        os.utime(elsewhere, (0, 0))
        assert sweep(tmp_path) == [elsewhere]
    assert (tmp_path / "notes.tmp").exists()


BIG = dataclasses.replace(SPEC, layout=layout_of({"w": torch.zeros(40, 1000)}))


def big(folder):
    """4 experts x 21 snapshots of 40 000 parameters in 8 tensors' worth: 13 MB."""
    create_buffer(folder, BIG)
    for index in range(4):
        write_expert(folder, BIG, index, expert(index, BIG, snapshots=21))
    refresh_manifest(folder)
    return folder


def test_opening_and_drawing_is_much_faster_than_torch_load(tmp_path):
    big(tmp_path / "arrow")
    lists = [[list(row.split(5000)) for row in expert(i, BIG, snapshots=21).theta] for i in range(4)]
    lists = [[[tensor.clone() for tensor in row] for row in rows] for rows in lists]
    torch.save(lists, tmp_path / "list.pt")

    def seconds(work):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)

    arrow = seconds(lambda: ArrowBuffer(tmp_path / "arrow").segment((0, 18), 2, generator(0)))
    lists = seconds(lambda: torch.cat(torch.load(tmp_path / "list.pt", weights_only=True)[1][2]))
    assert lists >= 5 * arrow


PRIVATE = """
import sys, torch, pyarrow
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.numerics.rng import generator
def private():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
torch.randn(40_000)
before = private()
buffer = ArrowBuffer(sys.argv[1])
for i in range(60):
    buffer.segment((0, 18), 2, generator(0, sys.argv[2], i))
print(private() - before, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_drawing_adds_little_private_memory(tmp_path):
    big(tmp_path)
    size = describe(tmp_path)["bytes"]
    command = [sys.executable, "-c", PRIVATE, str(tmp_path)]
    pipe = subprocess.PIPE
    readers = [subprocess.Popen([*command, str(i)], stdin=pipe, stdout=pipe, text=True) for i in range(2)]
    added = [int(reader.stdout.readline()) for reader in readers]
    for reader in readers:
        reader.communicate("")
        assert reader.returncode == 0
    assert sum(added) < 0.5 * size  # a private copy in each would be 2.0


def test_many_experts_are_read_with_few_files_open(tmp_path, monkeypatch):
    create_buffer(tmp_path, SPEC)
    for index in range(9):
        write_expert(tmp_path, SPEC, index, expert(index))
    monkeypatch.setattr("raydd.buffer.arrow_buffer.OPEN_FILES", 4)
    buffer = ArrowBuffer(tmp_path)

    def mapped():
        return sum(f"{tmp_path}/expert-" in line for line in Path("/proc/self/maps").read_text().splitlines())

    for _ in range(2):
        for index in range(9):
            assert torch.equal(buffer.snapshot(index, 1), expert(index).theta[1])
            assert mapped() <= 4
