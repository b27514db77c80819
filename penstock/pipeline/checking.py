"""Checks of what stages and plug-ins make: counts that add up, files as recorded, and errors.

An artefact is published only if all its counts add up.

Files that a run makes are hashed as they are written. Files that it finds may be a year old, so on
a file system every byte is compared, by all workers, at 1.6 GB/s a core. In a store only names and
sizes are compared, a thousand files a request. A store replaces whole objects and keeps its own
checksums, and downloading all shards costs too much for a check. Readers of the shards, as the
trainer, compare the bytes there, too.
"""

from __future__ import annotations

import copy
import json
from bdb import BdbQuit
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, FileRecord, canonical
from penstock.calls import begin_call, has_crashed
from penstock.errors import ArtefactError, InputError, PenstockError, ScoringError
from penstock.pipeline.runner import Runner
from penstock.plugin_frames import describe_error, fix_of_error
from penstock.selectors.functions import no_number
from penstock.storage import AnyPath, store_of

__all__ = [
    "RecordTally",
    "call_on_documents",
    "call_plugin",
    "check_files",
    "check_identity",
    "check_sources",
    "check_sum",
    "largest_sources",
    "score_documents",
    "scores_of",
    "smallest_failing",
    "sum_by_source",
]

Result = TypeVar("Result")


def call_plugin(
    key: str, at: str | None, function: Callable[..., Result], *arguments: Any
) -> Result:
    """Call a method of a plug-in, which may be a user's code.

    Args:
        key: The plug-in's in the recipe, as ``select.mine``.
        at: The documents of the call, for messages; None where it is fitted.
        function: The method.
        arguments: Arguments of the method.

    Raises:
        PenstockError: The plug-in raised it; key and documents are put in front.
        ScoringError: The plug-in raised another error, which is its cause.
    """
    try:
        return function(*arguments)
    except BdbQuit:  # ``q`` in the debugger
        raise KeyboardInterrupt from None
    except PenstockError as error:
        placed = copy.copy(error).under(key)  # a plug-in may raise one object again and again
        placed.file = ": ".join(part for part in (at, error.file) if part) or None
        raise placed from error.__cause__
    except (Exception, SystemExit) as error:
        raise ScoringError(
            f"{_name_of(function)} raised {describe_error(error)}",
            key=key,
            file=at,
            fix=fix_of_error(error),
        ) from error


def _name_of(function: Callable[..., Any]) -> str:
    """Return ``module:Class`` of a method of a user's class."""
    kind = type(getattr(function, "__self__", None))
    if kind.__module__.startswith("penstock.") or kind.__module__ == "builtins":
        return "the plug-in"
    return f"{kind.__module__}:{kind.__qualname__}"


def call_on_documents(
    key: str, place: str, ids: pa.Array, function: Callable[[Any], Result], given: Any
) -> Result:
    """Call a method of a plug-in on documents; its error names the document that it fails at.

    A user's error says nothing of the document. So the method is called again on halves of the
    batch, as long as one of them raises an error of the same class: at most twice the time of the
    batch, once. A method that fails on the whole batch alone is said to.

    Args:
        key: As of :func:`call_plugin`.
        place: The unit, for messages.
        ids: (n,) string, the ids of the documents.
        function: Called with ``given``, or with a slice of it.
        given: Of n documents, with a method ``slice``.

    Raises:
        PenstockError: As :func:`call_plugin`.
    """
    at = f"documents {ids[0]} to {ids[-1]} of {place}" if len(ids) else place
    try:
        return call_plugin(key, at, function, given)
    except ScoringError as error:
        if error.__cause__ is None or isinstance(error.__cause__, MemoryError):
            raise
        start, count = smallest_failing(function, given, type(error.__cause__))
        if count == len(ids) > 1:
            raise
        first, last = ids[start], ids[start + count - 1]
        at = f"documents {first} to {last} of {place}" if count > 1 else f"document {first}"
        call_plugin(key, at, function, given.slice(start, count))
        raise  # another call on the same documents did not fail


def score_documents(
    key: str, place: str, documents: pa.RecordBatch, function: Callable[[Any], Any]
) -> np.ndarray:
    """Score documents by a plug-in; a worker that is lost in it is lost in a named call.

    Where a worker was lost in this very call before, it is made document by document, so that the
    next crash names the document: scores do not depend on the batch.

    Args:
        key: As of :func:`call_plugin`.
        place: The unit, for messages.
        documents: With a column ``id``.
        function: Called with documents, or with a slice of them.

    Returns:
        Scores, (n,) float32.

    Raises:
        PenstockError: As :func:`call_on_documents` and :func:`scores_of`.
    """
    ids = documents.column("id")
    at = f"documents {ids[0]} to {ids[-1]} of {place}" if len(ids) else place
    begin_call(key, at)
    if not has_crashed(key, at):
        returned = call_on_documents(key, place, ids, function, documents)
        return scores_of(returned, len(documents), key, at, ids)
    found = []
    for row, own in enumerate(ids):
        begin_call(key, one := f"document {own}")
        part = documents.slice(row, 1)
        found.append(scores_of(call_plugin(key, one, function, part), 1, key, one))
    return np.concatenate([np.empty(0, np.float32), *found])


