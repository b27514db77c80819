"""What every stage leaves behind: a directory of data files and one ``manifest.json``.

An artefact is named by its *fingerprint*, the sha256 of (stage, stage version, its configuration,
the fingerprints of its inputs), so resuming, caching and cutting again are the same thing: what
exists is not made again. The price is that every data file is hashed once when written and once
when read (sha256 runs at about 1.6 GB/s a core); it buys the promise that a changed byte is
refused rather than trained on.

Only committed files are read. A data file is written beside its place, synced and renamed; the
driver then records it in ``records/``; the manifest, written last, makes the artefact exist.
A file without a record is invisible.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from penstock.errors import ArtefactError

__all__ = [
    "FORMAT",
    "Artefact",
    "Draft",
    "FileRecord",
    "Workspace",
    "atomic_file",
    "canonical",
    "fingerprint",
    "sha256_file",
]

FORMAT = 1
"""Version of the manifest's own layout; a larger number is refused."""

_CHUNK = 1 << 20


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def fingerprint(
    stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, Any]
) -> str:
    """The name of the artefact that ``stage`` makes of ``inputs``: 64 hexadecimal digits."""
    return hashlib.sha256(canonical([stage, version, config, inputs])).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in 1 MiB reads."""
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at ``path`` whole or not at all: temporary, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One committed data file, as a manifest lists it."""

    path: str
    """Relative to the artefact's directory, with forward slashes."""
    bytes: int
    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)
    """What the stage wants known without opening the file: rows, counts, tokens."""

    @classmethod
    def of(cls, directory: Path, name: str, **facts: Any) -> FileRecord:
        """Record the file ``directory/name`` as it is now on disk."""
        path = directory / name
        return cls(path=name, bytes=path.stat().st_size, sha256=sha256_file(path), facts=facts)


@dataclass(frozen=True, slots=True)
class Artefact:
    """A finished artefact, read through its manifest only."""

    path: Path
    manifest: dict[str, Any]
    files: tuple[FileRecord, ...]

    @classmethod
    def open(cls, path: Path) -> Artefact:
        """Open the artefact at ``path``.

        Raises:
            ArtefactError: There is no manifest, it cannot be read, or a newer version wrote it.
        """
        source = Path(path) / "manifest.json"
        try:
            manifest = json.loads(source.read_bytes())
            written = int(manifest["format"])
            if written <= FORMAT:
                files = tuple(FileRecord(**item) for item in manifest["files"])
                return cls(Path(path), manifest, files)
        except (FileNotFoundError, NotADirectoryError):
            raise ArtefactError(
                f"{source}: no such file; the artefact was not finished: run the command again"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"{source}: not a manifest ({error!r}); delete the directory and run again"
            ) from None
        raise ArtefactError(
            f"{source}: written in format {written}, this Penstock reads up to {FORMAT}; "
            "upgrade Penstock or use another work directory"
        )

    @property
    def fingerprint(self) -> str:
        """The artefact's name: 64 hexadecimal digits."""
        return str(self.manifest["fingerprint"])

    @property
    def digest(self) -> str:
        """sha256 of the manifest, hence of every byte of every data file."""
        return hashlib.sha256(canonical(self.manifest)).hexdigest()

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage recorded about the whole artefact (counts, accuracy, ...)."""
        facts: dict[str, Any] = self.manifest["facts"]
        return facts

    def named(self, prefix: str) -> tuple[FileRecord, ...]:
        """The files whose path begins with ``prefix``, in manifest order."""
        return tuple(record for record in self.files if record.path.startswith(prefix))

    def verified(self, record: FileRecord) -> Path:
        """The path of a recorded file, after comparing its bytes with the record.

        Raises:
            ArtefactError: The file is missing, or is not the one that was recorded.
        """
        path = self.path / record.path
        try:
            found = sha256_file(path)
        except FileNotFoundError:
            raise ArtefactError(
                f"{path}: recorded in the manifest but missing; delete {self.path} and run again "
                "to make it anew"
            ) from None
        if found != record.sha256:
            raise ArtefactError(
                f"{path}: changed since it was written: expected sha256 {record.sha256}, found "
                f"{found}; delete {self.path} and run again to make it anew"
            )
        return path

    def verify(self) -> None:
        """Compare every file with its record; raises as :meth:`verified`."""
        for record in self.files:
            self.verified(record)


class Draft:
    """An artefact in the making: parts are recorded one by one, the manifest comes last.

    Work that is already recorded is found again by :meth:`done`, which is all that resuming is.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self._header = header
        (path / "records").mkdir(parents=True, exist_ok=True)

    @property
    def fingerprint(self) -> str:
        """The name the artefact will have."""
        return str(self._header["fingerprint"])

    def done(self, part: str) -> tuple[FileRecord, ...] | None:
        """The files recorded for ``part`` by this or an earlier attempt, or None."""
        try:
            items = json.loads(self._record_path(part).read_bytes())
        except FileNotFoundError:
            return None
        return tuple(FileRecord(**item) for item in items)

    def record(self, part: str, files: Sequence[FileRecord]) -> None:
        """Commit ``part``: from here on its files count. Only the driver calls this."""
        with atomic_file(self._record_path(part)) as sink:
            sink.write(canonical([asdict(item) for item in files]))

    def publish(self, parts: Sequence[str], facts: Mapping[str, Any]) -> Artefact:
        """Write the manifest over ``parts`` in the order given, and open the artefact.

        Raises:
            ArtefactError: A part was never recorded, so publishing would lose it.
        """
        files: list[FileRecord] = []
        for part in parts:
            recorded = self.done(part)
            if recorded is None:
                raise ArtefactError(f"{self.path}: part {part!r} was not finished; run again")
            files.extend(recorded)
        manifest = {
            **self._header,
            "files": [asdict(item) for item in files],
            "facts": dict(facts),
        }
        with atomic_file(self.path / "manifest.json") as sink:
            sink.write(canonical(manifest))
        return Artefact.open(self.path)

    def _record_path(self, part: str) -> Path:
        return self.path / "records" / f"{part}.json"


