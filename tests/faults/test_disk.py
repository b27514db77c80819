"""Faults of a disk: full, read-only, lost files, changed bytes, files of a newer version.

Each time the command ends with status 1 and a line that names the path and a fix; nothing is
published; and after the fix, the same command gives the same result.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.artefact import Artefact, Workspace
from tests.harness import WHOLE
from tests.harness.campaign import ALONE, POOL, Call, Inside, Way
from tests.harness.committed import check_committed, digests, strays
from tests.harness.curation import Curations, Ended
from tests.harness.project import make_project

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


STAGES = ["corpus", "verdicts", "model", "columns", "tokenizer", "cut", "shards"]


@pytest.fixture(scope="module")
def curations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Curations]:
    made = Curations(tmp_path_factory.mktemp("warm"))
    yield made
    made.close()


def small_project(directory: Path) -> Path:
    return make_project(directory, count=150, tokens=5_000, length=True).recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, curations: Curations) -> Path:
    """Return the recipe of a curated project; only to be copied."""
    recipe = small_project(tmp_path_factory.mktemp("finished"))
    assert curations.run(recipe).status == 0
    return recipe


@pytest.fixture
def recipe(finished: Path, tmp_path: Path) -> Path:
    """Return the recipe of a copy of the curated project."""
    shutil.copytree(finished.parent, tmp_path / "project")
    return tmp_path / "project" / finished.name


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Return the recipe of a project without artefacts."""
    return small_project(tmp_path / "project")


@pytest.fixture
def mounted(fresh: Path) -> Iterator[Callable[[str], None]]:
    """Return ``mounted(options)``: mount a file system for the work directory, or remount it."""
    work = fresh.parent / "work"
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a file system can be mounted by root on Linux only")
    work.mkdir()
    made = False

    def mount(options: str) -> None:
        nonlocal made
        how = f"remount,{options}" if made else options
        command = ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(work)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        made = True

    yield mount
    if made:
        subprocess.run(["umount", "--lazy", str(work)], check=True)


def failure_of(ended: Ended) -> str:
    """Return the message of a run that failed."""
    assert ended.status == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert not ended.stdout
    assert ended.lingering == 0
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("penstock: ")]
    return line.removeprefix("penstock: ")


def the_same(ended: Ended, recipe: Path, finished: Path, work: str = "work") -> None:
    """Check that a run gave the result of an undisturbed one."""
    assert ended.summary["digest"]
    assert digests(recipe.parent / work) == digests(finished.parent / "work")
    check_committed(recipe.parent / work)
    assert not strays(recipe.parent / work)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def follow(message: str) -> None:
    """Apply the fix of a message."""
    named = re.search(r"delete (?:the directory )?(/\S+) and run again", message)
    assert named, message
    shutil.rmtree(named[1])


# -- full, read-only, no directory --------------------------------------------------------------


SHARES = [0.1, 0.3, 0.5, 0.7, 0.85]
FULL = [*((share, ALONE) for share in SHARES), *((s, POOL) for s in (SHARES if WHOLE else [0.5]))]


@pytest.mark.parametrize(("share", "way"), FULL, ids=[f"{s}-by-{w.workers}" for s, w in FULL])
def test_a_full_disk(
    curations: Curations,
    finished: Path,
    fresh: Path,
    mounted: Callable[[str], None],
    share: float,
    way: Way,
) -> None:
    """At any stage: free some space, and the run continues from its records."""
    whole = sum(
        -(-path.stat().st_size // 4096)
        for path in (finished.parent / "work").rglob("*")
        if path.is_file()
    )
    mounted(f"size={int(share * whole) * 4096}")
    message = failure_of(curations.run(fresh, way))
    print(message)
    work = fresh.parent / "work"
    assert message.startswith(f"{work}/")
    assert ": no space is left; free some, or give another `work`, and run again" in message
    assert "what is finished is kept" in message
    kept = check_committed(work)
    assert len(digests(work)) < len(digests(finished.parent / "work"))
    mounted("size=64m")
    the_same(curations.run(fresh, way), fresh, finished)
    assert all(path.stat().st_mtime_ns == made[1] for path, made in kept.items() if path.exists())


def test_a_read_only_file_system(
    curations: Curations, finished: Path, fresh: Path, mounted: Callable[[str], None]
) -> None:
    mounted("ro,size=64m")
    message = failure_of(curations.run(fresh))
    work = fresh.parent / "work"
    assert str(work) in message and "is read-only; give another `work`" in message
    the_same(curations.run(fresh, ALONE, (), "work=other"), fresh, finished, work="other")
    mounted("rw")
    the_same(curations.run(fresh), fresh, finished)


def test_a_finished_run_is_found_on_a_read_only_file_system(
    curations: Curations, finished: Path, fresh: Path, mounted: Callable[[str], None]
) -> None:
    mounted("size=64m")
    first = curations.run(fresh).summary
    mounted("ro")
    assert curations.run(fresh).summary["digest"] == first["digest"]


def test_a_work_directory_below_a_file(curations: Curations, finished: Path, fresh: Path) -> None:
    work = fresh.parent / "work"
    work.write_text("a note\n")
    message = failure_of(curations.run(fresh))
    assert str(work) in message
    assert "a file stands where a directory is needed; remove it, or give another" in message
    work.unlink()
    the_same(curations.run(fresh), fresh, finished)


# -- files that changed, or are gone ------------------------------------------------------------

DAMAGE = [
    # The file that changes, and the stages that are deleted so that it is read again.
    ("corpus/*/unit-00004-000.parquet", ["columns"]),
    ("model/*/state/weights.npy", ["columns"]),
    ("columns/*/unit-00004-000.parquet", ["cut"]),
    ("tokenizer/*/tokenizer.json", ["shards"]),
    ("tokens/*/unit-00004-000-000-*.arrow", ["shards"]),
    ("cut/*/unit-00004-000.parquet", ["shards"]),
]
KINDS = {"flipped": flipped, "deleted": Path.unlink}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("pattern", "again"), DAMAGE, ids=[pattern for pattern, _ in DAMAGE])
def test_a_file_that_is_not_what_was_recorded(
    curations: Curations, finished: Path, recipe: Path, pattern: str, again: list[str], kind: str
) -> None:
    work = recipe.parent / "work"
    path = sorted(work.glob(pattern))[-1]
    KINDS[kind](path)
    for stage in again:
        shutil.rmtree(work / stage)
    before = digests(work)
    message = failure_of(curations.run(recipe))
    print(message)
    # A record whose file is gone is none: the store of tokens lacks documents, and is named.
    assert message.startswith((f"{path}: ", f"{path.parent}: ")), message
    if kind == "flipped":
        assert re.search(r"expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}", message)
    assert digests(work).keys() - before.keys() <= {"columns"}, "made from a damaged file"
    follow(message)
    ended = curations.run(recipe)
    if ended.status == 1:  # the cut that was made with the token store must be deleted too
        follow(failure_of(ended))
        ended = curations.run(recipe)
    the_same(ended, recipe, finished)


