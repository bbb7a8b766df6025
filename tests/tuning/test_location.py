"""The location of a search: a folder or a URI, with one driver at a time."""

import pytest

from raydd.io.paths import below
from raydd.tuning import location as locations
from raydd.tuning.location import JOURNAL, SPACE, location_of


def no_note(line):
    raise AssertionError(line)


def test_a_file_uri_is_its_folder(tmp_path):
    location = location_of(f"file://{tmp_path}/search")
    assert (location.folder, location.uri, location.name) == (tmp_path / "search", None, str(tmp_path / "search"))
    assert location_of(tmp_path / "search") == location
    assert not location.has_search()
    assert location.read_space() is None
    with location.alone("raydd tune", no_note):
        (location.folder / SPACE).write_text("name: here")
        location.record()
    assert location.has_search()
    assert location.read_space() == location.output(location.folder / SPACE) == location.folder / SPACE


@pytest.fixture
def uri(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return s3(f"bucket/{tmp_path.name}")


def test_a_search_at_a_uri_is_found_by_another_node(uri, tmp_path, monkeypatch):
    location = location_of(uri)
    assert not location.has_search()
    with location.alone("raydd tune", no_note):
        (location.folder / SPACE).write_text("name: there")
        (location.folder / JOURNAL).write_text("one\n")
        location.send([location.folder / SPACE])
        location.record()
        (location.folder / JOURNAL).write_text("one\ntwo\n")
        location.record(urgent=False)  # too early after the last
        (location.folder / "best").mkdir()
        (location.folder / "best" / "set.txt").write_text("set")
        location.send([location.folder / "best" / "set.txt"])
    assert "secret" not in location.name + str(location.output(location.folder / "best" / "set.txt"))
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "other"))
    other = location_of(uri)
    assert other.folder != location.folder
    assert other.has_search()
    assert other.read_space().read_text() == "name: there"
    with other.alone("raydd tune", no_note):
        assert (other.folder / JOURNAL).read_text() == "one\n"
        other.record()
    assert locations.open_store(below(uri, "best")).read("set.txt") == b"set"
    assert [name for name in locations.open_store(uri).names() if name.startswith("driver-")] == []


def test_the_next_driver_removes_temporary_files_of_a_killed_one(uri, tmp_path, monkeypatch):
    location = location_of(uri)
    places = [locations.open_store(place) for place in (uri, below(uri, "best"), below(uri, "figures"))]
    (tmp_path / "file").write_text("half")
    with monkeypatch.context() as patch:
        patch.setattr(type(places[0]), "_rename", lambda *words: None)  # killed before
        for place in places:
            place.put(tmp_path / "file", "file")
        places[0].put(tmp_path / "file", "driver-0123456789ab.json")  # another driver, which is about to be refused
    with location.alone("raydd tune", no_note):
        pass
    left = [info.base_name.partition(".")[0] for place in places for info in place._infos()]
    assert left == ["driver-0123456789ab"]


def test_two_drivers_on_a_uri_are_refused_and_a_dead_one_is_not(uri, monkeypatch, tmp_path):
    location, cache = location_of(uri), tmp_path / "other"
    with location.alone("raydd tune", no_note):
        monkeypatch.setenv("RAYDD_CACHE", str(cache))
        other = location_of(uri)
        with (
            pytest.raises(
                ValueError, match=r"writes there; wait .* or name another --out. If it was killed, try again"
            ),
            other.alone("raydd tune", no_note),
        ):
            pass
        with monkeypatch.context() as patch:  # after a pause the first finds out, too
            patch.setattr(locations.time, "monotonic", lambda: 1e9)
            store = locations.open_store(uri)
            own = locations._Lease(store, "raydd tune")
            own._renew()
            with pytest.raises(ValueError, match="writes there"):
                location.record()
            store.delete(own._name)
    left = locations._Lease(locations.open_store(uri), "raydd tune")
    left._text = left._text.replace(str(locations.os.getpid()), "999999999")  # a killed process of this machine
    left._renew()
    with other.alone("raydd tune", no_note):
        assert other.has_search() is False
    monkeypatch.setattr(locations, "STALE_SECONDS", -1.0)
    left._text = left._text.replace(locations.socket.gethostname(), "elsewhere")
    left._renew()
    with other.alone("raydd tune", no_note):
        assert [name for name in locations.open_store(uri).names() if name == left._name] == []
