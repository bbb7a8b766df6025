"""A local Ray is out of the reach of other users: its ports, its sockets, its files and its token."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from raydd.remote.local import _one_line_errors
from raydd.remote.session import session

pytestmark = pytest.mark.remote
LISTENS = "0A"
"""The state of a port, as /proc writes it."""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same as an IPv6 address, and ::1, as /proc writes them."""
JOIN = """
import logging, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
print("joined as user", ray.get(ray.remote(lambda: __import__("os").getuid()).remote()))
"""


def open_files(pids):
    """The inodes of the sockets that processes hold, by inode the process."""
    found = {}
    for pid in pids:
        try:
            for file in os.listdir(f"/proc/{pid}/fd"):
                if (target := os.readlink(f"/proc/{pid}/fd/{file}")).startswith("socket:["):
                    found[target[8:-1]] = pid
        except OSError:  # it ended
            continue
    return found


def listeners(pids):
    """The hosts, as /proc writes them, and the ports on which processes listen; their UNIX sockets' names beside."""
    held = open_files(pids)
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    found = [words[1].split(":") for words in lines if words[3] == LISTENS and words[9] in held]
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    names = {words[7] for words in unix if len(words) > 7 and words[6] in held}
    return {(host, int(port, 16)) for host, port in found}, names


def private(path):
    """Whether a path lies in a folder that its owner alone can enter."""
    return any(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in Path(path).parents if folder.exists())


def read(path):
    try:
        return path.read_bytes()
    except OSError:  # it ended
        return b""


def own_folder(ray):
    return Path(ray._private.worker._global_node.get_temp_dir_path()).parent


def test_a_listener_beyond_loopback_is_seen():
    """The reader of /proc of these tests, on ports of this process."""
    import socket

    with socket.create_server(("0.0.0.0", 0)) as wide, socket.create_server(("127.0.0.1", 0)) as narrow:
        found, _ = listeners([os.getpid()])
        assert {("00000000", wide.getsockname()[1]), ("0100007F", narrow.getsockname()[1])} <= found
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as one:
        assert ("00000000000000000000000001000000", one.getsockname()[1]) in listeners([os.getpid()])[0]


def test_the_files_of_a_local_ray_are_its_users_alone(ray2):
    folder = own_folder(ray2)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    assert re.fullmatch("[0-9a-f]{64}", (folder / "token").read_text())
    assert list(folder.glob("ray/session_*/sockets/plasma_store"))
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    token = (folder / "token").read_bytes()
    assert not [one for one in Path("/proc").glob("[0-9]*") if token in read(one / "cmdline")], "all users see these"


def test_workers_have_the_niceness_of_the_command(ray2):
    assert ray2.get(ray2.remote(lambda: os.nice(0)).remote()) == os.nice(0)


@pytest.mark.verb
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="unset"),
        pytest.param({"RAY_AUTH_MODE": "disabled"}, id="disabled", marks=pytest.mark.integration),
        pytest.param({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}, id="other", marks=pytest.mark.integration),
    ],
)
def test_who_has_not_the_token_cannot_join(settings, ray2, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(tmp_path), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # so that it looks on loopback
    words = [sys.executable, "-c", JOIN, ray2.get_runtime_context().gcs_address]
    knows = environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(own_folder(ray2) / "token")}
    done = subprocess.run(words, env=knows, capture_output=True, text=True, timeout=120, check=False)
    assert f"joined as user {os.getuid()}" in done.stdout, done.stderr
    with (tmp_path / "told").open("w+") as told:
        process = subprocess.Popen(words, env=environment | settings, stdout=told, stderr=told)
        end = time.monotonic() + 60
        while (
            process.poll() is None
            and time.monotonic() < end
            and "InvalidAuthToken" not in (tmp_path / "told").read_text()
        ):
            time.sleep(0.2)
        time.sleep(2)  # it asks again every second
        process.kill()
        process.wait()
    told = (tmp_path / "told").read_text()
    assert "InvalidAuthToken" in told
    assert "joined" not in told


SPACE = """
method: mtt
set:
  {steps: 20, student_steps: 2, evaluate_epochs: 20, window: {high: 6},
   experts: {network: MLP, num_experts: 2, epochs: 8}}
domains: {lr.images: {log_uniform: [0.1, 100]}, span: {integer: [1, 3]}}
constraints: ["window.high + span <= experts.epochs"]
budget: {samples: 2, reports: 2}
"""
VERBS = """
from raydd.cli import run
run(["experts", "--network", "MLP", "--num-experts", "2", "--epochs", "8", "--out", "buffer"])
print("tune", flush=True)
run(["tune", "--space", "space.yaml", "--buffer", "buffer", "--out", "search", "--seeds", "0"])
print("evaluate", flush=True)
run(["evaluate", "search/best/synset.arrow", "--nets", "MLP", "--seeds", "4", "--baselines", "none",
    "--set", "epochs=60"])
"""


