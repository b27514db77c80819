"""Packed sequences by number, straight from mapped Arrow files.

The files are mapped, not read: a sequence is two views into the page cache, and opening a shard
takes about a millisecond. The price is that every file is hashed when it is opened (1.6 GB/s a
core), because a flipped token passes every check Arrow has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact
from penstock.errors import ArtefactError
from penstock.storage import Place

__all__ = ["PackedSequence", "ShardSet"]


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """One row of a shard. Both arrays are read-only views of the mapped file."""

    tokens: np.ndarray
    """(L,) uint16 or uint32."""
    starts: np.ndarray
    """(documents,) int32: where each document's span begins; the first is 0, rising."""


class ShardSet:
    """All sequences of a shards artefact, numbered from 0 in the order of the manifest."""

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact
        self.sequence_length = int(artefact.facts["sequence_length"])
        self.vocab_size = int(artefact.facts["vocab_size"])
        self.eos = int(artefact.facts["eos"])
        self._batches = [
            _Batch(batch, self.sequence_length)
            for record in artefact.named("shard-")
            for batch in _map(artefact.verified(record))
        ]
        counts = [batch.rows for batch in self._batches]
        self._first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        if len(self) != artefact.facts["sequences"]:
            raise ArtefactError(
                f"{artefact.path}: expected {artefact.facts['sequences']} sequences, found "
                f"{len(self)}; delete the directory and run again"
            )

    @classmethod
    def open(cls, path: Place) -> ShardSet:
        """Open the shards at ``path``, comparing every file with its checksum.

        Raises:
            ArtefactError: A file is missing or changed, or this is not a shards artefact.
        """
        artefact = Artefact.open(path)
        if artefact.manifest["stage"] != "shards":
            raise ArtefactError(
                f"{path}: expected an artefact of stage 'shards', got "
                f"{artefact.manifest['stage']!r}"
            )
        return cls(artefact)

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> PackedSequence:
        if not 0 <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        return self._batches[number].sequence(index - int(self._first[number]))

    @property
    def tokens(self) -> int:
        """Tokens of one pass."""
        return len(self) * self.sequence_length

    @property
    def tokenizer(self) -> Path:
        """The ``tokenizer.json`` that the tokens came from."""
        (record,) = self.artefact.named("tokenizer/tokenizer.json")
        return self.artefact.verified(record)

    def predicted(self, indices: np.ndarray) -> int:
        """How many tokens of these sequences have context to be predicted from.

        All but the first of each document's span; read from offsets alone.
        """
        spans = sum(len(self[int(index)].starts) for index in indices)
        return len(indices) * self.sequence_length - spans


class _Batch:
    """The two columns that training needs of one record batch."""

    def __init__(self, batch: pa.RecordBatch, length: int) -> None:
        self.rows = batch.num_rows
        self._tokens, offsets = _flat(batch.column("tokens"))
        self._starts, self._spans = _flat(batch.column("doc_start"))
        if not np.array_equal(offsets, np.arange(self.rows + 1) * length):
            raise ArtefactError(
                f"shards: expected {length} tokens in every sequence, found rows of other lengths"
            )
        self._length = length

    def sequence(self, row: int) -> PackedSequence:
        start = row * self._length
        return PackedSequence(
            self._tokens[start : start + self._length],
            self._starts[self._spans[row] : self._spans[row + 1]],
        )


def _map(path: Path) -> Iterator[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return (reader.get_batch(number) for number in range(reader.num_record_batches))


def _flat(column: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """A list column as (its values, (rows + 1,) offsets into them), without a copy of values."""
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy(zero_copy_only=True)[offsets[0] : offsets[-1]]
    return values, offsets.astype(np.int64) - offsets[0]
