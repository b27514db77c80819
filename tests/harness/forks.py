"""A process that has imported the product, and forks one run after another from itself.

A start of PyTorch and DeepSpeed takes six seconds, and a campaign makes hundreds. The server,
``python -m tests.harness.forks MODULE``, calls ``MODULE.prepare()`` once and ``MODULE.run(order,
rank)`` in every fork. It has one thread (and Arrow's allocator one that handles forks) and never
works itself, so a fork of it is as good as a fresh interpreter.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.harness import ROOT


class ForkServer:
    """The client's side: a server for one module.

    Args:
        module: Has ``prepare`` and ``run``.
        directory: For the output of the forks.
        path: Further entries of PYTHONPATH.
        environment: Of the server and its forks.
    """

    def __init__(
        self, module: str, directory: Path, path: Sequence[Path] = (), **environment: str
    ) -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.forks", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])),
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                **environment,
            },
        )

    def fork(self, order: dict[str, Any], count: int = 1) -> list[int]:
        """Start ``run(order, rank)`` in a fork for each rank; return their process ids."""
        files = str(self._directory)
        pids: list[int] = self._ask({"fork": order, "count": count, "files": files})
        return pids

    def wait(self, pids: list[int], patience: float | None = None) -> list[int]:
        """Return exit statuses; a negative one is the signal that ended the process.

        Args:
            pids: Of forks.
            patience: Seconds after the first one has failed when the others are killed.
        """
        statuses: list[int] = self._ask({"wait": pids, "patience": patience})
        return statuses

    def output(self, stream: str, rank: int = 0) -> str:
        """Return ``out`` or ``err`` of a fork."""
        return (self._directory / f"{stream}-{rank}").read_text()

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def serve(module: Any) -> None:
    """Fork on request until stdin ends."""
    module.prepare()
    assert threading.active_count() == 1, "only one thread would survive the fork"
    gc.collect()
    gc.freeze()  # a collection in a fork would look at all modules, and copy their memory
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        order = json.loads(line)
        if "fork" in order:
            answer = [_fork(module, order, rank) for rank in range(order["count"])]
        else:
            answer = _wait(order["wait"], order["patience"])
        answers.write(json.dumps(answer) + "\n")


def _fork(module: Any, order: dict[str, Any], rank: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, descriptor in (("out", 1), ("err", 2)):
        path = os.path.join(order["files"], f"{stream}-{rank}")
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    status = 70
    try:
        status = module.run(order["fork"], rank)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(pids: list[int], patience: float | None) -> list[int]:
    statuses: dict[int, int] = {}
    until = None
    while len(statuses) < len(pids):
        for pid in [pid for pid in pids if pid not in statuses]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                statuses[pid] = os.waitstatus_to_exitcode(status)
                if statuses[pid] and patience is not None:
                    until = until or time.monotonic() + patience
            elif until is not None and time.monotonic() > until:
                os.kill(pid, 9)
        time.sleep(0.005)
    return [statuses[pid] for pid in pids]


if __name__ == "__main__":
    serve(importlib.import_module(sys.argv[1]))
