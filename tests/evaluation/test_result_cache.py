"""Kept results: a key for all that decides a result and nothing else, files that are whole or not there."""

import json
import os
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import fields, replace
from datetime import datetime
from functools import partial

import numpy as np
import pytest
import torch

from raydd.api.trainings import run_matrix
from raydd.config.schema import DataConfig
from raydd.data.preprocessing import Transform, fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation import result_cache as module
from raydd.evaluation.jobs import Job, Outcome
from raydd.evaluation.matrix import Matrix, ScoreRow
from raydd.evaluation.protocols import Length, Protocol
from raydd.evaluation.result_cache import CacheKeys, ResultCache, cached_outcomes, commits
from raydd.evaluation.successive_halving import Rungs
from raydd.models.spaces import ConvNetRow
from raydd.numerics.formation import Formation
from raydd.numerics.rng import generator

DATA = DataConfig()
PROTOCOL = Protocol(name="p", epochs=6, plain_epochs=5, real_epochs=2, lr=None)
JOB, WHOLE = Job(0, "MLP", 3), Job(1, "MLP", 3)
RUNGS = Rungs((2, 4), 2)
FULL, STOPPED = Outcome(0.75, 1.5, ((2, 0.25), (4, 0.5))), Outcome(0.25, 0.5, ((2, 0.25),), True)


@pytest.fixture(scope="module")
def dataset():
    return open_workspace(DATA, None, torch.device("cpu")).dataset


@pytest.fixture(scope="module")
def synset(dataset):
    images = torch.randn(20, 1, 8, 8, generator=generator(0))
    labels = torch.arange(10).repeat_interleave(2)
    transform = fit_transform("normalise", dataset)
    return SyntheticSet(images, labels, torch.tensor(0.02), transform, "digits", dataset.classes)


@pytest.fixture(scope="module")
def matrix(synset):
    """A set and the whole data set, on one network."""
    entries = ScoreRow("a", "distilled", (synset,)), ScoreRow("w", "whole", ())
    return Matrix(entries, ("MLP",), range(3, 5), PROTOCOL, DATA, "cpu")


def text(matrix, dataset, job=JOB):
    """A job's key as it is hashed."""
    return json.dumps(CacheKeys(matrix, dataset).of(job), sort_keys=True)


def with_row(matrix, **changes):
    """The matrix with its first row changed."""
    return replace(matrix, rows=(replace(matrix.rows[0], **changes), *matrix.rows[1:]))


def with_set(matrix, **changes):
    return with_row(matrix, sets=(replace(matrix.rows[0].sets[0], **changes),))


def with_protocol(matrix, **changes):
    return replace(matrix, protocol=matrix.protocol.model_copy(update=changes))


def with_data(matrix, **changes):
    return replace(matrix, data=matrix.data.model_copy(update=changes))


def nudged(tensor):
    """The tensor with the last bit of its last value flipped."""
    changed = tensor.clone()
    last = changed.view(torch.int32)[-1, ..., -1:] if tensor.is_floating_point() else changed[-1:]
    last ^= 1
    return changed


def soft(labels):
    return torch.nn.functional.one_hot(labels, 10).float()


ROW = {
    "split": ("validation", True),
    "augment": (False, True),
    "classes": ((0, 1), True),
    "lrs": ((0.1,), True),
    "name": ("b", False),
    "kind": ("random", False),
    "selection": ("paper", False),
    "part": ("hard", False),
    "of": ("a", False),
    "seeds": ((0,), False),
    "requested": (True, False),
}
SET = {
    "lr": (torch.tensor(0.03), True),
    "transform": (Transform("raw01"), True),
    "formation": (Formation(2), True),
    "dataset": ("other", False),
    "classes": (tuple("abcdefghij"), False),
    "recipe": ({"method": "dm"}, False),
    "provenance": ({"commit": "abc"}, False),
    "history": (({"step": 1},), False),
}
PROTOCOLS = {
    "epochs": (7, True),
    "plain_epochs": (7, True),
    "lr": (0.01, True),
    "momentum": (0.8, True),
    "weight_decay": (1e-3, True),
    "batch_size": (7, True),
    "milestones": ((0.4,), True),
    "gamma": (0.2, True),
    "cutmix": (0.5, True),
    "real_epochs": (3, False),
    "name": ("q", False),
    "rule": ("dsa_idc", True),
    "strategy": ("color_crop", True),
    "lengths": ((Length(datasets=("digits",), ipc=2, epochs=7),), True),
    "compile": (True, True),
    "optimizer": ("adamw", True),
    "cosine": (0.5, True),
    "temperature": (4.0, True),
}
DATAS = {  # which images is in the fingerprint, and how they are preprocessed in the set's own transform
    "augment": ("none", True),
    "flip": (True, False),  # what comes of it is in the images' own field
    "validation": (0.2, False),
    "dataset": ("other", False),
    "size": (16, False),
    "channels": (1, False),
    "preprocessing": ("zca", False),
}
DATASET = {
    "fingerprint": ("0" * 16, True),
    "classes": (tuple("abcdefghijk"), True),
    "flip": (True, True),
    "name": ("other", False),
    "note": ("other", False),
    "mean": ((0.0,), False),
    "std": ((1.0,), False),
}


