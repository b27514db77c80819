"""Operations on a file or directory, for any store its path belongs to.

A store is the local file system, or one of ``stores/`` by the scheme of its URI.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import importlib
import os
import pkgutil
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, TypeAlias

from typing_extensions import Self
from upath import UPath

from penstock.errors import StorageError
from penstock.redaction import mask_addresses
from penstock.storage.local import LocalStore, link_file, make_directory
from penstock.storage.remote import RemoteStore
from penstock.storage.store import AnyPath, Child, FileVersion, Sink, is_temporary_os_error, is_uri

__all__ = [
    "LineLog",
    "Store",
    "as_path",
    "atomic_file",
    "child_at",
    "children_of",
    "copy_file",
    "create_file",
    "delete",
    "delete_files",
    "files_under",
    "find_files",
    "is_temporary_error",
    "kind_of",
    "known_stores",
    "path_problem",
    "read_file",
    "replace_file",
    "sha256_file",
    "sha256_of_version",
    "sha256_unless_known",
    "sizes_under",
    "store_of",
    "translate_os_errors",
]

Store: TypeAlias = LocalStore | RemoteStore

_LOCAL = LocalStore()

_SCHEMES = ("gs", "gcs", "abfs", "abfss", "az", "hdfs")
"""Schemes of stores that fsspec reaches and ``stores/`` lacks, for :func:`path_problem`."""


@functools.cache
def known_stores() -> dict[str, RemoteStore]:
    """Return the stores of ``stores/`` by the schemes of their URIs."""
    found: dict[str, RemoteStore] = {}
    stores = importlib.import_module("penstock.storage.stores")
    for module in pkgutil.iter_modules(stores.__path__, f"{stores.__name__}."):
        store: RemoteStore = importlib.import_module(module.name).STORE
        found |= dict.fromkeys(store.schemes, store)
    return found


@functools.cache
def _store(scheme: str) -> RemoteStore:
    return known_stores().get(scheme) or RemoteStore()


def store_of(path: AnyPath) -> Store:
    """Return the store that a path belongs to."""
    return _LOCAL if isinstance(path, Path) else _store(str(path).partition("://")[0])


def path_problem(text: str) -> str | None:
    """Return the fault in how a path or URI is written, and a suggested correction."""
    try:
        if b"\0" in os.fsencode(text):
            return f"expected a path or a URI, got {text!r} with a zero byte"
    except UnicodeEncodeError:
        return f"expected a path or a URI, got {text!r}, which no name of a file can be"
    schemes = "|".join({*_SCHEMES, *known_stores()})
    half = re.match(rf"({schemes}):(?!//)/*(.*)", text, re.IGNORECASE)
    if half:
        return f"expected a path or a URI, got {text!r}; did you mean '{half[1]}://{half[2]}'?"
    if re.match(rf"({schemes})://(/|$)", text, re.IGNORECASE):
        return f"expected a bucket, as in s3://bucket/work, got {text!r}"
    if re.match(r"[a-z][a-z0-9+.-]*://[^/]*@", text, re.IGNORECASE):
        return (
            "expected an address without a user and a password, which would be stored beside "
            f"results, got {mask_addresses(text)!r}; give them in the environment"
        )
    return None


def as_path(text: str | os.PathLike[str] | UPath) -> AnyPath:
    """Return the path that an absolute or relative path, or a URI, names.

    Raises:
        StorageError: The URI's store needs a package that is not installed, or is unknown.
    """
    if problem := path_problem(str(text)):
        raise StorageError(problem)
    if not is_uri(text):
        return Path(os.path.abspath(str(text)))
    scheme, _, rest = str(text).partition("://")
    if scheme.lower() == "file":
        return Path(os.path.abspath(rest))
    return _store(scheme.lower()).path(scheme.lower(), rest)


_CHUNK = 1 << 20


def read_file(path: AnyPath) -> bytes:
    """Return a small file's bytes, as they were at one moment.

    Raises:
        FileNotFoundError: The file does not exist.
    """
    return store_of(path).read(path)


def atomic_file(path: AnyPath, durable: bool = True) -> AbstractContextManager[Sink]:
    """Write a binary file that appears at ``path`` whole or not at all.

    Args:
        path: The file; directories above it are made.
        durable: True if the file must survive a power loss; scratch is not synced.

    Raises:
        StorageError: The place is full, read-only or denied.
    """
    return store_of(path).put(path, durable)


def copy_file(source: Path, path: AnyPath) -> None:
    """Make a local file that is not changed any more appear at ``path``, whole or not at all.

    Locally by a hard link, which takes no space; by a copy where there are none.

    Raises:
        StorageError: As :func:`atomic_file`.
    """
    if isinstance(path, Path) and link_file(source, path):
        return
    with atomic_file(path) as sink, source.open("rb") as file:
        shutil.copyfileobj(file, sink, _CHUNK)


def create_file(path: AnyPath, data: bytes) -> bool:
    """Write a small file that does not exist yet; return False, and do nothing, if it does.

    Of several writers exactly one gets True: by a hard link locally, a conditional PUT on S3.
    """
    return store_of(path).create(path, data)


def replace_file(path: AnyPath, old: bytes, new: bytes) -> bool:
    """Replace a small file if its bytes are still ``old``; return whether it holds ``new``.

    Of several writers that replace the same ``old`` by different bytes exactly one gets True: by
    a lock on the old file locally, a conditional PUT on S3.
    """
    return store_of(path).replace(path, old, new)


def delete(path: AnyPath) -> None:
    """Delete a file, or a directory with everything below it, if it exists."""
    store_of(path).delete(path)


def delete_files(paths: Iterable[AnyPath]) -> None:
    """Delete files, several at a time in a store, and those that do not exist are passed over."""
    paths = list(paths)
    if paths:
        with ThreadPoolExecutor(store_of(paths[0]).requests) as pool:
            for _ in pool.map(delete, paths):
                pass


def kind_of(path: AnyPath) -> str | None:
    """Return ``file``, ``directory``, or None where there is neither."""
    return store_of(path).kind(path)


def children_of(path: AnyPath) -> Sequence[Child]:
    """Return the entries of a directory, by name.

    Raises:
        FileNotFoundError: There is no such directory.
    """
    return store_of(path).children(path)


def child_at(path: AnyPath) -> Child | None:
    """Describe a file, a directory or a link; None where there is none."""
    return store_of(path).child(path)


def sizes_under(path: AnyPath, enter: Callable[[str], bool] = lambda name: True) -> dict[str, int]:
    """Return the bytes of all files below ``path`` by their names, as :func:`files_under`.

    Args:
        path: A directory.
        enter: Called with the name of each directory below it; where it returns False, the files
            there are left out.
    """
    return store_of(path).list(path, enter)


def files_under(path: AnyPath) -> list[str]:
    """Return the names of all files below ``path``, sorted, relative to it, with slashes."""
    return list(store_of(path).list(path))


def find_files(pattern: AnyPath) -> list[AnyPath]:
    """Return the files that a path or a pattern (``*``, ``**``, ``?``, ``[]``) names, sorted.

    Links that match a pattern and point to no file are among them, so that a file which was not
    fetched is an error when it is opened, not left out.
    """
    store = store_of(pattern)
    if store.kind(pattern) == "file":  # its name may hold characters of patterns
        return [pattern]
    return sorted(store.match(pattern), key=str) if glob.has_magic(str(pattern)) else []


def sha256_file(path: AnyPath) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal; reads 1 MiB at a time."""
    with store_of(path).open(path) as source:
        return _sha256_of(source, None)


