"""Bytes that a row of a Parquet file may take, before Arrow decodes any.

Arrow allocates the decompressed size of each page, and makes as many values as it is asked for of a
few bytes: 44 kB of dictionary indices stand for gigabytes of text. So the headers of the pages are
read (one for about 1 MB), to refuse pages that decode to far more than their bytes, and to tell how
many rows may be decoded at a time. Sizes in the footer are not used: they may lie.

A value of a plain page takes its bytes of the page. One of a dictionary takes up to those of the
longest entry, and rows no more than the dictionary times how often they repeat an entry. The sizes
of small dictionaries suffice; next the indices are read, which are few bytes; last a dictionary is
decompressed for its longest entry. A value of ``DELTA_BYTE_ARRAY`` takes up to a page, since it may
repeat the one before. All values of lists may be those of one row, so the lengths of lists are read
too, where the lists of a row group could take more than
:func:`~penstock.columnar.arrow_claims.most_decoded`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.columnar.arrow_claims import check_decoded_size, most_decoded
from penstock.columnar.parquet_indices import most_repeated
from penstock.columnar.parquet_levels import longest_list
from penstock.columnar.parquet_pages import (
    DELTA_BYTES,
    DELTA_LENGTHS,
    ColumnChunk,
    read_chunk,
    read_groups,
)
from penstock.columnar.thrift import THRIFT_ERRORS

__all__ = ["may_be_large", "rows_within"]

_LENGTH = 4
"""Bytes of the length of a value, in a plain page and decoded."""

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}

_SMALL = 4096
"""Bytes of a dictionary that is not searched for its longest entry."""


@dataclasses.dataclass(slots=True, kw_only=True)
class _Claim:
    """What the values of one column of a row group may take."""

    chunk: ColumnChunk
    value: int
    """Bytes of the largest value, but for those of the dictionary and in pages of texts."""
    values: int
    pages: tuple[np.ndarray, np.ndarray] | None
    """Of pages of texts: (k + 1,) values before each, and bytes before each."""
    dictionary: int
    """Bytes of the dictionary; 0 where no value is one of it."""
    entry: int
    """Bytes of the longest entry of the dictionary, or more."""
    repeated: int | None = None
    """How often the rows that are read at a time repeat an entry, at most."""

    @property
    def has_lists(self) -> bool:
        return bool(self.chunk.schema.max_repetition_level)

    @property
    def largest(self) -> int:
        """Bytes of the largest value, but for those in pages of texts."""
        return max(self.value, self.entry + _LENGTH)

    def of_rows(self, rows: int) -> int:
        """Return the bytes that ``rows`` rows of a column without lists may take."""
        size = rows * self.entry
        if self.repeated is not None:
            size = min(size, self.repeated * self.dictionary)
        return size + rows * self.value

    def find_longest_entry(self) -> None:
        """Search the dictionary for its longest entry, which decompresses it."""
        if self.entry > _SMALL:
            self.entry = _longest_entry(self.chunk)

    def count_repeats(self, rows: int) -> None:
        """Read the indices, to know how often they repeat an entry."""
        if self.entry > _SMALL:
            # Where they cannot be read, the bound without them stands.
            with contextlib.suppress(OSError, NotImplementedError, *THRIFT_ERRORS):
                self.repeated = most_repeated(self.chunk, rows)


def rows_within(
    source: pa.NativeFile, file: pq.ParquetFile, group: int, rows: int, size: int
) -> int:
    """Return how many rows of a group may be decoded at a time.

    Args:
        source: The file.
        file: The same, opened.
        group: Number of the row group.
        rows: The most.
        size: Bytes that they may take. More are allowed where single pages are larger.

    Raises:
        ArrowInvalid: A page, or a row, claims to decode to far more than its bytes.
    """
    with _claims_of(source, file, group) as (count, claims):
        name = f"row group {group}"
        return _fitting(claims, count, name, rows, max(size, 2 * _held(claims, name)))


def may_be_large(source: pa.NativeFile, file: pq.ParquetFile, group: int) -> bool:
    """Return whether a row group could decode to far more than its bytes, if it is read whole.

    Raises:
        ArrowInvalid: A page claims to, or is damaged.
    """
    with _claims_of(source, file, group) as (count, claims):
        _held(claims, f"row group {group}")
        most = most_decoded(sum(own.chunk.stored for own in claims))
        for own in claims:
            if not own.has_lists and count * own.entry > most // len(claims):
                own.count_repeats(count)
        texts = _largest_window(claims, count, count)
        sizes = (
            own.largest * own.values if own.has_lists else own.of_rows(count) for own in claims
        )
        return sum(sizes) + texts > most


@contextlib.contextmanager
def _claims_of(
    source: pa.NativeFile, file: pq.ParquetFile, group: int
) -> Iterator[tuple[int, list[_Claim]]]:
    """Yield the rows of a row group, and what its columns claim; name it in errors."""
    name = f"row group {group}"
    try:
        found = read_groups(source)[group]
        if len(found.columns) != len(file.schema):
            raise ValueError(f"{len(found.columns)} columns instead of {len(file.schema)}")
        yield (
            found.rows,
            [
                _claim(read_chunk(source, place, file.schema.column(number)), name)
                for number, place in enumerate(found.columns)
            ],
        )
    except THRIFT_ERRORS as error:
        if isinstance(error, pa.ArrowException):
            raise
        raise pa.ArrowInvalid(f"{name}: {type(error).__name__} in a page: {error}") from None


def _fitting(claims: list[_Claim], count: int, name: str, rows: int, size: int) -> int:
    """Return how many of a row group's ``count`` rows fit, from what costs least to know."""
    lists = [own for own in claims if own.has_lists]
    others = [own for own in claims if not own.has_lists]
    stored = sum(own.chunk.stored for own in claims)
    for own in lists:
        own.find_longest_entry()
    of_lists = _longest_row(lists, count, most_decoded(stored))

    def needed(rows: int) -> int:
        texts = _largest_window(claims, count, rows)
        return rows * of_lists + sum(own.of_rows(rows) for own in others) + texts

    if sum(own.largest for own in others) + of_lists > most_decoded(stored):
        for own in others:
            own.find_longest_entry()
        row = sum(own.largest for own in others) + of_lists
        check_decoded_size(f"{name}: a row", stored, row)
    if needed(rows) > size:
        for own in others:
            own.count_repeats(rows)
    if needed(rows) > size:
        for own in others:
            own.find_longest_entry()
    while rows > 1 and needed(rows) > size:
        rows //= 2
    return rows