@pytest.fixture(scope="module")
def short():
    """A folder with a path that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def verbs(tmp_path_factory, short, below):
    """What was seen while experts, tune and evaluate ran in turn: of each its ports, UNIX sockets and tokens."""
    folder = tmp_path_factory.mktemp("verbs")
    (folder / "space.yaml").write_text(SPACE)
    environment = os.environ | {"TMPDIR": str(short), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    seen = {name: (set(), set(), set()) for name in ("experts", "tune", "evaluate")}
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen([sys.executable, "-c", VERBS], cwd=folder, env=environment, stdout=out, stderr=err)
        while process.poll() is None:
            lines = (folder / "out").read_text().splitlines()
            now = next((name for name in ("evaluate", "tune") if name in lines), "experts")
            ports, names = listeners([process.pid, *below(process.pid)])
            seen[now][0].update(ports)
            seen[now][1].update((name, private(name)) for name in names)
            seen[now][2].update(short.glob("raydd-????????/token"))
            time.sleep(0.1)
    assert process.returncode == 0, (folder / "err").read_text()[-2000:]
    assert list(short.iterdir()) == [], "all is removed"
    return folder, seen


def test_no_port_of_a_local_ray_is_beyond_loopback(ray2, below):
    ports, names = listeners([os.getpid(), *below(os.getpid())])
    assert len(ports) >= 8, "GCS, raylet, agents, driver and workers listen"
    assert {host for host, _ in ports} <= LOOPBACK
    assert [name for name in names if not private(name)] == []


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["experts", "tune", "evaluate"])
def test_no_port_of_a_verb_is_beyond_loopback(verb, verbs):
    _, seen = verbs
    ports, names, tokens = seen[verb]
    assert len(ports) >= 8, "GCS, raylet, agents, driver and workers listen"
    assert {host for host, _ in ports} <= LOOPBACK
    assert len([name for name, _ in names if "/sockets/" in name]) >= 2, "Ray has UNIX sockets"
    assert [name for name, closed in names if not closed] == []
    assert len(tokens) == 1


@pytest.mark.slow
def test_the_verbs_have_done_their_work(verbs):
    folder, _ = verbs
    assert len(list((folder / "buffer").glob("expert-*"))) == 2
    assert (folder / "search/best/synset.arrow").exists()
    assert "MLP" in (folder / "out").read_text().rpartition("evaluate")[2], (folder / "err").read_text()[-3000:]


SEQUENCE = """
import json, os, subprocess, sys
import ray  # before raydd, as in a program of the user's own
from raydd.remote.session import session
HEAD = '''
import sys
from ray.cluster_utils import Cluster
small = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}
print(Cluster(initialize_head=True, head_node_args=small).address, flush=True)
sys.stdin.read()
'''
clean = {name: value for name, value in os.environ.items() if name not in ("RAY_worker_niceness", "RAY_ADDRESS")}
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
head = subprocess.Popen([sys.executable, "-c", HEAD], env=clean, **pipes)
address = head.stdout.readline().strip()
before = dict(os.environ)
told, notes = [], []
for asked in [address, None, None, address]:
    with session(asked, notes.append):
        nice = ray.get(ray.remote(lambda: __import__("os").nice(0)).remote())
        told.append([asked is not None, ray.get_runtime_context().gcs_address, nice - os.nice(0)])
