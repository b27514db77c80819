"""Fields of the column ``meta``, which holds one JSON object for each document."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec
import pyarrow as pa

from penstock.errors import InputError
from penstock.rules.expressions.nodes import Kind

__all__ = ["MetaField", "decimal_of", "meta_columns"]

_DECIMAL = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ].*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MetaField:
    """A field of ``meta``, read as one kind: ``(("stars",), "number")``."""

    path: tuple[str, ...]
    """The keys, from the outermost object."""
    kind: Kind


def meta_columns(meta: pa.Array, fields: Sequence[MetaField]) -> pa.RecordBatch:
    """Read fields of JSON objects, each as the kind that its use declares.

    A value that is missing, null or of another kind is null. A *number* is a JSON number, as
    float64; a *text* a string; a *truth* value ``true`` or ``false``; a *date* a string that begins
    with an ISO 8601 date, alone or before ``T`` or a space, whose time is ignored; *decimal* is a
    number or a text of one (:func:`decimal_of`); *any* is True where there is a value of any kind;
    *json*, to show values, is a text as it is, and any other value as JSON.

    Args:
        meta: (n,) string or large_string, each null or a JSON object.
        fields: Fields, which may repeat.

    Returns:
        n rows; column ``k`` is ``fields[k]``: float64, large_string, bool, date32, float64,
        bool or large_string.

    Raises:
        InputError: A row is not a JSON object.
    """
    names = {field.path[0]: f"field_{k}" for k, field in enumerate(fields)}
    parsed = msgspec.defstruct(
        "Meta",
        [(own, Any, None) for own in names.values()],
        rename={own: name for name, own in names.items()},
        gc=False,
    )
    decode = msgspec.json.Decoder(parsed).decode
    rows: list[Any] = [None] * len(meta)
    for row, text in enumerate(meta.to_pylist()):
        if text is None:
            continue
        try:
            rows[row] = decode(text)
        except msgspec.DecodeError as error:
            raise InputError(
                f"row {row} of `meta`: {error}", expected="a JSON object", got=repr(text[:60])
            ) from None
    columns = []
    for field in fields:
        convert, kind = _CONVERSIONS[field.kind]
        own, inner = names[field.path[0]], field.path[1:]
        values = [None if row is None else getattr(row, own) for row in rows]
        for name in inner:
            values = [value.get(name) if type(value) is dict else None for value in values]
        columns.append(pa.array(list(map(convert, values)), kind))
    if not columns:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(meta), pa.struct([])))
    return pa.RecordBatch.from_arrays(columns, [str(k) for k in range(len(columns))])


def decimal_of(text: str | None) -> float | None:
    """Return the float64 nearest to a decimal number in ASCII, as Python's ``float`` does.

    None of any other text, as ``nan``, ``1_000`` and ``0x10``, and of a number beyond float64.
    White space around the number does not count.
    """
    if text is None or not _DECIMAL.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _decimal(value: Any) -> float | None:
    return decimal_of(value) if type(value) is str else _number(value)


def _number(value: Any) -> float | None:
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return None
    return None


def _text(value: Any) -> str | None:
    return value if type(value) is str else None


def _truth(value: Any) -> bool | None:
    return value if type(value) is bool else None


def _date(value: Any) -> date | None:
    found = _DATE.fullmatch(value) if type(value) is str else None
    if found is None:
        return None
    try:
        return date(*map(int, found.groups()))
    except ValueError:
        return None


def _present(value: Any) -> bool | None:
    return None if value is None else True


def _json(value: Any) -> str | None:
    return value if value is None or type(value) is str else json.dumps(value)


_CONVERSIONS: dict[Kind, tuple[Callable[[Any], Any], pa.DataType]] = {
    "number": (_number, pa.float64()),
    "text": (_text, pa.large_string()),
    "truth": (_truth, pa.bool_()),
    "date": (_date, pa.date32()),
    "decimal": (_decimal, pa.float64()),
    "any": (_present, pa.bool_()),
    "json": (_json, pa.large_string()),
}
