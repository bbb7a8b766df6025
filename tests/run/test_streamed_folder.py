"""A run folder that comes in parts: the same files, each whole or not at all."""

import pytest

from raydd.run import streamed_folder
from raydd.run.streamed_folder import FileGone, FilePart, ReceivedFolder, StreamedFolder, read_files, write_files


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The sender's and the receiver's folder, both empty; parts are small."""
    monkeypatch.setattr(streamed_folder, "PART_BYTES", 10)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    return tmp_path / "here", tmp_path / "there"


def test_changed_files_are_sent_and_lost_ones_removed(folders):
    here, there = folders
    events = []
    streamed, received = StreamedFolder(here, events.append), ReceivedFolder(there)

    def send():
        events.clear()
        streamed.send()
        for event in events:
            received.receive(event)
        return {event.name for event in events}

    write_files(here, {"config.yaml": b"a" * 25, "steps/000002.arrow": b"", "report.html": b"of another command"})
    assert send() == {"config.yaml", "steps/000002.arrow"}
    assert read_files(there) == {"config.yaml": b"a" * 25, "steps/000002.arrow": b""}
    assert send() == set()
    write_files(here, {"checkpoint/state.arrow": b"b" * 20})
    (here / "steps" / "000002.arrow").unlink()
    assert send() == {"checkpoint/state.arrow", "steps/000002.arrow"}
    assert read_files(there) == read_files(here)
    assert "report.html" not in read_files(there)


def test_what_the_receiver_has_is_not_sent_again(folders):
    here, _ = folders
    write_files(here, {"config.yaml": b"a"})
    events = []
    StreamedFolder(here, events.append).send()
    assert events == []


def test_the_file_of_a_sender_that_died_is_dropped(folders):
    _, there = folders
    write_files(there, {"config.yaml": b"whole"})
    received = ReceivedFolder(there)
    received.receive(FilePart("config.yaml", 0, b"ha", last=False))
    assert read_files(there) == {"config.yaml": b"whole"}
    received.drop()
    assert [path.name for path in there.iterdir()] == ["config.yaml"]
    received.receive(FilePart("config.yaml", 0, b"new", last=True))
    assert read_files(there) == {"config.yaml": b"new"}


def test_other_files_are_refused(folders):
    received = ReceivedFolder(folders[1])
    for event in (FilePart("../config.yaml", 0, b"", last=True), FileGone("/etc/passwd")):
        with pytest.raises(RuntimeError, match="which is no file of a run"):
            received.receive(event)
