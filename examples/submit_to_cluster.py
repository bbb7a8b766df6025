"""A raydd command as a job on a Ray cluster: submitted, watched, and the end of what it printed.

The job runs on the cluster's head and goes on if this script is stopped. docs/cluster.md starts clusters and brings the
dashboard of one, which takes jobs, here. Without an address a Ray is started for the job. About a minute on two cores:

    python examples/submit_to_cluster.py [--smoke] [--address http://localhost:8265] [--out /on/the/cluster]
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.cluster_utils import Cluster  # noqa: TID251 - starts a cluster where there is none
from ray.job_submission import JobStatus, JobSubmissionClient  # noqa: TID251 - raydd's own commands run in the job


@contextmanager
def dashboard(address: str | None) -> Iterator[str]:
    """The address that takes jobs: the given one, or that of a Ray which ends with the block."""
    if address:
        yield address
        return
    own = {"num_cpus": 2, "include_dashboard": True, "dashboard_agent_listen_port": None}  # any free port
    cluster = Cluster(initialize_head=True, head_node_args=own)
    try:
        yield f"http://{cluster.webui_url}"
    finally:
        cluster.shutdown()


def submitted(client: JobSubmissionClient, command: list[str], seconds: float = 60) -> str:
    """The number of the job of a command; a cluster that has only just started does not take any yet."""
    end = time.monotonic() + seconds
    while True:
        try:
            return client.submit_job(entrypoint=shlex.join(command))
        except RuntimeError:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def main(out: str = "runs/example-job", smoke: bool = False, address: str | None = None) -> None:
    """Train experts on the cluster; the same call again trains only what is missing."""
    raydd = ["raydd"] if address else [sys.executable, "-m", "raydd"]
    size = ["--num-experts", "2", "--epochs", "2"] if smoke else ["--num-experts", "8", "--epochs", "30"]
    command = [*raydd, "experts", "--address", "auto", "--network", "MLP", *size]
    command += ["--out", out if address else str(Path(out).absolute())]  # the job runs in a folder of Ray's
    with dashboard(address) as place:
        client, status = JobSubmissionClient(place), None
        job = submitted(client, command)
        print(f"{job} at {place}: {shlex.join(command)}", flush=True)
        while status is None or not status.is_terminal():
            time.sleep(1)
            status, lines = client.get_job_status(job), client.get_job_logs(job).splitlines()
            print(f"{status.lower()}: {lines[-1] if lines else 'nothing printed yet'}", flush=True)
        print(f"{job} has {status.lower()}; its last lines:", *lines[-5:], sep="\n")
    assert status == JobStatus.SUCCEEDED, status


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--address")
    parser.add_argument("--out", default="runs/example-job")
    main(**vars(parser.parse_args()))
