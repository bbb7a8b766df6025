import json
import math
import pickle

import pyarrow as pa
import pytest
import torch

from raydd.io.tensor_file import load_tensors, save_tensors

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8]
METADATA = {"kind": "test", "list": [1, 2.5, None, "ä"], "nested": {"b": True, "a": [{"x": 1e-300}]}}


def some():
    rng = torch.Generator().manual_seed(0)
    return {str(dtype): (torch.rand(2, 3, 1, generator=rng) * 200).to(dtype) for dtype in TYPES} | {
        "scalar": torch.tensor(0.1),
        "empty": torch.zeros(0, 4),
        "view": torch.rand(4, 6, generator=rng).t()[::2],
        "odd": torch.tensor([math.nan, math.inf, -0.0, 1e-45]),
    }


def check_refused(path):
    with pytest.raises(ValueError, match=r"raydd file|corrupted|does not exist") as caught:
        load_tensors(path)
    assert type(caught.value) is ValueError
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_saved_comes_back_bitwise(tmp_path):
    tensors = some()
    save_tensors(tmp_path / "a", tensors, METADATA)
    found, metadata = load_tensors(tmp_path / "a")
    assert metadata == METADATA
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (found[name], value)]
        assert torch.equal(*bits)


def test_keys_that_json_turns_into_text_come_back_as_text(tmp_path):
    save_tensors(tmp_path / "a", {}, {9: (1, 2), 10: math.inf})
    assert load_tensors(tmp_path / "a") == ({}, {"9": [1, 2], "10": math.inf})


def test_loaded_tensors_are_copies(tmp_path):
    save_tensors(tmp_path / "a", {"x": torch.zeros(3)}, {})
    before = (tmp_path / "a").read_bytes()
    found, _ = load_tensors(tmp_path / "a")
    found["x"].add_(1)
    assert (tmp_path / "a").read_bytes() == before
    assert torch.equal(load_tensors(tmp_path / "a")[0]["x"], torch.zeros(3))


def test_equal_arguments_give_equal_bytes_and_nothing_else_is_left(tmp_path):
    save_tensors(tmp_path / "a", some(), METADATA)
    save_tensors(tmp_path / "b", some(), dict(reversed(METADATA.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_shorter_file_is_refused(tmp_path):
    path = tmp_path / "a"
    save_tensors(path, {"x": torch.arange(5.0)}, {"k": "v"})
    content = path.read_bytes()
    for length in [*range(0, len(content), 5), len(content) - 1]:
        path.write_bytes(content[:length])
        check_refused(path)


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    """Arrow's padding may hold anything; whatever else changes is found."""
    path = tmp_path / "a"
    tensors = {"x": torch.arange(5.0), "y": torch.tensor([[3], [4]])}
    save_tensors(path, tensors, {"word": "v", "number": 1.5})
    content = path.read_bytes()
    refusals = 0
    for place in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found, metadata = load_tensors(path)
        except ValueError:
            refusals += 1
            continue
        assert metadata == {"word": "v", "number": 1.5}, place
        assert list(found) == ["x", "y"], place
        assert all(torch.equal(found[name], tensors[name]) for name in tensors), place
        assert all(found[name].dtype == tensors[name].dtype for name in tensors), place
    assert refusals > len(content) / 12


@pytest.mark.parametrize("old", ["float32", "image", "value"])
def test_a_changed_name_type_or_word_is_refused(old, tmp_path):
    path = tmp_path / "a"
    save_tensors(path, {"image": torch.arange(6.0)}, {"key": "value"})
    content = path.read_bytes()
    new = {"float32": b"int64\0\0", "image": b"imago", "value": b"valve"}[old]
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new))
    check_refused(path)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "a"
    check_refused(path)
    check_refused(tmp_path)
    foreign = [b"", b"hello", b"ARROW1", pickle.dumps({"images": [1]}), json.dumps({"x": 1}).encode()]
    for content in foreign:
        path.write_bytes(content)
        check_refused(path)
    torch.save({"images": torch.zeros(2)}, path)
    check_refused(path)


@pytest.mark.parametrize("note", [None, "", "[]", "{}", '{"sha256": 1}', '{"metadata": {}, "sha256": "0"}'])
def test_a_foreign_arrow_file_is_refused(note, tmp_path):
    path = tmp_path / "a"
    table = pa.table({"name": ["x"], "data": pa.array([None], pa.large_binary())})
    table = table.replace_schema_metadata(None if note is None else {"raydd": note})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    check_refused(path)
