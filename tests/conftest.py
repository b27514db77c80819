"""What every test may use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

from tests.harness import WHOLE
from tests.s3 import s3_server

# A shell starts what it puts in the background, such as a run of these tests under nohup, with
# SIGINT ignored, and the processes of tests that send one would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What an example takes says how busy the machine is, and whether numba had to compile for it.
hypothesis.settings.register_profile("penstock", deadline=None)
hypothesis.settings.load_profile("penstock")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they use; skip ``slow`` ones unless all faults are wanted."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "ray_session" in fixtures:
            item.add_marker("ray")
        if {"process_group", "trainings"} & set(fixtures):
            item.add_marker("deepspeed")
        if not WHOLE and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="only with PENSTOCK_FAULTS=all"))


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
