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
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from penstock.errors import ArtefactError, LeaseError, UnmadeError
from penstock.lease import Lease
from penstock.node_cache import local_file, local_tree, staging
from penstock.storage import (
    AnyPath,
    Sink,
    atomic_file,
    create_file,
    files_under,
    is_remote,
    make_directory,
    read_file,
    remove_tree,
    sha256_file,
    sizes_under,
    translate_os_errors,
)

__all__ = [
    "FORMAT",
    "Artefact",
    "Draft",
    "Entry",
    "FileRecord",
    "Workspace",
    "atomic_file",
    "canonical",
    "fingerprint",
    "sha256_file",
]

FORMAT = 1
"""Version of the manifest's own layout; a larger number is refused."""

_AT_A_TIME = 16
"""Records of a draft in a store that are read or written at a time."""

_commits = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="commit")
"""Threads start when they are needed, and a process does not end before they are done."""


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
    def of(cls, name: str, sink: Sink, **facts: Any) -> FileRecord:
        """Record a file that was just written to ``sink``."""
        return cls(path=name, bytes=sink.bytes, sha256=sink.sha256, facts=facts)

    @classmethod
    def found(cls, directory: AnyPath, name: str, **facts: Any) -> FileRecord:
        """Record a file that is there, by reading it: for what a library wrote by itself."""
        path = directory / name
        return cls(path=name, bytes=path.stat().st_size, sha256=sha256_file(path), facts=facts)


