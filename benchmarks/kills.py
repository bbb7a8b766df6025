"""Random SIGKILLs on the cluster that users have, with everything in a bucket: nothing lost, no wrong bytes.

    python benchmarks/kills.py --kills 20 --write

starts on this machine an S3 server and a cluster: a head without CPUs for work, two nodes with a GPU that is pretended
and one without, each node with a cache of its own. On it run `raydd experts`, `distill`, `tune` and `evaluate` by
their command lines. An undisturbed run of each gives what is right: the bytes of experts and synthetic sets, the
trials of a search, the scores. In every trial the same command starts at a new place, and up to six times something
is killed at random: a worker, a node with all its processes (another one joins some seconds later), or the driver.
After a driver the same command is run again, now and then as on another machine, with an empty cache. In the end the
command must succeed, give what is right, and leave nothing behind: no file, claim, job, actor or placement group.
"""

import argparse
import hashlib
import io
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "support"))
sys.dont_write_bytecode = False  # a worker without bytecode takes much longer to start
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ |= {"RAY_gcs_server_port_wait_time_s": "300"}
os.environ |= {"RAY_worker_niceness": "0"}  # workers that wait for other users of this machine would not be at work

from fake_cluster import FakeCluster, fake_cluster  # noqa: E402

from raydd.io.files import write_atomic  # noqa: E402
from raydd.io.provenance import commit  # noqa: E402

DEATH = {  # a node is dead that does not answer for some seconds; a slow one is not
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 5,
    "health_check_timeout_ms": 2000,
}
NODES = ((1, 1), (1, 1), (1, 0))
KINDS = {"worker": 4, "node": 3, "driver": 3}  # with their weights
KILLS, MOST_RUNS, SECONDS = (1, 3, 4, 5, 6), 24, 1800.0  # of one trial
GAP_SECONDS = (0.5, 6.0)  # between the start of the work, or a kill, and the next one
JOIN_SECONDS = (1.0, 6.0)  # until another node joins
OWN = ("_AutoscalingCoordinatorActor", "PlacementGroupCleaner")  # Ray's; the last ends by help of the dashboard
IDLE = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", *(f"ray::{name}" for name in OWN))
TOLD = re.compile(r"trials/\d+/error\.(pkl|txt)")  # where Ray Tune says why a trial's worker was replaced
KEY, SECRET, REGION = "tester", "secret", "us-east-1"
S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
SPACE = {
    "method": "dm",
    "set": {
        "steps": 100,
        "threads": 1,
        "checkpoint_every": 20,
        "checkpoint_seconds": 1,
        "evaluate_every": 50,
        "evaluate_epochs": 10,
        "experts": {"network": "MLP"},
    },
    "domains": {"lr.images": {"log_uniform": [0.1, 100]}},
    "search": {"algorithm": "random"},  # its trials are the same with any order of reports
    "budget": {"samples": 2},
}
_RUN = "--network MLP --set threads=1 --set checkpoint_every=10 --set checkpoint_seconds=1 --out OUT --resume"


class Verb(NamedTuple):
    """A command under fire.

    Attributes:
        words: Its command line, but for the address; OUT is its place, and BUFFER and SET are results of others.
        right: Returns what must be the same in every run, of the files in the bucket and the document on stdout.
        needed_by: Another verb, which needs its undisturbed result.
    """

    words: str
    right: Callable[[dict[str, bytes], str], dict[str, Any]]
    needed_by: str = ""


def _files(pattern: str) -> Callable[[dict[str, bytes], str], dict[str, Any]]:
    def right(files: dict[str, bytes], text: str) -> dict[str, Any]:
        return {name: _digest(data) for name, data in files.items() if re.fullmatch(pattern, name)}

    return right