def smallest_failing(
    function: Callable[[Any], Any], given: Any, kind: type[BaseException]
) -> tuple[int, int]:
    """Find by bisection a smallest slice on which a function raises an error.

    Args:
        function: Called with slices.
        given: It raised on all of it.
        kind: The class of the error, or of the cause of a :class:`ScoringError`.

    Returns:
        Start and length.
    """
    start, count = 0, len(given)
    while count > 1:
        half = count // 2
        for at, size in ((start, half), (start + half, count - half)):
            try:
                function(given.slice(at, size))
            except (Exception, SystemExit) as error:  # a plug-in's
                if type(error) is kind or type(error.__cause__) is kind:
                    start, count = at, size
                    break
        else:
            break
    return start, count


def scores_of(
    returned: Any, count: int, key: str, at: str, ids: pa.Array | None = None
) -> np.ndarray:
    """Convert the return value of a selector to (count,) float32.

    Args:
        returned: By the selector.
        count: Documents that it scored.
        key: Key of the selector in the recipe.
        at: The documents of the call, for messages.
        ids: (count,) string, their ids, which name the document of a wrong score.

    Raises:
        ScoringError: It is not one float for each document. A number in words (``"0.5"``) is none.
    """
    expected = f"{count} scores, one float for each document"
    try:
        found = np.asarray(returned)
        if found.dtype.kind in "USO" and found.ndim == 1:
            items = returned if isinstance(returned, (list, tuple)) else found.tolist()
            for index, item in enumerate(items):
                if isinstance(item, (str, bytes)):
                    named = f"{at}, number {index}" if ids is None else f"document {ids[index]}"
                    raise ScoringError(
                        key=key,
                        file=named,
                        expected="a float",
                        got=f"{item!r}, a {type(item).__name__}",
                        fix="return numbers, such as float(x)",
                    )
        if found.dtype.kind not in "fiubO":
            raise TypeError(f"an array of {found.dtype}")
        with np.errstate(over="ignore"):
            scores = found.astype(np.float32)
    except (TypeError, ValueError) as error:
        wrong = no_number(returned)
        if wrong is not None and ids is not None and wrong < len(ids):
            got = f"{returned[wrong]!r:.80}, a {type(returned[wrong]).__name__}"
            raise ScoringError(
                key=key, file=f"document {ids[wrong]}", expected="a float", got=got
            ) from None
        raise ScoringError(key=key, file=at, expected=expected, got=error) from None
    if scores.shape != (count,):
        raise ScoringError(
            key=key, file=at, expected=expected, got=f"an array of shape {scores.shape}"
        )
    return scores


def check_identity(before: Any, now: Any, key: str) -> None:
    """Check that the files which an artefact is named by are as they were when it was named.

    They are read after they were hashed: a model's directory by each worker that scores. So what
    names an artefact is computed again before it is published.

    Args:
        before: What it was named by, as JSON has it.
        now: The same, computed again.
        key: The recipe key that names the files.

    Raises:
        InputError: A hash differs; the message names the parameter, or the file of a directory.
    """
    before, now = (json.loads(canonical(value)) for value in (before, now))
    if before != now:
        names = _differing(before, now) or ["the file"]
        raise InputError(
            f"changed since its bytes were hashed ({'.'.join(names)})",
            key=key,
            file=names[-1],
            fix="leave the files of a run as they are, and run again",
        )


def _differing(before: Any, now: Any) -> list[str]:
    """Return the keys that lead to the first value that differs; none where all are equal."""
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                return [name, *_differing(before.get(name, ""), now.get(name, ""))]
    return []


def check_sum(place: str, whole: tuple[str, int], parts: Mapping[str, int]) -> None:
    """Check that counts add up.

    Args:
        place: The artefact or unit that was counted, for the message.
        whole: Name and count of the whole.
        parts: Names and counts of the parts.

    Raises:
        ArtefactError: The parts are not the whole.
    """
    name, count = whole
    if count != sum(parts.values()):
        listed = " + ".join(f"{number:,} {part}" for part, number in parts.items()) or "0"
        raise ArtefactError(
            "documents were lost or counted twice, and nothing was published",
            file=place,
            expected=f"{count:,} {name}",
            got=f"{listed} = {sum(parts.values()):,}",
            fix="run again, and report it if it happens again",
        )


