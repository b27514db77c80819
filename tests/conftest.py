"""Marks and fixtures of all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from penstock.cluster import connect
from penstock.pipeline.runner import LocalRunner
from penstock.storage import AnyPath, as_path
from tests.browser import Chromium, chromium_or_skip
from tests.harness import ROOT, WHOLE
from tests.harness.stranger import Stranger, second_user
from tests.s3 import BUCKET, s3_server

# A shell starts background commands, such as a run of these tests under nohup, with SIGINT
# ignored, and the processes to which tests send SIGINT would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Runs sign their checkpoints with a key of the user's configuration.
_CONFIGURATION = tempfile.TemporaryDirectory(prefix="penstock-tests-")
os.environ["XDG_CONFIG_HOME"] = _CONFIGURATION.name

# A third of the time of collecting went to garbage collections, one tenth afterwards.
gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage again, without looking at the million objects that the tests consist of."""
    gc.collect()
    gc.freeze()
    gc.enable()


# The time of an example depends on the load of the machine, and on whether numba compiles for it.
hypothesis.settings.register_profile("penstock", deadline=None)
hypothesis.settings.load_profile("penstock")


MARKS = {
    # Fixtures, values of parameters, and files or folders.
    "ray_session": ["ray"],
    "cluster": ["ray"],
    "[ray]": ["ray"],
    "browser": ["slow"],
    "process_group": ["deepspeed"],
    "trained_here": ["deepspeed"],
    "trainings": ["deepspeed"],
    "tests/faults": ["faults"],
    "tests/trainers/checkpoints/test_kills.py": ["faults"],
    "tests/trainers/checkpoints/test_command.py": ["deepspeed", "faults"],
    "tests/pipeline/cleaning/test_components.py": ["slow"],
    "tests/pipeline/cleaning/test_duplicates.py": ["slow"],
    "tests/pipeline/cleaning/test_minhash.py": ["slow"],
    "tests/pipeline/cleaning/test_near_duplicates.py": ["slow"],
    "tests/pipeline/cleaning/test_survivors.py": ["slow"],
    "tests/pipeline/cleaning/test_verification.py": ["slow"],
    "tests/pipeline/cleaning/test_decontamination.py": ["slow"],
    "tests/pipeline/cleaning/test_verdicts.py": ["slow"],
    "tests/jobs/browse": ["slow"],
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


LONG = [
    "faults/test_namespaces.py",
    "faults/test_s3.py",
    "faults/test_kills.py",
    "faults/test_resume.py",
    "faults/test_cluster.py",
    "jobs/test_submit.py",
    "test_processors.py",
    "selectors/test_properties.py",
    "trainers/checkpoints/test_workers.py",
    "trainers/checkpoints/test_elastic.py",
    "trainers/checkpoints/test_kills.py",
    "trainers/backends/test_torch.py",
    "pipeline/cleaning/test_verdicts.py",
    "pipeline/rewriting/test_documents.py",
]
"""Files that take half a minute and more, the longest first; they begin after those of Ray.

Otherwise the last of several processes would run one of them while the others have nothing left.
"""


@cache
def of_ray(path: Path) -> bool:
    """Return whether a file has tests of the Ray that all tests share."""
    return "ray_session" in path.read_text(encoding="utf-8")


def place(path: Path) -> int:
    """Return a file's place among the files: those of Ray, the long ones, the others."""
    if of_ray(path):
        return 0
    name = path.relative_to(ROOT / "tests").as_posix()
    return LONG.index(name) + 1 if name in LONG else len(LONG) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep each file's tests in one process, so that they share fixtures; those of Ray, too.

    A Ray takes 8 s to start, and CPU time as long as it is there. Scopes begin in the order of the
    tests, by ``--no-loadscope-reorder`` in ``pyproject.toml``: xdist would put a file of one test,
    such as the longest, last.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = nodeid.split("::", 1)[0]
            return "Ray" if of_ray(ROOT / name) else name

    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop the Ray that tests share after the last file of its tests."""
    if "ray" in sys.modules and of_ray(item.path) and not (nextitem and of_ray(nextitem.path)):
        sys.modules["ray"].shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first, and mark tests; skip whole campaigns unless PENSTOCK_FAULTS=all."""
    items.sort(key=lambda item: place(item.path))
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")  # another Ray may be running on this machine
        ray = connect(2, object_store=80 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def stranger() -> Iterator[Stranger]:
    """A second user of this machine; the test is skipped where none can be made."""
    with second_user() as made:
        yield made


@pytest.fixture(scope="session")
def _one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start one process group for the session: DeepSpeed keeps the groups of the first one."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("LOCAL_RANK", "0")
        store = tmp_path_factory.mktemp("store") / "store"
        torch.distributed.init_process_group("gloo", f"file://{store}", rank=0, world_size=1)
        yield
        torch.distributed.destroy_process_group()


@pytest.fixture
def process_group(_one_rank: None) -> Iterator[None]:
    """Train in this process: one rank, one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained_here(_one_rank: None) -> Iterator[None]:
    """Make the training sessions of a module in this process."""
    from tests.harness.sessions import sessions_here

    with sessions_here():
        yield


@pytest.fixture(scope="session")
def two_workers() -> Iterator[LocalRunner]:
    """Two worker processes for the whole test run; each takes a second or two to import."""
    with closing(LocalRunner(2)) as runner:
        yield runner


@pytest.fixture(scope="module")
def _chromium() -> Iterator[Chromium]:
    """One Chromium for a file: while it runs, other files could not run an asyncio loop."""
    with chromium_or_skip() as started:
        yield started


@pytest.fixture
def browser(_chromium: Chromium) -> Iterator[Chromium]:
    """A real headless Chromium, whose pages are closed after the test; skipped without one."""
    yield _chromium
    _chromium.close_pages()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Start an S3 API on loopback, which the environment names from then on; return its address."""
    with s3_server() as address:
        yield address


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    """An empty directory, on the disk and in the store."""
    if request.param == "local":
        return tmp_path
    request.getfixturevalue("s3")
    return as_path(f"s3://{BUCKET}/{tmp_path.name}")
