"""Sets of bases in styles: files, decoding, devices, exports, and what they are refused for."""

from dataclasses import replace

import pytest
import torch

from raydd.config.schema import DataConfig
from raydd.data.datasets import load_dataset
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.baselines import mosaics
from raydd.evaluation.jobs import Job
from raydd.evaluation.matrix import Matrix, ScoreRow
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.result_cache import CacheKeys
from raydd.interop.layouts import LAYOUTS
from raydd.interop.reading import read_synset
from raydd.interop.writing import write_synset
from raydd.io.tensor_file import load_tensors, save_tensors
from raydd.numerics.formation import PLAIN, Formation
from raydd.numerics.rng import generator
from raydd.numerics.styles import hallucinate, start_styles

STYLES = 3
HARD = [name for name in LAYOUTS if "hard" in LAYOUTS[name].labels]


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture
def styled(digits):
    labels = torch.arange(10)
    rows = torch.stack([torch.nonzero(digits.train.targets == label).flatten()[0] for label in labels])
    transform = fit_transform("normalise", digits)
    return SyntheticSet(
        images=transform(digits.train.take(rows)),
        labels=labels,
        lr=torch.tensor(0.02),
        transform=transform,
        dataset=digits.name,
        classes=digits.classes,
        recipe={"method": "haba", "data": DataConfig().model_dump(mode="json")},
        provenance={"fingerprint": digits.fingerprint},
        formation=Formation(styles=STYLES),
        styles=start_styles(STYLES, (1, 8, 8), generator(0)),
    )


def test_what_is_saved_comes_back_bitwise(styled, tmp_path):
    styled.save(tmp_path / "a")
    found = SyntheticSet.load(tmp_path / "a")
    assert found.parts.keys() == {"images", "labels", "lr", "styles"}
    assert all(torch.equal(part, getattr(styled, name)) for name, part in found.parts.items())
    assert (found.formation, found.ipc, found.decoded().ipc) == (Formation(styles=STYLES), 1, STYLES)
    found.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_files_without_styles_are_written_as_before_there_were_any(styled, tmp_path):
    """Of plain sets `test_synset.py` says so; mosaics have the three fields that they had."""
    mosaic = replace(styled, formation=Formation(2, "multi", 9), styles=None)
    mosaic.save(tmp_path / "mosaic")
    tensors, metadata = load_tensors(tmp_path / "mosaic")
    assert metadata["formation"] == {"factor": 2, "decode": "multi", "bound": 9}
    assert "styles" not in tensors
    assert SyntheticSet.load(tmp_path / "mosaic").formation == mosaic.formation


def test_every_base_is_seen_in_every_style_with_its_label(styled):
    decoded = styled.decoded()
    assert (decoded.formation, decoded.styles) == (PLAIN, None)
    assert torch.equal(decoded.images, hallucinate(styled.images, styled.styles)[0])
    assert torch.equal(decoded.labels, styled.labels.repeat_interleave(STYLES))
    assert decoded.decoded() is decoded


def test_a_device_decodes_the_same_set(styled, device):
    moved = styled.to(device)
    assert {part.device.type for part in moved.parts.values()} == {device.type}
    torch.testing.assert_close(moved.decoded().images.cpu(), styled.decoded().images, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "formation", "words"),
    [
        ({"styles": None}, {}, "styles are missing; 3 of images"),
        ({"styles": torch.zeros(2, 92)}, {}, r"styles are torch.float32 of shape \(2, 92\)"),
        ({"styles": torch.full((3, 92), torch.nan)}, {}, "styles are not finite"),
        ({}, {"styles": 0}, "styles are torch.float32"),
        ({}, {"styles": -1}, "styles"),
        ({}, {"factor": 2}, "a formation has styles = 3 and factor = 2"),
    ],
)
def test_damaged_files_are_refused(tensors, formation, words, styled, tmp_path):
    styled.save(tmp_path / "a")
    stored, metadata = load_tensors(tmp_path / "a")
    assert stored["styles"].shape == (3, 92)
    stored = {name: value for name, value in (stored | tensors).items() if value is not None}
    save_tensors(tmp_path / "b", stored, metadata | {"formation": metadata["formation"] | formation})
    with pytest.raises(ValueError, match=words) as caught:
        SyntheticSet.load(tmp_path / "b")
    assert "make it again" in str(caught.value)


@pytest.mark.parametrize("layout", HARD)
def test_an_export_holds_every_base_in_every_style(layout, styled, tmp_path):
    written = write_synset(styled, tmp_path, layout)
    assert written.images == 10 * STYLES
    assert f"images are written in {STYLES} styles: 10 stored images are {10 * STYLES}" in written.notes
    read, seen = read_synset(tmp_path).synset, styled.decoded()
    assert (read.formation, read.styles) == (PLAIN, None)
    assert torch.equal(read.labels, seen.labels)
    if LAYOUTS[layout].space == "network":
        assert torch.equal(read.images, seen.images)


def test_the_key_of_a_score_depends_on_the_styles(styled):
    def key(synset):
        rows = (ScoreRow("a", "distilled", (synset,)),)
        protocol = Protocol(name="p", epochs=1, plain_epochs=1, real_epochs=1, lr=None)
        dataset = open_workspace(DataConfig(), None, torch.device("cpu")).dataset
        return CacheKeys(Matrix(rows, ("MLP",), range(1), protocol, DataConfig(), "cpu"), dataset).of(Job(0, "MLP", 0))

    plain = replace(styled, formation=PLAIN, styles=None)
    keys = [key(each) for each in (styled, styled.with_leaves({"styles": styled.styles + 1}), plain)]
    assert len({each["set"] for each in keys}) == 3
    assert [each["formation"] for each in keys] == [[1, "uniform", 128, STYLES]] * 2 + [None]
    assert key(replace(plain, formation=Formation(2)))["formation"] == [2, "uniform", 128]


def test_no_mosaics_of_real_images_stand_beside_styles(styled):
    assert mosaics(styled, open_workspace(DataConfig(), None, torch.device("cpu")), range(1)) == []
