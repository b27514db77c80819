"""Places: local directories and S3, by the same operations."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from penstock import storage
from penstock.errors import StorageError
from penstock.node_cache import local_file, local_tree
from penstock.pipeline.runners.transient import is_transient
from penstock.storage import (
    AnyPath,
    as_path,
    atomic_file,
    create_file,
    files_under,
    find_files,
    is_remote,
    is_uri,
    kind_of,
    make_directory,
    path_problem,
    read_file,
    remove_tree,
    sha256_file,
    sizes_under,
    translate_os_errors,
)
from tests.s3 import BUCKET, environment


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyPath]:
    with environment(PENSTOCK_CACHE=str(tmp_path / "cache")):
        if request.param == "local":
            yield tmp_path / "place"
        else:
            request.getfixturevalue("s3")
            yield as_path(f"s3://{BUCKET}/{tmp_path.name}")


def test_uris_are_told_from_paths() -> None:
    assert is_uri("s3://bucket/work")
    assert not is_uri("/a/b") and not is_uri("a/b") and not is_uri("C:/x")
    assert as_path("a/../b") == Path.cwd() / "b" and not is_remote(as_path("b"))


def test_an_unknown_store_is_named_with_what_is_expected() -> None:
    with pytest.raises(StorageError, match="nosuch://x/y: .*expected a directory, or a URI"):
        as_path("nosuch://x/y")


def test_a_file_is_written_whole_with_its_size_and_checksum(root: AnyPath) -> None:
    with atomic_file(root / "a" / "b.bin") as sink:
        sink.write(b"one")
        sink.write(memoryview(b"two"))
        assert not (root / "a" / "b.bin").exists()
    assert (root / "a" / "b.bin").read_bytes() == b"onetwo"
    assert (sink.bytes, sink.sha256) == (6, hashlib.sha256(b"onetwo").hexdigest())
    assert sha256_file(root / "a" / "b.bin") == sink.sha256


def test_a_failed_write_leaves_nothing(root: AnyPath) -> None:
    with pytest.raises(KeyError), atomic_file(root / "b.bin") as sink:
        sink.write(b"half")
        raise KeyError
    assert files_under(root) == []


def test_a_file_is_created_by_one_writer_only(root: AnyPath) -> None:
    assert create_file(root / "lease" / "1", b"first")
    assert not create_file(root / "lease" / "1", b"second")
    assert (root / "lease" / "1").read_bytes() == b"first"
    assert files_under(root) == ["lease/1"]


def test_what_lies_below_is_listed_and_removed(root: AnyPath) -> None:
    for name in ("x/1.bin", "x/y/2.bin", "3.txt"):
        create_file(root / name, b".")
    assert files_under(root) == ["3.txt", "x/1.bin", "x/y/2.bin"]
    assert [path.name for path in find_files(root / "x" / "**" / "*.bin")] in (
        ["1.bin", "2.bin"],
        ["2.bin", "1.bin"],
    )
    assert [path.name for path in find_files(root / "3.txt")] == ["3.txt"]
    assert find_files(root / "none") == []
    remove_tree(root / "x")
    assert files_under(root) == ["3.txt"]
    remove_tree(root / "x")


def test_another_process_writes_what_this_one_lists(root: AnyPath) -> None:
    assert files_under(root) == []
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=_create, args=(pickle.dumps(root / "new"),))
    other.start()
    other.join()
    assert other.exitcode == 0
    assert files_under(root) == ["new"] and (root / "new").exists()


def _create(where: bytes) -> None:
    assert create_file(pickle.loads(where), b"x")


def test_a_remote_file_is_fetched_once_and_again_when_its_copy_was_changed(root: AnyPath) -> None:
    create_file(root / "data.arrow", b"bytes")
    digest = hashlib.sha256(b"bytes").hexdigest()
    here = local_file(root / "data.arrow", digest)
    assert here.read_bytes() == b"bytes" and here.suffix == ".arrow"
    if not is_remote(root):
        assert here == root / "data.arrow"
        return
    inode = here.stat().st_ino
    assert local_file(root / "data.arrow", digest).stat().st_ino == inode
    here.write_bytes(b"Bytes")
    assert local_file(root / "data.arrow", digest).read_bytes() == b"bytes"


def test_a_file_of_unknown_content_is_fetched_again_when_it_changed(root: AnyPath) -> None:
    with atomic_file(root / "t.jsonl") as sink:
        sink.write(b"old")
    assert local_file(root / "t.jsonl").read_bytes() == b"old"
    with atomic_file(root / "t.jsonl") as sink:
        sink.write(b"new!")
    found = local_file(root / "t.jsonl")
    assert (found.name, found.read_bytes()) == ("t.jsonl", b"new!")


def test_a_directory_is_brought_here_whole(root: AnyPath) -> None:
    contents = {"state/a.npy": b"1", "b.json": b"2"}
    for name, data in contents.items():
        create_file(root / name, data)
    names = [(name, hashlib.sha256(data).hexdigest()) for name, data in contents.items()]
    here = local_tree(root, names, "key")
    assert {name: (here / name).read_bytes() for name in contents} == contents


def test_the_cache_forgets_what_was_used_longest_ago(s3: str, tmp_path: Path) -> None:
    root = as_path(f"s3://{BUCKET}/evict")
    cache = tmp_path / "cache"
    with environment(PENSTOCK_CACHE=str(cache), PENSTOCK_CACHE_BYTES="2500"):
        kept = []
        for number in range(4):
            create_file(root / f"{number}.bin", bytes([number]) * 1000)
            kept.append(local_file(root / f"{number}.bin", _sha(number)))
            os.utime(kept[-1], (1000 + number, 1000 + number))  # long ago
        local_file(root / "3.bin", _sha(3))
        create_file(root / "4.bin", bytes([4]) * 1000)
        kept.append(local_file(root / "4.bin", _sha(4)))
    assert [path.exists() for path in kept] == [False, False, False, True, True]


def _sha(number: int) -> str:
    return hashlib.sha256(bytes([number]) * 1000).hexdigest()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space is left there; free some"),
        (errno.EROFS, "read-only"),
        (errno.EFBIG, "no file may grow that large there; raise the limit"),
        (errno.EACCES, "permission denied; let this user write there"),
    ],
)
def test_errors_of_the_system_say_where_and_what_helps(number: int, words: str) -> None:
    message = f"/x/y: .*{words}.*what is finished is kept"
    with pytest.raises(StorageError, match=message), translate_os_errors(Path("/x/y")):
        raise OSError(number, os.strerror(number))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_directory_that_cannot_be_made_is_named() -> None:
    message = r"^/proc/nowhere: no directory can be made there \(.*\); give another `work`$"
    with pytest.raises(StorageError, match=message):
        make_directory(Path("/proc/nowhere"))
    with pytest.raises(StorageError, match=message), atomic_file(Path("/proc/nowhere/x")):
        pass


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("s3:/bucket/x", "'s3://bucket/x'"),
        ("s3:bucket/x", "'s3://bucket/x'"),
        ("gs:/bucket", "'gs://bucket'"),
        ("s3://", "expected a bucket, as in s3://bucket/work"),
        ("s3:///x", "expected a bucket, as in s3://bucket/work"),
    ],
)
def test_a_uri_that_is_half_written_is_no_local_path(text: str, meant: str) -> None:
    assert meant in (path_problem(text) or "")
    with pytest.raises(StorageError, match=re.escape(meant)):
        as_path(text)
    assert not any(map(path_problem, ("s3", "./s3:/x", "work", "s3://b", "/a:b", "hf:a/b", "C:/x")))


def test_a_store_that_is_not_there_is_said_before_it_is_given_up(
    s3: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One question, so that tries and waits do not add up: fsspec's `is_file` alone swallows it."""
    monkeypatch.setattr(storage, "_PATIENCE", 0.2)
    retries = {"total_max_attempts": 2, "mode": "standard"}
    monkeypatch.setitem(storage._S3, "config_kwargs", {"retries": retries})
    with environment(AWS_ENDPOINT_URL="http://127.0.0.1:9"):
        for ask in (kind_of, find_files, read_file, files_under):
            S3FileSystem.clear_instance_cache()
            with pytest.raises(StorageError, match=r"^s3://gone/x: .*127\.0\.0\.1:9") as caught:
                ask(as_path("s3://gone/x"))
            assert "look whether it can be reached" in str(caught.value)
            assert is_transient(caught.value)
    S3FileSystem.clear_instance_cache()
    assert "s3://gone/x: no answer for 0 s; trying on" in caplog.text


def test_the_tries_of_a_request_take_seconds_not_minutes() -> None:
    tries = storage._S3["config_kwargs"]["retries"]["total_max_attempts"]
    assert sum(min(20, 2**number) for number in range(tries - 1)) / 2 < 20


def test_what_lies_at_a_place_is_told(root: AnyPath) -> None:
    create_file(root / "a" / "b", b".")
    assert kind_of(root / "a" / "b") == "file"
    assert kind_of(root / "a") == kind_of(root) == "directory"
    assert kind_of(root / "c") is None
    create_file(root / "a" / "long", b"12345")
    assert sizes_under(root) == {"a/b": 1, "a/long": 5}


def test_a_bucket_that_is_not_there_is_an_error_that_names_it(s3: str) -> None:
    message = "s3://nosuchbucket/x: .*bucket does not exist"
    where = as_path("s3://nosuchbucket/x")
    with pytest.raises(StorageError, match=message), atomic_file(where) as sink:
        sink.write(b"x")
