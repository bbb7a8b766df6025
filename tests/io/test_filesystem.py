"""Files of a store that change while they are read."""

import pytest

from raydd.io.filesystem import Store, open_store


@pytest.mark.parametrize("size", [100, 5000])  # S3's answer that a file is gone is longer than the first
def test_a_file_of_s3_that_goes_or_changes_while_it_is_read(s3, tmp_path, monkeypatch, size):
    found, opened = open_store(s3(f"bucket/{tmp_path.name}")), Store._open
    (tmp_path / "local").write_bytes(b"x" * size)
    (tmp_path / "longer").write_bytes(b"y" * size * 2)
    (tmp_path / "shorter").write_bytes(b"z" * (size // 2))

    def after_opening(act):
        def opening(self, name):
            monkeypatch.setattr(Store, "_open", opened)
            file = opened(self, name)
            act()
            return file

        found.put(tmp_path / "local", "name")
        monkeypatch.setattr(Store, "_open", opening)

    for read in (found.read, lambda name: found.get(name, tmp_path / "back")):
        after_opening(lambda: found.delete("name"))
        with pytest.raises(FileNotFoundError):
            read("name")
    for other in ("longer", "shorter"):
        after_opening(lambda other=other: found.put(tmp_path / other, "name"))
        assert found.read("name") == (tmp_path / other).read_bytes()
        after_opening(lambda other=other: found.put(tmp_path / other, "name"))
        with pytest.raises(OSError, match="name changed while it was read: try again"):
            found.get("name", tmp_path / "back")
    assert not (tmp_path / "back").exists()
