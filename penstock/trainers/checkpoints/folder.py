"""Checkpoints as directories: written under a temporary name, renamed when whole, read only then.

::

    checkpoints/.step-00000400.9c1e.tmp being written; removed at the next start
    checkpoints/step-00000400/          committed: one rename made it so
        manifest.json                   bytes and sha256 of every other file, signed
        cursor.json  state/...      and the back end's directory
    checkpoints/.step-00000200.9c1e0.old    no longer kept, being removed
    checkpoints/.attempt                names the attempt that may write here, and is locked

A killed process leaves names with a dot, which are never read. Every file and directory is
fsynced before the rename, so after a power loss the name has its content. Verification reads every
byte once to find a whole checkpoint, and once more when it is loaded (1.6 GB/s a core).

A process that was suspended may go on when a later attempt has begun, or has finished the run. So
names that count are renamed only by the attempt that ``.attempt`` names, while it holds a lock on
that file (:meth:`Folder.alone`), and files are deleted only under names with its own token.

While a checkpoint is written its directory has mode 0700, so that no other user holds a file of it
open when it is signed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from penstock.artefact import FileRecord
from penstock.errors import ArtefactError, StorageError, TrainingError
from penstock.storage import (
    files_under,
    lock_file,
    make_own_directory,
    new_file_status,
    sync_directory,
    translate_os_errors,
)
from penstock.trainers.checkpoints.manifest import MANIFEST, SignedManifest
from penstock.trainers.checkpoints.signing import Signer

__all__ = ["Committed", "Folder", "record_durably"]

ATTEMPT = ".attempt"

_BLOCK = 2**20

_COMMITTED = re.compile(r"step-(\d{8,})")
_CLAIM = re.compile(rb"(\d{12,18}) [0-9a-f]{32}")
_OURS = re.compile(r"\.(step-\d{8,}|universal|model)(\.[0-9a-f]+)?\.(tmp|old|damaged)")


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

    Args:
        path: The directory; that above it is the run's.
        generation: Number of the driver's lease, which is higher for a later driver; 0 if there
            is none, and attempts are not ordered.
    """

    def __init__(self, path: Path, generation: int = 0) -> None:
        self.path = path
        self._generation = generation
        self._hidden = 0
        self._made: os.stat_result | None = None
        self.attempt = ""
        """This attempt's own name, from :meth:`claim`; the same on all workers."""

    def claim(self) -> str:
        """Take over the directory for a new attempt, and return its name.

        Raises:
            TrainingError: A later driver's attempt has begun, or the run is finished.
            StorageError: Another user put a link or a directory in its place.
        """
        make_own_directory(self.path.parent, self.path)
        _close_to_writers(self.path)
        attempt = uuid.uuid4().hex
        with self._locked(os.O_CREAT) as file:
            found = _CLAIM.fullmatch(file.read(99) or b"")
            later = found and 0 < self._generation < int(found[1])
            if later or (self.path.parent / "manifest.json").exists():
                raise self._superseded()
            os.pwrite(file.fileno(), f"{self._generation:012d} {attempt}".encode(), 0)
            os.ftruncate(file.fileno(), 45)
        self.attempt = attempt
        return attempt

    def check(self) -> None:
        """Check that this attempt may still write.

        Raises:
            TrainingError: A later one has begun, or has finished the run.
        """
        with self.alone():
            pass

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other attempt begin within the context, after checking that none has.

        That is a lock on a file, which ends with its process; a file system may have none.

        Raises:
            TrainingError: As :meth:`check`.
            StorageError: A suspended process holds the lock.
        """
        with self._locked() as file:
            if file.read(99)[13:] != self.attempt.encode():
                raise self._superseded()
            yield

    @contextlib.contextmanager
    def _locked(self, flags: int = 0) -> Iterator[IO[bytes]]:
        path = self.path / ATTEMPT
        flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            opened = os.open(path, flags, 0o600)
        except OSError as error:
            if error.errno == errno.ENOENT:  # a finished run has none
                raise self._superseded() from None
            if error.errno != errno.ELOOP:
                raise
            raise StorageError("is a link", file=path, fix=f"run `rm {path}`") from None
        with open(opened, "r+b", buffering=0) as file:
            lock_file(file, path)
            status = os.fstat(opened)
            if not stat.S_ISREG(status.st_mode):
                raise StorageError("is no file", file=path, fix=f"run `rm {path}`")
            if not status.st_nlink:  # deleted while this process waited
                raise self._superseded()
            yield file

    def _superseded(self) -> TrainingError:
        return TrainingError(
            "another attempt at this run has begun or finished it; this one ends",
            file=self.path.parent,
            fix="run again when no other command trains it; if `lease` of the work directory was "
            f"deleted, delete {self.path / ATTEMPT}, too",
        )

    def sweep(self) -> None:
        """Remove temporary directories of killed processes."""
        with self.alone():
            left = [path for path in self.path.glob(".*") if _OURS.fullmatch(path.name)]
            hidden = [self._hide(path, "old") for path in left]
        for path in hidden:
            _remove(path)

    def committed(self) -> list[Committed]:
        """Return the checkpoints, the newest first."""
        found = [path for path in self.path.glob("step-*") if _COMMITTED.fullmatch(path.name)]
        ordered = sorted(found, key=lambda path: int(path.name[5:]), reverse=True)
        return [Committed(path, SignedManifest.read(path)) for path in ordered]

    def begin(self, step: int) -> Path:
        """Make an empty directory for the checkpoint of ``step``, which only this user can open."""
        path = self.temporary(step)
        with self.alone():
            if os.path.lexists(path):
                self._hide(path, "old")
            path.mkdir(mode=0o700)
            self._made = path.lstat()
        return path

    @property
    def scratch(self) -> Path:
        """A directory for the conversion of a checkpoint, which does not exist yet."""
        return self.path / f".universal.{self.attempt[:8]}.tmp"

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
            ArtefactError: A recorded file is not visible here, or a visible one is not recorded;
                or another directory is in the place of the one that was begun.
            TrainingError: As :meth:`check`.
        """
        source, target = self.temporary(step), self.path / _name(step)
        self.check()
        if self._made is None or not os.path.samestat(self._made, source.lstat()):
            raise ArtefactError(
                "is not the directory that was made here",
                file=source,
                fix="let only this user write to the work directory",
            )
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
        manifest = SignedManifest.of(files, signer, self.path.parent.name, step)
        with translate_os_errors(source), self._or_superseded():
            with open(source / MANIFEST, "xb") as sink:  # never through a link
                sink.write(manifest.encoded())
                sink.flush()
                _close_to_writers(sink.fileno())
                os.fsync(sink.fileno())
            for directory in [path for path in source.rglob("*") if path.is_dir()]:
                _close_to_writers(directory)
                sync_directory(directory)
            sync_directory(source)
            # If there is one it is damaged, or this step would not have been taken again.
            self.install(source, target)
            sync_directory(self.path)
        return Committed(target, manifest)

    @contextlib.contextmanager
    def _or_superseded(self) -> Iterator[None]:
        """Raise TrainingError for a file that a later attempt deleted as a leftover."""
        try:
            yield
        except FileNotFoundError:
            self.check()
            raise

    def install(self, source: Path, target: Path) -> None:
        """Rename a directory that this attempt wrote; one in its place is removed.

        It gets the mode of the directory of checkpoints.

        Raises:
            TrainingError: As :meth:`check`; nothing is changed.
        """
        old = None
        _close_to_writers(source, like=self.path)
        with self.alone():
            if os.path.lexists(target):
                old = self._hide(target, "damaged")
            os.rename(source, target)
        if old is not None:
            _remove(old)

    def keep(self, count: int, pins: Collection[int] = ()) -> None:
        """Remove all but the newest ``count`` and those of the steps ``pins``.

        Each is renamed first, so that none is half removed.
        """
        with self.alone():
            beyond = [old for old in self.committed()[count:] if old.step not in pins]
            hidden = [self._hide(old.path, "old") for old in beyond]
        for path in hidden:
            _remove(path)

    def hide(self, path: Path, why: str) -> Path:
        """Rename a checkpoint that is ``old`` or ``damaged``; the next :meth:`sweep` removes it."""
        with self.alone():
            return self._hide(path, why)

    def _hide(self, path: Path, why: str) -> Path:
        """Give a directory a name with the token of this attempt, which holds the lock."""
        name = path.name.lstrip(".").partition(".")[0]
        while True:
            self._hidden += 1
            hidden = self.path / f".{name}.{self.attempt[:8]}{self._hidden:04x}.{why}"
            if not os.path.lexists(hidden):
                os.rename(path, hidden)
                return hidden


