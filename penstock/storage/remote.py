"""Files in a store over the network: any file system of fsspec."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import fsspec
from upath import UPath

from penstock.display import logger_of
from penstock.errors import PenstockError, StorageError
from penstock.storage.store import (
    DIRECTORY,
    FILE,
    KEPT,
    NO_ROOM,
    AnyPath,
    Child,
    FileVersion,
    Sink,
    os_errors,
)
from penstock.temporary import temporary_directory

__all__ = ["RemoteStore"]

LATE = 5.0
"""Seconds without an answer to a small request before a warning."""

_log = logger_of("penstock.storage")


class RemoteStore:
    """A store over the network, by its file system of fsspec. Subclasses are in ``stores/``.

    Without a subclass a store has the guarantees of fsspec. A file is created exclusively only if
    the file system does so itself, and :meth:`replace` compares before it writes, so two
    simultaneous writers may both succeed. What the methods do is said of the functions of
    :mod:`penstock.storage.files`, which choose the store of a path, and of the others here.
    """

    requests = 16
    """Requests to have under way at a time: more than 1, since each waits for a network."""
    keeps_checksums = True
    """True if the store keeps checksums of its files, so that names and sizes suffice to check
    files before they are read."""
    parquet: ClassVar[dict[str, Any]] = {"pre_buffer": True}  # a row group in few large requests
    """Options of ``pyarrow.parquet.ParquetFile`` for reads that suit the store."""
    schemes: ClassVar[tuple[str, ...]] = ()
    """Schemes of URIs that belong to the store."""
    package: ClassVar[str | None] = None
    """Package to install for the store, where fsspec gives another name."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Options of the file system of fsspec."""
    credentials: ClassVar[str] = "check the credentials and what they are allowed to do"
    """Fix to suggest where permission is denied or credentials are missing."""

    def path(self, scheme: str, rest: str) -> UPath:
        """Return the path of ``scheme://rest``.

        Raises:
            StorageError: The store is unknown, or its package is not installed.
        """
        uri = f"{scheme}://{rest}"
        try:
            fsspec.get_filesystem_class(scheme)
            return UPath(uri, **self.options)
        except ImportError as error:
            fix = f"pip install {self.package!r}" if self.package else str(error)
            raise StorageError(
                f"{scheme}:// needs a package that is not installed", file=uri, fix=fix
            ) from None
        except ValueError as error:
            raise StorageError(
                f"unknown store ({error})",
                file=uri,
                expected="a directory, or a URI such as s3://bucket/work",
            ) from None

    def read(self, path: AnyPath) -> bytes:
        with self._request(path) as (files, name):
            return bytes(files.cat_file(name))

    def open(self, path: AnyPath) -> IO[bytes]:
        """Open a file to read it."""
        return cast(IO[bytes], path.open("rb"))

    def read_ranges(self, path: AnyPath, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of a file from each start up to its end."""
        with self._request(path) as (files, name):
            return [  # a store takes an empty range for the whole file
                bytes(files.cat_file(name, start=start, end=end)) if end > start else b""
                for start, end in ranges
            ]

    @contextlib.contextmanager
    def put(self, path: AnyPath, durable: bool = True) -> Iterator[Sink]:
        with temporary_directory("put-") as directory:
            local = directory / "file"
            with open(local, "wb") as file:
                yield Sink(file)
            with self._writing(path) as (files, name):
                files.put_file(str(local), name)

    def create(self, path: AnyPath, data: bytes) -> bool:
        with self._writing(path) as (files, name):
            try:
                files.pipe_file(name, data, mode="create")
            except FileExistsError:
                return False
            return True

    def replace(self, path: AnyPath, old: bytes, new: bytes) -> bool:
        try:
            if self.read(path) != old:
                return False
        except FileNotFoundError:
            return False
        with self.put(path) as sink:
            sink.write(new)
        return True

    def list(
        self, path: AnyPath, enter: Callable[[str], bool] = lambda name: True
    ) -> dict[str, int]:
        with self._request(path) as (files, name):
            root = name.rstrip("/")
            found = files.find(root, detail=True)
        self._check_keys(path, found, root)
        sizes = {str(key)[len(root) :].lstrip("/"): info["size"] for key, info in found.items()}
        return {
            name: sizes[name]
            for name in sorted(sizes)
            if all(enter(name[: slash.start()]) for slash in re.finditer("/", name))
        }

    def children(self, path: AnyPath) -> Sequence[Child]:
        with self._request(path) as (files, name):
            found = files.ls(name, detail=True)
        root = name.rstrip("/") + "/"
        self._check_keys(path, (str(info["name"]) for info in found))
        kinds = {
            str(info["name"]).rstrip("/")[len(root) :]: str(info["type"])
            for info in found
            if str(info["name"]).startswith(root)
        }
        return [
            Child(name, DIRECTORY if kind == "directory" else FILE)
            for name, kind in sorted(kinds.items())
            if name  # the object of that name, which marks a directory
        ]

    def child(self, path: AnyPath) -> Child | None:
        kind = self.kind(path)
        return None if kind is None else Child(path.name, kind)

    def match(self, pattern: AnyPath) -> Sequence[AnyPath]:
        with self._request(pattern) as (files, name):
            found = files.glob(name, detail=True)
        self._check_keys(pattern, found)
        scheme = str(pattern).partition("://")[0]
        names = (str(name) for name, info in found.items() if info["type"] == "file")
        return [self.path(scheme, name.partition("://")[2] or name) for name in names]

    def kind(self, path: AnyPath) -> str | None:
        """Make one request and raise its errors: ``is_file`` of fsspec returns False for each."""
        try:
            with self._request(path) as (files, name):
                return str(files.info(name)["type"])
        except FileNotFoundError:
            return None

    def version(self, path: AnyPath) -> FileVersion:
        """Return size and entity tag, or the time of modification where there is none."""
        try:
            with self._request(path) as (files, name):
                files.invalidate_cache(name)
                return self.version_of(files.info(name))
        except FileNotFoundError:
            return ()

    def version_of(self, info: Mapping[str, Any]) -> FileVersion:
        """Return the version of a file that fsspec describes, as :meth:`version`."""
        tags = (info.get(key) for key in ("ETag", "etag", "LastModified", "mtime"))
        version = next((str(tag) for tag in tags if tag), "")
        return (int(info["size"]), version) if info["type"] == "file" else ()

    def version_of_open(self, file: Any) -> FileVersion:
        """Return the version of a file as it was when it was opened."""
        return self.version_of(file.details)

    def delete(self, path: AnyPath) -> None:
        with self._request(path) as (files, name), contextlib.suppress(FileNotFoundError):
            files.rm(name, recursive=True)

    def copy(self, path: AnyPath, target: Path) -> None:
        """Copy a file to this machine.

        Raises:
            OSError: There is no room for ``target``, which is the caller's to name.
        """
        full = None
        with self._request(path) as (files, name):
            try:
                files.get_file(name, str(target))
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                full = error
        if full is not None:
            raise full

    def local(self, path: AnyPath) -> Path | None:
        """Return the path by which the operating system can open, map and append to a file; None
        where it has to be copied first."""
        return None

    def is_temporary(self, error: BaseException) -> bool:
        """Return whether a request took too long: those errors are the client's own."""
        homes = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
        return any((home, "TimeoutError") in homes for home in ("asyncio", "concurrent", "fsspec"))

    @contextlib.contextmanager
    def errors(self, path: AnyPath) -> Iterator[None]:
        with os_errors(path, denied=self.credentials):
            try:
                yield
            except OSError as error:
                if error.filename is None:  # s3fs names no file
                    error.filename = str(path)
                raise
            except PenstockError:
                raise
            except Exception as error:  # clients raise whatever they like
                fix = f"check that the store can be reached from here, and run again; {KEPT}"
                if "Credentials" in type(error).__name__:
                    fix = self.credentials
                raise StorageError(
                    f"the store did not answer as expected ({error})", file=path, fix=fix
                ) from error

    def _check_keys(self, path: AnyPath, keys: Iterable[str], root: str = "") -> None:
        """Refuse a listing that names a place outside of what was listed: keys become local names.

        Raises:
            StorageError: A key has a part ``.`` or ``..``, or is not below ``root``.
        """
        below = f"{root}/" if root else ""
        for key in map(str, keys):
            if not {".", ".."}.isdisjoint(key.split("/")) or not f"{key}/".startswith(below):
                raise StorageError(
                    f"the store lists {key!r}",
                    file=path,
                    expected="keys below it, without `.` and `..` as parts",
                    fix="rename or delete that object; if there is none, do not use this store",
                )

    @contextlib.contextmanager
    def _request(self, path: AnyPath) -> Iterator[tuple[Any, str]]:
        """Give the file system and its name of ``path``; warn where an answer is late."""
        late = threading.Timer(
            LATE,
            lambda: _log.warning("%s: no answer for %.0f s; still trying", path, LATE),
        )
        late.daemon = True
        late.start()
        try:
            with self.errors(path):
                assert isinstance(path, UPath)
                yield path.fs, path.path
        finally:
            late.cancel()

    @contextlib.contextmanager
    def _writing(self, path: AnyPath) -> Iterator[tuple[Any, str]]:
        try:
            with self.errors(path):
                assert isinstance(path, UPath)
                yield path.fs, path.path
        except FileNotFoundError as error:
            raise StorageError(
                str(error), file=path, fix="make the bucket, or give another `work`"
            ) from error
