"""Where files lie: a local directory, or a URI such as ``s3://bucket/work``.

A local place is a plain :class:`pathlib.Path`, any other a :class:`upath.UPath` over fsspec, with
the same methods. A file is written whole or not at all: beside its place, synced and renamed, or
locally and then with one PUT. What maps files reads remote ones through
:mod:`penstock.node_cache`.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import io
import logging
import os
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
from typing_extensions import TypeIs
from upath import UPath

from penstock.errors import StorageError

__all__ = [
    "AnyPath",
    "Sink",
    "as_path",
    "atomic_file",
    "create_file",
    "files_under",
    "find_files",
    "is_remote",
    "is_uri",
    "kind_of",
    "make_directory",
    "path_problem",
    "read_file",
    "remove_temporaries",
    "remove_tree",
    "sha256_file",
    "sizes_under",
    "store_call",
    "sync_directory",
    "translate_os_errors",
]

AnyPath: TypeAlias = Path | UPath

_CHUNK = 1 << 20

_S3 = {
    # Other processes write what this one lists.
    "use_listings_cache": False,
    "default_block_size": 8 << 20,
    "config_kwargs": {
        "retries": {"total_max_attempts": 6, "mode": "standard"},
        "connect_timeout": 5,
        "read_timeout": 60,
    },
}
"""Credentials, region and endpoint come from the environment, as for every other S3 client.

Six tries take 15 s with the waits between them, and a store that fails one request in seven fails
six in a row once in 100,000. Workers begin anew up to four times when these are spent."""

_PATIENCE = 5.0
"""Seconds without an answer to a small question before that is said."""

_log = logging.getLogger("penstock.storage")

_INSTALL = {"s3": "penstock[s3]", "gs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


def is_uri(text: str | os.PathLike[str] | UPath) -> bool:
    """Whether a path of a recipe names a store rather than a local file."""
    return re.match(r"[A-Za-z][\w+.-]+://", str(text)) is not None


def path_problem(text: str) -> str | None:
    """What is wrong with a path or URI as it is written, and what may have been meant."""
    half = re.match(r"(s3a?|gs|gcs|abfss?|az|hdfs):(?!//)/*(.*)", text, re.IGNORECASE)
    if half:
        return f"expected a path or a URI, got {text!r}; did you mean '{half[1]}://{half[2]}'?"
    if re.match(r"(s3a?|gs|gcs|abfss?|az)://(/|$)", text, re.IGNORECASE):
        return f"expected a bucket, as in s3://bucket/work, got {text!r}"
    return None


def as_path(text: str | os.PathLike[str] | UPath) -> AnyPath:
    """The place that an absolute path or a URI names.

    Raises:
        StorageError: The URI's store needs a package that is not installed, or is not known.
    """
    if fault := path_problem(str(text)):
        raise StorageError(fault)
    if not is_uri(text):
        return Path(os.path.abspath(str(text)))
    scheme, _, path = str(text).partition("://")
    scheme = scheme.lower()
    if scheme == "file":
        return Path(os.path.abspath(path))
    try:
        fsspec.get_filesystem_class(scheme)
        options: dict[str, Any] = _S3 if scheme in ("s3", "s3a") else {}
        return UPath(f"{scheme}://{path}", **options)
    except ImportError:
        package = _INSTALL.get(scheme, f"the fsspec package for {scheme}://")
        raise StorageError(
            f"{text}: {scheme}:// needs a package that is not installed: pip install {package!r}"
        ) from None
    except ValueError as error:
        raise StorageError(
            f"{text}: not a store that can be used ({error}); expected a directory, or a URI such "
            "as s3://bucket/work"
        ) from None


def is_remote(where: AnyPath) -> TypeIs[UPath]:
    """Whether files at ``where`` must be fetched before they can be mapped."""
    return isinstance(where, UPath) and not isinstance(where, Path)


def kind_of(where: AnyPath) -> str | None:
    """``file`` or ``directory``, or None where there is nothing.

    A store is asked once, and its errors are raised: fsspec's own ``is_file`` takes each for a no.
    """
    if not is_remote(where):
        return "file" if where.is_file() else "directory" if where.is_dir() else None
    try:
        with store_call(where):
            return str(where.fs.info(where.path)["type"])
    except FileNotFoundError:
        return None


def find_files(pattern: AnyPath) -> list[AnyPath]:
    """The files that a path or a pattern (``*``, ``**``, ``?``, ``[]``) names, sorted by name."""
    if is_remote(pattern):
        scheme = str(pattern).partition("://")[0]
        if kind_of(pattern) == "file":
            return [pattern]
        with store_call(pattern):
            names = pattern.fs.glob(pattern.path) if glob.has_magic(pattern.path) else []
        return [as_path(f"{scheme}://{name}") for name in sorted(map(str, names))]
    if pattern.is_file():  # its name may hold what means something in a pattern
        return [pattern]
    return [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True))]


def sha256_file(path: AnyPath) -> str:
    """The sha256 of a file's bytes, in 1 MiB reads."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def translate_os_errors(where: AnyPath) -> Iterator[None]:
    """Says of an error of the operating system or the store where it happened and what helps.

    Raises:
        StorageError: The place is full, read-only or denied, or nobody said who asks.
    """
    try:
        yield
    except OSError as error:
        fix = _FIXES.get(error.errno or 0)
        if is_remote(where) and isinstance(error, PermissionError):
            fix = "permission denied; look at the credentials, and at what the bucket lets them do"
        if fix is None:
            raise
        raise StorageError(f"{where}: {fix}; what is finished is kept") from error
    except Exception as error:  # botocore's are not OSErrors, and it need not be installed
        if not type(error).__module__.startswith(("botocore.", "aiobotocore.", "aiohttp.")):
            raise
        fix = "look whether it can be reached from here, and run again; what is finished is kept"
        if "Credentials" in type(error).__name__:
            fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        raise StorageError(
            f"{where}: the store did not answer as expected ({error}); {fix}"
        ) from error


