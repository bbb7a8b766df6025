"""Hosts of their own on this machine: namespaces with a network, processes and disks that they share with nobody."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HOME = Path("/home/raydd")
NEEDED = ("ip", "nsenter", "rsync", "setpriv", "ssh", "ssh-keygen", "sshd", "unshare")

# What a host does first, as process 1 of its own: a network card, this machine's disk read-only and small disks of its
# own where something is written, and sshd. Arguments: name, last byte of the address, Python's environment, a folder
# with keys and with what all hosts see as /mnt, the repository (seen even where a small disk would hide it).
BOOT = r"""
set -e
hostname "$1"
bench="$4"
mount -t tmpfs -o mode=755 run /run
mkdir /run/repository
mount --bind "$5" /run/repository
mount -t tmpfs -o mode=755 home /home
mkdir -p /home/raydd/.ssh /home/raydd/raydd/.venv
chmod 700 /home/raydd/.ssh
cp "$bench/keys/authorized_keys" /home/raydd/.ssh/
[ "$1" = laptop ] && cp "$bench/keys/id_ed25519" /home/raydd/.ssh/
cp /etc/skel/.bashrc /home/raydd/
mount --bind "$3" /home/raydd/raydd/.venv
mount --bind "$bench/shared" /mnt
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=1777 tmp /var/tmp
mount -t tmpfs -o mode=1777 shm /dev/shm
[ -e "$5" ] || { mkdir -p "$5"; mount --bind /run/repository "$5"; mount -o remount,bind,ro "$5"; }
sed 's#^root:.*#root:x:0:0:root:/home/raydd:/bin/bash#' /etc/passwd > /run/passwd
printf '127.0.0.1 localhost\n10.83.0.%s %s\n' "$2" "$1" > /run/hosts
mount --bind /run/passwd /etc/passwd
mount --bind /run/hosts /etc/hosts
mount -o remount,bind,ro /home/raydd/raydd/.venv
mount -o remount,bind,ro /
mkdir -p /run/sshd
ssh-keygen -q -t ed25519 -N '' -f /run/host_key
ip link set lo up
until ip link show eth0 > /dev/null 2>&1; do sleep 0.05; done
ip address add "10.83.0.$2/24" dev eth0
ip link set eth0 up
ip route add default via 10.83.0.254
cat > /run/sshd_config << END
ListenAddress 10.83.0.$2
HostKey /run/host_key
PidFile /run/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
END
exec env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin /usr/sbin/sshd -D -e -f /run/sshd_config
"""


def start(words, **options):
    """A process that ends, with all it holds, when this one does."""
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *words], stdin=subprocess.DEVNULL, **options)


def child(process, seconds=10.0):
    """The first process in the namespaces that ``unshare --fork`` made."""
    children, end = Path(f"/proc/{process.pid}/task/{process.pid}/children"), time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if found := children.read_text().split():
            name = Path(f"/proc/{found[0]}/comm").read_text().strip()
            if name not in ("setpriv", "unshare"):
                return int(found[0])
        time.sleep(0.02)
    raise AssertionError(f"{process.args}: did not start")


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Host:
    """One host: its processes see no others', its network card hangs on the switch, its disk is its own."""

    def __init__(self, name, number, bench, switch):
        self.name, self.address, self.repository = name, f"10.83.0.{number}", ROOT
        self._switch, self._port = switch, f"port{number}"
        self._started = []
        words = ["unshare", "--net", "--mount", "--pid", "--fork", "--uts", "--ipc", "--mount-proc", "--kill-child"]
        words += ["bash", "-c", BOOT, "boot", name, str(number), sys.prefix, str(bench), str(ROOT)]
        with (bench / f"{name}.log").open("wb") as log:
            self.process = start(words, stdout=log, stderr=log)
        self.pid = child(self.process)
        self._switch.run(f"ip link add {self._port} type veth peer name eth0 netns {self.pid}")
        self._switch.run(f"ip link set {self._port} master bridge up")

    def cut(self):
        """Pull the network cable."""
        self._switch.run(f"ip link set {self._port} down")

    def mend(self):
        """Plug the network cable in again."""
        self._switch.run(f"ip link set {self._port} up")

    def end(self):
        """Switch it off: with its process 1 all others of the host end."""
        kill(self.pid)
        for process in (self.process, *self._started):
            process.wait(timeout=20)

    def path(self, place):
        """A file of the host's disk, as this process sees it."""
        return Path(f"/proc/{self.pid}/root{place}")

    def titles(self):
        """The titles of the host's processes."""
        found = []
        for entry in self.path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return found

    def workers(self):
        """Titles of the host's Ray workers that have work."""
        others = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
        return [title for title in self.titles() if title.startswith("ray::") and not title.startswith(others)]

    def words(self, command):
        """What runs a shell command at the host's keyboard."""
        env = [f"HOME={HOME}", f"PATH={HOME}/raydd/.venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]
        env += ["USER=root", "TERM=dumb", "LC_ALL=C.UTF-8", "RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0"]
        inside = ["nsenter", "--target", str(self.pid), "--all", "env", "-i", *env]
        return [*inside, "bash", "-c", f"cd; {command}"]

    def start(self, command, log):
        """Start a shell command, its output going to an open file."""
        self._started.append(start(self.words(command), stdout=log, stderr=subprocess.STDOUT))
        return self._started[-1]

    def run(self, command, seconds=120, check=True):
        """Run a shell command; returns what it prints."""
        done = subprocess.run(
            self.words(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
        if check:
            assert done.returncode == 0, f"{self.name}: {command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


class Switch:
    """A bridge in a network of its own, so that this machine's network is left as it is."""

    def __init__(self):
        self.process = start(
            ["unshare", "--net", "--fork", "--kill-child", "sleep", "infinity"], stderr=subprocess.DEVNULL
        )
        self.pid = child(self.process)
        self.run("ip link add bridge type bridge")
        self.run("ip link set bridge up")

    def end(self):
        kill(self.pid)
        self.process.wait(timeout=20)

    def run(self, command):
        subprocess.run(["nsenter", "--target", str(self.pid), "--net", *command.split()], check=True)


def why_not():
    """Why hosts cannot be made here; empty when they can."""
    if missing := [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]:
        return f"{', '.join(missing)} not found (Debian: apt-get install openssh-server rsync iproute2 util-linux)"
    if os.geteuid() != 0:
        return "only root can make hosts of namespaces"
    done = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return done.stderr.decode().strip() if done.returncode else ""


@pytest.fixture
def hosts(tmp_path):
    """A laptop, a head and two workers on one switch. They end with the test, whatever becomes of it."""
    if reason := why_not():
        pytest.skip(reason)
    bench = tmp_path / "bench"
    (bench / "keys").mkdir(parents=True)
    (bench / "shared").mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", bench / "keys/id_ed25519"], check=True)
    (bench / "keys/id_ed25519.pub").rename(bench / "keys/authorized_keys")
    switch, made = Switch(), []
    try:
        for number, name in enumerate(("laptop", "head", "worker1", "worker2"), 1):
            made.append(Host(name, number, bench, switch))
        yield made
    finally:
        for one in [*made, switch]:
            one.end()


class Clock:
    """Says when what was seen, for docs/cluster.md."""

    def __init__(self):
        self.start = time.monotonic()

    def say(self, text):
        print(f"{time.monotonic() - self.start:6.1f} s  {text}", flush=True)

    def wait_for(self, what, seconds, process=None):
        """Wait until ``what()`` is true; return it, and the seconds it took."""
        start = time.monotonic()
        while not (found := what()):
            assert time.monotonic() - start < seconds, f"not seen in {seconds} s"
            assert process is None or process.poll() is None, "it ended before"
            time.sleep(0.2)
        return found, time.monotonic() - start


@pytest.fixture
def clock():
    """The time since the test began."""
    return Clock()


@pytest.fixture
def cluster(hosts, clock, tmp_path):
    """The hosts, with a token, `ray up` done and a tunnel to the dashboard."""
    laptop, head, *rest = hosts
    settings = yaml.safe_load(laptop.path(laptop.repository / "cluster/local.yaml").read_text())
    settings["provider"] |= {"head_ip": head.address, "worker_ips": [host.address for host in rest]}
    settings["auth"]["ssh_user"] = "root"
    laptop.path("/home/raydd/local.yaml").write_text(yaml.safe_dump(settings))
    laptop.run("ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token")
    laptop.run("ray up -y local.yaml", 180)
    clock.say("ray up has returned")
    status, _ = clock.wait_for(
        lambda: "/4.0 CPU" in (said := laptop.run("ray exec local.yaml 'ray status'")) and said, 90
    )
    clock.say("both workers have joined: " + re.search(r"[\d.]+/4\.0 CPU", status)[0])
    with (tmp_path / "tunnel.log").open("wb") as log:
        tunnel = laptop.start("ray dashboard local.yaml", log)
    ask = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8265/api/jobs/"
    clock.wait_for(lambda: laptop.run(ask, check=False) == "401", 30, tunnel)
    clock.say("the dashboard answers through the tunnel, and refuses who has no token")
    return hosts