def test_every_field_of_what_decides_a_result_is_looked_at_here():
    """A field that is new must be put into one of the tables."""
    assert {field.name for field in fields(ScoreRow)} == {*ROW, "sets"}
    assert {field.name for field in fields(SyntheticSet)} == {
        *SET,
        "images",
        "labels",
        "regression",  # with labels that are none of classes, below
        "styles",
    }  # of styles: test_styled_sets.py
    assert set(Protocol.model_fields) == set(PROTOCOLS)
    assert set(DataConfig.model_fields) == set(DATAS)
    names = {field.name for field in fields(open_workspace(DATA, None, torch.device("cpu")).dataset)}
    assert names == {*DATASET, "train", "validation", "test"}
    of_matrix = {"rows", "networks", "seeds", "protocol", "data", "device", "architectures", "rungs"}
    assert {field.name for field in fields(Matrix)} == of_matrix


@pytest.mark.parametrize(
    ("change", "field", "other", "differs"),
    [
        pytest.param(change, field, other, differs, id=f"{change.__name__[5:]}-{field}")
        for change, table in ((with_row, ROW), (with_set, SET), (with_protocol, PROTOCOLS), (with_data, DATAS))
        for field, (other, differs) in table.items()
    ],
)
def test_one_field_at_a_time(matrix, dataset, change, field, other, differs):
    assert (text(change(matrix, **{field: other}), dataset) != text(matrix, dataset)) is differs


def test_the_keys_of_older_versions_are_found(matrix, dataset):
    """Fields that their protocols did not have are left out where they change nothing."""
    older = {"epochs", "plain_epochs", "lr", "momentum", "weight_decay", "batch_size", "milestones", "gamma", "cutmix"}
    elsewhere = with_protocol(matrix, lengths=(Length(datasets=("svhn",), ipc=2, epochs=7),))
    for one in (matrix, elsewhere):
        assert CacheKeys(one, dataset).of(JOB)["protocol"].keys() == older
    assert CacheKeys(elsewhere, dataset).of(WHOLE)["protocol"].keys() == older - {"epochs", "plain_epochs"} | {
        "real_epochs"
    }


@pytest.mark.rows("field", DATASET)
def test_one_field_of_the_images_at_a_time(matrix, dataset, field):
    other, differs = DATASET[field]
    assert (text(matrix, replace(dataset, **{field: other})) != text(matrix, dataset)) is differs


def test_every_bit_of_images_and_labels_counts(matrix, dataset, synset):
    keys = [text(matrix, dataset)]
    logits, twice = soft(synset.labels), torch.cat([synset.images, synset.images])
    for changes in (
        {"images": nudged(synset.images)},
        {"images": synset.images.double()},
        {"images": synset.images.flip(0)},
        {"images": synset.images.view(20, 1, 4, 16)},
        {"images": twice, "labels": torch.cat([synset.labels, synset.labels])},
        {"labels": nudged(synset.labels)},
        {"labels": logits},
        {"labels": nudged(logits)},
        {"labels": logits, "regression": True},
    ):
        keys.append(text(with_set(matrix, **changes), dataset))
    assert len(set(keys)) == len(keys) == 10


