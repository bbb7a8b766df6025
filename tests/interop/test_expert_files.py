"""Experts of MTT and TGDD become a buffer: the same numbers, whatever their order; what cannot be right is refused."""

import json
import os
import re
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.expert_file import expert_path
from raydd.buffer.manifest import read_manifest
from raydd.buffer.verification import verify
from raydd.cli import run
from raydd.config.parsing import build as settle
from raydd.config.schema import DistillConfig
from raydd.data.datasets import load_dataset
from raydd.data.preprocessing import fit_transform, load_transform
from raydd.interop.expert_files import Target, by_layer, find_experts, load_mapped
from raydd.interop.expert_import import import_experts
from raydd.io.console import Screen
from raydd.io.filesystem import open_store
from raydd.models.zoo import build
from raydd.numerics.flat import split
from raydd.numerics.rng import generator
from raydd.run.experts import open_buffer

NETWORK = "ConvNetW4D2"
SETTINGS = {"data": {"dataset": "digits", "preprocessing": "normalise"}, "experts": {"network": NETWORK}}


class Blocks(nn.Module):
    """A network as MTT defines them: features, block by block, then a classifier."""

    def __init__(self, norm=nn.Identity):
        super().__init__()
        layers, inputs = [], 1
        for _ in range(2):
            layers += [nn.Conv2d(inputs, 4, 3, padding=1), norm(4), nn.ReLU(), nn.AvgPool2d(2)]
            inputs = 4
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(16, 10)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class Grouped(nn.Module):
    """A network as IDC and TGDD define them: all convolutions, then all norms, then a classifier."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        convolutions = nn.ModuleList([nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)])
        self.layers = nn.ModuleDict({"conv": convolutions, "norm": nn.ModuleList([norm(4), norm(4)])})
        self.classifier = nn.Linear(16, 10)

    def forward(self, x):
        for convolution, norm in zip(self.layers["conv"], self.layers["norm"], strict=True):
            x = nn.functional.avg_pool2d(torch.relu(norm(convolution(x))), 2)
        return self.classifier(x.flatten(1))


def instance(width):
    return nn.GroupNorm(width, width)


def shaken(network, seed):
    """All its numbers drawn anew: weights, and running statistics that are not those of a new network."""
    rng = torch.Generator().manual_seed(seed)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=rng) + 0.1)
    return network


def expert(seed, epochs=2, norm=instance):
    """An expert as MTT saves it."""
    return [[p.detach().clone() for p in shaken(Blocks(norm), 100 * seed + t).parameters()] for t in range(epochs + 1)]


def flat(snapshot):
    return torch.cat([tensor.reshape(-1) for tensor in snapshot])


def replays(folder, **files):
    """Replay buffers of experts, by number: `_0=[...]`."""
    folder.mkdir(exist_ok=True)
    for name, experts in files.items():
        torch.save(experts, folder / f"replay_buffer{name}.pt")
    return folder


def checkpoints(folder, experts=(0, 1), epochs=2, wrap=lambda state: state, norm=nn.BatchNorm2d):
    """A folder of checkpoints, and the networks that were saved, by expert and epoch."""
    folder.mkdir(exist_ok=True)
    networks = {(i, t): shaken(Grouped(norm), 100 * i + t) for i in experts for t in range(epochs + 1)}
    for (i, t), network in networks.items():
        torch.save(wrap(network.state_dict()), folder / f"digits_premodel{i}_epoch{t}.pth.tar")
    return networks


def bring(paths, out, settings=SETTINGS, **options):
    return import_experts(paths if isinstance(paths, list) else [paths], out, settings, **options)


def network(name):
    return {"data": SETTINGS["data"], "experts": {"network": name}}


def refused(call, *words):
    """The one line that a call is refused with, which holds the words."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are matched below
        call()
    line = str(caught.value)
    assert "\n" not in line
    assert [word for word in words if str(word) not in line] == [], line


def ours(buffer, index, epoch):
    """Our network at a snapshot of a buffer."""
    spec = buffer.spec
    made = build(spec.network, channels=1, size=8, classes=10)
    state = split(buffer.snapshot(index, epoch), spec.layout)
    made.load_state_dict(state | split(buffer.running_stats(index, epoch), spec.buffer_layout), strict=False)
    return made.eval()


IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("flip", [None, True, False])
def test_experts_of_own_data_are_taken_to_have_seen_mirror_images(flip, tmp_path):
    """The other projects mirror all data; with that buffer a run that mirrors none is refused."""
    digits, own = load_dataset("digits"), tmp_path / "own.npz"
    pixels = {f"x_{name}": split.images[split.index][:, 0] for name, split in digits_of(digits).items()}
    np.savez(own, **pixels, **{f"y_{name}": split.labels[split.index] for name, split in digits_of(digits).items()})
    said = {} if flip is None else {"flip": flip}
    settings = SETTINGS | {"data": SETTINGS["data"] | {"dataset": str(own)} | said}
    found = bring(replays(tmp_path / "theirs", _0=[expert(0)]), tmp_path / "buffer", settings)
    assert found.assumed.get("data.flip") is (True if flip is None else None)
    assert ArrowBuffer(tmp_path / "buffer").spec.recipe.get("flip", True) is (flip is not False)
    for asked in (None, True, False):
        data = {"dataset": str(own), "validation": 0, "flip": asked}
        config = settle(DistillConfig, {"data": data, "experts": {"network": NETWORK, "epochs": 2}})
        with nullcontext() if bool(asked) is (flip is not False) else pytest.raises(ValueError, match=r"data\.flip="):
            open_buffer(tmp_path / "buffer", config, torch.device("cpu"))


def digits_of(dataset):
    return {"train": dataset.train, "test": dataset.test}


def test_replay_buffers_by_the_command_line(tmp_path, capfd):
    """Files in the order of their numbers, experts and tensors in the order of the files; nothing lost on the way."""
    experts = [expert(seed) for seed in range(4)]
    folder, out = replays(tmp_path / "mtt", _10=experts[3:], _2=experts[1:3], _0=experts[:1]), tmp_path / "buffer"
    words = ["buffer", "import", str(folder), "--dataset", "digits", "--network", NETWORK, "--out", str(out)]
    assert run([*words, "--preprocessing", "zca", "--set", "experts.lr=0.02", "--json"]) == 0
    said = capfd.readouterr()
    document = json.loads(said.out)
    assert [document[key] for key in ("format", "experts", "new", "epochs", "network")] == ["mtt", 4, 4, 2, NETWORK]
    assert document["assumed"] == {
        "data.augment": "dsa",
        "data.validation": 0.0,
        "experts.batch_size": 256,
        "experts.milestones": [],
        "experts.optimizer": "sgd",
        "experts.weight_decay": 0.0,
    }
    assert "about chance: --network, --preprocessing" in said.err
    buffer = ArrowBuffer(out)
    assert (buffer.experts, buffer.epochs, verify(out)) == ((0, 1, 2, 3), 2, [])
    for index, epoch in [(index, epoch) for index in range(4) for epoch in range(3)]:
        assert torch.equal(buffer.snapshot(index, epoch), flat(experts[index][epoch]))
    for seed in range(8):
        found = buffer.segment((0, 1), 1, generator(seed, "draw"), between=True)
        start = int(found.epoch)
        wanted = [flat(experts[found.expert][epoch]) for epoch in (start, start + 1)]
        assert torch.equal(found.start, wanted[0])
        assert torch.equal(found.target, wanted[1])
    assert buffer.accuracy.isnan().all()
    recipe = buffer.spec.recipe
    assert (recipe["lr"], recipe["epochs"], recipe["validation"]) == (0.02, 2, 0)
    assert recipe["imported"] == {"format": "mtt", "assumed": sorted(document["assumed"])}
    data = load_dataset("digits", validation=0)
    assert buffer.spec.fingerprint == data.fingerprint
    assert load_transform(out).hash == fit_transform("zca", data).hash


