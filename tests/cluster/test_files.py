"""The files in cluster/: valid by Ray's own schema and KubeRay's fields, of one version, and closed to the world."""

import copy
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RAY = dict(line.split("==") for line in PROJECT["tool"]["uv"]["constraint-dependencies"])["ray"]
IMAGE = f"raydd:{PROJECT['project']['version']}"
HEAD_IMAGE = f"{IMAGE}-cpu"
LAUNCHED = ("cluster", "gcp", "local")
KUBERNETES = ("kuberay-cluster", "kuberay-job")


def fields(text):
    return set(text.split())


# Of ray.io/v1, from KubeRay 1.6's reference.
SPEC = fields("""
    authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec headServiceAnnotations
    managedBy rayVersion suspend upgradeStrategy workerGroupSpecs
""")
HEAD = fields("enableIngress headService labels rayStartParams resources serviceType template")
GROUP = fields("""
    groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts rayStartParams replicas resources
    scaleStrategy suspend template
""")
JOB = fields("""
    activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus entrypointNumGpus
    entrypointResources jobId managedBy metadata rayClusterSpec runtimeEnvYAML shutdownAfterJobFinishes submissionMode
    submitterConfig submitterPodTemplate suspend ttlSecondsAfterFinished
""")


def read(name):
    """The documents of a file: one for Ray's launcher, several for Kubernetes."""
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def check_open(text):
    """Nothing may be for all the world to reach."""
    assert not re.search(r"0\.0\.0\.0|::/0|LoadBalancer|NodePort|hostNetwork|hostPort", text)


def check_launcher(settings):
    """A file for `ray up`: Ray takes it, its doors are closed, and its head trains nothing."""
    import ray
    from ray.autoscaler._private.util import prepare_config, validate_config

    if settings["provider"]["type"] != "local":  # of which the schema does not know all keys
        schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
        jsonschema.validate(settings, schema)
    prepared = prepare_config(copy.deepcopy(settings))
    validate_config(prepared)
    check_open(yaml.safe_dump(settings))
    head, worker = (" ".join(settings[f"{kind}_start_ray_commands"]) for kind in ("head", "worker"))
    assert re.search(r"ray start --head .*--num-cpus=0 --num-gpus=0", head)
    assert re.findall(r"--dashboard-host=(\S+)", head) == ["127.0.0.1"]
    assert "ray start --address=$RAY_HEAD_IP:6379" in worker
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "~/.ray/auth_token" in settings["file_mounts"].values(), "no token"
    assert all(place.endswith("/.ray/auth_token") for place in settings["file_mounts"])
    said = [*settings.get("docker", {}).get("run_options", []), *settings["setup_commands"]]
    assert any("RAY_AUTH_MODE=token" in line for line in said), "no token"
    if settings["provider"]["type"] == "local":
        assert any(f"grep -F {RAY}" in line for line in settings["setup_commands"])
        assert "RAY_enable_autoscaler_v2=0;" in head, "v2 counts the head as one of the workers, and starts one too few"
    else:
        check_machines(settings)


def check_machines(settings):
    """Machines that a cloud lends: our images, a closed network, an idle head, workers only while there is work."""
    assert "image" not in settings["docker"]
    assert (settings["docker"]["head_image"], settings["docker"]["worker_image"]) == (HEAD_IMAGE, IMAGE)
    assert not settings["docker"].get("disable_shm_size_detection", False), "the object store needs shared memory"
    types = dict(settings["available_node_types"])
    assert types.pop(settings["head_node_type"])["resources"] == {"CPU": 0}
    for kind in settings["available_node_types"].values():
        node = kind["node_config"]
        if settings["provider"]["type"] == "aws":  # without a group of ours Ray makes one that is open for ssh
            assert node["SecurityGroupIds"]
        else:
            assert all(not card["subnetwork"].endswith("/default") for card in node["networkInterfaces"])
    for kind in types.values():
        node = kind["node_config"]
        assert kind["min_workers"] == 0, "an idle cluster pays for its head alone"
        assert 1 <= kind["max_workers"] <= settings["max_workers"]
        assert kind["resources"]["GPU"] >= 1
        assert node.get("IamInstanceProfile") or node.get("serviceAccounts"), "workers cannot use the bucket"
    spot = {name for name, kind in types.items() if re.search("spot", json.dumps(kind["node_config"]), re.IGNORECASE)}
    assert {types[name]["labels"]["ray.io/market-type"] for name in spot} == {"spot"}
    others = types.keys() - spot
    assert others, "no type of node is left while there are no spot machines"
    assert min(types[name]["priority"] for name in spot) > max(types[name]["priority"] for name in others)
    assert len({json.dumps(kind["resources"], sort_keys=True) for kind in types.values()}) == 1, "priority needs a tie"


