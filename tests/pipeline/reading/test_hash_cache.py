"""The cache of hashes holds the hash of a version alone, whatever happens while it is hashed."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from penstock.artefact import Workspace
from penstock.errors import InputError
from penstock.pipeline.reading import inputs as module
from penstock.pipeline.reading.finding import find_inputs
from penstock.pipeline.reading.inputs import Input, hash_inputs
from penstock.pipeline.reading.unchanged import as_hashed, local_copy
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe
from penstock.storage import as_path, sha256_file, sha256_unless_known, store_of
from penstock.storage.local import LocalStore
from penstock.storage.remote import RemoteStore
from tests.s3 import BUCKET, environment

ONE, TWO = b'{"text": "one"}\n', b'{"text": "two"}\n'


def hashed(directory: Path, path: str) -> Input:
    recipe = parse_recipe(
        {"corpus": [{"path": path}], "budget": {"tokens": 1, "rank": "random"}}, directory
    )
    workspace = Workspace(directory / "work")
    [item] = hash_inputs(find_inputs(recipe).inputs, workspace, LocalRunner(1))
    return item


def digest_of(content: bytes) -> str:
    return hashlib.sha256(hashlib.sha256(content).hexdigest().encode()).hexdigest()


def attack(
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[], object],
    after: Callable[[], object] = bool,
) -> None:
    """Do something between the look at a file and its hashing, and something when it is hashed."""
    real = module._digests

    def digests(blocks: Any, state: object) -> Any:
        before()
        try:
            return real(blocks, state)
        finally:
            after()

    monkeypatch.setattr(module, "_digests", digests)


def point(link: Path, target: str) -> None:
    link.with_suffix(".new").symlink_to(target)
    link.with_suffix(".new").replace(link)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changed a moment ago counts as settled, as it does some seconds later."""
    monkeypatch.setattr(module, "_SETTLED", -(10**15), raising=False)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", [TWO, TWO * 2], ids=["same size", "other size"])
def test_a_link_that_leads_elsewhere_before_it_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Attack: a deployment turns a link between stat and hash; the next runs, after it was turned
    back, publish the text of one file under the hash of the other."""
    (tmp_path / "one.jsonl").write_bytes(ONE)
    (tmp_path / "two.jsonl").write_bytes(content)
    link = tmp_path / "now.jsonl"
    link.symlink_to("one.jsonl")
    attack(monkeypatch, lambda: point(link, "two.jsonl"))
    with pytest.raises(InputError) as info:
        hashed(tmp_path, "now.jsonl")
    assert info.value.file == str(link)
    monkeypatch.undo()
    assert not (tmp_path / "work" / "inputs.json").exists()
    point(link, "one.jsonl")
    assert hashed(tmp_path, "now.jsonl").digest == digest_of(ONE)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("path", ["d/p.jsonl", "hf:d"])
def test_a_directory_that_is_another_one_only_while_it_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Attack: the directory is renamed away while its file is hashed, and back: the corpus of one
    is named by the hash of the other."""
    here, hidden, other = (tmp_path / name for name in ("d", "hidden", "other"))
    for directory, content in ((here, ONE), (other, TWO)):
        directory.mkdir()
        (directory / "p.jsonl").write_bytes(content)

    def away() -> None:
        here.rename(hidden)
        other.rename(here)

    def back() -> None:
        here.rename(other)
        hidden.rename(here)

    attack(monkeypatch, away, back)
    with pytest.raises(InputError) as info:
        hashed(tmp_path, path)
    assert info.value.file == str(here / "p.jsonl")
    monkeypatch.undo()
    assert [file.digest for file in hashed(tmp_path, path).files] == [digest_of(ONE)]


