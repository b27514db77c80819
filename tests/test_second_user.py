"""Attacks by a second user of this machine: he plants names before and during a run, and reads."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import temporary
from penstock.errors import InputError, StorageError
from penstock.jobs.demo.gather import RECIPE as DEMO
from penstock.jobs.demo.gather import prepare
from penstock.node_cache import made_tree, staging
from penstock.pipeline.reading.inputs import stored_hashes
from penstock.storage import read_file
from penstock.temporary import private_directory, temporary_directory
from tests.harness.stranger import Stranger

ME = os.geteuid()


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory that all users share, as ``/tmp``: mode 1777."""
    directory = Path(tempfile.mkdtemp(prefix="penstock-shared-", dir="/tmp"))
    directory.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    monkeypatch.delenv("PENSTOCK_CACHE", raising=False)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def victim(shared: Path) -> Path:
    """A file of ours that no other user may read or write."""
    path = shared / "victim"
    path.write_bytes(b"precious")
    path.chmod(0o600)
    return path


COMPILER = """
import getpass, os, sys, tempfile
open(os.path.join(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}"), "x").close()
import penstock.trainers.modelling.attention
import torch._dynamo
print(os.environ["TORCHINDUCTOR_CACHE_DIR"])
"""


def test_the_compiler_is_imported_with_a_planted_name_of_its_cache(shared: Path) -> None:
    """Attack: a file ``/tmp/torchinductor_NAME``; its directory was used by the import alone."""
    unset = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", COMPILER],
        env={**kept, "TMPDIR": str(shared)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == shared / f"penstock-{ME}" / "inductor"


def _make(directory: Path) -> None:
    (directory / "model.bin").write_bytes(b"ours")


PLANT_DIRECTORY = """
for name in values["names"]:
    path = os.path.join(values["shared"], name)
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o777)
    os.symlink(values["victim"], os.path.join(path, values["link"]))
"""

PLANT_LINK = """
for name in values["names"]:
    os.symlink(values["to"], os.path.join(values["shared"], name))
"""

NAMES = [f"penstock-cache-{ME}", f"penstock-staging-{ME}/0123", f"penstock-{ME}"]
"""Names that Penstock takes, or took, in the temporary directory."""


def test_planted_directories_with_links_do_not_reach_a_file_of_ours(
    stranger: Stranger, shared: Path, victim: Path
) -> None:
    """What a library writes to ``model.bin`` of a staging directory truncated a victim's file."""
    planted = {"names": NAMES, "shared": str(shared), "victim": str(victim), "link": "model.bin"}
    stranger.run(PLANT_DIRECTORY, **planted)
    directory = staging("0123")
    (directory / "model.bin").write_bytes(b"a longer model")
    tree = made_tree("key", _make)
    with temporary_directory() as scratch:
        for path in (directory, tree, scratch):
            top = shared / path.relative_to(shared).parts[0]
            assert (top.stat().st_uid, stat.S_IMODE(top.stat().st_mode)) == (ME, 0o700)
    assert victim.read_bytes() == b"precious"


def test_a_planted_link_to_a_directory_of_ours_is_not_followed(
    stranger: Stranger, shared: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache deleted the least recently used files of the directory that a link led to."""
    home = shared / "home"
    home.mkdir(mode=0o700)
    (home / "thesis").write_bytes(bytes(1000))
    os.utime(home / "thesis", (1, 1))
    names = [f"penstock-cache-{ME}", f"penstock-{ME}"]
    stranger.run(PLANT_LINK, names=names, shared=str(shared), to=str(home))
    monkeypatch.setenv("PENSTOCK_CACHE_BYTES", "10")
    made_tree("key", _make)
    assert [path.name for path in home.iterdir()] == ["thesis"]


def test_names_that_are_taken_keep_no_run_from_starting(stranger: Stranger, shared: Path) -> None:
    names = [f"penstock-{ME}", *(f"penstock-{ME}-{number}" for number in range(50))]
    stranger.run(PLANT_LINK, names=names, shared=str(shared), to="/etc")
    first, again = private_directory(), private_directory("cache")
    assert again.parent == first and first.parent == shared
    assert (first.stat().st_uid, stat.S_IMODE(first.stat().st_mode)) == (ME, 0o700)


def test_a_name_that_becomes_free_moves_no_directory_of_a_process(
    stranger: Stranger, shared: Path
) -> None:
    """Attack: the planted name is removed during a run, whose files were then looked for there."""
    at = {"names": [f"penstock-{ME}"], "shared": str(shared)}
    stranger.run(PLANT_LINK, **at, to="/etc")
    first = private_directory()
    stranger.run("os.unlink(os.path.join(values['shared'], values['names'][0]))", **at)
    assert private_directory() == first
    shutil.rmtree(first)
    assert private_directory() == shared / f"penstock-{ME}"


@pytest.mark.parametrize(
    ("mode", "owner", "above"),
    [
        (0o777, 0, False),
        (0o777, 0, True),
        (0o1777, 4242, False),
        (0o755, 4242, False),
    ],
)
def test_a_temporary_directory_in_which_others_can_rename_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, owner: int, above: bool
) -> None:
    """Attack: the private directory is renamed, and one of the same name is put in its place."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(mode)
    if owner:
        if ME != 0:
            pytest.skip("NOT RUN: a file can be given to another user by root alone")
        os.chown(directory, owner, owner)
    used = directory / "below" if above else directory
    used.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(used))
    with pytest.raises(StorageError) as info:
        private_directory("cache")
    assert info.value.file == str(directory) and "set TMPDIR" in str(info.value.fix)
    assert info.value.got == f"mode {mode:04o}, owner {owner or ME}"
    assert list(used.iterdir()) == []
    with pytest.raises(StorageError, match="set RAY_TMPDIR"):
        private_directory("ray", str(used))


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775, 0o1777])
def test_a_sound_temporary_directory_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine").chmod(mode)
    (tmp_path / "link").symlink_to("mine")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "link"))
    assert private_directory().parent == tmp_path / "link"