@contextlib.contextmanager
def store_call(where: AnyPath) -> Iterator[None]:
    """:func:`translate_os_errors` for a small question to a store, and word of it if the answer is
    late."""
    if not is_remote(where):
        yield
        return
    late = threading.Timer(
        _PATIENCE,
        lambda: _log.warning("%s: no answer for %.0f s; trying on", where, _PATIENCE),
    )
    late.daemon = True
    late.start()
    try:
        with translate_os_errors(where):
            yield
    finally:
        late.cancel()


def make_directory(where: Path) -> None:
    """Make a directory and those above it, where they are not there.

    Raises:
        StorageError: That cannot be done.
    """
    with translate_os_errors(where):
        try:
            where.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # as in /proc
            raise StorageError(
                f"{where}: no directory can be made there ({error}); give another `work`"
            ) from error


@contextlib.contextmanager
def _writing(where: AnyPath) -> Iterator[None]:
    with translate_os_errors(where):
        try:
            yield
        except FileNotFoundError as error:
            if not is_remote(where):
                raise
            raise StorageError(
                f"{where}: {error}; make the bucket, or give another `work`"
            ) from error


_FIXES = {
    errno.ENOSPC: "no space is left there; free some, or give another `work`, and run again",
    errno.EDQUOT: "the quota there is used up; free some, or give another `work`, and run again",
    errno.EFBIG: (
        "no file may grow that large there; raise the limit (`ulimit -f`, or the file system's) or "
        "give another `work`"
    ),
    errno.EROFS: "it is on a file system that is read-only; give another `work`",
    errno.EACCES: "permission denied; let this user write there, or give another `work`",
    errno.EPERM: "the operation is not permitted there; give another `work`",
    errno.ENOTDIR: "a file stands where a directory is needed; remove it, or give another `work`",
    errno.EEXIST: "a file stands where a directory is needed; remove it, or give another `work`",
}