def check_kubernetes(documents):
    """A file for KubeRay: known fields, our image and version, a token, and a policy that lets nobody else in."""
    main, policy = documents
    check_open(yaml.safe_dump_all(documents))
    assert main["apiVersion"] == "ray.io/v1"
    assert main["metadata"]["name"]
    pods, spec = [], main["spec"]
    if main["kind"] == "RayJob":
        assert set(spec) <= JOB
        assert spec["entrypoint"].startswith("raydd ")
        assert "--address auto" in spec["entrypoint"]
        assert spec["shutdownAfterJobFinishes"] is True
        pods, spec = [spec["submitterPodTemplate"]], spec["rayClusterSpec"]
    else:
        assert main["kind"] == "RayCluster"
    pods += check_groups(spec, loopback=main["kind"] == "RayCluster")
    for pod in pods:
        check_pod(pod)
    check_policy(policy, pods, operator=main["kind"] == "RayJob")


def check_groups(spec, loopback):
    """Head and workers; returns their pods."""
    assert set(spec) <= SPEC
    assert spec["rayVersion"] == RAY
    assert spec["authOptions"] == {"mode": "token"}
    head, groups = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert set(head) <= HEAD
    assert head["serviceType"] == "ClusterIP"
    start = head["rayStartParams"]
    assert all(isinstance(value, str) for value in start.values())
    assert start["num-cpus"] == start["num-gpus"] == "0"
    # A job's operator asks the dashboard, so it is the policy that guards it there.
    assert start.get("dashboard-host", "unset") == ("127.0.0.1" if loopback else "unset")
    names = [group["groupName"] for group in groups]
    assert len(set(names)) == len(names) > 0
    for group in groups:
        assert {"groupName", "maxReplicas", "minReplicas", "template"} <= set(group) <= GROUP
        assert group["minReplicas"] == group["replicas"] == 0, "an idle cluster pays for its head alone"
        assert group["maxReplicas"] >= 1
        assert any("spot" in label for label in group["template"]["spec"]["nodeSelector"]), (
            "the selector selects nothing"
        )
    return [head["template"], *(group["template"] for group in groups)]


def check_pod(pod):
    """One of our containers, with its share of the machine, run by nobody of importance.

    Only what has a GPU has the image with CUDA, Ray's object store (30 % of the memory) fits into the shared memory,
    and what stores results has the service account for it.
    """
    assert set(pod) == {"metadata", "spec"}
    user = pod["spec"]["securityContext"]
    assert user["runAsNonRoot"] is True
    assert user["runAsUser"] == 1000
    (container,) = pod["spec"]["containers"]
    assert container["image"] == (IMAGE if "nvidia.com/gpu" in container["resources"]["limits"] else HEAD_IMAGE)
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert {"cpu", "memory"} <= set(requests) == set(limits)
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
    if volumes:
        (shared,) = volumes.values()
        memory, size = (int(text.removesuffix("Gi")) for text in (limits["memory"], shared["emptyDir"]["sizeLimit"]))
        assert size >= 0.3 * memory
        assert pod["spec"]["serviceAccountName"] == "raydd"
    assert {mount["name"] for mount in container.get("volumeMounts", [])} == set(volumes)


