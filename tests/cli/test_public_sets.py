"""A set that another project published scores as its authors say, read and evaluated from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SET, IMAGES = DATA / "public-sets" / "res_DC_CIFAR10_ConvNet_1ipc.pt", DATA / "cifar10-jpeg"
RECORDED = {"MLP": 28.1, "ConvNet": 26.5, "LeNet": 21.0}
"""Test accuracy in per cent that the file's authors measured: 300 epochs, no augmentation, ten networks each."""
POINTS = 2.0


def raydd(folder, *words):
    """One command's JSON document."""
    command = [sys.executable, "-m", "raydd", *map(str, words), "--json"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.remote
@pytest.mark.skipif(not SET.is_file() or not IMAGES.is_dir(), reason="needs the published set and the JPEG images")
def test_a_published_dc_set_scores_as_its_authors_recorded(tmp_path):
    """On the JPEG test images; ten images, so that networks differ by a point or two."""
    read = raydd(tmp_path, "import", SET, "--dataset", IMAGES, "--out", "dc.arrow")
    assert (read["layout"], read["images"], read["labels"]) == ("dc", 10, "hard")
    flags = ["--protocol", "dm", "--set", "augment=none", "--nets", ",".join(RECORDED), "--seeds", "3"]
    flags += ["--baselines", "none", "--set", "real_epochs=0", "--num-workers", "2"]
    found = raydd(tmp_path, "evaluate", "dc.arrow", *flags)
    assert found["protocol"]["plain_epochs"] == 300
    scores = {score["network"]: 100 * score["mean"] for score in found["scores"]}
    assert scores == pytest.approx(RECORDED, abs=POINTS)