def _close_to_writers(target: Path | int, like: Path | None = None) -> None:
    """Let only its owner write to a path or an open file; others read as before, or as ``like``.

    Some file systems have no modes.
    """
    with contextlib.suppress(PermissionError):
        mode = os.stat(target if like is None else like).st_mode
        os.chmod(target, stat.S_IMODE(mode) & ~0o022)


def _remove(path: Path) -> None:
    """Delete a hidden directory; of a link, the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def record_durably(directory: Path, names: Sequence[str]) -> list[FileRecord]:
    """Fsync files that this process wrote, and return their records, which are to be signed.

    A library has closed each file already. In a directory that others may write, another could lie
    in its place by now, so that a file must belong to this user: as the file system shows a new
    file, since it may show all files as another user's. The mode becomes that of a new file,
    not writable for others: safetensors makes files of mode 0600, which a group cannot resume from.

    Raises:
        ArtefactError: A file is another user's, or a link.
    """
    if not names:  # rank 0 may not have made the directory yet
        return []
    new = new_file_status(directory)
    own, mode = new.st_uid, stat.S_IMODE(new.st_mode) & ~0o022
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
                    os.fchmod(number, mode)
                os.fsync(number)
                digest = hashlib.sha256()
                while block := file.read(_BLOCK):
                    digest.update(block)
        records.append(FileRecord(path=name, bytes=found.st_size, sha256=digest.hexdigest()))
    return records


def _name(step: int) -> str:
    return f"step-{step:08d}"
