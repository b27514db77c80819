"""Stores: local directories and S3, by the same functions."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import multiprocessing
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import botocore
import pytest
from s3fs import S3FileSystem

from penstock.errors import InputError, StorageError
from penstock.node_cache import local_file, local_tree, made_tree
from penstock.pipeline.runners.attempt import is_transient
from penstock.selectors.targets import targets_in
from penstock.storage import (
    AnyPath,
    LineLog,
    as_path,
    atomic_file,
    copy_file,
    create_file,
    delete,
    delete_files,
    files_under,
    find_files,
    find_temporaries,
    is_uri,
    kind_of,
    make_directory,
    path_problem,
    read_file,
    remote,
    replace_file,
    sha256_file,
    sizes_under,
    store_of,
    translate_os_errors,
)
from penstock.storage.remote import RemoteStore
from penstock.storage.stores.s3 import S3Store
from penstock.temporary import private_directory
from tests.s3 import BUCKET, environment


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyPath]:
    with environment(PENSTOCK_CACHE=str(tmp_path / "cache")):
        if request.param == "local":
            yield tmp_path / "place"
        else:
            request.getfixturevalue("s3")
            yield as_path(f"s3://{BUCKET}/{tmp_path.name}")


def test_a_uri_is_not_a_local_path() -> None:
    assert is_uri("s3://bucket/work")
    assert not is_uri("/a/b") and not is_uri("a/b") and not is_uri("C:/x")
    assert as_path("a/../b") == Path.cwd() / "b"


def test_an_unknown_store_is_refused() -> None:
    with pytest.raises(StorageError) as info:
        as_path("nosuch://x/y")
    assert info.value.file == "nosuch://x/y" and "s3://bucket/work" in str(info.value.expected)


def test_a_file_is_written_whole_with_its_size_and_checksum(root: AnyPath) -> None:
    with atomic_file(root / "a" / "b.bin") as sink:
        sink.write(b"one")
        sink.write(memoryview(b"two"))
        assert not (root / "a" / "b.bin").exists()
    assert (root / "a" / "b.bin").read_bytes() == b"onetwo"
    assert (sink.bytes, sink.sha256) == (6, hashlib.sha256(b"onetwo").hexdigest())
    assert sha256_file(root / "a" / "b.bin") == sink.sha256


def test_a_file_is_copied_or_linked(
    root: AnyPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link where source and target are on one file system that has links; a copy elsewhere."""
    source = tmp_path / "source"
    source.write_bytes(b"abc" * 1000)
    for number, links in enumerate((True, False)):
        if not links:
            monkeypatch.setattr(os, "link", Mock(side_effect=OSError(errno.EXDEV, "other disk")))
        for path in (root / "a" / f"{number}", root / "a" / f"{number}"):  # twice: it is replaced
            copy_file(source, path)
            assert read_file(path) == b"abc" * 1000
            if isinstance(path, Path):
                assert path.samefile(source) == links
    assert files_under(root) == ["a/0", "a/1"], "no temporary file is left"


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


def test_a_file_is_replaced_only_if_it_has_the_bytes_that_were_read(root: AnyPath) -> None:
    assert not replace_file(root / "f", b"", b"new") and kind_of(root / "f") is None
    create_file(root / "f", b"one")
    assert replace_file(root / "f", b"one", b"two")
    assert not replace_file(root / "f", b"one", b"three")
    assert (read_file(root / "f"), files_under(root)) == (b"two", ["f"])


def test_of_many_that_replace_the_same_bytes_one_succeeds(root: AnyPath) -> None:
    """Each writer counts up; a lost update would leave the count below the number of successes."""
    create_file(root / "count", b"0")
    successes = []

    def count(writer: int) -> None:
        for _ in range(8):
            old = read_file(root / "count")
            if replace_file(root / "count", old, b"%d of %d" % (int(old.split()[0]) + 1, writer)):
                successes.append(writer)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(6)))
    assert int(read_file(root / "count").split()[0]) == len(successes) >= 8
    assert len(successes) < 48, "no two writers met"