@pytest.mark.usefixtures("settled")
def test_an_object_that_is_another_one_only_while_it_is_hashed(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: as with files, in a store, whose entity tag is that of the first again."""
    path = as_path(f"s3://{BUCKET}/{tmp_path.name}/a.jsonl")
    put = S3FileSystem().pipe_file
    put(path.path, ONE)
    attack(monkeypatch, lambda: put(path.path, TWO), lambda: put(path.path, ONE))
    with pytest.raises(InputError) as info:
        hashed(tmp_path, str(path))
    assert info.value.file == str(path)
    monkeypatch.undo()
    assert hashed(tmp_path, str(path)).digest == digest_of(ONE)


def test_an_object_without_a_tag_or_time_is_hashed_by_every_run(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store may tell the size alone: an object of the same size is no known one."""
    path = as_path(f"s3://{BUCKET}/{tmp_path.name}/a.jsonl")
    monkeypatch.setattr(RemoteStore, "version_of", lambda self, info: (int(info["size"]), ""))
    for content in (ONE, TWO):
        S3FileSystem().pipe_file(path.path, content)
        assert hashed(tmp_path, str(path)).digest == digest_of(content)


def test_a_file_that_changed_just_before_it_was_hashed_is_hashed_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change in the tick of the clock in which the file was hashed shows in no time of the file:
    here one by a map of a tmpfs, which changes none."""
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no tmpfs")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = Path(directory) / "a.jsonl"
        path.write_bytes(ONE)
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as map_:
            map_[0] = map_[0]
            assert hashed(tmp_path, str(path)).digest == digest_of(ONE)
            before = store_of(path).version(path)
            map_[:] = TWO
            assert store_of(path).version(path) == before
            assert hashed(tmp_path, str(path)).digest == digest_of(TWO)
            [entry] = json.loads((tmp_path / "work" / "inputs.json").read_bytes())["files"].values()
            assert entry["settled"] is False
            # Hashed some seconds later, it is known from then on.
            monkeypatch.setattr(module, "_SETTLED", -(10**15))
            assert hashed(tmp_path, str(path)).digest == digest_of(TWO)
            attack(monkeypatch, lambda: pytest.fail("it is hashed again"))
            assert hashed(tmp_path, str(path)).digest == digest_of(TWO)


def test_blocks_of_a_file_whose_inodes_differ_are_compared_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines may number one file differently; or its blocks are of two files of one size and
    time, which pass as neither."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 8)
    (tmp_path / "a.jsonl").write_bytes(ONE)
    real = LocalStore.version_of_open
    calls = iter(range(10**6))

    def numbered(store: LocalStore, file: Any) -> Any:
        return *real(store, file)[:-1], next(calls) // 2

    monkeypatch.setattr(LocalStore, "version_of_open", numbered)
    [file] = hashed(tmp_path, "a.jsonl").files
    assert file.version[-1] == -1
    assert file.version[:-1] == store_of(file.path).version(file.path)[:-1]


def test_a_model_s_file_that_is_another_one_only_while_it_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: as with inputs, with a file of a model, whose hash a process keeps."""
    (tmp_path / "one.bin").write_bytes(ONE)
    (tmp_path / "two.bin").write_bytes(TWO)
    link = tmp_path / "now.bin"
    link.symlink_to("one.bin")
    real = LocalStore.version

    def version(store: LocalStore, path: Any) -> Any:
        found = real(store, path)
        point(link, "two.bin")
        return found

    monkeypatch.setattr(LocalStore, "version", version)
    assert sha256_unless_known(link) == hashlib.sha256(TWO).hexdigest()
    monkeypatch.undo()
    point(link, "one.bin")
    assert sha256_unless_known(link) == sha256_file(link) == hashlib.sha256(ONE).hexdigest()


def test_an_object_that_is_another_one_only_while_it_is_copied(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: the object has its tag again after it was copied; the copy would be read for good."""
    path = as_path(f"s3://{BUCKET}/{tmp_path.name}/a.jsonl")
    put = S3FileSystem().pipe_file
    put(path.path, ONE)
    item = hashed(tmp_path, str(path))
    real = type(store_of(path)).copy

    def copy(store: Any, where: Any, target: Path) -> None:
        put(path.path, TWO)
        real(store, where, target)
        put(path.path, ONE)

    with environment(PENSTOCK_CACHE=str(tmp_path / "cache")), as_hashed(item.files):
        monkeypatch.setattr(type(store_of(path)), "copy", copy)
        with pytest.raises(InputError) as info:
            local_copy(path)
        assert info.value.file == str(path)
        monkeypatch.undo()
        assert local_copy(path).read_bytes() == ONE
