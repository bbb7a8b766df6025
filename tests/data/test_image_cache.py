import json
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from raydd.data import image_cache as cache_module
from raydd.data.datasets import load_dataset
from raydd.io.document import dump_document


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "dump_document", full)
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\): set RAYDD_CACHE"):
        load_dataset("digits", cache=tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_a_half_written_copy_is_never_read(tmp_path: Path) -> None:
    digits = load_dataset("digits", cache=tmp_path)
    (folder,) = (tmp_path / "datasets").iterdir()
    half = folder.with_name(f".{folder.name}-1-abcd.tmp")
    folder.rename(half)
    (half / "test_images.npy").unlink()
    assert load_dataset("digits", cache=tmp_path).fingerprint == digits.fingerprint
    assert folder.is_dir()


FILES = ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy", "train_moments.npy"]


@pytest.mark.parametrize("name", [*FILES, "dataset.json"])
@pytest.mark.parametrize("damage", ["cut", "a bit", "missing", "fifo"])
def test_a_damaged_copy_is_made_again(
    tmp_path: Path, name: str, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = load_dataset("digits", cache=tmp_path)
    (folder,) = (tmp_path / "datasets").iterdir()
    path, before = folder / name, {each.name: each.read_bytes() for each in folder.iterdir()}
    data = bytearray(before[name])
    data[-20] ^= 1
    path.unlink()
    if damage == "fifo":
        os.mkfifo(path)
    elif damage != "missing":
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    again = load_dataset("digits", cache=tmp_path)
    assert again.fingerprint == whole.fingerprint
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before
    said = capfd.readouterr().err
    assert said.startswith(f"{folder} is a damaged copy of a data set (")
    assert said.count("\n") == 1
    assert list((tmp_path / "datasets").iterdir()) == [folder]


@pytest.mark.parametrize("touch", [None, *FILES, "dataset.json"])
def test_a_machine_reads_a_copy_once_until_a_file_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, touch: str | None
) -> None:
    whole = load_dataset("digits", cache=tmp_path)
    (folder,) = (tmp_path / "datasets").iterdir()
    read, check = [], cache_module._check_values
    monkeypatch.setattr(cache_module, "_check_values", lambda *arguments: (read.append(1), check(*arguments)))
    later = time.time() + 60
    monkeypatch.setattr("raydd.io.found_whole.time.time", lambda: later)
    for _ in range(3):  # as another process would
        cache_module._VERIFIED.clear()
        assert load_dataset("digits", cache=tmp_path).fingerprint == whole.fingerprint
    assert len(read) == 1
    if touch:
        os.utime(folder / touch)
        cache_module._VERIFIED.clear()
        load_dataset("digits", cache=tmp_path)
        assert len(read) == 2


def test_a_copy_of_before_there_was_a_checksum_of_the_moments_is_read(tmp_path: Path) -> None:
    fingerprint = load_dataset("digits", cache=tmp_path).fingerprint
    (folder,) = (tmp_path / "datasets").iterdir()
    about = json.loads((folder / "dataset.json").read_text())
    old = {key: about[key] for key in ("schema", "classes", "note", "fingerprint")} | {"note": "as it was"}
    (folder / "dataset.json").write_text(json.dumps(old, indent=1) + "\n")
    found = load_dataset("digits", cache=tmp_path)
    assert (found.fingerprint, found.note) == (fingerprint, "as it was")


def _load(cache: Path, barrier: object, results: object) -> None:
    barrier.wait()
    results.put(load_dataset("digits", cache=cache).fingerprint)


@pytest.mark.integration
@pytest.mark.slow
def test_concurrent_writers_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_load, args=(tmp_path, barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    prints = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(60)
    assert prints == {load_dataset("digits", cache=tmp_path).fingerprint}
    (folder,) = (tmp_path / "datasets").iterdir()
    assert json.loads((folder / "dataset.json").read_text())["fingerprint"] in prints


def test_the_loser_of_a_race_uses_the_winners_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_dataset("digits", cache=tmp_path / "winner")
    (winner,) = (tmp_path / "winner" / "datasets").iterdir()
    target = tmp_path / "loser" / "datasets" / winner.name
    about = json.loads((winner / "dataset.json").read_text())
    (winner / "dataset.json").write_bytes(dump_document(about | {"note": "the winner's"}))
    monkeypatch.setattr(cache_module, "dump_document", lambda _: bytes(shutil.copytree(winner, target)))
    assert load_dataset("digits", cache=tmp_path / "loser").note == "the winner's"
    assert list(target.parent.iterdir()) == [target]


def test_one_decodes_while_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that open the data set at once hold the folder one after another: it is decoded once."""
    decoded = []
    write_part = cache_module._write_part

    def counted(folder: Path, name: str, part: Any, digest: Any) -> Any:
        decoded.append(name)
        time.sleep(0.05)
        return write_part(folder, name, part, digest)

    monkeypatch.setattr(cache_module, "_write_part", counted)
    with ThreadPoolExecutor(4) as pool:
        prints = set(pool.map(lambda _: load_dataset("digits", cache=tmp_path).fingerprint, range(4)))
    assert decoded == ["train", "test"]
    assert len(prints) == 1
