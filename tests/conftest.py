"""Marks and fixtures of all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

from tests.harness import ROOT, WHOLE
from tests.s3 import s3_server

# A shell starts background commands, such as a run of these tests under nohup, with SIGINT
# ignored, and the processes to which tests send SIGINT would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The time of an example depends on the load of the machine, and on whether numba compiles for it.
hypothesis.settings.register_profile("penstock", deadline=None)
hypothesis.settings.load_profile("penstock")


MARKS = {
    # Fixtures, values of parameters, and files or folders.
    "ray_session": ["ray"],
    "cluster": ["ray"],
    "[ray]": ["ray"],
    "process_group": ["deepspeed"],
    "trainings": ["deepspeed"],
    "tests/faults": ["faults"],
    "tests/trainers/checkpoints/test_kills.py": ["faults"],
    "tests/trainers/checkpoints/test_ray.py": ["deepspeed", "faults", "ray"],
    "tests/pipeline/cleaning/test_components.py": ["slow"],
    "tests/pipeline/cleaning/test_duplicates.py": ["slow"],
    "tests/pipeline/cleaning/test_minhash.py": ["slow"],
    "tests/pipeline/cleaning/test_near_duplicates.py": ["slow"],
    "tests/pipeline/cleaning/test_survivors.py": ["slow"],
    "tests/pipeline/cleaning/test_verification.py": ["slow"],
    "tests/pipeline/cleaning/test_decontamination.py": ["slow"],
    "tests/pipeline/cleaning/test_verdicts.py": ["slow"],
    "tests/personal_data": ["slow"],
    "tests/pipeline/rewriting/test_documents.py": ["slow"],
    "tests/pipeline/rewriting/test_edits.py": ["slow"],
    "tests/pipeline/runners/test_lost_workers.py": ["slow"],
    "tests/rules": ["slow"],
    "tests/selectors/classifiers": ["slow"],
    "tests/selectors/encoders": ["slow"],
    "tests/selectors/kernels": ["slow"],
    "tests/selectors/rewriting/test_prox.py": ["slow"],
    "tests/selectors/test_betr.py": ["slow"],
    "tests/selectors/test_ccnet.py": ["slow"],
    "tests/selectors/test_dclm.py": ["slow"],
    "tests/selectors/test_dsir.py": ["slow"],
    "tests/selectors/test_preselect.py": ["slow"],
    "tests/selectors/test_properties.py": ["slow"],
    "tests/test_arrow_text.py": ["slow"],
    "tests/trainers/evaluation/test_documents.py": ["slow"],
    "tests/trainers/modelling/test_attention.py": ["slow"],
    "tests/trainers/modelling/test_options.py": ["slow"],
}
"""Marks of the tests that use a fixture or a value, or that lie in a file or folder."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests; skip those of whole campaigns unless PENSTOCK_FAULTS=all.

    With several processes (``pytest -n 2``) each file's tests stay in one of them, by ``--dist``
    in ``pyproject.toml``, so that they share fixtures. Groups of xdist 3.8 have no effect under
    pytest 9.2.
    """
    for item in items:
        path = item.path.relative_to(ROOT)
        values = item.callspec.id.split("-") if hasattr(item, "callspec") else []
        names = {*getattr(item, "fixturenames", ()), *map(str, [path, *path.parents])}
        names |= {f"[{value}]" for value in values}
        for mark in {mark for name in names & MARKS.keys() for mark in MARKS[name]}:
            item.add_marker(mark)
        if not WHOLE and item.get_closest_marker("whole"):
            item.add_marker(pytest.mark.skip(reason="only with PENSTOCK_FAULTS=all"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start one Ray of two CPUs for the whole test run, which takes 8 s."""
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
    """Start an S3 API on loopback, which the environment names from then on; return its address."""
    with s3_server() as address:
        yield address
