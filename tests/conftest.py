import contextlib
import inspect
import itertools
import os
import re
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

# Every process that a test starts would compile what it imports anew; Ray workers take seconds for that.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
for _name, _value in {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}.items():
    os.environ.setdefault(_name, _value)

# A shell starts a background job with SIGINT ignored, which the commands that tests interrupt would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402 - after the environment
import torch  # noqa: E402

torch.set_num_threads(1)


ROOT = Path(__file__).parents[1]
REMOTE = Path(__file__).parent / "remote"


def pytest_xdist_auto_num_workers(config):
    """One process where some files are named: it is there at once."""
    return None if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what needs a Ray as integration, but for the verbs' paths; it comes last, since a Ray stays open."""
    for item in items:
        if item.get_closest_marker("remote") and not item.get_closest_marker("verb"):
            item.add_marker("integration")
    alone = {item.path for item in items if not item.get_closest_marker("remote")}  # their files are kept together
    items.sort(key=lambda item: item.path.is_relative_to(REMOTE) or item.path not in alone)
    first = next((k for k, item in enumerate(items) if item.path.is_relative_to(REMOTE)), len(items))
    items[first:] = sorted(items[first:], key=lambda item: item.path.name, reverse=True)  # searches take longest


PARAM = type(pytest.param())


def rows_of(mark):
    """The rows of a mark `rows`: what each sets, by the name of the argument."""
    names, values = mark.args
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else [*names]
    assert isinstance(values, Collection), "a table is gone over twice"
    assert not any(row.marks for row in values if isinstance(row, PARAM)), "a row has no marks of its own"
    rows = [row.values if isinstance(row, PARAM) else row if len(names) > 1 else (row,) for row in values]
    return [dict(zip(names, row, strict=True)) for row in rows]


def pytest_generate_tests(metafunc):
    """Give a test with the mark `rows` its first ones; `pytest_pyfunc_call` goes over all of them."""
    for mark in metafunc.definition.iter_markers("rows"):
        first = rows_of(mark)[0]
        metafunc.parametrize([*first], [[*first.values()]], ids=["rows"])


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Call a test with the mark `rows` once a row, also after a row that fails, and name every row that fails."""
    tables = [rows_of(mark) for mark in pyfuncitem.iter_markers("rows")]
    if not tables:
        return None
    given = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    failures = []
    for parts in itertools.product(*tables):
        row = {name: value for part in parts for name, value in part.items()}
        try:
            pyfuncitem.obj(**(given | row))
        except (Exception, pytest.fail.Exception) as error:
            failures.append((row, error))
    for row, error in failures:
        failures[0][1].add_note(f"failed with {row}: {str(error)[:200]}")
    if failures:
        raise failures[0][1]
    return True


@pytest.fixture(scope="session")
def plugin(tmp_path_factory):
    """A folder for PYTHONPATH in which the plugin of CONTRIBUTING.md and docs/extending.md is installed."""
    site = tmp_path_factory.mktemp("site")
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "docs/extending.md"))
    files = dict(re.findall(r"`mine/mine/(\w+)\.py`:\n\n```python\n(.*?)```", text, re.DOTALL))
    project = tomllib.loads(re.search(r"```toml\n(\[project\].*?)```", text, re.DOTALL)[1])["project"]
    entries = project["entry-points"]["raydd.plugins"] | {"search": "mine.search"}
    assert set(files) == set(entries)
    assert all(len(content.splitlines()) < 40 for content in files.values())
    for name, content in ({"__init__": ""} | files).items():
        (site / "mine").mkdir(exist_ok=True)
        (site / "mine" / f"{name}.py").write_text(content)
    about = site / "mine-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1\n")
    lines = (f"{name} = {module}\n" for name, module in entries.items())
    (about / "entry_points.txt").write_text(f"[raydd.plugins]\n{''.join(lines)}")
    return site


@pytest.fixture
def apart(tmp_path):
    """Runs a command as a process of its own, in an empty folder and with a cache of its own.

    Gives how it ended, and the folder.
    """

    def run(*words, seconds=300, **environment):
        folder = tmp_path / "work"
        folder.mkdir()
        done = subprocess.run(
            words,
            cwd=folder,
            env=os.environ | {"RAYDD_CACHE": str(tmp_path / "cache")} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return done, folder

    return run


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Each device to repeat a check on."""
    return torch.device(request.param)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The data sets' cache of this run, apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("RAYDD_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def small_buffer(cache, tmp_path_factory):
    """Two experts of three epochs, an MLP on digits; read only."""
    from toy_runs import train_buffer

    from raydd.config.schema import ExpertConfig, ExpertsConfig

    experts = ExpertConfig(network="MLP", num_experts=2, epochs=3)
    return train_buffer(tmp_path_factory.mktemp("buffers") / "digits", ExpertsConfig(experts=experts))