def test_a_shard_that_changed_is_not_trained_on(recipe: Path) -> None:
    """Shards are compared with their checksums when they are opened."""
    (artefact,) = [
        found
        for found in Workspace(recipe.parent / "work").artefacts()
        if found.manifest["stage"] == "shards"
    ]
    shard = artefact.path / "shard-00001.arrow"
    flipped(shard)
    open_shards = "import sys; from penstock.trainers.data.shards import ShardSet; ShardSet.open"
    script = f"{open_shards}(__import__('pathlib').Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(artefact.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{shard}: changed since it was written, expected sha256" in done.stderr
    assert f"delete {artefact.path} and run again" in done.stderr


# -- manifests and records ----------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES if WHOLE else ["columns"])
def test_a_manifest_of_a_newer_version(
    curations: Curations, finished: Path, recipe: Path, stage: str
) -> None:
    manifest = next((recipe.parent / "work" / stage).glob("*/manifest.json"))
    content = json.loads(manifest.read_bytes())
    manifest.write_text(json.dumps({**content, "format": 2}))
    message = failure_of(curations.run(recipe))
    assert message.startswith(
        f"{manifest}: expected a manifest of format 1 or older, got format 2; "
    )
    assert "upgrade Penstock or use another work directory" in message
    the_same(curations.run(recipe, ALONE, (), "work=other"), recipe, finished, work="other")


@pytest.mark.parametrize("stage", [*STAGES, "tokens"] if WHOLE else ["corpus", "tokens"])
def test_a_manifest_that_was_cut_off(
    curations: Curations, finished: Path, recipe: Path, stage: str
) -> None:
    manifest = next((recipe.parent / "work" / stage).glob("*/manifest.json"))
    with open(manifest, "r+b") as file:
        file.truncate(manifest.stat().st_size // 2)
    if stage == "tokens":  # which goes by its records
        shutil.rmtree(recipe.parent / "work" / "cut")
        shutil.rmtree(recipe.parent / "work" / "shards")
        the_same(curations.run(recipe, ALONE, (), "budget.tokens=5_000"), recipe, finished)
        return
    message = failure_of(curations.run(recipe))
    assert message.startswith(f"{manifest}: not a manifest (")
    follow(message)
    the_same(curations.run(recipe), recipe, finished)


RECORDED = ["corpus", "verdicts", "columns", "tokens", "cut", "shards"]


@pytest.mark.parametrize("stage", RECORDED if WHOLE else ["tokens", "cut"])
def test_a_record_that_was_cut_off(
    curations: Curations, finished: Path, fresh: Path, stage: str
) -> None:
    call = Call(role="driver", stage=stage, what="record", kind="link", when="after")
    assert curations.run(fresh, ALONE, [Inside(call=call, nth=5)]).status == -9
    work = fresh.parent / "work"
    record = sorted(work.glob(f"{stage}/*/records/*.json"))[-1]
    with open(record, "r+b") as file:
        file.truncate(record.stat().st_size // 2)
    message = failure_of(curations.run(fresh))
    assert message.startswith(f"{record}: not a record of files (")
    assert not (record.parents[1] / "manifest.json").exists()
    follow(message)
    the_same(curations.run(fresh), fresh, finished)


def test_a_recorded_file_that_is_gone_is_made_again(
    curations: Curations, finished: Path, fresh: Path
) -> None:
    call = Call(role="driver", stage="columns", what="record", kind="link", when="after")
    assert curations.run(fresh, ALONE, [Inside(call=call, nth=5)]).status == -9
    record = sorted((fresh.parent / "work").glob("columns/*/records/*.json"))[0]
    column = record.parents[1] / f"{record.stem}.parquet"
    column.unlink()
    the_same(curations.run(fresh), fresh, finished)
    assert column.is_file()


def test_an_artefact_at_the_path_of_another(
    curations: Curations, finished: Path, recipe: Path
) -> None:
    """As a wrong copy of directories leaves it."""
    work = recipe.parent / "work"
    first, second = sorted((work / "columns").iterdir())
    shutil.rmtree(first)
    shutil.copytree(second, first)
    message = failure_of(curations.run(recipe))
    named = Artefact.open(first).fingerprint
    assert message.startswith(f"{first}: expected the artefact ")
    assert f", got {named}; " in message
    shutil.rmtree(first)
    the_same(curations.run(recipe), recipe, finished)
