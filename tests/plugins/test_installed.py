"""A package with a method, a network, a data set, a protocol and spaces, used by the commands and by Ray's workers."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.remote
SMALL = "--set student_steps=2 --set span=1 --set threads=1"


@pytest.fixture(scope="module")
def raydd(plugin, tmp_path_factory):
    """Runs a command in a process of its own, whose environment has the plugin; returns its JSON document."""
    folder = tmp_path_factory.mktemp("work")
    path = os.pathsep.join([str(plugin), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "RAYDD_CACHE": str(folder / "cache")}

    def run(words, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "raydd", *words.split(), "--json"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if code == 0 else done.stderr

    return run


@pytest.fixture(scope="module")
def experts(raydd):
    """A buffer of the plugin's network on its data set, trained by two workers."""
    raydd("experts --dataset bars --network Tiny --num-experts 2 --epochs 3 --num-workers 2 --out experts")
    return "experts"


@pytest.fixture(scope="module")
def distilled(raydd, experts):
    """A set of the plugin's method, distilled by two actors."""
    raydd(
        f"distill --method direction --dataset bars --network Tiny --buffer {experts} --rollouts 2 --num-workers 2"
        f" --set steps=3 {SMALL} --out run"
    )
    return "run"


def test_its_space_is_listed(raydd):
    assert raydd("spaces")["spaces"]["bar_rates"] == ["lr.images"]


def test_its_data_set_is_listed_and_read(raydd):
    assert raydd("datasets")["datasets"]["bars"]["size"] == 16
    assert raydd("datasets bars")["classes"] == ["upright", "lying"]


@pytest.mark.slow
def test_evaluators_know_its_network_and_protocol(raydd, distilled):
    scores = raydd(f"evaluate {distilled} --nets Tiny --protocol brief --seeds 2 --num-workers 2 --set baselines=[]")
    found = {(score["name"], score["dataset"], score["network"], score["protocol"]) for score in scores["scores"]}
    assert {(dataset, network, protocol) for _, dataset, network, protocol in found} == {("bars", "Tiny", "brief")}


@pytest.mark.slow
def test_trials_know_its_space_and_method(raydd, experts):
    document = raydd(
        f"tune --space bar_rates --buffer {experts} --num-samples 2 --max-concurrent 2 --seeds 0 --set steps=2"
        f" --set experts.num_experts=2 --set experts.epochs=3 --set evaluate_networks=1 --set evaluate_epochs=1 {SMALL}"
        " --out search"
    )
    assert document["outputs"]


@pytest.mark.slow
def test_its_architectures_are_ranked(raydd, distilled):
    ranked = raydd(
        f"nas {distilled} --space narrow --sample 2 --epochs 1 --real-epochs 1 --top 1 --seeds 1 --num-workers 2"
        " --out ranked"
    )
    assert ranked["space"] == "narrow"
    assert ranked["space_size"] == 8


def test_a_near_name_is_suggested(raydd):
    line = raydd("distill --method direktion --dataset bars --network Tiny --out none", code=2)
    assert "direction" in line
    assert len(line.splitlines()) == 1