@dataclass(frozen=True, slots=True)
class Artefact:
    """A finished artefact, read through its manifest only."""

    path: AnyPath
    manifest: dict[str, Any]
    files: tuple[FileRecord, ...]

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
                files = tuple(FileRecord(**item) for item in manifest["files"])
                return cls(path, manifest, files)
        except (FileNotFoundError, NotADirectoryError):
            raise ArtefactError(
                f"{source}: no such file; the artefact was not finished: run the command again"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            fault = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ArtefactError(
                f"{source}: not a manifest ({fault}); delete {path} and run again"
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
        """The local path of a recorded file, after comparing its bytes with the record.

        A remote file is fetched to this node first, if it is not there.

        Raises:
            ArtefactError: The file is missing, or is not the one that was recorded.
        """
        path = self.path / record.path
        try:
            here = local_file(path, record.sha256)
            found = sha256_file(here)
        except FileNotFoundError:
            raise self._gone(path) from None
        if found != record.sha256:
            raise ArtefactError(
                f"{path}: changed since it was written: expected sha256 {record.sha256}, found "
                f"{found}; delete {self.path} and run again to make it anew"
            )
        return here

    def check_sizes(self) -> None:
        """Look whether every file is there and of the size that was recorded, without reading any.

        Raises:
            ArtefactError: One is missing, or is of another size.
        """
        sizes = sizes_under(self.path)
        for record in self.wanting(sizes):
            path = self.path / record.path
            if record.path not in sizes:
                raise self._gone(path)
            raise ArtefactError(
                f"{path}: changed since it was written: expected {record.bytes:,} bytes, found "
                f"{sizes[record.path]:,}; delete {self.path} and run again to make it anew"
            )

    def wanting(self, sizes: Mapping[str, int]) -> list[FileRecord]:
        """The files that are missing or of another size, by the sizes of those that are there."""
        return [record for record in self.files if sizes.get(record.path) != record.bytes]

    def _gone(self, path: AnyPath) -> ArtefactError:
        return ArtefactError(
            f"{path}: recorded in the manifest but missing; delete {self.path} and run again to "
            "make it anew"
        )

    def local(self) -> Path:
        """A local directory that holds every file, each compared with its record.

        Raises:
            ArtefactError: A file is missing, or is not the one that was recorded.
        """
        self.verify()
        return local_tree(self.path, [(item.path, item.sha256) for item in self.files], self.digest)

    def verify(self) -> None:
        """Compare every file with its record; raises as :meth:`verified`."""
        for record in self.files:
            self.verified(record)


class Draft:
    """An artefact in the making: parts are recorded one by one, the manifest comes last.

    Work that is already recorded is found again by :meth:`done`, which is all that resuming is.
    """

    def __init__(self, path: AnyPath, header: dict[str, Any], lease: Lease | None = None) -> None:
        self.path = path
        self._header = header
        self._lease = lease
        self._known: dict[str, bytes] | None = None
        self._pending: deque[Future[None]] = deque()

    @property
    def fingerprint(self) -> str:
        """The name the artefact will have."""
        return str(self._header["fingerprint"])

    def staging(self) -> Path:
        """A local directory for what a library writes by itself: the draft's own where it can be.

        What lies there is nobody's until :meth:`adopt` is told of it.
        """
        if is_remote(self.path):
            return staging(self.fingerprint[:16])
        return self.path

    def adopt(self, names: Sequence[str]) -> list[FileRecord]:
        """Records of files under :meth:`staging`, which are first sent to where the draft lies."""
        source = self.staging()
        for name in names if is_remote(self.path) else ():
            with atomic_file(self.path / name) as sink, open(source / name, "rb") as file:
                shutil.copyfileobj(file, sink)
        return [FileRecord.found(source, name) for name in names]

    def done(self, part: str) -> tuple[FileRecord, ...] | None:
        """The files recorded for ``part`` by this or an earlier attempt, or None."""
        content = self._records().get(part)
        return None if content is None else _files(content, self._record_path(part))

    def record(self, part: str, files: Sequence[FileRecord]) -> None:
        """Commit ``part``: from here on its files count. Only the driver calls this.

        A store takes tens of milliseconds for it, so there up to sixteen are under way at a time,
        and what goes wrong with one is raised by a later call or by :meth:`settle`.

        Raises:
            LeaseError: Another driver took the work directory over.
        """
        content = canonical([asdict(item) for item in files])
        known = self._records().get(part)
        self._records()[part] = content
        if not is_remote(self.path):
            self._commit(part, content, known)
            return
        self._pending.append(_commits.submit(self._commit, part, content, known))
        while self._pending and (self._pending[0].done() or len(self._pending) >= _AT_A_TIME):
            self._pending.popleft().result()

    def settle(self) -> None:
        """Wait until everything that was recorded is committed; raises as :meth:`record`."""
        while self._pending:
            self._pending.popleft().result()

    def _commit(self, part: str, content: bytes, known: bytes | None) -> None:
        if self._lease is not None:
            self._lease.check()
        path = self._record_path(part)
        if known is not None:
            if known != content:
                with atomic_file(path) as sink:
                    sink.write(content)
        elif not create_file(path, content) and read_file(path) != content:
            raise LeaseError(
                f"{path}: recorded by another driver while this one was at it; nothing of it was "
                "replaced. Run again when that one is done"
            )

    def publish(
        self, parts: Sequence[str], facts: Mapping[str, Any], growing: bool = False
    ) -> Artefact:
        """Write the manifest over ``parts`` in the order given, and open the artefact.

        Before that, what the manifest will not name is removed: scratch and its records, and
        files of attempts that were killed.

        Args:
            parts: All that were recorded for it.
            facts: What is known of the whole.
            growing: Whether an earlier manifest is replaced. Without it the first one stays, and
                a driver that comes late gets that one.

        Raises:
            ArtefactError: A part was never recorded, or a file of it is gone.
            LeaseError: Another driver took the work directory over.
        """
        self.settle()
        files: list[FileRecord] = []
        for part in parts:
            recorded = self.done(part)
            if recorded is None:
                raise ArtefactError(f"{self.path}: part {part!r} was not finished; run again")
            files.extend(recorded)
        if self._lease is not None:
            self._lease.check()
        manifest = {
            **self._header,
            "files": [asdict(item) for item in files],
            "facts": dict(facts),
        }
        # Before the manifest: nobody comes back to an artefact that is finished.
        target = self.path / "manifest.json"
        if growing or not target.exists():
            self._sweep(parts, {item.path for item in files})
        if growing:
            with atomic_file(target) as sink:
                sink.write(canonical(manifest))
        else:
            create_file(target, canonical(manifest))
        return Artefact.open(self.path)

    def _sweep(self, parts: Sequence[str], named: set[str]) -> None:
        there = files_under(self.path)
        if gone := named.difference(there):
            raise ArtefactError(
                f"{self.path / min(gone)}: recorded but missing; delete {self.path} and run again "
                "to make it anew"
            )
        # Records first: no record ever names a file that is gone.
        for part in self._records().keys() - set(parts):
            self._record_path(part).unlink()
            del self._records()[part]
        for name in there:
            record = name.startswith("records/") and name.endswith(".json")
            if name not in named and name != "manifest.json" and not record:
                with contextlib.suppress(FileNotFoundError):
                    (self.path / name).unlink()
        if not is_remote(self.path):
            for path in sorted(self.path.rglob("*"), reverse=True):
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()

    def _records(self) -> dict[str, bytes]:
        """What is recorded, read once: only this driver adds to it."""
        if self._known is None:
            directory = self.path / "records"
            names = [name for name in files_under(directory) if name.endswith(".json")]
            with ThreadPoolExecutor(_AT_A_TIME) as pool:
                contents = pool.map(lambda name: read_file(directory / name), names)
                self._known = {name[:-5]: data for name, data in zip(names, contents)}
        return self._known

    def _record_path(self, part: str) -> AnyPath:
        return self.path / "records" / f"{part}.json"


def _files(content: bytes, path: AnyPath) -> tuple[FileRecord, ...]:
    try:
        return tuple(FileRecord(**item) for item in json.loads(content))
    except (ValueError, TypeError) as error:
        raise ArtefactError(
            f"{path}: not a record of files ({error}); delete {path.parent.parent} and run again"
        ) from None


_ARTEFACT = re.compile("(?!lease/|report/)[a-z]+/[0-9a-f]{16}")
"""The directory of an artefact within a work directory, where a few others lie beside them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory of an artefact, whether it is finished or not."""

    stage: str
    path: AnyPath
    sizes: Mapping[str, int]
    """The bytes of the files that are there, by their names."""

    @property
    def finished(self) -> bool:
        """Whether there is a manifest, which is written last."""
        return "manifest.json" in self.sizes


_driven: dict[str, Lease] = {}
"""Work directories that this process drives."""


class Workspace:
    """A work directory: where artefacts are found, and made when they are not there.

    Args:
        root: The recipe's ``work``, a local directory or the place of a URI.
        lease: Of the driver; a worker of its has none.
        looking: Whether nothing may be made here, nor written.
    """

    def __init__(self, root: AnyPath, lease: Lease | None = None, looking: bool = False) -> None:
        self.root = root
        self.looking = looking
        self._lease = lease

    @classmethod
    @contextlib.contextmanager
    def driving(cls, root: AnyPath) -> Iterator[Workspace]:
        """The work directory for the one driver that makes artefacts in it.

        The lease is taken when the first artefact has to be made, so that what is only looked
        at can be looked at by many, and given back at the end.
        """
        outer = _driven.get(str(root))
        if outer is not None:
            yield cls(root, outer)
            return
        lease = _driven[str(root)] = Lease(root)
        try:
            yield cls(root, lease)
        finally:
            del _driven[str(root)]
            lease.release()

    def directory(self, stage: str, name: str) -> AnyPath:
        """Where the artefact of ``stage`` with fingerprint ``name`` is or will be."""
        return self.root / stage / name[:16]

    def find(self, stage: str, name: str) -> Artefact | None:
        """The finished artefact with fingerprint ``name``, or None."""
        path = self.directory(stage, name)
        with translate_os_errors(self.root):
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
        """The artefact of (stage, version, config, inputs): found, or made by ``work``.

        Raises:
            LeaseError: It has to be made, and another driver holds the work directory.
            UnmadeError: It has to be made, and this workspace is for looking only.
        """
        name = fingerprint(stage, version, config, inputs)
        return self.find(stage, name) or work(self.draft(stage, version, config, inputs))

    def draft(
        self, stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> Draft:
        """Begin, or go on with, the artefact of (stage, version, config, inputs).

        Raises:
            LeaseError: Another driver holds the work directory.
            UnmadeError: This workspace is for looking only.
        """
        if self.looking:
            raise UnmadeError(
                f"{self.root}: {stage} of this recipe: not made yet; run `penstock curate RECIPE`"
            )
        if self._lease is not None:
            self._lease.hold()
        name = fingerprint(stage, version, config, inputs)
        header = {
            "format": FORMAT,
            "stage": stage,
            "stage_version": version,
            "fingerprint": name,
            "config": dict(config),
            "inputs": dict(inputs),
        }
        path = self.directory(stage, name)
        if not is_remote(path):
            make_directory(path)
        return Draft(path, header, self._lease)

    def artefacts(self) -> Iterator[Artefact]:
        """Every finished artefact of the work directory, by stage and name."""
        for entry in self.entries():
            if entry.finished:
                yield Artefact.open(entry.path)

    def entries(self) -> list[Entry]:
        """Every artefact of the work directory, finished or not, by stage and name."""
        sizes: dict[str, dict[str, int]] = {}
        if is_remote(self.root):  # in one listing
            for path, size in sizes_under(self.root).items():
                both, file = "/".join(path.split("/")[:2]), "/".join(path.split("/")[2:])
                if file and _ARTEFACT.fullmatch(both):
                    sizes.setdefault(both, {})[file] = size
        else:  # of artefacts only: this may be anybody's directory
            for where in self.root.glob("*/*"):
                both = f"{where.parent.name}/{where.name}"
                if _ARTEFACT.fullmatch(both) and where.is_dir():
                    sizes[both] = sizes_under(where)
        return [
            Entry(both.partition("/")[0], self.root / both, found)
            for both, found in sorted(sizes.items())
        ]

    def remove(self, artefact: Artefact) -> None:
        """Delete an artefact: its manifest, then its records, then the files they vouch for.

        In this order a half-deleted one is invisible, and is not gone on with either.
        """
        (artefact.path / "manifest.json").unlink()
        remove_tree(artefact.path / "records")
        remove_tree(artefact.path)
