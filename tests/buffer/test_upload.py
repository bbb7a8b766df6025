"""Buffers in a store while experts are added: what counts, what is sent, and what a killed run leaves."""

import json
import shutil
from pathlib import Path

import pytest

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.describe import describe, describe_location
from raydd.buffer.expert_file import expert_path
from raydd.buffer.manifest import read_manifest
from raydd.buffer.mirror import fetch, local_folder, mirror
from raydd.buffer.verification import verify
from raydd.config.schema import DataConfig, ExpertConfig
from raydd.data.preprocessing import load_transform
from raydd.io.filesystem import Store, open_store
from raydd.io.uri import public_uri
from raydd.training.expert_worker import BufferInfo, ExpertChunk, ExpertJob, ExpertTrainer, buffer_destination, prepare

FILES = ["expert-00000.arrow", "expert-00001.arrow", "manifest.json", "preprocessing.arrow"]


@pytest.fixture
def place(s3, request, tmp_path, monkeypatch):
    """A folder of a store that nobody has used; this node's cache is its own."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return s3(f"bucket/{request.node.name}")


@pytest.fixture
def at(cache, tmp_path, monkeypatch):
    """Makes this process one of a node's, by the node's name; all have the data sets."""

    def be(name):
        if not (tmp_path / name).exists():
            shutil.copytree(cache, tmp_path / name, ignore=lambda folder, names: {"mirrors", "buffers"} & set(names))
        monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / name))

    be("driver")
    return be


def begin(place, num_experts=2, **settings):
    recipe = ExpertConfig(network="MLP", num_experts=num_experts, epochs=3, **settings)
    _, outlet = buffer_destination(place)
    job, missing = prepare(ExpertJob(DataConfig(), recipe, 0, outlet.folder, "cpu"), outlet)
    return outlet, job, missing


def train(job, uri, index):
    """The last part of what a worker gives of an expert that it puts into the store."""
    trainer = ExpertTrainer(job, BufferInfo(load_transform(job.folder), read_manifest(job.folder)[0], uri))
    part = ExpertChunk(0, [], False)
    while not part.ended:
        part = trainer.train_chunk(index, stream=False)
        assert part.pieces == []
    return part


def names(place):
    return sorted(open_store(place).names())


def manifest(place):
    return json.loads(open_store(place).read("manifest.json"))


def test_experts_of_two_nodes_make_the_buffer_of_a_folder(place, at, small_buffer, tmp_path):
    outlet, job, missing = begin(place)
    assert missing == [0, 1]
    assert names(place) == ["manifest.json", "preprocessing.arrow"]
    for index, node in enumerate(("one", "two")):
        transform, spec = load_transform(job.folder), read_manifest(job.folder)[0]
        at(node)
        trainer = ExpertTrainer(job, BufferInfo(transform, spec, place))
        part = ExpertChunk(0, [], False)
        while not part.ended:
            part = trainer.train_chunk(index, stream=False)
        at("driver")
        assert not expert_path(outlet.folder, index).exists()
        outlet.add(part.entry)
    assert names(place) == FILES
    assert manifest(place) == json.loads((small_buffer / "manifest.json").read_text())
    assert begin(place)[2] == []
    assert not expert_path(outlet.folder, 0).exists()  # what the manifest lists is not fetched to be counted
    folder = local_folder(place)
    for name in FILES:
        assert (folder / name).read_bytes() == (small_buffer / name).read_bytes()
    assert verify(folder) == []
    assert ArrowBuffer(folder).experts == (0, 1)


def test_more_experts_are_trained_into_a_buffer_that_has_some(place, at):
    outlet, job, _ = begin(place)
    for index in (0, 1):
        outlet.add(train(job, place, index).entry)
    outlet, _, missing = begin(place, num_experts=5)
    assert missing == [2, 3, 4]
    assert sorted(outlet.entries) == [0, 1]
    with pytest.raises(ValueError, match=r"holds another buffer: recipe\.lr is 0\.01 instead of 0.5") as caught:
        begin(place, lr=0.5)
    assert str(caught.value).startswith(public_uri(place))
    assert "s3cret" not in str(caught.value)
    assert names(place) == FILES


def test_an_expert_that_was_put_and_not_committed_counts_if_it_is_whole(place, at):
    """The driver was killed between the two; the file of the second was of a disk that failed."""
    _, job, _ = begin(place, num_experts=3)
    for index in (0, 1):
        train(job, place, index)
    assert manifest(place)["experts"] == []
    broken = expert_path(job.folder, 1)
    broken.write_bytes(broken.read_bytes()[:-100])
    open_store(place).put(broken, broken.name)
    shutil.rmtree(mirror(place))
    outlet, job, missing = begin(place, num_experts=3)
    assert missing == [1, 2]
    assert [entry["index"] for entry in manifest(place)["experts"]] == [0]
    outlet.add(train(job, place, 1).entry)
    assert begin(place, num_experts=3)[2] == [2]
    assert verify(local_folder(place)) == []


def test_an_expert_that_could_not_be_sent_is_sent_by_the_next_run(place, at, monkeypatch):
    outlet, job, _ = begin(place)

    def fail(self, local, name):
        raise OSError(f"{self.public_uri} cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr("raydd.io.filesystem.Store.put", fail)
        patch.setattr("raydd.buffer.upload.PAUSES", ())
        with pytest.raises(OSError, match="cannot be written"):
            train(job, place, 0)
    path = expert_path(outlet.folder, 0)
    before = path.stat().st_mtime_ns
    assert "expert-00000.arrow" not in names(place)
    part = train(job, place, 0)  # by a worker of that node
    assert path.stat().st_mtime_ns == before
    assert part.entry["index"] == 0
    open_store(place).delete(path.name)
    assert begin(place)[2] == [1]  # or by the driver
    assert path.stat().st_mtime_ns == before
    assert [entry["index"] for entry in manifest(place)["experts"]] == [0]


def test_a_mirror_of_a_buffer_that_is_gone_is_not_taken_for_the_new_one(place, at):
    """Another node has the old one still."""
    _, job, _ = begin(place, lr=0.5)
    at("other")
    folder = mirror(place)
    shutil.copytree(job.folder, folder)
    ExpertTrainer(job._replace(folder=folder)).train(0)
    at("driver")
    for name in names(place):
        open_store(place).delete(name)
    _, job, missing = begin(place)
    assert missing == [0, 1]
    transform, spec = load_transform(job.folder), read_manifest(job.folder)[0]
    at("other")
    trainer = ExpertTrainer(job, BufferInfo(transform, spec, place))
    while not trainer.train_chunk(0, stream=False).ended:
        pass
    assert (folder / "expert-00000.arrow.bad").exists()
    at("driver")
    fetch(place)
    assert verify(mirror(place)) == []


def test_what_is_said_of_a_buffer_needs_no_expert(place, at, small_buffer):
    outlet, job, _ = begin(place)
    for index in (0, 1):
        outlet.add(train(job, place, index).entry)
    shutil.rmtree(mirror(place))
    found, whole = describe_location(place), describe(small_buffer)
    assert {path.name for path in mirror(place).iterdir()} == {"manifest.json"}
    for name in ("dataset", "fingerprint", "network", "recipe", "seed", "storage", "experts", "bytes"):
        assert found[name] == whole[name]
    assert found["accuracy"]["last"] == pytest.approx(whole["accuracy"]["last"])
    assert describe_location(small_buffer) == whole


def test_a_file_uri_is_a_folder(tmp_path):
    assert buffer_destination((tmp_path / "a").as_uri()) == (tmp_path / "a", None)
    assert buffer_destination(tmp_path / "a") == (tmp_path / "a", None)
    assert buffer_destination("a") == (Path.cwd() / "a", None)
    with pytest.raises(ValueError, match="is not a location for a buffer"):
        buffer_destination("ftp://host/a")


def test_a_store_that_fails_for_a_while_ends_no_run(place, at, monkeypatch):
    outlet, job, _ = begin(place)
    put, failed = Store.put, []

    def failing(self, local, name):
        if failed.count(name) < 2:
            failed.append(name)
            raise OSError(f"{self.public_uri} cannot be written")
        put(self, local, name)

    monkeypatch.setattr("raydd.io.filesystem.Store.put", failing)
    monkeypatch.setattr("raydd.buffer.upload.PAUSES", (0.01, 0.01))
    outlet.add(train(job, place, 0).entry)
    assert failed == ["expert-00000.arrow"] * 2 + ["manifest.json"] * 2
    assert [entry["index"] for entry in manifest(place)["experts"]] == [0]


def test_a_full_disk_keeps_no_copy_of_what_is_in_the_store(place, at, monkeypatch):
    _, job, _ = begin(place)
    usage = shutil.disk_usage(job.folder)
    size = expert_path(job.folder, train(job, place, 0).entry["index"]).stat().st_size
    monkeypatch.setattr(
        "raydd.training.expert_worker.shutil.disk_usage", lambda folder: usage._replace(free=10 * size - 1)
    )
    train(job, place, 1)
    assert "expert-00001.arrow" in names(place)
    assert [expert_path(job.folder, index).exists() for index in range(2)] == [True, False]


def test_two_runs_into_one_place_keep_each_others_experts(place, at):
    """They began at once, before any had made the buffer; a third that wants another buffer is refused."""
    settings = {"lr": 0.01}, {"lr": 0.01}, {"lr": 0.5}
    runs = []
    for name, recipe in zip(("one", "two", "three"), settings, strict=True):
        at(name)
        experts = ExpertConfig(network="MLP", num_experts=2, epochs=3, **recipe)
        runs.append((name, experts, buffer_destination(place)[1]))
    jobs = []
    for name, experts, outlet in runs[:2]:
        at(name)
        jobs.append(prepare(ExpertJob(DataConfig(), experts, 0, outlet.folder, "cpu"), outlet)[0])
    for index, (name, _, outlet) in enumerate(runs[:2]):
        at(name)
        outlet.add(train(jobs[index], place, index).entry)
    assert [entry["index"] for entry in manifest(place)["experts"]] == [0, 1]
    at("three")
    _, experts, outlet = runs[2]
    with pytest.raises(ValueError, match=r"holds another buffer: recipe\.lr is 0\.01 instead of 0.5") as caught:
        prepare(ExpertJob(DataConfig(), experts, 0, outlet.folder, "cpu"), outlet)
    assert str(caught.value).startswith(public_uri(place))
    at("driver")
    assert verify(local_folder(place)) == []


def test_a_buffer_that_lost_its_preprocessing_gets_it_again(place, at):
    """A run was killed between the two, by an older version that put the manifest first."""
    begin(place)
    before = open_store(place).read("preprocessing.arrow")
    open_store(place).delete("preprocessing.arrow")
    begin(place)
    assert open_store(place).read("preprocessing.arrow") == before


def test_who_may_not_write_is_told_so_at_once(place, at, monkeypatch):
    def refuse(self, local, name):
        raise OSError(f"{self.public_uri} cannot be written")

    waited = []
    monkeypatch.setattr("raydd.io.filesystem.Store.put", refuse)
    monkeypatch.setattr("raydd.buffer.upload.time.sleep", waited.append)
    with pytest.raises(OSError, match="cannot be written"):
        begin(place)
    assert waited == []
