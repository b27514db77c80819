"""Operations on a file or directory, for any store its path belongs to."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager

from penstock.storage.errors import is_temporary_os_error
from penstock.storage.local import make_directory as make_local_directory
from penstock.storage.local import remove_temporaries as remove_local_temporaries
from penstock.storage.paths import AnyPath
from penstock.storage.registry import known_stores, store_of
from penstock.storage.store import Sink

__all__ = [
    "atomic_file",
    "create_file",
    "delete",
    "files_under",
    "find_files",
    "is_temporary_error",
    "kind_of",
    "make_directory",
    "read_file",
    "remove_empty_directories",
    "remove_temporaries",
    "replace_file",
    "sha256_file",
    "sizes_under",
    "translate_os_errors",
]

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


def kind_of(path: AnyPath) -> str | None:
    """Return ``file``, ``directory``, or None where there is neither."""
    return store_of(path).kind(path)


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
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


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


def make_directory(path: AnyPath) -> None:
    """Make a directory and those above it, if they do not exist; a store has none.

    Raises:
        StorageError: The directory cannot be made.
    """
    if here := store_of(path).local(path):
        make_local_directory(here)


def remove_temporaries(path: AnyPath, deep: bool = True) -> None:
    """Delete the temporary files of writers that were killed; a store has none.

    Args:
        path: A directory without a writer now.
        deep: True to delete those in the directories below it, too.
    """
    if here := store_of(path).local(path):
        remove_local_temporaries(here, deep)


def remove_empty_directories(path: AnyPath) -> None:
    """Delete the empty directories below ``path``; a store has none."""
    if here := store_of(path).local(path):
        for found in sorted(here.rglob("*"), reverse=True):
            if found.is_dir() and not any(found.iterdir()):
                found.rmdir()
