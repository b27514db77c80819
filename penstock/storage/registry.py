"""The store of a path, by the scheme of its URI."""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
import re
from pathlib import Path

from upath import UPath

from penstock.errors import StorageError
from penstock.storage.local import LocalStore
from penstock.storage.paths import AnyPath, is_uri
from penstock.storage.remote import RemoteStore
from penstock.storage.store import Store

__all__ = ["as_path", "known_stores", "path_problem", "store_of"]

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
    schemes = "|".join({*_SCHEMES, *known_stores()})
    half = re.match(rf"({schemes}):(?!//)/*(.*)", text, re.IGNORECASE)
    if half:
        return f"expected a path or a URI, got {text!r}; did you mean '{half[1]}://{half[2]}'?"
    if re.match(rf"({schemes})://(/|$)", text, re.IGNORECASE):
        return f"expected a bucket, as in s3://bucket/work, got {text!r}"
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
