"""The passes of set selectors: a shuffle of vectors to partitions, and of scores back to units.

The task of a unit assigns its documents to partitions and writes them sorted by partition; the task
of some partitions reads its part of every unit, scores the partitions one by one, and writes the
scores sorted by unit; the task of a unit gathers its own. No task holds more than a partition, or
128 MiB of smaller ones, or a unit, and the driver holds no document. Where partitions merge, one
more task reads the candidates of all.

A document without a vector (a text without a token) or without a quality (NaN) is in no partition
and never taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.recfunctions import repack_fields

from penstock.artefact import Artefact, Draft, FileRecord
from penstock.errors import ScoringError
from penstock.hashing import hash_documents, mix
from penstock.pipeline.checking import call_plugin, scores_of
from penstock.pipeline.grouped import read_scores, write_scores
from penstock.pipeline.runner import Runner
from penstock.pipeline.scoring.models import read_vectors
from penstock.pipeline.shuffle import TASK_BYTES, Shuffle
from penstock.pipeline.units import Unit
from penstock.selectors.base import Partition, SetSelector
from penstock.storage import AnyPath

__all__ = ["score_sets"]

_SCORE = np.dtype([("unit", "<u4"), ("row", "<u4"), ("score", "<f4")])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """The state that every task of the passes shares."""

    name: str
    selector: SetSelector
    seed: int
    width: int
    units: int
    partitions: int
    tasks: int
    directory: AnyPath
    embeddings: AnyPath
    quality: AnyPath | None

    @property
    def key(self) -> str:
        return f"select.{self.name}"

    @property
    def dtype(self) -> np.dtype:
        """The record of a document in the shuffle to partitions."""
        return np.dtype(
            [
                ("partition", "<u4"),
                ("unit", "<u4"),
                ("row", "<u4"),
                ("quality", "<f4"),
                ("hash", "<u8"),
                ("score", "<f4"),
                ("vector", "<i2", (self.width,)),
            ]
        )

    @property
    def placed(self) -> Shuffle:
        """Documents, from units to partitions."""
        return self._shuffle("placed", self.dtype, self.partitions, self.units)

    @property
    def scored(self) -> Shuffle:
        """Scores, from tasks of partitions to units."""
        return self._shuffle("scored", _SCORE, self.units, self.tasks)

    @property
    def candidates(self) -> Shuffle:
        """Documents, from tasks of partitions to the one that merges."""
        return self._shuffle("candidates", self.dtype, 1, self.tasks)

    @property
    def merged(self) -> Shuffle:
        """Scores, from there to units."""
        return self._shuffle("merged", _SCORE, self.units, 1)

    def _shuffle(self, name: str, dtype: np.dtype, groups: int, sources: int) -> Shuffle:
        return Shuffle(
            directory=self.directory, name=name, dtype=dtype, groups=groups, sources=sources
        )

    @property
    def merges(self) -> bool:
        """True if candidates of all partitions are scored again together."""
        return self.partitions > 1 and self.selector.requirements.merge is not None


@dataclass(frozen=True, slots=True)
class _PartitionRange:
    """The partitions that one task scores."""

    task: int
    first: int
    last: int

    @property
    def label(self) -> str:
        return f"partitions {self.first} to {self.last - 1}"


def score_sets(
    name: str,
    selector: SetSelector,
    draft: Draft,
    units: Sequence[Unit],
    embeddings: Artefact,
    quality: Artefact | None,
    runner: Runner,
    seed: int,
    progress: Callable[[str], None],
) -> None:
    """Score every unit and record the scores in the draft of a column; its selector is loaded."""
    if all(draft.done(unit.name) is not None for unit in units):
        return
    documents, width = (int(embeddings.facts[key]) for key in ("documents", "width"))
    size = documents * 2 * width
    partitions = int(selector.partitions)
    shared = _Set(
        name=name,
        selector=selector,
        seed=seed,
        width=width,
        units=len(units),
        partitions=partitions,
        tasks=min(partitions, -(-size // TASK_BYTES) or 1),
        directory=draft.path,
        embeddings=embeddings.path,
        quality=None if quality is None else quality.path,
    )
    progress(f"{name}: {documents:,} documents in {partitions:,} partitions")
    draft.fill(
        runner.run,
        _place,
        {
            f"placed-{unit.name}": (unit, vectors, quality and quality.files[unit.number])
            for unit, vectors in zip(units, embeddings.files)
        },
        shared,
    )
    bounds = [partitions * task // shared.tasks for task in range(shared.tasks + 1)]
    draft.fill(
        runner.run,
        _score_some,
        {
            f"scored-{task:05d}": _PartitionRange(task, first, last)
            for task, (first, last) in enumerate(itertools.pairwise(bounds))
        },
        shared,
    )
    if shared.merges:
        draft.fill(runner.run, _merge, {"merged": 0}, shared)
    draft.fill(runner.run, _gather, {unit.name: unit for unit in units}, shared)


def _place(item: tuple[Unit, FileRecord, FileRecord | None], shared: _Set) -> list[FileRecord]:
    """Write a unit's documents, sorted by partition and hash."""
    unit, vectors_record, quality = item
    vectors = read_vectors(shared.embeddings, vectors_record)
    hashes = hash_documents(unit.read_rows(["id", "hash"]), mix(shared.seed, "sets"))
    placed = vectors.any(axis=1)
    rows = np.zeros(len(vectors), dtype=shared.dtype)
    rows["unit"], rows["row"], rows["hash"] = unit.number, np.arange(len(rows)), hashes
    if quality is not None and shared.quality is not None:
        rows["quality"] = read_scores(shared.quality, quality)
        placed &= ~np.isnan(rows["quality"])
    if len(rows):
        rows["vector"] = vectors
    rows = rows[placed]
    if len(rows):
        rows["partition"] = _check_numbers(
            call_plugin(
                shared.key, unit.label, shared.selector.assign, rows["vector"], rows["hash"]
            ),
            len(rows),
            shared,
            unit.label,
        )
    rows = rows[np.lexsort((rows["hash"], rows["partition"]))]
    return [shared.placed.write(unit.number, rows, rows["partition"])]


