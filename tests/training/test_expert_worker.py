import dataclasses
import json
import shutil
from functools import partial
from itertools import product

import pytest
import torch

from raydd.buffer.arrow_buffer import ArrowBuffer, refresh_manifest
from raydd.buffer.convexified import convexify
from raydd.buffer.expert_file import expert_path
from raydd.buffer.expert_writer import ExpertWriter, Row, pieces
from raydd.buffer.manifest import read_manifest
from raydd.buffer.verification import verify
from raydd.cli import run
from raydd.config.schema import DataConfig, ExpertConfig, ExpertsConfig
from raydd.data.preprocessing import load_transform
from raydd.data.workspace import open_workspace, set_precision
from raydd.io.files import writer
from raydd.training.expert_worker import BufferInfo, ExpertChunk, ExpertJob, ExpertTrainer, default_buffer, prepare


def job(folder, **settings):
    recipe = ExpertConfig(network="MLP", num_experts=2, epochs=3, **settings)
    return prepare(ExpertJob(DataConfig(), recipe, 0, folder, "cpu"))


def test_training_with_kept_epochs_writes_what_convexify_makes(small_buffer, tmp_path):
    """The same bytes a file; the manifests hold the same."""
    work, missing = job(tmp_path / "kept", kept=(1,))
    assert missing == [0, 1]
    trainer = ExpertTrainer(work)
    for index in missing:
        trainer.train(index)
    refresh_manifest(work.folder)
    convexify(small_buffer, tmp_path / "made", (1,))
    for name in ("expert-00000.arrow", "expert-00001.arrow", "preprocessing.arrow"):
        assert (work.folder / name).read_bytes() == (tmp_path / "made" / name).read_bytes()
    one, other = (json.loads((f / "manifest.json").read_text()) for f in (work.folder, tmp_path / "made"))
    assert one == other
    assert verify(work.folder) == []
    assert ArrowBuffer(work.folder).kept == (0, 1, 3)
    assert job(tmp_path / "made", kept=(1,))[1] == []  # nothing is missing: training may go on from either


@pytest.mark.parametrize("kept", [(3,), (2, 1), (1, 1), (7,)])
def test_epochs_to_keep_that_do_not_fit_are_refused(tmp_path, kept):
    with pytest.raises(ValueError, match=r"experts\.kept") as caught:
        job(tmp_path / "kept", kept=kept)
    assert str([*kept]) in str(caught.value)
    assert not (tmp_path / "kept").exists()


def test_kept_and_full_are_two_buffers(small_buffer):
    before = (small_buffer / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=r"recipe\.kept is None instead of \[1\]"):
        job(small_buffer, kept=(1,))
    assert (small_buffer / "manifest.json").read_bytes() == before
    assert expert_path(small_buffer, 1).exists()


def test_a_buffer_in_half_precision_is_the_other_one_rounded(small_buffer, tmp_path):
    """The experts are trained alike; only the files differ."""
    work, missing = job(tmp_path / "half", storage="float16")
    trainer = ExpertTrainer(work)
    for index in missing:
        trainer.train(index)
    refresh_manifest(work.folder)
    full, half = ArrowBuffer(small_buffer), ArrowBuffer(work.folder)
    for index, epoch in product(full.experts, range(4)):
        assert torch.equal(half.snapshot(index, epoch), full.snapshot(index, epoch).half().float())
    assert torch.equal(half.norms(1), full.norms(1))
    assert torch.equal(half.accuracy, full.accuracy)
    entry = json.loads((work.folder / "manifest.json").read_text())["experts"][0]
    assert 0 < entry["rounding"]["snapshot"] < 2**-11
    assert entry["accuracy"] == pytest.approx(float(full.accuracy[0, -1]))
    assert expert_path(work.folder, 0).stat().st_size < 0.6 * expert_path(small_buffer, 0).stat().st_size
    with pytest.raises(ValueError, match=r"recipe\.storage is 'float16' instead of None"):
        job(work.folder)


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_training_with_kept_epochs_in_half_precision_writes_what_convexify_makes(tmp_path, storage):
    full, kept = (job(tmp_path / str(kept), storage=storage, kept=kept)[0] for kept in (None, (1,)))
    for work in (full, kept):
        ExpertTrainer(work).train(0)
        refresh_manifest(work.folder)
    convexify(full.folder, tmp_path / "made", (1,))
    assert expert_path(kept.folder, 0).read_bytes() == expert_path(tmp_path / "made", 0).read_bytes()
    one, other = (json.loads((f / "manifest.json").read_text()) for f in (kept.folder, tmp_path / "made"))
    assert one == other


def test_names_and_recipes_of_float32_are_those_of_before_there_was_a_choice():
    """Buffers in users' caches must be found again."""
    assert "storage" not in ExpertConfig().recipe()
    assert ExpertConfig(storage="float16").recipe()["storage"] == "float16"
    plain, half = (default_buffer(ExpertsConfig(experts=ExpertConfig(storage=s))) for s in ("float32", "float16"))
    assert plain.name == "digits-ConvNetW32-b900ba5f1e96"
    assert half != plain


