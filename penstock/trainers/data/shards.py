"""Packed sequences by number, straight from mapped Arrow files.

The files are mapped, not read: a sequence is two views into the page cache, and opening a shard
takes about a millisecond. A flipped token passes every check Arrow has, so every file is hashed
when it is opened (1.6 GB/s a core), and every sequence is compared with its own checksum when it
is read: days may lie between the two, in which pages are dropped and read from the disk again.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, FileRecord
from penstock.errors import ArtefactError
from penstock.storage import Place

__all__ = ["REST", "Group", "PackedSequence", "ShardSet"]

REST = "rest"
"""The group of all sources that were packed together."""


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """One row of a shard. Both arrays are read-only views of the mapped file."""

    tokens: np.ndarray
    """(L,) uint16 or uint32."""
    starts: np.ndarray
    """(documents,) int32: where each document's span begins; the first is 0, rising."""


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences that follow each other and hold no source but their own."""

    name: str
    """The source, or :data:`REST`."""
    first: int
    size: int


class ShardSet:
    """All sequences of a shards artefact, numbered from 0 in the order of the manifest."""

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact
        self.sequence_length = int(artefact.facts["sequence_length"])
        self.vocab_size = int(artefact.facts["vocab_size"])
        self.eos = int(artefact.facts["eos"])
        records = artefact.named("shard-")
        self._batches = [
            _Batch(batch, self.sequence_length, artefact.path / record.path)
            for record in records
            for batch in _map(artefact.verified(record))
        ]
        counts = [batch.rows for batch in self._batches]
        self._first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.groups = _groups(records)
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
        """The sequence, after comparing it with its checksum.

        Raises:
            ArtefactError: It is not what was written.
        """
        batch, row = self._find(index)
        return batch.sequence(row)

    def checksum(self, index: int) -> int:
        """CRC-32 of the sequence's tokens and starts, as it was recorded."""
        batch, row = self._find(index)
        return int(batch.checksums[row])

    @property
    def tokens(self) -> int:
        """Tokens of one pass."""
        return len(self) * self.sequence_length

    @property
    def tokenizer(self) -> Path:
        """The ``tokenizer.json`` that the tokens came from."""
        (record,) = self.artefact.named("tokenizer/tokenizer.json")
        return self.artefact.verified(record)

    def predicted(self, index: int, counted: int) -> int:
        """How many of a sequence's first ``counted`` tokens have context to be predicted from.

        All but the first of each document's span; read from the spans alone.
        """
        batch, row = self._find(index)
        return counted - int(np.searchsorted(batch.starts(row), counted))

    def _find(self, index: int) -> tuple[_Batch, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        return self._batches[number], index - int(self._first[number])


class _Batch:
    """The columns that training needs of one record batch."""

    def __init__(self, batch: pa.RecordBatch, length: int, path: Place) -> None:
        self.rows = batch.num_rows
        self._tokens, offsets = _flat(batch.column("tokens"))
        self._starts, self._spans = _flat(batch.column("doc_start"))
        self.checksums = batch.column("crc32").to_numpy()
        if not np.array_equal(offsets, np.arange(self.rows + 1) * length):
            raise ArtefactError(
                f"{path}: expected {length} tokens in every sequence, found rows of other lengths"
            )
        self._length = length
        self._path = path

    def starts(self, row: int) -> np.ndarray:
        return self._starts[self._spans[row] : self._spans[row + 1]]

    def sequence(self, row: int) -> PackedSequence:
        first = row * self._length
        tokens, starts = self._tokens[first : first + self._length], self.starts(row)
        found = zlib.crc32(starts.data, zlib.crc32(tokens.data))
        if found != self.checksums[row]:
            raise ArtefactError(
                f"{self._path}: changed since it was written: expected CRC-32 "
                f"{self.checksums[row]:08x} in a sequence, found {found:08x}; delete "
                f"{self._path.parent} and run again to make it anew"
            )
        return PackedSequence(tokens, starts)


def _groups(records: Sequence[FileRecord]) -> list[Group]:
    """Shards of a group follow each other."""
    sizes: dict[str, int] = {}
    for record in records:
        name = record.facts["group"] or REST
        sizes[name] = sizes.get(name, 0) + record.facts["sequences"]
    firsts = itertools.accumulate(sizes.values(), initial=0)
    return [Group(name, first, size) for (name, size), first in zip(sizes.items(), firsts)]


def _map(path: Path) -> Iterator[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return (reader.get_batch(number) for number in range(reader.num_record_batches))


def _flat(column: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """A list column as (its values, (rows + 1,) offsets into them), without a copy of values."""
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy(zero_copy_only=True)[offsets[0] : offsets[-1]]
    return values, offsets.astype(np.int64) - offsets[0]
