import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
import torch
from buffer_specs import make_spec

import raydd
from raydd.buffer import mirror as store
from raydd.buffer.arrow_buffer import ArrowBuffer, create_buffer, refresh_manifest
from raydd.buffer.expert_file import ExpertTrajectory, expert_path, write_expert
from raydd.buffer.manifest import read_manifest
from raydd.buffer.mirror import copy_buffer, fetch, local_folder, mirror, written_folder
from raydd.buffer.verification import verify
from raydd.cli import run
from raydd.data.preprocessing import Transform, save_transform
from raydd.io import filesystem as places
from raydd.io.arrow_file import open_arrow
from raydd.io.filesystem import open_store
from raydd.io.uri import is_uri, public_uri
from raydd.numerics.flat import layout_of
from raydd.numerics.rng import generator
from raydd.tuning.space_files import make_space
from raydd.tuning.trial import SearchContext, run_trial

SECRET = "s3cret"  # how the fixture's secret begins
SPEC = make_spec(layout_of({"w": torch.zeros(3, 5)}))


@pytest.fixture
def place(request, s3, tmp_path):
    """A folder that nobody has used, in each kind of store."""
    kind = getattr(request, "param", "s3")
    name = f"{request.node.name.partition('[')[0]}-{os.urandom(4).hex()}"
    return s3(f"bucket/{name}") if kind == "s3" else (tmp_path / name).as_uri()


ASKING = """
import sys, time
from raydd.io.filesystem import open_store

start = time.monotonic()
try:
    open_store(sys.argv[1]).names()
except OSError as error:
    print(time.monotonic() - start, error)
"""


@pytest.fixture(scope="module", autouse=True)
def unanswered():
    """A process that asks a store which does not answer; it waits while other tests run."""
    process = child(ASKING, "s3://tester:s3cret@bucket/a?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1")
    yield process
    process.communicate(timeout=60)


@pytest.fixture(autouse=True)
def node(tmp_path, monkeypatch):
    """A node's cache of its own, and no look-up of credentials outside."""
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path / "cache"


@pytest.fixture
def gets(monkeypatch):
    """The names of the files that are fetched, as they are."""
    names, get = [], places.Store.get

    def noted(self, name, local):
        names.append(name)
        return get(self, name, local)

    monkeypatch.setattr(places.Store, "get", noted)
    return names


everywhere = pytest.mark.parametrize("place", ["s3", "file"], indirect=True)


def expert(index, generation=0):
    theta = torch.randn(4, 15, generator=generator(generation, index))
    return ExpertTrajectory(theta, None, range(4), [0.1] * 4, [1.0] * 4)


def make(folder, experts=(0, 1, 2), spec=SPEC, generation=0):
    """A buffer whose expert files have one size, whatever the generation of their values."""
    create_buffer(folder, spec)
    arrays = {name: torch.tensor([generation + 1.0]) for name in ("mean", "std")}
    save_transform(folder, Transform("normalise", arrays))
    for index in experts:
        write_expert(folder, spec, index, expert(index, generation))
    refresh_manifest(folder)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


def there(uri):
    """An object's or file's bytes by name, read by other means than those that are tested."""
    head, _, query = uri.partition("?")
    if uri.startswith("file:"):
        return contents(head.removeprefix("file://"))
    address = query.partition("=")[2].partition("&")[0]
    bucket, _, folder = head.rpartition("@")[2].partition("/")
    client = boto3.client("s3", "us-east-1", endpoint_url=address, aws_access_key_id="a", aws_secret_access_key="b")
    found = client.list_objects_v2(Bucket=bucket, Prefix=f"{folder}/").get("Contents", [])
    names = [entry["Key"].removeprefix(f"{folder}/") for entry in found]
    files = [name for name in names if name and "/" not in name]  # pyarrow marks a folder by an empty object
    return {name: client.get_object(Bucket=bucket, Key=f"{folder}/{name}")["Body"].read() for name in files}


