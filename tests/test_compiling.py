"""Compiled code of a package that cannot be written to, for a user without a home."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.hashing import factors
from tests.harness import ROOT

CODE = """
import json, os, tempfile
tempfile.tempdir = os.environ["TMPDIR"]  # not /tmp where that cannot be written to
from penstock.compiling import __file__
from penstock.hashing import _factors, factors
found = factors(3).tolist()
hits, misses = _factors.stats.cache_hits, _factors.stats.cache_misses
print(json.dumps([found, sum(hits.values()), sum(misses.values()), __file__]))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package whose directories nobody may write to."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(
        ROOT / "penstock", site / "penstock", ignore=shutil.ignore_patterns("__pycache__")
    )
    for directory, _, _ in os.walk(site):
        Path(directory).chmod(0o555)
    return site


def _run(package: Path, temporary: Path) -> list[object]:
    # Root may write anywhere unless it gives that up.
    closed = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    if closed and shutil.which("setpriv") is None:
        pytest.skip("NOT RUN: root may write anywhere, and there is no setpriv")
    done = subprocess.run(
        [*closed, sys.executable, "-c", CODE],
        env={"PYTHONPATH": str(package), "HOME": "/proc/none", "TMPDIR": str(temporary)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, hits, misses, file = json.loads(done.stdout)
    assert file == str(package / "penstock/compiling.py")
    return [found, hits, misses]


def test_a_package_that_cannot_be_written_to_works_without_a_home(
    package: Path, tmp_path: Path
) -> None:
    """numba refused to decorate: "no locator available", at import."""
    first, again = _run(package, tmp_path), _run(package, tmp_path)
    assert first == [factors(3).tolist(), 0, 1]
    assert again == [factors(3).tolist(), 1, 0], "not from the cache"
    (private,) = tmp_path.iterdir()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700 and any(private.rglob("*.nbi"))
    assert not any(package.rglob("*.nbi"))


def test_it_works_without_a_temporary_directory(package: Path, tmp_path: Path) -> None:
    """Then the compiled code is kept in memory alone."""
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    assert _run(package, closed) == [factors(3).tolist(), 0, 1]
    assert not any(closed.iterdir())