def _run_folder(files: dict[str, bytes], text: str) -> dict[str, Any]:
    """Return the checksums of a run's files, which a list names; its objects have them."""
    listed = json.loads(files["folder.json"])["files"]
    for name, file in listed.items():
        assert hashlib.sha256(files[file["object"]]).hexdigest() == file["sha256"], f"{name} is damaged"
    unlike = re.compile(r".*tfevents.*|memory\.jsonl")  # times, and what the process took
    return {name: file["sha256"][:16] for name, file in sorted(listed.items()) if not unlike.fullmatch(name)}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _trials(files: dict[str, bytes], text: str) -> dict[str, Any]:
    """Return the trials without their times and memory, and the best one's set."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(io.BytesIO(files["results.parquet"])).to_pylist()
    trials = [{key: value for key, value in row.items() if not re.search("seconds|memory|time", key)} for row in rows]
    best = {name: _digest(data) for name, data in files.items() if re.fullmatch(r"best/.*|space\.yaml", name)}
    return {"trials": sorted(trials, key=lambda row: row["trial"]), **best}


def _scores(files: dict[str, bytes], text: str) -> dict[str, Any]:
    scores = json.loads(text)["scores"]
    return {"scores": {f"{score['name']} {score['network']}": score["values"] for score in scores}}


VERBS = {
    "experts": Verb(
        "experts --network MLP --num-experts 4 --epochs 30 --num-workers 2 --out OUT",
        _files(r"expert-.*|manifest\.json|preprocessing\.arrow"),
        needed_by="distill",
    ),
    "set": Verb("distill --method random --network MLP --out OUT", _run_folder, needed_by="evaluate"),
    "distill": Verb(
        "distill --method mtt --buffer BUFFER --set steps=80 --set student_steps=10 --set span=2"
        f" --set window.high=10 {_RUN}",
        _run_folder,
    ),
    "distill --shards": Verb(f"distill --method dm --shards 2 --num-workers 2 --set steps=120 {_RUN}", _run_folder),
    "tune": Verb("tune --space SPACE --seeds 0 --max-concurrent 2 --json --out OUT --resume", _trials),
    "evaluate": Verb(
        "evaluate SET --nets MLP --seeds 6 --baselines none --set epochs=300 --set real_epochs=30 --num-workers 2"
        " --json",
        _scores,
    ),
}


ATTACKED = tuple(verb for verb in VERBS if verb != "set")


class Bucket:
    """The bucket, and the files in it."""

    def __init__(self, url: str) -> None:
        from pyarrow.fs import S3FileSystem

        self._system = S3FileSystem(access_key=KEY, secret_key=SECRET, region=REGION, endpoint_override=url)

    def files(self, place: str) -> dict[str, bytes]:
        """Return every file below a place, by its path there."""
        from pyarrow.fs import FileSelector, FileType

        infos = self._system.get_file_info(FileSelector(f"bucket/{place}", recursive=True, allow_not_found=True))
        names = [info.path for info in infos if info.type == FileType.File]
        return {name.removeprefix(f"bucket/{place}/"): self._read(name) for name in sorted(names)}

    def _read(self, name: str) -> bytes:
        with self._system.open_input_stream(name) as file:
            return bytes(file.read())


@contextmanager
def bucket() -> Iterator[Bucket]:
    """Start an S3 server whose address and keys all processes have in their environment."""
    words = [sys.executable, "-c", S3_SERVER]
    server = subprocess.Popen(words, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    url = f"http://127.0.0.1:{int(server.stdout.readline())}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=30).close()
    os.environ |= {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    os.environ |= {"AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true"}
    try:
        yield Bucket(url)
    finally:
        server.stdin.close()
        server.wait(timeout=60)


@contextmanager
def started() -> Iterator[FakeCluster]:
    """Start the cluster; Ray waits half a minute for a node, which a machine with much other work may not keep."""
    with ExitStack() as stack:
        for left in (3, 2, 1, 0):
            try:
                cluster = stack.enter_context(fake_cluster(NODES, DEATH))
                break
            except AssertionError:
                if not left:
                    raise
        yield cluster


class Nodes:
    """The nodes of the cluster, all but the head: which have work, and which are replaced when."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self._shapes = dict(zip(cluster.raylets(), NODES, strict=True))
        self._due: list[tuple[float, tuple[int, int]]] = []

    def busy(self) -> dict[int, list[int]]:
        """Return the processes with an actor or a task in hand, by the node's process."""
        found: dict[int, list[int]] = {raylet: [] for raylet in self._shapes}
        for pid, parent, title in _processes():
            if parent in found and title.startswith("ray::") and not title.startswith(IDLE):
                found[parent].append(pid)
        return found

    def kill(self, raylet: int, after: float) -> None:
        """Kill a node with all its processes; another one of its shape joins after some seconds."""
        for pid in [raylet, *(pid for pid, parent, _ in _processes() if parent == raylet)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._due.append((time.monotonic() + after, self._shapes.pop(raylet)))

    def join(self, now: bool = False) -> None:
        """Start the nodes that are due, or all that are missing."""
        due = [one for one in self._due if now or one[0] < time.monotonic()]
        for one in due:
            self._due.remove(one)
            self._cluster.add_node(*one[1])
        if due:
            new = [raylet for raylet in self._cluster.raylets() if raylet not in self._shapes]
            self._shapes |= dict(zip(new, (shape for _, shape in due), strict=True))


def _processes() -> Iterator[tuple[int, int, str]]:
    """Yield the identifier, the parent and the title of every process."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError, IndexError):
                parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
                yield int(path.name), parent, (path / "cmdline").read_bytes().decode(errors="replace")


class Trial:
    """One command at a new place, and what is killed meanwhile."""

    def __init__(self, bench: "Bench", verb: str, name: str, kills: int) -> None:
        self._bench, self._verb, self.name, self._left = bench, verb, name, kills
        self._rng = random.Random(f"{bench.seed} {verb} {name}")
        self.folder = bench.scratch / name
        self.folder.mkdir()
        self.killed: list[tuple[str, bool]] = []  # the kind, and whether it had work
        self.runs: Counter[str] = Counter()
        self.files: dict[str, bytes] = {}
        self.started = time.monotonic()
        self.text = ""

    def run(self) -> dict[str, Any]:
        """Run the command until it succeeds; return what must be right."""
        for _ in range(MOST_RUNS):
            code, out, err = self._once()
            (self.folder / f"err-{sum(self.runs.values())}").write_text(err)
            last = (err.strip().splitlines() or ["?"])[-1]
            if code == 0:
                self.files = self._bench.bucket.files(self.name)
                return VERBS[self._verb].right(self.files, out[out.find("{") :])
            killed = code == -signal.SIGKILL
            self.runs["killed" if killed else last[:200]] += 1
            self._say(f"again ({'killed' if killed else last[:300]})")
            assert killed or "killed" in self.runs, f"it failed by itself: {err[-2000:]}"
            time.sleep(1)
            if killed and self._rng.random() < 0.5:  # on another machine
                (self.folder / "cache").mkdir(exist_ok=True)
                (self.folder / "cache").rename(self.folder / f"cache-{len(self.killed)}")
        raise AssertionError(f"it did not succeed in {MOST_RUNS} runs: {dict(self.runs)}")

    def _once(self) -> tuple[int, str, str]:
        words = [self._bench.word(word, self.name) for word in VERBS[self._verb].words.split()]
        driver = self._bench.cluster.start(self.folder, *words, "--address", self._bench.cluster.address)
        with (self.folder / "out").open("w+") as out, (self.folder / "err").open("w+") as err:
            pumps = [_pump(driver.stdout, out), _pump(driver.stderr, err)]
            self._disturb(driver)
            driver.wait()
            for pump in pumps:
                pump.join(timeout=10)
            return driver.returncode, _all(out), _all(err)

    def _disturb(self, driver: "subprocess.Popen[str]") -> None:
        nodes, due = self._bench.nodes, None
        while driver.poll() is None:
            time.sleep(0.3)
            nodes.join()
            if time.monotonic() - self.started > SECONDS:
                driver.kill()
                raise AssertionError(f"it did not end in {SECONDS:.0f} s, the last driver after {self.killed}")
            if due is None and any(nodes.busy().values()):
                due = time.monotonic() + self._rng.uniform(*GAP_SECONDS)
            if self._left and due is not None and time.monotonic() > due and self._kill(driver):
                self._left, due = self._left - 1, None

    def _kill(self, driver: "subprocess.Popen[str]") -> bool:
        """Kill something, if there is something of the chosen kind."""
        nodes, kind = self._bench.nodes, self._rng.choices([*KINDS], [*KINDS.values()])[0]
        busy = nodes.busy()
        workers = [pid for found in busy.values() for pid in found]
        if driver.poll() is not None or (kind == "worker" and not workers) or (kind == "node" and len(busy) < 2):
            return False
        work = bool(workers)
        if kind == "worker":
            pid = self._rng.choice(sorted(workers))
            kind_of = _title(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        elif kind == "node":
            some = [raylet for raylet, found in busy.items() if found] if self._rng.random() < 0.7 else []
            raylet = self._rng.choice(sorted(some or busy))
            work, kind_of = bool(busy[raylet]), f"{len(busy[raylet])} workers"
            nodes.kill(raylet, self._rng.uniform(*JOIN_SECONDS))
        else:
            kind_of = f"{len(workers)} workers"
            driver.kill()
        self.killed.append((kind, work))
        self._say(f"kill {len(self.killed)}: {kind} ({kind_of})")
        return True

    def _say(self, text: str) -> None:
        took = time.monotonic() - self.started
        print(f"{self._verb} {self.name}, {took:.0f} s: {text}", file=sys.stderr, flush=True)


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").strip("\0")[:60]
    return "gone"


def _pump(pipe: Any, file: Any) -> Any:
    import shutil
    import threading

    thread = threading.Thread(target=shutil.copyfileobj, args=(pipe, file), daemon=True)
    thread.start()
    return thread


def _all(file: Any) -> str:
    file.flush()
    file.seek(0)
    return str(file.read())


class Bench:
    """The cluster, the bucket, and what is right."""

    def __init__(self, cluster: FakeCluster, bucket: Bucket, scratch: Path, seed: int, end: float) -> None:
        self.cluster, self.bucket, self.scratch, self.seed, self.end = cluster, bucket, scratch, seed, end
        self.nodes = Nodes(cluster)
        (scratch / "space.yaml").write_text(json.dumps(SPACE))

    def word(self, word: str, name: str) -> str:
        """Return a word of a command line at a place."""
        places = {"OUT": name, "BUFFER": "right-experts", "SET": "right-set"}
        return str(self.scratch / "space.yaml") if word == "SPACE" else _uri(places[word]) if word in places else word

    def right(self, verb: str) -> tuple[dict[str, Any], set[str]]:
        """Run a command undisturbed; return what must be the same in each trial, and which files there must be."""
        trial = Trial(self, verb, f"right-{verb.replace(' ', '-')}", 0)
        found = trial.run()
        assert found, f"nothing to compare in {sorted(trial.files)}"
        trial._say(f"undisturbed: {len(found)} values, {len(trial.files)} files")
        return found, _names(trial.files)

    def try_one(self, verb: str, name: str, kills: int, right: tuple[dict[str, Any], set[str]]) -> tuple[Trial, str]:
        """Run a trial; return it and what is wrong."""
        trial = Trial(self, verb, name, kills)
        try:
            found = trial.run()
            wrong = [key for key in right[0].keys() | found.keys() if right[0].get(key) != found.get(key)]
            assert not wrong, f"other {', '.join(sorted(wrong))}"
            names = _names(trial.files)
            names -= {name for name in names if TOLD.fullmatch(name)}
            assert names == right[1], f"left over {sorted(names - right[1])}, missing {sorted(right[1] - names)}"
            self._check_left()
            fault = ""
        except AssertionError as error:
            fault = str(error)
        self.nodes.join(now=True)
        trial._say(fault or "right")
        return trial, fault

    def _check_left(self) -> None:
        end = time.monotonic() + 60
        while (left := [one for one in self.cluster.left() if not one.startswith(OWN)]) and time.monotonic() < end:
            time.sleep(1)
        assert not left, f"still there: {left}"


def _uri(name: str) -> str:
    return f"s3://bucket/{name}"


def _names(files: dict[str, bytes]) -> set[str]:
    """Return the names of files without what honestly differs: checksums, Tune's times and numbers of checkpoints.

    Of each object a run keeps the last two versions; more are left over.
    """
    names = (re.sub(r"checkpoint_\d+", "checkpoint_N", re.sub(r"-[0-9a-f]{16}\b", "", name)) for name in files)
    counts = Counter(
        re.sub(r"(tfevents|experiment_state|search_gen_state|searcher-state)[-.].*", r"\1", name) for name in names
    )
    return {name if count < 3 or "tfevents" in name else f"{count} times {name}" for name, count in counts.items()}


def attack(bench: Bench, verb: str, kills: int, right: tuple[dict[str, Any], set[str]]) -> Iterator[dict[str, Any]]:
    """Run trials of a verb until there are enough kills; yield what is known after each."""
    start, trials, faults = time.monotonic(), list[Trial](), list[str]()
    while (left := kills - sum(len(trial.killed) for trial in trials)) > 0 and time.monotonic() < bench.end:
        name = f"{verb.replace(' ', '-')}-{len(trials) + 1}"
        number = random.Random(f"{bench.seed} {name}").choice(KILLS)
        trial, fault = bench.try_one(verb, name, min(number, left), right)
        trials.append(trial)
        faults += [f"{name}: {fault}"] if fault else []
        record = _record(trials, faults, right)
        yield record | {"seed": bench.seed, "seconds": round(time.monotonic() - start)}


def _record(trials: list[Trial], faults: list[str], right: tuple[dict[str, Any], set[str]]) -> dict[str, Any]:
    killed = [kill for trial in trials for kill in trial.killed]
    return {
        "trials": len(trials),
        "kills": len(killed),
        "killed": dict(sorted(Counter(kind for kind, _ in killed).items())),
        "at_work": sum(work for _, work in killed),
        "run_again": dict(sorted(sum((trial.runs for trial in trials), Counter[str]()).items())),
        "compared": sorted(right[0]),
        "files": len(right[1]),
        "faults": faults,
        "commit": commit(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="of each verb")
    parser.add_argument("--verbs", default=",".join(ATTACKED), help=f"some of {', '.join(ATTACKED)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no trial starts")
    parser.add_argument("--write", action="store_true", help="write benchmarks/kills.json; other verbs stay in it")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the cluster ends with this process
    found = dict[str, Any]()
    verbs, end = args.verbs.split(","), time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder, bucket() as store, started() as cluster:
        bench = Bench(cluster, store, Path(folder), args.seed, end)
        right = {verb: bench.right(verb) for verb in VERBS if verb in verbs or VERBS[verb].needed_by in verbs}
        for verb in verbs:
            for record in attack(bench, verb, args.kills, right[verb]):
                found[verb] = record
                if args.write:
                    write(found)
    print(json.dumps(found, indent=1))
    sys.exit(any(one["faults"] for one in found.values()))


def write(found: dict[str, Any]) -> None:
    """Write what is known of some verbs; what the file has of others stays, and of an earlier script in `folders`."""
    file = Path(__file__).with_suffix(".json")
    before = json.loads(file.read_text()) if file.exists() else {}
    verbs = before.get("verbs", {}) | found
    kinds = sum((Counter(one["killed"]) for one in verbs.values()), Counter[str]())
    document = before | {
        "command": "python benchmarks/kills.py --kills N --verbs VERB --seed S --write",
        "nodes": [{"cpus": cpus, "gpus": gpus} for cpus, gpus in ((0, 0), *NODES)],
        "versions": {name: version(name) for name in ("ray", "torch", "pyarrow", "optuna")},
        "kills": kinds.total(),
        "killed": dict(sorted(kinds.items())),
        "at_work": sum(one["at_work"] for one in verbs.values()),
        "verbs": dict(sorted(verbs.items())),
    }
    write_atomic(file, json.dumps(document, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
