"""Columns of any type as texts, and as Python values that JSON has.

A side column never costs a document. A value that Python or JSON cannot hold becomes text: a date
outside of the years 1 to 9999, a time in nanoseconds that are no whole microseconds, an infinity, a
string that is not UTF-8. What a value becomes depends on it alone, not on the values around it, nor
on installed libraries (with pandas, Arrow makes its ``Timestamp`` of nanoseconds, and an error
without it).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.display import shortened
from penstock.errors import InputError
from penstock.storage import AnyPath

__all__ = ["bytes_of", "check_names", "rows_of"]

_UNREPRESENTABLE = (ValueError, ArithmeticError, LookupError, ImportError, pa.ArrowException)
"""Errors of ``as_py``, as for a time zone that is not installed."""

_BYTES = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}


def check_names(where: AnyPath | str, schema: pa.Schema) -> None:
    """Check that no two columns, nor two fields of one, have the same name.

    Raises:
        InputError: Two have: one of their values would be lost.
    """
    _check_fields(where, list(schema), "")


def _check_fields(where: AnyPath | str, fields: list[pa.Field], before: str) -> None:
    seen: set[str] = set()
    for one in fields:
        name = f"{before}{one.name}"
        if one.name in seen:
            raise InputError(
                f"two columns are named {shortened([name])!r}",
                file=where,
                fix="rename or remove one of them",
            )
        seen.add(one.name)
        if pa.types.is_nested(one.type):
            kind = one.type
            _check_fields(where, [kind.field(k) for k in range(kind.num_fields)], f"{name}.")


# -- texts ------------------------------------------------------------------------------------


def bytes_of(column: pa.Array) -> pa.Array | None:
    """Return strings or bytes of any type as (n,) large_binary; None for columns of other types.

    Whether strings are UTF-8 is not checked.
    """
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return bytes_of(column.storage)
    if pa.types.is_dictionary(kind):
        own = column.dictionary
        while isinstance(own, pa.ExtensionArray):
            own = own.storage
        views = own.type in (pa.string_view(), pa.binary_view())
        return bytes_of((_taken_views if views else pc.take)(own, column.indices))
    if pa.types.is_run_end_encoded(kind) and _is_bytes(kind.value_type):
        return bytes_of(pc.run_end_decode(column))
    if not _is_bytes(kind):
        return None
    if kind in _BYTES:
        column = column.view(_BYTES[kind])
    return column.cast(pa.large_binary())


def _taken_views(array: pa.Array, indices: pa.Array) -> pa.Array:
    """Return ``array.take(indices)``, for which Arrow has no kernel: (n,) binary_view."""
    buffers = array.buffers()
    valid = indices.is_valid().to_numpy(zero_copy_only=False)
    views = np.zeros((len(indices), 2), np.int64)  # the view of an empty text
    places = indices.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
    if array.null_count:
        kept = array.is_valid().to_numpy(zero_copy_only=False)[places]
        valid[valid] = kept
        places = places[kept]
    if len(places):
        views[valid] = np.frombuffer(buffers[1], np.int64, 2 * (array.offset + len(array))).reshape(
            -1, 2
        )[array.offset + places]
    made = [pa.py_buffer(np.packbits(valid, bitorder="little")), pa.py_buffer(views), *buffers[2:]]
    return pa.Array.from_buffers(pa.binary_view(), len(indices), made)


def _is_bytes(kind: pa.DataType) -> bool:
    return kind in _BYTES or kind in _BYTES.values() or pa.types.is_fixed_size_binary(kind)


# -- side columns -----------------------------------------------------------------------------


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return the fields of each row, as values that :mod:`msgspec` encodes as JSON.

    The batch was validated (:func:`~penstock.columnar.validate`), but for UTF-8.
    """
    names = batch.schema.names
    if not names:
        return [{} for _ in range(batch.num_rows)]
    return [dict(zip(names, row)) for row in zip(*map(_values, batch.columns))]


