"""Files in a local directory or in a store, by the same functions.

::

    storage/
      store.py       AnyPath: a path as a recipe writes it; errors with a fix; Sink, a file written
      local.py       LocalStore: a directory of this machine
      locks.py       a lock beside a file, which users who may only read it cannot hold
      places.py      directories in a work directory, which others may be able to write to
      remote.py      RemoteStore: any file system of fsspec
      stores/        one file for each store that needs more than fsspec gives: s3.py
      files.py       store_of: the store of a path; the functions that the rest of Penstock calls,
                     each with a path; LineLog: lines that survive a kill, in a directory

Only this package distinguishes local from remote paths. A file is written whole or not at all:
locally beside its path, synced and renamed; in a store with one PUT. To add a store, add one file
to ``stores/``.
"""

from __future__ import annotations

from penstock.storage.files import (
    LineLog,
    Store,
    as_path,
    atomic_file,
    child_at,
    children_of,
    copy_file,
    create_file,
    delete,
    delete_files,
    files_under,
    find_files,
    is_temporary_error,
    kind_of,
    path_problem,
    read_file,
    replace_file,
    sha256_file,
    sha256_of_version,
    sha256_unless_known,
    sizes_under,
    store_of,
    translate_os_errors,
)
from penstock.storage.local import (
    find_temporaries,
    make_directory,
    new_file_status,
    open_file,
    remove_empty_directories,
    sync_directory,
    temporary_target,
    version_of_status,
)
from penstock.storage.locks import lock_file
from penstock.storage.places import check_no_links, check_own_place, make_own_directory
from penstock.storage.store import (
    DANGLING,
    DIRECTORY,
    FILE,
    SPECIAL,
    AnyPath,
    Child,
    FileVersion,
    Sink,
    is_uri,
    real_path,
)

__all__ = [
    "DANGLING",
    "DIRECTORY",
    "FILE",
    "SPECIAL",
    "AnyPath",
    "Child",
    "FileVersion",
    "LineLog",
    "Sink",
    "Store",
    "as_path",
    "atomic_file",
    "check_no_links",
    "check_own_place",
    "child_at",
    "children_of",
    "copy_file",
    "create_file",
    "delete",
    "delete_files",
    "files_under",
    "find_files",
    "find_temporaries",
    "is_temporary_error",
    "is_uri",
    "kind_of",
    "lock_file",
    "make_directory",
    "make_own_directory",
    "new_file_status",
    "open_file",
    "path_problem",
    "read_file",
    "real_path",
    "remove_empty_directories",
    "replace_file",
    "sha256_file",
    "sha256_of_version",
    "sha256_unless_known",
    "sizes_under",
    "store_of",
    "sync_directory",
    "temporary_target",
    "translate_os_errors",
    "version_of_status",
]
