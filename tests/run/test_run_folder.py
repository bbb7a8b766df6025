"""The sets of scored steps, as they are read back."""

from dataclasses import replace

import torch

from raydd.config.schema import DataConfig
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.numerics.rng import generator
from raydd.run.run_folder import load_scored_sets, scored_set_path
from raydd.selection.class_sampler import Request, real


def test_sets_of_equal_preprocessing_share_it(tmp_path):
    """Each file has its own copy, and that of ZCA is larger than the images."""
    dataset = open_workspace(DataConfig(), None, torch.device("cpu")).dataset
    white, raw = (fit_transform(kind, dataset) for kind in ("zca", "raw01"))
    sets = {}
    for step, transform in ((3, white), (6, white), (7, raw), (9, white)):
        images, labels = real(Request(dataset, transform, 1, generator(step)))
        recipe = {"step": step}
        sets[step] = SyntheticSet(images, labels, torch.tensor(0.1), transform, "digits", dataset.classes, recipe)
        sets[step].save(scored_set_path(tmp_path, step))
    found = load_scored_sets(tmp_path)
    assert found[3].transform is found[6].transform is found[9].transform
    assert found[7].transform.kind == "raw01"
    for step, synset in found.items():
        assert synset.transform.hash == sets[step].transform.hash
        assert torch.equal(synset.images, sets[step].images)
        assert replace(synset, images=sets[step].images, labels=sets[step].labels).recipe == {"step": step}
