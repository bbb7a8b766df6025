import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.figures.synset_picture import GAP, grid, save_png, to_image
from raydd.numerics.formation import Formation

CLASSES = ("a", "b/c", "d")


def synset(side=4, channels=3, labels=(0, 2, 0, 1, 2, 2), transform=None):
    """Image i is all (i + 1) / 10, with a brighter corner."""
    images = torch.stack([torch.full((channels, side, side), (i + 1) / 10) for i in range(len(labels))])
    images[:, :, 0, 0] = 1.0
    transform = transform or Transform("raw01")
    return SyntheticSet(images, torch.tensor(labels), torch.tensor(0.1), transform, "toy", CLASSES)


def cell(picture, row, column, side, factor):
    """The pixels of one place of the grid, shrunk back to the image's own."""
    array = np.asarray(picture)
    step = factor * (side + GAP)
    top, left = factor * GAP + row * step, factor * GAP + column * step
    return array[top : top + factor * side : factor, left : left + factor * side : factor]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "factor"), [(4, 8), (8, 4), (20, 2), (32, 1), (40, 1)])
def test_a_grid_has_a_column_a_class_with_its_images_from_top_to_bottom(side, factor, channels):
    picture = grid(synset(side, channels))
    assert picture.size == (factor * (3 * (side + GAP) + GAP), factor * (3 * (side + GAP) + GAP))
    places = {(0, 0): 1, (1, 0): 3, (0, 1): 4, (0, 2): 2, (1, 2): 5, (2, 2): 6}
    for row in range(3):
        for column in range(3):
            found = cell(picture, row, column, side, factor)
            value = round(25.5 * places[row, column]) if (row, column) in places else 255
            assert np.unique(found[1:]).tolist() == [value]
            assert found[0, 0].tolist() == ([255] * 3 if channels == 3 else 255)
    assert (np.asarray(picture)[: factor * GAP] == 255).all()


def test_small_images_are_enlarged_without_smoothing():
    array = np.asarray(grid(synset(4, 1)))
    blocks = array.reshape(array.shape[0] // 8, 8, array.shape[1] // 8, 8)
    assert (blocks == blocks[:, :1, :, :1]).all()


def test_a_grid_shows_at_most_so_many_images_a_class():
    assert grid(synset(32), most_per_class=2).size[1] == 2 * (32 + GAP) + GAP
    assert grid(synset(32, labels=[1] * 12)).size[1] == 10 * (32 + GAP) + GAP


def test_preprocessing_is_undone_and_wild_pixels_are_clamped():
    statistics = {"mean": torch.tensor([0.5], dtype=torch.float64), "std": torch.tensor([0.25], dtype=torch.float64)}
    data = synset(32, 1, transform=Transform("normalise", statistics))
    data = data.with_leaves({"images": torch.full((6, 1, 32, 32), -1.0)})
    assert np.unique(cell(grid(data), 0, 0, 32, 1)).tolist() == [64]
    wild = data.with_leaves({"images": torch.full((6, 1, 32, 32), -9.0)})
    assert np.unique(cell(grid(wild), 0, 0, 32, 1)).tolist() == [0]


def test_soft_labels_stand_at_their_largest_logit():
    hard = synset()
    soft = hard.with_leaves({"labels": torch.nn.functional.one_hot(hard.labels, 3) * 2.0 - 5})
    assert soft.label_kind == "logits"
    assert np.array_equal(np.asarray(grid(soft)), np.asarray(grid(hard)))


def test_pixels_are_rounded_to_bytes():
    values = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0])
    assert np.asarray(to_image(values.view(1, 2, 2))).reshape(-1).tolist() == [0, 0, 1, 255]
    colour = to_image(torch.tensor([1.0, 0.0, 0.2]).view(3, 1, 1))
    assert (colour.mode, colour.getpixel((0, 0))) == ("RGB", (255, 0, 51))
    assert to_image(values.view(1, 2, 2)).mode == "L"


def test_a_png_is_written_whole(tmp_path):
    picture = grid(synset())
    path = save_png(picture, tmp_path / "new" / "a.png")
    with Image.open(io.BytesIO(path.read_bytes())) as found:
        assert found.format == "PNG"
        assert np.array_equal(np.asarray(found), np.asarray(picture))
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def mosaic():
    """Six mosaics of 2 x 2 tiles of 4 x 4 pixels; tile k of set i is all (4 i + k) / 25."""
    tiles = (torch.arange(24.0) / 25).view(6, 1, 2, 2)
    images = tiles.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    return replace(synset(8, 1), images=images, formation=Formation(2))


def test_a_grid_shows_mosaics_whole():
    data = mosaic()
    plain = replace(data, formation=Formation())
    assert np.array_equal(np.asarray(grid(data)), np.asarray(grid(plain)))
    assert len(np.unique(cell(grid(data), 0, 0, 8, 4))) == 4
