"""Validate what Arrow has read, before any value is used."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from penstock.errors import ArtefactError

__all__ = ["check_names", "damaged", "validate"]

_Data = TypeVar("_Data", pa.RecordBatch, pa.Table)

_FIX = "delete the directory of the artefact and run again to make it anew"


def check_names(schema: pa.Schema) -> None:
    """Check that the names of columns, fields and time zones are UTF-8, which Python needs.

    Raises:
        ArrowInvalid: One is not.
    """
    try:
        for one in schema:
            _names(one.name, one.type)
    except UnicodeDecodeError as error:
        raise pa.ArrowInvalid(f"a name in the schema is not UTF-8: {error}") from None


def _names(name: str, kind: pa.DataType) -> list[str]:
    """Return the names in a column's type; each is decoded where it is read.

    Raises:
        UnicodeDecodeError: One is not UTF-8.
    """
    found = [name]
    if isinstance(kind, pa.BaseExtensionType):
        found += _names("", kind.storage_type)
    elif pa.types.is_dictionary(kind):
        found += _names("", kind.value_type)
    elif pa.types.is_timestamp(kind):
        found.append(kind.tz or "")
    elif pa.types.is_nested(kind):
        for one in map(kind.field, range(kind.num_fields)):
            found += _names(one.name, one.type)
    return found


def validate(data: _Data, utf8: bool = True) -> _Data:
    """Check all buffers, offsets, indices and strings of a batch or table; returns it.

    Args:
        data: As Arrow has read it.
        utf8: Whether strings that are not UTF-8 are refused, too.

    Raises:
        ArrowInvalid: It is damaged: a value would be outside its buffers.
    """
    data.validate()  # sizes of buffers, which the full validation relies on
    for column in data.columns:
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            if utf8:
                chunk.validate(full=True)
            else:
                _validate_bytes(chunk)
            if "_view" in str(chunk.type):
                _validate_nulls(chunk)
    return data


def _validate_nulls(array: pa.Array) -> None:
    """Validate the views of nulls as if they were texts, in arrays of any type.

    Arrow's validation leaves them out, but its casts follow them.
    """
    kind = array.type
    if kind in (pa.string_view(), pa.binary_view()):
        if array.null_count:
            buffers = [None, *array.buffers()[1:]]
            bare = pa.Array.from_buffers(pa.binary_view(), len(array), buffers, 0, array.offset)
            bare.validate(full=True)
        return
    if isinstance(kind, pa.BaseExtensionType):
        parts = [array.storage]
    elif pa.types.is_dictionary(kind):
        parts = [array.dictionary]
    elif pa.types.is_struct(kind) or pa.types.is_union(kind):
        parts = [array.field(number) for number in range(kind.num_fields)]
    elif pa.types.is_nested(kind):
        parts = [array.values]  # of lists, maps and runs
    else:
        parts = []
    for part in parts:
        _validate_nulls(part)


def _validate_bytes(array: pa.Array) -> None:
    """Validate an array whose strings may be any bytes.

    Full validation ends at the first fault, so a string that is not UTF-8 would hide offsets that
    lie outside of their buffer. Its strings are viewed as bytes.
    """
    kind = _as_bytes(array.type)
    if not kind.equals(array.type):
        array = array.view(kind)
    array.validate(full=True)


_BYTES = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}


_LISTS = (
    (pa.types.is_list, pa.list_),
    (pa.types.is_large_list, pa.large_list),
    (pa.types.is_list_view, pa.list_view),
    (pa.types.is_large_list_view, pa.large_list_view),
)


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """Return the type with bytes for strings, of the same layout."""
    made = _BYTES.get(kind, kind)
    if isinstance(kind, pa.BaseExtensionType):
        made = _as_bytes(kind.storage_type)
    elif pa.types.is_dictionary(kind):
        made = pa.dictionary(kind.index_type, _as_bytes(kind.value_type), kind.ordered)
    elif pa.types.is_run_end_encoded(kind):
        made = pa.run_end_encoded(kind.run_end_type, _as_bytes(kind.value_type))
    elif pa.types.is_map(kind):
        key, item = (
            one.with_type(_as_bytes(one.type)) for one in (kind.key_field, kind.item_field)
        )
        made = pa.map_(key, item, kind.keys_sorted)
    elif pa.types.is_nested(kind):
        fields = map(kind.field, range(kind.num_fields))
        inner = [one.with_type(_as_bytes(one.type)) for one in fields]
        if pa.types.is_struct(kind):
            made = pa.struct(inner)
        elif pa.types.is_union(kind):
            made = pa.union(inner, kind.mode, kind.type_codes)
        elif pa.types.is_fixed_size_list(kind):
            made = pa.list_(inner[0], kind.list_size)
        for is_one, of in _LISTS:
            if is_one(kind):
                made = of(inner[0])
    return made  # a type of a later Arrow stays: its strings have to be UTF-8


def damaged(path: Path, error: Exception) -> Exception:
    """Return the error of one of our own files: that of the disk, or ArtefactError."""
    if isinstance(error, OSError) and error.errno is not None:  # the disk, not the bytes
        return error
    return ArtefactError(f"damaged, or not written by Penstock: {error}", file=path, fix=_FIX)
