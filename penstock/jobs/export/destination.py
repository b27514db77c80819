"""Where an export is written: an artefact of the work directory, or a directory of its own.

In the latter nothing else may be, and ``overwrite`` deletes only what an export wrote. The parts of
an unfinished export have the first 16 digits of its fingerprint in their names, so that a directory
that another export began is recognised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.artefact import Artefact, Draft
from penstock.errors import ArtefactError, InputError, StorageError
from penstock.storage import (
    AnyPath,
    as_path,
    check_no_links,
    delete,
    delete_files,
    files_under,
    kind_of,
    translate_os_errors,
)

__all__ = ["Destination"]

_OTHER = "name an empty directory, or one that does not exist, with --out"

_REPLACE = f"{_OTHER}; or replace that export with --overwrite"

_PLACES = {"data", "documents", "records", "scratch", "tokenizer"}
_LAST = ("records/", "manifest.json")
_FILES = {"README.md", "sources.json", "tokens.json", "manifest.json"}
"""What is at the top of an unfinished export."""


class Destination:
    """The directory of an export.

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
        with translate_os_errors(self.path):
            if kind_of(self.path) not in (None, "directory"):
                raise InputError("not a directory", key="--out", file=self.path, fix=_OTHER)

    def found(self, fingerprint: str) -> Artefact | None:
        """Return the finished export of this fingerprint; None where it is not finished.

        With ``overwrite`` another export is deleted.

        Raises:
            InputError: Something else is there.
            ArtefactError: A file of the export is missing, or of another size.
        """
        with translate_os_errors(self.path):
            names = files_under(self.path) if kind_of(self.path) else []
        if not names:
            return None
        if "manifest.json" not in names:
            begun = {name for name in names if name.startswith("records/")}
            if begun and all(name.startswith(f"records/{fingerprint[:16]}-") for name in begun):
                return None
            if not begun:
                raise InputError(f"has {names[0]} already", key="--out", file=self.path, fix=_OTHER)
            known = [name for name in names if name in _FILES or name.split("/")[0] in _PLACES]
            self._replace(names, known, "has an unfinished export of other contents")
            return None
        try:
            there = Artefact.open(self.path)
        except ArtefactError:
            raise InputError(
                "has a manifest.json that is not of an export",
                key="--out",
                file=self.path,
                fix=_OTHER,
            ) from None
        if there.fingerprint != fingerprint:
            known = [record.path for record in there.files]
            known += [name for name in names if name.startswith("records/")]
            self._replace(
                names,
                [*known, "manifest.json"],
                "has an export of other contents: the recipe, its results, the format or the "
                "version of Penstock was another one",
                is_export=there.manifest["stage"] == "export",
            )
            return None
        there.check_sizes()
        self.tidy()
        return there

    def _replace(
        self, names: Sequence[str], known: Sequence[str], problem: str, is_export: bool = True
    ) -> None:
        """Delete another export; the manifest last, so that a killed deletion can be repeated.

        Args:
            names: All files that are there.
            known: The files of that export, the one that tells what it is last.
            problem: What is wrong without ``overwrite``.
            is_export: False for another artefact, which is never deleted.

        Raises:
            InputError: It may not be deleted, or there are files that no export wrote.
        """
        others = sorted({*names} - {*known})
        if not self._overwrite or not is_export:
            fix = _REPLACE if is_export and not others else _OTHER
            raise InputError(problem, key="--out", file=self.path, fix=fix)
        if others:
            raise InputError(
                f"has files that no export wrote, which --overwrite does not delete: {others[0]}"
                + f" and {len(others) - 1:,} more" * (len(others) > 1),
                key="--out",
                file=self.path,
                fix=_OTHER,
            )
        with translate_os_errors(self.path):
            if isinstance(self.path, Path):
                check_no_links(self.path)
            delete_files(self.path / name for name in names if not name.startswith(_LAST))
            delete_files(self.path / name for name in names if name.startswith(_LAST))

    def draft(self, header: dict[str, Any]) -> Draft:
        """Begin or resume the export with this header."""
        if isinstance(self.path, Path) and self.path.is_dir():
            check_no_links(self.path)
        draft = Draft(self.path, header)
        draft.record(f"{draft.fingerprint[:16]}-begun", [])
        return draft

    def tidy(self) -> None:
        """Delete the records of parts, which a finished export has in its manifest."""
        with contextlib.suppress(FileNotFoundError):
            delete(self.path / "records")