def test_equal_sets_have_equal_keys_however_they_came(matrix, dataset, synset, tmp_path):
    synset.save(tmp_path / "set.arrow")
    again = with_row(matrix, sets=(SyntheticSet.load(tmp_path / "set.arrow"),))
    strided = with_set(matrix, images=synset.images.transpose(2, 3).contiguous().transpose(2, 3))
    assert text(again, dataset) == text(strided, dataset) == text(matrix, dataset)


def test_the_job_counts_and_its_place_does_not(matrix, dataset, synset):
    keys = CacheKeys(matrix, dataset)
    found = [json.dumps(keys.of(job)) for job in (JOB, Job(0, "MLP", 4), Job(0, "LeNet", 3), WHOLE)]
    assert len(set(found)) == 4
    other = ScoreRow("b", "random", (replace(synset, images=-synset.images),))
    moved = replace(matrix, rows=(other, *matrix.rows), networks=("LeNet", "MLP"), seeds=range(9))
    assert text(moved, dataset, Job(1, "MLP", 3)) == text(matrix, dataset)
    assert text(moved, dataset, Job(0, "MLP", 3)) != text(matrix, dataset)


def test_of_several_sets_the_one_of_the_seed_counts(matrix, dataset, synset):
    sets = tuple(replace(synset, images=synset.images + number) for number in range(2))
    drawn = with_row(matrix, sets=sets)
    for seed in (3, 4):
        single = with_row(matrix, sets=(sets[seed - 3],))
        assert text(drawn, dataset, Job(0, "MLP", seed)) == text(single, dataset, Job(0, "MLP", seed))


def test_device_versions_and_schema_count(matrix, dataset, monkeypatch):
    before = text(matrix, dataset)
    assert text(replace(matrix, device="cuda"), dataset) != before
    for name, changed in (("SCHEMA", module.SCHEMA + 1), ("version", lambda name: "9")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, changed)
            assert text(matrix, dataset) != before
    monkeypatch.setattr(torch, "__version__", "9")
    assert text(matrix, dataset) != before


def test_the_sets_own_step_size_counts_only_where_students_take_it(matrix, dataset):
    for settled in (with_protocol(matrix, lr=0.01), with_row(matrix, lrs=(0.1, 0.2))):
        assert text(with_set(settled, lr=torch.tensor(0.03)), dataset) == text(settled, dataset)
    assert text(with_row(matrix, lrs=(0.1, 0.2)), dataset) != text(with_row(matrix, lrs=(0.2, 0.1)), dataset)


def test_a_decoding_counts_only_where_there_is_a_mosaic(matrix, dataset):
    assert text(with_set(matrix, formation=Formation(1, "multi", 7)), dataset) == text(matrix, dataset)
    keys = {
        text(with_set(matrix, formation=Formation(*formation)), dataset)
        for formation in ((2, "uniform"), (2, "multi"), (3, "multi"), (2, "bounded", 20), (2, "bounded", 40))
    }
    assert len(keys) == 5


def test_the_order_of_classes_counts(matrix, dataset):
    keys = {text(with_row(matrix, classes=classes), dataset) for classes in (None, (0, 1), (1, 0), (0, 2))}
    assert len(keys) == 4


@pytest.mark.rows("network", ["row", "MLP"])
def test_a_row_of_a_space_counts_as_what_it_is_not_as_what_it_is_called(matrix, dataset, network):
    one, other = ConvNetRow(32, 2, "batch"), ConvNetRow(64, 2, "batch")
    job = Job(0, network, 3)
    found = [text(replace(matrix, architectures={network: row}), dataset, job) for row in (one, other)]
    assert found[0] != found[1]
    named = replace(matrix, architectures={str(one): one})
    assert found[0] == text(named, dataset, Job(0, str(one), 3)) == text(matrix, dataset, Job(0, str(one), 3))
    assert found[0] != text(matrix, dataset, job)


@pytest.mark.rows("entry", [{"split": "validation"}, {"lrs": (0.1, 0.2)}, {"sets": ()}], ids=str)
def test_what_is_held_out_counts_where_it_is_used(matrix, dataset, entry):
    """Which images these are goes by the fraction and the name of the data set."""
    found = with_row(replace(matrix, rows=(*matrix.rows, matrix.rows[0])), **entry)
    assert text(with_data(found, validation=0.2), dataset) != text(found, dataset)
    assert text(found, replace(dataset, name="other")) != text(found, dataset)
    alone = with_row(matrix, lrs=(0.1,))
    assert text(with_data(alone, validation=0.2), dataset) == text(alone, dataset)


