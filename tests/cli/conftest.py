import numpy as np
import pytest
from PIL import Image
from raydd.cli import run
from raydd.config import DataConfig, ExpertConfig
from raydd.data.buffer import refresh_manifest
from raydd.remote.experts import Job, Trainer, prepare


@pytest.fixture(scope="session")
def small_buffer(cache, tmp_path_factory):
    """Two experts of three epochs, an MLP on digits; read only."""
    recipe = ExpertConfig(network="MLP", num_experts=2, epochs=3)
    job, missing = prepare(Job(DataConfig(), recipe, 0, tmp_path_factory.mktemp("buffers") / "digits", "cpu"))
    trainer = Trainer(job)
    for index in missing:
        trainer.train(index)
    refresh_manifest(job.folder)
    return job.folder


@pytest.fixture(scope="session")
def small_synset(small_buffer, tmp_path_factory):
    """The file of a set of ten digits, distilled for one step; read only."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    words = ["distill", "--network", "MLP", "--buffer", str(small_buffer), "--out", str(out)]
    words += ["--set", "steps=1", "--set", "student_steps=1", "--set", "window.high=1"]
    assert run(words) == 0
    return out / "synset.arrow"


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of two classes of five pictures, 8 x 8; read only."""
    root = tmp_path_factory.mktemp("folders") / "images"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 8, 3), dtype=np.uint8)
    for name, pictures in zip(("cat", "dog"), pixels, strict=True):
        (root / name).mkdir(parents=True)
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(root / name / f"{index}.png")
    return root
