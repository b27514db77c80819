"""Headers of the pages of a Parquet file, and their bytes: ``parquet.thrift`` of Parquet 2.12."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from penstock.columnar.thrift import as_struct, read_struct

__all__ = [
    "DELTA_BYTES",
    "DELTA_LENGTHS",
    "ColumnChunk",
    "Page",
    "RowGroup",
    "read_chunk",
    "read_groups",
]

_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_DATA_HEADER, _DICTIONARY_HEADER, _DATA_V2_HEADER = 5, 7, 8
_BY_DICTIONARY = (2, 8)
DELTA_LENGTHS, DELTA_BYTES = 6, 7
"""Encodings: ``DELTA_LENGTH_BYTE_ARRAY``, ``DELTA_BYTE_ARRAY``."""

_CODECS = {0: "none", 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
"""``CompressionCodec``, but for those that nothing writes any more: LZO and LZ4 in frames."""

_HEADERS = (128, 1 << 12, 1 << 16, 16 << 20)
"""Bytes that are read for a header: it may hold the smallest and the largest value."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The header of a page."""

    kind: int
    decoded: int
    """Bytes."""
    stored: int
    """Bytes."""
    values: int
    encoding: int
    levels: tuple[int, int] | None
    """Bytes of repetition and definition levels, which version 2 stores apart, not compressed."""
    packed: bool
    """Whether its values are compressed."""
    content: int
    """Where its bytes begin in the file."""

    @property
    def is_data(self) -> bool:
        return self.kind in (_DATA, _DATA_V2)

    @property
    def is_dictionary(self) -> bool:
        return self.kind == _DICTIONARY

    @property
    def has_indices(self) -> bool:
        """Whether its values are those of the dictionary."""
        return self.is_data and self.encoding in _BY_DICTIONARY


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ColumnChunk:
    """One column of a row group."""

    source: pa.NativeFile
    place: _ChunkPlace
    schema: Any
    """Of the column: :class:`pyarrow.parquet.ColumnSchema`."""
    pages: list[Page]

    @property
    def data(self) -> list[Page]:
        return [page for page in self.pages if page.is_data]

    @property
    def stored(self) -> int:
        """Bytes."""
        return sum(page.stored for page in self.pages)

    def read(self, page: Page) -> memoryview:
        """Read and decompress a page, but for levels that are stored apart.

        Raises:
            ValueError: The bytes are damaged, or the compression is one that is not known here.
            OSError: As ValueError.
        """
        apart = sum(page.levels or ())
        data = self.source.read_at(page.stored - apart, page.content + apart)
        if self.place.compression == "none" or not page.packed:
            return memoryview(data)
        codec = pa.Codec(self.place.compression)
        return memoryview(codec.decompress(data, page.decoded - apart)).cast("B")


class _ChunkPlace(NamedTuple):
    """Where the pages of a column of a row group are, by the footer."""

    name: str
    compression: str
    start: int
    stored: int
    """Bytes; 0 without values, since the offsets of such a column may be those of no page."""


class RowGroup(NamedTuple):
    """A row group, by the footer."""

    rows: int
    columns: Sequence[_ChunkPlace]


def read_groups(source: pa.NativeFile) -> Sequence[RowGroup]:
    """Read the row groups of a file from its footer.

    Arrow's own objects of columns (``RowGroupMetaData.column``) end the process where statistics in
    the footer are damaged.

    Raises:
        ValueError: As others of :data:`~penstock.columnar.thrift.THRIFT_ERRORS`: it is damaged.
    """
    size = source.size()
    length = int.from_bytes(source.read_at(8, size - 8)[:4], "little")
    if length + 8 > size:
        raise ValueError(f"a footer of {length:,} bytes")
    return _groups_of(source.read_at(length, size - 8 - length))


@functools.lru_cache(maxsize=8)
def _groups_of(footer: bytes) -> Sequence[RowGroup]:
    """Decode a footer, once for the tasks that read parts of a file."""
    found = []
    for group in map(as_struct, read_struct(footer, 0)[0].get(4, ())):
        places = []
        for column in map(as_struct, group[1]):
            meta = as_struct(column[3])
            pages, dictionary = meta[9], meta.get(11, 0)
            places.append(
                _ChunkPlace(
                    name=b".".join(meta[3]).decode("utf-8", "backslashreplace"),
                    compression=_CODECS.get(meta[4], ""),
                    start=dictionary if 0 < dictionary < pages else pages,
                    stored=meta[7] if meta[5] else 0,
                )
            )
        found.append(RowGroup(group[3], places))
    return found


def read_chunk(source: pa.NativeFile, place: _ChunkPlace, schema: Any) -> ColumnChunk:
    """Read the headers of a column's pages.

    Args:
        source: The file.
        place: The pages of the column in the row group.
        schema: Of the column: :class:`pyarrow.parquet.ColumnSchema`.

    Raises:
        ValueError: As others of :data:`~penstock.columnar.thrift.THRIFT_ERRORS`: they are damaged.
    """
    size = source.size()
    pages = list(_pages(source, place.start, min(size, place.start + place.stored), size))
    return ColumnChunk(source=source, place=place, schema=schema, pages=pages)


def _pages(source: pa.NativeFile, at: int, end: int, size: int) -> Iterator[Page]:
    if at < 0:
        raise ValueError(f"pages at byte {at:,}")
    while at < end:
        page = _page(source, at, size)
        if min(page.decoded, page.stored, page.values, *(page.levels or ())) < 0:
            raise ValueError(f"a negative size in the page at byte {at:,}")
        yield page
        at = page.content + page.stored


def _page(source: pa.NativeFile, at: int, size: int) -> Page:
    for most in _HEADERS:
        data = source.read_at(min(most, size - at), at)
        try:
            fields, length = read_struct(data, 0)
            break
        except IndexError:  # longer than what was read
            if most == _HEADERS[-1] or len(data) < most:
                raise
    second = fields.get(_DATA_V2_HEADER)
    own = second or fields.get(_DATA_HEADER) or fields.get(_DICTIONARY_HEADER) or {1: 0}
    own = as_struct(own)
    return Page(
        kind=fields[1],
        decoded=fields[2],
        stored=fields[3],
        values=own[1],
        encoding=own.get(4 if second else 2, 0),
        levels=(own.get(6, 0), own.get(5, 0)) if second else None,
        packed=second is None or own.get(7, True),
        content=at + length,
    )
