"""Export to pictures: which file holds which image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.interop.writing import write_synset
from raydd.numerics.formation import Formation

CLASSES = ("a", "b/c", "d")


def synset(side=4, channels=3, labels=(0, 2, 0, 1, 2, 2)):
    """Image i is all (i + 1) / 10, with a brighter corner."""
    images = torch.stack([torch.full((channels, side, side), (i + 1) / 10) for i in range(len(labels))])
    images[:, :, 0, 0] = 1.0
    return SyntheticSet(images, torch.tensor(labels), torch.tensor(0.1), Transform("raw01"), "toy", CLASSES)


def export(data, folder, **options):
    *paths, sidecar = write_synset(data, folder, "png", **options).paths
    assert sidecar == folder / "raydd.json"
    return paths


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_exported_by_class_and_number(channels, tmp_path):
    data, folder = synset(channels=channels), tmp_path / "out"
    paths = export(data, folder)
    names = ["000_a/0000", "000_a/0001", "001_b_c/0000", "002_d/0000", "002_d/0001", "002_d/0002"]
    assert [path.relative_to(folder).as_posix() for path in paths] == [f"{name}.png" for name in names]
    assert sorted(paths) == sorted(folder.rglob("*.png"))
    for path, row in zip(paths, (0, 2, 3, 1, 4, 5), strict=True):
        with Image.open(path) as found:
            expected = (data.images[row] * 255).round().byte().permute(1, 2, 0).numpy()
            assert np.array_equal(np.asarray(found).reshape(expected.shape), expected)


def test_pictures_may_be_wider_than_high(tmp_path):
    data = replace(synset(), images=torch.rand(6, 3, 4, 9))
    with Image.open(export(data, tmp_path / "out")[0]) as found:
        assert found.size == (9, 4)


@pytest.mark.parametrize("soft", [False, True])
def test_an_export_takes_mosaics_apart(soft, tmp_path):
    """Six mosaics of 2 x 2 tiles of 4 x 4 pixels; tile k of set i is all (4 i + k) / 25."""
    tiles = (torch.arange(24.0) / 25).view(6, 1, 2, 2)
    images = tiles.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    data = replace(synset(8, 1), images=images, formation=Formation(2))
    if soft:
        data = data.with_leaves({"labels": torch.nn.functional.one_hot(data.labels, 3) * 3.0})
    paths = export(data, tmp_path / "out", hard=soft)
    assert len(paths) == 24
    found = {path.relative_to(tmp_path / "out").as_posix(): np.unique(np.asarray(Image.open(path))) for path in paths}
    values = {name: shades.tolist() for name, shades in found.items()}
    places = {"000_a": (0, 2), "001_b_c": (3,), "002_d": (1, 4, 5)}  # which mosaics are of which class
    expected = {}
    for name, members in places.items():
        for index, tile in enumerate(4 * member + k for member in members for k in range(4)):
            expected[f"{name}/{index:04d}.png"] = [round(255 * tile / 25)]
    assert values == expected


def test_an_export_never_goes_into_a_folder_with_something_in_it(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not an empty folder; name another --out"):
        export(synset(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert len(export(synset(), tmp_path / "empty")) == 6
