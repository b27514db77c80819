"""Unfinished artefacts.

A driver may be suspended between any two of its steps, and go on when another driver has taken the
work directory over. It then deletes and replaces nothing of its successor's, because every step
that changes what counts is conditional in the store itself:

- A record or a manifest is created if it does not exist, or replaced if it is unchanged. What is
  replaced was read *before* the lease was checked, so it is not a successor's.
- Leftovers are deleted after the manifest is in place. The manifest of a finished artefact never
  changes, so a file that it does not name is of no use. A growing artefact is different: there only
  files that were listed before the check are deleted, and a later driver never gives a file such a
  name, because :attr:`Draft.generation` is part of it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from penstock.artefact.finished import Artefact, FileRecord, canonical, changed_file, missing_file
from penstock.errors import ArtefactError, LeaseError
from penstock.lease import Lease
from penstock.node_cache import staging
from penstock.storage import (
    AnyPath,
    atomic_file,
    create_file,
    delete_files,
    files_under,
    open_file,
    read_file,
    remove_empty_directories,
    replace_file,
    store_of,
)

__all__ = ["Draft", "sweep_finished"]

Item = TypeVar("Item")

_commits = ThreadPoolExecutor(16, thread_name_prefix="commit")
"""Threads of commits: started on demand, and finished before the process ends."""


class Draft:
    """An unfinished artefact: parts are recorded one by one, the manifest is written last.

    To resume is to skip the parts that :meth:`done` finds.
    """

    def __init__(self, path: AnyPath, header: dict[str, Any], lease: Lease | None = None) -> None:
        self.path = path
        self._header = header
        self._lease = lease
        self.checks: list[Callable[[], object]] = []
        """Called before a part is recorded and before the manifest is written: each raises where a
        file that the artefact is named by has changed."""
        self._requests = store_of(path).requests
        self._known: dict[str, bytes] | None = None
        self._earlier: set[str] = set()
        self._there: set[str] = set()
        self._pending: deque[Future[None]] = deque()

    @property
    def fingerprint(self) -> str:
        """The name of the artefact to be: 64 hexadecimal digits."""
        return str(self._header["fingerprint"])

    @property
    def generation(self) -> int:
        """Number of the driver's lease, in names that no other driver may use; 0 without one."""
        return 0 if self._lease is None else self._lease.number

    def staging(self) -> Path:
        """Return a local directory for files that a library writes.

        It is the draft's own directory where that is local. Files there do not count until
        :meth:`adopt` records them.
        """
        return store_of(self.path).local(self.path) or staging(self.fingerprint[:16])

    def adopt(self, names: Sequence[str]) -> list[FileRecord]:
        """Return records of files under :meth:`staging`, after copying them to the draft."""
        source = self.staging()
        return self.adopt_known([FileRecord.found(source, name) for name in names])

    def adopt_known(self, records: Sequence[FileRecord]) -> list[FileRecord]:
        """Copy files under :meth:`staging` to the draft, if it is elsewhere; return ``records``.

        Raises:
            ArtefactError: A file that is copied is not the one that was recorded.
        """
        source = self.staging()
        for record in records if source != self.path else ():
            target = self.path / record.path
            with atomic_file(target) as sink, open_file(source / record.path) as file:
                shutil.copyfileobj(file, sink)
                if sink.sha256 != record.sha256:
                    raise changed_file(source / record.path, record, sink.sha256, source)
        return list(records)

    def done(self, part: str) -> tuple[FileRecord, ...] | None:
        """Return the files recorded for ``part`` by this or an earlier attempt, or None.

        A record of which a file does not exist is none: a suspended driver may have written it
        after the file was deleted as a leftover.
        """
        content = self._records().get(part)
        files = None if content is None else _recorded_files(content, self._record_path(part))
        if files is None or part not in self._earlier:
            return files
        return files if all(file.path in self._there for file in files) else None

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
            options: Passed to ``run``: ``keep_state``, ``needs``.

        Returns:
            The records of all parts, old and new, in the order of ``items``.

        Raises:
            LeaseError: Another driver took the work directory over.
        """
        missing = [part for part in items if self.done(part) is None]
        for index, result in run(function, [items[part] for part in missing], shared, **options):
            files = [result] if isinstance(result, FileRecord) else result
            self.record(missing[index], files)
            if progress is not None:
                progress(items[missing[index]], files)
        return self.files(items)

    def record(self, part: str, files: Sequence[FileRecord]) -> None:
        """Commit ``part``: from here on its files count. Only the driver calls this.

        In a store over the network a commit takes tens of milliseconds, so up to sixteen run at a
        time. An error of one is raised by a later call or by :meth:`settle`.

        Raises:
            LeaseError: Another driver took the work directory over.
        """
        for check in self.checks:
            check()
        content = canonical([asdict(item) for item in files])
        known = self._records().get(part)
        if known is not None:  # its first commit may still be under way
            self.settle()
        self._records()[part] = content
        self._earlier.discard(part)
        if self._requests == 1:
            self._commit(part, content, known)
            return
        self._pending.append(_commits.submit(self._commit, part, content, known))
        while self._pending and (self._pending[0].done() or len(self._pending) >= self._requests):
            self._pending.popleft().result()

    def settle(self) -> None:
        """Wait until all records are committed.

        Raises:
            LeaseError: Another driver took the work directory over.
        """
        while self._pending:
            self._pending.popleft().result()

    def _commit(self, part: str, content: bytes, known: bytes | None) -> None:
        self._check()
        path = self._record_path(part)
        if known == content:
            return
        with self._taken_over():
            committed = (
                create_file(path, content) or read_file(path) == content
                if known is None
                else replace_file(path, known, content)
            )
        if not committed:
            raise _recorded_elsewhere(path)

    def publish(
        self, parts: Iterable[str], facts: Mapping[str, Any], growing: bool = False
    ) -> Artefact:
        """Write the manifest of ``parts`` in the order given, and open the artefact.

        Files that the manifest does not name are then deleted: scratch and its records, and files
        of attempts that were killed.

        Args:
            parts: The names of all parts of the artefact; they are iterated more than once.
            facts: Values of the whole artefact.
            growing: True to replace an earlier manifest. Without it the first one stays, and
                a driver that is late gets that one.

        Raises:
            ArtefactError: A part was never recorded, or a file of it is gone.
            LeaseError: Another driver took the work directory over, or published a growing artefact
                at the same time.
        """
        for check in self.checks:
            check()
        self.settle()
        files = self.files(parts)
        own = {"files": [asdict(item) for item in files], "facts": dict(facts)}
        content = canonical({**self._header, **own, **({"growing": True} if growing else {})})
        target = self.path / "manifest.json"
        earlier = _read_if_there(target) if growing else None
        there = files_under(self.path)
        if gone := {item.path for item in files}.difference(there):
            raise missing_file(self.path / min(gone), self.path)
        self._check()
        with self._taken_over():
            first = create_file(target, content) if earlier is None else False
            if growing and not (first or (earlier and replace_file(target, earlier, content))):
                raise _recorded_elsewhere(target)
        made = Artefact.open(self.path)
        self._sweep(made, there, parts, growing)
        return made

    @contextlib.contextmanager
    def _taken_over(self) -> Iterator[None]:
        """Raise LeaseError for a temporary file that a later driver deleted as a leftover."""
        try:
            yield
        except FileNotFoundError:
            self._check()
            raise

    def _check(self) -> None:
        try:
            if self._lease is not None:
                self._lease.check()
        except LeaseError:
            # Another driver may have finished the artefact; what this one wrote since is left over.
            if _read_if_there(self.path / "manifest.json") is not None:
                with contextlib.suppress(FileNotFoundError):
                    sweep_finished(Artefact.open(self.path), files_under(self.path))
            raise

    def _sweep(
        self, made: Artefact, there: Sequence[str], parts: Iterable[str], growing: bool
    ) -> None:
        """Delete the files in ``there`` that neither the manifest nor a record to keep names."""
        named = {item.path for item in made.files}
        if not growing:
            _sweep_files(self.path, there, named, set(parts))
            remove_empty_directories(self.path)
            return
        # A suspended driver may have recorded a part since; the next driver will find it.
        recorded = {part for part in map(_part_of, there) if part is not None}
        for part in recorded - self._records().keys():
            path = self._record_path(part)
            named.update(item.path for item in _recorded_files(read_file(path), path))
        named.update(item.path for item in self.files(parts))
        _sweep_files(self.path, there, named, recorded)

    def _records(self) -> dict[str, bytes]:
        """Return the content of each record by part, read once: only this driver adds to it."""
        if self._known is None:
            self._there = set(files_under(self.path))
            parts = sorted(part for part in map(_part_of, self._there) if part)
            with ThreadPoolExecutor(self._requests) as pool:
                contents = pool.map(lambda part: _read_if_there(self._record_path(part)), parts)
                # One that is gone was scratch of an artefact that another driver has finished.
                self._known = {part: own for part, own in zip(parts, contents) if own is not None}
            self._earlier = set(parts)
        return self._known

    def _record_path(self, part: str) -> AnyPath:
        return self.path / "records" / f"{part}.json"


def _part_of(name: str) -> str | None:
    """Return the part that a file of an artefact is the record of; None of other files."""
    if name.startswith("records/") and name.endswith(".json"):
        return name.removeprefix("records/").removesuffix(".json")
    return None


def _sweep_files(path: AnyPath, there: Iterable[str], named: set[str], parts: set[str]) -> None:
    """Delete files of an artefact: records of other than ``parts``, then files without a name.

    Args:
        path: Directory of the artefact.
        there: Names of the files that may be deleted.
        named: Data files to keep.
        parts: Parts whose records are kept.
    """
    records = {name: part for name in there if (part := _part_of(name)) is not None}
    delete_files(path / name for name, part in records.items() if part not in parts)
    keep = {*named, *records, "manifest.json"}
    delete_files(path / name for name in there if name not in keep)


def sweep_finished(artefact: Artefact, there: Iterable[str]) -> None:
    """Delete the leftovers of a finished artefact; one that grows may have parts to come.

    Args:
        artefact: The artefact.
        there: Names of its files.
    """
    there = set(there)
    named = {record.path for record in artefact.files}
    records = {name: part for name in there if (part := _part_of(name)) is not None}
    # Records are deleted first, so that without other files there are none to delete.
    if artefact.manifest.get("growing") or not there - named - records.keys() - {"manifest.json"}:
        return
    kept = set()
    for name, part in records.items():
        path = artefact.path / name
        if named.issuperset(item.path for item in _recorded_files(read_file(path), path)):
            kept.add(part)
    _sweep_files(artefact.path, there, named, kept)
    remove_empty_directories(artefact.path)


def _recorded_elsewhere(path: AnyPath) -> LeaseError:
    return LeaseError(
        "recorded by another driver at the same time, and not replaced",
        file=path,
        fix="run again when the other driver has finished",
    )


def _read_if_there(path: AnyPath) -> bytes | None:
    try:
        return read_file(path)
    except FileNotFoundError:
        return None


def _recorded_files(content: bytes, path: AnyPath) -> tuple[FileRecord, ...]:
    """Return the files that the record at ``path`` names.

    Raises:
        ArtefactError: The content is not a record.
    """
    try:
        return tuple(map(FileRecord.parsed, json.loads(content)))
    except (ValueError, TypeError, RecursionError) as error:
        raise ArtefactError(
            f"not a record of files ({str(error)[:300]})",
            file=path,
            fix=f"delete {path.parent.parent} and run again",
        ) from None
