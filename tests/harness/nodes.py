"""A Ray cluster of several nodes on one machine, in a process ``python -m tests.harness.nodes``.

Ray distinguishes nodes of one machine by their raylets, so killing a raylet is losing a node. The
cluster has a process of its own, because a process has one Ray at a time. It adds a node for each
line on stdin, and answers with the process ids of all workers' raylets.
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

from tests.harness import ROOT

HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 100,
    "health_check_timeout_ms": 400,
    "health_check_failure_threshold": 10,
}
"""Ray notices a dead node after 1 s and one that is cut off after 5 s; with its defaults it can
take more than a minute, because each of five health checks waits ten seconds."""


class Nodes:
    """A head without CPUs and worker nodes of one CPU each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        first = self._receive()
        self.address: str = first["address"]
        self.raylets: list[psutil.Process] = self._known(first)

    def add(self) -> None:
        """Add a node."""
        assert self._process.stdin is not None
        print("add", file=self._process.stdin, flush=True)
        self.raylets = self._known(self._receive())

    def kill(self, raylet: psutil.Process) -> set[int]:
        """Send SIGKILL to a raylet and its workers; return the workers' process ids."""
        workers = raylet.children(recursive=True)
        for process in (raylet, *workers):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.raylets.remove(raylet)
        return {worker.pid for worker in workers}

    def stop(self, busy: Callable[[psutil.Process], bool]) -> psutil.Process | None:
        """Return the raylet of a busy worker, which SIGSTOP holds there; None if all are idle."""
        for raylet in self.raylets:
            for worker in raylet.children():
                with suppress(psutil.NoSuchProcess):
                    worker.suspend()
                    if busy(worker):
                        return raylet
                    worker.resume()
        return None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the cluster did not start"
        state: dict[str, Any] = json.loads(line)
        return state

    def _known(self, state: dict[str, Any]) -> list[psutil.Process]:
        found = (psutil.Process(pid) for pid in state["raylets"] if psutil.pid_exists(pid))
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def ray_nodes(count: int) -> Iterator[Nodes]:
    """Start a cluster of ``count`` worker nodes, of one CPU each."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.nodes", str(count)],
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

    answers, sys.stdout = sys.stdout, sys.stderr
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

    def answer() -> None:
        raylets = [info.process.pid for node in nodes for info in node.all_processes["raylet"]]
        print(
            json.dumps({"address": cluster.address, "raylets": raylets}), file=answers, flush=True
        )

    for _ in range(int(sys.argv[1])):
        add()
    answer()
    for _ in sys.stdin:
        add()
        answer()
    cluster.shutdown()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
