"""Unfinished artefacts."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    delete,
    files_under,
    read_file,
    remove_empty_directories,
    replace_file,
    store_of,
)

__all__ = ["Draft"]

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
        self._requests = store_of(path).requests
        self._known: dict[str, bytes] | None = None
        self._pending: deque[Future[None]] = deque()

    @property
    def fingerprint(self) -> str:
        """The name of the artefact to be: 64 hexadecimal digits."""
        return str(self._header["fingerprint"])

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
            with atomic_file(target) as sink, open(source / record.path, "rb") as file:
                shutil.copyfileobj(file, sink)
                if sink.sha256 != record.sha256:
                    raise changed_file(source / record.path, record, sink.sha256, source)
        return list(records)

    def done(self, part: str) -> tuple[FileRecord, ...] | None:
        """Return the files recorded for ``part`` by this or an earlier attempt, or None."""
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
        content = canonical([asdict(item) for item in files])
        known = self._records().get(part)
        if known is not None:  # its first commit may still be under way
            self.settle()
        self._records()[part] = content
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
        if self._lease is not None:
            self._lease.check()
        path = self._record_path(part)
        if known == content:
            return
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

        Files that the manifest will not name are deleted first: scratch and its records, and
        files of attempts that were killed.

        Args:
            parts: The names of all parts of the artefact; they are iterated more than once.
            facts: Values of the whole artefact.
            growing: True to replace an earlier manifest. Without it the first one stays, and
                a driver that is late gets that one.

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
        # Before the manifest: a finished artefact is not visited again.
        target = self.path / "manifest.json"
        content = canonical(manifest)
        earlier = _read_if_there(target)
        if growing or earlier is None:
            self._sweep(parts, {item.path for item in files})
        if earlier is None:
            create_file(target, content)
        elif growing and not replace_file(target, earlier, content):
            raise _recorded_elsewhere(target)
        return Artefact.open(self.path)

    def _sweep(self, parts: Iterable[str], named: set[str]) -> None:
        there = files_under(self.path)
        if gone := named.difference(there):
            raise missing_file(self.path / min(gone), self.path)
        # Records first: no record ever names a deleted file.
        for part in self._records().keys() - set(parts):
            delete(self._record_path(part))
            del self._records()[part]
        for name in there:
            record = name.startswith("records/") and name.endswith(".json")
            if name not in named and name != "manifest.json" and not record:
                delete(self.path / name)
        remove_empty_directories(self.path)

    def _records(self) -> dict[str, bytes]:
        """Return the content of each record by part, read once: only this driver adds to it."""
        if self._known is None:
            directory = self.path / "records"
            names = [name for name in files_under(directory) if name.endswith(".json")]
            with ThreadPoolExecutor(self._requests) as pool:
                contents = pool.map(lambda name: read_file(directory / name), names)
                self._known = {name[:-5]: data for name, data in zip(names, contents)}
        return self._known

    def _record_path(self, part: str) -> AnyPath:
        return self.path / "records" / f"{part}.json"


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


def _files(content: bytes, path: AnyPath) -> tuple[FileRecord, ...]:
    try:
        return tuple(map(FileRecord.parsed, json.loads(content)))
    except (ValueError, TypeError) as error:
        raise ArtefactError(
            f"not a record of files ({error})",
            file=path,
            fix=f"delete {path.parent.parent} and run again",
        ) from None
