"""Where compiled code is kept: of a package that cannot be written to, without a safe home."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.hashing import factors
from penstock.temporary import others_can_write
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


def _closed() -> list[str]:
    # Root may write anywhere unless it gives that up.
    closed = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    if closed and shutil.which("setpriv") is None:
        pytest.skip("NOT RUN: root may write anywhere, and there is no setpriv")
    return closed


def _python(
    package: Path, home: Path, temporary: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run code that imports the package, without rights to write everywhere."""
    done = subprocess.run(
        [*_closed(), sys.executable, "-c", *arguments],
        env={"PYTHONPATH": str(package), "HOME": str(home), "TMPDIR": str(temporary)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def _run(package: Path, temporary: Path) -> list[object]:
    done = _python(package, Path("/proc/none"), temporary, CODE)
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


FILES = """
import json, subprocess, sys
from penstock.hashing import _factors, factors
print(json.dumps([factors(3).tolist(), _factors.stats.cache_path]))
if len(sys.argv) > 1:
    subprocess.run([sys.executable, "-c", "import penstock.hashing"], check=True)  # a worker
"""


class _Attack:
    def __init__(self, marker: str) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self._marker, "w")


def _cached_in(home: Path, temporary: Path, package: Path, *more: str) -> tuple[str, list[str]]:
    """Return where compiled code is cached, and the warnings."""
    done = _python(package, home, temporary, FILES, *more)
    found, cache = json.loads(done.stdout)
    assert found == factors(3).tolist()
    said = [line for line in done.stderr.splitlines() if "compiled code" in line]
    return cache, said


def test_nothing_is_loaded_from_a_cache_that_others_can_write_to(
    package: Path, tmp_path: Path
) -> None:
    """Attack: pickles in ``~/.cache/numba`` of a home in which all users may make directories."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    cache, said = _cached_in(home, temporary, package)
    assert cache.startswith(f"{home}/.cache/numba/") and said == []
    numba, marker = home / ".cache" / "numba", tmp_path / "marker"
    indices = list(numba.rglob("*.nbi"))
    assert indices
    for path in indices:
        path.write_bytes(pickle.dumps(_Attack(str(marker))))
    home.chmod(0o777)
    other, said = _cached_in(home, temporary, package, "and a worker")
    assert other.startswith(f"{temporary}/penstock-") and not marker.exists()
    assert len(said) == 1 and said[0].startswith(cache)
    assert f"all users may write to {home}" in said[0]
    if os.geteuid():
        pytest.skip("NOT RUN: only root can give files to another user")
    home.chmod(0o1777)
    os.chown(numba, 4242, 4242)
    other, said = _cached_in(home, temporary, package)
    assert other.startswith(f"{temporary}/penstock-") and "(4242)" in said[0]
    assert not marker.exists()


@pytest.mark.parametrize(
    ("above", "mode", "safe"),
    [
        (0o755, 0o755, True),
        (0o775, 0o775, True),  # a group of the user's own choice
        (0o1777, 0o755, True),
        (0o777, 0o755, False),
        (0o755, 0o777, False),
        (0o755, 0o1777, False),
    ],
)
def test_directories_that_others_can_write_to(
    tmp_path: Path, above: int, mode: int, safe: bool
) -> None:
    directory = tmp_path / "above" / "cache"
    directory.mkdir(parents=True)
    directory.chmod(mode)
    directory.parent.chmod(above)
    assert (others_can_write(directory, os.geteuid()) is None) == safe
    (tmp_path / "link").symlink_to(directory)
    assert (others_can_write(tmp_path / "link", os.geteuid()) is None) == safe
    if os.geteuid() == 0:
        os.chown(directory, 4242, 4242)
        assert others_can_write(directory, os.geteuid()) is not None
        assert (others_can_write(directory, 4242) is None) == safe


EXTENSIONS = """
import json, sys
import numba
from penstock.hashing import _factors, factors
factors(3)
ours = [name in sys.modules for name in ("an_extension", "awkward")]
numba.njit(lambda x: x + 1)(1)
print(json.dumps([ours, "an_extension" in sys.modules, sys.modules["an_extension"].calls]))
"""


def test_kernels_import_no_extension_of_numba_and_other_functions_do(tmp_path: Path) -> None:
    """awkward, which comes with gigatoken, took 0.2 s of each process that called a kernel."""
    (tmp_path / "an_extension.py").write_text("calls = []\ndef init():\n    calls.append(1)\n")
    registered = tmp_path / "an_extension-1.dist-info"
    registered.mkdir()
    (registered / "METADATA").write_text("Metadata-Version: 2.1\nName: an-extension\nVersion: 1\n")
    (registered / "entry_points.txt").write_text("[numba_extensions]\ninit = an_extension:init\n")
    done = subprocess.run(
        [sys.executable, "-c", EXTENSIONS],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[False, False], True, [1]]


def test_a_kernel_is_compiled_after_its_first_call_on_a_machine(tmp_path: Path) -> None:
    """`check` asks before it says how long a first run takes; another process finds the code."""
    code = (
        "from penstock.compiling import is_compiled\n"
        "from penstock.hashing import _factors, factors\n"
        "before = is_compiled(_factors); factors(3); print(before, is_compiled(_factors))"
    )
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    (tmp_path / "cache").mkdir(mode=0o700)
    told = [
        subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert told == [["False", "True"], ["True", "True"]]