@pytest.mark.parametrize(("norm", "name"), [(instance, NETWORK), (nn.Identity, f"{NETWORK}NN")])
def test_our_network_computes_what_theirs_did(norm, name, tmp_path):
    """Of MTT's order and of IDC's, whose tensors stand elsewhere."""
    bring(replays(tmp_path / "mtt", _0=[expert(3, norm=norm)]), tmp_path / "a", network(name))
    theirs = shaken(Blocks(norm), 302).eval()
    with torch.no_grad():
        assert torch.equal(ours(ArrowBuffer(tmp_path / "a"), 0, 2)(IMAGES), theirs(IMAGES))
    networks = checkpoints(tmp_path / "tgdd", norm=norm)
    bring(tmp_path / "tgdd", tmp_path / "b", network(name))
    with torch.no_grad():
        assert torch.equal(ours(ArrowBuffer(tmp_path / "b"), 1, 2)(IMAGES), networks[1, 2].eval()(IMAGES))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}},
    ],
)
def test_checkpoints_with_running_statistics(wrap, tmp_path):
    """Ten epochs, since their files stand in another order by name; experts 2 and 10 are 0 and 1 of the buffer."""
    networks = checkpoints(tmp_path / "tgdd", experts=(10, 2), epochs=10, wrap=wrap)
    settings = {"data": {"dataset": "digits"}, "experts": {"network": f"{NETWORK}BN"}}
    done = bring(tmp_path / "tgdd", tmp_path / "out", settings)
    buffer = ArrowBuffer(tmp_path / "out")
    assert (done.layout, done.experts, buffer.epochs, verify(tmp_path / "out")) == ("tgdd", 2, 10, [])
    for (expert, epoch), theirs in networks.items():
        state, index = theirs.state_dict(), {2: 0, 10: 1}[expert]
        of = ["layers.conv.0", "layers.norm.0", "layers.conv.1", "layers.norm.1", "classifier"]
        wanted = flat([state[f"{layer}.{last}"] for layer in of for last in ("weight", "bias")])
        assert torch.equal(buffer.snapshot(index, epoch), wanted)
        wanted = [state[f"layers.norm.{d}.running_{last}"] for d in range(2) for last in ("mean", "var")]
        assert torch.equal(buffer.running_stats(index, epoch), flat(wanted))
    with torch.no_grad():
        assert torch.equal(ours(buffer, 1, 10)(IMAGES), networks[10, 10].eval()(IMAGES))
    recipe = buffer.spec.recipe
    assert [recipe[key] for key in ("optimizer", "momentum", "milestones", "gamma")] == ["momentum", 0.9, [6, 8], 0.2]
    assert (done.assumed["data.preprocessing"], done.assumed["experts.weight_decay"]) == ("normalise", 5e-4)


class Perceptron(nn.Module):
    """An MLP as MTT defines it."""

    def __init__(self):
        super().__init__()
        self.fc_1, self.fc_2, self.fc_3 = nn.Linear(64, 128), nn.Linear(128, 128), nn.Linear(128, 10)

    def forward(self, x):
        return self.fc_3(torch.relu(self.fc_2(torch.relu(self.fc_1(x.flatten(1))))))


def test_a_trained_expert_is_as_good_as_it_was(tmp_path, capfd):
    """The share of training images that the import tells is that of the network which was saved."""
    data = load_dataset("digits", validation=0)
    transform, rows = fit_transform("normalise", data), torch.linspace(0, len(data.train) - 1, 512).long()
    images, classes = transform(data.train.take(rows)), data.train.targets[rows]
    theirs = shaken(Perceptron(), 0)
    for layer in (theirs.fc_1, theirs.fc_2, theirs.fc_3):
        nn.init.orthogonal_(layer.weight)
    snapshots, optimizer = [], torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        snapshots.append([p.detach().clone() for p in theirs.parameters()])
        for part in torch.arange(512).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(theirs(images[part]), classes[part]).backward()
            optimizer.step()
    snapshots.append([p.detach().clone() for p in theirs.parameters()])
    done = bring(replays(tmp_path / "mtt", _0=[snapshots]), tmp_path / "out", network("MLP"))
    wanted = int((theirs(images).argmax(dim=1) == classes).sum()) / 512
    assert done.accuracy == wanted > 0.7
    said = capfd.readouterr().err
    assert f"{100 * wanted:.1f} % of 512 training images" in said
    assert "chance" not in said
    aliases = [[p.detach() for p in theirs.parameters()] for _ in range(3)]  # MTT's own line, where no GPU is
    refused(lambda: bring(replays(tmp_path / "cpu", _0=[aliases]), tmp_path / "new", network("MLP")), "never moves")