def test_a_file_to_be_replaced_is_locked_as_nfs_demands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS refuses an exclusive lock of a file that is open for reading only."""
    create_file(tmp_path / "f", b"one")
    number = errno.EBADF

    def flock(file: int, operation: int) -> None:
        writable = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if number != errno.EBADF or not writable:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert replace_file(tmp_path / "f", b"one", b"two")
    number = errno.ENOLCK
    assert replace_file(tmp_path / "f", b"two", b"three")
    number = errno.EDEADLK
    with pytest.raises(OSError, match="deadlock"):
        replace_file(tmp_path / "f", b"three", b"four")


def test_a_link_to_a_missing_file_matches_a_pattern(tmp_path: Path) -> None:
    """Left out, the target or the corpus would silently be one file smaller."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "not-fetched")
    (tmp_path / "c.jsonl").mkdir()
    found = find_files(tmp_path / "*.jsonl")
    assert found == [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    with pytest.raises(InputError, match=r"b\.jsonl"):
        targets_in([Path(str(path)) for path in found])


def test_a_writer_that_was_killed_while_it_replaced_blocks_no_other(tmp_path: Path) -> None:
    create_file(tmp_path / "f", b"old")
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from penstock.storage import replace_file\n"
        "os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        "replace_file(Path(sys.argv[1]), b'old', b'killed')"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "f")], check=False)
    assert done.returncode == -signal.SIGKILL and read_file(tmp_path / "f") == b"old"
    assert replace_file(tmp_path / "f", b"old", b"new") and read_file(tmp_path / "f") == b"new"
    assert len(files_under(tmp_path)) == 2  # with the temporary file of the killed one
    delete_files(find_temporaries(tmp_path))
    assert files_under(tmp_path) == ["f"]


def test_ranges_of_a_file_are_read(root: AnyPath) -> None:
    create_file(root / "f", bytes(range(100)))
    found = store_of(root / "f").read_ranges(root / "f", [(0, 2), (90, 90), (98, 100)])
    assert found == [b"\x00\x01", b"", b"bc"]


def test_a_listing_leaves_out_directories_that_are_not_entered(root: AnyPath) -> None:
    for name in ("a/b/1", "a/c/2", "d/3", "4"):
        create_file(root / name, b".")
    entered = sizes_under(root, lambda name: name in ("a", "a/c"))
    assert entered == {"4": 1, "a/c/2": 1}


def test_a_line_log_keeps_the_lines_of_every_writer(root: AnyPath) -> None:
    written = [b"%d\n" % number for number in range(70)]
    with LineLog(root / "log") as log:
        for line in written[:40]:
            log.add(line)
        if isinstance(root, Path):  # each line is there at once
            assert b"".join(LineLog(root / "log").read()) == b"".join(written[:40])
    with LineLog(root / "log") as log:
        for line in written[40:]:
            log.add(line)
    lines = b"".join(LineLog(root / "log").read()).splitlines(keepends=True)
    assert sorted(lines) == sorted(written)


def test_files_below_a_directory_are_listed_and_removed(root: AnyPath) -> None:
    for name in ("x/1.bin", "x/y/2.bin", "3.txt"):
        create_file(root / name, b".")
    assert files_under(root) == ["3.txt", "x/1.bin", "x/y/2.bin"]
    assert [path.name for path in find_files(root / "x" / "**" / "*.bin")] in (
        ["1.bin", "2.bin"],
        ["2.bin", "1.bin"],
    )
    assert [path.name for path in find_files(root / "3.txt")] == ["3.txt"]
    assert find_files(root / "none") == []
    delete(root / "x")
    assert files_under(root) == ["3.txt"]
    delete(root / "x")


def test_files_of_another_process_are_listed(root: AnyPath) -> None:
    assert files_under(root) == []
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=_create, args=(pickle.dumps(root / "new"),))
    other.start()
    other.join()
    assert other.exitcode == 0
    assert files_under(root) == ["new"] and (root / "new").exists()


def _create(where: bytes) -> None:
    assert create_file(pickle.loads(where), b"x")


def test_a_remote_file_is_copied_once_and_again_if_the_copy_changed(root: AnyPath) -> None:
    create_file(root / "data.arrow", b"bytes")
    digest = hashlib.sha256(b"bytes").hexdigest()
    here = local_file(root / "data.arrow", digest)
    assert here.read_bytes() == b"bytes" and here.suffix == ".arrow"
    if isinstance(root, Path):
        assert here == root / "data.arrow"
        return
    inode = here.stat().st_ino
    assert local_file(root / "data.arrow", digest).stat().st_ino == inode
    here.write_bytes(b"Bytes")
    assert local_file(root / "data.arrow", digest).read_bytes() == b"bytes"


def test_a_file_without_a_checksum_is_copied_again_if_it_changed(root: AnyPath) -> None:
    with atomic_file(root / "t.jsonl") as sink:
        sink.write(b"old")
    assert local_file(root / "t.jsonl").read_bytes() == b"old"
    with atomic_file(root / "t.jsonl") as sink:
        sink.write(b"new!")
    found = local_file(root / "t.jsonl")
    assert (found.name, found.read_bytes()) == ("t.jsonl", b"new!")


