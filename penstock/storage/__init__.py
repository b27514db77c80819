"""Files in a local directory or in a store, by the same functions.

::

    storage/
      paths.py       a path as a recipe writes it: a local path or a URI; AnyPath
      store.py       Store: what a place for files must do; Sink, the file being written
      local.py       LocalStore: a directory of this machine
      remote.py      RemoteStore: any file system of fsspec
      stores/        one file for each store that needs more than fsspec gives: s3.py
      registry.py    as_path, store_of: which store a path belongs to
      files.py       the functions that the rest of Penstock calls, each with a path
      line_log.py    LineLog: lines that survive a kill, in a directory
      errors.py      errors of the operating system as StorageError, with a fix

Only this package distinguishes local from remote paths. A file is written whole or not at all:
locally beside its path, synced and renamed; in a store with one PUT. To add a store, add one file
to ``stores/``.
"""

from __future__ import annotations

from penstock.storage.files import (
    atomic_file,
    create_file,
    delete,
    files_under,
    find_files,
    is_temporary_error,
    kind_of,
    make_directory,
    read_file,
    remove_empty_directories,
    remove_temporaries,
    replace_file,
    sha256_file,
    sizes_under,
    translate_os_errors,
)
from penstock.storage.line_log import LineLog
from penstock.storage.local import sync_directory
from penstock.storage.paths import AnyPath, is_uri, real_path
from penstock.storage.registry import as_path, path_problem, store_of
from penstock.storage.store import Sink, Store

__all__ = [
    "AnyPath",
    "LineLog",
    "Sink",
    "Store",
    "as_path",
    "atomic_file",
    "create_file",
    "delete",
    "files_under",
    "find_files",
    "is_temporary_error",
    "is_uri",
    "kind_of",
    "make_directory",
    "path_problem",
    "read_file",
    "real_path",
    "remove_empty_directories",
    "remove_temporaries",
    "replace_file",
    "sha256_file",
    "sizes_under",
    "store_of",
    "sync_directory",
    "translate_os_errors",
]
