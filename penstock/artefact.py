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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

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

Item = TypeVar("Item")

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
            raise _missing(path, directory) from None
        if found != self.sha256:
            raise ArtefactError(
                "changed since it was written",
                file=path,
                expected=f"sha256 {self.sha256}",
                got=found,
                fix=_make_again(directory),
            )
        return here


def _make_again(directory: AnyPath) -> str:
    return f"delete {directory} and run again to make it anew"


def _missing(path: AnyPath, directory: AnyPath) -> ArtefactError:
    return ArtefactError("recorded but missing", file=path, fix=_make_again(directory))


@dataclass(frozen=True, slots=True)
class Artefact:
    """A finished artefact, read through its manifest only."""

    path: AnyPath
    manifest: dict[str, Any]
    files: tuple[FileRecord, ...]

    def __repr__(self) -> str:
        size = sum(record.bytes for record in self.files)
        stage, digest = self.manifest["stage"], self.fingerprint
        return f"<{stage} {digest[:16]}: {len(self.files):,} files, {size:,} bytes, {self.path}>"

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
                "no such file: the artefact was not finished",
                file=source,
                fix="run the command again",
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            problem = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ArtefactError(
                f"not a manifest ({problem})", file=source, fix=f"delete {path} and run again"
            ) from None
        raise ArtefactError(
            file=source,
            expected=f"a manifest of format {FORMAT} or older",
            got=f"format {written}",
            fix="upgrade Penstock or use another work directory",
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
        """Return a recorded file's local path; see :meth:`FileRecord.verified`."""
        return record.verified(self.path)

    def check_sizes(self) -> None:
        """Look whether every file is there and of the size that was recorded, without reading any.

        Raises:
            ArtefactError: One is missing, or is of another size.
        """
        sizes = sizes_under(self.path)
        for record in self.wanting(sizes):
            path = self.path / record.path
            if record.path not in sizes:
                raise _missing(path, self.path)
            raise ArtefactError(
                "changed since it was written",
                file=path,
                expected=f"{record.bytes:,} bytes",
                got=f"{sizes[record.path]:,}",
                fix=_make_again(self.path),
            )

    def wanting(self, sizes: Mapping[str, int]) -> list[FileRecord]:
        """The files that are missing or of another size, by the sizes of those that are there."""
        return [record for record in self.files if sizes.get(record.path) != record.bytes]

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

    def files(self, parts: Iterable[str]) -> list[FileRecord]:
        """Return the files recorded for ``parts``, in the order of the parts.

        Raises:
            ArtefactError: A part is not recorded.
        """
        files: list[FileRecord] = []
        for part in parts:
            recorded = self.done(part)
            if recorded is None:
                raise ArtefactError(
                    f"part {part!r} was not finished", file=self.path, fix="run again"
                )
            files.extend(recorded)
        return files

    def fill(
        self,
        run: Callable[..., Iterable[tuple[int, FileRecord | Sequence[FileRecord]]]],
        function: Callable[[Any, Any], FileRecord | Sequence[FileRecord]],
        items: Mapping[str, Item],
        shared: Any = None,
        progress: Callable[[Item, Sequence[FileRecord]], None] | None = None,
        **options: Any,
    ) -> list[FileRecord]:
        """Run ``function`` for each part that is not recorded yet, and record its files.

        This is the loop of every stage: it makes a stage resumable part by part.

        Args:
            run: ``Runner.run``: called with the function, the missing items, ``shared`` and
                ``options``; yields (index of the item, result) in any order.
            function: Module-level; called with an item and ``shared``; returns the records of the
                files that it wrote.
            items: The item of each part, by the part's name, in the order of the artefact.
            shared: The same for every item.
            progress: Called with an item and its records after they are recorded.
            options: Passed to ``run``: ``setup``, ``needs``.

        Returns:
            The records of all parts, old and new, in the order of ``items``.

        Raises:
            LeaseError: Another driver took the work directory over.
        """
        missing = [part for part in items if self.done(part) is None]
        results = run(function, [items[part] for part in missing], shared, **options)
        for index, result in results:
            files = [result] if isinstance(result, FileRecord) else result
            self.record(missing[index], files)
            if progress is not None:
                progress(items[missing[index]], files)
        return self.files(items)

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
                "recorded by another driver at the same time, and not replaced",
                file=path,
                fix="run again when the other driver has finished",
            )

    def publish(
        self, parts: Iterable[str], facts: Mapping[str, Any], growing: bool = False
    ) -> Artefact:
        """Write the manifest over ``parts`` in the order given, and open the artefact.

        Before that, what the manifest will not name is removed: scratch and its records, and
        files of attempts that were killed.

        Args:
            parts: The names of all parts of the artefact; they are iterated more than once.
            facts: What is known of the whole.
            growing: Whether an earlier manifest is replaced. Without it the first one stays, and
                a driver that comes late gets that one.

        Raises:
            ArtefactError: A part was never recorded, or a file of it is gone.
            LeaseError: Another driver took the work directory over.
        """
        self.settle()
        files = self.files(parts)
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

    def _sweep(self, parts: Iterable[str], named: set[str]) -> None:
        there = files_under(self.path)
        if gone := named.difference(there):
            raise _missing(self.path / min(gone), self.path)
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
            f"not a record of files ({error})",
            file=path,
            fix=f"delete {path.parent.parent} and run again",
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
                file=path,
                expected=f"the artefact {name}",
                got=found.fingerprint,
                fix="delete the directory",
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
                f"{stage} of this recipe: not made yet",
                file=self.root,
                fix="run `penstock curate RECIPE`",
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
