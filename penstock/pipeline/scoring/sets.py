"""The passes of set selectors: a shuffle of vectors to partitions, and of scores back to units.

The task of a run of units assigns their documents to partitions and writes them sorted by
partition; the task of some partitions reads its part of every run, scores the partitions one by
one, and writes the scores sorted by unit; the task of a longer run of units gathers theirs. No
task holds more than a partition, or 128 MiB of smaller ones or of units (up to 512 MiB in pools of
64 GiB of vectors and more), and the driver holds no document. Where partitions merge, one more task
reads the candidates of all. Where the selector leaves documents out (:mod:`.thinning`), each task
measures its partitions first, and the driver holds a sample of what stays.

A unit costs a store three requests (vectors, rows, scores), and three more with a quality. A pair
of a run and a task costs two in either direction; of single units and tasks these were most of all.

A document without a vector (a text without a token) or without a quality (NaN) is in no partition
and never taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.recfunctions import repack_fields

from penstock.artefact import Artefact, Draft, FileRecord
from penstock.errors import ScoringError
from penstock.hashing import hash_documents, mix
from penstock.pipeline.checking import call_plugin, scores_of
from penstock.pipeline.grouped import packed, read_scores, write_scores
from penstock.pipeline.runner import Runner
from penstock.pipeline.scoring.models import read_vectors
from penstock.pipeline.scoring.partitions import (
    SCORE,
    PartitionPlan,
    PartitionRange,
    document_type,
)
from penstock.pipeline.scoring.scales import find_scale
from penstock.pipeline.scoring.thinning import thin
from penstock.pipeline.shuffle import TASK_BYTES, Shuffle
from penstock.pipeline.units import Unit
from penstock.selectors.base import SetSelector

__all__ = ["score_sets"]

_LEAST_BYTES, _MOST_BYTES = 2**23, 2**29
"""Bytes of rows of a run, at least, and of a run or a task at most. A task holds three times as
much. Below the most there are at most 512 runs and 512 tasks."""

_MOST_UNITS = 256
"""Units of a run, at most: their files are read and written one after another."""

_ROW = 4 * SCORE.itemsize
"""Bytes of a document in the task that gathers its score: read, held and indexed."""


_Placing = tuple[Unit, FileRecord, FileRecord | None]
"""A unit, the file of its vectors, and that of its qualities."""


@dataclass(frozen=True, slots=True)
class _UnitRun:
    """Units that one task reads or writes."""

    number: int
    units: Sequence[_Placing]

    @property
    def label(self) -> str:
        return f"{self.units[0][0].name} to {self.units[-1][0].name}"


def _runs_of(items: Sequence[_Placing], row: int, limit: int) -> list[_UnitRun]:
    """Divide units into runs of about ``limit`` bytes, with ``row`` bytes for each document."""
    least = -(-limit // _MOST_UNITS)
    runs = packed(items, lambda item: max(least, item[0].documents * row), limit)
    return [_UnitRun(*run) for run in enumerate(runs)]


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
) -> list[str]:
    """Score every unit and record the scores in the draft of a column; its selector is loaded.

    Returns:
        The names of the parts, each of which has the files of several units.
    """
    vectors = embeddings.files
    items = [
        (unit, record, None if quality is None else quality.files[unit.number])
        for unit, record in zip(units, vectors, strict=True)
    ]
    gathered = {f"scores-{run.number:05d}": run for run in _runs_of(items, _ROW, TASK_BYTES)}
    if all(draft.done(part) is not None for part in gathered):
        return list(gathered)
    documents, width = (int(embeddings.facts[key]) for key in ("documents", "width"))
    size = documents * document_type(width).itemsize
    limit = min(max(TASK_BYTES, size // 512), _MOST_BYTES)
    runs = _runs_of(items, document_type(width).itemsize, min(max(_LEAST_BYTES, size // 32), limit))
    partitions = int(selector.partitions)
    shared = PartitionPlan(
        name=name,
        selector=selector,
        seed=seed,
        width=width,
        units=len(units),
        runs=len(runs),
        partitions=partitions,
        tasks=min(partitions, -(-size // limit) or 1),
        directory=draft.path,
        embeddings=embeddings.path,
        quality=None if quality is None else quality.path,
        quality_scale=1.0 if quality is None else find_scale(quality, units, runner),
    )
    progress(f"{name}: {documents:,} documents in {partitions:,} partitions")
    if quality is not None and not shared.quality_scale:
        progress(
            f"{name}: warning: all documents have one score in "
            f"{selector.requirements.quality}, so it has no effect"
        )
    draft.fill(runner.run, _place, {f"placed-{run.number:05d}": run for run in runs}, shared)
    if selector.requirements.thinning is not None:
        shared = thin(shared, selector.requirements.thinning, draft, runner, progress)
    scored = {f"scored-{name}": own for name, own in shared.ranges.items()}
    draft.fill(runner.run, _score_some, scored, shared)
    if shared.merges:
        draft.fill(runner.run, _merge, {"merged": 0}, shared)
    draft.fill(runner.run, _gather, gathered, shared)
    return list(gathered)


def _place(run: _UnitRun, shared: PartitionPlan) -> FileRecord:
    """Write the documents of a run of units, sorted by partition and hash."""
    rows = np.concatenate([_place_unit(*item, shared) for item in run.units])
    rows = rows[np.lexsort((rows["hash"], rows["partition"]))]
    return shared.placed.write(run.number, rows, rows["partition"])


def _place_unit(
    unit: Unit, vectors_record: FileRecord, quality: FileRecord | None, shared: PartitionPlan
) -> np.ndarray:
    """Read a unit's documents, with their partitions: (n,) of the shuffle's type."""
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
    return rows


def _score_some(item: PartitionRange, shared: PartitionPlan) -> list[FileRecord]:
    rows = shared.read_staying(item)
    kept = [rows[:0]]
    merge = shared.selector.requirements.merge if shared.merges else None
    for number, own_rows in shared.each(item, rows):
        own = rows[own_rows]
        partition = shared.partition(own, number)
        at = f"partition {number}, {len(own):,} documents"
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


def _merge(_: int, shared: PartitionPlan) -> list[FileRecord]:
    """Score the candidates of all partitions together."""
    merge = shared.selector.requirements.merge
    assert merge is not None
    rows = shared.candidates.read(0)
    rows = rows[np.argsort(rows["hash"], kind="stable")]
    at = f"merging {len(rows):,} candidates"
    partition = shared.partition(rows, 0)
    rows["score"] = scores_of(
        call_plugin(shared.key, at, merge.merge, partition, rows["score"]),
        len(rows),
        shared.key,
        at,
    )
    return [_write_by_unit(shared.merged, 0, rows)]


def _gather(run: _UnitRun, shared: PartitionPlan) -> list[FileRecord]:
    """Write the scores of each unit of a run, in its order."""
    units = [unit for unit, _, _ in run.units]
    first = units[0].number
    starts = np.cumsum([0, *(unit.documents for unit in units)])
    scores = np.full(starts[-1], np.nan, dtype=np.float32)
    for shuffle in [shared.scored, shared.merged] if shared.merges else [shared.scored]:
        found = shuffle.read(first, first + len(units))
        scores[starts[found["unit"] - first] + found["row"]] = found["score"]
    return [
        write_scores(shared.directory, unit.name, own)
        for unit, own in zip(units, np.split(scores, starts[1:-1]), strict=True)
    ]


def _write_by_unit(shuffle: Shuffle, source: int, rows: np.ndarray) -> FileRecord:
    found = repack_fields(rows[list(SCORE.names or ())])
    return shuffle.write(source, found, found["unit"])


def _check_numbers(numbers: Any, count: int, shared: PartitionPlan, at: str) -> np.ndarray:
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
