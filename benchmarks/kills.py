"""Random SIGKILLs at experts and at a distillation on a cluster: nothing lost, no wrong bytes.

    python benchmarks/kills.py --kills 30 --write

starts a cluster of a head and two nodes on this machine, and on it `raydd experts`, then `raydd distill --rollouts 4`.
Every few seconds it kills, at random, a worker, a node (its raylet, with all workers on it; another one takes its
place), or the driver, and runs the same command again when the driver is gone. After every kill each finished expert
must have the bytes that a process without Ray gives it, and no finished file may have changed; in the end nothing but
the buffer's own files may be there, and the synthetic set must be that of an undisturbed run in one process, to the
bit. A job that is done before enough kills is started anew in another folder.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from raydd.buffer.arrow_buffer import refresh_manifest, verify
from raydd.buffer.expert_file import expert_path
from raydd.cli import run as command
from raydd.config.schema import ExpertConfig, ExpertsConfig
from raydd.data.synset import SyntheticSet
from raydd.io.files import write_atomic
from raydd.io.provenance import commit
from raydd.io.tensor_file import load_tensors
from raydd.training.expert_worker import ExpertJob, ExpertTrainer, prepare

EXPERTS, EPOCHS, STEPS = 12, 60, 160
KEEPER = """
import json, sys
import ray
from ray.cluster_utils import Cluster

quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3,
         "health_check_timeout_ms": 500}
head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick, "object_store_memory": 10**8}
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = [cluster.add_node(num_cpus=1, object_store_memory=10**8) for _ in range(2)]

def raylet(node):
    return node.all_processes["raylet"][0].process

print(json.dumps([cluster.address, [raylet(node).pid for node in nodes]]), flush=True)
for line in sys.stdin:  # each asks for a node in the place of one that is dead
    for place, node in enumerate(nodes):
        if raylet(node).poll() is not None:
            cluster.remove_node(node, allow_graceful=False)
            nodes[place] = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    print(json.dumps([raylet(node).pid for node in nodes]), flush=True)