def _values(column: pa.Array) -> list[Any]:
    if "[ns" in str(column.type):
        try:
            column = column.cast(_in_microseconds(column.type))
        except pa.ArrowException:  # digits would be lost, or Arrow has no cast of that type
            return [_value(scalar) for scalar in column]
        if "[ns" in str(column.type):
            return [_value(scalar) for scalar in column]
    try:
        values: list[Any] = column.to_pylist()
    except _UNREPRESENTABLE:
        return [_value(scalar) for scalar in column]
    return [_finite(value) for value in values] if _has_infinity(column) else values


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    """Return the type with microseconds for nanoseconds, as far as Arrow can cast to it."""
    inner = _in_microseconds
    if pa.types.is_timestamp(kind):
        made = pa.timestamp("us", kind.tz) if kind.unit == "ns" else kind
    elif pa.types.is_duration(kind):
        made = pa.duration("us") if kind.unit == "ns" else kind
    elif pa.types.is_time64(kind):
        made = pa.time64("us")
    elif pa.types.is_struct(kind):
        made = pa.struct([one.with_type(inner(one.type)) for one in kind])
    elif pa.types.is_map(kind):
        made = pa.map_(inner(kind.key_type), inner(kind.item_type))
    elif pa.types.is_list(kind):
        made = pa.list_(kind.value_field.with_type(inner(kind.value_type)))
    elif pa.types.is_large_list(kind):
        made = pa.large_list(kind.value_field.with_type(inner(kind.value_type)))
    else:
        made = kind
    return made


def _value(scalar: pa.Scalar) -> Any:
    """Convert one value, each part of it by itself."""
    kind = scalar.type
    value: Any
    if not scalar.is_valid:
        value = None
    elif isinstance(scalar, pa.StructScalar):
        value = {one.name: _value(scalar[one.name]) for one in kind}
    elif isinstance(scalar, pa.MapScalar):
        value = [(_value(entry[0]), _value(entry[1])) for entry in scalar.values]
    elif isinstance(scalar, pa.ListScalar):
        value = [_value(part) for part in scalar.values]
    elif isinstance(scalar, (pa.DictionaryScalar, pa.UnionScalar, pa.RunEndEncodedScalar)):
        value = _value(scalar.value)
    else:
        try:
            exact = scalar.cast(_in_microseconds(kind)) if "[ns" in str(kind) else scalar
            value = _finite(exact.as_py())
        except _UNREPRESENTABLE:
            value = _text(scalar)
    return value


def _text(scalar: pa.Scalar) -> str:
    """Return the text of a value that Python cannot hold."""
    kind = scalar.type
    if _is_bytes(kind):
        return bytes(scalar.as_buffer()).decode("utf-8", "backslashreplace")
    if pa.types.is_timestamp(kind):  # in UTC, since the time zone may be unknown here
        utc = "Z" if kind.tz else ""
        plain = pa.scalar(scalar.value, pa.timestamp(kind.unit))
        text = plain.cast(pa.string()).as_py().replace(" ", "T") + utc
    elif pa.types.is_duration(kind):
        return f"{scalar.value} {kind.unit}"
    else:
        text = str(scalar.cast(pa.string()))
    if pa.types.is_decimal(kind):  # of more digits than its type has
        return text
    return str(scalar.value) if "out of range" in text else text


def _has_infinity(array: pa.Array) -> bool:
    kind = array.type
    if pa.types.is_floating(kind):
        return bool(pc.any(pc.is_inf(array)).as_py())
    parts: list[pa.Array] = []
    if isinstance(kind, pa.BaseExtensionType):
        parts = [array.storage]
    elif pa.types.is_dictionary(kind):
        parts = [array.dictionary]
    elif pa.types.is_run_end_encoded(kind):
        parts = [array.values]
    elif pa.types.is_map(kind):
        parts = [array.keys, array.items]
    elif pa.types.is_union(kind):
        parts = [array.field(k) for k in range(kind.num_fields)]
    elif pa.types.is_nested(kind):
        parts = array.flatten() if pa.types.is_struct(kind) else [array.flatten()]
    return any(map(_has_infinity, parts))


def _finite(value: Any) -> Any:
    """Replace infinities, which JSON has not, by their names in JavaScript."""
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return tuple(map(_finite, value)) if type(value) is tuple else value
