"""Which files a corpus is: found once each, in an order that no listing changes."""

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
from penstock.pipeline.reading.inputs import Input, find_inputs, hash_inputs
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import LiteralSource, Recipe
from penstock.recipe_file import parse_recipe


def recipe(directory: Path, *corpus: Any) -> Recipe:
    entries = [{"path": entry} if isinstance(entry, str) else entry for entry in corpus]
    return parse_recipe({"corpus": entries, "budget": {"tokens": 1, "rank": "random"}}, directory)


def names(directory: Path, *corpus: Any) -> list[str]:
    found = find_inputs(recipe(directory, *corpus))
    return [item.path.relative_to(directory).as_posix() for item in found]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for name in ("a.jsonl", "b.jsonl.zst", "sub/c.parquet", "sub/deep/d.txt", "README.md"):
        path = tmp_path / "pool" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


# -- finding ----------------------------------------------------------------------------------


def test_files_directories_and_patterns(pool: Path) -> None:
    assert names(pool, "pool/a.jsonl") == ["pool/a.jsonl"]
    assert names(pool, "pool") == [
        "pool/a.jsonl",
        "pool/b.jsonl.zst",
        "pool/sub/c.parquet",
        "pool/sub/deep/d.txt",
    ]
    assert names(pool, "pool/*.jsonl*") == ["pool/a.jsonl", "pool/b.jsonl.zst"]
    assert names(pool, "pool/**/*.parquet") == ["pool/sub/c.parquet"]
    assert names(pool, str(pool / "pool" / "*.jsonl")) == ["pool/a.jsonl"]


def test_a_file_that_is_named_twice_is_one_input(pool: Path) -> None:
    assert names(pool, "pool/a.jsonl", "pool/*.jsonl", "./pool/a.jsonl") == ["pool/a.jsonl"]


def test_a_file_read_in_two_ways_is_two_inputs(pool: Path) -> None:
    found = find_inputs(recipe(pool, "pool/a.jsonl", {"path": "pool/a.jsonl", "text": "title"}))
    assert [item.spec.text for item in found] == ["text", "title"]


def test_brackets_in_a_file_s_name_or_the_recipe_s_directory_are_no_pattern(
    tmp_path: Path,
) -> None:
    odd = tmp_path / "run [1]"
    odd.mkdir()
    (odd / "a[2].jsonl").write_bytes(b"")
    (odd / "b.jsonl").write_bytes(b"")
    assert names(odd, "a[2].jsonl") == ["a[2].jsonl"]
    assert names(odd, "*.jsonl") == ["a[2].jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("pool/none.jsonl", "no such file"),
        ("pool/*.arrow", "no file"),
        ("pool/README.md", "unknown kind"),
        ("pool/*", "README.md"),
        ("empty", "no file"),
    ],
)
def test_a_path_without_input_files_is_refused_with_its_key(
    pool: Path, path: str, named: str
) -> None:
    (pool / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        names(pool, path)
    assert (caught.value.key, caught.value.file) == ("corpus.0.path", str(pool / path))
    assert named in caught.value.problem


def test_a_directory_that_is_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    for path in ("x.jsonl", "*.jsonl"):
        with pytest.raises(InputError) as caught:
            names(tmp_path, path)
        assert caught.value.file == str(tmp_path / path)


def test_a_plain_text_file_s_name_is_its_source_and_part_of_its_reading(tmp_path: Path) -> None:
    """Else renaming it would change documents and not the fingerprint."""
    (tmp_path / "wiki.en.txt").write_bytes(b"x")
    (tmp_path / "a.jsonl").write_bytes(b"x")
    text, lines = find_inputs(recipe(tmp_path, "wiki.en.txt", "a.jsonl"))
    assert text.spec.source == LiteralSource(name="wiki")
    assert text.reading["source"] == {"name": "wiki"}
    assert lines.spec.source == "source"
    (named,) = find_inputs(recipe(tmp_path, {"path": "wiki.en.txt", "source": {"name": "w"}}))
    assert named.spec.source == LiteralSource(name="w")


# -- hashing ----------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose bytes are read, as they are."""
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
    return hash_inputs(find_inputs(recipe(directory, *corpus)), Workspace(work), LocalRunner(1))


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


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_memory_is_made_anew(pool: Path, hashed: list[str], damage: bytes) -> None:
    first = hashes(pool, "pool/a.jsonl")
    (pool / "work" / "inputs.json").write_bytes(damage)
    assert hashes(pool, "pool/a.jsonl") == first
    assert hashed == ["a.jsonl", "a.jsonl"]
    assert json.loads((pool / "work" / "inputs.json").read_bytes())


def test_a_large_file_is_hashed_in_blocks_and_small_ones_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 100)
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
    found = hash_inputs(find_inputs(recipe(tmp_path, "pool")), workspace, Counting(1))
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