def test_a_directory_is_copied_whole(root: AnyPath) -> None:
    contents = {"state/a.npy": b"1", "b.json": b"2"}
    for name, data in contents.items():
        create_file(root / name, data)
    names = [(name, hashlib.sha256(data).hexdigest()) for name, data in contents.items()]
    here = local_tree(root, names, "key")
    assert {name: (here / name).read_bytes() for name in contents} == contents


@pytest.mark.parametrize("key", ["a/..", "a/../../b.jsonl", "a/./b", "..", "../other/c.jsonl"])
def test_a_store_cannot_list_what_is_elsewhere(s3: str, tmp_path: Path, key: str) -> None:
    """Keys become names of local files: ``a/..`` was the cache's own directory."""
    root = as_path(f"s3://{BUCKET}/{tmp_path.name}")
    create_file(root / "sound.jsonl", b".")
    listed = {f"{root.path}/{name}": {"size": 1} for name in ("sound.jsonl", key)}
    found = {name: {**info, "name": name, "type": "file"} for name, info in listed.items()}
    with pytest.MonkeyPatch.context() as patch:
        for method, answer in (("find", found), ("glob", found), ("ls", list(found.values()))):
            patch.setattr(root.fs, method, lambda *_, a=answer, **__: a)
        store = store_of(root)
        for method, path in (("list", root), ("match", root / "*"), ("children", root)):
            with pytest.raises(StorageError, match=r"the store lists .*\.") as caught:
                getattr(store, method)(path)
            assert str(caught.value.file).startswith(str(root))
        found.pop(f"{root.path}/{key}")
        assert list(store.list(root)) == ["sound.jsonl"]
        assert [path.name for path in store.match(root / "*")] == ["sound.jsonl"]


def test_the_cache_evicts_the_least_recently_used(s3: str, tmp_path: Path) -> None:
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


def test_a_made_directory_is_made_once_and_anew_where_a_byte_changed(tmp_path: Path) -> None:
    calls = 0

    def make(directory: Path) -> None:
        nonlocal calls
        calls += 1
        (directory / "a").mkdir()
        (directory / "a" / "b.bin").write_bytes(b"content")

    def fail(directory: Path) -> None:
        (directory / "half.bin").write_bytes(b"half")
        raise KeyError

    with environment(PENSTOCK_CACHE=str(tmp_path)):
        with pytest.raises(KeyError):
            made_tree("key", fail)
        for _ in range(2):
            tree = made_tree("key", make)
        assert calls == 1 and files_under(tree) == [".sha256.json", "a/b.bin"]
        for change in ("a/b.bin", "a/more.bin", ".sha256.json"):
            (tree / change).write_bytes(b"changed")
            assert made_tree("key", make) == tree
            assert (tree / "a" / "b.bin").read_bytes() == b"content"
        assert calls == 4
        assert made_tree("other", make) != tree and calls == 5


def _sha(number: int) -> str:
    return hashlib.sha256(bytes([number]) * 1000).hexdigest()


@pytest.mark.parametrize(
    ("number", "problem", "fix"),
    [
        (errno.ENOSPC, "no space is left", "free some"),
        (errno.EROFS, "the file system is read-only", "another `work`"),
        (errno.EFBIG, "the file is larger than is allowed", "raise the limit"),
        (errno.EACCES, "permission denied", "let this user write there"),
    ],
)
def test_errors_of_the_system_have_a_path_and_a_fix(number: int, problem: str, fix: str) -> None:
    with pytest.raises(StorageError) as info, translate_os_errors(Path("/x/y")):
        raise OSError(number, os.strerror(number))
    assert (info.value.file, info.value.problem) == ("/x/y", problem)
    assert fix in str(info.value.fix) and str(info.value.fix).endswith("what is finished is kept")


