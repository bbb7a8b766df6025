"""`ray up` on the on-premise file, experts and a search across hosts, and a cable that is pulled in mid-run.

Run it as root: ``pytest -m multihost -s``. The hosts are namespaces of this machine (conftest.py); they have addresses,
processes and disks of their own and reach each other by ssh, and by Ray, over a switch.
"""

import json
import re
import time

import pytest
import yaml

from raydd.buffer.verification import verify
from raydd.config.schema import DataConfig, ExpertConfig
from raydd.training.expert_worker import ExpertJob, ExpertTrainer, prepare

pytestmark = pytest.mark.multihost

EXPERTS, EPOCHS = 8, 120
SUBMIT = "ray job submit --address http://127.0.0.1:8265 --"
SPACE = {
    "method": "mtt",
    "set": {
        "steps": 20,
        "student_steps": 4,
        "evaluate_epochs": 20,
        "window": {"high": 6},
        "experts": {"network": "MLP", "num_experts": 2, "epochs": 8},
    },
    "domains": {"lr.images": {"log_uniform": [0.1, 100]}, "span": {"integer": [1, 3]}},
    "constraints": ["window.high + span <= experts.epochs"],
    "budget": {"samples": 4, "reports": 4},
}


def test_a_cluster_of_hosts(cluster, clock, tmp_path):
    hosts = cluster
    the_door_is_locked(hosts)
    clock.say("without the token, and from other hosts, nothing answers")
    a_search_runs_on_both_workers(hosts, clock, tmp_path)
    the_job_ends_although_a_host_is_cut_off(hosts, clock, tmp_path)
    laptop, head, worker, _ = hosts
    laptop.run("ray rsync-down local.yaml /home/raydd/results/ results")
    assert found_bytes(laptop.path("/home/raydd/results/buffer")) == trained_here(tmp_path / "here")
    assert verify(laptop.path("/home/raydd/results/buffer")) == []
    clock.say(f"on the laptop: {EXPERTS} expert files, byte for byte those of one process without Ray")
    laptop.run("ray down -y local.yaml")
    clock.say("ray down has returned")
    clock.wait_for(lambda: not any("raylet" in title for title in head.titles() + worker.titles()), 120)
    clock.say("no Ray is left on the head, nor on the worker that was reachable")


def the_door_is_locked(hosts):
    """The head's port refuses who has no token or another one; its dashboard is not there for other hosts."""
    _, head, worker, _ = hosts
    status = f"ray status --address {head.address}:6379"
    assert "InvalidAuthToken" in worker.run(f"HOME=/tmp RAY_AUTH_MODE=disabled {status}", check=False)
    assert "InvalidAuthToken" in worker.run(f"RAY_AUTH_TOKEN={'0' * 64} {status}", check=False)
    assert "0.0/4.0 CPU" in worker.run(status)
    assert worker.run(f"curl -s -m 5 http://{head.address}:8265/; echo $?", check=False).strip() == "7"  # refused


def a_search_runs_on_both_workers(hosts, clock, tmp_path):
    """Its folder is one that all hosts see, as Ray Tune wants it."""
    laptop, *_, first, second = hosts
    laptop.path("/mnt/space.yaml").write_text(yaml.safe_dump(SPACE))
    words = "raydd tune --address auto --space /mnt/space.yaml --out /mnt/search --buffer /mnt/few --seeds 0 --json"
    experts = "raydd experts --address auto --network MLP --num-experts 2 --epochs 8 --out /mnt/few"
    laptop.run(f"{SUBMIT} {experts}", 120)
    log, busy = tmp_path / "search.log", set()
    with log.open("wb") as out:
        job = laptop.start(f"{SUBMIT} {words}", out)
    while job.poll() is None:
        busy |= {host.name for host in (first, second) if host.workers()}
        time.sleep(0.2)
    text = log.read_text()
    assert job.returncode == 0, text
    assert busy == {"worker1", "worker2"}
    result = json.loads(next(line for line in text.splitlines() if line.startswith('{"')))
    assert result["trials"] == {"complete": 4}
    clock.say("a search of 4 trials is done; both workers ran trials")