def _held(claims: list[_Claim], name: str) -> int:
    """Return the bytes of the pages that a reader may hold at a time."""
    stored = decoded = 0
    for own in claims:
        pages = [page for page in own.chunk.pages if not page.is_data]
        pages += sorted(own.chunk.data, key=lambda page: page.decoded)[-1:]
        stored += sum(page.stored for page in pages)
        decoded += sum(page.decoded for page in pages)
    check_decoded_size(f"{name}: the largest page of each column", stored, decoded)
    return decoded


def _longest_row(lists: list[_Claim], rows: int, most: int) -> int:
    """Return the bytes of the longest lists; of the mean ones where all take no more than most."""
    if sum(own.largest * own.values for own in lists) > most:
        return sum(own.largest * min(own.values, longest_list(own.chunk)) for own in lists)
    return sum(own.largest * -(-own.values // max(1, rows)) for own in lists)


def _largest_window(claims: list[_Claim], count: int, rows: int) -> int:
    """Return the bytes of texts in pages that ``rows`` consecutive rows may take, at most."""
    largest = 0
    for own in claims:
        if own.pages is not None:
            ends, sums = own.pages
            width = rows * own.values / max(1, count)
            after = np.interp(ends + width, ends, sums) - sums
            before = sums - np.interp(ends - width, ends, sums)
            largest += int(max(after.max(), before.max()))
    return largest


def _claim(chunk: ColumnChunk, group: str) -> _Claim:
    kind = chunk.schema.physical_type
    value = _WIDTHS.get(kind, chunk.schema.length or 0)
    for page in chunk.data:
        if page.encoding in (DELTA_LENGTHS, DELTA_BYTES):  # all lengths are decoded at once
            size = _LENGTH * page.values
            check_decoded_size(
                f"{group}, column {chunk.place.name!r}: lengths of a page", page.stored, size
            )
        if page.encoding == DELTA_BYTES:
            value = max(value, page.decoded)
    pages, dictionary = None, 0
    if kind == "BYTE_ARRAY":
        sums = [
            np.cumsum([0, *sizes]) for sizes in zip(*((p.values, p.decoded) for p in chunk.data))
        ]
        pages = (sums[0], sums[1]) if sums else None
        if any(page.has_indices for page in chunk.data):
            dictionary = sum(page.decoded for page in chunk.pages if page.is_dictionary)
    return _Claim(
        chunk=chunk,
        value=value + _LENGTH,
        values=sum(page.values for page in chunk.data),
        pages=pages,
        dictionary=dictionary,
        entry=dictionary,
    )


def _longest_entry(chunk: ColumnChunk) -> int:
    """Return the bytes of the longest text of a dictionary, or more."""
    longest = 0
    for page in chunk.pages:
        if not page.is_dictionary:
            continue
        if page.decoded <= _SMALL or page.decoded > most_decoded(page.stored):
            longest = max(longest, page.decoded)
            continue
        try:
            data = chunk.read(page)
        except (OSError, ValueError, NotImplementedError):  # the whole page is a bound, too
            longest = max(longest, page.decoded)
            continue
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + _LENGTH], "little")
            longest = max(longest, min(size, len(data)))
            at += _LENGTH + size
    return longest