def check_policy(policy, pods, operator):
    """The pods talk among themselves; of others only the operator, to a job's dashboard."""
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert all(chosen.items() <= pod["metadata"]["labels"].items() for pod in pods)
    among, *others = policy["spec"]["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": chosen}}]}
    assert len(others) == operator
    for rule in others:
        assert rule["ports"] == [{"protocol": "TCP", "port": 8265}]
        (source,) = rule["from"]
        assert source["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}


@pytest.mark.rows("name", LAUNCHED)
def test_a_launcher_file_is_valid_and_closed(name):
    (settings,) = read(name)
    check_launcher(settings)
    assert settings["cluster_name"] == "raydd"


@pytest.mark.rows("name", KUBERNETES)
def test_a_kubernetes_file_is_valid_and_closed(name):
    check_kubernetes(read(name))
    assert len(read(name)) == 2


def start_with(words):
    """Change how the head of a launcher's file is started."""

    def change(settings):
        settings["head_start_ray_commands"] = [
            line.replace("--dashboard-host=127.0.0.1", words) for line in settings["head_start_ray_commands"]
        ]

    return change


@pytest.mark.rows("name", LAUNCHED)
@pytest.mark.rows(
    "change",
    [
        start_with("--dashboard-host=0.0.0.0"),
        start_with("--dashboard-host=198.51.100.10"),
        start_with(""),
        lambda settings: settings.update(setup_comands=[]),
        lambda settings: settings.update(file_mounts={}),
        lambda settings: settings.update(setup_commands=[], docker={}),
        lambda settings: settings["head_start_ray_commands"].pop(),
    ],
    ids=["open", "address", "unsaid", "typo", "token", "mode", "start"],
)
def test_a_launcher_file_with_a_fault_is_refused(name, change):
    (settings,) = read(name)
    change(settings)
    with pytest.raises((AssertionError, jsonschema.ValidationError)):
        check_launcher(settings)


@pytest.mark.rows("name", ["cluster", "gcp"])
@pytest.mark.rows(
    "change",
    [
        lambda types, provider: types["gpu-spot"].update(min_workres=1),
        lambda types, provider: types["gpu-spot"].update(min_workers=1),
        lambda types, provider: types["gpu-spot"].update(max_workers=9),
        lambda types, provider: types["gpu-spot"].update(priority=0),
        lambda types, provider: types.pop("gpu-on-demand"),
        lambda types, provider: (
            types["gpu-spot"]["node_config"].pop("IamInstanceProfile", None)
            or types["gpu-spot"]["node_config"].pop("serviceAccounts")
        ),
        lambda types, provider: types["head"].update(resources={"CPU": 4}),
        lambda types, provider: (
            types["head"]["node_config"].pop("SecurityGroupIds", None)
            or types["head"]["node_config"].pop("networkInterfaces")
        ),
        lambda types, provider: provider.update(security_group={"IpPermissions": [{"CidrIp": "0.0.0.0/0"}]}),
    ],
    ids=["typo", "idle", "limits", "priority", "fallback", "bucket", "head", "group", "world"],
)
def test_a_cloud_file_with_a_fault_is_refused(name, change):
    (settings,) = read(name)
    change(settings["available_node_types"], settings["provider"])
    with pytest.raises((AssertionError, KeyError, ValueError, jsonschema.ValidationError)):
        check_launcher(settings)


def cluster_of(documents):
    spec = documents[0]["spec"]
    return spec.get("rayClusterSpec", spec)


def first_container(documents):
    return cluster_of(documents)["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]


@pytest.mark.rows("name", KUBERNETES)
@pytest.mark.rows(
    "change",
    [
        lambda all_: cluster_of(all_)["headGroupSpec"]["rayStartParams"].update({"dashboard-host": "0.0.0.0"}),
        lambda all_: cluster_of(all_)["headGroupSpec"].update(serviceType="LoadBalancer"),
        lambda all_: cluster_of(all_).update(authOptions={"mode": "disabled"}),
        lambda all_: cluster_of(all_).pop("authOptions"),
        lambda all_: cluster_of(all_).update(workerGroupSpec=[]),
        lambda all_: cluster_of(all_).update(rayVersion="2.59.0"),
        lambda all_: cluster_of(all_)["workerGroupSpecs"][0].update(maxReplicas=0),
        lambda all_: cluster_of(all_)["workerGroupSpecs"].append(cluster_of(all_)["workerGroupSpecs"][0]),
        lambda all_: first_container(all_).update(image="raydd:latest"),
        lambda all_: first_container(all_).pop("resources"),
        lambda all_: cluster_of(all_)["workerGroupSpecs"][0].update(minReplicas=1, replicas=1),
        lambda all_: cluster_of(all_)["workerGroupSpecs"][0]["template"]["spec"].update(nodeSelector={}),
        lambda all_: cluster_of(all_)["workerGroupSpecs"][0]["template"]["spec"].pop("serviceAccountName"),
        lambda all_: all_[1]["spec"]["ingress"].append({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}),
        lambda all_: all_.pop(),
    ],
    ids=[
        "open",
        "service",
        "disabled",
        "token",
        "typo",
        "version",
        "limits",
        "names",
        "image",
        "resources",
        "idle",
        "selector",
        "account",
        "policy",
        "unguarded",
    ],
)
def test_a_kubernetes_file_with_a_fault_is_refused(name, change):
    documents = copy.deepcopy(read(name))
    change(documents)
    with pytest.raises((AssertionError, KeyError, ValueError)):
        check_kubernetes(documents)


def test_a_local_file_without_its_own_autoscaler_is_refused():
    (settings,) = read("local")
    settings["head_start_ray_commands"][1] = settings["head_start_ray_commands"][1].replace("v2=0", "v2=1")
    with pytest.raises(AssertionError, match="one too few"):
        check_launcher(settings)


def test_aws_has_two_names():
    assert (FOLDER / "aws.yaml").read_text() == (FOLDER / "cluster.yaml").read_text()


def test_the_image_is_of_the_pinned_ray_and_its_sources_are_here():
    text = (FOLDER / "Dockerfile").read_text()
    python = PROJECT["tool"]["mypy"]["python_version"].replace(".", "")
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == [f"rayproject/ray:{RAY}-py{python}-${{DEVICE}}"]
    assert "ARG DEVICE=gpu\n" in text
    assert f"--tag {IMAGE} " in text
    assert f"--tag {HEAD_IMAGE} --build-arg DEVICE=cpu " in text
    assert "ENV RAY_AUTH_MODE=token" in text
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "1000"
    copied = [line.split()[2:-1] for line in text.splitlines() if line.startswith("COPY")]
    sources = [name for names in copied for name in names]
    assert set(sources) >= {"pyproject.toml", "raydd", "tune_spaces"}
    assert all((ROOT / name).exists() for name in sources)
    forced = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert set(forced) <= set(sources), "the wheel is built in the image, and needs these"


def check_script(text):
    """The Slurm script: a token that only its owner can read, a dashboard for the first node alone."""
    check_open(text)
    assert "umask 077" in text
    assert "export RAY_AUTH_MODE=token" in text
    assert re.findall(r"--dashboard-host=(\S+)", text) == ["127.0.0.1"]
    assert re.findall(r"--temp-dir=([^\s\"]+)", text) == ["$files/ray"]
    assert "--num-gpus=$gpus" in text
    assert re.search(r"^#SBATCH --requeue$.*^#SBATCH --signal=B:USR1@\d+$.*^trap requeue USR1$", text, re.M | re.S)
    assert text.count("mkdir -m 700 $files && ") == 2, "Ray lets everybody write in the folders that it makes"


def test_the_slurm_script_is_sound_and_closed(tmp_path):
    script = FOLDER / "slurm.sh"
    check_script(script.read_text())
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    done = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: sbatch slurm.sh raydd VERB --address auto ...\n")
    with pytest.raises(AssertionError):
        check_script(script.read_text().replace("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"))
    with pytest.raises(AssertionError):
        check_script(script.read_text().replace("mkdir -m 700", "mkdir"))
    (tmp_path / "broken.sh").write_text(script.read_text().replace("\ndone\n", "\n", 1))
    done = subprocess.run(["bash", "-n", tmp_path / "broken.sh"], capture_output=True, check=False)
    assert done.returncode != 0


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", FOLDER / "slurm.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_all_of_it_is_in_the_source_distribution():
    assert "/cluster" in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    named = {f"{name}.yaml" for name in (*LAUNCHED, *KUBERNETES)} | {"README.md", "Dockerfile", "aws.yaml", "slurm.sh"}
    assert {path.name for path in FOLDER.iterdir()} == named
