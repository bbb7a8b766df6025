"""Data of one's own is mirrored only where that is asked for; files say it, and older files mean what they did."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from toy_runs import train_buffer

from raydd.api.distill import distill
from raydd.buffer.manifest import read_manifest, write_manifest
from raydd.config.parsing import build
from raydd.config.schema import DataConfig, DistillConfig, EvaluateConfig, ExpertConfig, ExpertsConfig
from raydd.data.datasets import DATASETS, load_dataset
from raydd.data.mirroring import distillation_mirrors, flips, mirrors, stored_settings
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.jobs import Job as Training
from raydd.evaluation.matrix import Scorer
from raydd.evaluation.scores import plan
from raydd.io.console import Screen
from raydd.methods import complete
from raydd.run.experts import open_buffer
from raydd.run.run_folder import read_config
from raydd.training.expert_worker import ExpertJob, ExpertTrainer, default_buffer, prepare

CPU = torch.device("cpu")
EXPERTS = {"network": "ConvNetW4", "num_experts": 1, "epochs": 2}
SAFE = {name for name in DATASETS if name.startswith("imagenet_")} | {
    "cifar10",
    "cifar100",
    "tiny_imagenet",
    "fashion_mnist",
}


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A folder of pictures that are other things in the mirror, as a person has them."""
    root, digits = tmp_path_factory.mktemp("own") / "letters", load_dataset("digits").train
    for row in range(300):
        image, label = digits.take(torch.tensor([row]))[0, 0].numpy(), int(digits.targets[row])
        if np.array_equal(image, image[:, ::-1]):
            continue
        folder = root / f"letter {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{row}.png")
    return root


def data(letters, **changes):
    return DataConfig(dataset=str(letters), **changes)


def settings(letters, *layers):
    base = {"ipc": 2, "steps": 2, "student_steps": 1, "span": 1, "threads": 1, "experts": EXPERTS}
    return build(DistillConfig, base, {"data": {"dataset": str(letters)}}, *layers)


def trained(folder, letters, **changes):
    return train_buffer(folder, ExpertsConfig(data=data(letters, **changes), experts=ExpertConfig(**EXPERTS)))


@pytest.fixture(scope="module")
def buffer(letters, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("buffers") / "plain", letters)


@pytest.fixture(scope="module")
def mirrored(letters, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("buffers") / "mirrored", letters, flip=True)


def rows(images):
    return {image.numpy().tobytes() for image in images}


class Spied(nn.Module):
    """A network that remembers what it is shown in training."""

    def __init__(self, network, seen):
        super().__init__()
        self.network, self.seen = network, seen

    def forward(self, x):
        if self.training:
            self.seen.append(x.detach().clone())
        return self.network(x)


def shown(monkeypatch, score):
    """The images that networks were trained on while something was done."""
    seen, made = [], Scorer._build
    monkeypatch.setattr(Scorer, "_build", lambda *args: Spied(made(*args), seen))
    score()
    return rows(torch.cat(seen))


def test_the_table_says_which_named_data_are_mirrored():
    assert {name for name, row in DATASETS.items() if row.flip} == SAFE
    assert {name for name in DATASETS if flips(DataConfig(dataset=name))} == SAFE


def test_data_of_a_path_are_not_mirrored_unless_asked_for(letters):
    assert not load_dataset(letters).flip
    assert not open_workspace(data(letters), None, CPU).dataset.flip
    assert "flip" not in open_workspace(data(letters), None, CPU).augment.words
    for flip in (False, True):
        work = open_workspace(data(letters, flip=flip), None, CPU)
        assert (work.dataset.flip, "flip" in work.augment.words) == (flip, flip)
    assert open_workspace(DataConfig(flip=True), None, CPU).dataset.flip  # digits, where somebody wants them so


