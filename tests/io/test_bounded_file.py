"""Files of others are read whole, or refused."""

from pathlib import Path

import pytest

from raydd.io.bounded_file import read_bytes

LONGER = Path("/proc/self/maps")  # its size is 0, as is that of a file which grows while it is read


def test_a_file_that_is_longer_than_its_size_is_read_to_its_end():
    data = read_bytes(LONGER)
    assert len(data) > 1000
    assert data.endswith(b"\n")


def test_a_file_that_is_longer_than_its_size_is_still_bounded():
    with pytest.raises(ValueError, match="it has more than 1,000 bytes"):
        read_bytes(LONGER, 1000)


@pytest.mark.parametrize("size", [0, 9, 10, 11])
def test_a_file_has_at_most_so_many_bytes(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    if size <= 10:
        assert read_bytes(path, 10) == b"x" * size
    else:
        with pytest.raises(ValueError, match="it has more than 10 bytes"):
            read_bytes(path, 10)