def _sha256_of(source: Any, left: int | None) -> str:
    """Return the sha256 of the next ``left`` bytes of a file, or of all that follow."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK if left is None else min(left, _CHUNK)):
        digest.update(chunk)
        left = None if left is None else left - len(chunk)
    return digest.hexdigest()


def sha256_of_version(
    path: AnyPath, start: int = 0, end: int | None = None
) -> tuple[str, FileVersion]:
    """Hash a file, or a part of it, together with its version.

    The version is that of the file which was opened, whatever was at the path before and is after.

    Args:
        path: The file.
        start: Offset of the first byte.
        end: Offset behind the last; the end of the file by default.

    Returns:
        The sha256 in hexadecimal, and the version; an empty one where the file changed meanwhile.
    """
    store = store_of(path)
    with store.open(path) as file:
        version = store.version_of_open(file)
        file.seek(start)
        digest = _sha256_of(file, None if end is None else end - start)
        # An open file of a store shows what it was; each request names its tag, where a store can.
        now = store.version_of_open(file) if isinstance(path, Path) else store.version(path)
    return digest, version if now == version else ()


_hashed: dict[tuple[str, FileVersion], str] = {}


def sha256_unless_known(path: AnyPath) -> str:
    """Return the sha256 of a file, which this process computes once for each of its versions."""
    version = store_of(path).version(path)
    if known := _hashed.get((str(path), version)):
        return known
    digest, version = sha256_of_version(path)
    if version:
        _hashed[str(path), version] = digest
    return digest


def translate_os_errors(path: AnyPath) -> AbstractContextManager[None]:
    """Turn errors of the operating system and the store into StorageError with path and fix.

    Raises:
        StorageError: The place is full, read-only, unreachable or denied, or credentials are
            missing.
    """
    return store_of(path).errors(path)


def is_temporary_error(error: BaseException) -> bool:
    """Return whether an error of the operating system or a store may pass within seconds."""
    stores = known_stores().values()
    return is_temporary_os_error(error) or any(store.is_temporary(error) for store in stores)


_LINES, _SECONDS = 32, 10.0
"""Lines, or seconds, by which a store may be behind."""


class LineLog:
    """Lines that survive a kill: a log in a directory, open for writing in a ``with`` block.

    Locally a line is given to the operating system at once, which no SIGKILL undoes. A store takes
    whole files only, so there 32 lines, or those of 10 s, go together. Every writer has one file or
    several of its own; a line that was torn at the end of one has to be found by its reader.

    Args:
        directory: Directory of the log, with no other files in it.
    """

    def __init__(self, directory: AnyPath) -> None:
        self._directory = directory
        self._writer = uuid.uuid4().hex[:12]
        self._parts = 0
        self._held: list[bytes] = []
        self._since = time.monotonic()
        self._file: Any = None
        self._stack = ExitStack()

    def read(self) -> list[bytes]:
        """Return the contents of all files of earlier writers, by name."""
        return [read_file(self._directory / name) for name in files_under(self._directory)]

    def __enter__(self) -> Self:
        path = store_of(self._directory).local(self._directory / f"{self._writer}.jsonl")
        if path is not None:
            make_directory(self._directory)
            self._file = self._stack.enter_context(open(path, "xb", buffering=0))
        return self

    def __exit__(self, *error: object) -> None:
        with self._stack:
            self._flush()

    def add(self, line: bytes) -> None:
        """Write a line, which ends with a newline."""
        if self._file is not None:
            self._file.write(line)
            return
        self._held.append(line)
        if len(self._held) >= _LINES or time.monotonic() - self._since > _SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            with atomic_file(self._directory / f"{self._writer}-{self._parts:06d}.jsonl") as sink:
                sink.write(b"".join(self._held))
            self._parts += 1
            self._held = []
        self._since = time.monotonic()
