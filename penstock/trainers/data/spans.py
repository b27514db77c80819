"""Spans with document ids, read on demand from the mapped files.

Training needs only where documents begin. Their ids are needed afterwards, for losses by document,
and in messages, so they are never kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from penstock.storage import AnyPath

__all__ = ["Spans", "describe_sequences", "spans_between"]


@dataclass(frozen=True, slots=True)
class Spans:
    """The documents of all spans of ``n`` sequences, in the order of the sequences."""

    ids: pa.StringArray
    """(spans,) ids of documents; a view of the mapped file if all lie in one record batch."""
    offsets: np.ndarray
    """(spans,) int64: where each span begins in its document; 0 if the document begins here."""
    counts: np.ndarray
    """(n,) int64: number of spans in each sequence."""


def spans_between(batches: Sequence[pa.RecordBatch], first: int, last: int) -> Spans:
    """Read the spans of the sequences from ``first`` to before ``last``."""
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


def describe_sequences(
    batches: Sequence[pa.RecordBatch],
    files: Sequence[AnyPath],
    indices: Sequence[int],
    most: int = 3,
) -> str:
    """Describe sequences for a message: their numbers, files and first documents.

    Args:
        batches: Record batches, whose sequences are numbered from 0.
        files: The file of each batch.
        indices: Numbers of sequences.
        most: Number of files and documents to name; of sequences, twice as many.
    """
    shown = list(indices[: 2 * most])
    ends = np.cumsum([batch.num_rows for batch in batches])
    numbers = np.searchsorted(ends, shown, side="right").tolist()
    names = dict.fromkeys(files[number].name for number in numbers)
    ids = dict.fromkeys(
        name for index in shown for name in spans_between(batches, index, index + 1).ids.to_pylist()
    )
    more = len(indices) > len(shown)
    return (
        f"sequences {_few(map(str, shown), 2 * most, more)} of {_few(names, most, more)}, "
        f"documents {_few(map(repr, ids), most, more)}"
    )


def _few(items: Iterable[str], most: int, more: bool) -> str:
    """Join at most ``most`` items, each cut at 80 characters."""
    shown = [item if len(item) <= 80 else f"{item[:79]}…" for item in items]
    return ", ".join([*shown[:most], *(["…"] if more or len(shown) > most else [])])
