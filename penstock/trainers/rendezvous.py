"""How the workers of a session on one machine find each other, without a port that others reach.

PyTorch's usual meeting point is a server (``TCPStore``) that listens on all addresses of the
machine and asks nobody for a password. On a Ray that listens on loopback alone
(:mod:`penstock.cluster`) all workers are processes of one user on one machine, so they meet in a
file of the private directory. Gloo's own sockets, by which the workers exchange gradients, are
bound to loopback; so are NCCL's.
"""

from __future__ import annotations

import os
import sys
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig

from penstock.temporary import private_directory

__all__ = ["LoopbackConfig"]

_LOOPBACK = "lo" if sys.platform == "linux" else "lo0"
"""The network interface of loopback."""


@dataclass
class LoopbackConfig(TorchConfig):
    """The process group of a session whose workers all run on this machine."""

    @property
    def backend_cls(self) -> type:
        return _loopback_backend()


def _loopback_backend() -> type:
    """Return Ray Train's back end of PyTorch with another start."""
    base: Any = TorchConfig().backend_cls

    class LoopbackBackend(base):
        """Lets the workers meet in a file, which lives as long as the process group."""

        def on_start(self, worker_group: Any, backend_config: LoopbackConfig) -> None:
            self._where = private_directory("rendezvous") / uuid.uuid4().hex
            workers = len(worker_group)
            settings = (backend_config.backend, self._where, workers, backend_config.timeout_s)
            ray.get(
                [
                    worker_group.execute_single_async(rank, _join, rank, *settings)
                    for rank in range(workers)
                ]
            )

        def on_shutdown(self, worker_group: Any, backend_config: LoopbackConfig) -> None:
            try:
                super().on_shutdown(worker_group, backend_config)
            finally:
                self._where.unlink(missing_ok=True)

    return LoopbackBackend


def _join(rank: int, backend: str, where: Path, workers: int, seconds: int) -> None:
    """Join the process group, as a worker."""
    import torch.distributed as dist

    context = ray.train.get_context()
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(workers),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", _LOOPBACK)
    dist.init_process_group(
        backend,
        store=dist.FileStore(str(where), workers),
        rank=rank,
        world_size=workers,
        timeout=timedelta(seconds=seconds),
    )
