"""Connect to Ray, in one place for passes over the corpus and for training sessions."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from penstock import extras
from penstock.errors import JobError

__all__ = ["connect", "cpus"]

_OBJECT_STORE = 512 * 2**20
"""Bytes of the object store: results are small records, and shared state is stored once."""


def connect(cpus: int | None = None) -> Any:
    """Connect to this process's Ray, else that of ``RAY_ADDRESS``, else start one here.

    One that is started here has neither dashboard nor usage reports, and ends with the process.

    Args:
        cpus: CPUs of a Ray started here; all by default. A cluster has its own number.

    Returns:
        The ``ray`` module.

    Raises:
        BadInput: Ray is not installed; ``fix`` names the extra.
        JobError: There is no Ray at ``RAY_ADDRESS``, or none can be started.
    """
    with extras.named("ray", "--runner ray"):
        import ray

    if ray.is_initialized():
        return ray
    address = os.environ.get("RAY_ADDRESS")
    started_here: dict[str, Any] = {
        "num_cpus": cpus,
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE,
    }
    try:
        with _quiet_start():
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level="warning",
                **({} if address else started_here),
            )
    except (ConnectionError, RuntimeError) as error:
        if address is None:
            raise JobError(f"Ray could not be started on this machine: {error}") from None
        raise JobError(
            f"no Ray at {address} ({error})",
            key="RAY_ADDRESS",
            fix="start one with `ray start --head`, or unset RAY_ADDRESS",
        ) from None
    return ray


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Start Ray without usage reports, and without a warning that it made a token for itself."""
    logger = logging.getLogger("ray._private.authentication")
    level, reports = logger.level, os.environ.get("RAY_USAGE_STATS_ENABLED")
    logger.setLevel(logging.ERROR)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        yield
    finally:
        logger.setLevel(level)
        if reports is None:
            del os.environ["RAY_USAGE_STATS_ENABLED"]


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
