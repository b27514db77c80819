"""Shards: packed sequences by number, from mapped Arrow files.

The files are mapped, not read: opening one takes about a millisecond, and a sequence is copied from
the page cache into a batch. Arrow does not detect a flipped token, so every file is hashed when it
is opened (1.6 GB/s a core). Every sequence is compared with its own checksum when it is read, since
days may pass between the two, in which pages are dropped and read from the disk again.

Training needs only where documents begin. Their ids are needed afterwards, for losses by document,
and in messages, so they are never kept in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, FileRecord
from penstock.columnar import read_batches
from penstock.errors import ArtefactError
from penstock.hashing import factors
from penstock.recipe import REST
from penstock.storage import AnyPath
from penstock.trainers.data.reading import Columns, predicted_in, read_rows, recorded_checksums

__all__ = ["ShardGroup", "ShardSet", "Spans"]


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """A range of sequences that hold one source, or :data:`REST`."""

    name: str
    """The source, or :data:`REST` for the sources that are packed together."""
    first: int
    size: int


@dataclass(frozen=True, slots=True)
class Spans:
    """The documents of all spans of ``n`` sequences, in the order of the sequences."""

    ids: pa.StringArray
    """(spans,) ids of documents; a view of the mapped file if all lie in one record batch."""
    offsets: np.ndarray
    """(spans,) int64: where each span begins in its document; 0 if the document begins here."""
    counts: np.ndarray
    """(n,) int64: number of spans in each sequence."""


class ShardSet:
    """All sequences of a shards artefact, numbered from 0 in the order of the manifest."""

    def __init__(self, artefact: Artefact, *, part: int = 0, parts: int = 1) -> None:
        self.artefact = artefact
        self.sequence_length = int(artefact.facts["sequence_length"])
        self.vocab_size = int(artefact.facts["vocab_size"])
        self.eos = int(artefact.facts["eos"])
        records = artefact.named("shard-")
        paths = [
            artefact.verified(record) if number % parts == part else record.local(artefact.path)
            for number, record in enumerate(records)
        ]
        mapped = [(record, read_batches(path)) for record, path in zip(records, paths)]
        self._files = [artefact.path / record.path for record, found in mapped for _ in found]
        self._batches = [batch for _, found in mapped for batch in found]
        self._columns = [
            _columns(batch, self.sequence_length, self.vocab_size, path)
            for batch, path in zip(self._batches, self._files)
        ]
        """Kept so that files stay mapped while their addresses are in use."""
        if len({columns.tokens.dtype for columns in self._columns}) > 1:
            raise ArtefactError(file=artefact.path, expected="tokens of one type", got="of two")
        rows = [len(each.checksums) for each in self._columns]
        self._first = np.cumsum([0, *rows], dtype=np.int64)
        addresses = [
            [*(column.ctypes.data for column in each), len(each.starts)] for each in self._columns
        ]
        self._addresses = np.array(addresses, np.uint64).reshape(-1, 5)
        self.groups = _groups(records)
        if len(self) != artefact.facts["sequences"]:
            raise ArtefactError(
                file=artefact.path,
                expected=f"{artefact.facts['sequences']} sequences",
                got=len(self),
                fix="delete the directory and run again",
            )

    @classmethod
    def open(cls, path: AnyPath, *, part: int = 0, parts: int = 1) -> ShardSet:
        """Open the shards at ``path`` and compare every file with its checksum.

        Args:
            path: The artefact.
            part: Number of this part, from 0.
            parts: Compare one file in so many. The workers of a node share the work so, and start
                after all have done their parts.

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
        return cls(artefact, part=part, parts=parts)

    def __len__(self) -> int:
        return int(self._first[-1])

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
        length = self.sequence_length
        like = np.empty(0, self._columns[0].tokens.dtype)
        ids, spans, bad = read_rows(
            indices, self._first, self._addresses, like, factors(length), length
        )
        if bad >= 0:
            path = self._files[self._batch_of(int(indices[bad]))]
            raise ArtefactError(
                f"sequence {indices[bad]} does not match its checksum: the file changed since it "
                "was written",
                file=path,
                fix=f"delete {path.parent} and run again to make it anew",
            )
        return ids, spans

    def checksums(self, indices: np.ndarray) -> np.ndarray:
        """Return the recorded checksums of sequences, over tokens and spans: (n,) uint64."""
        sums: np.ndarray = recorded_checksums(indices, self._first, self._addresses)
        return sums

    def predicted(self, indices: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """Count the predicted tokens among the first ``counted`` of each sequence.

        These are all but the first of each span; only the spans are read. All (n,) int64.
        """
        found: np.ndarray = predicted_in(indices, counted, self._first, self._addresses)
        return found

    def starts(self, index: int) -> np.ndarray:
        """Return where each span of a sequence begins: (documents,) int32, without a checksum."""
        number = self._batch_of(index)
        place, columns = index - int(self._first[number]), self._columns[number]
        first, last = columns.offsets[place : place + 2]
        return columns.starts[first:last]

    def carried(self, index: int) -> np.ndarray:
        """Return the score by ``shards.carry`` of each span of a sequence: (documents,) float32.

        Raises:
            ArtefactError: There is none for each.
        """
        number = self._batch_of(index)
        place = index - int(self._first[number])
        batch = self._batches[number]
        column = batch.column("carried") if "carried" in batch.schema.names else pa.nulls(0)
        found = np.empty(0, np.float32)
        if column.type == pa.list_(pa.float32()) and column.is_valid()[place].as_py():
            found = column[place].values.to_numpy(zero_copy_only=False)
        if len(found) != len(self.starts(index)):
            raise ArtefactError(
                file=self._files[number],
                expected="a carried score of each document",
                got=str(column.type),
                fix="curate with shards.carry",
            )
        return found

    @property
    def tokens(self) -> int:
        """Tokens of one pass over all sequences."""
        return len(self) * self.sequence_length

    @property
    def tokenizer(self) -> Path:
        """The ``tokenizer.json`` that made the tokens, after comparing it with its checksum."""
        (record,) = self.artefact.named("tokenizer/tokenizer.json")
        return self.artefact.verified(record)

    def _batch_of(self, index: int) -> int:
        return int(np.searchsorted(self._first, index, side="right")) - 1

    def documents(self, first: int, last: int) -> Spans:
        """Read the spans of the sequences from ``first`` to before ``last``, with document ids."""
        parts, start = [], 0
        for batch in self._batches:
            begin, end = max(first - start, 0), min(last - start, batch.num_rows)
            if begin < end:
                part = batch.slice(begin, end - begin)
                parts.append((part.column("doc_id"), part.column("doc_offset").flatten()))
            start += batch.num_rows
        return Spans(
            pa.concat_arrays([ids.flatten() for ids, _ in parts]),
            np.concatenate([offsets.to_numpy() for _, offsets in parts]),
            np.concatenate([np.diff(ids.offsets.to_numpy()) for ids, _ in parts]).astype(np.int64),
        )

    def where(self, indices: Sequence[int], most: int = 3) -> str:
        """Describe sequences for a message: their numbers, shard files and first documents.

        Args:
            indices: Numbers of sequences.
            most: Number of files and documents to name; of sequences, twice as many.
        """
        shown = list(indices[: 2 * most])
        names = dict.fromkeys(self._files[self._batch_of(index)].name for index in shown)
        documents = [self.documents(index, index + 1).ids.to_pylist() for index in shown]
        ids = dict.fromkeys(repr(name) for own in documents for name in own)
        more = len(indices) > len(shown)
        return (
            f"sequences {_few(map(str, shown), 2 * most, more)} of {_few(names, most, more)}, "
            f"documents {_few(ids, most, more)}"
        )


_TYPES = {
    "tokens": (pa.uint16(), pa.uint32()),
    "doc_start": (pa.int32(),),
    "doc_id": (pa.string(),),
    "doc_offset": (pa.int64(),),
}
"""The columns of lists that are read, and the types of their values. Compiled code reads them by
their addresses."""


def _columns(batch: pa.RecordBatch, length: int, vocab_size: int, path: AnyPath) -> Columns:
    """Check the columns that training reads, and return views of the mapped file.

    Raises:
        ArtefactError: They are of other types, or have values that no shard has.
    """

    def refuse(expected: str, got: object) -> ArtefactError:
        fix = f"delete {path.parent} and run again to make it anew"
        return ArtefactError(file=path, expected=expected, got=got, fix=fix)

    for name, kinds in _TYPES.items():
        column = batch.column(name) if name in batch.schema.names else pa.nulls(0)
        if not pa.types.is_list(column.type) or column.type.value_type not in kinds:
            raise refuse(f"{name}: lists of {' or '.join(map(str, kinds))}", column.type)
        if column.null_count or column.values.null_count:
            raise refuse(f"{name}: no nulls", "some")
    checksums = batch.column("checksum") if "checksum" in batch.schema.names else pa.nulls(0)
    if checksums.type != pa.uint64() or checksums.null_count:
        raise refuse("checksum: uint64 without nulls", checksums.type)
    tokens, starts = batch.column("tokens"), batch.column("doc_start")
    offsets = tokens.offsets.to_numpy()
    if not np.array_equal(offsets, offsets[0] + np.arange(batch.num_rows + 1) * length):
        raise refuse(f"{length} tokens in every sequence", "rows of other lengths")
    found = Columns(
        tokens=tokens.values.to_numpy(zero_copy_only=True)[offsets[0] : offsets[-1]],
        starts=starts.values.to_numpy(zero_copy_only=True),
        offsets=starts.offsets.to_numpy(),
        checksums=checksums.to_numpy(zero_copy_only=True),
    )
    largest = int(found.tokens.max(initial=0))
    if largest >= vocab_size:
        raise refuse(f"tokens below {vocab_size}", largest)
    if not _are_spans(found, length):
        raise refuse(f"in doc_start, from 0 on, ascending positions below {length}", "others")
    return found


def _are_spans(columns: Columns, length: int) -> bool:
    """Return whether each row's spans begin at its first token, and ascend within it."""
    first, last = columns.offsets[0], columns.offsets[-1]
    starts, offsets = columns.starts[first:last], columns.offsets - first
    begins = np.zeros(len(starts) + 1, bool)
    begins[offsets] = True
    return bool(
        (np.diff(offsets) > 0).all()
        and (starts[offsets[:-1]] == 0).all()
        and ((np.diff(starts) > 0) | begins[1:-1]).all()
        and starts.max(initial=0) < length
    )


def _groups(records: Sequence[FileRecord]) -> list[ShardGroup]:
    """Find the groups; the shards of a group follow each other."""
    sizes: dict[str, int] = {}
    for record in records:
        name = record.facts["group"] or REST
        sizes[name] = sizes.get(name, 0) + record.facts["sequences"]
    firsts = itertools.accumulate(sizes.values(), initial=0)
    return [ShardGroup(name, first, size) for (name, size), first in zip(sizes.items(), firsts)]


def _few(items: Iterable[str], most: int, more: bool) -> str:
    """Join at most ``most`` items, each cut at 80 characters."""
    shown = [item if len(item) <= 80 else f"{item[:79]}…" for item in items]
    return ", ".join([*shown[:most], *(["…"] if more or len(shown) > most else [])])
