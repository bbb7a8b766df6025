"""What is exported and imported again is the same set, bit for bit."""

from dataclasses import replace

import pytest
import torch

from raydd.config.schema import DataConfig
from raydd.data.datasets import load_dataset
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.distillation.leaves import pixel_leaf
from raydd.evaluation.protocols import PROTOCOLS
from raydd.evaluation.student import evaluate
from raydd.interop.layouts import LAYOUTS
from raydd.interop.reading import read_synset
from raydd.interop.writing import write_synset
from raydd.numerics.augment import augment
from raydd.numerics.formation import PLAIN, Formation

NETWORK = [name for name, layout in LAYOUTS.items() if layout.space == "network"]
HARD = [name for name in LAYOUTS if "hard" in LAYOUTS[name].labels]
SOFT = [name for name in LAYOUTS if "logits" in LAYOUTS[name].labels]
KINDS = ("normalise", "zca", "raw01")


def make(dataset, kind="normalise", soft=False, learned=False, formation=PLAIN, each=4):
    """A few real images of each class of a data set, in a mixed order; or learned ones, with any pixels."""
    data = load_dataset(dataset)
    rng = torch.Generator().manual_seed(3)
    classes = len(data.classes)
    labels = torch.arange(classes).repeat_interleave(each)[torch.randperm(classes * each, generator=rng)]
    rows = torch.stack([torch.nonzero(data.train.targets == label).flatten()[0] for label in labels])
    transform = fit_transform(kind, data)
    images = transform(data.train.take(rows))
    if learned:
        images = images + torch.randn(images.shape, generator=rng)
    config = DataConfig(dataset=str(dataset), preprocessing=kind).model_dump(mode="json")
    return SyntheticSet(
        images=images,
        labels=torch.randn(len(labels), classes, generator=rng) if soft else labels,
        lr=torch.tensor(0.0123456789),
        transform=transform,
        dataset=data.name,
        classes=data.classes,
        recipe={"method": "mtt", "ipc": each, "data": config},
        provenance={"commit": "0123abc", "fingerprint": data.fingerprint, "network": "MLP"},
        history=({"step": 1, "mean": 0.5},),
        formation=formation,
    )


