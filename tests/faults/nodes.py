"""A Ray cluster of several nodes on this machine: ``python -m tests.faults.nodes`` for a process.

Ray tells nodes of one machine apart by their raylets, so killing one is losing a node. A process
of its own, for a process has one Ray at a time. It adds a node for each line it is sent, and tells
the process ids of all workers' raylets in answer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from tests.faults.curating import ROOT

HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 100,
    "health_check_timeout_ms": 400,
    "health_check_failure_threshold": 10,
}
"""A dead node is noticed after 1 s and one that is cut off after 5 s; by default it may take more
than a minute, for each of five questions waits ten seconds for an answer."""


class Nodes:
    """A head without CPUs and worker nodes of one CPU, seen from the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        first = self._hear()
        self.address: str = first["address"]
        self.raylets: list[psutil.Process] = self._known(first)

    def add(self) -> None:
        """One node more."""
        assert self._process.stdin is not None
        print("add", file=self._process.stdin, flush=True)
        self.raylets = self._known(self._hear())

    def kill(self, raylet: psutil.Process) -> set[int]:
        """SIGKILL to a node: its raylet, and its workers, whose process ids it gives."""
        workers = raylet.children(recursive=True)
        for process in (raylet, *workers):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.raylets.remove(raylet)
        return {worker.pid for worker in workers}

    def stop(self, busy: Callable[[psutil.Process], bool]) -> psutil.Process | None:
        """The raylet of a worker that is busy, with the worker stopped there by SIGSTOP."""
        for raylet in self.raylets:
            for worker in raylet.children():
                with suppress(psutil.NoSuchProcess):
                    worker.suspend()
                    if busy(worker):
                        return raylet
                    worker.resume()
        return None

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the cluster did not start"
        told: dict[str, Any] = json.loads(line)
        return told

    def _known(self, told: dict[str, Any]) -> list[psutil.Process]:
        found = (psutil.Process(pid) for pid in told["raylets"] if psutil.pid_exists(pid))
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def ray_nodes(count: int) -> Iterator[Nodes]:
    """A cluster with so many worker nodes, of one CPU each."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.nodes", str(count)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield Nodes(process)
    finally:
        assert process.stdin is not None and process.stdout is not None
        below = psutil.Process(process.pid).children(recursive=True)
        process.stdin.close()
        try:
            process.wait(20)
        finally:
            for child in (psutil.Process(process.pid), *below) if process.poll() is None else below:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.wait()
            process.stdout.close()


def main() -> None:
    """Serve until stdin ends."""
    from ray.cluster_utils import Cluster

    said, sys.stdout = sys.stdout, sys.stderr
    memory = 80 * 2**20
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "object_store_memory": memory,
            "_system_config": HEALTH,
        },
    )
    nodes = []

    def add() -> None:
        nodes.append(cluster.add_node(num_cpus=1, object_store_memory=memory))

    def tell() -> None:
        raylets = [info.process.pid for node in nodes for info in node.all_processes["raylet"]]
        print(json.dumps({"address": cluster.address, "raylets": raylets}), file=said, flush=True)

    for _ in range(int(sys.argv[1])):
        add()
    tell()
    for _ in sys.stdin:
        add()
        tell()
    cluster.shutdown()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