def refusal(kind, act, *words):
    with pytest.raises(kind) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # a traceback would show it
    assert [word for word in words if word not in text] == [], text
    return text


def child(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@everywhere
def test_files_go_there_and_back(place, tmp_path):
    files = {"a": b"", "expert-00000.arrow": os.urandom(3000), "manifest.json": b"{}"}
    found = open_store(place)
    assert found.names() == {}
    for name, data in files.items():
        (tmp_path / "local").write_bytes(data)
        found.put(tmp_path / "local", name)
    assert found.names() == {name: len(data) for name, data in files.items()}
    assert there(place) == files
    for name, data in files.items():
        assert found.get(name, tmp_path / "back" / name).read_bytes() == data == found.read(name)
    found.delete("a")
    found.delete("a")
    assert sorted(found.names()) == ["expert-00000.arrow", "manifest.json"]
    with pytest.raises(FileNotFoundError):
        found.get("a", tmp_path / "back" / "b")
    assert sorted(contents(tmp_path / "back")) == sorted(files)


@everywhere
def test_a_put_replaces_and_names_leave_out_folders(place, tmp_path):
    found = open_store(place)
    for data in (b"before", b"after it"):
        (tmp_path / "local").write_bytes(data)
        found.put(tmp_path / "local", "name")
    open_store(place.replace("?", "/inner?") if "?" in place else f"{place}/inner").put(tmp_path / "local", "deeper")
    open_store(place).put(tmp_path / "local", "half.tmp")  # as a writer leaves it that died
    assert found.names() == {"name": 8}
    found.delete("half.tmp")
    assert there(place) == {"name": b"after it"}


class Failing:
    """A file that raises, or kills its process, at its third read."""

    def __init__(self, path, act):
        self.file, self.act, self.left = open(path, "rb"), act, 2  # noqa: SIM115 - closed as it is left

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def fileno(self):
        return self.file.fileno()

    def read(self, size):
        self.left -= 1
        if self.left < 0:
            self.act()
        return self.file.read(size)


@pytest.mark.parametrize("size", [100, 12 << 20])  # sent at the end in one request; sent in parts
def test_a_put_that_fails_halfway_leaves_what_was_there(place, tmp_path, monkeypatch, size):
    found, local = open_store(place), tmp_path / "local"
    local.write_bytes(b"whole")
    found.put(local, "old")
    local.write_bytes(os.urandom(size))

    def fail():
        raise OSError("the disk is gone")

    monkeypatch.setattr(places, "CHUNK", size // 2)
    monkeypatch.setattr(places, "open", lambda path, mode: Failing(path, fail), raising=False)
    for name in ("old", "new"):
        with pytest.raises(OSError, match="the disk is gone"):
            found.put(local, name)
    assert there(place) == {"old": b"whole"}
    monkeypatch.undo()
    found.put(local, "new")
    assert there(place) == {"old": b"whole", "new": local.read_bytes()}


def test_a_file_that_s3_cannot_copy_is_written_in_place_and_removed_if_it_fails(place, tmp_path, monkeypatch):
    target, local = open_store(place), tmp_path / "local"
    local.write_bytes(os.urandom(100))
    monkeypatch.setattr(places, "MOST_COPIED", 50)
    target.put(local, "large")
    assert there(place) == {"large": local.read_bytes()}

    def fail():
        raise OSError("the disk is gone")

    monkeypatch.setattr(places, "CHUNK", 40)
    monkeypatch.setattr(places, "open", lambda path, mode: Failing(path, fail), raising=False)
    with pytest.raises(OSError, match="the disk is gone"):
        target.put(local, "other")
    assert there(place) == {"large": local.read_bytes()}


def test_temporary_objects_of_dead_writers_are_removed_after_a_day(place, tmp_path, monkeypatch):
    target, local = open_store(place), tmp_path / "local"
    local.write_bytes(b"data")
    for name in ("name", "name.host.1.abcd.tmp"):
        target.put(local, name)
    target.sweep()
    assert sorted(there(place)) == ["name", "name.host.1.abcd.tmp"]
    monkeypatch.setattr(places, "STALE_SECONDS", -3600)
    target.sweep()
    assert sorted(there(place)) == ["name"]


ENDING = """
import contextlib, os, signal, sys
from raydd.io import filesystem as places

class Ending:
    def __init__(self, path):
        self.file, self.left = open(path, "rb"), 2
        self.fileno = self.file.fileno

    def read(self, size):
        self.left -= 1
        if self.left < 0 and sys.argv[3] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.left < 0:
            raise OSError("the disk is gone")
        return self.file.read(size)

places.CHUNK, file = 6 << 20, Ending(sys.argv[2])
places.open = lambda path, mode: contextlib.nullcontext(file)
places.open_store(sys.argv[1]).put(sys.argv[2], "name")
"""


def test_a_writer_that_ends_halfway_leaves_no_object(place, tmp_path):
    (tmp_path / "local").write_bytes(os.urandom(15 << 20))
    ways = {"raise": 1, "kill": -signal.SIGKILL}
    children = {way: child(ENDING, place, tmp_path / "local", way) for way in ways}
    for way, process in children.items():
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == ways[way], errors
        assert ("the disk is gone" in errors) == (way == "raise"), errors
    assert open_store(place).names() == {}


def test_readers_of_a_node_that_start_together_fetch_each_file_once(s3, tmp_path, gets):
    """Like a search's trials, actors and trainings: one fetches, and the others wait and map its files."""
    uri = s3(f"bucket/{tmp_path.name}")
    full = make(tmp_path / "full")
    copy_buffer(full, uri)
    gets.clear()
    with ThreadPoolExecutor(6) as pool:
        folders = list(pool.map(lambda _: local_folder(uri), range(6)))
    assert set(folders) == {mirror(uri)}
    assert contents(folders[0]) == contents(full)
    assert sorted(gets) == ["expert-00000.arrow", "expert-00001.arrow", "expert-00002.arrow", "preprocessing.arrow"]


@everywhere
def test_a_fetch_brings_what_is_missing_and_no_more(place, tmp_path, gets):
    full = make(tmp_path / "full")
    copy_buffer(full, place)
    gets.clear()
    told = []
    folder = fetch(place, tell=told.append)
    assert (
        told.pop()
        == f"{public_uri(place)}: fetched 5 files, {sum(map(len, contents(full).values())):,} bytes, into {folder}"
    )
    assert contents(folder) == contents(full)
    assert sorted(gets) == ["expert-00000.arrow", "expert-00001.arrow", "expert-00002.arrow", "preprocessing.arrow"]
    gets.clear()
    assert fetch(place, tell=told.append) == folder == mirror(place)
    assert gets == []
    assert told == [f"{public_uri(place)}: nothing new to fetch into {folder}"]
    expert_path(folder, 1).unlink()
    expert_path(folder, 2).write_bytes(b"cut")
    fetch(place, ["expert-00002.arrow"])
    assert gets == ["expert-00002.arrow"]
    fetch(place)
    assert gets == ["expert-00002.arrow", "expert-00001.arrow"]
    assert contents(folder) == contents(full)
    gets.clear()
    fetch(place, anew=True)
    assert len(gets) == 4


def test_what_changed_there_is_never_served_stale(place, tmp_path, gets):
    """Same names, same sizes, other bytes."""
    copy_buffer(make(tmp_path / "old"), place)
    folder = fetch(place)
    new = make(tmp_path / "new", generation=1)
    shutil.copy(expert_path(tmp_path / "old", 1), expert_path(new, 1))
    refresh_manifest(new)
    assert {n: len(b) for n, b in contents(new).items()} == {n: len(b) for n, b in contents(folder).items()}
    gets.clear()
    for name in contents(new):
        open_store(place).put(new / name, name)
    assert fetch(place) == folder
    assert contents(folder) == contents(new)
    assert sorted(gets) == ["expert-00000.arrow", "expert-00002.arrow", "preprocessing.arrow"]
    # Nor where no manifest tells of it.
    write_expert(new, SPEC, 5, expert(5))
    open_store(place).put(expert_path(new, 5), "expert-00005.arrow")
    fetch(place)
    write_expert(new, SPEC, 5, expert(5, generation=1))
    open_store(place).put(expert_path(new, 5), "expert-00005.arrow")
    gets.clear()
    fetch(place)
    assert gets == ["expert-00005.arrow"]
    assert contents(folder) == contents(new)
    fetch(place)
    assert gets == ["expert-00005.arrow"]


def test_what_is_gone_there_is_removed_here(place, tmp_path):
    found, full = open_store(place), make(tmp_path / "full")
    copy_buffer(full, place)
    folder = fetch(place)
    less = make(tmp_path / "less", experts=(0, 2))
    found.delete("expert-00001.arrow")
    found.put(less / "manifest.json", "manifest.json")
    fetch(place)
    assert contents(folder) == contents(less)
    for name in found.names():
        found.delete(name)
    fetch(place)
    assert contents(folder) == {}
    refusal(ValueError, lambda: local_folder(place), public_uri(place), "raydd experts --out")
    copy_buffer(full, place)
    fetch(place)
    other = make(tmp_path / "other", experts=(7,), spec=dataclasses.replace(SPEC, seed=4))
    for name in found.names():
        found.delete(name)
    copy_buffer(other, place)
    assert contents(fetch(place)) == contents(other)


def test_an_expert_that_was_not_sent_yet_is_kept_and_not_read(place, tmp_path):
    """Else this node would match other experts than its neighbours."""
    copy_buffer(make(tmp_path / "full"), place)
    folder = fetch(place)
    write_expert(folder, SPEC, 3, expert(3))
    assert fetch(place) == folder
    assert expert_path(folder, 3).exists()
    refusal(ValueError, lambda: local_folder(place), "expert-00003.arrow", "is not at", "raydd experts --out")
    open_store(place).put(expert_path(folder, 3), "expert-00003.arrow")
    assert ArrowBuffer(local_folder(place)).experts == (0, 1, 2, 3)


@pytest.mark.parametrize("streams", [1, 4])
def test_an_interrupted_fetch_leaves_no_half_file_and_goes_on(place, tmp_path, monkeypatch, gets, streams):
    full = make(tmp_path / "full", experts=range(12))
    copy_buffer(full, place)
    chunks, handed = places.Store._chunks, []

    def failing(self, name):
        for data in chunks(self, name):
            if name == "expert-00001.arrow":
                yield data[:1000]
                raise KeyboardInterrupt
            if name > "expert-00001.arrow":
                time.sleep(0.05)
            handed.append(name)
            yield data

    with monkeypatch.context() as patch:
        patch.setattr(store, "STREAMS", streams)
        patch.setattr(places.Store, "_chunks", failing)
        with pytest.raises(KeyboardInterrupt):
            fetch(place)
    assert handed[0] == "manifest.json"
    assert len(handed) < 10  # none was begun after that
    assert sorted(contents(mirror(place))) == sorted(handed[1:])
    gets.clear()
    assert contents(fetch(place)) == contents(full)
    assert sorted(gets) == sorted(contents(full).keys() - {*handed})


FETCHING = """
import os, sys, time
from raydd.buffer import mirror as store
from raydd.io import filesystem as places
from raydd.io import uri

store.local_folder("runs/x"), uri.is_uri("s3://b"), store.mirror("s3://b/x"), places.open_store("s3://b/x")
loaded = sorted({"pyarrow.fs", "boto3", "ray"} & set(sys.modules))
get, store.STREAMS = places.Store.get, 1

def slow(self, name, local):
    time.sleep(0.2)
    return get(self, name, local)

def dying(self, name):
    time.sleep(0.5)  # the others wait meanwhile
    yield b"half"
    os._exit(9)

def fetching(dies):
    if process := os.fork():
        return process
    chunks = places.Store._chunks
    places.Store.get = slow
    if dies:
        places.Store._chunks = lambda self, name: dying(self, name) if "00001" in name else chunks(self, name)
    store.fetch(sys.argv[1], tell=lambda line: os.write(1, f"{line}\\n".encode()))
    os._exit(0)

first = fetching(True)
while not (store.mirror(sys.argv[1]) / "expert-00000.arrow").exists():  # the first one holds the mirror
    time.sleep(0.01)
ends = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in (first, fetching(False), fetching(False))]
print(loaded, ends)
"""


@pytest.mark.slow
def test_processes_of_a_node_fetch_once_and_a_killed_one_is_replaced(place, tmp_path):
    """And a process that sees no URI loads no file systems."""
    full = make(tmp_path / "full")
    copy_buffer(full, place)
    output, errors = child(FETCHING, place).communicate(timeout=60)
    *told, ends = output.splitlines()
    assert ends == "[] [9, 0, 0]", errors
    rest = sum(len(data) for name, data in contents(full).items() if name != "expert-00000.arrow")
    done = [f"fetched 4 files, {rest:,} bytes, into", "nothing new to fetch into"]
    assert told == [f"{public_uri(place)}: {words} {mirror(place)}" for words in done]
    assert contents(mirror(place)) == contents(full)
    assert verify(mirror(place)) == []


def test_a_disk_without_room_is_refused_before_anything_is_fetched(place, tmp_path, monkeypatch, gets):
    copy_buffer(make(tmp_path / "full"), place)
    total = sum(open_store(place).names().values())
    usage = shutil.disk_usage(tmp_path)
    gets.clear()
    with monkeypatch.context() as patch:
        patch.setattr(store.shutil, "disk_usage", lambda folder: usage._replace(free=total - 1))
        refusal(ValueError, lambda: fetch(place), f"{total:,}", f"{total - 1:,}", "RAYDD_CACHE")
        assert gets == []
        patch.setattr(store.shutil, "disk_usage", lambda folder: usage._replace(free=total))
        fetch(place)
    assert len(gets) == 4


def test_places_that_are_none_are_refused_at_once():
    for uri in ("ftp://tester:s3cret@host/x", "http://host/x", "abfs://container/x"):
        refusal(ValueError, lambda uri=uri: open_store(uri), uri.partition("://")[0], "s3://, gs://, gcs://, hdfs://")
    unquoted = "s3://AKIATESTER:s3cret/of@bucket/a?region=x"
    refusal(ValueError, lambda: open_store(unquoted).names(), "s3://bucket/a", "%2F")
    odd = "s3://tester:s3cret@bucket/a?region=x&token=s3cret"
    refusal(ValueError, lambda: open_store(odd).names(), "token")
    refusal(ValueError, lambda: local_folder(Path("s3://bucket/a")), "'s3:/bucket/a'", "as text")
    assert [is_uri(place) for place in ("s3://b", Path("s3://b"), "/tmp/s3://b", "runs/b")] == [
        True,
        False,
        False,
        False,
    ]


def test_a_missing_bucket_and_wrong_credentials_are_told_of_in_a_line(s3, s3_server, tmp_path):
    (tmp_path / "local").write_bytes(b"x")
    missing = open_store(s3("nobucket/a"))
    refusal(OSError, missing.names, "s3://nobucket/a", "there is no bucket nobucket", "credentials")
    refusal(OSError, lambda: missing.put(tmp_path / "local", "x"), "s3://nobucket/a", "bucket")
    with s3_server(INITIAL_NO_AUTH_ACTION_COUNT="0") as uri:
        refused = open_store(uri("bucket/a"))
        for act in (refused.names, lambda: refused.put(tmp_path / "local", "x"), lambda: refused.read("x")):
            start = time.monotonic()
            refusal(OSError, act, "s3://bucket/a", "credentials and the network")
            assert time.monotonic() - start < 5


@pytest.mark.parametrize("verb", ["info", "verify", "copy"])
def test_a_command_tells_of_a_bad_place_in_a_line(s3, tmp_path, capsys, verb):
    more = [str(tmp_path / "out")] if verb == "copy" else []
    for uri, code, words in ((s3("nobucket/a"), 1, "s3://nobucket/a"), ("ftp://u:s3cret@host/a", 2, "ftp://host/a")):
        assert run(["buffer", verb, uri, *more]) == code
        errors = capsys.readouterr().err
        assert errors.startswith(f"raydd: {words}")
        assert errors.count("\n") == 1
        assert SECRET not in errors


def test_a_store_pickles_as_its_uri_and_shows_no_secret(s3):
    uri = s3("bucket/a/")
    found = open_store(uri)
    found.names()
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert again.names() == {}
    assert f"{found!r} {found}" == f"Store({public_uri(uri)!r}) Store({public_uri(uri)!r})"
    assert SECRET not in repr(found)
    bare = uri.replace(uri[5 : uri.index("@") + 1], "")
    assert bare.startswith("s3://bucket/a/?")
    assert mirror(uri) == mirror(bare) == mirror(bare.replace("a/?", "a?"))
    assert mirror(uri) != mirror(bare.replace("/a/", "/b/"))
    assert public_uri("runs/a?b@c") == "runs/a?b@c"
    assert public_uri("hdfs://user:s3cret@host:8020/a@b") == "hdfs://host:8020/a@b"
    assert public_uri("s3://b/x?endpoint_override=http://u:s3cret@host:9") == "s3://b/x?endpoint_override=host:9"


def test_a_copy_goes_on_where_it_was_stopped(place, tmp_path, monkeypatch):
    full, put, sent = make(tmp_path / "full"), places.Store.put, []

    def failing(self, local, name):
        if len(sent) == 3:
            raise KeyboardInterrupt
        sent.append(name)
        put(self, local, name)

    with monkeypatch.context() as patch:
        patch.setattr(places.Store, "put", failing)
        with pytest.raises(KeyboardInterrupt):
            copy_buffer(full, place)
    assert sent == ["manifest.json", "expert-00000.arrow", "expert-00001.arrow"]
    assert json.loads(there(place)["manifest.json"])["experts"] == []
    other = make(tmp_path / "other", spec=dataclasses.replace(SPEC, seed=4))
    refusal(ValueError, lambda: copy_buffer(other, place), public_uri(place), "seed", "name another folder")
    copied = copy_buffer(full, place)
    assert list(copied) == ["expert-00002.arrow", "preprocessing.arrow"]
    assert there(place) == contents(full)
    assert copy_buffer(full, place) == {}
    assert copy_buffer(place, tmp_path / "back")["expert-00001.arrow"] == expert_path(full, 1).stat().st_size
    assert contents(tmp_path / "back") == contents(full)


def test_a_copy_keeps_the_experts_that_only_its_target_has(tmp_path):
    make(tmp_path / "many", experts=(0, 1, 2))
    make(tmp_path / "few", experts=(0, 5), generation=1)
    assert list(copy_buffer(tmp_path / "few", tmp_path / "many")) == [
        "expert-00000.arrow",
        "expert-00005.arrow",
        "preprocessing.arrow",
    ]
    _, entries = read_manifest(tmp_path / "many")
    assert sorted(entries) == [0, 1, 2, 5]
    assert entries[0]["checksum"] == open_arrow(expert_path(tmp_path / "few", 0)).metadata["checksum"]
    assert verify(tmp_path / "many") == []


@everywhere
def test_what_is_written_for_a_place_gets_there(place, tmp_path):
    with written_folder(place) as folder:
        make(folder)
    assert there(place) == contents(make(tmp_path / "full"))

    def interrupted():
        with written_folder(place) as folder:
            write_expert(folder, SPEC, 3, expert(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ("expert-00003.arrow" in there(place)) == place.startswith("file:")  # that is the folder itself


def test_what_was_written_before_a_stop_is_there_for_the_next(place, tmp_path):
    """Also when it was stopped as it was put there; a mirror that nobody writes to is cleared of what is gone."""

    def stopped(index):
        with written_folder(place) as folder:
            create_buffer(folder, SPEC)
            write_expert(folder, SPEC, index, expert(index))
            refresh_manifest(folder)
            raise KeyboardInterrupt

    for index in range(2):
        with pytest.raises(KeyboardInterrupt):
            stopped(index)
    times = [expert_path(mirror(place), index).stat().st_mtime_ns for index in range(2)]
    found = open_store(place)
    (tmp_path / "begun").mkdir()
    create_buffer(tmp_path / "begun", SPEC)  # the first thing that is put
    found.put(tmp_path / "begun" / "manifest.json", "manifest.json")
    with written_folder(place) as folder:
        assert times == [expert_path(folder, index).stat().st_mtime_ns for index in range(2)]
        make(folder)
    assert there(place) == contents(make(tmp_path / "full"))
    for name in found.names():
        found.delete(name)
    with written_folder(place) as folder:
        assert list(contents(folder)) == [".lock", "unsent"]
        make(folder)


def test_a_new_buffer_under_an_old_name_has_its_own_preprocessing(place, tmp_path):
    """Whose file is as large as that of the one before, and which a look at the manifest does not fetch."""
    copy_buffer(make(tmp_path / "old"), place)
    fetch(place)
    new = make(tmp_path / "new", spec=dataclasses.replace(SPEC, preprocessing_hash="b" * 16), generation=1)
    for name, data in contents(new).items():
        (tmp_path / "file").write_bytes(data)
        open_store(place).put(tmp_path / "file", name)
    fetch(place, ("manifest.json",))
    assert contents(fetch(place)) == contents(new)


def test_what_a_worker_has_not_sent_yet_is_not_removed_by_a_fetch(place, tmp_path):
    """A node that trains has no manifest in its mirror until somebody reads there."""
    copy_buffer(make(tmp_path / "full"), place)
    mirror(place).mkdir(parents=True)
    write_expert(mirror(place), SPEC, 7, expert(7))
    fetch(place)
    assert expert_path(mirror(place), 7).exists()


WORDS = ["--set", "steps=2", "--set", "student_steps=1", "--set", "window.high=1", "--set", "threads=1"]


def distill(buffer, out):
    return run(["distill", "--network", "MLP", "--buffer", str(buffer), "--out", str(out), *WORDS])


def test_a_run_on_an_uri_is_the_run_on_its_folder(
    place, small_buffer, small_synset, cache, tmp_path, monkeypatch, capsys
):
    """And the commands that look into buffers take an URI too; no secret is shown or saved."""
    monkeypatch.setenv("RAYDD_CACHE", str(cache))  # the images are there
    assert run(["buffer", "copy", str(small_buffer), place]) == 0
    assert distill(place, tmp_path / "remote") == 0
    assert distill(small_buffer, tmp_path / "local") == 0
    names = [path.name for path in (tmp_path / "local").iterdir() if path.is_file() and path.name != "memory.jsonl"]
    assert "config.yaml" in names
    for name in names:
        assert (tmp_path / "remote" / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name
    assert run(["buffer", "info", place, "--json"]) == 0
    assert run(["buffer", "verify", place]) == 0
    assert run(["buffer", "convexify", place, place.replace("?", "-short?")]) == 0
    assert run(["buffer", "convexify", str(small_buffer), str(tmp_path / "short")]) == 0
    assert there(place.replace("?", "-short?")) == contents(tmp_path / "short")
    assert run(["evaluate", str(small_synset), "--buffer", place, "--nets", "ConvNetD6"]) == 2
    captured = capsys.readouterr()
    assert f"{public_uri(place)}: fetched 4 files" in captured.err
    assert f"{mirror(place)}: its experts choose" in captured.err
    assert f"{public_uri(place)}: whole" in captured.out
    assert f"{public_uri(place)}: copied 3 files" in captured.out
    assert SECRET not in captured.out + captured.err
    assert [secrets_in(folder) for folder in (tmp_path, mirror(place))] == [[], []]


def test_a_damaged_file_there_is_found(place, tmp_path, capsys):
    full = make(tmp_path / "full")
    copy_buffer(full, place)
    assert run(["buffer", "verify", place]) == 0
    data = bytearray(expert_path(full, 1).read_bytes())
    data[data.index(expert(1).theta[2].numpy().tobytes())] ^= 1
    expert_path(full, 1).write_bytes(data)
    open_store(place).put(expert_path(full, 1), "expert-00001.arrow")
    assert run(["buffer", "verify", place]) == 1
    assert "expert-00001.arrow: its values changed" in capsys.readouterr().out


def small_space(buffer=None):
    tree = {"method": "mtt", "preset": "none.yaml", "domains": {"lr.images": {"choice": [10.0, 20.0]}}}
    settings = {"steps": 2, "student_steps": 1, "span": 1, "evaluate_every": 1, "evaluate_networks": 1}
    settings |= {"evaluate_epochs": 2, "window": {"low": 0, "high": 1}, "threads": 1}
    settings |= {"experts": {"network": "MLP", "num_experts": 2, "epochs": 3}}
    return make_space(tree | {"name": "small", "budget": {"samples": 2}, "set": settings, "buffer": buffer})


@pytest.fixture
def images_here(node, cache, tmp_path, monkeypatch):
    """A node that has the images, and a folder with a preset of nothing to work in."""
    node.mkdir()
    (node / "datasets").symlink_to(cache / "datasets")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.yaml").write_text("{}\n")


def secrets_in(folder):
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.usefixtures("images_here")
def test_a_trial_fetches_its_buffer_to_its_own_node(place, small_buffer, node, tmp_path):
    copy_buffer(small_buffer, place)
    tasks = [
        SearchContext(small_space("b"), buffer, tmp_path / name, "cpu")
        for name, buffer in (("a", place), ("b", small_buffer))
    ]
    told = [[report[:4] for report in run_trial(task, 0, {"lr.images": 10.0})] for task in tasks]
    assert told[0] == told[1]
    assert len(told[0]) == 2
    assert contents(mirror(place)) == contents(small_buffer)
    assert mirror(place).is_relative_to(node)
    assert secrets_in(tmp_path) == []
    # What the driver compared is another node's copy.
    data = bytearray(expert_path(mirror(place), 1).read_bytes())
    data[len(data) // 2] ^= 1
    expert_path(mirror(place), 1).write_bytes(data)
    refusal(ValueError, lambda: list(run_trial(tasks[0], 1, {"lr.images": 20.0})), "expert-00001.arrow is damaged")


@pytest.mark.slow
@pytest.mark.remote
@pytest.mark.usefixtures("images_here")
def test_a_search_on_an_uri_writes_its_secret_nowhere(place, small_buffer, tmp_path):
    copy_buffer(small_buffer, place)
    results = raydd.tune(small_space(), tmp_path / "search", buffer=place, max_concurrent=2, evaluation=None)
    assert [trial.state for trial in results.trials] == ["complete"] * 2
    assert results.space.buffer == public_uri(place)
    assert f"--buffer {public_uri(place)}" in (tmp_path / "search" / "best.yaml").read_text()
    assert secrets_in(tmp_path) == []


def test_a_store_that_does_not_answer_is_given_up_in_seconds(unanswered):
    output, errors = unanswered.communicate(timeout=60)
    assert errors == ""
    seconds, _, error = output.rstrip("\n").partition(" ")
    assert float(seconds) < 20
    assert error.startswith("s3://bucket/a?endpoint_override=127.0.0.1:9&region=us-east-1&scheme=http cannot be listed")
    assert error.endswith("check its name, the credentials and the network")
    assert SECRET not in error
    assert "\n" not in error