def assert_same(found, wanted):
    for name in ("images", "labels", "lr"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        assert torch.equal(one, other), name
    assert found.transform.hash == wanted.transform.hash
    for name in ("dataset", "classes", "recipe", "history", "formation"):
        assert getattr(found, name) == getattr(wanted, name), name
    assert wanted.provenance.items() <= found.provenance.items()


@pytest.mark.parametrize("where", ["digits", "folder"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", NETWORK)
def test_layouts_of_a_networks_space_keep_every_bit(layout, kind, where, images, tmp_path):
    wanted = make("digits" if where == "digits" else images, kind, soft=layout not in HARD, learned=True)
    written = write_synset(wanted, tmp_path, layout)
    read = read_synset(tmp_path)
    assert read.layout == layout
    assert_same(read.synset, wanted)
    assert written.images == len(wanted.images)
    assert all(path.is_file() for path in written.paths)
    assert sorted(written.paths) == sorted(path for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("layout", SOFT)
def test_logits_keep_every_bit(layout, tmp_path):
    wanted = make("digits", "zca", soft=True)
    write_synset(wanted, tmp_path, layout)
    assert_same(read_synset(tmp_path).synset, wanted)


@pytest.mark.parametrize("layout", ["tgdd", "png"])
@pytest.mark.parametrize("kind", KINDS)
def test_layouts_of_pixels_keep_every_bit_of_real_images(layout, kind, images, tmp_path):
    for name, dataset in (("one", "digits"), ("three", images)):
        wanted = make(dataset, kind)
        notes = write_synset(wanted, tmp_path / name, layout).notes
        assert [note for note in notes if "change" in note or "outside" in note] == []
        read = read_synset(tmp_path / name)
        assert read.layout == layout
        assert_same(read.synset, wanted)


@pytest.mark.parametrize("kind", ["normalise", "raw01"])
@pytest.mark.parametrize("decode", ["uniform", "multi", "bounded"])
def test_tgdd_keeps_mosaics_of_any_pixels_in_0_to_1(decode, kind, images, tmp_path):
    wanted = make(images, kind, formation=Formation(2, decode, 9))
    pixels = torch.rand(wanted.images.shape, generator=torch.Generator().manual_seed(0))
    wanted = replace(wanted, images=wanted.transform(pixels))
    assert [note for note in write_synset(wanted, tmp_path, "tgdd").notes if "class by class" not in note] == []
    stored, _ = torch.load(tmp_path / "data.pt", weights_only=True)
    assert (float(stored.min()) >= 0, float(stored.max()) <= 1, len(stored)) == (True, True, 8)
    read = read_synset(tmp_path)
    assert_same(read.synset, wanted)
    assert read.synset.formation == wanted.formation


@pytest.mark.parametrize("kind", ["normalise", "raw01"])
@pytest.mark.parametrize("dataset", ["digits", "folder"])
def test_tgdd_keeps_every_bit_of_what_was_learned_as_float32_pixels(dataset, kind, images, tmp_path):
    wanted = make(images if dataset == "folder" else "digits", kind)
    pixels = torch.rand(wanted.images.shape, generator=torch.Generator().manual_seed(0)).round(decimals=7)
    pixels[:, :, 0] = pixels[:, :, 0].round()  # clamped ones
    wanted = replace(wanted, images=wanted.transform(pixels))
    written = write_synset(wanted, tmp_path, "tgdd")
    assert [note for note in written.notes if "class by class" not in note] == []
    assert_same(read_synset(tmp_path).synset, wanted)


def test_tgdd_is_next_to_images_that_were_learned_between_the_bounds_of_pixels(tmp_path):
    """As --set space=pixels learns: float32 in a network's space, where it is finer near 0 than around the mean."""
    wanted = make("digits")
    low, high = pixel_leaf(1.0, 0.0, wanted.transform).bounds
    even = torch.rand(wanted.images.shape, generator=torch.Generator().manual_seed(0))
    wanted = replace(wanted, images=low + even * (high - low))
    (note,) = [note for note in write_synset(wanted, tmp_path, "tgdd").notes if "class by class" not in note]
    found = read_synset(tmp_path).synset
    wrong = found.images != wanted.images
    assert note.startswith(f"as float32 pixels, {int(wrong.sum())} of {wrong.numel()} numbers change")
    assert 0 < float((found.images - wanted.images).abs().max()) < 2.4e-7
    order = torch.argsort(wanted.labels, stable=True)
    stored = torch.load(tmp_path / "data.pt", weights_only=True)[0]
    below, above = (wanted.transform(torch.nextafter(stored, torch.tensor(side))) for side in (-9.0, 9.0))
    inside = (below < wanted.images[order]) & (wanted.images[order] < above)
    assert bool((inside | ~wrong[order]).all())  # no float32 pixel leads there: it lies between two neighbours


@pytest.mark.parametrize("decode", ["uniform", "multi", "bounded"])
@pytest.mark.parametrize("layout", [name for name in HARD if name != "tgdd"])
def test_other_layouts_keep_what_students_see_of_mosaics(layout, decode, images, tmp_path):
    mosaics = make(images, formation=Formation(2, decode, 9))
    wanted = mosaics.decoded()
    assert len(wanted.images) > len(mosaics.images)
    written = write_synset(mosaics, tmp_path, layout)
    assert f"mosaics are taken apart: 8 stored images are {len(wanted.images)}" in written.notes
    found = read_synset(tmp_path).synset
    if layout == "png":
        assert torch.equal(found.labels, wanted.labels)
        assert float((found.pixels() - wanted.pixels()).abs().max()) <= 0.5 / 255 + 1e-6
        assert any("8-bit pixels" in note for note in written.notes)
    else:
        assert_same(found, wanted)


@pytest.mark.parametrize("layout", HARD)
def test_students_of_what_comes_back_are_the_same(layout, tmp_path):
    wanted = make("digits", each=2)
    write_synset(wanted, tmp_path, layout)
    found = read_synset(tmp_path).synset
    work = open_workspace(DataConfig(), "MLP", torch.device("cpu"), wanted.transform)
    protocol = PROTOCOLS["mtt"].changed(3)
    feed = work.feed(work.dataset.test)
    scores = [evaluate(one, work.build, feed, protocol, augment("dsa", flip=False), 5) for one in (wanted, found)]
    assert scores[0] == scores[1]


def test_hard_keeps_the_largest_logit_and_says_so(tmp_path):
    soft = make("digits", soft=True)
    for layout in (name for name in HARD if name != "png"):
        written = write_synset(soft, tmp_path / layout, layout, hard=True)
        assert any("soft labels (logits) are lost" in note for note in written.notes)
        assert_same(read_synset(tmp_path / layout).synset, replace(soft, labels=soft.labels.argmax(1)))


def test_targets_of_a_regression_are_held_by_no_layout_but_as_classes(tmp_path):
    targets = replace(make("digits", soft=True), regression=True)
    with pytest.raises(ValueError, match=r"targets of a regression, hf holds .*: use --hard to keep the classes"):
        write_synset(targets, tmp_path / "none", "hf")
    written = write_synset(targets, tmp_path / "hf", "hf", hard=True)
    assert any("targets of a regression are lost" in note for note in written.notes)
    assert_same(
        read_synset(tmp_path / "hf").synset, make("digits", soft=True).with_leaves({"labels": targets.labels.argmax(1)})
    )


def test_hard_leaves_mosaics_whole_where_the_layout_keeps_them(tmp_path):
    soft = make("digits", soft=True, formation=Formation(2))
    write_synset(soft, tmp_path, "tgdd", hard=True)
    assert_same(read_synset(tmp_path).synset, replace(soft, labels=soft.labels.argmax(1)))


@pytest.mark.parametrize("layout", ["ddranking", "tgdd", "png"])
def test_classes_stand_together_where_a_project_counts_on_it(layout, tmp_path):
    written = write_synset(make("digits"), tmp_path, layout)
    assert any("class by class" in note for note in written.notes)
    (tmp_path / "raydd.json").unlink()
    found = read_synset(tmp_path, data=DataConfig(dataset="digits"), lr=0.5).synset
    assert found.labels.tolist() == sorted(found.labels.tolist())
    assert written.images == len(found.labels) == 40


def test_doubles_become_float32_and_a_note_says_how_far_off(tmp_path):
    wanted = make("digits", learned=True)
    double = replace(wanted, images=wanted.images.double() + 1e-9, lr=wanted.lr.double())
    notes = write_synset(double, tmp_path, "mtt").notes
    assert [note for note in notes if "float64" in note and "float32" in note]
    assert_same(read_synset(tmp_path).synset, replace(wanted, images=double.images.float()))


def test_a_set_of_our_own_is_read_as_it_is(tmp_path):
    wanted = make("digits")
    wanted.save(tmp_path / "synset.arrow")
    for path in (tmp_path, tmp_path / "synset.arrow"):
        read = read_synset(path)
        assert (read.layout, read.notes) == ("raydd", ())
        assert_same(read.synset, wanted)
    read = read_synset(tmp_path, lr=3.0)
    assert float(read.synset.lr) == float(wanted.lr)
    assert "not used" in read.notes[0]


def test_pixels_outside_0_to_1_are_written_as_they_are_and_counted(images, tmp_path):
    wanted = make(images, learned=True)
    (outside, *rest) = [note for note in write_synset(wanted, tmp_path / "a", "tgdd").notes if "class by" not in note]
    stored = torch.load(tmp_path / "a" / "data_best.pt", weights_only=True)[0]
    assert int(((stored < 0) | (stored > 1)).sum()) == int(outside.split()[0]) > 0
    read = read_synset(tmp_path / "a")
    assert any("outside [0, 1]" in note for note in read.notes)
    error = float((read.synset.images - wanted.images).abs().max())
    assert error < 1e-6
    assert [float(note.split(" by ")[1].split()[0]) for note in rest] == ([pytest.approx(error, 0.01)] if error else [])
    (note,) = [note for note in write_synset(wanted, tmp_path / "b", "png").notes if "8-bit" in note]
    error = float((read_synset(tmp_path / "b").synset.images - wanted.images).abs().max())
    assert float(note.split(" by ")[1].split()[0]) == pytest.approx(error, 0.01)
    assert error > 0.01


@pytest.mark.parametrize("layout", ["mtt", "datm", "dc", "dcbench", "ddranking"])
def test_preprocessing_that_a_project_does_not_score_is_said(layout, tmp_path):
    notes = write_synset(make("digits", "raw01", soft=layout == "datm"), tmp_path, layout).notes
    assert any("preprocessing is raw01" in note for note in notes)


def test_tiles_that_do_not_divide_a_side_are_said(tmp_path):
    notes = write_synset(make("digits", formation=Formation(3)), tmp_path, "tgdd").notes
    assert any("3 tiles do not divide a side of 8" in note for note in notes)
