"""The one place that connects to Ray: passes over the corpus and training sessions share it."""

from __future__ import annotations

import logging
import os
from typing import Any

from penstock.errors import JobError

__all__ = ["connect", "cpus"]

_OBJECT_STORE = 512 * 2**20
"""Bytes; results are small records, and what is shared goes in once."""


def connect(cpus: int | None = None) -> Any:
    """The ``ray`` module, connected: this process's Ray, else that of ``RAY_ADDRESS``, else one
    started on this machine, with neither dashboard nor usage reports, which ends with the process.

    Args:
        cpus: Of a Ray started here; all by default. A cluster decides its own.

    Raises:
        JobError: There is no Ray at ``RAY_ADDRESS``, or none can be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return ray
    address = os.environ.get("RAY_ADDRESS")
    started_here: dict[str, Any] = {
        "num_cpus": cpus,
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE,
    }
    # A Ray started here guards itself with a token, which is no news to who runs a recipe.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="warning",
            **({} if address else started_here),
        )
    except (ConnectionError, RuntimeError) as error:
        raise JobError(
            f"RAY_ADDRESS: no Ray at {address} ({error}); start one with "
            "`ray start --head`, or unset RAY_ADDRESS"
            if address
            else f"Ray could not be started on this machine: {error}"
        ) from None
    return ray


def cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