@pytest.mark.parametrize("protocol", ["mtt", "tgdd"])
@pytest.mark.parametrize("flip", [None, False, True])
def test_students_never_see_letters_in_the_mirror_unless_asked(letters, flip, protocol, monkeypatch):
    """Pixel by pixel, on real images: where mirroring is on, the same look finds it."""
    work = open_workspace(data(letters), None, CPU)
    images, labels = work.transform(work.dataset.train.take(torch.arange(60))), work.dataset.train.targets[:60]
    synset = SyntheticSet(images, labels, torch.tensor(0.01), work.transform, str(letters), work.dataset.classes)
    config = EvaluateConfig(networks=("ConvNetW2D1",), seeds=1, epochs=40, real_epochs=9, flip=flip, protocol=protocol)
    matrix, _ = plan([synset], ["letters"], config.model_copy(update={"baselines": ()}), "cpu")
    if protocol == "tgdd":  # its colours would hide a mirror image, and CutMix a part of one
        own = {"cutmix": 0.0, "strategy": "flip"}
        matrix = replace(matrix, protocol=matrix.protocol.model_copy(update=own))
    score = Scorer(matrix)
    jobs = [Training(entry, "ConvNetW2D1", 0) for entry in range(len(matrix.rows))]
    assert len(jobs) == 2  # the set, and the whole data
    seen = shown(monkeypatch, lambda: [score.score(job) for job in jobs])
    whole = work.transform(work.dataset.train.take(torch.arange(len(work.dataset.train))))
    assert seen & rows(whole)  # some as they are
    assert bool(seen & rows(whole.flip(3))) is bool(flip)


@pytest.mark.parametrize("flip", [None, True])
def test_experts_never_see_letters_in_the_mirror_unless_asked(letters, flip, tmp_path, monkeypatch):
    config = ExpertConfig(**EXPERTS, batch_size=8)
    job, _ = prepare(ExpertJob(data(letters, flip=flip), config, 0, tmp_path / "buffer", "cpu"))
    trainer, seen = ExpertTrainer(job), []
    make = trainer._work.build
    monkeypatch.setattr(type(trainer._work), "build", lambda work: made(make, seen))
    trainer.train(0)
    whole = trainer._work.transform(trainer._work.dataset.train.take(torch.arange(len(trainer._work.dataset.train))))
    assert rows(torch.cat(seen)) & rows(whole)
    assert bool(rows(torch.cat(seen)) & rows(whole.flip(3))) is bool(flip)


def made(make, seen):
    network = make()
    network.register_forward_pre_hook(lambda network, args: seen.append(args[0].detach().clone()))
    return network


@pytest.mark.parametrize("method", ["dm", "dsa", "tgdd", "mtt"])
def test_every_family_asks_the_same_setting(letters, method, buffer, tmp_path):
    for flip in (None, True):
        layer = {"method": method, "data": {"flip": flip}, "statistic": {"strategy": "flip_crop"}}
        config = settings(letters, layer if method != "mtt" else {"method": method, "data": {"flip": flip}})
        assert distillation_mirrors(complete(config)) is bool(flip)
    assert not distillation_mirrors(settings(letters, {"data": {"flip": True, "augment": "none"}}))


def test_a_buffer_keeps_what_its_experts_saw(letters, buffer, mirrored):
    """Of two that differ in this alone the values differ, and nothing is kept where absence says the same."""
    assert read_manifest(buffer)[0].recipe["flip"] is False
    assert "flip" not in read_manifest(mirrored)[0].recipe
    there = open_buffer(buffer, settings(letters), CPU)[0]
    other = open_buffer(mirrored, settings(letters, {"data": {"flip": True}}), CPU)[0]
    assert not torch.equal(there.snapshot(0, 2), other.snapshot(0, 2))
    assert not mirrors(data(letters, augment="none", flip=True))


@pytest.mark.parametrize(("place", "flip"), [("buffer", True), ("mirrored", False), ("mirrored", None)])
def test_another_mirroring_than_the_experts_is_refused(letters, place, flip, request):
    folder = request.getfixturevalue(place)
    there = str(not flip).lower()
    line = f"{folder} holds experts trained with data.flip={there}, not .*; use --set data.flip={there}"
    with pytest.raises(ValueError, match=line):
        open_buffer(folder, settings(letters, {"data": {"flip": flip}}), CPU)
    with pytest.raises(ValueError, match=line):
        prepare(ExpertJob(data(letters, flip=flip), ExpertConfig(**EXPERTS), 0, folder, "cpu"))


def test_a_buffer_of_an_older_version_is_of_mirror_images(letters, mirrored, tmp_path):
    """Its manifest says nothing: that of own data was always mirrored, and it goes on so."""
    spec, entries = read_manifest(mirrored)
    assert "flip" not in spec.recipe
    assert spec.recipe == ExpertConfig(**EXPERTS).recipe() | {"augment": "dsa", "validation": 0.1}
    _, missing = prepare(ExpertJob(data(letters, flip=True), ExpertConfig(**EXPERTS), 0, mirrored, "cpu"))
    assert not missing
    plain = tmp_path / "unaugmented"
    write_manifest(plain, replace(spec, recipe=spec.recipe | {"augment": "none"}), [])
    prepare(ExpertJob(data(letters, augment="none"), ExpertConfig(**EXPERTS), 0, plain, "cpu"))  # nothing was mirrored
    assert len(entries) == 1