def test_a_buffer_is_extended_by_what_it_lacks(small_buffer, tmp_path):
    folder = shutil.copytree(small_buffer, tmp_path / "buffer")
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("expert-*")}
    recipe = ExpertConfig(network="MLP", num_experts=5, epochs=3)
    work, missing = prepare(ExpertJob(DataConfig(), recipe, 0, folder, "cpu"))
    assert missing == [2, 3, 4]
    trainer = ExpertTrainer(work)
    for index in missing:
        trainer.train(index)
    refresh_manifest(folder)
    assert ArrowBuffer(folder).experts == (0, 1, 2, 3, 4)
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    entries = json.loads((folder / "manifest.json").read_text())["experts"]
    found = [entry["accuracy"] for entry in entries]
    assert found == pytest.approx(ArrowBuffer(folder).accuracy[:, -1].tolist())
    assert prepare(ExpertJob(DataConfig(), recipe, 0, folder, "cpu"))[1] == []


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--gpus-per-worker", "0.25", "--device", "cpu"], "--gpus-per-worker 0.25: the work is done on CPUs"),
        (["--gpus-per-worker", "1.5"], "--gpus-per-worker 1.5: give a part of a GPU"),
        (["--set", "experts.storage=float8"], "experts.storage"),
        (["--out", "ftp://host/buffer"], "ftp://host/buffer is not a location for a buffer"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_written(tmp_path, capfd, flags, word):
    assert run(["experts", "--network", "MLP", "--out", str(tmp_path / "buffer"), *flags]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert word in err
    assert [*tmp_path.iterdir()] == []


def parts(trainer, index, stream):
    """All that a trainer gives of an expert, and what came in each part."""
    found = []
    while not found or not found[-1].ended:
        found.append(trainer.train_chunk(index, stream))
    return found


@pytest.mark.parametrize("settings", [{}, {"kept": (1,)}, {"storage": "bfloat16"}])
def test_what_is_sent_and_writered_elsewhere_gives_the_same_bytes(tmp_path, monkeypatch, settings):
    """In pieces much smaller than a snapshot."""
    (here, missing), (there, _) = (job(tmp_path / name, **settings) for name in ("here", "there"))
    for index in missing:
        ExpertTrainer(here).train(index)
    spec = read_manifest(there.folder)[0]
    elsewhere = there._replace(folder=tmp_path / "no" / "such" / "folder")
    trainer = ExpertTrainer(elsewhere, BufferInfo(load_transform(there.folder), spec))
    monkeypatch.setattr("raydd.training.expert_worker.PIECE_BYTES", 4000)
    monkeypatch.setattr("raydd.training.expert_worker.pieces", partial(pieces, most=4000))
    for index in missing:
        found = parts(trainer, index, stream=True)
        assert len(found) > 4
        assert found[-1].epoch == 3
        assert max(sum(values(piece) for piece in part.pieces) for part in found) < 8000
        with ExpertWriter(there.folder, spec, index) as writer:
            for piece in (piece for part in found for piece in part.pieces):
                writer.add(piece)
            writer.finish()
        assert trainer.train_chunk(index, stream=True) == ExpertChunk(3, [], True)  # there is no more
        assert expert_path(there.folder, index).read_bytes() == expert_path(here.folder, index).read_bytes()
    assert not (tmp_path / "no").exists()
    assert list(there.folder.glob("*.tmp")) == []


def values(piece):
    theta = piece.theta if isinstance(piece, Row) else piece
    return 0 if theta is None else theta.nbytes


def test_a_worker_that_writes_itself_sends_nothing_and_leaves_what_is_there(tmp_path):
    work, _ = job(tmp_path / "buffer")
    trainer = ExpertTrainer(work)
    assert [piece for part in parts(trainer, 0, stream=False) for piece in part.pieces] == []
    first = expert_path(work.folder, 0).stat().st_mtime_ns
    assert parts(ExpertTrainer(work), 0, stream=False) == [ExpertChunk(0, [], True)]
    assert expert_path(work.folder, 0).stat().st_mtime_ns == first


def test_a_worker_looks_whether_it_has_the_drivers_folder(tmp_path, monkeypatch):
    work, _ = job(tmp_path / "buffer")
    trainer, token = ExpertTrainer(work), work.folder / "token"
    assert trainer.check_folder(token, "secret") == (writer(), False)
    token.write_text("of another folder of that name")
    assert trainer.check_folder(token, "secret") == (writer(), False)
    token.write_text("secret")
    assert trainer.check_folder(token, "secret") == (writer(), True)
    monkeypatch.setenv("RAYDD_EXPERTS_STREAM", "1")
    assert trainer.check_folder(token, "secret") == (writer(), False)


def test_a_node_with_other_images_is_refused(tmp_path):
    """It would train other experts than the buffer's."""
    work, _ = job(tmp_path / "buffer")
    spec = dataclasses.replace(read_manifest(work.folder)[0], fingerprint="0" * 16)
    with pytest.raises(ValueError, match=r"would train other experts: fingerprint is '\w+' instead of '0+'") as caught:
        ExpertTrainer(work, BufferInfo(load_transform(work.folder), spec))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("precision", "rounds"), [("float32", False), ("tf32", True)])
def test_products_on_a_gpu_are_rounded_where_the_settings_say_so(tmp_path, precision, rounds):
    """PyTorch itself rounds the factors of convolutions and not those of matrix products."""
    set_precision("float32" if rounds else "tf32")
    work = job(tmp_path / "buffer")[0]
    experts = work.experts.model_copy(update={"precision": precision})
    ExpertTrainer(work._replace(experts=experts))
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (rounds, rounds)
    assert ("precision" in experts.recipe()) == rounds


def test_a_worker_makes_its_own_gpu_deterministic(tmp_path, monkeypatch):
    """It is a process of its own, in which nobody else asked for the device."""
    seen = []

    def spy(data, network, device, transform):
        seen.append((device.type, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark))
        return open_workspace(data, network, torch.device("cpu"), transform)

    work = job(tmp_path / "buffer")[0]._replace(device="cuda")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("raydd.training.expert_worker.open_workspace", spy)
    ExpertTrainer(work)
    assert seen == [("cuda", True, False)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no usable CUDA device"):
        ExpertTrainer(work)