def test_the_name_of_a_data_set_decides_which_images_are_held_out(dataset, tmp_path):
    """Why it is in the key: the same images under another name have another validation split."""
    parts = {}
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        parts |= {f"x_{part}": split.images.transpose(0, 2, 3, 1), f"y_{part}": split.labels}
    np.savez(tmp_path / "mine.npz", **parts)
    other = open_workspace(DataConfig(dataset=str(tmp_path / "mine.npz")), None, torch.device("cpu")).dataset
    assert other.fingerprint == dataset.fingerprint
    assert len(other.validation) == len(dataset.validation)
    assert not np.array_equal(other.validation.index, dataset.validation.index)


def test_the_whole_data_set_has_its_own_epochs(matrix, dataset):
    found = {
        field: text(with_protocol(matrix, **{field: 9}), dataset, WHOLE) != text(matrix, dataset, WHOLE)
        for field in ("epochs", "plain_epochs", "real_epochs")
    }
    assert found == {"epochs": False, "plain_epochs": False, "real_epochs": True}


def test_the_whole_data_set_does_not_depend_on_the_set_but_for_its_preprocessing(matrix, dataset, synset):
    before = text(matrix, dataset, WHOLE)
    assert text(with_set(matrix, images=-synset.images, lr=torch.tensor(1.0)), dataset, WHOLE) == before
    assert text(with_set(matrix, transform=Transform("raw01")), dataset, WHOLE) != before


FRESH = """
import json, sys
from pathlib import Path
import torch
from raydd.config.schema import DataConfig
from raydd.data.synset import SyntheticSet
from raydd.evaluation.result_cache import CacheKeys, ResultCache
from raydd.evaluation.jobs import Job
from raydd.evaluation.matrix import ScoreRow, Matrix
from raydd.evaluation.protocols import Length, Protocol
from raydd.data.workspace import open_workspace

protocol = Protocol(name="other", epochs=6, plain_epochs=5, real_epochs=2, lr=None)
entries = ScoreRow("other", "random", (SyntheticSet.load(sys.argv[1]),), classes=(3, 1)), ScoreRow("w", "whole", ())
matrix = Matrix(entries, ("MLP",), range(3, 5), protocol, DataConfig(), "cpu")
keys = CacheKeys(matrix, open_workspace(DataConfig(), None, torch.device("cpu")).dataset)
cache = ResultCache(Path(sys.argv[2]))
print(json.dumps([cache.load(keys.of(Job(entry, "MLP", 3))).value for entry in (0, 1)]))
"""


def test_a_fresh_process_finds_what_this_one_kept(matrix, dataset, synset, tmp_path):
    synset.save(tmp_path / "set.arrow")
    matrix = with_row(matrix, classes=(3, 1))
    keys, cache = CacheKeys(matrix, dataset), ResultCache(tmp_path / "scores")
    cache.store(keys.of(JOB), Outcome(1 / 3, 1.0))
    cache.store(keys.of(WHOLE), Outcome(2 / 3, 1.0))
    words = [sys.executable, "-c", FRESH, str(tmp_path / "set.arrow"), str(tmp_path / "scores")]
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [1 / 3, 2 / 3]


def test_what_was_kept_is_found_and_says_where_it_is_from(tmp_path):
    cache, key = ResultCache(tmp_path, commit="abc123"), {"a": [1, 2.5], "b": None}
    assert cache.load(key) is None
    cache.store(key, FULL)
    assert cache.load({"b": None, "a": (1, 2.5)}) == FULL._replace(commit="abc123")
    assert ResultCache(tmp_path).load(key) == FULL._replace(commit="abc123")
    assert cache.load(key | {"a": [1, 2]}) is None
    (path,) = tmp_path.rglob("*.*")
    assert (path.parent.name, path.parent.parent, path.suffix) == (path.stem[:2], tmp_path, ".json")
    record = json.loads(path.read_text())
    assert record["key"] == {"a": [1, 2.5], "b": None}
    assert record["commit"] == "abc123"
    age = (datetime.now().astimezone() - datetime.strptime(record["when"], "%Y-%m-%dT%H:%M:%S%z")).total_seconds()
    assert -1 <= age < 60


