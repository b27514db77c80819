"""A process that has PyTorch and DeepSpeed imported and forks the workers of one run after another.

It is told what to run by a line of JSON on stdin, and answers with the exit status of every worker.
A start costs six seconds otherwise, and tests of kills make hundreds.
"""

from __future__ import annotations

import datetime
import importlib
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from penstock.artefact import Workspace
from penstock.trainers import worker
from penstock.trainers.backend import load_deepspeed
from tests.trainers.checkpoints.runs import spec_of
from tests.trainers.checkpoints.strikes import Strikes

LATE = (
    "deepspeed.checkpoint.ds_to_universal",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "functorch.compile",
    "pandas",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.summary.writer.event_file_writer",
    "torch._dynamo",
    "transformers.models.llama.modeling_llama",
)
"""What a worker imports when it comes to it."""


def main() -> None:
    """Fork what is asked for until stdin ends."""
    load_deepspeed()
    for module in LATE:
        importlib.import_module(module)
    torch.set_num_threads(1)
    assert threading.active_count() == 1, "only one thread would survive the fork"
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        order = json.loads(line)
        pids = []
        for rank in range(order["workers"]):
            pid = os.fork()
            if pid == 0:
                _become(order, rank)
            pids.append(pid)
        answers.write(json.dumps(_ended(pids, order["patience"])) + "\n")


def _ended(pids: list[int], patience: float) -> list[int]:
    """Exit statuses; a worker that waits for a dead one is killed when patience is over."""
    statuses: dict[int, int] = {}
    until = None
    while len(statuses) < len(pids):
        for pid in [pid for pid in pids if pid not in statuses]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                statuses[pid] = os.waitstatus_to_exitcode(status)
                if statuses[pid]:
                    until = until or time.monotonic() + patience
            elif until is not None and time.monotonic() > until:
                os.kill(pid, 9)
        time.sleep(0.005)
    return [statuses[pid] for pid in pids]


def _become(order: dict[str, Any], rank: int) -> None:
    """The child: one worker of a run."""
    files = Path(order["files"])
    os.setsid()
    log = os.open(files / f"log-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    workers = order["workers"]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers))
    status = 70
    try:
        torch.distributed.init_process_group(
            "gloo",
            f"file://{order['store']}",
            rank=rank,
            world_size=workers,
            timeout=datetime.timedelta(seconds=60),
        )
        spec, workspace = spec_of(order), Workspace(Path(order["work"]))
        kill = order["kill"] if order["kill"] and order["kill"]["rank"] == rank else None
        Strikes(
            spec.draft(workspace).path,
            (kill["point"], kill["nth"]) if kill else None,
            files / f"census-{rank}" if order["census"] else None,
        ).install()
        worker.run_one(spec, workspace, device=torch.device("cpu"), rank=rank, workers=workers)
        torch.distributed.barrier()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