cluster.shutdown()
"""


class Keeper:
    """A cluster in a process of its own, whose nodes are replaced on request."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", KEEPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address, self.raylets = json.loads(self._read())

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def mend(self) -> None:
        """Put a new node in the place of each dead one."""
        assert self._process.stdin
        print("mend", file=self._process.stdin, flush=True)
        self.raylets = json.loads(self._read())

    def workers(self) -> list[int]:
        """Processes that have an actor or a task in hand."""
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                try:
                    title = (path / "cmdline").read_bytes()
                    parent = int((path / "status").read_text().split("PPid:")[1].split()[0])
                except (OSError, IndexError):
                    continue
                if parent in self.raylets and title.startswith(b"ray::") and b"IDLE" not in title:
                    found.append(int(path.name))
        return sorted(found)

    def end(self) -> None:
        """Stop the cluster."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=60)


@contextmanager
def cluster() -> Iterator[Keeper]:
    keeper = Keeper()
    try:
        yield keeper
    finally:
        keeper.end()


class Chaos:
    """Runs commands on the cluster and kills what it finds, and counts.

    Attributes:
        killed: How often each kind was killed, by job.
        reruns: How often a command was run again, by job and why.
        compared: Expert files that were compared with those wanted, after each kill anew.
    """

    def __init__(self, keeper: Keeper, seed: int) -> None:
        self.keeper, self._rng = keeper, random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.reruns: Counter[str] = Counter()
        self.compared = 0

    def run(self, job: str, words: list[str], kills: int, check: Callable[[], None], going: Callable[[], bool]) -> None:
        """Run a command to its end, with so many kills on the way, if it lasts that long."""
        done = 0
        while True:
            process = self._start(words)
            while not going() and process.poll() is None:
                time.sleep(0.05)
            while process.poll() is None and done < kills:
                time.sleep(self._rng.uniform(0.2, 2.5))
                kind = self._kill(process)
                if kind:
                    done += 1
                    self.killed[f"{job}: {kind}"] += 1
                    print(f"{job}: kill {done}, {kind}", file=sys.stderr, flush=True)
                    check()
            _, err = process.communicate(timeout=600)
            check()
            if process.returncode == 0:
                return
            reason = "killed" if process.returncode == -signal.SIGKILL else (err.strip().splitlines() or ["?"])[-1]
            self.reruns[f"{job}: {reason[:160]}"] += 1
            print(f"{job}: again ({reason[:300]})", file=sys.stderr, flush=True)
            assert sum(self.reruns.values()) < 20 + 2 * sum(self.killed.values()), "it does not go on by itself"
            self.keeper.mend()

    def _start(self, words: list[str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "raydd", *words, "--address", self.keeper.address, "--num-workers", "2"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def _kill(self, driver: subprocess.Popen[str]) -> str:
        """Kill something; what it was, or nothing where there was nothing of the kind."""
        kind = self._rng.choices(["worker", "node", "driver"], [5, 2, 2])[0]
        if kind == "driver":
            driver.kill()
            driver.wait()
        elif kind == "node":
            os.kill(self._rng.choice(self.keeper.raylets), signal.SIGKILL)
            time.sleep(1)
            self.keeper.mend()
        else:
            workers = self.keeper.workers()
            if not workers:
                return ""
            os.kill(self._rng.choice(workers), signal.SIGKILL)
        return kind


def finished(folder: Path, wanted: dict[str, bytes], seen: dict[str, int]) -> int:
    """Every expert file that is there has the bytes wanted, and none has been written again; how many there are."""
    for path in sorted(folder.glob("expert-*.arrow")):
        assert path.read_bytes() == wanted[path.name], f"{path.name} has wrong bytes"
        assert seen.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns, f"{path.name} again"
    lost = set(seen) - {path.name for path in folder.glob("expert-*.arrow")}
    assert not lost, f"lost: {lost}"
    return len(seen)


def experts(chaos: Chaos, scratch: Path, wanted: dict[str, bytes], kills: int) -> int:
    """Rounds of experts until enough kills; how many rounds."""
    rounds = 0
    while (left := kills - sum(n for kind, n in chaos.killed.items() if kind.startswith("experts"))) > 0:
        folder, seen, rounds = scratch / f"buffer-{rounds}", dict[str, int](), rounds + 1
        words = ["experts", "--network", "MLP", "--num-experts", str(EXPERTS), "--epochs", str(EPOCHS)]

        def check(folder: Path = folder, seen: dict[str, int] = seen) -> None:
            chaos.compared += finished(folder, wanted, seen)

        def going(folder: Path = folder, chaos: Chaos = chaos) -> bool:
            return bool(chaos.keeper.workers())

        chaos.run("experts", [*words, "--out", str(folder)], left, check, going)
        names = {path.name for path in folder.iterdir()}
        assert names == {*wanted, "manifest.json", "preprocessing.arrow"}, f"left over: {names - {*wanted}}"
        assert verify(folder) == []
    return rounds


def distills(chaos: Chaos, scratch: Path, buffer: Path, wanted: SyntheticSet, kills: int) -> int:
    """Rounds of a distillation until enough kills; how many rounds."""
    rounds = 0
    while (left := kills - sum(n for kind, n in chaos.killed.items() if kind.startswith("distill"))) > 0:
        out, rounds = scratch / f"run-{rounds}", rounds + 1
        words = [*distillation(buffer), "--resume"]

        def check(out: Path = out) -> None:
            if (out / "checkpoint" / "state.arrow").exists():
                load_tensors(out / "checkpoint" / "state.arrow")

        def going(out: Path = out) -> bool:
            return (out / "config.yaml").exists() and bool(chaos.keeper.workers())

        chaos.run("distill", [*words, "--out", str(out)], left, check, going)
        found = SyntheticSet.load(out / "synset.arrow")
        assert torch.equal(found.images, wanted.images), "other images"
        assert torch.equal(found.lr, wanted.lr), "another step size"
        lines = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert lines == list(range(1, STEPS + 1)), "steps lost or repeated"
        assert not list(out.rglob("*.tmp")), "temporary files are left"
    return rounds


def distillation(buffer: Path) -> list[str]:
    """The command that distills, without where it is done."""
    settings = {"steps": STEPS, "student_steps": 10, "span": 1, "threads": 1, "checkpoint_every": 10}
    # 50 images a class: gradients too large for a message go through the nodes' object stores.
    words = ["distill", "--buffer", str(buffer), "--rollouts", "4", "--network", "MLP", "--ipc", "50"]
    return words + [f"--set={name}={value}" for name, value in settings.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write benchmarks/kills.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, cluster() as keeper:
        scratch, chaos = Path(folder), Chaos(keeper, args.seed)
        config = ExpertsConfig(experts=ExpertConfig(network="MLP", num_experts=EXPERTS, epochs=EPOCHS))
        job, missing = prepare(ExpertJob(config.data, config.experts, 0, scratch / "here", "cpu"))
        trainer = ExpertTrainer(job)
        for index in missing:
            trainer.train(index)
        refresh_manifest(job.folder)
        wanted = {expert_path(job.folder, index).name: expert_path(job.folder, index).read_bytes() for index in missing}
        alone = [*distillation(job.folder), "--num-workers", "1", "--out", str(scratch / "plain")]
        assert command(alone) == 0
        plain = SyntheticSet.load(scratch / "plain" / "synset.arrow")
        rounds = {
            "experts": experts(chaos, scratch, wanted, args.kills // 2),
            "distill": distills(chaos, scratch, job.folder, plain, args.kills - args.kills // 2),
        }
    document = {
        "command": f"python benchmarks/kills.py --kills {args.kills} --seed {args.seed}",
        "kills": sum(chaos.killed.values()),
        "killed": dict(sorted(chaos.killed.items())),
        "rounds": rounds,
        "run_again": dict(sorted(chaos.reruns.items())),
        "files_compared": chaos.compared,
        "minutes": (time.monotonic() - start) / 60,
        "commit": commit(),
    }
    print(json.dumps(document, indent=1))
    if args.write:
        write_atomic(Path(__file__).with_suffix(".json"), json.dumps(document, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