REACH = """
found = []
for path in values["paths"]:
    plant = lambda path: os.mkdir(path + "/planted")
    move = lambda path: os.rename(path, path + "-moved")
    for reach in (os.listdir, open, plant, move, os.unlink, os.rmdir):
        try:
            reach(path)
            found.append(path)
        except PermissionError:
            pass
"""


def test_he_reads_nothing_in_the_cache_and_plants_nothing(stranger: Stranger, shared: Path) -> None:
    before = os.umask(0)  # the most that other users are ever given
    try:
        tree = made_tree("key", _make)
        paths = [tree, staging("0123"), tree.parent, private_directory()]
        with temporary_directory() as scratch:
            (scratch / "state").write_bytes(b"secret")
            paths += [scratch, scratch / "state"]
            assert stranger.run(REACH, paths=list(map(str, paths))) == []
    finally:
        os.umask(before)


def test_a_directory_of_ours_that_others_can_write_to_is_not_used(shared: Path) -> None:
    """Something may lie there already; one that others can only read is closed."""
    taken = shared / f"penstock-{ME}"
    taken.mkdir()
    taken.chmod(0o777)
    assert private_directory() != taken
    taken.chmod(0o755)
    temporary._chosen.clear()  # another process
    assert private_directory() == taken and stat.S_IMODE(taken.stat().st_mode) == 0o700


def test_a_cache_of_another_user_is_refused(
    stranger: Stranger, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He had planted files under the names of ours."""
    cache = shared / "cache"
    monkeypatch.setenv("PENSTOCK_CACHE", str(cache))
    stranger.run("os.mkdir(values['path'], 0o755)", path=str(cache))
    with pytest.raises(StorageError) as info:
        made_tree("key", _make)
    assert info.value.file == str(cache)


def test_a_cache_that_all_users_can_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path))
    for mode, sound in ((0o777, False), (0o1777, False), (0o775, True), (0o755, True)):
        tmp_path.chmod(mode)  # 0775: closed to all but a group of the user's own choice
        if sound:
            assert (made_tree("key", _make) / "model.bin").read_bytes() == b"ours"
            continue
        with pytest.raises(StorageError) as info:
            made_tree("key", _make)
        assert info.value.file == str(tmp_path) and f"{mode:04o}" in info.value.problem


@pytest.fixture
def limited() -> Iterator[None]:
    """Ends a call that waits for the writer of a pipe."""

    def end(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_pipe_in_a_work_directory_is_not_waited_for(tmp_path: Path, limited: None) -> None:
    """Attack: a pipe in the place of ``inputs.json`` or of a manifest stopped each run."""
    os.mkfifo(tmp_path / "inputs.json")
    for read in (lambda: stored_hashes(tmp_path), lambda: read_file(tmp_path / "inputs.json")):
        with pytest.raises(StorageError) as caught:
            read()
        assert str(caught.value.file) == str(tmp_path / "inputs.json")
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)


def test_the_cache_evicts_only_what_it_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``PENSTOCK_CACHE`` named a scratch directory, and its least recently used files went."""
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_CACHE_BYTES", "10")
    own = ["tree-" + "0" * 64, "1" * 64 + ".zst", "2" * 64, f".{'1' * 64}.zst.lock"]
    others = ["thesis", "notes.txt", "tree-house", ".profile"]
    for name in (*own, *others):
        (tmp_path / name).write_bytes(bytes(1000))
        os.utime(tmp_path / name, (1, 1))
    made_tree("3" * 64, _make)
    left = {path.name for path in tmp_path.iterdir()}
    assert left & {*own, *others} == set(others)


RECIPE = DEMO.encode().splitlines(keepends=True)[0] + b"corpus: []\n"


def test_the_demo_runs_no_recipe_of_another(tmp_path: Path) -> None:
    """Attack: ``demo/recipe.yaml`` in the current directory, which names a function of his."""
    directory = tmp_path / "demo"
    directory.mkdir()
    recipe = directory / "recipe.yaml"
    recipe.write_bytes(RECIPE)
    assert prepare(directory, print) == recipe
    recipe.write_bytes(b"corpus: []\n" + RECIPE)
    with pytest.raises(InputError) as caught:
        prepare(directory, print)
    assert caught.value.file == str(recipe)
    recipe.write_bytes(RECIPE)
    directory.chmod(0o777)
    with pytest.raises(StorageError):
        prepare(directory, print)
    directory.chmod(0o755)
    if os.geteuid():
        pytest.skip("NOT RUN: only root can give files to another user")
    for path in (directory, recipe):
        os.chown(path, 4242, 4242)
        with pytest.raises(StorageError) as refused:
            prepare(directory, print)
        assert refused.value.file == str(path)
        os.chown(path, 0, 0)
