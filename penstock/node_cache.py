"""The cache of this node: remote files, copied once, and directories that are made once.

A file whose checksum is known is stored under that checksum, so equal files are stored once and a
changed file is never mistaken for it. A directory that is made (:func:`made_tree`) has its
checksums beside its files, and is made anew where they differ. When the cache is full, the least
recently used files are deleted first; a file that a process has mapped stays readable after that.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from penstock.errors import InputError
from penstock.storage import AnyPath, FileVersion, sha256_file, store_of
from penstock.storage.store import os_errors
from penstock.temporary import check_own_directory, open_lock, private_directory

__all__ = ["directory", "local_file", "local_tree", "made_tree", "staging"]

_SHARE = 4
"""The cache uses at most 1/4 of its file system, unless ``PENSTOCK_CACHE_BYTES`` is set."""

_ELSEWHERE = "set PENSTOCK_CACHE to another directory"

_FRESH = 120.0
"""Seconds after a use in which an entry is not evicted: it is about to be opened."""


def directory() -> Path:
    """Return the cache's directory: ``PENSTOCK_CACHE``, else ``cache`` in the private directory.

    Raises:
        StorageError: It belongs to another user, all users may write to it, or it cannot be made.
    """
    chosen = os.environ.get("PENSTOCK_CACHE")
    if not chosen:
        return private_directory("cache")
    root = Path(chosen)
    with os_errors(root, instead=_ELSEWHERE):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_own_directory(root, "set PENSTOCK_CACHE to a directory of your own")
    return root


def local_file(
    where: AnyPath,
    sha256: str | None = None,
    version: FileVersion = (),
    check: Callable[[Path], object] = bool,
) -> Path:
    """Return a local path of a file: its own, or that of its copy on this node.

    Args:
        where: The file.
        sha256: Of its bytes, if known; else the copy is named by the size and version of the file.
        version: The version that a file of a store must have, if known.
        check: Called with a copy that was made, which it compares.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It changed while it was copied, or has another version.
    """
    store = store_of(where)
    here = store.local(where)
    if here is not None:
        return here
    if sha256 is not None:
        return _entry(
            f"{sha256}{where.suffix}",
            lambda target: store.copy(where, target),
            lambda copy: sha256_file(copy) == sha256,
        )
    found = version or store.version(where)
    if not found:
        raise FileNotFoundError(str(where))

    def fetch(tree: Path) -> None:
        store.copy(where, tree / where.name)
        if store.version(where) != found:  # else the copy would be under a false name for good
            raise InputError("changed while it was read", file=where, fix="run again")
        check(tree / where.name)

    key = hashlib.sha256("\n".join(map(str, (where, *found))).encode()).hexdigest()
    # Under its own name, whose suffix may select the reader.
    return _entry(f"tree-{key}", fetch) / where.name


def local_tree(where: AnyPath, names: list[tuple[str, str]], key: str) -> Path:
    """Return a local directory with the given files of ``where``.

    Args:
        where: A directory.
        names: Relative paths and checksums.
        key: A name of this content.
    """
    here = store_of(where).local(where)
    if here is not None:
        return here

    def fetch(target: Path) -> None:
        for name, sha256 in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(local_file(where / name, sha256), target / name)

    return _entry(f"tree-{key}", fetch)


def made_tree(key: str, make: Callable[[Path], object]) -> Path:
    """Return a directory that ``make`` filled, now or in an earlier process of this node.

    A second process waits while the first makes it. The directory may be evicted later, so that
    files are to be copied or opened at once.

    Args:
        key: A name of the content, such as the sha256 of all that it depends on.
        make: Called with an empty directory, which it fills with files.
    """

    def fill(target: Path) -> None:
        make(target)
        (target / _CHECKSUMS).write_text(json.dumps(_checksums(target)))

    return _entry(f"tree-{key}", fill, _unchanged)


_CHECKSUMS = ".sha256.json"
"""The checksums of a made directory's files, by relative path."""


def _checksums(tree: Path) -> dict[str, str]:
    files = [path for path in tree.rglob("*") if path.is_file() and path.name != _CHECKSUMS]
    return {path.relative_to(tree).as_posix(): sha256_file(path) for path in sorted(files)}


def _unchanged(tree: Path) -> bool:
    try:
        return bool(json.loads((tree / _CHECKSUMS).read_text()) == _checksums(tree))
    except (OSError, ValueError):
        return False


def staging(name: str) -> Path:
    """Return a local directory for files that a library writes, to be copied to a store."""
    path = private_directory("staging") / name
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def _entry(
    name: str,
    fetch: Callable[[Path], object],
    intact: Callable[[Path], bool] = lambda path: True,
) -> Path:
    """Return the entry ``name``; call ``fetch`` if it is missing or not intact."""
    root = directory()
    path = root / name
    with _locked(root / f".{name}.lock"):
        if path.exists() and intact(path):
            os.utime(path)
            return path
        temporary = root / f".{name}.{uuid.uuid4().hex}.tmp"
        with os_errors(path, instead=_ELSEWHERE):
            try:
                if name.startswith("tree-"):
                    temporary.mkdir()
                fetch(temporary)
                _remove(path)
                os.replace(temporary, path)
            finally:
                _remove(temporary)
    _evict(root)
    return path


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold a lock of this node, so that one process copies a file and others wait for it."""
    with os.fdopen(open_lock(lock), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


_ENTRY = r"(?:tree-[0-9a-f]{16,}|[0-9a-f]{64}(?:\.[^.]*)?)"
_NAMES = re.compile(rf"{_ENTRY}|\.{_ENTRY}\.(?:lock|[0-9a-f]{{32}}\.tmp)", re.DOTALL)
"""Names of entries, of their locks, and of what is being fetched."""


def _evict(root: Path) -> None:
    """Delete the least recently used entries until the cache is within its limit."""
    entries = []
    for path in root.iterdir():
        if not _NAMES.fullmatch(path.name):  # the directory of PENSTOCK_CACHE may have others
            continue
        with contextlib.suppress(OSError):  # another process evicts too
            inside = path.rglob("*") if path.is_dir() else [path]
            size = sum(file.stat().st_size for file in inside)
            entries.append((path.stat().st_mtime, size, path))
    limit = int(os.environ.get("PENSTOCK_CACHE_BYTES") or shutil.disk_usage(root).total // _SHARE)
    total = sum(size for _, size, _ in entries)
    stale = time.time() - _FRESH
    for used, size, path in sorted(entries):
        if total <= limit or used > stale:
            return
        _remove(path)
        total -= size


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
