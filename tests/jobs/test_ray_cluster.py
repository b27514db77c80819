"""ray_cluster.yaml is accepted by Ray 2.60 and overrides all of its dangerous defaults."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "ray_cluster.yaml"
CONSTRAINTS = ROOT / "constraints.txt"

AUTOSCALER = Path(ray.__file__).parent / "autoscaler"
SCHEMA = json.loads((AUTOSCALER / "ray-schema.json").read_text())
DEFAULTS = yaml.safe_load((AUTOSCALER / "aws/defaults.yaml").read_text())
"""Defaults of Ray for missing keys."""

Config = dict[str, Any]


@pytest.fixture
def config() -> Config:
    return dict(yaml.safe_load(CLUSTER.read_text()))


def check(config: Config) -> None:
    """Check the file by Ray's schema, and that no default of Ray's for AWS is used."""
    jsonschema.validate(config, SCHEMA)
    assert set(DEFAULTS) <= set(config), "a key is left to Ray's AWS defaults"
    check_pins(config)
    check_groups(config)
    check_commands(config)
    check_shared_store(config)


def check_pins(full: Config) -> None:
    groups = full["available_node_types"]
    gpu = groups["gpu_worker"]["docker"]["worker_image"]
    assert groups["gpu8_worker"]["docker"]["worker_image"] == gpu
    tag = rf"rayproject/ray:{re.escape(ray.__version__)}-py(\d)(\d+)-"
    pythons = set()
    for image, platform in ((full["docker"]["image"], "cpu"), (gpu, r"cu\d{3}")):
        found = re.fullmatch(tag + platform, image)
        assert found, image
        pythons.add(f"sys.version_info[:2] == ({found[1]}, {found[2]})")
    assert len(pythons) == 1 and pythons.pop() in " ".join(full["setup_commands"])
    named = set(re.findall(r"\b\d+\.\d+\.\d+\b", " ".join(full["setup_commands"])))
    assert named == {ray.__version__}
    for group in full["available_node_types"].values():
        assert group["node_config"]["ImageId"].startswith("ami-"), "Ray would boot Ubuntu 18.04"


def check_groups(full: Config) -> None:
    groups = full["available_node_types"]
    assert set(groups) == {"head", "cpu_worker", "gpu_worker", "gpu8_worker"}
    assert full["head_node_type"] == "head"
    assert groups["head"]["resources"]["CPU"] == 0
    assert groups["head"].get("max_workers", 0) == 0
    spot = {name: "InstanceMarketOptions" in g["node_config"] for name, g in groups.items()}
    assert [name for name, value in spot.items() if value] == ["cpu_worker"]
    for name in groups.keys() - {"head"}:
        assert groups[name]["min_workers"] == 0
        assert 0 < groups[name]["max_workers"] <= full["max_workers"]
    assert 0 < full["idle_timeout_minutes"] <= 30
    for group in groups.values():
        assert group["node_config"]["SecurityGroupIds"], "Ray would open SSH to the Internet"


def check_commands(full: Config) -> None:
    commands = {key: value for key, value in full.items() if key.endswith("_commands")}
    assert len(commands) == 6
    said = " ".join(" ".join(lines) for lines in commands.values())
    for dangerous in ("0.0.0.0", "nightly", "latest", "ray-wheels", "dev0", "anaconda3"):
        assert dangerous not in said
    for starts, flags in (
        ("head_start_ray_commands", ("--head", "--dashboard-host=127.0.0.1", "--num-cpus=0")),
        ("worker_start_ray_commands", ("--address=$RAY_HEAD_IP:6379",)),
    ):
        [start] = [line for line in full[starts] if "ray start" in line]
        assert start.index("ulimit -n 65536") < start.index("ray start")
        for flag in flags:
            assert flag in start.split()
    installs = [line for line in full["setup_commands"] if "pip install" in line]
    assert installs and "penstock-" in installs[-1]
    assert all("--constraint" in line for line in installs)
    assert "--ulimit nofile=65536:65536" in full["docker"]["run_options"]


def check_shared_store(full: Config) -> None:
    mounts = [line for line in full["initialization_commands"] if "mount -t nfs4" in line]
    assert len(mounts) == 1
    assert {"hard", "lookupcache=pos"} <= set(mounts[0].split("-o ")[1].split()[0].split(","))
    place = mounts[0].split()[-1]
    assert f"-v {place}:{place}" in full["docker"]["run_options"]
    for kept_back in (".git", ".venv", "work"):
        assert f"**/{kept_back}" in full["rsync_exclude"]


def test_the_file_is_what_ray_accepts(config: Config) -> None:
    check(config)


def test_the_constraints_pin_the_same_ray() -> None:
    pins = re.findall(r"(?m)^ray(?:\[[^]]*\])?==([^\s;#]+)", CONSTRAINTS.read_text())
    assert pins == [ray.__version__]


def test_the_wheel_that_is_installed_is_the_one_that_is_mounted(config: Config) -> None:
    [(remote, local)] = config["file_mounts"].items()
    assert local == "dist"
    assert f"{remote}/penstock-*.whl" in " ".join(config["setup_commands"])
    assert f"{remote}/constraints.txt" in " ".join(config["setup_commands"])


def _set(*path: Any, to: Any) -> Callable[[Config], None]:
    def corrupt(config: Config) -> None:
        node: Any = config
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = to

    return corrupt


def _drop(*path: Any) -> Callable[[Config], None]:
    def corrupt(config: Config) -> None:
        node: Any = config
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]

    return corrupt


HEAD = "ulimit -n 65536; ray start --head --num-cpus=0 --dashboard-host=127.0.0.1"
NODES = "available_node_types"

CORRUPTED = {
    "another Ray in the image": _set("docker", "image", to="rayproject/ray:2.59.0-py311-cpu"),
    "a moving tag": _set("docker", "image", to="rayproject/ray:latest"),
    "another Python": _set("docker", "image", to="rayproject/ray:2.60.0-py312-cpu"),
    "an aliased GPU tag": _set(
        NODES, "gpu_worker", "docker", "worker_image", to="rayproject/ray:2.60.0-py311-gpu"
    ),
    "no setup commands": _drop("setup_commands"),
    "no head start commands": _drop("head_start_ray_commands"),
    "no worker start commands": _drop("worker_start_ray_commands"),
    "a dashboard for everybody": _set(
        "head_start_ray_commands", to=[HEAD.replace("127.0.0.1", "0.0.0.0")]
    ),
    "a dashboard by default": _set(
        "head_start_ray_commands", to=[HEAD.replace("--dashboard-host=127.0.0.1", "")]
    ),
    "few open files": _set("head_start_ray_commands", to=[HEAD.replace("65536", "1024")]),
    "a head that works": _set(NODES, "head", "resources", to={"CPU": 2}),
    "a head that counts its CPUs": _set(NODES, "head", "resources", to={}),
    "workers that never go": _set(NODES, "gpu_worker", "min_workers", to=1),
    "more workers than allowed": _set(NODES, "cpu_worker", "min_workers", to=11),
    "CPU workers at full price": _drop(NODES, "cpu_worker", "node_config", "InstanceMarketOptions"),
    "Ray's own machine image": _drop(NODES, "gpu_worker", "node_config", "ImageId"),
    "Ray's own security group": _drop(NODES, "head", "node_config", "SecurityGroupIds"),
    "no shared store in the container": _set(
        "docker", "run_options", to=["--ulimit nofile=65536:65536"]
    ),
    "no shared store": _set("initialization_commands", to=[]),
    "no constraints": _set(
        "setup_commands",
        to=["pip install penstock-*.whl", "python 2.60.0 sys.version_info[:2] == (3, 11)"],
    ),
    "an unknown key": _set("max_worker", to=3),
    "an unknown key of a group": _set(NODES, "head", "cpus", to=0),
    "half a CPU": _set(NODES, "head", "resources", to={"CPU": 0.5}),
    "a head type that is not there": _set("head_node_type", to="boss"),
    "no provider": _drop("provider", "type"),
    "a text for a number": _set("max_workers", to="10"),
}


@pytest.mark.parametrize("corrupt", CORRUPTED.values(), ids=CORRUPTED.keys())
def test_a_corrupted_copy_is_refused(config: Config, corrupt: Callable[[Config], None]) -> None:
    corrupt(config)
    with pytest.raises((AssertionError, ValueError, KeyError, jsonschema.ValidationError)):
        check(config)


def test_a_group_without_resources_is_refused_by_ray_itself(config: Config) -> None:
    del config[NODES]["cpu_worker"]["resources"]
    with pytest.raises(jsonschema.ValidationError, match="'resources' is a required property"):
        jsonschema.validate(config, SCHEMA)
