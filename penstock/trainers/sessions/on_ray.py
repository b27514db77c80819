"""Sessions on a cluster: each is a controller and a group of workers of Ray Train.

The start takes some ten seconds: three actors and a controller beside the workers, which import
PyTorch. The driver reads progress from the runs' ``metrics.jsonl``, on the disk that all machines
share.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Sequence
from typing import Any

from penstock.artefact import Workspace
from penstock.cluster import connect, extend_path
from penstock.errors import RecipeError, TrainingError
from penstock.own_modules import OwnModules
from penstock.recipe import Train
from penstock.storage import as_path, delete
from penstock.temporary import set_private_caches
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.sessions.devices import on_gpus
from penstock.trainers.sessions.restarting import FailedSession
from penstock.trainers.spec import RunSpec

__all__ = ["RaySessions"]

SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Environment variables of Ray Train; those that the user has set stay.

The controller checks its workers every 2 s by default, and a run of 10 s would wait for that twice.
"""


class RaySessions:
    """Sessions on the connected Ray, or that of ``RAY_ADDRESS``.

    Args:
        lanes: The runs of each session.

    Raises:
        JobError: There is no Ray, as :func:`~penstock.cluster.connect` says.
        RecipeError: It has fewer CPUs than the workers need, for which Ray would wait without end;
            or fewer GPUs, with ``train.device: auto``.
    """

    def __init__(self, lanes: Sequence[Sequence[RunSpec]]) -> None:
        cpus, gpus = _resources()
        for train in (lane[0].train for lane in lanes):
            on_gpus(train, gpus, of="the Ray cluster", grows=True)
            # An autoscaling cluster may have none yet.
            if 0 < cpus < train.workers * train.cpus:
                raise RecipeError(
                    f"Ray has {cpus} CPUs",
                    key="train.workers",
                    expected=f"at most {cpus // train.cpus} of {train.cpus} CPUs each",
                    got=train.workers,
                )

    @staticmethod
    def on_gpus(train: Train) -> bool:
        """Return whether the workers of such a run get GPUs of the cluster.

        Raises:
            RecipeError: As :func:`.devices.on_gpus`.
        """
        return on_gpus(train, _resources()[1], of="the Ray cluster", grows=True)

    @staticmethod
    def room(train: Train) -> int:
        """Return the number of sessions of such runs that the cluster has room for, at least 1."""
        cpus, gpus = _resources()
        if on_gpus(train, gpus, of="the Ray cluster", grows=True):
            return max(1, gpus // train.workers)
        return max(1, cpus // (train.workers * train.cpus))

    def make(self, lane: Sequence[RunSpec], workspace: Workspace, signer: Signer) -> None:
        """Make the runs of a lane; called by one thread for each lane.

        Raises:
            FailedSession: Workers failed. Its error is a TrainingError with a worker's own message,
                in one line.
        """
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        train = lane[0].train
        # Ray Train's own state, which all nodes must be able to read.
        scratch = workspace.root / "run" / f".session-{uuid.uuid4().hex[:12]}"
        try:
            gpu = on_gpus(train, _resources()[1], of="the Ray cluster", grows=True)
            threads = {"OMP_NUM_THREADS": str(train.cpus), "TOKENIZERS_PARALLELISM": "false"}
            TorchTrainer(
                _session_loop,
                train_loop_config={
                    "own_modules": OwnModules(),
                    "lane": list(lane),
                    "workspace": Workspace(as_path(workspace.root)),
                    "signer": signer,
                    "generation": workspace.generation,
                    "path": list(sys.path),
                },
                torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=train.workers,
                    use_gpu=gpu,
                    resources_per_worker={"CPU": train.cpus, **({"GPU": 1} if gpu else {})},
                ),
                run_config=RunConfig(
                    name="session",
                    storage_path=str(scratch),
                    worker_runtime_env={"env_vars": threads},
                ),
            ).fit()
        except Exception as error:
            raised = _worker_error(error)
            raised.__cause__ = error
            raise FailedSession(raised, _causes(error) or [error]) from error
        finally:
            delete(scratch)


def _resources() -> tuple[int, int]:
    """Connect, with Ray Train's settings; return the CPUs and GPUs of the nodes that are up."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    set_private_caches()
    found = connect().cluster_resources()
    return int(found.get("CPU", 0)), int(found.get("GPU", 0))


def _session_loop(config: dict[str, Any]) -> None:
    """Make the runs of a lane, as one worker of a session."""
    extend_path(config["path"])
    set_private_caches()
    import ray.train
    import torch
    from ray.train.torch import get_device

    from penstock.trainers.group import Group
    from penstock.trainers.worker import run_one

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    context = ray.train.get_context()
    os.environ["LOCAL_SIZE"] = str(context.get_local_world_size())
    group = Group(
        context.get_world_rank(),
        context.get_world_size(),
        get_device(),
        context.get_local_rank(),
        context.get_local_world_size(),
    )
    for spec in config["lane"]:
        run_one(spec, config["workspace"], group, config["signer"], config["generation"])
    # Without it 3 of 30 sessions aborted when the process group was destroyed.
    group.barrier()


def _worker_error(error: Exception) -> Exception:
    """Return the worker's own error in one line, without Ray's traceback."""
    for cause in _causes(error):
        return TrainingError(str(cause).strip().splitlines()[-1])
    return TrainingError(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")


def _causes(error: Exception) -> list[Exception]:
    """Return the workers' own errors, by rank; empty if Ray Train names none."""
    failures = getattr(error, "worker_failures", None) or {}
    found = []
    for _, failure in sorted(failures.items()):
        cause = getattr(failure, "cause", None) or getattr(failure, "_base_exc", None) or failure
        if isinstance(cause, Exception):
            found.append(cause)
    return found
