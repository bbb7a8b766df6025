"""What `raydd buffer copy` and `verify` do with what is no buffer file, or no whole one."""

import os
import shutil

import pytest

from raydd.buffer.mirror import copy_buffer
from raydd.buffer.verification import verify


@pytest.fixture
def source(small_buffer, tmp_path):
    return shutil.copytree(small_buffer, tmp_path / "from")


def test_a_folder_with_other_content_is_refused_and_left_alone(source, tmp_path):
    target = tmp_path / "to"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files, such as thesis\.txt: name a new folder"):
        copy_buffer(source, target)
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["expert-00000.arrow", "preprocessing.arrow"])
@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "device"])
def test_only_regular_files_are_copied(source, tmp_path, name, kind):
    path, secret = source / name, tmp_path / "secret"
    shutil.move(path, secret)
    {
        "link": lambda: path.symlink_to(secret),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
    }[kind]()
    with pytest.raises(ValueError, match=f"{name} is not a regular file, and links are not followed"):
        copy_buffer(source, tmp_path / "to")
    assert not (tmp_path / "to" / name).exists()
    assert [problem.file for problem in verify(source)] == ([] if kind == "link" else [name])


def test_a_file_that_fails_its_checksum_is_not_copied(source, tmp_path):
    path = source / "expert-00000.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"expert-00000\.arrow is damaged"):
        copy_buffer(source, tmp_path / "to")
    assert not list((tmp_path / "to").glob("*"))


def test_a_copy_is_the_buffer_and_again_copies_nothing(source, tmp_path):
    copy_buffer(source, tmp_path / "to")
    one, other = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (source, tmp_path / "to"))
    assert one == other
    assert copy_buffer(source, tmp_path / "to") == {}


def test_a_buffer_is_not_copied_into_itself(small_buffer, tmp_path):
    folder = shutil.copytree(small_buffer, tmp_path / "buffer")
    with pytest.raises(ValueError, match=r"lies in the buffer that is copied; name another folder"):
        copy_buffer(folder, folder / "inner")
    assert not (folder / "inner").exists()