def test_the_last_result_counts(tmp_path):
    cache = ResultCache(tmp_path)
    cache.store({}, FULL)
    cache.store({}, STOPPED)
    assert cache.load({}) == STOPPED._replace(commit=None)
    assert len(list(tmp_path.rglob("*.*"))) == 1


def test_results_lie_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    ResultCache().store({}, FULL)
    (path,) = tmp_path.rglob("*.json")
    assert path.relative_to(tmp_path).parts[:2] == ("cache", "scores")


@pytest.fixture
def kept(tmp_path):
    """A cache with one result, and its file."""
    cache = ResultCache(tmp_path, commit="abc")
    cache.store({"a": 1}, FULL)
    (path,) = tmp_path.rglob("*.json")
    return cache, path


def test_a_half_file_counts_as_absent(kept):
    cache, path = kept
    content = path.read_bytes()
    for size in range(len(content) - 2):
        path.write_bytes(content[:size])
        assert cache.load({"a": 1}) is None
    path.write_bytes(content)
    assert cache.load({"a": 1}) == FULL._replace(commit="abc")


@pytest.mark.parametrize("bit", [1, 4])
def test_a_flipped_bit_never_gives_another_result(kept, bit):
    cache, path = kept
    content = path.read_bytes()
    found = []
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= bit
        path.write_bytes(bytes(damaged))
        found.append(cache.load({"a": 1}))
    assert set(found) <= {None, FULL._replace(commit="abc")}
    assert found.count(None) > 0.95 * len(found)


@pytest.mark.parametrize("content", ["", "[]", "3", "null", '"x"', "{}", '{"sha256": ""}', "[" * 500, "\0" * 500, "ä"])
def test_what_is_no_result_counts_as_absent_and_is_replaced(kept, content):
    cache, path = kept
    path.write_text(content, encoding="latin-1")
    assert cache.load({"a": 1}) is None
    cache.store({"a": 1}, STOPPED)
    assert cache.load({"a": 1}) == STOPPED._replace(commit="abc")


def test_a_result_is_checked_by_its_bytes_and_one_of_an_older_version_by_its_values(kept, monkeypatch):
    cache, path = kept
    monkeypatch.setattr("raydd.io.document.digest", lambda tree: "0" * 64)
    assert cache.load({"a": 1}) == FULL._replace(commit="abc")
    monkeypatch.undo()
    older = json.dumps(json.loads(path.read_text()), indent=1) + "\n"
    path.write_text(older)
    assert cache.load({"a": 1}) == FULL._replace(commit="abc")
    path.write_text(older.replace("0.25", "0.26"))
    assert cache.load({"a": 1}) is None
    assert cache.damaged == [path]


def test_the_file_of_another_training_counts_as_absent(kept):
    cache, path = kept
    cache.store({"a": 2}, STOPPED)
    (other,) = set(path.parents[1].rglob("*.json")) - {path}
    path.write_bytes(other.read_bytes())
    assert cache.load({"a": 1}) is None
    assert cache.load({"a": 2}) == STOPPED._replace(commit="abc")


def test_a_folder_in_its_place_counts_as_absent_and_cannot_be_written(kept):
    cache, path = kept
    path.unlink()
    path.mkdir()
    assert cache.load({"a": 1}) is None
    with pytest.raises(OSError, match="directory"):
        cache.store({"a": 1}, FULL)
    assert list(path.parent.iterdir()) == [path]


