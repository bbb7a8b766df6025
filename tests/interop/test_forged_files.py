"""Files of torch.save that say more than they hold are refused, and nothing of that size is made."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from raydd.interop import torchfile
from raydd.interop.torchfile import load, save


def forged(path: Path, value: object, changes: dict[bytes, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    """A file of torch.save some bytes of whose values are others."""
    stream = io.BytesIO()
    torch.save(value, stream)
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(path, "w", packing) as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                for old, new in changes.items():
                    assert old in data
                    data = data.replace(old, new)
            target.writestr(info.filename, data)
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        load(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


FOUR, MANY = b"K\x04", b"J\x00\x00\x00\x40"  # 4, and 2^30


def test_a_tensor_of_more_numbers_than_the_file_holds(tmp_path: Path) -> None:
    value = {"a": torch.arange(4.0)}
    refused(forged(tmp_path / "a.pt", value, {FOUR: MANY}), "is not a whole file of torch.save")
    refused(forged(tmp_path / "b.pt", value, {FOUR + b"t": MANY + b"t"}), "is not a whole file of torch.save")
    refused(forged(tmp_path / "c.pt", value, {FOUR + b"\x85": MANY + b"\x85"}), "is not a whole file of torch.save")


def test_a_tensor_that_repeats_one_number_without_end(tmp_path: Path) -> None:
    refused(save(tmp_path / "a.pt", torch.zeros(1).expand(10**12)), "which repeats few numbers: save plain tensors")
    kept = load(save(tmp_path / "b.pt", [torch.zeros(1).expand(5), torch.arange(6.0).reshape(2, 3).T]))
    assert kept[0].tolist() == [0.0] * 5
    assert kept[1].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_a_packed_archive(tmp_path: Path) -> None:
    packed = forged(tmp_path / "a.pt", torch.zeros(8 << 20), {}, zipfile.ZIP_DEFLATED)
    assert packed.stat().st_size < 1 << 20
    refused(packed, "is not a whole file of torch.save")


def test_values_that_hold_themselves_or_have_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own: list[object] = [torch.zeros(2)]
    own.append(own)
    refused(save(tmp_path / "a.pt", own), "repeats itself or has no end")
    nested: dict[str, object] = {}
    nested["data"] = {"deeper": [nested]}
    refused(save(tmp_path / "b.pt", nested), "repeats itself or has no end")
    deep: object = torch.zeros(1)
    for _ in range(100):
        deep = [deep]
    refused(save(tmp_path / "c.pt", deep), "repeats itself or has no end")
    monkeypatch.setattr(torchfile, "_MOST", 10**5)  # the end comes sooner
    wide: object = [torch.zeros(1)]
    for _ in range(20):
        wide = [wide] * 10
    refused(save(tmp_path / "d.pt", wide), "repeats itself or has no end")
    shared = [1.0, 2.0]
    assert load(save(tmp_path / "e.pt", [shared, shared])) == [shared, shared]


def test_numbers_that_the_older_format_leaves_out(tmp_path: Path) -> None:
    value = torch.from_numpy(np.random.default_rng(0).standard_normal(1000))
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=False)
    data = stream.getvalue()
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    assert torch.equal(load(path), value)
    start = data.index(value.numpy().tobytes()) - 8
    keys = data.rindex(b"]q\x00X", 0, start)
    path.write_bytes(data[:keys] + b"]q\x00.")  # no keys: nothing is read
    refused(path, "is not a whole file of torch.save")
    path.write_bytes(data[:keys] + b"]q\x00." + b"\1" * 16_000)  # the length would do
    assert torch.equal(load(path), torch.zeros_like(value))  # and not what happens to be in the memory
    path.write_bytes(data[:-100])
    refused(path, "is not a whole file of torch.save")
