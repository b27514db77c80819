"""Links that another user put among inputs: none has a private file of ours read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock import opening
from penstock.errors import InputError, PenstockError, StorageError
from penstock.jobs.api import curate
from penstock.language_models.model_directory import check_model
from penstock.opening import check_links, open_plain, read_plain
from penstock.pipeline.reading.hugging_face import dataset_files
from penstock.selectors.targets import read_targets, targets_in
from penstock.storage import sha256_file, sha256_of_version
from penstock.tokenization.examining import examined

ME = os.geteuid()

HIM, HER = 4242, 4343
"""Numbers of two other users; a link belongs to one as soon as root gives it to him."""

SECRET = b'{"id": "s", "text": "the salaries of everybody"}\n'


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory that all users can reach."""
    if ME != 0:
        pytest.skip("NOT RUN: only root can give links to another user")
    directory = Path(tempfile.mkdtemp(prefix="penstock-links-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def pool(root: Path) -> Path:
    """A directory of another user's."""
    made = root / "pool"
    made.mkdir()
    made.chmod(0o777)
    os.chown(made, HIM, HIM)
    return made


@pytest.fixture
def secret(root: Path) -> Path:
    """A file of ours that no other user can read."""
    path = root / "home" / "secret.jsonl"
    path.parent.mkdir()
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def _link(path: Path, to: str | Path, owner: int) -> Path:
    path.symlink_to(to)
    os.lchown(path, owner, owner)
    return path


def _give(path: Path, owner: int, mode: int = 0o600) -> Path:
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def _ways(pool: Path, secret: Path) -> dict[str, Path]:
    """Return paths that lead to the secret by at least one link of the other user's."""
    home = secret.parent
    (pool / "below").mkdir()
    os.chown(pool / "below", HIM, HIM)
    _link(home / "mine", pool / "his", 0)
    _link(pool / "his", secret, HIM)
    _link(pool / "folder", home, HIM)
    _link(pool / "up", "below/../../home/secret.jsonl", HIM)
    _link(pool / "chain", "chain-2", HIM)
    _link(pool / "chain-2", home / "ours", HIM)
    _link(home / "ours", "secret.jsonl", 0)
    return {
        "link": pool / "his",
        "relative": pool / "up",
        "directory": pool / "folder" / "secret.jsonl",
        "chain": pool / "chain",
        "middle": home / "mine",
        "through a link": pool / "folder" / "mine",
    }


@pytest.mark.parametrize(
    "way", ["link", "relative", "directory", "chain", "middle", "through a link"]
)
def test_no_link_of_another_user_leads_to_a_private_file(
    pool: Path, secret: Path, way: str
) -> None:
    """Attack: links in a pool's directory; what they lead to was hashed, read and published."""
    path = _ways(pool, secret)[way]
    reads: list[Callable[[Path], object]] = [
        read_plain,
        check_links,
        sha256_file,
        sha256_of_version,
        read_targets,
        examined,
        lambda path: targets_in([path]),
    ]
    for read in reads:
        with pytest.raises(InputError) as caught:
            read(path)
        assert caught.value.file is not None and caught.value.file.startswith(f"{pool}/")
        assert caught.value.got == f"a link of user {HIM} to what belongs to user {ME}"


@pytest.mark.parametrize("owner", [0, HIM, HER])
def test_links_that_gain_nothing_are_followed(pool: Path, secret: Path, owner: int) -> None:
    """Links of this user and of root; those of the owner; those to what everybody can read."""
    os.link(secret, pool / "data")
    secret.unlink()
    data = _give(pool / "data", owner)
    (pool / "deep").mkdir()
    os.chown(pool / "deep", HER, HER)  # the directory may be anybody's
    _link(pool / "deep" / "one", data, 0)
    _link(pool / "deep" / "two", "../data", owner)
    _link(pool / "deep" / "three", "one", owner)
    _link(pool / "folder", "deep", owner)
    for path in (*(pool / "deep").iterdir(), *(pool / "folder").iterdir(), data):
        check_links(path)
        assert read_plain(path) == SECRET
    third = _link(pool / "third", data, 5151)
    with pytest.raises(InputError):
        read_plain(third)
    data.chmod(0o644)
    assert read_plain(third) == SECRET  # as he can
    _give(pool, HIM, 0o700)
    assert _link(pool.parent / "fourth", data, 5151).exists()
    with pytest.raises(InputError):
        read_plain(pool.parent / "fourth")  # which he cannot reach
    data.write_bytes(b"")


def test_what_seems_empty_is_not_public(pool: Path) -> None:
    """Attack: ``/proc/self/maps`` is readable for all by its mode, and has another text for each
    reader."""
    for name in ("maps", "environ", "fd/0"):
        with pytest.raises((PenstockError, OSError)):
            read_plain(_link(pool / name.replace("/", "-"), f"/proc/self/{name}", HIM))


def test_paths_are_followed_as_the_system_does(root: Path) -> None:
    """Compare with ``open`` on links of this user: chains, dots, cycles, missing names."""
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(b"text")
    names = {
        "plain": "a/b/file",
        "dots": "a/./b/../b//file",
        "folder": "a/b",
        "again": "folder/../b/file",
        "absolute": str(root / "folder" / "file"),
        "hundred": "hundred",
        "cycle": "other",
        "other": "cycle",
        "gone": "a/none",
        "file-as-directory": "a/b/file/x",
        "slash": "a/b/file/",
        "to-root": "/",
    }
    for name, to in names.items():
        (root / name).symlink_to(to)
    for number in range(45):
        (root / f"n{number}").symlink_to(f"n{number + 1}" if number < 44 else "a/b/file")
    tried = [*names, "a/b/file", "folder/file", "folder/../b/file", "folder/./file", "n0", "n5"]
    for name in (*tried, *(f"{one}/file" for one in tried)):
        results = []
        for read in (lambda path: Path(path).read_bytes(), read_plain):
            try:
                results.append(read(f"{root}/{name}"))
            except OSError as error:
                results.append(error.errno)
        assert results[0] == results[1] or name == "slash", (name, results)


def test_a_pipe_and_a_directory_are_no_files(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(StorageError):
            open_plain(root / name)
    with pytest.raises(IsADirectoryError):
        open_plain(root)
    check_links(root / "none")
    check_links(root)


def test_descriptors_are_closed(pool: Path, secret: Path) -> None:
    paths = [*_ways(pool, secret).values(), secret, pool, pool / "none", secret.parent / "ours"]
    before = len(os.listdir("/proc/self/fd"))
    for path in paths * 5:
        for read in (read_plain, check_links):
            with contextlib.suppress(PenstockError, OSError):
                read(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_swap_between_the_look_and_the_opening_gains_nothing(pool: Path, secret: Path) -> None:
    """Attack: a file, or its directory, is replaced by a link again and again as it is read."""
    data = pool / "sub" / "data"
    data.parent.mkdir()
    os.chown(data.parent, HIM, HIM)
    data.write_bytes(b"his own")
    _give(data, HIM)
    _link(pool / "trap", secret.parent, HIM)
    (secret.parent / "data").symlink_to("secret.jsonl")
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            os.rename(pool / "sub", pool / "kept")
            os.rename(pool / "trap", pool / "sub")
            os.rename(pool / "sub", pool / "trap")
            os.rename(pool / "kept", pool / "sub")

    thread = threading.Thread(target=swap)
    thread.start()
    read, refused, until = 0, 0, time.monotonic() + 2
    try:
        while time.monotonic() < until or not (read and refused):
            assert time.monotonic() < until + 20
            try:
                assert read_plain(data) == b"his own"
                read += 1
            except InputError:
                refused += 1
            except (FileNotFoundError, NotADirectoryError):
                pass
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("writable", [True, False])
def test_a_hard_link_where_the_system_lets_others_make_them(
    pool: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    """Attack: a hard link to a private file, where ``protected_hardlinks`` is 0."""
    os.link(secret, pool / "his")
    monkeypatch.setattr(opening, "_hard_links_are_protected", lambda: False)
    if writable:
        _give(pool, 0, 0o1777)
    with pytest.raises(InputError) as caught:
        read_plain(pool / "his")
    assert caught.value.file == str(pool / "his")
    assert read_plain(secret) == SECRET  # in a directory of our own
    (pool / "his").chmod(0o644)
    assert read_plain(pool / "his") == SECRET  # everybody can read it
    (pool / "his").chmod(0o600)
    _give(pool, 0, 0o775)
    assert read_plain(pool / "his") == SECRET
    _give(pool, HIM, 0o755)
    _give(secret, HIM)
    assert read_plain(pool / "his") == SECRET  # his own
    _give(secret, 0)
    monkeypatch.setattr(opening, "_hard_links_are_protected", lambda: True)
    assert read_plain(pool / "his") == SECRET


def test_a_hard_link_to_a_link_of_ours(
    pool: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: our own link by another name, in a directory from where it leads elsewhere."""
    ours = _link(secret.parent / "ours", "../home/secret.jsonl", 0)
    assert read_plain(ours) == SECRET
    os.link(ours, pool / "his", follow_symlinks=False)
    assert read_plain(pool / "his") == SECRET  # Linux lets no other user make it
    monkeypatch.setattr(opening, "_hard_links_are_protected", lambda: False)
    with pytest.raises(InputError) as caught:
        read_plain(pool / "his")
    assert caught.value.file == str(pool / "his")
    assert read_plain(ours) == SECRET


def _recipe(root: Path, path: str) -> Path:
    recipe = root / "recipe.yaml"
    recipe.write_text(
        f"corpus: [{{path: '{path}'}}]\nwork: work\nbudget: {{tokens: 4000, rank: random}}\n"
        "tokenizer: {train: {vocab_size: 600}}\nshards: {sequence_length: 64}\n"
    )
    return recipe


@pytest.mark.parametrize("way", ["pool/", "pool/*.jsonl", "pool/b.jsonl", "pool/**", "pool/d/*"])
def test_a_corpus_names_the_link_and_reads_nothing(pool: Path, secret: Path, way: str) -> None:
    """Attack: a link among the files of a pool, its directory or below it."""
    lines = (json.dumps({"text": f"text number {number} of his"}) for number in range(50))
    (pool / "a.jsonl").write_text("\n".join(lines))
    _link(pool / "b.jsonl", secret, HIM)
    _link(pool / "d", secret.parent, HIM)
    recipe = _recipe(pool.parent, f"{pool.parent}/{way}")
    with pytest.raises(InputError) as caught:
        curate(recipe)
    # A directory that everybody can list is entered; the file in it is refused as it is opened.
    assert caught.value.key == (None if way == "pool/d/*" else "corpus.0.path")
    assert caught.value.file in (str(pool / "b.jsonl"), str(pool / "d"))
    work = pool.parent / "work"
    assert not work.exists() or b"salaries" not in b"".join(
        path.read_bytes() for path in work.rglob("*") if path.is_file()
    )


def test_directories_of_datasets_and_models(pool: Path, secret: Path) -> None:
    """Attack: a link among files that a library opens by their paths."""
    (pool / "config.json").write_text("{}")
    assert [name for name, _ in dataset_files(pool)] == ["config.json"]
    link = _link(pool / "model.safetensors", secret, HIM)
    for read in (dataset_files, lambda path: check_model(path, key="model")):
        with pytest.raises(InputError) as caught:
            read(pool)
        assert caught.value.file == str(link)
    with pytest.raises(InputError) as caught:
        curate(_recipe(pool.parent, f"hf:{pool}"))
    assert (caught.value.key, caught.value.file) == ("corpus.0.path", str(link))
    os.lchown(link, 0, 0)
    assert len(dataset_files(pool)) == 2
    (secret.parent / "below").mkdir()
    _link(secret.parent / "below" / "again", secret, HIM)
    ours = _link(pool / "ours", secret.parent / "below", 0)
    with pytest.raises(InputError) as caught:
        dataset_files(pool)
    assert caught.value.file is not None and caught.value.file.endswith("/below/again")
    ours.unlink()
    os.chown(pool, HIM, HIM)
    _link(pool.parent / "model", pool, HER)
    pool.chmod(0o700)
    with pytest.raises(InputError):
        dataset_files(pool.parent / "model")


def test_the_cache_of_the_hub_is_read(root: Path) -> None:
    """A snapshot consists of links to blobs, all of one user, and may be another's."""
    for owner in (ME, HIM):
        cache = root / f"cache-{owner}"
        snapshot = cache / "snapshots" / "0123"
        (cache / "blobs").mkdir(parents=True)
        snapshot.mkdir(parents=True)
        (cache / "blobs" / "f00").write_bytes(SECRET)
        _give(cache / "blobs" / "f00", owner)
        link = _link(snapshot / "train.jsonl", "../../blobs/f00", owner)
        assert dataset_files(snapshot) == [("train.jsonl", link)]
        assert read_plain(link) == SECRET