def at_once(*works):
    """Run functions in threads of their own, to their end."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_writers_at_once_leave_whole_results(tmp_path):
    """Eight writers of the same trainings beside a reader: what is found is one that was written, whole."""
    outcomes = [Outcome(writer / 8, float(writer), ((1, writer / 8),) * 50) for writer in range(8)]
    keys, written, found = [{"training": number} for number in range(4)], [], []

    def write(writer):
        for key in keys * 3:
            ResultCache(tmp_path, commit=f"c{writer}").store(key, outcomes[writer])
        written.append(writer)

    def read():
        while len(written) < len(outcomes):
            found.extend(filter(None, map(ResultCache(tmp_path).load, keys)))

    at_once(read, *(partial(write, writer) for writer in range(8)))
    assert found
    assert set(found) <= {outcome._replace(commit=f"c{writer}") for writer, outcome in enumerate(outcomes)}
    assert len(list(tmp_path.rglob("*.*"))) == len(keys)
    assert all(ResultCache(tmp_path).load(key) for key in keys)


def test_what_is_known_of_a_matrix(matrix, dataset, tmp_path):
    cache, keys = ResultCache(tmp_path, "abc"), CacheKeys(matrix, dataset)
    assert cached_outcomes(matrix, keys, cache) == {}
    cache.store(keys.of(JOB), FULL)
    assert cached_outcomes(matrix, keys, cache) == {JOB: FULL._replace(commit="abc")}
    longer = with_protocol(matrix, epochs=7)
    assert cached_outcomes(longer, CacheKeys(longer, dataset), cache) == {}


def test_a_stopped_result_is_not_taken_for_a_finished_one(matrix, dataset, tmp_path):
    cache, rungs = ResultCache(tmp_path), replace(matrix, rungs=RUNGS)
    cache.store(CacheKeys(rungs, dataset).stopped(JOB), STOPPED)

    def found(matrix):
        return cached_outcomes(matrix, CacheKeys(matrix, dataset), cache)

    assert found(rungs) == {JOB: STOPPED}
    assert found(matrix) == {}
    for others in (Rungs((2, 4), 3), Rungs((2,), 2), Rungs((2, 4, 5), 2)):
        assert found(replace(matrix, rungs=others)) == {}
    cache.store(CacheKeys(matrix, dataset).of(JOB), FULL)
    assert found(rungs) == found(matrix) == {JOB: FULL}


def _bare(outcomes):
    return {job: outcome._replace(commit=None) for job, outcome in outcomes.items()}


def test_an_evaluation_keeps_what_was_stopped_apart_from_what_ran_to_its_end(matrix, dataset, monkeypatch, tmp_path):
    """One seed is stopped: without rungs it is trained to its end, with the same rungs it is not trained again."""
    asked = []

    def pretend(matrix, where, show, known, keep):
        left = [job for job in matrix.jobs() if job not in known]
        asked.append(left)
        results = {job: STOPPED if matrix.rungs and job == JOB else FULL for job in left}
        for job, outcome in results.items():
            keep(job, outcome)
        return {**known, **results}

    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path))
    monkeypatch.setattr("raydd.remote.train_matrix.train_matrix", pretend)
    monkeypatch.setattr("raydd.remote.session._connected", lambda *_: nullcontext())
    rungs = replace(matrix, rungs=RUNGS)
    first = run_matrix(rungs, dataset)
    assert (first[JOB]._replace(commit=None), len(first), asked) == (STOPPED, 4, [rungs.jobs()])
    assert run_matrix(rungs, dataset) == first
    assert len(asked) == 1
    assert _bare(run_matrix(matrix, dataset)) == dict.fromkeys(matrix.jobs(), FULL)
    assert asked[1:] == [[JOB]]
    assert _bare(run_matrix(rungs, dataset)) == dict.fromkeys(matrix.jobs(), FULL)
    assert len(asked) == 2
    run_matrix(rungs, dataset, fresh=True)
    assert asked[2:] == [rungs.jobs()]


def test_the_commits_of_kept_results_are_named_once():
    assert commits([]) == []
    assert commits(
        [FULL._replace(commit="b"), FULL._replace(commit=None), STOPPED._replace(commit="a"), FULL._replace(commit="b")]
    ) == ["a", "b", "unknown"]


def test_what_was_stopped_among_some_may_go_on_among_others(matrix, dataset):
    rungs = replace(matrix, rungs=RUNGS)
    more = replace(rungs, networks=(*rungs.networks, "LeNet"))
    turned = replace(more, networks=more.networks[::-1])
    few, many, again = (CacheKeys(each, dataset).stopped(JOB) for each in (rungs, more, turned))
    assert few != many == again
    assert CacheKeys(rungs, dataset).of(JOB) == CacheKeys(more, dataset).of(JOB)
