"""What is read later is what was hashed: inputs that are swapped or changed are never published."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

from penstock import node_cache
from penstock.artefact import Workspace
from penstock.errors import InputError
from penstock.pipeline import corpus as corpus_module
from penstock.pipeline.corpus import CorpusSettings, make_corpus
from penstock.pipeline.reading import readers, splits
from penstock.pipeline.reading.inputs import hash_inputs, unchanged
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe
from penstock.storage import as_path, store_of
from tests.s3 import BUCKET, environment

ONE = LocalRunner(workers=1)

GOOD = [{"text": f"good {n:03d}"} for n in range(40)]
EVIL = [{"text": f"evil {n:03d}"} for n in range(40)]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, compression="none")
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.utime(path, ns=(10**18, 10**18))


def make(directory: Path, path: str) -> Any:
    recipe = parse_recipe(
        {
            "corpus": [{"path": path}],
            "budget": {"tokens": 100, "rank": "random"},
            "tokenizer": {"train": {"vocab_size": 320}},
        },
        directory,
    )
    return make_corpus(CorpusSettings.of(recipe), Workspace(directory / "work"), ONE)


def rewritten(pool: Path) -> None:
    write(pool / "b.jsonl", EVIL)


def replaced(pool: Path) -> None:
    write(pool / "c.tmp", EVIL)
    os.replace(pool / "c.tmp", pool / "b.jsonl")


def added(pool: Path) -> None:
    write(pool / "c.jsonl", EVIL)


def gone(pool: Path) -> None:
    (pool / "b.jsonl").unlink()


def swapped(pool: Path) -> None:
    write(pool.with_name("other") / "b.jsonl", EVIL)
    shutil.copy2(pool / "a.jsonl", pool.with_name("other") / "a.jsonl")
    pool.rename(pool.with_name("hidden"))
    pool.with_name("other").rename(pool)


CHANGES = {rewritten: "b.jsonl", replaced: "b.jsonl", added: "c.jsonl", gone: "b.jsonl"}


@pytest.mark.parametrize("change", [*CHANGES, swapped], ids=lambda change: change.__name__)
def test_a_dataset_s_directory_that_changes_after_it_was_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """Attack: a directory of `hf:` is swapped after hashing and published under the old name."""
    pool = tmp_path / "pool"
    write(pool / "a.jsonl", GOOD)
    write(pool / "b.jsonl", GOOD[:20])
    plan = corpus_module.plan_splits

    def attacked(*arguments: Any) -> Any:
        change(pool)
        return plan(*arguments)

    monkeypatch.setattr(corpus_module, "plan_splits", attacked)
    with pytest.raises(InputError) as info:
        make(tmp_path, "hf:pool")
    if change is not swapped:
        assert info.value.file == str(pool / CHANGES[change])
    assert not list(Workspace(tmp_path / "work").artefacts())
    assert not list(tmp_path.glob("work/corpus/*/records/*"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.arrow", "a.csv"])
def test_a_file_that_is_another_one_only_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Attack: between both looks at the path another file lies there, and then the first again."""
    pool, hidden, other = (tmp_path / own for own in ("pool", "hidden", "other"))
    if name.endswith(".csv"):
        for directory, rows in ((pool, GOOD), (other, EVIL)):
            directory.mkdir()
            (directory / name).write_text("text\n" + "".join(f"{row['text']}\n" for row in rows))
    else:
        write(pool / name, GOOD)
        write(other / name, EVIL)
    assert (pool / name).stat().st_size == (other / name).stat().st_size
    read = splits.read_batches

    def attacked(*arguments: Any) -> Iterator[Any]:
        pool.rename(hidden)
        other.rename(pool)
        try:
            yield from read(*arguments)
        finally:
            pool.rename(other)
            hidden.rename(pool)

    monkeypatch.setattr(splits, "read_batches", attacked)
    with pytest.raises(InputError) as info:
        make(tmp_path, f"pool/{name}")
    assert info.value.file == str(pool / name)
    assert not list(Workspace(tmp_path / "work").artefacts())
    monkeypatch.undo()
    assert make(tmp_path, f"pool/{name}").facts["documents"]["kept"] == 40


def test_two_files_of_one_size_and_time_are_told_apart(tmp_path: Path) -> None:
    """Attack: another file of the same size and times, as those that one process writes at once."""
    write(tmp_path / "pool/a.jsonl", GOOD)
    recipe = parse_recipe(
        {
            "corpus": [{"path": "pool/a.jsonl"}],
            "budget": {"tokens": 100, "rank": "random"},
            "tokenizer": {"train": {"vocab_size": 320}},
        },
        tmp_path,
    )
    found = CorpusSettings.of(recipe).found.inputs
    [item] = hash_inputs(found, Workspace(tmp_path / "work"), ONE)
    [file] = item.files
    write(tmp_path / "pool/a.jsonl", EVIL)
    size, modified, changed, inode = file.version
    same = (*store_of(file.path).version(file.path)[:3], int(inode) + 1)
    with pytest.raises(InputError):
        replace(file, version=same).check()
    # A file system in user space may number its files anew: then the bytes decide.
    write(tmp_path / "pool/a.jsonl", GOOD)
    same = (*store_of(file.path).version(file.path)[:3], int(inode) + 1)
    sound = replace(file, version=same)
    sound.check()
    with unchanged(replace(item, files=(sound,))):
        read = [*readers.read_batches(file.path, item.spec)]
    assert sum(len(batch.documents) for batch in read) == 40
    assert (size, changed) == (file.path.stat().st_size, changed) and modified == 10**18


def test_an_object_that_changes_as_it_is_copied_is_not_kept(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: the copy of a new object lies in the cache under the name of the old one."""
    path = as_path(f"s3://{BUCKET}/{tmp_path.name}/a.arrow")
    S3FileSystem().pipe_file(path.path, b"first")
    copy = type(store_of(path)).copy

    def attacked(store: Any, where: Any, target: Path) -> None:
        S3FileSystem().pipe_file(path.path, b"other")
        copy(store, where, target)

    with environment(PENSTOCK_CACHE=str(tmp_path / "cache")):
        monkeypatch.setattr(type(store_of(path)), "copy", attacked)
        with pytest.raises(InputError) as info:
            node_cache.local_file(path)
        assert info.value.file == str(path)
        monkeypatch.undo()
        S3FileSystem().pipe_file(path.path, b"first")
        assert node_cache.local_file(path).read_bytes() == b"first"


def test_an_object_that_is_another_one_only_while_it_is_read(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: as with files, in a store; the entity tag of the request decides."""
    path = as_path(f"s3://{BUCKET}/{tmp_path.name}/a.jsonl")
    good, evil = ("".join(json.dumps(row) + "\n" for row in rows) for rows in (GOOD, EVIL))
    S3FileSystem().pipe_file(path.path, good.encode())
    read = splits.read_batches

    def attacked(*arguments: Any) -> Iterator[Any]:
        S3FileSystem().pipe_file(path.path, evil.encode())
        try:
            yield from read(*arguments)
        finally:
            S3FileSystem().pipe_file(path.path, good.encode())

    monkeypatch.setattr(splits, "read_batches", attacked)
    with pytest.raises(InputError) as info:
        make(tmp_path, str(path))
    assert info.value.file == str(path)