@pytest.fixture
def no_room() -> Iterator[int]:
    """Limit the size of the files that this process may write; give the limit in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # SIGXFSZ is ignored by Python
    yield 1 << 16
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_cache_is_named_with_its_variable(
    root: AnyPath, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Neither the file that was to be copied nor the work directory is short of room."""
    with atomic_file(root / "large") as sink:
        sink.write(bytes(1 << 17))
    limit = request.getfixturevalue("no_room")
    errors = []
    with pytest.raises(StorageError) as made:
        made_tree("large", lambda tree: (tree / "file").write_bytes(bytes(2 * limit)))
    errors.append(made.value)
    if not isinstance(root, Path):
        for sha256 in (None, hashlib.sha256(bytes(1 << 17)).hexdigest()):
            with pytest.raises(StorageError) as copied:
                local_file(root / "large", sha256)
            errors.append(copied.value)
    cache = tmp_path / "cache"
    for error in errors:
        assert Path(str(error.file)).parent == cache
        assert "PENSTOCK_CACHE" in str(error.fix) and "`work`" not in str(error.fix)
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("root", ["s3"], indirect=True)
def test_temporary_files_without_room_name_their_variable(
    root: AnyPath, request: pytest.FixtureRequest
) -> None:
    limit = request.getfixturevalue("no_room")
    with pytest.raises(StorageError) as info, atomic_file(root / "large") as sink:
        sink.write(bytes(2 * limit))
    assert str(info.value.file).startswith(str(private_directory()))
    assert "TMPDIR" in str(info.value.fix) and "`work`" not in str(info.value.fix)
    assert not find_files(root / "large")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_directory_that_cannot_be_made_is_named() -> None:
    with pytest.raises(StorageError) as made:
        make_directory(Path("/proc/nowhere"))
    with pytest.raises(StorageError) as written, atomic_file(Path("/proc/nowhere/x")):
        pass
    for error in (made.value, written.value):
        assert (error.file, error.fix) == ("/proc/nowhere", "give another `work`")


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
def test_an_incomplete_uri_is_not_a_local_path(text: str, meant: str) -> None:
    assert meant in (path_problem(text) or "")
    with pytest.raises(StorageError, match=re.escape(meant)):
        as_path(text)
    assert not any(map(path_problem, ("s3", "./s3:/x", "work", "s3://b", "/a:b", "hf:a/b", "C:/x")))


def test_an_unreachable_store_is_logged_and_raised(
    s3: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One request, so that retries do not add up: `is_file` of fsspec would return False."""
    monkeypatch.setattr(remote, "LATE", 0.2)
    retries = {"total_max_attempts": 2, "mode": "standard"}
    options = {**S3Store.options, "config_kwargs": {"retries": retries}}
    monkeypatch.setattr(S3Store, "options", options)
    with environment(AWS_ENDPOINT_URL="http://127.0.0.1:9"):
        for ask in (kind_of, find_files, read_file, files_under):
            S3FileSystem.clear_instance_cache()
            with pytest.raises(StorageError) as caught:
                ask(as_path("s3://gone/x"))
            assert caught.value.file == "s3://gone/x" and "127.0.0.1:9" in caught.value.problem
            assert is_transient(caught.value)
    S3FileSystem.clear_instance_cache()
    assert "s3://gone/x: no answer for 0 s; still trying" in caplog.text


def test_an_s3_client_without_conditional_writes_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """s3fs would leave the condition out, and two drivers would both get the lease."""
    for version in ("1.34.200", "1.35.68"):
        monkeypatch.setattr(botocore, "__version__", version)
        with pytest.raises(StorageError) as caught:
            as_path("s3://bucket/work")
        assert (caught.value.expected, caught.value.got) == ("botocore 1.35.69 or newer", version)
        assert "penstock[s3]" in str(caught.value.fix)
    monkeypatch.setattr(botocore, "__version__", "1.35.69")
    assert str(as_path("s3://bucket/work")) == "s3://bucket/work"


def test_the_retries_of_a_request_take_less_than_20_s() -> None:
    tries = S3Store.options["config_kwargs"]["retries"]["total_max_attempts"]
    assert sum(min(20, 2**number) for number in range(tries - 1)) / 2 < 20


def test_files_and_directories_are_told_apart(root: AnyPath) -> None:
    create_file(root / "a" / "b", b".")
    assert kind_of(root / "a" / "b") == "file"
    assert kind_of(root / "a") == kind_of(root) == "directory"
    assert kind_of(root / "c") is None
    create_file(root / "a" / "long", b"12345")
    assert sizes_under(root) == {"a/b": 1, "a/long": 5}


def test_a_missing_bucket_is_an_error_that_names_it(s3: str) -> None:
    path = as_path("s3://nosuchbucket/x")
    with pytest.raises(StorageError) as info, atomic_file(path) as sink:
        sink.write(b"x")
    assert info.value.file == "s3://nosuchbucket/x" and "bucket" in str(info.value.fix)


def test_an_error_of_a_store_has_the_path() -> None:
    """s3fs raises ``OSError(121, message)``, which named no file."""
    path = as_path("memory://penstock/file")
    store = RemoteStore()
    with pytest.raises(OSError) as caught, store.errors(path):
        raise OSError(121, "injected")
    assert caught.value.errno == 121 and caught.value.filename == str(path)
