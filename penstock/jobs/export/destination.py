"""Where an export is written: an artefact of the work directory, or a directory of its own.

In the latter nothing else may be, and ``overwrite`` deletes only what an export wrote. The parts of
an unfinished export have the first 16 digits of its fingerprint in their names, so that a directory
that another export began is recognised. Whoever writes there holds a lease, as the driver of a work
directory does; it is deleted at the end.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from penstock.artefact import Artefact, Draft
from penstock.errors import ArtefactError, InputError, LeaseError, StorageError
from penstock.lease import Lease
from penstock.storage import (
    AnyPath,
    as_path,
    check_no_links,
    delete,
    delete_files,
    kind_of,
    remove_empty_directories,
    sha256_file,
    sizes_under,
    temporary_target,
    translate_os_errors,
)

__all__ = ["Destination"]

_OTHER = "name an empty directory, or one that does not exist, with --out"

_REPLACE = f"{_OTHER}; or replace that export with --overwrite"

_LAST = ("records/", "manifest.json")

_OURS = re.compile(
    r"(?:README\.md|(?:sources|tokens|manifest)\.json|tokenizer/tokenizer\.json"
    r"|records/[0-9a-f]{16}-[^/]+\.json|scratch/[^/]+\.json"
    r"|data/(?:dataset_info|state|index)\.json|documents/[^/]+\.parquet"
    r"|data/(?:(?:train|data|tokens)-\d+(?:-of-\d+)?|shard\.\d+)(?:\.[a-z]+)+)"
)
"""Names of the files that exports write."""

_LEASE = re.compile(r"lease/\d{8,12}\.json")

_WORDS = {
    "give another `work`": "name another directory with --out",
    "give another `--out`": "name another directory with --out",
    "remove it, or ": "",
    "delete it, or ": "",
    "see who else can write to the work directory": "see who else can write there",
}
"""Words of fixes for a work directory, and those for an export, which delete nothing of a user."""


class _DirectoryState(NamedTuple):
    """What is in the directory of an export."""

    export: Artefact | None
    """The export, if it is finished and complete."""
    stale: Sequence[str] = ()
    """Files of exports that go: of one that is replaced, or left by one that was killed."""


class Destination:
    """The directory of an export, in a ``with`` block, at the end of which the lease is deleted.

    Args:
        out: A path or URI.
        overwrite: Whether to delete another export that is there.

    Raises:
        InputError: It is no directory, or no place that can be written.
    """

    def __init__(self, out: str, overwrite: bool = False) -> None:
        self._overwrite = overwrite
        try:
            path = as_path(out)
        except StorageError as error:
            raise InputError(str(error), key="--out") from None
        self.path: AnyPath = path.absolute() if isinstance(path, Path) else path
        self._lease = Lease(self.path, key="--out")
        with self._errors():
            self._check_kind()

    def __enter__(self) -> Destination:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lease.remove()
        if isinstance(error, (StorageError, LeaseError)):
            self._reword(error)

    def found(self, fingerprint: str) -> Artefact | None:
        """Return the finished export of this fingerprint; None where it is to be written.

        Then the lease is held, and what is in the way was deleted: with ``overwrite`` another
        export, or this one where a file of it was changed; the leftovers of one that was killed.

        Raises:
            InputError: Something else is there.
            ArtefactError: A file of the export is missing, or of another size.
            LeaseError: Another process writes there.
        """
        with self._errors():
            there = self._look(fingerprint)
            if there.export is not None and not there.stale:
                return there.export
            if there.export is not None:
                # It is complete, whoever may write there.
                with contextlib.suppress(LeaseError, StorageError):
                    self._clear(fingerprint)
                return there.export
            return self._clear(fingerprint)

    def draft(self, header: dict[str, Any]) -> Draft:
        """Begin or resume the export with this header."""
        draft = Draft(self.path, header, self._lease)
        draft.record(f"{draft.fingerprint[:16]}-begun", [])
        return draft

    def tidy(self) -> None:
        """Delete the records of parts, which a finished export has in its manifest."""
        with contextlib.suppress(FileNotFoundError):
            delete(self.path / "records")

    def _clear(self, fingerprint: str) -> Artefact | None:
        """Take the lease, look again, since another process may have written, and delete."""
        if isinstance(self.path, Path) and self.path.is_dir():
            check_no_links(self.path)
        self._lease.hold()
        there = self._look(fingerprint)
        # The manifest is last, so that a killed deletion can be repeated.
        delete_files(self.path / name for name in there.stale if not name.startswith(_LAST))
        delete_files(self.path / name for name in there.stale if name.startswith(_LAST))
        if there.stale:
            remove_empty_directories(self.path)
        return there.export

    def _look(self, fingerprint: str) -> _DirectoryState:
        """Look at what is there; nothing is written.

        Raises:
            InputError, ArtefactError: As :meth:`found`.
        """
        sizes = sizes_under(self.path) if kind_of(self.path) else {}
        half = [name for name in sizes if _OURS.fullmatch(temporary_target(name) or "")]
        leases = [name for name in sizes if _LEASE.fullmatch(temporary_target(name) or name)]
        names = [name for name in sizes if name not in half and name not in leases]
        if not names:
            return _DirectoryState(None, half)
        if "manifest.json" not in names:
            known = [name for name in names if _OURS.fullmatch(name)]
            records = [name for name in known if name.startswith("records/")]
            if not records:
                raise InputError(f"has {names[0]} already", key="--out", file=self.path, fix=_OTHER)
            if all(name.startswith(f"records/{fingerprint[:16]}-") for name in records):
                self._refuse_others(names, known)
                return _DirectoryState(None, half)
            self._check_replaced(names, known, "has an unfinished export of other contents")
            return _DirectoryState(None, [*half, *names])
        try:
            there = Artefact.open(self.path)
        except ArtefactError:
            raise InputError(
                "has a manifest.json that is not of an export",
                key="--out",
                file=self.path,
                fix=_OTHER,
            ) from None
        left = [name for name in names if name.startswith(("records/", "scratch/"))]
        left = [name for name in left if _OURS.fullmatch(name)]
        known = [*(record.path for record in there.files), *left, "manifest.json"]
        if there.fingerprint != fingerprint:
            self._check_replaced(
                names,
                known,
                "has an export of other contents: the recipe, its results, the format or the "
                "version of Penstock was another one",
                is_export=there.manifest["stage"] == "export",
            )
            return _DirectoryState(None, [*half, *names])
        if self._is_damaged(there, sizes):
            self._refuse_others(names, known)
            return _DirectoryState(None, [*half, *names])
        return _DirectoryState(
            there, [*half, *left, *(name for name in sizes if _LEASE.fullmatch(name))]
        )

    def _is_damaged(self, there: Artefact, sizes: dict[str, int]) -> bool:
        """Return whether files of the export are to be written again.

        Sizes are compared. With ``overwrite`` the files of a local directory are read.

        Raises:
            ArtefactError: A file is missing, or of another size, without ``overwrite``.
        """
        if self._overwrite:
            return bool(there.damaged(sizes)) or any(
                isinstance(self.path, Path)
                and sha256_file(self.path / record.path) != record.sha256
                for record in there.files
            )
        try:
            there.check_sizes()
        except ArtefactError as error:
            error.fix = "write the export again with --overwrite, or name another --out"
            raise
        return False

    def _check_replaced(
        self, names: Sequence[str], known: Sequence[str], problem: str, is_export: bool = True
    ) -> None:
        """Check that another export may be deleted.

        Args:
            names: All files that are there.
            known: The files of that export.
            problem: What is wrong without ``overwrite``.
            is_export: False for another artefact, which is never deleted.

        Raises:
            InputError: It may not be deleted, or there are files that no export wrote.
        """
        if not self._overwrite or not is_export:
            may = is_export and not {*names} - {*known}
            fix = _REPLACE if may else _OTHER
            raise InputError(problem, key="--out", file=self.path, fix=fix)
        self._refuse_others(names, known)

    def _refuse_others(self, names: Sequence[str], known: Sequence[str]) -> None:
        if others := sorted({*names} - {*known}):
            raise InputError(
                f"has files that no export wrote, which are not deleted: {others[0]}"
                + f" and {len(others) - 1:,} more" * (len(others) > 1),
                key="--out",
                file=self.path,
                fix=_OTHER,
            )

    def _check_kind(self) -> None:
        """Raise InputError where a file, or what is no directory, is at the path or above it."""
        for path in (self.path, *self.path.parents) if isinstance(self.path, Path) else ():
            if os.path.lexists(path):
                if not path.is_dir():
                    raise InputError("not a directory", key="--out", file=path, fix=_OTHER)
                return
        if kind_of(self.path) not in (None, "directory"):
            raise InputError("not a directory", key="--out", file=self.path, fix=_OTHER)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with translate_os_errors(self.path):
                yield
        except (StorageError, LeaseError) as error:
            self._reword(error)
            raise

    def _reword(self, error: StorageError | LeaseError) -> None:
        """Put ``--out`` in place of ``work`` in the fix of an error about this directory."""
        if error.file is None or not error.file.startswith(str(self.path)) or not error.fix:
            return
        for words, own in _WORDS.items():
            error.fix = error.fix.replace(words, own)
        error.key = error.key or "--out"
