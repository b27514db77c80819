"""The files of deploy/: what Ray's schema takes, what KubeRay's fields are, and that none is open.

KubeRay's CRD is in no package that the tests install, so that the manifest is compared with a list
of the fields of ``ray.io/v1`` that it may use, and with what their documentation says of them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"

AUTOSCALER = Path(ray.__file__).parent / "autoscaler"

RAYJOB = {
    "spec": {
        "entrypoint": str,
        "entrypointNumCpus": int,
        "submissionMode": str,
        "runtimeEnvYAML": str,
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": dict,
    },
    "cluster": {
        "rayVersion": str,
        "authOptions": dict,
        "enableInTreeAutoscaling": bool,
        "autoscalerOptions": dict,
        "headGroupSpec": dict,
        "workerGroupSpecs": list,
    },
    "head": {"serviceType": str, "rayStartParams": dict, "template": dict},
    "worker": {
        "groupName": str,
        "replicas": int,
        "minReplicas": int,
        "maxReplicas": int,
        "rayStartParams": dict,
        "template": dict,
    },
}
"""Fields of KubeRay's API that the manifest may use, and their types."""


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / name).read_text()))


def check_fields(value: dict[str, Any], name: str) -> None:
    known = RAYJOB[name]
    assert set(value) <= set(known), f"{name}: {set(value) - set(known)}"
    assert {key for key, own in value.items() if type(own) is not known[key]} == set()


def test_the_cluster_of_aws_and_s3_is_what_ray_accepts() -> None:
    config = read("aws_s3.yaml")
    jsonschema.validate(config, json.loads((AUTOSCALER / "ray-schema.json").read_text()))
    defaults = yaml.safe_load((AUTOSCALER / "aws/defaults.yaml").read_text())
    assert set(defaults) <= set(config), "a key is left to Ray's AWS defaults"
    groups = config["available_node_types"]
    assert groups["head"]["resources"]["CPU"] == 0
    for group in groups.values():
        assert {"ImageId", "SecurityGroupIds", "IamInstanceProfile"} <= set(group["node_config"])
        assert group["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert group.get("max_workers", 0) <= config["max_workers"]
    starts = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in starts and "0.0.0.0" not in starts
    assert f"'{ray.__version__}'" in " ".join(config["setup_commands"])
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


def test_the_manifest_for_kuberay_has_known_fields_of_the_right_types() -> None:
    job = read("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    check_fields(spec, "spec")
    cluster = spec["rayClusterSpec"]
    check_fields(cluster, "cluster")
    check_fields(cluster["headGroupSpec"], "head")
    for group in cluster["workerGroupSpecs"]:
        check_fields(group, "worker")
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"]["mode"] == "token"
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["PYTHONUTF8"] == "1"
    assert spec["shutdownAfterJobFinishes"] and spec["backoffLimit"] >= 1
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["entrypointNumCpus"] == 0


def test_pods_are_confined_and_see_one_store() -> None:
    cluster = read("rayjob.yaml")["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        parameters = group["rayStartParams"]
        assert all(isinstance(value, str) for value in parameters.values()), "a map of texts"
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"] for volume in pod["volumes"]}
        [container] = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert set(mounts) == volumes
        assert mounts["store"] == "/mnt/penstock"
    assert len({group["template"]["spec"]["containers"][0]["image"] for group in groups}) == 1


def test_the_image_is_slim_pinned_and_not_roots() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    code = "\n".join(line for line in lines if not line.startswith("#"))
    assert [line for line in lines if line.startswith("FROM")][-1].split()[1].endswith("-bookworm")
    assert "-slim-" in [line for line in lines if line.startswith("FROM")][-1]
    user = [line.split()[1] for line in lines if line.startswith("USER")]
    assert user == ["1000"]
    installs = re.findall(r"pip install (\S+ \S+)", code)
    assert installs == ["--constraint constraints.txt"] * 2
    assert "latest" not in code and "ADD " not in code
    sent = (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n")
    copied = re.findall(r"(?m)^COPY (?!--)(.+) \S+$", code)
    names = {name for line in copied for name in line.split()}
    assert {f"!{name}" for name in names} <= set(sent)
    assert all((ROOT / name).exists() for name in names)
    [python] = re.findall(r"(?m)^ARG PYTHON=(.+)$", code)
    assert f"== ({python.replace('.', ', ')})" in (DEPLOY / "aws_s3.yaml").read_text()


SLURM = DEPLOY / "slurm.sh"


def test_the_script_for_slurm_is_a_script() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    if checker := shutil.which("shellcheck"):
        subprocess.run([checker, str(SLURM)], check=True)


@pytest.mark.parametrize(("began", "status", "ends"), [(True, 0, 0), (True, 2, 2), (False, 0, 1)])
def test_the_script_for_slurm_starts_ray_with_a_token_of_its_own(
    tmp_path: Path, began: bool, status: int, ends: int
) -> None:
    """Slurm's programs and ``ray`` write down what they are called with; no Ray is started."""
    touched = 'while [[ "$1" != -- ]]; do shift; done; touch "$5";' if began else ""
    fakes = {
        "scontrol": "echo node-7; echo node-8",
        "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "hostname": "echo 10.0.0.7 172.16.0.1",
        "ray": f'printf "%s\\n" "$RAY_ADDRESS" "$(cat "$RAY_AUTH_TOKEN_PATH")" '
        f'"$(stat -c %a "$RAY_AUTH_TOKEN_PATH")" "$@" > called; {touched} exit {status}',
    }
    (tmp_path / "bin").mkdir()
    for name, code in fakes.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin/python").symlink_to(sys.executable)
    done = subprocess.run(
        ["bash", str(SLURM), "curate", "a recipe.yaml", "--json"],
        cwd=tmp_path,
        env={
            "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "node-[7-8]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "16",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ends, done.stderr
    address, token, mode, *arguments = (tmp_path / "called").read_text().splitlines()
    assert address == "10.0.0.7:24711"
    assert re.fullmatch("[0-9a-f]{64}", token) and mode == "600"
    assert token not in " ".join(arguments) + done.stdout + done.stderr
    own, command = " ".join(arguments).split(" -- ")
    assert own.startswith("symmetric-run --address 10.0.0.7:24711 --min-nodes 2 --num-cpus=16")
    command = command.partition(".began ")[2]
    assert command == "python -m penstock curate a recipe.yaml --json --runner ray"
    assert list((tmp_path / ".penstock-slurm").iterdir()) == [], "the token outlives the job"
