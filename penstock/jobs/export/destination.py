"""Where an export is written: an artefact of the work directory, or a directory of its own.

In the latter nothing else may be. The parts of an unfinished export have the first 16 digits of its
fingerprint in their names, so that a directory that another export began is recognised.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from penstock.artefact import Artefact, Draft
from penstock.errors import ArtefactError, InputError, StorageError
from penstock.storage import (
    AnyPath,
    as_path,
    check_no_links,
    delete,
    files_under,
    kind_of,
    translate_os_errors,
)

__all__ = ["Destination"]

_OTHER = "name an empty directory, or one that does not exist, with --out"


class Destination:
    """The directory of an export.

    Args:
        out: A path or URI.

    Raises:
        InputError: It is no directory, or no place that can be written.
    """

    def __init__(self, out: str) -> None:
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
            what = "an unfinished export of other contents" if begun else f"{names[0]} already"
            raise InputError(f"has {what}", key="--out", file=self.path, fix=_OTHER)
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
            raise InputError(
                "has an export of other contents: the recipe, its results, the format or the "
                "version of Penstock was another one",
                key="--out",
                file=self.path,
                fix=f"{_OTHER}; or delete it",
            )
        there.check_sizes()
        self.tidy()
        return there

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
