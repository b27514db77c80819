"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.s3 import s3_server


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray of two CPUs for the whole test run: starting one takes 8 s."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    ray.init(
        address="local",  # another Ray may be running on this machine
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 * 2**20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a real S3 API on loopback, which the environment names from then on."""
    with s3_server() as address:
        yield address