class Workspace:
    """A work directory: where artefacts are found, and made when they are not there.

    Args:
        root: The recipe's ``work``, a local directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def directory(self, stage: str, name: str) -> Path:
        """Where the artefact of ``stage`` with fingerprint ``name`` is or will be."""
        return self.root / stage / name[:16]

    def find(self, stage: str, name: str) -> Artefact | None:
        """The finished artefact with fingerprint ``name``, or None."""
        path = self.directory(stage, name)
        if not (path / "manifest.json").exists():
            return None
        found = Artefact.open(path)
        if found.fingerprint != name:
            raise ArtefactError(
                f"{path}: holds the artefact {found.fingerprint}, expected {name}; delete it"
            )
        return found

    def make(
        self,
        stage: str,
        version: int,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        work: Callable[[Draft], Artefact],
    ) -> Artefact:
        """The artefact of (stage, version, config, inputs): found, or made by ``work``."""
        name = fingerprint(stage, version, config, inputs)
        return self.find(stage, name) or work(self.draft(stage, version, config, inputs))

    def draft(
        self, stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> Draft:
        """Begin, or go on with, the artefact of (stage, version, config, inputs)."""
        name = fingerprint(stage, version, config, inputs)
        header = {
            "format": FORMAT,
            "stage": stage,
            "stage_version": version,
            "fingerprint": name,
            "config": dict(config),
            "inputs": dict(inputs),
        }
        return Draft(self.directory(stage, name), header)

    def artefacts(self) -> Iterator[Artefact]:
        """Every finished artefact of the work directory, by stage and name."""
        for manifest in sorted(self.root.glob("*/*/manifest.json")):
            yield Artefact.open(manifest.parent)

    def remove(self, artefact: Artefact) -> None:
        """Delete an artefact: its manifest, then its records, then the files they vouch for.

        In this order a half-deleted one is invisible, and is not gone on with either.
        """
        (artefact.path / "manifest.json").unlink()
        shutil.rmtree(artefact.path / "records")
        shutil.rmtree(artefact.path)