changed = [name for name in {**before, **os.environ} if before.get(name) != os.environ.get(name)]
print(json.dumps({"address": address, "told": told, "notes": notes, "changed": changed}))
head.stdin.close()
head.wait()
"""


@pytest.mark.slow
def test_local_rays_and_clusters_take_turns_in_one_process(tmp_path):
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "192.0.2.77:6379", "RAY_worker_niceness": "3"}
    settings["PYTHONBREAKPOINT"] = "ray.util.rpdb._driver_set_trace"  # Ray sets it in every driver
    words = [sys.executable, "-c", SEQUENCE]
    done = subprocess.run(
        words, env=os.environ | settings, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    local = [gcs for cluster, gcs, _ in found["told"] if not cluster]
    assert [gcs for cluster, gcs, _ in found["told"] if cluster] == [found["address"]] * 2
    assert all(gcs.startswith("127.0.0.1:") for gcs in local)
    assert len(set(local)) == 2, "each local Ray is a new one"
    assert [nice for cluster, _, nice in found["told"] if not cluster] == [3] * 2
    line = "RAY_ADDRESS is set, but not --address: a local Ray starts (use --address auto to join that cluster)"
    assert found["notes"] == [line] * 2
    assert found["changed"] == []


def test_an_address_beside_an_open_ray_is_compared(ray2, monkeypatch):
    address = ray2.get_runtime_context().gcs_address
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for same in (None, "auto", "local", address, address.replace("127.0.0.1", "localhost")):
        with session(same):
            assert ray2.get_runtime_context().gcs_address == address
    with (
        pytest.raises(ValueError, match=rf"^--address 'ray://{address}': this process is connected to {address}; call"),
        session(f"ray://{address}"),
    ):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    with session():
        assert ray2.get_runtime_context().gcs_address == address
    with (
        pytest.raises(ValueError, match=r"^--address 'auto' with RAY_ADDRESS=10.0.0.2:6379: this process is connected"),
        session("auto"),
    ):
        pass
    with (
        pytest.raises(ValueError, match=rf"^--address '10.0.0.1:6379': this process is connected to {address}; call"),
        session("10.0.0.1:6379"),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "group"), [("starting", False), ("running", False), ("running", True)])
def test_sigterm_ends_a_verb_with_a_line(moment, group, tmp_path, short, below):
    """Sent to the command, or to all processes of its group, as a batch system does."""
    words = ["experts", "--network", "MLP", "--num-experts", "2", "--epochs", "5000", "--out", "buffer"]
    environment = os.environ | {"TMPDIR": str(short), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "err").open("w") as err:
        command = [sys.executable, "-m", "raydd", *words]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=err, start_new_session=True)
        sign = "/gcs_server" if moment == "starting" else "ray::ExpertActor"
        try:
            end = time.monotonic() + 90
            while not any(sign in title for title in below(process.pid).values()):
                assert process.poll() is None, (tmp_path / "err").read_text()
                assert time.monotonic() < end, (tmp_path / "err").read_text()
                time.sleep(0.05)
            ours = below(process.pid)
            os.killpg(process.pid, signal.SIGTERM) if group else process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=60)
        finally:
            process.kill()
    told = (tmp_path / "err").read_text()
    assert "PC: @" not in told
    assert "SIGTERM received" not in told
    if not group or code == 143:  # of a group, the raylet may end first, and Ray's library then ends the command with 1
        assert told.splitlines()[-1].startswith("raydd: ended by SIGTERM; the same command goes on")
        assert list(short.iterdir()) == [], "all is removed"
        assert code == 143
    assert code in (1, 143)
    end = time.monotonic() + 10
    while left := [title for pid, title in ours.items() if alive(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.2)


def alive(pid):
    """Whether a process still runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            Exception(
                "The current node timed out during startup. This could happen because some of the raylet\nfailed"
            ),
            r"^Ray did not start \(The current node timed out .*\); the machine is busy: try again, or set RAY_raylet",
        ),
        (
            ValueError("Attempting to cap object store memory usage at 5 bytes, but the minimum allowed is 78643200"),
            r"^Ray did not start \(Attempting .*\); end other programs: a local Ray needs more free memory$",
        ),
        (
            OSError(28, "No space left on device", "/tmp/a"),
            r"^Ray did not start \(.*\); make room on that disk, or set",
        ),
        (KeyError(), r"^Ray did not start \(KeyError\); run `raydd doctor`$"),
    ],
)
def test_every_failure_to_start_is_one_line(error, line):
    with pytest.raises(RuntimeError, match=line) as caught, _one_line_errors():
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["file", "shared"])
@pytest.mark.slow
def test_a_folder_that_ray_cannot_use_is_refused_before_it_starts(kind, tmp_path):
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("")
    else:
        place.mkdir()
        place.chmod(0o777)
    words = [sys.executable, "-m", "raydd", "experts", "--network", "MLP", "--num-experts", "1", "--epochs", "1"]
    words += ["--out", str(tmp_path / "buffer")]
    environment = os.environ | {"RAY_TMPDIR": str(place)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    reasons = {"file": r"it cannot be written \(Not a directory\)", "shared": "other users can rename what is in"}
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.match(f"raydd: RAY_TMPDIR={place}: {reasons[kind]}.*; set RAY_TMPDIR to another folder", last)


LARGE = """
import sys, time
from pathlib import Path
import numpy as np
import ray
from raydd.remote.local import local_ray
with local_ray(print, 1, 80 * 2**20):
    held = [ray.put(np.zeros(30 * 2**20, np.uint8)) for _ in range(5)]
    end = time.monotonic() + 20
    files = lambda: [path for path in Path(sys.argv[1]).rglob("*") if path.is_file() and path.stat().st_size > 2**20]
    while not (found := files()):
        assert time.monotonic() < end
        time.sleep(0.1)
    print(ray._private.worker._global_node.get_session_dir_path())
    (own,) = Path(sys.argv[1]).iterdir()
    print(oct(own.stat().st_mode & 0o777))
"""


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.slow
def test_a_folder_with_a_long_path_holds_the_large_objects_only(name, tmp_path):
    place = tmp_path / ("long" * 20)
    environment = os.environ | {name: str(place)}
    words = [sys.executable, "-c", LARGE, str(place)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("/tmp/raydd-")
    assert done.stdout.splitlines()[1] == "0o700"
    assert list(place.glob("raydd-*")) == []
