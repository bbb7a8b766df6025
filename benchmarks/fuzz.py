"""Damaged and forged files of raydd's own: refused in a line, or read as what they say; never a traceback or a hang.

    python benchmarks/fuzz.py --mutations 10000 --write

makes a small file of every kind, and changes it again and again. Half of the files are damaged: bits flipped, parts
cut, moved, repeated or zeroed, or something else in the file's place (a FIFO, a folder, a link, a device). The others
are forged: values of other types and sizes, missing and doubled keys, shapes without bytes, and so on, with the
checksum made to fit. A process of its own reads them, and is watched. It has to give one line that names the file, or a
reading: of a damaged file the same as before, of a forged one anything that is the same when it is read again.

A kind is a row of `KINDS`, and may be of files that are read but were not written here.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SECONDS, BYTES = 10.0, 1 << 30
BAD = ("traceback", "hang", "memory", "silent")
Rng = random.Random
Tree = Any


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        make: Writes files of it into a folder.
        read: Reads them, and gives what was read as text.
        forge: Another content of a file with a checksum that fits, of its name and content; None damages only.
        files: Which of the folder's files are mutated.
        prefix: Whether the beginning of a file is a file too: that of a log which is appended to.
        sealed: Whether a checksum tells a damaged file; files of others have none, and may say something else then.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], str]
    forge: Callable[[str, bytes, Rng], bytes] | None
    files: tuple[str, ...]
    prefix: bool = False
    sealed: bool = True


def damaged(data: bytes, rng: Rng) -> bytes:
    """Bytes with one damage."""
    size = max(len(data), 1)
    one, other = sorted((rng.randrange(size), rng.randrange(size)))
    near = min(one + rng.choice([1, 2, 8, 64]), size)
    flipped = bytearray(data or b"\0")
    flipped[one] ^= 1 << rng.randrange(8)
    written = bytearray(data or b"\0")
    written[one] = rng.choice(b'0123456789-+.eE[]{}",:\n\0\xff')
    choices = [
        bytes(flipped),
        bytes(flipped),
        bytes(written),
        bytes(written),
        data[:one],
        data[one:],
        data[:one] + data[near:],
        data[:one] + data[other:],
        data[:near] + data[one:],
        data[:one] + bytes(near - one) + data[near:],
        data[:one] + data[near:other] + data[one:near] + data[other:] if near < other else data[:one],
        data + rng.randbytes(rng.choice([1, 8, 100])),
        data[: data.rfind(b"\n", 0, one) + 1],
        b"",
        rng.randbytes(100),
        data[:one] + b"[" * 2000 + data[one:],
    ]
    return rng.choice(choices)


def replaced(path: Path, rng: Rng) -> None:
    """Put something that is no regular file, or a huge one, in a file's place."""
    path.unlink()
    kind = rng.choice(["missing", "fifo", "folder", "loop", "device", "huge"])
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 33)


def deep(levels: int = 2000) -> Tree:
    """Lists in lists."""
    tree: Tree = 1
    for _ in range(levels):
        tree = [tree]
    return tree


def values(rng: Rng) -> Tree:
    """A value that may not be expected."""
    return rng.choice(
        [
            *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 10**300, -(10**20), 0.5, 1e308, 1e-320),
            *(
                float("nan"),
                float("inf"),
                "",
                "x",
                "0",
                "nan",
                "1e5",
                "../../etc/passwd",
                "\x1b[31mred\x07",
                "ä" * 5000,
            ),
            *([], {}, [[]], [1, 2, 3], [None] * 20, {"a": 1}, {"": {}}, ["0"] * 3, deep(20), deep(70)),
        ]
    )


def places(tree: Tree) -> Iterator[tuple[Any, Any]]:
    """Every container of a tree with every key of it."""
    level = [tree]
    while level:
        node = level.pop()
        keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        for key in keys:
            yield node, key
            level.append(node[key])


def forged(tree: Tree, rng: Rng) -> Tree:
    """A tree with one to three values replaced, removed, added, moved or renamed."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        found = list(places(tree))
        if not found or rng.random() < 0.02:
            return values(rng)
        node, key = rng.choice(found)
        other, place = rng.choice(found)
        match rng.randrange(8):
            case 0:
                del node[key]
            case 1:
                node[key], other[place] = json.loads(json.dumps([other[place], node[key]]))
            case 2 if isinstance(node, dict):
                node[rng.choice(["sha256", "extra", "", "step", "x" * 100])] = values(rng)
            case 2 | 3 if isinstance(node, list):
                node.insert(key, json.loads(json.dumps(node[key])))
            case 3 | 4 if isinstance(node[key], int | float):
                node[key] = rng.choice([-1, 0, node[key] + 1, -node[key], node[key] * 2, str(node[key]), 10**9])
            case _:
                node[key] = values(rng)
    return tree


def doubled(text: str, rng: Rng) -> str:
    """JSON in which now and then a key is there twice, or which is nested 2,000 deep."""
    if rng.random() < 0.05:
        return text.replace("{", '{"step": 1, "step": 2, ', 1)
    if rng.random() < 0.05:
        return text.replace("{", '{"deep": ' + "[" * 2000 + "]" * 2000 + ", ", 1)
    return text


def same(value: Any) -> str:
    """Plain values as text that tells every two of them apart."""
    return json.dumps(value, sort_keys=True, default=repr)


def bits(tensors: dict[str, Any]) -> str:
    """Tensors by name as text."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        array = tensor.detach().contiguous().cpu().view(-1)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(bytes(array.view(dtype=__import__("torch").uint8).numpy()) if array.numel() else b"")
    return digest.hexdigest()


