"""Checks of a work directory after a kill, and at the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from penstock.artefact import FileRecord, Workspace
from penstock.storage import sha256_file


def check_committed(work: Path) -> dict[Path, tuple[int, int]]:
    """Check every committed file against its checksum.

    Returns:
        Inode and time of every recorded file: none may be made again.
    """
    if not work.exists():
        return {}
    for artefact in Workspace(work).artefacts():
        artefact.verify()
    kept = {}
    for record in work.glob("*/*/records/[!.]*.json"):
        for item in recorded(record):
            path = record.parents[1] / item.path
            assert sha256_file(path) == item.sha256, f"{path} differs from its record {record.name}"
            kept[path] = _made(path)
        kept[record] = _made(record)
    return kept


def recorded(record: Path) -> list[FileRecord]:
    """Return the files that a record names."""
    return [FileRecord(**item) for item in json.loads(record.read_bytes())]


def _made(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def redone(kept: Mapping[Path, tuple[int, int]]) -> list[Path]:
    """Return the recorded files that were made again; scratch files may be gone."""
    return [path for path, made in kept.items() if path.exists() and _made(path) != made]


_OWN = ("lease", "journal")
"""Directories of a work directory that no artefact has."""


def strays(work: Path) -> list[str]:
    """Return files below a work directory that no manifest and no record names."""
    named = {work / "inputs.json"}
    for artefact in Workspace(work).artefacts():
        named.add(artefact.path / "manifest.json")
        named.update(artefact.path / item.path for item in artefact.files)
        for record in (artefact.path / "records").glob("[!.]*.json"):
            if all(artefact.path / item.path in named for item in recorded(record)):
                named.add(record)
    return sorted(
        path.relative_to(work).as_posix()
        for path in work.rglob("*")
        if path.is_file()
        and path not in named
        and not (path.parent.name in _OWN and not path.name.startswith("."))
    )


def digests(work: Path) -> dict[str, str]:
    """Return digests of artefacts, without the token store: its parts depend on its history."""
    return {
        artefact.path.relative_to(work).as_posix(): artefact.digest
        for artefact in Workspace(work).artefacts()
        if artefact.manifest["stage"] != "tokens"
    }


def tokens_of(work: Path) -> dict[str, int]:
    """Return the number of tokens that the token store has of each unit."""
    total: Counter[str] = Counter()
    for artefact in Workspace(work).artefacts():
        if artefact.manifest["stage"] == "tokens":
            for item in artefact.files:
                total[item.facts["unit"]] += item.facts["tokens"]
    return dict(total)