def sum_by_source(
    records: Iterable[FileRecord], before: Mapping[str, Mapping[str, int]] | None = None
) -> dict[str, dict[str, int]]:
    """Add up the counts that files have of each source, in the order of the sources' names.

    Args:
        records: Each has the counts of its file in its fact ``sources``.
        before: Counts to add to.
    """
    sums = {source: Counter(counts) for source, counts in (before or {}).items()}
    for record in records:
        for source, counts in record.facts["sources"].items():
            sums.setdefault(source, Counter()).update(counts)
    return {source: dict(counts) for source, counts in sorted(sums.items())}


_SOURCES = 1000
"""Most sources of a corpus. Each is counted in the manifest for each unit, and 10,000 units with as
many would be 600 MB."""

_LISTED = 100
"""Most sources in the facts of a manifest and in a result."""


def check_sources(sources: Collection[str], column: str | None = None, file: object = None) -> None:
    """Check that sources are few enough to be counted.

    Args:
        sources: Those found so far.
        column: The recipe's column of sources, where all are of one.
        file: An input file that has them, where it is known.

    Raises:
        InputError: They are too many: a column such as ``url`` was taken for the source.
    """
    if len(sources) > _SOURCES:
        some = ", ".join(repr(own[:60]) for own in sorted(sources)[:3])
        raise InputError(
            key="corpus.source",
            file=file,
            expected=f"at most {_SOURCES:,} sources",
            got=f"{some}, ...{f' in the column {column!r}' if column else ''}",
            fix="name another column, or write source: {name: web}; then it is a field of meta, "
            "which clean.where can name",
        )


def largest_sources(
    by_source: Mapping[str, Mapping[str, int]], count: str, most: int = _LISTED
) -> dict[str, dict[str, int]]:
    """Return the largest sources, by name, and one entry with the sums of all others.

    Args:
        by_source: Counts of each source, all with the same names.
        count: Name of the count by which they are compared.
        most: Most sources that are listed.
    """
    ordered = sorted(by_source, key=lambda source: (-by_source[source][count], source))
    found = {source: dict(by_source[source]) for source in sorted(ordered[:most])}
    if others := ordered[most:]:
        sums: Counter[str] = Counter()
        for source in others:
            sums.update(by_source[source])
        found[f"{len(others):,} other sources"] = dict(sums)
    return found


@dataclass(slots=True)
class RecordTally:
    """Counts of the records that were read, by their fate."""

    read: int = 0
    added: int = 0
    """Documents that rewriters added."""
    kept: int = 0
    quarantined: int = 0
    dropped_by: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> RecordTally:
        """Read the counts from :meth:`facts`."""
        return cls(
            read=facts["read"],
            added=facts.get("added", 0),
            kept=facts["kept"],
            quarantined=facts["quarantined"],
            dropped_by=Counter(facts["dropped_by"]),
        )

    def add(self, other: RecordTally) -> None:
        self.read += other.read
        self.added += other.added
        self.kept += other.kept
        self.quarantined += other.quarantined
        self.dropped_by.update(other.dropped_by)

    def check(self, place: str) -> None:
        """Check that read + added = kept + dropped + quarantined; raises as :func:`check_sum`."""
        parts = {"kept": self.kept, "quarantined": self.quarantined}
        dropped = {f"dropped ({rule})": count for rule, count in self.dropped_by.items()}
        what = "records read and documents added" if self.added else "records read"
        check_sum(place, (what, self.read + self.added), {**parts, **dropped})

    def facts(self) -> dict[str, Any]:
        """Return the counts for a manifest; ``added`` only where it is not 0."""
        return {
            "read": self.read,
            **({"added": self.added} if self.added else {}),
            "kept": self.kept,
            "dropped": self.dropped_by.total(),
            "dropped_by": dict(sorted(self.dropped_by.items())),
            "quarantined": self.quarantined,
        }


_IN_DRIVER = 256 << 20
"""Bytes in all up to which the driver compares the files itself: workers take as long to start."""


@dataclass(frozen=True, slots=True)
class _ArtefactFile:
    artefact: AnyPath
    record: FileRecord

    @property
    def label(self) -> str:
        return f"{self.artefact / self.record.path}"


def check_files(artefact: Artefact, runner: Runner) -> None:
    """Compare every file of an artefact with its record.

    Raises:
        ArtefactError: One is missing, or is not the one that was recorded.
    """
    artefact.check_sizes()
    if store_of(artefact.path).keeps_checksums:
        return
    files = [_ArtefactFile(artefact.path, record) for record in artefact.files]
    if sum(record.bytes for record in artefact.files) <= _IN_DRIVER:
        for file in files:
            _compare(file, None)
        return
    for _ in runner.run(_compare, files):
        pass


def _compare(file: _ArtefactFile, _: object) -> None:
    file.record.verified(file.artefact)