# Forgeries, by how a file says its checksum.


def forge_document(name: str, data: bytes, rng: Rng) -> bytes:
    """A JSON document."""
    from raydd.io.document import CHECKSUM, digest

    tree = json.loads(data)
    tree.pop(CHECKSUM, None)
    tree = forged(tree, rng)
    if isinstance(tree, dict):
        tree |= {CHECKSUM: digest({key: value for key, value in tree.items() if key != CHECKSUM})}
    return doubled(json.dumps(tree), rng).encode()


def forge_log(name: str, data: bytes, rng: Rng) -> bytes:
    """A log."""
    from raydd.io.document import LOG_CHECKSUM, digest

    lines = [json.loads(line) for line in data.splitlines()]
    for line in lines:
        line.pop(LOG_CHECKSUM)
    lines = forged(lines, rng)
    lines = lines if isinstance(lines, list) else [lines]
    seal = {LOG_CHECKSUM: digest(lines)[:16]}
    rows = [{**line, **seal} if isinstance(line, dict) else line for line in lines]
    return "".join(doubled(json.dumps(row), rng) + "\n" for row in rows).encode()


def forge_text(name: str, data: bytes, rng: Rng) -> bytes:
    """A YAML of settings."""
    import yaml

    from raydd.io.document import add_text_checksum, remove_text_checksum

    text = remove_text_checksum(data.decode())
    if rng.random() < 0.2:
        return add_text_checksum(
            rng.choice(["", "a", "[" * 2000, "- 1\n", "{a: b", "? {x: y}\n: 1\n", "!!python/none x\n"])
        ).encode()
    return add_text_checksum(yaml.safe_dump(forged(yaml.safe_load(text), rng))).encode()