def test_the_cache_finds_the_buffers_of_older_versions():
    """The folders' names are those that version 0.1 gave; own data that are not mirrored now have another."""
    names = {
        DataConfig(): "digits-ConvNetW32-b900ba5f1e96",
        DataConfig(flip=False): "digits-ConvNetW32-b900ba5f1e96",
        DataConfig(dataset="cifar10"): "cifar10-ConvNetW32-7967cbec670a",
        DataConfig(dataset="runes/letters", flip=True): "letters-ConvNetW32-c3f81efefdb1",
        DataConfig(dataset="runes/letters", augment="none"): "letters-ConvNetW32-ca06e6819f46",
    }
    assert {each: default_buffer(ExpertsConfig(data=each)).name for each in names} == names
    others = (DataConfig(flip=True), DataConfig(dataset="runes/letters"), DataConfig(dataset="cifar10", flip=False))
    assert not {default_buffer(ExpertsConfig(data=each)).name for each in others} & set(names.values())


def test_a_run_and_its_set_say_it_and_an_evaluation_follows(letters, tmp_path):
    for flip in (None, True):
        out = tmp_path / str(flip)
        synset = distill(settings(letters, {"method": "random", "steps": 0, "data": {"flip": flip}}), out)
        assert yaml.safe_load((out / "config.yaml").read_text())["data"]["flip"] is bool(flip)
        assert synset.recipe["data"]["flip"] is bool(flip)
        assert flip_of(synset) is bool(flip)
        assert flip_of(synset, flip=not flip) is not bool(flip)


def flip_of(*synsets, **changes):
    _, work = plan([*synsets], None, EvaluateConfig(baselines=(), networks=("MLP",), seeds=1, **changes), "cpu")
    return work.dataset.flip


def test_a_set_of_an_older_version_is_evaluated_as_it_was_made(letters, tmp_path):
    synset = distill(settings(letters, {"method": "random", "steps": 0}), tmp_path / "run")
    older = {key: value for key, value in synset.recipe["data"].items() if key != "flip"}
    old = replace(synset, recipe=synset.recipe | {"data": older})
    assert flip_of(old)
    assert not flip_of(old, flip=False)
    assert not flip_of(
        replace(synset, recipe={}), dataset=str(letters)
    )  # of another project: it says nothing, so nothing is mirrored
    with pytest.raises(ValueError, match=r"data\.flip.*--set flip=false"):
        flip_of(synset, old)
    assert flip_of(synset, old, flip=True)
    digits = distill(DistillConfig(method="random", threads=1), tmp_path / "digits")
    told = {key: value for key, value in digits.recipe["data"].items() if key != "flip"}
    assert not flip_of(replace(digits, recipe=digits.recipe | {"data": told}))


def test_a_run_of_an_older_version_goes_on_as_it_began(letters, tmp_path):
    config, out = settings(letters, {"method": "dm", "steps": 2}), tmp_path / "run"
    distill(config, out)
    tree = yaml.safe_load((out / "config.yaml").read_text())
    del tree["data"]["flip"]
    (out / "config.yaml").write_text(yaml.safe_dump(tree))
    before = read_config(out)
    assert before.data.flip
    distill(config, out, resume=True)
    assert read_config(out).data.flip
    with pytest.raises(ValueError, match=r"started with other settings: data\.flip was True and is False"):
        distill(config.model_copy(update={"data": data(letters, flip=False)}), out, resume=True)


def test_it_is_said_once_where_images_are_mirrored(letters, tmp_path, capsys):
    screen = Screen()
    for place, flip in (("a", None), ("b", True), ("c", True)):
        layer = {"method": "dm", "steps": 1, "data": {"flip": flip}}
        distill(settings(letters, layer), tmp_path / place, screen=screen)
        said = capsys.readouterr().err.count(f"{letters}: training mirrors images at random (data.flip = true)")
        assert said == (place == "b")


def test_files_without_the_field_were_made_by_versions_without_it():
    assert stored_settings({"dataset": "runes", "augment": "dsa"}) == {
        "flip": True,
        "dataset": "runes",
        "augment": "dsa",
    }
    assert stored_settings({"dataset": "runes", "flip": None}) == {"dataset": "runes", "flip": None}
    assert [name for name in DATASETS if stored_settings({"dataset": name})["flip"]] == [
        name for name in DATASETS if name in SAFE
    ]
    assert Path(stored_settings({"dataset": "a/digits"})["dataset"]).name == "digits"
    assert stored_settings({"dataset": "a/digits"})["flip"]
