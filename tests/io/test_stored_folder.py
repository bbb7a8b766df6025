"""Folders at a URI: readers get the files of one moment, whatever is written meanwhile."""

import json

import pytest

from raydd.io.filesystem import open_store
from raydd.io.stored_folder import INDEX, StoredFolder, files_below, stored_copy


@pytest.fixture
def uri(s3, tmp_path):
    """The URI of an empty folder."""
    return s3(f"bucket/{tmp_path.name}")


def contents(folder):
    return {name: (folder / name).read_text() for name in files_below(folder)}


def write(folder, **files):
    """Write files by name; `__` in a name is a folder's end."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_reader_gets_the_last_version_with_its_folders(uri, tmp_path, cache):
    own = write(tmp_path / "own", config="a", checkpoint__state="b" * 100)
    stored = StoredFolder(uri)
    assert stored.files() is None
    assert not StoredFolder(uri).fetch(tmp_path / "none")
    stored.commit(own)
    assert contents(stored_copy(uri)) == {"config": "a", "checkpoint/state": "b" * 100}
    write(own, checkpoint__state="c", frames__1="d")
    (own / "config").unlink()
    stored.commit(own)
    copy = stored_copy(uri)
    assert contents(copy) == {"checkpoint/state": "c", "frames/1": "d"}
    assert copy.is_relative_to(cache / "runs")
    assert "s3cret" not in str(copy)


def test_a_writer_that_dies_before_the_list_leaves_the_version_before(uri, tmp_path, monkeypatch):
    own = write(tmp_path / "own", state="a", log="1")
    StoredFolder(uri).commit(own)
    write(own, state="b", log="2")
    put = type(open_store(uri)).put

    def dying(store, local, name):
        if name == INDEX:
            raise OSError("killed")
        put(store, local, name)

    monkeypatch.setattr("raydd.io.filesystem.Store.put", dying)
    with pytest.raises(OSError, match="killed"):
        StoredFolder(uri).commit(own)
    assert contents(stored_copy(uri)) == {"state": "a", "log": "1"}


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(uri, tmp_path, monkeypatch):
    own = write(tmp_path / "own", state="a", log="1")
    stored = StoredFolder(uri)
    stored.commit(own)
    stored.commit(write(own, state="b"))
    listed = {INDEX, *(file.object for file in stored.files().values())}
    killed, rename = type(stored.store), type(stored.store)._rename
    with monkeypatch.context() as patch:
        patch.setattr(killed, "_rename", lambda *words: None)  # the temporary file has been written
        stored.store.put(own / "state", "frame-0123456789abcdef.png")
        stored.store.put(own / "state", "claim-0123456789abcdef.json")
        patch.setattr(killed, "_rename", lambda store, path, name: name != INDEX and rename(store, path, name))
        stored.commit(write(own, state="c", frames__1="d"))  # has no list
    others = {"photo-0123456789abcdef.png", "claim-0123456789abcdef.json"}
    for name in others:
        stored.store.put(own / "state", name)
    assert len(stored.store.names()) == len(listed | others) + 2  # the objects of c and d
    after = StoredFolder(uri)
    after.fetch(tmp_path / "after")
    after.sweep(others="claim-")
    assert stored.store.names().keys() == listed | others
    left = [info.base_name for info in stored.store._infos() if info.base_name.endswith(".tmp")]
    assert [name.partition(".")[0] for name in left] == ["claim-0123456789abcdef"]
    assert contents(stored_copy(uri)) == {"state": "b", "log": "1"}


def test_old_objects_go_and_a_slow_reader_still_gets_its_files(uri, tmp_path, monkeypatch):
    own = write(tmp_path / "own", state="0")
    stored = StoredFolder(uri)
    stored.commit(own)
    get, versions = type(stored.store).get, iter("1234")

    def slow(store, name, local):
        if (text := next(versions, None)) is not None:  # the writer is faster
            stored.commit(write(own, state=text))
        return get(store, name, local)

    monkeypatch.setattr("raydd.io.filesystem.Store.get", slow)
    assert contents(stored_copy(uri))["state"] in "01234"
    stored.commit(write(own, state="9"))
    assert contents(stored_copy(uri)) == {"state": "9"}
    assert (
        len([name for name in stored.store.names() if name != INDEX]) == 2
    )  # this version's, and that of the one before


def test_damaged_objects_and_lists_are_refused_in_a_line(uri, tmp_path):
    own = write(tmp_path / "own", state="a")
    stored = StoredFolder(uri)
    stored.commit(own)
    (name,) = [file.object for file in stored.files().values()]
    write(tmp_path / "bad", state="x")
    stored.store.put(tmp_path / "bad" / "state", name)
    with pytest.raises(ValueError, match=r"state is damaged \(checksum\); restore state-"):
        stored_copy(uri)
    index = json.loads(stored.store.read(INDEX))
    index["files"] = {"../state": index["files"]["state"]}
    (tmp_path / INDEX).write_text(json.dumps(index))
    stored.store.put(tmp_path / INDEX, INDEX)
    with pytest.raises(ValueError, match=r"folder.json is damaged .*'../state' is no file of the folder") as caught:
        stored_copy(uri)
    assert "s3cret" not in str(caught.value)


def test_a_folder_that_is_not_there_is_named(uri, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^s3://bucket/\S+ holds no folder of raydd: it has no folder.json"):
        stored_copy(uri)
    assert stored_copy(tmp_path.as_uri()) == tmp_path
