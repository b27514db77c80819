"""Checkpoints as directories: written under a temporary name, renamed when whole, read only then.

::

    checkpoints/.step-00000400.9c1e.tmp being written; removed at the next start
    checkpoints/step-00000400/          committed: one rename made it so
        manifest.json                   bytes and sha256 of every other file, signed
        cursor.json  state/...      and the back end's directory
    checkpoints/.step-00000200.old      no longer kept, being removed
    checkpoints/.attempt                names the attempt that may write here

A killed process leaves names with a dot, which are never read. Every file and directory is
fsynced before the rename, so after a power loss the name has its content. Verification reads every
byte once to find a whole checkpoint, and once more when it is loaded (1.6 GB/s a core).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.artefact import FileRecord
from penstock.errors import ArtefactError, StorageError, TrainingError
from penstock.storage import (
    atomic_file,
    files_under,
    sync_directory,
    translate_os_errors,
)
from penstock.trainers.checkpoints.manifest import MANIFEST, SignedManifest
from penstock.trainers.checkpoints.signing import Signer

__all__ = ["Committed", "Folder", "record_durably"]

ATTEMPT = ".attempt"

_BLOCK = 2**20

_COMMITTED = re.compile(r"step-(\d{8,})")
_OURS = re.compile(r"\.(step-\d{8,}|universal)(\.[0-9a-f]+)?\.(tmp|old|damaged)")


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint that was written whole; :meth:`fault` checks whether it still is."""

    path: Path
    manifest: SignedManifest
    """Records of every other file."""

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file but the manifest, by paths relative to the checkpoint."""
        return self.manifest.files

    @property
    def step(self) -> int:
        """The first step after the checkpoint."""
        return int(self.path.name.partition("-")[2])

    def fault(self, share: int = 0, of: int = 1) -> str | None:
        """Read every file of one share and return the first difference, or None.

        Args:
            share: Below ``of``; the files are dealt to this many shares.
            of: Number of shares, one for each worker.
        """
        for record in self.files[share::of]:
            try:
                record.verified(self.path)
            except (ArtefactError, StorageError) as error:
                found = f"expected {error.expected}, found {error.got}"
                return f"{self.path / record.path}: {found if error.expected else error.problem}"
        return None


class Folder:
    """The ``checkpoints`` directory of a run. Only one process changes it: rank 0.

    The workers of a killed driver may run for a second or two while the next attempt begins. Their
    next :meth:`check` raises, because :meth:`claim` was called again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attempt = ""
        """This attempt's own name, from :meth:`claim`; the same on all workers."""

    def claim(self) -> str:
        """Take over the directory for a new attempt, and return its name."""
        self.attempt = uuid.uuid4().hex
        with atomic_file(self.path / ATTEMPT, durable=False) as sink:
            sink.write(self.attempt.encode())
        return self.attempt

    def check(self) -> None:
        """Check that this attempt may still write.

        Raises:
            TrainingError: A later one has begun.
        """
        if (self.path / ATTEMPT).read_bytes() != self.attempt.encode():
            raise TrainingError(
                "another attempt at this run has begun; this one ends", file=self.path.parent
            )

    def sweep(self) -> None:
        """Remove temporary directories of killed processes."""
        for path in self.path.glob(".*"):
            if _OURS.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

    def committed(self) -> list[Committed]:
        """Return the checkpoints, the newest first."""
        found = [path for path in self.path.glob("step-*") if _COMMITTED.fullmatch(path.name)]
        ordered = sorted(found, key=lambda path: int(path.name[5:]), reverse=True)
        return [Committed(path, SignedManifest.read(path)) for path in ordered]

    def begin(self, step: int) -> Path:
        """Make an empty directory for the checkpoint of ``step``."""
        self.check()
        path = self.temporary(step)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    @property
    def scratch(self) -> Path:
        """A directory for the conversion of a checkpoint."""
        return self.path / ".universal.tmp"

    def temporary(self, step: int) -> Path:
        """Return the directory in which the checkpoint of ``step`` is written."""
        return self.path / f".{_name(step)}.{self.attempt[:8]}.tmp"

    def publish(self, step: int, files: Sequence[FileRecord], signer: Signer) -> Committed:
        """Commit the directory that :meth:`begin` returned.

        Args:
            step: The step given to :meth:`begin`.
            files: All of its files, each already fsynced.
            signer: Signs the manifest.

        Raises:
            ArtefactError: A recorded file is not visible here, or a visible one is not recorded.
        """
        source, target = self.temporary(step), self.path / _name(step)
        there = {name: (source / name).stat().st_size for name in files_under(source)}
        written = {record.path: record.bytes for record in files}
        if there != written:
            odd = min(there.items() ^ written.items())[0]
            raise ArtefactError(
                "the first worker does not see what the workers wrote",
                file=source / odd,
                expected=f"{written.get(odd, 'no')} bytes",
                got=there.get(odd, "none"),
                fix="set `work` to a directory on a disk that all workers share",
            )
        self.check()
        manifest = SignedManifest.of(files, signer)
        with translate_os_errors(source):
            with open(source / MANIFEST, "xb") as sink:  # never through a link
                sink.write(manifest.encoded())
                sink.flush()
                os.fsync(sink.fileno())
            for directory in [path for path in source.rglob("*") if path.is_dir()]:
                sync_directory(directory)
            sync_directory(source)
            if target.exists():  # damaged, or this step would not have been taken again
                shutil.rmtree(self.hide(target, "damaged"), ignore_errors=True)
            os.rename(source, target)
            sync_directory(self.path)
        return Committed(target, manifest)

    def keep(self, count: int) -> None:
        """Remove all but the newest ``count``, each renamed first, so that none is half removed."""
        for old in self.committed()[count:]:
            shutil.rmtree(self.hide(old.path, "old"), ignore_errors=True)

    def hide(self, path: Path, why: str) -> Path:
        """Rename a checkpoint that is ``old`` or ``damaged``; the next :meth:`sweep` removes it."""
        hidden = self.path / f".{path.name}.{why}"
        shutil.rmtree(hidden, ignore_errors=True)
        os.rename(path, hidden)
        return hidden


def record_durably(directory: Path, names: Sequence[str]) -> list[FileRecord]:
    """Fsync files that this process wrote, and return their records, which are to be signed.

    A library has closed each file already. In a directory that others may write, another could lie
    in its place by now, so that a file must belong to this user: as the file system shows a new
    file, since it may show all files as another user's.

    Raises:
        ArtefactError: A file is another user's, or a link.
    """
    if not names:  # rank 0 may not have made the directory yet
        return []
    with tempfile.TemporaryFile(dir=directory) as probe:
        own = os.fstat(probe.fileno()).st_uid
    records = []
    for name in names:
        path = directory / name
        with translate_os_errors(path):
            number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(number, "rb") as file:
                found = os.fstat(number)
                if found.st_uid != own or not stat.S_ISREG(found.st_mode):
                    raise ArtefactError(
                        "is not the file that was written here",
                        file=path,
                        expected=f"a file of user {own}",
                        got=f"one of user {found.st_uid}",
                        fix="let only this user write to the work directory",
                    )
                with contextlib.suppress(PermissionError):  # some file systems have no modes
                    os.fchmod(number, stat.S_IMODE(found.st_mode) & ~0o022)
                os.fsync(number)
                digest = hashlib.sha256()
                while block := file.read(_BLOCK):
                    digest.update(block)
        records.append(FileRecord(path=name, bytes=found.st_size, sha256=digest.hexdigest()))
    return records


def _name(step: int) -> str:
    return f"step-{step:08d}"
