"""Shards: packed sequences by number, from mapped Arrow files.

The files are mapped, not read: opening one takes about a millisecond, and a sequence is copied from
the page cache into a batch. Arrow does not detect a flipped token, so every file is hashed when it
is opened (1.6 GB/s a core). Every sequence is compared with its own checksum when it is read, since
days may pass between the two, in which pages are dropped and read from the disk again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, FileRecord
from penstock.errors import ArtefactError
from penstock.recipe import REST
from penstock.storage import AnyPath
from penstock.trainers.data.reading import Columns, Rows
from penstock.trainers.data.spans import Spans, describe_sequences, spans_between

__all__ = ["PackedSequence", "ShardGroup", "ShardSet"]


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """One row of a shard."""

    tokens: np.ndarray
    """(L,) integers."""
    starts: np.ndarray
    """(documents,) int32, rising from 0: where each document's span begins."""


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """A range of sequences that hold one source, or :data:`REST`."""

    name: str
    """The source, or :data:`REST` for the sources that are packed together."""
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
        mapped = [(record, list(_map(artefact.verified(record)))) for record in records]
        self._files = [artefact.path / record.path for record, found in mapped for _ in found]
        self._batches = [batch for _, found in mapped for batch in found]
        columns = [
            _columns(batch, self.sequence_length, path)
            for batch, path in zip(self._batches, self._files)
        ]
        self._rows = Rows(columns, self.sequence_length)
        self.groups = _groups(records)
        if len(self) != artefact.facts["sequences"]:
            raise ArtefactError(
                file=artefact.path,
                expected=f"{artefact.facts['sequences']} sequences",
                got=len(self),
                fix="delete the directory and run again",
            )

    @classmethod
    def open(cls, path: AnyPath) -> ShardSet:
        """Open the shards at ``path`` and compare every file with its checksum.

        Raises:
            ArtefactError: A file is missing or changed, or this is not a shards artefact.
        """
        artefact = Artefact.open(path)
        if artefact.manifest["stage"] != "shards":
            raise ArtefactError(
                file=path,
                expected="an artefact of stage 'shards'",
                got=repr(artefact.manifest["stage"]),
            )
        return cls(artefact)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> PackedSequence:
        """Read one sequence; :meth:`read` is faster for many.

        Raises:
            IndexError, ArtefactError: As :meth:`read`.
        """
        ids, spans = self.read(np.array([index]))
        return PackedSequence(ids[0], spans[:-1])

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read sequences and compare each with its checksum.

        Args:
            indices: (n,) int64.

        Returns:
            (n, L) int64 tokens, and (documents + 1,) int32: where each document's span begins in
            the n * L tokens, and their end.

        Raises:
            IndexError: There is no such sequence.
            ArtefactError: One does not match its checksum.
        """
        ids, spans, bad = self._rows.read(indices)
        if bad >= 0:
            path = self._files[self._rows.batch(int(indices[bad]))]
            raise ArtefactError(
                f"sequence {indices[bad]} does not match its checksum: the file changed since it "
                "was written",
                file=path,
                fix=f"delete {path.parent} and run again to make it anew",
            )
        return ids, spans

    def checksums(self, indices: np.ndarray) -> np.ndarray:
        """Return the recorded checksums of sequences, over tokens and spans: (n,) uint64."""
        return self._rows.checksums(indices)

    def predicted(self, indices: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """Count the predicted tokens among the first ``counted`` of each sequence.

        These are all but the first of each span; only the spans are read. All (n,) int64.
        """
        return self._rows.predicted(indices, counted)

    def starts(self, index: int) -> np.ndarray:
        """Return where each span of a sequence begins: (documents,) int32, without a checksum."""
        return self._rows.starts(index)

    @property
    def tokens(self) -> int:
        """Tokens of one pass over all sequences."""
        return len(self) * self.sequence_length

    @property
    def tokenizer(self) -> Path:
        """The ``tokenizer.json`` that made the tokens, after comparing it with its checksum."""
        (record,) = self.artefact.named("tokenizer/tokenizer.json")
        return self.artefact.verified(record)

    def documents(self, first: int, last: int) -> Spans:
        """Read the spans of the sequences from ``first`` to before ``last``, with document ids."""
        return spans_between(self._batches, first, last)

    def where(self, indices: Sequence[int]) -> str:
        """Describe sequences for a message: numbers, shard files and first documents."""
        return describe_sequences(self._batches, self._files, indices)


def _columns(batch: pa.RecordBatch, length: int, path: AnyPath) -> Columns:
    """Return the columns that training reads, as views of the mapped file."""
    tokens, starts = batch.column("tokens"), batch.column("doc_start")
    offsets = tokens.offsets.to_numpy()
    if not np.array_equal(offsets, offsets[0] + np.arange(batch.num_rows + 1) * length):
        raise ArtefactError(
            file=path, expected=f"{length} tokens in every sequence", got="rows of other lengths"
        )
    return Columns(
        tokens=tokens.values.to_numpy(zero_copy_only=True)[offsets[0] : offsets[-1]],
        starts=starts.values.to_numpy(zero_copy_only=True),
        offsets=starts.offsets.to_numpy(),
        checksums=batch.column("checksum").to_numpy(zero_copy_only=True),
    )


def _groups(records: Sequence[FileRecord]) -> list[ShardGroup]:
    """Find the groups; the shards of a group follow each other."""
    sizes: dict[str, int] = {}
    for record in records:
        name = record.facts["group"] or REST
        sizes[name] = sizes.get(name, 0) + record.facts["sequences"]
    firsts = itertools.accumulate(sizes.values(), initial=0)
    return [ShardGroup(name, first, size) for (name, size), first in zip(sizes.items(), firsts)]


def _map(path: Path) -> Iterator[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return (reader.get_batch(number) for number in range(reader.num_record_batches))