def the_job_ends_although_a_host_is_cut_off(hosts, clock, tmp_path):
    """Experts stream to the head's own disk, which no worker sees."""
    laptop, head, first, second = hosts
    words = f"raydd experts --address auto --network MLP --num-experts {EXPERTS} --epochs {EPOCHS}"
    log, out = tmp_path / "experts.log", head.path("/home/raydd/results/buffer")
    with log.open("wb") as file:
        job = laptop.start(f"{SUBMIT} {words} --out /home/raydd/results/buffer", file)
    clock.wait_for(lambda: found_bytes(out), 120, job)
    done = len(found_bytes(out))
    assert any("ExpertActor" in title for title in first.workers())
    assert any("ExpertActor" in title for title in second.workers())
    assert done < EXPERTS - 2, "too late for a cut in mid-run"
    clock.say(f"experts: {done} of {EXPERTS} are done, both workers train")
    second.cut()
    clock.say("the cable of worker2 is pulled")
    _, seconds = clock.wait_for(lambda: b"died" in log.read_bytes() or b"lost" in log.read_bytes(), 180, job)
    clock.say(f"the loss was noticed {seconds:.0f} s after")
    job.wait(timeout=300)
    text = log.read_text()
    assert job.returncode == 0, text
    assert re.search(r"Job '\w+' succeeded", text)
    assert not first.path("/home/raydd/results").exists()
    clock.say("experts: the job has succeeded")
    print("\n".join(line for line in text.splitlines() if re.search("experts|died|lost", line)), flush=True)


def found_bytes(folder):
    """The bytes of every expert file of a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("expert-*.arrow"))} if folder.exists() else {}


def trained_here(folder):
    """The bytes of expert files that are trained in this process, without Ray."""
    recipe = ExpertConfig(network="MLP", num_experts=EXPERTS, epochs=EPOCHS)
    job, missing = prepare(ExpertJob(DataConfig(), recipe, 0, folder, "cpu"))
    trainer = ExpertTrainer(job)
    for index in missing:
        trainer.train(index)
    return found_bytes(folder)


# What Slurm gives a script: the names of its nodes, and srun, which runs a command on one and ends it when it is ended.
SCONTROL = "#!/bin/sh\nprintf '%s\\n' 10.83.0.2 10.83.0.3 10.83.0.4\n"
SRUN = r"""#!/bin/bash
while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && node="${1#*=}"; shift; done
env=(HOME="$HOME" PATH="$PATH" RAY_AUTH_MODE="$RAY_AUTH_MODE" RAY_AUTH_TOKEN_PATH="$RAY_AUTH_TOKEN_PATH")
options=(-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i /mnt/key)
[[ $1 == ray || $1 == bash ]] && options+=(-tt) # what is ended here shall end there
exec ssh "${options[@]}" "root@$node" "$(printf '%q ' env "${env[@]}" "$@")" < /dev/null
"""


def test_the_slurm_script_on_hosts(hosts, clock, tmp_path):
    """With srun by ssh, and a home that all hosts see, as Slurm's nodes have one."""
    laptop, *nodes = hosts
    shared = laptop.path("/mnt")
    for name, text in {
        "scontrol": SCONTROL,
        "srun": SRUN,
        "key": laptop.path("/home/raydd/.ssh/id_ed25519").read_text(),
    }.items():
        (shared / name).write_text(text)
        (shared / name).chmod(0o700)
    (shared / "home").mkdir()
    words = "raydd experts --address auto --network MLP --num-experts 6 --epochs 150 --out /mnt/home/buffer"
    slurm = "HOME=/mnt/home PATH=/mnt:$PATH SLURM_JOB_ID=4711 SLURM_JOB_NODELIST=node[2-4] SLURM_CPUS_PER_TASK=1"
    command = f"env {slurm} bash {nodes[0].repository}/cluster/slurm.sh {words}"
    busy, log = set(), tmp_path / "slurm.log"
    with log.open("wb") as out:
        job = nodes[0].start(command, out)
    while job.poll() is None:
        assert all(path.stat().st_mode & 0o077 == 0 for path in (shared / "home/.ray").glob("*.token"))
        busy |= {host.name for host in nodes if any("ExpertActor" in title for title in host.workers())}
        time.sleep(0.2)
    text = log.read_text()
    assert job.returncode == 0, text
    assert "Ray at 10.83.0.2:24711: 3 nodes" in text
    assert busy == {"head", "worker1", "worker2"}
    assert len(found_bytes(shared / "home/buffer")) == 6
    clock.say("slurm.sh has ended: 6 experts, all 3 nodes trained")
    assert list((shared / "home/.ray").iterdir()) == []
    clock.wait_for(lambda: not any("raylet" in title for host in nodes for title in host.titles()), 60)
    clock.say("no Ray and no token is left")
