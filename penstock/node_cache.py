"""Remote files on this node: fetched once, mapped by every process, checked by every reader.

A file whose checksum is known is kept under that checksum, so equal files are one and a changed one
is never mistaken for it. What was used longest ago goes first when the cache is full; a file that
is mapped outlives its name.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from upath import UPath

from penstock.storage import AnyPath, is_remote, sha256_file, translate_os_errors

__all__ = ["directory", "local_file", "local_tree", "staging"]

_SHARE = 4
"""The cache takes at most this part of the file system it lies on, unless told otherwise."""

_FRESH = 120.0
"""Seconds for which nothing that was just asked for is evicted: it is about to be opened."""


def directory() -> Path:
    """Where the cache lies: ``PENSTOCK_CACHE``, else below the system's directory for such."""
    chosen = os.environ.get("PENSTOCK_CACHE")
    if chosen:
        return Path(chosen)
    return Path(tempfile.gettempdir()) / f"penstock-cache-{os.getuid()}"


def local_file(where: AnyPath, sha256: str | None = None) -> Path:
    """A local path of a file: its own, or that of its copy on this node.

    Args:
        where: The file.
        sha256: Of its bytes, where that is known; else its size and version are asked for.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not is_remote(where):
        return where
    if sha256 is not None:
        return _kept(f"{sha256}{where.suffix}", lambda target: _fetch(where, target), sha256)
    # Under its own name, which may mean something to who asked.
    tree = f"tree-{_version(where)}"
    return _kept(tree, lambda target: _fetch(where, target / where.name), None) / where.name


def local_tree(where: AnyPath, names: list[tuple[str, str]], key: str) -> Path:
    """A local directory with the given files of ``where``.

    Args:
        where: A directory.
        names: Relative paths and checksums.
        key: What tells this content from any other.
    """
    if not is_remote(where):
        return where

    def fetch(target: Path) -> None:
        for name, sha256 in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(local_file(where / name, sha256), target / name)

    return _kept(f"tree-{key}", fetch, None)


def staging(name: str) -> Path:
    """A local directory for what a library writes by itself and is then sent to its place."""
    path = Path(tempfile.gettempdir()) / f"penstock-staging-{os.getuid()}" / name
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _version(where: UPath) -> str:
    info = where.fs.info(where.path)
    version = [str(where), str(info.get("size")), str(info.get("ETag") or info.get("mtime"))]
    return hashlib.sha256("\n".join(version).encode()).hexdigest()


def _fetch(where: UPath, target: Path) -> None:
    with translate_os_errors(where):
        where.fs.get_file(where.path, str(target))


def _kept(name: str, fetch: Callable[[Path], object], sha256: str | None) -> Path:
    """The entry ``name``, made by ``fetch`` where it is not there or not what it should be."""
    root = directory()
    with translate_os_errors(root):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = root / name
    with _alone(root / f".{name}.lock"):
        if path.exists() and (sha256 is None or sha256_file(path) == sha256):
            os.utime(path)
            return path
        temporary = root / f".{name}.{uuid.uuid4().hex}.tmp"
        with translate_os_errors(path):
            try:
                if name.startswith("tree-"):
                    temporary.mkdir()
                fetch(temporary)
                _forget(path)
                os.replace(temporary, path)
            finally:
                _forget(temporary)
    _evict(root)
    return path


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process of this node at a time: the others wait for what it fetches."""
    with open(lock, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _evict(root: Path) -> None:
    """Remove what was used longest ago until the cache is as small as it should be."""
    entries = []
    for path in root.iterdir():
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
        _forget(path)
        total -= size


def _forget(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
