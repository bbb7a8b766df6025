"""Every verb by `ray job submit` on hosts that share no disk but a bucket, one host cut off in the middle of each.

Run it as root: ``pytest -m multihost -s tests/cluster/test_bucket.py``. The head has no CPU for work and sees none of
the workers' disks; the bucket is on the laptop, by a local S3 server. The same commands on this machine alone give the
same bytes.
"""

import json
import shlex
import subprocess
import sys
import time

import pytest
import yaml

pytestmark = pytest.mark.multihost

SERVER = "http://10.83.0.1:9000"
ACCESS = {
    "AWS_ENDPOINT_URL": SERVER,
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
SERVE = """
import threading
from moto.server import ThreadedMotoServer
ThreadedMotoServer(ip_address="10.83.0.1", port=9000, verbose=False).start()
threading.Event().wait()
"""
VARIABLES = shlex.quote(json.dumps({"env_vars": ACCESS}))
SUBMIT = f"ray job submit --address http://127.0.0.1:8265 --runtime-env-json {VARIABLES} --"
COPY = """
import os, shutil, sys, pyarrow.fs as fs
from raydd.io.stored_folder import StoredFolder, stored_copy
uri, folder = f"s3://bucket/{sys.argv[1]}", sys.argv[2]
if StoredFolder(uri).files():  # a run, whose objects have names of their own
    shutil.copytree(stored_copy(uri), folder)
else:
    os.makedirs(folder)
    bucket = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"])  # by path: no name server knows it
    fs.copy_files(uri.removeprefix("s3://"), folder, bucket, fs.LocalFileSystem())
"""
EXPERTS = "experts --network MLP --num-experts 4 --epochs 60"
TRAJECTORY = (
    "distill --method mtt --network MLP --set threads=1 --set steps=150 --set student_steps=10 --set span=2"
    " --set window.high=20 --set checkpoint_every=10 --buffer {place}/buffer"
)
STATISTICS = "distill --method dm --network MLP --set threads=1 --set steps=600 --set checkpoint_every=20"
SPACE = {
    "method": "mtt",
    "set": {
        "steps": 40,
        "student_steps": 4,
        "evaluate_epochs": 20,
        "evaluate_every": 10,
        "window": {"high": 6},
        "threads": 1,
        "experts": {"network": "MLP", "num_experts": 4, "epochs": 60},
    },
    "domains": {"lr.images": {"log_uniform": [0.1, 100]}, "span": {"integer": [1, 3]}},
    "constraints": ["window.high + span <= experts.epochs"],
    "budget": {"samples": 4},
}
SEARCH = "tune --space space.yaml --buffer {place}/buffer --seeds 0 --json"
EVALUATE = "evaluate {place}/dm --nets MLP --seeds 6 --set epochs=300 --set real_epochs=30 --json"


class Verbs:
    """Runs raydd's commands as jobs whose results are in the bucket, and cuts a worker off in the middle."""

    def __init__(self, hosts, clock, folder):
        self.laptop, self.head, *self.workers = hosts
        self._clock, self._folder = clock, folder

    def run(self, name, words, out=None):
        """Submit a job and cut off a worker that has work; return what the job printed."""
        command = f"raydd {words.format(place='s3://bucket')} --address auto"
        command += f" --out s3://bucket/{out}" if out else ""
        log = self._folder / f"{name}.log"
        with log.open("wb") as file:
            job = self.laptop.start(f"{SUBMIT} {command}", file)
        busy, _ = self._clock.wait_for(lambda: [host for host in self.workers if host.workers()], 180, job)
        time.sleep(3)
        cut = busy[0]
        cut.cut()
        self._clock.say(f"{name}: {cut.name} is cut off")
        job.wait(timeout=400)
        text = log.read_text(errors="replace")
        assert job.returncode == 0, text
        self._clock.say(f"{name}: the job has succeeded")
        self._join(cut)
        return text

    def fetch(self, name, *patterns):
        """Copy a folder of the bucket to the laptop's disk; return the bytes of its files that match, by path."""
        places = " ".join(f"{key}={value}" for key, value in ACCESS.items())
        self.laptop.run(f"{places} python -c {shlex.quote(COPY)} {name} results/{name}")
        return bytes_of(self.laptop.path(f"/home/raydd/results/{name}"), *patterns)

    def _join(self, host):
        """Plug the cable in, and let the host join the cluster again as a new node."""
        host.mend()
        host.run("ray stop --force", check=False)
        options = f"--address={self.head.address}:6379 --object-manager-port=8076 --num-cpus=2"
        host.run(f"ulimit -n 65536; ray start {options}")
        self._clock.wait_for(
            lambda: "/4.0 CPU" in self.laptop.run("ray exec local.yaml 'ray status'", check=False), 120
        )


def bytes_of(folder, *patterns):
    """The bytes of a folder's files that match, by path."""
    found = {str(path.relative_to(folder)): path.read_bytes() for one in patterns for path in folder.glob(one)}
    assert found, f"{folder} has none of {patterns}"
    return found


def here(words, folder):
    """Run a command on this machine alone, in a folder that takes the bucket's part; return what it prints."""
    command = [sys.executable, "-m", "raydd", *shlex.split(words.format(place="."))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def result_of(text):
    """The JSON document that a command printed."""
    return json.loads(next(line for line in text.splitlines() if line.startswith('{"')))


@pytest.fixture
def verbs(cluster, clock, tmp_path):
    laptop = cluster[0]
    with (tmp_path / "server.log").open("wb") as log:
        laptop.start(f"python -c {shlex.quote(SERVE)}", log)
    make = f"curl -s -o /dev/null -w '%{{http_code}}' -X PUT {SERVER}/bucket"
    clock.wait_for(lambda: laptop.run(make, check=False) == "200", 60)
    clock.say("the bucket is there")
    return Verbs(cluster, clock, tmp_path)


def test_every_verb_from_a_bucket(verbs, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for folder in (own, verbs.head.path("/home/raydd")):
        (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))

    verbs.run("experts", EXPERTS, "buffer")
    here(f"{EXPERTS} --num-workers 1 --out buffer", own)
    assert verbs.fetch("buffer", "expert-*.arrow") == bytes_of(own / "buffer", "expert-*.arrow")

    verbs.run("trajectories", TRAJECTORY, "mtt")
    here(f"{TRAJECTORY} --out mtt", own)
    assert verbs.fetch("mtt", "*.arrow", "metrics.jsonl") == bytes_of(own / "mtt", "*.arrow", "metrics.jsonl")

    verbs.run("statistics", STATISTICS, "dm")
    here(f"{STATISTICS} --out dm", own)
    assert verbs.fetch("dm", "*.arrow", "metrics.jsonl") == bytes_of(own / "dm", "*.arrow", "metrics.jsonl")

    text = verbs.run("search", SEARCH.replace("space.yaml", "/home/raydd/space.yaml"), "search")
    expected = result_of(here(f"{SEARCH} --num-workers 1 --out search", own))
    assert best_of(result_of(text)) == best_of(expected)
    assert verbs.fetch("search", "best/synset.arrow") == bytes_of(own / "search", "best/synset.arrow")

    text = verbs.run("evaluate", EVALUATE)
    expected = result_of(here(f"{EVALUATE} --num-workers 1", own))
    assert values(result_of(text)) == values(expected)


def best_of(document):
    """The best trial, without what it took."""
    measured = {"seconds", "memory_mb"}
    best = document["best"]
    return best | {"validation": {key: value for key, value in best["validation"].items() if key not in measured}}


def values(document):
    return {(score["name"], score["network"]): score["values"] for score in document["scores"]}