def test_a_distillation_uses_the_buffer(tmp_path, capfd):
    """And says what it holds out, and by which settings the experts were trained."""
    out, done = tmp_path / "buffer", tmp_path / "run"
    bring(
        replays(tmp_path / "mtt", _0=[expert(0), expert(1)]),
        out,
        {**SETTINGS, "experts": {"network": NETWORK, "lr": 0.5}},
    )
    words = ["distill", "--network", NETWORK, "--buffer", str(out), "--out", str(done)]
    words += [f"--set={word}" for word in ("steps=2", "student_steps=1", "span=1", "window.high=1", "threads=1")]
    assert run(words) == 2
    assert "--set data.validation=0.0" in capfd.readouterr().err
    assert run([*words, "--set", "data.validation=0"]) == 0
    assert len((done / "metrics.jsonl").read_text().splitlines()) == 2
    config = (done / "config.yaml").read_text()
    assert re.search(r"lr: 0\.5\n", config)
    assert re.search(r"epochs: 2\n", config)
    assert run(["buffer", "info", str(out), "--json"]) == 0
    document = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert document["accuracy"] == {"first": None, "last": None}
    assert document["recipe"]["imported"]["format"] == "mtt"


@pytest.mark.parametrize(
    ("method", "suffix", "norm"),
    [("tgdd", "", instance), ("datm", "BN", nn.BatchNorm2d), ("tesla", "BN", nn.BatchNorm2d)],
)
def test_imported_experts_are_looked_through_and_asked(method, suffix, norm, tmp_path):
    checkpoints(tmp_path / "tgdd", epochs=3, norm=norm)
    out, done, name = tmp_path / "buffer", tmp_path / "run", f"{NETWORK}{suffix}"
    bring(tmp_path / "tgdd", out, network(name))
    words = ["distill", "--method", method, "--network", name, "--buffer", str(out), "--out", str(done)]
    words += [f"--set={word}" for word in ("steps=2", "data.validation=0", "threads=1", "formation.factor=1")]
    words += (
        [f"--set={word}" for word in ("span=1", "student_steps=2", "window.current=2", "window.high=2")]
        if suffix
        else []
    )
    assert run(words) == 0
    losses = [json.loads(line)["loss"] for line in (done / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert all(0 < loss < float("inf") for loss in losses)


def test_statistic_matching_refuses_imported_experts_with_batch_norm(tmp_path, capfd):
    checkpoints(tmp_path / "tgdd", epochs=3)
    out, done, name = tmp_path / "buffer", tmp_path / "run", f"{NETWORK}BN"
    bring(tmp_path / "tgdd", out, network(name))
    words = ["distill", "--method", "tgdd", "--network", name, "--buffer", str(out), "--out", str(done)]
    assert run([*words, "--set", "data.validation=0"]) == 2
    assert f"{name} has batch norm, and method tgdd" in capfd.readouterr().err
    assert not done.exists()


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_never_run(zipped, tmp_path):
    sprung = tmp_path / "sprung"
    (tmp_path / "mtt").mkdir()
    replay = tmp_path / "mtt" / "replay_buffer_0.pt"
    torch.save([expert(0), Trap(sprung)], replay, _use_new_zipfile_serialization=zipped)
    refused(lambda: bring(replay, tmp_path / "out"), replay, "holds code", "mkdir")
    checkpoints(tmp_path / "tgdd", wrap=lambda state: {"state_dict": state, "more": Trap(sprung)})
    checkpoint = tmp_path / "tgdd" / "digits_premodel0_epoch0.pth.tar"
    refused(lambda: bring(tmp_path / "tgdd", tmp_path / "out", network(f"{NETWORK}BN")), checkpoint, "holds code")
    assert not sprung.exists()
    assert not (tmp_path / "out").exists()
    torch.load(replay, weights_only=False)
    assert sprung.exists()  # the trap works


def test_another_network_is_refused_by_the_first_parameter_that_differs(tmp_path):
    folder = replays(tmp_path / "mtt", _0=[expert(0)])
    place = f"{folder / 'replay_buffer_0.pt'}, expert 0, epoch 0"
    bad = {
        "ConvNetW8D2": (place, "body.0.weight", "(4, 1, 3, 3)", "(8, 1, 3, 3)"),
        "ConvNetW4D2NN": (place, "body.3.weight", "(4,)", "(4, 4, 3, 3)"),
        "ConvNetW4D1": (place, "classifier.weight", "(4, 4, 3, 3)", "(10, 64)"),
        "ConvNetW4D2BN": ("BatchNorm", "running statistics", "raydd experts"),
        "MLP": (place, "(128, 64)"),
    }
    for name, words in bad.items():
        refused(lambda name=name: bring(folder, tmp_path / "out", network(name)), *words)
    short = replays(tmp_path / "short", _0=[[snapshot[:-2] for snapshot in expert(0)]])
    refused(lambda: bring(short, tmp_path / "out"), "holds 8 tensors", "ends before classifier.weight", "has 10 param")
    long = replays(tmp_path / "long", _0=[[[*snapshot, torch.ones(1)] for snapshot in expert(0)]])
    refused(lambda: bring(long, tmp_path / "out"), "holds 11 tensors, and", "has 10 parameters")
    checkpoints(tmp_path / "tgdd")
    refused(lambda: bring(tmp_path / "tgdd", tmp_path / "out"), "epoch0.pth.tar", "layers.conv.0", NETWORK, "--network")
    refused(
        lambda: bring(tmp_path / "tgdd", tmp_path / "out", network("ConvNetW8D2BN")), "(4, 1, 3, 3)", "(8, 1, 3, 3)"
    )
    assert not (tmp_path / "out").exists()


def test_experts_that_cannot_be_matched_are_refused_and_those_before_are_kept(tmp_path):
    broken = expert(1)
    broken[1][2][0] = torch.nan
    bad = {
        "nan": (broken, "expert 1 is not finite at epoch 1"),
        "still": ([expert(1)[0]] * 3, "expert 1 never moves"),
        "ragged": (expert(1, epochs=3), "expert 1 has epochs 0 to 3, and the first expert 0 to 2"),
        "alone": (expert(1, epochs=0), "expert 1 has one snapshot"),
        "double": (
            [[p.double() for p in snapshot] for snapshot in expert(1)],
            "body.0.weight is a tensor (4, 1, 3, 3), torch.float64",
        ),
        "words": (["a"], "expert 1, epoch 0 holds a str where a list of tensors"),
    }
    for name, (second, words) in bad.items():
        folder, out = replays(tmp_path / name, _0=[expert(0), second]), tmp_path / f"{name}-out"
        refused(lambda folder=folder, out=out: bring(folder, out), "replay_buffer_0.pt", words)
        if out.exists():
            assert (ArrowBuffer(out).experts, verify(out), [*out.glob("*.tmp")]) == ((0,), [], [])
    assert {name for name in bad if (tmp_path / f"{name}-out").exists()} == {"nan", "still"}
    other = replays(tmp_path / "two", _0=[expert(0)], _1=[expert(1, epochs=3)])
    refused(lambda: bring(other, tmp_path / "two-out"), "replay_buffer_1.pt, expert 0 has epochs 0 to 3")
    half = replays(tmp_path / "half", _0=[[[p.half() for p in snapshot] for snapshot in expert(0)]])
    bring(half, tmp_path / "half-out")
    assert torch.equal(ArrowBuffer(tmp_path / "half-out").snapshot(0, 2), flat(expert(0)[2]).half().float())


class Stopped(Screen):
    """Is interrupted before the third expert."""

    @contextmanager
    def progress(self, title, total):
        told = []

        def update(done, words):
            told.append((done, words))
            if len(told) == 3:
                raise KeyboardInterrupt

        yield update
        assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_an_interrupted_import_goes_on(tmp_path):
    """Finished experts are kept as they are; the buffer is in the end the one of a single run; more files extend it."""
    folder = replays(tmp_path / "mtt", _0=[expert(0), expert(1)], _1=[expert(2), expert(3)])
    with pytest.raises(KeyboardInterrupt):
        bring(folder, tmp_path / "out", screen=Stopped())
    times = [expert_path(tmp_path / "out", index).stat().st_mtime_ns for index in range(2)]
    assert ArrowBuffer(tmp_path / "out").experts == (0, 1)
    assert [*read_manifest(tmp_path / "out")[1]] == [0, 1]
    done = bring(folder, tmp_path / "out")
    assert (done.experts, done.new) == (4, 2)
    assert times == [expert_path(tmp_path / "out", index).stat().st_mtime_ns for index in range(2)]
    bring(folder, tmp_path / "whole")
    assert [*read_manifest(tmp_path / "whole")[1]] == [0, 1, 2, 3]
    written = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert written == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert all((tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in written)
    replays(folder, _2=[expert(4)])
    assert bring(folder, tmp_path / "out").new == 1
    assert torch.equal(ArrowBuffer(tmp_path / "out").snapshot(4, 1), flat(expert(4)[1]))


def test_an_import_goes_to_an_uri_and_is_not_begun_anew_when_it_was_stopped(tmp_path, s3, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("raydd.buffer.mirror.default_cache", lambda: tmp_path / "cache")
    place = s3("bucket/imported")
    folder = replays(tmp_path / "mtt", _0=[expert(0), expert(1)], _1=[expert(2), expert(3)])
    with pytest.raises(KeyboardInterrupt):
        bring(folder, place, screen=Stopped())
    assert open_store(place).names() == {}
    assert bring(folder, place).new == 2
    bring(folder, tmp_path / "whole")
    for name in open_store(place).names():
        assert open_store(place).read(name) == (tmp_path / "whole" / name).read_bytes()
    assert len(open_store(place).names()) == 6


def test_a_folder_with_other_experts_is_refused(tmp_path, small_buffer):
    a, b = replays(tmp_path / "a", _0=[expert(0)]), replays(tmp_path / "b", _0=[expert(1)])
    bring([a, b], tmp_path / "out")
    assert torch.equal(ArrowBuffer(tmp_path / "out").snapshot(1, 0), flat(expert(1)[0]))  # folders as they are given
    refused(lambda: bring([b, a], tmp_path / "out"), "expert-00000.arrow", "b/replay_buffer_0.pt", "same order")
    other = {**SETTINGS, "data": {"dataset": "digits", "preprocessing": "raw01"}}
    refused(lambda: bring(a, tmp_path / "out", other), "'normalise'", "'raw01'", "--out")
    changed = {**SETTINGS, "experts": {"network": NETWORK, "lr": 1.0}}
    refused(lambda: bring(a, tmp_path / "out", changed), "recipe.lr is 0.01 instead of 1.0")
    refused(lambda: bring(a, small_buffer), "holds another buffer")


def test_which_files_are_taken(tmp_path):
    """Folder by folder, by number in each, each file once."""
    a, b = replays(tmp_path / "a", _2=[0], _10=[0]), replays(tmp_path / "b", _1=[0])
    (a / "notes.txt").write_text("mine")
    layout, sources = find_experts([b / "replay_buffer_1.pt", a / "replay_buffer_10.pt", a])
    assert layout == "mtt"
    assert [path.relative_to(tmp_path).as_posix() for (path,) in sources] == [
        "b/replay_buffer_1.pt",
        "a/replay_buffer_2.pt",
        "a/replay_buffer_10.pt",
    ]
    checkpoints(a, experts=(0,))
    refused(lambda: find_experts([a]), a, "mtt and of tgdd", "--format")
    assert [len(source) for source in find_experts([a], "tgdd")[1]] == [3]
    refused(lambda: find_experts([a], "tgd"), "'tgd'", "mtt, tgdd")
    refused(lambda: find_experts([tmp_path / "nowhere"]), "nowhere does not exist")
    refused(lambda: find_experts([b, a / "notes.txt"]), "notes.txt is no replay_buffer_<n>.pt or <name>_premodel")
    refused(lambda: find_experts([tmp_path]), tmp_path, "holds no replay_buffer_<n>.pt")
    replays(b, _01=[0])
    refused(lambda: find_experts([b]), "replay_buffer_01.pt", "replay_buffer_1.pt", "the same number")


def test_checkpoints_with_gaps_name_what_is_missing(tmp_path):
    checkpoints(tmp_path / "tgdd")
    gone = tmp_path / "tgdd" / "digits_premodel1_epoch0.pth.tar"
    gone.rename(tmp_path / "tgdd" / "other_premodel1_epoch0.pth.tar")
    refused(lambda: find_experts([tmp_path / "tgdd"]), "'digits' and 'other'")
    (tmp_path / "tgdd" / "other_premodel1_epoch0.pth.tar").unlink()
    refused(lambda: find_experts([tmp_path / "tgdd"]), gone, "is missing", "each epoch from 0 to 2")
    assert len(find_experts([*(tmp_path / "tgdd").glob("*premodel0_*")])[1]) == 1
    torch.save([1], gone)
    (tmp_path / "tgdd" / "digits_premodel1_epoch2.pth.tar").unlink()
    refused(lambda: find_experts([tmp_path / "tgdd"]), "digits_premodel1_epoch2.pth.tar is missing")


def test_settings_that_the_files_decide_or_do_not_say(tmp_path):
    folder = replays(tmp_path / "mtt", _0=[expert(0)])
    data = SETTINGS["data"]
    for settings, words in [
        ({"data": data}, "--network"),
        ({"data": {"preprocessing": "zca"}, "experts": SETTINGS["experts"]}, "--dataset"),
        ({"data": {"dataset": "digits"}, "experts": SETTINGS["experts"]}, "--preprocessing zca"),
        ({"data": data, "experts": {"network": NETWORK, "epochs": 50}}, "experts.epochs = 50"),
        ({"data": data, "experts": {"network": NETWORK, "kept": [1]}}, "experts.kept"),
        ({"data": data, "experts": {"network": NETWORK, "lr": 0}}, "experts.lr = 0"),
        ({"data": data | {"dataset": "diggits"}, "experts": SETTINGS["experts"]}, "diggits"),
    ]:
        refused(lambda settings=settings: bring(folder, tmp_path / "out", settings), words)
    assert not (tmp_path / "out").exists()


def mapped(tensor):
    """The line of this process's memory map that a tensor lies in."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(place, 16) for place in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return line
    raise AssertionError(tensor.data_ptr())


def test_files_stay_on_disk_where_their_format_lets_them(tmp_path):
    folder = replays(tmp_path / "mtt", _0=[expert(0)])
    path, old = folder / "replay_buffer_0.pt", folder / "old.pt"
    assert str(path) in mapped(load_mapped(path)[0][0][0])
    torch.save([expert(0)], old, _use_new_zipfile_serialization=False)
    assert str(old) not in mapped(load_mapped(old)[0][0][0])
    old.rename(folder / "replay_buffer_1.pt")
    bring(folder, tmp_path / "out")
    buffer = ArrowBuffer(tmp_path / "out")
    assert torch.equal(buffer.snapshot(1, 2), buffer.snapshot(0, 2))
    path.write_bytes(path.read_bytes()[:-200])
    refused(lambda: bring(folder, tmp_path / "new"), path, "not a whole file")


def residual(shortcut, stem, last):
    """Names of a ResNet18's tensors as MTT (conv1, shortcut) or IDC (layer0.conv1, downsample) has them, in order."""
    layers = [f"{stem}conv1", f"{stem}bn1"]
    for stage, block in [(stage, block) for stage in range(1, 5) for block in range(2)]:
        layers += [f"layer{stage}.{block}.{name}" for name in ("conv1", "bn1", "conv2", "bn2")]
        layers += [f"layer{stage}.{block}.{shortcut}.{part}" for part in (0, 1)] if stage > 1 and not block else []
    tensors = [(layer, ("weight",) if re.search(r"conv\d$|\.0$", layer) else ("weight", "bias")) for layer in layers]
    return [f"{layer}.{name}" for layer, names in [*tensors, (last, ("weight", "bias"))] for name in names]


@pytest.mark.parametrize("names", [residual("shortcut", "", "classifier"), residual("downsample", "layer0.", "fc")])
def test_residual_networks_by_name(names):
    target = Target("ResNet18", build("ResNet18", channels=3, size=32, classes=10))
    found = by_layer(names, target)
    assert found["body.0.weight"] == names[0]
    assert found["body.5.body.3.weight"] == "layer2.0.conv2.weight"
    assert found["body.5.shortcut.1.bias"] in ("layer2.0.shortcut.1.bias", "layer2.0.downsample.1.bias")
    assert found["classifier.bias"] == names[-1]
    assert sorted(found.values()) == sorted(names)
    assert [*found] == [*target.shapes]
    pooled = [re.sub(r"(shortcut|downsample)\.1", r"\1.2", name) for name in names]  # pools where ours strides
    refused(lambda: by_layer(pooled, target), "layer2.0.", ".2'", "no network that is one of ours")
    refused(lambda: by_layer(names[:-2], target), "41 layers" if "fc" in names[-1] else "40 layers")