def forge_tensors(name: str, data: bytes, rng: Rng) -> bytes:
    """A file of tensors."""
    import pyarrow as pa

    from raydd.io import tensor_file as tensors

    stored = pa.ipc.open_file(data).read_all()
    rows = [list(row.values()) for row in stored.to_pylist()]
    metadata = json.loads(stored.schema.metadata[b"raydd"])["metadata"]
    kind = rng.randrange(9)
    row = rng.choice(rows) if rows else ["x", "float32", [1], b"1234"]
    if kind == 0:
        row[2] = rng.choice(
            [[-1], [0], [2**62, 4], [0, 2**62, 2**62], [1] * 40, [*row[2], 1], row[2][1:], [2**31, 2**31]]
        )
    elif kind == 1:
        row[1] = rng.choice(["float64", "uint8", "int64", "bfloat16", "float16", "complex64", "object", ""])
    elif kind == 2:
        row[3] = rng.choice([b"", bytes(row[3])[:-1], bytes(row[3]) * 2, bytes(len(row[3])), b"\xff" * len(row[3])])
    elif kind == 3:
        row[0] = rng.choice(["", "images", "lr", "a/b/c", "leaves", "x" * 1000, "plain/step"])
    elif kind == 4 and rows:
        rows.remove(row)
    elif kind == 5:
        rows.append([rng.choice(["extra", row[0], f"{row[0]}/x"]), *row[1:]])
    elif kind == 6:  # a shape whose bytes are there: another one, or none at all
        row[2], row[3] = rng.choice([([0, *row[2]], b""), ([len(row[3]) // 4], row[3]), ([1, *row[2]], row[3])])
    else:
        metadata = forged(metadata, rng)
    rows = [(row[0], row[1], row[2], bytes(row[3])) for row in rows]
    return bytes(tensors.pack_rows(rows, metadata, tensors.digest_of(metadata, rows)))


def forge_expert(name: str, data: bytes, rng: Rng) -> bytes:
    """An expert's file."""
    import numpy as np

    from raydd.io.arrow_file import checksum, parse_arrow, write_arrow

    table = parse_arrow(np.frombuffer(data, np.uint8), name)
    columns, metadata = dict(table.columns), dict(table.metadata)
    key = rng.choice([*columns])
    column = columns[key]
    other = {
        "type": column.astype(rng.choice([np.float64, np.int32, np.int64, np.uint8, np.float16])),
        "width": np.concatenate([column, column], -1) if column.ndim > 1 else column[:, None],
        "values": column + rng.choice([0, 1, 100]),
        "sign": -column,
        "filled": np.full_like(column, rng.choice([np.nan, np.inf, -1, 1e30] if column.dtype.kind == "f" else [0, 9])),
    }
    match rng.choice(["missing", "rows", "spec", "number", *other]):
        case "missing":
            del columns[key]
        case "rows":
            columns = {each: array[: rng.randrange(1, len(array))] for each, array in columns.items()}
        case "spec":
            metadata["spec"] = doubled(json.dumps(forged(json.loads(metadata["spec"]), rng)), rng)
        case "number":
            metadata["expert"] = rng.choice(["1", "", "x", "-1", "9" * 5000])
        case changed:
            columns[key] = other[changed]
    metadata["checksum"] = checksum(columns)
    if rng.random() < 0.1:
        metadata.pop(rng.choice(["checksum", "spec", "expert"]))
    with tempfile.TemporaryDirectory() as folder:
        return write_arrow(Path(folder) / "x", columns, metadata).read_bytes()


def forge_cached(name: str, data: bytes, rng: Rng) -> bytes:
    """A file of a cached data set; the fingerprint of the whole folder does not fit then."""
    if name.endswith(".json"):
        return forge_document(name, data, rng)
    import io

    import numpy as np

    array = np.load(io.BytesIO(data))
    match rng.randrange(4):
        case 0:
            array = array.astype(rng.choice([np.float32, np.int32, np.uint8, np.int64]))
        case 1:
            array = array[: rng.randrange(len(array))]
        case 2:
            array = array + 1
        case _:
            array = array[..., None]
    sink = io.BytesIO()
    np.save(sink, array)
    found = sink.getvalue()
    if rng.random() < 0.3:
        shape = rng.choice([b"(1000000000000,)", b"(0, 99999999999)", b"(-5,)", b"'" + b"(" * 60])
        found = found.replace(b"'shape': " + str(array.shape).encode(), b"'shape': " + shape)
    return found


def forge_journal(name: str, data: bytes, rng: Rng) -> bytes:
    """A search's journal."""
    from raydd.tuning.journal import CHECKSUM, chained

    lines = [json.loads(line) for line in data.splitlines()]
    for line in lines:
        line.pop(CHECKSUM)
    lines = forged(lines, rng)
    text, before = "", ""
    for line in lines if isinstance(lines, list) else [lines]:
        if isinstance(line, dict):
            line = chained(line, before)
            before = line[CHECKSUM]
        text += doubled(json.dumps(line), rng) + "\n"
    return text.encode()


def forge_results(name: str, data: bytes, rng: Rng) -> bytes:
    """The results of a search."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from raydd.tuning.results import with_seal

    rows = forged(pq.read_table(pa.BufferReader(data)).to_pylist(), rng)
    sink = pa.BufferOutputStream()
    try:
        table = pa.Table.from_pylist(rows if isinstance(rows, list) else [{"trial": rows}])
    except Exception:
        table = pa.table({"trial": [0]})
    pq.write_table(with_seal(table), sink, compression=rng.choice(["zstd", "none"]))
    return bytes(sink.getvalue())


# The kinds: small files of each, and how each is read.


def set_of(seed: int = 0) -> Any:
    """A small synthetic set."""
    import torch

    from raydd.data.preprocessing import Transform
    from raydd.data.synset import SyntheticSet

    rng = torch.Generator().manual_seed(seed)
    arrays = {"mean": torch.tensor([0.3], dtype=torch.float64), "std": torch.tensor([0.4], dtype=torch.float64)}
    return SyntheticSet(
        torch.randn(6, 1, 4, 4, generator=rng),
        torch.randn(6, 3, generator=rng),
        torch.tensor(0.02),
        Transform("normalise", arrays),
        "digits",
        ("0", "1", "2"),
        recipe={"method": "mtt", "steps": 3, "data": {"dataset": "digits", "validation": 0.1, "augment": "dsa"}},
        provenance={"raydd": "0", "fingerprint": "0" * 16, "network": "MLP", "chosen": "last outer step"},
        history=({"step": 3, "split": "validation", "networks": 2, "mean": 0.5},),
    )


def read_set(folder: Path) -> str:
    from raydd.data.synset import SyntheticSet

    found = SyntheticSet.load(folder / "synset.arrow")
    found.pixels()
    tensors = {name: getattr(found, name) for name in ("images", "labels", "lr")} | dict(found.transform.tensors)
    rest = [getattr(found, name) for name in ("dataset", "classes", "recipe", "provenance", "history", "formation")]
    return bits(tensors) + same(rest)


def make_buffer(folder: Path) -> None:
    import torch

    from raydd.buffer.arrow_buffer import create_buffer, refresh_manifest
    from raydd.buffer.expert_file import ExpertTrajectory, write_expert
    from raydd.buffer.spec import BufferSpec
    from raydd.data.preprocessing import save_transform
    from raydd.numerics.flat import Slot

    look = set_of().transform
    layout = (Slot("weight", (3, 4), 0), Slot("bias", (3,), 12))
    recipe = {"epochs": 3, "lr": 0.01, "validation": 0.1, "augment": "dsa"}
    known = {"dataset": "digits", "fingerprint": "0" * 16, "preprocessing_hash": look.hash, "network": "MLP"}
    spec = BufferSpec(
        **known,
        preprocessing=look.metadata(),
        channels=1,
        size=8,
        classes=10,
        layout=layout,
        buffer_layout=(),
        recipe=recipe,
        seed=0,
    )
    create_buffer(folder, spec)
    save_transform(folder, look)
    for index in range(2):
        rng = torch.Generator().manual_seed(index)
        epochs = range(4)
        theta = torch.randn(4, 15, generator=rng)
        write_expert(folder, spec, index, ExpertTrajectory(theta, None, epochs, [0.1, 0.2, 0.3, 0.4], [1.0] * 4))
    refresh_manifest(folder)


def read_buffer(folder: Path) -> str:
    import torch

    from raydd.buffer.arrow_buffer import ArrowBuffer
    from raydd.buffer.describe import describe
    from raydd.buffer.verification import verify
    from raydd.data.preprocessing import load_transform

    look = load_transform(folder)
    buffer = ArrowBuffer(folder)
    for problem in verify(folder):
        raise ValueError(f"{folder / problem.file} is damaged: {problem.what}")
    segment = buffer.segment((0, 1), 2, torch.Generator().manual_seed(0), between=True)
    tensors = {"start": segment.start, "target": segment.target, "accuracy": buffer.accuracy, **look.tensors}
    tensors |= {f"{each}": buffer.snapshot(each, 2) for each in buffer.experts}
    return bits(tensors) + same([describe(folder), buffer.spec.to_json()])


def make_copy(folder: Path) -> None:
    from raydd.buffer.mirror import copy_buffer

    make_buffer(folder / "from")
    copy_buffer(folder / "from", folder / "to")


def read_copy(folder: Path) -> str:
    from raydd.buffer.mirror import copy_buffer

    shutil.rmtree(folder / "to")
    copy_buffer(folder / "from", folder / "to")
    return read_buffer(folder / "to")


def make_run(folder: Path) -> None:
    import torch

    from raydd.config.parsing import dump
    from raydd.config.schema import DistillConfig
    from raydd.distillation.checkpoint import Checkpoint, save_checkpoint
    from raydd.io.document import add_text_checksum, write_document, write_log

    synset = set_of()
    leaves = {"images": synset.images, "lr": synset.lr}
    state = {"step": 3, "leaves": leaves, "momentum": {"images": torch.ones(6, 1, 4, 4), "lr": None}}
    state |= {"mean": None, "objective": {"networks": {"theta": torch.ones(15), "age": 3}}}
    records: list[Tree] = [{"step": step, "loss": 0.5, "lr": 0.02, "stepped": True} for step in (1, 2, 3)]
    probes: list[Tree] = [{"step": step, "losses": [0.5, 1.5], "label_std": 0.1} for step in (1, 2)]
    log = {"records": records, "history": list(synset.history), "probes": probes}
    save_checkpoint(folder / "checkpoint" / "state.arrow", Checkpoint(state, "ab", log))
    (folder / "config.yaml").write_text(add_text_checksum(dump(DistillConfig(steps=3))))
    write_log(folder / "metrics.jsonl", records)
    write_log(folder / "probe.jsonl", probes)
    write_log(folder / "memory.jsonl", [{"step": step, "resident_mb": 300.5, "device_mb": None} for step in (1, 3)])
    trial = {"low": 0, "high": 2, "before": [1.0, None], "after": [0.5, 0.4], "missed": [1]}
    write_document(folder / "window.json", {"low": 0, "current": 1, "high": 2, "trials": [trial]})


def read_run(folder: Path) -> str:
    from raydd.distillation.checkpoint import check_state, load_checkpoint
    from raydd.report.folder import RunFolder
    from raydd.run.run_folder import read_config

    config, run = read_config(folder), RunFolder(folder)
    assert run.settings is not None
    logs = [run.records, run.memory, run.probes, run.history, run.search]
    path, synset = folder / "checkpoint" / "state.arrow", set_of()
    if not path.exists():
        raise ValueError(f"{path} is not there")
    found = load_checkpoint(path)
    leaves = {"images": synset.images, "lr": synset.lr}
    own = {"step": 0, "leaves": leaves, "momentum": dict.fromkeys(leaves), "mean": None, "objective": None}
    check_state(path, found.state, own)
    known = config.model_dump(mode="json") if config else None
    return bits(found.tensors) + same([known, logs, found.log, found.buffer, found.state["step"]])


def make_scores(folder: Path) -> None:
    from raydd.io.document import write_document

    words = {"name": "mtt", "kind": "distilled", "dataset": "digits", "network": "MLP", "protocol": "mtt"}
    row = words | {"selection": "honest", "ipc": 1.0, "networks": 2, "mean": 0.5, "std": 0.1, "values": [0.4, 0.6]}
    test = {"network": "MLP", "first": "mtt", "second": "random", "difference": 0.1, "low": 0.0, "high": 0.2}
    test |= {"p": 0.04, "p_adjusted": 0.04, "method": "welch", "counts": [2, 2]}
    other = row | {"name": "random", "kind": "random"}
    sets = [{"path": "x", "name": "mtt", "digest": "0" * 64}]
    write_document(
        folder / "scores.json", {"scores": [row, other], "comparisons": [test], "sets": sets, "settings": {}}
    )


def read_scores(folder: Path) -> str:
    from raydd.report.documents import SCORES
    from raydd.report.scores import score_sections

    found = SCORES.read(folder)
    return same(found.model_dump(mode="json")) + str(len(score_sections(folder)))


def make_cached(folder: Path) -> None:
    from raydd.data.datasets import load_dataset

    load_dataset(small_images(folder), cache=folder)
    (made,) = (folder / "datasets").iterdir()
    for path in made.iterdir():
        path.rename(folder / path.name)
    (folder / "name").write_text(made.name)
    shutil.rmtree(folder / "datasets")


def small_images(folder: Path) -> Path:
    import numpy as np

    path = Path(tempfile.gettempdir()) / f"raydd-fuzz-{os.getpid()}" / "tiny.npz"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        arrays = {f"x_{part}": rng.integers(0, 256, (12, 4, 4, 1), np.uint8) for part in ("train", "test")}
        np.savez(path, **arrays, **{f"y_{part}": np.arange(12) % 3 for part in ("train", "test")})
    return path


def read_cached(folder: Path) -> str:
    from raydd.data.datasets import load_dataset

    made = folder / "datasets" / (folder / "name").read_text()
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    for name in CACHED:
        path = folder / name
        if path.exists() or path.is_symlink():
            path.rename(made / name)
    data = load_dataset(small_images(folder), cache=folder)
    sums = [
        hashlib.sha256(split.images[split.index].tobytes() + split.labels.tobytes()).hexdigest()
        for split in (data.train, data.test)
    ]
    found = same([sums, data.classes, data.mean, data.std, data.note, data.fingerprint])
    for name in CACHED:  # so that it can be read once more
        (made / name).rename(folder / name)
    return found


CACHED = (
    *(f"{part}_{what}.npy" for part in ("train", "test") for what in ("images", "labels", "moments")),
    "dataset.json",
)


def make_result(folder: Path) -> None:
    from raydd.evaluation.jobs import Outcome
    from raydd.evaluation.result_cache import ResultCache

    ResultCache(folder / "scores", "abc").store({"a": [1, 2]}, Outcome(0.5, 1.5, ((1, 0.25),), False))
    (made,) = (folder / "scores").rglob("*.json")
    made.rename(folder / "result.json")


def read_result(folder: Path) -> str:
    from raydd.evaluation.result_cache import ResultCache
    from raydd.io.document import digest

    cache = ResultCache(folder / "scores", "abc")
    path = Path(cache._path(digest({"a": [1, 2]})[:32]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        path.rmdir()
    if not os.path.lexists(folder / "result.json"):
        raise ValueError("result.json is not there: it is made")
    (folder / "result.json").replace(path)
    found = cache.load({"a": [1, 2]})
    path.replace(folder / "result.json")
    if found is None:
        raise ValueError("result.json is made anew")
    return same(found)


def make_coreset(folder: Path) -> None:
    from raydd.io.tensor_file import save_tensors

    synset = set_of()
    save_tensors(
        folder / "coreset.arrow", {"images": synset.images, "labels": synset.labels.argmax(1)}, {"kind": "herding"}
    )


def read_coreset(folder: Path) -> str:
    from raydd.evaluation.baselines import _cached

    found = _cached(folder / "coreset.arrow", {"kind": "herding"}, 3)
    if found is None:
        raise ValueError("coreset.arrow is made anew")
    return bits(dict(zip(("images", "labels"), found, strict=True)))


def space() -> Any:
    from raydd.config.parsing import build
    from raydd.tuning.space import Space

    domains = {"lr.images": {"log_uniform": [1.0, 100.0]}, "span": {"choice": [1, 2]}}
    return build(Space, {"method": "mtt", "domains": domains, "name": "toy"})


def make_search(folder: Path) -> None:
    from raydd.tuning.results import save_results
    from raydd.tuning.study import Study

    search = Study(space(), folder / "study.journal")
    for number in range(3):
        asked = search.propose()
        search.report(asked.number, 1, {"accuracy": 0.2 * number, "seconds": 0.5, "step": 1})
        search.complete(asked.number, {"accuracy": 0.2 * number, "seconds": 1.0, "step": 2})
    save_results(search.records(), folder / "results.parquet")


def read_study(folder: Path) -> str:
    from raydd.tuning.study import Study

    with tempfile.TemporaryDirectory(prefix="study.journal") as copied:  # it is mended, and a lock is put beside it
        path = Path(copied) / "study.journal"
        if not os.path.lexists(folder / "study.journal"):
            raise ValueError("study.journal is not there: it is made")
        (folder / "study.journal").rename(path)
        try:
            return same([vars(record) for record in Study(space(), path).records()])
        finally:
            shutil.move(path, folder / "study.journal") if path.is_file() and not path.is_symlink() else None


def read_results(folder: Path) -> str:
    from raydd.tuning.results import load_results

    path = folder / "results.parquet"
    if not path.exists():
        raise ValueError(f"{path} is not there")
    return same(load_results(path))


def make_sidecar(folder: Path) -> None:
    from raydd.interop.sidecar import describe, write

    write(describe(set_of(), "mtt", (1, 0, 2, 3, 4, 5), "0" * 16), folder)


def read_sidecar(folder: Path) -> str:
    from raydd.interop.sidecar import read

    found = read(folder)
    return "none: raydd.json" if found is None else same(found.model_dump(mode="json"))


def make_npz(folder: Path) -> None:
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(12) % 3
    np.savez(folder / "set.npz", x_train=images, y_train=labels, x_test=images[:6], y_test=labels[:6])


def make_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split in ("train", "test"):
        images = [{"bytes": data, "path": None} for data in map(picture, range(12), ["png"] * 12)]
        table = pa.table({"image": images, "label": ["cat", "dog", "owl"] * 4})
        pq.write_table(table, folder / f"{split}.parquet")


def make_pictures(folder: Path) -> None:
    for split in ("train", "test"):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            for number, suffix in enumerate(("png", "jpeg", "gif", "bmp", "tiff")):
                (folder / split / label / f"{number}.{suffix}").write_bytes(picture(number, suffix))


def picture(number: int, suffix: str) -> bytes:
    """A small picture, encoded."""
    import io

    import numpy as np
    from PIL import Image

    data = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data, suffix)
    return data.getvalue()


def read_images(name: str) -> Callable[[Path], str]:
    """Reads a data set at a path; a refusal that names the folder alone is taken as one that names its file."""

    def read(folder: Path) -> str:
        from raydd.data.datasets import load_dataset

        with tempfile.TemporaryDirectory() as cache:
            try:
                data = load_dataset(folder / name, cache=Path(cache), validation=0)
            except ValueError as error:
                if str(folder) in str(error):
                    raise ValueError(f"{error} {name or 'train.parquet 0.png'}") from None
                raise
            splits = (data.train, data.test)
            sums = [
                hashlib.sha256(one.images[one.index].tobytes() + one.labels.tobytes()).hexdigest() for one in splits
            ]
            return same([sums, data.classes])

    return read


PRESET = "method: dm\nlr: {images: 5.0}\nsteps: 20\nwindow: {high: 3}\nexperts: {network: MLP, epochs: 6}\n"
SPACE = (
    "method: mtt\ndomains:\n  lr.images: {log_uniform: [1.0, 100.0]}\n  span: {integer: [1, 3]}\n"
    "constraints: ['window.high + span <= experts.epochs']\nset: {window.high: 4}\nbudget: {samples: 8}\n"
)
PROTOCOL = "base: mtt\nname: own\nepochs: 30\nlr: 0.01\nmomentum: 0.9\nmilestones: [0.5]\n"


def read_preset(folder: Path) -> str:
    from raydd.config.parsing import build
    from raydd.config.presets import expand_preset
    from raydd.config.schema import DistillConfig

    try:
        return same(build(DistillConfig, expand_preset(str(folder / "own.yaml"), 1)).model_dump(mode="json"))
    except ValueError as error:  # of the settings, whose file the command line has named
        raise ValueError(f"own.yaml: {error}"[:1500]) from None


def read_space(folder: Path) -> str:
    from raydd.tuning.space_files import load_space

    return same(load_space(folder / "own.yaml").model_dump(mode="json"))


def read_protocol(folder: Path) -> str:
    from raydd.evaluation.protocols import find_protocol

    return same(find_protocol(str(folder / "own.yaml")).model_dump(mode="json"))


def make_foreign(folder: Path) -> None:
    import torch

    torch.manual_seed(0)
    torch.save(torch.randn(10, 1, 8, 8), folder / "images_best.pt")
    torch.save(torch.arange(10), folder / "labels_best.pt")


def read_foreign(folder: Path) -> str:
    from raydd.config.schema import DataConfig
    from raydd.interop.reading import read_synset

    try:
        found = read_synset(folder, layout="mtt", data=DataConfig(dataset="digits"), lr=0.01).synset
    except ValueError as error:
        if str(folder) in str(error):
            raise ValueError(f"{error} (images_best.pt)") from None
        raise
    return bits({"images": found.images, "labels": found.labels})


OUTSIDE: dict[str, Kind] = {
    "npz": Kind(make_npz, read_images("set.npz"), None, ("set.npz",), sealed=False),
    "parquet": Kind(make_parquet, read_images(""), None, ("train.parquet", "test.parquet"), sealed=False),
    "pictures": Kind(
        make_pictures,
        read_images(""),
        None,
        tuple(f"train/a/{number}.{suffix}" for number, suffix in enumerate(("png", "jpeg", "gif", "bmp", "tiff"))),
        sealed=False,
    ),
    "preset": Kind(lambda folder: own(folder, PRESET), read_preset, None, ("own.yaml",), sealed=False),
    "space": Kind(lambda folder: own(folder, SPACE), read_space, None, ("own.yaml",), sealed=False),
    "protocol": Kind(lambda folder: own(folder, PROTOCOL), read_protocol, None, ("own.yaml",), sealed=False),
    "foreign set": Kind(make_foreign, read_foreign, None, ("images_best.pt", "labels_best.pt"), sealed=False),
}
"""Files of others: they have no checksum, so that a damaged one may be read as something else, but never otherwise."""


def own(folder: Path, text: str) -> None:
    """Write a YAML file."""
    (folder / "own.yaml").write_text(text)


KINDS: dict[str, Kind] = {
    "set": Kind(lambda folder: set_of().save(folder / "synset.arrow"), read_set, forge_tensors, ("synset.arrow",)),
    "manifest": Kind(make_buffer, read_buffer, forge_document, ("manifest.json",)),
    "expert": Kind(make_buffer, read_buffer, forge_expert, ("expert-00000.arrow", "expert-00001.arrow")),
    "preprocessing": Kind(make_buffer, read_buffer, forge_tensors, ("preprocessing.arrow",)),
    "copied buffer": Kind(
        make_copy,
        read_copy,
        None,
        tuple(f"from/{name}" for name in ("manifest.json", "expert-00001.arrow", "preprocessing.arrow")),
    ),
    "checkpoint": Kind(make_run, read_run, forge_tensors, ("checkpoint/state.arrow",)),
    "logs": Kind(make_run, read_run, forge_log, ("metrics.jsonl", "memory.jsonl", "probe.jsonl")),
    "config": Kind(make_run, read_run, forge_text, ("config.yaml",)),
    "window": Kind(make_run, read_run, forge_document, ("window.json",)),
    "scores": Kind(make_scores, read_scores, forge_document, ("scores.json",)),
    "cached data set": Kind(
        make_cached, read_cached, forge_cached, tuple(name for name in CACHED if name != "test_moments.npy")
    ),
    "result": Kind(make_result, read_result, forge_document, ("result.json",)),
    "coreset": Kind(make_coreset, read_coreset, forge_tensors, ("coreset.arrow",)),
    "journal": Kind(make_search, read_study, forge_journal, ("study.journal",), prefix=True),
    "results": Kind(make_search, read_results, forge_results, ("results.parquet",)),
    "sidecar": Kind(make_sidecar, read_sidecar, forge_document, ("raydd.json",)),
    **OUTSIDE,
}


class World:
    """Files of a kind, which are put back after each mutation."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind, self.folder = kind, folder / "made"
        self.folder.mkdir(parents=True)
        kind.make(self.folder)
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        self.content = {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}
        self.original = self.read()

    def read(self) -> str:
        """What is read of the files as they are."""
        return self.kind.read(self.folder)

    def restore(self) -> None:
        """Put all files back."""
        shutil.rmtree(self.folder)
        for name, data in self.content.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(data)

    def mutate(self, rng: Rng) -> tuple[str, bool, bytes]:
        """Change one file; its name, whether its checksum fits, and its content."""
        self.restore()
        name = rng.choice(self.kind.files)
        path, data = self.folder / name, self.content[name]
        if self.kind.forge is not None and rng.random() < 0.5:
            found = self.kind.forge(name, data, rng)
            path.write_bytes(found)
            return name, True, found
        if rng.random() < 0.08:
            replaced(path, rng)
            return name, False, b""
        path.write_bytes(found := damaged(data, rng))
        return name, not self.kind.sealed, found

    def outcome(self, name: str, fits: bool, data: bytes) -> tuple[str, str]:
        """What reading came to, and what was said."""
        try:
            found = self.read()
        except ValueError as error:
            said = str(error)
            named = any(Path(each).name in said for each in self.content)
            refused = named and "\n" not in said and "\x1b" not in said and (len(said) < 2000 or not self.kind.sealed)
            return ("refused" if refused else "traceback"), f"{type(error).__name__}: {said}"
        except Exception as error:
            return "traceback", "".join(traceback.format_exception(error)[-3:])
        return self._reading(found, name, fits, data), found[:500]

    def _reading(self, found: str, name: str, fits: bool, data: bytes) -> str:
        if found == self.original:
            return "same"
        if not os.path.lexists(self.folder / name):  # a run without it is a run too
            return "absent"
        if not self.kind.sealed and not (self.folder / name).is_file():  # what is no file is passed over
            return "absent"
        if self.kind.prefix and self.content[name].startswith(data[: data.rfind(b"\n") + 1]):
            return "shorter"
        kept = self.kind.prefix or (self.folder / name).read_bytes() == data  # a log is mended when it is opened
        return "another" if fits and kept and self.read() == found else "silent"


def work(kinds: list[str], mutations: int, seed: int) -> None:
    """Do mutations of kinds, with a line of JSON before and after each."""
    sys.stdin.close()
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    for name in kinds:
        with tempfile.TemporaryDirectory() as folder:
            world = World(KINDS[name], Path(folder))
            for index in range(mutations):
                rng = Rng(f"{seed} {name} {index}")
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                try:
                    file, fits, data = world.mutate(rng)
                except (RecursionError, ValueError, TypeError, OverflowError):  # what cannot even be written
                    continue
                print(json.dumps({"kind": name, "index": index, "fits": fits}), flush=True)
                started = time.monotonic()
                outcome, said = world.outcome(file, fits, data)
                grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
                outcome = "memory" if grown > BYTES else "hang" if time.monotonic() - started > SECONDS else outcome
                print(
                    json.dumps(
                        {"outcome": outcome, "said": said, "bytes": grown, "seconds": time.monotonic() - started}
                    ),
                    flush=True,
                )


def watched(kinds: list[str], mutations: int, seed: int) -> Iterator[dict[str, Any]]:
    """The outcomes of a process of its own, which is ended where it hangs; what is left is not done then."""
    words = [sys.executable, __file__, "--worker", "--mutations", str(mutations), "--seed", str(seed), *kinds]
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": scratch, "RAYDD_CACHE": scratch}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment)
        assert process.stdout
        with selectors.DefaultSelector() as selector, process:
            selector.register(process.stdout, selectors.EVENT_READ)
            begun: dict[str, Any] | None = None
            patience = 120.0  # to load what it needs
            while True:
                if not selector.select(patience):
                    process.kill()
                    yield {
                        **(begun or {"kind": "none", "index": -1, "fits": False}),
                        "outcome": "hang",
                        "said": "",
                        "bytes": 0,
                    }
                    return
                line = process.stdout.readline()
                if not line:
                    break
                patience, found = 2 * SECONDS, json.loads(line)
                if "kind" in found:
                    begun = found
                else:
                    yield {**(begun or {}), **found}
                    begun = None
        if process.returncode or begun:
            yield {
                **(begun or {"kind": "none", "index": -1}),
                "outcome": "traceback",
                "said": f"it died: {process.returncode}",
                "bytes": 0,
            }


def summary(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by kind, and what must be 0."""
    kinds = {}
    for kind in dict.fromkeys(one["kind"] for one in outcomes):
        own = [one for one in outcomes if one["kind"] == kind]
        kinds[kind] = {"mutations": len(own), "forged": sum(one.get("fits", False) for one in own)}
        kinds[kind] |= dict(sorted(Counter(one["outcome"] for one in own).items()))
    counts = Counter(one["outcome"] for one in outcomes)
    words = {"traceback": "tracebacks", "hang": "hangs", "memory": "readings_over_1_gb", "silent": "silent_acceptances"}
    return {
        "mutations": len(outcomes),
        "forged": sum(one.get("fits", False) for one in outcomes),
        **{words[bad]: counts[bad] for bad in BAD},
        "slowest_seconds": round(max(one.get("seconds", 0.0) for one in outcomes), 3),
        "most_mb": round(max(one["bytes"] for one in outcomes) / 1e6, 1),
        "kinds": kinds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kinds", nargs="*", help="kinds of files; none takes all")
    parser.add_argument("--mutations", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write benchmarks/fuzz.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    kinds = args.kinds or [*KINDS]
    if args.worker:
        work(kinds, args.mutations, args.seed)
        return
    started, each = time.monotonic(), -(-args.mutations // len(kinds))
    outcomes = [one for kind in kinds for one in watched([kind], each, args.seed)]
    for one in outcomes:
        if one["outcome"] in BAD:
            print(json.dumps(one), file=sys.stderr)
    from raydd.io.files import write_atomic
    from raydd.io.provenance import commit

    words = ["python benchmarks/fuzz.py", *map(repr, args.kinds), f"--mutations {args.mutations} --seed {args.seed}"]
    document = {"command": " ".join(words), **summary(outcomes)}
    document |= {"minutes": round((time.monotonic() - started) / 60, 1), "commit": commit()}
    print(json.dumps(document, indent=1))
    if args.write:
        write_atomic(Path(__file__).with_suffix(".json"), json.dumps(document, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
