"""Separate hosts: a Ray head and two workers; one is disconnected in the middle of a stage."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock.artefact import Workspace
from tests.harness import ROOT
from tests.harness.commands import running
from tests.harness.hosts import Host, Network, missing, network
from tests.harness.nodes import HEALTH
from tests.harness.project import Project, digest, make_project

PORT = 6379
MEMORY = 80 * 2**20


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    if why := missing():
        pytest.skip(why)


@pytest.fixture
def cluster() -> Iterator[Network]:
    """Start a head without CPUs, and two workers of one CPU."""
    with network("head", "one", "two") as hosts:
        head, *workers = hosts.hosts.values()
        options = ["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false"]
        ray(head, *options, f"--system-config={json.dumps(HEALTH)}")
        with ThreadPoolExecutor() as pool:
            join = [f"--address={head.address}:{PORT}", "--num-cpus=1"]
            list(pool.map(lambda host: ray(host, *join), workers))
        yield hosts


def ray(host: Host, *options: str) -> None:
    common = [f"--node-ip-address={host.address}", f"--object-store-memory={MEMORY}"]
    host.run(
        [str(Path(sys.executable).with_name("ray")), "start", *common, *options], environment()
    )


def environment() -> Mapping[str, str]:
    """Return an environment in which hosts share no temporary files."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "TMPDIR": "/tmp/ray",
    }


def scoring(project: Project, host: str) -> set[str]:
    """Return the first documents of the batches that a host has begun and not ended."""
    at: set[str] = set()
    for entry in project.diary():
        if entry["host"] == host:
            (at.add if entry["event"] == "begin" else at.discard)(entry["first"])
    return at


def just_begun(project: Project, host: str) -> bool:
    """Return whether a host is at a batch of 0.3 s that it began a moment ago."""
    own = [entry for entry in project.diary() if entry["host"] == host]
    return bool(own) and own[-1]["event"] == "begin" and time.time() - own[-1]["at"] < 0.1


@pytest.mark.parametrize("back", [False, pytest.param(True, marks=pytest.mark.whole)])
def test_a_host_that_is_disconnected_in_the_middle(
    tmp_path: Path, cluster: Network, back: bool
) -> None:
    project = make_project(tmp_path)
    project.keep_a_diary(slow=0.3)
    head = cluster.hosts["head"]
    command = project.start(
        "--runner",
        "ray",
        on=head.command,
        RAY_ADDRESS=f"{head.address}:{PORT}",
        TMPDIR="/tmp/ray",
    )
    with running(command) as run:
        run.until(lambda: len(project.records("columns")) >= 10)
        run.until(lambda: just_begun(project, "two"))
        cluster.cut("two")
        cut = time.time()
        lost = scoring(project, "two")
        assert lost
        assert not list(project.work_directory.glob("columns/*/manifest.json"))
        if back:  # after Ray has given it up
            run.until(lambda: "a worker was lost" in run.stderr)
            cluster.reconnect("two")
        done = run.wait()
    assert done.digest == digest(), done.stderr

    # The host was disconnected, not dead: it continued its batches beside those that took over.
    diary = project.diary()
    after = [entry for entry in diary if entry["host"] == "two" and entry["at"] > cut]
    assert {entry["first"] for entry in after if entry["event"] == "end"} >= lost
    took_over = {
        entry["first"]
        for entry in diary
        if entry["host"] == "one" and entry["event"] == "begin" and entry["at"] > cut
    }
    assert lost <= took_over
    calls = Counter(entry["first"] for entry in diary if entry["event"] == "begin")
    assert project.scored() == len(calls)
    assert {entry["host"] for entry in diary} == {"one", "two"}
    for artefact in Workspace(project.work_directory).artefacts():
        artefact.verify()
    print(f"{calls.total() - len(calls)} items done again, {time.time() - cut:.1f} s after the cut")


def test_hosts_are_hosts() -> None:
    """Hosts have names and temporary files of their own, and are removed at the end."""
    with network("one", "two") as made:
        for host in made.hosts.values():
            host.run(["sh", "-c", f"test $(hostname) = {host.name}; touch /tmp/ray/here"], {})
        made.hosts["one"].run(["sh", "-c", "rm /tmp/ray/here"], {})
        made.hosts["two"].run(["sh", "-c", "rm /tmp/ray/here"], {})
        assert not Path("/tmp/ray/here").exists()
        spaces = [made.switch, *(host.space for host in made.hosts.values())]
        assert all(Path("/run/netns", space).exists() for space in spaces)
    assert not any(Path("/run/netns", space).exists() for space in spaces)