def _score_some(item: _PartitionRange, shared: _Set) -> list[FileRecord]:
    rows = shared.placed.read(item.first, item.last)
    # Units come in the corpus's order, so equal hashes stay in it.
    rows = rows[np.lexsort((rows["hash"], rows["partition"]))]
    starts = np.searchsorted(rows["partition"], np.arange(item.first, item.last + 1))
    kept = [rows[:0]]
    merge = shared.selector.requirements.merge if shared.merges else None
    for number, start, end in zip(range(item.first, item.last), starts, starts[1:]):
        if start == end:
            continue
        own = rows[start:end]
        partition = _partition(own, number, shared)
        at = f"partition {number}, {end - start:,} documents"
        scores = scores_of(
            call_plugin(shared.key, at, shared.selector.score, partition), len(own), shared.key, at
        )
        own["score"] = scores
        if merge is not None:
            chosen = call_plugin(shared.key, at, merge.candidates, partition, scores)
            kept.append(own[chosen])
    records = [_write_by_unit(shared.scored, item.task, rows)]
    if shared.merges:
        rows = np.concatenate(kept)
        records.append(shared.candidates.write(item.task, rows, np.zeros(len(rows), np.int64)))
    return records


def _merge(_: int, shared: _Set) -> list[FileRecord]:
    """Score the candidates of all partitions together."""
    merge = shared.selector.requirements.merge
    assert merge is not None
    rows = shared.candidates.read(0)
    rows = rows[np.argsort(rows["hash"], kind="stable")]
    at = f"merging {len(rows):,} candidates"
    partition = _partition(rows, 0, shared)
    rows["score"] = scores_of(
        call_plugin(shared.key, at, merge.merge, partition, rows["score"]),
        len(rows),
        shared.key,
        at,
    )
    return [_write_by_unit(shared.merged, 0, rows)]


def _gather(unit: Unit, shared: _Set) -> FileRecord:
    """Write a unit's scores, in its order."""
    scores = np.full(unit.documents, np.nan, dtype=np.float32)
    for shuffle in [shared.scored, shared.merged] if shared.merges else [shared.scored]:
        found = shuffle.read(unit.number)
        scores[found["row"]] = found["score"]
    return write_scores(shared.directory, unit.name, scores)


def _partition(rows: np.ndarray, number: int, shared: _Set) -> Partition:
    return Partition(
        number=number,
        hashes=np.ascontiguousarray(rows["hash"]),
        vectors=np.ascontiguousarray(rows["vector"]),
        quality=None if shared.quality is None else np.ascontiguousarray(rows["quality"]),
    )


def _write_by_unit(shuffle: Shuffle, source: int, rows: np.ndarray) -> FileRecord:
    found = repack_fields(rows[list(_SCORE.names or ())])
    return shuffle.write(source, found, found["unit"])


def _check_numbers(numbers: Any, count: int, shared: _Set, at: str) -> np.ndarray:
    numbers = np.asarray(numbers)
    right = numbers.shape == (count,) and np.issubdtype(numbers.dtype, np.integer)
    if not right or numbers.min() < 0 or numbers.max() >= shared.partitions:
        raise ScoringError(
            key=shared.key,
            file=at,
            expected=f"{count} partition numbers below {shared.partitions} from assign()",
            got=f"{numbers.dtype} of shape {numbers.shape}",
        )
    return numbers
