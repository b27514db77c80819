"""Whose tokens a sequence holds: read when somebody asks, straight from the mapped files.

Training needs only where documents begin. Who they are is for what comes after it, their losses,
and for messages, so nothing of it is kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from penstock.storage import AnyPath

__all__ = ["Spans", "spans_between", "where"]


@dataclass(frozen=True, slots=True)
class Spans:
    """Whose the spans of ``n`` sequences are, in the order of the sequences."""

    ids: pa.StringArray
    """(spans,) the documents' ids; a view of the mapped file where it is one record batch's."""
    offsets: np.ndarray
    """(spans,) int64: where each begins in its document; 0 where the document begins."""
    counts: np.ndarray
    """(n,) int64: how many there are in each sequence."""


def spans_between(batches: Sequence[pa.RecordBatch], first: int, last: int) -> Spans:
    """The spans of the sequences ``first`` to before ``last`` of these record batches."""
    parts, start = [], 0
    for batch in batches:
        begin, end = max(first - start, 0), min(last - start, batch.num_rows)
        if begin < end:
            parts.append(_spans(batch.slice(begin, end - begin)))
        start += batch.num_rows
    return Spans(
        pa.concat_arrays([part.ids for part in parts]),
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )


def _spans(batch: pa.RecordBatch) -> Spans:
    ids, offsets = batch.column("doc_id"), batch.column("doc_offset")
    counts = np.diff(ids.offsets.to_numpy()).astype(np.int64)
    return Spans(ids.flatten(), offsets.flatten().to_numpy(), counts)


def where(
    batches: Sequence[pa.RecordBatch],
    files: Sequence[AnyPath],
    indices: Sequence[int],
    most: int = 3,
) -> str:
    """Sequences in words: their numbers, files and first documents, a few of each.

    Args:
        batches: The record batches in which sequences are numbered from 0.
        files: Of each batch, the file it lies in.
        indices: The sequences.
        most: How many files and documents are told; of sequences, twice as many.
    """
    shown = list(indices[: 2 * most])
    ends = np.cumsum([batch.num_rows for batch in batches])
    places = np.searchsorted(ends, shown, side="right").tolist()
    names = dict.fromkeys(files[place].name for place in places)
    ids = dict.fromkeys(
        name for index in shown for name in spans_between(batches, index, index + 1).ids.to_pylist()
    )
    more = len(indices) > len(shown)
    return (
        f"sequences {_few(map(str, shown), 2 * most, more)} of {_few(names, most, more)}, "
        f"documents {_few(map(repr, ids), most, more)}"
    )


def _few(items: Iterable[str], most: int, more: bool) -> str:
    """At most so many of them, shortened."""
    shown = [item if len(item) <= 80 else f"{item[:79]}…" for item in items]
    return ", ".join([*shown[:most], *(["…"] if more or len(shown) > most else [])])