@pytest.fixture(scope="session")
def small_synset(small_buffer, tmp_path_factory):
    """The file of a set of ten digits, distilled for one step; read only."""
    from raydd.cli import run

    out = tmp_path_factory.mktemp("runs") / "digits"
    words = ["distill", "--network", "MLP", "--buffer", str(small_buffer), "--out", str(out)]
    words += ["--set", "steps=1", "--set", "student_steps=1", "--set", "window.high=1", "--set", "threads=1"]
    assert run(words) == 0
    return out / "synset.arrow"


class Pretended(NamedTuple):
    """A call of `raydd.remote.train_matrix.train_matrix`: what it was asked for, and the jobs that it did."""

    matrix: Any
    num_workers: int | None
    known: int
    jobs: list[Any]

    @property
    def rows(self) -> list[Any]:
        """What the jobs train on."""
        return [self.matrix.rows[job.row] for job in self.jobs]


@pytest.fixture
def pretend(monkeypatch, tmp_path, cache):
    """Replaces trainings by a function of matrix and job, and the kept results by none; gives a list of the calls."""

    def install(outcome):
        calls = []

        def train_matrix(matrix, where, show, known, keep):
            new = [job for job in matrix.jobs() if job not in known]
            found = {job: outcome(matrix, job) for job in new}
            for job, value in found.items():
                keep(job, value)
            calls.append(Pretended(matrix, where.num_workers, len(known), new))
            return known | found

        monkeypatch.setattr("raydd.remote.train_matrix.train_matrix", train_matrix)
        monkeypatch.setattr("raydd.remote.session._connected", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr("raydd.evaluation.result_cache.default_cache", lambda: tmp_path / "kept")
        return calls

    return install


@pytest.fixture(scope="session")
def ray2(cache):
    """One local Ray of two CPUs for the whole run; the workers see the run's cache."""
    import ray

    from raydd.remote.local import local_ray

    with local_ray(print, num_cpus=2, object_store_memory=200 * 2**20):
        yield ray


@pytest.fixture
def tables():
    """Restores raydd's tables after a test that adds rows to them."""
    from raydd.data.datasets import DATASETS
    from raydd.evaluation.protocols import PROTOCOLS
    from raydd.methods import METHODS
    from raydd.models.spaces import SPACES
    from raydd.models.zoo import NETWORKS

    every = (METHODS, NETWORKS, DATASETS, PROTOCOLS, SPACES)
    before = [dict(table) for table in every]
    yield
    for table, rows in zip(every, before, strict=True):
        table.clear()
        table.update(rows)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of two classes of five pictures, 8 x 8; read only."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("folders") / "images"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 8, 3), dtype=np.uint8)
    for name, pictures in zip(("cat", "dog"), pixels, strict=True):
        (root / name).mkdir(parents=True)
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(root / name / f"{index}.png")
    return root


S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
S3_SECRET = "s3cret/of+tests"


@pytest.fixture(scope="session")
def s3_server():
    """Starts an S3 server in a process of its own, with a bucket; gives what makes the URI of a folder there."""

    @contextlib.contextmanager
    def serve(**environment):
        process = subprocess.Popen(
            [sys.executable, "-c", S3_SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | environment,
        )
        try:
            address = f"http://127.0.0.1:{int(process.stdout.readline())}"
            request = urllib.request.Request(f"{address}/bucket", method="PUT")
            with contextlib.suppress(urllib.error.HTTPError):  # it wants credentials
                urllib.request.urlopen(request, timeout=10).close()
            owner = f"tester:{urllib.parse.quote(S3_SECRET, safe='')}"
            query = f"endpoint_override={address}&scheme=http&region=us-east-1"
            yield lambda path: f"s3://{owner}@{path}?{query}"
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(timeout=10)

    return serve


@pytest.fixture(scope="session")
def s3(s3_server):
    """Makes the URI of a folder, such as ``bucket/a``, of an S3 server that holds anything."""
    with s3_server() as uri:
        yield uri
