"""The names of artefacts, and the records of their files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.errors import ArtefactError
from penstock.node_cache import local_file
from penstock.storage import AnyPath, Sink, sha256_file

__all__ = [
    "FileRecord",
    "canonical",
    "changed_file",
    "fingerprint",
    "make_again_fix",
    "missing_file",
]


def canonical(value: Any) -> bytes:
    """Return JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def fingerprint(
    stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, Any]
) -> str:
    """Return the name of the artefact that ``stage`` makes of ``inputs``: 64 hex digits."""
    return hashlib.sha256(canonical([stage, version, config, inputs])).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One committed data file, as a manifest lists it."""

    path: str
    """Path relative to the artefact's directory, with forward slashes."""
    bytes: int
    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)
    """Values for later stages that do not open the file: rows, counts, tokens."""

    @classmethod
    def of(cls, name: str, sink: Sink, **facts: Any) -> FileRecord:
        """Return the record of a file that was just written to ``sink``."""
        return cls(path=name, bytes=sink.bytes, sha256=sink.sha256, facts=facts)

    @classmethod
    def found(cls, directory: AnyPath, name: str, **facts: Any) -> FileRecord:
        """Return the record of a file that a library wrote, by reading it."""
        path = directory / name
        return cls(path=name, bytes=path.stat().st_size, sha256=sha256_file(path), facts=facts)

    def verified(self, directory: AnyPath) -> Path:
        """Return the file's local path, after comparing its bytes with this record.

        A remote file is first copied to this node, unless a copy is there.

        Args:
            directory: The artefact that holds the file.

        Raises:
            ArtefactError: The file is missing, or its sha256 differs.
        """
        path = directory / self.path
        try:
            here = local_file(path, self.sha256)
            found = sha256_file(here)
        except FileNotFoundError:
            raise missing_file(path, directory) from None
        if found != self.sha256:
            raise changed_file(path, self, found, directory)
        return here


def make_again_fix(directory: AnyPath) -> str:
    """Return the fix of errors about files of an artefact."""
    return f"delete {directory} and run again to make it anew"


def changed_file(
    path: AnyPath, record: FileRecord, found: str, directory: AnyPath
) -> ArtefactError:
    """Return the error of a file whose sha256 is ``found``."""
    return ArtefactError(
        "changed since it was written",
        file=path,
        expected=f"sha256 {record.sha256}",
        got=found,
        fix=make_again_fix(directory),
    )


def missing_file(path: AnyPath, directory: AnyPath) -> ArtefactError:
    """Return the error of a file that is recorded and does not exist."""
    return ArtefactError("recorded but missing", file=path, fix=make_again_fix(directory))
