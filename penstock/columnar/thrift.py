"""Decode structures of Thrift's compact protocol, in which Parquet writes its metadata."""

from __future__ import annotations

from typing import Any

__all__ = ["THRIFT_ERRORS", "as_struct", "read_struct"]

THRIFT_ERRORS = (ArithmeticError, LookupError, TypeError, ValueError, RecursionError)
"""Errors of bytes that are no such structure, and of structures with other fields."""

_TRUE, _FALSE, _BYTE, _INTS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (
    1,
    2,
    3,
    (4, 5, 6),
    7,
    8,
    (9, 10),
    12,
)


def read_struct(data: Any, at: int) -> tuple[dict[int, Any], int]:
    """Decode a structure: its fields by number, and the position after it."""
    fields: dict[int, Any] = {}
    number = 0
    while kind := data[at]:
        at += 1
        number += kind >> 4
        if not kind >> 4:
            number, at = _integer(data, at)
        kind &= 15
        if kind in (_TRUE, _FALSE):
            fields[number] = kind == _TRUE
        else:
            fields[number], at = _value(data, at, kind)
    return fields, at + 1


def as_struct(value: Any) -> dict[int, Any]:
    """Return a structure's fields.

    Raises:
        ValueError: The value is of another type.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected a structure, got {type(value).__name__}")
    return value


def _value(data: Any, at: int, kind: int) -> tuple[Any, int]:
    if kind in _INTS:
        return _integer(data, at)
    if kind == _STRUCT:
        return read_struct(data, at)
    if kind == _BINARY:
        size, at = _varint(data, at)
        return bytes(data[at : at + size]), at + size
    if kind in _LISTS:
        head = data[at]
        size, at = (head >> 4, at + 1) if head >> 4 < 15 else _varint(data, at + 1)
        values = []
        for _ in range(size):
            value, at = _value(data, at, head & 15)
            values.append(value)
        return values, at
    if kind in (_TRUE, _FALSE, _BYTE):
        return data[at], at + 1
    if kind == _DOUBLE:
        return bytes(data[at : at + 8]), at + 8
    raise ValueError(f"an unknown type {kind} of Thrift")


def _integer(data: Any, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: Any, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("an integer of more than 64 bits")
