"""Finished artefacts: their names, their manifests, and the records of their files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.errors import ArtefactError
from penstock.node_cache import local_file, local_tree
from penstock.storage import AnyPath, Sink, read_file, sha256_file, sizes_under

__all__ = [
    "FORMAT",
    "Artefact",
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
    def parsed(cls, item: Any) -> FileRecord:
        """Check and return a record that is an entry of a manifest, which anyone may have written.

        The path and the checksum name the files that are read, copied and deleted, so that ``..``
        in them would lead out of the artefact and out of the node's cache.

        Raises:
            ValueError: The path leads elsewhere, or another field has another form.
            TypeError: A field is missing or unknown.
        """
        record = cls(**item)
        name = repr(record.path)
        if not (isinstance(record.path, str) and _is_below(record.path)):
            raise ValueError(f"path: expected a relative path inside the artefact, got {name}")
        if type(record.bytes) is not int or record.bytes < 0:
            raise ValueError(f"bytes of {name}: expected a count, got {record.bytes!r}")
        if not (isinstance(record.sha256, str) and _SHA256.fullmatch(record.sha256)):
            got = repr(record.sha256)
            raise ValueError(f"sha256 of {name}: expected 64 hexadecimal digits, got {got}")
        if not isinstance(record.facts, dict):
            raise ValueError(f"facts of {name}: expected a mapping, got {record.facts!r}")
        return record

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
        here = self.local(directory)
        found = sha256_file(here)
        if found != self.sha256:
            raise changed_file(directory / self.path, self, found, directory)
        return here

    def local(self, directory: AnyPath) -> Path:
        """Return the file's local path, as :meth:`verified`, without reading a local file."""
        path = directory / self.path
        try:
            here = local_file(path, self.sha256)
            here.stat()
        except FileNotFoundError:
            raise missing_file(path, directory) from None
        return here


_SHA256 = re.compile("[0-9a-f]{64}")


def _is_below(path: str) -> bool:
    """Return whether a path stays inside its directory, on any operating system."""
    parts = path.split("/")
    return not (
        any(part in ("", ".", "..") for part in parts)
        or "\\" in path
        or "\0" in path
        or ":" in parts[0]  # a drive, or the scheme of a URI
    )


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


FORMAT = 1
"""Version of the manifest's own layout; a larger number is refused."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A finished artefact, read through its manifest only."""

    path: AnyPath
    manifest: dict[str, Any]
    files: tuple[FileRecord, ...]

    def __repr__(self) -> str:
        size = sum(record.bytes for record in self.files)
        stage, name = self.manifest["stage"], self.fingerprint[:16]
        return f"<{stage} {name}: {len(self.files):,} files, {size:,} bytes, {self.path}>"

    @classmethod
    def open(cls, path: AnyPath) -> Artefact:
        """Open the artefact at ``path``.

        Raises:
            ArtefactError: There is no manifest, it cannot be read, or a newer version wrote it.
        """
        source = path / "manifest.json"
        try:
            manifest = json.loads(read_file(source))
            written = int(manifest["format"])
            if written <= FORMAT:
                return cls.of(path, manifest)
        except (FileNotFoundError, NotADirectoryError):
            raise ArtefactError(
                "no such file: the artefact was not finished",
                file=source,
                fix="run the command again",
            ) from None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            problem = f"no {error}" if isinstance(error, KeyError) else str(error)[:300]
            raise ArtefactError(
                f"not a manifest ({problem})", file=source, fix=f"delete {path} and run again"
            ) from None
        raise ArtefactError(
            file=source,
            expected=f"a manifest of format {FORMAT} or older",
            got=f"format {written}",
            fix="upgrade Penstock or use another work directory",
        )

    @classmethod
    def of(cls, path: AnyPath, manifest: dict[str, Any]) -> Artefact:
        """Return the artefact at ``path`` of which this is the manifest.

        Raises:
            KeyError, TypeError, ValueError: It is not a manifest.
        """
        return cls(path, manifest, tuple(map(FileRecord.parsed, manifest["files"])))

    @property
    def fingerprint(self) -> str:
        """The artefact's name: 64 hexadecimal digits."""
        return str(self.manifest["fingerprint"])

    @property
    def digest(self) -> str:
        """The sha256 of the manifest, and so of every byte of every data file."""
        return hashlib.sha256(canonical(self.manifest)).hexdigest()

    def digest_of(self, prefix: str) -> str:
        """Return a sha256 of the names and bytes of the files whose path begins with ``prefix``."""
        files = [[record.path, record.sha256] for record in self.named(prefix)]
        return hashlib.sha256(canonical(sorted(files))).hexdigest()

    @property
    def facts(self) -> dict[str, Any]:
        """Values of the whole artefact that its stage recorded: counts, accuracy."""
        facts: dict[str, Any] = self.manifest["facts"]
        return facts

    def named(self, prefix: str) -> tuple[FileRecord, ...]:
        """Return the files whose path begins with ``prefix``, in manifest order."""
        return tuple(record for record in self.files if record.path.startswith(prefix))

    def verified(self, record: FileRecord) -> Path:
        """Return a recorded file's local path; see :meth:`FileRecord.verified`."""
        return record.verified(self.path)

    def check_sizes(self) -> None:
        """Compare the size of every file with its record, without reading any.

        Raises:
            ArtefactError: A file is missing, or is of another size.
        """
        sizes = sizes_under(self.path)
        for record in self.damaged(sizes):
            path = self.path / record.path
            if record.path not in sizes:
                raise missing_file(path, self.path)
            raise ArtefactError(
                "changed since it was written",
                file=path,
                expected=f"{record.bytes:,} bytes",
                got=f"{sizes[record.path]:,}",
                fix=make_again_fix(self.path),
            )

    def damaged(self, sizes: Mapping[str, int]) -> list[FileRecord]:
        """Return the files that are missing or of another size.

        Args:
            sizes: Bytes of the files that exist, by name.
        """
        return [record for record in self.files if sizes.get(record.path) != record.bytes]

    def local(self) -> Path:
        """Return a local directory that holds every file, each compared with its record.

        Raises:
            ArtefactError: A file is missing, or is not the one that was recorded.
        """
        self.verify()
        return local_tree(self.path, [(item.path, item.sha256) for item in self.files], self.digest)

    def verify(self) -> None:
        """Compare every file's bytes with its record.

        Raises:
            ArtefactError: A file is missing, or is not the one that was recorded.
        """
        for record in self.files:
            self.verified(record)
