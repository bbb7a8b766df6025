"""What stands in a sidecar counts for the files that it was written beside, and for no others."""

from dataclasses import replace

import pytest
import torch

from raydd.config.schema import DataConfig
from raydd.data.datasets import load_dataset
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.interop.layouts import LAYOUTS
from raydd.interop.reading import read_synset
from raydd.interop.sidecar import digest
from raydd.interop.writing import write_synset
from raydd.numerics.formation import PLAIN, Formation

DIGITS = DataConfig(dataset="digits")


@pytest.fixture
def synset():
    """Twenty images of digits, classes not together, with all that a set can say of itself."""
    data = load_dataset("digits")
    labels = torch.arange(10).repeat(2)
    rows = torch.stack([torch.nonzero(data.train.targets == label).flatten()[0] for label in labels])
    transform = fit_transform("raw01", data)
    return SyntheticSet(
        images=transform(data.train.take(rows)),
        labels=labels,
        lr=torch.tensor(0.125),
        transform=transform,
        dataset="digits",
        classes=data.classes,
        recipe={"method": "idc", "data": DIGITS.model_dump(mode="json") | {"preprocessing": "raw01"}},
        provenance={"commit": "0123abc", "fingerprint": data.fingerprint},
        history=({"step": 1, "mean": 0.5},),
    )


def soft(synset):
    return synset.with_leaves({"labels": torch.nn.functional.one_hot(synset.labels, 10) * 4.0})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_that_were_replaced_keep_only_what_is_of_the_data_set(layout, synset, tmp_path):
    """Other images come into the same files; the sidecar stays."""
    wanted = soft(synset) if LAYOUTS[layout].labels == ("logits",) else synset
    write_synset(wanted, tmp_path / "a", layout)
    assert read_synset(tmp_path / "a").synset.history == synset.history
    other = wanted.with_leaves({"images": wanted.images.flip(0, 3), "lr": torch.tensor(0.5)})
    write_synset(other, tmp_path / "b", layout)
    (tmp_path / "b" / LAYOUTS[layout].subfolder(wanted) / "raydd.json").write_bytes(
        (tmp_path / "a" / LAYOUTS[layout].subfolder(wanted) / "raydd.json").read_bytes()
    )
    read = read_synset(tmp_path / "b")
    assert any("beside other images or labels" in note for note in read.notes)
    found = read.synset
    assert (found.history, found.formation, found.provenance.keys()) == ((), PLAIN, {"fingerprint", "imported"})
    assert found.recipe == {"data": synset.recipe["data"]}
    assert (found.dataset, found.transform.kind) == ("digits", "raw01")
    assert float(found.lr) == (0.5 if layout in {"datm", "ddranking"} else 0.125)  # they keep it in files of their own
    order = torch.argsort(other.hard_labels, stable=True) if LAYOUTS[layout].together else torch.arange(20)
    assert torch.equal(found.images, other.images[order])


def test_labels_that_were_replaced_are_seen_too(synset, tmp_path):
    write_synset(synset, tmp_path, "mtt")
    torch.save(synset.labels.flip(0), tmp_path / "labels_best.pt")
    read = read_synset(tmp_path)
    assert (read.synset.history, read.synset.labels.tolist()) == ((), synset.labels.flip(0).tolist())


def test_mosaics_that_were_replaced_are_not_taken_for_mosaics(synset, tmp_path):
    write_synset(replace(synset, formation=Formation(2)), tmp_path, "tgdd")
    images, labels = torch.load(tmp_path / "data_best.pt", weights_only=True)
    torch.save([images.flip(0), labels], tmp_path / "data_best.pt")
    read = read_synset(tmp_path)
    assert read.synset.formation == PLAIN
    assert any("if they are mosaics, give --factor" in note for note in read.notes)
    torch.save([images + 0.5, labels], tmp_path / "data_best.pt")
    with pytest.raises(ValueError, match="pixels outside"):  # as without a sidecar
        read_synset(tmp_path)


def test_a_file_of_another_layout_beside_it_takes_nothing(synset, tmp_path):
    write_synset(synset, tmp_path, "mtt")
    torch.save([torch.rand(10, 1, 8, 8), torch.arange(10)], tmp_path / "data_best.pt")
    path = tmp_path / "data_best.pt"
    with pytest.raises(ValueError, match=r"raydd\.json there was written beside mtt files.*--dataset"):
        read_synset(path)
    read = read_synset(path, data=DIGITS)
    assert (read.layout, float(read.synset.lr)) == ("tgdd", pytest.approx(0.01))
    assert (read.synset.history, read.synset.transform.kind) == ((), "normalise")
    assert any("written beside mtt files" in note for note in read.notes)
    assert read_synset(tmp_path).synset.history == synset.history  # the export itself is as before


def test_a_parquet_sidecar_is_found_from_its_file_and_folder(synset, tmp_path, monkeypatch):
    (path, _) = write_synset(synset, tmp_path / "set", "hf").paths
    monkeypatch.chdir(path.parent)
    for place in (tmp_path / "set", path.parent, path, ".", path.name):
        read = read_synset(place)
        assert read.layout == "hf"
        assert read.synset.history == synset.history
        assert torch.equal(read.synset.images, synset.images)


def test_a_factor_alone_keeps_the_recorded_decoding(synset, tmp_path):
    recorded = Formation(2, "bounded", 9)
    write_synset(replace(synset, formation=recorded), tmp_path, "tgdd")
    for given, wanted, said in (
        (None, recorded, False),
        (2, recorded, False),
        (recorded, recorded, False),
        (4, Formation(4), True),
        (Formation(2), Formation(2), True),
    ):
        read = read_synset(tmp_path, formation=given)
        assert read.synset.formation == wanted
        notes = [note for note in read.notes if "factor 2, decode bounded, bound 9" in note]
        assert bool(notes) == said
        assert all(f"factor {wanted.factor}, decode uniform" in note for note in notes)


def test_a_digest_is_of_types_shapes_and_every_number():
    images, labels = torch.rand(4, 1, 2, 2), torch.arange(4)
    kept = digest(images, labels)
    assert digest(images.clone().transpose(2, 3).contiguous().transpose(2, 3), labels) == kept
    nearly = images.clone()
    nearly[3, 0, 1, 1] = torch.nextafter(nearly[3, 0, 1, 1], torch.tensor(9.0))
    others = [(nearly, labels), (images, labels.int()), (images.view(4, 1, 4, 1), labels), (images, labels.flip(0))]
    assert len({kept, *(digest(*other) for other in others)}) == 5
    assert len(digest(images.bfloat16(), torch.tensor(3))) == 16
