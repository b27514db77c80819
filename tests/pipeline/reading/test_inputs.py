"""Hashes of input files, and the order of the inputs, which no listing changes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.artefact import Workspace
from penstock.errors import InputError
from penstock.pipeline.reading import inputs as module
from penstock.pipeline.reading.finding import find_inputs
from penstock.pipeline.reading.inputs import Input, hash_inputs
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe


def recipe(directory: Path, *corpus: Any) -> Recipe:
    entries = [{"path": entry} if isinstance(entry, str) else entry for entry in corpus]
    return parse_recipe({"corpus": entries, "budget": {"tokens": 1, "rank": "random"}}, directory)


def found_in(directory: Path, *corpus: Any) -> tuple[Input, ...]:
    return find_inputs(recipe(directory, *corpus)).inputs


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for name in ("a.jsonl", "b.jsonl.zst", "sub/c.parquet", "sub/deep/d.txt", "README.rst"):
        path = tmp_path / "pool" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


# -- hashing ----------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose bytes are read, as they are; changes of a moment ago count as settled."""
    monkeypatch.setattr(module, "_SETTLED", -(10**15), raising=False)
    read: list[str] = []
    real = module._digests

    def digests(blocks: Any, state: object) -> list[str]:
        read.extend(block.path.name for block in blocks)
        return real(blocks, state)

    monkeypatch.setattr(module, "_digests", digests)
    return read


def hashes(directory: Path, *corpus: Any) -> list[Input]:
    work = directory / "work"
    work.mkdir(exist_ok=True)
    return hash_inputs(found_in(directory, *corpus), Workspace(work), LocalRunner(1))


def test_the_order_is_that_of_the_bytes_not_of_the_list(pool: Path, tmp_path: Path) -> None:
    one = hashes(pool, "pool/a.jsonl", "pool/b.jsonl.zst", "pool/sub")
    other = hashes(pool, "pool/sub", "pool/b.jsonl.zst", "pool/a.jsonl")
    assert one == other
    assert [item.digest for item in one] == sorted(item.digest for item in one)
    moved = tmp_path / "elsewhere"
    shutil.copytree(pool / "pool", moved / "pool")
    assert [item.digest for item in hashes(moved, "pool")] == [item.digest for item in one]


def test_equal_files_are_ordered_by_name_whatever_the_list(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_bytes(b"same")
    for listed in (["a.jsonl", "b.jsonl"], ["b.jsonl", "a.jsonl"]):
        assert [item.path.name for item in hashes(tmp_path, *listed)] == ["a.jsonl", "b.jsonl"]


def test_a_second_run_reads_only_what_changed(pool: Path, hashed: list[str]) -> None:
    first = hashes(pool, "pool/a.jsonl", "pool/sub")
    assert sorted(hashed) == ["a.jsonl", "c.parquet", "d.txt"]
    hashed.clear()
    assert hashes(pool, "pool/a.jsonl", "pool/sub") == first
    assert hashed == []
    (pool / "pool" / "a.jsonl").write_bytes(b"A.jsonl")
    again = hashes(pool, "pool/a.jsonl", "pool/sub")
    assert hashed == ["a.jsonl"]
    assert {item.digest for item in again} != {item.digest for item in first}


def test_a_file_replaced_by_one_of_the_same_size_and_date_is_noticed(
    pool: Path, hashed: list[str]
) -> None:
    """As ``cp -p`` and ``rsync -t`` leave it."""
    path = pool / "pool" / "a.jsonl"
    first = hashes(pool, "pool/a.jsonl")
    status = path.stat()
    path.write_bytes(b"b.jsonl")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hashes(pool, "pool/a.jsonl")[0].digest != first[0].digest
    assert len(hashed) == 2


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff", b"[" * 10**5]
    + [
        b'{"version": %d%s}' % (module._CACHE_VERSION, rest)
        for rest in (
            b"",
            b', "files": []',
            b', "files": {"a": 1}',
            b', "files": {"a": {"version": []}}',
        )
    ],
)
def test_a_damaged_memory_is_made_anew(pool: Path, hashed: list[str], damage: bytes) -> None:
    first = hashes(pool, "pool/a.jsonl")
    (pool / "work" / "inputs.json").write_bytes(damage)
    assert hashes(pool, "pool/a.jsonl") == first
    assert hashed == ["a.jsonl", "a.jsonl"]
    assert json.loads((pool / "work" / "inputs.json").read_bytes())


def test_a_large_file_is_hashed_in_blocks_and_small_ones_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    monkeypatch.setattr(module, "_TASK_BYTES", 50)
    content = bytes(range(250))
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "large.jsonl").write_bytes(content)
    for number in range(20):
        (tmp_path / "pool" / f"{number:02d}.jsonl").write_bytes(b"%010d" % number)
    (tmp_path / "pool" / "empty.jsonl").write_bytes(b"")
    items: list[int] = []

    class Counting(LocalRunner):
        def run(self, function: Any, given: Any, *rest: Any, **more: Any) -> Any:
            items.append(len(given))
            return super().run(function, given, *rest, **more)

    workspace = Workspace(tmp_path / "w")
    found = hash_inputs(found_in(tmp_path, "pool"), workspace, Counting(1))
    assert items == [4 + 3]
    blocks = [hashlib.sha256(content[start : start + 100]).hexdigest() for start in (0, 100, 200)]
    digests = {item.path.name: item.digest for item in found}
    assert digests["large.jsonl"] == hashlib.sha256("".join(blocks).encode()).hexdigest()
    assert len(set(digests.values())) == 22


def test_the_hashes_of_other_recipes_are_kept(pool: Path, hashed: list[str]) -> None:
    hashes(pool, "pool/a.jsonl")
    hashes(pool, "pool/sub")
    hashes(pool, "pool/a.jsonl")
    assert hashed.count("a.jsonl") == 1


def test_a_dataset_s_directory_is_hashed_by_names_and_bytes(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "one.parquet").write_bytes(b"1")
    found = [hashes(tmp_path, "hf:data")[0].digest]
    changes: list[Callable[[], object]] = [
        lambda: (directory / "two.parquet").write_bytes(b"2"),
        lambda: (directory / "two.parquet").write_bytes(b"3"),
        lambda: (directory / "two.parquet").rename(directory / "three.parquet"),
    ]
    for change in changes:
        change()
        found.append(hashes(tmp_path, "hf:data")[0].digest)
    assert len(set(found)) == 4
    directory.rename(tmp_path / "moved")
    assert hashes(tmp_path, "hf:moved")[0].digest == found[-1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_named(pool: Path) -> None:
    (pool / "pool" / "a.jsonl").chmod(0)
    with pytest.raises(InputError) as caught:
        hashes(pool, "pool/a.jsonl")
    assert caught.value.file == str(pool / "pool" / "a.jsonl")