class Sink(io.RawIOBase):
    """A file being written from front to back, which knows its size and checksum at the end."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file
        self._digest = hashlib.sha256()
        self.bytes = 0
        """Written so far."""

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._digest.update(view)
        self.bytes += len(view)
        return len(view)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.bytes

    @property
    def sha256(self) -> str:
        """Of what was written so far, in hexadecimal."""
        return self._digest.hexdigest()


@contextlib.contextmanager
def atomic_file(where: AnyPath, durable: bool = True) -> Iterator[Sink]:
    """A binary file that appears at ``where`` whole or not at all.

    Args:
        where: Its place; directories above it are made.
        durable: Whether it must survive the machine; scratch need not, and is not synced.

    Raises:
        StorageError: The place is full, read-only or denied.
    """
    with _writing(where):
        if is_remote(where):
            with tempfile.TemporaryDirectory(prefix="penstock-put-") as directory:
                parcel = Path(directory) / "file"
                with open(parcel, "wb") as file:
                    yield Sink(file)
                where.fs.put_file(str(parcel), where.path)
            return
        make_directory(where.parent)
        temporary = _beside(where)
        try:
            with open(temporary, "wb") as file:
                yield Sink(file)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, where)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync_directory(where.parent)


def create_file(where: AnyPath, data: bytes) -> bool:
    """Write a small file that must not exist yet, whole; False, and nothing done, where it does.

    Of several writers exactly one is told True: a hard link locally, a conditional PUT on S3.
    """
    with _writing(where):
        if is_remote(where):
            try:
                where.fs.pipe_file(where.path, data, mode="create")
            except FileExistsError:
                return False
            return True
        make_directory(where.parent)
        temporary = _beside(where)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, where)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(where.parent)
        return True


def read_file(where: AnyPath) -> bytes:
    """A small file's bytes, by one GET where it is remote: as they were at one moment.

    Raises:
        FileNotFoundError: There is no such file.
    """
    with store_call(where):
        return bytes(where.fs.cat_file(where.path)) if is_remote(where) else where.read_bytes()


def files_under(where: AnyPath) -> list[str]:
    """The names of all files below ``where``, relative to it, with forward slashes; sorted."""
    if is_remote(where):
        return list(sizes_under(where))
    return sorted(
        path.relative_to(where).as_posix() for path in where.rglob("*") if not path.is_dir()
    )


def sizes_under(where: AnyPath) -> dict[str, int]:
    """The bytes of all files below ``where`` by their names, as :func:`files_under` has them."""
    if is_remote(where):
        root = where.path.rstrip("/")
        with store_call(where):
            found = where.fs.find(root, detail=True)
        sizes = {str(name)[len(root) :].lstrip("/"): info["size"] for name, info in found.items()}
        return dict(sorted(sizes.items()))
    sizes = {}
    for name in files_under(where):
        with contextlib.suppress(FileNotFoundError):  # a driver is at work there
            sizes[name] = (where / name).stat().st_size
    return sizes


def remove_tree(where: AnyPath) -> None:
    """Delete everything below ``where``, if there is anything."""
    with contextlib.suppress(FileNotFoundError):
        if is_remote(where):
            where.fs.rm(where.path, recursive=True)
        else:
            shutil.rmtree(where)


def remove_temporaries(where: AnyPath, deep: bool = True) -> None:
    """Delete what writers that were killed left beside the files they were writing.

    Args:
        where: A directory that nobody writes to now. A remote one has none of them.
        deep: Whether the directories below it are looked through, too.
    """
    for path in () if is_remote(where) else (where.rglob if deep else where.glob)(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


def _beside(where: Path) -> Path:
    return where.with_name(f".{where.name}.{uuid.uuid4().hex}.tmp")


def sync_directory(path: Path) -> None:
    """Have the names in a directory outlive the machine's power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
