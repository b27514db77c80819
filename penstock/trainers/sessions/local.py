"""Sessions on this machine: a process for each worker, without Ray.

Ray and Ray Train start a dozen processes. Here each worker imports PyTorch and the back end, and
begins. It is a :class:`~penstock.pipeline.runners.worker.Worker`, so it ends when the driver does,
and its death ends the session. The workers meet in a file of a private directory, and exchange
gradients by sockets of loopback: PyTorch's usual meeting point is a server that listens on all
addresses of the machine and asks nobody for a password.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any

from penstock.artefact import Workspace
from penstock.cluster import DEBUG, cpus, on_loopback
from penstock.errors import PenstockError, RecipeError, TrainingError
from penstock.pipeline.runners.attempt import AttemptResult, portable
from penstock.pipeline.runners.worker import SharedState, Worker
from penstock.recipe import Train
from penstock.storage import as_path
from penstock.temporary import temporary_directory
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.sessions.devices import on_gpus
from penstock.trainers.sessions.restarting import FailedSession
from penstock.trainers.spec import RunSpec

__all__ = ["LocalSessions"]

_LOOPBACK = "lo" if sys.platform == "linux" else "lo0"
"""The network interface of loopback."""

_POLL_SECONDS = 1.0
"""Time without a message after which the processes are checked."""

_EXIT_SECONDS = 5.0
"""Time for a process that has closed its pipe to exit."""

_GRACE_SECONDS = 2.0
"""Time after the first failure in which that of another worker may be found to be its cause."""

_COLLECTIVE = timedelta(minutes=30)
"""Longest time that a worker waits for the others."""


class LocalSessions:
    """Sessions on this machine, as many at a time as there are CPUs for, or GPUs.

    Args:
        lanes: The runs of each session.

    Raises:
        RecipeError: The machine has fewer CPUs, or GPUs, than the workers are to have.
    """

    def __init__(self, lanes: Sequence[Sequence[RunSpec]]) -> None:
        most = 1
        for train in (lane[0].train for lane in lanes):
            most = max(most, train.workers * train.cpus)
            if cpus() < train.workers * train.cpus:
                raise RecipeError(
                    f"this machine has {cpus()} CPUs",
                    key="train.workers",
                    expected=f"at most {cpus() // train.cpus} of {train.cpus} CPUs each",
                    got=train.workers,
                )
        gpus, each = _gpus(), max(lane[0].train.workers for lane in lanes)
        wanted = [on_gpus(lane[0].train, len(gpus), of="this machine") for lane in lanes]
        places: list[list[str]] = []
        if any(wanted):
            places = [gpus[at : at + each] for at in range(0, len(gpus) - each + 1, each)]
        self._free: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        for place in places or [[]] * (cpus() // most):
            self._free.put(place)

    @staticmethod
    def suffice() -> bool:
        """Return whether no cluster is named, and this process is connected to none."""
        ray = sys.modules.get("ray")
        named = os.environ.get("RAY_ADDRESS", "local") != "local"
        elsewhere = ray is not None and ray.is_initialized() and not on_loopback(ray)
        return not (named or elsewhere)

    @staticmethod
    def on_gpus(train: Train) -> bool:
        """Return whether the workers of such a run get GPUs of this machine.

        Raises:
            RecipeError: As :func:`.devices.on_gpus`.
        """
        return on_gpus(train, len(_gpus()), of="this machine")

    @staticmethod
    def room(train: Train) -> int:
        """Return the number of sessions of such runs that fit this machine, at least 1."""
        gpus = _gpus()
        if on_gpus(train, len(gpus), of="this machine"):
            return max(1, len(gpus) // train.workers)
        return max(1, cpus() // (train.workers * train.cpus))

    def make(self, lane: Sequence[RunSpec], workspace: Workspace, signer: Signer) -> None:
        """Make the runs of a lane; called by one thread for each lane, which waits for its turn.

        Raises:
            FailedSession: Workers failed. Its error is a worker's own if that is one of ours, else
                a TrainingError.
        """
        gpus = self._free.get()
        try:
            errors = _errors(lane, workspace, signer, gpus)
        finally:
            self._free.put(gpus)
        if not errors:
            return
        error = errors[0]
        if not isinstance(error, PenstockError):
            what = " ".join(str(error).split())
            error = TrainingError(f"{type(error).__name__}: {what[:500]}")
            error.__cause__ = errors[0]
        raise FailedSession(error, errors)


def _errors(
    lane: Sequence[RunSpec], workspace: Workspace, signer: Signer, gpus: Sequence[str]
) -> list[Exception]:
    """Make the runs of a lane in processes; return the failures, the most likely cause first."""
    train = lane[0].train
    threads = {"OMP_NUM_THREADS": str(train.cpus), "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    with temporary_directory("session-") as directory:
        session = {
            "lane": list(lane),
            "workspace": Workspace(as_path(workspace.root)),
            "signer": signer,
            "generation": workspace.generation,
            "store": str(directory / "workers"),
        }
        SharedState.of((_make_runs, session)).save(directory / "state")
        workers = [Worker(threads, quiet=not os.environ.get(DEBUG)) for _ in range(train.workers)]
        try:
            for rank, worker in enumerate(workers):
                worker.give(rank, rank, directory / "state")
            return _failures(workers)
        finally:
            for worker in workers:
                worker.end()


def _failures(workers: Sequence[Worker]) -> list[Exception]:
    """Wait until all workers have ended their runs, or some have failed."""
    waiting, deaths, errors = list(workers), [], []
    until = float("inf")
    while waiting and time.monotonic() < until:
        ready = wait([worker.connection for worker in waiting], timeout=_POLL_SECONDS)
        for worker in list(waiting):
            outcome = None
            if worker.connection in ready:
                with contextlib.suppress(EOFError):
                    if (outcome := worker.receive()) is None:
                        continue
            # A process that it started may hold the pipe of a dead one open.
            elif not worker.dead or worker.connection.poll():
                continue
            waiting.remove(worker)
            if outcome is None:
                deaths.append(_death(worker))
            elif error := outcome.error or outcome.result:
                errors.append(error)
        if deaths or errors:
            until = min(until, time.monotonic() + _GRACE_SECONDS)
    return [*deaths, *errors]


def _death(worker: Worker) -> TrainingError:
    return TrainingError(
        f"a worker {worker.end(_EXIT_SECONDS).reason}",
        fix="run again, which resumes from the last checkpoint; with --debug all that the workers "
        "write is shown",
    )


def _make_runs(rank: int, session: dict[str, Any]) -> Exception | None:
    """Make the runs of a lane, as one worker; return the error instead of raising it.

    A raised one may be tried again, and a back end cannot start twice after a failure.
    """
    try:
        lane = session["lane"]
        group = _join(rank, lane[0], session["store"])
        from penstock.trainers.worker import run_one

        for spec in lane:
            run_one(spec, session["workspace"], group, session["signer"], session["generation"])
        group.barrier()
    except Exception as error:
        return portable(AttemptResult(error=error)).error
    return None


def _join(rank: int, spec: RunSpec, store: str) -> Any:
    """Join the process group, as a worker; returns its :class:`~penstock.trainers.group.Group`."""
    import torch
    import torch.distributed as dist

    from penstock.trainers.group import Group

    torch.set_num_threads(spec.train.cpus)
    workers = spec.train.workers
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(workers),
        "LOCAL_RANK": str(rank),
        "LOCAL_SIZE": str(workers),
        "LOCAL_WORLD_SIZE": str(workers),
        "NODE_RANK": "0",
    }
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", _LOOPBACK)
    gpu = torch.cuda.is_available()
    if os.environ.get("CUDA_VISIBLE_DEVICES") and not gpu:  # it was given one
        raise TrainingError(
            f"PyTorch {torch.__version__} finds no GPU",
            key="train.device",
            expected="a build of PyTorch for this machine's GPUs",
            fix="install it, or set train.device to cpu",
        )
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if gpu else "gloo",
        store=dist.FileStore(store, workers),
        rank=rank,
        world_size=workers,
        timeout=_COLLECTIVE,
    )
    return Group(rank, workers, device, local_rank=rank, local_workers=workers)


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    The driver of the GPUs counts them, which needs no PyTorch.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu not in ("", "-1")]
    found = ctypes.c_uint(0)
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        library.nvmlInit_v2()
        library.nvmlDeviceGetCount_v2(ctypes.byref(found))
        library.nvmlShutdown()
    return [str(number) for number in range(found.value)]
